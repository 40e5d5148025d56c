"""A judgement in a few lines of plain text: head, medium and tail at a glance, with their intervals."""

from __future__ import annotations

from typing import Any

import numpy as np

from medtail.tables.results import Results
from medtail.tables.tail import TAIL_GROUPS

SHOWN = (("ap", "mAP"), ("auroc", "AUROC"), ("f1", "F1"))


def summary_rows(results: Results) -> list[dict[str, Any]]:
    """Return the head, medium, tail and overall macro values, a mapping a row.

    Args:
        results: From `evaluate`.

    Returns:
        Rows with `group` (`head`, `medium`, `tail`, `all`), `classes`, and for `ap`, `auroc` and `f1` a mapping of
        `value`, `low`, `high`, `support`. Tail groups are missing where they are unknown
        or hold no class.
    """
    rows: list[dict[str, Any]] = []
    for group in (*TAIL_GROUPS, ""):
        row: dict[str, Any] = {"group": group or "all", "classes": _members(results, group)}
        for metric, _ in SHOWN:
            found = results.rows(metric, class_name="", tail_group=group)
            if len(found):
                row[metric] = {column: float(found[column].iloc[0]) for column in ("value", "low", "high", "support")}
        if SHOWN[0][0] in row and row["classes"]:
            rows.append(row)
    return rows


def summary_text(results: Results) -> str:
    """Write the summary as plain text for a terminal.

    Each cell is `value [low, high]`; the number of classes averaged stands in brackets where it differs from the
    classes of the group.

    Args:
        results: From `evaluate`.

    Returns:
        Lines joined by line ends: a table, what was judged, what could not be, and the warnings.
    """
    rows = summary_rows(results)
    table = [["group", "classes", *(title for _, title in SHOWN)]]
    for row in rows:
        cells = [_cell(row[metric], classes=row["classes"]) for metric, _ in SHOWN]
        table.append([str(row["group"]), str(row["classes"]), *cells])
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]
    return "\n".join([*lines, "", *_notes(results)])


def _members(results: Results, group: str) -> int:
    header = results.header
    if group:
        return sum(1 for found in (header.get("tail") or {}).get("groups", {}).values() if found == group)
    return len(header.get("labels", {}).get("class_names", ()))


def _cell(found: dict[str, float], *, classes: int) -> str:
    if np.isnan(found["value"]):
        return "undefined"
    text = f"{found['value']:.3f}"
    if not np.isnan(found["low"]):
        text += f" [{found['low']:.3f}, {found['high']:.3f}]"
    return text if found["support"] == classes else f"{text} ({found['support']:.0f} of {classes})"


def _notes(results: Results) -> list[str]:
    header = results.header
    boot = header.get("bootstrap", {})
    lines = [f"{header['num_rows']:,} images of {header['num_patients']:,} {boot.get('unit', 'patient')}s"]
    if boot.get("unit") == "image":
        lines = [f"{header['num_rows']:,} images, patients unknown"]
    if boot.get("resamples"):
        lines[0] += f"; {boot['interval']:.0%} intervals from {boot['resamples']:,} resamples of {boot['unit']}s"
    lines.append(f"thresholds: {header['thresholds']['source']}")
    if header.get("tail"):
        lines.append(f"groups: {header['tail']['description']}")
    unsupported = header.get("unsupported", [])
    total = len(header["labels"]["class_names"])
    lines.append(f"{total - len(unsupported)} of {total} classes have positives; {len(unsupported)} cannot be judged")
    return [*lines, *(f"! {warning}" for warning in header.get("warnings", ()))]
