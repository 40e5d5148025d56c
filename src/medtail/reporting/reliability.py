"""Calibration on the page: do scores mean what they say, the rare classes first?

Bins of equally many images, since equal steps of the score would put a rare class into one bin; axes that end where
the class's scores end; and a table of what calibration errors say, read from Results where it is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import pandas as pd
from markupsafe import Markup

from medtail.errors import listing
from medtail.judging.bootstrap import PatientWeights, fixed_point, patient_sums, resample_sums
from medtail.judging.calibration_error import debiased_squared_error, observed_to_expected
from medtail.judging.counts import ratio
from medtail.judging.intervals import percentile_interval
from medtail.judging.metrics import expected_calibration_error
from medtail.judging.reliability import reliability_points
from medtail.reporting.facts import ClassFacts, Estimate, number
from medtail.reporting.summary import FEWEST_PATIENTS, count
from medtail.reporting.svg import Axis, figure, line, marker, polyline, text
from medtail.reporting.tables import Cell, Column, Table, amount_cell, group_cell, text_cell, value_cell
from medtail.tables.predictions import Predictions

BINS = 10
COLUMNS = (
    Column("class", "Name of the class", True),
    Column("group", "Head, medium or tail, by train images", True),
    Column("positives", "Positive judged images"),
    Column("expected", "Sum of the scores: how many positives they promise"),
    Column("observed / expected", "Positives over the sum of the scores; 1 is right, below 1 the scores are too high"),
    Column("ECE", "Expected calibration error as in the results, with its interval"),
    Column("ECE, equal mass", "The same from 15 bins of equally many images"),
    Column("beyond noise", "Root of the squared error in 15 bins less what chance alone would show"),
    Column("Brier", "Mean squared distance of score and truth"),
)


@final
@dataclass(frozen=True)
class ReliabilityPanel:
    """A class's reliability.

    Attributes:
        facts: The class.
        svg: Its plot.
        caption: What to read from it.
    """

    facts: ClassFacts
    svg: Markup
    caption: str


@final
@dataclass(frozen=True)
class ReliabilitySection:
    """All about calibration.

    Attributes:
        words: Sentences: calibrated or not, and what the classes looked at closely show.
        close: Panels shown at once.
        others: Panels folded away.
        table: Errors of every class.
        error_note: How the errors were made.
    """

    words: tuple[str, ...]
    close: tuple[ReliabilityPanel, ...]
    others: tuple[ReliabilityPanel, ...]
    table: Table
    error_note: str


def reliability_section(
    predictions: Predictions,
    header: dict[str, Any],
    classes: Sequence[ClassFacts],
    *,
    close: Sequence[ClassFacts],
    others: Sequence[ClassFacts],
    patients: np.ndarray,
    weights: PatientWeights,
    level: float = 0.95,
) -> ReliabilitySection:
    """Gather the section.

    Args:
        predictions: The judged rows.
        header: Of the results.
        classes: All classes, in the order of the table.
        close: Classes shown at once, in this order, if they have enough positive patients.
        others: Classes folded away.
        patients: Patient numbers into `weights`, int [N].
        weights: The resamples of the results.
        level: Of the intervals.
    """
    balances = {facts.name: balance(predictions, facts.name, patients, weights, level=level) for facts in classes}

    def panel(facts: ClassFacts) -> ReliabilityPanel:
        points = reliability_points(
            predictions, facts.name, weights=weights, patients=patients, mode="equal_mass", bins=BINS, level=level
        )
        expected = expected_positives(predictions, facts.name)
        caption = f"{count(facts.n_pos, 'positive')}; the scores promise {expected:,.1f}"
        return ReliabilityPanel(facts, reliability_panel(facts, points), caption)

    # a handful of positive patients makes a plot of noise: it is folded away, and the sentence says so
    shown = [facts for facts in close if facts.n_pos_patients >= FEWEST_PATIENTS]
    folded = [*(facts for facts in close if facts not in shown), *others]
    made = header.get("ece")
    ece = made if isinstance(made, dict) else {}
    mode = {"reliability": "equal steps of the score", "equal_mass": "equally many images"}
    bins = f"{ece.get('bins', 15)} bins of {mode.get(str(ece.get('mode', 'reliability')), str(ece.get('mode')))}"
    return ReliabilitySection(
        words=(calibrated_words(predictions), *_verdicts(close, balances)),
        close=tuple(panel(facts) for facts in shown),
        others=tuple(panel(facts) for facts in folded),
        table=Table(
            "Table of calibration errors", COLUMNS, tuple(_row(predictions, facts, balances) for facts in classes)
        ),
        error_note=f"ECE from {bins}; a debiased error “none” is no larger than chance alone would show.",
    )


def calibrated_words(predictions: Predictions) -> str:
    """Say whether these scores went through a calibration map.

    Example:
        >>> from medtail.tables.labels import LabelSpace
        >>> ids = np.array(["a"], dtype=object)
        >>> rows = Predictions(ids, ids, np.ones((1, 1)), np.ones((1, 1)), LabelSpace(("Hernia",)), ids)
        >>> calibrated_words(rows).split(":")[0]
        'No calibration map is on record for these scores'
    """
    digest = predictions.digests.get("calibration")
    if digest:
        return f"These scores are calibrated: a calibration map was applied to them (digest {digest[:12]})."
    return (
        "No calibration map is on record for these scores: a score of 0.3 need not mean 3 in 10. "
        "medtail calibrate fits one on the tune fold."
    )


def expected_positives(predictions: Predictions, class_name: str) -> float:
    """Return the sum of a class's scores over its assessed images."""
    column = predictions.labels.index(class_name)
    kept = ~np.isnan(predictions.targets[:, column])
    return float(predictions.scores[kept, column].sum())


