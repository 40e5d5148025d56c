"""A learning curve in words, tables and figures: how many more patients, and when that cannot be said.

DIR/curve.csv    a row a figure, class and size     DIR/curve.md    the answers as text
DIR/curve.json   laws and answers                   DIR/curve.html  the answers with figures
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from medtail.judging.questions import FEWEST_PATIENTS
from medtail.reporting.section_page import Picture, Section, write_section_page
from medtail.reporting.svg import Axis, clip, element, figure, frame, line, marker, polyline, short, text
from medtail.runs import atomic_path, write_json, write_text
from medtail.studies.grids import Grid
from medtail.studies.learning_curve import CurveOutcome, GrowthOf, sizes_to_draw
from medtail.studies.power_law import FAR, FEWEST_SIZES, Need, patients_needed
from medtail.studies.tables import introduction
from medtail.studies.words import cautions, number_text, set_words

METRIC_WORDS = {"ap": "AP", "auroc": "AUROC", "recall": "sensitivity", "f1": "F1"}


def needs_of(found: CurveOutcome) -> list[tuple[GrowthOf, Need]]:
    """Return every figure with the answer to its goal."""
    return [
        (one, patients_needed(one.growth, found.curve.targets[one.metric], has_few_patients=one.has_few_patients))
        for one in found.grown
    ]


def need_words(one: GrowthOf, need: Need, *, level: float = 0.95) -> str:
    """Say how many more patients a goal needs, or why that cannot be said.

    Example:
        >>> import numpy as np
        >>> from medtail.studies.power_law import Growth
        >>> growth = Growth(np.array([5.0, 10.0]), np.array([0.2, 0.3]), np.array([0.1, 0.2]), np.array([0.3, 0.4]),
        ...                 (0.9, 1.0, 0.5), None, (0.1, -0.1, 0.3), 0.95)
        >>> one = GrowthOf("ap", "Hernia", "patients with it", growth)
        >>> need_words(one, patients_needed(growth, 0.5))
        'cannot be extrapolated: fewer than 3 sizes define it'
    """
    rise = one.growth.rise
    match need.finding:
        case "reached":
            largest = int(np.argmax(one.growth.sizes))
            is_sure = one.growth.low[largest] >= need.target
            return "reached" if is_sure else "reached, though the interval holds smaller values"
        case "undefined":
            return "cannot be judged: no patients with it to learn from, or none to judge by"
        case "few_patients":
            return f"cannot be judged: fewer than {FEWEST_PATIENTS} patients with it (or without) to judge by"
        case "few_sizes":
            return f"cannot be extrapolated: fewer than {FEWEST_SIZES} sizes define it"
        case "flat":
            return (
                f"cannot be extrapolated: not shown to rise ({_signed(rise[0])} from the smallest size to the largest,"
                f" {level:.0%} interval {_signed(rise[1])} to {_signed(rise[2])})"
            )
        case "above":
            can = f"; {_count(need.low)} at the very least" if math.isfinite(need.low) else ""
            return f"not by more of the same: the fitted curve ends at {number_text(one.growth.law[0], digits=2)}{can}"
        case "open":
            told = f"about {_count(need.more)} more, but no upper limit can be given: {_whole(need, one)}"
            return told + _far(need)
        case _:
            return f"{_count(need.more)} more: {_whole(need, one)}" + _far(need)


def _whole(need: Need, one: GrowthOf) -> str:
    high = _count(need.high) if math.isfinite(need.high) else "any number"
    return f"{_count(need.patients)} {one.unit} in all, {_count(need.low)} to {high}"


def _far(need: Need) -> str:
    if need.beyond <= FAR:
        return ""
    return f" (extrapolated {need.beyond:.0f} times beyond what was measured: a guess)"


def _count(value: float) -> str:
    if not math.isfinite(value):
        return "any number"
    if value >= 1e6:
        return "over a million"
    # no false precision: two digits
    step = 10 ** max(0, len(f"{value:.0f}") - 2)
    return f"{math.ceil(value / step) * step:,}"


def _signed(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:+.3f}".replace("-", "−")


def need_grid(found: CurveOutcome) -> Grid:
    """Return the answers, rarest class first, the mean last."""
    rows = []
    for one, need in _in_order(found):
        growth = one.growth
        largest = int(np.argmax(growth.sizes)) if len(growth.sizes) else None
        value = "–" if largest is None else number_text(growth.values[largest])
        if largest is not None and not np.isnan(growth.low[largest]):
            value += f"\n[{number_text(growth.low[largest])}, {number_text(growth.high[largest])}]"
        rows.append(
            (
                one.class_name or "mean of all classes", f"{METRIC_WORDS[one.metric]} ≥ {need.target:g}",
                f"{growth.now:,.0f}", value, need_words(one, need, level=growth.level),
            )
        )  # fmt: skip
    level = found.curve.study.judge.interval
    note = (
        f"Patients: in train, with the class (all of them for the mean). Value: with all of them, {level:.0%} interval"
        f" over patients and seeds. Laws y = a − b n^−c are fitted to every resample; answers are for more patients"
        " like these, found in the same way."
    )
    title = f"How many more patients: {set_words(found.curve.study, found.judged)}"
    return Grid(title, note, ("class", "wanted", "patients", "value", "more patients needed"), tuple(rows))


def _in_order(found: CurveOutcome) -> list[tuple[GrowthOf, Need]]:
    metrics = list(found.curve.targets)
    return sorted(
        needs_of(found), key=lambda pair: (metrics.index(pair[0].metric), pair[0].class_name == "", pair[0].growth.now)
    )


def curve_text(found: CurveOutcome) -> str:
    """Return the short version for a terminal."""
    return need_grid(found).text()


def curve_cautions(found: CurveOutcome) -> list[str]:
    """Say what a reader of a learning curve must know, beside what holds for every study."""
    curve, outcome = found.curve, found.outcome
    unfinished = len(curve.study.cells(outcome.root)) - len(outcome.tally.finished) - len(outcome.failures)
    alike = "as many steps" if curve.budget == "steps" else "as many epochs (smaller shares take fewer steps)"
    said = [
        f"Every share is trained for {alike}, with the settings that suit the whole; tune and test keep their size.",
        "An answer supposes more patients of the same kind: other machines, other hospitals or milder disease are"
        " another curve. What these few sizes cannot tell apart is in the interval, a change of the law is not.",
    ]
    if "recall" in curve.targets:
        objective = curve.study.judge.thresholds.objective
        at = f"specificity ≥ {objective.at_least:g}" if objective.kind == "specificity" else objective.kind
        said.append(
            f"Sensitivity is that at thresholds chosen on tune (for {at}); inside an exclusive group it is that of the"
            " highest score."
        )
    if len(curve.study.seeds) > 1:
        said.append("Each training seed deals the patients out anew; their luck is in the spread over seeds.")
    return [*said, *cautions(curve.study, outcome.judged, failed=outcome.failures, unfinished=unfinished)]


def curve_table(found: CurveOutcome) -> pd.DataFrame:
    """Return a row a figure, class and size."""
    rows: list[dict[str, Any]] = []
    for one in found.grown:
        growth = one.growth
        for place, size in enumerate(growth.sizes):
            rows.append(
                {
                    "judged": found.judged, "metric": one.metric, "class": one.class_name, "patients": size,
                    "value": growth.values[place], "low": growth.low[place], "high": growth.high[place],
                }
            )  # fmt: skip
    return pd.DataFrame(rows, columns=["judged", "metric", "class", "patients", "value", "low", "high"])


def growth_plot(one: GrowthOf, need: Need) -> Markup:
    """Draw a figure against patients: values with intervals, the law with its band, the goal.

    The scale of patients is logarithmic and goes to four times what was measured; beyond what was measured the law is
    dashed.
    """
    growth = one.growth
    left, top, wide, high = 40.0, 24.0, 230.0, 150.0
    name = clip(one.class_name or "mean of all classes", longest=34)
    title = text(name, left, 11, class_="t block", hint=one.class_name)
    label = f"{one.class_name or 'mean of all classes'}: {METRIC_WORDS[one.metric]} against {one.unit}."
    if not len(growth.sizes):
        words = text("undefined at every size", left + wide / 2, top + high / 2, class_="t muted", anchor="middle")
        return figure(title, words, width=left + wide + 14, height=top + high + 38, label=label, class_="plot panel")
    smallest = max(0.5, float(growth.sizes.min()) * 0.9)
    x = Axis(smallest, max(growth.now * FAR, smallest * 2), left, left + wide, log=True)
    y = Axis(0.0, 1.0, top + high, top + 12)
    ticks = x.ticks()
    parts: list[Markup] = [
        title,
        frame(x, y, x_name=f"train {one.unit}", y_name=METRIC_WORDS[one.metric], x_ticks=_spaced(ticks, x),
              y_ticks=(0.0, 0.5, 1.0)),
        line(left, y(need.target), left + wide, y(need.target), class_="chance"),
        text(f"≥ {need.target:g}", left + wide, y(need.target) - 3, class_="t tick", anchor="end"),
    ]  # fmt: skip
    if growth.laws is not None:
        at = sizes_to_draw(growth, reach=FAR)
        law, low, up = growth.curve(at)
        edge = [(x(a), y(b)) for a, b in zip(at, up, strict=True)]
        edge += [(x(a), y(b)) for a, b in zip(at[::-1], low[::-1], strict=True)]
        parts.append(element("polygon", points=" ".join(f"{short(a)},{short(b)}" for a, b in edge), class_="band"))
        is_measured = at <= growth.now * 1.001
        drawn = [(x(a), y(b)) for a, b in zip(at, law, strict=True)]
        measured = [point for point, inside in zip(drawn, is_measured, strict=True) if inside]
        beyond = [point for point, inside in zip(drawn, is_measured, strict=True) if not inside]
        parts.append(polyline(measured, class_="curve"))
        parts.append(polyline([*measured[-1:], *beyond], class_="chance"))
    for size, value, low_end, high_end in zip(growth.sizes, growth.values, growth.low, growth.high, strict=True):
        if not np.isnan(low_end):
            parts.append(line(x(size), y(low_end), x(size), y(high_end), class_="whisker"))
        hint = f"{size:,.0f} {one.unit}: {number_text(value)}"
        parts.append(marker("", x(size), y(value), hint=hint, size=3.2))
    return figure(*parts, width=left + wide + 14, height=top + high + 38, label=label, class_="plot panel")


def _spaced(ticks: Sequence[float], x: Axis, *, apart: float = 26.0) -> list[float]:
    kept: list[float] = []
    for tick in ticks:
        if not kept or x(tick) - x(kept[-1]) >= apart:
            kept.append(tick)
    return kept


def write_curve(found: CurveOutcome) -> None:
    """Write the curve's own files, each atomically."""
    root, curve = found.outcome.root, found.curve
    with atomic_path(root / "curve.csv") as path:
        curve_table(found).to_csv(path, index=False, lineterminator="\n")
    said, grid = curve_cautions(found), need_grid(found)
    write_json(
        root / "curve.json",
        {
            "name": curve.study.name,
            "judged": found.judged,
            "targets": dict(curve.targets),
            "answers": answers(found),
            "cautions": said,
        },
    )
    lines = [f"# {curve.study.title}", "", introduction(curve.study), "", grid.markdown()]
    lines += ["## Before you quote this", "", *(f"- {caution}" for caution in said), ""]
    write_text(root / "curve.md", "\n".join(lines))
    sections = [Section("answers", "How many more patients", grids=(grid.on_page(texts=(1, 4)),))]
    for metric in curve.targets:
        panels = tuple(
            Picture(growth_plot(one, need), need_words(one, need, level=one.growth.level))
            for one, need in _in_order(found)
            if one.metric == metric
        )
        title = METRIC_WORDS[metric]
        sections.append(Section(metric, title[0].upper() + title[1:], panels=panels))
    write_section_page(
        root / "curve.html",
        kicker="Learning curve",
        title=curve.study.title,
        lede=introduction(curve.study),
        sections=sections,
        cautions=said,
        references=["figueroa2012", "efron1979", "sechidis2011", "saito2015"],
    )


def answers(found: CurveOutcome) -> list[dict[str, Any]]:
    """Return every answer as plain values, rarest class first."""
    return [answer(one, need) for one, need in _in_order(found)]


def answer(one: GrowthOf, need: Need) -> dict[str, Any]:
    """Return an answer as plain values; what is not finite is null."""

    def plain(value: float) -> float | None:
        return float(value) if math.isfinite(value) else None

    growth = one.growth
    return {
        "metric": one.metric,
        "class": one.class_name,
        "target": need.target,
        "finding": need.finding,
        "words": need_words(one, need, level=growth.level),
        "patients_now": growth.now,
        "patients_needed": plain(need.patients),
        "low": plain(need.low),
        "high": plain(need.high),
        "more": plain(need.more),
        "beyond": plain(need.beyond),
        "law": dict(zip("abc", map(plain, growth.law), strict=True)),
        "rise": [plain(value) for value in growth.rise],
    }
