"""The pictures of a study of generated images: arms, the curve of use, levels over rounds, real beside generated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup

from medtail.judging.comparison_words import interval_text
from medtail.pixels.decode import read_image
from medtail.reporting.examples import encode
from medtail.reporting.facts import Estimate
from medtail.reporting.forests import ForestRow, forest
from medtail.reporting.svg import Axis, clip, element, figure, frame, marker, polyline, text
from medtail.studies.genaug_scores import Figure, Measured
from medtail.tables.labels import short_name
from medtail.tables.manifest import Manifest
from medtail.tables.pools import ASKED
from medtail.tables.tail import TailGroups

THUMBNAIL, GAP, PER_CLASS = 56, 4, 6


def gap_forest(gaps: Mapping[str, Figure], *, name: str) -> Markup:
    """Draw each arm's figure with its interval.

    Args:
        gaps: Arm → figure, in the order of the rows.
        name: What it is.
    """
    rows = [
        ForestRow(arm, Estimate(f.value, f.low, f.high), interval_text(f.value, f.low, f.high).replace("-", "−"))
        for arm, f in gaps.items()
    ]
    ends = np.array([[f.value, f.low, f.high] for f in gaps.values()], dtype=float)
    low = min(0.0, float(np.nanmin(ends, initial=0.0)))
    high = max(0.1, float(np.nanmax(ends, initial=0.0)))
    margin = 0.05 * (high - low)
    label = f"{name} of each arm, with its interval."
    return forest(rows, axis=(low - margin, high + margin), reference=0.0, x_name=name, label=label)


def use_curve(measured: Measured, points: Sequence[tuple[float, str]], *, metric: str, name: str) -> Markup:
    """Draw a metric against one level for all classes, with its intervals.

    Args:
        measured: The trainings at each level.
        points: Level and training, levels ascending.
        metric: Which.
        name: In words.
    """
    found = [measured.figure(training, metric) for _, training in points]
    lows, highs = [f.low for f in found], [f.high for f in found]
    x = Axis(points[0][0], points[-1][0], 60.0, 460.0)
    y = Axis(max(0.0, float(np.nanmin(lows)) - 0.02), min(1.0, float(np.nanmax(highs)) + 0.02), 230.0, 30.0)
    places = [x(level) for level, _ in points]
    band = [*zip(places, map(y, lows), strict=True), *reversed(list(zip(places, map(y, highs), strict=True)))]
    parts = [
        frame(x, y, x_name="level of every pool (1 fills up to balance)", y_name=name),
        element("polygon", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in band), class_="band"),
        polyline([(place, y(f.value)) for place, f in zip(places, found, strict=True)], class_="curve"),
        *(
            marker("", place, y(f.value), hint=f"level {level:g}: {interval_text(f.value, f.low, f.high)}")
            for place, f, (level, _) in zip(places, found, points, strict=True)
        ),
    ]
    return figure(*parts, width=480, height=275, label=f"{name} against the level of every pool.")


def level_plot(name: str, levels: np.ndarray, *, group: str, most: float = 1.0) -> Markup:
    """Draw the levels of one class over the rounds: each run thin, their mean thick.

    Args:
        name: The class.
        levels: float [runs, rounds].
        group: Its tail group.
        most: Largest level there is.
    """
    rounds = levels.shape[1]
    x = Axis(1.0, float(max(rounds, 2)), 40.0, 250.0)
    y = Axis(0.0, max(most, 1.0), 130.0, 26.0)
    every = max(1, rounds // 5)
    ticks = [float(k) for k in range(1, rounds + 1, every)]
    names = {"x_name": "round", "y_name": clip(short_name(name), longest=28)}
    parts = [frame(x, y, **names, x_ticks=ticks, y_ticks=[0.0, 0.5, 1.0])]
    for run in levels:
        parts.append(polyline([(x(k + 1.0), y(v)) for k, v in enumerate(run)], class_="curve thin"))
    mean = levels.mean(axis=0)
    parts.append(polyline([(x(k + 1.0), y(v)) for k, v in enumerate(mean)], class_=f"curve {group}"))
    label = f"Levels of {name} over {rounds} rounds; mean {mean[0]:.2f} at first, {mean[-1]:.2f} at last."
    return figure(*parts, width=262, height=172, label=label, class_="plot panel")


def contact_sheet(joined: Manifest, groups: TailGroups, *, per_class: int = PER_CLASS) -> Markup:
    """Draw real train images beside generated ones, a row a class.

    Args:
        joined: Real and pool rows.
        groups: Tail groups of the classes.
        per_class: Images of either kind.
    """
    names = joined.labels.class_names
    is_train = joined.folds == "train"
    asked = joined.frame[ASKED].to_numpy(dtype=object)
    left, step = 150.0, THUMBNAIL + GAP
    right = left + per_class * step + 24
    parts: list[Markup] = [
        text("real", left, 14, class_="t name"), text("generated", right, 14, class_="t name"),
    ]  # fmt: skip
    for c, name in enumerate(names):
        top = 24.0 + c * step
        group = groups.group_of[name]
        parts.append(text(clip(short_name(name), longest=20), 4, top + 30, class_=f"t {group}-text", hint=name))
        real = np.flatnonzero(is_train & joined.is_real & (joined.targets[:, c] == 1))[:per_class]
        made = np.flatnonzero(~joined.is_real & (asked == name))[:per_class]
        for start, rows in ((left, real), (right, made)):
            parts += [_thumbnail(joined, int(row), start + k * step, top) for k, row in enumerate(rows)]
    width, height = right + per_class * step + 4, 28.0 + len(names) * step
    return figure(*parts, width=width, height=height, label="Real train images of each class beside generated ones.")


def _thumbnail(manifest: Manifest, row: int, x: float, y: float) -> Markup:
    pixels = read_image(manifest.image_path(row))
    box = manifest.roi(row)
    if box is not None:
        left, top, width, height = box
        pixels = pixels[top : top + height, left : left + width]
    uri, width, height = encode(pixels, side_px=2 * THUMBNAIL)
    shrink = THUMBNAIL / max(width, height)
    return element("image", href=uri, x=x, y=y, width=width * shrink, height=height * shrink)
