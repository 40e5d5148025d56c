from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medtail.models.backbones import ResNetConfig
from medtail.models.checkpoint import ModelCard, ModelParts, save_model
from medtail.models.diagnoser import Diagnoser, build_diagnoser
from medtail.models.heads import LinearHeadConfig
from medtail.pixels.settings import PixelConfig
from medtail.tables.labels import LabelSpace
from medtail.training.second import Learn, Start

LABELS = LabelSpace(("halo", "spot"))


def model(seed: int, *, scales: bool = False) -> Diagnoser:
    torch.manual_seed(seed)
    head = LinearHeadConfig(scales=scales)
    return build_diagnoser(backbone=ResNetConfig(), head=head, labels=LABELS, link="sigmoid", channels=1, size_px=32)


@pytest.mark.parametrize("learn", ["classifier", "scales", "all"])
def test_start_carries_the_backbone_and_the_head_unless_it_begins_anew(tmp_path: Path, learn: Learn) -> None:
    parts = ModelParts(
        pixels=PixelConfig(size_px=32, channels=1), backbone=ResNetConfig(), head=LinearHeadConfig(), link="sigmoid"
    )
    source = model(0)
    save_model(tmp_path / "model", source, ModelCard(labels=LABELS, parts=parts))
    into = model(1, scales=learn == "scales")
    own = {name: value.clone() for name, value in into.state_dict().items()}
    Start(tmp_path / "model", learn).begin(into)
    first = source.state_dict()
    for name, value in into.state_dict().items():
        kept = own if name == "head.scales" or (learn == "classifier" and name.startswith("head.")) else first
        assert torch.equal(value, kept[name]), name
    learning = {name for name, parameter in into.head.named_parameters() if parameter.requires_grad}
    assert learning == ({"scales"} if learn == "scales" else {"linear.weight", "linear.bias"})
