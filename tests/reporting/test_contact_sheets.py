from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from medtail.reporting.contact_sheets import contact_sheet, evenly, sheet_markup, shrunk, write_sheet


def tile(gray: float, side: int = 8) -> np.ndarray:
    return np.full((side, side), gray)


def test_images_stand_in_rows_with_gaps_between():
    sheet = contact_sheet([[tile(0.0), tile(1.0)], [tile(0.2)]])
    assert sheet.shape == (18, 18)
    assert (sheet[:8, 10:] == 1).all()
    assert sheet[10:, :8] == pytest.approx(0.2)
    assert (sheet[8:10] == 0.5).all()
    assert (sheet[10:, 10:] == 0.5).all()


def test_a_missing_image_leaves_its_place_empty():
    sheet = contact_sheet([[None, tile(1.0)]])
    assert (sheet[:, :8] == 0.5).all()
    assert (sheet[:, 10:] == 1).all()


def test_no_images_make_an_empty_sheet():
    assert contact_sheet([]).size == 0


def test_positions_are_spread_evenly_and_never_repeated():
    for count in range(30):
        found = evenly(count, limit=8)
        assert len(found) == min(count, 8)
        assert len(set(found.tolist())) == len(found)
        assert count == 0 or (found[0] == 0 and (count < 2 or found[-1] == count - 1))


def test_only_large_images_are_shrunk():
    assert shrunk(tile(0.3, 64)).shape == (64, 64)
    small = shrunk(np.full((400, 200), 0.3))
    assert small.shape == (128, 64)
    assert small == pytest.approx(0.3, abs=1e-3)


def test_small_tiles_are_kept_without_loss_and_shown_at_twice_their_size():
    image = np.random.default_rng(0).integers(0, 256, (20, 30)) / 255
    markup = str(sheet_markup(image, alt="a & b", tile_px=20))
    kind, data = re.findall(r"data:image/(\w+);base64,([^\"]+)", markup)[0]
    back = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    assert kind == "png"
    assert np.array_equal(back, np.rint(image * 255))
    assert 'width="60"' in markup
    assert 'alt="a &amp; b"' in markup


def test_large_tiles_are_compressed():
    markup = str(sheet_markup(np.zeros((128, 256)), alt="", tile_px=128))
    assert "data:image/jpeg" in markup
    assert 'width="256"' in markup


def test_a_sheet_is_written_as_a_picture(tmp_path):
    write_sheet(tmp_path / "sheets" / "a.png", contact_sheet([[tile(1.0)]]))
    assert np.asarray(Image.open(tmp_path / "sheets" / "a.png")).min() == 255
