"""Several submissions beside each other: the overview's tables rebuilt, and which differences are noise.

Tables are made by one builder: rows are systems, columns metrics, each value with its place in brackets and the best
one marked. The differences come from `judging.comparison`, where all systems meet the same resampled patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np

from medtail.challenges.cxr_lt import EceReading, Judged, judge_submission
from medtail.challenges.cxr_lt_boards import board_of
from medtail.challenges.cxr_lt_submission import Submission, read_submission
from medtail.challenges.cxr_lt_truth import Absent, Truth, as_edition, read_truth
from medtail.errors import MedtailError, Problems, UsageError
from medtail.sources.cxr_lt import ChallengeTask, Edition
from medtail.tables.results import Results
from medtail.tables.tail import TAIL_GROUPS, ClassCounts, TailGroups

if TYPE_CHECKING:
    from medtail.judging.comparison import Comparison

COMPARED = ("ap", "auroc", "f1")


@final
@dataclass(frozen=True)
class Column:
    """One metric of a table.

    Attributes:
        title: Its heading.
        metric: Name in Results.
        class_name: "" for means.
        tail_group: "" for all classes.
        lower_is_better: Whether the smallest value is the best.
    """

    title: str
    metric: str
    class_name: str = ""
    tail_group: str = ""
    lower_is_better: bool = False


@final
@dataclass(frozen=True, eq=False)
class SystemTable:
    """Systems by metrics, with places.

    Attributes:
        title: What it shows.
        columns: The metrics.
        systems: The systems, in the order given.
        values: float64 [S, M]; NaN where undefined.
        ranks: int64 [S, M], 1 the best, equal values sharing the better place; 0 where undefined.
        downwards: Whether `text` prints a metric a line, as long lists of classes need.
    """

    title: str
    columns: tuple[Column, ...]
    systems: tuple[str, ...]
    values: np.ndarray
    ranks: np.ndarray
    downwards: bool = False

    def text(self) -> str:
        """Return the table as lines: value, place in brackets, `*` at the best unless all are equal."""
        differ = [bool((column > 1).any()) for column in self.ranks.T]
        lines = [["system", *(column.title for column in self.columns)]]
        for system, values, ranks in zip(self.systems, self.values, self.ranks, strict=True):
            cells = zip(values, ranks, differ, strict=True)
            lines.append([system, *(_cell(value, rank, best=rank == 1 and apart) for value, rank, apart in cells)])
        if self.downwards:
            lines = [list(line) for line in zip(*lines, strict=True)]
            lines[0][0] = ""
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
        rows = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
        ]
        return "\n".join([self.title, *rows])

    def to_json(self) -> dict[str, Any]:
        """Return plain values; undefined ones are None."""
        return {
            "title": self.title,
            "columns": [column.title for column in self.columns],
            "rows": [
                {
                    "system": system,
                    "values": [None if np.isnan(value) else float(value) for value in values],
                    "ranks": [int(rank) or None for rank in ranks],
                }
                for system, values, ranks in zip(self.systems, self.values, self.ranks, strict=True)
            ],
        }


@final
@dataclass(frozen=True, eq=False)
class ChallengeComparison:
    """Several submissions compared.

    Attributes:
        results: System → its Results.
        tables: The overview's tables.
        differences: Paired differences of mAP, mAUROC and mF1 between all pairs; None without resamples.
        notes: What a reader must know.
    """

    results: Mapping[str, Results]
    tables: tuple[SystemTable, ...]
    differences: Comparison | None
    notes: tuple[str, ...]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Pad cells to columns.

    Example:
        >>> aligned([["a", "value"], ["long", "1"]])
        ['a     value', 'long  1']
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _cell(value: float, rank: int, *, best: bool) -> str:
    return f"{value:.4f} ({rank}){'*' if best else ''}" if rank else "–"


def system_table(
    title: str, results: Mapping[str, Results], columns: Sequence[Column], *, downwards: bool = False
) -> SystemTable:
    """Build a table of systems by metrics with the place of each value.

    Args:
        title: Its heading.
        results: System → Results.
        columns: The metrics; one that a system lacks is undefined for it.
        downwards: Whether to print a metric a line.

    Returns:
        The table.

    Example:
        >>> from medtail.tables.results import results_from_rows
        >>> results = {name: results_from_rows([{"metric": "ap", "value": value}]) for name, value in
        ...            (("one", 0.281), ("two", 0.279))}
        >>> print(system_table("Task 1", results, [Column("mAP", "ap")]).text())
        Task 1
        system  mAP
        one     0.2810 (1)*
        two     0.2790 (2)
    """
    values = np.array([[_value(found, column) for column in columns] for found in results.values()], dtype=float)
    values = values.reshape(len(results), len(columns))
    good = np.where([column.lower_is_better for column in columns], -values, values)
    above = (good[None] > good[:, None]).sum(axis=1)
    return SystemTable(
        title, tuple(columns), tuple(results), values, np.where(np.isnan(values), 0, above + 1), downwards
    )


def _value(results: Results, column: Column) -> float:
    group = column.tail_group if not column.class_name else None
    found = results.rows(column.metric, class_name=column.class_name, tail_group=group)
    return float(found["value"].iloc[0]) if len(found) else float("nan")


def challenge_tables(
    results: Mapping[str, Results], *, task: ChallengeTask, groups: TailGroups | None, critical: Sequence[str]
) -> tuple[SystemTable, ...]:
    """Rebuild the tables of the overview that these submissions allow.

    Args:
        results: System → Results of `score`.
        task: The task.
        groups: Tail groups; None where unknown, and the table of groups is then left out.
        critical: Findings that must not be missed, for their table of misses.

    Returns:
        Main metrics (tables 4, 6 and 7 of the overview), mAP by group (5), pooled decisions (8), per-class AP of an
        unseen task (7), F1 and misses.

    References:
        lin2025.
    """
    main = [
        Column("mAP", "ap"),
        Column("mAUROC", "auroc"),
        Column("mF1", "f1"),
        Column("mECE reliability", "ece@reliability", lower_is_better=True),
        Column("mECE leaderboard", "ece@leaderboard", lower_is_better=True),
    ]
    tables = [system_table(f"Task {task.number}: {task.title}", results, main)]
    if task.unseen:
        columns = [Column(name, "ap", name) for name in task.class_names]
        tables.append(system_table("AP of the unseen classes", results, columns))
    if groups is not None:
        columns = [
            Column(f"{group} ({len(groups.members(group))})", "ap", tail_group=group)
            for group in TAIL_GROUPS
            if groups.members(group)
        ]
        columns.append(Column("mean of groups", "ap_mean_of_groups"))
        tables.append(system_table(f"mAP by group: {groups.describe()}", results, columns))
    pooled = [
        Column("micro-precision", "micro_precision"),
        Column("micro-F1", "micro_f1"),
        Column("macro-F1", "f1"),
        Column("FNR", "fnr", lower_is_better=True),
        *([Column("FNR critical", "fnr_critical", lower_is_better=True)] if critical else []),
    ]
    tables.append(system_table("Decisions at score >= .5", results, pooled))
    columns = [Column(name, "f1", name) for name in task.class_names]
    tables.append(system_table("F1 by class", results, columns, downwards=True))
    if critical:
        missed = [Column(name, "fnr", name, lower_is_better=True) for name in critical]
        tables.append(system_table("FNR of critical findings", results, missed, downwards=True))
    return tuple(tables)


def compare_submissions(
    truth: Truth | Path | str,
    submissions: Mapping[str, Submission | Path | str],
    *,
    edition: str | Edition,
    task: int = 1,
    ece: EceReading = "reliability",
    absent: Absent = "error",
    bootstrap: int | None = None,
    seed: int = 0,
    split: str | None = None,
    critical: Sequence[str] | None = None,
    train_counts: ClassCounts | None = None,
    threads: int | None = None,
) -> ChallengeComparison:
    """Score several submissions on one truth, rank them, and say which differences are noise.

    Args:
        truth: Labels of the test set, or their file.
        submissions: System → scores, or their file; at least two.
        edition: `2023`, `2024`, `2026`, or an edition of one's own.
        task: Its task.
        ece: Reading that `ece` shows.
        absent: Classes without positives; see `score`.
        bootstrap: Resamples of the patients, >= 0; 0 leaves the differences out. None takes 1,000 for the scores and as
            many for the differences as their number needs after correction.
        seed: Of the resamples, the same for all systems.
        split: Where the truth file has a column `split`: its rows to score.
        critical: Findings that must not be missed; medtail's list if None.
        train_counts: Of a train part of one's own, to group by.
        threads: Worker threads; no effect on the results.

    Returns:
        Results, tables and differences.

    Raises:
        MedtailError: Every fault of every file.
        UsageError: Fewer than two systems; unknown edition or task.
    """
    tables = as_edition(edition)
    chosen = tables.task(task)
    if len(submissions) < 2:
        raise UsageError(f"compare: found {len(submissions)} submissions; expected two or more.")
    if not isinstance(truth, Truth):
        truth = read_truth(truth, edition=tables, task=task, split=split, assessed=absent != "nan")
    judged: dict[str, Judged] = {}
    for name, given in _read_all(submissions, truth, tables, task).items():
        judged[name] = judge_submission(
            truth,
            given,
            edition=tables,
            task=task,
            ece=ece,
            absent=absent,
            bootstrap=1000 if bootstrap is None else bootstrap,
            seed=seed,
            split=split,
            critical=critical,
            train_counts=train_counts,
            threads=threads,
        )
    results = {name: found.results for name, found in judged.items()}
    first = next(iter(judged.values()))
    dangerous = first.results.header["challenge"]["critical"]
    return ChallengeComparison(
        results=results,
        tables=challenge_tables(results, task=chosen, groups=first.groups, critical=dangerous),
        differences=None if bootstrap == 0 else _differences(judged, bootstrap, seed, threads),
        notes=_notes(results, tables, chosen, len(truth.image_ids)),
    )


def _read_all(
    submissions: Mapping[str, Submission | Path | str], truth: Truth, tables: Edition, task: int
) -> dict[str, Submission]:
    """Read every file before judging any, so that all faults of all files are told together."""
    problems = Problems("compare", limit=400)
    found: dict[str, Submission] = {}
    for name, given in submissions.items():
        try:
            if isinstance(given, Submission):
                found[name] = given
            else:
                found[name] = read_submission(given, edition=tables, task=task, ids=truth.image_ids)
        except MedtailError as error:
            for line in str(error).splitlines():
                problems.add(line)
    problems.raise_if_any()
    return found


def _differences(judged: Mapping[str, Judged], bootstrap: int | None, seed: int, threads: int | None) -> Comparison:
    from medtail.judging.comparison import ComparisonConfig, compare

    config = ComparisonConfig(metrics=COMPARED, levels=("macro",), bootstrap=bootstrap, seed=seed)
    return compare({name: found.predictions for name, found in judged.items()}, config=config, threads=threads)


def _notes(results: Mapping[str, Results], tables: Edition, task: ChallengeTask, num_images: int) -> tuple[str, ...]:
    found = [f"{name}: {line}" for name, result in results.items() for line in result.header["challenge"]["joined"]]
    if task.caution:
        found.append(task.caution)
    board = board_of(tables.name, task.number)
    if board is not None and board.note and num_images == task.images:
        found.append(f"Leaderboard: {board.note}")
    return tuple(found)
