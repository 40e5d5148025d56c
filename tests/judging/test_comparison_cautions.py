"""What must be said beside a comparison."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medtail.judging.comparison import ComparisonConfig, compare
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions
from medtail.tables.tail import ClassCounts


@pytest.fixture
def pair() -> dict[str, Predictions]:
    random = np.random.default_rng(0)
    y = (random.random((120, 1)) < 0.4).astype(float)
    ids = np.array([f"i{k}" for k in range(120)], dtype=object)
    fold = np.array(["test"] * 120, dtype=object)
    labels, counts = LabelSpace(("Hernia",)), ClassCounts(("Hernia",), (10,), (9,), (100,))
    return {name: Predictions(ids, ids, np.clip(0.2 * y + 0.8 * random.random(y.shape), 0, 1), y, labels, fold,
                              train_counts=counts) for name in "AB"}  # fmt: skip


def warnings(pair: dict[str, Predictions], **config: object) -> list[str]:
    return compare(pair, config=ComparisonConfig(bootstrap=300, **config)).header["warnings"]  # type: ignore[arg-type]


def test_a_sound_comparison_is_left_in_peace(pair: dict[str, Predictions]) -> None:
    assert warnings(pair, metrics=("ap",)) == []


def test_unequal_thresholds_are_named_only_where_they_matter(pair: dict[str, Predictions]) -> None:
    tuned = {"A": replace(pair["A"], thresholds={"Hernia": 0.3}), "B": pair["B"]}
    assert any("'B' decides at 0.5" in said for said in warnings(tuned, metrics=("ap", "f1")))
    assert warnings(tuned, metrics=("ap", "f1_at_half")) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"folds": np.array([""] * 120, dtype=object)}, "The fold of the rows is unknown"),
        ({"folds": np.array(["tune", "test"] * 60, dtype=object)}, "Rows of the tune fold are among those compared"),
        ({"has_patients": False}, "Patients are unknown"),
        ({"patients": np.array(["p"] * 120, dtype=object)}, "All rows are of one patient"),
        ({"train_counts": None}, "Train counts are unknown"),
    ],
)
def test_what_the_rows_lack_is_said(pair: dict[str, Predictions], change: dict[str, object], said: str) -> None:
    changed = {name: replace(table, **change) for name, table in pair.items()}  # type: ignore[arg-type]
    assert any(said in warning for warning in warnings(changed, metrics=("ap",)))


def test_systems_trained_on_other_counts_are_noticed(pair: dict[str, Predictions]) -> None:
    other = ClassCounts(("Hernia",), (20,), (9,), (100,))
    found = warnings({"A": pair["A"], "B": replace(pair["B"], train_counts=other)}, metrics=("ap",))
    assert any("trained on different numbers of images" in warning for warning in found)


def test_few_positive_patients_are_named(pair: dict[str, Predictions]) -> None:
    y = pair["A"].targets.copy()
    y[:] = 0
    y[:12] = 1
    found = warnings({name: replace(table, targets=y) for name, table in pair.items()}, metrics=("ap",))
    assert any("Under 20 positive patients" in warning and "Hernia" in warning for warning in found)


def test_classes_lost_from_resamples_are_named_unless_nothing_is_lost(pair: dict[str, Predictions]) -> None:
    y = np.zeros_like(pair["A"].targets)
    y[:2] = 1
    rare = {name: replace(table, targets=y) for name, table in pair.items()}
    assert any("lost from many resamples" in said and "Hernia" in said for said in warnings(rare, metrics=("ap",)))
    assert not any("lost from many" in said for said in warnings(rare, metrics=("ap",), scheme="bayesian"))
    assert not any("lost from many" in said for said in warnings(rare, metrics=("brier",)))
    assert not any("lost from many" in said for said in warnings(rare, metrics=("ap",), levels=("class",)))


def test_nothing_to_test_is_said_aloud(pair: dict[str, Predictions]) -> None:
    y = np.zeros_like(pair["A"].targets)
    y[:3] = 1
    found = warnings({name: replace(table, targets=y) for name, table in pair.items()}, metrics=("ap",))
    assert found[0].startswith("Nothing could be tested")
