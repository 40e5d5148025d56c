"""Scores and comparisons of the challenge in plain text: what a person reads first, then every class.

Every AP stands beside the prevalence and the AP of a random order, every calibration error beside its reading.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from medtail.challenges.cxr_lt_boards import Board, Placed, board_of, place
from medtail.challenges.cxr_lt_comparison import ChallengeComparison, aligned
from medtail.sources.cxr_lt import Edition
from medtail.tables.results import Results
from medtail.tables.tail import TAIL_GROUPS

HEADLINE = (
    ("mAP", "ap"),
    ("mAUROC", "auroc"),
    ("mF1 at .5", "f1"),
    ("mECE, reliability", "ece@reliability"),
    ("mECE, leaderboard", "ece@leaderboard"),
    ("ECE, all cells pooled", "ece@pooled"),
    ("micro-F1", "micro_f1"),
    ("micro-precision", "micro_precision"),
    ("FNR", "fnr"),
    ("FNR, critical findings", "fnr_critical"),
    ("  at thresholds of tune", "fnr_critical@tune"),
)
BY_CLASS = (("AP", "ap"), ("chance", "ap_chance"), ("AUROC", "auroc"), ("F1", "f1"), ("FNR", "fnr"))
SHORT = {"ap": "mAP", "auroc": "mAUROC", "f1": "mF1"}
VERDICTS = {
    "a_ahead": "ahead",
    "b_ahead": "behind",
    "a_ahead_uncorrected": "ahead, but not after correction for all questions",
    "b_ahead_uncorrected": "behind, but not after correction for all questions",
    "tied": "within noise",
    "too_few_patients": "too few patients to say",
    "undefined": "undefined",
}


def score_text(results: Results, *, by_class: bool = True) -> str:
    """Write a score as plain text.

    Args:
        results: From `score`.
        by_class: Whether to list every class.

    Returns:
        Lines joined by line ends: means, groups, classes, the leaderboard where the rows are the official ones, and
        everything a reader must know.
    """
    header = results.header
    challenge = header["challenge"]
    boot = header["bootstrap"]
    unit = boot["unit"]
    lines = [
        f"CXR-LT {challenge['edition']}, task {challenge['task']}: {challenge['title']}",
        f"{challenge['submission']} against {challenge['truth']}: {header['num_rows']:,} images"
        + (f" of {header['num_patients']:,} patients" if unit == "patient" else ", patients unknown")
        + (f"; {boot['interval']:.0%} intervals from {boot['resamples']:,} resamples" if boot["resamples"] else ""),
        "",
        *aligned([row for row in (_headline(results, *pair) for pair in HEADLINE) if row]),
    ]
    if header["tail"]:
        lines += ["", f"mAP by group: {header['tail']['description']}", *aligned(_groups(results))]
    if by_class:
        lines += ["", *aligned(_classes(results))]
    board = board_of(challenge["edition"], challenge["task"])
    if board is not None:
        lines += ["", *_board(results, board)]
    notes = [f"Joined by name: {message}" for message in challenge["joined"]]
    return "\n".join([*lines, "", *(f"! {warning}" for warning in [*notes, *header["warnings"]])])


def _headline(results: Results, title: str, metric: str) -> list[str]:
    found = results.rows(metric, class_name="", tail_group="")
    if not len(found):
        return []
    row = found.iloc[0]
    remark = ""
    if metric == "ap":
        remark = f"chance {results.value('ap_chance'):.4f}, mean prevalence {results.value('prevalence'):.4f}"
    elif metric == "fnr_critical":
        remark = ", ".join(results.header["challenge"]["critical"])
    total = len(results.header["labels"]["class_names"])
    if metric in ("ap", "auroc", "f1") and row["support"] != total:
        remark = f"over {row['support']:.0f} of {total} classes; {remark}".rstrip("; ")
    return [title, _with_interval(row), remark]


def _with_interval(row: Mapping[str, Any] | pd.Series) -> str:
    if np.isnan(row["value"]):
        return "undefined"
    text = f"{row['value']:.4f}"
    return text if np.isnan(row["low"]) else f"{text} [{row['low']:.4f}, {row['high']:.4f}]"


def _groups(results: Results) -> list[list[str]]:
    members = list(results.header["tail"]["groups"].values())
    rows = []
    for group in TAIL_GROUPS:
        row = results.rows("ap", class_name="", tail_group=group).iloc[0]
        if members.count(group):
            chance = results.value("ap_chance", tail_group=group)
            rows.append([group, f"{members.count(group)} classes", _with_interval(row), f"chance {chance:.4f}"])
    row = results.rows("ap_mean_of_groups").iloc[0]
    return [*rows, ["mean of groups", "", _with_interval(row), ""]]


def _classes(results: Results) -> list[list[str]]:
    lines = [["class", "group", "positives", "prevalence", *(title for title, _ in BY_CLASS)]]
    groups = (results.header["tail"] or {}).get("groups", {})
    frame = results.frame[results.frame["class"] != ""]
    values = frame.pivot(index="class", columns="metric", values="value")
    for name in results.header["labels"]["class_names"]:
        found = values.loc[name]
        numbers = ["–" if np.isnan(found[metric]) else f"{found[metric]:.4f}" for _, metric in BY_CLASS]
        lines.append([name, groups.get(name, ""), f"{found['n_pos']:,.0f}", f"{found['prevalence']:.5f}", *numbers])
    return lines


def _board(results: Results, board: Board) -> list[str]:
    official, rows = results.header["challenge"]["official_images"], results.header["num_rows"]
    if rows != official:
        expected = f"{official:,}" if official else "an unknown number of"
        return [
            f"Not placed on the leaderboard: these are {rows:,} images, the official test set has {expected}. AP rises"
            " with prevalence, so values of different test sets cannot be compared."
        ]
    found = place(results, board)
    lines = [f"Leaderboard ({board.source}):"]
    mine = ["you" if found.rank is None else str(found.rank), str(results.header["challenge"]["submission"])]
    table = [["place", "system", "mAP", "from"]]
    waiting = True
    for row in sorted(board.rows, key=lambda row: -row.values["ap"]):
        if waiting and row.values["ap"] < found.value:
            table.append([*mine, f"{found.value:.4f}", "this score"])
            waiting = False
        rank = "–" if row.rank is None else str(row.rank)
        table.append([rank, row.system, f"{row.values['ap']:.4f}", row.provenance])
    if waiting:
        table.append([*mine, f"{found.value:.4f}", "this score"])
    return [*lines, *aligned(table), *placed_text(found), *([f"! {board.note}"] if board.note else [])]


def placed_text(found: Placed) -> list[str]:
    """Say in words where a score stands, and how sure that is.

    Example:
        >>> placed_text(Placed(0.3, 0.28, 0.32, 0, (), 5))
        ['It would take place 1. No known score lies inside its interval.']
    """
    if found.rank is None:
        text = f"It lies below place {found.gapless}; the places from there on are not all known."
    else:
        text = f"It would take place {found.rank}."
    if np.isnan(found.low):
        return [f"{text} Without resamples nothing shows how sure that is."]
    if not found.within:
        return [f"{text} No known score lies inside its interval."]
    ranks = [str(row.rank) for row in found.within]
    which = f"place {ranks[0]}" if len(ranks) == 1 else f"places {ranks[0]} to {ranks[-1]}"
    return [f"{text} Its interval covers the scores of {which}: the order among them is within noise."]


def comparison_text(compared: ChallengeComparison) -> str:
    """Write a comparison as plain text: tables, differences, notes.

    Args:
        compared: From `compare_submissions`.

    Returns:
        Lines joined by line ends.
    """
    lines: list[str] = []
    for table in compared.tables:
        lines += [table.text(), ""]
    if compared.differences is not None:
        found = compared.differences.differences.to_dict(orient="records")
        lines.append("Differences, paired on the same resampled patients (p after Holm over all of them)")
        rows = [["metric", "system", "minus", "difference", "p", ""]]
        for row in found:
            interval = "" if np.isnan(row["low"]) else f" [{row['low']:+.4f}, {row['high']:+.4f}]"
            p = "–" if np.isnan(row["p_holm"]) else f"{row['p_holm']:.4f}"
            difference = f"{row['difference']:+.4f}{interval}"
            verdict = VERDICTS.get(row["verdict"], row["verdict"])
            rows.append([SHORT[row["metric"]], row["system_a"], row["system_b"], difference, p, verdict])
        lines += [*aligned(rows), ""]
        lines += [f"! {warning}" for warning in compared.differences.header.get("warnings", ())]
    return "\n".join([*lines, *(f"! {note}" for note in compared.notes)]).rstrip()


def classes_text(edition: Edition, *, task: int) -> str:
    """Write a task's class table as plain text.

    Args:
        edition: The tables.
        task: Its task.

    Returns:
        A line a class in the order of the sample submission.

    Example:
        >>> from medtail.sources.cxr_lt import edition
        >>> classes_text(edition("2024"), task=2).splitlines()[16].split()[:3]
        ['14', 'Normal', 'head']
    """
    chosen = edition.task(task)
    groups = None if chosen.unseen else edition.groups(chosen.class_names)
    lines = [["#", "class", "group", "train", "development", "aliases"]]
    for number, name in enumerate(chosen.class_names):
        found = edition.by_name[name]
        counts = ["?" if count is None else f"{count:,}" for count in (found.train, found.development)]
        group = groups.group_of[name] if groups else ("unseen" if chosen.unseen else "?")
        lines.append([str(number), name, group, *counts, ", ".join(found.aliases)])
    head = f"CXR-LT {edition.name}, task {task}: {chosen.title}; {len(chosen.class_names)} classes"
    known = f"{head}, {edition.train_images:,} train images" if edition.train_images else head
    rule = [] if groups is None else [f"groups: {groups.describe()}"]
    return "\n".join([known, *aligned(lines), *rule, edition.provenance])
