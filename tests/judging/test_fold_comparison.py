"""Comparisons over folds: the t-test's values, the training rows behind it, and folds that do not fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medtail.errors import MedtailError
from medtail.judging.comparison import ComparisonConfig
from medtail.judging.evaluation import EvaluationConfig, evaluate
from medtail.judging.fold_comparison import compare_folds
from medtail.judging.pvalues import corrected_resampled_t
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions
from medtail.tables.tail import ClassCounts

NAMES = ("Effusion", "Hernia")
MACRO = ComparisonConfig(metrics=("ap",), levels=("macro",))


def fold(number: int, skill: float, *, seed: int, images: int = 60, hernias: int = 5) -> Predictions:
    truth = np.random.default_rng(number)
    y = np.zeros((images, 2))
    y[:, 0] = truth.random(images) < 0.4
    y[:hernias, 1] = 1
    ids = np.array([f"f{number}-{k}" for k in range(images)], dtype=object)
    logits = skill * y + np.random.default_rng((seed, number)).normal(size=y.shape)
    return Predictions(
        ids, ids, 1 / (1 + np.exp(-logits)), y, LabelSpace(NAMES), np.array(["test"] * images, dtype=object)
    )


def folds(count: int = 5, **changes: int) -> dict[str, list[Predictions]]:
    return {
        "A": [fold(k, 1.5, seed=1, **changes) for k in range(count)],
        "B": [fold(k, 0.6, seed=2, **changes) for k in range(count)],
    }


def test_the_difference_is_the_corrected_t_test_of_the_folds_own_values() -> None:
    tables = folds()
    found = compare_folds(tables, config=MACRO)
    single = {
        name: [evaluate(t, config=EvaluationConfig(bootstrap=0)).value("ap") for t in parts]
        for name, parts in tables.items()
    }
    expected = corrected_resampled_t(np.array(single["A"]) - np.array(single["B"]), test_share=1 / 4)
    row = found.differences.iloc[0]
    assert (row["difference"], row["low"], row["high"], row["p"]) == pytest.approx(
        (expected.difference, expected.low, expected.high, expected.p), rel=1e-9
    )
    for name, values in single.items():
        assert found.replicates.loc[found.replicates["system"] == name, "value"].tolist() == pytest.approx(values)
    ranked = found.systems.set_index("system")
    assert ranked.loc["A", "value"] == pytest.approx(np.mean(single["A"]))
    assert ranked["low"].isna().all()
    assert found.header["folds"] == {
        "count": 5,
        "test_share": 0.25,
        "train_rows_from": "the other folds",
        "rows": [60] * 5,
    }


def test_training_rows_come_from_the_tables_or_the_user() -> None:
    counts = ClassCounts(NAMES, (10, 1), (10, 1), (120, 120))
    counted = {name: [replace(t, train_counts=counts) for t in parts] for name, parts in folds().items()}
    assert compare_folds(counted, config=MACRO).header["folds"]["test_share"] == 0.5
    given = compare_folds(counted, config=MACRO, train_rows=600)
    assert given.header["folds"]["test_share"] == pytest.approx(0.1)
    assert given.differences["p"][0] < compare_folds(counted, config=MACRO).differences["p"][0]
    repeated = {name: parts * 2 for name, parts in folds().items()}
    with pytest.raises(MedtailError, match="Give their number with `--train-rows`"):
        compare_folds(repeated, config=MACRO)
    assert compare_folds(repeated, config=MACRO, train_rows=240).header["folds"]["count"] == 10


def test_a_fold_without_the_class_is_left_out_of_it_for_all_alike() -> None:
    tables = folds()
    bare = {name: [replace(t, targets=t.targets * [1, k != 2]) for k, t in enumerate(p)] for name, p in tables.items()}
    config = ComparisonConfig(metrics=("ap",), levels=("class",))
    rows = compare_folds(bare, config=config).differences.set_index("class")
    four = {name: [t for k, t in enumerate(parts) if k != 2] for name, parts in tables.items()}
    assert rows.loc["Hernia", "defined_share"] == 0.8
    without = compare_folds(four, config=config).differences.set_index("class")
    assert rows.loc["Hernia", "difference"] == pytest.approx(without.loc["Hernia", "difference"], abs=1e-12)


def test_folds_that_do_not_fit_are_all_named() -> None:
    tables = folds()
    tables["B"][1] = tables["B"][1].take(np.arange(59))
    tables["B"][3] = replace(tables["B"][3], targets=1 - tables["B"][3].targets)
    with pytest.raises(MedtailError) as caught:
        compare_folds(tables, config=MACRO)
    assert "fold 2: compare, 'B': has no scores for 1 of the 60 images" in str(caught.value)
    assert "fold 4: compare, 'B': 120 targets differ" in str(caught.value)
    with pytest.raises(MedtailError, match="found 'A' 5, 'B' 4 folds; expected the same number"):
        compare_folds({"A": folds()["A"], "B": folds()["B"][:4]}, config=MACRO)
    with pytest.raises(MedtailError, match="train_rows 0: expected"):
        compare_folds(folds(), config=MACRO, train_rows=0)


def test_classes_of_another_order_in_a_fold_are_put_right() -> None:
    tables = folds()
    turned = {
        name: [
            replace(t, scores=t.scores[:, ::-1], targets=t.targets[:, ::-1], labels=LabelSpace(NAMES[::-1]))
            if k == 1
            else t
            for k, t in enumerate(parts)
        ]
        for name, parts in tables.items()
    }
    config = ComparisonConfig(metrics=("ap",), levels=("class",))
    first, second = (compare_folds(t, config=config).differences for t in (tables, turned))
    np.testing.assert_allclose(first["difference"], second["difference"], atol=1e-12)


@pytest.mark.slow
def test_the_corrected_test_keeps_its_level_where_the_plain_one_does_not() -> None:
    """Ten-fold cross-validation of a rule fitted to overlapping training rows, two equal rules, many data sets."""
    corrected, plain = 0, 0
    for seed in range(400):
        random = np.random.default_rng(seed)
        x, y = random.normal(size=(200, 20)), random.normal(size=200)
        d = []
        for k in range(10):
            test = np.arange(200) % 10 == k
            # each rule fits its own half of the noise features by least squares
            errors = []
            for columns in (slice(0, 10), slice(10, 20)):
                fit, *_ = np.linalg.lstsq(x[~test, columns], y[~test], rcond=None)
                errors.append(np.mean((y[test] - x[test, columns] @ fit) ** 2))
            d.append(errors[0] - errors[1])
        corrected += corrected_resampled_t(np.array(d), test_share=1 / 9).p <= 0.05
        plain += corrected_resampled_t(np.array(d), test_share=1e-12).p <= 0.05
    assert corrected / 400 <= 0.07
    assert plain / 400 > corrected / 400
