"""Scores as medtail writes them, taken for a submission: `medtail predict`, then `medtail cxr-lt pack`.

A table of Predictions names images `image_id`, carries targets beside the scores and may know more classes than a
task asks for. Here it becomes the CSV that the challenge's reader expects; every check is that reader's.
"""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

from medtail.errors import Problems, did_you_mean
from medtail.sources.cxr_lt import ChallengeTask, Edition
from medtail.tables.manifest import TARGET_PREFIX
from medtail.tables.predictions import read_predictions

_FIRST_LINE = 2**20


def is_predictions(path: Path | str) -> bool:
    """Say whether a file is a table of Predictions: Parquet, or a CSV with `image_id` and targets.

    Example:
        >>> is_predictions("scores.parquet"), is_predictions("submission.zip")
        (True, False)
    """
    name = os.fspath(path)
    if name.lower().endswith(".parquet"):
        return True
    if not name.lower().endswith(".csv") or not os.path.isfile(name):  # noqa: PTH113 - never raises
        return False
    try:
        with open(name, encoding="utf-8-sig", newline="") as handle:  # noqa: PTH123
            line = handle.readline(_FIRST_LINE)
        columns = [cell.strip() for cell in next(csv.reader(io.StringIO(line)), [])]
    except (OSError, UnicodeDecodeError, csv.Error):
        return False  # the reader says what is wrong with it
    return "image_id" in columns and any(column.startswith(TARGET_PREFIX) for column in columns)


def predictions_bytes(path: Path | str, *, tables: Edition, task: ChallengeTask) -> tuple[bytes, tuple[str, ...]]:
    """Return Predictions as the bytes of a submission CSV, and what was left out.

    Args:
        path: A table of Predictions.
        tables: The edition.
        task: Its task; further classes of the table are left out.

    Returns:
        UTF-8 text with the id column and the task's classes in the sample's order, and words about it.

    Raises:
        MedtailError: The table cannot be read, or lacks classes of the task.
    """
    path = Path(path)
    found = read_predictions(path)
    named: dict[str, int] = {}
    problems = Problems(path.name)
    for c, column in enumerate(found.labels.class_names):
        name = tables.canonical(column)
        if name is not None and name in named:
            problems.add(f"column {column!r}: the class {name!r} stands there twice; expected once.")
        elif name is not None:
            named[name] = c
    strangers = [column for column in found.labels.class_names if tables.canonical(column) is None]
    for name in task.class_names:
        if name not in named:
            near = did_you_mean(name, strangers) or f"; task {task.number} of {tables.name} asks for it."
            problems.add(f"column {name!r}: missing{near}")
    problems.raise_if_any()
    said = []
    beyond = found.labels.num_classes - len(task.class_names)
    if beyond:
        said.append(f"{beyond} further classes of {path.name} are left out.")
    frame = found.frame[["image_id"]].rename(columns={"image_id": tables.id_column})
    frame = frame.assign(**{name: found.scores[:, named[name]] for name in task.class_names})
    text: str = frame.to_csv(index=False, lineterminator="\n")
    return text.encode("utf-8"), tuple(said)
