"""Draws shared by systems: seeds, and classes that drop out of a resample for all systems at once."""

from __future__ import annotations

import numpy as np
import pytest

from medtail.judging.bootstrap import number_patients
from medtail.judging.paired_draws import PairedDraws, _Kept, draw_seed_weights, draw_systems
from medtail.judging.questions import Question, ask
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions


@pytest.mark.parametrize("seeds", [2, 3, 5, 8])
def test_the_drawn_mean_has_the_unbiased_variance_of_a_mean(seeds: int) -> None:
    values = np.random.default_rng(seeds).normal(size=seeds)
    weights = draw_seed_weights(seeds, resamples=40_000)
    drawn = values @ weights
    assert weights.sum(axis=0) == pytest.approx(1.0)
    assert drawn.mean() == pytest.approx(values.mean(), abs=0.02)
    assert drawn.var() == pytest.approx(values.var(ddof=1) / seeds, rel=0.05)


def test_fixed_seeds_and_single_seeds_weigh_the_same_everywhere() -> None:
    assert (draw_seed_weights(4, resamples=10, draw="fixed") == 0.25).all()
    assert (draw_seed_weights(1, resamples=10) == 1.0).all()
    assert not (draw_seed_weights(3, resamples=50, seed=0) == draw_seed_weights(3, resamples=50, seed=1)).all()


def test_a_class_lost_from_a_resample_leaves_its_mean() -> None:
    random = np.random.default_rng(0)
    ids = np.array([f"i{k:02d}" for k in range(40)], dtype=object)
    y = np.zeros((40, 2))
    y[:20, 0], y[:2, 1] = 1, 1  # the second class is often lost from a resample
    tables = {
        name: [Predictions(ids, ids, random.random((40, 2)), y, LabelSpace(("common", "rare")), ids)] for name in "AB"
    }
    codes, _ = number_patients(ids)
    questions = ask(tables["A"][0], metrics=["ap"], levels=["macro", "class"], patients=codes, groups=None)
    draws = draw_systems(
        tables,
        questions,
        patients=codes,
        resamples=200,
        scheme="multinomial",
        seed=0,
        seed_draw="fixed",
        ece_mode="reliability",
        ece_bins=15,
    )
    macro, common, rare = (draws.answer(question) for question in questions)
    lost = np.isnan(rare.resampled).any(axis=0)
    assert 10 < lost.sum() < 100
    np.testing.assert_allclose(macro.resampled[:, lost], common.resampled[:, lost], atol=1e-15)
    both = (common.resampled + rare.resampled)[:, ~lost] / 2
    np.testing.assert_allclose(macro.resampled[:, ~lost], both, atol=1e-15)
    assert (macro.support, rare.support) == (2, 2)
    np.testing.assert_allclose(macro.class_values.mean(axis=1), macro.values, atol=1e-15)


def test_a_class_that_one_system_leaves_undefined_drops_out_for_all() -> None:
    whole, holed = np.array([[0.8, 0.8], [0.2, 0.4]]), np.array([[0.6, 0.6], [0.1, np.nan]])
    kept = tuple((_Kept({"f1": draws[:, 0]}, {"f1": draws}, {}),) for draws in (whole, holed))
    draws = PairedDraws(kept, (np.ones((1, 2)), np.ones((1, 2))), np.array([5, 5]))
    answer = draws.answer(Question("f1", "macro", "", "", (0, 1)))
    # in the second resample both means are of the first class alone
    np.testing.assert_allclose(answer.resampled, [[0.5, 0.8], [0.35, 0.6]], atol=1e-15)
