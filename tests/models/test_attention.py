from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from medtail.models.attention import Cbam, SqueezeExcitation

BY_HAND = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[0.0, -1.0], [1.0, 0.0]]]])


def excitation_by_hand() -> SqueezeExcitation:
    module = SqueezeExcitation(2, reduction=2)
    module.excite[0].weight.data = torch.tensor([[1.0, -1.0]])
    module.excite[2].weight.data = torch.tensor([[0.4], [-0.8]])
    return module


def cbam_by_hand(form: str) -> Cbam:
    module = Cbam(2, form=form)  # type: ignore[arg-type]
    kernel = torch.zeros(1, 2, 7, 7)
    kernel[0, 0, 3, 3] = 1.0  # the mean, at its own place
    kernel[0, 1, 3, 4] = 0.5  # the maximum, one column to the right
    module.conv.weight.data = kernel
    return module


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_channel_weights_equal_those_worked_out_by_hand() -> None:
    excited = excitation_by_hand()(BY_HAND)
    torch.testing.assert_close(excited[0, 0], 0.731059 * BY_HAND[0, 0], rtol=1e-5, atol=0)
    torch.testing.assert_close(excited[0, 1], 0.119203 * BY_HAND[0, 1], rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("form", "weights"),
    [("spatial", [[0.7496, 0.6618], [0.9320, 0.8119]]), ("literal", [[0.7740, 0.6225], [0.9696, 0.8808]])],
)
def test_position_weights_equal_those_worked_out_by_hand(form: str, weights: list[list[float]]) -> None:
    excited = excitation_by_hand()(BY_HAND)
    refined = cbam_by_hand(form)(excited, before=BY_HAND)
    torch.testing.assert_close(refined[0, 0] / excited[0, 0], torch.tensor(weights), rtol=0, atol=5e-5)


def test_full_module_weighs_channels_by_mean_and_maximum_first() -> None:
    torch.manual_seed(0)
    module, features = Cbam(8, form="full", reduction=2), torch.randn(3, 8, 5, 5)
    assert module.excite is not None
    first, second = module.excite[0].weight, module.excite[2].weight

    def mlp(vectors: Tensor) -> Tensor:
        return torch.relu(vectors @ first.T) @ second.T

    weights = torch.sigmoid(mlp(features.mean(dim=(2, 3))) + mlp(features.flatten(2).max(dim=2).values))
    weighed = features * weights[:, :, None, None]
    summary = torch.stack([weighed.mean(dim=1), weighed.max(dim=1).values], dim=1)
    expected = weighed * torch.sigmoid(nn.functional.conv2d(summary, module.conv.weight, padding=3))
    torch.testing.assert_close(module(features, before=features), expected)


def test_literal_form_looks_at_the_map_before_excitation_and_the_others_do_not() -> None:
    torch.manual_seed(0)
    features, one, other = torch.randn(1, 4, 3, 3), torch.randn(1, 4, 3, 3), torch.randn(1, 4, 3, 3)
    for form, sees in (("spatial", False), ("full", False), ("literal", True)):
        module = Cbam(4, form=form)  # type: ignore[arg-type]
        assert torch.equal(module(features, before=one), module(features, before=other)) != sees


def test_parameter_counts_are_those_of_the_formulas() -> None:
    assert count(SqueezeExcitation(2176)) == 591_872
    assert count(Cbam(2176)) == count(Cbam(2176, form="literal")) == 98
    assert count(Cbam(2176, form="full")) == 98 + 591_872


def test_few_channels_keep_one_in_the_bottleneck() -> None:
    assert SqueezeExcitation(8, reduction=16)(torch.ones(1, 8, 2, 2)).shape == (1, 8, 2, 2)


def test_on_a_map_of_one_position_only_the_two_centre_weights_are_seen() -> None:
    module = Cbam(4, form="literal")
    module(torch.randn(3, 4, 1, 1), before=torch.randn(3, 4, 1, 1)).sum().backward()
    assert module.conv.weight.grad is not None
    is_seen = module.conv.weight.grad[0] != 0
    assert is_seen[:, 3, 3].all()
    assert is_seen.sum() == 2
