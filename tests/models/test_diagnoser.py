from __future__ import annotations

import numpy as np
import pytest
import torch

from medtail.models.backbones import ResNetConfig
from medtail.models.diagnoser import Diagnoser, Link, build_diagnoser, link_scores
from medtail.models.heads import LinearHeadConfig
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import scores_from_logits

LABELS = LabelSpace.from_columns(["halo", "shape=oval", "shape=round", "edge=a", "edge=b", "edge=c"])


def build(link: Link = "softmax") -> Diagnoser:
    torch.manual_seed(0)
    return build_diagnoser(
        backbone=ResNetConfig(), head=LinearHeadConfig(), labels=LABELS, link=link, channels=1, size_px=32
    )


@pytest.mark.parametrize("link", ["softmax", "sigmoid"])
def test_scores_equal_the_tables_own_formula(link: Link) -> None:
    logits = 20 * torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    groups = LABELS.group_indices if link == "softmax" else ()
    expected = scores_from_logits(logits.numpy(), groups)
    np.testing.assert_allclose(link_scores(logits, labels=LABELS, link=link).numpy(), expected, atol=1e-6)


def test_scores_of_half_precision_logits_are_float32() -> None:
    assert link_scores(torch.zeros(1, 6, dtype=torch.bfloat16), labels=LABELS, link="softmax").dtype == torch.float32


def test_layer_groups_hold_every_parameter_once_and_end_with_the_head() -> None:
    model = build()
    groups = model.layer_groups()
    assert sorted(name for group in groups for name in group) == sorted(name for name, _ in model.named_parameters())
    assert sorted(groups[-1]) == ["head.linear.bias", "head.linear.weight"]
    assert all(dict(model.named_parameters())[name] is value for group in groups for name, value in group.items())
