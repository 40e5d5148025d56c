"""Other places on the page: what the same decisions mean where the findings are as common as somebody said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from medtail.errors import MedtailError, did_you_mean
from medtail.reporting.facts import ClassFacts, Estimate
from medtail.reporting.tables import Cell, Column, Table, group_cell, text_cell, value_cell
from medtail.tables.predictions import Predictions
from medtail.tables.results import Results

COLUMNS = (
    Column("class", "Name of the class", True),
    Column("group", "Head, medium or tail, by train images", True),
    Column("here", "Prevalence among the judged images"),
    Column("there", "Prevalence assumed there"),
    Column("PPV there", "Share of the called images that have the finding"),
    Column("to look at", "Called images a person looks at for each finding among them"),
    Column("alarms", "Called images among 1,000"),
    Column("missed", "Findings not called among 1,000 images"),
    Column("AP there", "Average precision there"),
    Column("recall", "Sensitivity, the same in both places"),
    Column("specificity", "Share of the negative images not called"),
    Column("NPV there", "Share of the uncalled images that do not have it"),
)


@final
@dataclass(frozen=True)
class PrevalenceSection:
    """What the decisions are worth elsewhere.

    Attributes:
        tables: Site, "" for everywhere, and its table.
        assumption: What had to be assumed.
        cautions: What a reader could misread.
    """

    tables: tuple[tuple[str, Table], ...]
    assumption: str
    cautions: tuple[str, ...]


def prevalence_section(
    retargeted: Results, predictions: Predictions, classes: Sequence[ClassFacts]
) -> PrevalenceSection:
    """Gather the section from what `medtail retarget` wrote.

    Args:
        retargeted: From `judging.retarget.retarget`.
        predictions: The judged rows; it must be theirs.
        classes: All classes, rare last.

    Raises:
        MedtailError: It is of other scores or classes, or holds no `target_prevalence`.
    """
    made = retargeted.header.get("digests")
    digest = made.get("predictions") if isinstance(made, dict) else None
    if digest is not None and digest != predictions.digest:
        raise MedtailError(
            f"re-targeted results (digest {str(digest)[:12]}): were made from other scores than this report's (digest"
            f" {predictions.digest[:12]}). Run `medtail retarget` on the same folder."
        )
    rows = retargeted.rows("target_prevalence", subgroup=None)
    if not len(rows):
        raise MedtailError("re-targeted results: no row 'target_prevalence'; expected what `medtail retarget` writes.")
    known = predictions.labels.class_names
    for name in rows["class"]:
        if name not in known:
            raise MedtailError(
                f"re-targeted results, class {name!r}: {predictions.name} has no such class{did_you_mean(name, known)}"
            )
    tables = []
    for site in dict.fromkeys(rows["subgroup"]):
        inside = set(rows.loc[rows["subgroup"] == site, "class"])
        body = tuple(_row(retargeted, facts, site) for facts in reversed(classes) if facts.name in inside)
        tables.append((site, Table(f"Table of decisions at {site or 'the prevalence given'}", COLUMNS, body)))
    return PrevalenceSection(
        tuple(tables),
        str(retargeted.header.get("assumption", "")),
        tuple(str(line) for line in retargeted.header.get("warnings", ())),
    )


def _row(retargeted: Results, facts: ClassFacts, site: str) -> tuple[Cell, ...]:
    def found(metric: str) -> Estimate:
        rows = retargeted.rows(metric, class_name=facts.name, subgroup=site)
        if not len(rows):
            return Estimate()
        row = rows.iloc[0]
        return Estimate(*(float(row[name]) for name in ("value", "low", "high", "support")))

    def value(metric: str, *, digits: int = 2, with_interval: bool = True) -> Cell:
        return value_cell(found(metric), digits=digits, with_interval=with_interval)

    needed = found("number_needed_to_evaluate")
    looked = Cell("∞", "Infinity", hint="no called image has the finding") if np.isinf(needed.value) else _wide(needed)
    return (
        text_cell(facts.name),
        group_cell(facts.tail_group),
        _percent(found("prevalence")),
        _percent(found("target_prevalence")),
        value("ppv", digits=3),
        looked,
        value("alarms_per_1000", digits=1, with_interval=False),
        value("missed_per_1000"),
        value("ap_at_prevalence"),
        value("recall", with_interval=False),
        value("specificity", digits=3, with_interval=False),
        value("npv", digits=4, with_interval=False),
    )


def _wide(found: Estimate) -> Cell:
    """Write a number needed whose upper end may be infinite."""
    if not found.is_defined:
        return value_cell(found)
    high = "∞" if np.isinf(found.high) else f"{found.high:.1f}"
    interval = f"[{found.low:.1f}–{high}]" if found.has_interval else ""
    return Cell(f"{found.value:.1f}", repr(found.value), interval=interval)


def _percent(found: Estimate) -> Cell:
    return Cell(f"{100 * found.value:.3g} %", repr(found.value)) if found.is_defined else Cell("–", "")
