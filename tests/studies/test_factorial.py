"""Factorials: exact effects of known tables, designs that are none, and findings that follow the intervals."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medtail.config import build_config
from medtail.errors import MedtailError, UsageError
from medtail.judging.paired_draws import Answer
from medtail.judging.pvalues import holm
from medtail.judging.questions import Question
from medtail.studies.ablation import run_study, show_study
from medtail.studies.config import FixedFolds, JudgeConfig, StudyConfig
from medtail.studies.factorial import Design, combine, design_of, effects_of, findings, weights_of
from medtail.studies.protocol import begin, read_study

ARMS = ("none", "A", "B", "C", "AB", "AC", "BC", "ABC")
FACTORS = {factor: [arm for arm in ARMS if factor in arm and arm != "none"] for factor in "ABC"}
MACRO = Question("f1", "macro", "", "", (0, 1))


def answer(
    values: dict[str, float], *, noise: float = 0.0, arms: tuple[str, ...] = ARMS, draws: int = 4000, seed: int = 0
) -> Answer:
    """Values of the arms; in each resample all of them are shifted alike (the patients), and each by its own noise."""
    random = np.random.default_rng(seed)
    table = np.array([values[arm] for arm in arms])
    shared = random.normal(scale=0.2, size=draws)
    own = random.normal(scale=noise, size=(len(arms), draws))
    return Answer(table, table[:, None] + shared + own, (), 20, np.empty((len(arms), 0)))


def table_of(base: float, main: dict[str, float], pair: dict[str, float] | None = None) -> dict[str, float]:
    found = {}
    for arm in ARMS:
        there = set(arm) if arm != "none" else set()
        total = base + sum(worth for factor, worth in main.items() if factor in there)
        total += sum(worth for two, worth in (pair or {}).items() if set(two) <= there)
        found[arm] = total
    return found


def value(effects: pd.DataFrame, effect: str) -> float:
    (row,) = effects[effects["effect"] == effect].to_dict("records")
    return float(row["value"])


def test_an_additive_table_has_exactly_its_main_effects_and_no_interaction() -> None:
    design = design_of(FACTORS, ARMS)
    values = table_of(0.4, {"A": 0.03, "B": -0.01, "C": 0.002})
    found = effects_of({MACRO: answer(values)}, ARMS, design, interval=0.95, together=True).table
    assert list(found["effect"]) == ["A", "B", "C", "A x B", "A x C", "B x C", "A x B x C"]
    assert [value(found, name) for name in "ABC"] == pytest.approx([0.03, -0.01, 0.002], abs=1e-15)
    assert found["value"].iloc[3:].abs().max() < 1e-15
    # the patients' luck falls on all arms alike and cancels in every contrast
    assert (found["high"].iloc[0] - found["low"].iloc[0]) < 1e-12 or np.isnan(found["low"].iloc[0])


def test_an_interaction_is_how_much_more_a_factor_is_worth_where_the_other_is() -> None:
    design = design_of(FACTORS, ARMS)
    values = table_of(0.4, {"A": 0.03, "B": 0.0, "C": 0.01}, {"AB": 0.04, "ABC": 0.08})
    found = effects_of({MACRO: answer(values)}, ARMS, design, interval=0.95, together=True).table
    # coded +-1/2: a worth of the pair counts half in each of its factors, one of the three a quarter
    assert value(found, "A") == pytest.approx(0.03 + 0.04 / 2 + 0.08 / 4)
    assert value(found, "A x B") == pytest.approx(0.04 + 0.08 / 2)
    assert value(found, "A x C") == pytest.approx(0.08 / 2)
    assert value(found, "A x B x C") == pytest.approx(0.08)


def test_contrasts_are_the_coefficients_of_the_half_coded_regression() -> None:
    design = design_of(FACTORS, ARMS)
    values = np.random.default_rng(1).normal(size=8)
    codes = np.array([[0.5 if factor in arm and arm != "none" else -0.5 for factor in "ABC"] for arm in ARMS])
    columns = [np.ones(8)] + [
        np.prod(codes[:, list(term)], axis=1) for order in (1, 2, 3) for term in combinations(range(3), order)
    ]
    expected = np.linalg.lstsq(np.stack(columns, axis=1), values, rcond=None)[0][1:]
    weights = [weights_of(design.contrast(term), ARMS) for term in design.terms]
    assert np.array(weights) @ values == pytest.approx(expected)
    assert [weight.sum() for weight in weights] == pytest.approx([0.0] * 7, abs=1e-15)


def test_effects_are_corrected_for_all_that_are_asked() -> None:
    design = design_of(FACTORS, ARMS)
    tail = Question("f1", "group", "", "tail", (1,))
    made = answer(table_of(0.4, {"A": 0.03, "B": 0.0, "C": 0.0}), noise=0.01)
    answers = {MACRO: made, tail: answer(table_of(0.2, {"A": 0.0, "B": 0.02, "C": 0.0}), noise=0.012)}
    one = effects_of(answers, ARMS, design, interval=0.95, together=True).table
    np.testing.assert_allclose(one["p_holm"], holm(one["p"].to_numpy()))
    assert dict(zip(one["effect"], one["verdict"], strict=True))["A x B"] == "tied"
    assert one[(one["effect"] == "A") & (one["tail_group"] == "")]["verdict"].tolist() == ["a_ahead"]
    apart = effects_of(answers, ARMS, design, interval=0.95, together=False).table
    np.testing.assert_allclose(apart["p_holm"].iloc[:7], holm(apart["p"].iloc[:7].to_numpy()))
    few = effects_of({replace(MACRO, obstacle="too_few_patients"): made}, ARMS, design, interval=0.95, together=True)
    assert set(few.table["verdict"]) == {"too_few_patients"}
    assert few.table["p"].isna().all()


def test_a_lower_error_is_better() -> None:
    found = effects_of(
        {Question("ece", "macro", "", "", (0,)): answer(table_of(0.2, {"A": -0.05, "B": 0.05, "C": 0.0}), noise=0.01)},
        ARMS,
        design_of(FACTORS, ARMS),
        interval=0.95,
        together=True,
    ).table
    assert dict(zip(found["effect"], found["verdict"], strict=True)) == {
        "A": "a_ahead", "B": "b_ahead", "C": "tied", "A x B": "tied", "A x C": "tied", "B x C": "tied",
        "A x B x C": "tied",
    }  # fmt: skip


def gains(noise: float = 0.004, **by_place: dict[str, float]) -> dict[Question, Answer]:
    places = {
        "macro": MACRO, "head": Question("f1", "group", "", "head", (0,)),
        "medium": Question("f1", "group", "", "medium", (1,)), "tail": Question("f1", "group", "", "tail", (1,)),
        "micro": Question("micro_f1", "macro", "", "", (0, 1)),
    }  # fmt: skip
    return {
        places[place]: answer(table_of(0.4, main), noise=noise, seed=list(places).index(place))
        for place, main in by_place.items()
    }


EVEN = {"A": 0.02, "B": 0.02, "C": 0.02}
TAIL = {"A": 0.05, "B": 0.05, "C": 0.05}
BODY = {"A": 0.03, "B": 0.03, "C": 0.03}
HEAD = {"A": 0.0, "B": 0.0, "C": 0.0}


def held(answers: dict[Question, Answer]) -> dict[str, str]:
    found = findings(answers, ARMS, design_of(FACTORS, ARMS), interval=0.95)
    names = [*"ABC", "best", "micro", "order", "head"]
    return {name: one.holds for name, one in zip(names, found, strict=False)}


def test_findings_hold_where_the_numbers_are_as_expected() -> None:
    micro = {"A": 0.01, "B": 0.01, "C": 0.01}
    answers = gains(noise=0.001, macro=EVEN, tail=TAIL, medium=BODY, head=HEAD, micro=micro)
    found = findings(answers, ARMS, design_of(FACTORS, ARMS), interval=0.95)
    assert [one.holds for one in found] == ["holds"] * 7
    assert "macro F1 +0.020 [+0.01" in found[0].sentence
    assert "the best of them is" in found[3].sentence
    assert "2.0 times as much [1." in found[4].sentence
    assert "tail > medium > head" in found[5].claim


def test_a_factor_that_costs_the_head_more_than_half_a_point_does_not_earn_its_place() -> None:
    answers = gains(macro=EVEN, tail=TAIL, head={"A": -0.006, "B": -0.004, "C": 0.0})
    found = held(answers)
    assert (found["A"], found["B"], found["C"]) == ("does not hold", "holds", "holds")
    # the fourth to last: all together, -.010 of the head
    kept = findings(answers, ARMS, design_of(FACTORS, ARMS), interval=0.95)[-1]
    assert kept.holds == "not shown"
    b = findings(answers, ARMS, design_of(FACTORS, ARMS), interval=0.95)[1]
    assert b.sentence.endswith("a larger loss of the head is not excluded")


def test_what_is_within_noise_is_not_shown_and_what_is_contrary_does_not_hold() -> None:
    wide = held(gains(noise=0.2, macro=EVEN, tail=TAIL, medium=BODY, head=HEAD, micro=EVEN))
    assert {wide[name] for name in ("A", "B", "C", "best", "micro", "order", "head")} == {"not shown"}
    macro, micro = {"A": 0.02, "B": 0.02, "C": -0.03}, {"A": 0.1, "B": 0.1, "C": 0.0}
    contrary = held(gains(macro=macro, tail=TAIL, medium=BODY, head=TAIL, micro=micro))
    assert contrary["A"] == "holds"
    assert [contrary[name] for name in ("C", "best", "micro", "order")] == ["does not hold"] * 4


def test_without_a_gain_in_micro_f1_no_ratio_is_given() -> None:
    answers = gains(macro=EVEN, tail=TAIL, head=HEAD, micro={"A": 0.0, "B": 0.0, "C": 0.0})
    micro = findings(answers, ARMS, design_of(FACTORS, ARMS), interval=0.95)[4]
    assert micro.holds == "holds"
    assert "so no ratio is given" in micro.sentence
    assert "times as much" not in micro.sentence


def test_what_was_not_judged_is_said() -> None:
    assert findings({}, ARMS, design_of(FACTORS, ARMS), interval=0.95) == ()
    found = held(gains(macro=EVEN))
    assert [found[name] for name in ("A", "micro", "order")] == ["cannot be judged"] * 3
    assert "head" not in found


def test_arms_outside_a_design_weigh_nothing() -> None:
    arms = ("other", "b", "ab", "none", "a")
    made = answer({"other": 9.0, "none": 0.1, "a": 0.2, "b": 0.4, "ab": 0.8}, arms=arms)
    design = Design(("A", "B"), design_of({"A": ["a", "ab"], "B": ["b", "ab"]}, arms[1:]).arms)
    assert combine(made, weights_of(design.contrast(["A"]), arms))[0] == pytest.approx((0.1 + 0.4) / 2)


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({"A": ["A"]}, "factors, found 1; expected 2 to 5"),
        ({"A": ["A", "AB"], "B": ["BB", "AB"]}, r"factors, B: no arm 'BB'; did you mean"),
        ({"A": ["A", "AB", "A"], "B": ["B", "AB"]}, "factors, A: 'A' is named twice"),
        ({"A": ["A"], "B": ["B"]}, r"arms 'none', 'AB' have no factor all alike"),
        ({"A": ["A", "AB", "none"], "B": ["B", "AB"]}, "no arm has no factor; expected every combination"),
    ],
)  # fmt: skip
def test_what_is_no_full_factorial_is_refused(factors: dict[str, list[str]], message: str) -> None:
    with pytest.raises(MedtailError, match=message):
        design_of(factors, ["none", "A", "B", "AB"])


def test_a_studys_file_says_its_factors_and_its_mistakes() -> None:
    values = {"base": "a.yaml", "arms": {"none": {}, "a": {}, "b": {}}, "factors": {"A": ["a"], "B": ["b"]}}
    with pytest.raises(UsageError, match=r"no arm has A and B and nothing else; expected every combination"):
        build_config(StudyConfig, values, where="study.yaml")
    values["arms"]["ab"] = {}  # type: ignore[index]
    values["factors"] = {"A": ["a", "ab"], "B": ["b", "ab"]}
    assert build_config(StudyConfig, values, where="study.yaml").factors["A"] == ("a", "ab")


FOUR = {"none": {}, "a": {"loss.kind": "focal"}, "b": {"loss.kind": "asl"}, "ab": {"test_time_flip": True}}
TWO = {"A": ("a", "ab"), "B": ("b", "ab")}


def test_a_finished_study_gets_its_effects_without_a_further_training(make_study, fill, tmp_path: Path) -> None:
    judge = JudgeConfig(bootstrap=60, metrics=("auroc",), levels=("macro",))
    study, root = make_study(overrides=FOUR, reference="none", folds=FixedFolds(), judge=judge), tmp_path / "out"
    begin(study, root)
    fill(study, root)
    before = run_study(study, root, quiet=True)
    assert not (root / "effects.csv").exists()
    kept = {path: path.stat().st_mtime_ns for path in (root / "cells").rglob("*") if path.is_file()}
    after = run_study(replace(study, factors=TWO), root, quiet=True)
    assert {path: path.stat().st_mtime_ns for path in (root / "cells").rglob("*") if path.is_file()} == kept
    assert read_study(root).factors == TWO
    effects = pd.read_csv(root / "effects.csv", keep_default_na=False, na_values=["nan"])
    # F1 is asked of a factorial, whatever its study asks; the differences stay those of the study
    assert set(effects["metric"]) == {"auroc", "f1", "micro_f1"}
    assert set(after.judged[0].differences["metric"]) == set(before.judged[0].differences["metric"]) == {"auroc"}
    values = after.judged[0].values
    macro = values[(values["metric"] == "f1") & (values["class"] == "") & (values["tail_group"] == "")]
    of = dict(zip(macro["arm"], macro["value"], strict=True))
    macro = effects[(effects["metric"] == "f1") & (effects["class"] == "") & (effects["tail_group"] == "")]
    found = dict(zip(macro["effect"], macro["value"].astype(float), strict=True))
    assert found["A"] == pytest.approx((of["a"] + of["ab"] - of["none"] - of["b"]) / 2)
    assert found["A x B"] == pytest.approx(of["ab"] - of["a"] - of["b"] + of["none"])
    assert "earns its place" in (root / "study.md").read_text()
    assert "Main effects and interactions" in (root / "study.html").read_text()
    assert "earns its place" in after.summary


def test_no_effects_are_told_before_every_arm_has_scores(make_study, fill, tmp_path: Path) -> None:
    study = make_study(overrides=FOUR, reference="none", folds=FixedFolds(), factors=TWO, seeds=(0,))
    root = tmp_path / "out"
    begin(study, root)
    fill(study, root, only="none/")
    fill(study, root, only="a/")
    _, _, text = show_study(root)
    assert "earns its place" not in text
    fill(study, root)
    assert "earns its place" in show_study(root)[2]
