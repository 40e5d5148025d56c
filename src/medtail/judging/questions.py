"""What a comparison asks: a metric, at a place (all classes, a tail group, one class), with the evidence behind it.

The questions are settled from the truth alone, before any score is read: how many there are decides how many
resamples are needed, and which ones have too few patients to be answered cannot depend on the answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, final

import numpy as np

from medtail.errors import MedtailError, Problems, did_you_mean
from medtail.judging.estimates import GROUP_METRICS
from medtail.tables.predictions import Predictions
from medtail.tables.tail import TAIL_GROUPS, TailGroups

Level = Literal["macro", "group", "class"]
LEVELS: tuple[Level, ...] = ("macro", "group", "class")
CLASS_METRICS = ("ap", "auroc", "f1", "f1_at_half", "precision", "recall", "specificity", "ece", "brier")
"""Compared class by class, and as means over classes."""
POOLED_METRICS = ("micro_f1",)
"""Compared over all cells of several classes only."""
METRICS = (*CLASS_METRICS, *POOLED_METRICS, *GROUP_METRICS)
LOWER_IS_BETTER = frozenset({"ece", "brier"})
CALIBRATION = frozenset({"ece", "brier"})
AT_THRESHOLDS = frozenset({"f1", "precision", "recall", "specificity", "micro_f1", *GROUP_METRICS})
"""Metrics that depend on each system's own thresholds."""
FEWEST_PATIENTS = 5
"""Below this many patients with (or without) a finding a difference is shown but not tested: with n patients that all
agree, chance alone does so in 2 of 2^n cases, 12 % at n = 4."""


@final
@dataclass(frozen=True)
class Question:
    """One number to compare.

    Attributes:
        metric: One of `METRICS`.
        level: `macro`, `group` (head, medium, tail) or `class`.
        class_name: "" for means; the exclusive group's name for its own metrics.
        tail_group: "" for all classes.
        among: Columns it is about.
        obstacle: Why it cannot be tested: "" if it can, `undefined` or `too_few_patients`.
    """

    metric: str
    level: Level
    class_name: str
    tail_group: str
    among: tuple[int, ...]
    obstacle: str = ""

    @property
    def lower_is_better(self) -> bool:
        """Whether a smaller value is the better one."""
        return self.metric in LOWER_IS_BETTER

    @property
    def place(self) -> dict[str, str]:
        """The columns that name it in a table."""
        return {"metric": self.metric, "class": self.class_name, "tail_group": self.tail_group}


def check_choice(metrics: Sequence[str], levels: Sequence[str], margins: Mapping[str, float]) -> None:
    """Check the names of metrics and levels and the margins of a comparison.

    Raises:
        MedtailError: An unknown or repeated name, no metric or no level, a margin that is not positive or belongs to
            a metric that is not compared.

    Example:
        >>> check_choice(["ap"], ["macro"], {"ap": 0.02})
    """
    problems = Problems("comparison")
    for what, chosen, known in (("metric", metrics, METRICS), ("level", levels, LEVELS)):
        if not chosen:
            problems.add(f"{what}s: none chosen; expected at least one of {', '.join(known)}.")
        for name in dict.fromkeys(chosen):
            if name not in known:
                problems.add(f"{what} {name!r}: unknown{did_you_mean(name, known) or '; expected ' + ', '.join(known)}")
            elif list(chosen).count(name) > 1:
                problems.add(f"{what} {name!r}: named twice; asked once is enough.")
    for name, margin in margins.items():
        if name not in metrics:
            problems.add(f"margin of {name!r}: this metric is not compared{did_you_mean(name, metrics) or '.'}")
        if not margin > 0:
            problems.add(f"margin of {name!r}: found {margin!r}; expected a difference > 0.")
    problems.raise_if_any()


