"""Tables of the report as records: columns that say what they mean, cells that know what they sort by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from medtail.reporting.facts import UNKNOWN, Estimate, number
from medtail.tables.tail import TAIL_GROUPS


@final
@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: Its heading.
        hint: What it means.
        is_text: Whether it sorts as words.
    """

    name: str
    hint: str
    is_text: bool = False


@final
@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: What is shown.
        key: What it sorts by; "" is last in either direction.
        interval: Shown after the text, quieter.
        hint: Shown when a pointer rests on it.
        style: Style class.
    """

    text: str
    key: str
    interval: str = ""
    hint: str = ""
    style: str = ""


@final
@dataclass(frozen=True)
class Table:
    """A table whose columns can be sorted; the first column names the rows.

    Attributes:
        label: What it shows, for readers who cannot see it.
        columns: Headings.
        rows: Cells, one a column.
    """

    label: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


def text_cell(text: str, *, style: str = "", hint: str = "") -> Cell:
    """Return a cell of words."""
    return Cell(text, text, style=style, hint=hint)


def group_cell(tail_group: str) -> Cell:
    """Return the cell of a tail group, sorted from head to tail."""
    order = f"{TAIL_GROUPS.index(tail_group) + 1} {tail_group}" if tail_group in TAIL_GROUPS else ""
    return Cell(tail_group or "–", order, style=f"{tail_group}-text" if tail_group else "muted")


def amount_cell(value: float, *, digits: int = 0) -> Cell:
    """Return the cell of a count; a dash where nobody counted.

    Example:
        >>> amount_cell(1200).text, amount_cell(12.34, digits=1).text, amount_cell(UNKNOWN).text
        ('1,200', '12.3', '–')
    """
    if value == UNKNOWN or np.isnan(value):
        return Cell("–", "", hint="not known")
    return Cell(f"{value:,.{digits}f}", repr(value) if digits else str(int(value)))


def value_cell(
    found: Estimate, *, digits: int = 2, with_interval: bool = False, why: str = "not defined", shown: str = ""
) -> Cell:
    """Return the cell of an estimate; a dash with the reason where undefined.

    Args:
        found: The value.
        digits: After the point.
        with_interval: Show the interval, too, not only as a hint.
        why: Why it may be undefined.
        shown: Words to stand for the value.

    Example:
        >>> value_cell(Estimate(0.41, 0.3, 0.5), with_interval=True)
        Cell(text='0.41', key='0.41', interval='[0.30–0.50]', hint='0.41 [0.30–0.50]', style='')
    """
    if not found.is_defined:
        return Cell("–", "", hint=why)
    interval = f"[{number(found.low, digits=digits)}–{number(found.high, digits=digits)}]" if found.has_interval else ""
    text = shown or number(found.value, digits=digits)
    return Cell(text, repr(found.value), interval=interval if with_interval else "", hint=f"{text} {interval}".strip())


def signed(found: Estimate, *, digits: int = 2) -> str:
    """Write a difference with its sign and interval.

    Example:
        >>> signed(Estimate(-0.104, -0.2, 0.01)), signed(Estimate())
        ('−0.10 [−0.20 to +0.01]', '–')
    """
    if not found.is_defined:
        return "–"
    interval = f" {signed_interval(found, digits=digits)}" if found.has_interval else ""
    return _sign(found.value, digits) + interval


def signed_interval(found: Estimate, *, digits: int = 2) -> str:
    """Write the interval of a difference, "" without one."""
    if not found.has_interval:
        return ""
    return f"[{_sign(found.low, digits)} to {_sign(found.high, digits)}]"


def gap_cell(found: Estimate, *, why: str = "not defined") -> Cell:
    """Return the cell of a difference with its interval."""
    if not found.is_defined:
        return Cell("–", "", hint=why)
    return Cell(_sign(found.value, 2), repr(found.value), interval=signed_interval(found), hint=signed(found))


def _sign(value: float, digits: int) -> str:
    if np.isnan(value):
        return "–"
    written = f"{abs(value):.{digits}f}"
    if float(written) == 0:
        return written
    return ("+" if value > 0 else "−") + written
