"""Subgroups on the page: who is served worse, how sure that is, and of whom nothing is known.

Reads the rows `fairness.subgroup_rows` put into Results. The gap to the rest is what the picture shows; the table
keeps every subgroup, the too small ones flagged; what a reader could misread stands in sentences beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import pandas as pd
from markupsafe import Markup

from medtail.judging.fairness import LOWER_IS_BETTER
from medtail.judging.fairness_words import fairness_cautions, surviving_gaps
from medtail.judging.subgroup_study import FEWEST_PATIENTS
from medtail.judging.subgroups import UNKNOWN
from medtail.reporting.facts import ClassFacts, Estimate, number
from medtail.reporting.forests import ForestRow, forest
from medtail.reporting.summary import count
from medtail.reporting.tables import (
    Cell,
    Column,
    Table,
    amount_cell,
    gap_cell,
    group_cell,
    signed,
    text_cell,
    value_cell,
)
from medtail.tables.results import Results

METRICS = {
    "auroc": "AUROC",
    "recall": "recall",
    "fpr": "false positive rate",
    "ap_at_prevalence": "AP",
    "precision_at_prevalence": "precision",
    "observed_to_expected": "observed / expected",
    "ece_debiased": "calibration error",
}
MOST_CLASSES = 6
MOST_SURVIVORS = 6
GROUP_COLUMNS = (
    Column("subgroup", "Column and value of the manifest", True),
    Column("images", "Judged images of it"),
    Column("patients", "Their patients"),
    Column(
        "classes shown", "Classes with at least 10 positive and 10 negative patients in it; the others show no value"
    ),
    Column("AUROC", "Mean over the classes shown"),
    Column("AUROC gap", "Less the AUROC of all others whose value is known; mean over classes shown on both sides"),
    Column("AUROC gap, tail", "The same over tail classes"),
    Column("recall gap", "Recall less that of all others"),
    Column("false positive gap", "False positive rate less that of all others; below 0 is better"),
)
TAIL_GAP = [column.name for column in GROUP_COLUMNS].index("AUROC gap, tail")
CLASS_COLUMNS = (
    Column("subgroup", "Column and value of the manifest", True),
    Column("class", "Name of the class", True),
    Column("group", "Head, medium or tail", True),
    Column("positive patients", "Patients of the subgroup with the finding"),
    Column("AUROC", "In the subgroup, with its interval"),
    Column("AUROC gap", "Less that of all others, interval from the same resamples"),
    Column("p, corrected", "Of the gap, Holm over all subgroups and classes of the metric"),
    Column("recall gap", "Recall less that of all others"),
    Column("false positive gap", "False positive rate less that of all others"),
)


@final
@dataclass(frozen=True)
class SubgroupSection:
    """All about subgroups.

    Attributes:
        survivors: Sentences on the gaps that survive correction, or that none does.
        spreads: A sentence a column on its widest difference and what chance alone would make it.
        plot: Forest of AUROC gaps; None where no gap could be measured.
        plot_note: What the forest leaves out; "" for nothing.
        groups: Table of subgroups, crossings left out.
        crossings: Table of the crossings; None without.
        classes: Table of every subgroup and class.
        cautions: What a reader could misread.
    """

    survivors: tuple[str, ...]
    spreads: tuple[str, ...]
    plot: Markup | None
    plot_note: str
    groups: Table
    crossings: Table | None
    classes: Table
    cautions: tuple[str, ...]


def subgroup_section(results: Results, *, close: Sequence[ClassFacts]) -> SubgroupSection | None:
    """Gather the section; None where Results has no subgroups.

    Args:
        results: The evaluation.
        close: Classes looked at closely; the first few have rows of their own in the forest.
    """
    look = _Look(results)
    if not look.names:
        return None
    single = [name for name in look.names if not is_crossing(name)]
    crossed = [name for name in look.names if is_crossing(name)]
    rows, note = _forest_rows(look, single, close)
    said = results.header.get("subgroups")
    cautions = said.get("warnings") if isinstance(said, dict) else None
    return SubgroupSection(
        survivors=tuple(_survivor_words(results)),
        spreads=tuple(_spread_words(look)),
        plot=_draw(rows) if any(row.found.is_defined for row in rows) else None,
        plot_note=note,
        groups=_group_table("Table of subgroups", look, single),
        crossings=_group_table("Table of crossed subgroups", look, crossed) if crossed else None,
        classes=Table("Table of subgroups and classes", CLASS_COLUMNS, tuple(_class_rows(look, single))),
        cautions=tuple(str(line) for line in (cautions if cautions is not None else fairness_cautions(results))),
    )


@final
class _Look:
    """Looks rows up by metric, subgroup and class, in a table made once."""

    def __init__(self, results: Results) -> None:
        frame = results.frame[results.frame["subgroup"] != ""]
        keys = zip(frame["metric"], frame["subgroup"], frame["class"], frame["tail_group"], strict=True)
        values = frame[["value", "low", "high", "support"]].to_numpy()
        self._rows: dict[tuple[str, str, str], Estimate] = {}
        self.tail_of: dict[str, str] = {}
        self.classes: list[str] = []
        for (metric, subgroup, class_name, tail), row in zip(keys, values, strict=True):
            if class_name:
                self.tail_of[class_name] = tail
                where = (metric, subgroup, class_name)
            else:
                where = (metric, subgroup, f"\0{tail}")
            self._rows[where] = Estimate(*(float(value) for value in row))
        self.names = list(frame.loc[(frame["metric"] == "n_rows") & (frame["class"] == ""), "subgroup"])
        self.classes = list(dict.fromkeys(frame.loc[frame["class"] != "", "class"]))
        # a gap of most metrics is of so many classes; a spread is filed under its column's name
        self.columns = list(dict.fromkeys(frame.loc[frame["metric"].str.startswith("max_gap:"), "subgroup"]))

    def of_class(self, metric: str, subgroup: str, class_name: str) -> Estimate:
        return self._rows.get((metric, subgroup, class_name), Estimate())

    def mean(self, metric: str, subgroup: str, *, tail: str = "") -> Estimate:
        return self._rows.get((metric, subgroup, f"\0{tail}"), Estimate())


def _draw(rows: Sequence[ForestRow]) -> Markup:
    ends = [v for row in rows for v in (row.found.value, row.found.low, row.found.high) if not np.isnan(v)]
    reach = next(step for step in (0.05, 0.1, 0.2, 0.3, 0.5, 1.0) if step >= min(max(map(abs, ends)), 1.0))
    label = (
        f"AUROC of subgroups less that of all other images, with 95 % intervals, from {-reach:g} to {reach:g}. The "
        "numbers are in the tables of subgroups."
    ).replace("-", "−")
    return forest(rows, axis=(-reach, reach), reference=0.0, x_name="AUROC less that of the rest", label=label)


def _forest_rows(look: _Look, single: Sequence[str], close: Sequence[ClassFacts]) -> tuple[list[ForestRow], str]:
    """Draw each subgroup's mean gap and those of the classes looked at closely; of two mirrored groups one."""
    rows: list[ForestRow] = []
    drawn, mirrored = list(close)[:MOST_CLASSES], []
    by_column: dict[str, list[str]] = {}
    for name in single:
        by_column.setdefault(name.split("=", 1)[0], []).append(name)
    for column, names in by_column.items():
        named = [name for name in names if name != f"{column}={UNKNOWN}"]
        if len(named) == 2:
            # the second's gap is the first's with the other sign
            mirrored.append(f"{named[1]} is left out: it mirrors {named[0]}.")
            names = [name for name in names if name != named[1]]
        for name in names:
            images, patients = look.mean("n_rows", name).value, look.mean("n_patients", name).value
            head = f"{name}: {count(int(images), 'image')}" + (
                "" if np.isnan(patients) else f" of {count(int(patients), 'patient')}"
            )
            rows.append(ForestRow(head, is_heading=True))
            mean = look.mean("gap:auroc", name)
            if mean.is_defined:
                rows.append(ForestRow(f"mean of {count(int(mean.support), 'class', 'classes')}", mean, signed(mean)))
            else:
                rows.append(ForestRow("mean", note="no class has enough patients on both sides"))
            for facts in drawn:
                gap = look.of_class("gap:auroc", name, facts.name)
                rows.append(
                    ForestRow(facts.name, gap, signed(gap), facts.tail_group, note=_few(look, name, facts.name))
                )
    said = []
    if len(close) > len(drawn):
        said.append(f"Only the first {len(drawn)} of {count(len(close), 'class', 'classes')} looked at have a row.")
    return rows, " ".join([*said, *mirrored])


