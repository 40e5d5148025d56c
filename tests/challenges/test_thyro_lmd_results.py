from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score

from medtail.challenges.thyro_lmd_decoding import call_at_half, decode, invalid_groups
from medtail.challenges.thyro_lmd_labels import GROUPS, LABELS, AbsentRule, ThyroSplit, group_columns, head_body_tail
from medtail.challenges.thyro_lmd_results import judge_reports
from medtail.tables.predictions import Predictions
from medtail.tables.results import Results
from medtail.tables.tail import ClassCounts, tail_groups

NAMES = LABELS.class_names
HAND = [LABELS.index(name) for name in ("comp_solid", "foci_macro", "foci_rim")]


def split_of(shares: np.ndarray) -> ThyroSplit:
    images = tuple(round(float(share) * 1000) for share in shares)
    counts = ClassCounts(NAMES, images, images, (1000,) * len(NAMES))
    return ThyroSplit(
        "given", None, "", {}, counts, head_body_tail(counts), tail_groups(counts, labels=LABELS, rule="terciles")
    )


def table(scores: np.ndarray, targets: np.ndarray, *, patients: np.ndarray | None = None) -> Predictions:
    ids = np.array([f"i{n:04d}" for n in range(len(scores))], dtype=object)
    folds = np.array(["test"] * len(scores), dtype=object)
    return Predictions(ids, ids if patients is None else patients, scores, targets, LABELS, folds)


def judge(
    predictions: Predictions,
    decoded: np.ndarray,
    *,
    raw: np.ndarray | None = None,
    split: ThyroSplit | None = None,
    absent: AbsentRule = "nan",
    bootstrap: int = 0,
) -> Results:
    raw = decoded if raw is None else raw
    return judge_reports(
        predictions,
        decoded=decoded,
        raw=raw,
        unparsed=np.zeros(len(predictions), dtype=bool),
        invalid=invalid_groups(raw),
        split=split,
        absent=absent,
        bootstrap=bootstrap,
    )


def random_table(seed: int, *, rows: int = 60, missing: float = 0.0, decimals: int = 2) -> Predictions:
    random = np.random.default_rng(seed)
    targets = (random.random((rows, 20)) < np.linspace(0.5, 0.05, 20)).astype(float)
    targets[0], targets[1] = 1.0, 0.0
    scores = np.round(np.clip(random.random((rows, 20)) * 0.8 + 0.2 * targets, 0, 1), decimals)
    targets[random.random(targets.shape) < missing] = np.nan
    return table(scores, targets, patients=np.array([f"p{n // 2}" for n in range(rows)], dtype=object))


def test_three_images_and_three_labels_worked_by_hand() -> None:
    targets = np.full((3, 20), np.nan)
    targets[:, HAND] = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1]])
    called = np.zeros((3, 20), dtype=bool)
    called[:, HAND] = np.array([[1, 0, 0], [0, 1, 1], [1, 0, 1]])
    shares = np.full(20, 0.5)
    shares[HAND] = [0.6, 0.1, 0.01]
    results = judge(table(np.full((3, 20), 0.3), targets), called, split=split_of(shares))
    # comp_solid: TP 1, FP 1, FN 1. foci_macro: TP 1. foci_rim: TP 1, FP 1.
    assert [results.value("f1", class_name=NAMES[c]) for c in HAND] == pytest.approx([1 / 2, 1.0, 2 / 3], abs=1e-15)
    assert results.value("f1") == pytest.approx((1 / 2 + 1 + 2 / 3) / 3, abs=1e-15)
    assert results.value("micro_f1") == pytest.approx(2 * 3 / (2 * 3 + 2 + 1), abs=1e-15)
    assert results.value("f1", tail_group="head") == pytest.approx(1 / 2, abs=1e-15)
    assert results.value("f1", tail_group="medium") == 1.0
    assert results.value("f1", tail_group="tail") == pytest.approx(2 / 3, abs=1e-15)
    assert results.rows("f1", class_name="", tail_group="")["support"].item() == 3
    assert results.value("false_positives", class_name="foci_rim") == 1


