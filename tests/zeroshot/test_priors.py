from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtail.errors import MedtailError
from medtail.judging.metrics import auroc, average_precision
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions
from medtail.zeroshot.priors import match_prior


def scored(scores: np.ndarray, fold: str = "tune") -> Predictions:
    ids = np.array([f"i{row}" for row in range(len(scores))], dtype=object)
    names = tuple("abc"[: scores.shape[1]])
    targets = (np.arange(scores.size).reshape(scores.shape) % 3 == 0).astype(float)
    return Predictions(ids, ids, scores, targets, LabelSpace(names), np.full(len(ids), fold, dtype=object))


RANDOM = np.random.default_rng(0).uniform(0.4, 0.6, size=(200, 2))


@given(st.floats(1e-4, 0.99), st.integers(0, 5))
def test_mean_score_becomes_the_stated_prevalence_and_the_order_stays(prior: float, seed: int) -> None:
    raw = scored(np.random.default_rng(seed).uniform(0.001, 0.999, size=(50, 1)))
    found = match_prior(raw, {"a": prior}).apply(raw)
    assert found.scores.mean() == pytest.approx(prior, rel=1e-6)
    for metric in (auroc, average_precision):
        after, before = (metric(table.scores[:, 0], raw.targets[:, 0]) for table in (found, raw))
        assert after == pytest.approx(before, abs=1e-12)


def test_threshold_calls_the_stated_share_of_the_reference() -> None:
    raw = scored(RANDOM)
    found = match_prior(raw, {"a": 0.1}).apply(raw)
    assert found.thresholds is not None
    assert (found.scores[:, 0] >= found.thresholds["a"]).mean() == pytest.approx(0.1, abs=0.005)


def test_class_without_a_stated_prevalence_keeps_its_scores() -> None:
    raw = scored(RANDOM)
    found = match_prior(raw, {"a": 0.1}).apply(raw)
    np.testing.assert_array_equal(found.scores[:, 1], raw.scores[:, 1])
    assert found.thresholds == {"a": pytest.approx(found.thresholds["a"]), "b": 0.5}  # type: ignore[index]


def test_labels_are_not_looked_at() -> None:
    raw = scored(RANDOM)
    blank = replace(raw, targets=np.full_like(raw.targets, np.nan))
    first, second = (match_prior(table, {"a": 0.2}).apply(raw).scores for table in (raw, blank))
    np.testing.assert_array_equal(first, second)


def test_nothing_is_fitted_on_the_test_fold_and_nothing_twice() -> None:
    with pytest.raises(MedtailError, match="holds images of the test fold, on which nothing may be fitted"):
        match_prior(scored(RANDOM, fold="test"), {"a": 0.1})
    matched = match_prior(scored(RANDOM), {"a": 0.1})
    once = matched.apply(scored(RANDOM, fold="test"))
    with pytest.raises(MedtailError, match="calibrated already"):
        matched.apply(once)


def test_unknown_classes_and_impossible_shares_are_all_named() -> None:
    with pytest.raises(MedtailError) as caught:
        match_prior(scored(RANDOM), {"a": 1.5, "d": 0.1, "b": 0.0})
    text = str(caught.value)
    assert "class 'a': found 1.5; expected a share in (0, 1)" in text
    assert "class 'b': found 0.0" in text
    assert "class 'd': is none of" in text
