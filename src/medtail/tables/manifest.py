"""The Manifest: a row an image, its patient, its fold, and a column a class.

Everything upstream makes one (sources, splits, synthesis); everything downstream reads one. Checking happens
here, once, and names every mistake with its row and column; behind this border code is plain.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import final

import numpy as np
import pandas as pd

from medtail.errors import MedtailError, Problems, did_you_mean, listing
from medtail.tables.frames import (
    add_row_problem,
    as_numbers,
    as_text,
    digest_frame,
    read_table,
    spreadsheet_rows,
    write_table,
)
from medtail.tables.labels import LabelSpace

FOLDS = ("train", "tune", "test", "reward")
ORIGINS = ("real", "synthetic")
REQUIRED = ("image_id", "path", "patient_id")
TEXT_METADATA = ("image_id", "path", "patient_id", "fold", "origin", "study_id", "site", "device", "mask_path", "sex",
                 "view", "laterality")  # fmt: skip
NUMBER_METADATA = ("age", "size_mm", "spacing_mm", "roi_x", "roi_y", "roi_w", "roi_h")
ROI = ("roi_x", "roi_y", "roi_w", "roi_h")
META_PREFIX = "meta_"
"""Columns starting so are carried along as text and never read as classes."""


def is_metadata(column: str) -> bool:
    """Say whether a manifest column is metadata; every other column is a class."""
    return column in TEXT_METADATA or column in NUMBER_METADATA or column.startswith(META_PREFIX)


@final
@dataclass(frozen=True)
class Manifest:
    """A checked table of labelled images.

    Attributes:
        frame: Text metadata as `str` ("" = unknown), number metadata as float64, classes as float64 in
            {0, 1, NaN}. Columns: metadata in a fixed order, then the classes in the label space's order.
        labels: The classes and their exclusive groups.
        name: The file's name, for messages.
        root: The folder that relative image paths start from.

    Example:
        >>> manifest = manifest_from_frame(pd.DataFrame({
        ...     "image_id": ["a", "b"], "path": ["a.png", "b.png"], "patient_id": ["1", "2"], "Hernia": [1, None]}))
        >>> manifest.targets.tolist(), manifest.labels.class_names
        ([[1.0], [nan]], ('Hernia',))
    """

    frame: pd.DataFrame
    labels: LabelSpace
    name: str = "manifest"
    root: Path = field(default_factory=Path)

    def __len__(self) -> int:
        return len(self.frame)

    @cached_property
    def targets(self) -> np.ndarray:
        """Labels as float32 [images, classes]: 1 present, 0 absent, NaN not assessed."""
        return self.frame[list(self.labels.class_names)].to_numpy(dtype=np.float32)

    @property
    def has_patients(self) -> bool:
        """Whether patients are known; if not, every image counts as a patient of its own."""
        return bool(len(self.frame)) and bool((self.frame["patient_id"] != "").any())

    @cached_property
    def patients(self) -> np.ndarray:
        """Patient of each row as text [images]; the image's own id where patients are unknown."""
        column = "patient_id" if self.has_patients else "image_id"
        return self.frame[column].to_numpy(dtype=object)

    @property
    def folds(self) -> np.ndarray:
        """Fold of each row as text [images]; "" where none was given."""
        return self.frame["fold"].to_numpy(dtype=object)

    @property
    def is_real(self) -> np.ndarray:
        """True [images] for real images, False for synthetic ones."""
        return np.asarray(self.frame["origin"].to_numpy(dtype=object) != "synthetic")

    def image_path(self, row: int) -> Path:
        """Return the file of a row, relative paths taken from `root`."""
        return self.root / str(self.frame["path"].iloc[row])

    def image_paths(self) -> list[Path]:
        """Return the file of every row."""
        return [self.root / str(path) for path in self.frame["path"]]

    def roi(self, row: int) -> tuple[int, int, int, int] | None:
        """Return a row's region of interest as (x, y, width, height) in pixels, or None."""
        if not set(ROI) <= set(self.frame.columns):
            return None
        values = self.frame[list(ROI)].iloc[row].to_numpy(dtype=float)
        return None if np.isnan(values).any() else (int(values[0]), int(values[1]), int(values[2]), int(values[3]))

    def take(self, rows: np.ndarray) -> Manifest:
        """Return the given rows (indices or mask) as a manifest of their own."""
        return replace(self, frame=self.frame.loc[rows] if rows.dtype == bool else self.frame.iloc[rows]).reindexed()

    def reindexed(self) -> Manifest:
        """Return the same rows numbered from 0."""
        return replace(self, frame=self.frame.reset_index(drop=True))

    def in_fold(self, *folds: str) -> Manifest:
        """Return the rows of the given folds."""
        return self.take(np.isin(self.folds.astype(str), folds))

    def with_folds(self, folds: np.ndarray) -> Manifest:
        """Return a copy with the fold column replaced."""
        return replace(self, frame=self.frame.assign(fold=pd.Series(list(folds), index=self.frame.index, dtype=str)))

    def with_classes(self, class_names: Sequence[str]) -> Manifest:
        """Keep some classes, in the given order.

        Raises:
            MedtailError: A class does not exist.
        """
        labels = self.labels.select(class_names)
        metadata = [column for column in self.frame.columns if is_metadata(column)]
        return replace(self, frame=self.frame[[*metadata, *labels.class_names]], labels=labels)

    def rebased(self, root: Path) -> Manifest:
        """Return the same images with paths relative to another folder where possible, else absolute."""
        root = Path(root)

        def rebase(path: str) -> str:
            full = Path(os.path.abspath(self.root / path))
            relative = os.path.relpath(full, os.path.abspath(root))
            return str(full) if relative.startswith("../" * 4) else relative

        columns = {
            column: self.frame[column].map(lambda path: rebase(path) if path else "").astype(str)
            for column in ("path", "mask_path")
            if column in self.frame.columns
        }
        return replace(self, frame=self.frame.assign(**columns), root=root)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the table's columns and values (not of the image files)."""
        return digest_frame(self.frame)

    def write(self, path: Path | str) -> None:
        """Write as CSV or Parquet with paths relative to the file's folder. Atomic.

        Raises:
            MedtailError: Unknown ending, or the place cannot be written.
        """
        path = Path(path)
        frame = self.rebased(path.parent).frame
        empty = [c for c in frame.columns if c in ("fold", "origin") and bool((frame[c].isin(["", "real"])).all())]
        empty = [c for c in empty if c == "origin" or bool((frame[c] == "").all())]
        write_table(path, frame.drop(columns=empty))

    def check_files(self) -> None:
        """Check that every image file exists.

        Raises:
            MedtailError: Some do not; the first rows are named.
        """
        missing = np.array([not path.is_file() for path in self.image_paths()], dtype=bool)
        problems = Problems(self.name)
        if missing.any():
            first = int(np.flatnonzero(missing)[0])
            problems.add(
                f"row {first + 2}, column 'path': no file {str(self.image_path(first))!r}; expected an image"
                f" (relative paths start at {str(self.root)!r}). {int(missing.sum())} of {len(self)} files are missing,"
                f" rows {listing(spreadsheet_rows(missing), limit=8)}."
            )
        problems.raise_if_any()

    def check_folds(self, *needed: str) -> None:
        """Check that the folds are usable: needed ones present, no patient in two, synthetic rows only in train.

        Raises:
            MedtailError: Any of these fails.
        """
        problems = Problems(self.name)
        folds = self.folds.astype(str)
        for fold in needed:
            if not (folds == fold).any():
                problems.add(f"column 'fold': no row is in {fold!r}. Make folds with `medtail data split {self.name}`.")
        patients = pd.Series(self.patients)
        assigned = folds != ""
        spread = pd.DataFrame({"patient": patients[assigned], "fold": folds[assigned]}).drop_duplicates()
        for patient in spread.loc[spread["patient"].duplicated(), "patient"].unique():
            rows = np.flatnonzero(assigned & (patients == patient).to_numpy())
            named = " and in ".join(sorted(set(folds[rows])))
            problems.add(
                f"patient {patient!r}: is in {named} (rows {listing([int(r) + 2 for r in rows], limit=6)}).\n"
                f"  Remake the folds with `medtail data split {self.name}`."
            )
        outside = ~self.is_real & (folds != "train")
        if outside.any():
            rows_shown = listing(spreadsheet_rows(outside), limit=8)
            problems.add(f"column 'origin': synthetic rows outside the train fold (rows {rows_shown}); only train may.")
        problems.raise_if_any()


