"""CXR-LT scores to the digit: every number of the challenge's tables, with what the tables leave out.

Follows the scorer the teams share: rows joined by image, classes by name, no grouping of a study's images, decisions
at score >= 0.5. Beside each value stand what it needs to be read: the prevalence and the AP of a random order, both
readings of the calibration error, intervals over patients. The metrics are those of `judging`; nothing is re-made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import pandas as pd

from medtail.challenges.cxr_lt_errors import (
    ECE_BINS,
    NAMED_ECE,
    POOLED_BINS,
    calibration_errors,
    miss_rates,
    pooled_error,
)
from medtail.challenges.cxr_lt_rows import LEVEL, class_rows, macro_rows, result_row, single_rows
from medtail.challenges.cxr_lt_submission import Submission, read_submission
from medtail.challenges.cxr_lt_truth import Absent, Truth, as_edition, check_supported, read_truth
from medtail.errors import MedtailError, Problems, did_you_mean, listing
from medtail.judging.bootstrap import draw_weights, number_patients
from medtail.judging.cautions import word_cautions
from medtail.judging.estimates import Estimates, estimate
from medtail.judging.headers import rows_header, support_header, tail_header
from medtail.runs import versions
from medtail.sources.cxr_lt import ChallengeTask, Edition
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions
from medtail.tables.results import Results, results_from_rows
from medtail.tables.tail import ClassCounts, TailGroups

EceReading = Literal["reliability", "leaderboard", "confidence"]
CRITICAL = ("Pneumothorax", "Hydropneumothorax", "Pneumomediastinum", "Pneumoperitoneum", "Pulmonary Embolism")
"""Findings that must not be missed: medtail's choice, since the organisers' list is not known."""
FOLD_OF_SPLIT = {"train": "train", "val": "tune", "validate": "tune", "dev": "tune", "development": "tune"}


@final
@dataclass(frozen=True, eq=False)
class Judged:
    """A submission beside its truth, judged.

    Attributes:
        predictions: Scores and targets, rows in the truth's order.
        values: Metric → float64 [C].
        resampled: Metric → float64 [C, B].
        groups: Head, medium and tail; None where train counts are unknown.
        results: Every number, long form.
    """

    predictions: Predictions
    values: Mapping[str, np.ndarray]
    resampled: Mapping[str, np.ndarray]
    groups: TailGroups | None
    results: Results


def score(
    truth: Truth | Path | str,
    submission: Submission | Path | str,
    *,
    edition: str | Edition,
    task: int = 1,
    ece: EceReading = "reliability",
    absent: Absent = "error",
    bootstrap: int = 1000,
    seed: int = 0,
    split: str | None = None,
    critical: Sequence[str] | None = None,
    thresholds: Mapping[str, float] | None = None,
    train_counts: ClassCounts | None = None,
    threads: int | None = None,
) -> Results:
    """Score a submission as the challenge does, and say what its numbers rest on.

    Rows of a class: `ap, auroc, f1, precision, recall, specificity, fnr, brier, ece, ece@reliability,
    ece@leaderboard, ece@confidence` with intervals; `ap_chance, prevalence, threshold` and counts without. Rows with
    an empty class are means, over all classes and over each tail group: `ap` is the mAP, `f1` the mF1, `ece@…` the
    mECE of that reading. Single rows: `ap_mean_of_groups`, `fnr_critical`, `ece@pooled`; `micro_f1,
    micro_precision, micro_recall` from counts summed over cells.

    Args:
        truth: Labels of the test set, or their file.
        submission: Scores, or their file (`.csv` or `.zip`).
        edition: `2023`, `2024`, `2026`, or an edition of one's own.
        task: Its task.
        ece: Reading that `ece` shows; `reliability` compares scores with shares of positives, `leaderboard` seems to
            be what the 2024 board shows. Both are always printed under their names, in 10 bins.
        absent: Classes without positives: `error` refuses them (official sets have none), `nan` leaves them out of
            the means and says so, `zero` counts AP and F1 as 0, only to reproduce another tool.
        bootstrap: Resamples of the patients, >= 0.
        seed: Of the resamples.
        split: Where the truth file has a column `split`: its rows to score.
        critical: Findings that must not be missed; `CRITICAL` as far as the task has them if None.
        thresholds: Class → threshold chosen on tune; adds `fnr@tune` and `fnr_critical@tune`.
        train_counts: Of a train part of one's own, to group by; the edition's published counts if None.
        threads: Worker threads; no effect on the results.

    Returns:
        Values, intervals and supports; the header says edition, task, readings and warnings.

    Raises:
        MedtailError: Every fault of either file; a class without positives under `absent="error"`.
        UsageError: Unknown edition or task.

    Example:
        >>> labels = np.array([[1, 0, 0, 1, 0], [0, 1, 1, 0, 1]], dtype=float)
        >>> ids, names = np.array(["a", "b"], dtype=object), as_edition("2024").task(3).class_names
        >>> truth = Truth("truth.csv", ids, ids, labels, names, True, "")
        >>> results = score(truth, Submission("mine", ids[::-1], labels[::-1], names), edition="2024", task=3,
        ...                 bootstrap=0)
        >>> results.value("ap"), results.value("auroc"), results.value("f1")
        (1.0, 1.0, 1.0)

    References:
        lin2025, holste2024, naeini2015.
    """
    judged = judge_submission(
        truth,
        submission,
        edition=edition,
        task=task,
        ece=ece,
        absent=absent,
        bootstrap=bootstrap,
        seed=seed,
        split=split,
        critical=critical,
        thresholds=thresholds,
        train_counts=train_counts,
        threads=threads,
    )
    return judged.results


def judge_submission(
    truth: Truth | Path | str,
    submission: Submission | Path | str,
    *,
    edition: str | Edition,
    task: int = 1,
    ece: EceReading = "reliability",
    absent: Absent = "error",
    bootstrap: int = 1000,
    seed: int = 0,
    split: str | None = None,
    critical: Sequence[str] | None = None,
    thresholds: Mapping[str, float] | None = None,
    train_counts: ClassCounts | None = None,
    threads: int | None = None,
) -> Judged:
    """Score a submission and keep what comparisons need; see `score` for the arguments.

    With one seed, submissions to one truth are resampled by the same patients.

    Returns:
        The joined table, arrays of values and resampled values, and the results.

    Raises:
        MedtailError: As `score`.
        UsageError: As `score`.
    """
    tables = as_edition(edition)
    chosen = tables.task(task)
    if ece not in ("reliability", "leaderboard", "confidence"):
        raise MedtailError(f"--ece {ece!r}: expected reliability, leaderboard or confidence.")
    if bootstrap < 0:
        raise MedtailError(f"--bootstrap {bootstrap}: expected a number of resamples >= 0.")
    if not isinstance(truth, Truth):
        truth = read_truth(truth, edition=tables, task=task, split=split, assessed=absent != "nan")
    missing = check_supported(truth, absent=absent)
    if not isinstance(submission, Submission):
        submission = read_submission(submission, edition=tables, task=task, ids=truth.image_ids)
    dangerous = _critical(critical, chosen)
    limits = _limits(thresholds, chosen)
    predictions = join(truth, submission, split=split, train_counts=train_counts)
    groups = None if chosen.unseen else tables.groups(chosen.class_names, counts=train_counts)
    patients, num_patients = number_patients(predictions.patients)
    weights = draw_weights(num_patients, resamples=bootstrap, seed=seed)
    called = predictions.scores >= 0.5
    found = estimate(
        predictions,
        called=called,
        patients=patients,
        weights=weights,
        ece_mode=ece,
        ece_bins=ECE_BINS,
        threads=threads,
    )
    values, resampled = dict(found.values), dict(found.resampled)
    for mode in (*NAMED_ECE, "confidence"):
        values[f"ece@{mode}"], resampled[f"ece@{mode}"] = (
            (found.values["ece"], found.resampled["ece"])
            if mode == ece
            else calibration_errors(predictions, patients=patients, weights=weights, mode=mode)
        )
    values["fnr"], resampled["fnr"] = 1.0 - values["recall"], 1.0 - resampled["recall"]
    if limits is not None:
        values["fnr@tune"], resampled["fnr@tune"] = miss_rates(predictions, limits, patients=patients, weights=weights)
    if absent == "zero":
        gone = np.isin(chosen.class_names, missing)
        for metric in ("ap", "f1"):
            values[metric] = np.where(gone, 0.0, values[metric])
            resampled[metric] = np.where(gone[:, None], 0.0, resampled[metric])
    rows = [
        *class_rows(found.census, values, resampled, chosen.class_names, groups, limits),
        *macro_rows(found, values, resampled, chosen.class_names, groups),
        *single_rows(values, resampled, chosen.class_names, groups, dangerous),
        result_row(
            "ece@pooled",
            *pooled_error(predictions, patients=patients, weights=weights),
            support=len(chosen.class_names),
        ),
    ]
    header = _header(predictions, found, groups, num_patients, tables, chosen)
    header["bootstrap"] = {
        "resamples": bootstrap,
        "scheme": "multinomial",
        "interval": LEVEL,
        "seed": seed,
        "unit": "patient" if truth.has_patients else "image",
    }
    header["ece"] = {"mode": ece, "bins": ECE_BINS, "pooled_bins": POOLED_BINS}
    header["challenge"] |= {
        "absent": absent,
        "critical": list(dangerous),
        "critical_list": "own" if critical is not None else "medtail's choice; the organisers' is not known",
        "joined": list(submission.joined),
        "truth": truth.name,
        "submission": submission.name,
    }
    results = results_from_rows(rows, header=header)
    header["warnings"] = [
        *_about_task(tables, chosen, groups, absent, missing),
        *_about_intervals(results),
        *submission.warnings,
        *word_cautions(predictions, found, source="fixed 0.5", has_tail=True),
    ]
    return Judged(predictions, values, resampled, groups, replace(results, header=header))


def join(
    truth: Truth, submission: Submission, *, split: str | None = None, train_counts: ClassCounts | None = None
) -> Predictions:
    """Put scores beside labels, by image and by class name, in the truth's order.

    Args:
        truth: Labels.
        submission: Scores of the same images.
        split: The part of the data the truth is; test if None.
        train_counts: Counts of a train part, to travel with the table.

    Returns:
        The joined table.

    Raises:
        MedtailError: The images or classes are not the same.
    """
    problems = Problems(submission.name)
    if set(submission.class_names) != set(truth.class_names):
        problems.add(f"its classes are not those of {truth.name}; read both for the same edition and task.")
    given, wanted = (pd.Index(table.image_ids, dtype=object) for table in (submission, truth))
    lost, extra = wanted.difference(given, sort=False), given.difference(wanted, sort=False)
    if not given.is_unique:
        problems.add("an image stands in more than one row; expected one row an image.")
    if len(lost) or len(extra):
        some = f" ({listing(list(lost), limit=10)})" if len(lost) else ""
        problems.add(
            f"its images are not those of {truth.name}: {len(lost)} have no row{some}, {len(extra)} rows are of other"
            " images."
        )
    problems.raise_if_any()
    at = given.get_indexer(wanted)
    columns = [submission.class_names.index(name) for name in truth.class_names]
    return Predictions(
        image_ids=truth.image_ids,
        patients=truth.patients,
        scores=submission.scores[at][:, columns],
        targets=truth.targets,
        labels=LabelSpace(truth.class_names),
        folds=np.full(len(truth.image_ids), FOLD_OF_SPLIT.get(split or "test", "test"), dtype=object),
        has_patients=truth.has_patients,
        train_counts=train_counts,
        digests={key: value for key, value in (("truth", truth.digest), ("scores", submission.digest)) if value},
        name=submission.name,
    )


def _critical(given: Sequence[str] | None, task: ChallengeTask) -> tuple[str, ...]:
    if given is None:
        return tuple(name for name in CRITICAL if name in task.class_names)
    problems = Problems("critical findings")
    for name in given:
        if name not in task.class_names:
            hint = did_you_mean(name, task.class_names) or f"; expected classes of task {task.number}."
            problems.add(f"{name!r}: no such class{hint}")
    problems.raise_if_any()
    return tuple(dict.fromkeys(given))


def _limits(given: Mapping[str, float] | None, task: ChallengeTask) -> np.ndarray | None:
    if given is None:
        return None
    problems = Problems("thresholds")
    for name in task.class_names:
        if name not in given:
            problems.add(f"class {name!r}: missing; expected a threshold for every class.")
        elif not 0.0 <= given[name] <= 1.0:
            problems.add(f"class {name!r}: found {given[name]!r}; expected a score in [0, 1].")
    problems.raise_if_any()
    return np.array([float(given[name]) for name in task.class_names])


def _header(
    predictions: Predictions,
    found: Estimates,
    groups: TailGroups | None,
    num_patients: int,
    tables: Edition,
    task: ChallengeTask,
) -> dict[str, Any]:
    names, counts = predictions.labels.class_names, predictions.train_counts
    return {
        **rows_header(predictions, num_patients=num_patients),
        "train_counts": None if counts is None else counts.to_json(),
        "tail": tail_header(groups),
        "thresholds": {"source": "fixed 0.5", "values": dict.fromkeys(names, 0.5), "inside_groups": "highest score"},
        **support_header(predictions.labels, found.census),
        "challenge": {
            "name": "CXR-LT",
            "edition": tables.name,
            "task": task.number,
            "title": task.title,
            "provenance": tables.provenance,
            "official_images": task.images,
        },
        "versions": versions(),
    }


def _about_task(
    tables: Edition, task: ChallengeTask, groups: TailGroups | None, absent: Absent, missing: Sequence[str]
) -> list[str]:
    found = [task.caution] if task.caution else []
    if groups is None:
        found.append(
            "No head, medium and tail rows: the classes are unseen in training."
            if task.unseen
            else f"No head, medium and tail rows: train counts of {tables.name} were not published. Give a train file."
        )
    if absent == "zero" and missing:
        found.append(
            f"AP and F1 of {listing(missing, limit=8)} count as 0 because no image shows them (absent='zero'): this"
            " reproduces another tool and is no statement about the model."
        )
    return found


def _about_intervals(results: Results) -> list[str]:
    frame = results.frame
    beside = (frame["class"] == "") & ((frame["value"] < frame["low"]) | (frame["value"] > frame["high"]))
    metrics = list(dict.fromkeys(frame.loc[beside, "metric"]))
    if not metrics:
        return []
    return [
        f"The interval of {listing(metrics, limit=8)} does not hold the value itself: a resample repeats patients, and"
        " a calibration error counts the added noise as error. Read its width, not its place."
    ]