def _few(look: _Look, subgroup: str, class_name: str) -> str:
    """Say why a class has no value in a subgroup."""
    positive, negative = (look.of_class(f"n_{side}_patients", subgroup, class_name).value for side in ("pos", "neg"))
    if np.isnan(positive) or np.isnan(negative):
        return "not measured"
    if min(positive, negative) < FEWEST_PATIENTS:
        side = ("positive", positive) if positive < FEWEST_PATIENTS else ("negative", negative)
        return f"too few: {count(int(side[1]), f'{side[0]} patient')}"
    return "too few patients in the rest"


def _group_table(label: str, look: _Look, names: Sequence[str]) -> Table:
    """Make the table of subgroups; a column about the tail that would be empty is left out."""
    rows = [_group_row(look, name) for name in names]
    kept = list(range(len(GROUP_COLUMNS)))
    if not any(row[TAIL_GAP].key for row in rows):
        kept.remove(TAIL_GAP)
    return Table(label, tuple(GROUP_COLUMNS[i] for i in kept), tuple(tuple(row[i] for i in kept) for row in rows))


def _group_row(look: _Look, name: str) -> tuple[Cell, ...]:
    auroc, few = look.mean("auroc", name), "too few patients in every class"
    shown = 0 if np.isnan(auroc.support) else int(auroc.support)
    total = len(look.classes)
    style = "few" if shown < total else ""
    return (
        text_cell(name),
        amount_cell(look.mean("n_rows", name).value),
        amount_cell(look.mean("n_patients", name).value),
        Cell(f"{shown} of {total}", str(shown), style=style, hint=f"{total - shown} with too few patients"),
        value_cell(auroc, with_interval=True, why=few),
        gap_cell(look.mean("gap:auroc", name), why=few),
        gap_cell(look.mean("gap:auroc", name, tail="tail"), why="no tail class with enough patients on both sides"),
        gap_cell(look.mean("gap:recall", name), why=few),
        gap_cell(look.mean("gap:fpr", name), why=few),
    )


