"""The numbers of a study: equal to the judge's own, paired, corrected, and each arm's by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medtail.judging.comparison import ComparisonConfig, compare
from medtail.judging.evaluation import EvaluationConfig, evaluate
from medtail.judging.fold_comparison import compare_folds
from medtail.judging.pvalues import holm
from medtail.judging.seeds import judge_seeds
from medtail.studies.config import JudgeConfig
from medtail.studies.judged import STUDY_DIFFERENCES, Judged, judge
from medtail.studies.scores import ScoredSet
from medtail.studies.values import VALUE_COLUMNS

CONFIG = JudgeConfig(bootstrap=200, metrics=("auroc", "ap"))


@pytest.fixture
def scored(whole: Any) -> ScoredSet:
    return whole.scored


@pytest.fixture
def judged(whole: Any) -> Judged:
    return whole.judged


def value(table: pd.DataFrame, arm: str, metric: str, class_name: str = "", group: str = "") -> pd.Series:
    rows = table[(table["arm"] == arm) & (table["metric"] == metric) & (table["class"] == class_name)]
    rows = rows if class_name else rows[rows["tail_group"] == group]
    assert len(rows) == 1
    return rows.iloc[0]


def test_values_are_the_mean_over_seeds_of_what_the_judge_says(scored: ScoredSet, judged: Judged) -> None:
    assert tuple(judged.values.columns) == VALUE_COLUMNS
    for arm, tables in scored.tables.items():
        alone = [evaluate(table, config=EvaluationConfig(bootstrap=0)) for table in tables]
        half = [
            evaluate(t, config=EvaluationConfig(bootstrap=0), thresholds=dict.fromkeys(t.labels.class_names, 0.5))
            for t in tables
        ]
        for metric in ("auroc", "ap", "f1", "precision", "recall", "specificity"):
            for name in ("", *scored.truth.labels.class_names):
                expected = np.mean([one.value(metric, class_name=name) for one in alone])
                assert value(judged.values, arm, metric, name)["value"] == pytest.approx(expected), (arm, metric, name)
                if metric in ("f1", "precision", "recall", "specificity"):
                    expected = np.mean([one.value(metric, class_name=name) for one in half])
                    assert value(judged.values, arm, f"{metric}_at_half", name)["value"] == pytest.approx(expected)


def test_intervals_draw_seeds_and_patients_as_the_judge_of_seeds_does(scored: ScoredSet, judged: Judged) -> None:
    tables = scored.tables["full"]
    by_seed = judge_seeds(
        {str(n): table for n, table in enumerate(tables)}, config=EvaluationConfig(bootstrap=200), metrics=("auroc",)
    )
    row = value(judged.values, "full", "auroc", "FTC")
    assert row["value"] == pytest.approx(by_seed.value("auroc", class_name="FTC"))
    assert row["seed_sd"] == pytest.approx(by_seed.value("sd_over_seeds:auroc", class_name="FTC"))
    fixed = judge(scored, reference="full", config=replace(CONFIG, seed_draw="fixed"))
    rows = by_seed.rows("auroc@fixed_seeds", class_name="FTC")
    found = value(fixed.values, "full", "auroc", "FTC")
    assert (found["low"], found["high"]) == pytest.approx((rows["low"].iloc[0], rows["high"].iloc[0]))
    assert row["high"] - row["low"] > 0


def test_accuracy_is_the_share_of_right_decisions(scored: ScoredSet, judged: Judged) -> None:
    tables = scored.tables["poor"]
    expected = []
    for table in tables:
        column = table.labels.index("ATC")
        known = ~np.isnan(table.targets[:, column])
        called = table.scores[known, column] >= table.threshold_array[column]
        expected.append(np.mean(called == (table.targets[known, column] == 1)))
    row = value(judged.values, "poor", "accuracy", "ATC")
    assert row["value"] == pytest.approx(np.mean(expected))
    assert row["low"] < row["value"] < row["high"]
    assert row["images"] == int((~np.isnan(tables[0].targets[:, 2])).sum()) < len(tables[0])
    means = [value(judged.values, "poor", "accuracy", name)["value"] for name in ("FTC", "MTC", "ATC")]
    assert value(judged.values, "poor", "accuracy")["value"] == pytest.approx(np.mean(means))
    half = [np.mean((t.scores[:, 0] >= 0.5) == (t.targets[:, 0] == 1)) for t in tables]
    assert value(judged.values, "poor", "accuracy_at_half", "FTC")["value"] == pytest.approx(np.mean(half))


def test_support_counts_images_and_patients(scored: ScoredSet, judged: Judged) -> None:
    truth = scored.truth
    row = value(judged.values, "full", "auroc", "MTC")
    positive = truth.targets[:, 1] == 1
    assert (row["images"], row["patients"]) == (len(truth), len(set(truth.patients)))
    assert (row["positives"], row["positive_patients"]) == (positive.sum(), len(set(truth.patients[positive])))


def test_the_spread_over_cells_is_that_of_each_model_alone(scored: ScoredSet, judged: Judged) -> None:
    alone = [
        evaluate(table, config=EvaluationConfig(bootstrap=0)).value("auroc", class_name="FTC")
        for fold in scored.by_fold
        for table in fold["full"]
    ]
    row = value(judged.values, "full", "auroc", "FTC")
    assert row["cells"] == 6
    assert row["cell_mean"] == pytest.approx(np.mean(alone))
    assert row["cell_sd"] == pytest.approx(np.std(alone, ddof=1))


def test_differences_are_those_of_a_comparison_of_the_two(scored: ScoredSet, judged: Judged) -> None:
    assert tuple(judged.differences.columns) == STUDY_DIFFERENCES
    pair = {name: scored.tables[name] for name in ("poor", "full")}
    alone = compare(pair, config=ComparisonConfig(metrics=("auroc", "ap"), bootstrap=200)).differences
    found = judged.differences[judged.differences["system_a"] == "poor"].reset_index(drop=True)
    for row in found.to_dict("records"):
        match = alone[
            (alone["metric"] == row["metric"])
            & (alone["class"] == row["class"])
            & (alone["tail_group"] == row["tail_group"])
        ].iloc[0]
        for column in ("difference", "low", "high", "p"):
            assert row[column] == pytest.approx(match[column], nan_ok=True), (row["class"], column)
    assert set(judged.differences["system_b"]) == {"full"}
    assert list(dict.fromkeys(judged.differences["system_a"])) == ["twin", "poor"]


def test_holm_counts_every_comparison_of_the_study(judged: Judged) -> None:
    table = judged.differences
    np.testing.assert_allclose(table["p_holm"], holm(table["p"].to_numpy()))
    assert judged.header["family"]["comparisons"] == int(table["p"].notna().sum())


def test_holm_may_count_classes_only(scored: ScoredSet) -> None:
    table = judge(scored, reference="full", config=replace(CONFIG, holm="classes")).differences
    rows = table[(table["system_a"] == "poor") & (table["metric"] == "auroc") & (table["class"] != "")]
    np.testing.assert_allclose(rows["p_holm"], holm(rows["p"].to_numpy()))
    macro = table[(table["class"] == "") & (table["tail_group"] == "")]
    np.testing.assert_allclose(macro["p_holm"], macro["p"])


def test_verdicts_are_right_where_the_truth_is_known(scored: ScoredSet) -> None:
    config = JudgeConfig(metrics=("auroc",), levels=("macro", "class"))
    table = judge(scored, reference="full", config=config).differences
    lead = table.drop_duplicates("system_a").set_index("system_a")["verdict"]
    assert lead["poor"] == "b_ahead"
    assert lead["twin"] == "tied"


def test_the_test_over_folds_is_the_corrected_one_over_folds_and_seeds(scored: ScoredSet, judged: Judged) -> None:
    cells = {arm: [fold[arm][r] for r in range(2) for fold in scored.by_fold] for arm in ("poor", "full")}
    total = len(scored.truth)
    expected = compare_folds(
        cells, config=ComparisonConfig(metrics=("auroc",), levels=("macro",)), train_rows=round(total * 2 / 3)
    )
    row = judged.differences[judged.differences["system_a"] == "poor"].iloc[0]
    assert row["p_folds"] == pytest.approx(expected.differences["p"].iloc[0])
    shared = replace(scored, by_fold=(scored.by_fold[0], scored.by_fold[0]))
    assert judge(shared, reference="full", config=CONFIG).differences["p_folds"].isna().all(), "folds that share rows"


def test_an_arm_that_calls_nothing_leaves_no_gap_in_the_others(scored: ScoredSet) -> None:
    never = tuple(replace(t, thresholds=dict.fromkeys(t.labels.class_names, 1.0)) for t in scored.tables["poor"])
    found = judge(replace(scored, tables={**scored.tables, "poor": never}), reference="full", config=CONFIG).values
    assert np.isnan(value(found, "poor", "precision", "FTC")["value"])
    assert value(found, "full", "precision", "FTC")["value"] > 0
    assert np.isnan(value(found, "poor", "precision", "FTC")["low"])


def test_a_proportion_of_all_keeps_an_interval(scored: ScoredSet) -> None:
    always = tuple(replace(t, thresholds=dict.fromkeys(t.labels.class_names, 1e-9)) for t in scored.tables["full"])
    found = judge(replace(scored, tables={"full": always}), reference="full", config=CONFIG)
    row = value(found.values, "full", "recall", "FTC")
    assert (row["value"], row["high"]) == (1.0, 1.0)
    assert row["low"] == pytest.approx(0.05 ** (1 / row["positive_patients"]))
    assert found.comparison is None
    assert len(found.differences) == 0


def test_a_class_without_positives_is_no_number(scored: ScoredSet) -> None:
    def emptied(table):
        return replace(table, targets=np.where(np.arange(3) == 1, 0.0, table.targets))

    tables = {arm: tuple(map(emptied, found)) for arm, found in scored.tables.items()}
    folds = tuple({arm: tuple(map(emptied, found)) for arm, found in fold.items()} for fold in scored.by_fold)
    found = judge(replace(scored, tables=tables, by_fold=folds), reference="full", config=CONFIG).values
    for metric in ("auroc", "ap", "f1", "recall"):
        assert np.isnan(value(found, "full", metric, "MTC")["value"]), metric
    assert value(found, "full", "auroc")["support"] == 2


def test_one_tail_group_with_every_class_is_asked_about_once(scored: ScoredSet) -> None:
    lone = replace(CONFIG, tail_rule="list", tail_members={"head": ("FTC", "MTC", "ATC")})
    found = judge(scored, reference="full", config=lone)
    assert not ((found.differences["class"] == "") & (found.differences["tail_group"] != "")).any()
    two = replace(CONFIG, tail_rule="list", tail_members={"head": ("FTC",), "tail": ("MTC", "ATC")})
    found = judge(scored, reference="full", config=two)
    assert {"head", "tail"} <= set(found.differences.loc[found.differences["class"] == "", "tail_group"])
