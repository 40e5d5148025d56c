"""Which files of a CXR-LT download belong to which edition and to which fold.

The files say neither. What tells an edition is the set of its label columns (by name, aliases counting) and its
metadata; what tells a fold is a column `split` or the file's name. Files of two editions in one table would put two
meanings of "Normal" and two sets of patients together, so they are refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import pandas as pd

from medtail.errors import MedtailError, Problems, UsageError, listing
from medtail.sources.cxr_lt import EDITIONS, Edition
from medtail.sources.cxr_lt import edition as edition_table
from medtail.tables.frames import read_table

EXPECTED = (
    "labels.csv with a column 'split', or train*.csv, development*.csv and test*.csv as the challenge hands them out"
)
ALL_META = frozenset(
    {column for found in EDITIONS.values() for column in found.meta_columns}
    | {"split", "Projection", "ViewPosition", "ViewCodeSequence_CodeMeaning"}
)
FOLD_OF_SPLIT = {"train": "train", "val": "tune", "validate": "tune", "validation": "tune", "dev": "tune",
                 "development": "tune", "tune": "tune", "test": "test"}  # fmt: skip
_PARTS = (("train", "train"), ("development", "tune"), ("dev", "tune"), ("val", "tune"), ("tune", "tune"),
          ("test", "test"))  # fmt: skip
_TABLE = re.compile(r"\.csv(\.gz)?$", re.IGNORECASE)


@final
@dataclass(frozen=True, eq=False)
class LabelFile:
    """One label file as text.

    Attributes:
        path: The file.
        frame: Its cells as text.
        fold: From the file's name; "" where the name says nothing or a column `split` stands in it.
        edition: The edition its columns are those of; None where they fit none, or it has no labels.
        has_labels: Whether any column is a class of any edition.
    """

    path: Path
    frame: pd.DataFrame
    fold: str
    edition: str | None
    has_labels: bool

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name


def fitting_edition(columns: Sequence[str]) -> str | None:
    """Say whose files have these columns.

    The label columns must be the classes of one or several tasks of an edition, aliases counting. Where several
    editions fit (2023's 26 classes are 2024's task 2), the one with more exact names, then more of its metadata.

    Args:
        columns: Of a label file.

    Returns:
        An edition's name, or None.

    Example:
        >>> unseen = ["Bulla", "Cardiomyopathy", "Hilum", "Osteopenia", "Scoliosis"]
        >>> fitting_edition(["dicom_id", "subject_id", *unseen]), fitting_edition(["dicom_id", "Hernia"])
        ('2024', None)
    """
    best: tuple[tuple[int, int], str] | None = None
    for name, tables in EDITIONS.items():
        if tables.id_column not in columns:
            continue
        labels = [column for column in columns if column not in ALL_META]
        found = {tables.canonical(column) for column in labels} - {None}
        if any(tables.canonical(column) is None and _is_class(column) for column in labels):
            continue
        parts = [set(task.class_names) for task in tables.tasks.values()]
        inside: set[str] = set().union(*(part for part in parts if part <= found))
        if not found or found != inside:
            continue
        exact = sum(column in tables.by_name for column in columns)
        value = (exact, sum(column in tables.meta_columns for column in columns))
        if best is None or value > best[0]:
            best = value, name
    return None if best is None else best[1]


def _is_class(column: str) -> bool:
    return any(tables.canonical(column) is not None for tables in EDITIONS.values())


def read_label_files(path: Path | str, *, task: int) -> list[LabelFile]:
    """Read the label files of a folder that belong to a task, or one file.

    Args:
        path: A folder as downloaded, or a `.csv` or `.csv.gz`.
        task: Files named after another task are left out.

    Returns:
        The files, train first.

    Raises:
        MedtailError: There are none, or two for one fold; a file cannot be read.
    """
    path = Path(path)
    chosen = [(path, _fold_of_name(path))] if path.is_file() else _find(path, task)
    files = []
    for file, fold in chosen:
        frame, _ = read_table(file, what="label file")
        columns = list(frame.columns)
        labelled = any(_is_class(column) for column in columns if column not in ALL_META)
        own_split = "split" in columns
        files.append(LabelFile(file, frame, "" if own_split else fold, fitting_edition(columns), labelled))
    return files


def one_edition(files: Sequence[LabelFile], asked: str | None) -> Edition:
    """Return the edition that all files are of.

    Args:
        files: Label files.
        asked: The edition the user named; None to find out.

    Returns:
        Its tables.

    Raises:
        UsageError: `asked` is unknown.
        MedtailError: Files of another edition than asked, or of several; or none can be told.
    """
    tables = None if asked is None else edition_table(asked)
    told = {file.name: file.edition for file in files if file.edition is not None}
    problems = Problems("cxr_lt")
    if tables is not None:
        for name, found in told.items():
            if found != tables.name:
                problems.add(
                    f"{name}: its labels are those of edition {found}; expected {tables.name}. Give --edition {found},"
                    " or the files of the other edition."
                )
    elif len(set(told.values())) > 1:
        listed = ", ".join(f"{name} ({found})" for name, found in told.items())
        problems.add(f"label files of several editions: {listed}; expected those of one. Take the others out.")
    problems.raise_if_any()
    if tables is not None:
        return tables
    if not told:
        raise MedtailError(
            f"cxr_lt: cannot tell the edition of {listing([file.name for file in files])}: the label columns are"
            " not the classes of a task. Name it with --edition to see which classes are missing."
        )
    return EDITIONS[next(iter(told.values()))]


def _fold_of_name(path: Path) -> str:
    stem = path.name.lower()
    return next((fold for start, fold in _PARTS if stem.startswith(start)), "")


def _find(folder: Path, task: int) -> list[tuple[Path, str]]:
    if not folder.is_dir():
        raise MedtailError(f"cxr_lt: no file or folder {str(folder)!r}; expected {EXPECTED}.")
    tables = sorted(item for item in folder.iterdir() if item.is_file() and _TABLE.search(item.name))
    of_fold: dict[str, list[Path]] = {}
    for file in tables:
        name = file.name.lower()
        named = re.search(r"task[ _-]?(\d)", name)
        if (named and int(named[1]) != task) or "submission" in name or "class" in name:
            continue
        if fold := _fold_of_name(file):
            of_fold.setdefault(fold, []).append(file)
    whole = folder / "labels.csv"
    if not of_fold and whole.is_file():
        return [(whole, "")]
    problems = Problems("cxr_lt")
    found = []
    for fold in ("train", "tune", "test"):
        files = of_fold.get(fold, [])
        # a labelled file, and one that names the task, is meant rather than another
        files = [f for f in files if f"task{task}" in f.name.lower()] or files
        files = [f for f in files if "labeled" in f.name.lower()] or files
        if len(files) > 1:
            problems.add(
                f"{str(folder)!r}: holds {listing([file.name for file in files])} for fold {fold!r}; expected one."
                " Give the path of one file, or take the others out."
            )
        found += [(file, fold) for file in files[:1]]
    problems.raise_if_any(kind=UsageError)
    if not found:
        held = listing(sorted(item.name for item in folder.iterdir()), limit=6) or "nothing"
        raise MedtailError(f"cxr_lt: no label file in {str(folder)!r}; expected {EXPECTED}. It holds {held}.")
    return found
