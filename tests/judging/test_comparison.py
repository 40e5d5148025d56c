"""Comparisons against the judge's own values, DeLong's test, and simulations whose answer is known."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from medtail.errors import MedtailError
from medtail.judging.bootstrap import draw_weights, number_patients
from medtail.judging.comparison import Comparison, ComparisonConfig, compare
from medtail.judging.decisions import decide
from medtail.judging.estimates import estimate
from medtail.judging.evaluation import EvaluationConfig, evaluate
from medtail.judging.paired_tests import delong
from medtail.judging.pvalues import holm, resamples_needed
from medtail.tables.labels import ExclusiveGroup, LabelSpace
from medtail.tables.predictions import Predictions
from medtail.tables.tail import ClassCounts

PREVALENCES = (0.3, 0.1, 0.06, 0.0)
NAMES = ("Effusion", "Nodule", "Hernia", "Never")
COUNTS = ClassCounts(NAMES, (3000, 800, 50, 0), (1500, 400, 25, 0), (10_000,) * 4)


def systems(
    skills: Mapping[str, float],
    *,
    images: int = 300,
    per_patient: int = 3,
    prevalences: Sequence[float] = PREVALENCES,
    seed: int = 0,
) -> dict[str, Predictions]:
    """Systems of known skill that share most of their noise, on images of the same patients."""
    random = np.random.default_rng(seed)
    count, classes = images // per_patient, len(prevalences)
    patient = np.repeat(np.arange(count), per_patient)
    y = (random.random((count, classes)) < np.array(prevalences)).astype(float)[patient]
    shared = random.normal(size=y.shape)
    names = NAMES[:classes]
    made = {}
    for name, skill in skills.items():
        logits = skill * y + 0.7 * shared + 0.7 * random.normal(size=y.shape) - 1
        made[name] = Predictions(
            image_ids=np.array([f"i{k:04d}" for k in range(images)], dtype=object),
            patients=np.array([f"p{k:04d}" for k in patient], dtype=object),
            scores=1 / (1 + np.exp(-logits)),
            targets=y,
            labels=LabelSpace(names),
            folds=np.array(["test"] * images, dtype=object),
            train_counts=COUNTS.select(names),
            name=f"{name}.csv",
        )
    return made


def only(comparison: Comparison, metric: str = "ap", **place: str) -> pd.Series:
    table = comparison.differences
    chosen = table["metric"] == metric
    for column, wanted in ({"class": "", "tail_group": ""} | {k.rstrip("_"): v for k, v in place.items()}).items():
        chosen &= table[column] == wanted
    assert chosen.sum() == 1
    return table[chosen].iloc[0]


@pytest.fixture(scope="module")
def two() -> dict[str, Predictions]:
    return systems({"A": 1.6, "B": 1.0})


@pytest.fixture(scope="module")
def compared(two: dict[str, Predictions]) -> Comparison:
    return compare(two, config=ComparisonConfig(metrics=("ap", "auroc", "f1", "ece", "brier"), bootstrap=600))


def test_values_are_those_of_the_evaluation(two: dict[str, Predictions], compared: Comparison) -> None:
    judged = {name: evaluate(table, config=EvaluationConfig(bootstrap=0)) for name, table in two.items()}
    for _, row in compared.systems.iterrows():
        value = judged[row["system"]].value(row["metric"], class_name=row["class"], tail_group=row["tail_group"])
        assert row["value"] == pytest.approx(value, abs=1e-12, nan_ok=True)
    assert set(compared.systems["tail_group"]) == {"", "head", "medium", "tail"}
    gap = judged["A"].value("auroc") - judged["B"].value("auroc")
    assert only(compared, "auroc")["difference"] == pytest.approx(gap, abs=1e-12)


def test_differences_are_taken_inside_the_same_resamples(two: dict[str, Predictions], compared: Comparison) -> None:
    codes, count = number_patients(two["A"].patients)
    weights = draw_weights(count, resamples=600)
    drawn = [
        estimate(table, called=decide(table), patients=codes, weights=weights).resampled["ap"] for table in two.values()
    ]
    of_hernia = drawn[0][2] - drawn[1][2]
    row = only(compared, class_="Hernia", tail_group="tail")
    assert (row["low"], row["high"]) == pytest.approx(tuple(np.nanquantile(of_hernia, [0.025, 0.975])), abs=1e-12)
    macro = np.nanmean(drawn[0][:3], axis=0) - np.nanmean(drawn[1][:3], axis=0)
    row = only(compared)
    assert (row["low"], row["high"]) == pytest.approx(tuple(np.quantile(macro, [0.025, 0.975])), abs=1e-12)
    fewer = min((macro <= 0).sum(), (macro >= 0).sum())
    assert row["p"] == pytest.approx(min(1.0, 2 * (1 + fewer) / 601), abs=1e-15)
    assert row["smallest_detectable"] == pytest.approx(2.8 * macro.std(ddof=1), rel=1e-12)
    assert row["share_a_better"] == pytest.approx((macro > 0).mean())


def test_a_paired_difference_is_surer_than_two_separate_intervals(compared: Comparison) -> None:
    ranked = compared.systems[(compared.systems["metric"] == "auroc") & (compared.systems["class"] == "Effusion")]
    apart = np.sqrt(((ranked["high"] - ranked["low"]) ** 2).sum())
    row = only(compared, "auroc", class_="Effusion", tail_group="head")
    assert row["high"] - row["low"] < 0.9 * apart


def test_order_of_rows_classes_and_threads_changes_nothing(two: dict[str, Predictions], compared: Comparison) -> None:
    config = ComparisonConfig(metrics=("ap", "auroc", "f1", "ece", "brier"), bootstrap=600)
    turned = two["B"].take(np.random.default_rng(0).permutation(300))
    again = compare({"A": two["A"], "B": turned}, config=config, threads=3)
    pd.testing.assert_frame_equal(again.differences, compared.differences, check_exact=True)
    pd.testing.assert_frame_equal(again.systems, compared.systems, check_exact=True)


def test_exchanging_the_systems_turns_signs_and_verdicts_only(
    two: dict[str, Predictions], compared: Comparison
) -> None:
    config = ComparisonConfig(metrics=("ap", "auroc", "f1", "ece", "brier"), bootstrap=600)
    turned = compare({"B": two["B"], "A": two["A"]}, config=config).differences
    table = compared.differences
    np.testing.assert_array_equal(turned["difference"], -table["difference"])
    np.testing.assert_allclose(turned["low"], -table["high"], rtol=0, atol=1e-15)
    np.testing.assert_array_equal(turned["p_holm"], table["p_holm"])
    swap = {"a": "b", "b": "a"}
    expected = [swap[v[0]] + v[1:] if "ahead" in v else v for v in table["verdict"]]
    assert turned["verdict"].tolist() == expected


def test_lower_calibration_error_is_ahead(two: dict[str, Predictions]) -> None:
    honest = replace(two["A"], scores=np.where(two["A"].targets == 1, 0.7, 0.05) + 0.1 * two["A"].scores)
    found = compare(
        {"loud": replace(honest, scores=np.clip(honest.scores * 1.3 + 0.1, 0, 1)), "honest": honest},
        config=ComparisonConfig(metrics=("brier",), levels=("macro",)),
    )
    row = only(found, "brier")
    assert row["difference"] > 0
    assert row["verdict"] == "b_ahead"
    ranked = found.systems.set_index("system")
    assert ranked["rank"].to_dict() == {"loud": 2.0, "honest": 1.0}
    assert ranked.loc["honest", "share_first"] == 1.0


def test_holm_runs_over_every_question_asked_in_the_call(compared: Comparison) -> None:
    table = compared.differences
    np.testing.assert_array_equal(table["p_holm"], holm(table["p"].to_numpy()))
    assert compared.header["family"]["comparisons"] == int(table["p"].notna().sum())
    assert compared.header["family"]["left_out"] == int(table["p"].isna().sum())


def test_more_questions_draw_more_resamples(two: dict[str, Predictions]) -> None:
    small = compare(two, config=ComparisonConfig(metrics=("ap",), levels=("macro",)))
    assert small.header["bootstrap"]["resamples"] == 1000
    many = compare(
        systems({"A": 1.6, "B": 1.0, "C": 1.0, "D": 0.9}, images=90),
        config=ComparisonConfig(metrics=("ap", "auroc", "f1"), levels=("macro", "class")),
    )
    family = many.header["family"]["comparisons"]
    assert many.header["bootstrap"]["resamples"] >= resamples_needed(family) > 1000
    assert many.header["family"]["smallest_p_holm"] <= 0.05
    assert not [w for w in many.header["warnings"] if "Nothing can be significant" in w]


def test_too_few_resamples_by_the_users_wish_are_said_to_prove_nothing(two: dict[str, Predictions]) -> None:
    found = compare(two, config=ComparisonConfig(metrics=("ap", "auroc"), bootstrap=99))
    assert found.header["bootstrap"]["resamples"] == 99
    warning = next(w for w in found.header["warnings"] if "Nothing can be significant" in w)
    assert f"Draw {resamples_needed(found.header['family']['comparisons'])} resamples" in warning
    assert not found.differences["verdict"].isin(["a_ahead", "b_ahead"]).any()


def test_a_class_without_enough_patients_is_shown_but_not_tested(compared: Comparison) -> None:
    never = compared.differences[compared.differences["class"] == "Never"].set_index("metric")
    assert never.loc["ap", "verdict"] == "undefined"
    assert np.isnan(never.loc["ap", "difference"])
    # calibration needs no positives
    assert not np.isnan(never.loc["brier", "p"])
    few = systems({"A": 3.0, "B": 0.0}, seed=3)
    y = few["A"].targets.copy()
    y[:, 2] = 0
    y[[0, 30, 60, 90], 2] = 1
    few = {name: replace(table, targets=y) for name, table in few.items()}
    found = compare(few, config=ComparisonConfig(metrics=("ap",), levels=("class",), bootstrap=200))
    row = only(found, class_="Hernia", tail_group="tail")
    assert row["verdict"] == "too_few_patients"
    assert not np.isnan(row["difference"])
    assert np.isnan(row["p"])
    assert [w for w in found.header["warnings"] if "Too few patients" in w and "Hernia" in w]


def test_the_same_scores_twice_are_tied_and_noticed(two: dict[str, Predictions]) -> None:
    found = compare({"A": two["A"], "twin": two["A"]}, config=ComparisonConfig(bootstrap=100))
    tested = found.differences[found.differences["p"].notna()]
    assert (tested["p"] == 1.0).all()
    assert (tested["verdict"] == "tied").all()
    assert tested["low"].isna().all()
    assert (found.systems["share_first"].dropna() == 0.5).all()
    assert "'A', 'twin': the same table of scores was given 2 times." in found.header["warnings"]


def test_systems_that_cannot_be_told_apart_share_a_block() -> None:
    made = systems({"best": 2.6, "B": 1.2, "C": 1.15, "D": 1.18, "worst": 0.1}, seed=2)
    found = compare(made, config=ComparisonConfig(metrics=("ap",), levels=("macro",)))
    ranked = found.systems.sort_values("rank").set_index("system")
    assert ranked.index[0] == "best"
    assert ranked.index[-1] == "worst"
    assert ranked["tied_block"].tolist() == [1, 2, 2, 2, 3]
    assert set(ranked.loc["B", "tied_with"].split("; ")) == {"C", "D"}
    assert ranked.loc["best", "tied_with"] == ""
    assert ranked["share_first"].sum() == pytest.approx(1.0)
    assert ranked["mean_rank"].sum() == pytest.approx(15.0)


def test_margins_say_who_loses_less_than_matters(two: dict[str, Predictions]) -> None:
    wide = compare(two, config=ComparisonConfig(metrics=("ap",), levels=("macro",), margins={"ap": 0.9}))
    assert only(wide)["non_inferior"] == "both"
    narrow = compare(two, config=ComparisonConfig(metrics=("ap",), levels=("macro",), margins={"ap": 1e-6}))
    assert only(narrow)["verdict"] == "a_ahead"
    assert only(narrow)["non_inferior"] == "a"


def test_exclusive_groups_have_their_own_metrics(two: dict[str, Predictions]) -> None:
    y = two["A"].targets.copy()
    y[:, 0], y[:, 1] = y[:, 0], 1 - y[:, 0]
    labels = LabelSpace(NAMES, (ExclusiveGroup("kind", NAMES[:2]),))
    tables = {name: replace(table, targets=y, labels=labels) for name, table in two.items()}
    found = compare(tables, config=ComparisonConfig(metrics=("accuracy", "micro_f1"), bootstrap=200))
    assert found.differences["class"].tolist()[0] == "kind"
    called = {name: decide(table)[:, 0] == (y[:, 0] == 1) for name, table in tables.items()}
    gap = called["A"].mean() - called["B"].mean()
    assert only(found, "accuracy", class_="kind")["difference"] == pytest.approx(gap, abs=1e-12)
    assert len(found.differences[found.differences["metric"] == "micro_f1"]) == 1 + 3


# --- seeds ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seeds() -> dict[str, list[Predictions]]:
    made = systems({"A1": 1.2, "A2": 2.0, "A3": 1.6, "B1": 1.0, "B2": 1.1}, seed=4)
    return {"A": [made["A1"], made["A2"], made["A3"]], "B": [made["B1"], made["B2"]]}


def test_seeds_are_averaged_as_values_never_as_scores(seeds: dict[str, list[Predictions]]) -> None:
    found = compare(seeds, config=ComparisonConfig(metrics=("ap",), levels=("macro",), bootstrap=300))
    single = [evaluate(table, config=EvaluationConfig(bootstrap=0)).value("ap") for table in seeds["A"]]
    row = found.systems.set_index("system").loc["A"]
    assert row["value"] == pytest.approx(np.mean(single), abs=1e-12)
    assert row["replicate_sd"] == pytest.approx(np.std(single, ddof=1), abs=1e-12)
    assert row["replicates"] == 3
    of_a = found.replicates[found.replicates["system"] == "A"]
    assert of_a["value"].tolist() == pytest.approx(single, abs=1e-12)
    assert (of_a["low"] < of_a["value"]).all()
    scores = np.mean([table.scores for table in seeds["A"]], axis=0)
    ensemble = evaluate(replace(seeds["A"][0], scores=scores), config=EvaluationConfig(bootstrap=0)).value("ap")
    assert abs(ensemble - row["value"]) > 1e-3
    assert [w for w in found.header["warnings"] if "both the luck of the patients and that of the seeds" in w]
    assert [w for w in found.header["warnings"] if "fewer than 5 seeds" in w]


def test_drawing_seeds_widens_and_adds_the_variance_of_their_mean(seeds: dict[str, list[Predictions]]) -> None:
    config = ComparisonConfig(metrics=("ap",), levels=("macro",), bootstrap=4000)
    drawn = only(compare(seeds, config=config))
    fixed = only(compare(seeds, config=replace(config, seed_draw="fixed")))
    assert drawn["difference"] == fixed["difference"]
    assert drawn["high"] - drawn["low"] > fixed["high"] - fixed["low"]
    single = {
        name: [evaluate(table, config=EvaluationConfig(bootstrap=0)).value("ap") for table in tables]
        for name, tables in seeds.items()
    }
    between = sum(np.var(values, ddof=1) / len(values) for values in single.values())
    added = (drawn["smallest_detectable"] ** 2 - fixed["smallest_detectable"] ** 2) / 2.8**2
    assert added == pytest.approx(between, rel=0.35)


def test_a_system_with_a_single_seed_is_pointed_out(seeds: dict[str, list[Predictions]]) -> None:
    mixed = {"A": seeds["A"], "B": seeds["B"][0]}
    found = compare(mixed, config=ComparisonConfig(metrics=("ap",), levels=("macro",), bootstrap=100))
    assert [w for w in found.header["warnings"] if w.startswith("'B': one training seed only")]


# --- border ---------------------------------------------------------------------------------------------------------


def test_what_cannot_be_compared_is_refused(two: dict[str, Predictions]) -> None:
    with pytest.raises(MedtailError, match=r"found 1 system\(s\); expected two or more"):
        compare({"A": two["A"]})
    with pytest.raises(MedtailError, match="'B': no predictions"):
        compare({"A": two["A"], "B": []})
    with pytest.raises(MedtailError, match="'B, seed 2': has no scores for 1 of"):
        compare({"A": two["A"], "B": [two["B"], two["B"].take(np.arange(299))]})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"metrics": ("aproc",)}, "metric 'aproc': unknown; did you mean 'auroc'"),
        ({"metrics": ("ap", "ap")}, "metric 'ap': named twice"),
        ({"levels": ()}, "levels: none chosen"),
        ({"margins": {"f1": 0.1}, "metrics": ("ap",)}, "margin of 'f1': this metric is not compared"),
        ({"margins": {"ap": -0.1}}, "expected a difference > 0"),
        ({"bootstrap": 0}, "bootstrap 0: expected a number of resamples >= 1"),
        ({"interval": 1.0}, "interval 1.0: expected a share"),
        ({"ece_bins": 0}, "ece_bins 0: expected at least 1"),
        ({"seed_draw": "one"}, "expected hierarchical or fixed"),
    ],
)
def test_a_wrong_config_says_what_is_wrong(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(MedtailError, match=said):
        ComparisonConfig(**wrong)  # type: ignore[arg-type]


def test_files_are_complete_and_strict(compared: Comparison, tmp_path) -> None:
    compared.write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["comparison.csv", "comparison.json", "systems.csv"]
    table = pd.read_csv(tmp_path / "comparison.csv", keep_default_na=False, na_values={"p": [""], "difference": [""]})
    assert list(table.columns)[:11] == [
        "metric", "class", "tail_group", "system_a", "system_b", "difference", "low", "high", "p", "p_holm", "verdict",
    ]  # fmt: skip
    np.testing.assert_allclose(table["difference"], compared.differences["difference"], rtol=1e-15)
    header = json.loads((tmp_path / "comparison.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert header["systems"]["A"][0]["digests"]["predictions"]
    for key in ("seed", "resamples", "scheme"):
        assert key in header["bootstrap"]


def test_the_resamples_come_in_batches_without_changing_the_first(
    two: dict[str, Predictions], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ComparisonConfig(metrics=("ap", "micro_f1"), levels=("macro",), bootstrap=256)
    whole = only(compare(two, config=config))
    monkeypatch.setattr("medtail.judging.paired_draws.BATCH", 128)
    parts = compare(two, config=config)
    again = compare(two, config=config)
    pd.testing.assert_frame_equal(parts.differences, again.differences, check_exact=True)
    half = only(compare(two, config=replace(config, bootstrap=128)))
    monkeypatch.undo()
    assert only(compare(two, config=replace(config, bootstrap=128)))["low"] == half["low"]
    # other resamples beyond the first batch, drawn from the same distribution
    assert only(parts)["low"] != whole["low"]
    assert only(parts)["low"] == pytest.approx(whole["low"], abs=0.03)


# --- oracles and simulations ----------------------------------------------------------------------------------------


def test_with_one_image_a_patient_the_bootstrap_agrees_with_delong() -> None:
    ours, theirs = [], []
    for seed in range(12):
        made = systems({"A": 1.0, "B": 0.8}, per_patient=1, prevalences=(0.3,), seed=seed)
        config = ComparisonConfig(metrics=("auroc",), levels=("class",), bootstrap=2000)
        row = only(compare(made, config=config), "auroc", class_="Effusion", tail_group="head")
        test = delong(made["A"].scores[:, 0], made["B"].scores[:, 0], made["A"].targets[:, 0])
        assert row["difference"] == pytest.approx(test.difference, abs=1e-12)
        assert row["smallest_detectable"] / 2.8 == pytest.approx(test.standard_error, rel=0.1)
        ours.append(row["p"])
        theirs.append(test.p)
    np.testing.assert_allclose(ours, theirs, atol=0.06)


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["ap", "auroc", "brier"])
def test_p_values_are_uniform_where_systems_are_equal(metric: str) -> None:
    config = ComparisonConfig(metrics=(metric,), levels=("class",), bootstrap=399)
    p = []
    for seed in range(500):
        made = systems({"A": 1.0, "B": 1.0}, images=400, per_patient=2, prevalences=(0.3,), seed=seed)
        p.append(only(compare(made, config=config), metric, class_="Effusion", tail_group="head")["p"])
    # 500 draws: a share of .05 lies within .03 to .073 in 99 of 100 simulations
    assert 0.03 <= np.mean(np.array(p) <= 0.05) <= 0.073
    assert stats.kstest(p, "uniform").pvalue > 0.001


@pytest.mark.slow
def test_a_true_difference_of_the_smallest_detectable_size_is_found_in_eight_of_ten() -> None:
    config = ComparisonConfig(metrics=("auroc",), levels=("class",), bootstrap=399)
    found, sizes, detectable = [], [], []
    for seed in range(300):
        made = systems({"A": 1.32, "B": 1.0}, images=400, per_patient=2, prevalences=(0.3,), seed=seed)
        row = only(compare(made, config=config), "auroc", class_="Effusion", tail_group="head")
        found.append(row["verdict"] == "a_ahead")
        sizes.append(row["difference"])
        detectable.append(row["smallest_detectable"])
    ratio = np.mean(sizes) / np.mean(detectable)
    power = stats.norm.cdf(2.8 * ratio - 1.96)
    assert 0.6 < power < 0.95
    assert np.mean(found) == pytest.approx(power, abs=0.08)


@pytest.mark.slow
def test_image_level_resampling_would_find_differences_that_are_not_there() -> None:
    config = ComparisonConfig(metrics=("auroc",), levels=("class",), bootstrap=199)
    by_patient, by_image = [], []
    for seed in range(300):
        random = np.random.default_rng(seed)
        made = systems({"A": 1.0, "B": 1.0}, images=300, per_patient=5, prevalences=(0.3,), seed=seed)
        # a system's luck with a patient is the same in all five images
        luck = {name: 0.25 * np.repeat(random.normal(size=60), 5)[:, None] for name in made}
        made = {
            name: replace(
                table, scores=np.clip(table.scores + luck[name] * table.scores * (1 - table.scores) * 4, 0, 1)
            )
            for name, table in made.items()
        }
        single = {name: replace(table, patients=table.image_ids) for name, table in made.items()}
        by_patient.append(only(compare(made, config=config), "auroc", class_="Effusion", tail_group="head")["p"])
        by_image.append(only(compare(single, config=config), "auroc", class_="Effusion", tail_group="head")["p"])
    assert np.mean(np.array(by_patient) <= 0.05) < 0.12
    assert np.mean(np.array(by_image) <= 0.05) > 1.3 * np.mean(np.array(by_patient) <= 0.05)
