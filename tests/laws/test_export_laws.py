"""What every backbone and every head must do: leave as one ONNX file that answers as torch does at any batch size."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import nn

from medtail.exchange.onnx import OnnxDiagnoser, check_images, export_onnx
from medtail.exchange.torch_engine import TorchDiagnoser
from medtail.models.backbones import (
    BackboneConfig,
    BlocksConfig,
    ConvNextConfig,
    DualConfig,
    EfficientNetConfig,
    EfficientNetLite0Config,
    ResNetConfig,
    ViTConfig,
)
from medtail.models.checkpoint import ModelCard, ModelParts, save_model
from medtail.models.class_attention import ClassAttentionConfig
from medtail.models.csasn import CsasnConfig
from medtail.models.csra import CsraConfig
from medtail.models.diagnoser import build_diagnoser
from medtail.models.experts import ExpertsConfig
from medtail.models.glori import GloriConfig
from medtail.models.heads import HeadConfig, LinearHeadConfig
from medtail.models.label_graph import LabelGraphConfig
from medtail.models.ml_decoder import MlDecoderConfig
from medtail.models.rmsc import Batch, Branches, Chunks, NoAttention, Pyramid, RmscConfig
from medtail.models.syntus import SyntusHeadConfig
from medtail.models.text_query import TextQueryConfig
from medtail.pixels.frequency import BandConfig
from medtail.pixels.settings import PixelConfig
from medtail.tables.labels import LabelSpace

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
LABELS = LabelSpace.from_columns(["halo", "shape=oval", "shape=round"])
SMALL = {"width": 16, "heads": 2, "hidden": (16, 8)}
PLAIN = ResNetConfig()
PAIRS: list[tuple[Any, Any]] = [
    *((backbone, LinearHeadConfig()) for backbone in (
        EfficientNetLite0Config(weights=None), EfficientNetConfig(), ViTConfig(), PLAIN, ConvNextConfig(),
        DualConfig(), DualConfig(fusion="pooled"),
    )),
    *((PLAIN, head) for head in (
        LinearHeadConfig(scales=True),
        CsasnConfig(rmsc=RmscConfig(**SMALL)),
        CsasnConfig(rmsc=RmscConfig(**SMALL, readout="cls"), cbam="full"),
        CsasnConfig(rmsc=RmscConfig(**SMALL, attend=Pyramid(grids=(2, 1))), cbam="literal"),
        CsasnConfig(rmsc=RmscConfig(heads=2, hidden=(16, 8), attend=Chunks(count=8))),
        CsasnConfig(rmsc=RmscConfig(**SMALL, attend=Batch())),
        CsasnConfig(rmsc=RmscConfig(**SMALL, attend=NoAttention()), cbam="none", se=False),
        ClassAttentionConfig(width=16, rank=4),
        SyntusHeadConfig.of_size("tiny"),
        SyntusHeadConfig(attention=None, batch_mixer=None),
        CsraConfig(heads=2),
        CsraConfig(heads=1),
        MlDecoderConfig(width=16, inner=16),
        LabelGraphConfig(width=16),
        ExpertsConfig(width=16),
        TextQueryConfig(texts="", text_width=8, width=16, inner=16),
    )),
    (BlocksConfig(blocks=2), GloriConfig(width=16)),
    (DualConfig(), CsasnConfig(rmsc=RmscConfig(**SMALL, attend=Branches()))),
]  # fmt: skip


def kind(config: Any) -> str:
    return str(config.kind)


def save(folder: Path, backbone: Any, head: Any, band: BandConfig) -> Path:
    """Write a model whose answers differ from image to image."""
    torch.manual_seed(0)
    parts = ModelParts(pixels=PixelConfig(size_px=64), backbone=backbone, head=head, link="softmax", band=band)
    model = build_diagnoser(
        backbone=backbone, head=head, labels=LABELS, link="softmax", channels=1, size_px=64, band=band,
        texts=np.eye(3, 8, dtype=np.float32) if isinstance(head, TextQueryConfig) else None,
    )  # fmt: skip
    if model.band is not None:
        model.band.set_sigma(0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(6):
        optimizer.zero_grad()
        images = torch.rand(8, 1, 1, 1) * torch.rand(8, 1, 64, 64)
        targets = images.mean(dim=(1, 2, 3), keepdim=True).flatten(1) * torch.tensor([[4.0, 2.0, -2.0]])
        (model(images) - targets).square().mean().backward()
        optimizer.step()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the mean over what follows, not what is left of the start
    with torch.no_grad():
        for _ in range(4):
            model(torch.rand(8, 1, 1, 1) * torch.rand(8, 1, 64, 64))
    save_model(folder, model.eval(), ModelCard(labels=LABELS, parts=parts))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "head"), PAIRS, ids=kind)
def test_an_exported_model_answers_as_torch_at_any_batch_size(backbone: Any, head: Any, tmp_path: Path) -> None:
    _exports(save(tmp_path / "model", backbone, head, BandConfig()), tmp_path / "model.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("shown", ["extra", "replace"])
def test_so_does_one_that_sees_a_band(shown: Any, tmp_path: Path) -> None:
    band = BandConfig(kind=shown)
    _exports(save(tmp_path / "model", PLAIN, LinearHeadConfig(), band), tmp_path / "model.onnx")


def test_no_backbone_and_no_head_is_left_out() -> None:
    tried = {type(backbone) for backbone, _ in PAIRS}, {type(head) for _, head in PAIRS}
    for union, found in zip((BackboneConfig, HeadConfig), tried, strict=True):
        members = set(get_args(get_args(union)[0]))
        # a Hub model needs weights of its own; its network is traced like those built here
        assert {member.__name__ for member in members - found} <= {"HubConfig"}


def _exports(folder: Path, out: Path) -> None:
    found, torch_run = OnnxDiagnoser(export_onnx(folder, out)), TorchDiagnoser(folder)
    images, boxes = check_images(found.record.pixels, 5)
    expected = torch_run.probabilities(images, boxes)
    np.testing.assert_allclose(found.probabilities(images, boxes), expected, rtol=0, atol=1e-4)
    alone = np.concatenate([found.probabilities(images[row : row + 1], boxes[row : row + 1]) for row in range(5)])
    np.testing.assert_allclose(alone, expected, rtol=0, atol=1e-4)
    assert expected.std(axis=0).max() > 1e-3, "answers that do not depend on the image would pass trivially"
