"""Predictions: a row an image, a score a class in [0, 1], the targets beside them.

Made by our models or by anybody's: a CSV with `image_id` and one column a class is enough, its targets joined
from a manifest by id. Our own files also carry what a fair judgement needs: digests, train counts, thresholds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import pandas as pd

from medtail.errors import MedtailError, Problems, did_you_mean, listing
from medtail.tables.frames import (
    add_row_problem,
    as_numbers,
    as_text,
    check_characters,
    check_columns,
    check_ids,
    digest_frame,
    read_table,
    write_table,
)
from medtail.tables.labels import LabelSpace
from medtail.tables.manifest import TARGET_PREFIX, Manifest, is_metadata
from medtail.tables.tail import ClassCounts

ScoreKind = Literal["probability", "logits", "softmax"]
TOLERANCE = 1e-6
"""Scores may leave [0, 1] by this much, the rounding of other tools; they are clipped to it."""


@final
@dataclass(frozen=True, eq=False)
class Predictions:
    """Scores and targets of the same images.

    Attributes:
        image_ids: Text [N].
        patients: Text [N]; the image's own id where patients are unknown.
        scores: float64 [N, C] in [0, 1].
        targets: float64 [N, C] in {0, 1, NaN}.
        labels: The classes, in column order.
        folds: Text [N], "" where unknown.
        has_patients: False when every image stands for its own patient.
        thresholds: Class → score at or above which it is called present, chosen on tune; None if never chosen.
        train_counts: Class counts of the train fold; None if unknown.
        digests: `model`, `manifest`, `thresholds` and the like, hexadecimal.
        name: The file's name, for messages.
    """

    image_ids: np.ndarray
    patients: np.ndarray
    scores: np.ndarray
    targets: np.ndarray
    labels: LabelSpace
    folds: np.ndarray
    has_patients: bool = True
    thresholds: Mapping[str, float] | None = None
    train_counts: ClassCounts | None = None
    digests: Mapping[str, str] = field(default_factory=dict)
    name: str = "predictions"

    def __post_init__(self) -> None:
        shape = (len(self.image_ids), self.labels.num_classes)
        assert self.scores.shape == shape, "one row an image, one column a class"
        assert self.targets.shape == shape, "one target a score"

    def __len__(self) -> int:
        return len(self.image_ids)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The table as written: ids, fold, scores under class names, targets under `target:CLASS`."""
        names = self.labels.class_names
        columns: dict[str, Any] = {
            "image_id": self.image_ids.astype(str),
            "patient_id": self.patients.astype(str) if self.has_patients else [""] * len(self),
            "fold": self.folds.astype(str),
        }
        columns |= {name: self.scores[:, c] for c, name in enumerate(names)}
        columns |= {TARGET_PREFIX + name: self.targets[:, c] for c, name in enumerate(names)}
        return pd.DataFrame(columns)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the table."""
        return digest_frame(self.frame)

    @property
    def threshold_array(self) -> np.ndarray:
        """Thresholds as float64 [C]; 0.5 where none was chosen."""
        chosen = self.thresholds or {}
        return np.array([chosen.get(name, 0.5) for name in self.labels.class_names], dtype=float)

    def take(self, rows: np.ndarray) -> Predictions:
        """Return the given rows (indices or mask)."""
        return replace(
            self,
            image_ids=self.image_ids[rows],
            patients=self.patients[rows],
            scores=self.scores[rows],
            targets=self.targets[rows],
            folds=self.folds[rows],
        )

    def write(self, path: Path | str) -> None:
        """Write as Parquet (header inside) or CSV (header beside it as `.json`). Atomic."""
        header: dict[str, Any] = {"labels": self.labels.to_json(), "digests": dict(self.digests)}
        if self.thresholds is not None:
            header["thresholds"] = {name: float(value) for name, value in self.thresholds.items()}
        if self.train_counts is not None:
            header["train_counts"] = self.train_counts.to_json()
        write_table(path, self.frame, header=header)


def read_predictions(
    path: Path | str,
    *,
    truth: Manifest | None = None,
    fold: str | None = None,
    scores: ScoreKind = "probability",
    aliases: Mapping[str, str] | None = None,
    partial: bool = False,
) -> Predictions:
    """Read scores made by medtail or by any other tool, and check them all at once.

    Args:
        path: `.csv` or `.parquet` with `image_id` and a column a class.
        truth: Manifest to take targets, patients, exclusive groups and train counts from. Required unless the
            file carries `target:CLASS` columns.
        fold: Keep only this fold of `truth`; all scored rows if None.
        scores: What the numbers are: `probability` in [0, 1], `logits` (a sigmoid is applied, a softmax inside
            exclusive groups) or `softmax` (logits, softmax over all classes).
        aliases: Other names of classes, alias → name.
        partial: Accept fewer rows than the fold has.

    Returns:
        Predictions whose rows are in the file's order.

    Raises:
        MedtailError: Every mistake: missing, extra or repeated ids and classes, values that are no number, NaN
            or outside [0, 1], an empty table, no targets.
    """
    path = Path(path)
    frame, header = read_table(path, what="table of scores")
    problems = Problems(path.name)
    frame = _renamed(frame, aliases or {}, problems)
    if "image_id" not in frame.columns:
        hint = did_you_mean("image_id", list(frame.columns))
        problems.add(f"column 'image_id': missing{hint or '; expected it beside one column a class'}.")
    if not len(frame):
        problems.add("no rows: found only the header; expected a row an image.")
    problems.raise_if_any()
    extras = _read_header(path, header)
    labels = _label_space(frame, extras.labels, truth, problems)
    ids = as_text(frame["image_id"])
    check_ids(ids, problems)
    check_characters(ids, problems)
    values = _read_scores(frame, labels, scores, problems)
    if truth is not None:
        predictions = _join_truth(ids, values, labels, truth, fold, partial, problems, name=path.name)
    else:
        predictions = _with_own_targets(frame, ids, values, labels, fold, problems, name=path.name)
    return replace(
        predictions,
        train_counts=_in_order(extras.train_counts, predictions.labels) or predictions.train_counts,
        thresholds=extras.thresholds,
        digests={**predictions.digests, **extras.digests, "scores": predictions.digest},
    )


def _renamed(frame: pd.DataFrame, aliases: Mapping[str, str], problems: Problems) -> pd.DataFrame:
    names = {
        alias: name
        for given, meant in aliases.items()
        for alias, name in ((given, meant), (TARGET_PREFIX + given, TARGET_PREFIX + meant))
    }
    renamed = frame.set_axis([names.get(column, column) for column in (str(c).strip() for c in frame.columns)], axis=1)
    check_columns(list(renamed.columns), problems)
    problems.raise_if_any()
    return renamed


@final
@dataclass(frozen=True)
class _Header:
    labels: LabelSpace | None
    thresholds: Mapping[str, float] | None
    train_counts: ClassCounts | None
    digests: Mapping[str, str]


def _in_order(counts: ClassCounts | None, labels: LabelSpace) -> ClassCounts | None:
    """Put counts, which JSON keeps by name, into the classes' order."""
    return None if counts is None else counts.select(labels.class_names)


