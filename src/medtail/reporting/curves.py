"""The figures of single classes: precision–recall, ROC, reliability, and confusion inside an exclusive group.

Takes scores and targets as they are in Predictions; draws SVG in the report's style (see `figures`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from medtail.judging.confusion import GroupConfusion
from medtail.judging.curves import pr_curve, reliability_curve, roc_curve
from medtail.reporting.facts import ClassFacts, number
from medtail.reporting.svg import Axis, clip, element, figure, frame, line, marker, polyline, text
from medtail.tables.labels import short_name

UNIT_TICKS = (0.0, 0.5, 1.0)
BINS = 15


def class_curves(facts: ClassFacts, scores: np.ndarray, targets: np.ndarray) -> Markup:
    """Draw one class's precision–recall and ROC curve side by side, with chance lines.

    The mark is where the decisions stand; inside an exclusive group they follow no threshold, so it may lie off the
    curve.
    """
    pr, roc = pr_curve(scores, targets), roc_curve(scores, targets)
    side, gap, top, left = 128.0, 44.0, 22.0, 34.0
    parts: list[Markup] = []
    for index, (curve, names) in enumerate(((pr, ("recall", "precision")), (roc, ("false alarm rate", "recall")))):
        start = left + index * (side + gap)
        x, y = Axis(0, 1, start, start + side), Axis(0, 1, top + side, top)
        parts.append(frame(x, y, x_name=names[0], y_name=names[1], x_ticks=UNIT_TICKS, y_ticks=UNIT_TICKS))
        chance = (facts.prevalence, facts.prevalence) if curve is pr else (0.0, 1.0)
        parts.append(line(x(0), y(chance[0]), x(1), y(chance[1]), class_="chance"))
        if not len(curve.x):
            parts.append(text("not defined", start + side / 2, top + side / 2, class_="t muted", anchor="middle"))
            continue
        points = list(zip(map(float, curve.x), map(float, curve.y), strict=True))
        if curve is pr:
            # past the last positive precision only falls, and average precision no longer listens
            points = points[: int(np.argmax(curve.x >= 1.0)) + 1]
        corners = _steps(points) if curve is pr else points
        parts.append(polyline([(x(a), y(b)) for a, b in corners], class_=f"curve {facts.tail_group}"))
        recall = facts.found / facts.n_pos
        if curve is roc or facts.alarms:
            across, up = (recall, facts.found / facts.alarms) if curve is pr else (_false_alarm_rate(facts), recall)
            hint = f"as decided: {names[0]} {across:.2f}, {names[1]} {up:.2f}"
            parts.append(marker(facts.tail_group, x(across), y(up), hint=hint))
    label = f"{facts.name}: precision–recall curve (AP {facts.ap.text()}) and ROC curve (AUROC {facts.auroc.text()})"
    return figure(*parts, width=left + 2 * side + gap + 10, height=top + side + 36, label=label, class_="plot panel")


def _false_alarm_rate(facts: ClassFacts) -> float:
    return (facts.alarms - facts.found) / facts.n_neg


def _steps(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Turn points into a staircase, one step a distinct score, as average precision adds them up."""
    corners = [(0.0, points[0][1])]
    for recall, precision in points:
        corners += [(corners[-1][0], precision), (recall, precision)]
    return corners


def reliability_plot(
    name: str, scores: np.ndarray, targets: np.ndarray, *, group: str = "", side: float = 128.0
) -> Markup:
    """Draw observed share against mean score, with the number of cells of each bin below.

    Args:
        name: For the alternative text.
        scores: float, any shape.
        targets: 0, 1 or NaN, the same shape.
        group: Tail group, for the marks.
        side: Size of the plot in pixels.
    """
    curve = reliability_curve(scores.ravel(), targets.ravel(), bins=BINS)
    top, left, below = 22.0, 38.0, 30.0
    x, y = Axis(0, 1, left, left + side), Axis(0, 1, top + side, top)
    base = top + side + below
    parts: list[Markup] = []
    for tick in UNIT_TICKS:
        parts += [line(x.start, y(tick), x.end, y(tick), class_="grid"),
                  text(f"{tick:g}", left - 5, y(tick) + 3.5, class_="t tick", anchor="end"),
                  text(f"{tick:g}", x(tick), base + 14, class_="t tick", anchor="middle")]  # fmt: skip
    parts.append(line(x(0), y(0), x(1), y(1), class_="chance"))
    points = list(zip(curve.mean_score, curve.positive_share, curve.weight, strict=True))
    parts.append(polyline([(x(mean), y(share)) for mean, share, _ in points], class_=f"curve {group}"))
    for mean, share, amount in points:
        relative = float(amount / curve.weight.max())
        hint = f"mean score {mean:.2f}, observed {share:.2f}, {amount:,.0f} labels"
        parts.append(marker(group, x(mean), y(share), hint=hint, size=2.0 + 3.0 * relative**0.5))
        # right-closed bins: a mean that is exactly an edge belongs to the bin below it
        column = max(0, math.ceil(round(float(mean) * BINS, 9)) - 1)
        high = max(1.0, (below - 6) * relative)
        parts.append(element("rect", x=x(column / BINS) + 0.5, y=base - high, width=side / BINS - 1, height=high,
                             class_="bar"))  # fmt: skip
    parts += [line(left, base, left + side, base, class_="axis"),
              text("score", left + side / 2, base + 28, class_="t name", anchor="middle"),
              text("observed share", left - 5, top - 8, class_="t name")]  # fmt: skip
    label = f"{name}: observed share of positives against the mean score, with the number of images per bin below."
    return figure(*parts, width=left + side + 12, height=base + 34, label=label, class_="plot panel")


