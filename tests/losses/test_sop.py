"""The noise model is a table of numbers beside the network: what they are worth, and when they move."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from medtail.errors import MedtailError
from medtail.losses.contract import LossContext
from medtail.losses.objective import Step
from medtail.losses.sop import Sop, SopConfig, explained_cross_entropy

CONTEXT = LossContext((5, 2), (10, 10), (), 10, num_rows=10)


def step_of(logits: Tensor, targets: Tensor, rows: list[int], *, progress: float = 0.5) -> Step:
    return replace(Step.of(logits, targets, progress=progress), rows=torch.tensor(rows))


def test_cells_by_hand_in_double_precision() -> None:
    for z, y, u, v in ((0.7, 1.0, 0.3, 0.2), (0.7, 0.0, 0.3, 0.2), (-3.0, 1.0, 0.9, 0.1), (9.0, 1.0, 0.9, 0.1)):
        p = 1 / (1 + math.exp(-z))
        expected = -math.log(min(1.0, p + u * u * y - v * v * (1 - y))) if y else -math.log(min(1.0, 1 - p + v * v))
        cell = [torch.full((1, 1), value, dtype=torch.float64) for value in (z, y, u, v)]
        assert explained_cross_entropy(*cell).item() == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_small_numbers_leave_cross_entropy_and_its_gradient() -> None:
    logits = torch.linspace(-6, 6, 10).reshape(5, 2).requires_grad_(True)
    targets = (torch.arange(10).reshape(5, 2) % 3 == 0).float()
    objective = Sop(SopConfig(start=1e-5), context=CONTEXT)
    plain = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
    found = objective(step_of(logits, targets, [0, 1, 2, 3, 4])).total
    torch.testing.assert_close(found, plain)
    both = [torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (found, plain)]
    torch.testing.assert_close(both[0], both[1], rtol=1e-4, atol=1e-7)


def test_a_step_is_that_of_the_cell_alone_whatever_the_batch() -> None:
    config = SopConfig(rate=0.01, start=0.2)
    logits, targets = torch.tensor([[-2.0, 1.0]]), torch.tensor([[1.0, torch.nan]])
    moved = []
    for others in (0, 6):
        objective = Sop(config, context=CONTEXT)
        more = torch.randn(others, 2)
        step = step_of(
            torch.cat([logits, more]).requires_grad_(True),
            torch.cat([targets, (more > 0).float()]),
            list(range(1 + others)),
        )
        objective(step).total.backward()
        objective.learn()
        moved.append(objective.u[0, 0].item())
        assert objective.u[0, 1].item() == pytest.approx(0.2), "a label nobody gave has nothing to explain"
        assert objective.v[0, 0].item() == pytest.approx(0.2), "v is for labels that deny"
        assert (objective.u[1 + others :] == 0.2).all(), "rows that were not shown stay"
    p = 1 / (1 + math.exp(2.0))
    expected = 0.2 + 0.01 * 2 * 0.2 / (p + 0.04)
    assert moved == [pytest.approx(expected, rel=1e-5)] * 2


def test_a_row_shown_twice_moves_twice_as_far() -> None:
    found = []
    for rows in ([3], [3, 3]):
        objective = Sop(SopConfig(rate=0.01, start=0.2), context=CONTEXT)
        logits = torch.full((len(rows), 2), -1.0, requires_grad=True)
        objective(step_of(logits, torch.ones(len(rows), 2), rows)).total.backward()
        objective.learn()
        found.append(objective.u[3, 0].item() - 0.2)
    assert found[1] == pytest.approx(2 * found[0], rel=1e-4)


def test_nothing_is_learnt_before_its_time_nor_without_a_backward_pass() -> None:
    for progress, backward in ((0.1, True), (0.5, False)):
        objective = Sop(SopConfig(learn_from=0.2, start=0.3), context=CONTEXT)
        total = objective(
            step_of(torch.zeros(1, 2, requires_grad=True), torch.ones(1, 2), [0], progress=progress)
        ).total
        if backward:
            total.backward()
        objective.learn()
        assert (objective.u == 0.3).all()


def test_it_finds_the_wrong_labels_and_leaves_the_network_the_right_ones() -> None:
    torch.manual_seed(0)
    count = 400
    features = torch.randn(count, 4)
    truth = (features[:, :1] > 0).float()
    is_wrong = torch.rand(count, 1) < 0.2
    given = torch.where(is_wrong, 1 - truth, truth)
    found = {}
    for rate in (1e-9, 0.02):
        objective = Sop(
            SopConfig(rate=rate, learn_from=0.1), context=LossContext((200,), (count,), (), count, num_rows=count)
        )
        model = torch.nn.Linear(4, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=2.0)
        for number in range(400):
            step = step_of(model(features), given, list(range(count)), progress=number / 400)
            optimizer.zero_grad()
            objective(step).total.backward()
            optimizer.step()
            objective.learn()
        scores = torch.sigmoid(model(features)).detach()
        found[rate] = torch.nn.functional.binary_cross_entropy(scores, truth).item()
        amount = torch.where(given == 1, objective.u, objective.v).square()
    assert found[0.02] < 0.5 * found[1e-9], "against the truth, which neither has seen"
    assert amount[is_wrong].median() > 10 * amount[~is_wrong].median()


def test_scores_and_state_follow_what_was_learnt() -> None:
    objective = Sop(SopConfig(start=0.3), context=CONTEXT)
    objective(step_of(torch.zeros(1, 2, requires_grad=True), torch.ones(1, 2), [4])).total.backward()
    objective.learn()
    again = Sop(SopConfig(start=0.3), context=CONTEXT)
    again.load_state_dict(objective.state_dict())
    assert torch.equal(again.u, objective.u)
    assert (again.u[4] > 0.3).all()
    assert not list(objective.parameters()), "the optimizer's moments would drown them"


def test_who_does_not_know_the_rows_is_refused() -> None:
    with pytest.raises(MedtailError, match="needs to know how many rows"):
        Sop(SopConfig(), context=LossContext((5,), (10,), (), 10))
