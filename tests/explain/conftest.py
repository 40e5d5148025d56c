"""A model whose evidence is known by construction, and folders of tiny models and images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from medtail.explain.examples import tiny_diagnoser
from medtail.models.backbones import ResNetConfig
from medtail.models.checkpoint import ModelCard, ModelParts, save_model
from medtail.models.contract import Head, HeadAnswer, Trunk
from medtail.models.diagnoser import Diagnoser
from medtail.models.heads import LinearHeadConfig
from medtail.pixels.settings import PixelConfig
from medtail.tables.labels import LabelSpace
from medtail.tables.manifest import Manifest, manifest_from_frame

SIDE = 64


@final
class PlantedTrunk(Trunk):
    """Mean brightness of each of 8 x 8 squares."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))
        self.feature_dim, self.feature_parts, self.channels = 1, (1,), 1
        self.is_convolutional = True
        self.architecture: Mapping[str, Any] | None = None

    def forward(self, images: Tensor) -> Tensor:
        return self.gain * F.avg_pool2d(images, 8)

    def layer_groups(self) -> list[dict[str, nn.Parameter]]:
        return [{"gain": self.gain}]


@final
class PlantedHead(Head):
    """A class is the brightness of its own square."""

    def __init__(self, places: list[tuple[int, int]]) -> None:
        super().__init__()
        weight = torch.zeros(len(places), 8, 8)
        for number, (row, column) in enumerate(places):
            weight[number, row, column] = 5.0
        self.weight = nn.Parameter(weight)

    def answer(self, features: Tensor) -> HeadAnswer:
        return HeadAnswer(logits=torch.einsum("bdhw,chw->bc", features, self.weight), pooled=features.mean(dim=(2, 3)))


PLACES = [(1, 1), (6, 4)]


@pytest.fixture
def planted() -> Diagnoser:
    """Class `a` is the brightness of the square at row 1, column 1; `b` that at row 6, column 4."""
    return Diagnoser(PlantedTrunk(), PlantedHead(PLACES), labels=LabelSpace(("a", "b")), link="sigmoid").eval()


@pytest.fixture
def planted_images() -> Tensor:
    """Two noisy gray images [2, 1, 64, 64], bright in both planted squares."""
    images = 0.3 + 0.1 * torch.rand(2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    for row, column in PLACES:
        images[:, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] += 0.5
    return images


def in_square(heat: Tensor, place: tuple[int, int]) -> bool:
    """Say whether the hottest pixel of a map [64, 64] is in a planted square."""
    row, column = divmod(int(heat.argmax()), SIDE)
    return (row // 8, column // 8) == place


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a tiny untrained model of `shape=oval`, `shape=round`, `halo`."""
    folder = tmp_path_factory.mktemp("runs")
    diagnoser = tiny_diagnoser("cnn")
    parts = ModelParts(
        pixels=PixelConfig(size_px=SIDE), backbone=ResNetConfig(), head=LinearHeadConfig(), link="softmax"
    )
    save_model(folder / "run" / "model", diagnoser, ModelCard(labels=diagnoser.labels, parts=parts))
    return folder / "run"


@pytest.fixture(scope="module")
def masked_manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Eight images of eight patients, 48 x 80 px, each with a mask right of the middle."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    mask = np.zeros((48, 80), np.uint8)
    mask[10:30, 50:70] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    rows = []
    for number in range(8):
        pixels = random.integers(60, 120, (48, 80), dtype=np.uint8)
        pixels[10:30, 50:70] //= 3
        Image.fromarray(pixels).save(folder / f"{number}.png")
        rows.append({
            "image_id": f"i{number}", "path": f"{number}.png", "patient_id": f"p{number}", "mask_path": "mask.png",
            "shape=oval": number % 2, "shape=round": 1 - number % 2, "halo": int(number == 3),
        })  # fmt: skip
    return manifest_from_frame(pd.DataFrame(rows), root=folder)
