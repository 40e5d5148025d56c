"""Systems on test by the challenge's protocol, and which differences between them are more than noise.

Three questions are asked of each system: against the reference, against the system its file names, and, for an
ensemble, against its best member. Which member is the best one is told by tune: the best on test would have been chosen
with the answer in view. All comparisons share their resampled patients and are corrected together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import pandas as pd

from medtail.challenges.cxr_lt import Judged, judge_submission
from medtail.challenges.cxr_lt_comparison import COMPARED, SystemTable, challenge_tables
from medtail.challenges.cxr_lt_submission import Submission
from medtail.challenges.cxr_lt_truth import Truth
from medtail.judging.comparison import COMFORT, ComparisonConfig, compare
from medtail.judging.comparison_rows import verdict_of
from medtail.judging.pvalues import holm, resamples_needed
from medtail.judging.thresholds import choose_thresholds
from medtail.studies.systems import SystemScores, SystemsRun
from medtail.studies.systems_config import SystemsConfig
from medtail.tables.predictions import Predictions

REFERENCE, AGAINST, BEST_MEMBER = "reference", "asked", "best member on tune"
DIFFERENCES = (
    "system", "against", "why", "metric", "difference", "low", "high", "p", "p_holm", "verdict", "smallest_detectable",
    "support",
)  # fmt: skip


@final
@dataclass(frozen=True, eq=False)
class JudgedSystems:
    """What test says.

    Attributes:
        systems: System → its scores by the challenge's protocol.
        members: `SYSTEM: PART` → the same of the best member of each ensemble.
        differences: `DIFFERENCES`, a row a comparison and metric.
        tables: The challenge's tables.
        notes: What a reader must know.
    """

    systems: Mapping[str, Judged]
    members: Mapping[str, Judged]
    differences: pd.DataFrame
    tables: tuple[SystemTable, ...]
    notes: tuple[str, ...]


def judge_systems(run: SystemsRun, *, threads: int | None = None) -> JudgedSystems:
    """Judge every system on test and compare them.

    Args:
        run: With scores of every system.
        threads: Worker threads; no effect on the numbers.

    Returns:
        Values with intervals, differences, tables.

    Raises:
        MedtailError: The rows have no labels of the task's classes.
    """
    assert run.scores, "asked when every training is finished"
    truth = truth_of(run)
    judged = {name: _judged(run, truth, scores.test, scores, threads) for name, scores in run.scores.items()}
    members = {
        f"{name}: {scores.best_part}": _judged(run, truth, scores.parts[scores.best_part], None, threads)
        for name, scores in run.scores.items()
        if len(scores.parts) > 1
    }
    first = next(iter(judged.values()))
    tables = challenge_tables(
        {name: found.results for name, found in judged.items()},
        task=run.systems.task,
        groups=first.groups,
        critical=first.results.header["challenge"]["critical"],
    )
    differences = _differences(run, judged, members, threads)
    return JudgedSystems(judged, members, differences, tables, _notes(run, first))


def truth_of(run: SystemsRun) -> Truth:
    """Return the labels of all test rows, the task's classes only."""
    table = next(iter(run.scores.values())).test
    names = run.systems.task.class_names
    columns = [table.labels.index(name) for name in names]
    return Truth(
        name=f"test of {run.manifest.name}",
        image_ids=table.image_ids,
        patients=table.patients,
        targets=table.targets[:, columns],
        class_names=names,
        has_patients=table.has_patients,
        digest=run.manifest.digest,
    )


def _judged(run: SystemsRun, truth: Truth, table: Predictions, own: SystemScores | None, threads: int | None) -> Judged:
    names, config = truth.class_names, run.systems.config.judge
    columns = [table.labels.index(name) for name in names]
    limits = None
    if own is not None and len(own.folds) == 1:  # several folds have thresholds each
        chosen = choose_thresholds(next(iter(own.folds.values())).scores.tune)
        limits = {name: chosen[name] for name in names}
    return judge_submission(
        truth,
        Submission(table.name, table.image_ids, table.scores[:, columns], names),
        edition=run.systems.edition,
        task=run.systems.config.task,
        ece=config.ece,
        absent="nan",
        bootstrap=config.bootstrap,
        seed=config.seed,
        critical=config.critical,
        thresholds=limits,
        train_counts=run.train_counts,
        threads=threads,
    )


def pairs_of(config: SystemsConfig, scores: Mapping[str, SystemScores]) -> list[tuple[str, str, str]]:
    """Return what is compared with what: (system, other, why); each pair once.

    Args:
        config: Names the reference and what systems are asked against.
        scores: Tell which ensembles there are, and their best member.
    """
    found: dict[tuple[str, str], str] = {}
    for name, own in scores.items():
        asked = config.systems[name].against
        if name != config.lead:
            found.setdefault((name, config.lead), REFERENCE)
        if asked is not None:
            found.setdefault((name, asked), AGAINST)
        if len(own.parts) > 1:
            found[name, f"{name}: {own.best_part}"] = BEST_MEMBER
    return [(name, other, why) for (name, other), why in found.items()]


def _differences(
    run: SystemsRun, judged: Mapping[str, Judged], members: Mapping[str, Judged], threads: int | None
) -> pd.DataFrame:
    settings = run.systems.config.judge
    pairs = pairs_of(run.systems.config, run.scores)
    if not pairs:
        return pd.DataFrame(columns=list(DIFFERENCES))
    plain = ComparisonConfig(metrics=COMPARED, levels=("macro",), seed=settings.seed)
    # with fewer resamples no difference, however large, could outlive the correction
    needed = COMFORT * resamples_needed(len(pairs) * len(COMPARED), alpha=plain.alpha)
    config = replace(plain, bootstrap=max(settings.bootstrap, needed))
    tables = {name: found.predictions for name, found in {**judged, **members}.items()}
    rows: list[dict[str, Any]] = []
    for name, other, why in pairs:
        found = compare({name: tables[name], other: tables[other]}, config=config, threads=threads).differences
        rows += [
            {
                **{str(key): value for key, value in row.items()},
                "system": row["system_a"],
                "against": row["system_b"],
                "why": why,
            }
            for row in found.to_dict("records")
        ]
    for row, corrected in zip(rows, holm(np.array([row["p"] for row in rows])), strict=True):
        row["p_holm"] = float(corrected)
        if not np.isnan(row["p"]):
            row["verdict"] = verdict_of(row, alpha=config.alpha)
    return pd.DataFrame(rows, columns=list(DIFFERENCES))


def _notes(run: SystemsRun, first: Judged) -> tuple[str, ...]:
    found = list(first.results.header["warnings"])
    cuts = run.systems.config.judge.tail_cuts
    if cuts is not None:
        found.append(
            f"Head and tail are cut at {cuts[0]:.0%} and {cuts[1]:.0%} of the train images, which is this study's"
            " choice, not the challenge's."
        )
    for name, scores in run.scores.items():
        told = run.systems.config.systems[name].notes
        if told:
            found.append(f"{name}: {told}")
        counted: dict[str, list[int]] = {}
        for fold, own in scores.folds.items():
            for note in own.notes:
                counted.setdefault(note, []).append(fold)
        for note, folds in counted.items():
            where = "" if len(folds) == len(scores.folds) else f" (fold {', '.join(map(str, folds))})"
            found.append(f"{name}: {note}{where}.")
    return tuple(dict.fromkeys(found))
