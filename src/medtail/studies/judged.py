"""The numbers of a study: every arm on the same images, and each against the reference.

One long table of values and one of differences. All arms meet the same resampled patients; several training seeds are
drawn with them (`judging.paired_draws`), so an interval holds what other patients and another training would change.
The spread over cells (each fold's model by itself) stands beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import pandas as pd

from medtail.judging.bootstrap import draw_weights, number_patients, patient_sums, resample_sums
from medtail.judging.comparison import COMFORT, Comparison, describe, tail_of
from medtail.judging.comparison_cautions import word_comparison_cautions
from medtail.judging.comparison_rows import (
    DIFFERENCE_COLUMNS,
    REPLICATE_COLUMNS,
    SYSTEM_COLUMNS,
    difference_row,
    verdict_of,
)
from medtail.judging.counts import ratio
from medtail.judging.decisions import decide
from medtail.judging.fold_comparison import compare_folds
from medtail.judging.intervals import mean_of_defined, percentile_interval, unanimous_interval
from medtail.judging.paired_draws import PairedDraws, draw_seed_weights, draw_systems
from medtail.judging.pvalues import holm, resamples_needed
from medtail.judging.questions import LEVELS, Level, Question, ask
from medtail.seeding import stream_seed
from medtail.studies.config import LEAST_RESAMPLES, JudgeConfig
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
STUDY_DIFFERENCES = ("judged", *DIFFERENCE_COLUMNS, "p_folds")


@final
@dataclass(frozen=True, eq=False)
class Judged:
    """The numbers of one set of images.

    Attributes:
        name: `tune`, `test` or `external_NAME`.
        values: `VALUE_COLUMNS`, a row an arm, metric and place.
        differences: `STUDY_DIFFERENCES`, `system_a` an arm and `system_b` the reference: `difference` is arm minus
            reference. `p_folds` is the corrected t-test over folds (and seeds), of cross-validated values.
        comparison: The same differences in the form that `reporting` draws.
    """

    name: str
    values: pd.DataFrame
    differences: pd.DataFrame
    comparison: Comparison | None

    @property
    def header(self) -> Mapping[str, Any]:
        """How the differences were made; empty with one arm."""
        return {} if self.comparison is None else self.comparison.header


def judge(scored: ScoredSet, *, reference: str, config: JudgeConfig, threads: int | None = None) -> Judged:
    """Judge every arm on one set of images, and each against the reference.

    Args:
        scored: What the arms scored.
        reference: The arm the others are compared with; nothing is compared where it has no scores yet.
        config: How.
        threads: Worker threads; no effect on the numbers.

    Returns:
        Values and differences.
    """
    truth = scored.truth
    patients, num_patients = number_patients(truth.patients)
    resamples = LEAST_RESAMPLES if config.bootstrap is None else config.bootstrap
    groups = tail_of(scored.tables, truth, config.comparison(resamples=resamples))
    values = _values(scored, patients, groups, config, resamples, threads)
    if reference not in scored.tables or len(scored.tables) < 2:
        return Judged(scored.name, values, pd.DataFrame(columns=list(STUDY_DIFFERENCES)), None)
    comparison = _compare(scored, reference, patients, num_patients, groups, config, threads)
    differences = comparison.differences.assign(judged=scored.name)
    differences["p_folds"] = _p_over_folds(scored, differences, reference, config)
    return Judged(scored.name, values, differences[list(STUDY_DIFFERENCES)], comparison)


def _questions(
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


# --- values -----------------------------------------------------------------------------------------------------------


def _values(
    scored: ScoredSet,
    patients: np.ndarray,
    groups: TailGroups | None,
    config: JudgeConfig,
    resamples: int,
    threads: int | None,
) -> pd.DataFrame:
    truth = scored.truth
    metrics = [*RANKED, "f1", *CUT, "f1_at_half", "ece", "brier", "micro_f1"]
    metrics += ["accuracy", "balanced_accuracy", "macro_f1"] if truth.labels.groups else []
    questions = _questions(truth, metrics, LEVELS, patients, groups)
    halves = [question for question in questions if question.metric in CUT]
    evidence = _Evidence.of(truth, patients)
    rows: list[dict[str, Any]] = []
    # each arm by itself: what one of them leaves undefined is no gap in the others
    for arm in scored.tables:
        for asked, suffix in ((questions, ""), (halves, "_at_half")):
            tables = scored.tables[arm] if not suffix else _at_half(scored.tables[arm])
            drawn = _draw({arm: tables}, asked, patients, resamples, config, threads)
            alone = [table for fold in scored.by_fold for table in fold[arm]]
            cells = [_points(table, asked, config) for table in (alone if not suffix else _at_half(alone))]
            for question in asked:
                answer = drawn.answer(question)
                value = float(answer.values[0])
                by_cell = np.array([float(cell.answer(question).values[0]) for cell in cells])
                low, high = percentile_interval(answer.resampled[0], level=config.interval)
                behind = evidence.behind(question, tables)
                rows.append(
                    {
                        "arm": arm, **question.place, "metric": question.metric + suffix, "value": value,
                        **_interval(value, low, high, patients=behind, level=config.interval),
                        **_spread(answer.by_seed[0][0], by_cell), "support": answer.support,
                        **evidence.counts(question.among),
                    }
                )  # fmt: skip
    rows += _accuracies(scored, patients, groups, config, resamples, evidence)
    order = {arm: number for number, arm in enumerate(scored.tables)}
    rows.sort(key=lambda row: order[row["arm"]])
    return pd.DataFrame(rows).assign(judged=scored.name)[list(VALUE_COLUMNS)]


def _at_half(tables: Sequence[Predictions]) -> tuple[Predictions, ...]:
    return tuple(replace(table, thresholds=None) for table in tables)


def _draw(
    tables: Mapping[str, Sequence[Predictions]],
    questions: Sequence[Question],
    patients: np.ndarray,
    resamples: int,
    config: JudgeConfig,
    threads: int | None,
) -> PairedDraws:
    how = config.comparison(resamples=max(resamples, 1))
    return draw_systems(
        tables, questions, patients=patients, resamples=resamples, scheme=how.scheme, seed=how.seed,
        seed_draw=how.seed_draw, ece_mode=how.ece_mode, ece_bins=how.ece_bins, threads=threads,
    )  # fmt: skip


def _points(table: Predictions, questions: Sequence[Question], config: JudgeConfig) -> PairedDraws:
    patients, _ = number_patients(table.patients)
    return _draw({"cell": [table]}, questions, patients, 0, config, None)


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

    def behind(self, question: Question, tables: Sequence[Predictions]) -> int | None:
        """Return the patients a class's proportion is of; None for what is no proportion."""
        if question.level != "class" or question.metric not in CUT:
            return None
        (c,) = question.among
        rows = {"recall": self.positive[:, c], "specificity": self.assessed[:, c] & ~self.positive[:, c]}
        if question.metric != "precision":
            return len(np.unique(self.patients[rows[question.metric]]))
        called = [self.assessed[:, c] & decide(table)[:, c] for table in tables]
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
    groups: TailGroups | None,
    config: JudgeConfig,
    resamples: int,
    evidence: _Evidence,
) -> list[dict[str, Any]]:
    """Return the share of right decisions of each class and its means, which the judge compares for groups only."""
    truth = scored.truth
    names = truth.labels.class_names
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
            points = np.stack([_right_share(table) for table in tables])
            drawn = np.stack([_resampled_share(table, patients, num_patients, weights) for table in tables])
            seeds = draw_seed_weights(
                len(tables), resamples=resamples, draw=config.seed_draw, seed=stream_seed(config.seed, "system", arm)
            )
            cells = np.stack([_right_share(table) for table in (alone if not suffix else _at_half(alone))])
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


