from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from medtail.errors import MedtailError
from medtail.judging.bootstrap import draw_weights, number_patients
from medtail.judging.evaluation import EvaluationConfig
from medtail.judging.unknown import judge_unknown, unknown_detection
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions


def rows(confidence: np.ndarray, *, prefix: str, images: int = 1) -> Predictions:
    ids = np.array([f"{prefix}{i}" for i in range(len(confidence))], dtype=object)
    patients = np.array([f"{prefix}{i // images}" for i in range(len(confidence))], dtype=object)
    scores = np.stack([confidence, 1 - confidence], axis=1)
    labels = LabelSpace.from_columns(["t=a", "t=b"])
    return Predictions(ids, patients, scores, np.full(scores.shape, np.nan), labels, ids)


def plain_acceptance(known: np.ndarray, unknown: np.ndarray, recall: float) -> float:
    cut = next(c for c in sorted(set(known) | set(unknown), reverse=True) if (known >= c).mean() >= recall)
    return float((unknown >= cut).mean())


@given(seed=st.integers(0, 10**6), n=st.integers(1, 40), m=st.integers(1, 40))
def test_it_equals_scikit_learn_and_a_plain_search_with_ties(seed, n, m):
    random = np.random.default_rng(seed)
    known, unknown = random.integers(5, 20, n) / 4, random.integers(0, 15, m) / 4
    auroc, accepted = unknown_detection(known, unknown)
    truth = np.repeat([1, 0], [n, m])
    assert auroc == pytest.approx(roc_auc_score(truth, np.concatenate([known, unknown])), abs=1e-12)
    assert accepted == pytest.approx(plain_acceptance(known, unknown, 0.95), abs=1e-12)


def test_confidence_without_upper_end_is_ranked_not_scored():
    assert unknown_detection(np.array([1e9, 5.0]), np.array([0.1])) == (1.0, 0.0)
    assert all(np.isnan(unknown_detection(np.empty(0), np.ones(2))))


def test_intervals_resample_the_patients_of_both_tables():
    random = np.random.default_rng(1)
    known = rows(np.round(random.uniform(0.6, 1, 40), 2), prefix="k", images=2)
    unknown = rows(np.round(random.uniform(0.5, 0.9, 20), 2), prefix="u", images=2)
    config = EvaluationConfig(bootstrap=80, seed=4)
    found = judge_unknown(known, unknown, config=config)
    patients, total = number_patients(np.concatenate([known.patients, unknown.patients]))
    table = draw_weights(total, resamples=80, seed=4).matrix()
    confidence = np.concatenate([known.scores[:, 0], unknown.scores[:, 0]])
    loop = []
    for b in range(80):
        again = np.repeat(np.arange(60), table[patients, b])
        loop.append(unknown_detection(confidence[again[again < 40]], confidence[again[again >= 40]]))
    for at, metric in enumerate(("unknown_auroc", "unknown_accepted@0.95")):
        row = found.rows(metric, class_name="t").iloc[0]
        assert row["value"] == unknown_detection(confidence[:40], confidence[40:])[at]
        drawn = np.quantile([values[at] for values in loop], [0.025, 0.975])
        assert (row["low"], row["high"]) == pytest.approx(tuple(drawn), abs=1e-9)
        assert row["support"] == 20


def test_mistaken_requests_are_refused():
    known = rows(np.array([0.9, 0.8]), prefix="k")
    with pytest.raises(MedtailError, match="one has no rows"):
        judge_unknown(known, known.take(np.zeros(2, dtype=bool)))
    with pytest.raises(MedtailError, match=r"recall 1\.0"):
        judge_unknown(known, known, recall=1.0)
    other = Predictions(
        known.image_ids, known.patients, known.scores, known.targets, LabelSpace(("x", "y")), known.folds
    )
    with pytest.raises(MedtailError, match="not those of predictions"):
        judge_unknown(known, other)
