"""The labels a submission is scored against, in the challenge's own file layout.

Ids and patients stay text: as numbers, long patient ids of the 2026 edition merge. Columns of other tasks may stand
beside those scored; they are joined by name and otherwise ignored.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

import numpy as np
import pandas as pd

from medtail.challenges.cxr_lt_archive import read_table_bytes
from medtail.challenges.cxr_lt_csv import TextTable, parse_csv
from medtail.errors import MedtailError, Problems, did_you_mean, listing
from medtail.runs import digest_bytes
from medtail.sources.cxr_lt import Edition
from medtail.sources.cxr_lt import edition as edition_table
from medtail.sources.cxr_lt_import import ROUNDED_ID
from medtail.tables.frames import add_row_problem, check_ids
from medtail.tables.tail import ClassCounts

Absent = Literal["error", "nan", "zero"]


@final
@dataclass(frozen=True, eq=False)
class Truth:
    """Labels of a test set.

    Attributes:
        name: The file's name, for messages.
        image_ids: Text [N].
        patients: Text [N]; the image's own id where the file names no patients.
        targets: float64 [N, C] in {0, 1, NaN}.
        class_names: C names as the edition spells them.
        has_patients: Whether the file names patients.
        digest: SHA-256 of the file's content.
    """

    name: str
    image_ids: np.ndarray
    patients: np.ndarray
    targets: np.ndarray
    class_names: tuple[str, ...]
    has_patients: bool
    digest: str


def as_edition(edition: str | Edition) -> Edition:
    """Return the edition of a name; tables of one's own pass through."""
    return edition if isinstance(edition, Edition) else edition_table(edition)


def read_truth(
    path: Path | str, *, edition: str | Edition, task: int = 1, split: str | None = None, assessed: bool = True
) -> Truth:
    """Read the labels of a test set.

    Args:
        path: `.csv` or `.csv.gz` with the edition's id and patient columns and a 0/1 column a class.
        edition: `2023`, `2024`, `2026`, or an edition of one's own.
        task: Whose classes to read; other columns are ignored.
        split: Where the file has a column `split`: keep its rows of this value.
        assessed: Whether every cell must be 0 or 1; if False, empty cells mean not assessed.

    Returns:
        The labels, in the file's order.

    Raises:
        MedtailError: Every mistake: missing columns, repeated ids, cells that are neither 0 nor 1, several splits.
        UsageError: Unknown edition or task.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "truth.csv"
        >>> unseen = "Bulla,Cardiomyopathy,Hilum,Osteopenia,Scoliosis"
        >>> _ = path.write_text(f"dicom_id,subject_id,{unseen}\\na,7,0,1,0,0,1\\n")
        >>> read_truth(path, edition="2024", task=3).targets.tolist()
        [[0.0, 1.0, 0.0, 0.0, 1.0]]
    """
    tables = as_edition(edition)
    names = tables.task(task).class_names
    content = read_table_bytes(path)
    problems = Problems(Path(path).name, limit=60)
    table = parse_csv(content, problems=problems)
    problems.raise_if_any()
    kept = _rows_of_split(table, split, problems)
    ids = _text(table, tables.id_column, problems)
    where = _class_columns(table, tables, names, problems)
    targets = [
        _labels(table, where[name], assessed, problems) if name in where else np.full(table.rows, np.nan)
        for name in names
    ]
    patients = _patients(table, tables, problems)
    if ids is not None:
        check_ids(ids, problems)
    problems.raise_if_any()
    assert ids is not None, "a missing id column is a problem"
    image_ids = ids.to_numpy(dtype=object)[kept]
    return Truth(
        name=Path(path).name,
        image_ids=image_ids,
        patients=image_ids if patients is None else patients[kept],
        targets=np.column_stack(targets)[kept],
        class_names=names,
        has_patients=patients is not None,
        digest=digest_bytes(content),
    )


def read_test_ids(path: Path | str, *, edition: str | Edition) -> np.ndarray:
    """Read only the image ids of a test CSV, labelled or not.

    Returns:
        Text [N], in the file's order.

    Raises:
        MedtailError: The id column is missing, or ids are empty or repeated.
    """
    tables = as_edition(edition)
    problems = Problems(Path(path).name, limit=60)
    table = parse_csv(read_table_bytes(path), problems=problems)
    problems.raise_if_any()
    ids = _text(table, tables.id_column, problems)
    if ids is not None:
        check_ids(ids, problems)
    problems.raise_if_any()
    assert ids is not None, "a missing id column is a problem"
    return ids.to_numpy(dtype=object)


