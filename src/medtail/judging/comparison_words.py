"""A comparison in plain words: who is ahead of whom and by how much, and which places are within noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, final

import numpy as np
import pandas as pd

from medtail.errors import listing
from medtail.judging.comparison import Comparison
from medtail.judging.comparison_rows import covers_zero
from medtail.judging.questions import LOWER_IS_BETTER

METRIC_NAMES = {
    "ap": "AP", "auroc": "AUROC", "f1": "F1", "f1_at_half": "F1 at 0.5", "precision": "precision",
    "recall": "recall",
    "specificity": "specificity", "ece": "ECE", "brier": "Brier score", "micro_f1": "micro F1", "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy", "macro_f1": "macro F1",
    "level_kappa_quadratic": "kappa of the TI-RADS level",
}  # fmt: skip
OF_WHOLE_REPORTS = frozenset({"level_kappa_quadratic"})
"""Metrics that are no mean over classes."""
MOST_PAIRS = 10
"""Up to this many pairs each has its sentence; beyond, only neighbours in the ranking."""


@final
@dataclass(frozen=True)
class Statement:
    """One sentence.

    Attributes:
        text: It.
        kind: `ahead` (after correction), `maybe` (before it only), `tied`, `block` or `note`.
    """

    text: str
    kind: Literal["ahead", "maybe", "tied", "block", "note"]


def place_words(row: Any) -> str:
    """Name a question: `macro AP`, `AP of the tail classes`, `AP of Hernia`.

    Example:
        >>> place_words({"metric": "ap", "class": "", "tail_group": "tail"})
        'AP of the tail classes'
    """
    metric = METRIC_NAMES.get(row["metric"], row["metric"])
    if row["class"]:
        return f"{metric} of {row['class']}"
    if row["tail_group"]:
        return f"{metric} of the {row['tail_group']} classes"
    is_mean = not metric.startswith("micro") and row["metric"] not in OF_WHOLE_REPORTS
    return f"macro {metric}" if is_mean else metric


def p_text(p: float) -> str:
    """Write a p-value.

    Example:
        >>> p_text(0.01234), p_text(0.00001), p_text(1.0)
        ('p = 0.012', 'p < 0.0001', 'p = 1')
    """
    return "p < 0.0001" if p < 0.0001 else f"p = {p:.2g}"


def interval_text(value: float, low: float, high: float) -> str:
    """Write a value with its interval.

    Example:
        >>> interval_text(0.0214, 0.004, 0.038), interval_text(0.5, float("nan"), float("nan"))
        ('0.021 [0.004, 0.038]', '0.500')
    """
    if np.isnan(value):
        return "undefined"
    return f"{value:.3f}" if np.isnan(low) else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def main_place(comparison: Comparison) -> dict[str, str]:
    """Return the question the summary speaks of: the first one asked (macro before groups before classes)."""
    first = comparison.differences.iloc[0]
    return {column: str(first[column]) for column in ("metric", "class", "tail_group")}


def rows_at(table: pd.DataFrame, place: dict[str, str]) -> pd.DataFrame:
    """Return a table's rows of one question."""
    chosen = pd.Series(True, index=table.index)
    for column, wanted in place.items():
        chosen &= table[column] == wanted
    return table[chosen]


def statements(comparison: Comparison) -> list[Statement]:
    """Say what the comparison shows: the ranking's noise, then each pair, then the classes and margins.

    Args:
        comparison: From `compare` or `compare_folds`.

    Returns:
        Statements about the first question asked, then about the other metrics over all classes, then about classes.
    """
    main = main_place(comparison)
    found = _place_statements(comparison, main, with_pairs=True)
    few = len(comparison.names) <= 3
    for place in summary_places(comparison):
        if place != main:
            found += _place_statements(comparison, place, with_pairs=few)
    return found + _class_statements(comparison)


