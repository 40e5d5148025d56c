"""Fixtures every test may use: real images where they are, and small made-up ones that always are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import settings
from PIL import Image

from medtail.tables.manifest import Manifest, manifest_from_frame

# the same cases every time, and no stop-watch: a busy machine is no mistake of the code
settings.register_profile("medtail", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("medtail")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep prepared pixels of the tests out of the person's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDTAIL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real development images; the test skips, saying so, where it is missing."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real images are not at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture
def toy_manifest(tmp_path: Path) -> Manifest:
    """Sixty 40 x 48 gray PNG files of thirty patients: an exclusive group of three, two free classes, some unassessed.

    The class `bright` is learnable from the pixels; the others are noise with a long tail.
    """
    random = np.random.default_rng(0)
    rows = []
    (tmp_path / "images").mkdir()
    for index in range(60):
        patient = index // 2
        bright = int(patient % 3 == 0)
        pixels = random.integers(0, 100, (40, 48)) + 120 * bright
        name = f"images/{index:03d}.png"
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / name)
        shape = ("oval", "round", "irregular")[min(2, patient % 5)]
        rows.append(
            {
                "image_id": f"i{index:03d}",
                "path": name,
                "patient_id": f"p{patient:02d}",
                "fold": ("train", "train", "train", "tune", "test")[patient % 5 if patient < 15 else (patient + 2) % 5],
                "bright": bright,
                "rare": np.nan if patient % 7 == 6 else int(patient % 10 == 1),
                **{f"shape={value}": int(value == shape) for value in ("irregular", "oval", "round")},
            }
        )
    return manifest_from_frame(pd.DataFrame(rows), name="toy.csv", root=tmp_path)
