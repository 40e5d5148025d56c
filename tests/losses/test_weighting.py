from __future__ import annotations

import math

import pytest
import torch
from scipy.optimize import minimize_scalar

from medtail.errors import MedtailError
from medtail.losses.weighting import UncertaintyForm, UncertaintyWeights, uncertainty_weighted


@pytest.mark.parametrize("loss", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("form", ["kendall", "paper_form"])
def test_the_least_value_is_where_the_formula_says(loss: float, form: UncertaintyForm) -> None:
    def value(s: float) -> float:
        losses = torch.tensor([loss], dtype=torch.float64)
        return uncertainty_weighted(losses, torch.tensor([s], dtype=torch.float64), form=form).item()

    found = minimize_scalar(value, bounds=(-4, 4), method="bounded", options={"xatol": 1e-10})
    if form == "kendall":
        assert found.x == pytest.approx(math.log(loss), abs=1e-5)
        assert found.fun == pytest.approx(0.5 * (1 + math.log(loss)), abs=1e-9)
    else:
        assert found.x == pytest.approx(math.log(loss / 2), abs=1e-5)
        assert found.fun == pytest.approx(1 + math.log(loss / 2), abs=1e-9)


@pytest.mark.parametrize("form", ["kendall", "paper_form"])
def test_learning_finds_the_least_value(form: UncertaintyForm) -> None:
    losses = torch.tensor([0.3, 1.0, 2.5], dtype=torch.float64)
    weights = UncertaintyWeights(3, form=form).double()
    optimizer = torch.optim.Adam(weights.parameters(), lr=0.05)
    for _ in range(600):
        optimizer.zero_grad()
        weights(losses, tasks=[0, 1, 2]).backward()
        optimizer.step()
    expected = torch.log(losses if form == "kendall" else losses / 2)
    torch.testing.assert_close(weights.log_variances.detach(), expected, atol=1e-4, rtol=0)


def test_a_task_that_is_absent_gets_no_gradient() -> None:
    weights = UncertaintyWeights(3)
    weights(torch.tensor([2.0, 0.5]), tasks=[0, 2]).backward()
    assert weights.theta.grad is not None
    assert weights.theta.grad.tolist() == [-0.5, 0.0, 0.25]


def test_no_task_at_all_is_zero_and_every_parameter_still_has_a_gradient() -> None:
    weights = UncertaintyWeights(2)
    value = weights(torch.zeros(0), tasks=[])
    value.backward()
    assert value.item() == 0.0
    assert weights.theta.grad is not None
    assert weights.theta.grad.tolist() == [0.0, 0.0]


def test_weights_stay_within_their_bounds_however_far_theta_runs() -> None:
    weights = UncertaintyWeights(2)
    with torch.no_grad():
        weights.theta.copy_(torch.tensor([1e6, -1e6]))
    assert weights.log_variances.tolist() == [4.0, -4.0]
    assert torch.isfinite(weights(torch.tensor([1.0, 1.0]), tasks=[0, 1]))


def test_a_loss_below_zero_is_refused() -> None:
    with pytest.raises(MedtailError, match=r"found losses \[1.0, -0.25\]; expected none below 0"):
        UncertaintyWeights(2)(torch.tensor([1.0, -0.25]), tasks=[0, 1])
