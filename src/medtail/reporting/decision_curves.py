"""Decision curves on the page: at which thresholds do the scores beat acting on everybody, or on nobody?

Only of calibrated scores, and only of the classes that matter: the rare and the critical ones with enough positive
patients. Nothing is drawn where the picture would mislead; a sentence says why instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import numpy as np
import pandas as pd
from markupsafe import Markup

from medtail.judging.bootstrap import PatientWeights
from medtail.judging.evaluation import EvaluationConfig
from medtail.judging.net_benefit import decision_curve
from medtail.reporting.facts import ClassFacts, Estimate, number
from medtail.reporting.summary import count
from medtail.reporting.svg import Axis, element, figure, frame, line, polyline, short, text
from medtail.reporting.tables import Cell, Column, Table, text_cell, value_cell
from medtail.tables.predictions import Predictions

FEWEST_POSITIVE_PATIENTS = 10
MOST_CURVES = 12
STEPS = 50
EVERY = 10
"""Every tenth threshold is in the table."""
COLUMNS = (
    Column("class", "Name of the class", True),
    Column("threshold", "Score at which one would act"),
    Column("net benefit", "True alarms an image, less false ones at the threshold's rate"),
    Column("act on all", "Net benefit of acting on every image"),
    Column("gain", "Net benefit less that of the better of all and none"),
)


@final
@dataclass(frozen=True)
class DecisionPanel:
    """A class's decision curve.

    Attributes:
        facts: The class.
        svg: Its plot.
        caption: At which thresholds the scores are of use.
    """

    facts: ClassFacts
    svg: Markup
    caption: str


@final
@dataclass(frozen=True)
class DecisionSection:
    """The section of decision curves.

    Attributes:
        reason: Why there is no curve, or which classes have none; "" if all have one.
        panels: A curve a class.
        table: Numbers behind them; None without curves.
    """

    reason: str
    panels: tuple[DecisionPanel, ...] = ()
    table: Table | None = None


def decision_section(
    predictions: Predictions,
    close: Sequence[ClassFacts],
    *,
    config: EvaluationConfig,
    patients: np.ndarray,
    weights: PatientWeights,
) -> DecisionSection:
    """Gather the section.

    Args:
        predictions: The judged rows.
        close: Rare and critical classes, in the order to show.
        config: Of the results.
        patients: Patient numbers into `weights`, int [N].
        weights: The resamples of the results.
    """
    if "calibration" not in predictions.digests:
        return DecisionSection(
            "Not shown: a threshold of 5 % means “one finding is worth 19 needless work-ups” only if scores are "
            "calibrated, and no calibration is on record for these; run medtail calibrate first."
        )
    chosen = [facts for facts in close if facts.n_pos_patients >= FEWEST_POSITIVE_PATIENTS and facts.n_neg]
    shown = chosen[:MOST_CURVES]
    left = [facts.name for facts in close if facts not in chosen]
    reason = ""
    if left:
        reason = f"No curve under {FEWEST_POSITIVE_PATIENTS} positive patients: {', '.join(left)}."
    if len(chosen) > MOST_CURVES:
        reason += f" The first {MOST_CURVES} of {count(len(chosen), 'class', 'classes')} are drawn."
    curves = {
        facts.name: decision_curve(
            predictions,
            classes=[facts.name],
            thresholds=threshold_grid(facts.prevalence),
            config=config,
            patients=patients,
            weights=weights,
        )
        for facts in shown
    }
    return DecisionSection(
        reason.strip(),
        tuple(
            DecisionPanel(f, decision_panel(f, curves[f.name]), gain_words(curves[f.name], prevalence=f.prevalence))
            for f in shown
        ),
        _table(curves) if curves else None,
    )


def threshold_grid(prevalence: float) -> np.ndarray:
    """Return 50 thresholds up to four times the prevalence, and at least to 5 %, at most to 50 %.

    Example:
        >>> threshold_grid(0.001)[[0, -1]].tolist(), float(threshold_grid(0.3)[-1])
        ([0.001, 0.05], 0.5)
    """
    highest = min(0.5, max(0.05, float(np.ceil(4 * prevalence * 20 - 1e-9)) / 20))
    return np.asarray(np.round(np.arange(1, STEPS + 1) * highest / STEPS, 10))


def gain_words(curve: pd.DataFrame, *, prevalence: float) -> str:
    """Say at which thresholds the interval of the gain excludes 0.

    Args:
        curve: Of one class, from `decision_curve`.
        prevalence: Of the class here.

    Example:
        >>> made = pd.DataFrame({"threshold": [0.1, 0.2, 0.3], "gain": 0.1, "gain_low": [0.01, 0.02, -1],
        ...                      "gain_high": 1.0})
        >>> gain_words(made, prevalence=0.2)
        'prevalence 20 %; the scores beat both defaults at 10–20 %'
    """
    start = f"prevalence {_percent(prevalence)}; "
    if curve["gain_low"].isna().all():
        return start + "no intervals"
    better, worse = (
        _ranges(curve["threshold"].to_numpy(), mask.to_numpy())
        for mask in (curve["gain_low"] > 0, curve["gain_high"] < 0)
    )
    said = [f"the scores beat both defaults at {better}" if better else "at no threshold do they surely beat both"]
    said += [f"surely worse than the better default at {worse}"] if worse else []
    return start + "; ".join(said)


def _ranges(thresholds: np.ndarray, inside: np.ndarray) -> str:
    edges = np.flatnonzero(np.diff(np.concatenate(([0], inside.astype(int), [0]))))
    parts = []
    for first, after in zip(edges[::2], edges[1::2], strict=True):
        low, high = thresholds[first], thresholds[after - 1]
        parts.append(_percent(low) if first == after - 1 else f"{100 * low:.3g}–{_percent(high)}")
    return ", ".join(parts)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _table(curves: dict[str, pd.DataFrame]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for name, curve in curves.items():
        for row in curve.iloc[EVERY - 1 :: EVERY].to_dict("records"):
            gain = Estimate(row["gain"], row["gain_low"], row["gain_high"])
            benefit = Estimate(row["net_benefit"], row["low"], row["high"])
            rows.append(
                (
                    text_cell(name),
                    Cell(_percent(row["threshold"]), repr(float(row["threshold"]))),
                    _small(benefit),
                    _small(Estimate(row["treat_all"])),
                    _small(gain),
                )
            )
    return Table("Table of net benefit", COLUMNS, tuple(rows))


def _small(found: Estimate) -> Cell:
    """Write a net benefit in units of one in 1,000 images: that of a rare class is a few of them."""
    cell = value_cell(found)
    if not found.is_defined:
        return cell
    interval = f"[{1000 * found.low:.1f} to {1000 * found.high:.1f}]".replace("-", "−") if found.has_interval else ""
    return Cell(f"{1000 * found.value:.1f}".replace("-", "−"), repr(found.value), interval=interval)


def decision_panel(facts: ClassFacts, curve: pd.DataFrame) -> Markup:
    """Draw net benefit with its band, acting on all (dotted) and on nobody (the line at 0), per 1,000 images.

    Args:
        facts: The class.
        curve: Its rows of `decision_curve`.
    """
    left, side, wide, top = 46.0, 140.0, 260.0, 22.0
    per = 1000.0
    percent = 100 * curve["threshold"].to_numpy()
    value, low, high = (per * curve[column].to_numpy() for column in ("net_benefit", "low", "high"))
    everybody = per * curve["treat_all"].to_numpy()
    reach = np.nanmax(np.concatenate((value, high, [per * facts.prevalence]))) * 1.08
    x, y = Axis(0.0, float(percent[-1]), left, left + wide), Axis(-0.3 * reach, float(reach), top + side, top)
    parts: list[Markup] = [
        frame(
            x, y, x_name="threshold, %", y_name="net benefit, in 1,000 images", y_ticks=y.ticks(6), x_ticks=x.ticks(5)
        )
    ]
    if not np.isnan(low).all():
        outline = [(x(p), y(v)) for p, v in zip(percent, high, strict=True)]
        outline += [(x(p), y(v)) for p, v in zip(percent[::-1], low[::-1], strict=True)]
        points = " ".join(f"{short(a)},{short(b)}" for a, b in outline)
        parts.append(element("polygon", points=points, class_=f"band {facts.tail_group}"))
    parts.append(line(x.start, y(0), x.end, y(0), class_="axis"))
    # at threshold 0 acting on all gains the prevalence; from there down until it leaves the picture
    course = [(0.0, per * facts.prevalence), *zip(percent, everybody, strict=True)]
    parts.append(polyline([(x(p), y(v)) for p, v in _until(course, y.low)], class_="chance"))
    parts.append(
        polyline([(x(p), y(v)) for p, v in zip(percent, value, strict=True)], class_=f"curve {facts.tail_group}")
    )
    parts += [text("act on none", x.end - 2, y(0) + 13, class_="t small muted", anchor="end")]
    label = (
        f"{facts.name}: net benefit against the threshold from 0 to {percent[-1]:g} %, beside acting on all and on "
        f"none; highest {number(np.nanmax(value) / per, digits=4)}."
    )
    return figure(*parts, width=left + wide + 12, height=top + side + 36, label=label, class_="plot panel")


def _until(course: list[tuple[float, float]], low: float) -> list[tuple[float, float]]:
    """Cut a falling line where it crosses the lower end."""
    kept = [course[0]]
    for (x0, y0), (x1, y1) in pairwise(course):
        if y1 < low:
            kept.append((x0 + (x1 - x0) * (y0 - low) / (y0 - y1), low))
            break
        kept.append((x1, y1))
    return kept