def confusion_plot(confusion: GroupConfusion, *, pattern_id: str) -> Markup:
    """Draw a confusion matrix, shaded by row share; rows of classes that do not occur are hatched, not zero.

    Args:
        confusion: Counts inside one exclusive group.
        pattern_id: Name of the hatching, unique in the page.
    """
    name, classes, counts = confusion.name, confusion.class_names, confusion.counts
    cell = 46.0 if len(classes) <= 10 else 30.0
    names = [short_name(item) for item in classes]
    left = min(190.0, 16 + 6.6 * max(len(clip(item, longest=26)) for item in names))
    top = 30.0 + min(110.0, 5.2 * max(len(clip(item, longest=20)) for item in names))
    width = left + cell * len(names) + 66
    height = top + cell * len(names) + 8
    parts: list[Markup] = [
        element("defs", element("pattern", element("path", d="M0,6 L6,0", class_="hatch"), id=pattern_id, width=6,
                                height=6, patternUnits="userSpaceOnUse")),
        text("truth ↓  called →", 4, 14, class_="t name"),
        text("recall", left + cell * len(names) + 8, top - 8, class_="t name"),
    ]  # fmt: skip
    for column, item in enumerate(names):
        at = left + cell * (column + 0.5) + 4
        turned = f"rotate(-50 {at:.1f} {top - 8:.1f})"
        turned_name = element(
            "text", element("title", item), clip(item, longest=20), x=at, y=top - 8, class_="t small", transform=turned
        )
        parts.append(turned_name)
    for row, item in enumerate(names):
        total = int(counts[row].sum())
        y0 = top + cell * row
        parts.append(
            text(clip(item, longest=26), left - 8, y0 + cell / 2 + 4, class_="t small", anchor="end", hint=item)
        )
        if total == 0:
            parts.append(
                element(
                    "rect", x=left, y=y0 + 1, width=cell * len(names) - 1, height=cell - 2, fill=f"url(#{pattern_id})"
                )
            )
            parts.append(text("none", left + cell * len(names) + 8, y0 + cell / 2 + 4, class_="t small muted"))
            continue
        for column in range(len(names)):
            share = counts[row, column] / total
            hint = f"{item} called {names[column]}: {counts[row, column]:,} of {total:,}"
            style = "cell right" if row == column else "cell wrong"
            box = element("rect", element("title", hint), x=left + cell * column + 1, y=y0 + 1, width=cell - 2,
                          height=cell - 2, class_=style, fill_opacity=f"{0.06 + 0.8 * share:.2f}")  # fmt: skip
            parts.append(box)
            if counts[row, column]:
                strong = "t small strong" if share > 0.55 else "t small"
                parts.append(
                    text(
                        f"{counts[row, column]:,}",
                        left + cell * (column + 0.5),
                        y0 + cell / 2 + 4,
                        class_=strong,
                        anchor="middle",
                    )
                )
        recall = f"{number(counts[row, row] / total)} of {total:,}"
        parts.append(text(recall, left + cell * len(names) + 8, y0 + cell / 2 + 4, class_="t small"))
    absent = [item for row, item in enumerate(names) if counts[row].sum() == 0]
    label = f"Confusion inside {name}: {int(np.trace(counts)):,} of {int(counts.sum()):,} images called right."
    label += f" Without images: {', '.join(absent)}." if absent else ""
    return figure(*parts, width=width, height=height, label=label)
