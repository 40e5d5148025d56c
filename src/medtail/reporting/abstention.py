"""Abstention on the page: what refusing the least sure fifth gains, and whose findings are refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

from medtail.errors import listing
from medtail.judging.abstention import judge_abstention
from medtail.judging.evaluation import EvaluationConfig
from medtail.reporting.facts import ClassFacts, estimate, number
from medtail.reporting.summary import FEWEST_PATIENTS
from medtail.reporting.tables import Cell, Column, Table, group_cell, text_cell, value_cell
from medtail.tables.predictions import Predictions
from medtail.tables.results import Results

COVERAGE = 0.8
FEW_PATIENTS = 10
"""Nothing is called sure from fewer positive patients."""
COLUMNS = (
    Column("decision", "An exclusive group is refused as a whole, any other class by itself", True),
    Column("group", "Head, medium or tail, by train images", True),
    Column("wrong", "Share of wrong decisions if none is refused"),
    Column("wrong among the kept", "Share of wrong decisions among the surest 80 %"),
    Column("refused, with the finding", "Share of the class's own images among the refused; 0.20 is its fair part"),
)


@final
@dataclass(frozen=True)
class AbstentionSection:
    """What refusing brings.

    Attributes:
        words: Who is refused more often than their part.
        table: A row a decision, and inside exclusive groups a row a class looked at closely.
        results: The judgement behind it.
    """

    words: tuple[str, ...]
    table: Table
    results: Results


def abstention_section(
    predictions: Predictions, *, close: Sequence[ClassFacts], config: EvaluationConfig
) -> AbstentionSection:
    """Judge abstention for the classes looked at closely and for the exclusive groups.

    Args:
        predictions: The judged rows, with thresholds if there are any.
        close: Classes to look at.
        config: Of the results.
    """
    results = judge_abstention(_narrowed(predictions, close), coverages=[COVERAGE], config=config)
    by_name = {facts.name: facts for facts in close if facts.n_pos_patients >= FEWEST_PATIENTS}
    rows: list[tuple[Cell, ...]] = []
    owners = {name: group.name for group in predictions.labels.groups for name in group.classes}
    for group in predictions.labels.groups:
        rows.append(_row(results, group.name, None, is_decision=True))
        rows += [_row(results, n, by_name[n], is_decision=False) for n in by_name if owners.get(n) == group.name]
    rows += [_row(results, name, by_name[name], is_decision=True) for name in by_name if name not in owners]
    often = []
    for facts in by_name.values():
        refused = estimate(results, _refused(), class_name=facts.name)
        if refused.has_interval and refused.low > 1 - COVERAGE and facts.n_pos_patients >= FEW_PATIENTS:
            often.append(f"{facts.name} ({number(refused.value)})")
    words = []
    if often:
        words.append(
            "Surely refused more often than other images, so abstaining shifts the rare findings to people: "
            f"{', '.join(often)}."
        )
    few = [facts.name for facts in close if facts.name not in by_name]
    if few:
        words.append(f"Under {FEWEST_PATIENTS} positive patients here, so not shown: {listing(few, limit=6)}.")
    return AbstentionSection(tuple(words), Table("Table of abstention", COLUMNS, tuple(rows)), results)


def _refused() -> str:
    return f"refusal_rate@{COVERAGE:g}"


def _narrowed(predictions: Predictions, close: Sequence[ClassFacts]) -> Predictions:
    """Keep the exclusive groups and the free classes looked at: what the others do is not shown."""
    labels = predictions.labels
    wanted = {facts.name for facts in close} | {name for group in labels.groups for name in group.classes}
    kept = [name for name in labels.class_names if name in wanted]
    at = [labels.index(name) for name in kept]
    return replace(
        predictions,
        scores=predictions.scores[:, at],
        targets=predictions.targets[:, at],
        labels=labels.select(kept),
    )


def _row(results: Results, name: str, facts: ClassFacts | None, *, is_decision: bool) -> tuple[Cell, ...]:
    risk = value_cell(estimate(results, "risk", class_name=name), digits=3, with_interval=True)
    kept = estimate(results, f"risk_at_coverage@{COVERAGE:g}", class_name=name)
    blank = Cell("", "")
    return (
        text_cell(name if is_decision else f"– {name}"),
        group_cell(facts.tail_group) if facts is not None else blank,
        risk if is_decision else blank,
        value_cell(kept, digits=3, with_interval=True) if is_decision else blank,
        blank if facts is None else value_cell(
            estimate(results, _refused(), class_name=name), with_interval=True, why="no positives"
        ),
    )  # fmt: skip