def balance(
    predictions: Predictions, class_name: str, patients: np.ndarray, weights: PatientWeights, *, level: float = 0.95
) -> Estimate:
    """Return observed over expected positives of a class, with its interval over patients.

    Args:
        predictions: The judged rows.
        class_name: The class.
        patients: Patient numbers into `weights`, int [N].
        weights: Resamples.
        level: Of the interval.
    """
    column = predictions.labels.index(class_name)
    kept = ~np.isnan(predictions.targets[:, column])
    scores, targets = predictions.scores[kept, column], predictions.targets[kept, column]
    value = observed_to_expected(scores, targets)
    positive = len(set(predictions.patients[kept][targets == 1]))
    if np.isnan(value) or positive < FEWEST_PATIENTS or not weights.resamples:
        return Estimate(value, support=float(targets.sum()))
    cells = fixed_point(np.stack([targets, scores], axis=1), rows=len(scores), heaviest=weights.heaviest)
    drawn = resample_sums(patient_sums(cells, patients[kept], weights.num_patients), weights)
    low, high = percentile_interval(ratio(drawn[0], drawn[1]), level=level)
    return Estimate(value, low, high, float(targets.sum()))


def _verdicts(close: Sequence[ClassFacts], balances: dict[str, Estimate]) -> list[str]:
    """Say of the classes looked at closely whether scores promise too much or too little."""
    found: dict[str, list[str]] = {"much": [], "little": [], "open": [], "few": []}
    for facts in close:
        made = balances[facts.name]
        if not made.has_interval:
            found["few"].append(facts.name)
        else:
            found["much" if made.high < 1 else "little" if made.low > 1 else "open"].append(
                f"{facts.name} ({number(made.value)})"
            )
    said = []
    if found["much"]:
        said.append(f"more positives than there are, so scores are too high: {', '.join(found['much'])}")
    if found["little"]:
        said.append(f"fewer than there are, so scores are too low: {', '.join(found['little'])}")
    if found["open"]:
        said.append(f"about as many, as far as this sample can tell: {', '.join(found['open'])}")
    if found["few"]:
        said.append(f"too few positive patients to say: {listing(found['few'], limit=6)}")
    if not said:
        return []
    return [f"What the scores promise, with observed over expected positives in brackets – {'; '.join(said)}."]


