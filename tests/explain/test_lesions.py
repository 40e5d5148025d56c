from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medtail.errors import MedtailError
from medtail.explain.lesions import in_square, lesion_of
from medtail.pixels.settings import PixelConfig
from medtail.tables.manifest import manifest_from_frame

PIXELS = PixelConfig(size_px=32)


@pytest.fixture
def folder(tmp_path):
    mask = np.zeros((20, 40), np.uint8)
    mask[5:10, 30:40] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    Image.fromarray(np.zeros((20, 40), np.uint8)).save(tmp_path / "empty.png")
    return tmp_path


def table(folder, **columns):
    row = {"image_id": "a", "path": "a.png", "patient_id": "1", "x": 1, **columns}
    return manifest_from_frame(pd.DataFrame([row]), root=folder)


BOX = {"roi_x": 2, "roi_y": 3, "roi_w": 4, "roi_h": 5}


def test_a_mask_is_read_in_the_pixels_of_its_image(folder):
    found = lesion_of(table(folder, mask_path="mask.png", **BOX), 0, shape=(20, 40), config=PIXELS)
    assert found.sum() == 50
    assert found[5:10, 30:40].all()


def test_without_a_mask_the_box_is_taken(folder):
    found = lesion_of(table(folder, **BOX), 0, shape=(20, 40), config=PIXELS)
    assert found[3:8, 2:6].all()
    assert found.sum() == 20


def test_a_box_that_the_model_was_cut_to_proves_nothing(folder):
    assert lesion_of(table(folder, **BOX), 0, shape=(20, 40), config=PixelConfig(crop="roi")) is None


def test_nothing_told_is_none(folder):
    assert lesion_of(table(folder), 0, shape=(20, 40), config=PIXELS) is None
    assert lesion_of(table(folder, mask_path="empty.png"), 0, shape=(20, 40), config=PIXELS) is None


def test_a_mask_of_another_shape_is_refused(folder):
    with pytest.raises(
        MedtailError, match=r"row 2, column 'mask_path': 'mask.png' has 20 x 40 pixels; expected 40 x 20"
    ):
        lesion_of(table(folder, mask_path="mask.png"), 0, shape=(40, 20), config=PIXELS)


def test_a_lesion_goes_through_the_letterbox():
    lesion = np.zeros((20, 40), dtype=bool)
    lesion[:, 20:] = True
    square = in_square(lesion, config=PIXELS, roi=None)
    assert square[8:24, 17:].all()
    assert not square[:8].any()
    assert not square[:, :15].any()
