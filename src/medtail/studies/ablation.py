"""The verb of a study: fix the plan, run the cells, judge, write. Whatever kind of study it is.

`medtail study ablate` reads a study's file; `cv` makes one of a training (`cv`). Both end here, and so may further
kinds that are arms x seeds x folds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np

from medtail.errors import MedtailError
from medtail.studies.arms import resolve_arms
from medtail.studies.cells import Cell, facts_of, failure_of
from medtail.studies.config import load_study
from medtail.studies.grids import cost_table
from medtail.studies.judged import Judged, judge
from medtail.studies.page import write_study_page
from medtail.studies.protocol import Study, begin, check_study, needs_duplicates, read_study
from medtail.studies.ray_cells import Cluster
from medtail.studies.running import Tally, run_cells
from medtail.studies.scores import ScoredSet, check_unopened, final_sets, opened, tune_set, whole_seeds
from medtail.studies.tables import text, write_tables
from medtail.studies.words import Verdict, cautions, verdicts

Watch = Callable[[str], Callable[[int, int], None] | None]


@final
@dataclass(frozen=True)
class StudyOutcome:
    """What a study came to.

    Attributes:
        root: Its folder.
        study: The study.
        tally: What came of the cells.
        judged: Sets of images judged, that of the verdicts first; empty where no arm is finished.
        verdicts: Set → what is known of each arm.
        summary: The short version for a terminal.
    """

    root: Path
    study: Study
    tally: Tally
    judged: tuple[Judged, ...]
    verdicts: Mapping[str, Sequence[Verdict]]
    summary: str

    @property
    def failures(self) -> dict[str, str]:
        """Cell → why it failed."""
        return {cell.name: failure_of(cell) for cell in self.tally.failed}


def ablation_study(path: Path | str, *, overrides: Sequence[str] = (), seeds: Sequence[int] | None = None) -> Study:
    """Read a study's file and resolve its arms.

    Args:
        path: The YAML file.
        overrides: Texts such as `judge.fold=test`, laid over its keys.
        seeds: Training seeds instead of the file's.

    Raises:
        UsageError: The file, its training or an arm has mistakes; all are named.
    """
    path = Path(path)
    config, base = load_study(path, overrides=overrides)
    if seeds is not None:
        config = replace(config, seeds=tuple(seeds))
    return Study(
        name=path.name,
        title=config.title or path.stem.replace("_", " "),
        kind="ablation",
        arms=resolve_arms(base, config.arms, where=path.name),
        reference=config.lead,
        seeds=config.seeds,
        folds=config.folds,
        judge=config.judge,
        external={name: part for name, part in config.external.items() if not isinstance(part, str)},
        equal=config.equal,
        factors=config.factors,
    )


def run_study(
    study: Study,
    out: Path | str,
    *,
    workers: int = 1,
    cluster: Cluster | None = None,
    quiet: bool = False,
    watch: Watch | None = None,
) -> StudyOutcome:
    """Run what is not finished of a study, judge it and write its tables and page.

    A finished cell is never run again, one that was cut off goes on, one that failed is tried anew. Where cells
    remain (failed, or being run by another command) the tables are of what is finished, and neither test nor external
    images are opened.

    Args:
        study: What is to be done.
        out: A new folder, or the one in which it was begun.
        workers: Processes to spread the cells over.
        cluster: A Ray cluster to spread them over instead; None stays on this machine.
        quiet: Show no progress.
        watch: Given what is being done, returns what is told (done, total), or None.

    Returns:
        What it came to.

    Raises:
        UsageError: The study is no fair comparison, or not the one begun in the folder.
        MedtailError: Its tables are not usable, or an arm is new after test was opened.
        KeyboardInterrupt: It was interrupted; the folder is consistent.
    """
    root = begin_study(study, out, watch=watch)
    tally = run_cells(study.cells(root), workers=workers, cluster=cluster, quiet=quiet)
    return judge_study(study, root, tally, watch=watch)


def begin_study(study: Study, out: Path | str, *, watch: Watch | None = None) -> Path:
    """Check a study, and make its folder or find it again.

    Args:
        study: The study.
        out: A new folder, or the one in which it was begun.
        watch: Given what is being done, returns what is told (done, total), or None.

    Returns:
        The folder, as an absolute path.

    Raises:
        UsageError: The study is no fair comparison, or not the one begun in the folder.
        MedtailError: Its tables are not usable, or an arm is new after test was opened.
    """
    root = Path(out).absolute()
    check_study(study)
    begin(study, root, duplicates=study_duplicates(study, watch) if needs_duplicates(study, root) else None)
    check_unopened(study, root)
    return root


def judge_study(study: Study, root: Path, tally: Tally, *, watch: Watch | None = None) -> StudyOutcome:
    """Judge what is finished and write it; open test and external images if everything is.

    Args:
        study: The study.
        root: Its folder.
        tally: What came of its cells.
        watch: Given what is being done, returns what is told (done, total), or None.

    Raises:
        MedtailError: Scores are missing or damaged.
    """
    cells = study.cells(root)
    seeds = whole_seeds(study, root)
    if not any(seeds.values()):
        return StudyOutcome(root, study, tally, (), {}, "no arm is finished yet.")
    tune = tune_set(study, root, seeds)
    is_whole = len(tally.finished) == len(cells)
    sets = final_sets(study, root, tune, tick=watch) if is_whole else []
    judged = [
        judge(scored, reference=study.reference, config=study.judge, design=study.design) for scored in [tune, *sets]
    ]
    if study.judge.fold == "test" and is_whole:  # the set of the verdicts first
        judged.sort(key=lambda one: one.name != "test")
    failed = {cell.name: failure_of(cell) for cell in tally.failed}
    found = {one.name: verdicts(study, one) for one in judged}
    unfinished = len(cells) - len(tally.finished) - len(failed)
    facts = facts_of(cells)
    mates = list(dict.fromkeys(str(fact["arm"]) for fact in facts if fact.get("batch_dependent")))
    said = cautions(study, judged, failed=failed, unfinished=unfinished, batch_dependent=mates)
    costs = cost_table(facts, list(study.arms))
    write_tables(
        root, study, judged, found=found, said=said, costs=costs, cells=cells, failed=failed, opened=opened(root)
    )
    by_name: dict[str, ScoredSet] = {scored.name: scored for scored in [tune, *sets]}
    write_study_page(
        root / "study.html", study, [(one, by_name[one.name]) for one in judged], found=found, said=said, costs=costs
    )
    summary = text(study, judged[0], found[judged[0].name], costs)
    return StudyOutcome(root, study, tally, tuple(judged), found, summary)


def show_study(root: Path | str) -> tuple[Study, list[Cell], str]:
    """Return a study, its cells, and the tables of what is finished. Opens nothing, writes nothing.

    Args:
        root: The study's folder.

    Raises:
        UsageError: It holds no study.
        MedtailError: It is damaged.
    """
    root = Path(root).absolute()
    study = read_study(root)
    cells = study.cells(root)
    seeds = whole_seeds(study, root)
    if not any(seeds.values()):
        return study, cells, "no arm has all folds of a seed yet."
    judged = judge(tune_set(study, root, seeds), reference=study.reference, config=study.judge, design=study.design)
    return study, cells, text(study, judged, verdicts(study, judged), cost_table(facts_of(cells), list(study.arms)))


def study_duplicates(study: Study, watch: Watch | None) -> np.ndarray:
    """Return the group of each row that shows the same picture, for the folds of a cross-validation."""
    from medtail.pixels.decode import read_image
    from medtail.tables.duplicates import near_duplicate_groups

    study.manifest.check_files()
    tick: Any = None if watch is None else watch("looking for near-duplicates")
    return near_duplicate_groups(study.manifest.image_paths(), read=read_image, progress=tick)


def failure_text(failures: Mapping[str, str]) -> str:
    """Name the cells that failed and why, a line each reason.

    Example:
        >>> failure_text({"full/seed_0/fold_0": "diverged", "bare/seed_0/fold_0": "diverged"})
        '2 cells failed:\\n  full/seed_0/fold_0 and 1 more: diverged'
    """
    reasons: dict[str, list[str]] = {}
    for name, why in failures.items():
        reasons.setdefault(why.splitlines()[0], []).append(name)
    lines = [
        f"  {names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {why}"
        for why, names in reasons.items()
    ]
    return "\n".join([f"{len(failures)} cell{'' if len(failures) == 1 else 's'} failed:", *lines])


def raise_for_failures(outcome: StudyOutcome) -> None:
    """Raise one error that names every failed cell, if there are any.

    Raises:
        MedtailError: Cells failed.
    """
    if outcome.failures:
        raise MedtailError(f"{failure_text(outcome.failures)}\nThe others are in the tables; run it again to retry.")
