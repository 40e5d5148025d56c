from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtail.errors import MedtailError
from medtail.pixels.letterbox import crop_box, letterbox
from medtail.pixels.settings import PixelConfig


def disc(height: int, width: int, *, radius: float) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    distance = np.hypot(x - (width - 1) / 2, y - (height - 1) / 2)
    return np.clip(radius - distance + 0.5, 0, 1).astype(np.float32)


@pytest.mark.parametrize(("height", "width"), [(300, 200), (200, 300), (97, 411), (60, 60), (40, 31)])
def test_a_circle_stays_a_circle(height: int, width: int) -> None:
    radius = 0.4 * min(height, width)
    square, _ = letterbox(disc(height, width, radius=radius), config=PixelConfig(size_px=128))
    bright = square[0].astype(float) / 255
    expected = radius * 128 / max(height, width)
    across, down = bright.sum(axis=1).max(), bright.sum(axis=0).max()
    assert abs(across - 2 * expected) < 1.5
    assert abs(across - down) < 0.5
    y, x = np.mgrid[:128, :128]
    variance_x = (bright * (x - 63.5) ** 2).sum() / bright.sum()
    variance_y = (bright * (y - 63.5) ** 2).sum() / bright.sum()
    assert variance_x == pytest.approx(variance_y, rel=0.01)


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([8, 33, 64]), st.sampled_from([1, 3]))
def test_any_shape_fits_and_the_content_is_centred(height: int, width: int, size_px: int, channels: int) -> None:
    config = PixelConfig(size_px=size_px, channels=channels)  # type: ignore[arg-type]
    square, (left, top, right, bottom) = letterbox(np.ones((height, width), np.float32), config=config)
    assert square.shape == (channels, size_px, size_px)
    assert max(right - left, bottom - top) == size_px
    assert 0 <= left < right <= size_px
    assert 0 <= top < bottom <= size_px
    assert abs(left - (size_px - right)) <= 1
    mask = np.zeros((size_px, size_px), dtype=bool)
    mask[top:bottom, left:right] = True
    assert np.array_equal(square == 255, np.broadcast_to(mask, square.shape))


def test_mirror_bars_repeat_the_content_until_full() -> None:
    content = np.linspace(0.1, 0.9, 8 * 64, dtype=np.float32).reshape(8, 64)
    square, (_, top, _, bottom) = letterbox(content, config=PixelConfig(size_px=64, fill="mirror"))
    assert bottom - top == 8
    rows = square[0]
    assert np.array_equal(rows[bottom], rows[bottom - 1])
    assert np.array_equal(rows[bottom : bottom + 8], rows[top:bottom][::-1])
    assert np.array_equal(rows[bottom + 8 : bottom + 16], rows[top:bottom])
    assert rows.min() > 0


def test_margin_is_a_fraction_of_the_longer_side_and_clipped_at_the_border() -> None:
    assert crop_box(200, 300, roi=(100, 80, 40, 20), margin=0.25, square=False) == (90, 70, 150, 110)
    assert crop_box(200, 300, roi=(0, 0, 40, 20), margin=0.25, square=False) == (0, 0, 50, 30)
    assert crop_box(200, 300, roi=(270, 190, 40, 20), margin=0.25, square=False) == (260, 180, 300, 200)


@given(
    st.integers(1, 80), st.integers(1, 80), st.integers(-20, 90), st.integers(-20, 90), st.integers(1, 90),
    st.integers(1, 90), st.floats(0, 2), st.booleans(),
)  # fmt: skip
def test_a_crop_holds_the_visible_region_and_stays_inside(
    height: int, width: int, x: int, y: int, w: int, h: int, margin: float, square: bool
) -> None:
    visible = max(x, 0) < min(x + w, width) and max(y, 0) < min(y + h, height)
    if not visible:
        with pytest.raises(MedtailError, match="has no pixel in an image"):
            crop_box(height, width, roi=(x, y, w, h), margin=margin, square=square)
        return
    left, top, right, bottom = crop_box(height, width, roi=(x, y, w, h), margin=margin, square=square)
    assert 0 <= left <= max(x, 0) < min(x + w, width) <= right <= width
    assert 0 <= top <= max(y, 0) < min(y + h, height) <= bottom <= height
    if square:
        side = max(right - left, bottom - top)
        assert right - left == min(side, width)
        assert bottom - top == min(side, height)


def test_cropping_shows_the_region_and_not_the_rest() -> None:
    pixels = np.zeros((100, 150), np.float32)
    pixels[40:60, 70:90] = 0.5
    config = PixelConfig(size_px=32, crop="roi", margin=0.0)
    square, content = letterbox(pixels, config=config, roi=(70, 40, 20, 20))
    assert content == (0, 0, 32, 32)
    assert np.array_equal(np.unique(square), [128])


def test_a_missing_region_is_an_error_or_the_whole_image() -> None:
    pixels = np.full((10, 10), 0.5, np.float32)
    with pytest.raises(MedtailError, match="no roi; expected one"):
        letterbox(pixels, config=PixelConfig(size_px=8, crop="roi"))
    whole, _ = letterbox(pixels, config=PixelConfig(size_px=8, crop="roi", missing_roi="whole"))
    assert np.array_equal(whole, letterbox(pixels, config=PixelConfig(size_px=8))[0])


def test_precision_beyond_8_bits_survives_until_the_rounding() -> None:
    # a checkerboard of two 16-bit values within one 8-bit step: their mean decides the byte
    for value, expected in ((100.4, 100), (100.6, 101)):
        pixels = np.full((64, 64), (value - 0.3) / 255, np.float32)
        pixels[::2, ::2] += 0.6 / 255
        pixels[1::2, 1::2] += 0.6 / 255
        square, _ = letterbox(pixels, config=PixelConfig(size_px=16))
        assert np.array_equal(np.unique(square), [expected])


def test_reducing_is_antialiased() -> None:
    stripes = np.zeros((512, 512), np.float32)
    stripes[:, ::2] = 1.0
    square, _ = letterbox(stripes, config=PixelConfig(size_px=64))
    assert square.min() >= 120
    assert square.max() <= 135


def test_colour_becomes_luminance_or_stays_and_gray_is_repeated() -> None:
    red = np.zeros((16, 16, 3), np.float32)
    red[..., 0] = 1.0
    assert np.unique(letterbox(red, config=PixelConfig(size_px=8))[0]).tolist() == [76]
    coloured, _ = letterbox(red, config=PixelConfig(size_px=8, channels=3))
    assert coloured[:, 4, 4].tolist() == [255, 0, 0]
    gray, _ = letterbox(red[..., 0] * 0.5, config=PixelConfig(size_px=8, channels=3))
    assert gray[:, 4, 4].tolist() == [128, 128, 128]
    assert gray.flags.writeable
