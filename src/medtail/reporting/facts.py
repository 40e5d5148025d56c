"""What a report says about each class and tail group, gathered from Results, Predictions and the model's card.

The one place that looks numbers up; the summary, the tables and the figures read these records and nothing else,
so they cannot disagree. A number nobody computed is NaN here and a dash on the page.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from medtail.judging.decisions import decide
from medtail.tables.manifest import Manifest
from medtail.tables.predictions import Predictions
from medtail.tables.results import Results
from medtail.tables.tail import TAIL_GROUPS, ClassCounts, count_classes

NAN = float("nan")
UNKNOWN = -1
"""A count nobody gave; printed as a dash."""


@final
@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; NaN where undefined.

    Example:
        >>> Estimate(0.412, 0.3, 0.547).text(), Estimate(0.5).text(), Estimate().text()
        ('0.41 [0.30–0.55]', '0.50', '–')
    """

    value: float = NAN
    low: float = NAN
    high: float = NAN
    support: float = NAN

    @property
    def is_defined(self) -> bool:
        """Whether there is a value."""
        return not np.isnan(self.value)

    @property
    def has_interval(self) -> bool:
        """Whether there is a value with both ends."""
        return self.is_defined and not (np.isnan(self.low) or np.isnan(self.high))

    def interval(self) -> str:
        """Return `[low–high]`, or nothing without an interval."""
        return f"[{number(self.low)}–{number(self.high)}]" if self.has_interval else ""

    def text(self) -> str:
        """Return the value and its interval for a sentence."""
        return f"{number(self.value)} {self.interval()}".strip()


def number(value: float, *, digits: int = 2) -> str:
    """Write a number with fixed digits, NaN as a dash.

    Example:
        >>> number(0.4149), number(0.0012), number(0.0012, digits=3), number(float("nan"))
        ('0.41', '<0.01', '0.001', '–')
    """
    if np.isnan(value):
        return "–"
    smallest = 10.0**-digits
    return f"<{smallest:.{digits}f}" if 0 < value < smallest / 2 else f"{value:.{digits}f}"


@final
@dataclass(frozen=True)
class ClassFacts:
    """All that is known about one class.

    Attributes:
        name: Full class name.
        tail_group: `head`, `medium`, `tail`, or "" where train counts are unknown.
        train_images: Positive real train images; `UNKNOWN` if nobody said.
        train_patients: Their patients.
        n_rows: Judged images where the class was assessed.
        n_pos: Positive ones among them.
        n_patients: Patients of the assessed images.
        n_pos_patients: Patients with a positive image.
        n_neg_patients: Patients with a negative image.
        prevalence: n_pos / n_rows.
        ap, auroc, f1, recall, precision, specificity, ece, brier: Estimates; threshold metrics at `threshold`.
        ap_chance: Expected AP of a random order.
        threshold: Score at or above which the class is called present.
        defined_share: Share of resamples in which AP was defined; NaN if not computed.
        found: Positive images that are called.
        alarms: Assessed images that are called.
        by_threshold: Whether a call is "score >= threshold"; else the highest score of its exclusive group is called.
    """

    name: str
    tail_group: str
    train_images: int
    train_patients: int
    n_rows: int
    n_pos: int
    n_patients: int
    n_pos_patients: int
    n_neg_patients: int
    prevalence: float
    ap: Estimate
    auroc: Estimate
    f1: Estimate
    recall: Estimate
    precision: Estimate
    specificity: Estimate
    ece: Estimate
    brier: Estimate
    ap_chance: float
    threshold: float
    defined_share: float
    found: int
    alarms: int
    by_threshold: bool

    @property
    def n_neg(self) -> int:
        """Negative judged images."""
        return self.n_rows - self.n_pos


@final
@dataclass(frozen=True)
class GroupFacts:
    """The macro values of one tail group, or of all classes.

    Attributes:
        name: `head`, `medium`, `tail` or `all`.
        members: Its classes.
        averaged: Those that could be judged; values are means over them.
        excluded: Those that could not (no positive, or no negative, among the judged images).
        metrics: Metric name → estimate, its support the number of classes averaged.
    """

    name: str
    members: tuple[str, ...]
    averaged: tuple[str, ...]
    excluded: tuple[str, ...]
    metrics: Mapping[str, Estimate]


MACRO_METRICS = ("ap", "auroc", "f1", "recall", "precision", "ece")


def estimate(results: Results, metric: str, *, class_name: str = "", tail_group: str | None = None) -> Estimate:
    """Look one value up; an empty Estimate where Results has no such row."""
    group = "" if tail_group is None and not class_name else tail_group
    found = results.rows(metric, class_name=class_name, tail_group=group)
    if not len(found):
        return Estimate()
    row = found.iloc[0]
    return Estimate(float(row["value"]), float(row["low"]), float(row["high"]), float(row["support"]))