@settings(max_examples=12)
@given(seed=st.integers(0, 10**6))
def test_figures_are_scikit_learns_where_every_label_has_positives(seed: int) -> None:
    predictions = random_table(seed)
    decoded, raw = decode(predictions.scores), call_at_half(predictions.scores)
    split = split_of(np.random.default_rng(seed).random(20) * 0.5)
    results = judge(predictions, decoded, raw=raw, split=split)
    y = predictions.targets
    for called, suffix in ((decoded, ""), (raw, "_at_half")):
        assert results.value(f"micro_f1{suffix}") == pytest.approx(f1_score(y, called, average="micro"), abs=1e-12)
        assert results.value(f"f1{suffix}") == pytest.approx(f1_score(y, called, average="macro"), abs=1e-12)
    assert results.value("ap") == pytest.approx(average_precision_score(y, predictions.scores), abs=1e-12)
    # Macro is the mean of the groups' means, weighted by their number of labels
    groups = [results.rows("f1", class_name="", tail_group=group).iloc[0] for group in ("head", "medium", "tail")]
    sizes = [row["support"] for row in groups]
    assert sum(sizes) == 20
    weighted = sum(row["value"] * row["support"] for row in groups if row["support"])
    assert results.value("f1") == pytest.approx(weighted / 20, abs=1e-12)


@settings(max_examples=12)
@given(seed=st.integers(0, 10**6))
def test_cells_not_assessed_are_never_counted(seed: int) -> None:
    predictions = random_table(seed, missing=0.3)
    decoded = decode(predictions.scores)
    results = judge(predictions, decoded)
    for c, name in enumerate(NAMES):
        kept = ~np.isnan(predictions.targets[:, c])
        y, yes = predictions.targets[kept, c], decoded[kept, c]
        value = results.value("f1", class_name=name)
        assert np.isnan(value) if not y.any() else value == pytest.approx(f1_score(y, yes), abs=1e-12)
    kept = ~np.isnan(predictions.targets)
    expected = f1_score(predictions.targets[kept], decoded[kept])
    assert results.value("micro_f1") == pytest.approx(expected, abs=1e-12)


def test_order_of_rows_changes_nothing() -> None:
    predictions = random_table(3, missing=0.2)
    order = np.random.default_rng(0).permutation(len(predictions))
    split = split_of(np.linspace(0.5, 0.01, 20))
    decoded = decode(predictions.scores)
    first = judge(predictions, decoded, split=split, bootstrap=60)
    second = judge(predictions.take(order), decoded[order], split=split, bootstrap=60)
    for column in ("value", "low", "high", "support"):
        a, b = first.frame[column].to_numpy(), second.frame[column].to_numpy()
        assert np.allclose(a, b, rtol=0, atol=1e-14, equal_nan=True), column


def test_label_without_positives_is_nan_out_of_the_means_and_named_with_its_false_alarms() -> None:
    predictions = random_table(1)
    c = LABELS.index("foci_rim")
    predictions.targets[:, c] = 0.0
    decoded = decode(predictions.scores)
    decoded[:7, c], decoded[7:, c] = True, False
    results = judge(predictions, decoded)
    assert np.isnan(results.value("f1", class_name="foci_rim"))
    assert np.isnan(results.value("ap", class_name="foci_rim"))
    others = [n for n in range(20) if n != c]
    expected = f1_score(predictions.targets[:, others], decoded[:, others], average="macro")
    assert results.value("f1") == pytest.approx(expected, abs=1e-12)
    assert results.rows("f1", class_name="", tail_group="")["support"].item() == 19
    assert any("foci_rim (7)" in warning for warning in results.header["warnings"])
    imitated = judge(predictions, decoded, absent="zero")
    assert imitated.value("f1") == pytest.approx(
        f1_score(predictions.targets, decoded, average="macro", zero_division=0), abs=1e-12
    )
    assert imitated.rows("f1", class_name="", tail_group="")["support"].item() == 20


def test_an_empty_group_is_nan_with_no_label() -> None:
    predictions = random_table(2)
    results = judge(predictions, decode(predictions.scores), split=split_of(np.full(20, 0.3)), bootstrap=20)
    row = results.rows("f1", class_name="", tail_group="tail").iloc[0]
    assert np.isnan(row["value"])
    assert row["support"] == 0
    assert any("No label falls into body, tail" in warning for warning in results.header["warnings"])