def _place_statements(comparison: Comparison, place: dict[str, str], *, with_pairs: bool) -> list[Statement]:
    ranked = rows_at(comparison.systems, place).sort_values("rank", kind="stable")
    pairs = rows_at(comparison.differences, place)
    # two systems that are tied get their sentence below
    found = block_statements(ranked, pairs) if len(ranked) > 2 else []
    if not with_pairs:
        return found
    neighbours = {frozenset(two) for two in pairwise(str(name) for name in ranked["system"])}
    shown = [
        row
        for _, row in pairs.iterrows()
        if len(pairs) <= MOST_PAIRS or frozenset((row["system_a"], row["system_b"])) in neighbours
    ]
    found += [pair_statement(row, comparison) for row in shown]
    return found + _margin_statements(shown, comparison)


def block_statements(ranked: pd.DataFrame, pairs: pd.DataFrame) -> list[Statement]:
    """Say which ranks are within noise: `Ranks 2-7 are within noise`.

    Args:
        ranked: The systems' rows of one question, best first.
        pairs: The differences of that question.
    """
    found = []
    place = place_words(ranked.iloc[0]) if len(ranked) else ""
    position = 0
    for _, block in ranked.groupby("tied_block", sort=False):
        first, last = position + 1, position + len(block)
        position = last
        if len(block) == 1:
            continue
        names = [str(name) for name in block["system"]]
        text = f"Ranks {first}-{last} in {place} are within noise: {listing([repr(n) for n in names], limit=12)}"
        text += (
            " cannot be told apart" if len(names) == 2 else " form one block in which no neighbours can be told apart"
        )
        apart = [
            f"{row['system_a']!r} and {row['system_b']!r}"
            for _, row in pairs.iterrows()
            if {row["system_a"], row["system_b"]} <= set(names) and not covers_zero(row)
        ]
        text += f"; not neighbours but apart: {listing(apart)}." if apart else "."
        found.append(Statement(text, "block"))
    return found


def pair_statement(row: Any, comparison: Comparison) -> Statement:
    """Say what is known of two systems in one question."""
    a, b, place = repr(row["system_a"]), repr(row["system_b"]), place_words(row)
    verdict = str(row["verdict"])
    if verdict in ("undefined", "too_few_patients"):
        why = "it is not defined on these rows" if verdict == "undefined" else "too few patients"
        return Statement(f"{a} and {b} were not tested in {place}: {why}.", "note")
    count = comparison.header["family"]["comparisons"]
    tested = p_text(row["p"])
    if count > 1:
        tested += f" ({p_text(row['p_holm']).removeprefix('p = ')} after Holm's correction for {count:,} comparisons)"
    if verdict == "tied":
        spread = interval_text(row["difference"], row["low"], row["high"])
        unseen = row["smallest_detectable"]
        seen = (
            ""
            if np.isnan(unseen)
            else f" A true difference of {unseen:.3f} would have been found with probability 0.8."
        )
        return Statement(f"{a} and {b} cannot be told apart in {place}: difference {spread}, {tested}.{seen}", "tied")
    low, high, difference = row["low"], row["high"], row["difference"]
    if verdict.startswith("b"):
        a, b = b, a
    if difference < 0:
        low, high, difference = -high, -low, -difference
    better = "is lower (better) than" if row["metric"] in LOWER_IS_BETTER else "is ahead of"
    said = f"{a} {better} {b} in {place} by {interval_text(difference, low, high)}, {tested}"
    if verdict.endswith("uncorrected"):
        return Statement(f"{said}: its own interval excludes 0, but not once all comparisons are counted.", "maybe")
    return Statement(f"{said}.", "ahead")