def ask(
    truth: Predictions,
    *,
    metrics: Sequence[str],
    levels: Sequence[str],
    patients: np.ndarray,
    groups: TailGroups | None,
    fewest_patients: int = FEWEST_PATIENTS,
) -> list[Question]:
    """List the questions of a comparison and what stands in their way.

    Args:
        truth: Any of the paired tables; its scores are not read.
        metrics: Names from `METRICS`.
        levels: Names from `LEVELS`. Metrics of exclusive groups belong to `macro`, pooled ones to `macro` and `group`.
        patients: Patient numbers, int [N].
        groups: Tail groups; None leaves the level `group` out.
        fewest_patients: Patients on each side below which a question is not tested.

    Returns:
        Questions in the order macro, groups, classes, within each metric as given.

    Raises:
        MedtailError: Nothing is left to ask.

    Example:
        >>> from medtail.tables.labels import LabelSpace
        >>> ids, y = np.arange(12).astype(str).astype(object), np.arange(12.0)[:, None] % 2
        >>> table = Predictions(ids, ids, y, y, LabelSpace(("Hernia",)), ids)
        >>> found = ask(table, metrics=["ap"], levels=["macro", "class"], patients=np.arange(12), groups=None)
        >>> [(question.class_name, question.obstacle) for question in found]
        [('', ''), ('Hernia', '')]
    """
    names = truth.labels.class_names
    everywhere = tuple(range(len(names)))
    found: list[Question] = []
    for metric in metrics:
        if metric in GROUP_METRICS:
            if "macro" in levels:
                found += [
                    Question(metric, "macro", group.name, "", indices)
                    for group, indices in zip(truth.labels.groups, truth.labels.group_indices, strict=True)
                ]
            continue
        if "macro" in levels:
            found.append(Question(metric, "macro", "", "", everywhere))
        if "group" in levels and groups is not None:
            members = {
                group: tuple(i for i in everywhere if groups.group_of[names[i]] == group) for group in TAIL_GROUPS
            }
            found += [Question(metric, "group", "", group, among) for group, among in members.items() if among]
        if "class" in levels and metric in CLASS_METRICS:
            group_of = groups.group_of if groups is not None else dict.fromkeys(names, "")
            found += [Question(metric, "class", name, group_of[name], (i,)) for i, name in enumerate(names)]
    if not found:
        raise MedtailError(
            f"comparison: nothing to compare; metrics {', '.join(metrics)} at levels {', '.join(levels)} do not exist"
            f" for these classes. Metrics of exclusive groups need a group and the level 'macro'; tail groups need"
            f" train counts."
        )
    evidence = _Evidence.of(truth, patients)
    return [evidence.judge(question, fewest_patients) for question in found]


@final
@dataclass(frozen=True)
class _Evidence:
    """Which patients have a finding, lack it, or were assessed for it: bool [K, C] each."""

    positive: np.ndarray
    negative: np.ndarray

    @staticmethod
    def of(truth: Predictions, patients: np.ndarray) -> _Evidence:
        shape = (int(patients.max(initial=-1)) + 1, truth.labels.num_classes)
        positive, negative = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
        np.logical_or.at(positive, patients, truth.targets == 1)
        np.logical_or.at(negative, patients, truth.targets == 0)
        return _Evidence(positive, negative)

    def judge(self, question: Question, fewest: int) -> Question:
        among, metric = list(question.among), question.metric
        positive, negative = self.positive[:, among], self.negative[:, among]
        needs_positive = metric not in CALIBRATION and metric != "specificity" and metric not in GROUP_METRICS
        needs_negative = metric in ("auroc", "specificity")
        # a mean is over the classes that define the metric; only their patients are its evidence
        defined = (positive | negative).any(axis=0)
        defined &= positive.any(axis=0) if needs_positive else True
        defined &= negative.any(axis=0) if needs_negative else True
        sides = [positive | negative]
        sides += [positive] if needs_positive else []
        sides += [negative] if needs_negative else []
        counts = [int(side[:, defined].any(axis=1).sum()) for side in sides]
        obstacle = "undefined" if not defined.any() else ("too_few_patients" if min(counts) < fewest else "")
        return Question(metric, question.level, question.class_name, question.tail_group, question.among, obstacle)
