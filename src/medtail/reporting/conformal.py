"""Conformal sets on the page: was the promise kept, for the rare classes too, and what did it cost?

The limits come from the tune fold of the same model, coverage from the judged rows. A class with too few tune
patients has no promise of its own, and the page says what its limit rests on instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from markupsafe import Markup

from medtail.errors import listing
from medtail.judging.conformal import ConformalConfig, ConformalSets, fit_conformal
from medtail.judging.conformal_coverage import judge_sets
from medtail.judging.evaluation import EvaluationConfig
from medtail.reporting.facts import ClassFacts, estimate, number
from medtail.reporting.forests import ForestRow, forest
from medtail.reporting.summary import FEWEST_PATIENTS, count
from medtail.reporting.tables import Cell, Column, Table, amount_cell, group_cell, text_cell, value_cell
from medtail.tables.predictions import Predictions
from medtail.tables.results import Results

COLUMNS = (
    Column("class", "Name of the class", True),
    Column("group", "Head, medium or tail, by train images", True),
    Column("tune patients", "Patients of the tune fold with the finding"),
    Column("limit from", "What the limit was computed from; class: its own patients", True),
    Column("limit", "Score at or above which the class is in the set"),
    Column("coverage", "Share of the class's judged images whose set holds it"),
    Column("in sets", "Share of all judged images whose set holds it: what the coverage costs"),
)
LEVELS = {
    "class": "its own patients",
    "always": "nobody: always in the set",
    "marginal": "all findings",
    "tail group": "its tail group",
    "cluster": "classes with alike scores",
}


@final
@dataclass(frozen=True)
class ConformalSection:
    """All about conformal sets.

    Attributes:
        promise: What was promised.
        words: Sentences on size and on classes without a promise of their own.
        plot: Coverage of the classes looked at closely; None where none is defined.
        table: Every class.
        cautions: Warnings of the judgement.
        sets: The sets themselves.
        results: Their judgement.
    """

    promise: str
    words: tuple[str, ...]
    plot: Markup | None
    table: Table
    cautions: tuple[str, ...]
    sets: ConformalSets
    results: Results


def conformal_section(
    tune: Predictions,
    predictions: Predictions,
    classes: Sequence[ClassFacts],
    *,
    close: Sequence[ClassFacts],
    config: EvaluationConfig,
    conformal: ConformalConfig | None = None,
) -> ConformalSection:
    """Calibrate sets on tune and judge them.

    Args:
        tune: Scores and targets of the tune fold, by the same model with the same calibration.
        predictions: The judged rows.
        classes: All classes, in the order of the table.
        close: Classes whose coverage is drawn.
        config: Of the results.
        conformal: How to build sets; the defaults if None.
    """
    sets = fit_conformal(tune, config=conformal)
    results = judge_sets(sets, predictions, config=config)
    size, empty = (estimate(results, metric) for metric in ("set_size", "empty_share"))
    covered = estimate(results, "coverage")
    words = [
        f"Mean coverage over {int(covered.support)} of {count(len(classes), 'class', 'classes')}: {covered.text()}."
    ]
    if predictions.labels.task == "multilabel":
        words.append(
            f"A set holds {size.text()} of {len(classes)} classes; {100 * empty.value:.0f} % of the sets are empty "
            "(nothing is suspected)."
        )
    for group in predictions.labels.groups:
        found, one = (estimate(results, metric, class_name=group.name) for metric in ("set_size", "singleton_share"))
        words.append(
            f"In {group.name} a set holds {found.text()} of {len(group.classes)} classes; exactly one in "
            f"{100 * one.value:.0f} % of the images."
        )
    fallen = [facts.name for facts in classes if _level(sets, facts.name) != "class"]
    if fallen and sets.method == "class_conditional":
        words.append(
            f"{len(fallen)} of {count(len(classes), 'class', 'classes')} have fewer than "
            f"{sets.details['needed']} tune patients and so no promise of their own: their limit is of a wider pool."
        )
    words.append(
        "The tune fold also chose the training's best epoch and the thresholds, so the promise is a little too bold; "
        "believe the coverage measured."
    )
    few = [facts.name for facts in close if facts.n_pos_patients < FEWEST_PATIENTS]
    if few:
        words.append(f"Under {FEWEST_PATIENTS} positive patients here, so not drawn: {listing(few, limit=6)}.")
    return ConformalSection(
        promise=f"the finding of a new patient is missing from the set at most {100 * sets.alpha:g} % of the time",
        words=tuple(words),
        plot=_draw(results, sets, close),
        table=Table("Table of conformal sets", COLUMNS, tuple(_row(results, sets, facts) for facts in classes)),
        cautions=tuple(str(line) for line in results.header.get("warnings", ())),
        sets=sets,
        results=results,
    )


def _level(sets: ConformalSets, name: str) -> str:
    return sets.levels[sets.labels.index(name)]


def _row(results: Results, sets: ConformalSets, facts: ClassFacts) -> tuple[Cell, ...]:
    at = sets.labels.index(facts.name)
    level = sets.levels[at]
    rests = LEVELS.get(level, level)
    rests += f" ({sets.pooled[at]})" if level not in ("class", "always") else ""
    return (
        text_cell(facts.name),
        group_cell(facts.tail_group),
        amount_cell(sets.patients[at]),
        text_cell(rests, style="" if level == "class" else "few"),
        Cell(number(float(sets.limits[at]), digits=3), repr(float(sets.limits[at]))),
        value_cell(estimate(results, "coverage", class_name=facts.name), with_interval=True, why="no positives"),
        value_cell(estimate(results, "inclusion", class_name=facts.name), with_interval=True),
    )


def _draw(results: Results, sets: ConformalSets, close: Sequence[ClassFacts]) -> Markup | None:
    rows = []
    for facts in close:
        if facts.n_pos_patients < FEWEST_PATIENTS:
            continue
        found = estimate(results, "coverage", class_name=facts.name)
        inside = estimate(results, "inclusion", class_name=facts.name)
        shown = f"{found.text()}, in {100 * inside.value:.0f} % of sets"
        rows.append(ForestRow(facts.name, found, shown, facts.tail_group))
    if not rows:
        return None
    label = f"Coverage of the sets, {len(rows)} classes, with intervals; the line is the promised {1 - sets.alpha:g}."
    return forest(rows, axis=(0.0, 1.0), reference=1 - sets.alpha, x_name="coverage", label=label)
