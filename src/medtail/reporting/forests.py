"""Forest plots: one row a value with its interval, against a line that means "nothing to see" or "promised".

For gaps of subgroups and coverage of conformal sets; the forest of average precision, which has a chance mark a row,
is in `figures`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from markupsafe import Markup

from medtail.reporting.facts import Estimate
from medtail.reporting.svg import Axis, clip, figure, line, marker, text, tick_text

ROW = 21
UNDEFINED = Estimate()


@final
@dataclass(frozen=True)
class ForestRow:
    """A row of a forest plot.

    Attributes:
        name: At the left.
        found: Value and interval; undefined shows the note instead.
        shown: The value in words, at the right.
        group: Tail group, for the mark.
        note: Why there is no value.
        is_heading: Whether the row only opens a block.
    """

    name: str
    found: Estimate = UNDEFINED
    shown: str = ""
    group: str = ""
    note: str = ""
    is_heading: bool = False


def forest(
    rows: Sequence[ForestRow], *, axis: tuple[float, float], reference: float, x_name: str, label: str
) -> Markup:
    """Draw the rows in the order given.

    Args:
        rows: What to draw.
        axis: Lowest and highest value drawn; what lies beyond is drawn at the end.
        reference: Where the line stands.
        x_name: What the values are.
        label: Alternative text.
    """
    left, right, width, top = 232.0, 520.0, 700.0, 40.0
    bottom = top + ROW * len(rows)
    x = Axis(*axis, left, right)
    parts: list[Markup] = [text(x_name, (left + right) / 2, 12, class_="t name", anchor="middle")]
    for value in x.ticks(4):
        parts += [line(x(value), top - 8, x(value), bottom, class_="grid"),
                  text(tick_text(value).replace("-", "−"), x(value), 26, class_="t tick", anchor="middle")]  # fmt: skip
    parts.append(line(x(reference), top - 8, x(reference), bottom, class_="chance"))
    for index, row in enumerate(rows):
        middle = top + ROW * (index + 0.5)
        if row.is_heading:
            if index:
                parts.append(line(0, middle - ROW / 2, width, middle - ROW / 2, class_="axis faint"))
            parts.append(text(clip(row.name, longest=60), 4, middle + 4, class_="t block", hint=row.name))
            continue
        style = f"t {row.group or 'nogroup'}-text"
        parts.append(text(clip(row.name, longest=30), 16, middle + 4, class_=style, hint=row.name))
        if not row.found.is_defined:
            parts.append(text(row.note, left + 6, middle + 4, class_="t muted halo"))
            parts.append(text("–", right + 12, middle + 4))
            continue
        if row.found.has_interval:
            whisker = f"whisker {row.group}"
            parts.append(line(x(row.found.low), middle, x(row.found.high), middle, class_=whisker))
        parts += [marker(row.group, x(row.found.value), middle, hint=f"{row.name}: {row.shown}"),
                  text(row.shown, right + 12, middle + 4)]  # fmt: skip
    parts.append(line(left, bottom, right, bottom, class_="axis"))
    return figure(*parts, width=width, height=bottom + 10, label=label)
