from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medtail.errors import MedtailError
from medtail.explain.overlay import RAMP, overlay, seen_box, to_image
from medtail.pixels.letterbox import letterbox
from medtail.pixels.settings import PixelConfig


def test_no_heat_leaves_the_image_untouched():
    image = np.random.default_rng(0).integers(0, 255, (8, 6, 3), dtype=np.uint8)
    assert np.array_equal(overlay(image, np.zeros((8, 6))), image)
    assert np.array_equal(overlay(image, np.ones((8, 6)), opacity=0.0), image)


def test_gray_becomes_colour_and_heat_has_the_colours_of_the_ramp():
    found = overlay(np.zeros((1, 2), np.uint8), np.array([[0.0, 1.0]]), opacity=1.0)
    assert found[0, 0].tolist() == [0, 0, 0]
    assert found[0, 1].tolist() == RAMP[-1].astype(int).tolist()


def test_the_ramp_gets_lighter_so_that_it_is_read_without_colour():
    light = RAMP @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(light) > 0).all()


def test_wrong_arrays_are_refused():
    image, heat = np.zeros((4, 4), np.uint8), np.zeros((4, 4))
    with pytest.raises(MedtailError, match=r"image: found float64 \[4, 4\]; expected uint8"):
        overlay(heat, heat)
    with pytest.raises(MedtailError, match=r"heat: found \[2, 2\]; expected \[4, 4\]"):
        overlay(image, np.zeros((2, 2)))
    with pytest.raises(MedtailError, match=r"opacity: found 1\.5"):
        overlay(image, heat, opacity=1.5)
    with pytest.raises(MedtailError, match=r"heat: found \[4, 4\]; expected \[8, 8\]"):
        to_image(heat, height=4, width=4, config=PixelConfig(size_px=8))


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(20, 140), width=st.integers(20, 140), down=st.floats(0.2, 0.8), across=st.floats(0.2, 0.8),
    crop=st.booleans(),
)  # fmt: skip
def test_heat_comes_back_to_where_the_letterbox_took_it_from(height, width, down, across, crop):
    """A blob on the image, brought into the square and back, lies where it was, to a pixel of the square."""
    config = PixelConfig(size_px=48, crop="roi" if crop else "none")
    roi = (width // 10, height // 10, width - width // 5, height - height // 5) if crop else None
    rows, columns = np.mgrid[:height, :width]
    centre = height * down, width * across
    reach = max(height, width) / 12
    blob = np.exp(-((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2) / (2 * reach**2)).astype(np.float32)
    square, _ = letterbox(blob, config=config, roi=roi)
    back = to_image(square[0] / 255.0, height=height, width=width, config=config, roi=roi)
    left, top, right, bottom = seen_box(height, width, config=config, roi=roi)
    pixel = max(right - left, bottom - top) / 48
    inside = back[top:bottom, left:right]
    found = (
        (rows[top:bottom, left:right] * inside**4).sum() / (inside**4).sum(),
        (columns[top:bottom, left:right] * inside**4).sum() / (inside**4).sum(),
    )
    true = blob[top:bottom, left:right] ** 4
    expected = (
        (rows[top:bottom, left:right] * true).sum() / true.sum(),
        (columns[top:bottom, left:right] * true).sum() / true.sum(),
    )
    assert abs(found[0] - expected[0]) < 0.25 * pixel + 0.1
    assert abs(found[1] - expected[1]) < 0.25 * pixel + 0.1


def test_outside_what_the_model_saw_there_is_no_heat():
    config = PixelConfig(size_px=16, crop="roi", margin=0.0)
    found = to_image(np.ones((16, 16)), height=40, width=40, config=config, roi=(10, 10, 20, 20))
    assert found[10:30, 10:30].min() == 1.0
    assert found.sum() == 400


def test_heat_of_the_bars_does_not_leak_into_the_image():
    heat = np.ones((16, 16), np.float32)
    heat[4:12] = 0.0  # a wide image fills the rows 4 to 11
    assert to_image(heat, height=20, width=40, config=PixelConfig(size_px=16)).max() == 0.0


def test_heat_that_is_no_number_is_refused_and_not_painted_cold() -> None:
    with pytest.raises(MedtailError, match="no numbers"):
        overlay(np.zeros((1, 2), np.uint8), np.array([[np.nan, 1.0]]))
