from __future__ import annotations

import numpy as np
import pytest

from medtail.judging.bootstrap import draw_weights, number_patients
from medtail.judging.decisions import decide
from medtail.judging.label_shift import Family, gather_family
from medtail.judging.metrics import average_precision
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions

LABELS = LabelSpace.from_columns(["t=a", "t=b", "t=c", "free"])


def some_rows(size: int = 120, *, seed: int = 0) -> Predictions:
    """A group of three in which some rows are none of them, a free class, ties, and rows nobody assessed."""
    random = np.random.default_rng(seed)
    category = random.integers(0, 4, size)
    targets = np.zeros((size, 4))
    rows = np.flatnonzero(category < 3)
    targets[rows, category[rows]] = 1
    targets[:, 3] = random.random(size) < 0.3
    targets[:4, :3], targets[4:9, 3] = np.nan, np.nan
    raw = random.integers(1, 8, (size, 4)) + 4 * np.nan_to_num(targets)
    scores = np.concatenate([raw[:, :3] / raw[:, :3].sum(axis=1, keepdims=True), raw[:, 3:] / 12], axis=1)
    ids = np.array([f"i{i}" for i in range(size)], dtype=object)
    patients = np.array([f"p{i // 3}" for i in range(size)], dtype=object)
    return Predictions(ids, patients, scores, targets, LABELS, np.array(["test"] * size, dtype=object))


def family_of(predictions: Predictions, columns: tuple[int, ...], *, resamples: int = 70, seed: int = 0) -> Family:
    patients, total = number_patients(predictions.patients)
    weights = draw_weights(total, resamples=resamples, seed=seed)
    return gather_family(predictions, decide(predictions), columns, patients, weights)


def repeated(predictions: Predictions, b: int, *, seed: int = 0) -> Predictions:
    """The rows of resample b, written out."""
    patients, total = number_patients(predictions.patients)
    table = draw_weights(total, resamples=70, seed=seed).matrix()
    return predictions.take(np.repeat(np.arange(len(predictions)), table[patients, b]))


def rates_by_weights(rows: Predictions, c: int, columns: list[int], shares: np.ndarray) -> tuple[float, float, float]:
    """Recall, specificity and AP of column c on rows weighted so that each category has its share."""
    targets, called = rows.targets[:, columns], decide(rows)[:, c]
    kept = ~np.isnan(targets).any(axis=1)
    category = np.where((targets == 1).any(axis=1), targets.argmax(axis=1), len(columns))
    weight = np.zeros(len(rows))
    for d in range(len(columns) + 1):
        inside = kept & (category == d)
        weight[inside] = shares[d] / max(inside.sum(), 1)
    positive = category == columns.index(c)
    sensitivity = weight[called & positive].sum() / weight[positive].sum()
    spec = weight[~called & ~positive & kept].sum() / weight[~positive & kept].sum()
    ap = average_precision(rows.scores[kept, c], positive[kept].astype(float), weights=weight[kept] * 100)
    return sensitivity, spec, ap


@pytest.mark.parametrize("columns", [(0, 1, 2), (3,)])
def test_rates_and_ap_equal_a_plain_reweighting_of_the_rows_also_in_a_resample(columns):
    predictions = some_rows()
    given = np.array([0.05, 0.6, 0.2])[: len(columns)][:, None]
    family = family_of(predictions, columns)
    shares = np.repeat(family.shares(given), 71, axis=1)
    for position, c in enumerate(columns):
        (ap,) = family.average_precisions(position, [shares])
        recall, specificity = family.rates(position, shares)
        for at, rows in ((0, predictions), (1, repeated(predictions, 0)), (66, repeated(predictions, 65))):
            expected = rates_by_weights(rows, c, list(columns), shares[:, 0])
            assert (recall[at], specificity[at], ap[at]) == pytest.approx(expected, abs=1e-12)


