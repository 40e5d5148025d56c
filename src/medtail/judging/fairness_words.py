"""Subgroup results in plain text: a table a column, the gaps that survive correction, and what they do not show."""

from __future__ import annotations

import numpy as np
import pandas as pd

from medtail.errors import listing
from medtail.judging.cautions import FEWEST_POSITIVE_PATIENTS
from medtail.judging.fairness import LOWER_IS_BETTER, MODEL_METRICS
from medtail.judging.pvalues import resamples_needed
from medtail.judging.subgroup_study import FEWEST_PATIENTS
from medtail.judging.subgroups import UNKNOWN
from medtail.tables.results import Results

ALPHA = 0.05
TOLD = tuple(metric for metric in MODEL_METRICS if metric not in ("fnr", "specificity"))
"""What sentences are made of: recall and false positive rate say the rest."""
MOST_GAPS = 12
MUCH_UNKNOWN = 0.1


def fairness_summary(results: Results) -> str:
    """Write what the subgroup rows say as plain text for a terminal.

    Args:
        results: Holding rows from `subgroup_rows`.

    Returns:
        Lines joined by line ends; empty without subgroup rows.

    Example:
        >>> from medtail.tables.results import results_from_rows
        >>> print(fairness_summary(results_from_rows([
        ...     {"metric": "n_rows", "subgroup": "sex=F", "value": 40},
        ...     {"metric": "n_patients", "subgroup": "sex=F", "value": 5}])))
        sex
          subgroup  images  patients  classes  AUROC    gap to the rest
          sex=F     40      5         0        too few  -
        <BLANKLINE>
        No gap could be tested.
    """
    frame = _of_subgroups(results)
    if not len(frame):
        return ""
    lines: list[str] = []
    for column, names in _columns(frame).items():
        lines += [column, *(f"  {line}" for line in _table(frame, names)), *_widest(frame, column), ""]
    lines += _survivors(results, frame)
    return "\n".join([*lines, *(f"! {caution}" for caution in fairness_cautions(results))])


def fairness_cautions(results: Results) -> list[str]:
    """Say what a reader of the subgroup rows could misread, a sentence or two each.

    Args:
        results: Holding rows from `subgroup_rows`.

    Returns:
        Warnings in the order a reader should meet them; empty without subgroup rows.
    """
    frame = _of_subgroups(results)
    if not len(frame):
        return []
    return [
        *_about_size(frame),
        *_about_unknown(frame),
        *_about_number(results, frame),
        *_about_prevalence(frame),
        *_about_calibration(frame),
        *_about_means(frame),
    ]


def _of_subgroups(results: Results) -> pd.DataFrame:
    return results.frame[results.frame["subgroup"] != ""]


def _columns(frame: pd.DataFrame) -> dict[str, list[str]]:
    """Return each column or crossing and its subgroups, in the order of the table."""
    found: dict[str, list[str]] = {}
    counted = frame[(frame["metric"] == "n_rows") & (frame["class"] == "")]
    for name in counted["subgroup"]:
        found.setdefault(_column(name), []).append(name)
    return found


def _column(subgroup: str) -> str:
    parts = subgroup.split(" & ")
    if not all("=" in part for part in parts):  # a value that holds an ampersand itself
        parts = [subgroup]
    return " & ".join(part.split("=", 1)[0] for part in parts)


def _at(frame: pd.DataFrame, metric: str, subgroup: str, *, class_name: str = "") -> pd.Series | None:
    rows = frame[
        (frame["metric"] == metric)
        & (frame["subgroup"] == subgroup)
        & (frame["class"] == class_name)
        & ((frame["tail_group"] == "") | (class_name != ""))
    ]
    return rows.iloc[0] if len(rows) else None


def _table(frame: pd.DataFrame, names: list[str]) -> list[str]:
    table = [["subgroup", "images", "patients", "classes", "AUROC", "gap to the rest"]]
    for name in names:
        counts = [_at(frame, metric, name) for metric in ("n_rows", "n_patients")]
        value, gap = _at(frame, "auroc", name), _at(frame, "gap:auroc", name)
        table.append(
            [
                name,
                *(f"{row['value']:,.0f}" if row is not None else "" for row in counts),
                f"{value['support']:.0f}" if value is not None else "0",
                _cell(value) or "too few",
                _cell(gap, signed=True) or "-",
            ]
        )
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]


