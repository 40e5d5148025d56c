"""A team's scores: read from a CSV or a zip, joined by name, every fault told at once.

Two degrees of strictness. What makes scores ambiguous or wrong (a class missing or twice, an id unknown, a cell that
is no probability) is always refused. What only the platform minds (columns out of order, an alias for a name) is
refused by `validate_submission` and joined by name, aloud, by `read_submission`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import pandas as pd

from medtail.challenges.cxr_lt_archive import read_submission_bytes
from medtail.challenges.cxr_lt_csv import TextTable, parse_csv
from medtail.challenges.cxr_lt_tables import is_predictions, predictions_bytes
from medtail.challenges.cxr_lt_truth import as_edition, file_label
from medtail.errors import MedtailError, Problems, did_you_mean, listing
from medtail.runs import digest_bytes
from medtail.sources.cxr_lt import ChallengeTask, Edition
from medtail.tables.frames import add_row_problem, row_list

SHOWN_IDS = 10
SUM_TOLERANCE = 1e-3


@final
@dataclass(frozen=True, eq=False)
class Submission:
    """Scores of a task's classes.

    Attributes:
        name: What to call the system: the file's name without endings.
        image_ids: Text [N], in the file's order.
        scores: float64 [N, C] in [0, 1].
        class_names: C names as the edition spells them, in its order.
        joined: What was joined by name although the platform would mind; empty for a file in perfect form.
        warnings: What is allowed but probably a mistake.
        digest: SHA-256 of the CSV's content.
    """

    name: str
    image_ids: np.ndarray
    scores: np.ndarray
    class_names: tuple[str, ...]
    joined: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    digest: str = ""


@final
@dataclass(frozen=True)
class Validation:
    """What is wrong with a submission file.

    Attributes:
        name: The file.
        faults: What the platform would refuse or misread, all of it.
        warnings: What is allowed but probably a mistake.
        rows: Images in the table; 0 where it could not be read.
    """

    name: str
    faults: tuple[str, ...]
    warnings: tuple[str, ...]
    rows: int

    @property
    def is_valid(self) -> bool:
        """Whether there is no fault."""
        return not self.faults

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "file": self.name,
            "valid": self.is_valid,
            "rows": self.rows,
            "faults": list(self.faults),
            "warnings": list(self.warnings),
        }


@final
@dataclass(frozen=True, eq=False)
class _Examined:
    """A file's faults by degree, and its scores if there are no grave ones."""

    grave: Problems
    form: Problems
    warnings: tuple[str, ...]
    rows: int
    image_ids: np.ndarray
    scores: np.ndarray


def read_submission(
    path: Path | str, *, edition: str | Edition, task: int = 1, ids: np.ndarray | None = None
) -> Submission:
    """Read a submission, joining columns by name whatever their order.

    Args:
        path: `.csv`, or `.zip` with exactly one `.csv` at any depth (`code/` and `__MACOSX/` are ignored). Nothing is
            extracted to disk. Or a table that `medtail predict` wrote.
        edition: `2023`, `2024`, `2026`, or an edition of one's own.
        task: Whose classes the columns are.
        ids: The images to be scored, text [M]; not checked if None.

    Returns:
        The scores, in the file's row order and the edition's class order.

    Raises:
        MedtailError: Every fault: a hostile or broken archive; missing, unknown or repeated columns or ids; cells
            that are no number, empty, NaN or outside [0, 1].
        UsageError: Unknown edition or task.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "mine.csv"
        >>> _ = path.write_text("dicom_id,Hilum,Bulla,Cardiomyopathy,Osteopenia,Scoliosis\\na,.5,.1,.2,.3,.4\\n")
        >>> found = read_submission(path, edition="2024", task=3)
        >>> found.class_names[0], found.scores.tolist()
        ('Bulla', [[0.1, 0.2, 0.5, 0.3, 0.4]])
        >>> found.joined
        ("row 1: columns out of order, from column 2 on: found 'Hilum'; expected 'Bulla'.",)
    """
    tables = as_edition(edition)
    chosen = tables.task(task)
    said: tuple[str, ...] = ()
    if is_predictions(path):
        content, said = predictions_bytes(path, tables=tables, task=chosen)
    else:
        content = read_submission_bytes(path)
    examined = _examine(content, Path(path).name, tables, chosen, ids)
    examined.grave.raise_if_any()
    return Submission(
        name=file_label(path),
        image_ids=examined.image_ids,
        scores=examined.scores,
        class_names=chosen.class_names,
        joined=(*said, *examined.form.found),
        warnings=examined.warnings,
        digest=digest_bytes(content),
    )