def _read_header(path: Path, header: Mapping[str, Any]) -> _Header:
    try:
        thresholds = header.get("thresholds")
        return _Header(
            labels=LabelSpace.from_json(header["labels"]) if "labels" in header else None,
            thresholds=None if thresholds is None else {str(k): float(v) for k, v in thresholds.items()},
            train_counts=ClassCounts.from_json(header["train_counts"]) if "train_counts" in header else None,
            digests={str(k): str(v) for k, v in header.get("digests", {}).items()},
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise MedtailError(
            f"{path.name}, header record: {error}. Expected what `medtail predict` writes; for scores of another tool"
            f" remove {path.name + '.json'!r}."
        ) from error


def _label_space(
    frame: pd.DataFrame, written: LabelSpace | None, truth: Manifest | None, problems: Problems
) -> LabelSpace:
    """Return the classes to read; what the table lacks or has beyond them is noted."""
    present = [name for name in frame.columns if not is_metadata(name) and not name.startswith(TARGET_PREFIX)]
    if truth is not None:
        labels, owner = truth.labels, truth.name
    elif written is not None:
        labels, owner = written, "the file's header"
    elif present:
        return LabelSpace.from_columns(present)
    else:
        problems.add("no class columns: expected 'image_id' and one column of scores a class.")
        problems.raise_if_any()
        raise AssertionError("unreachable: a problem was just added")
    known = labels.class_names
    unknown = [name for name in present if name not in known]
    for name in known:
        if name not in present:
            problems.add(f"column {name!r}: missing; {owner} has this class{did_you_mean(name, unknown) or '.'}")
    for name in unknown:
        problems.add(f"column {name!r}: no such class in {owner}{did_you_mean(name, known) or '.'}")
    return labels


def _read_scores(frame: pd.DataFrame, labels: LabelSpace, kind: ScoreKind, problems: Problems) -> np.ndarray:
    columns = []
    for name in labels.class_names:
        if name not in frame.columns:  # noted already; the others are checked all the same
            columns.append(np.full(len(frame), np.nan))
            continue
        values, bad = as_numbers(frame[name])
        add_row_problem(problems, bad, frame[name], expected="a number")
        missing = np.isnan(values) & ~bad
        add_row_problem(problems, missing, frame[name], expected="a score, not NaN or an empty cell")
        infinite = np.isinf(values)
        add_row_problem(problems, infinite, frame[name], expected="a finite number")
        if kind == "probability":
            outside = (values < -TOLERANCE) | (values > 1 + TOLERANCE)
            hint = "a score in [0, 1] (logits? give `--scores logits`, or `--scores softmax` for exclusive classes)"
            add_row_problem(problems, outside & ~infinite, frame[name], expected=hint)
        columns.append(values)
    values = np.column_stack(columns)
    if kind == "probability":
        return np.asarray(np.clip(values, 0.0, 1.0))
    values[np.isinf(values)] = np.nan  # noted above; the result is never used
    groups = (tuple(range(labels.num_classes)),) if kind == "softmax" else labels.group_indices
    return scores_from_logits(values, groups)


def scores_from_logits(logits: np.ndarray, groups: tuple[tuple[int, ...], ...]) -> np.ndarray:
    """Turn logits into scores: softmax inside each group, sigmoid elsewhere.

    Args:
        logits: float [N, C].
        groups: Column indices of exclusive groups.

    Returns:
        float64 [N, C] in [0, 1]; each group's scores sum to 1.

    Example:
        >>> scores_from_logits(np.zeros((1, 3)), ((0, 1),)).tolist()
        [[0.5, 0.5, 0.5]]
    """
    logits = np.asarray(logits, dtype=np.float64)
    # exp of a non-positive number on both sides: no overflow at any logit
    small = np.exp(-np.abs(logits))
    scores = np.where(logits >= 0, 1.0 / (1.0 + small), small / (1.0 + small))
    for indices in groups:
        columns = list(indices)
        part = logits[:, columns]
        exponential = np.exp(part - part.max(axis=1, keepdims=True))
        scores[:, columns] = exponential / exponential.sum(axis=1, keepdims=True)
    return np.asarray(scores)


def _join_truth(
    ids: pd.Series,
    values: np.ndarray,
    labels: LabelSpace,
    truth: Manifest,
    fold: str | None,
    partial: bool,
    problems: Problems,
    *,
    name: str,
) -> Predictions:
    from medtail.tables.tail import count_classes

    wanted = truth.in_fold(fold) if fold is not None else truth
    if not len(wanted):
        folds = sorted(set(truth.folds) - {""})
        problems.add(f"fold {fold!r}: no row of {truth.name} is in it; found {listing(folds) or 'no folds'}.")
        problems.raise_if_any()
    position = {image_id: row for row, image_id in enumerate(wanted.frame["image_id"])}
    everywhere = set(truth.frame["image_id"])
    unknown = [image_id for image_id in dict.fromkeys(ids) if image_id and image_id not in everywhere]
    if unknown:
        problems.add(
            f"column 'image_id': {len(unknown)} ids are not in {truth.name}: {listing(unknown, limit=10)}."
            " Remove their rows, or give the manifest they come from."
        )
    given = set(ids)
    missing = [image_id for image_id in position if image_id not in given]
    if fold is None:
        # scoring one fold of a manifest is the normal case: only folds that were touched must be complete
        fold_of = dict(zip(truth.frame["image_id"], truth.folds, strict=True))
        touched = {fold_of[image_id] for image_id in given & everywhere}
        missing = [image_id for image_id in missing if fold_of[image_id] in touched]
    if missing and not partial:
        problems.add(
            f"column 'image_id': {len(missing)} of {truth.name}'s images have no scores:"
            f" {listing(missing, limit=10)}. Score them all, or say `--partial`."
        )
    problems.raise_if_any()
    kept = np.array([image_id in position for image_id in ids], dtype=bool)
    if not kept.any():
        raise MedtailError(f"{name}: no scored image is in fold {fold!r} of {truth.name}.")
    rows = np.array([position[image_id] for image_id in ids[kept]], dtype=int)
    return Predictions(
        image_ids=ids[kept].to_numpy(dtype=object),
        patients=wanted.patients[rows],
        scores=values[kept],
        targets=wanted.targets[rows].astype(np.float64),
        labels=labels,
        folds=wanted.folds[rows],
        has_patients=wanted.has_patients,
        train_counts=count_classes(truth) if (truth.folds == "train").any() else None,
        digests={"manifest": truth.digest},
        name=name,
    )


def _with_own_targets(
    frame: pd.DataFrame,
    ids: pd.Series,
    values: np.ndarray,
    labels: LabelSpace,
    fold: str | None,
    problems: Problems,
    *,
    name: str,
) -> Predictions:
    given = [column for column in frame.columns if column.startswith(TARGET_PREFIX)]
    if not given:
        problems.add("no targets: the file holds scores only. Give the labels with `--truth labels.csv`.")
        problems.raise_if_any()
    for column in given:
        name_scored = column.removeprefix(TARGET_PREFIX)
        if name_scored not in labels.class_names:
            hint = did_you_mean(name_scored, labels.class_names)
            problems.add(f"column {column!r}: targets without scores; no column {name_scored!r}{hint or '.'}")
    targets = []
    for column in (TARGET_PREFIX + class_name for class_name in labels.class_names):
        if column not in given:
            problems.add(f"column {column!r}: missing; expected the targets of every class.")
            continue
        target, bad = as_numbers(frame[column])
        bad |= ~np.isin(target, (0.0, 1.0)) & ~np.isnan(target)
        add_row_problem(problems, bad, frame[column], expected="1 (present), 0 (absent) or empty (not assessed)")
        targets.append(target)
    nothing = pd.Series([""] * len(frame), dtype=str)
    patients = as_text(frame["patient_id"]) if "patient_id" in frame.columns else nothing
    folds = as_text(frame["fold"]) if "fold" in frame.columns else nothing
    blank = (patients == "").to_numpy(dtype=bool)
    has_patients = not blank.all()
    if has_patients:
        expected = "a patient in every row, or the whole column empty (patients unknown)"
        add_row_problem(problems, blank, patients, expected=expected)
    check_characters(patients, problems)
    problems.raise_if_any()
    predictions = Predictions(
        image_ids=ids.to_numpy(dtype=object),
        patients=(patients if has_patients else ids).to_numpy(dtype=object),
        scores=values,
        targets=np.column_stack(targets),
        labels=labels,
        folds=folds.to_numpy(dtype=object),
        has_patients=has_patients,
        name=name,
    )
    if fold is None:
        return predictions
    kept = predictions.folds == fold
    if not kept.any():
        found = listing(sorted(set(folds) - {""})) or "no folds"
        raise MedtailError(
            f"{name}: no row is in fold {fold!r}; found {found}. Leave `--fold` out, or name one of them."
        )
    return predictions.take(kept)
