from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtail.errors import MedtailError
from medtail.judging.abstention import (
    area_under_risk_coverage,
    decision_confidence,
    judge_abstention,
    risk_at_coverage,
    risk_coverage,
)
from medtail.judging.bootstrap import draw_weights, number_patients
from medtail.judging.evaluation import EvaluationConfig
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions

LABELS = LabelSpace.from_columns(["t=a", "t=b", "free"])


def rows(size: int = 90, *, seed: int = 0, ties: int = 8) -> Predictions:
    random = np.random.default_rng(seed)
    is_a = random.random(size) < 0.7
    a = np.clip(0.5 + 0.25 * (2 * is_a - 1) + random.normal(0, 0.3, size), 0.01, 0.99)
    a = np.round(a * ties) / ties if ties else a
    targets = np.stack([is_a, ~is_a, random.random(size) < 0.3], axis=1).astype(float)
    targets[:3, 2], targets[3:5, :2] = np.nan, np.nan
    scores = np.stack([a, 1 - a, np.round(random.random(size), 1)], axis=1)
    ids = np.array([f"i{i}" for i in range(size)], dtype=object)
    patients = np.array([f"p{i // 2}" for i in range(size)], dtype=object)
    folds = np.array(["test"] * size, dtype=object)
    return Predictions(ids, patients, scores, targets, LABELS, folds, thresholds={"t=a": 0.5, "t=b": 0.5, "free": 0.35})


def test_confidence_is_the_highest_score_in_a_group_and_the_distance_from_the_threshold_elsewhere():
    found = decision_confidence(rows())
    assert found[:, 0].tolist() == rows().scores[:, :2].max(axis=1).tolist() == found[:, 1].tolist()
    s = np.clip(rows().scores[:, 2], 1e-12, 1 - 1e-12)
    assert found[:, 2] == pytest.approx(np.abs(np.log(s / (1 - s)) - np.log(0.35 / 0.65)))


@given(seed=st.integers(0, 10**6), size=st.integers(1, 40))
def test_without_ties_aurc_is_the_mean_of_the_risks_of_the_k_most_confident(seed, size):
    random = np.random.default_rng(seed)
    confidence, wrong = random.permutation(size) / size, random.random(size) < 0.4
    order = np.argsort(-confidence)
    plain = np.mean([wrong[order[:k]].mean() for k in range(1, size + 1)])
    assert area_under_risk_coverage(confidence, wrong) == pytest.approx(plain, abs=1e-9)


def test_ties_count_as_the_mean_over_their_orders():
    random = np.random.default_rng(0)
    confidence, wrong = random.integers(0, 4, 12) / 4, random.random(12) < 0.4
    values = []
    for _ in range(6000):
        shuffled = np.lexsort((random.random(12), -confidence))
        values.append(np.mean([wrong[shuffled[:k]].mean() for k in range(1, 13)]))
    assert area_under_risk_coverage(confidence, wrong) == pytest.approx(np.mean(values), abs=0.005)
    turned = random.permutation(12)
    assert area_under_risk_coverage(confidence[turned], wrong[turned]) == pytest.approx(
        area_under_risk_coverage(confidence, wrong), abs=1e-12
    )


def test_confidence_that_knows_its_mistakes_is_better_than_none_and_constant_confidence_gives_the_risk():
    wrong = np.arange(100) >= 80
    knowing, blind = area_under_risk_coverage(-np.arange(100.0), wrong), area_under_risk_coverage(np.ones(100), wrong)
    assert blind == pytest.approx(0.2)
    assert knowing == pytest.approx(np.mean([max(k - 80, 0) / k for k in range(1, 101)]))
    assert risk_at_coverage(-np.arange(100.0), wrong, coverage=0.8) == 0.0
    assert risk_at_coverage(np.ones(100), wrong, coverage=0.8) == pytest.approx(0.2)


def test_the_curve_ends_at_the_risk_of_all_rows():
    random = np.random.default_rng(1)
    confidence, wrong = random.integers(0, 9, 50) / 9, random.random(50) < 0.3
    curve = risk_coverage(confidence, wrong)
    assert curve.coverage[-1] == 1.0
    assert curve.risk[-1] == pytest.approx(wrong.mean())
    assert (np.diff(curve.coverage) > 0).all()
    assert (np.diff(curve.confidence) < 0).all()
    for coverage, risk in zip(curve.coverage, curve.risk, strict=True):
        assert risk_at_coverage(confidence, wrong, coverage=float(coverage)) == pytest.approx(risk)


def test_nothing_to_judge_is_nan_and_impossible_coverage_is_refused():
    assert np.isnan(area_under_risk_coverage(np.empty(0), np.empty(0, dtype=bool)))
    assert np.isnan(risk_at_coverage(np.empty(0), np.empty(0, dtype=bool), coverage=0.8))
    assert len(risk_coverage(np.empty(0), np.empty(0, dtype=bool)).risk) == 0
    with pytest.raises(MedtailError, match=r"coverage 0\.0"):
        risk_at_coverage(np.ones(2), np.ones(2, dtype=bool), coverage=0.0)


def kept_shares(confidence: np.ndarray, coverage: float) -> np.ndarray:
    """How much of each row is kept, run by run."""
    left, share = coverage * len(confidence), np.zeros(len(confidence))
    for value in sorted(set(confidence), reverse=True):
        run = confidence == value
        part = min(1.0, max(0.0, left / run.sum()))
        share[run], left = part, left - run.sum()
    return share


