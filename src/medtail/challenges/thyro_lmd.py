"""Thyro-LMD: twenty-label thyroid reports scored by Micro-, Macro-, Head-, Body- and Tail-F1.

Every system is decoded by the same rule (`thyro_lmd_decoding`) and shown beside its raw decisions at 0.5. Cells that
were not assessed are never counted; a label without test positives has no F1 and leaves every mean, named with its
false positives. Intervals resample patients. TI-RADS level and needle advice are derived from the reports by the rule
engine of the lexicon.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import pandas as pd

from medtail.challenges.thyro_lmd_decoding import call_at_half, decode, foci_thresholds, invalid_groups
from medtail.challenges.thyro_lmd_labels import (
    EXCLUSIVE,
    GROUPS,
    LABELS,
    AbsentRule,
    ThyroSplit,
    describe_split,
    group_columns,
    split_digest,
)
from medtail.challenges.thyro_lmd_levels import ENDPOINTS, nodule_context
from medtail.challenges.thyro_lmd_results import judge_reports
from medtail.errors import MedtailError, UsageError, listing
from medtail.runs import new_file, new_folder, write_json
from medtail.tables.frames import as_text, read_table, write_table
from medtail.tables.manifest import Manifest
from medtail.tables.predictions import Predictions, read_predictions
from medtail.tables.results import Results

RESAMPLES = 2000


@final
@dataclass(frozen=True, eq=False)
class ThyroScore:
    """A submission's reports and what they are worth.

    Attributes:
        predictions: Scores and targets of the judged rows; rows without an answer hold zeros.
        decoded: bool [N, 20], the reports; False throughout in rows without an answer.
        unparsed: bool [N], rows without an answer.
        results: Every number; see `thyro_lmd_results.judge_reports`.
    """

    predictions: Predictions
    decoded: np.ndarray
    unparsed: np.ndarray
    results: Results


@final
@dataclass(frozen=True, eq=False)
class Submission:
    """A checked file of scores, all rows of it.

    Attributes:
        predictions: Rows in the file's order, columns in the protocol's; rows without an answer hold zeros.
        unparsed: bool [N], rows whose twenty cells are all empty or all 0.
    """

    predictions: Predictions
    unparsed: np.ndarray

    def take(self, rows: np.ndarray) -> Submission:
        """Return the marked rows, bool [N]."""
        return Submission(self.predictions.take(rows), self.unparsed[rows])


def read_submission(path: Path | str, *, truth: Manifest) -> Submission:
    """Read a submission: `image_id` and twenty scores in [0, 1], or hard 0 and 1.

    A row whose twenty cells are all empty, or all 0, is an answer that could not be parsed: it names no label at all.

    Args:
        path: `.csv` or `.parquet`.
        truth: From `read_labels`.

    Returns:
        The submission.

    Raises:
        MedtailError: Missing, repeated or unknown ids, missing or other columns, cells empty in part, values that are
            no number or outside [0, 1]: all at once, with the first rows.
    """
    path = Path(path)
    frame, _ = read_table(path, what="submission")
    scored = [name for name in LABELS.class_names if name in frame.columns]
    empty = np.zeros(len(frame), dtype=bool)
    if len(scored) == LABELS.num_classes:
        empty = np.all([(as_text(frame[name]) == "").to_numpy(dtype=bool) for name in scored], axis=0)
    if empty.any():
        # the one door for scores refuses empty cells, and should: it is shown the zeros that the protocol makes of them
        with tempfile.TemporaryDirectory() as folder:
            filled = Path(folder) / path.name
            if path.name.lower().endswith((".csv.gz", ".tsv", ".txt")):
                filled = filled.with_name(f"{path.name}.csv")
            for name in scored:
                frame[name] = frame[name].where(~empty, 0.0 if frame[name].dtype.kind in "fiu" else "0")
            write_table(filled, frame)
            predictions = replace(read_predictions(filled, truth=truth), name=path.name)
    else:
        predictions = read_predictions(path, truth=truth)
    return Submission(predictions, np.asarray((predictions.scores == 0.0).all(axis=1)))


def score_thyro_lmd(
    submission: Path | str,
    *,
    truth: Manifest,
    tune: Path | str | None = None,
    split: ThyroSplit | None = None,
    absent: AbsentRule = "nan",
    bootstrap: int = RESAMPLES,
    seed: int = 0,
) -> ThyroScore:
    """Score a submission on the test fold.

    Args:
        submission: Scores of the test fold; rows of the tune fold may stand beside them and choose the foci's
            thresholds.
        truth: From `read_labels`; without a fold column every scored row is judged.
        tune: Scores of the tune fold in a file of their own.
        split: From `read_split`; read off the table's train fold if None.
        absent: `nan` leaves a label without test positives out of every mean, `zero` counts it as 0.
        bootstrap: Resamples of patients, >= 0; 0 gives no intervals.
        seed: Of the resamples.

    Returns:
        Reports and results.

    Raises:
        MedtailError: A file is faulty, no test row is scored, or `split` was written for another table.

    References:
        zhang2026.
    """
    if bootstrap < 0:
        raise MedtailError(f"bootstrap {bootstrap}: expected a number of resamples >= 0.")
    whole = read_submission(submission, truth=truth)
    folds = whole.predictions.folds.astype(str)
    has_folds = bool((truth.folds != "").any())
    if has_folds and not (folds == "test").any():
        raise MedtailError(
            f"{whole.predictions.name}: scores no row of the test fold (found: {listing(sorted(set(folds)))});"
            f" `medtail thyro-lmd template` lists the rows."
        )
    judged = whole.take(folds == "test") if has_folds else whole
    notes = []
    left = sorted(set(folds) - {"test", "tune"}) if has_folds else []
    if left:
        notes.append(f"Rows of other folds ({listing(left)}) were scored too; they are left aside.")
    chosen = _tune_rows(whole, tune, truth)
    thresholds = None if chosen is None else foci_thresholds(chosen.predictions)
    decoded, raw = decode(judged.predictions.scores, thresholds=thresholds), call_at_half(judged.predictions.scores)
    for called in (decoded, raw):
        called[judged.unparsed] = False
    predictions = replace(judged.predictions, thresholds=thresholds)
    results = judge_reports(
        predictions,
        decoded=decoded,
        raw=raw,
        unparsed=judged.unparsed,
        invalid=invalid_groups(raw),
        split=_split(split, truth),
        absent=absent,
        bootstrap=bootstrap,
        seed=seed,
        notes=[*notes, *_tied_tops(judged)],
        context=nodule_context(truth, predictions.image_ids),
    )
    return ThyroScore(predictions, decoded, judged.unparsed, results)


def _tune_rows(whole: Submission, tune: Path | str | None, truth: Manifest) -> Submission | None:
    """Return the rows that choose thresholds; None where there are none."""
    inside = whole.predictions.folds == "tune"
    if tune is None:
        found = whole.take(inside) if inside.any() else None
    else:
        if inside.any():
            raise UsageError(f"--tune {tune}: the submission holds rows of the tune fold already; give one of the two.")
        found = read_submission(tune, truth=truth)
        found = found.take(found.predictions.folds == "tune")
        if not len(found.predictions):
            raise MedtailError(f"{tune}: scores no row of the tune fold.")
    return found


def _split(given: ThyroSplit | None, truth: Manifest) -> ThyroSplit | None:
    has_train = bool((truth.folds == "train").any())
    if given is None:
        return describe_split(truth) if has_train else None
    if has_train and given.digest != split_digest(truth):
        raise MedtailError(
            f"{truth.name}: its rows, folds or labels are not those that split.json was written for (digest"
            f" {split_digest(truth)[:12]}, in the split {given.digest[:12]}). Restore the table or the split."
        )
    return given


def _tied_tops(judged: Submission) -> list[str]:
    scores = judged.predictions.scores[~judged.unparsed]
    found = []
    for group in EXCLUSIVE:
        cells = scores[:, group_columns(group)]
        if len(cells):
            share = float(((cells == cells.max(axis=1, keepdims=True)).sum(axis=1) > 1).mean())
            if share > 0.0:
                found.append(f"{group} {share:.1%}")
    if not found:
        return []
    return [
        f"Several members of an exclusive group share its highest score ({listing(found)} of the reports): the first in"
        f" the protocol's order was called, which is a guess."
    ]


def write_template(path: Path | str, *, truth: Manifest, fold: str = "test") -> int:
    """Write a submission to fill in: the fold's ids and twenty empty columns.

    Args:
        path: New `.csv`.
        truth: From `read_labels`.
        fold: Whose rows; a table without folds gives all rows.

    Returns:
        The number of rows.

    Raises:
        MedtailError: The fold has no rows.
    """
    rows = truth.in_fold(fold) if (truth.folds != "").any() else truth
    if not len(rows):
        raise MedtailError(f"{truth.name}: no row is in fold {fold!r}; found {listing(sorted(set(truth.folds)))}.")
    frame = pd.DataFrame({"image_id": rows.frame["image_id"], **dict.fromkeys(LABELS.class_names, "")})
    write_table(new_file(path), frame)
    return len(frame)


def write_score(score: ThyroScore, folder: Path | str) -> Path:
    """Write `results.csv`, `predictions.parquet`, `reports.csv` (the decoded labels) and `score.json`.

    Args:
        score: From `score_thyro_lmd`.
        folder: New or empty.

    Returns:
        The folder.
    """
    folder = new_folder(folder)
    score.predictions.write(folder / "predictions.parquet")
    reports = pd.DataFrame(score.decoded.astype(int), columns=list(LABELS.class_names))
    reports.insert(0, "image_id", score.predictions.image_ids.astype(str))
    write_table(folder / "reports.csv", reports)
    score.results.write(folder / "results.csv")
    write_json(folder / "score.json", headline(score.results))
    return folder


HEADLINE: Mapping[str, tuple[str, str]] = {
    "Micro-F1": ("micro_f1", ""),
    "Macro-F1": ("f1", ""),
    "Head-F1": ("f1", "head"),
    "Body-F1": ("f1", "medium"),
    "Tail-F1": ("f1", "tail"),
    "mAP": ("ap", ""),
}
"""The protocol's name → metric and tail group of its row."""