def read_train_counts(path: Path | str, *, edition: str | Edition, class_names: Sequence[str]) -> ClassCounts | None:
    """Count classes in a train CSV of one's own, for editions whose counts were not published.

    Args:
        path: `.csv` or `.csv.gz` in the edition's layout; where it has a column `split`, rows of `train` count.
        edition: Whose columns it has.
        class_names: The classes to count.

    Returns:
        Images and patients a class; None where the file has none of the classes, as for unseen ones.

    Raises:
        MedtailError: Some of the classes are missing, or cells are neither 0, 1 nor empty.
    """
    tables = as_edition(edition)
    problems = Problems(Path(path).name, limit=60)
    table = parse_csv(read_table_bytes(path), problems=problems)
    problems.raise_if_any()
    if not any(tables.canonical(column) in class_names for column in table.columns):
        return None
    kept = _rows_of_split(table, "train" if "split" in table.columns else None, problems)
    where = _class_columns(table, tables, class_names, problems)
    patients = _patients(table, tables, problems)
    columns = [_labels(table, where[name], False, problems)[kept] for name in class_names if name in where]
    problems.raise_if_any()
    known = [] if patients is None else patients[kept]
    return ClassCounts(
        tuple(class_names),
        tuple(int((column == 1).sum()) for column in columns),
        tuple(len(set(known[column == 1])) if patients is not None else 0 for column in columns),
        tuple(int((~np.isnan(column)).sum()) for column in columns),
    )


def _rows_of_split(table: TextTable, split: str | None, problems: Problems) -> np.ndarray:
    everything = np.ones(table.rows, dtype=bool)
    if "split" not in table.columns:
        if split is not None:
            problems.add(f"column 'split': missing; expected it, since rows of {split!r} are asked for.")
        return everything
    values = table.text(table.columns.index("split"))
    found = sorted(set(values))
    if split is None:
        if len(found) > 1:
            problems.add(f"column 'split': found {listing(found)}; name the one to score against with --split.")
        return everything
    if split not in found:
        problems.add(f"column 'split': no row of {split!r}; found {listing(found)}{did_you_mean(split, found)}.")
    return np.asarray(values == split, dtype=bool)


def _text(table: TextTable, name: str, problems: Problems) -> pd.Series | None:
    if name not in table.columns:
        problems.add(
            f"column {name!r}: missing{did_you_mean(name, table.columns) or '; expected it beside the labels'}."
        )
        return None
    return pd.Series(table.text(table.columns.index(name)), name=name, dtype=str)


def _patients(table: TextTable, tables: Edition, problems: Problems) -> np.ndarray | None:
    if tables.patient_column not in table.columns:
        return None
    text = _text(table, tables.patient_column, problems)
    assert text is not None, "its column is there"
    if (text == "").all():
        return None
    add_row_problem(problems, (text == "").to_numpy(dtype=bool), text, expected="a patient, not an empty cell")
    rounded = text.str.fullmatch(ROUNDED_ID).to_numpy(dtype=bool)
    expected = "the id as text; this one went through a program that made it a number, and patients may have merged"
    add_row_problem(problems, rounded, text, expected=expected)
    return text.to_numpy(dtype=object)


def _class_columns(table: TextTable, tables: Edition, class_names: Sequence[str], problems: Problems) -> dict[str, int]:
    where: dict[str, int] = {}
    for position, column in enumerate(table.columns):
        name = tables.canonical(column)
        if name is None or name not in class_names:
            continue
        if name in where:
            problems.add(f"column {column!r}: the class {name!r} appears twice; expected once.")
        where.setdefault(name, position)
    unknown = [column for column in table.columns if tables.canonical(column) is None]
    for name in class_names:
        if name not in where:
            problems.add(f"column {name!r}: missing{did_you_mean(name, unknown) or '; expected its labels'}.")
    return where


def _labels(table: TextTable, position: int, assessed: bool, problems: Problems) -> np.ndarray:
    values, bad = table.numbers(position)
    empty = np.isnan(values) & ~bad
    wrong = bad | (~empty & ~np.isin(values, (0.0, 1.0))) | (empty & assessed)
    if wrong.any():
        column = pd.Series(table.text(position), name=table.columns[position], dtype=str)
        expected = "1 (present) or 0 (absent)"
        hint = expected if not assessed else f"{expected}; labels with gaps are scored with --absent nan"
        add_row_problem(problems, wrong, column, expected=hint)
    return values


def check_supported(truth: Truth, *, absent: Absent) -> tuple[str, ...]:
    """Return the classes without positives, or refuse them.

    Raises:
        MedtailError: `absent` is `error` and there are such classes, or is unknown; or there are no rows.
    """
    if absent not in ("error", "nan", "zero"):
        raise MedtailError(f"--absent {absent!r}: expected error, nan or zero.")
    if not len(truth.image_ids):
        raise MedtailError(f"{truth.name}: no rows; expected the labels of a test set.")
    missing = tuple(
        name for name, column in zip(truth.class_names, truth.targets.T, strict=True) if not (column == 1).any()
    )
    if missing and absent == "error":
        raise MedtailError(
            f"{truth.name}: no positive image of {listing([repr(name) for name in missing], limit=8)}; expected every"
            " class, as in the official test sets. To leave such classes out of the means, say --absent nan."
        )
    return missing


def file_label(path: Path | str) -> str:
    """Return a file's name without its endings, to stand for a system in tables.

    Example:
        >>> file_label("runs/mine.csv")
        'mine'
    """
    return os.path.basename(os.fspath(path)).split(".")[0]  # noqa: PTH119 - never raises