def by_hand(judged: Predictions, sex: np.ndarray) -> dict[str, float]:
    confidence = decision_confidence(judged)
    known = ~np.isnan(judged.targets[:, 0])
    c, truth = confidence[known, 0], judged.targets[known, 0] == 1
    wrong = (judged.scores[known, 0] >= judged.scores[known, 1]) != truth
    share, women = kept_shares(c, 0.8), sex[known] == "F"
    return {
        "risk": wrong.mean(),
        "kept_risk": (share * wrong).sum() / share.sum(),
        "refused_a": 1 - share[truth].mean(),
        "refused_b": 1 - share[~truth].mean(),
        "refused_women": 1 - share[women].mean(),
        "kept_risk_women": (share * wrong)[women].sum() / share[women].sum(),
    }


NAMES = {
    "risk": ("risk", "t", ""),
    "kept_risk": ("risk_at_coverage@0.8", "t", ""),
    "refused_a": ("refusal_rate@0.8", "t=a", ""),
    "refused_b": ("refusal_rate@0.8", "t=b", ""),
    "refused_women": ("refusal_rate@0.8", "t", "sex=F"),
    "kept_risk_women": ("risk_at_coverage@0.8", "t", "sex=F"),
}


@pytest.mark.parametrize("ties", [6, 0])
def test_values_and_intervals_are_those_of_a_plain_loop(ties):
    judged, config = rows(ties=ties), EvaluationConfig(bootstrap=75, interval=0.8, seed=9)
    sex = np.array(["F" if i % 3 else "M" for i in range(len(judged))])
    found = judge_abstention(judged, subgroups={"sex": sex}, config=config)
    patients, total = number_patients(judged.patients)
    table = draw_weights(total, resamples=75, seed=9).matrix()
    expected, loop = by_hand(judged, sex), []
    for b in range(75):
        again = np.repeat(np.arange(len(judged)), table[patients, b])
        loop.append(by_hand(judged.take(again), sex[again]))
    for key, (metric, name, subgroup) in NAMES.items():
        row = found.rows(metric, class_name=name, subgroup=subgroup).iloc[0]
        assert row["value"] == pytest.approx(expected[key], abs=1e-12), key
        drawn = np.quantile([values[key] for values in loop], [0.1, 0.9])
        assert (row["low"], row["high"]) == pytest.approx(tuple(drawn), abs=1e-9), key


def test_resampled_aurc_is_that_of_the_repeated_rows_also_with_bayesian_weights():
    judged = rows()
    for scheme in ("multinomial", "bayesian"):
        config = EvaluationConfig(bootstrap=60, scheme=scheme, seed=3)
        row = judge_abstention(judged, config=config).rows("aurc", class_name="free").iloc[0]
        assert row["low"] < row["value"] < row["high"]
    known = ~np.isnan(judged.targets[:, 2])
    wrong = (judged.scores[:, 2] >= 0.35) != (judged.targets[:, 2] == 1)
    patients, total = number_patients(judged.patients)
    table = draw_weights(total, resamples=60, seed=3).matrix()
    loop = []
    for b in range(60):
        again = np.repeat(np.flatnonzero(known), table[patients[known], b])
        loop.append(area_under_risk_coverage(decision_confidence(judged)[again, 2], wrong[again]))
    row = (
        judge_abstention(judged, config=EvaluationConfig(bootstrap=60, seed=3)).rows("aurc", class_name="free").iloc[0]
    )
    assert (row["low"], row["high"]) == pytest.approx(tuple(np.quantile(loop, [0.025, 0.975])), abs=1e-9)


def test_a_model_that_looks_better_by_refusing_the_rare_class_is_found_out():
    """All doubt is about the rare class: the risk falls to nothing while every rare image is refused."""
    y = np.arange(100) < 10
    scores = np.where(y, 0.55, 0.05)
    labels = LabelSpace.from_columns(["t=rare", "t=common"])
    ids = np.array([f"i{i}" for i in range(100)], dtype=object)
    both = np.stack([1 - scores - 0.0, scores], axis=1)
    both[y] = [0.45, 0.55]
    both[~y] = [0.05, 0.95]
    targets = np.stack([y, ~y], axis=1).astype(float)
    found = judge_abstention(Predictions(ids, ids, both, targets, labels, ids), config=EvaluationConfig(bootstrap=50))
    assert found.value("risk", class_name="t") == pytest.approx(0.1)
    kept = found.rows("risk_at_coverage@0.9", class_name="t").iloc[0]
    assert (kept["value"], kept["high"]) == pytest.approx((0.0, 1 - 0.05 ** (1 / 90)))  # 90 of 100 patients are kept
    assert found.value("refusal_rate@0.9", class_name="t=rare") == 1.0
    assert found.value("refusal_rate@0.9", class_name="t=common") == 0.0
    row = found.rows("refusal_rate@0.9", class_name="t=rare").iloc[0]
    assert (row["low"], row["support"]) == pytest.approx((0.05 ** (1 / 10), 10.0))


def test_mistaken_requests_are_refused():
    with pytest.raises(MedtailError, match="subgroups 'sex': 2 values for 90 rows"):
        judge_abstention(rows(), subgroups={"sex": np.array(["F", "M"])})
    with pytest.raises(MedtailError, match="no rows"):
        judge_abstention(rows().take(np.zeros(90, dtype=bool)))
    with pytest.raises(MedtailError, match=r"coverage 1\.5"):
        judge_abstention(rows(), coverages=[1.5])
