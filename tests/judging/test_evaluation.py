from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score, roc_auc_score

from medtail.config import build_config
from medtail.errors import MedtailError, UsageError
from medtail.judging import bootstrap
from medtail.judging.bootstrap import draw_weights, number_patients
from medtail.judging.evaluation import EvaluationConfig, evaluate
from medtail.judging.intervals import percentile_interval
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions
from medtail.tables.results import Results, read_results
from medtail.tables.tail import ClassCounts

FEW = EvaluationConfig(bootstrap=100)
CLASS_ROWS = {
    "fnr", "fnr_at_half", "balanced_accuracy", "mcc", "npv", "log_loss", "ap_lift", "recall@wilson", "fnr@wilson",
    "specificity@wilson", "n_effective:recall", "n_effective:specificity",
    "ap", "auroc", "f1", "f1_at_half", "precision", "recall", "specificity", "ece", "brier", "threshold", "ap_chance",
    "n_rows", "n_patients", "n_pos", "n_pos_patients", "prevalence", "defined_share:ap", "defined_share:auroc",
}  # fmt: skip


def made_up(*, rows: int = 240, seed: int = 0, counts: bool = True, fold: str = "test") -> Predictions:
    """Four free classes with a long tail and a group of three, two images a patient, a tenth not assessed."""
    random = np.random.default_rng(seed)
    names = ("common", "middle", "rare", "rarest", "shape=a", "shape=b", "shape=c")
    targets = np.zeros((rows, 7))
    targets[:, :4] = random.random((rows, 4)) < [0.4, 0.2, 0.06, 0.03]
    targets[np.arange(rows), 4 + random.integers(0, 3, rows)] = 1
    scores = np.clip(np.rint((0.5 * random.random((rows, 7)) + 0.35 * targets) * 50) / 50, 0, 1)
    targets[random.random((rows, 7)) < 0.1] = np.nan
    seen = (4000, 800, 60, 9, 3000, 3000, 3000)
    return Predictions(
        image_ids=np.array([f"i{row}" for row in range(rows)], dtype=object),
        patients=np.array([f"p{row // 2}" for row in range(rows)], dtype=object),
        scores=scores,
        targets=targets,
        labels=LabelSpace.from_columns(names),
        folds=np.array([fold] * rows, dtype=object),
        train_counts=ClassCounts(names, seen, seen, (10_000,) * 7) if counts else None,
        name="made_up.csv",
    )


def numbers(predictions: Predictions, config: EvaluationConfig = FEW) -> pd.DataFrame:
    return evaluate(predictions, config=config).frame


def test_every_class_has_every_row() -> None:
    results = evaluate(made_up(), config=FEW)
    for name in made_up().labels.class_names:
        assert set(results.frame.loc[results.frame["class"] == name, "metric"]) == CLASS_ROWS
    assert set(results.frame.loc[results.frame["class"] == "shape", "metric"]) == {
        "accuracy",
        "balanced_accuracy",
        "macro_f1",
    }
    assert not results.frame.duplicated(["metric", "class", "tail_group", "subgroup"]).any()


def test_values_equal_scikit_learn() -> None:
    predictions = made_up()
    results = evaluate(predictions, config=FEW, thresholds=dict.fromkeys(predictions.labels.class_names, 0.3))
    for c, name in enumerate(predictions.labels.class_names[:4]):
        kept = ~np.isnan(predictions.targets[:, c])
        y, s = predictions.targets[kept, c], predictions.scores[kept, c]
        assert results.value("ap", class_name=name) == pytest.approx(average_precision_score(y, s), abs=1e-12)
        assert results.value("auroc", class_name=name) == pytest.approx(roc_auc_score(y, s), abs=1e-12)
        assert results.value("f1", class_name=name) == pytest.approx(f1_score(y, s >= 0.3), abs=1e-12)
        assert results.value("f1_at_half", class_name=name) == pytest.approx(f1_score(y, s >= 0.5), abs=1e-12)
        assert results.value("n_pos", class_name=name) == y.sum()
    kept = (predictions.targets[:, 4:] == 1).sum(axis=1) == 1
    true, called = predictions.targets[kept, 4:] == 1, predictions.scores[kept, 4:].argmax(axis=1)
    expected = balanced_accuracy_score(true.argmax(axis=1), called)
    assert results.value("balanced_accuracy", class_name="shape") == pytest.approx(expected, abs=1e-12)
    expected = f1_score(true.argmax(axis=1), called, average="macro")
    assert results.value("macro_f1", class_name="shape") == pytest.approx(expected, abs=1e-12)