def read_manifest(path: Path | str, *, groups: Mapping[str, Sequence[str]] | None = None) -> Manifest:
    """Read and check a manifest file.

    Args:
        path: `.csv` or `.parquet`.
        groups: Exclusive groups beyond those that `group=value` column names declare.

    Returns:
        The checked manifest. Image files are not opened; see `Manifest.check_files`.

    Raises:
        MedtailError: Every mistake of the table, with row and column.
    """
    path = Path(path)
    frame, _ = read_table(path, what="manifest")
    return manifest_from_frame(frame, name=path.name, root=path.parent, groups=groups)


def manifest_from_frame(
    frame: pd.DataFrame,
    *,
    name: str = "manifest",
    root: Path | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
) -> Manifest:
    """Check a frame and make it a Manifest.

    Args:
        frame: Columns `image_id, path, patient_id`, optional metadata, then a column a class. Cells may be text.
        name: What to call the table in messages.
        root: Where relative paths start; the working folder if None.
        groups: Exclusive groups beyond those that `group=value` column names declare.

    Returns:
        The manifest; the frame given is not changed.

    Raises:
        MedtailError: Every mistake at once: missing columns, empty or repeated ids, labels other than 1, 0 or
            empty, unknown folds, two classes of one exclusive group in a row, and so on.
    """
    problems = Problems(name)
    _check_required(frame, problems)
    if not len(frame):
        problems.add("no rows: found only the header; expected a row an image.")
    problems.raise_if_any()

    class_names = [column for column in frame.columns if not is_metadata(column)]
    if not class_names:
        problems.add("no class columns: every column is metadata; expected a column a class holding 1, 0 or empty.")
    columns: dict[str, object] = {}
    for column in TEXT_METADATA:
        if column in frame.columns:
            columns[column] = as_text(frame[column]).astype(str)
        elif column in ("fold", "origin"):
            columns[column] = pd.Series([""] * len(frame), dtype=str)
    for column in NUMBER_METADATA:
        if column in frame.columns:
            values, bad = as_numbers(frame[column])
            add_row_problem(problems, bad, frame[column], expected="a number or empty")
            columns[column] = values
    for column in frame.columns:
        if column.startswith(META_PREFIX):
            columns[column] = as_text(frame[column]).astype(str)
    for column in class_names:
        values, bad = as_numbers(frame[column])
        bad |= ~np.isin(values, (0.0, 1.0)) & ~np.isnan(values)
        expected = f"1 (present), 0 (absent) or empty (not assessed){_metadata_hint(column, bad)}"
        add_row_problem(problems, bad, frame[column], expected=expected)
        columns[column] = values
    ready = pd.DataFrame({key: _values(value) for key, value in columns.items()})
    ready["origin"] = ready["origin"].replace("", "real")
    _check_metadata(ready, problems)
    problems.raise_if_any()

    try:
        labels = LabelSpace.from_columns(class_names, groups=groups)
    except MedtailError as error:
        raise MedtailError(f"{name}, {error}") from error
    _check_groups(ready, labels, problems)
    problems.raise_if_any()
    return Manifest(frame=ready, labels=labels, name=name, root=Path(root) if root is not None else Path())


