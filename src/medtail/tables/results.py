"""Results: every number of a judgement in one long table, with its interval and its support.

A row is `metric, class, tail_group, subgroup, value, low, high, support`. Of a class's metric, support is the
number of positive rows; of a macro value it is the number of classes averaged. Undefined values are NaN, and the
counts that explain them are rows of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np
import pandas as pd

from medtail.errors import MedtailError, Problems, did_you_mean
from medtail.tables.frames import add_row_problem, as_numbers, as_text, read_table, write_table

COLUMNS = ("metric", "class", "tail_group", "subgroup", "value", "low", "high", "support")
TEXT_COLUMNS = COLUMNS[:4]
NUMBER_COLUMNS = COLUMNS[4:]


@final
@dataclass(frozen=True, eq=False)
class Results:
    """A judgement's numbers and how they were made.

    Attributes:
        frame: Columns `COLUMNS`; "" in `class` for macro and micro values, "" in `tail_group` for "all".
        header: Fold, digests, tail rule, thresholds, bootstrap settings, seed, versions, notes: a JSON object.

    Example:
        >>> results = results_from_rows([{"metric": "auroc", "class": "Hernia", "value": 0.8, "support": 12}])
        >>> results.value("auroc", class_name="Hernia")
        0.8
    """

    frame: pd.DataFrame
    header: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.frame)

    def rows(
        self, metric: str, *, class_name: str | None = None, tail_group: str | None = None, subgroup: str | None = ""
    ) -> pd.DataFrame:
        """Return the rows of a metric, narrowed by whatever is not None."""
        chosen = self.frame["metric"] == metric
        for column, wanted in (("class", class_name), ("tail_group", tail_group), ("subgroup", subgroup)):
            if wanted is not None:
                chosen &= self.frame[column] == wanted
        return self.frame[chosen]

    def value(self, metric: str, *, class_name: str = "", tail_group: str | None = None, subgroup: str = "") -> float:
        """Return one value; macro values have `class_name=""` and, over all classes, `tail_group=""`.

        Raises:
            MedtailError: No such row, or several.
        """
        group = "" if tail_group is None and not class_name else tail_group
        found = self.rows(metric, class_name=class_name, tail_group=group, subgroup=subgroup)
        if len(found) != 1:
            metrics = sorted(set(self.frame["metric"]))
            hint = did_you_mean(metric, metrics) if metric not in metrics else ""
            raise MedtailError(
                f"results: {len(found)} rows of {metric!r}, class {class_name!r}, tail group {group!r}, subgroup"
                f" {subgroup!r}; expected one{hint}"
            )
        return float(found["value"].iloc[0])

    def write(self, path: Path | str) -> None:
        """Write as CSV (header beside it as `.json`) or Parquet. Atomic."""
        write_table(path, self.frame, header=dict(self.header))


def results_from_rows(rows: list[Mapping[str, Any]], *, header: Mapping[str, Any] | None = None) -> Results:
    """Make Results from mappings; missing text is "", missing numbers are NaN."""
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    for column in TEXT_COLUMNS:
        frame[column] = as_text(frame[column]).astype(str)
    for column in NUMBER_COLUMNS:
        frame[column] = frame[column].astype(np.float64)
    return Results(frame, dict(header or {}))


def read_results(path: Path | str) -> Results:
    """Read a results table written by `Results.write`.

    Raises:
        MedtailError: A column is missing or holds no numbers.
    """
    path = Path(path)
    frame, header = read_table(path, what="results table")
    problems = Problems(path.name)
    for column in COLUMNS:
        if column not in frame.columns:
            hint = did_you_mean(column, [str(name) for name in frame.columns if name not in COLUMNS])
            problems.add(f"column {column!r}: missing{hint or '.'} Expected {', '.join(COLUMNS)}.")
    problems.raise_if_any()
    ready: dict[str, Any] = {column: as_text(frame[column]).astype(str) for column in TEXT_COLUMNS}
    for column in NUMBER_COLUMNS:
        values, bad = as_numbers(frame[column])
        add_row_problem(problems, bad, frame[column], expected="a number or empty (undefined)")
        ready[column] = values
    problems.raise_if_any()
    return Results(pd.DataFrame(ready), header)
