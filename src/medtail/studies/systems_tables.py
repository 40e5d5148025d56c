"""What a study of systems leaves for people and machines: tables with intervals, and whose ideas the systems were.

DIR/systems.csv       every number of every system, with intervals     DIR/systems.json   settings, origins, notes
DIR/differences.csv   every comparison                                 DIR/systems.md, systems.html
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from medtail.challenges.cxr_lt import Judged
from medtail.challenges.cxr_lt_comparison import SystemTable
from medtail.challenges.cxr_lt_summary import SHORT, VERDICTS
from medtail.config import config_to_dict
from medtail.judging.comparison_words import interval_text, p_text
from medtail.reporting.bibliography import KEY
from medtail.reporting.section_page import PageTable, Section, write_section_page
from medtail.runs import atomic_path, versions, write_json, write_text
from medtail.studies.cells import facts_of
from medtail.studies.grids import Grid, cost_grid, cost_table
from medtail.studies.systems import SystemsRun, cells_of, fold_numbers
from medtail.studies.systems_config import SystemConfig
from medtail.studies.systems_judged import BEST_MEMBER, JudgedSystems

MAIN = (
    ("mAP", "ap"), ("mAUROC", "auroc"), ("mF1 at .5", "f1"), ("mECE, reliability", "ece@reliability"),
    ("mECE, leaderboard", "ece@leaderboard"),
)  # fmt: skip


def write_systems(run: SystemsRun, found: JudgedSystems) -> None:
    """Write every file, each atomically.

    Args:
        run: The systems and their scores.
        found: What test says.
    """
    with atomic_path(run.root / "systems.csv") as path:
        values_table(found).to_csv(path, index=False, lineterminator="\n")
    with atomic_path(run.root / "differences.csv") as path:
        found.differences.to_csv(path, index=False, lineterminator="\n")
    write_json(run.root / "systems.json", _record(run, found))
    write_text(run.root / "systems.md", markdown(run, found))
    write_section_page(
        run.root / "systems.html",
        kicker="Systems",
        title=run.systems.title,
        lede=introduction(run),
        sections=_sections(run, found),
        cautions=list(found.notes),
        references=_references(run),
    )


def values_table(found: JudgedSystems) -> pd.DataFrame:
    """Return every number of every system and of the best members, long form with a column `system`."""
    parts = [
        own.results.frame.assign(system=name, is_member=kind)
        for kind, group in ((False, found.systems), (True, found.members))
        for name, own in group.items()
    ]
    table = pd.concat(parts, ignore_index=True)
    first = ["system", "is_member"]
    return table[[*first, *(column for column in table.columns if column not in first)]]


def introduction(run: SystemsRun) -> str:
    """Say in two sentences what was done."""
    cells, task = cells_of(run.systems, run.root), run.systems.task
    table = next(iter(run.scores.values())).test
    folds = len(fold_numbers(run.systems))
    return (
        f"{len(run.systems.config.systems)} systems of {len(cells)} trainings, scored by the protocol of CXR-LT"
        f" {run.systems.edition.name}, task {task.number}, on {len(table):,} test images of"
        f" {len(set(table.patients)):,} patients ({folds} fold{'' if folds == 1 else 's'};"
        f" {len(task.class_names)} classes). Weights and rules were chosen on tune rows alone."
    )


def main_grid(found: Mapping[str, Judged], tune: Mapping[str, float], *, title: str, note: str = "") -> Grid:
    """Return the means of every system with their intervals.

    Args:
        found: System → its numbers.
        tune: System → mean AP on tune.
        title: Above the table.
        note: Below it.
    """
    rows = []
    for name, own in found.items():
        cells = [_value(own, metric) for _, metric in MAIN]
        rows.append((name, *cells, f"{tune[name]:.4f}"))
    return Grid(title, note, ("system", *(title for title, _ in MAIN), "mAP on tune"), tuple(rows))


def _value(own: Judged, metric: str) -> str:
    rows = own.results.rows(metric, class_name="", tail_group="")
    if not len(rows) or np.isnan(rows.iloc[0]["value"]):
        return "–"
    row = rows.iloc[0]
    if np.isnan(row["low"]):
        return f"{row['value']:.4f}"
    return f"{row['value']:.4f}\n[{row['low']:.4f}, {row['high']:.4f}]"


def difference_grid(differences: pd.DataFrame, *, title: str, note: str) -> Grid:
    """Return comparisons as words.

    Args:
        differences: Rows of `DIFFERENCES`.
        title: Above the table.
        note: Below it.
    """
    rows = [
        (
            str(row["system"]), str(row["against"]), SHORT[row["metric"]],
            interval_text(row["difference"], row["low"], row["high"]),
            "–" if np.isnan(row["p_holm"]) else p_text(row["p_holm"]).removeprefix("p ").removeprefix("= "),
            VERDICTS.get(row["verdict"], row["verdict"]),
        )
        for row in differences.to_dict("records")
    ]  # fmt: skip
    return Grid(title, note, ("system", "minus", "metric", "difference", "p, Holm", "verdict"), tuple(rows))


def origin_grid(run: SystemsRun) -> Grid:
    """Return where each recipe comes from and what it leaves out."""
    rows = []
    for member, arm in run.systems.arms.items():
        recipe = run.systems.recipes.get(member)
        if recipe is None:
            rows.append((member, "", "made for this study", ""))
            continue
        rows.append((member, str(arm.config.recipe), recipe.origin, recipe.leaves_out or "–"))
    return Grid("Whose ideas, and what is left out", "", ("member", "recipe", "origin", "leaves out"), tuple(rows))


def made_grid(run: SystemsRun) -> Grid:
    """Return how each system's scores are made."""
    config = run.systems.config
    rows = tuple(
        (name, ", ".join(config.members_of(name)), str(system.repeats), made_words(system))
        for name, system in config.systems.items()
    )
    return Grid("How the scores are made", "", ("system", "members", "repeats", "put together by"), rows)


