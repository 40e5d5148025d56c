from __future__ import annotations

import pytest
import torch

from medtail.losses.build import AslConfig, build_loss
from medtail.losses.contract import LossContext
from medtail.losses.robust import RalConfig

CONTEXT = LossContext((30,), (60,), (), 100)


def test_without_series_and_hill_it_is_the_asymmetric_loss() -> None:
    robust = build_loss(RalConfig(linear=0.0, quadratic=0.0, hill=None, gamma_positive=1.0), CONTEXT)
    asymmetric = build_loss(AslConfig(gamma_negative=4.0, gamma_positive=1.0, clip=0.05), CONTEXT)
    logits = torch.linspace(-6, 6, 41)[:, None]
    for target in (0.0, 0.3, 1.0):
        targets = torch.full_like(logits, target)
        torch.testing.assert_close(robust.values(logits, targets), asymmetric.values(logits, targets))


def test_a_negative_that_is_surely_scored_present_pulls_less_than_under_the_asymmetric_loss() -> None:
    logits = torch.tensor([[6.0]], requires_grad=True)
    slopes = []
    for config in (RalConfig(), AslConfig(gamma_positive=0.0)):
        (slope,) = torch.autograd.grad(build_loss(config, CONTEXT).values(logits, torch.zeros(1, 1)).sum(), logits)
        slopes.append(slope.item())
    assert 0 < slopes[0] < 0.8 * slopes[1]


def test_published_numbers_at_one_half() -> None:
    loss = build_loss(RalConfig(), CONTEXT)
    both = loss.values(torch.zeros(2, 1), torch.tensor([[1.0], [0.0]]))
    q = 0.45
    negative = -torch.log(torch.tensor(1 - q)) * (1.5 - 0.5) * (1.5 - (1 - q)) * 0.25 * q**4
    assert both[0].item() == pytest.approx(0.693147 - 0.5 + 1.25 * 0.25, abs=1e-5)
    assert both[1].item() == pytest.approx(negative.item(), rel=1e-5)