def _marks(table: Predictions) -> tuple[np.ndarray, np.ndarray]:
    known = ~np.isnan(table.targets)
    right = known & (decide(table) == (table.targets == 1))
    return right.astype(np.float64), known.astype(np.float64)


def _right_share(table: Predictions) -> np.ndarray:
    right, known = _marks(table)
    return ratio(right.sum(axis=0), known.sum(axis=0))


def _resampled_share(table: Predictions, patients: np.ndarray, num_patients: int, weights: Any) -> np.ndarray:
    right, known = (resample_sums(patient_sums(marks, patients, num_patients), weights) for marks in _marks(table))
    return ratio(right, known)


# --- differences ------------------------------------------------------------------------------------------------------


def _compare(
    scored: ScoredSet,
    reference: str,
    patients: np.ndarray,
    num_patients: int,
    groups: TailGroups | None,
    config: JudgeConfig,
    threads: int | None,
) -> Comparison:
    """Compare each arm with the reference, all in the same resamples, corrected for all comparisons made."""
    truth, names = scored.truth, list(scored.tables)
    questions = _questions(truth, config.metrics, config.levels, patients, groups)
    others = [arm for arm in names if arm != reference]
    tested = sum(not question.obstacle for question in questions)
    family = tested * len(others)
    largest = family if config.holm == "study" else max(len(truth.labels.class_names), 1)
    alpha = 1.0 - config.interval
    resamples = config.bootstrap or max(LEAST_RESAMPLES, COMFORT * resamples_needed(max(largest, 1), alpha=alpha))
    draws = _draw(scored.tables, questions, patients, resamples, config, threads)
    rows: list[dict[str, Any]] = []
    for question in questions:
        answer = draws.answer(question)
        rows += [
            difference_row(
                question, answer, names, names.index(arm), names.index(reference), interval=config.interval
            ) | {"level": question.level}
            for arm in others
        ]  # fmt: skip
    _correct(rows, config)
    how = config.comparison(resamples=resamples)
    header = describe(scored.tables, truth, groups, how, num_patients) | {
        "method": "paired bootstrap of patients",
        "reference": reference,
        "bootstrap": {
            "resamples": resamples, "asked": config.bootstrap, "scheme": how.scheme, "interval": config.interval,
            "seed": config.seed, "unit": "patient" if truth.has_patients else "image", "seed_draw": config.seed_draw,
        },
        "family": {
            "comparisons": family, "left_out": len(rows) - family, "together": config.holm, "largest": largest,
            "smallest_p_holm": min(1.0, 2.0 * largest / (resamples + 1)) if family else None,
            "resamples_needed": resamples_needed(largest, alpha=alpha) if family else None,
        },
    }  # fmt: skip
    header["warnings"] = word_comparison_cautions(scored.tables, truth, questions, header)
    rows.sort(key=lambda row: names.index(row["system_a"]))
    return Comparison(
        pd.DataFrame(rows, columns=list(DIFFERENCE_COLUMNS)),
        pd.DataFrame(columns=list(SYSTEM_COLUMNS)),
        pd.DataFrame(columns=list(REPLICATE_COLUMNS)),
        header,
    )


