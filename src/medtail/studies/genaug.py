"""A study of generated images: tables, generators, pools, trainings at equal steps, and one honest page.

    DIR/plan.json     what the folder was begun with       DIR/generators/   DIR/pools/   DIR/cells/
    DIR/data/         the track's tables                   DIR/genaug.html   and the other files of `genaug_page`

Every step is left as it is once it is there, so a study that was cut off goes on with the same command.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from filelock import FileLock

from medtail.config import build_config, config_to_dict
from medtail.errors import Problems, UsageError
from medtail.runs import read_json, write_json
from medtail.studies.arms import differences
from medtail.studies.cells import Cell, failure_of
from medtail.studies.genaug_arms import GenaugPlan, contrasts_of, plan_arms
from medtail.studies.genaug_cells import cells_of, check_opened, open_test
from medtail.studies.genaug_config import GenaugConfig
from medtail.studies.genaug_findings import Evidence, Finding, findings
from medtail.studies.genaug_gates import pass_gates
from medtail.studies.genaug_material import Material, make_material
from medtail.studies.genaug_page import summary, write_genaug
from medtail.studies.genaug_scores import TESTED, Contrast, answer, measure, resamples_for
from medtail.studies.genaug_tracks import make_tables
from medtail.studies.ray_cells import Cluster
from medtail.studies.running import Tally, run_cells
from medtail.tables.tail import tail_groups

PLAN, FORMAT = "plan.json", "medtail-genaug/1"
FREE_TO_CHANGE = ("arms", "contrasts", "seeds", "judge", "inspect", "title")
"""Keys in which a later command may differ: they change no training that is there."""
Watch = Callable[[str], Callable[[int, int], None] | None]


@final
@dataclass(frozen=True)
class GenaugOutcome:
    """What a study came to.

    Attributes:
        root: Its folder.
        plan: Its arms.
        tally: What came of the cells.
        evidence: What was measured; None while cells are missing.
        rows: Of the plan.
        summary: The short version for a terminal.
    """

    root: Path
    plan: GenaugPlan
    tally: Tally
    evidence: Evidence | None
    rows: tuple[Finding, ...]
    summary: str

    @property
    def failures(self) -> dict[str, str]:
        """Cell → why it failed."""
        return {cell.name: failure_of(cell) for cell in self.tally.failed}


def run_genaug(
    config: GenaugConfig,
    out: Path | str,
    *,
    workers: int = 1,
    cluster: Cluster | None = None,
    quiet: bool = False,
    watch: Watch | None = None,
) -> GenaugOutcome:
    """Do what is not done yet, then judge and write.

    Args:
        config: The study.
        out: A new folder, or the one in which it was begun.
        workers: Processes to spread the trainings over.
        cluster: A Ray cluster to spread them over instead; None stays on this machine.
        quiet: Show no progress of the trainings.
        watch: Given what is being done, returns what is told (done, total), or None.

    Returns:
        What it came to. Where cells failed, or another command holds some, nothing is judged and test stays shut.

    Raises:
        UsageError: The study has mistakes, or is not the one begun in the folder.
        MedtailError: Images are not usable, or a generator diverged.
        KeyboardInterrupt: It was interrupted; the folder is consistent.
    """
    config = build_config(GenaugConfig, config_to_dict(config), where="config")
    root = Path(out).absolute()
    _begin(config, root)
    tables = make_tables(config.track, root, watch=watch)
    names = tables.manifest(0).labels.class_names
    plan = plan_arms(config, names)
    check_opened(root, list(plan.arms))
    material = Material(config, root, tables)
    first = [arm for arm in plan.trainings.values() if not arm.replays]
    later = [arm for arm in plan.trainings.values() if arm.replays]

    def cells(arms: Sequence[Any]) -> list[Cell]:
        return cells_of(config, arms, table=material.table, root=root, folds=tables.num_folds)

    make_material(material, plan, watch=watch)
    tally = run_cells(cells(first), workers=workers, cluster=cluster, quiet=quiet)
    if later and len(tally.finished) == len(cells(first)):  # replays need what the others have learnt
        more = run_cells(cells(later), workers=workers, cluster=cluster, quiet=quiet)
        tally = Tally(
            (*tally.finished, *more.finished), (*tally.failed, *more.failed), (*tally.elsewhere, *more.elsewhere)
        )
    wanted = len(plan.trainings) * len(config.seeds) * tables.num_folds
    if len(tally.finished) < wanted:
        told = f"{len(tally.finished)} of {wanted} trainings are finished; test stays shut until all are."
        return GenaugOutcome(root, plan, tally, None, (), told)
    pass_gates(material, cells(first), watch=watch)
    return _judge(material, plan, tally, cells([*first, *later]), watch=watch)


def _begin(config: GenaugConfig, root: Path) -> None:
    """Fix the study in its folder, or check that it is the one that was begun there."""
    if root.exists() and not root.is_dir():
        raise UsageError(f"--out {root}: is a file; give a folder.")
    if not (root / PLAN).exists() and root.is_dir() and any(not p.name.startswith(".") for p in root.iterdir()):
        raise UsageError(f"--out {root}: is not empty and holds no such study; give a new folder, or that of a study.")
    root.mkdir(parents=True, exist_ok=True)
    now = {key: value for key, value in config_to_dict(config).items() if key not in FREE_TO_CHANGE}
    with FileLock(str(root / ".plan.lock")):
        if not (root / PLAN).exists():
            write_json(root / PLAN, {"format": FORMAT, "config": now})
            return
        value = read_json(root / PLAN)
        if value.get("format") != FORMAT:
            raise UsageError(f"--out {root}: holds another kind of study; give a new folder.")
        problems = Problems(str(root))
        for change in differences(value["config"], now):
            problems.add(f"{change.key}: found {change.arm!r}; the study began with {change.base!r}. Begin a new one.")
        problems.raise_if_any(kind=UsageError)


def _judge(
    material: Material, plan: GenaugPlan, tally: Tally, cells: Sequence[Cell], *, watch: Watch | None
) -> GenaugOutcome:
    config, root = material.config, material.root
    tick = None if watch is None else watch("scoring test")
    scored = open_test(plan, cells, root, config.seeds, tick=tick)
    counts = material.tables.counts()
    labels = material.tables.manifest(0).labels
    groups = tail_groups(counts, labels=labels, rule=config.judge.tail_rule, cuts=config.judge.tail_cuts)
    pairs = contrasts_of(plan, config.contrasts)
    contrasts = [Contrast(arm, against, metric) for metric in TESTED for arm, against in pairs]
    resamples = resamples_for(len(contrasts), interval=config.judge.interval, asked=config.judge.bootstrap)
    how: dict[str, Any] = {
        "groups": groups, "resamples": resamples, "interval": config.judge.interval, "seed": config.judge.seed,
    }  # fmt: skip
    measured = measure(scored["arms"], **how)
    points = {name: scored["trainings"][name] for _, name in plan.curve()}
    evidence = Evidence(
        plan=plan,
        material=material,
        measured=measured,
        curve=measure(points, **how) if points else None,
        differences=answer(measured, contrasts),
        alpha=1.0 - config.judge.interval,
    )
    rows = tuple(findings(evidence))
    write_genaug(root, evidence, rows, groups)
    return GenaugOutcome(root, plan, tally, evidence, rows, summary(evidence, rows))
