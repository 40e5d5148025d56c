"""The page of a study: verdicts, tables and figures in one self-contained HTML file that fetches nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import pandas as pd
from markupsafe import Markup

from medtail.reporting.bibliography import format_references
from medtail.reporting.comparison import difference_forest
from medtail.reporting.curves import reliability_plot
from medtail.reporting.page import packaged, page_template, security_policy, version_of_medtail
from medtail.reporting.section_page import Picture
from medtail.reporting.summary import count
from medtail.runs import write_text
from medtail.studies.decoding import decoding_of
from medtail.studies.factorial_grids import effect_grids, finding_grid, report_grids
from medtail.studies.figures import (
    called_plot,
    confusion_plots,
    curves_plot,
    effect_forest,
    lead_forest,
    site_plot,
    sites_of,
)
from medtail.studies.grids import (
    Grid,
    class_grids,
    cost_grid,
    difference_grid,
    group_grids,
    mean_grids,
    verdict_grid,
)
from medtail.studies.judged import Judged
from medtail.studies.protocol import Study
from medtail.studies.scores import ScoredSet
from medtail.studies.tables import introduction
from medtail.studies.words import Verdict, change_words, lead_words, set_words
from medtail.training.judged import methods_of

if TYPE_CHECKING:
    from jinja2 import Template

MOST_CLASSES = 6
"""Classes whose figures are drawn for an arm: the rarest ones."""
MOST_FORESTS = 12
EFFECTS_CAPTION = "Main effects and interactions on F1, each with its own interval."


@final
@dataclass(frozen=True)
class ArmFigures:
    """The figures of one arm."""

    arm: str
    curves: tuple[Picture, ...]
    confusions: tuple[Picture, ...]
    reliability: tuple[Picture, ...]
    sites: tuple[Picture, ...]
    called: Picture


@final
@dataclass(frozen=True)
class SetSection:
    """All about one set of images."""

    key: str
    title: str
    verdicts: Grid | None
    forest: Picture | None
    findings: Grid | None
    effects_forest: Picture | None
    effects: tuple[Grid, ...]
    means: tuple[Grid, ...]
    tasks: tuple[Grid, ...]
    differences: Grid | None
    forests: tuple[Picture, ...]
    figures: tuple[ArmFigures, ...]


def write_study_page(
    out: Path,
    study: Study,
    judged: Sequence[tuple[Judged, ScoredSet]],
    *,
    found: Mapping[str, Sequence[Verdict]],
    said: Sequence[str],
    costs: pd.DataFrame,
) -> Path:
    """Write the page, atomically.

    Args:
        out: The file.
        study: The study.
        judged: Sets of images, that of the verdicts first, with the scores behind them.
        found: Set → verdicts.
        said: Cautions.
        costs: From `grids.cost_table`.

    Returns:
        `out`.
    """
    style, script = packaged("report.css") + packaged("comparison.css") + packaged("study.css"), packaged("report.js")
    sections = [_section(study, one, scored, found[one.name]) for one, scored in judged]
    arms = [(name, change_words(arm.changes)) for name, arm in study.arms.items()]
    methods: dict[str, None] = {}
    for arm in study.arms.values():
        methods |= dict.fromkeys(methods_of(arm.config))
    methods |= dict.fromkeys(("efron1979", "rao1988", "holm1979", "saito2015"))
    if study.is_cross_validated:
        methods["nadeau2003"] = None
    context: dict[str, Any] = {
        "title": study.title,
        "version": version_of_medtail(),
        "policy": security_policy(style, script),
        "style": Markup(style),
        "script": Markup(script),
        "lede": introduction(study),
        "sections": sections,
        "reference": study.reference,
        "arms": arms,
        "cautions": list(said),
        "costs": cost_grid(costs),
        "facts": _facts(study, [one for one, _ in judged]),
        "references": format_references(list(methods)),
    }
    write_text(out, _template().render(context))
    return out


@cache
def _template() -> Template:
    return page_template("study.html.j2")


def _section(study: Study, judged: Judged, scored: ScoredSet, found: Sequence[Verdict]) -> SetSection:
    compared = judged.comparison is not None
    drawn = lead_forest(judged, reference=study.reference)
    caption = f"{lead_words(study, judged)}: each arm minus {study.reference}, with its interval."
    return SetSection(
        key=judged.name,
        title=f"On {set_words(study, judged.name)}",
        verdicts=verdict_grid(study, judged, found) if compared else None,
        forest=None if drawn is None else Picture(drawn, caption),
        findings=finding_grid(study, judged),
        effects_forest=None if judged.effects is None else Picture(effect_forest(judged.effects), EFFECTS_CAPTION),
        effects=tuple(effect_grids(study, judged)),
        means=(*report_grids(study, judged), *mean_grids(study, judged), *group_grids(study, judged)),
        tasks=tuple(class_grids(study, judged)),
        differences=difference_grid(study, judged),
        forests=tuple(_forests(study, judged)),
        figures=tuple(_arm_figures(study, judged, scored, arm) for arm in _reference_first(study, scored)),
    )


def _reference_first(study: Study, scored: ScoredSet) -> list[str]:
    return sorted(scored.tables, key=lambda arm: (arm != study.reference, list(study.arms).index(arm)))


def _forests(study: Study, judged: Judged) -> list[Picture]:
    if judged.comparison is None:
        return []
    metric = study.judge.metrics[0]
    table = judged.differences
    arms = list(dict.fromkeys(table.loc[table["metric"] == metric, "system_a"]))[:MOST_FORESTS]
    return [
        Picture(
            difference_forest(judged.comparison, metric=metric, system_a=str(arm), system_b=study.reference),
            f"{arm} minus {study.reference}. Filled: holds after Holm's correction. Hollow: it does not, or was not"
            " tested.",
        )
        for arm in arms
    ]


def _arm_figures(study: Study, judged: Judged, scored: ScoredSet, arm: str) -> ArmFigures:
    tables = scored.tables[arm]
    first = tables[0]
    rows = judged.values[(judged.values["metric"] == "auroc") & (judged.values["class"] != "")]
    rows = rows[rows["arm"] == arm].sort_values(["positives", "class"], kind="stable")
    # what cannot be judged here has no curve; its row in the tables says why
    shown = rows[(rows["positives"] > 0)].head(MOST_CLASSES).to_dict("records")
    seed = study.seeds[0]
    sites = sites_of(scored.manifest, first)
    decider = decoding_of(study.judge, scored.manifest, first.labels).call

    def caption(row: Mapping[Any, Any]) -> str:
        patients = count(row["positive_patients"], "patient")
        return f"{row['class']}: {count(row['positives'], 'positive image')} of {patients}"

    return ArmFigures(
        arm=arm,
        curves=tuple(
            Picture(
                curves_plot(str(row["class"]), tables, group=str(row["tail_group"]), level=study.judge.interval),
                caption(row),
            )
            for row in shown
        ),
        confusions=tuple(
            Picture(svg, f"{name}, training seed {seed}, at the chosen thresholds")
            for name, svg in confusion_plots(first, prefix=f"{judged.name}-{arm}", decider=decider)[: 2 * MOST_CLASSES]
        ),
        reliability=tuple(
            Picture(
                reliability_plot(
                    str(row["class"]),
                    first.scores[:, first.labels.index(str(row["class"]))],
                    first.targets[:, first.labels.index(str(row["class"]))],
                    group=str(row["tail_group"]),
                ),
                f"{row['class']}, training seed {seed}",
            )
            for row in shown
        ),
        sites=()
        if sites is None
        else tuple(Picture(site_plot(str(row["class"]), tables, sites), caption(row)) for row in shown),
        called=Picture(
            called_plot(first, decider=decider), f"Training seed {seed}: classes as they are, and as they are called."
        ),
    )


def _facts(study: Study, judged: Sequence[Judged]) -> list[tuple[str, str]]:
    found = [
        ("training seeds", ", ".join(map(str, study.seeds))),
        ("folds", f"{study.num_folds}, cross-validated" if study.is_cross_validated else "those of the manifest"),
        ("manifest", f"{study.manifest.name}, digest {study.manifest.digest[:16]}"),
        ("interval", f"{study.judge.interval:.0%}, percentiles of resampled patients and seeds"),
        ("seeds in the interval", study.judge.seed_draw),
    ]
    for one in judged:
        if one.comparison is not None:
            resamples = one.header["bootstrap"]["resamples"]
            found.append((f"resamples, {one.name}", f"{resamples:,} for {one.header['family']['comparisons']} tests"))
    tail = next((one.header["tail"] for one in judged if one.header.get("tail")), None)
    if tail is not None:
        found.append(("tail groups", str(tail["description"])))
    return found
