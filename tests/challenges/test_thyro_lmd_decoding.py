from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from medtail.challenges.thyro_lmd_decoding import (
    call_at_half,
    decode,
    foci_thresholds,
    invalid_groups,
    shrink_to_half,
)
from medtail.challenges.thyro_lmd_labels import EXCLUSIVE, FOCI, LABELS, group_columns
from medtail.errors import MedtailError
from medtail.tables.predictions import Predictions


def row(**scores: float) -> np.ndarray:
    """One row of scores, 0.1 where not named."""
    return np.array([[scores.get(name, 0.1) for name in LABELS.class_names]])


def foci(called: np.ndarray) -> set[str]:
    return {name for name in FOCI if called[0, LABELS.index(name)]}


@pytest.mark.parametrize(
    ("threshold", "positives", "expected"), [(0.12, 5, 0.424), (0.12, 0, 0.5), (0.12, 20, 0.31), (0.9, 60, 0.8)]
)
def test_thresholds_are_pulled_to_half_by_the_rule(threshold: float, positives: int, expected: float) -> None:
    assert shrink_to_half(threshold, positives=positives) == pytest.approx(expected, abs=1e-12)


@given(seed=st.integers(0, 10**6), decimals=st.integers(0, 4), limit=st.floats(0, 1))
def test_every_decoded_report_is_valid(seed: int, decimals: int, limit: float) -> None:
    scores = np.round(np.random.default_rng(seed).random((20, 20)), decimals)
    called = decode(scores, thresholds=dict.fromkeys(FOCI, limit))
    assert not any(wrong.any() for wrong in invalid_groups(called).values())
    for group in EXCLUSIVE:
        columns = group_columns(group)
        assert np.array_equal(called[:, columns].argmax(axis=1), scores[:, columns].argmax(axis=1))


def test_no_focus_passing_means_none() -> None:
    assert foci(decode(row(foci_none=0.0))) == {"foci_none"}


def test_foci_combine() -> None:
    assert foci(decode(row(foci_macro=0.7, foci_punctate=0.5))) == {"foci_macro", "foci_punctate"}


def test_none_stays_only_where_it_outscores_every_other_focus() -> None:
    assert foci(decode(row(foci_none=0.9, foci_macro=0.7))) == {"foci_none"}
    assert foci(decode(row(foci_none=0.6, foci_macro=0.7))) == {"foci_macro"}
    assert foci(decode(row(foci_none=0.7, foci_macro=0.7))) == {"foci_macro"}


def test_none_below_its_own_threshold_never_takes_the_place_of_a_focus_that_passes() -> None:
    thresholds = {**dict.fromkeys(FOCI, 0.2), "foci_none": 0.95}
    assert foci(decode(row(foci_none=0.9, foci_macro=0.3), thresholds=thresholds)) == {"foci_macro"}


def test_raw_decisions_may_be_invalid_and_are_counted_by_group() -> None:
    raw = call_at_half(row(comp_solid=0.6, comp_mixed=0.5, foci_none=0.9, foci_rim=0.8, shape_taller=0.7))
    wrong = {group for group, marked in invalid_groups(raw).items() if marked[0]}
    assert wrong == {"composition", "echogenicity", "margin", "foci"}  # only shape names exactly one


def tune(scores: np.ndarray, targets: np.ndarray, *, fold: str = "tune") -> Predictions:
    ids = np.array([f"i{n}" for n in range(len(scores))], dtype=object)
    return Predictions(ids, ids, scores, targets, LABELS, np.array([fold] * len(scores), dtype=object))


def test_thresholds_come_from_the_best_f1_of_tune_shrunk_by_its_positives() -> None:
    random = np.random.default_rng(0)
    targets = (random.random((80, 20)) < 0.2).astype(float)
    scores = np.clip(0.3 * random.random((80, 20)) + 0.15 * targets, 0, 1)
    targets[:, LABELS.index("foci_rim")] = 0.0
    chosen = foci_thresholds(tune(scores, targets))
    assert set(chosen) == set(FOCI)
    assert chosen["foci_rim"] == 0.5
    c = LABELS.index("foci_macro")
    positives = int(targets[:, c].sum())
    fitted = 0.5 + (chosen["foci_macro"] - 0.5) * (positives + 20) / positives
    best = max(f1_score(targets[:, c], scores[:, c] >= cut) for cut in scores[:, c])
    assert f1_score(targets[:, c], scores[:, c] >= fitted) == pytest.approx(best, abs=1e-12)
    assert abs(chosen["foci_macro"] - 0.5) < abs(fitted - 0.5)


def test_thresholds_are_never_chosen_on_the_judged_rows() -> None:
    with pytest.raises(MedtailError, match="not in fold 'tune'"):
        foci_thresholds(tune(np.zeros((3, 20)), np.zeros((3, 20)), fold="test"))


def test_unassessed_foci_choose_nothing() -> None:
    scores, targets = np.full((30, 20), 0.2), np.full((30, 20), np.nan)
    targets[:3] = 0.0
    assert set(foci_thresholds(tune(scores, targets)).values()) == {0.5}
