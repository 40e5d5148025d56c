"""The rules behind the plain words, one by one."""

from __future__ import annotations

from typing import Any

import pytest

from medtail.reporting.facts import UNKNOWN, ClassFacts, Estimate, group_facts
from medtail.reporting.summary import caveats, state, summarise, verdict
from medtail.tables.results import results_from_rows


def facts(**changes: Any) -> ClassFacts:
    """A class that ranks clearly better than chance, changed as told."""
    values: dict[str, Any] = {
        "name": "Halo", "tail_group": "tail", "train_images": 55, "train_patients": 50, "n_rows": 200, "n_pos": 40,
        "n_patients": 150, "n_pos_patients": 30, "n_neg_patients": 120, "prevalence": 0.2,
        "ap": Estimate(0.41, 0.30, 0.55, 40), "auroc": Estimate(0.74, 0.61, 0.85, 40), "f1": Estimate(0.4, 0.3, 0.5),
        "recall": Estimate(0.5), "precision": Estimate(0.4), "specificity": Estimate(0.8), "ece": Estimate(0.1),
        "brier": Estimate(0.1), "ap_chance": 0.21, "threshold": 0.3, "defined_share": 1.0, "found": 20, "alarms": 50,
        "by_threshold": True,
    }  # fmt: skip
    return ClassFacts(**(values | changes))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "better"),
        ({"n_pos": 0, "n_pos_patients": 0, "ap": Estimate(), "auroc": Estimate()}, "no positives"),
        ({"n_pos": 200, "n_neg_patients": 0, "auroc": Estimate()}, "no negatives"),
        ({"ap": Estimate()}, "not judged"),
        ({"n_pos_patients": 4}, "too few"),
        ({"n_neg_patients": 4}, "too few"),
        ({"n_pos_patients": 5}, "better"),
        ({"ap": Estimate(0.41)}, "no interval"),
        ({"auroc": Estimate(0.74)}, "no interval"),
        # each of the two conditions alone is not enough, and touching the line is not beyond it
        ({"auroc": Estimate(0.6, 0.50, 0.7)}, "inconclusive"),
        ({"ap": Estimate(0.3, 0.21, 0.5)}, "inconclusive"),
        ({"auroc": Estimate(0.3, 0.2, 0.49)}, "worse"),
        ({"auroc": Estimate(0.3, 0.2, 0.50)}, "inconclusive"),
    ],
)
def test_rules_give_the_verdict(changes: dict[str, Any], expected: str) -> None:
    assert verdict(facts(**changes)) == expected


def test_better_than_chance_is_said_with_every_number() -> None:
    said = state(facts(), fold="test", has_patients=True)
    assert said.class_name + said.text == (
        "Halo (55 train images): ranks better than chance. AP 0.41 [0.30–0.55] against 0.21 by chance, "
        "AUROC 0.74 [0.61–0.85], from 30 positive patients. "
        "At its threshold it finds 20 of 40 positive images; 20 of its 50 alarms are right."
    )
    assert said.caveats == ()


def test_absent_class_is_said_to_be_left_out_not_counted_as_zero() -> None:
    absent = facts(n_pos=0, n_pos_patients=0, ap=Estimate(), auroc=Estimate(), defined_share=0.0)
    said = state(absent, fold="test", has_patients=True)
    assert "no positive patient in the test fold: nothing can be said" in said.text
    assert "not counted as 0" in said.text
    assert "0.00" not in said.text
    assert said.caveats == ()


def test_inconclusive_says_so_and_never_better() -> None:
    said = state(facts(ap=Estimate(0.4, 0.1, 0.7)), fold="test", has_patients=True)
    assert "inconclusive" in said.text
    assert "better" not in said.text


def test_decisions_inside_an_exclusive_group_are_not_called_thresholds() -> None:
    said = state(facts(by_threshold=False, alarms=0, found=0), fold="test", has_patients=True)
    assert said.text.endswith(
        "By the highest score of its group it finds 0 of 40 positive images and raises no alarm at all."
    )


def test_without_patients_images_are_counted_and_named() -> None:
    said = state(facts(), fold="", has_patients=False)
    assert "from 40 positive images" in said.text
    assert "patient" not in said.text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_images": 0}, "Never seen in training"),
        ({"train_images": 9}, "Only 9 positive images in training"),
        ({"n_pos_patients": 19}, "Fewer than 20 positive patients"),
        ({"n_neg_patients": 19}, "Fewer than 20 negative patients"),
        ({"n_pos_patients": 19, "n_neg_patients": 19}, "Fewer than 20 positive and negative patients"),
        ({"defined_share": 0.9}, "Undefined in 10 % of the resamples"),
    ],
)
def test_caveats_limit_what_is_said(changes: dict[str, Any], words: str) -> None:
    assert any(words in caveat for caveat in caveats(facts(**changes), has_patients=True))


def test_enough_patients_and_unknown_training_need_no_caveat() -> None:
    assert caveats(facts(n_pos_patients=20, train_images=UNKNOWN), has_patients=True) == ()


def test_conclusions_are_sorted_into_can_and_cannot() -> None:
    good, poor = facts(), facts(name="Poor", auroc=Estimate(0.5, 0.4, 0.6))
    absent = facts(name="Gone", tail_group="head", n_pos=0, n_pos_patients=0, ap=Estimate())
    other = facts(name="Head", tail_group="head")
    classes = [other, absent, good, poor]
    summary = summarise(
        classes, group_facts(classes, results_from_rows([])), rare=[good, poor], rare_word="tail", fold="test",
        has_patients=True,
    )  # fmt: skip
    assert [s.class_name for s in summary.can] == ["Halo"]
    # a class without positives is named even when it is not rare in training
    assert [s.class_name for s in summary.cannot] == ["Poor", "Gone"]
    assert summary.overview[0] == "Of the 2 tail classes: 1 better than chance, 1 inconclusive."
    assert summary.others == ("Of the other 2 classes, 1 ranks better than chance: Head.",)


@pytest.mark.parametrize(
    ("fold", "has_patients", "words"),
    [
        ("train", True, "trained on"),
        ("tune", True, "optimistic"),
        ("", True, "not named"),
        ("test", False, "Patients are not known"),
    ],
)
def test_doubtful_folds_and_unknown_patients_are_said_aloud(fold: str, has_patients: bool, words: str) -> None:
    def overview(cautioned: bool) -> str:
        return " ".join(
            summarise(
                [facts()], [], rare=[facts()], rare_word="tail", fold=fold, has_patients=has_patients,
                cautioned=cautioned,
            ).overview
        )  # fmt: skip

    assert words in overview(cautioned=False)
    assert words not in overview(cautioned=True)


def test_many_classes_bring_the_warning_about_luck() -> None:
    classes = [facts(name=f"c{i}") for i in range(40)]
    overview = summarise(classes, [], rare=classes[:2], rare_word="tail", fold="test", has_patients=True).overview
    assert any("among 40 classes without any skill, about 1 class would" in sentence for sentence in overview)