def made_words(system: SystemConfig) -> str:
    """Say how a system puts its members together.

    Example:
        >>> made_words(SystemConfig(views="max", repeats=2, how="logits"))
        'views: max; mean of logits'
    """
    parts = []
    if system.views is not None:
        weight = f" {system.frontal_weight:g}" if system.views == "frontal" else ""
        parts.append(f"views: {system.views}{weight}")
    count = (1 if system.members is None else len(system.members)) * system.repeats
    pool = {"mean": "mean", "logits": "mean of logits", "rank": "mean of ranks", "median": "median"}[system.how]
    if system.switch_below is not None:
        parts.append(f"the second member for classes below {system.switch_below:g} of train")
    elif system.fit is not None:
        parts.append(f"{pool}, weights by {system.fit} on tune")
    elif count > 1:
        parts.append(pool)
    parts += [f"{rule.kind} if it helps on tune" for rule in system.rules]
    return "; ".join(parts) or "its scores as they are"


def markdown(run: SystemsRun, found: JudgedSystems) -> str:
    """Return the study as one Markdown page."""
    lines = [f"# {run.systems.title}", "", introduction(run), ""]
    lines += [grid.markdown() for grid in _grids(run, found)]
    lines += ["## Before you quote this", "", *(f"- {note}" for note in found.notes), ""]
    return "\n".join([*lines, cost_grid(_costs(run)).markdown()])


def text(run: SystemsRun, found: JudgedSystems) -> str:
    """Return the short version for a terminal: means, ensembles against members, costs."""
    grids = _grids(run, found)
    shown = [grids[0], *(grid for grid in grids if grid.title.startswith("Ensembles"))]
    lines = [introduction(run), "", *(grid.text() + "\n" for grid in shown)]
    return "\n".join([*lines, cost_grid(_costs(run)).text(), "", *(f"! {note}" for note in found.notes)])