def _cell(row: pd.Series | None, *, signed: bool = False) -> str:
    if row is None or np.isnan(row["value"]):
        return ""
    sign = "+" if signed else ""
    text = f"{row['value']:{sign}.3f}"
    return text if np.isnan(row["low"]) else f"{text} [{row['low']:{sign}.3f}, {row['high']:{sign}.3f}]"


def _widest(frame: pd.DataFrame, column: str) -> list[str]:
    found, chance = (_at(frame, f"max_gap{kind}:auroc", column) for kind in ("", "_by_chance"))
    if found is None:
        return []
    line = f"  widest AUROC difference {found['value']:.3f}"
    if chance is not None:
        line += f"; chance alone would make it {_cell(chance)} were all alike"
    return [line]


def _survivors(results: Results, frame: pd.DataFrame) -> list[str]:
    """List the gaps of a class that remain after Holm's correction."""
    if not frame.loc[frame["metric"].str.startswith("p_holm:gap:") & (frame["class"] != ""), "value"].notna().any():
        return ["No gap could be tested."]
    comparisons = _comparisons(results)
    kept = surviving_gaps(results)
    if not kept:
        return [f"No gap of a class survives the correction for up to {comparisons} comparisons a metric."]
    lines = [f"Gaps that survive the correction for up to {comparisons} comparisons a metric:"]
    for metric, gap, p in kept[:MOST_GAPS]:
        lines.append(f"  {gap['class']}, {gap['subgroup']}: {metric} {_cell(gap, signed=True)}, {_p(p)}")
    if len(kept) > MOST_GAPS:
        lines.append(f"  and {len(kept) - MOST_GAPS} more: rows p_holm:gap:… of the results")
    return lines


def surviving_gaps(results: Results) -> list[tuple[str, pd.Series, float]]:
    """Return the gaps of a class whose p-value stays below .05 after Holm's correction.

    Args:
        results: Holding rows from `subgroup_rows`.

    Returns:
        Metric, row of the gap and corrected p-value, by metric and then the widest gap first. Where F against M is M
        against F, the side served worse stands for both.

    Example:
        >>> from medtail.tables.results import results_from_rows
        >>> place = {"class": "Hernia", "subgroup": "sex=F"}
        >>> found = surviving_gaps(results_from_rows([
        ...     {"metric": "gap:auroc", **place, "value": -0.2},
        ...     {"metric": "p_holm:gap:auroc", **place, "value": 0.01}]))
        >>> [(metric, gap["subgroup"], p) for metric, gap, p in found]
        [('auroc', 'sex=F', 0.01)]

    References:
        holm1979.
    """
    frame = _of_subgroups(results)
    corrected = frame[frame["metric"].str.startswith("p_holm:gap:") & (frame["class"] != "")]
    return _told_once(frame, corrected[corrected["value"] < ALPHA])


def _told_once(frame: pd.DataFrame, corrected: pd.DataFrame) -> list[tuple[str, pd.Series, float]]:
    """Return metric, gap and p-value, by metric and then the widest gap first.

    Where F against M is M against F, the side served worse stands for both.
    """
    found: dict[tuple[str, str, float], tuple[str, pd.Series, float]] = {}
    for _, row in corrected.iterrows():
        metric = row["metric"].removeprefix("p_holm:gap:")
        if metric not in TOLD:
            continue
        gap = _at(frame, f"gap:{metric}", row["subgroup"], class_name=row["class"])
        assert gap is not None, "a p-value is of a gap"
        key = (metric, row["class"], round(abs(gap["value"]), 12))
        is_worse = (gap["value"] > 0) == (metric in LOWER_IS_BETTER)
        if key not in found or is_worse:
            found[key] = (metric, gap, float(row["value"]))
    return sorted(found.values(), key=lambda item: (TOLD.index(item[0]), -abs(item[1]["value"])))


def _p(value: float) -> str:
    return f"p {value:.3f}" if value >= 0.001 else "p < 0.001"


def _comparisons(results: Results) -> int:
    sizes = results.frame.loc[results.frame["metric"].str.startswith("n_comparisons:gap:"), "value"]
    return int(sizes.max()) if len(sizes) else 0


