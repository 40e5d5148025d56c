"""What a training step minimises."""

from __future__ import annotations

import torch

from medtail.losses.build import BceConfig, LogitAdjustedConfig, build_loss
from medtail.losses.contract import LossContext, masked_mean
from medtail.losses.objective import UNKNOWN_DOMAIN, PlainObjective, Step

CONTEXT = LossContext(positives=(6, 2, 4), assessed=(12, 12, 10), groups=((0, 1),), num_images=12)


def test_plain_objective_is_the_masked_mean_of_its_loss() -> None:
    torch.manual_seed(0)
    logits = torch.randn(5, 3, requires_grad=True)
    targets = torch.tensor([[1.0, 0, 1], [0, 1, torch.nan], [1, 0, 0], [torch.nan, torch.nan, 1], [0, 1, 0]])
    for config in (BceConfig(), LogitAdjustedConfig(tau=0.7)):
        loss = build_loss(config, CONTEXT)
        objective = PlainObjective(loss)
        value = objective(Step.of(logits, targets, progress=0.3))
        assert torch.equal(value.total, masked_mean(loss, logits, targets, progress=0.3))
        assert objective.link == loss.link
        assert set(value.parts) == set(objective.part_names) == set()


def test_step_of_a_loss_alone_knows_no_domain_no_hardness_and_one_stream() -> None:
    step = Step.of(torch.zeros(4, 2), torch.zeros(4, 2))
    assert (step.domains == UNKNOWN_DOMAIN).all()
    assert torch.isnan(step.hardness).all()
    assert not step.streams.any()