def test_hard_answers_have_an_f1_and_no_ranking() -> None:
    predictions = random_table(4)
    hard = replace(predictions, scores=np.round(predictions.scores))
    results = judge(hard, decode(hard.scores), bootstrap=20)
    assert not np.isnan(results.value("f1"))
    for metric in ("ap", "auroc"):
        assert np.isnan(results.value(metric))
    assert results.frame[results.frame["metric"] == "ece"]["value"].isna().all()
    assert any("no ranking" in warning for warning in results.header["warnings"])


def test_exact_match_asks_only_rows_whose_group_was_assessed() -> None:
    predictions = random_table(5)
    decoded = decode(predictions.scores)
    columns = group_columns("echogenicity")
    predictions.targets[:30, columns] = np.nan
    predictions.targets[30:, columns] = decoded[30:, columns]
    predictions.targets[30, columns] = ~decoded[30, columns]
    results = judge(predictions, decoded)
    row = results.rows("exact_match", class_name="echogenicity").iloc[0]
    assert (row["value"], row["support"]) == (29 / 30, 30)


def test_invalid_reports_are_counted_before_decoding_and_unparsed_answers_beside_them() -> None:
    predictions = random_table(6, rows=10)
    raw = decode(predictions.scores)
    raw[:2, group_columns("shape")] = True
    raw[1:4, group_columns("margin")] = False
    unparsed = np.zeros(10, dtype=bool)
    unparsed[[0, 9]] = True
    decoded = decode(predictions.scores)
    results = judge_reports(
        predictions, decoded=decoded, raw=raw, unparsed=unparsed, invalid=invalid_groups(raw), split=None, bootstrap=0
    )
    rates = {group: results.value("invalid_report_rate", class_name=group) for group in GROUPS}
    assert rates == {"composition": 0.0, "echogenicity": 0.0, "shape": 1 / 8, "margin": 3 / 8, "foci": 0.0}
    assert results.value("invalid_report_rate") == 3 / 8
    assert results.value("unparsed_share") == 0.2


def test_patients_are_resampled_and_a_draw_without_positives_drops_the_label() -> None:
    predictions = random_table(7)
    c = LABELS.index("margin_ete")
    predictions.targets[:, c] = 0.0
    predictions.targets[4, c] = 1.0
    results = judge(predictions, decode(predictions.scores), split=split_of(np.linspace(0.5, 0.01, 20)), bootstrap=2000)
    assert results.header["bootstrap"]["resamples"] == 2000
    share = results.value("defined_share:f1", class_name="margin_ete")
    assert share == pytest.approx(1 - (1 - 1 / 30) ** 30, abs=0.03)  # one patient of thirty
    for metric, group in (("micro_f1", ""), ("f1", ""), ("f1", "tail"), ("ap", "")):
        row = results.rows(metric, class_name="", tail_group=group).iloc[0]
        assert row["low"] < row["value"] < row["high"], metric


def test_an_interval_is_the_percentile_of_a_slow_loop_over_patients() -> None:
    from medtail.judging.bootstrap import draw_weights, number_patients

    predictions = random_table(8)
    decoded = decode(predictions.scores)
    results = judge(predictions, decoded, bootstrap=60)
    codes, count = number_patients(predictions.patients)
    weights = draw_weights(count, resamples=60).matrix().astype(int)
    drawn = []
    for b in range(60):
        rows = np.repeat(np.arange(len(predictions)), weights[codes, b])
        y, yes = predictions.targets[rows], decoded[rows]
        tp, wrong = (yes & (y == 1)).sum(axis=0), (yes != (y == 1)).sum(axis=0)
        drawn.append(np.mean([2 * t / (2 * t + w) for t, w, p in zip(tp, wrong, y.sum(axis=0), strict=True) if p]))
    row = results.rows("f1", class_name="", tail_group="").iloc[0]
    assert (row["low"], row["high"]) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=1e-12)


def test_terciles_are_reported_beside_the_cuts() -> None:
    predictions = random_table(9)
    results = judge(predictions, decode(predictions.scores), split=split_of(np.linspace(0.5, 0.3, 20)))
    supports = [results.rows("f1_terciles", tail_group=group)["support"].item() for group in ("head", "medium", "tail")]
    assert supports == [7, 6, 7]
