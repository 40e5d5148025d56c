"""What a study of generated images tells: one page, the same as text, and its numbers for machines.

DIR/genaug.html  the page        DIR/arms.csv         a row an arm and metric
DIR/genaug.md    as text         DIR/differences.csv  a row a contrast
DIR/genaug.json  settings, plan, rows of the plan with their verdicts
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medtail.config import config_to_dict
from medtail.judging.comparison_words import interval_text
from medtail.reporting.section_page import Picture, Section, write_section_page
from medtail.reporting.summary import count
from medtail.runs import atomic_path, versions, write_json, write_text
from medtail.studies.genaug_arms import ORACLE, REAL, RL
from medtail.studies.genaug_config import BreastTrack
from medtail.studies.genaug_figures import contact_sheet, gap_forest, level_plot, use_curve
from medtail.studies.genaug_findings import Evidence, Finding, generator_rows, pool_folders, schedules
from medtail.studies.genaug_scores import METRICS, TESTED, Figure
from medtail.studies.grids import Grid
from medtail.tables.labels import short_name
from medtail.tables.manifest import read_manifest
from medtail.tables.pools import MANIFEST
from medtail.tables.tail import TailGroups

NAMES = {
    "macro_f1": "Macro-F1", "tail_recall": "Tail recall", "macro_auroc": "Macro-AUROC", "head_recall": "Head recall",
    "balanced_accuracy": "Balanced acc",
}  # fmt: skip
PAPERS = ("chen2025", "efron1979", "rao1988", "holm1979")
IDEA = (
    "An independent implementation of the idea, designed from the abstract of the work and its group's earlier ones;"
    " nothing here reproduces its numbers."
)


def arm_grid(e: Evidence) -> Grid:
    """Return every arm's figures, with the share of the gap closed where there is an oracle, and its verdict."""
    has_oracle = ORACLE in e.measured.arms
    columns = ["arm", *(NAMES[m] for m in METRICS), *(["Gap closed"] if has_oracle else [])]
    columns.append("against real only")
    rows = []
    for arm in e.measured.arms:
        cells = [arm, *(_cell(e.measured.figure(arm, metric)) for metric in METRICS)]
        if has_oracle:
            known = arm not in (REAL, ORACLE)
            cells.append(_cell(e.measured.gap_closed(arm, real=REAL, oracle=ORACLE)) if known else "–")
        rows.append((*cells, _word(e, arm)))
    note = (
        f"{e.measured.patients:,} test patients; mean over {len(e.material.config.seeds)} training seeds,"
        f" {e.measured.interval:.0%} interval of resampled patients and seeds, ± sd over seeds."
        f" {e.plan.total_steps:,} gradient steps an arm."
    )
    if e.material.tables.num_folds > 1:
        note += " AUROC pools scores of several models, which share no scale: secondary."
    return Grid("Arms", note, tuple(columns), tuple(rows))


def _cell(found: Figure) -> str:
    if np.isnan(found.value):
        return "–"
    lines = [f"{found.value:.3f}", f"[{found.low:.3f}, {found.high:.3f}]"]
    return "\n".join([*lines, *([] if np.isnan(found.sd) else [f"± {found.sd:.3f}"])])


def _word(e: Evidence, arm: str) -> str:
    if arm == REAL:
        return "reference"
    found = e.difference(arm, REAL, TESTED[0])
    return "–" if found is None else found.word(alpha=e.alpha)


def purpose_grid(e: Evidence) -> Grid:
    """Return what each arm is for, and on which tune choice it rests."""
    rows = tuple(
        (arm, e.plan.purposes[arm], "" if len(own) == 1 else f"the best on tune of {', '.join(own)}")
        for arm, own in e.plan.arms.items()
    )
    return Grid("Arms and what they isolate", "", ("arm", "isolates", "chosen"), rows)


def difference_grid(e: Evidence) -> Grid:
    """Return every contrast with its interval and its p, corrected for all of them."""
    rows = tuple(
        (
            f"{d.contrast.arm} − {d.contrast.against}", NAMES[d.contrast.metric],
            interval_text(d.found.value, d.found.low, d.found.high), f"{d.p:.3g}", f"{d.p_holm:.3g}",
            d.word(alpha=e.alpha),
        )
        for d in e.differences
    )  # fmt: skip
    note = f"Holm's correction over all {len(rows)} comparisons, which were fixed before test was opened."
    return Grid("Comparisons", note, ("pair", "metric", "difference", "p", "p, Holm", "verdict"), rows)