def headline(results: Results) -> dict[str, Any]:
    """Return the protocol's figures with intervals, number of labels and their untuned values.

    Args:
        results: Of `score_thyro_lmd`.

    Returns:
        Name → `value, low, high, labels, untuned`; None where undefined.
    """

    def plain(value: float) -> float | None:
        return None if np.isnan(value) else float(value)

    found: dict[str, Any] = {}
    for name, (metric, group) in HEADLINE.items():
        row = results.rows(metric, class_name="", tail_group=group)
        if row.empty:
            found[name] = {"value": None, "low": None, "high": None, "labels": 0, "untuned": None}
            continue
        first = row.iloc[0]
        untuned = results.rows(f"{metric}_at_half", class_name="", tail_group=group)
        found[name] = {
            **{key: plain(float(first[key])) for key in ("value", "low", "high")},
            "labels": int(first["support"]),
            "untuned": plain(float(untuned["value"].iloc[0])) if len(untuned) else None,
        }
    return found


def score_text(score: ThyroScore) -> str:
    """Render the figures, the groups and the cautions for a terminal.

    Args:
        score: From `score_thyro_lmd`.

    Returns:
        Lines without a final line end.
    """
    results = score.results
    lines = [f"{'':10} {'value':>6}  {'95 % interval':17} {'untuned':>7}  labels"]
    for name, row in headline(results).items():
        interval = "" if row["low"] is None else f"[{row['low']:.3f}, {row['high']:.3f}]"
        untuned = _cell(row["untuned"]) if name != "mAP" else ""
        lines.append(f"{name:10} {_cell(row['value']):>6}  {interval:17} {untuned:>7}  {_labels(row['labels'])}")
    lines.append("")
    for group in GROUPS:
        value = results.value("exact_match", class_name=group)
        raw = results.value("exact_match_at_half", class_name=group)
        wrong = results.value("invalid_report_rate", class_name=group)
        lines.append(f"{group:14} exact {_cell(value)}, untuned {_cell(raw)}; invalid at 0.5 {_cell(wrong)}")
    lines.append(f"{'whole report':14} invalid at 0.5 {_cell(results.value('invalid_report_rate'))}")
    lines += ["", *_endpoint_lines(results)]
    lines.append(f"answers that could not be parsed: {results.value('unparsed_share'):.1%}")
    header = results.header
    lines.append(f"{header['num_rows']:,} images of {header['num_patients']:,} {header['bootstrap']['unit']}s")
    lines.append(f"thresholds of the foci: {header['thresholds']['source']}")
    if header["tail"]:
        lines.append(f"groups: {header['tail']['description']}")
    return "\n".join([*lines, *(f"! {warning}" for warning in header["warnings"])])


def endpoints(results: Results) -> dict[str, Any]:
    """Return the endpoints derived from the reports: TI-RADS level and needle advice.

    Args:
        results: Of `score_thyro_lmd`.

    Returns:
        Name → `value, low, high, nodules`; None where undefined.
    """
    found: dict[str, Any] = {}
    for name, metric in ENDPOINTS.items():
        row = results.rows(metric, class_name="", tail_group="")
        if row.empty:
            continue
        values = {key: float(row.iloc[0][key]) for key in ("value", "low", "high")}
        plain = {key: None if np.isnan(value) else value for key, value in values.items()}
        found[name] = {**plain, "nodules": int(row.iloc[0]["support"])}
    return found


def _endpoint_lines(results: Results) -> list[str]:
    lines = []
    for name, row in endpoints(results).items():
        interval = "" if row["low"] is None else f"[{row['low']:.3f}, {row['high']:.3f}]"
        lines.append(f"{name:15} {_cell(row['value']):>6}  {interval:17} {row['nodules']} nodules")
    return lines


def _cell(value: float | None) -> str:
    return "n/a" if value is None or np.isnan(value) else f"{value:.3f}"


def _labels(count: int) -> str:
    return str(count) if count else "no label"
