"""The figures across classes: AP with intervals, frequency against AP, the course of training.

Each function takes records of `facts` (or a log) and returns one SVG element whose text, marks and lines take
their colours from the report's style sheet. Curves of single classes are in `curves`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from markupsafe import Markup

from medtail.reporting.facts import UNKNOWN, ClassFacts, number
from medtail.reporting.svg import Axis, clip, element, figure, frame, line, marker, polyline, text, tick_text

ROW = 21
"""Height of a row of the forest plot."""


def forest_plot(classes: Sequence[ClassFacts]) -> Markup:
    """Draw AP with its interval and the chance line of every class, in the order given.

    A class without positives keeps its row and says so: an empty row is a finding too.
    """
    left, right, width = 268.0, 560.0, 700.0
    top = 46.0
    bottom = top + ROW * len(classes)
    x = Axis(0.0, 1.0, left, right)
    parts: list[Markup] = [
        text("class", 4, 28, class_="t name"),
        text("train", left - 14, 28, class_="t name", anchor="end"),
        text("average precision", (left + right) / 2, 12, class_="t name", anchor="middle"),
        text("AP [95 %]", right + 14, 28, class_="t name"),
    ]
    for value in x.ticks():
        parts += [line(x(value), top - 10, x(value), bottom, class_="grid"),
                  text(tick_text(value), x(value), 28, class_="t tick", anchor="middle")]  # fmt: skip
    previous = None
    for index, facts in enumerate(classes):
        middle = top + ROW * (index + 0.5)
        if previous is not None and facts.tail_group != previous:
            parts.append(line(0, middle - ROW / 2, width, middle - ROW / 2, class_="axis faint"))
        previous = facts.tail_group
        train = "–" if facts.train_images == UNKNOWN else f"{facts.train_images:,}"
        parts += [
            text(
                clip(facts.name, longest=34),
                4,
                middle + 4,
                class_=f"t {facts.tail_group or 'nogroup'}-text",
                hint=facts.name,
            ),
            text(train, left - 14, middle + 4, class_="t tick", anchor="end"),
        ]
        if not facts.ap.is_defined:
            reason = "no positives" if facts.n_pos == 0 else "not defined"
            parts += [text(f"{reason} among {facts.n_rows:,} judged", left + 6, middle + 4, class_="t muted"),
                      text("–", right + 14, middle + 4)]  # fmt: skip
            continue
        if not np.isnan(facts.ap_chance):
            parts.append(line(x(facts.ap_chance), middle - 7, x(facts.ap_chance), middle + 7, class_="chance"))
        if facts.ap.has_interval:
            parts.append(line(x(facts.ap.low), middle, x(facts.ap.high), middle, class_=f"whisker {facts.tail_group}"))
        hint = f"{facts.name}: AP {facts.ap.text()}, chance {number(facts.ap_chance)}"
        parts += [marker(facts.tail_group, x(facts.ap.value), middle, hint=hint),
                  text(facts.ap.text(), right + 14, middle + 4)]  # fmt: skip
    parts.append(line(left, bottom, right, bottom, class_="axis"))
    defined = sum(facts.ap.is_defined for facts in classes)
    label = (
        f"Average precision of {defined} of {len(classes)} classes with 95 % intervals and chance marks, from the "
        "commonest class in training to the rarest. The numbers are in the table of classes."
    )
    return figure(*parts, width=width, height=bottom + 12, label=label)


def frequency_plot(classes: Sequence[ClassFacts]) -> Markup:
    """Draw AP against how often a class was seen in training (or is judged, where that is unknown), log scale."""
    known = all(facts.train_images != UNKNOWN for facts in classes)
    amounts = [max(facts.train_images if known else facts.n_pos, 0) for facts in classes]
    shown = [(facts, max(amount, 1)) for facts, amount in zip(classes, amounts, strict=True) if facts.ap.is_defined]
    width, height = 700.0, 360.0
    highest = max((amount for _, amount in shown), default=10)
    lowest = min((amount for _, amount in shown), default=1)
    x = Axis(lowest / 1.4, max(highest * 1.6, lowest * 4), 48.0, width - 20, log=True)
    y = Axis(0.0, 1.0, height - 42, 26.0)
    name = "positive train images (log scale)" if known else "positive judged images (log scale)"
    parts: list[Markup] = [frame(x, y, x_name=name, y_name="average precision")]
    for facts, amount in shown:
        at = x(amount)
        if facts.ap.has_interval:
            parts.append(line(at, y(facts.ap.low), at, y(facts.ap.high), class_=f"whisker thin {facts.tail_group}"))
        if not np.isnan(facts.ap_chance):
            parts.append(line(at - 6, y(facts.ap_chance), at + 6, y(facts.ap_chance), class_="chance"))
    for facts, amount in shown:
        hint = f"{facts.name}: {amount:,} images, AP {facts.ap.text()}, chance {number(facts.ap_chance)}"
        parts.append(marker(facts.tail_group, x(amount), y(facts.ap.value), hint=hint))
    parts += _labels([(facts.name, x(amount), y(facts.ap.value)) for facts, amount in reversed(shown)], width=width)
    label = f"Average precision against {name} for {len(shown)} classes, with 95 % intervals and chance marks."
    return figure(*parts, width=width, height=height, label=label)


def _labels(points: Sequence[tuple[str, float, float]], *, width: float) -> list[Markup]:
    """Name the points that have room, first come first served; the others keep their pointer hint."""
    taken: list[tuple[float, float, float, float]] = [(px - 5, py - 5, px + 5, py + 5) for _, px, py in points]
    parts = []
    for name, px, py in points:
        written = clip(name, longest=24)
        wide = 6.2 * len(written)
        for x0, y0 in ((px + 9, py - 7), (px - 9 - wide, py - 7), (px + 7, py - 21), (px + 7, py + 8)):
            box = (x0, y0, x0 + wide, y0 + 13)
            free = all(box[2] < b[0] or box[0] > b[2] or box[3] < b[1] or box[1] > b[3] for b in taken)
            if free and x0 > 50 and box[2] < width - 2:
                taken.append(box)
                parts.append(text(written, x0, y0 + 11, class_="t small halo"))
                break
    return parts


def training_plot(log: pd.DataFrame) -> Markup | None:
    """Draw the train loss and the tune mAP by epoch, the best epoch marked; None where the log holds neither."""
    panels = []
    width, left, offset = 700.0, 52.0, 0.0
    epochs = pd.to_numeric(log["epoch"], errors="coerce") if "epoch" in log.columns else pd.Series(range(len(log)))
    for column, name in (("train_loss", "train loss"), ("tune_map", "tune mAP")):
        if column not in log.columns:
            continue
        values = pd.to_numeric(log[column], errors="coerce")
        # a CSV logger writes train and tune figures of an epoch in rows of their own
        course = pd.DataFrame({"epoch": epochs, "value": values}).dropna().groupby("epoch")["value"].last()
        course = course[np.isfinite(course)]
        if course.empty:
            continue
        x = Axis(
            float(course.index.min()), max(float(course.index.max()), float(course.index.min()) + 1), left, width - 16
        )
        room = max(float(course.max() - course.min()), 1e-3) * 0.08
        y = Axis(float(course.min()) - room, float(course.max()) + room, offset + 142, offset + 22)
        whole = [value for value in x.ticks(8) if float(value).is_integer()]
        panels.append(frame(x, y, x_name="epoch", y_name=name, x_ticks=whole, y_ticks=y.ticks(4)))
        panels.append(polyline([(x(float(e)), y(float(v))) for e, v in course.items()], class_="curve"))
        if column == "tune_map":
            best = course.idxmax()
            hint = f"best epoch {best:g}: {course.max():.3f}"
            panels.append(marker("", x(float(best)), y(float(course.max())), hint=hint))
            # the axis's own name stands at the left end of this line
            panels.append(text(hint, width - 16, y.end - 8, class_="t small", anchor="end"))
        offset += 186
    if not panels:
        return None
    return figure(*panels, width=width, height=offset, label="Train loss and tune mAP by epoch.")


def legend(groups: Sequence[str]) -> Markup:
    """Draw the key to the marks, for the tail groups that occur."""
    parts, at = [], 8.0
    for group in groups:
        parts += [marker(group, at, 9), text(group, at + 10, 13, class_="t small")]
        at += 34 + 6.5 * len(group)
    parts += [line(at, 2, at, 16, class_="chance"), text("expected by chance", at + 8, 13, class_="t small")]
    return figure(element("g", *parts), width=at + 132, height=18, label="Key to the marks", class_="plot key")
