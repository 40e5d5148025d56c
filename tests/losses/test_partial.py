from __future__ import annotations

import pytest
import torch

from medtail.losses.build import BceConfig, CrossEntropyConfig, build_loss
from medtail.losses.contract import LossContext, masked_mean
from medtail.losses.objective import Step
from medtail.losses.partial import PartialLabels, PartialLabelsConfig

CONTEXT = LossContext((30, 8, 2), (60, 40, 80), (), 100)
LOSS = build_loss(BceConfig(), CONTEXT)
LOGITS = torch.tensor([[1.0, -2.0, 0.5], [0.0, 1.0, -1.0], [2.0, 2.0, 2.0]])
TARGETS = torch.tensor([[1.0, torch.nan, 0.0], [torch.nan, torch.nan, 1.0], [torch.nan, torch.nan, torch.nan]])


def test_weight_one_is_not_mentioned_means_absent() -> None:
    value = PartialLabels(PartialLabelsConfig(weight=1.0), loss=LOSS)(Step.of(LOGITS, TARGETS))
    filled = TARGETS.clone()
    filled[:2] = filled[:2].nan_to_num(0.0)  # a row nobody looked at stays out
    assert value.total.item() == pytest.approx(masked_mean(LOSS, LOGITS, filled).item())


@pytest.mark.parametrize("unknown", ["negative", "expected"])
def test_weight_zero_leaves_empty_cells_out(unknown: str) -> None:
    config = PartialLabelsConfig(unknown=unknown, weight=0.0)  # type: ignore[arg-type]
    value = PartialLabels(config, loss=LOSS)(Step.of(LOGITS, TARGETS))
    assert value.total.item() == pytest.approx(masked_mean(LOSS, LOGITS, TARGETS).item())


def test_assumed_absent_cell_counts_its_weight_of_a_cell() -> None:
    value = PartialLabels(PartialLabelsConfig(weight=0.25), loss=LOSS)(Step.of(LOGITS, TARGETS))
    cells = torch.nn.functional.binary_cross_entropy_with_logits(LOGITS, TARGETS.nan_to_num(0.0), reduction="none")
    weights = torch.where(TARGETS.isnan(), 0.25, 1.0)
    weights[2] = 0.0
    assert value.total.item() == pytest.approx(((cells * weights).sum() / weights.sum()).item(), rel=1e-6)


def test_expected_positives_pull_scores_of_empty_cells_to_the_prevalence() -> None:
    objective = PartialLabels(PartialLabelsConfig(unknown="expected", weight=1.0), loss=LOSS)
    logits = LOGITS.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        objective(Step.of(logits, TARGETS)).total.backward()
        optimizer.step()
    scores = torch.sigmoid(logits)
    assert scores[1, 0].item() == pytest.approx(0.5, abs=0.02)  # 30 of 60
    assert scores[:2, 1].mean().item() == pytest.approx(0.2, abs=0.02)  # 8 of 40
    assert torch.equal(logits[2].detach(), LOGITS[2])


def test_cells_of_a_softmax_group_are_left_out() -> None:
    context = LossContext((30, 8, 2), (60, 40, 80), ((0, 1),), 100)
    loss = build_loss(CrossEntropyConfig(), context)
    for unknown in ("negative", "expected"):
        config = PartialLabelsConfig(unknown=unknown, weight=1.0)  # type: ignore[arg-type]
        logits = LOGITS.clone().requires_grad_(True)
        PartialLabels(config, loss=loss)(Step.of(logits, TARGETS)).total.backward()
        assert logits.grad is not None
        assert (logits.grad[1, :2] == 0).all()
