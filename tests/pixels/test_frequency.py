from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.fft import dctn, idctn

from medtail.config import build_config
from medtail.errors import MedtailError, UsageError
from medtail.pixels.frequency import BandConfig, BandFilter, band_pass, cosine_matrix, luminance, radial_mask
from medtail.pixels.letterbox import letterbox
from medtail.pixels.settings import PixelConfig


def made_up(count: int = 3, *, channels: int = 1, size_px: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, channels, size_px, size_px, generator=generator, dtype=torch.float64)


def filter_of(config: BandConfig, *, size_px: int = 32, sigma: float = 0.1) -> BandFilter:
    band = BandFilter(config, size_px=size_px)
    band.set_sigma(sigma)
    return band


@pytest.mark.parametrize("size_px", [1, 8, 31, 64, 224])
def test_the_cosine_matrix_is_orthonormal(size_px: int) -> None:
    matrix = cosine_matrix(size_px)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(size_px, dtype=torch.float64), atol=1e-6, rtol=0)


@pytest.mark.parametrize("size_px", [8, 31, 64])
def test_the_transform_is_scipys(size_px: int) -> None:
    images = made_up(size_px=size_px)
    matrix = cosine_matrix(size_px)
    expected = dctn(images.numpy(), axes=(-2, -1), norm="ortho")
    np.testing.assert_allclose((matrix @ images @ matrix.T).numpy(), expected, atol=1e-10)


@pytest.mark.parametrize(("low", "high", "edge"), [(3, 9, 0), (3, 9, 2.5), (0, 5, 1), (20, math.inf, 3)])
def test_the_band_is_what_scipy_leaves_of_it(low: float, high: float, edge: float) -> None:
    images = made_up(channels=2)
    mask = radial_mask(32, low=low, high=high, edge=edge)
    coefficients = dctn(images.numpy(), axes=(-2, -1), norm="ortho") * mask.numpy()
    expected = idctn(coefficients, axes=(-2, -1), norm="ortho")
    np.testing.assert_allclose(band_pass(images, mask).numpy(), expected, atol=1e-10)


def test_the_mask_holds_the_promised_share() -> None:
    mask = BandConfig(kind="extra", edge=0).mask(size_px=224)
    assert int(mask.sum()) == 7869
    assert mask.numel() == 50176
    assert float(mask.mean()) == pytest.approx(0.157, abs=5e-4)
    # and index k is k/2 cycles an image: 5 to 50
    place = (torch.arange(224, dtype=torch.float64) + 0.5) / 224
    for cycles, is_kept in ((2, False), (10, True), (45, True), (60, False)):
        wave = torch.cos(2 * torch.pi * cycles * place).expand(1, 1, 224, 224)
        left = band_pass(wave, BandConfig(kind="extra").mask(size_px=224))
        torch.testing.assert_close(left, wave if is_kept else torch.zeros_like(wave), atol=1e-9, rtol=0)


def test_without_an_edge_both_limits_are_kept() -> None:
    mask = radial_mask(16, low=3, high=5, edge=0)
    assert (mask[0, 3], mask[0, 5], mask[3, 4], mask[0, 2], mask[0, 6]) == (1, 1, 1, 0, 0)


def test_the_edges_are_half_cosines_about_the_limits() -> None:
    mask = radial_mask(64, low=10, high=40, edge=4)
    assert mask[0, [8, 9, 10, 11, 12, 38, 40, 42]].tolist() == pytest.approx(
        [0, (1 - math.sqrt(0.5)) / 2, 0.5, (1 + math.sqrt(0.5)) / 2, 1, 1, 0.5, 0]
    )


@pytest.mark.parametrize("edge", [0.0, 4.0])
def test_a_band_without_limits_is_the_identity(edge: float) -> None:
    images = made_up()
    torch.testing.assert_close(band_pass(images, radial_mask(32, low=0, high=math.inf, edge=edge)), images)


@given(low=st.floats(0, 20), width=st.floats(1, 30))
def test_a_hard_band_is_idempotent_and_linear(low: float, width: float) -> None:
    images, mask = made_up(), radial_mask(32, low=low, high=low + width)
    once = band_pass(images, mask)
    torch.testing.assert_close(band_pass(once, mask), once, atol=1e-10, rtol=0)
    torch.testing.assert_close(
        band_pass(2 * images - images.flip(0), mask), 2 * once - once.flip(0), atol=1e-10, rtol=0
    )


def test_a_constant_image_has_no_band() -> None:
    flat = torch.full((1, 1, 224, 224), 0.8)
    assert band_pass(flat, BandConfig(kind="extra").mask(size_px=224)).abs().max() < 1e-6


def test_the_band_moves_with_a_flip_of_the_image() -> None:
    images, mask = made_up(), BandConfig(kind="extra").mask(size_px=32)
    torch.testing.assert_close(band_pass(images.flip(-1), mask), band_pass(images, mask).flip(-1))


@pytest.mark.parametrize(("fill", "is_clean"), [("mirror", True), ("black", False)])
def test_bars_make_no_edge_where_they_mirror_the_content(fill: str, is_clean: bool) -> None:
    square, (left, top, right, bottom) = letterbox(
        np.full((20, 48), 0.7, np.float32),
        config=PixelConfig(size_px=48, fill=fill),  # type: ignore[arg-type]
    )
    images = torch.from_numpy(square)[None].double() / 255
    band = band_pass(images, BandConfig(kind="extra").mask(size_px=48))[..., top:bottom, left:right]
    assert (float(band.abs().max()) < 1e-9) == is_clean


