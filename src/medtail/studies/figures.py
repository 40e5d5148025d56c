"""The pictures of a study: curves with bands, confusions, scores by site, what is called how often, differences.

Everything is drawn from the scores of one set of images (`scores.ScoredSet`), in the style of `reporting`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from markupsafe import Markup

from medtail.judging.bootstrap import draw_weights, number_patients
from medtail.judging.comparison_words import interval_text
from medtail.judging.confusion import GroupConfusion, class_confusions, group_confusions
from medtail.judging.curves import Curve, pr_curve, roc_curve
from medtail.judging.decisions import Decider, decide
from medtail.reporting.curves import confusion_plot
from medtail.reporting.facts import Estimate
from medtail.reporting.forests import ForestRow, forest
from medtail.reporting.svg import Axis, clip, element, figure, frame, line, marker, polyline, short, text
from medtail.studies.factorial import Effects
from medtail.studies.factorial_grids import effect_word
from medtail.studies.grids import VERDICT_WORDS
from medtail.studies.judged import Judged
from medtail.tables.manifest import Manifest
from medtail.tables.predictions import Predictions

GRID = np.linspace(0.0, 1.0, 51)
BAND_RESAMPLES = 200
MOST_SITES = 12
UNIT_TICKS = (0.0, 0.5, 1.0)


@final
@dataclass(frozen=True)
class BandedCurve:
    """A curve over an even grid, its mean over seeds and the band of resampled patients.

    Attributes:
        mean: float64 [51]; NaN where undefined.
        low: Lower edge.
        high: Upper edge.
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def is_defined(self) -> bool:
        """Whether there is anything to draw."""
        return bool((~np.isnan(self.mean)).any())


def banded_curve(
    tables: Sequence[Predictions], column: int, *, kind: str, level: float = 0.95, seed: int = 0
) -> BandedCurve:
    """Average a class's curve over training seeds, with a pointwise band from resampled patients.

    Each resample draws patients, and one of the seeds.

    Args:
        tables: One a seed, of the same rows.
        column: The class.
        kind: `roc` (true over false positive rate) or `pr` (precision over recall).
        level: Share of resamples inside the band.
        seed: Of the resamples.
    """
    truth = tables[0].targets[:, column]
    patients, num_patients = number_patients(tables[0].patients)
    mean = np.mean([_on_grid(table.scores[:, column], truth, None, kind) for table in tables], axis=0)
    weights = draw_weights(num_patients, resamples=BAND_RESAMPLES, seed=seed).matrix().astype(np.float64)
    drawn = np.stack(
        [
            _on_grid(tables[b % len(tables)].scores[:, column], truth, weights[patients, b], kind)
            for b in range(BAND_RESAMPLES)
        ]
    )
    known = drawn[~np.isnan(drawn).any(axis=1)]
    if not len(known):
        return BandedCurve(mean, np.full(len(GRID), np.nan), np.full(len(GRID), np.nan))
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return BandedCurve(mean, low, high)


def _on_grid(scores: np.ndarray, targets: np.ndarray, weights: np.ndarray | None, kind: str) -> np.ndarray:
    curve: Curve = (roc_curve if kind == "roc" else pr_curve)(scores, targets, weights=weights)
    if not len(curve.x):
        return np.full(len(GRID), np.nan)
    if kind == "roc":
        # at a false positive rate the best true positive rate that is had
        last = np.searchsorted(curve.x, GRID + 1e-12, side="right") - 1
        return np.asarray(curve.y[last])
    # at a recall the precision of the first cut that reaches it
    first = np.minimum(np.searchsorted(curve.x, GRID - 1e-12, side="left"), len(curve.y) - 1)
    return np.asarray(curve.y[first])


