"""The Manifest: a row an image, its patient, its fold, and a column a class.

Everything upstream makes one (sources, splits, synthesis); everything downstream reads one. Checking happens
here, once, and names every mistake with its row and column; behind this border code is plain.
"""

from __future__ import annotations

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
    check_characters,
    check_columns,
    check_ids,
    digest_frame,
    read_table,
    row_list,
    spreadsheet_rows,
    write_table,
)
from medtail.tables.labels import LabelSpace
from medtail.tables.places import Place, is_url, joined, place_of, rebased, url_problem
from medtail.tables.presence import check_presence

FOLDS = ("train", "tune", "test", "reward")
ORIGINS = ("real", "synthetic")
REQUIRED = ("image_id", "path", "patient_id")
TEXT_METADATA = ("image_id", "path", "patient_id", "fold", "origin", "study_id", "site", "device", "mask_path", "sex",
                 "view", "laterality")  # fmt: skip
NUMBER_METADATA = ("age", "size_mm", "spacing_mm", "roi_x", "roi_y", "roi_w", "roi_h")
ROI = ("roi_x", "roi_y", "roi_w", "roi_h")
PATHS = ("path", "mask_path")
META_PREFIX = "meta_"
"""Columns starting so are carried along as text and never read as classes."""
TARGET_PREFIX = "target:"
"""A table of scores holds its targets under names starting so."""


def is_metadata(column: str) -> bool:
    """Say whether a manifest column is metadata; every other column is a class."""
    return column in TEXT_METADATA or column in NUMBER_METADATA or column.startswith(META_PREFIX)


@final
@dataclass(frozen=True, eq=False)
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

    def image_path(self, row: int) -> Place:
        """Return the file of a row: a path, taken from `root` where relative, or a `Remote` for a URL."""
        return place_of(str(self.frame["path"].iloc[row]), root=self.root)

    def image_paths(self) -> list[Place]:
        """Return the file of every row."""
        return [place_of(path, root=self.root) for path in self.frame["path"].astype(str)]

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
        columns = {
            column: rebased(self.frame[column], root=self.root, to=root)
            for column in PATHS
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
        told_nothing = [
            column for column, default in (("fold", ""), ("origin", "real")) if bool((frame[column] == default).all())
        ]
        write_table(path, frame.drop(columns=told_nothing))

    def check_files(self, *, remote: bool = True) -> None:
        """Check that every image file exists.

        Args:
            remote: Whether servers are asked for the files behind URLs, too.

        Raises:
            MedtailError: Some do not, or a server does not answer; the first rows are named.
        """
        check_presence(self.image_paths(), name=self.name, root=self.root, remote=remote)

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
        assigned = np.flatnonzero(folds != "")
        table = pd.DataFrame({"patient": self.patients[assigned], "fold": folds[assigned], "row": assigned + 2})
        spread = table.drop_duplicates(["patient", "fold"])["patient"]
        crossing = table[table["patient"].isin(spread[spread.duplicated()])]
        for patient, part in crossing.groupby("patient", sort=False):
            named = " and in ".join(sorted(set(part["fold"])))
            problems.add(
                f"patient {patient!r}: is in {named} ({row_list(part['row'].tolist(), limit=6)})."
                f" Remake the folds with `medtail data split {self.name}`."
            )
        outside = ~self.is_real & (folds != "train")
        if outside.any():
            problems.add(
                f"column 'origin': synthetic images outside the train fold ({row_list(spreadsheet_rows(outside))});"
                " expected them in train only. Move them there or remove them."
            )
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
    root: Path | str | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
) -> Manifest:
    """Check a frame and make it a Manifest.

    Args:
        frame: Columns `image_id, path, patient_id`, optional metadata, then a column a class. Cells may be text.
        name: What to call the table in messages.
        root: Where relative paths start; the working folder if None. Behind a URL, relative paths become URLs.
        groups: Exclusive groups beyond those that `group=value` column names declare.

    Returns:
        The manifest; the frame given is not changed.

    Raises:
        MedtailError: Every mistake at once: missing columns, empty or repeated ids, labels other than 1, 0 or
            empty, unknown folds, two classes of one exclusive group in a row, and so on.
    """
    problems = Problems(name)
    check_columns(list(frame.columns), problems)
    problems.raise_if_any()
    given = frame.set_axis([str(column).strip() for column in frame.columns], axis=1).reset_index(drop=True)
    if isinstance(root, str) and is_url(root):
        for column in set(PATHS) & set(given.columns):
            given[column] = [joined(root, cell) for cell in as_text(given[column])]
        root = None
    class_names = [column for column in given.columns if not is_metadata(column)]
    _check_required(given, problems)
    _check_class_names(class_names, problems)
    labels = _label_space(class_names, groups, problems)
    if not len(given):
        problems.add("no rows: found only the header; expected a row an image.")
        problems.raise_if_any()

    columns: dict[str, object] = _read_text(given)
    columns |= _read_numbers(given, problems)
    carried = [column for column in given.columns if column.startswith(META_PREFIX)]
    columns |= {column: as_text(given[column]).astype(str) for column in carried}
    columns |= _read_classes(given, class_names, problems)
    ready = pd.DataFrame(columns)
    _check_metadata(ready, given, problems)
    if labels is not None:
        _check_groups(ready, labels, problems)
    problems.raise_if_any()
    assert labels is not None, "a label space that could not be made is a problem, raised above"
    return Manifest(frame=ready, labels=labels, name=name, root=Path(root) if root is not None else Path())


