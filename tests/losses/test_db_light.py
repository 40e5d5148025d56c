from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from medtail.losses.build import BceConfig, DbLightConfig, build_loss
from medtail.losses.contract import LossContext
from medtail.losses.db_light import head_margins
from medtail.losses.weights import effective_number_weights

CONTEXT = LossContext((1600, 100, 1), (2000, 2000, 2000), (), 2000)


def test_cells_by_hand() -> None:
    loss = build_loss(DbLightConfig(), CONTEXT)
    weights = np.sqrt(effective_number_weights(np.array([1600.0, 100.0, 1.0]), beta=0.9999))
    present = loss.values(torch.zeros(1, 3), torch.ones(1, 3))[0].tolist()
    absent = loss.values(torch.zeros(1, 3), torch.zeros(1, 3))[0].tolist()
    margins = (0.2, 0.1, 0.2 / 1600**0.25)
    assert present == pytest.approx([w * math.log(1 + math.exp(m)) for w, m in zip(weights, margins, strict=True)])
    assert absent == pytest.approx([w * math.log(2) for w in weights]), "the margin is for positives alone"


def test_margins_are_widest_for_common_classes_and_never_above_the_bound() -> None:
    margins = head_margins(np.array([5000, 300, 20, 1, 0]), max_margin=0.2)
    assert margins[0] == 0.2
    assert (np.diff(margins) < 0).all()
    assert margins[-1] == 0.0
    assert head_margins(np.zeros(2), max_margin=0.2).tolist() == [0.0, 0.0]


def test_the_root_of_the_weights_is_on_both_sides_alike() -> None:
    light = build_loss(DbLightConfig(max_margin=0.0), CONTEXT)
    plain = build_loss(BceConfig(), CONTEXT)
    logits = torch.tensor([[0.3, -1.0, 2.0]])
    ratios = [light.values(logits, y) / plain.values(logits, y) for y in (torch.zeros(1, 3), torch.ones(1, 3))]
    torch.testing.assert_close(ratios[0], ratios[1])
    assert (ratios[0].square().mean().item()) == pytest.approx(1.0, rel=1e-5), "their squares average to 1"


def test_a_class_never_seen_weighs_nothing() -> None:
    loss = build_loss(DbLightConfig(), LossContext((4, 0), (9, 9), (), 9))
    assert loss.values(torch.ones(1, 2), torch.zeros(1, 2))[0, 1].item() == 0.0