def _margin_statements(rows: Sequence[Any], comparison: Comparison) -> list[Statement]:
    found = []
    for row in rows:
        if not row["non_inferior"]:
            continue
        a, b, place = repr(row["system_a"]), repr(row["system_b"]), place_words(row)
        margin = f"{comparison.header['margins'][row['metric']]:g}"
        text = {
            "a": f"{a} is not inferior to {b} in {place} by more than {margin}.",
            "b": f"{b} is not inferior to {a} in {place} by more than {margin}.",
            "both": f"{a} and {b} are equivalent in {place} within {margin}.",
            "neither": f"Neither of {a} and {b} is shown to be within {margin} of the other in {place}.",
        }[row["non_inferior"]]
        found.append(Statement(text, "note"))
    return found


def _class_statements(comparison: Comparison) -> list[Statement]:
    """Count the classes in which somebody is ahead, for every pair, in the first metric."""
    metric = main_place(comparison)["metric"]
    table = comparison.differences
    classes = table[(table["metric"] == metric) & (table["class"] != "")]
    if classes["class"].nunique() < 2:
        return []
    found = []
    for (a, b), rows in classes.groupby(["system_a", "system_b"], sort=False):
        tested = rows[~rows["p"].isna()]
        parts = []
        for name, verdict in ((a, "a_ahead"), (b, "b_ahead")):
            ahead = [str(c) for c in tested.loc[tested["verdict"] == verdict, "class"]]
            parts.append(f"{name!r} is ahead in {len(ahead)}" + (f" ({listing(ahead)})" if ahead else ""))
        text = f"Class by class ({METRIC_NAMES[metric]}, after Holm), {parts[0]} and {parts[1]} of {len(tested)} tested"
        left = len(rows) - len(tested)
        found.append(Statement(text + (f"; {left} could not be tested." if left else "."), "note"))
    return found if len(found) <= MOST_PAIRS else []


def comparison_text(comparison: Comparison) -> str:
    """Write the comparison as plain text for a terminal: the ranking, what it means, the warnings.

    Args:
        comparison: From `compare` or `compare_folds`.

    Returns:
        Lines joined by line ends.
    """
    lines = []
    for place in summary_places(comparison):
        rows = rows_at(comparison.systems, place).sort_values("rank", kind="stable")
        table = [["rank", "system", place_words(place), "mean rank", "first", "block"]]
        for _, row in rows.iterrows():
            value = interval_text(row["value"], row["low"], row["high"])
            if row["replicates"] > 1 and not np.isnan(row["replicate_sd"]):
                value += f" (sd {row['replicate_sd']:.3f} over {row['replicates']})"
            table.append(
                [_short(row["rank"]), str(row["system"]), value, _short(row["mean_rank"]), _share(row["share_first"]),
                 str(row["tied_block"])]
            )  # fmt: skip
        lines += [*_aligned(table), ""]
    lines += [statement.text for statement in statements(comparison)]
    header = comparison.header
    unit = "images, patients unknown" if header.get("bootstrap", {}).get("unit") == "image" else "images"
    lines += ["", f"{header['num_rows']:,} {unit} of {header['num_patients']:,} patients; {header['method']}"]
    if unit != "images":
        lines[-1] = f"{header['num_rows']:,} {unit}; {header['method']}"
    if "bootstrap" in header:
        lines[-1] += f", {header['bootstrap']['resamples']:,} resamples"
    lines[-1] += f"; {header['family']['comparisons']:,} comparisons in Holm's family"
    return "\n".join([*lines, *(f"! {warning}" for warning in header["warnings"])])


def summary_places(comparison: Comparison) -> list[dict[str, str]]:
    """Return the questions over all classes, one a metric; the first question asked where there are none."""
    table = comparison.systems
    whole = table[
        (table["tail_group"] == "") & ((table["class"] == "") | ~table["class"].isin(_class_names(comparison)))
    ]
    places = whole[["metric", "class", "tail_group"]].drop_duplicates().to_dict("records")
    return [{str(k): str(v) for k, v in place.items()} for place in places] or [main_place(comparison)]


def _class_names(comparison: Comparison) -> Sequence[str]:
    return list(comparison.header["labels"]["class_names"])


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]


def _short(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.2f}".rstrip("0").rstrip(".")


def _share(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.0%}"
