"""What is asked is settled by the truth, before any score is read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medtail.errors import MedtailError
from medtail.judging.bootstrap import number_patients
from medtail.judging.questions import FEWEST_PATIENTS, LEVELS, METRICS, Question, ask
from medtail.tables.labels import ExclusiveGroup, LabelSpace
from medtail.tables.predictions import Predictions
from medtail.tables.tail import TailGroups

GROUPS = TailGroups({"a": "head", "b": "tail", "c": "tail"}, "list", ())


def truth(positive_patients: tuple[int, int, int] = (20, 6, 0)) -> Predictions:
    y = np.zeros((80, 3))
    for c, count in enumerate(positive_patients):
        y[: 2 * count, c] = 1
    ids = np.array([f"i{k}" for k in range(80)], dtype=object)
    patients = np.array([f"p{k // 2:02d}" for k in range(80)], dtype=object)
    return Predictions(ids, patients, np.full(y.shape, 0.5), y, LabelSpace(("a", "b", "c")), ids)


def asked(table: Predictions, *metrics: str, groups: TailGroups | None = GROUPS, **options: object) -> list[Question]:
    codes, _ = number_patients(table.patients)
    chosen = {"levels": LEVELS} | options
    return ask(table, metrics=metrics, patients=codes, groups=groups, **chosen)  # type: ignore[arg-type]


def test_a_metric_is_asked_of_all_classes_each_tail_group_and_each_class() -> None:
    found = [(q.level, q.class_name, q.tail_group) for q in asked(truth(), "ap")]
    assert found == [
        ("macro", "", ""), ("group", "", "head"), ("group", "", "tail"), ("class", "a", "head"), ("class", "b", "tail"),
        ("class", "c", "tail"),
    ]  # fmt: skip
    assert [q.level for q in asked(truth(), "ap", groups=None, levels=("macro", "group"))] == ["macro"]
    assert {q.level for q in asked(truth(), "micro_f1")} == {"macro", "group"}


def test_scores_decide_nothing_about_the_questions() -> None:
    table = truth()
    other = replace(table, scores=np.random.default_rng(0).random((80, 3)))
    assert asked(table, "ap", "brier") == asked(other, "ap", "brier")


@pytest.mark.parametrize("metric", ["ap", "auroc", "f1", "recall"])
def test_patients_not_images_make_a_question_answerable(metric: str) -> None:
    few = truth((20, FEWEST_PATIENTS - 1, 0))
    found = {q.class_name: q.obstacle for q in asked(few, metric, levels=("class",))}
    assert found == {"a": "", "b": "too_few_patients", "c": "undefined"}
    enough = {q.class_name: q.obstacle for q in asked(truth((20, FEWEST_PATIENTS, 0)), metric, levels=("class",))}
    assert enough["b"] == ""


def test_ranking_needs_patients_without_the_finding_too() -> None:
    nearly_all = truth((40 - FEWEST_PATIENTS + 1, 6, 6))
    assert asked(nearly_all, "auroc", levels=("class",))[0].obstacle == "too_few_patients"
    assert asked(nearly_all, "specificity", levels=("class",))[0].obstacle == "too_few_patients"
    assert asked(nearly_all, "ap", levels=("class",))[0].obstacle == ""


def test_a_mean_pools_the_patients_of_its_classes() -> None:
    rare = truth((3, 0, 0))
    y = rare.targets.copy()
    y[10:16, 1] = 1
    together = asked(replace(rare, targets=y), "ap")
    assert {q.class_name: q.obstacle for q in together if q.level == "class"}["a"] == "too_few_patients"
    assert together[0].obstacle == ""


def test_calibration_needs_no_positives() -> None:
    assert [q.obstacle for q in asked(truth((0, 0, 0)), "brier", "ece")] == [""] * 12


def test_metrics_of_exclusive_groups_are_asked_of_the_groups() -> None:
    table = truth()
    grouped = replace(table, labels=LabelSpace(("a", "b", "c"), (ExclusiveGroup("kind", ("a", "b")),)))
    found = asked(grouped, "accuracy")
    assert [(q.level, q.class_name, q.among) for q in found] == [("macro", "kind", (0, 1))]
    with pytest.raises(MedtailError, match="nothing to compare; metrics accuracy"):
        asked(table, "accuracy")


def test_every_metric_can_be_asked() -> None:
    table = truth()
    grouped = replace(table, labels=LabelSpace(("a", "b", "c"), (ExclusiveGroup("kind", ("a", "b")),)))
    assert {q.metric for q in asked(grouped, *METRICS)} == set(METRICS)