def curves_plot(name: str, tables: Sequence[Predictions], *, group: str = "", level: float = 0.95) -> Markup:
    """Draw a class's precision-recall and ROC curve with bands, side by side.

    Args:
        name: The class.
        tables: One a training seed, of the same rows.
        group: Tail group, for the colour.
        level: Of the bands.
    """
    column = tables[0].labels.index(name)
    known = tables[0].targets[:, column]
    prevalence = float(np.nanmean(known)) if (~np.isnan(known)).any() else float("nan")
    side, gap, top, left = 140.0, 48.0, 22.0, 34.0
    parts: list[Markup] = []
    for index, (kind, x_name, y_name) in enumerate(
        (("pr", "recall", "precision"), ("roc", "false alarm rate", "recall"))
    ):
        start = left + index * (side + gap)
        x, y = Axis(0, 1, start, start + side), Axis(0, 1, top + side, top)
        parts.append(frame(x, y, x_name=x_name, y_name=y_name, x_ticks=UNIT_TICKS, y_ticks=UNIT_TICKS))
        curve = banded_curve(tables, column, kind=kind, level=level)
        if not curve.is_defined:
            parts.append(text("not defined", start + side / 2, top + side / 2, class_="t muted", anchor="middle"))
            continue
        chance = (prevalence, prevalence) if kind == "pr" else (0.0, 1.0)
        parts.append(line(x(0), y(chance[0]), x(1), y(chance[1]), class_="chance"))
        if not np.isnan(curve.low).any():
            edge = [(x(a), y(b)) for a, b in zip(GRID, curve.high, strict=True)]
            edge += [(x(a), y(b)) for a, b in zip(GRID[::-1], curve.low[::-1], strict=True)]
            points = " ".join(f"{short(a)},{short(b)}" for a, b in edge)
            parts.append(element("polygon", points=points, class_=f"band {group}"))
        drawn = [(x(a), y(b)) for a, b in zip(GRID, curve.mean, strict=True)]
        parts.append(polyline(drawn, class_=f"curve {group}"))
    label = f"{name}: precision-recall and ROC curve, mean over {len(tables)} training seeds, with pointwise bands."
    return figure(*parts, width=left + 2 * side + gap + 10, height=top + side + 36, label=label, class_="plot panel")


def confusion_plots(table: Predictions, *, prefix: str, decider: Decider = decide) -> list[tuple[str, Markup]]:
    """Draw the confusion of each exclusive group, and of each other class by itself.

    Args:
        table: Scores of one training seed.
        prefix: Makes the hatchings' names unique in the page.
        decider: From scores to decisions; inside an exclusive group it is always the highest score.

    Returns:
        Names and drawings.
    """
    found = list(group_confusions(table))
    counts = class_confusions(decider(table), table.targets)
    for index in table.labels.free_indices:
        name = table.labels.class_names[index]
        found.append(GroupConfusion(name, ("absent", "present"), counts[index].astype(np.int64)))
    return [
        (confusion.name, confusion_plot(confusion, pattern_id=f"{prefix}-{number}"))
        for number, confusion in enumerate(found)
    ]


def sites_of(manifest: Manifest, table: Predictions) -> np.ndarray | None:
    """Return each row's site, "" where unknown; None where the table names fewer than two."""
    if "site" not in manifest.frame.columns:
        return None
    site = dict(zip(manifest.frame["image_id"].astype(str), manifest.frame["site"].astype(str), strict=True))
    found = np.array([site.get(str(image_id), "") for image_id in table.image_ids], dtype=object)
    return found if len(set(found) - {""}) > 1 else None


def site_plot(name: str, tables: Sequence[Predictions], sites: np.ndarray) -> Markup:
    """Draw a class's scores at each site: quartiles and median of images with it (mark) and without it.

    Args:
        name: The class.
        tables: One a training seed; their scores are averaged.
        sites: Text [N].
    """
    column = tables[0].labels.index(name)
    scores = np.mean([table.scores[:, column] for table in tables], axis=0)
    targets = tables[0].targets[:, column]
    names = sorted(set(sites) - {""}, key=lambda site: (-int((sites == site).sum()), str(site)))[:MOST_SITES]
    left, right, top, row = 150.0, 330.0, 34.0, 26.0
    bottom = top + row * len(names)
    x = Axis(0.0, 1.0, left, right)
    parts: list[Markup] = [text("score", (left + right) / 2, 12, class_="t name", anchor="middle")]
    for tick in UNIT_TICKS:
        parts += [line(x(tick), top - 6, x(tick), bottom, class_="grid"),
                  text(f"{tick:g}", x(tick), 26, class_="t tick", anchor="middle")]  # fmt: skip
    for index, site in enumerate(names):
        middle = top + row * (index + 0.5)
        parts.append(text(clip(str(site), longest=20), 4, middle + 4, hint=str(site)))
        told = []
        for present, offset in ((1, -4.5), (0, 4.5)):
            own = scores[(sites == site) & (targets == present)]
            told.append(f"{len(own):,}")
            if not len(own):
                continue
            low, median, high = np.quantile(own, [0.25, 0.5, 0.75])
            hint = f"{site}, {'with' if present else 'without'} {name}: median {median:.2f}, {len(own):,} images"
            style = "tail" if present else "head"
            parts.append(line(x(low), middle + offset, x(high), middle + offset, class_=f"whisker {style}"))
            parts.append(marker(style, x(median), middle + offset, hint=hint, size=3.4))
        parts.append(text(" / ".join(told), right + 10, middle + 4, class_="t small"))
    parts.append(line(left, bottom, right, bottom, class_="axis"))
    parts.append(text("with / without", right + 10, 26, class_="t tick"))
    label = f"{name}: quartiles of the scores of images with and without it, at {len(names)} sites."
    return figure(*parts, width=right + 96, height=bottom + 10, label=label, class_="plot panel")