def find_train_counts(
    predictions: Predictions, results: Results, card: Mapping[str, Any] | None, manifest: Manifest | None
) -> ClassCounts | None:
    """Return the train counts from wherever they are known, the nearest to the model first."""
    for value in ((card or {}).get("train_counts"), results.header.get("train_counts")):
        if isinstance(value, Mapping) and value:
            return ClassCounts.from_json(value)
    if predictions.train_counts is not None:
        return predictions.train_counts
    if manifest is not None and bool((manifest.folds == "train").any()):
        return count_classes(manifest)
    return None


def decision_thresholds(predictions: Predictions, results: Results) -> np.ndarray:
    """Return the thresholds the results were made with, float64 [C]; the predictions' own where there is no row."""
    own = predictions.threshold_array
    used = [estimate(results, "threshold", class_name=name).value for name in predictions.labels.class_names]
    return np.where(np.isnan(used), own, used)


def class_facts(predictions: Predictions, results: Results, *, counts: ClassCounts | None) -> list[ClassFacts]:
    """Gather every class's facts, commonest in training first (then by judged positives, then by name).

    Counts come from the targets themselves, so they are right even where Results lacks a row.
    """
    limits = decision_thresholds(predictions, results)
    decided = decide(predictions, thresholds=limits)
    seen = {name: i for i, name in enumerate(counts.class_names)} if counts is not None else {}
    gathered = []
    for column, name in enumerate(predictions.labels.class_names):
        target = predictions.targets[:, column]
        assessed, positive = ~np.isnan(target), target == 1
        n_rows, n_pos = int(assessed.sum()), int(positive.sum())
        groups = results.frame.loc[(results.frame["class"] == name) & (results.frame["tail_group"] != ""), "tail_group"]
        at = counts is not None and name in seen
        called = assessed & decided[:, column]
        gathered.append(
            ClassFacts(
                name=name,
                tail_group=str(groups.iloc[0]) if len(groups) else "",
                train_images=counts.images[seen[name]] if counts is not None and at else UNKNOWN,
                train_patients=counts.patients[seen[name]] if counts is not None and at else UNKNOWN,
                n_rows=n_rows,
                n_pos=n_pos,
                n_patients=len(set(predictions.patients[assessed])),
                n_pos_patients=len(set(predictions.patients[positive])),
                n_neg_patients=len(set(predictions.patients[target == 0])),
                prevalence=n_pos / n_rows if n_rows else NAN,
                ap=estimate(results, "ap", class_name=name),
                auroc=estimate(results, "auroc", class_name=name),
                f1=estimate(results, "f1", class_name=name),
                recall=estimate(results, "recall", class_name=name),
                precision=estimate(results, "precision", class_name=name),
                specificity=estimate(results, "specificity", class_name=name),
                ece=estimate(results, "ece", class_name=name),
                brier=estimate(results, "brier", class_name=name),
                ap_chance=estimate(results, "ap_chance", class_name=name).value,
                threshold=float(limits[column]),
                defined_share=estimate(results, "defined_share:ap", class_name=name).value,
                found=int((called & positive).sum()),
                alarms=int(called.sum()),
                by_threshold=column in predictions.labels.free_indices,
            )
        )
    return sorted(gathered, key=lambda facts: (-facts.train_images, -facts.n_pos, facts.name))


def group_facts(classes: list[ClassFacts], results: Results) -> list[GroupFacts]:
    """Gather head, medium, tail (those that have classes) and all."""
    gathered = []
    for group in (*TAIL_GROUPS, "all"):
        members = [facts for facts in classes if group in ("all", facts.tail_group)]
        if not members:
            continue
        averaged = tuple(facts.name for facts in members if facts.ap.is_defined)
        metrics = {
            metric: estimate(results, metric, tail_group="" if group == "all" else group) for metric in MACRO_METRICS
        }
        gathered.append(
            GroupFacts(
                name=group,
                members=tuple(facts.name for facts in members),
                averaged=averaged,
                excluded=tuple(facts.name for facts in members if facts.name not in averaged),
                metrics=metrics,
            )
        )
    return gathered


def rare_classes(classes: list[ClassFacts]) -> tuple[list[ClassFacts], str]:
    """Choose the classes the report looks at closely, and say which they are.

    The tail group; where no class is in it, the rarest third (at least three, or all), by train images if known,
    else by judged positives. Rarest first.

    Returns:
        The classes, and words for "the … classes".
    """
    rarest_first = sorted(
        classes, key=lambda f: (f.train_images if f.train_images != UNKNOWN else f.n_pos, f.n_pos, f.name)
    )
    tail = [facts for facts in rarest_first if facts.tail_group == "tail"]
    if tail:
        return tail, "tail"
    return rarest_first[: max(3, -(-len(classes) // 3))], "rarest"
