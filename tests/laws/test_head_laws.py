"""What every backbone under every head must do: the same logits alone, in a batch, in any order, and after loading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from medtail.models.backbones import (
    BlocksConfig,
    ConvNextConfig,
    DualConfig,
    EfficientNetConfig,
    EfficientNetLite0Config,
    ResNetConfig,
    ViTConfig,
)
from medtail.models.checkpoint import ModelCard, ModelParts, load_model, save_model
from medtail.models.class_attention import ClassAttentionConfig
from medtail.models.csasn import CsasnConfig
from medtail.models.csra import CsraConfig
from medtail.models.diagnoser import Diagnoser, build_diagnoser
from medtail.models.experts import ExpertsConfig
from medtail.models.glori import GloriConfig
from medtail.models.heads import LinearHeadConfig, build_head
from medtail.models.label_graph import LabelGraphConfig
from medtail.models.ml_decoder import MlDecoderConfig
from medtail.models.syntus import SyntusHeadConfig
from medtail.models.text_query import TextQueryConfig
from medtail.pixels.settings import PixelConfig
from medtail.tables.labels import LabelSpace

LABELS = LabelSpace.from_columns(["halo", "shape=oval", "shape=round"])
BACKBONES = [
    EfficientNetLite0Config(weights=None),
    EfficientNetConfig(),
    ViTConfig(),
    ResNetConfig(),
    ConvNextConfig(),
    DualConfig(),
    DualConfig(fusion="pooled"),
    BlocksConfig(blocks=2),
]
HEADS = [
    LinearHeadConfig(),
    CsasnConfig.of_size("tiny"),
    ClassAttentionConfig(width=64, rank=8),
    SyntusHeadConfig.of_size("tiny"),
    LinearHeadConfig(scales=True),
    CsraConfig(heads=2),
    MlDecoderConfig(width=64, inner=64),
    LabelGraphConfig(width=32),
    ExpertsConfig(width=16),
    TextQueryConfig(texts="", text_width=8, width=64, inner=64),
    GloriConfig(width=64),
]
PAIRS = [(backbone, HEADS[0]) for backbone in BACKBONES] + [(DualConfig(), head) for head in HEADS[1:]]
PAIRS.append((BlocksConfig(blocks=2), GloriConfig(width=64)))
PIXELS = PixelConfig(size_px=64, channels=1)


def kind(config: Any) -> str:
    return str(config.kind)


def trained(backbone: Any, head: Any) -> Diagnoser:
    """A model after a few steps: running statistics and gains are no longer their initial values."""
    torch.manual_seed(0)
    model = build_diagnoser(backbone=backbone, head=head, labels=LABELS, link="softmax", channels=1, size_px=64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        images = torch.rand(8, 1, 64, 64)
        (model(images)[:, 0] - images.mean(dim=(1, 2, 3))).square().mean().backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize(("backbone", "head"), PAIRS, ids=kind)
def test_image_gets_the_same_scores_alone_in_a_batch_and_in_any_order(backbone: Any, head: Any) -> None:
    model, images = trained(backbone, head), torch.rand(7, 1, 64, 64)
    with torch.inference_mode():
        together = model.scores(images)
        alone = torch.cat([model.scores(image[None]) for image in images])
        backwards = model.scores(images.flip(0)).flip(0)
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-5)
    torch.testing.assert_close(backwards, together, rtol=0, atol=1e-5)
    assert together.std(dim=0).max() > 0, "scores that do not depend on the image would pass trivially"


@pytest.mark.parametrize(("backbone", "head"), PAIRS, ids=kind)
def test_saved_and_loaded_model_gives_the_same_logits(backbone: Any, head: Any, tmp_path: Path) -> None:
    model, images = trained(backbone, head), torch.rand(2, 1, 64, 64)
    parts = ModelParts(pixels=PIXELS, backbone=backbone, head=head, link="softmax")
    save_model(tmp_path / "model", model, ModelCard(labels=LABELS, parts=parts))
    loaded, _ = load_model(tmp_path / "model")
    with torch.inference_mode():
        assert torch.equal(loaded(images), model(images))
        assert torch.equal(loaded.scores(images), model.scores(images))


@pytest.mark.parametrize("head", HEADS, ids=kind)
def test_head_gives_as_many_logits_as_classes_and_one_vector_an_image(head: Any) -> None:
    top = build_head(head, feature_dim=48, num_classes=5, groups=((0, 2), (1, 4)))
    answer = top.answer(torch.rand(3, 48, 4, 4))
    assert answer.logits.shape == (3, 5)
    assert answer.pooled.ndim == 2
    assert len(answer.pooled) == 3
    assert answer.logits.requires_grad
    assert top.eval().answer(torch.rand(3, 48, 4, 4)).further == {}, "eval mode spends nothing on further routes"
    assert torch.equal(top(torch.ones(2, 48, 4, 4)), top.answer(torch.ones(2, 48, 4, 4)).logits)
