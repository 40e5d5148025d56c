"""A study's files: long tables for machines, one JSON with everything around them, one Markdown page.

    DIR/tables.csv       every value of every arm          DIR/costs.csv   what the arms cost
    DIR/differences.csv  every arm against the reference   DIR/study.json  settings, cells, verdicts, cautions
    DIR/effects.csv      effects of a factorial, where the arms are one
    DIR/study.md         the tables a person reads         DIR/study.html  the same with figures (`page`)

`tables.csv` and `differences.csv` hold no times: the same study gives the same bytes, however often it was cut off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from medtail.runs import atomic_path, versions, write_json, write_text
from medtail.studies.cells import STATES, Cell, state_of
from medtail.studies.factorial_grids import effect_grids, finding_grid, report_grids
from medtail.studies.grids import (
    Grid,
    class_grids,
    cost_grid,
    difference_grid,
    group_grids,
    mean_grids,
    verdict_grid,
)
from medtail.studies.judged import STUDY_EFFECTS, Judged
from medtail.studies.protocol import Study
from medtail.studies.words import Verdict, set_words


def write_tables(
    root: Path,
    study: Study,
    judged: Sequence[Judged],
    *,
    found: Mapping[str, Sequence[Verdict]],
    said: Sequence[str],
    costs: pd.DataFrame,
    cells: Sequence[Cell],
    failed: Mapping[str, str],
    opened: Mapping[str, Any],
) -> None:
    """Write every file but the page, each atomically.

    Args:
        root: The study's folder.
        study: The study.
        judged: What was judged, the most important set first.
        found: Set → verdicts.
        said: Cautions.
        costs: From `grids.cost_table`.
        cells: All cells.
        failed: Cell → why.
        opened: When sets beyond tune were opened.
    """
    for name, table in (
        ("tables.csv", pd.concat([one.values for one in judged], ignore_index=True)),
        ("differences.csv", pd.concat([one.differences for one in judged], ignore_index=True)),
        ("costs.csv", costs),
    ):
        with atomic_path(root / name) as path:
            table.to_csv(path, index=False, lineterminator="\n")
    effects = [one.effects.table.assign(judged=one.name) for one in judged if one.effects is not None]
    if effects:
        with atomic_path(root / "effects.csv") as path:
            pd.concat(effects)[list(STUDY_EFFECTS)].to_csv(path, index=False, lineterminator="\n")
    write_json(root / "study.json", _record(study, judged, found, said, cells, failed, opened))
    write_text(root / "study.md", markdown(study, judged, found=found, said=said, costs=costs))


def markdown(
    study: Study,
    judged: Sequence[Judged],
    *,
    found: Mapping[str, Sequence[Verdict]],
    said: Sequence[str],
    costs: pd.DataFrame,
) -> str:
    """Return the study as one Markdown page."""
    lines = [f"# {study.title}", "", introduction(study), ""]
    for one in judged:
        lines += [f"## On {set_words(study, one.name)}", ""]
        lines += [grid.markdown() for grid in grids_of(study, one, found[one.name])]
    lines += ["## Before you quote this", "", *(f"- {caution}" for caution in said), ""]
    return "\n".join([*lines, cost_grid(costs).markdown()])


def grids_of(study: Study, judged: Judged, found: Sequence[Verdict]) -> list[Grid]:
    """Return the tables of one set of images, in the order of reading."""
    grids = [verdict_grid(study, judged, found)] if judged.comparison is not None else []
    expected = finding_grid(study, judged)
    grids += [*([expected] if expected is not None else []), *effect_grids(study, judged), *report_grids(study, judged)]
    grids += [*mean_grids(study, judged), *group_grids(study, judged), *class_grids(study, judged)]
    differences = difference_grid(study, judged)
    return [*grids, differences] if differences is not None else grids


def introduction(study: Study) -> str:
    """Say in two sentences what was done."""
    counted = {"arm": len(study.arms), "training seed": len(study.seeds), "fold": study.num_folds}
    parts = [f"{n} {word}{'' if n == 1 else 's'}" for word, n in counted.items()]
    trained = len(study.arms) * len(study.seeds) * study.num_folds
    manifest = study.manifest
    return (
        f"{', '.join(parts[:-1])} and {parts[-1]}: {trained} trainings. {len(manifest):,} images of"
        f" {len(set(manifest.patients)):,} patients in {manifest.name}; {manifest.labels.num_classes} classes."
    )


def text(study: Study, judged: Judged, found: Sequence[Verdict], costs: pd.DataFrame) -> str:
    """Return the short version for a terminal: means, verdicts, costs."""
    grids = [*report_grids(study, judged)[:1], mean_grids(study, judged)[0]]
    lines = [grid.text() + "\n" for grid in grids]
    if judged.effects is not None:
        lines += [*(f"{one.about}: {one.claim}: {one.holds}. {one.sentence}." for one in judged.effects.findings), ""]
    lines += [f"{verdict.arm}: {verdict.word}. {verdict.sentence}" for verdict in found if len(found) > 1]
    if len(found) > 1:
        lines.append("")
    return "\n".join([*lines, cost_grid(costs).text()])


def states_text(study: Study, cells: Sequence[Cell]) -> str:
    """Return how far each arm is, as aligned columns."""
    states = {cell.name: state_of(cell) for cell in cells}
    rows = []
    for arm in study.arms:
        own = [states[cell.name] for cell in cells if cell.arm == arm]
        rows.append((arm, *(str(own.count(state)) for state in STATES), str(len(own))))
    return Grid("Cells", "", ("arm", *STATES, "all"), tuple(rows)).text()


def _record(
    study: Study,
    judged: Sequence[Judged],
    found: Mapping[str, Sequence[Verdict]],
    said: Sequence[str],
    cells: Sequence[Cell],
    failed: Mapping[str, str],
    opened: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        "name": study.name,
        "title": study.title,
        "kind": study.kind,
        "arms": {name: [change.text() for change in arm.changes] for name, arm in study.arms.items()},
        "reference": study.reference,
        "seeds": list(study.seeds),
        "num_folds": study.num_folds,
        "factors": {name: list(arms) for name, arms in study.factors.items()},
        "judged": {
            one.name: {
                "images": set_words(study, one.name),
                "verdicts": {v.arm: {"verdict": v.word, "sentence": v.sentence, "classes": v.classes}
                             for v in found[one.name]},
                "comparison": dict(one.header),
                **({} if one.effects is None else {"findings": [finding.__dict__ for finding in one.effects.findings]}),
            }
            for one in judged
        },
        "cautions": list(said),
        "cells": {cell.name: state_of(cell) for cell in cells},
        "failed": dict(failed),
        "opened": dict(opened),
        "versions": versions(),
    }  # fmt: skip
