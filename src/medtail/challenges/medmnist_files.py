"""Score files for MedMNIST: the official layout and its telling name, and medtail's own tables of scores.

The official evaluator saves scores without a header, the row number first, under a name that carries the figures:
`octmnist_test_[AUC]0.672_[ACC]0.892@3.csv`. A medtail table of scores has `image_id` (`test_000000`, as
`medtail data import medmnist` makes them) and one named column a class. Both end here as one array in the archive's
order; what the numbers are worth is decided in `medmnist`.
"""

from __future__ import annotations

import csv
import io
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

import numpy as np
import pandas as pd

from medtail.challenges.medmnist_sets import MedmnistSet
from medtail.errors import MedtailError, Problems, did_you_mean, listing
from medtail.tables.frames import add_row_problem, as_numbers, as_text, read_table, row_list
from medtail.tables.manifest import TARGET_PREFIX, is_metadata

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
SMALLEST_PX = 28
"""Images of this size have no size in their file names."""
_NAME = re.compile(
    r"(?P<flag>[a-z0-9]+)(?:_(?P<size>\d+))?_(?P<split>train|val|test)"
    r"(?:_\[AUC\](?P<auc>[^_\[\]@]+)_\[ACC\](?P<acc>[^_\[\]@]+))?.*?(?:@(?P<run>[^.@]*)[^@]*)?"
)


@final
@dataclass(frozen=True)
class ResultName:
    """What the name of an official result file says.

    Attributes:
        flag: Data set.
        split: `train`, `val` or `test`.
        size_px: Side of the images in pixels, 28 where the name gives none.
        auc: AUC with three decimals as written, "" if the name carries none; `nan` is possible.
        acc: The same of ACC.
        run: What stands after `@`, "" if nothing does.
    """

    flag: str
    split: Split
    size_px: int = SMALLEST_PX
    auc: str = ""
    acc: str = ""
    run: str = ""


def result_name(
    flag: str, *, split: Split, auc: float, acc: float, run: str | int | float, size_px: int = SMALLEST_PX
) -> str:
    """Return the name under which the official evaluator saves scores.

    Args:
        flag: Data set.
        split: Which of its splits was scored.
        auc: AUC; NaN is written as `nan`.
        acc: ACC.
        run: Name of the run; the official evaluator takes the time where none is given.
        size_px: Side of the images; 28 is not written.

    Example:
        >>> result_name("octmnist", split="test", auc=0.67249, acc=0.892, run=3)
        'octmnist_test_[AUC]0.672_[ACC]0.892@3.csv'

    References:
        yang2023.
    """
    size = "" if size_px == SMALLEST_PX else f"_{size_px}"
    return f"{flag}{size}_{split}_[AUC]{auc:.3f}_[ACC]{acc:.3f}@{run}.csv"


def parse_result_name(path: Path | str) -> ResultName | None:
    """Read an official result file's name; None where the name does not follow the pattern.

    As in the official evaluator, only `{flag}{_size}_{split}` must be there; figures and run may be missing, and
    anything may stand between.

    Example:
        >>> parse_result_name("runs/octmnist_64_test_[AUC]0.672_[ACC]0.892@3.csv")
        ResultName(flag='octmnist', split='test', size_px=64, auc='0.672', acc='0.892', run='3')
        >>> parse_result_name("scores.csv") is None
        True
    """
    found = _NAME.fullmatch(Path(path).name)
    if found is None:
        return None
    split = next(name for name in SPLITS if name == found["split"])
    size = int(found["size"] or SMALLEST_PX)
    return ResultName(found["flag"], split, size, found["auc"] or "", found["acc"] or "", found["run"] or "")


def write_result_file(folder: Path, name: str, scores: np.ndarray) -> Path:
    """Write scores as the official evaluator does: no header, the row number first. Atomic.

    Args:
        folder: Where.
        name: See `result_name`.
        scores: float [N] or [N, columns].

    Returns:
        The file.
    """
    from medtail.runs import atomic_path

    with atomic_path(folder / name) as path:
        pd.DataFrame(scores).to_csv(path, header=False)
    return folder / name