def _grids(run: SystemsRun, found: JudgedSystems) -> list[Grid]:
    tune = {name: scores.tune_map for name, scores in run.scores.items()}
    chance = next(iter(found.systems.values())).results.value("ap_chance")
    grids = [
        main_grid(
            found.systems,
            tune,
            title="Systems on test",
            note=f"95 % intervals over resampled patients. An order by chance has mAP {chance:.4f}.",
        )
    ]
    if found.members:
        best = {f"{name}: {s.best_part}": s.parts_tune_map[s.best_part] for name, s in run.scores.items()}
        grids.append(main_grid(found.members, best, title="The best member of each ensemble, on test",
                               note="The best one on tune; on test another may be higher."))  # fmt: skip
    together = "All comparisons of this page are corrected together after Holm; intervals are not."
    is_member = found.differences["why"] == BEST_MEMBER
    for part, title in (
        (found.differences[is_member], "Ensembles against their best member"),
        (found.differences[~is_member], "Against the reference, and as asked"),
    ):
        if len(part):
            grids.append(difference_grid(part, title=title, note=together))
    grids += [_from_challenge(table) for table in found.tables[1:]]
    return [*grids, made_grid(run), origin_grid(run)]


def _from_challenge(table: SystemTable) -> Grid:
    columns = ("system", *(column.title for column in table.columns))
    rows = [
        (system, *("–" if not rank else f"{value:.4f} ({rank})" for value, rank in zip(values, ranks, strict=True)))
        for system, values, ranks in zip(table.systems, table.values, table.ranks, strict=True)
    ]
    if table.downwards:
        turned = list(zip(columns, *rows, strict=True))
        columns, rows = ("", *(str(cell) for cell in turned[0][1:])), [tuple(map(str, row)) for row in turned[1:]]
    return Grid(table.title, "In brackets the place.", tuple(columns), tuple(rows))


def _sections(run: SystemsRun, found: JudgedSystems) -> list[Section]:
    pages = [
        PageTable(
            grid.title,
            grid.columns,
            grid.rows,
            texts=tuple(
                n for n, name in enumerate(grid.columns) if name in ("origin", "leaves out", "put together by")
            ),
            note=grid.note,
        )
        for grid in [*_grids(run, found), cost_grid(_costs(run))]
    ]
    first = [page for page in pages if page.title.startswith(("Systems", "The best", "Ensembles", "Against"))]
    made = [page for page in pages if page.title.startswith(("How", "Whose", "Cost"))]
    rest = [page for page in pages if page not in first and page not in made]
    return [
        Section("scores", "Scores and differences", grids=tuple(first)),
        Section("challenge", "The challenge's tables", grids=tuple(rest)),
        Section("origins", "What the systems are", grids=tuple(made)),
    ]


def _references(run: SystemsRun) -> list[str]:
    texts = " ".join(recipe.origin for recipe in run.systems.recipes.values())
    cited = [match[0] for match in re.finditer(KEY, texts)]
    return ["lin2025", "holste2024", *cited, *(["wang2017"] if run.systems.edition.name.startswith("nih") else [])]


def _costs(run: SystemsRun) -> pd.DataFrame:
    return cost_table(facts_of(cells_of(run.systems, run.root)), list(run.systems.arms))


def _record(run: SystemsRun, found: JudgedSystems) -> dict[str, Any]:
    systems = run.systems
    value = {
        "name": systems.name,
        "title": systems.title,
        "config": config_to_dict(systems.config),
        "members": {
            name: {
                "recipe": arm.config.recipe,
                "origin": systems.recipes[name].origin if name in systems.recipes else None,
                "leaves_out": systems.recipes[name].leaves_out if name in systems.recipes else None,
            }
            for name, arm in systems.arms.items()
        },
        "systems": {
            name: {
                "tune_map": _number(scores.tune_map),
                "parts_tune_map": {part: _number(value) for part, value in scores.parts_tune_map.items()},
                "best_part": scores.best_part,
                "rules_kept": {
                    str(fold): [rule.kind for rule in own.trials.accepted]
                    for fold, own in scores.folds.items()
                    if own.trials is not None
                },
                "weights": {
                    str(fold): {"method": own.weights.method, "guard": own.weights.evidence.get("guard")}
                    for fold, own in scores.folds.items()
                    if own.weights is not None
                },
            }
            for name, scores in run.scores.items()
        },
        "tables": [table.to_json() for table in found.tables],
        "notes": list(found.notes),
        "manifest_digest": run.manifest.digest,
        "versions": versions(),
    }
    plain: dict[str, Any] = json.loads(json.dumps(value))
    return plain


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value