def validate_submission(
    path: Path | str, *, edition: str | Edition, task: int = 1, ids: np.ndarray | None = None
) -> Validation:
    """List everything wrong with a submission file, as a platform joining by position would see it.

    Args:
        path: `.csv` or `.zip`.
        edition: `2023`, `2024`, `2026`, or an edition of one's own.
        task: Whose classes the columns should be.
        ids: The images that must be scored; missing and extra ones are not looked for if None.

    Returns:
        All faults and warnings; nothing is raised for the file's content.

    Raises:
        UsageError: Unknown edition or task.

    Example:
        >>> validate_submission("nowhere.csv", edition="2024").faults
        ('nowhere.csv: no such file.',)
    """
    tables = as_edition(edition)
    chosen = tables.task(task)
    name = Path(path).name
    try:
        content = read_submission_bytes(path)
    except MedtailError as error:
        return Validation(name, tuple(str(error).splitlines()), (), 0)
    examined = _examine(content, name, tables, chosen, ids)
    faults = tuple(f"{name}, {message}" for message in (*examined.form.found, *examined.grave.found))
    return Validation(name, faults, examined.warnings, examined.rows)


def _examine(content: bytes, name: str, tables: Edition, task: ChallengeTask, ids: np.ndarray | None) -> _Examined:
    grave, form = Problems(name, limit=200), Problems(name, limit=200)
    table = parse_csv(content, problems=grave)
    nothing = np.empty((0, len(task.class_names)))
    if not table.columns:
        return _Examined(grave, form, (), 0, np.empty(0, dtype=object), nothing)
    id_at = _find_id(table, tables, grave, form)
    where = _find_classes(table, tables, task, id_at, grave, form)
    image_ids = np.empty(0, dtype=object)
    if id_at is not None and table.rows:
        image_ids = table.text(id_at)
        _check_ids(image_ids, table.columns[id_at], ids, grave)
    values = {class_name: _read_scores(table, at, grave) for class_name, at in where.items()}
    warnings = _warnings(task, values) if table.rows else []
    if len(grave):
        return _Examined(grave, form, tuple(warnings), table.rows, image_ids, nothing)
    scores = np.column_stack([values[class_name] for class_name in task.class_names])
    return _Examined(grave, form, tuple(warnings), table.rows, image_ids, scores)


def _find_id(table: TextTable, tables: Edition, grave: Problems, form: Problems) -> int | None:
    wanted = tables.id_column
    if table.columns.count(wanted) > 1:
        grave.add(f"column {wanted!r}: appears {table.columns.count(wanted)} times; expected once.")
    if wanted in table.columns:
        at = table.columns.index(wanted)
        if at:
            form.add(f"column {at + 1}: found {wanted!r}; expected it first.")
        return at
    guess = next((at for at, column in enumerate(table.columns) if tables.canonical(column) is None), None)
    if guess is None:
        grave.add(f"column {wanted!r}: missing; expected the image ids in the first column.")
    else:
        hint = " A pandas index? Write with index=False." if not table.columns[guess] else ""
        grave.add(f"column {guess + 1}: found {table.columns[guess]!r}; expected the id column {wanted!r}.{hint}")
    return guess


def _find_classes(
    table: TextTable, tables: Edition, task: ChallengeTask, id_at: int | None, grave: Problems, form: Problems
) -> dict[str, int]:
    """Return class → column of every class that stands there, the first time it does."""
    where: dict[str, int] = {}
    unknown = []
    for at, column in enumerate(table.columns):
        if at == id_at or column == tables.id_column:
            continue
        name = tables.canonical(column)
        if name is None or name not in task.class_names:
            unknown.append(column)
            other = f"; {name!r} is a class of another task" if name else did_you_mean(column, task.class_names)
            pandas = "; a pandas index? Write with index=False" if not column or column.startswith("Unnamed:") else ""
            grave.add(f"column {at + 1}, {column!r}: expected no such column{pandas or other}.")
            continue
        if name in where:
            grave.add(f"column {at + 1}, {column!r}: the class {name!r} stands in column {where[name] + 1} already.")
            continue
        if column != name:
            form.add(f"column {at + 1}: found {column!r}; expected the name {name!r}.")
        where[name] = at
    for name in task.class_names:
        if name not in where:
            grave.add(f"column {name!r}: missing{did_you_mean(name, unknown) or '; expected a score of every class'}.")
    _check_order(where, task, form)
    return where


