from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtail.errors import MedtailError
from medtail.judging.bootstrap import draw_weights, number_patients
from medtail.judging.evaluation import EvaluationConfig
from medtail.judging.metrics import recall, specificity
from medtail.judging.net_benefit import THRESHOLDS, decision_curve, net_benefit, treat_all_benefit
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions


def rows(scores: np.ndarray, targets: np.ndarray, *, patients: list[str] | None = None) -> Predictions:
    ids = np.array([f"i{row}" for row in range(len(scores))], dtype=object)
    labels = LabelSpace(tuple(f"c{c}" for c in range(scores.shape[1])))
    who = ids if patients is None else np.array(patients, dtype=object)
    return Predictions(ids, who, scores, targets, labels, np.array(["test"] * len(ids), dtype=object))


def slow(scores: np.ndarray, targets: np.ndarray, t: float) -> float:
    called = [s >= t for s in scores]
    tp = sum(1 for c, y in zip(called, targets, strict=True) if c and y == 1)
    fp = sum(1 for c, y in zip(called, targets, strict=True) if c and y == 0)
    return tp / len(scores) - fp / len(scores) * t / (1 - t)


@given(seed=st.integers(0, 10**6), levels=st.sampled_from([2, 20, 100, 1000]), size=st.integers(1, 60))
def test_net_benefit_is_the_closed_form_at_every_threshold_also_at_scores_on_the_grid(seed, levels, size):
    random = np.random.default_rng(seed)
    scores, targets = random.integers(0, levels + 1, size) / levels, random.integers(0, 2, size).astype(float)
    expected = [slow(scores, targets, float(t)) for t in THRESHOLDS]
    assert net_benefit(scores, targets) == pytest.approx(expected, abs=1e-12)


def test_at_another_prevalence_it_equals_reweighting_and_the_formula_of_recall_and_specificity():
    random = np.random.default_rng(1)
    scores, targets = random.random(300), (random.random(300) < 0.3).astype(float)
    here, there = targets.mean(), 0.02
    weights = np.where(targets == 1, there / here, (1 - there) / (1 - here))
    found = net_benefit(scores, targets, prevalence=there)
    assert found == pytest.approx(net_benefit(scores, targets, weights=weights), abs=1e-12)
    t = 0.2
    formula = there * recall(scores, targets, threshold=t) - (1 - there) * (
        1 - specificity(scores, targets, threshold=t)
    ) * t / (1 - t)
    assert found[THRESHOLDS.tolist().index(t)] == pytest.approx(formula, abs=1e-12)


def test_acting_on_everybody_is_what_constant_scores_of_one_give_and_zero_at_the_prevalence():
    targets = np.array([1.0, 0, 0, 0])
    assert net_benefit(np.ones(4), targets) == pytest.approx(treat_all_benefit(0.25), abs=1e-15)
    assert treat_all_benefit(0.25, thresholds=np.array([0.25]))[0] == pytest.approx(0.0, abs=1e-15)
    assert net_benefit(np.zeros(4), targets).tolist() == [0.0] * 50


def test_perfect_scores_gain_the_prevalence_and_nothing_beats_it():
    targets = (np.arange(40) < 10).astype(float)
    assert net_benefit(targets, targets).tolist() == [0.25] * 50
    assert (net_benefit(np.random.default_rng(0).random(40), targets) <= 0.25).all()


def test_unassessed_rows_do_not_count_and_what_is_undefined_is_nan():
    scores, targets = np.array([0.9, 0.6, 0.2]), np.array([1.0, 0.0, np.nan])
    assert net_benefit(scores, targets).tolist() == net_benefit(scores[:2], targets[:2]).tolist()
    assert np.isnan(net_benefit(scores, np.full(3, np.nan))).all()
    assert np.isnan(net_benefit(scores, np.zeros(3), prevalence=0.1)).all()
    assert not np.isnan(net_benefit(scores, np.zeros(3))).any()


