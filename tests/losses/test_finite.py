"""A loss or a gradient that is no number stops the step, and says which images and parameters it was."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import nn

from medtail.errors import MedtailError
from medtail.losses.finite import check_gradients, check_loss


def never() -> Sequence[str]:
    raise AssertionError("asked although nothing is wrong")


@pytest.mark.parametrize("value", [0.0, -3.0, 3e38])
def test_finite_losses_pass_and_nobody_is_asked(value: float) -> None:
    check_loss(torch.tensor(value), where="step 1", images=never, table="t.csv", advice="")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_other_losses_are_refused_with_their_images(value: float) -> None:
    ids = [f"i{number}" for number in range(10)]
    with pytest.raises(MedtailError, match=rf"epoch 2, step 7: the loss is {value}; expected.*'i0', .*'i7' and 2 more"):
        check_loss(torch.tensor(value), where="epoch 2, step 7", images=lambda: ids, table="t.csv", advice="")


def test_finite_gradients_pass_whatever_their_size_and_missing_ones_too() -> None:
    layer = nn.Linear(3, 1)
    check_gradients(layer.named_parameters(), where="", images=never, table="", advice="")
    layer.weight.grad = torch.tensor([[3e38, -3e38, 0.0]])  # whose squares would overflow
    check_gradients(layer.named_parameters(), where="", images=never, table="", advice="")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_single_value_among_many_is_found_and_its_parameter_named(value: float) -> None:
    network = nn.Sequential(nn.Linear(30, 20), nn.Linear(20, 10))
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    grad = network[1].weight.grad
    assert grad is not None
    grad[4, 5] = value
    said = (
        r"step 3: the loss is finite, but not the gradient of '1\.weight'; expected.*images 'a' of t\.csv\. Do this\."
    )
    with pytest.raises(MedtailError, match=said):
        check_gradients(
            network.named_parameters(), where="step 3", images=lambda: ["a"], table="t.csv", advice="Do this."
        )
