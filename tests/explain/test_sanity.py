from __future__ import annotations

import numpy as np
import pytest

from medtail.explain.sanity import Mean, mean_by_patient, pointing_game, pointing_verdict, randomisation_verdict

NAN = float("nan")


def mean(value, low=0.0, high=1.0, patients=20):
    return Mean(value, low, high, 40, patients)


def test_pointing_counts_the_pixel_and_not_its_neighbours():
    heat, lesion = np.zeros((2, 8, 8)), np.zeros((2, 8, 8), dtype=bool)
    lesion[:, 2:4, 2:4] = True
    heat[0, 3, 3] = heat[1, 4, 4] = 1.0
    found = pointing_game(heat, lesion, np.ones_like(lesion))
    assert found.hit.tolist() == [True, False]
    assert found.chance.tolist() == [4 / 64, 4 / 64]


def test_chance_and_centre_are_of_the_content_and_not_of_the_bars():
    heat, lesion = np.zeros((1, 8, 8)), np.zeros((1, 8, 8), dtype=bool)
    content = np.zeros_like(lesion)
    content[:, :, :4] = True
    lesion[0, 3:5, 1:3] = True
    heat[0, 0, 7] = 1.0  # in the bar
    heat[0, 3, 1] = 0.5
    found = pointing_game(heat, lesion, content)
    assert found.hit[0]
    assert found.chance[0] == 4 / 32
    assert found.centre[0]


def test_many_equally_hot_pixels_hit_by_their_majority():
    heat, lesion = np.ones((1, 4, 4)), np.zeros((1, 4, 4), dtype=bool)
    lesion[0, 0, 0] = True
    assert not pointing_game(heat, lesion, np.ones_like(lesion)).hit[0]


def test_maps_of_chance_hit_as_often_as_chance_says():
    random = np.random.default_rng(0)
    lesion = np.zeros((4000, 8, 8), dtype=bool)
    lesion[:, 2:5, 3:6] = True
    found = pointing_game(random.random((4000, 8, 8)), lesion, np.ones_like(lesion))
    assert found.hit.mean() == pytest.approx(found.chance.mean(), abs=0.02)


def test_intervals_are_by_patient():
    """A hundred maps of two patients say no more than two patients do."""
    values = np.repeat([0.0, 1.0], 50)
    few = mean_by_patient(values, np.repeat(["a", "b"], 50))
    many = mean_by_patient(values, np.arange(100).astype(str))
    assert (few.low, few.high, few.patients) == (0.0, 1.0, 2)
    assert many.high - many.low < 0.25


def test_means_leave_out_what_is_not_known():
    found = mean_by_patient(np.array([1.0, NAN, 3.0]), np.array(["a", "b", "c"]), resamples=50)
    assert (found.value, found.maps, found.patients) == (2.0, 2, 2)
    assert np.isnan(mean_by_patient(np.array([NAN]), np.array(["a"])).value)


def test_hits_of_all_have_the_interval_of_the_rule_of_three():
    assert mean_by_patient(np.ones(10, dtype=bool), np.arange(10).astype(str)).low == pytest.approx(0.741, abs=1e-3)


def test_randomisation_passes_only_where_maps_change_and_were_better():
    assert randomisation_verdict(mean(0.3), mean(1.0, 0.5, 1.5)).passed is True
    assert randomisation_verdict(mean(0.6), mean(1.0, 0.5, 1.5)).passed is False
    assert randomisation_verdict(mean(0.3), mean(1.0, -0.1, 2.1)).passed is False
    assert randomisation_verdict(mean(0.3), mean(0.1, 0.05, 0.15)).passed is False
    assert randomisation_verdict(mean(0.3), mean(NAN, NAN, NAN)).passed is False
    assert randomisation_verdict(mean(0.3, patients=4), mean(1.0, 0.5, 1.5)).passed is None


def test_flat_maps_which_have_no_rank_correlation_do_not_pass():
    verdict = randomisation_verdict(Mean(NAN, NAN, NAN, 0, 0), mean(1.0, 0.5, 1.5))
    assert verdict.passed is None


def test_pointing_says_how_it_stands_to_chance_the_middle_and_an_untaught_network():
    good, none, bad = mean(0.6, 0.5, 0.7), mean(0.0, -0.1, 0.1), mean(-0.2, -0.3, -0.1)
    better = pointing_verdict(mean(0.7), good, good, good)
    assert better.passed
    assert "more often than the middle" in better.words
    assert "more often than the same model with shuffled weights" in better.words
    worse = pointing_verdict(mean(0.7), good, bad, none)
    assert worse.passed
    assert "less often than the middle" in worse.words
    assert "not shown to beat the same model with shuffled weights" in worse.words
    chance = pointing_verdict(mean(0.1), none, none, none)
    assert chance.passed is False
    assert "not shown to be more often than chance" in chance.words
    assert pointing_verdict(mean(0.7, patients=2), good, good, good).passed is None
