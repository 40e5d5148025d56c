"""A run small enough to train in a test, with its exported file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def exported_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run of two classes whose model.onnx was made by `medtail export`; do not change it."""
    pytest.importorskip("onnxruntime")
    from medtail.cli.main import call

    folder = tmp_path_factory.mktemp("cli")
    random = np.random.default_rng(0)
    rows = []
    for index in range(60):
        bright = index % 3 == 0
        pixels = random.integers(0, 120, (24, 32)) + 100 * bright
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}.png")
        fold = ("train", "tune", "test")[index // 20]
        rows.append(
            {"image_id": f"i{index}", "path": f"{index}.png", "patient_id": f"p{index}", "fold": fold,
             "bright": int(bright), "odd": index % 2}
        )  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "toy.csv", index=False)
    (folder / "config.yaml").write_text(
        "manifest: toy.csv\npixels: {size_px: 16}\nbackbone: {kind: resnet, size: tiny}\n"
        "loss: {kind: bce}\noptimizer: {epochs: 2, batch_size: 10}\n"
    )
    assert call(["train", str(folder / "config.yaml"), "--out", str(folder / "run"), "--quiet"]) == 0
    assert call(["export", str(folder / "run"), "--format", "onnx"]) == 0
    return folder / "run"