def read_scores(path: Path | str, *, dataset: MedmnistSet, split: Split, labels: np.ndarray) -> np.ndarray:
    """Read a score file of either layout.

    Args:
        path: Official `.csv` without a header, or a medtail table of scores (`.csv`, `.parquet`).
        dataset: What is scored.
        split: Which split; a medtail table may hold rows of the others, which are left aside.
        labels: int [N, labels] of that split: how many rows there must be, and what targets in the file must equal.

    Returns:
        float64 [N, columns] in the archive's order: a column a class, or one column for a binary set.

    Raises:
        MedtailError: Every mistake at once: rows missing, repeated or unknown, a wrong number of columns, cells
            that are no finite number, targets that contradict the archive.
    """
    path = Path(path)
    if os.path.isfile(path) and _is_official(path):  # noqa: PTH113 - unlike Path, never raises
        return _read_official(path, dataset, len(labels))
    return _read_table(path, dataset, split, labels)


def _is_official(path: Path) -> bool:
    """Say whether a file starts with a row number where a header would start with a name."""
    if not path.name.lower().endswith(".csv"):
        return False
    try:
        with path.open(encoding="utf-8-sig") as file:
            cells = [cell.strip() for cell in file.readline().split(",")]
    except (OSError, UnicodeDecodeError):
        return False
    return "image_id" not in cells and not np.isnan(_numbers([cells[:1]])).any()


def _numbers(rows: list[list[str]]) -> np.ndarray:
    values, _ = as_numbers(pd.Series([cell.strip() for row in rows for cell in row], dtype=str))
    return values.reshape(len(rows), -1)


def _columns_wanted(dataset: MedmnistSet) -> tuple[int, ...]:
    count = len(dataset.class_names)
    return (1, count) if dataset.task == "binary-class" else (count,)