def test_intervals_are_those_of_a_slow_loop_over_resampled_rows() -> None:
    predictions = made_up()
    results = evaluate(predictions, config=FEW)
    codes, count = number_patients(predictions.patients)
    weights = draw_weights(count, resamples=100).matrix()
    kept = ~np.isnan(predictions.targets[:, 0])
    y, s = predictions.targets[kept, 0], predictions.scores[kept, 0]
    drawn: dict[str, list[float]] = {"ap": [], "f1_at_half": [], "brier": []}
    for b in range(100):
        times = weights[codes[kept], b].astype(int)
        rows_y, rows_s = np.repeat(y, times), np.repeat(s, times)
        drawn["ap"].append(average_precision_score(rows_y, rows_s))
        drawn["f1_at_half"].append(f1_score(rows_y, rows_s >= 0.5))
        drawn["brier"].append(float(np.mean((rows_y - rows_s) ** 2)))
    for metric, values in drawn.items():
        row = results.rows(metric, class_name="common").iloc[0]
        assert (row["low"], row["high"]) == pytest.approx(percentile_interval(np.array(values)), abs=1e-10)


def test_an_absent_class_is_counted_and_left_out_never_scored_zero() -> None:
    predictions = made_up()
    whole = evaluate(predictions, config=FEW)
    targets = predictions.targets.copy()
    targets[:, 3] = np.where(np.isnan(targets[:, 3]), np.nan, 0.0)
    results = evaluate(replace(predictions, targets=targets), config=FEW)
    for metric in ("ap", "auroc", "f1", "recall", "ap_chance"):
        assert np.isnan(results.value(metric, class_name="rarest"))
    assert results.value("n_pos", class_name="rarest") == 0
    assert results.header["unsupported"] == ["rarest"]
    assert float(results.rows("ap", class_name="", tail_group="")["support"].iloc[0]) == 6
    others = [whole.value("ap", class_name=n) for n in predictions.labels.class_names if n != "rarest"]
    assert results.value("ap") == pytest.approx(np.mean(others))
    assert any("No positive row for 1 class: rarest" in warning for warning in results.header["warnings"])


def test_masking_one_class_never_changes_another() -> None:
    predictions = made_up()
    targets = predictions.targets.copy()
    targets[:, 0] = np.nan
    before, after = numbers(predictions), numbers(replace(predictions, targets=targets))
    for name in predictions.labels.class_names[1:]:
        pd.testing.assert_frame_equal(before[before["class"] == name], after[after["class"] == name])


def test_tail_groups_weighted_by_size_make_the_macro() -> None:
    results = evaluate(made_up(), config=FEW)
    rows = results.rows("auroc", class_name="")
    parts = rows[rows["tail_group"] != ""]
    assert parts["support"].tolist() == [4, 1, 2]
    assert np.average(parts["value"], weights=parts["support"]) == pytest.approx(results.value("auroc"))
    assert results.header["tail"]["groups"]["rarest"] == "tail"


def test_without_train_counts_there_are_no_tail_rows_and_a_warning_says_how_to_get_them() -> None:
    results = evaluate(made_up(counts=False), config=FEW)
    assert set(results.frame["tail_group"]) == {""}
    assert results.header["tail"] is None
    assert any("--truth" in warning for warning in results.header["warnings"])


