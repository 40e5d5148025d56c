"""Drawing primitives: SVG elements, axes and plot frames, as text.

The figures are small and static, so they are written directly: real text that can be searched and read aloud,
colours that follow the page's light or dark style sheet, a few kilobytes each, and the same bytes for the same
numbers. Coordinates are CSS pixels with the origin at the upper left.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from markupsafe import Markup, escape


def element(tag: str, *children: str, **attributes: object) -> Markup:
    """Return one element, everything in it escaped unless it is Markup already.

    Args:
        tag: Element name.
        *children: Text or elements.
        **attributes: `_` stands for `-`, a trailing `_` is dropped; numbers are written with one decimal, None is
            left out.

    Example:
        >>> print(element("text", "a < b", x=1.25, class_="label", text_anchor=None))
        <text x="1.2" class="label">a &lt; b</text>
    """
    written = "".join(
        f' {name.rstrip("_").replace("_", "-") if name != "viewBox" else name}="{escape(_plain(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    inner = "".join(escape(child) for child in children)
    return Markup(f"<{tag}{written}>{inner}</{tag}>") if inner else Markup(f"<{tag}{written}/>")


def _plain(value: object) -> str:
    return short(float(value)) if isinstance(value, float | np.floating) else str(value)


def short(value: float) -> str:
    """Write a coordinate with at most one decimal.

    Example:
        >>> short(12.0), short(0.25), short(-0.01)
        ('12', '0.2', '0')
    """
    written = f"{value:.1f}".removesuffix(".0")
    return "0" if written == "-0" else written


def figure(*children: str, width: float, height: float, label: str, class_: str = "plot") -> Markup:
    """Return a whole drawing with its alternative text.

    Args:
        *children: Elements.
        width: In pixels; the style sheet may scale it down.
        height: In pixels.
        label: What a reader who cannot see it should know.
        class_: Style class.
    """
    return element("svg", element("title", label), *children, viewBox=f"0 0 {short(width)} {short(height)}",
                   width=width, height=height, class_=class_, role="img", aria_label=label)  # fmt: skip


def text(
    content: str, x: float, y: float, *, class_: str = "t", anchor: str | None = None, hint: str | None = None
) -> Markup:
    """Return a text; `hint` is shown when a pointer rests on it."""
    inside = [element("title", hint)] if hint else []
    return element("text", *inside, content, x=x, y=y, class_=class_, text_anchor=anchor)


def line(x1: float, y1: float, x2: float, y2: float, *, class_: str) -> Markup:
    """Return a straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def polyline(points: Iterable[tuple[float, float]], *, class_: str) -> Markup:
    """Return a line through points, leaving out those that fall on the pixel before."""
    kept: list[str] = []
    for x, y in points:
        written = f"{short(x)},{short(y)}"
        if not kept or kept[-1] != written:
            kept.append(written)
    return element("polyline", points=" ".join(kept), class_=class_)


def marker(group: str, x: float, y: float, *, hint: str | None = None, size: float = 4.0) -> Markup:
    """Return a mark whose shape tells the tail group: disc head, square medium, diamond tail."""
    inside = [element("title", hint)] if hint else []
    style = f"mark {group or 'nogroup'}"
    if group == "medium":
        return element(
            "rect", *inside, x=x - size * 0.9, y=y - size * 0.9, width=size * 1.8, height=size * 1.8, class_=style
        )
    if group == "tail":
        wide = size * 1.3
        corners = ((x, y - wide), (x + wide, y), (x, y + wide), (x - wide, y))
        points = " ".join(f"{short(a)},{short(b)}" for a, b in corners)
        return element("polygon", *inside, points=points, class_=style)
    return element("circle", *inside, cx=x, cy=y, r=size, class_=style)


@final
@dataclass(frozen=True)
class Axis:
    """A scale from values to pixels.

    Attributes:
        low: Value at `start`.
        high: Value at `end`.
        start: Pixel of `low`.
        end: Pixel of `high`; smaller than `start` for an upright axis.
        log: Whether the scale is logarithmic; then `low` > 0.

    Example:
        >>> Axis(0, 1, 10, 110)(0.5), Axis(1, 100, 0, 100, log=True)(10)
        (60.0, 50.0)
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the pixel of a value; values beyond the ends are drawn at the ends."""
        value = min(max(float(value), self.low), self.high)
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """Return round values inside the scale, about `count` of them.

        Example:
            >>> Axis(0, 1, 0, 1).ticks(), Axis(3, 250, 0, 1, log=True).ticks()
            ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [5.0, 10.0, 20.0, 50.0, 100.0, 200.0])
        """
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps = (1, 2, 5) if self.high / self.low < 1000 else (1,)
            found = [step * 10.0**decade for decade in decades for step in steps]
            return [value for value in found if self.low <= value <= self.high]
        rough = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(index * step, 10) for index in range(first, last + 1)]


def tick_text(value: float) -> str:
    """Write an axis value shortly.

    Example:
        >>> tick_text(0.2), tick_text(1.0), tick_text(20000)
        ('0.2', '1', '20,000')
    """
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"


def frame(x: Axis, y: Axis, *, x_name: str, y_name: str, x_ticks: Sequence[float] | None = None,
          y_ticks: Sequence[float] | None = None) -> Markup:  # fmt: skip
    """Return the two axes of a plot with ticks, faint grid lines and names."""
    parts: list[Markup] = []
    for value in y_ticks if y_ticks is not None else y.ticks():
        parts.append(line(x.start, y(value), x.end, y(value), class_="grid"))
        parts.append(text(tick_text(value), x.start - 5, y(value) + 3.5, class_="t tick", anchor="end"))
    for value in x_ticks if x_ticks is not None else x.ticks():
        parts.append(line(x(value), y.start, x(value), y.start + 4, class_="axis"))
        parts.append(text(tick_text(value), x(value), y.start + 16, class_="t tick", anchor="middle"))
    parts.append(line(x.start, y.start, x.end, y.start, class_="axis"))
    parts.append(text(x_name, (x.start + x.end) / 2, y.start + 31, class_="t name", anchor="middle"))
    parts.append(text(y_name, x.start - 5, y.end - 8, class_="t name", anchor="start"))
    return element("g", *parts)


def clip(name: str, *, longest: int = 30) -> str:
    """Shorten a name for an axis.

    Example:
        >>> clip("a" * 40, longest=10)
        'aaaaaaaaa…'
    """
    return name if len(name) <= longest else name[: longest - 1] + "…"
