"""The tables a person reads, as words: the same ones in the terminal, in `study.md` and on the page.

A table a class with the arms as rows (AUC, accuracy, precision, F1, recall, each with its interval, and its mean and
spread over the single models), then the means over classes and tail groups, the differences, and what it all cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import pandas as pd

from medtail.judging.comparison_words import interval_text, p_text, place_words
from medtail.reporting.section_page import PageTable
from medtail.reporting.summary import count
from medtail.studies.judged import Judged
from medtail.studies.protocol import Study
from medtail.studies.words import Verdict, change_words, lead_words, number_text, set_words, undefined_reason

COLUMNS = (
    ("auroc", "AUC"), ("ap", "AP"), ("accuracy", "Acc"), ("precision", "Precision"), ("f1", "F1"),
    ("recall", "Recall"), ("specificity", "Specificity"),
)  # fmt: skip
AT_HALF = tuple((f"{metric}_at_half", name) for metric, name in COLUMNS if metric not in ("auroc", "ap"))
VERDICT_WORDS = {
    "a_ahead": "better", "b_ahead": "worse", "a_ahead_uncorrected": "better, uncorrected",
    "b_ahead_uncorrected": "worse, uncorrected", "tied": "no difference shown",
    "too_few_patients": "too few positives", "undefined": "undefined",
}  # fmt: skip


@final
@dataclass(frozen=True)
class Grid:
    """A table of words; the first column names the rows.

    Attributes:
        title: Above it.
        note: Below it, "" for none.
        columns: Headings.
        rows: Cells; the lines of a cell stand below one another on the page.
        is_folded: Whether the page shows it only when asked.
    """

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    is_folded: bool = False

    def markdown(self) -> str:
        """Return it as Markdown."""
        lines = [f"### {self.title}", "", _line(self.columns), _line(["---"] * len(self.columns))]
        lines += [_line(row) for row in self.rows]
        return "\n".join([*lines, "", *([self.note, ""] if self.note else [])])

    def text(self) -> str:
        """Return it in aligned columns."""
        # value and interval; what stands further down is for the page
        columns = [name.replace("\n", " ") for name in self.columns]
        table = [columns, *([" ".join(cell.split("\n")[:2]) for cell in row] for row in self.rows)]
        widths = [max(len(row[c]) for row in table) for c in range(len(self.columns))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in table]
        return "\n".join([self.title, *lines])

    def on_page(self, texts: tuple[int, ...] = ()) -> PageTable:
        """Return it for a page of sections; `texts` are the columns that are sentences."""
        return PageTable(self.title, self.columns, self.rows, texts, self.note)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", "<br>") for cell in cells) + " |"


def class_grids(study: Study, judged: Judged) -> list[Grid]:
    """Return a table a class, rows the arms: the layout of the field's papers.

    Args:
        study: The study.
        judged: The numbers of a set of images.
    """
    values = judged.values
    names = [name for name in dict.fromkeys(values.loc[values["metric"] == "auroc", "class"]) if name]
    return [grid for name in names for grid in _place_grids(study, judged, {"class": name}, name)]


def mean_grids(study: Study, judged: Judged) -> list[Grid]:
    """Return the means over all classes and over each tail group."""
    values = judged.values
    groups = list(dict.fromkeys(values.loc[(values["class"] == "") & (values["metric"] == "auroc"), "tail_group"]))
    return [
        grid
        for group in groups
        for grid in _place_grids(
            study, judged, {"class": "", "tail_group": group}, f"{group} classes" if group else "all classes"
        )
    ]


def _place_grids(study: Study, judged: Judged, place: Mapping[str, str], title: str) -> list[Grid]:
    """Return the table of a place, and a second one of what is decided at 0.5: together they are too wide to read."""
    first = _value_grid(study, judged, place, title)
    half = _value_grid(study, judged, place, f"{title}, decided at 0.5", columns=AT_HALF)
    return [first, replace(half, is_folded=True)]


def group_grids(study: Study, judged: Judged) -> list[Grid]:
    """Return a table an exclusive group: accuracy, balanced accuracy and macro F1 of the highest score."""
    values = judged.values
    names = list(dict.fromkeys(values.loc[values["metric"] == "macro_f1", "class"]))
    columns = (("accuracy", "Acc"), ("balanced_accuracy", "Balanced acc"), ("macro_f1", "Macro F1"))
    return [_value_grid(study, judged, {"class": name}, f"group {name}", columns=columns) for name in names]


def _value_grid(
    study: Study,
    judged: Judged,
    place: Mapping[str, str],
    title: str,
    *,
    columns: Sequence[tuple[str, str]] = COLUMNS,
) -> Grid:
    table = judged.values
    for column, wanted in place.items():
        table = table[table[column] == wanted]
    found = {(row["arm"], row["metric"]): row for row in table.to_dict("records")}
    arms = [arm for arm in study.arms if any(key[0] == arm for key in found)]
    any_row = found[arms[0], columns[0][0]]
    support = any_row["support"]
    rows = [(arm, *(value_cell(found.get((arm, metric)), support=support) for metric, _ in columns)) for arm in arms]
    note = (
        f"{count(any_row['images'], 'image')} of {count(any_row['patients'], 'patient')};"
        f" {count(any_row['positives'], 'positive image')} of {count(any_row['positive_patients'], 'patient')}."
        f" Value, {study.judge.interval:.0%} interval of resampled patients"
        " and seeds, mean ± sd of the single models."
    )
    if not place["class"]:
        note += f" Mean over {support} classes, fewer where a cell says so."
    headings = ("arm", *(name for _, name in columns))
    return Grid(f"{title}: {set_words(study, judged.name)}", note, headings, tuple(rows))


def value_cell(row: Mapping[Any, Any] | None, *, support: float, short: bool = False) -> str:
    """Write a value with its interval and the spread of the single models, below one another.

    Args:
        row: Of `tables.csv`; None gives a dash.
        support: Classes its neighbours are means over.
        short: The value alone.
    """
    if row is None:
        return "–"
    if np.isnan(row["value"]):
        return undefined_reason(row)
    # a mean over fewer classes than its neighbours' says so
    over = f" of {row['support']}" if not row["class"] and row["support"] != support else ""
    lines = [number_text(row["value"]) + over]
    if not short and not np.isnan(row["low"]):
        lines.append(f"[{number_text(row['low'])}, {number_text(row['high'])}]")
    if not short and row["cells"] > 1:
        lines.append(f"{number_text(row['cell_mean'])} ± {number_text(row['cell_sd'])}")
    return "\n".join(lines)


def difference_grid(study: Study, judged: Judged, *, only_means: bool = False) -> Grid | None:
    """Return every arm's differences to the reference, or None where there is nothing to compare.

    Args:
        study: The study.
        judged: The numbers of a set of images.
        only_means: Leave the single classes out.
    """
    if judged.comparison is None:
        return None
    table = judged.differences
    if only_means and ((table["class"] == "") | (table["tail_group"] != "")).any():
        table = table[table["class"] == ""] if (table["class"] == "").any() else table
    with_folds = bool(table["p_folds"].notna().any())
    rows = []
    for row in table.to_dict("records"):
        cells = [
            str(row["system_a"]), place_words(row), interval_text(row["difference"], row["low"], row["high"]),
            _p(row["p"]), _p(row["p_holm"]), *([_p(row["p_folds"])] if with_folds else []),
            VERDICT_WORDS[row["verdict"]], number_text(row["smallest_detectable"]),
        ]  # fmt: skip
        rows.append(tuple(cells))
    family = judged.header["family"]
    together = "all of the study" if family["together"] == "study" else "those of one arm and metric at one level"
    note = (
        f"Arm minus {study.reference}. p from resampled patients, corrected after Holm for {together}"
        f" ({family['largest']} comparisons at most). `would be seen` is the difference these data would have shown"
        " with probability 0.8."
    )
    headings = ("arm", "what", "difference", "p", "p, Holm", *(["p over folds"] if with_folds else []),
                "verdict", "would be seen")  # fmt: skip
    return Grid(f"Differences to {study.reference}: {set_words(study, judged.name)}", note, headings, tuple(rows))


def _p(value: float) -> str:
    return "–" if np.isnan(value) else p_text(value).removeprefix("p ").removeprefix("= ")


def verdict_grid(study: Study, judged: Judged, found: Sequence[Verdict]) -> Grid:
    """Return what is known of each arm, in words."""
    rows = []
    for verdict in found:
        changes = "; ".join(change_words(study.arms[verdict.arm].changes))
        more = f" Elsewhere {verdict.classes}." if verdict.classes else ""
        rows.append((verdict.arm, changes or "nothing", verdict.word, verdict.sentence + more))
    title = f"Verdicts by {lead_words(study, judged)}: {set_words(study, judged.name)}"
    return Grid(title, "", ("arm", "changes", "verdict", "what is known"), tuple(rows))


def cost_table(facts: Sequence[Mapping[str, Any]], arms: Sequence[str]) -> pd.DataFrame:
    """Return what each arm cost: parameters, epochs, seconds an epoch (median of its cells), minutes in all.

    Args:
        facts: Records of finished cells.
        arms: In the order of the rows.
    """
    rows = []
    for arm in arms:
        own = [fact for fact in facts if fact["arm"] == arm]
        if not own:
            continue
        rows.append(
            {
                "arm": arm,
                "cells": len(own),
                "parameters": max(int(fact["parameters"]) for fact in own),
                "epochs": float(np.mean([fact["epochs_run"] for fact in own])),
                "seconds_an_epoch": float(np.median([fact["seconds"] / fact["epochs_run"] for fact in own])),
                "minutes": sum(float(fact["seconds"]) for fact in own) / 60,
            }
        )
    columns = ["arm", "cells", "parameters", "epochs", "seconds_an_epoch", "minutes"]
    return pd.DataFrame(rows, columns=columns)


def cost_grid(costs: pd.DataFrame) -> Grid:
    """Return the costs as words."""
    rows = tuple(
        (
            str(row["arm"]), str(row["cells"]), f"{row['parameters']:,}", f"{row['epochs']:.1f}",
            f"{row['seconds_an_epoch']:.2f}", f"{row['minutes']:.1f}",
        )
        for row in costs.to_dict("records")
    )  # fmt: skip
    note = "Wall-clock times, as they were: cells that ran side by side slowed each other."
    return Grid("Cost", note, ("arm", "cells", "parameters", "epochs", "seconds an epoch", "minutes in all"), rows)