def _class_rows(look: _Look, names: Sequence[str]) -> list[tuple[Cell, ...]]:
    rows: list[tuple[Cell, ...]] = []
    for name in names:
        for class_name in look.classes:
            positive = look.of_class("n_pos_patients", name, class_name).value
            flagged = look.of_class("too_few_patients", name, class_name).value == 1
            auroc, why = look.of_class("auroc", name, class_name), _few(look, name, class_name)
            patients = amount_cell(positive)
            if flagged:
                patients = Cell(f"{patients.text} (too few)", patients.key, hint=why, style="few")
            rows.append(
                (
                    text_cell(name),
                    text_cell(class_name, style="wrap"),
                    group_cell(look.tail_of.get(class_name, "")),
                    patients,
                    value_cell(auroc, with_interval=True, why=why),
                    gap_cell(look.of_class("gap:auroc", name, class_name), why=why),
                    value_cell(look.of_class("p_holm:gap:auroc", name, class_name), digits=3, why=why),
                    gap_cell(look.of_class("gap:recall", name, class_name), why=why),
                    gap_cell(look.of_class("gap:fpr", name, class_name), why=why),
                )
            )
    return rows


def _survivor_words(results: Results) -> list[str]:
    asked = results.frame[results.frame["metric"].str.startswith("n_comparisons:gap:")]["value"]
    most = int(asked.max()) if len(asked) else 0
    if not most:
        return ["No gap could be tested: too few patients in the subgroups, or no resamples."]
    kept = sorted(surviving_gaps(results), key=_least_news)
    corrected = f"corrected for up to {count(most, 'comparison')} a metric (Holm)"
    if not kept:
        return [f"No gap of a class stays significant once {corrected}. That is no proof that there is none."]
    lines = [f"Gaps of a class that stay significant, {corrected}:"]
    for metric, gap, p in kept[:MOST_SURVIVORS]:
        lines.append(f"{_place(gap)}: {METRICS.get(metric, metric)} {signed(_row(gap))} against the rest, {_p(p)}")
    if len(kept) > MOST_SURVIVORS:
        lines.append(f"and {len(kept) - MOST_SURVIVORS} more, in the results under p_holm:gap")
    return lines


def _least_news(found: tuple[str, pd.Series, float]) -> tuple[bool, bool]:
    """Order what is served worse first, and whole columns before crossings."""
    metric, gap, _ = found
    is_worse = (float(gap["value"]) > 0) == (metric in LOWER_IS_BETTER)
    return not is_worse, is_crossing(str(gap["subgroup"]))


def is_crossing(subgroup: str) -> bool:
    """Say whether a subgroup is of two columns; a value may hold an ampersand itself.

    Example:
        >>> is_crossing("sex=F & site=a"), is_crossing("site=A & B")
        (True, False)
    """
    parts = subgroup.split(" & ")
    return len(parts) > 1 and all("=" in part for part in parts)


def _place(gap: pd.Series) -> str:
    return f"{gap['class']} in {gap['subgroup']}"


def _row(gap: pd.Series) -> Estimate:
    return Estimate(*(float(gap[name]) for name in ("value", "low", "high", "support")))


def _p(value: float) -> str:
    return f"p = {value:.3f}" if value >= 0.001 else "p < 0.001"


def _spread_words(look: _Look) -> list[str]:
    said = []
    for column in look.columns:
        widest, chance = (look.mean(f"max_gap{kind}:auroc", column) for kind in ("", "_by_chance"))
        if widest.is_defined and " & " not in column:
            line = f"Widest difference of the mean AUROC by {column}: {number(widest.value)}"
            if chance.is_defined:
                line += f"; were all alike, chance alone would make it {chance.text()}"
            said.append(line + ".")
    return said