def _correct(rows: Sequence[dict[str, Any]], config: JudgeConfig) -> None:
    """Fill in `p_holm` and the verdicts, family by family."""
    families: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        key = () if config.holm == "study" else (row["system_a"], row["metric"], row["level"])
        families.setdefault(key, []).append(row)
    alpha = config.comparison(resamples=1).alpha
    for family in families.values():
        for row, corrected in zip(family, holm(np.array([row["p"] for row in family])), strict=True):
            row["p_holm"] = float(corrected)
            row["verdict"] = row["verdict"] or verdict_of(row, alpha=alpha)


def _p_over_folds(scored: ScoredSet, differences: pd.DataFrame, reference: str, config: JudgeConfig) -> pd.Series:
    """Return the p of the corrected t-test over folds x seeds for each difference; NaN where folds share their rows.

    It asks another question than the resampled patients: would another training on other rows of these say the same?
    """
    nothing = pd.Series(np.nan, index=differences.index)
    ids = [next(iter(fold.values()))[0].image_ids for fold in scored.by_fold]
    total = sum(map(len, ids))
    if len(ids) < 2 or len(set(np.concatenate(ids))) < total:
        return nothing
    by_pair: dict[tuple[str, ...], float] = {}
    for arm in scored.tables:
        seeds = min(len(scored.tables[arm]), len(scored.tables[reference]))
        if arm == reference or not seeds:
            continue
        cells = {name: [fold[name][r] for r in range(seeds) for fold in scored.by_fold] for name in (arm, reference)}
        found = compare_folds(
            cells, config=config.comparison(resamples=1), train_rows=max(1, round(total * (1 - 1 / len(ids))))
        )
        for row in found.differences.to_dict("records"):
            by_pair[arm, row["metric"], row["class"], row["tail_group"]] = float(row["p"])
    keys = zip(*(differences[c] for c in ("system_a", "metric", "class", "tail_group")), strict=True)
    return pd.Series([by_pair.get(key, float("nan")) for key in keys], index=differences.index)