def _about_size(frame: pd.DataFrame) -> list[str]:
    flags = frame[frame["metric"] == "too_few_patients"]
    small = flags[flags["value"] == 1]
    found: list[str] = []
    if len(small):
        often = small["subgroup"].value_counts(sort=True)
        named = [f"{name} ({count})" for name, count in often.items()]
        found.append(
            f"{len(small)} of {len(flags)} pairs of subgroup and class have fewer than {FEWEST_PATIENTS} positive or"
            f" {FEWEST_PATIENTS} negative patients and show no value, only counts: {listing(named)}. Nothing is known"
            " of them; that is no sign that all is well."
        )
    counts = frame[(frame["metric"] == "n_pos_patients") & (frame["value"] >= FEWEST_PATIENTS)]
    few = counts[counts["value"] < FEWEST_POSITIVE_PATIENTS]
    if len(few):
        found.append(
            f"{len(few)} pairs have {FEWEST_PATIENTS} to {FEWEST_POSITIVE_PATIENTS - 1} positive patients: their"
            " intervals are too short even so."
        )
    return found


def _about_unknown(frame: pd.DataFrame) -> list[str]:
    found = []
    for column, names in _columns(frame).items():
        if " & " in column:
            continue
        rows = {name: float(row["value"]) for name in names if (row := _at(frame, "n_rows", name)) is not None}
        share = rows.get(f"{column}={UNKNOWN}", 0.0) / max(sum(rows.values()), 1.0)
        if share > MUCH_UNKNOWN:
            found.append(f"{column} is unknown for {share:.0%} of the images: no gap of the others counts them.")
    return found


def _about_number(results: Results, frame: pd.DataFrame) -> list[str]:
    comparisons = _comparisons(results)
    if comparisons < 2:
        return []
    gaps = frame[frame["metric"].isin([f"gap:{metric}" for metric in TOLD]) & (frame["class"] != "")]
    apart = gaps[(gaps["low"] > 0) | (gaps["high"] < 0)]
    found = [
        f"{len(apart)} of {int(gaps['low'].notna().sum())} gaps of a class have an interval without 0; about"
        f" {ALPHA:.0%} would if there were no gap at all. An interval answers one question; for many at once believe"
        " the p_holm rows."
    ]
    resamples = int(results.header.get("bootstrap", {}).get("resamples", 0))
    needed = resamples_needed(comparisons, alpha=ALPHA)
    if 0 < resamples < needed:
        found.append(
            f"With {resamples:,} resamples, p-values below {2 / (resamples + 1):.2g} are read off a normal curve, not"
            f" counted; for {comparisons} comparisons counting takes {needed:,} resamples."
        )
    return found


def _apart(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    gaps = frame[(frame["metric"] == f"gap:{metric}") & (frame["class"] != "")]
    return gaps[(gaps["low"] > 0) | (gaps["high"] < 0)]


def _about_prevalence(frame: pd.DataFrame) -> list[str]:
    apart = _apart(frame, "prevalence")
    if not len(apart):
        return []
    named = [f"{row['class']} in {row['subgroup']}" for _, row in _largest(apart).iterrows()]
    return [
        f"The finding itself is more or less common in {len(apart)} pairs of subgroup and class ({listing(named)})."
        " AP, F1 and precision move with prevalence alone: compare the …_at_prevalence rows, not those."
    ]


def _about_calibration(frame: pd.DataFrame) -> list[str]:
    """Name the pairs whose observed/expected is off while prevalence is and no measure of the model is."""
    off = _pairs(_apart(frame, "observed_to_expected")) & _pairs(_apart(frame, "prevalence"))
    for metric in ("auroc", "recall", "fpr"):
        off -= _pairs(_apart(frame, metric))
    if not off:
        return []
    named = [f"{class_name} in {subgroup}" for class_name, subgroup in sorted(off)]
    return [
        f"Observed/expected differs in {listing(named)}, where the finding's frequency differs and AUROC, recall and"
        " false positive rate show no gap: this may be only prevalence, which a re-targeted score mends."
    ]


def _pairs(rows: pd.DataFrame) -> set[tuple[str, str]]:
    return set(zip(rows["class"], rows["subgroup"], strict=True))


def _largest(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.iloc[np.argsort(-rows["value"].abs().to_numpy(), kind="stable")]


def _about_means(frame: pd.DataFrame) -> list[str]:
    means = frame[(frame["metric"] == "auroc") & (frame["class"] == "") & (frame["tail_group"] == "")]
    uneven = [
        column
        for column, names in _columns(frame).items()
        if len(set(means[means["subgroup"].isin(names) & (means["support"] > 0)]["support"])) > 1
    ]
    if not uneven:
        return []
    return [
        f"Means over classes are of different classes in the subgroups of {listing(uneven)}, because rare ones are"
        " too few in some: compare the gaps, which take the classes printed on both sides."
    ]
