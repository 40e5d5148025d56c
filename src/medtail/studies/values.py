"""The values of a study: of each arm every metric at every place, with its interval and its spread over single models.

All arms meet the same resampled patients; several training seeds are drawn with them (`judging.paired_draws`), so an
interval holds what other patients and another training would change.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import pandas as pd

from medtail.judging.bootstrap import draw_weights, number_patients, patient_sums, resample_sums
from medtail.judging.counts import ratio
from medtail.judging.intervals import mean_of_defined, percentile_interval, unanimous_interval
from medtail.judging.paired_draws import PairedDraws, draw_seed_weights, draw_systems
from medtail.judging.questions import LEVELS, Level, Question, ask
from medtail.seeding import stream_seed
from medtail.studies.config import JudgeConfig
from medtail.studies.decoding import Decoding
from medtail.studies.scores import ScoredSet
from medtail.tables.predictions import Predictions
from medtail.tables.tail import TAIL_GROUPS, TailGroups

RANKED = ("auroc", "ap")
CUT = ("precision", "recall", "specificity")
"""Read at the chosen thresholds and, under `NAME_at_half`, at 0.5; so are `accuracy` and `f1`."""
VALUE_COLUMNS = (
    "judged", "arm", "metric", "class", "tail_group", "value", "low", "high", "seeds", "seed_sd", "cells", "cell_mean",
    "cell_sd", "support", "images", "patients", "positives", "positive_patients",
)  # fmt: skip


@final
@dataclass(frozen=True)
class How:
    """How scores are judged.

    Attributes:
        config: The study's settings.
        decoding: Its rule of decisions.
        groups: Tail groups of the classes; None where unknown.
        threads: Worker threads; no effect on the numbers.
    """

    config: JudgeConfig
    decoding: Decoding
    groups: TailGroups | None
    threads: int | None


def questions_of(
    truth: Predictions,
    metrics: Sequence[str],
    levels: Sequence[Level],
    patients: np.ndarray,
    groups: TailGroups | None,
) -> list[Question]:
    """Return what is asked; the mean of a tail group that holds every class is no further question."""
    found = ask(truth, metrics=metrics, levels=levels, patients=patients, groups=groups)
    everywhere = tuple(range(len(truth.labels.class_names)))
    is_asked = {question.metric for question in found if question.level == "macro"}
    return [q for q in found if not (q.level == "group" and q.among == everywhere and q.metric in is_asked)]


def values_of(scored: ScoredSet, patients: np.ndarray, how: How, resamples: int) -> pd.DataFrame:
    """Judge every arm by itself: what one of them leaves undefined is no gap in the others.

    Args:
        scored: What the arms scored.
        patients: Patient numbers of the rows, int [N].
        how: How.
        resamples: Of the patients.

    Returns:
        `VALUE_COLUMNS`, a row an arm, metric and place.
    """
    truth, config = scored.truth, how.config
    metrics = [*RANKED, "f1", *CUT, "f1_at_half", "ece", "brier", "micro_f1"]
    metrics += ["accuracy", "balanced_accuracy", "macro_f1"] if truth.labels.groups else []
    questions = [*questions_of(truth, metrics, LEVELS, patients, how.groups), *how.decoding.questions]
    halves = [question for question in questions if question.metric in (*CUT, "micro_f1")]
    evidence = _Evidence.of(truth, patients)
    rows: list[dict[str, Any]] = []
    # each arm by itself: what one of them leaves undefined is no gap in the others
    for arm in scored.tables:
        for asked, suffix in ((questions, ""), (halves, "_at_half")):
            tables = scored.tables[arm] if not suffix else _at_half(scored.tables[arm])
            drawn = draw({arm: tables}, asked, patients, resamples, how, suffix=suffix)
            alone = [table for fold in scored.by_fold for table in fold[arm]]
            cells = [_points(table, asked, how, suffix) for table in (alone if not suffix else _at_half(alone))]
            for question in asked:
                answer = drawn.answer(question)
                value = float(answer.values[0])
                by_cell = np.array([float(cell.answer(question).values[0]) for cell in cells])
                low, high = percentile_interval(answer.resampled[0], level=config.interval)
                behind = evidence.behind(question, [_called(table, how, suffix) for table in tables])
                rows.append(
                    {
                        "arm": arm, **question.place, "metric": question.metric + suffix, "value": value,
                        **_interval(value, low, high, patients=behind, level=config.interval),
                        **_spread(answer.by_seed[0][0], by_cell), "support": answer.support,
                        **evidence.counts(question.among),
                    }
                )  # fmt: skip
    rows += _accuracies(scored, patients, how, resamples, evidence)
    order = {arm: number for number, arm in enumerate(scored.tables)}
    rows.sort(key=lambda row: order[row["arm"]])
    return pd.DataFrame(rows).assign(judged=scored.name)[list(VALUE_COLUMNS)]


def _at_half(tables: Sequence[Predictions]) -> tuple[Predictions, ...]:
    return tuple(replace(table, thresholds=None) for table in tables)


def draw(
    tables: Mapping[str, Sequence[Predictions]],
    questions: Sequence[Question],
    patients: np.ndarray,
    resamples: int,
    how: How,
    *,
    suffix: str = "",
) -> PairedDraws:
    """Draw patients and seeds once for some arms; see `judging.paired_draws.draw_systems`.

    Args:
        tables: Arm → one table a seed.
        questions: What will be asked.
        patients: Patient numbers of the rows, int [N].
        resamples: Of the patients.
        how: How.
        suffix: `_at_half` decides at 0.5.
    """
    judged, rule = how.config.comparison(resamples=max(resamples, 1)), how.decoding
    is_asked = any(question in rule.questions for question in questions)
    return draw_systems(
        tables, questions, patients=patients, resamples=resamples, scheme=judged.scheme, seed=judged.seed,
        seed_draw=judged.seed_draw, ece_mode=judged.ece_mode, ece_bins=judged.ece_bins, threads=how.threads,
        decider=rule.call_at_half if suffix else rule.call, further=rule.further if is_asked else None,
    )  # fmt: skip


def _points(table: Predictions, questions: Sequence[Question], how: How, suffix: str) -> PairedDraws:
    patients, _ = number_patients(table.patients)
    return draw({"cell": [table]}, questions, patients, 0, how, suffix=suffix)


def _called(table: Predictions, how: How, suffix: str) -> np.ndarray:
    return how.decoding.call_at_half(table) if suffix else how.decoding.call(table)


def _interval(value: float, low: float, high: float, *, patients: int | None, level: float) -> dict[str, float]:
    if math.isnan(value):
        return {"low": float("nan"), "high": float("nan")}
    if patients and value in (0.0, 1.0):  # a proportion that no resample can contradict
        low, high = unanimous_interval(value, patients=patients, level=level)
    return {"low": low, "high": high}


def _spread(seeds: np.ndarray, cells: np.ndarray) -> dict[str, Any]:
    """Return the spread over seeds of the whole, and over cells of what each model does alone."""
    known = cells[~np.isnan(cells)]
    return {
        "seeds": len(seeds),
        "seed_sd": float(np.std(seeds, ddof=1)) if len(seeds) > 1 else float("nan"),
        "cells": len(known),
        "cell_mean": float(known.mean()) if len(known) else float("nan"),
        "cell_sd": float(np.std(known, ddof=1)) if len(known) > 1 else float("nan"),
    }


@final
@dataclass(frozen=True)
class _Evidence:
    """Images and patients behind classes: bool [N, C] and patient numbers [N]."""

    assessed: np.ndarray
    positive: np.ndarray
    patients: np.ndarray

    @staticmethod
    def of(truth: Predictions, patients: np.ndarray) -> _Evidence:
        return _Evidence(~np.isnan(truth.targets), truth.targets == 1, patients)

    def behind(self, question: Question, decisions: Sequence[np.ndarray]) -> int | None:
        """Return the patients a class's proportion is of; None for what is no proportion."""
        if question.level != "class" or question.metric not in CUT:
            return None
        (c,) = question.among
        rows = {"recall": self.positive[:, c], "specificity": self.assessed[:, c] & ~self.positive[:, c]}
        if question.metric != "precision":
            return len(np.unique(self.patients[rows[question.metric]]))
        called = [self.assessed[:, c] & decided[:, c] for decided in decisions]
        return min(len(np.unique(self.patients[one])) for one in called)

    def counts(self, among: Sequence[int]) -> dict[str, int]:
        """Return images and patients with any of the classes assessed, and with any present."""
        assessed, positive = (table[:, list(among)].any(axis=1) for table in (self.assessed, self.positive))
        return {
            "images": int(assessed.sum()),
            "patients": len(np.unique(self.patients[assessed])),
            "positives": int(positive.sum()),
            "positive_patients": len(np.unique(self.patients[positive])),
        }