def test_listed_tail_groups_need_no_train_counts() -> None:
    predictions = made_up(counts=False)
    members = {"head": predictions.labels.class_names[:3], "tail": predictions.labels.class_names[3:]}
    results = evaluate(predictions, config=EvaluationConfig(bootstrap=10, tail_rule="list", tail_members=members))
    assert float(results.rows("ap", class_name="", tail_group="tail")["support"].iloc[0]) == 4
    assert np.isnan(results.value("ap", tail_group="medium"))


def test_row_order_changes_no_interval_and_no_value() -> None:
    random = np.random.default_rng(0)
    predictions = made_up()
    patients = np.array([f"p{row // 12}" for row in range(240)], dtype=object)
    predictions = replace(predictions, scores=random.random((240, 7)), patients=patients)
    shuffled = predictions.take(random.permutation(240))
    before, after = numbers(predictions), numbers(shuffled)
    pd.testing.assert_frame_equal(before, after, rtol=0, atol=1e-12)
    # resampled sums are exact, so the intervals agree to the last bit
    assert before[["low", "high"]].to_numpy().tobytes() == after[["low", "high"]].to_numpy().tobytes()


def test_doubling_every_row_changes_no_value_and_no_interval() -> None:
    predictions = made_up()
    twice = predictions.take(np.tile(np.arange(len(predictions)), 2))
    before, after = numbers(predictions), numbers(twice)
    # a proportion is never worth more rows than there are: where images of a patient disagree, doubling lifts that
    counted = before["metric"].isin(["n_rows", "n_pos", "ap_chance"])
    counted |= before["metric"].str.contains("wilson|n_effective")
    columns = ["metric", "class", "tail_group", "value", "low", "high"]
    pd.testing.assert_frame_equal(before.loc[~counted, columns], after.loc[~counted, columns], rtol=0, atol=1e-10)


@pytest.mark.parametrize("scheme", ["multinomial", "bayesian"])
def test_one_thread_and_two_give_the_same_bytes(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "COMPILED_FROM", 0)
    config = EvaluationConfig(bootstrap=150, scheme="bayesian" if scheme == "bayesian" else "multinomial")
    one, two = (evaluate(made_up(), config=config, threads=threads) for threads in (1, 2))
    assert one.frame.to_csv() == two.frame.to_csv()
    assert json.dumps(one.header, sort_keys=True) == json.dumps(two.header, sort_keys=True)


def test_patients_widen_intervals_when_their_images_agree() -> None:
    predictions = made_up(rows=300)
    same = np.repeat(np.arange(0, 300, 10), 10)
    predictions = replace(
        predictions,
        scores=predictions.scores[same],
        targets=predictions.targets[same],
        patients=np.array([f"p{row // 10}" for row in range(300)], dtype=object),
    )
    images = replace(predictions, patients=predictions.image_ids, has_patients=False)
    wide = evaluate(predictions, config=FEW).rows("auroc", class_name="common").iloc[0]
    narrow = evaluate(images, config=FEW).rows("auroc", class_name="common").iloc[0]
    assert wide["high"] - wide["low"] > 2 * (narrow["high"] - narrow["low"])


def test_unknown_patients_are_said_so() -> None:
    predictions = made_up()
    results = evaluate(replace(predictions, patients=predictions.image_ids, has_patients=False), config=FEW)
    assert results.header["bootstrap"]["unit"] == "image"
    assert any("Patients are unknown" in warning for warning in results.header["warnings"])


def test_proportions_without_a_miss_get_the_rule_of_three_on_patients() -> None:
    predictions = made_up()
    scores = predictions.scores.copy()
    scores[:, 2] = np.where(predictions.targets[:, 2] == 1, 0.9, 0.1)
    results = evaluate(replace(predictions, scores=scores), config=FEW)
    row = results.rows("recall", class_name="rare").iloc[0]
    patients = results.value("n_pos_patients", class_name="rare")
    assert (row["value"], row["high"]) == (1.0, 1.0)
    assert row["low"] == pytest.approx(0.05 ** (1 / patients))
    assert any("fully separated for 1 class: rare" in warning for warning in results.header["warnings"])


