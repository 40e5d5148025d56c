from __future__ import annotations

import numpy as np
import pytest

from medtail.seeding import stream
from medtail.sources.phantom_scene import STRAP_DB, frame, neck, outline, soft_noise
from medtail.sources.thyro_lmd import EXCLUSIVE


def test_a_frame_covers_the_unit_square_and_its_border_is_cut_off() -> None:
    grid = frame(64)
    assert grid.x.shape == (72, 72)
    inside = grid.cut(grid.x)
    assert inside.shape == (64, 64)
    assert inside.min() == pytest.approx(0.5 / 64)
    assert inside.max() == pytest.approx(1 - 0.5 / 64)
    assert np.array_equal(grid.cut(grid.z), inside.T)


def test_soft_noise_has_unit_spread_and_as_many_patches_as_asked() -> None:
    fields = [soft_noise(stream(seed, "test"), 64, across=across, down=8) for across in (4, 16) for seed in range(30)]
    assert np.std(fields) == pytest.approx(1.0, abs=0.25)
    broad, fine = (np.abs(np.diff(np.array(part), axis=2)).mean() for part in (fields[:30], fields[30:]))
    assert fine > 2 * broad


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_layers_lie_one_below_the_other(side: float) -> None:
    found = neck(stream(0, "neck"), 96, side=side, gland_db=-1.0)
    grid = found.grid
    assert not (found.strap & found.thyroid).any()
    middle = found.strap.shape[1] // 2
    assert np.flatnonzero(found.strap[:, middle])[-1] + 1 == np.flatnonzero(found.thyroid[:, middle])[0]
    assert (grid.z[found.strap] < found.capsule_z.max()).all()
    assert found.echo_db[found.strap].mean() == pytest.approx(STRAP_DB, abs=0.5)
    central = found.thyroid & (np.abs(grid.x - 0.5) < 0.3)
    assert np.median(found.echo_db[central]) == pytest.approx(-1.0, abs=0.5)
    row = int(np.argmax(found.coherent[: found.coherent.shape[0] // 3, middle]))
    assert grid.z[row, middle] == pytest.approx(found.capsule_z[middle], abs=0.02)
    windpipe = found.extra_loss[:, 0 if side < 0 else -1]
    assert windpipe.max() > 20


@pytest.mark.parametrize("kind", EXCLUSIVE["margin"])
@pytest.mark.parametrize("ratio", [0.6, 1.4])
def test_an_outlines_box_has_the_wanted_size_and_lies_where_it_should(kind: str, ratio: float) -> None:
    for seed in range(6):
        around = neck(stream(seed, "neck"), 160, side=1.0, gland_db=0.0)
        top = 0.08 if kind == "margin_ete" else None
        border = outline(stream(seed, "border"), kind=kind, size=0.44, ratio=ratio, top=top, neck_at=around)
        inside = border.inside(around.grid)[0] > 0
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        height, width = (rows[-1] - rows[0] + 1) / 160, (columns[-1] - columns[0] + 1) / 160
        assert height == pytest.approx(0.44 if ratio > 1 else 0.44 * ratio, abs=0.02)
        assert width == pytest.approx(height / ratio, abs=0.035)
        capsule = np.interp(border.centre_x, around.grid.x[0], around.capsule_z)
        highest = around.grid.z[rows[0], 0]
        assert (highest < capsule) == (top is not None)
        assert around.grid.z[rows[-1], 0] < 0.9


def test_the_distance_to_a_border_is_exact_at_it() -> None:
    around = neck(stream(0, "neck"), 128, side=1.0, gland_db=0.0)
    border = outline(stream(0, "b"), kind="margin_smooth", size=0.4, ratio=0.8, top=None, neck_at=around)
    distance = border.inside(around.grid)[0]
    slope = np.hypot(*np.gradient(distance)) * 128
    near = np.abs(distance) < 0.02
    assert slope[near].mean() == pytest.approx(1.0, abs=0.1)