def _check_order(where: Mapping[str, int], task: ChallengeTask, form: Problems) -> None:
    found = sorted(where, key=where.__getitem__)
    expected = [name for name in task.class_names if name in where]
    wrong = next((i for i, (name, wanted) in enumerate(zip(found, expected, strict=True)) if name != wanted), None)
    if wrong is not None:
        at = where[found[wrong]]
        form.add(
            f"row 1: columns out of order, from column {at + 1} on: found {found[wrong]!r}; expected"
            f" {expected[wrong]!r}."
        )


def _check_ids(found: np.ndarray, column: str, expected: np.ndarray | None, problems: Problems) -> None:
    given = pd.Index(found, dtype=object)
    empty = np.flatnonzero(found == "")
    if len(empty):
        problems.add(f"column {column!r}: empty in {row_list([int(row) + 2 for row in empty])}; expected an image id.")
    repeated = given[given.duplicated() & (given != "")].unique()
    if len(repeated):
        problems.add(f"column {column!r}: {len(repeated)} ids stand in more than one row: {_first(repeated)}.")
    if expected is None:
        return
    wanted = pd.Index(expected, dtype=object)
    distinct = given[given != ""].unique()
    extra, missing = distinct[wanted.get_indexer(distinct) < 0], wanted[distinct.get_indexer(wanted) < 0]
    if len(extra):
        bare = extra.str.rsplit("/", n=1).str[-1].str.replace(r"\.\w{2,4}$", "", regex=True)
        hint = " Write the bare id, without folder and ending." if bare.isin(wanted).mean() > 0.5 else ""
        problems.add(f"column {column!r}: {len(extra)} ids are not in the test set: {_first(extra)}.{hint}")
    if len(missing):
        problems.add(f"column {column!r}: {len(missing)} images of the test set have no row: {_first(missing)}.")


def _first(ids: Sequence[str] | pd.Index) -> str:
    return listing(list(ids), limit=SHOWN_IDS)


def _read_scores(table: TextTable, at: int, problems: Problems) -> np.ndarray:
    values, bad = table.numbers(at)
    missing = np.isnan(values) & ~bad
    outside = ~missing & ~bad & ~((values >= 0.0) & (values <= 1.0))
    if bad.any() or missing.any() or outside.any():
        column = pd.Series(table.text(at), name=table.columns[at], dtype=str)
        add_row_problem(problems, bad, column, expected="a number")
        add_row_problem(problems, missing, column, expected="a score, not NaN or an empty cell")
        hint = "a probability in [0, 1] (logits? apply a sigmoid)"
        add_row_problem(problems, outside, column, expected=hint)
    return values


def _warnings(task: ChallengeTask, values: Mapping[str, np.ndarray]) -> list[str]:
    constant, hard, tied = [], [], []
    for name in (name for name in task.class_names if name in values):
        distinct, counts = np.unique(values[name], return_counts=True)
        rows = len(values[name])
        if len(distinct) == 1:
            if rows > 1:
                constant.append(name)
        elif set(distinct) <= {0.0, 1.0}:
            hard.append(name)
        elif counts[counts > 1].sum() > rows / 2:
            tied.append(name)
    found = []
    if constant:
        found.append(f"The same score in every row for {_classes(constant)}: AP is the prevalence there, AUROC 0.5.")
    if hard:
        found.append(f"Only the scores 0 and 1 for {_classes(hard)}: decisions, not a ranking.")
    if tied:
        found.append(
            f"More than half of the rows share their score with another row for {_classes(tied)}: rows of one score"
            " have one rank. Rounded? Rare classes need their small probabilities in full."
        )
    if len(values) == len(task.class_names) > 1:
        sums = np.sum(list(values.values()), axis=0)
        if np.mean(np.abs(sums - 1.0) < SUM_TOLERANCE) > 0.9:
            found.append("The scores of a row sum to 1: a softmax? Several findings may be present at once.")
    return found


def _classes(names: Sequence[str]) -> str:
    return f"{len(names)} class{'es' if len(names) > 1 else ''}: {listing(names, limit=8)}"