def test_a_negative_verdict_that_never_failed_counts_the_patients_it_was_given_to() -> None:
    predictions = made_up()
    scores = predictions.scores.copy()
    scores[:, 2] = np.where(predictions.targets[:, 2] == 0, 0.1, 0.9)
    scores[:100, 2] = 0.9  # false alarms, but nobody missed
    results = evaluate(replace(predictions, scores=scores), config=FEW)
    row = results.rows("npv", class_name="rare").iloc[0]
    passed = (scores[:, 2] < 0.5) & ~np.isnan(predictions.targets[:, 2])
    assert (row["value"], row["high"]) == (1.0, 1.0)
    assert row["low"] == pytest.approx(0.05 ** (1 / len(set(predictions.patients[passed]))))


def test_few_positives_hard_scores_and_constant_scores_are_said_in_words() -> None:
    predictions = made_up()
    scores = predictions.scores.copy()
    scores[:, 0], scores[:, 1] = scores[:, 0] >= 0.5, 0.25
    targets = predictions.targets.copy()
    targets[:, 3] = 0
    targets[0, 3] = 1
    said = evaluate(replace(predictions, scores=scores, targets=targets), config=FEW).header["warnings"]
    assert any("rarest (1)" in warning and "too short even so" in warning for warning in said)
    assert any("Unstable intervals for 1 class: rarest" in warning for warning in said)
    assert any("Only the scores 0 and 1 for 1 class: common" in warning for warning in said)
    assert any("The same score in every row for 1 class: middle" in warning for warning in said)


@pytest.mark.parametrize(
    ("fold", "words"),
    [("train", "train fold"), ("tune", "choices made on them"), ("reward", "reward fold"), ("", "fold of the rows")],
)
def test_folds_that_flatter_are_said_so(fold: str, words: str) -> None:
    assert any(words in warning for warning in evaluate(made_up(fold=fold), config=FEW).header["warnings"])


def test_thresholds_say_where_they_are_from() -> None:
    predictions = made_up()
    names = predictions.labels.class_names
    chosen = replace(predictions, thresholds=dict.fromkeys(names, 0.2))
    assert evaluate(predictions, config=FEW).header["thresholds"]["source"] == "fixed 0.5"
    assert evaluate(chosen, config=FEW).header["thresholds"]["source"] == "tune"
    given = evaluate(chosen, config=FEW, thresholds=dict.fromkeys(names, 0.7))
    assert given.header["thresholds"]["source"] == "given"
    assert given.value("threshold", class_name="rare") == 0.7


def test_all_mistakes_in_given_thresholds_are_named_at_once() -> None:
    thresholds = dict.fromkeys(made_up().labels.class_names, 0.5) | {"common": 7.0, "rares": 0.5}
    del thresholds["rarest"]
    with pytest.raises(MedtailError, match=r"(?s)'common': found 7.0.*'rarest': missing.*did you mean 'rarest'"):
        evaluate(made_up(), config=FEW, thresholds=thresholds)


def test_no_rows_are_refused() -> None:
    with pytest.raises(MedtailError, match=r"made_up.csv: no rows to judge"):
        evaluate(made_up().take(np.zeros(240, dtype=bool)))