def plan_grid(rows: Sequence[Finding]) -> Grid:
    """Return the rows of the plan."""
    columns = ("part", "test", "works only if", "found", "verdict")
    cells = tuple((f.part, f.test, f.works_if, f.found, f.verdict) for f in rows)
    return Grid("Tests fixed beforehand", "", columns, cells)


def recall_grid(e: Evidence, groups: TailGroups) -> Grid:
    """Return each arm's recall by class, the tail classes alone."""
    names = [name for name in e.measured.classes if groups.group_of[name] == "tail"] or list(e.measured.classes)
    rows = tuple((arm, *(_cell(e.measured.figure(arm, f"recall:{name}")) for name in names)) for arm in e.measured.arms)
    columns = ("arm", *(f"{short_name(name)}\n{e.measured.patients_of[f'recall:{name}']} patients" for name in names))
    note = "With few patients these intervals are wide; conclusions are drawn from macro-F1 and the tail together."
    return Grid("Recall of the tail classes", note, columns, rows)


def cautions_of(e: Evidence) -> list[str]:
    """Return what a reader must know."""
    config, said = e.material.config, [IDEA]
    if len(config.seeds) < 5:
        said.append(f"{len(config.seeds)} training seeds; the plan asks for 5 at least, 10 on the phantom.")
    if isinstance(config.track, BreastTrack):
        said.append("Simulated images: class names are mnemonics, and no clinical claim may rest on them.")
    behind = {name: e.measured.patients_of[f"recall:{name}"] for name in e.measured.classes}
    few = [f"{short_name(name)} ({n})" for name, n in behind.items() if n < 10]
    if few:
        said.append(f"Fewer than ten test patients: {', '.join(few)}. Nothing can be said of these classes alone.")
    said.append("Test was opened once, after every training; settings of an arm were chosen on tune.")
    return said


def write_genaug(root: Path, e: Evidence, rows: Sequence[Finding], groups: TailGroups) -> None:
    """Write the page, the text and the tables, each atomically.

    Args:
        root: The study's folder.
        e: What was measured.
        rows: Of the plan.
        groups: Tail groups of the classes.
    """
    arms = [
        {"arm": arm, "metric": metric, **asdict(e.measured.figure(arm, metric))}
        for arm in e.measured.arms
        for metric in (*METRICS, *(f"recall:{name}" for name in e.measured.classes))
    ]
    differences = [{**asdict(d.contrast), **asdict(d.found), "p": d.p, "p_holm": d.p_holm} for d in e.differences]
    for name, table in (("arms.csv", arms), ("differences.csv", differences)):
        with atomic_path(root / name) as path:
            pd.DataFrame(table).to_csv(path, index=False, lineterminator="\n")
    write_json(root / "genaug.json", record(e, rows))
    write_text(root / "genaug.md", markdown(e, rows, groups))
    config = e.material.config
    write_section_page(
        root / "genaug.html",
        kicker="Study of generated images",
        title=str(config.title),
        lede=lede(e),
        sections=sections(e, rows, groups),
        cautions=cautions_of(e),
        references=PAPERS,
    )


def lede(e: Evidence) -> str:
    """Say in two sentences what was done."""
    seeds, folds = len(e.material.config.seeds), e.material.tables.num_folds
    return (
        f"{count(len(e.measured.arms), 'arm')}, {count(seeds, 'training seed')}, {count(folds, 'outer fold')}:"
        f" {count(len(e.plan.trainings) * seeds * folds, 'training')}, {e.plan.total_steps:,} gradient steps an arm."
        f" {count(e.measured.patients, 'test patient')}, {len(e.measured.classes)} classes."
    )


def record(e: Evidence, rows: Sequence[Finding]) -> dict[str, Any]:
    """Return everything around the numbers."""
    return {
        "config": config_to_dict(e.material.config),
        "arms": {name: {"purpose": e.plan.purposes[name], "trainings": list(own)} for name, own in e.plan.arms.items()},
        "steps": {"all": e.plan.total_steps, "final": e.plan.final_steps},
        "resamples": e.measured.resamples,
        "plan": [asdict(row) for row in rows],
        "cautions": cautions_of(e),
        "versions": versions(),
    }


