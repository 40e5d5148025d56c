from __future__ import annotations

import math

import pytest
import torch

from medtail.losses.build import CrossEntropyConfig, LdamConfig, LogitAdjustedConfig, build_loss
from medtail.losses.contract import LossContext, masked_mean
from medtail.losses.margin import LogitAdjusted

SIXTEEN_TO_ONE = LossContext((16, 1), (17, 17), ((0, 1),), 17)
FREE = LossContext((16, 1), (17, 17), (), 17)


def test_logit_adjusted_by_hand() -> None:
    context = LossContext((3, 1), (4, 4), ((0, 1),), 4)
    # equal logits: the prior alone decides, 3/4 to 1/4
    cells = build_loss(LogitAdjustedConfig(), context).values(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]))
    assert cells.tolist() == [pytest.approx([0.0, math.log(4)])]
    # by themselves: log-odds of 3/4 and of 1/4
    loss = build_loss(LogitAdjustedConfig(link="sigmoid"), context)
    cells = loss.values(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]))
    assert cells.tolist() == [pytest.approx([math.log(4), math.log(4)])]


def test_prior_correction_is_what_training_saw() -> None:
    context = LossContext((60, 30, 9, 5), (99, 99, 99, 50), ((0, 1, 2),), 99)
    loss = build_loss(LogitAdjustedConfig(tau=0.8), context)
    assert isinstance(loss, LogitAdjusted)
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 1], [0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 1]])
    plain = build_loss(CrossEntropyConfig(), context)
    found = masked_mean(loss, logits, targets).item()
    assert found == pytest.approx(masked_mean(plain, loss.prior_correction(logits), targets).item())


def test_logit_adjusted_training_makes_raw_scores_balanced() -> None:
    # a feature that says nothing: the best constant logits are equal, while plain cross-entropy learns the prior
    context = LossContext((90, 10), (100, 100), ((0, 1),), 100)
    targets = torch.eye(2)[[0] * 90 + [1] * 10]
    learnt = []
    for config in (LogitAdjustedConfig(), CrossEntropyConfig()):
        loss = build_loss(config, context)
        logits = torch.zeros(1, 2, requires_grad=True)
        optimiser = torch.optim.LBFGS([logits], max_iter=50)

        def step(loss=loss, logits=logits, optimiser=optimiser):  # type: ignore[no-untyped-def]
            optimiser.zero_grad()
            value = masked_mean(loss, logits.expand(100, 2), targets)
            value.backward()
            return value

        optimiser.step(step)
        learnt.append(torch.softmax(logits.detach(), dim=1)[0, 0].item())
    assert learnt == pytest.approx([0.5, 0.9], abs=1e-3)


def test_ldam_by_hand() -> None:
    # margins (0.25, 0.5); the true class alone gives up its margin
    loss = build_loss(LdamConfig(reweight_from=None), SIXTEEN_TO_ONE)
    rare = loss.values(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]))
    assert rare.tolist() == [pytest.approx([0.0, math.log(1 + math.exp(0.5))])]
    common = loss.values(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))
    assert common.tolist() == [pytest.approx([math.log(1 + math.exp(0.25)), 0.0])]
    scaled = build_loss(LdamConfig(reweight_from=None, scale=10.0), SIXTEEN_TO_ONE)
    rare = scaled.values(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]))
    assert rare.sum().item() == pytest.approx(math.log(1 + math.exp(5.0)))


def test_ldam_of_free_classes_takes_the_margin_off_positives_only() -> None:
    loss = build_loss(LdamConfig(reweight_from=None), FREE)
    cells = loss.values(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]))
    assert cells.tolist() == [pytest.approx([math.log(2), math.log(1 + math.exp(0.5))])]


def test_ldam_weighs_classes_from_the_set_share_of_training_on() -> None:
    loss = build_loss(LdamConfig(reweight_from=0.8, beta=0.5, max_margin=0.0), LossContext((2, 1), (3, 3), (), 3))
    early = loss.values(torch.zeros(1, 2), torch.ones(1, 2), progress=0.799)
    late = loss.values(torch.zeros(1, 2), torch.ones(1, 2), progress=0.8)
    assert (early / math.log(2)).tolist() == [pytest.approx([1.0, 1.0])]
    assert (late / math.log(2)).tolist() == [pytest.approx([0.8, 1.2])]