def _check_required(frame: pd.DataFrame, problems: Problems) -> None:
    for column in REQUIRED:
        if column not in frame.columns:
            unclaimed = [name for name in frame.columns if name not in REQUIRED]
            hint = did_you_mean(column, unclaimed)
            listed = f" Columns found: {listing(list(frame.columns), limit=12)}." if not hint else ""
            problems.add(
                f"column {column!r}: missing{hint or '.'}{listed}"
                " `medtail data import csv --help` shows how to map yours."
            )


def _check_class_names(class_names: Sequence[str], problems: Problems) -> None:
    if not class_names:
        problems.add("no class columns: every column is metadata; expected a column a class holding 1, 0 or empty.")
    for name in class_names:
        if name.startswith(TARGET_PREFIX):
            problems.add(f"column {name!r}: {TARGET_PREFIX!r} marks the targets of a table of scores; rename it.")


def _label_space(
    class_names: Sequence[str], groups: Mapping[str, Sequence[str]] | None, problems: Problems
) -> LabelSpace | None:
    try:
        return LabelSpace.from_columns(class_names, groups=groups)
    except MedtailError as error:
        problems.add(str(error))
        return None


def _read_text(frame: pd.DataFrame) -> dict[str, object]:
    columns: dict[str, object] = {}
    for column in TEXT_METADATA:
        if column in frame.columns:
            columns[column] = as_text(frame[column]).astype(str)
        elif column in ("fold", "origin"):
            columns[column] = pd.Series([""] * len(frame), dtype=str)
    columns["origin"] = pd.Series(columns["origin"]).replace("", "real")
    return columns


def _read_numbers(frame: pd.DataFrame, problems: Problems) -> dict[str, object]:
    columns: dict[str, object] = {}
    for column in NUMBER_METADATA:
        if column in frame.columns:
            values, bad = as_numbers(frame[column])
            add_row_problem(problems, bad | np.isinf(values), frame[column], expected="a finite number or empty")
            columns[column] = values
    return columns


def _read_classes(frame: pd.DataFrame, class_names: Sequence[str], problems: Problems) -> dict[str, object]:
    columns: dict[str, object] = {}
    incomplete = not set(REQUIRED) <= set(frame.columns)
    for column in class_names:
        values, bad = as_numbers(frame[column])
        bad |= ~np.isin(values, (0.0, 1.0)) & ~np.isnan(values)
        mostly_bad = bool(bad.mean() > 0.5)
        # beside a missing column, one that is no class at all is likely that column under another name
        if not (incomplete and mostly_bad):
            expected = f"1 (present), 0 (absent) or empty (not assessed){_metadata_hint(column) if mostly_bad else ''}"
            add_row_problem(problems, bad, frame[column], expected=expected)
        columns[column] = values
    return columns