def test_without_resamples_there_are_values_and_no_intervals() -> None:
    results = evaluate(made_up(), config=EvaluationConfig(bootstrap=0))
    assert results.value("auroc", class_name="common") > 0.5
    assert results.frame[["low", "high"]].isna().all().all()
    assert not results.frame["metric"].str.startswith("defined_share").any()


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 12),
    patients=st.integers(1, 4),
    share=st.sampled_from([0.0, 0.3, 1.0]),
    missing=st.sampled_from([0.0, 0.5, 1.0]),
    levels=st.sampled_from([1, 3]),
)
def test_nothing_is_too_degenerate_to_judge(
    seed: int, rows: int, patients: int, share: float, missing: float, levels: int
) -> None:
    random = np.random.default_rng(seed)
    targets = (random.random((rows, 4)) < share).astype(float)
    targets[:, 3] = np.where(targets[:, 2] == 1, 0, targets[:, 3])
    targets[random.random((rows, 4)) < missing] = np.nan
    ids = np.array([f"i{row}" for row in range(rows)], dtype=object)
    owners = np.array([f"p{patient}" for patient in random.integers(0, patients, rows)], dtype=object)
    labels = LabelSpace.from_columns(["x", "y", "t=a", "t=b"])
    scores = random.integers(0, levels + 1, (rows, 4)) / levels
    predictions = Predictions(ids, owners, scores, targets, labels, np.array(["test"] * rows, dtype=object))
    results = evaluate(predictions, config=EvaluationConfig(bootstrap=20))
    known = results.frame.dropna(subset=["low"])
    # a percentile interval of a biased metric may miss its own value; it must still be an interval
    assert (known["low"] <= known["high"]).all()
    assert (results.frame.loc[results.frame["metric"] != "mcc", "value"].dropna() >= 0).all()
    json.dumps(results.header, allow_nan=False)


def test_a_multiclass_task_is_judged_by_its_highest_scores() -> None:
    random = np.random.default_rng(0)
    true = random.integers(0, 3, 90)
    ids = np.array([f"i{row}" for row in range(90)], dtype=object)
    scores = random.dirichlet(np.ones(3), 90)
    labels = LabelSpace.from_columns(["k=a", "k=b", "k=c"])
    predictions = Predictions(ids, ids, scores, np.eye(3)[true], labels, np.array(["test"] * 90, dtype=object))
    results = evaluate(predictions, config=FEW)
    expected = f1_score(true, scores.argmax(axis=1), average="macro")
    assert results.value("macro_f1", class_name="k") == pytest.approx(expected)
    assert results.value("f1") == pytest.approx(expected)
    assert results.value("accuracy", class_name="k") == pytest.approx(np.mean(true == scores.argmax(axis=1)))
    assert results.header["task"] == "multiclass"


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_results_survive_a_file(ending: str, tmp_path: Path) -> None:
    results = evaluate(made_up(), config=FEW)
    results.write(tmp_path / f"results.{ending}")
    again = read_results(tmp_path / f"results.{ending}")
    pd.testing.assert_frame_equal(again.frame, results.frame)
    assert again.header == results.header


def test_a_config_comes_from_yaml_with_its_mistakes_named() -> None:
    config = build_config(EvaluationConfig, {"bootstrap": 5, "tail_cuts": [0.2, 0.1]}, where="e.yaml")
    assert (config.bootstrap, config.tail_cuts) == (5, (0.2, 0.1))
    with pytest.raises(UsageError, match="did you mean 'bootstrap'"):
        build_config(EvaluationConfig, {"bootstrp": 5}, where="e.yaml")
    with pytest.raises(UsageError, match="share in"):
        build_config(EvaluationConfig, {"interval": 1.5}, where="e.yaml")


@pytest.mark.parametrize("wrong", [{"bootstrap": -1}, {"interval": 0.0}, {"ece_bins": 0}])
def test_impossible_settings_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(MedtailError, match="expected"):
        EvaluationConfig(**wrong)  # type: ignore[arg-type]