def _values(value: object) -> object:
    return value.reset_index(drop=True) if isinstance(value, pd.Series) else value


def _metadata_hint(column: str, bad: np.ndarray) -> str:
    return f" (if {column!r} is no class, rename it {META_PREFIX + column!r})" if bad.mean() > 0.5 else ""


def _check_required(frame: pd.DataFrame, problems: Problems) -> None:
    for column in REQUIRED:
        if column not in frame.columns:
            unclaimed = [str(c) for c in frame.columns if str(c) not in REQUIRED]
            hint = did_you_mean(column, unclaimed)
            listed = f" Columns found: {listing(list(frame.columns), limit=12)}." if not hint else ""
            problems.add(
                f"column {column!r}: missing{hint or '.'}{listed}"
                " `medtail data import csv --help` shows how to map yours."
            )


def _check_metadata(frame: pd.DataFrame, problems: Problems) -> None:
    for column in ("image_id", "path"):
        add_row_problem(
            problems, (frame[column] == "").to_numpy(), frame[column], expected="a value, not an empty cell"
        )
    repeated = frame["image_id"].duplicated(keep=False).to_numpy() & (frame["image_id"] != "").to_numpy()
    for image_id in list(dict.fromkeys(frame["image_id"][repeated])):
        rows = spreadsheet_rows((frame["image_id"] == image_id).to_numpy())
        problems.add(f"column 'image_id': {image_id!r} stands in rows {listing(rows, limit=8)}; expected once.")
    empty = (frame["patient_id"] == "").to_numpy()
    if empty.any() and not empty.all():
        add_row_problem(problems, empty, frame["patient_id"],
                        expected="a patient in every row, or the whole column empty (patients unknown)")  # fmt: skip
    folds = ", ".join(FOLDS)
    add_row_problem(problems, ~frame["fold"].isin(["", *FOLDS]).to_numpy(), frame["fold"], expected=f"{folds} or empty")
    add_row_problem(problems, ~frame["origin"].isin(ORIGINS).to_numpy(), frame["origin"], expected=" or ".join(ORIGINS))
    given = [column for column in ROI if column in frame.columns]
    if given and len(given) < len(ROI):
        problems.add(f"columns {listing(given)}: a region of interest needs all of {', '.join(ROI)}.")
    elif given:
        roi = frame[list(ROI)].to_numpy(dtype=float)
        partial = np.isnan(roi).any(axis=1) & ~np.isnan(roi).all(axis=1)
        add_row_problem(problems, partial, frame["roi_x"], expected="all four roi columns, or none")
        flat = (roi[:, 2] <= 0) | (roi[:, 3] <= 0)
        add_row_problem(problems, flat, frame["roi_w"], expected="a roi with width and height above 0")


def _check_groups(frame: pd.DataFrame, labels: LabelSpace, problems: Problems) -> None:
    for group in labels.groups:
        present = (frame[list(group.classes)].to_numpy(dtype=float) == 1).sum(axis=1)
        rows = spreadsheet_rows(present > 1)
        if rows:
            both = [name for name in group.classes if frame[name].iloc[rows[0] - 2] == 1]
            more = f" Also rows {listing(rows[1:], limit=8)}." if len(rows) > 1 else ""
            problems.add(
                f"row {rows[0]}: {listing(both)} are both 1, yet the classes of {group.name!r} exclude each other;"
                f" expected one of them (or column names without '=' if they can combine).{more}"
            )
        if labels.task == "multiclass":
            none = (frame[list(group.classes)].to_numpy(dtype=float) == 0).all(axis=1)
            rows = spreadsheet_rows(none)
            if rows:
                problems.add(
                    f"rows {listing(rows, limit=8)}: no class of {group.name!r} is 1; expected one of them, or empty"
                    " cells where it was not assessed."
                )