def _metadata_hint(column: str) -> str:
    return f" (if {column!r} is no class, rename it {META_PREFIX + column!r}" + (
        f"{did_you_mean(column, [*TEXT_METADATA, *NUMBER_METADATA])})"
    )


def _check_metadata(frame: pd.DataFrame, given: pd.DataFrame, problems: Problems) -> None:
    if "image_id" in given.columns:
        check_ids(frame["image_id"], problems)
    if "path" in given.columns:
        blank = (frame["path"] == "").to_numpy(dtype=bool)
        add_row_problem(problems, blank, given["path"], expected="a value, not an empty cell")
    for column in set(PATHS) & set(given.columns):
        told = frame[column].map(lambda cell: url_problem(cell) if is_url(cell) else None)
        for text in sorted(set(told.dropna())):
            add_row_problem(problems, (told == text).to_numpy(dtype=bool), frame[column], expected=f"a file ({text})")
    if "patient_id" in given.columns:
        blank = (frame["patient_id"] == "").to_numpy(dtype=bool)
        if not blank.all():
            expected = "a patient in every row, or the whole column empty (patients unknown)"
            add_row_problem(problems, blank, given["patient_id"], expected=expected)
    if "fold" in given.columns:
        known = frame["fold"].isin(["", *FOLDS]).to_numpy(dtype=bool)
        add_row_problem(problems, ~known, given["fold"], expected="train, tune (validation), test, reward or empty")
    if "origin" in given.columns:
        known = frame["origin"].isin(ORIGINS).to_numpy(dtype=bool)
        add_row_problem(problems, ~known, given["origin"], expected=f"{' or '.join(ORIGINS)} (or empty: real)")
    for column in given.columns:
        if column in TEXT_METADATA or column.startswith(META_PREFIX):
            check_characters(frame[column], problems)
    _check_roi(frame, given, problems)


def _check_roi(frame: pd.DataFrame, given: pd.DataFrame, problems: Problems) -> None:
    found = [column for column in ROI if column in given.columns]
    if not found:
        return
    if len(found) < len(ROI):
        problems.add(
            f"columns {listing(found)}: found without the others; a region of interest needs {', '.join(ROI)}."
        )
        return
    boxes = frame[list(ROI)].to_numpy(dtype=float)
    written = pd.DataFrame({column: as_text(given[column]) for column in ROI})
    known, empty = np.isfinite(boxes), (written == "").to_numpy(dtype=bool)
    partial = np.asarray(empty.any(axis=1) & ~empty.all(axis=1))
    outside = known.all(axis=1) & ((boxes[:, :2] < 0).any(axis=1) | (boxes[:, 2:] <= 0).any(axis=1))
    if partial.any() or outside.any():
        shown = written.agg(", ".join, axis=1).rename(", ".join(ROI))
        add_row_problem(problems, partial, shown, expected="all four in pixels, or all four empty")
        add_row_problem(problems, outside, shown, expected="x and y of at least 0, width and height above 0")


def _check_groups(frame: pd.DataFrame, labels: LabelSpace, problems: Problems) -> None:
    for group in labels.groups:
        values = frame[list(group.classes)].to_numpy(dtype=float)
        rows = spreadsheet_rows((values == 1).sum(axis=1) > 1)
        if rows:
            both = [name for name, value in zip(group.classes, values[rows[0] - 2], strict=True) if value == 1]
            more = f" Also {row_list(rows[1:])}." if len(rows) > 1 else ""
            problems.add(
                f"row {rows[0]}: {listing(both)} are {'both' if len(both) == 2 else 'all'} 1, yet the classes of"
                f" {group.name!r} exclude each other; expected one of them (or column names without '=' if they can"
                f" combine).{more}"
            )
        if labels.task == "multiclass":
            rows = spreadsheet_rows((values == 0).all(axis=1))
            if rows:
                problems.add(
                    f"{row_list(rows)}: no class of {group.name!r} is 1; expected one of them, or empty cells where it"
                    " was not assessed."
                )