def test_curves_in_resamples_equal_a_plain_loop_over_repeated_rows():
    random = np.random.default_rng(2)
    targets = (random.random((40, 2)) < 0.4).astype(float)
    targets[3, 1] = np.nan
    tested = rows(random.integers(0, 21, (40, 2)) / 20, targets, patients=[f"p{i // 3}" for i in range(40)])
    config = EvaluationConfig(bootstrap=70, interval=0.8, seed=3)
    found = decision_curve(tested, config=config)
    patients, total = number_patients(tested.patients)
    table = draw_weights(total, resamples=70, seed=3).matrix()
    loop = []
    for b in range(70):
        drawn = np.repeat(np.arange(40), table[patients, b])
        loop.append(net_benefit(tested.scores[drawn, 1], tested.targets[drawn, 1]))
    mine = found[found["class"] == "c1"]
    assert mine["low"].to_numpy() == pytest.approx(np.quantile(loop, 0.1, axis=0), abs=1e-12)
    assert mine["high"].to_numpy() == pytest.approx(np.quantile(loop, 0.9, axis=0), abs=1e-12)
    known = ~np.isnan(targets[:, 1])
    assert mine["net_benefit"].to_numpy() == pytest.approx(net_benefit(tested.scores[known, 1], targets[known, 1]))
    assert mine["support"].unique().tolist() == [targets[known, 1].sum()]


def test_the_gain_is_over_the_better_default_with_an_interval_of_the_same_resamples():
    random = np.random.default_rng(4)
    y = (random.random(400) < 0.3).astype(float)
    tested = rows(np.clip(0.3 + 0.4 * (y - 0.3) + random.normal(0, 0.1, 400), 0, 1)[:, None], y[:, None])
    found = decision_curve(tested, config=EvaluationConfig(bootstrap=100))
    assert found["gain"].to_numpy() == pytest.approx(
        (found["net_benefit"] - np.maximum(found["treat_all"], 0)).to_numpy()
    )
    assert (found["treat_none"] == 0).all()
    # unpaired, the interval of a difference could not be narrower than that of net benefit itself at low thresholds
    low = found[found["threshold"] < 0.1]
    assert ((low["gain_high"] - low["gain_low"]) < (low["high"] - low["low"])).all()


def test_calibrated_scores_never_do_worse_than_both_defaults_in_the_long_run():
    random = np.random.default_rng(5)
    truth = random.beta(0.5, 2.0, 40_000)
    y = (random.random(40_000) < truth).astype(float)
    gain = net_benefit(truth, y) - np.maximum(treat_all_benefit(y.mean()), 0.0)
    assert gain.min() > -0.002
    overstated = net_benefit(np.sqrt(truth), y) - np.maximum(treat_all_benefit(y.mean()), 0.0)
    assert overstated.mean() < gain.mean() - 0.005  # why calibration is asked for


def test_at_a_given_prevalence_acting_on_everybody_has_no_spread():
    random = np.random.default_rng(6)
    tested = rows(random.random((60, 1)), (random.random((60, 1)) < 0.5).astype(float))
    found = decision_curve(tested, prevalence={"c0": 0.05}, config=EvaluationConfig(bootstrap=30))
    assert (found["prevalence"] == 0.05).all()
    assert found["treat_all_low"].tolist() == found["treat_all_high"].tolist()
    assert found["treat_all"].to_numpy() == pytest.approx(treat_all_benefit(0.05))


def test_unknown_classes_and_impossible_numbers_are_refused():
    tested = rows(np.full((2, 1), 0.5), np.array([[1.0], [0.0]]))
    with pytest.raises(MedtailError, match=r"class 'c9'.*\n.*class 'd'"):
        decision_curve(tested, classes=["c9"], prevalence={"d": 0.1})
    with pytest.raises(MedtailError, match=r"ascending probabilities in \(0, 1\)"):
        net_benefit(np.array([0.5]), np.array([1.0]), thresholds=np.array([0.0, 0.5]))
    with pytest.raises(MedtailError, match=r"prevalence 1\.0"):
        decision_curve(tested, prevalence={"c0": 1.0})