def markdown(e: Evidence, rows: Sequence[Finding], groups: TailGroups) -> str:
    """Return the study as one Markdown page."""
    grids = [arm_grid(e), purpose_grid(e), plan_grid(rows), difference_grid(e), recall_grid(e, groups)]
    grids.append(_generator_grid(e))
    parts = [f"# {e.material.config.title}", "", lede(e), "", *(grid.markdown() for grid in grids if grid.rows)]
    return "\n".join([*parts, "## Before you quote this", "", *(f"- {said}" for said in cautions_of(e)), ""])


def summary(e: Evidence, rows: Sequence[Finding]) -> str:
    """Return the short version for a terminal."""
    grid = arm_grid(e)
    keep = [0, 1, 2, *range(len(METRICS) + 1, len(grid.columns))]
    shown = tuple(tuple(row[i] for i in keep) for row in grid.rows)
    short = Grid(grid.title, "", tuple(grid.columns[i] for i in keep), shown)
    return "\n".join([short.text(), "", *(f"{f.part}: {f.verdict}. {f.found}" for f in rows)])


def _generator_grid(e: Evidence) -> Grid:
    columns = (
        "generator", "fold", "size", "branches", "parameters", "steps", "autoencoder L1", "SSIM", "images", "minutes"
    )  # fmt: skip
    return Grid("Generators", "", columns, tuple(generator_rows(e)))


def sections(e: Evidence, rows: Sequence[Finding], groups: TailGroups) -> list[Section]:
    """Return the parts of the page."""
    gaps = {}
    if ORACLE in e.measured.arms:
        gaps = {
            arm: e.measured.gap_closed(arm, real=REAL, oracle=ORACLE)
            for arm in e.measured.arms if arm not in (REAL, ORACLE)
        }  # fmt: skip
        caption = "Share of the way from real images only (0) to balanced real images (1)."
        picture = Picture(gap_forest(gaps, name="gap closed"), caption)
    else:
        apart = {arm: e.measured.difference(arm, REAL, TESTED[0])[0] for arm in e.measured.arms if arm != REAL}
        picture = Picture(gap_forest(apart, name="macro-F1, arm minus real only"), "Each arm against real images only.")
    made = [
        Section("arms", "What came out", (IDEA,), (arm_grid(e).on_page(),), (picture,)),
        Section("plan", "Tests fixed beforehand", (), (plan_grid(rows).on_page((1, 2, 3)),)),
    ]
    points = [point for point in e.plan.curve() if e.curve is not None and point[1] in e.curve.arms]
    if e.curve is not None and len(points) > 2:
        drawn = tuple(
            Picture(
                use_curve(e.curve, points, metric=metric, name=NAMES[metric]),
                f"{NAMES[metric]} of trainings of a quarter of the steps.",
            )
            for metric in TESTED
            if not any(np.isnan(e.curve.figure(name, metric).value) for _, name in points)
        )
        made.append(Section("use", "How much is too much", (), (), (), drawn))
    learnt = schedules(e, RL)
    if learnt:
        levels = np.stack(list(learnt.values()))
        panels = tuple(
            Picture(level_plot(name, levels[:, :, c], group=groups.group_of[name], most=float(levels.max())),
                    f"{groups.group_of[name]}: {len(levels)} runs, their mean thick")
            for c, name in enumerate(e.measured.classes)
        )  # fmt: skip
        made.append(Section("levels", "What the policy learnt", (), (), (), panels))
    sheets = tuple(
        Picture(
            contact_sheet(read_manifest(folder / MANIFEST), groups), f"Outer fold {k}. The first of each, not chosen."
        )
        for k, folder in enumerate(pool_folders(e))
    )
    if sheets:
        made.append(Section("images", "Real and generated", (), (_generator_grid(e).on_page(),), sheets))
    made.append(Section("isolates", "What each arm isolates", (), (purpose_grid(e).on_page((1, 2)),)))
    made.append(Section("tail", "Tail classes alone", (), (recall_grid(e, groups).on_page(),)))
    made.append(Section("differences", "All comparisons", (), (difference_grid(e).on_page(),)))
    return made
