"""The page of a comparison: a picture of who is tied with whom, a forest of differences, words and tables.

One self-contained file like the report, with its style, its script and its policy: it fetches nothing, and every
text from the data is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
import pandas as pd
from markupsafe import Markup

from medtail.judging.comparison import Comparison
from medtail.judging.comparison_rows import covers_zero
from medtail.judging.comparison_words import (
    METRIC_NAMES,
    interval_text,
    main_place,
    p_text,
    place_words,
    rows_at,
    statements,
    summary_places,
)
from medtail.judging.questions import LOWER_IS_BETTER
from medtail.judging.ranking import tied_runs
from medtail.reporting.bibliography import format_references
from medtail.reporting.page import packaged, page_template, security_policy, version_of_medtail
from medtail.reporting.svg import Axis, clip, element, figure, line, marker, text, tick_text
from medtail.runs import write_text

if TYPE_CHECKING:
    from jinja2 import Template

ROW = 24.0
MOST_FORESTS = 10
VERDICT_WORDS = {
    "a_ahead": "A ahead", "b_ahead": "B ahead", "a_ahead_uncorrected": "A, uncorrected",
    "b_ahead_uncorrected": "B, uncorrected", "tied": "tied", "too_few_patients": "too few patients",
    "undefined": "undefined",
}  # fmt: skip
KIND_STYLE = {"ahead": "better", "maybe": "", "tied": "", "block": "", "note": ""}


@final
@dataclass(frozen=True)
class Picture:
    """A drawing and what to say under it."""

    svg: Markup
    caption: str


def write_comparison_page(out: Path, comparison: Comparison, *, title: str | None = None) -> Path:
    """Write a comparison as one HTML file, atomically. The same comparison gives the same bytes.

    Args:
        out: The file to write.
        comparison: From `compare` or `compare_folds`.
        title: Title of the page; names the systems if None.

    Returns:
        `out`.

    Raises:
        MedtailError: The file cannot be written.
    """
    out = Path(out)
    write_text(out, _template().render(_context(comparison, title)))
    return out


def ranking_plot(comparison: Comparison, place: Mapping[str, str]) -> Markup:
    """Draw the systems of one question from best to worst, with bars joining those that cannot be told apart.

    A critical-difference picture (after Demšar, JMLR 7, 2006) lying on its side: a row a system, its value and
    interval on the axis, and right of it one upright bar for each longest run of neighbours of which every pair is
    tied.

    Args:
        comparison: From `compare` or `compare_folds`.
        place: `metric`, `class` and `tail_group` of the question.

    Returns:
        One SVG element.
    """
    ranked = rows_at(comparison.systems, dict(place)).sort_values("rank", kind="stable").reset_index(drop=True)
    names = [str(name) for name in ranked["system"]]
    tied = _ties(rows_at(comparison.differences, dict(place)), names)
    runs = tied_runs(range(len(names)), tied)
    values = ranked[["value", "low", "high"]].to_numpy(dtype=float)
    known = values[~np.isnan(values)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    room = max(high - low, 1e-3) * 0.08
    left, right, top = 210.0, 500.0, 40.0
    bottom = top + ROW * len(names)
    bars = right + 22.0
    words = bars + 14.0 * max(len(runs), 1) + 8.0
    x = Axis(max(low - room, 0.0), high + room, left, right)
    name = place_words(place)
    direction = "lower is better" if place["metric"] in LOWER_IS_BETTER else "higher is better"
    parts: list[Markup] = [
        text("rank", 4, 28, class_="t name"),
        text("system", 40, 28, class_="t name"),
        text(f"{name} ({direction})", (left + right) / 2, 12, class_="t name", anchor="middle"),
        text("tied", bars - 6, 28, class_="t name"),
        text("value, how often first", words, 28, class_="t name"),
    ]
    for value in x.ticks():
        parts += [line(x(value), top - 6, x(value), bottom, class_="grid"),
                  text(tick_text(value), x(value), 28, class_="t tick", anchor="middle")]  # fmt: skip
    for index, row in ranked.iterrows():
        middle = top + ROW * (int(str(index)) + 0.5)
        said = interval_text(row["value"], row["low"], row["high"])
        parts += [text(_number(row["rank"]), 10, middle + 4, class_="t tick"),
                  text(clip(str(row["system"]), longest=24), 40, middle + 4, hint=str(row["system"]))]  # fmt: skip
        if not np.isnan(row["value"]):
            if not np.isnan(row["low"]):
                parts.append(line(x(row["low"]), middle, x(row["high"]), middle, class_="whisker"))
            parts.append(marker("", x(row["value"]), middle, hint=f"{row['system']}: {name} {said}"))
        first = "" if np.isnan(row["share_first"]) else f", {row['share_first']:.0%}"
        parts.append(text(f"{_three(row['value'])}{first}", words, middle + 4))
    for column, run in enumerate(runs):
        at = bars + 14.0 * column
        start, stop = top + ROW * (run[0] + 0.5), top + ROW * (run[-1] + 0.5)
        hint = f"cannot be told apart: {', '.join(names[index] for index in run)}"
        parts.append(element("line", element("title", hint), x1=at, y1=start - 5, x2=at, y2=stop + 5, class_="tie"))
    parts.append(line(left, bottom, right, bottom, class_="axis"))
    joined = "; ".join(", ".join(names[index] for index in run) for run in runs) or "none"
    label = (
        f"Systems by {name}, best first: {', '.join(names)}. Tied: {joined}. The numbers are in the table of systems."
    )
    return figure(element("g", *parts), width=700.0, height=bottom + 10, label=label)


def difference_forest(comparison: Comparison, *, metric: str, system_a: str, system_b: str) -> Markup:
    """Draw one metric's differences of two systems with intervals: overall, by tail group, by class.

    A filled mark is a difference that survives Holm's correction, a hollow one does not; rows that were not tested
    say so.

    Args:
        comparison: From `compare` or `compare_folds`.
        metric: What differs.
        system_a: The system subtracted from; to the right of 0 it is the one with the larger value.
        system_b: The other one.

    Returns:
        One SVG element.
    """
    table = comparison.differences
    rows = table[(table["metric"] == metric) & (table["system_a"] == system_a) & (table["system_b"] == system_b)]
    values = rows[["difference", "low", "high"]].to_numpy(dtype=float)
    reach = float(np.nanmax(np.abs(values))) * 1.08 if (~np.isnan(values)).any() else 1.0
    reach = max(reach, 1e-3)
    left, right, top, height = 236.0, 520.0, 46.0, 21.0
    bottom = top + height * len(rows)
    x = Axis(-reach, reach, left, right)
    lower = metric in LOWER_IS_BETTER
    toward = (system_a, system_b) if lower else (system_b, system_a)
    parts: list[Markup] = [
        text(f"← {clip(toward[0], longest=18)} better", left, 12, class_="t name"),
        text(f"{clip(toward[1], longest=18)} better →", right, 12, class_="t name", anchor="end"),
        text("A - B [interval], p after Holm", right + 12, 28, class_="t name"),
    ]
    for value in x.ticks(4):
        parts += [line(x(value), top - 10, x(value), bottom, class_="grid"),
                  text(tick_text(value), x(value), 28, class_="t tick", anchor="middle")]  # fmt: skip
    parts.append(line(x(0.0), top - 10, x(0.0), bottom, class_="axis"))
    previous = None
    for index, (_, row) in enumerate(rows.iterrows()):
        middle = top + height * (index + 0.5)
        level = "class" if row["class"] else "mean"
        if previous is not None and previous != level:
            parts.append(line(0, middle - height / 2, 700, middle - height / 2, class_="axis faint"))
        previous = level
        who = row["class"] or (f"{row['tail_group']} classes" if row["tail_group"] else "all classes")
        style = f"t {row['tail_group']}-text" if row["tail_group"] else "t"
        parts.append(text(clip(who, longest=32), 4, middle + 4, class_=style, hint=who))
        if np.isnan(row["difference"]):
            parts.append(text("not defined", left + 6, middle + 4, class_="t muted"))
            continue
        group = str(row["tail_group"])
        if not np.isnan(row["low"]):
            parts.append(line(x(row["low"]), middle, x(row["high"]), middle, class_=f"whisker {group}"))
        hint = f"{who}: {interval_text(row['difference'], row['low'], row['high'])}, {VERDICT_WORDS[row['verdict']]}"
        solid = row["verdict"] in ("a_ahead", "b_ahead")
        mark = marker(group, x(row["difference"]), middle, hint=hint)
        parts.append(mark if solid else element("g", mark, class_="hollow"))
        said = interval_text(row["difference"], row["low"], row["high"])
        p = p_text(row["p_holm"]) if not np.isnan(row["p_holm"]) else VERDICT_WORDS[row["verdict"]]
        parts.append(text(said, right + 12, middle + 4, class_="t small", hint=p))
        parts.append(text(p.removeprefix("p ").removeprefix("= "), 780, middle + 4, class_="t small", anchor="end"))
    parts.append(line(left, bottom, right, bottom, class_="axis"))
    name = METRIC_NAMES.get(metric, metric)
    label = f"Differences in {name}, {system_a} minus {system_b}, for {len(rows)} rows. The numbers are in the table."
    return figure(element("g", *parts), width=784.0, height=bottom + 10, label=label)


def _ties(pairs: pd.DataFrame, names: Sequence[str]) -> np.ndarray:
    tied = np.eye(len(names), dtype=bool)
    for _, row in pairs.iterrows():
        a, b = names.index(str(row["system_a"])), names.index(str(row["system_b"]))
        untested = row["verdict"] in ("too_few_patients", "undefined")
        tied[a, b] = tied[b, a] = untested or covers_zero(row)
    return tied


def _context(comparison: Comparison, title: str | None) -> dict[str, Any]:
    style, script = packaged("report.css") + packaged("comparison.css"), packaged("report.js")
    header, names = comparison.header, comparison.names
    metric = main_place(comparison)["metric"]
    pairs = list(
        dict.fromkeys(zip(comparison.differences["system_a"], comparison.differences["system_b"], strict=True))
    )
    leader = rows_at(comparison.systems, main_place(comparison)).sort_values("rank", kind="stable")["system"].iloc[0]
    # the leader against each other system first: that is what is asked first
    pairs.sort(key=lambda pair: leader not in pair)
    return {
        "title": title or "Comparison of " + _enumerate(names),
        "version": version_of_medtail(),
        "policy": security_policy(style, script),
        "style": Markup(style),
        "script": Markup(script),
        "lede": _lede(header),
        "statements": [(s.text, KIND_STYLE[s.kind], s.kind == "block") for s in statements(comparison)],
        "warnings": list(header["warnings"]),
        "rankings": [_ranking(comparison, place) for place in summary_places(comparison)],
        "forests": [_forest(comparison, metric, str(a), str(b)) for a, b in pairs[:MOST_FORESTS]],
        "forests_left": max(len(pairs) - MOST_FORESTS, 0),
        "metric": METRIC_NAMES.get(metric, metric),
        "system_rows": _system_rows(comparison),
        "difference_rows": [_difference_cells(row) for _, row in comparison.differences.iterrows()],
        "has_margins": bool(header["margins"]),
        "facts": _facts(header),
        "digests": [
            (name, part["file"], part["thresholds"], part["digests"].get("predictions", ""))
            for name, parts in header["systems"].items()
            for part in parts
        ],
        "replicates": _replicate_rows(comparison),
        "replicate_word": "fold" if "folds" in header else "training seed",
        "references": format_references(_methods(header)),
    }


def _ranking(comparison: Comparison, place: Mapping[str, str]) -> Picture:
    caption = (
        f"{place_words(place)}: best first. Upright bars join systems no pair of which can be told apart, by the"
        f" interval of their difference on the same resamples; the systems' own intervals, drawn as lines, say less"
        f" about that."
    )
    if "folds" in comparison.header:
        caption = (
            f"{place_words(place)}, mean over folds: best first. Upright bars join systems that cannot be told apart."
        )
    return Picture(ranking_plot(comparison, place), caption)


def _forest(comparison: Comparison, metric: str, system_a: str, system_b: str) -> Picture:
    caption = (
        f"{METRIC_NAMES.get(metric, metric)}, A = {system_a} minus B = {system_b}. Filled: holds after Holm's"
        f" correction. Hollow: it does not, or was not tested."
    )
    return Picture(difference_forest(comparison, metric=metric, system_a=system_a, system_b=system_b), caption)


def _system_rows(comparison: Comparison) -> list[list[str]]:
    rows = []
    for place in summary_places(comparison):
        found = rows_at(comparison.systems, place).sort_values("rank", kind="stable")
        for _, row in found.iterrows():
            seeds = "" if np.isnan(row["replicate_sd"]) else f"{_three(row['replicate_sd'])} over {row['replicates']}"
            share = "–" if np.isnan(row["share_first"]) else f"{row['share_first']:.0%}"
            rows.append(
                [place_words(place), str(row["system"]), interval_text(row["value"], row["low"], row["high"]),
                 _number(row["rank"]), _number(row["mean_rank"]), share, _number(row["mean_class_rank"]),
                 str(row["tied_block"]), str(row["tied_with"]) or "nobody", seeds]
            )  # fmt: skip
    return rows


def _difference_cells(row: Any) -> list[tuple[str, str, str]]:
    """Return text, sorting key and style of each cell."""

    def cell(value: float, written: str | None = None) -> tuple[str, str, str]:
        return ("–", "", "") if np.isnan(value) else (written or _three(value), repr(float(value)), "")

    words = VERDICT_WORDS[row["verdict"]]
    group = str(row["tail_group"])
    return [
        (place_words(row), place_words(row), ""),
        (group or "–", group, f"text {group}-text" if group else "text"),
        (str(row["system_a"]), str(row["system_a"]), "text"),
        (str(row["system_b"]), str(row["system_b"]), "text"),
        cell(row["difference"], interval_text(row["difference"], row["low"], row["high"])),
        cell(row["p"], p_text(row["p"]).removeprefix("p ").removeprefix("= ")),
        cell(row["p_holm"], p_text(row["p_holm"]).removeprefix("p ").removeprefix("= ")),
        (words, words, "text"),
        cell(
            row["share_a_better"],
            f"{row['share_a_better']:.0%}" if row["share_a_better"] == row["share_a_better"] else "",
        ),
        cell(row["smallest_detectable"]),
        (str(row["non_inferior"]) or "–", str(row["non_inferior"]), "text"),
        (f"{row['support']:,}", str(row["support"]), ""),
    ]


def _replicate_rows(comparison: Comparison) -> list[list[str]]:
    rows = []
    for place in summary_places(comparison):
        for _, row in rows_at(comparison.replicates, place).iterrows():
            value = interval_text(row["value"], row["low"], row["high"])
            rows.append([place_words(place), str(row["system"]), str(row["replicate"]), value])
    return rows


def _lede(header: Mapping[str, Any]) -> str:
    patients = "" if header.get("bootstrap", {}).get("unit") == "image" else f" of {header['num_patients']:,} patients"
    where = f" in the {header['fold']} fold" if header["fold"] else ""
    classes = len(header["labels"]["class_names"])
    return f"{len(header['systems'])} systems on {header['num_rows']:,} images{patients}{where}; {classes} classes."


def _facts(header: Mapping[str, Any]) -> list[tuple[str, str]]:
    family = header["family"]
    facts = [("method", header["method"])]
    if "bootstrap" in header:
        boot = header["bootstrap"]
        facts += [
            ("resamples", f"{boot['resamples']:,} of {boot['unit']}s, {boot['scheme']}, seed {boot['seed']}; the same"
                          " for all systems"),
            ("training seeds", "drawn in every resample" if boot["seed_draw"] == "hierarchical" else "held fixed"),
        ]  # fmt: skip
    if "folds" in header:
        folds = header["folds"]
        facts.append(
            ("folds", f"{folds['count']}; variance factor 1/k + {folds['test_share']:.3g} (test over train images, from"
                      f" {folds['train_rows_from']})")
        )  # fmt: skip
    facts += [
        ("intervals", f"{1 - header['alpha']:.3g}"),
        ("family", f"{family['comparisons']:,} comparisons tested together, {family['left_out']:,} left out; Holm's"
                   " correction"),
        ("tail groups", header["tail"]["description"] if header["tail"] else "unknown"),
        ("calibration error", f"{header['ece']['mode']}, {header['ece']['bins']} bins"),
    ]  # fmt: skip
    if header["margins"]:
        facts.append(("margins", ", ".join(f"{METRIC_NAMES[k]} {v:g}" for k, v in header["margins"].items())))
    facts.append(("versions", ", ".join(f"{k} {v}" for k, v in header["versions"].items() if k != "platform")))
    return facts


def _methods(header: Mapping[str, Any]) -> list[str]:
    keys = ["holm1979"]
    keys += ["nadeau2003"] if "folds" in header else ["efron1979", "efron1994", "phipson2010"]
    if header.get("bootstrap", {}).get("scheme") == "bayesian":
        keys.append("rubin1981")
    if any(len(parts) > 1 for parts in header["systems"].values()) and "bootstrap" in header:
        keys.append("rao1988")
    return keys


def _enumerate(names: Sequence[str]) -> str:
    if len(names) > 4:
        return f"{len(names)} systems"
    return ", ".join(names[:-1]) + " and " + names[-1]


def _number(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.2f}".rstrip("0").rstrip(".")


def _three(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.3f}"


@cache
def _template() -> Template:
    return page_template("comparison.html.j2")