def _row(predictions: Predictions, facts: ClassFacts, balances: dict[str, Estimate]) -> tuple[Cell, ...]:
    column = predictions.labels.index(facts.name)
    scores, targets = predictions.scores[:, column], predictions.targets[:, column]
    mass = expected_calibration_error(scores, targets, mode="equal_mass", bins=15)
    squared = debiased_squared_error(scores, targets)
    beyond = Estimate(float(np.sqrt(max(squared, 0.0))) if not np.isnan(squared) else float("nan"))
    return (
        text_cell(facts.name),
        group_cell(facts.tail_group),
        amount_cell(facts.n_pos),
        amount_cell(expected_positives(predictions, facts.name), digits=1),
        value_cell(balances[facts.name], with_interval=True),
        value_cell(facts.ece, digits=3, with_interval=True),
        value_cell(Estimate(mass), digits=3),
        value_cell(beyond, digits=3, shown="none" if squared <= 0 else ""),
        value_cell(facts.brier, digits=3),
    )


def reliability_panel(facts: ClassFacts, points: pd.DataFrame, *, side: float = 128.0) -> Markup:
    """Draw observed share against mean score with the interval of each bin, on axes that end where the scores do.

    Args:
        facts: The class.
        points: From `judging.reliability.reliability_points`.
        side: Size of the plot in pixels.
    """
    top, left = 22.0, 44.0
    end = axis_end(points)
    x, y = Axis(0.0, end, left, left + side), Axis(0.0, end, top + side, top)
    ticks = (0.0, end / 2, end)
    parts: list[Markup] = []
    for tick in ticks:
        parts += [line(x.start, y(tick), x.end, y(tick), class_="grid"),
                  text(f"{tick:g}", left - 5, y(tick) + 3.5, class_="t tick", anchor="end"),
                  text(f"{tick:g}", x(tick), y.start + 14, class_="t tick", anchor="middle")]  # fmt: skip
    parts.append(line(x(0), y(0), x(end), y(end), class_="chance"))
    for row in points.to_dict("records"):
        if not np.isnan(row["low"]):
            at = x(row["mean_score"])
            parts.append(line(at, y(row["low"]), at, y(row["high"]), class_=f"whisker thin {facts.tail_group}"))
    drawn = [(x(a), y(b)) for a, b in zip(points["mean_score"], points["share"], strict=True)]
    parts.append(polyline(drawn, class_=f"curve thin {facts.tail_group}"))
    for (across, up), row in zip(drawn, points.to_dict("records"), strict=True):
        hint = (
            f"mean score {number(row['mean_score'], digits=3)}; {row['positives']:,} of {row['rows']:,} images "
            f"positive ({number(row['share'], digits=3)}), {count(row['patients'], 'patient')}"
        )
        hint += (
            "" if np.isnan(row["low"]) else f"; interval {number(row['low'], digits=3)}–{number(row['high'], digits=3)}"
        )
        parts.append(marker(facts.tail_group, across, up, hint=hint, size=3.2))
    parts += [line(left, y.start, left + side, y.start, class_="axis"),
              text("mean score", left + side / 2, y.start + 29, class_="t name", anchor="middle"),
              text("observed share", left - 5, top - 8, class_="t name")]  # fmt: skip
    label = f"{facts.name}: observed share of positives against the mean score in {len(points)} bins, with intervals."
    return figure(*parts, width=left + side + 12, height=y.start + 34, label=label, class_="plot panel")


def axis_end(points: pd.DataFrame) -> float:
    """Return a round end of the axes that holds every point, and intervals up to half as far again.

    Example:
        >>> axis_end(pd.DataFrame({"mean_score": [0.01, 0.03], "share": [0.0, 0.02], "high": [0.01, 0.6]}))
        0.05
    """
    if not len(points):
        return 1.0
    furthest = float(points[["mean_score", "share"]].to_numpy().max())
    reach = float(np.nanmax(points["high"])) if points["high"].notna().any() else 0.0
    wanted = max(furthest, min(reach, 1.5 * furthest), 1e-6)
    power = 10.0 ** np.floor(np.log10(wanted))
    end = next(step * power for step in (1, 2, 3, 5, 10) if step * power >= wanted * 0.9999)
    return float(round(min(end, 1.0), 10))
