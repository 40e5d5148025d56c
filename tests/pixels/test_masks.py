"""Masks lie on their images to the pixel, whatever is cropped and scaled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medtail.errors import MedtailError
from medtail.pixels.masks import open_masks
from medtail.pixels.settings import PixelConfig
from medtail.pixels.store import open_store
from medtail.tables.manifest import Manifest, manifest_from_frame


@pytest.fixture
def table(tmp_path: Path) -> Manifest:
    """Three images whose lesion is the only light place; the third has no mask."""
    rows = []
    for number, (height, width) in enumerate([(40, 60), (60, 40), (50, 50)]):
        image, mask = np.full((height, width), 20, np.uint8), np.zeros((height, width), np.uint8)
        image[10:26, 8 + 4 * number : 28] = 220
        mask[10:26, 8 + 4 * number : 28] = 255
        Image.fromarray(image).save(tmp_path / f"{number}.png")
        Image.fromarray(mask).save(tmp_path / f"mask_{number}.png")
        rows.append(
            {
                "image_id": f"i{number}", "path": f"{number}.png", "patient_id": str(number),
                "mask_path": f"mask_{number}.png" if number < 2 else "", "Hernia": 1,
                "roi_x": 4, "roi_y": 6, "roi_w": 30, "roi_h": 24,
            }
        )  # fmt: skip
    return manifest_from_frame(pd.DataFrame(rows), root=tmp_path)


@pytest.mark.parametrize(
    "config",
    [PixelConfig(size_px=32), PixelConfig(size_px=48, channels=3, fill="mirror"), PixelConfig(size_px=40, crop="roi")],
)
def test_a_mask_is_where_the_lesion_is(table: Manifest, tmp_path: Path, config: PixelConfig) -> None:
    images = open_store(table, config, cache=tmp_path / "cache")
    store = open_masks(table, images, rows=np.arange(3), cache=tmp_path / "cache")
    found = store.masks([1, 0, 2, 0])
    assert found.shape == (4, config.size_px, config.size_px)
    assert not found[2].any(), "no mask, no lesion"
    assert np.array_equal(found[1], found[3])
    for place, row in ((0, 1), (1, 0)):
        light = images.images([row])[0, 0] >= 120
        left, top, right, bottom = images.content_boxes[row]
        inside = np.zeros_like(light)
        inside[top:bottom, left:right] = True
        assert found[place].sum() > 40
        # half-covered pixels at the edge may differ; what the mirror shows outside is no lesion
        assert (found[place] ^ (light & inside)).mean() < 0.01
        assert not (found[place] & ~inside).any()


def test_only_the_rows_asked_for_are_read(table: Manifest, tmp_path: Path) -> None:
    images = open_store(table, PixelConfig(size_px=16), cache=tmp_path / "cache")
    (tmp_path / "mask_0.png").unlink()
    store = open_masks(table, images, rows=np.array([1]), cache=tmp_path / "cache")
    assert store.places.tolist() == [-1, 0, -1]
    assert not store.masks([0]).any()


def test_masks_that_cannot_be_used_are_refused(table: Manifest, tmp_path: Path) -> None:
    images = open_store(table, PixelConfig(size_px=16), cache=tmp_path / "cache")
    cache = tmp_path / "cache"
    with pytest.raises(MedtailError, match=r"column 'mask_path': is empty in every row that needs a mask"):
        open_masks(table, images, rows=np.array([2]), cache=cache)
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path / "mask_0.png")
    with pytest.raises(MedtailError, match=r"row 2, column 'mask_path': 'mask_0.png' has another shape than its image"):
        open_masks(table, images, rows=np.arange(3), cache=cache)
    (tmp_path / "mask_1.png").unlink()
    with pytest.raises(MedtailError, match=r"masks \(column 'mask_path' stands for 'path' here\): .*mask_1.png"):
        open_masks(table, images, rows=np.arange(3), cache=cache)
    bare = manifest_from_frame(table.frame.drop(columns="mask_path"), root=tmp_path)
    with pytest.raises(MedtailError, match="no column 'mask_path'"):
        open_masks(bare, images, rows=np.arange(3), cache=cache)