@pytest.mark.parametrize("kind", ["extra", "replace"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_filter_makes_the_promised_channels(kind: str, channels: int) -> None:
    images = made_up(channels=channels).float()
    config = BandConfig(kind=kind, low=20, high=150, edge=10)  # type: ignore[arg-type]
    seen = filter_of(config)(images)
    gray = luminance(images)
    band = (0.5 + band_pass(gray, config.mask(size_px=32)) / 0.6).clamp(0, 1)
    assert band.min() == 0  # the clipping is exercised
    expected = [gray, band, gray] if kind == "extra" else [band] * 3
    torch.testing.assert_close(seen, torch.cat(expected, dim=1), atol=1e-6, rtol=0)


def test_bars_are_black_in_the_image_and_the_middle_in_the_band() -> None:
    images = made_up().float()
    content = torch.zeros(3, 1, 32, 32)
    content[:, :, 4:20, :] = 1
    for kind, bars in (("extra", (0.0, 0.5, 0.0)), ("replace", (0.5, 0.5, 0.5))):
        band = filter_of(BandConfig(kind=kind))  # type: ignore[arg-type]
        seen, whole = band(images, content), band(images)
        torch.testing.assert_close(seen[:, :, 4:20], whole[:, :, 4:20])
        for channel, value in enumerate(bars):
            assert (seen[:, channel, 20:] == value).all()
            assert (seen[:, channel, :4] == value).all()


def test_an_image_looks_the_same_alone_and_in_any_batch() -> None:
    images = made_up(32).float()
    band = filter_of(BandConfig(kind="extra"))
    together = band(images)
    torch.testing.assert_close(torch.cat([band(image[None]) for image in images]), together, atol=1e-5, rtol=0)
    torch.testing.assert_close(band(images.flip(0)).flip(0), together, atol=1e-5, rtol=0)


def test_half_precision_around_it_changes_nothing() -> None:
    images = made_up().float()
    band = filter_of(BandConfig(kind="extra"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(band(images), band(images).float())
        assert band(images).dtype == torch.float32
        mixed = band(images)
    assert torch.equal(mixed, band(images))


@pytest.mark.parametrize("low", [10.0, 0.0])  # with 0 the band has a mean
def test_the_scale_is_the_deviation_over_content_whatever_the_batches(low: float) -> None:
    images, config = made_up(10), BandConfig(kind="extra", low=low)
    content = torch.zeros(10, 1, 32, 32, dtype=torch.bool)
    content[:6, :, :20] = True
    content[6:] = True
    band = BandFilter(config, size_px=32).double()
    together = band.measure([(images, content)])
    expected = band_pass(images, config.mask(size_px=32))[content].std(correction=0)
    assert together == pytest.approx(float(expected), rel=1e-5)
    in_parts = band.measure([(images[k : k + 3], content[k : k + 3]) for k in range(0, 10, 3)])
    assert in_parts == pytest.approx(together, rel=1e-9)


def test_a_louder_image_has_a_louder_band() -> None:
    """One scale for all images: the band's contrast is a finding, not divided away image by image."""
    images = made_up().float() * 0.5
    band = filter_of(BandConfig(kind="extra"), sigma=1.0)
    quiet, loud = band(images)[:, 1] - 0.5, band(2 * images)[:, 1] - 0.5
    torch.testing.assert_close(loud, 2 * quiet, atol=1e-6, rtol=0)


def test_flat_images_have_no_scale() -> None:
    whole = torch.ones(2, 1, 32, 32, dtype=torch.bool)
    band = BandFilter(BandConfig(kind="extra"), size_px=32)
    for images, content in ((torch.full((2, 1, 32, 32), 0.3), whole), (made_up(2).float(), ~whole)):
        with pytest.raises(MedtailError, match="the images of the train fold have nothing in this band"):
            band.measure([(images, content)])


def test_only_the_scale_is_saved() -> None:
    assert list(filter_of(BandConfig(kind="extra")).state_dict()) == ["sigma"]
    assert math.isnan(float(BandFilter(BandConfig(kind="extra"), size_px=32).sigma))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "both"}, "band, kind: found 'both'; expected 'none', 'extra' or 'replace'"),
        ({"low": 50, "high": 50}, "low: found 50 with high 50; expected 0 or more and below high"),
        ({"low": 50, "high": 60, "edge": 11}, "found 11 for a band from 50 to 60; expected 0 to its width 10"),
        ({"low": 1, "edge": 4}, "found 4, which reaches below 0 from low 1.*expected at most 2"),
        ({"low": -1}, "band, low: found -1"),
        ({"hihg": 5}, "did you mean 'high'"),
    ],
)
def test_impossible_bands_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_config(BandConfig, settings, where="band")


def test_a_band_beyond_the_image_is_refused() -> None:
    with pytest.raises(MedtailError, match=r"100 to 200 holds no coefficient of an image of 64 .* is 89\.09"):
        BandFilter(BandConfig(kind="extra", low=100, high=200, scale_with_size=False), size_px=64)


def test_the_band_scales_with_the_image_unless_told_not_to() -> None:
    assert BandConfig().limits(size_px=112) == (5, 50, 2)
    assert BandConfig(scale_with_size=False).limits(size_px=112) == (10, 100, 4)
    shares = [float(BandConfig(edge=0, scale_with_size=s).mask(size_px=64).mean()) for s in (True, False)]
    assert shares[0] == pytest.approx(0.157, abs=0.01)
    assert shares[1] > 0.95


@pytest.mark.gpu
def test_the_device_sees_what_the_cpu_sees() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    band, images = filter_of(BandConfig(kind="extra")), made_up().float()
    expected = band(images)
    there = band.cuda()(images.cuda())
    assert there.is_cuda
    torch.testing.assert_close(there.cpu(), expected, atol=1e-4, rtol=0)
