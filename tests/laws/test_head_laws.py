"""What every backbone under a head must do: the same logits alone or in a batch, in any order, after save and load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from medtail.models.backbones import (
    ConvNextConfig,
    EfficientNetConfig,
    EfficientNetLite0Config,
    ResNetConfig,
    ViTConfig,
)
from medtail.models.checkpoint import ModelCard, ModelParts, load_model, save_model
from medtail.models.diagnoser import Diagnoser, build_diagnoser
from medtail.models.heads import LinearHeadConfig
from medtail.pixels.settings import PixelConfig
from medtail.tables.labels import LabelSpace

LABELS = LabelSpace.from_columns(["halo", "shape=oval", "shape=round"])
BACKBONES = [
    EfficientNetLite0Config(weights=None),
    EfficientNetConfig(),
    ViTConfig(),
    ResNetConfig(),
    ConvNextConfig(),
]
PIXELS = PixelConfig(size_px=64, channels=1)


def kind(config: Any) -> str:
    return str(config.kind)


def trained(backbone: Any) -> Diagnoser:
    """A model after a few steps: running statistics and gains are no longer their initial values."""
    torch.manual_seed(0)
    model = build_diagnoser(
        backbone=backbone, head=LinearHeadConfig(), labels=LABELS, link="softmax", channels=1, size_px=64
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        images = torch.rand(8, 1, 64, 64)
        (model(images)[:, 0] - images.mean(dim=(1, 2, 3))).square().mean().backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("backbone", BACKBONES, ids=kind)
def test_image_gets_the_same_scores_alone_in_a_batch_and_in_any_order(backbone: Any) -> None:
    model, images = trained(backbone), torch.rand(7, 1, 64, 64)
    with torch.inference_mode():
        together = model.scores(images)
        alone = torch.cat([model.scores(image[None]) for image in images])
        backwards = model.scores(images.flip(0)).flip(0)
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-5)
    torch.testing.assert_close(backwards, together, rtol=0, atol=1e-5)
    assert together.std(dim=0).max() > 0, "scores that do not depend on the image would pass trivially"


@pytest.mark.parametrize("backbone", BACKBONES, ids=kind)
def test_saved_and_loaded_model_gives_the_same_logits(backbone: Any, tmp_path: Path) -> None:
    model, images = trained(backbone), torch.rand(2, 1, 64, 64)
    parts = ModelParts(pixels=PIXELS, backbone=backbone, head=LinearHeadConfig(), link="softmax")
    save_model(tmp_path / "model", model, ModelCard(labels=LABELS, parts=parts))
    loaded, _ = load_model(tmp_path / "model")
    with torch.inference_mode():
        assert torch.equal(loaded(images), model(images))
        assert torch.equal(loaded.scores(images), model.scores(images))
