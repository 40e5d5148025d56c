from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics as oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from medtail.errors import MedtailError
from medtail.judging import metrics, multilabel

NAN = float("nan")
Table = tuple[np.ndarray, np.ndarray, np.ndarray]


@st.composite
def tables(draw: st.DrawFn, *, assessed: bool = False) -> Table:
    """Scores with ties, targets with empty, full and unassessed rows, and weights of which some are 0."""
    size, num_classes = draw(st.integers(1, 15)), draw(st.integers(2, 5))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    levels = draw(st.sampled_from([1, 3, 1000]))
    scores = random.integers(0, levels + 1, (size, num_classes)) / levels
    targets = (random.random(scores.shape) < draw(st.sampled_from([0.1, 0.5, 0.9]))).astype(float)
    if not assessed:
        targets[random.random(scores.shape) < draw(st.sampled_from([0.0, 0.3]))] = NAN
    return scores, targets, random.integers(0, 3, size) * random.choice([1.0, 0.37])


def same(first: float, second: float) -> bool:
    return bool(np.isclose(first, second, rtol=0, atol=1e-12, equal_nan=True))


@settings(max_examples=60)
@given(table=tables())
def test_micro_averages_are_the_metric_of_all_assessed_cells(table: Table) -> None:
    scores, targets, weights = table
    across = np.broadcast_to(weights[:, None], scores.shape)
    kept = ~np.isnan(targets) & (across > 0)
    s, y, w = scores[kept], targets[kept], across[kept]
    cells = multilabel.count_cells(scores >= 0.5, targets, weights=weights)
    called = s >= 0.5
    if not len(y):
        assert np.isnan([cells.precision, cells.recall, cells.f1, cells.hamming]).all()
        return
    assert same(cells.hamming, oracle.zero_one_loss(y, called, sample_weight=w))
    assert same(cells.precision, oracle.precision_score(y, called, sample_weight=w, zero_division=np.nan))
    assert same(cells.recall, oracle.recall_score(y, called, sample_weight=w, zero_division=np.nan))
    ap = multilabel.micro(metrics.average_precision, scores, targets, weights=weights)
    auroc = multilabel.micro(metrics.auroc, scores, targets, weights=weights)
    if (y == 1).any():
        assert same(cells.f1, oracle.f1_score(y, called, sample_weight=w))
        assert same(ap, oracle.average_precision_score(y, s, sample_weight=w))
    else:
        assert np.isnan([cells.f1, ap]).all()
    if (y == 1).any() and (y == 0).any():
        assert same(auroc, oracle.roc_auc_score(y, s, sample_weight=w))
    else:
        assert np.isnan(auroc)


@settings(max_examples=60)
@given(table=tables(assessed=True))
def test_averages_over_images_equal_scikit_learn_on_the_images_that_define_them(table: Table) -> None:
    scores, targets, weights = table
    called = scores >= 0.5
    ours = multilabel.sample_averages(called, targets, weights=weights)
    for name, score, defined in (
        ("precision", oracle.precision_score, called.any(axis=1)),
        ("recall", oracle.recall_score, (targets == 1).any(axis=1)),
        ("f1", oracle.f1_score, (targets == 1).any(axis=1)),
    ):
        kept = defined & (weights > 0)
        assert ours[name].rows == kept.sum()
        if kept.any():
            theirs = score(targets[kept], called[kept], average="samples", sample_weight=weights[kept])
            assert same(ours[name].value, theirs)
        else:
            assert np.isnan(ours[name].value)
    kept = weights > 0
    if kept.any():
        theirs = oracle.accuracy_score(targets[kept], called[kept], sample_weight=weights[kept])
        assert same(multilabel.exact_match(called, targets, weights=weights).value, theirs)


@settings(max_examples=60)
@given(table=tables(assessed=True))
def test_rankings_within_images_equal_scikit_learn_on_the_images_that_define_them(table: Table) -> None:
    scores, targets, weights = table
    ours = multilabel.ranking_averages(scores, targets, weights=weights)
    some, all_of_them = (targets == 1).any(axis=1), (targets == 1).all(axis=1)
    for name, score, defined in (
        ("lrap", oracle.label_ranking_average_precision_score, some),
        ("coverage_error", oracle.coverage_error, some),
        ("ranking_loss", oracle.label_ranking_loss, some & ~all_of_them),
    ):
        kept = defined & (weights > 0)
        assert ours[name].rows == kept.sum()
        if kept.any():
            assert same(ours[name].value, score(targets[kept], scores[kept], sample_weight=weights[kept])), name
        else:
            assert np.isnan(ours[name].value)


@settings(max_examples=40)
@given(table=tables(), seed=st.integers(0, 2**32 - 1))
def test_neither_the_order_of_classes_nor_of_images_matters(table: Table, seed: int) -> None:
    scores, targets, weights = table
    random = np.random.default_rng(seed)
    columns, rows = random.permutation(scores.shape[1]), random.permutation(len(scores))
    first = everything(scores, targets, weights)
    second = everything(scores[rows][:, columns], targets[rows][:, columns], weights[rows])
    assert all(same(first[name], second[name]) for name in first)


@settings(max_examples=40)
@given(table=tables())
def test_a_class_nobody_assessed_changes_nothing_but_what_needs_all_classes(table: Table) -> None:
    scores, targets, weights = table
    first = everything(scores, targets, weights)
    more = np.column_stack([scores, scores[:, 0]]), np.column_stack([targets, np.full(len(scores), NAN)])
    second = everything(*more, weights)
    assert np.isnan(second.pop("exact_match"))
    assert all(same(first[name], second[name]) for name in second)