def _accuracies(
    scored: ScoredSet,
    patients: np.ndarray,
    how: How,
    resamples: int,
    evidence: _Evidence,
) -> list[dict[str, Any]]:
    """Return the share of right decisions of each class and its means, which the judge compares for groups only."""
    config, groups = how.config, how.groups
    names = scored.truth.labels.class_names
    num_patients = int(patients.max()) + 1
    weights = draw_weights(num_patients, resamples=resamples, seed=config.seed)
    places: list[tuple[dict[str, str], np.ndarray]] = [({"class": "", "tail_group": ""}, np.arange(len(names)))]
    if groups is not None:
        for group in TAIL_GROUPS:
            members = np.flatnonzero(np.isin(names, groups.members(group)))
            places += [({"class": "", "tail_group": group}, members)] if 0 < len(members) < len(names) else []
    group_of = groups.group_of if groups is not None else dict.fromkeys(names, "")
    places += [({"class": name, "tail_group": group_of[name]}, np.array([c])) for c, name in enumerate(names)]
    rows: list[dict[str, Any]] = []
    for suffix in ("", "_at_half"):
        for arm, given in scored.tables.items():
            tables = given if not suffix else _at_half(given)
            alone = [table for fold in scored.by_fold for table in fold[arm]]
            marks = [_marks(table, _called(table, how, suffix)) for table in tables]
            points = np.stack([_right_share(marked) for marked in marks])
            drawn = np.stack([_resampled_share(marked, patients, num_patients, weights) for marked in marks])
            seeds = draw_seed_weights(
                len(tables), resamples=resamples, draw=config.seed_draw, seed=stream_seed(config.seed, "system", arm)
            )
            alone = alone if not suffix else list(_at_half(alone))
            cells = np.stack([_right_share(_marks(table, _called(table, how, suffix))) for table in alone])
            for place, among in places:
                value = float(_mean(points[:, among]).mean())
                resampled = np.stack([mean_of_defined(one[among]) for one in drawn])
                low, high = percentile_interval((resampled * seeds).sum(axis=0), level=config.interval)
                support = int(evidence.positive[:, among[0]].sum()) if place["class"] else len(among)
                counted = evidence.counts(tuple(int(c) for c in among))
                behind = counted["patients"] if place["class"] else None
                rows.append(
                    {
                        "arm": arm, "metric": f"accuracy{suffix}", **place, "value": value,
                        **_interval(value, low, high, patients=behind, level=config.interval),
                        **_spread(_mean(points[:, among]), _mean(cells[:, among])), "support": support, **counted,
                    }
                )  # fmt: skip
    return rows


def _mean(values: np.ndarray) -> np.ndarray:
    """Return the mean over the defined classes of each row, [rows, classes] → [rows]."""
    return mean_of_defined(values.T)


_Marks = tuple[np.ndarray, np.ndarray]


def _marks(table: Predictions, called: np.ndarray) -> _Marks:
    known = ~np.isnan(table.targets)
    right = known & (called == (table.targets == 1))
    return right.astype(np.float64), known.astype(np.float64)


def _right_share(marks: _Marks) -> np.ndarray:
    right, known = marks
    return ratio(right.sum(axis=0), known.sum(axis=0))


def _resampled_share(marks: _Marks, patients: np.ndarray, num_patients: int, weights: Any) -> np.ndarray:
    right, known = (resample_sums(patient_sums(part, patients, num_patients), weights) for part in marks)
    return ratio(right, known)
