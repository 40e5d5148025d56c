from __future__ import annotations

import numpy as np
import pytest

from medtail.errors import MedtailError
from medtail.sources.phantom_breast import render_breast
from medtail.synthesis.adherence import boundaries, boundary_f1, choose_kappa, found_share, tolerance


def line(column: int, side: int = 64) -> np.ndarray:
    lines = np.zeros((1, side, side), dtype=bool)
    lines[0, 10:50, column] = True
    return lines


@pytest.mark.parametrize(("side", "away", "agrees"), [(64, 2, True), (64, 3, False), (128, 4, True), (128, 5, False)])
def test_lines_agree_within_two_pixels_at_64(side, away, agrees):
    assert tolerance(side) == 2 * side / 64
    assert boundary_f1(line(20, side), line(20 + away, side))[0] == pytest.approx(float(agrees))


def test_the_score_is_the_harmonic_mean_of_both_shares():
    wanted, found = line(20), line(20)
    found[0, 30:50, 20] = False  # half of the line
    found[0, 10:30, 50] = True  # and as much elsewhere
    recall, precision = found_share(found, wanted)[0], found_share(wanted, found)[0]
    assert recall == pytest.approx(22 / 40)
    assert precision == pytest.approx(1 / 2)
    assert boundary_f1(found, wanted)[0] == pytest.approx(2 * recall * precision / (recall + precision))


def test_nothing_agrees_with_nothing_and_two_nothings_say_nothing():
    empty = np.zeros((1, 64, 64), dtype=bool)
    assert boundary_f1(empty, line(20)).tolist() == boundary_f1(line(20), empty).tolist() == [0.0]
    assert np.isnan(boundary_f1(empty, empty)).all()
    assert np.isnan(found_share(line(20), empty)).all()


def test_each_pair_is_compared_by_itself():
    lines, wanted = np.concatenate([line(20), line(40)]), np.concatenate([line(40), line(40)])
    assert boundary_f1(lines, wanted).tolist() == [0.0, 1.0]


def test_the_border_of_a_mask_is_its_outermost_pixels():
    phantom = render_breast("cyst_like", number=1)
    assert np.array_equal(boundaries(phantom.mask[None])[0], phantom.boundary)
    cut_off = np.zeros((1, 8, 8), dtype=bool)
    cut_off[0, :, :4] = True
    assert np.argwhere(boundaries(cut_off)[0])[:, 1].tolist() == [3] * 8


def test_kappa_is_the_largest_that_loses_no_border():
    drawn = [render_breast(which, number=n) for which in (0, 4) for n in range(10)]
    images = np.stack([phantom.pixels for phantom in drawn]) / 255.0
    borders = np.stack([phantom.boundary for phantom in drawn])
    found = choose_kappa(images, borders)
    kept = [kappa for kappa, share in found.coverage.items() if share >= found.coverage[0.0] - 0.05]
    assert found.kappa == max(kept)
    assert 0.5 <= found.kappa < 2.0
    assert found.coverage[2.0] < found.coverage[0.0] - 0.05
    assert list(found.density.values()) == sorted(found.density.values(), reverse=True)
    assert found.images == 20


def test_kappa_cannot_be_chosen_without_masks():
    with pytest.raises(MedtailError, match="no train image has a mask"):
        choose_kappa(np.full((2, 32, 32), 0.5), np.zeros((2, 32, 32), dtype=bool))


def test_lines_of_two_sizes_are_refused():
    with pytest.raises(MedtailError, match="expected the same"):
        boundary_f1(line(20), line(20, 128))
