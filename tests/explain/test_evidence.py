from __future__ import annotations

import sys

import pytest
import torch

from medtail.errors import MedtailError
from medtail.explain.evidence import branch_channels, is_pooled, log_odds, require_captum
from medtail.explain.examples import tiny_diagnoser
from medtail.models.backbones import DualConfig
from medtail.models.csasn import CsasnConfig
from medtail.models.diagnoser import build_diagnoser, link_scores
from medtail.tables.labels import LabelSpace

SPACE = LabelSpace.from_columns(["shape=oval", "shape=round", "halo", "shape=none"])


@pytest.mark.parametrize("link", ["softmax", "sigmoid"])
def test_sigmoid_of_log_odds_is_the_score(link):
    logits = 3 * torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    odds = log_odds(logits, labels=SPACE, link=link)
    torch.testing.assert_close(torch.sigmoid(odds), link_scores(logits, labels=SPACE, link=link))


def test_a_branch_has_its_own_channels():
    trunk = tiny_diagnoser("dual").backbone
    vit, cnn = branch_channels(trunk, "vit"), branch_channels(trunk, "cnn")
    assert vit.stop == cnn.start
    assert (vit.start, cnn.stop) == (0, trunk.feature_dim)
    assert branch_channels(trunk, "joint") == slice(0, trunk.feature_dim)


def test_a_branch_that_is_not_there_is_refused():
    with pytest.raises(MedtailError, match=r"branch: found 'cnn'; expected 'joint': this model has one network"):
        branch_channels(tiny_diagnoser("cnn").backbone, "cnn")
    alone = build_diagnoser(
        backbone=DualConfig(branches="vit"), head=CsasnConfig.of_size("tiny"), labels=SPACE, link="softmax",
        channels=1, size_px=64,
    )  # fmt: skip
    with pytest.raises(MedtailError, match="this model has only 'vit'"):
        branch_channels(alone.backbone, "cnn")


def test_only_a_trunk_that_joins_after_pooling_has_no_positions():
    assert not is_pooled(tiny_diagnoser("dual").backbone)
    pooled = build_diagnoser(
        backbone=DualConfig(fusion="pooled"), head=CsasnConfig.of_size("tiny"), labels=SPACE, link="softmax",
        channels=1, size_px=64,
    )  # fmt: skip
    assert is_pooled(pooled.backbone)


def test_without_captum_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(MedtailError, match=r"explain: needs the package 'captum'.*medtail\[explain\]"):
        require_captum()