def test_the_judge_imports_no_torch_no_compiler_and_no_oracle() -> None:
    script = (
        "import sys, medtail.judging.evaluation, medtail.judging.summary\n"
        "print([name for name in ('torch', 'numba', 'sklearn', 'scipy', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_is_missed_is_one_less_recall_with_its_interval_turned_round() -> None:
    results = evaluate(made_up(), config=FEW)
    for name in ("common", "rare"):
        missed, found = (results.rows(metric, class_name=name).iloc[0] for metric in ("fnr", "recall"))
        assert missed["value"] == pytest.approx(1 - found["value"])
        assert (missed["low"], missed["high"]) == pytest.approx((1 - found["high"], 1 - found["low"]))


def test_wilson_stands_beside_the_bootstrap_and_is_wider_than_independent_rows_would_make_it() -> None:
    predictions = made_up(rows=300)
    same = np.repeat(np.arange(0, 300, 5), 5)  # five equal images a patient
    predictions = replace(
        predictions,
        scores=predictions.scores[same],
        targets=predictions.targets[same],
        patients=np.array([f"p{row // 5}" for row in range(300)], dtype=object),
    )
    results = evaluate(predictions, config=FEW, thresholds=dict.fromkeys(predictions.labels.class_names, 0.4))
    row, boot = (results.rows(name, class_name="common").iloc[0] for name in ("recall@wilson", "recall"))
    assert row["value"] == boot["value"]
    assert row["high"] - row["low"] == pytest.approx(boot["high"] - boot["low"], rel=0.35)
    worth = results.value("n_effective:recall", class_name="common")
    patients = results.value("n_pos_patients", class_name="common")
    assert worth == pytest.approx(patients - 1, rel=0.01)  # K/(K-1) of the variance of K independent patients


def test_groups_weigh_alike_in_the_mean_of_groups() -> None:
    results = evaluate(made_up(), config=FEW)
    row = results.rows("mean_of_tail_groups:ap").iloc[0]
    parts = [results.value("ap", tail_group=group) for group in ("head", "medium", "tail")]
    assert row["value"] == pytest.approx(np.mean(parts))
    assert row["support"] == 3
    assert row["low"] < row["value"] < row["high"]


def test_a_group_that_cannot_be_judged_leaves_the_mean_of_groups() -> None:
    predictions = made_up(counts=False)
    members = {"head": predictions.labels.class_names[:3], "tail": predictions.labels.class_names[3:]}
    results = evaluate(predictions, config=EvaluationConfig(bootstrap=10, tail_rule="list", tail_members=members))
    assert results.rows("mean_of_tail_groups:ap").iloc[0]["support"] == 2


def test_the_tail_is_pooled_into_one_question() -> None:
    results = evaluate(made_up(), config=FEW)
    assert {"any_finding_ap", "any_finding_auroc", "micro_ap"} <= set(
        results.frame.loc[(results.frame["tail_group"] == "tail") & (results.frame["class"] == ""), "metric"]
    )
    positives = sum(results.value("n_pos", class_name=name) for name in ("rare", "rarest"))
    assert results.rows("micro_ap", tail_group="tail").iloc[0]["support"] == positives
    assert "micro_ap" not in set(evaluate(made_up(counts=False), config=FEW).frame["metric"])


def test_critical_classes_have_a_mean_false_negative_rate_of_their_own() -> None:
    config = EvaluationConfig(bootstrap=100, critical=("rare", "middle"))
    predictions = made_up()
    results = evaluate(predictions, config=config, thresholds=dict.fromkeys(predictions.labels.class_names, 0.4))
    for name, metric in (("critical_fnr", "fnr"), ("critical_fnr_at_half", "fnr_at_half")):
        expected = np.mean([results.value(metric, class_name=c) for c in ("rare", "middle")])
        row = results.rows(name).iloc[0]
        assert row["value"] == pytest.approx(expected)
        assert (row["support"], row["class"]) == (2, "")
        assert row["low"] < row["value"] < row["high"]
    assert results.value("critical_fnr") != results.value("critical_fnr_at_half")
    with pytest.raises(MedtailError, match="critical class 'midle': no such class; did you mean 'middle'"):
        evaluate(predictions, config=EvaluationConfig(bootstrap=10, critical=("midle",)))


def absent_class() -> Predictions:
    predictions = made_up()
    targets = predictions.targets.copy()
    targets[:, 3] = np.where(np.isnan(targets[:, 3]), np.nan, 0.0)
    return replace(predictions, targets=targets)


def test_absent_classes_can_be_refused() -> None:
    with pytest.raises(MedtailError, match=r"made_up.csv, no positive row for 1 of 7 classes: rarest.*absent: nan"):
        evaluate(absent_class(), config=EvaluationConfig(bootstrap=10, absent="error"))
    evaluate(made_up(), config=EvaluationConfig(bootstrap=10, absent="error"))


def test_absent_classes_count_zero_only_when_asked_and_it_is_said() -> None:
    left_out, zero = (
        evaluate(absent_class(), config=EvaluationConfig(bootstrap=50, absent=absent)) for absent in ("nan", "zero")
    )  # type: ignore[arg-type]
    assert zero.value("auroc") == pytest.approx(left_out.value("auroc") * 6 / 7)
    assert zero.rows("auroc", class_name="", tail_group="").iloc[0]["support"] == 7
    assert zero.value("ap", class_name="rarest") == 0.0
    assert np.isnan(zero.rows("ap", class_name="rarest").iloc[0]["low"])
    assert any("count as 0 in the averages, as asked" in warning for warning in zero.header["warnings"])
    assert not any("count as 0" in warning for warning in left_out.header["warnings"])
    before, after = (found.frame[found.frame["class"] == "common"] for found in (left_out, zero))
    pd.testing.assert_frame_equal(before, after)


def test_strata_are_named_and_hold_rare_classes_in_every_resample() -> None:
    plain, strata = (evaluate(made_up(), config=EvaluationConfig(bootstrap=300, strata=s)) for s in (None, "rarest"))  # type: ignore[arg-type]
    assert plain.header["bootstrap"]["strata"] is None
    assert strata.header["bootstrap"]["strata"] == "rarest"
    assert any("inside strata" in warning for warning in strata.header["warnings"])
    name = "defined_share:ap"
    assert strata.value(name, class_name="rarest") == 1.0 >= plain.value(name, class_name="rarest")

    def width(results: Results) -> float:
        row = results.rows("ap_lift", class_name="rare").iloc[0]
        return float(row["high"] - row["low"])

    assert width(strata) < width(plain)


def test_bca_intervals_differ_keep_the_values_and_say_where_they_could_not_be() -> None:
    percentile, bca = (
        evaluate(made_up(), config=EvaluationConfig(bootstrap=300, interval_method=method))
        for method in ("percentile", "bca")
    )  # type: ignore[arg-type]
    pd.testing.assert_frame_equal(percentile.frame[["metric", "value"]], bca.frame[["metric", "value"]])
    first, second = (found.rows("ap", class_name="rare").iloc[0] for found in (percentile, bca))
    assert (first["low"], first["high"]) != (second["low"], second["high"])
    assert bca.header["bootstrap"]["interval_method"] == "bca"
    assert bca.header["bootstrap"]["jackknife_groups"] == 100
    scores = made_up().scores.copy()
    scores[:, 0] = np.where(made_up().targets[:, 0] == 1, 0.9, 0.1)
    perfect = evaluate(replace(made_up(), scores=scores), config=EvaluationConfig(bootstrap=50, interval_method="bca"))
    # all resamples equal a perfect AP: half of them count as below, and the interval has no width
    assert perfect.rows("ap", class_name="common").iloc[0]["low"] == 1.0


def test_subgroups_stand_in_the_same_table() -> None:
    predictions = made_up(rows=400)
    sex = np.array(["F", "M"], dtype=object)[np.arange(400) // 2 % 2]
    results = evaluate(predictions, config=FEW, by={"sex": sex})
    assert {"sex=F", "sex=M"} <= set(results.frame["subgroup"])
    assert results.header["subgroups"]["columns"] == ["sex"]
    plain = evaluate(predictions, config=FEW)
    compared = results.frame["metric"].str.startswith("n_comparisons")
    overall = results.frame[(results.frame["subgroup"] == "") & ~compared].reset_index(drop=True)
    pd.testing.assert_frame_equal(overall, plain.frame)
    assert results.value("auroc") == plain.value("auroc")
