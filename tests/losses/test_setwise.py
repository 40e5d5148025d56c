from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from medtail.losses.objective import Objective, Step
from medtail.losses.setwise import TwoWay, TwoWayConfig, Zlpr, soft_extreme


def made_up(seed: int = 0) -> tuple[Tensor, Tensor]:
    random = np.random.default_rng(seed)
    targets = (random.random((9, 5)) < 0.4).astype(float)
    targets[random.random(targets.shape) < 0.2] = np.nan
    targets[0] = [1, 1, 1, 1, np.nan]  # a row without an absent label
    targets[:, 4] = [0 if value == 1 else value for value in targets[:, 4]]  # a label without a present row
    return torch.from_numpy(random.normal(0, 2, targets.shape)), torch.from_numpy(targets)


def line(z: list[float], y: list[float], *, high: float, low: float) -> float | None:
    """Two-way value of one row or column, as the paper writes it; None where it has not both sides."""
    present = [math.exp(-value / high) for value, label in zip(z, y, strict=True) if label == 1]
    absent = [math.exp(value / low) for value, label in zip(z, y, strict=True) if label == 0]
    if not present or not absent:
        return None
    return math.log1p(math.exp(low * math.log(sum(absent)) + high * math.log(sum(present))))


@pytest.mark.parametrize(("high", "low"), [(4.0, 1.0), (1.0, 1.0), (0.5, 2.0)])
def test_two_way_equals_a_slow_loop_along_rows_and_along_labels(high: float, low: float) -> None:
    logits, targets = made_up()
    config = TwoWayConfig(positive_temperature=high, negative_temperature=low)
    value = TwoWay(config)(Step.of(logits, targets))
    rows = [line(z, y, high=high, low=low) for z, y in zip(logits.tolist(), targets.tolist(), strict=True)]
    labels = [line(z, y, high=high, low=low) for z, y in zip(logits.T.tolist(), targets.T.tolist(), strict=True)]
    assert rows[0] is None
    assert labels[4] is None
    expected = [np.mean([found for found in lines if found is not None]) for lines in (rows, labels)]
    assert [value.parts["rows"].item(), value.parts["labels"].item()] == pytest.approx(expected)
    assert value.total.item() == pytest.approx(sum(expected))


def test_two_way_of_one_true_class_is_softmax_cross_entropy() -> None:
    logits = torch.randn(6, 4, dtype=torch.float64)
    classes = torch.tensor([0, 1, 2, 3, 0, 1])
    config = TwoWayConfig(positive_temperature=1.0, negative_temperature=1.0, labelwise=False)
    value = TwoWay(config)(Step.of(logits, torch.nn.functional.one_hot(classes, 4).double()))
    assert value.total.item() == pytest.approx(torch.nn.functional.cross_entropy(logits, classes).item())


def test_labelwise_half_depends_on_other_rows_and_rowwise_half_does_not() -> None:
    logits, targets = made_up()
    moved = logits.clone()
    moved[3] += 2.0
    for labelwise in (True, False):
        objective = TwoWay(TwoWayConfig(labelwise=labelwise))

        def gradient(given: Tensor, objective: Objective = objective) -> Tensor:
            leaf = given.clone().requires_grad_(True)
            objective(Step.of(leaf, targets)).total.backward()
            assert leaf.grad is not None
            return leaf.grad[4]

        assert torch.equal(gradient(logits), gradient(moved)) is not labelwise


def test_zlpr_equals_a_slow_loop() -> None:
    logits, targets = made_up(1)
    targets[2] = torch.nan
    rows = []
    for z, y in zip(logits.tolist(), targets.tolist(), strict=True):
        if all(math.isnan(label) for label in y):
            continue
        present = sum(math.exp(-value) for value, label in zip(z, y, strict=True) if label == 1)
        absent = sum(math.exp(value) for value, label in zip(z, y, strict=True) if label == 0)
        rows.append(math.log(1 + present) + math.log(1 + absent))
    assert len(rows) == 8
    assert Zlpr()(Step.of(logits, targets)).total.item() == pytest.approx(np.mean(rows))


def test_zlpr_of_one_label_is_binary_cross_entropy() -> None:
    logits, targets = torch.randn(20, 1), (torch.rand(20, 1) < 0.5).float()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
    assert Zlpr()(Step.of(logits, targets)).total.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("objective", [TwoWay(TwoWayConfig()), Zlpr()], ids=["two_way", "zlpr"])
def test_gradient_is_the_slope_for_hard_and_soft_targets(objective: Objective) -> None:
    logits, targets = made_up()
    for given in (targets, 0.8 * targets + 0.1):
        step = Step.of(logits, given)
        assert torch.autograd.gradcheck(
            lambda z, step=step: objective(replace(step, logits=z)).total, logits.clone().requires_grad_(True)
        )


def test_soft_extreme_goes_from_the_largest_value_to_the_mean_plus_a_constant() -> None:
    values, weights = torch.tensor([[1.0, 3.0, 9.0]]), torch.tensor([[1.0, 1.0, 0.0]])
    assert soft_extreme(values, weights, dim=1, temperature=0.01).item() == pytest.approx(3.0, abs=1e-4)
    hot = soft_extreme(values, weights, dim=1, temperature=1000.0).item() - 1000.0 * math.log(2)
    assert hot == pytest.approx(2.0, abs=2e-3)
    assert soft_extreme(values, 0 * weights, dim=1, temperature=1.0).item() == -math.inf
