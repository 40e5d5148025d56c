from __future__ import annotations

import builtins
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medtail.errors import MedtailError
from medtail.judging.evaluation import EvaluationConfig, evaluate
from medtail.judging.verification import Check, is_of_these_predictions, rescore, verify_results
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions
from medtail.tables.results import Results
from medtail.tables.tail import ClassCounts

QUICK = EvaluationConfig(bootstrap=0)
NAMES = ("g=a", "g=b", "g=c", "x", "y", "z")


def table(seed: int, *, rows: int = 50, decimals: int = 2, missing: float = 0.2) -> Predictions:
    """Scores with ties, cells not assessed, an absent class and one without negatives."""
    random = np.random.default_rng(seed)
    targets = (random.random((rows, 6)) < 0.3).astype(float)
    targets[:, :3] = np.eye(3)[random.integers(0, 3, rows)]
    targets[:, 4], targets[:, 5] = 0.0, 1.0
    targets[random.random((rows, 6)) < missing] = np.nan
    scores = np.round(random.random((rows, 6)), decimals)
    ids = np.array([f"i{n}" for n in range(rows)], dtype=object)
    counts = ClassCounts(NAMES, (400, 200, 30, 90, 5, 500), (9,) * 6, (1000,) * 6)
    folds = np.array(["test"] * rows, dtype=object)
    thresholds = dict.fromkeys(NAMES, 0.35)
    labels = LabelSpace.from_columns(NAMES)
    return Predictions(ids, ids, scores, targets, labels, folds, train_counts=counts, thresholds=thresholds)


def spoiled(results: Results, metric: str, by: float, *, column: str = "value", **where: str) -> Results:
    chosen = results.frame["metric"] == metric
    for name, wanted in where.items():
        chosen &= results.frame["class" if name == "class_name" else name] == wanted
    assert chosen.sum() == 1
    frame = results.frame.copy()
    frame.loc[chosen, column] += by
    return replace(results, frame=frame)


@settings(max_examples=12)
@given(seed=st.integers(0, 10**6), rows=st.integers(2, 40), decimals=st.integers(0, 4))
def test_results_of_medtail_are_confirmed_whatever_is_missing(seed: int, rows: int, decimals: int) -> None:
    predictions = table(seed, rows=rows, decimals=decimals)
    assert verify_results(predictions, evaluate(predictions, config=QUICK)) == []


def test_every_kind_of_number_is_recomputed() -> None:
    predictions = table(0)
    checks = rescore(predictions, evaluate(predictions, config=QUICK))
    ranked = {"ap", "auroc", "brier", "f1_at_half"}
    decided = {"f1", "precision", "recall", "specificity"}
    assert {check.metric for check in checks} == {
        *ranked,
        *decided,
        *(f"support:{metric}" for metric in ranked | decided),
        "micro_f1",
        "micro_precision",
        "micro_recall",
        "accuracy",
        "balanced_accuracy",
        "macro_f1",
    }
    assert {check.tail_group for check in checks} >= {"", "head", "medium", "tail"}
    assert sum(np.isnan(check.stored) for check in checks) > 0  # undefined on both sides is agreement
    assert sum(not np.isnan(check.stored) for check in checks) > 60


@pytest.mark.parametrize(
    ("metric", "where"),
    [
        ("ap", {"class_name": "x"}),
        ("auroc", {"class_name": "", "tail_group": ""}),
        ("f1", {"class_name": "g=b"}),
        ("f1", {"class_name": "", "tail_group": "head"}),
        ("micro_f1", {"class_name": "", "tail_group": ""}),
        ("balanced_accuracy", {"class_name": "g"}),
    ],
)
def test_a_number_changed_in_the_ninth_digit_is_found(metric: str, where: dict[str, str]) -> None:
    predictions = table(1)
    results = evaluate(predictions, config=QUICK)
    found = verify_results(predictions, spoiled(results, metric, 2e-9, **where))
    assert [check.metric for check in found] == [metric]
    assert f"{metric} of " in found[0].text()
    assert verify_results(predictions, spoiled(results, metric, 2e-10, **where)) == []
    assert verify_results(predictions, spoiled(results, metric, 2e-9, **where), tolerance=1e-8) == []


def test_a_polite_zero_instead_of_nan_is_found() -> None:
    predictions = table(2)
    results = evaluate(predictions, config=QUICK)
    frame = results.frame.copy()
    chosen = (frame["metric"] == "f1") & (frame["class"] == "y")
    assert np.isnan(frame.loc[chosen, "value"]).all()
    frame.loc[chosen, "value"] = 0.0
    found = verify_results(predictions, replace(results, frame=frame))
    assert [(check.metric, check.class_name) for check in found] == [("f1", "y")]


def test_a_wrong_number_of_classes_averaged_is_found() -> None:
    predictions = table(3)
    results = evaluate(predictions, config=QUICK)
    wrong = spoiled(results, "ap", 1.0, column="support", class_name="", tail_group="")
    assert [check.metric for check in verify_results(predictions, wrong)] == ["support:ap"]


def test_other_predictions_are_found_by_their_numbers_and_their_digest() -> None:
    predictions = table(4)
    results = evaluate(predictions, config=QUICK)
    other = replace(predictions, scores=predictions.scores[::-1].copy())
    assert is_of_these_predictions(predictions, results) is True
    assert is_of_these_predictions(other, results) is False
    assert is_of_these_predictions(other, replace(results, header={})) is None
    assert len(verify_results(other, results)) > 10


def test_decisions_of_another_rule_are_left_out_and_rankings_still_checked() -> None:
    predictions = table(5)
    results = evaluate(predictions, config=QUICK)
    header = {**results.header, "thresholds": {**results.header["thresholds"], "inside_groups": "some other rule"}}
    metrics = {check.metric for check in rescore(predictions, replace(results, header=header))}
    assert "ap" in metrics
    assert not metrics & {"f1", "micro_f1", "accuracy"}


def test_tables_of_other_rows_or_classes_are_refused() -> None:
    predictions = table(6)
    results = evaluate(predictions, config=QUICK)
    with pytest.raises(MedtailError, match="results are of 50 rows and 6 classes, predictions has 49 rows"):
        verify_results(predictions.take(np.arange(49)), results)
    with pytest.raises(MedtailError, match="no number that scikit-learn could recompute"):
        verify_results(predictions, replace(results, frame=results.frame[:0]))


def test_without_scikit_learn_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    predictions = table(7)
    results = evaluate(predictions, config=QUICK)
    real = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "sklearn":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MedtailError, match=r"pip install 'medtail\[dev\]'"):
        verify_results(predictions, results)


def test_importing_the_module_loads_no_scikit_learn() -> None:
    code = "import sys, medtail.judging.verification; assert 'sklearn' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)


def test_a_check_of_two_undefined_values_agrees_and_of_one_does_not() -> None:
    nan = float("nan")
    assert not Check("ap", "x", "", nan, nan).differs
    assert Check("ap", "x", "", nan, 0.0).differs
    assert Check("ap", "x", "", float("inf"), 0.0).differs