def _read_official(path: Path, dataset: MedmnistSet, num_rows: int) -> np.ndarray:
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = [row for row in csv.reader(io.StringIO(text), strict=True) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MedtailError(f"{path}: cannot be read as CSV ({error}).") from error
    problems = Problems(path.name)
    wanted = _columns_wanted(dataset)
    found = sorted({len(row) - 1 for row in rows})
    if len(found) > 1 or found[0] not in wanted:
        problems.add(
            f"columns: found {listing(found)} after the row number; expected {' or '.join(map(str, wanted))} of"
            f" {dataset.flag} ({dataset.task})."
        )
        problems.raise_if_any()
    cells = _numbers(rows)
    _check_row_numbers(cells[:, 0], num_rows, problems)
    bad = ~np.isfinite(cells[:, 1:])
    if bad.any():
        row, column = (int(at) for at in np.argwhere(bad)[0])
        others = np.flatnonzero(bad.any(axis=1)) + 1
        more = f" Also {row_list([int(n) for n in others[1:]])}." if len(others) > 1 else ""
        problems.add(
            f"row {row + 1}, column {column + 2}: found {rows[row][column + 1]!r}; expected a finite number.{more}"
        )
    problems.raise_if_any()
    # read once more the way the official evaluator does, so that not even a last digit is read otherwise
    frame = pd.read_csv(io.StringIO(text), index_col=0, header=None)
    return np.asarray(frame.sort_index().to_numpy(dtype=np.float64))


def _check_row_numbers(numbers: np.ndarray, num_rows: int, problems: Problems) -> None:
    whole = np.isfinite(numbers) & (numbers == np.floor(numbers))
    if not whole.all():
        problems.add(f"column 1: {row_list([int(n) + 1 for n in np.flatnonzero(~whole)])} hold no whole row number.")
    given = numbers[whole].astype(np.int64)
    distinct, times = np.unique(given, return_counts=True)
    repeated = distinct[times > 1]
    outside = distinct[(distinct < 0) | (distinct >= num_rows)]
    missing = np.setdiff1d(np.arange(num_rows), distinct)
    for numbers_wrong, said in (
        (repeated, "stand there more than once"),
        (outside, f"are not in the split, which has rows 0 to {num_rows - 1}"),
        (missing, f"of the split's {num_rows} are missing"),
    ):
        if len(numbers_wrong):
            problems.add(
                f"column 1: {len(numbers_wrong)} row numbers {said}: {listing(numbers_wrong.tolist(), limit=8)}."
            )


def _read_table(path: Path, dataset: MedmnistSet, split: Split, labels: np.ndarray) -> np.ndarray:
    frame, header = read_table(path, what="table of scores")
    problems = Problems(path.name)
    if "image_id" not in frame.columns:
        hint = did_you_mean("image_id", [str(name) for name in frame.columns])
        problems.add(
            f"column 'image_id': missing{hint or '.'} Expected it beside one column a class, or the official layout:"
            f" no header, the row number first."
        )
        problems.raise_if_any()
    ids = as_text(frame["image_id"])
    others = tuple(f"{other}_" for other in SPLITS if other != split)
    kept = np.flatnonzero(~ids.str.startswith(others).to_numpy(dtype=bool))
    position = {f"{split}_{row:06d}": row for row in range(len(labels))}
    unknown = [name for name in ids.iloc[kept] if name not in position]
    if unknown:
        problems.add(
            f"column 'image_id': {len(unknown)} ids are not of the split {split!r}, which has {split}_000000 to"
            f" {split}_{len(labels) - 1:06d}: {listing([repr(name) for name in unknown])}."
        )
    counted = ids.iloc[kept].value_counts()
    repeated = [str(name) for name in counted.index[counted > 1]]
    if repeated:
        problems.add(f"column 'image_id': {len(repeated)} ids stand there more than once: {listing(repeated)}.")
    missing = [name for name in position if name not in counted.index]
    if missing:
        problems.add(f"column 'image_id': {len(missing)} images of the split have no scores: {listing(missing)}.")
    columns = _class_columns(frame, header, dataset, problems)
    values = np.full((len(kept), len(columns)), np.nan)
    for place, (_, column) in enumerate(columns):
        numbers, bad = as_numbers(frame[column])
        wrong = np.zeros(len(frame), dtype=bool)
        wrong[kept] = (bad | ~np.isfinite(numbers))[kept]
        add_row_problem(problems, wrong, frame[column], expected="a finite number")
        values[:, place] = numbers[kept]
    problems.raise_if_any()
    rows = np.array([position[name] for name in ids.iloc[kept]], dtype=np.int64)
    _check_targets(frame.iloc[kept], columns, dataset, labels[rows], problems)
    problems.raise_if_any()
    return np.asarray(values[np.argsort(rows)])


def _class_columns(
    frame: pd.DataFrame, header: object, dataset: MedmnistSet, problems: Problems
) -> list[tuple[int, str]]:
    """Return (label number, column) in the order of label numbers; what does not fit is noted."""
    present = [str(name) for name in frame.columns if not is_metadata(name) and not str(name).startswith(TARGET_PREFIX)]
    number_of: dict[str, int] = {}
    for number, name in enumerate(dataset.class_names):
        for known in (f"class={number}", f"class_{number}", str(number), f"class={name}", name):
            number_of.setdefault(known, number)
    own = header.get("labels", {}) if isinstance(header, dict) else {}
    named = own.get("class_names") if isinstance(own, dict) else None
    has_targets = all(TARGET_PREFIX + name in frame.columns for name in present)
    is_ours = isinstance(named, list) and sorted(named) == sorted(present) and len(named) == len(dataset.class_names)
    if isinstance(named, list) and is_ours and has_targets and not set(present) & set(number_of):
        # imported with names of the person's own; their order is kept, and the targets are checked against it
        number_of |= {str(name): number for number, name in enumerate(named)}
    found: dict[int, list[str]] = {}
    for column in present:
        if column in number_of:
            found.setdefault(number_of[column], []).append(column)
        else:
            hint = did_you_mean(column, number_of) or f"; expected {listing(_names(dataset), limit=8)}"
            problems.add(f"column {column!r}: no class of {dataset.flag}{hint}.")
    for columns in found.values():
        if len(columns) > 1:
            problems.add(f"columns {listing([repr(name) for name in columns])}: are one class; keep one.")
    only_positive = dataset.task == "binary-class" and set(found) == {1}
    for number, name in enumerate(dataset.class_names):
        if number not in found and not only_positive:
            problems.add(f"column 'class={number}' ({name}): missing; expected a score of every class.")
    return [(number, columns[0]) for number, columns in sorted(found.items())]


def _names(dataset: MedmnistSet) -> list[str]:
    mark = "class_" if dataset.is_multilabel else "class="
    return [f"{mark}{number}" for number in range(len(dataset.class_names))]


def _check_targets(
    frame: pd.DataFrame, columns: list[tuple[int, str]], dataset: MedmnistSet, labels: np.ndarray, problems: Problems
) -> None:
    for number, column in columns:
        if TARGET_PREFIX + column not in frame.columns:
            continue
        given, _ = as_numbers(frame[TARGET_PREFIX + column])
        true = labels[:, number] if dataset.is_multilabel else (labels[:, 0] == number)
        differing = np.flatnonzero(given != true)
        if len(differing):
            ids = [str(frame["image_id"].iloc[at]) for at in differing]
            problems.add(
                f"column {TARGET_PREFIX + column!r}: {len(differing)} rows are not what the archive says of class"
                f" {number} ({dataset.class_names[number]}): {listing(ids)}. Are these scores of another data set?"
            )