def called_plot(table: Predictions, *, decider: Decider = decide) -> Markup:
    """Draw how often each class is called, beside how often it is there."""
    called = decider(table)
    known = ~np.isnan(table.targets)
    there = ((table.targets == 1) & known).sum(axis=0)
    told = (called & known).sum(axis=0)
    names = table.labels.class_names
    left, right, top, row = 190.0, 470.0, 20.0, 26.0
    x = Axis(0.0, float(max(there.max(initial=1), told.max(initial=1), 1)), left, right)
    parts: list[Markup] = [text("images with it (grey), images called (dark)", left, 12, class_="t name")]
    for index, name in enumerate(names):
        y = top + row * index
        parts.append(text(clip(name, longest=26), 4, y + 16, hint=name))
        parts.append(element("rect", x=left, y=y + 3, width=max(x(there[index]) - left, 0.5), height=8, class_="bar"))
        parts.append(element("rect", x=left, y=y + 13, width=max(x(told[index]) - left, 0.5), height=8, class_="cell"))
        parts.append(text(f"{there[index]:,} / {told[index]:,}", right + 10, y + 16, class_="t small"))
    bottom = top + row * len(names)
    parts.append(line(left, top, left, bottom, class_="axis"))
    return figure(*parts, width=right + 110, height=bottom + 8, label="Images with each class, and images called.")


def lead_forest(judged: Judged, *, reference: str) -> Markup | None:
    """Draw every arm's difference to the reference in the lead question, in one picture.

    Args:
        judged: The numbers of a set of images.
        reference: The arm at 0.

    Returns:
        The drawing; None where there is nothing to compare.
    """
    if judged.comparison is None or not len(judged.differences):
        return None
    table = judged.differences.drop_duplicates("system_a")  # the lead question stands first of each arm
    rows = []
    for row in table.to_dict("records"):
        found = Estimate(row["difference"], row["low"], row["high"])
        shown = interval_text(row["difference"], row["low"], row["high"]).replace("-", "−")
        word = VERDICT_WORDS[row["verdict"]]
        rows.append(ForestRow(str(row["system_a"]), found, f"{shown} {word}", note=word))
    ends = np.abs(table[["difference", "low", "high"]].to_numpy(dtype=float))
    reach = max(float(np.nanmax(ends)) * 1.05 if (~np.isnan(ends)).any() else 0.1, 1e-3)
    x_name = f"{clip(reference, longest=16)} better  ←   0   →  arm better"
    if table["metric"].iloc[0] in ("ece", "brier"):
        x_name = f"arm better  ←   0   →  {clip(reference, longest=16)} better"
    label = f"Difference of each arm to {reference}. The numbers are in the table."
    return forest(rows, axis=(-reach, reach), reference=0.0, x_name=x_name, label=label)


def effect_forest(effects: Effects) -> Markup:
    """Draw the effects of a factorial on F1: over all classes, and in each tail group.

    Args:
        effects: With F1 among its metrics.
    """
    table = effects.table[(effects.table["metric"] == "f1") & (effects.table["class"] == "")]
    rows = []
    for place in dict.fromkeys(map(str, table["tail_group"])):
        part = table[table["tail_group"] == place]
        rows.append(ForestRow(f"F1 of the {place} classes" if place else "F1 over all classes", is_heading=True))
        for row in part.to_dict("records"):
            shown = interval_text(row["value"], row["low"], row["high"]).replace("-", "−")
            word = effect_word(row)
            found = Estimate(row["value"], row["low"], row["high"])
            rows.append(ForestRow(str(row["effect"]), found, f"{shown} {word}", group=place, note=word))
    ends = np.abs(table[["value", "low", "high"]].to_numpy(dtype=float))
    reach = max(float(np.nanmax(ends)) * 1.05 if (~np.isnan(ends)).any() else 0.1, 1e-3)
    label = "Main effects and interactions on F1. The numbers are in the tables."
    x_name = "worse with it  ←   0   →  better with it"
    return forest(rows, axis=(-reach, reach), reference=0.0, x_name=x_name, label=label)
