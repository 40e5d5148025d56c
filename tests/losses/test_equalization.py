from __future__ import annotations

import torch

from medtail.losses.contract import LossContext
from medtail.losses.equalization import Equalization, EqualizationConfig

CONTEXT = LossContext((60, 2, 0), (100, 100, 100), (), 100)


def slopes(targets: torch.Tensor, config: EqualizationConfig) -> torch.Tensor:
    logits = torch.zeros_like(targets, requires_grad=True)
    Equalization(config, context=CONTEXT).values(logits, targets).sum().backward()
    assert logits.grad is not None
    return logits.grad


def test_common_findings_images_push_rare_labels_down_ten_times_less() -> None:
    found = slopes(torch.tensor([[1.0, 0.0, 0.0]]), EqualizationConfig())
    torch.testing.assert_close(found, torch.tensor([[-0.5, 0.05, 0.05]]))


def test_images_without_findings_and_common_labels_are_as_ever() -> None:
    found = slopes(torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), EqualizationConfig(keep=0.0))
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.5, 0.5], [0.5, -0.5, 0.0]]))
