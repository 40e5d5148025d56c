from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medtail.errors import MedtailError
from medtail.pixels.settings import PixelConfig
from medtail.sources.phantom_breast import render_breast
from medtail.synthesis.sketch import SketchConfig
from medtail.synthesis.sketch_check import check_sketches, write_sketch_check
from medtail.tables.manifest import read_manifest

PIXELS = PixelConfig(size_px=64)


@pytest.fixture
def table(tmp_path):
    """Cyst- and mucinous-like phantoms, 12 train each and one test, on a wide canvas with masks and regions."""
    rows = []
    for which, name in ((1, "kind=cyst"), (4, "kind=mucinous")):
        for number in range(13):
            phantom = render_breast(which, number=number)
            for kind, plane in (("image", phantom.pixels), ("mask", phantom.mask.astype(np.uint8) * 255)):
                wide = np.zeros((64, 96), dtype=np.uint8)
                wide[:, 20:84] = plane
                Image.fromarray(wide).save(tmp_path / f"{kind}_{which}_{number}.png")
            rows.append(
                {
                    "image_id": f"{which}_{number}",
                    "path": f"image_{which}_{number}.png",
                    "mask_path": f"mask_{which}_{number}.png",
                    "patient_id": f"{which}_{number}",
                    "fold": "test" if number == 12 else "train",
                    "roi_x": 20,
                    "roi_y": 0,
                    "roi_w": 64,
                    "roi_h": 64,
                    "kind=cyst": int(name == "kind=cyst"),
                    "kind=mucinous": int(name == "kind=mucinous"),
                }
            )
    pd.DataFrame(rows).to_csv(tmp_path / "table.csv", index=False)
    return read_manifest(tmp_path / "table.csv")


def test_each_class_is_described_and_test_images_are_left_alone(table):
    (table.root / "image_1_12.png").unlink()
    found = check_sketches(table, pixels=PixelConfig(size_px=64, crop="roi", margin=0))
    cyst, mucinous = found.classes
    assert (cyst.images, cyst.masks, cyst.empty) == (12, 12, 0.0)
    assert cyst.coverage > 0.95 > 0.6 > mucinous.coverage
    assert 0.01 < cyst.density < 0.06


def test_masks_are_cropped_and_scaled_with_their_images(table):
    for pixels in (PixelConfig(size_px=64, crop="roi", margin=0), PixelConfig(size_px=96)):
        assert check_sketches(table, pixels=pixels).classes[0].coverage > 0.9


def test_kappa_is_chosen_from_the_masks_only_when_asked(table):
    pixels = PixelConfig(size_px=64, crop="roi", margin=0)
    default, chosen = (check_sketches(table, pixels=pixels, choose=choose) for choose in (False, True))
    assert default.choice is not None
    assert default.config.kappa == 1.0
    assert chosen.config.kappa == default.choice.kappa
    assert chosen.choice is not None
    assert chosen.choice.images == 24


def test_without_masks_there_is_nothing_to_choose_by(table):
    bare = table.frame.drop(columns="mask_path")
    bare.to_csv(table.root / "bare.csv", index=False)
    plain = read_manifest(table.root / "bare.csv")
    found = check_sketches(plain, pixels=PIXELS)
    assert found.choice is None
    assert np.isnan(found.classes[0].coverage)
    with pytest.raises(MedtailError, match="no train image has a mask; kappa cannot be chosen"):
        check_sketches(plain, pixels=PIXELS, choose=True)


def test_a_table_without_train_rows_is_refused(table):
    with pytest.raises(MedtailError, match="no real row is in 'train'"):
        check_sketches(table.in_fold("test"), pixels=PIXELS)


def test_a_page_a_sheet_a_class_and_the_numbers_are_written(table, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    strict = check_sketches(table, pixels=PIXELS, config=SketchConfig(kappa=9))
    page = write_sketch_check(strict, out)
    text = page.read_text(encoding="utf-8")
    assert "100 % without a sketch" in text
    assert text.count("<img ") == 2
    assert {path.name for path in (out / "sheets").iterdir()} == {"kind_cyst.png", "kind_mucinous.png"}
    value = json.loads((out / "sketches.json").read_text())
    assert value["classes"]["kind=cyst"]["empty"] == 1.0
    assert value["kappa"] == 9.0
    assert value["suggested_kappa"] is not None