def test_positives_at_the_very_end_count_too():
    ids = np.array(["a", "b", "c"], dtype=object)
    rows = Predictions(ids, ids, np.array([[0.9], [0.5], [0.1]]), np.array([[1.0], [0], [1]]), LabelSpace(("x",)), ids)
    (ap,) = family_of(rows, (0,), resamples=0).average_precisions(0, [None])
    assert ap[0] == pytest.approx(5 / 6)


def test_at_the_shares_of_the_rows_nothing_changes():
    predictions = some_rows()
    family = family_of(predictions, (3,))
    known = ~np.isnan(predictions.targets[:, 3])
    (ap,) = family.average_precisions(0, [None])
    assert ap[0] == pytest.approx(average_precision(predictions.scores[known, 3], predictions.targets[known, 3]))
    again = repeated(predictions, 5)
    known = ~np.isnan(again.targets[:, 3])
    assert ap[6] == pytest.approx(average_precision(again.scores[known, 3], again.targets[known, 3]))


def test_bayesian_weights_carry_through():
    predictions = some_rows()
    patients, total = number_patients(predictions.patients)
    weights = draw_weights(total, resamples=5, scheme="bayesian", seed=0)
    family = gather_family(predictions, decide(predictions), (3,), patients, weights)
    (ap,) = family.average_precisions(0, [None])
    known = ~np.isnan(predictions.targets[:, 3])
    row_weights = weights.matrix()[patients[known], 2].astype(float)
    expected = average_precision(predictions.scores[known, 3], predictions.targets[known, 3], weights=row_weights)
    assert ap[3] == pytest.approx(expected, abs=1e-12)


def test_in_a_group_specificity_moves_with_the_mix_of_the_other_classes():
    """Class b is often taken for a and c never is: where c replaces b, false alarms of a vanish."""
    targets = np.repeat(np.eye(3), 10, axis=0)
    scores = np.repeat([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]], 10, axis=0)
    ids = np.array([f"i{i}" for i in range(30)], dtype=object)
    labels = LabelSpace.from_columns(["t=a", "t=b", "t=c"])
    family = family_of(Predictions(ids, ids, scores, targets, labels, ids), (0, 1, 2), resamples=0)
    many_b, many_c = (family.shares(np.array(s)[:, None]) for s in ([0.2, 0.8, 0.0], [0.2, 0.0, 0.8]))
    assert family.rates(0, many_b)[1][0] == 0.0
    assert family.rates(0, many_c)[1][0] == 1.0


def test_a_category_without_rows_gives_its_share_to_the_others_and_is_named():
    predictions = some_rows()
    kept = predictions.take(predictions.targets[:, 1] != 1)
    family = family_of(kept, (0, 1, 2), resamples=0)
    shares = family.shares(np.array([0.2, 0.5, 0.2])[:, None])
    assert family.left_out(shares) == ["t=b"]
    given = family.effective(0, shares)[:, 0]
    assert given == pytest.approx([0.2, 0.0, 0.8 * 2 / 3, 0.8 / 3])
    assert np.isnan(family.rates(1, shares)[0][0])
    category = np.where((kept.targets[:, :3] == 1).any(axis=1), kept.targets[:, :3].argmax(axis=1), 3)
    category[np.isnan(kept.targets[:, 0])] = -1
    called = decide(kept)[:, 0]
    false = (2 * called[category == 2].mean() + called[category == 3].mean()) / 3
    assert family.rates(0, shares)[1][0] == pytest.approx(1 - false, abs=1e-12)
    assert np.isnan(family.average_precisions(1, [shares])[0][0])


def test_without_rows_beside_the_class_specificity_is_nan():
    ids = np.array(["a", "b"], dtype=object)
    rows = Predictions(ids, ids, np.ones((2, 1)), np.ones((2, 1)), LabelSpace(("x",)), ids)
    family = family_of(rows, (0,), resamples=3)
    assert np.isnan(family.rates(0, family.shares(np.full((1, 4), 0.1)))[1]).all()