def everything(scores: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    called = scores >= 0.5
    cells = multilabel.count_cells(called, targets, weights=weights)
    averages = multilabel.sample_averages(called, targets, weights=weights)
    averages |= multilabel.ranking_averages(scores, targets, weights=weights)
    averages["exact_match"] = multilabel.exact_match(called, targets, weights=weights)
    return {name: average.value for name, average in averages.items()} | {"micro_f1": cells.f1, "loss": cells.hamming}


@settings(max_examples=40)
@given(table=tables())
def test_whole_number_weights_are_repeated_images(table: Table) -> None:
    scores, targets, weights = table
    times = np.ceil(weights).astype(int)
    repeated = np.repeat(scores, times, axis=0), np.repeat(targets, times, axis=0), np.ones(times.sum())
    for name, value in everything(scores, targets, times.astype(float)).items():
        assert same(value, everything(*repeated)[name]), name


def test_images_that_define_nothing_are_counted_out_and_not_counted_perfect() -> None:
    # a table full of normal images: scikit-learn says 0.875 and 0.25 here
    scores = np.tile([0.9, 0.1], (4, 1))
    targets = np.array([[0.0, 1.0], [0, 0], [0, 0], [0, 0]])
    found = multilabel.ranking_averages(scores, targets)
    assert found["lrap"] == multilabel.RowAverage(0.5, 1)
    assert found["ranking_loss"] == multilabel.RowAverage(1.0, 1)
    assert oracle.label_ranking_average_precision_score(targets, scores) == 0.875
    assert oracle.label_ranking_loss(targets, scores) == 0.25


def test_one_error_shares_a_tied_first_place() -> None:
    scores = np.array([[0.9, 0.5, 0.1], [0.9, 0.9, 0.1], [0.2, 0.2, 0.2]])
    targets = np.array([[0.0, 1, 1], [0, 1, 0], [0, 1, NAN]])
    assert multilabel.ranking_averages(scores, targets)["one_error"].value == pytest.approx((1 + 0.5 + 0.5) / 3)


def test_long_tables_are_ranked_in_pieces_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    scores, targets = random.random((10, 4)), random.integers(0, 2, (10, 4)).astype(float)
    whole = multilabel.ranking_averages(scores, targets)
    monkeypatch.setattr(multilabel, "CHUNK", 3)
    assert multilabel.ranking_averages(scores, targets) == whole
    assert multilabel.ranking_averages(scores[:0], targets[:0])["lrap"].rows == 0


def test_exact_match_asks_only_images_whose_every_class_is_assessed() -> None:
    called = np.array([[True, False], [True, False], [True, False]])
    targets = np.array([[1.0, 0], [1, NAN], [0, 0]])
    assert multilabel.exact_match(called, targets) == multilabel.RowAverage(0.5, 2)


def test_pooled_findings_are_unknown_unless_one_is_present_or_all_are_absent() -> None:
    scores = np.array([[0.5, 0.2, 0.9], [0.1, 0.1, 0.9], [0.3, 0.0, 0.9], [0.0, 1.0, 0.9]])
    targets = np.array([[1.0, NAN, 0], [0, 0, 1], [0, NAN, 1], [NAN, NAN, 1]])
    tail = np.array([True, True, False])
    s, y = multilabel.pool_findings(scores, targets, among=tail)
    assert s == pytest.approx(np.array([0.6, 0.19, 0.3, 1.0]))
    assert y == pytest.approx(np.array([1.0, 0.0, NAN, NAN]), nan_ok=True)
    highest, same_targets = multilabel.pool_findings(scores, targets, among=tail, pooling="max")
    assert highest.tolist() == [0.5, 0.1, 0.3, 1.0]
    assert same_targets == pytest.approx(y, nan_ok=True)
    nobody, unknown = multilabel.pool_findings(scores, targets, among=np.zeros(3, dtype=bool))
    assert nobody.tolist() == [0.0] * 4
    assert np.isnan(unknown).all()


def test_independent_findings_pool_into_calibrated_scores() -> None:
    random = np.random.default_rng(1)
    scores = random.beta(0.5, 8.0, (40_000, 6))
    targets = (random.random(scores.shape) < scores).astype(float)
    s, y = multilabel.pool_findings(scores, targets, among=np.ones(6, dtype=bool))
    assert metrics.expected_calibration_error(s, y) < 0.01
    highest, _ = multilabel.pool_findings(scores, targets, among=np.ones(6, dtype=bool), pooling="max")
    assert metrics.expected_calibration_error(highest, y) > 0.03


def test_the_pooled_tail_recall_is_that_of_the_tails_cells() -> None:
    called = np.array([[True, True], [True, False], [True, False]])
    targets = np.array([[1.0, 1], [1, 1], [1, NAN]])
    assert multilabel.count_cells(called, targets, among=np.array([False, True])).recall == 0.5
    assert multilabel.count_cells(called, targets).recall == 0.8


def test_wrong_input_is_refused() -> None:
    scores, targets = np.full((2, 2), 0.5), np.ones((2, 2))
    with pytest.raises(MedtailError, match="expected \\[N, C\\]"):
        multilabel.count_cells(scores >= 0.5, targets[:1])
    with pytest.raises(MedtailError, match="other than 0, 1 or NaN"):
        multilabel.exact_match(scores >= 0.5, 2 * targets)
    with pytest.raises(MedtailError, match="negative or infinite weight"):
        multilabel.ranking_averages(scores, targets, weights=np.array([1.0, np.inf]))
    with pytest.raises(MedtailError, match="expected noisy_or or max"):
        multilabel.pool_findings(scores, targets, among=np.ones(2, bool), pooling="mean")  # type: ignore[arg-type]
