from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medtail.seeding import stream
from medtail.sources import phantom_physics
from medtail.sources.phantom_nodule import Tissue
from medtail.sources.phantom_physics import SCANNERS, SITE_SHARES, acquire
from medtail.sources.phantom_scene import frame

PLAIN = replace(
    SCANNERS["north"], looks=1, slope_db=0.0, noise_db=-80.0, range_db=100.0, gland_gray=0.6, sharpen=0.0, gamma=1.0
)


def slab(size_px: int = 128) -> Tissue:
    grid = frame(size_px)
    nothing, zero = np.zeros(grid.x.shape, dtype=bool), np.zeros_like(grid.x)
    return Tissue(zero, zero, zero, nothing, nothing, nothing, ())


def level_db(pixels: np.ndarray) -> np.ndarray:
    """Undo the display of PLAIN, but for the operator's gain."""
    return (pixels.astype(float) / 255 - 0.6) * 100


def scan(tissue: Tissue, seed: int = 0, **change: object) -> np.ndarray:
    scanner = replace(PLAIN, **change)  # type: ignore[arg-type]
    return acquire(stream(seed, "scan"), tissue, grid=frame(128), scanner=scanner, spacing_mm=0.25)


def test_one_look_at_a_slab_is_rayleigh_speckle() -> None:
    shown = np.concatenate([level_db(scan(slab(), seed)).ravel() for seed in range(6)])
    # in decibels the envelope of many scatterers spreads by 5.57 dB, whatever its level
    assert shown.std() == pytest.approx(5.57, abs=0.35)
    amplitude = 10 ** (level_db(scan(slab())) / 20)
    assert amplitude.mean() / amplitude.std() == pytest.approx(1.91, abs=0.1)


def test_compounding_smooths_and_scanners_blur_across_more_than_along() -> None:
    assert level_db(scan(slab(), looks=3)).std() < 0.7 * level_db(scan(slab())).std()
    values = level_db(scan(slab(), axial_mm=0.15, lateral_mm=0.45))
    values = values - values.mean()
    along, across = ((values[1:] * values[:-1]).mean(), (values[:, 1:] * values[:, :-1]).mean())
    assert across > 1.5 * along > 0


def test_echo_levels_come_out_as_they_went_in() -> None:
    grid = frame(128)
    tissue = replace(slab(), echo_db=np.where(grid.x < 0.5, np.float32(0), np.float32(-15)))
    shown = np.mean([level_db(scan(tissue, seed)) for seed in range(4)], axis=0)
    assert shown[:, :56].mean() - shown[:, 72:].mean() == pytest.approx(15, abs=0.6)


def test_loss_darkens_what_lies_behind_and_gain_brightens_it() -> None:
    grid = frame(128)
    block = (np.abs(grid.x - 0.5) < 0.1) & (grid.z > 0.3) & (grid.z < 0.4)
    for loss, sign in ((200.0, -1), (-60.0, 1)):
        tissue = replace(slab(), extra_loss=np.where(block, np.float32(loss), np.float32(0)))
        shown = np.mean([level_db(scan(tissue, seed)) for seed in range(4)], axis=0)
        behind, before, beside = shown[60:, 58:70].mean(), shown[:36, 58:70].mean(), shown[60:, :40].mean()
        assert behind - beside == pytest.approx(-0.1 * loss, abs=1.5)
        assert before == pytest.approx(shown[:36, :40].mean(), abs=1.0)
        assert sign * (behind - beside) > 4


def test_a_mirror_is_steady_where_scatter_is_not() -> None:
    grid = frame(128)
    mirror = replace(slab(), coherent=np.where(grid.z > 0.5, np.float32(30), np.float32(0)))
    shown = level_db(scan(mirror))
    assert shown[80:].std() < 1.0 < 4.0 < shown[:48].std()
    assert shown[80:].mean() - shown[:48].mean() == pytest.approx(20 * np.log10(30) + 2.5, abs=1.0)


def test_noise_shows_in_the_dark_only_and_grows_with_depth() -> None:
    dark = replace(slab(), echo_db=np.full_like(frame(128).x, -70.0))
    loud, quiet = level_db(scan(dark, noise_db=-30.0)), level_db(scan(dark))
    assert loud.mean() > quiet.mean() + 20
    assert loud[96:].mean() > loud[:32].mean() + 4
    bright = scan(slab(), noise_db=-30.0).astype(float) - scan(slab()).astype(float)
    assert np.abs(bright).mean() < 2


def test_a_frame_does_not_wrap_around() -> None:
    grid = frame(128)
    tissue = replace(slab(), echo_db=np.where(grid.z < 0.1, np.float32(0), np.float32(-40)))
    shown = level_db(scan(tissue))
    assert shown[-1].mean() == pytest.approx(shown[-20].mean(), abs=3)


def test_sites_have_shares_and_scanners_differ_in_what_they_do() -> None:
    assert sum(SITE_SHARES.values()) == pytest.approx(1)
    assert set(SITE_SHARES) == set(SCANNERS)
    assert len({scanner.device for scanner in SCANNERS.values()}) == len(SCANNERS)
    assert len({(s.range_db, s.gland_gray) for s in SCANNERS.values()}) == len(SCANNERS)


def test_the_same_chance_gives_the_same_bytes() -> None:
    assert np.array_equal(scan(slab(), 3, looks=2), scan(slab(), 3, looks=2))
    assert phantom_physics.WIDEST_PX < 2
