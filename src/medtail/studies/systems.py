"""Challenge systems against each other: members trained, scores put together, judged by the challenge's protocol.

    DIR/plan.json            what the folder may go on with     DIR/folds/fold_K.csv   tables of outer folds
    DIR/cells/MEMBER/…       ordinary run folders               DIR/opened.json        when test was opened, for whom
    DIR/systems/NAME/        a system's scores, its weights and rules a fold

Members are cells of the study runner: resumed where they were cut off, spread over processes. Test is opened once, when
all of them are finished; systems that are made or changed afterwards are refused.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
from filelock import FileLock

from medtail.config import config_to_dict
from medtail.errors import MedtailError, Problems, UsageError, listing
from medtail.runs import read_json, write_json
from medtail.studies.ablation import Watch
from medtail.studies.arms import check_labels, differences
from medtail.studies.cells import Cell, failure_of
from medtail.studies.genaug_cells import pooled
from medtail.studies.protocol import settings_of
from medtail.studies.ray_cells import Cluster
from medtail.studies.running import Tally, run_cells
from medtail.studies.systems_assembly import Assembled, Pair, assemble
from medtail.studies.systems_config import OuterFolds, Systems
from medtail.tables.manifest import Manifest, read_manifest
from medtail.tables.outer_folds import outer_folds
from medtail.tables.predictions import Predictions
from medtail.tables.tail import ClassCounts, count_classes
from medtail.training.config import portable

PLAN, OPENED, FORMAT = "plan.json", "opened.json", "medtail-systems/1"
TUNE, TEST = "tune", "test"


@final
@dataclass(frozen=True, eq=False)
class SystemScores:
    """A system on all test rows.

    Attributes:
        test: Its scores, the rows of all folds behind one another.
        parts: Training → its scores on the same rows, with its views put together.
        tune_map: Mean AP of the system on tune, mean over folds; NaN where undefined.
        parts_tune_map: The same of each part: which is the best one is told by tune.
        folds: Fold → how the scores came about.
    """

    test: Predictions
    parts: Mapping[str, Predictions]
    tune_map: float
    parts_tune_map: Mapping[str, float]
    folds: Mapping[int, Assembled]

    @property
    def best_part(self) -> str:
        """The part with the highest mean AP on tune."""
        return max(self.parts_tune_map, key=lambda name: np.nan_to_num(self.parts_tune_map[name], nan=-1.0))


@final
@dataclass(frozen=True, eq=False)
class SystemsRun:
    """What became of a file of systems.

    Attributes:
        root: The folder.
        systems: What was asked.
        manifest: The table.
        tally: What came of the trainings.
        scores: System → its scores; empty where a training is missing.
        train_counts: Of the rows that were learnt from.
    """

    root: Path
    systems: Systems
    manifest: Manifest
    tally: Tally
    scores: Mapping[str, SystemScores]
    train_counts: ClassCounts

    @property
    def failures(self) -> dict[str, str]:
        """Training → why it failed."""
        return {cell.name: failure_of(cell) for cell in self.tally.failed}


def run_systems(
    systems: Systems,
    out: Path | str,
    *,
    workers: int = 1,
    cluster: Cluster | None = None,
    quiet: bool = False,
    watch: Watch | None = None,
) -> SystemsRun:
    """Train what is not trained yet, and make every system's scores on test.

    Args:
        systems: What is to be done.
        out: A new folder, or the one in which it was begun.
        workers: Processes to spread the trainings over.
        cluster: A Ray cluster to spread them over instead; None stays on this machine.
        quiet: Show no progress.
        watch: Given what is being done, returns what is told (done, total), or None.

    Returns:
        The scores; none where a training failed or is held by another command.

    Raises:
        UsageError: The folder holds something else, or what was begun there has changed.
        MedtailError: The table is not usable, its classes are not the task's, or a system is new after test was opened.
        KeyboardInterrupt: It was interrupted; the folder is consistent.
    """
    root = Path(out).absolute()
    manifest = _checked_manifest(systems)
    _begin(systems, manifest, root, watch=watch)
    _check_unopened(systems, root)
    cells = cells_of(systems, root)
    tally = run_cells(cells, workers=workers, cluster=cluster, quiet=quiet)
    scores = {} if len(tally.finished) < len(cells) else _score(systems, manifest, cells, root, watch=watch)
    return SystemsRun(root, systems, manifest, tally, scores, _train_counts(systems, manifest))


def cells_of(systems: Systems, root: Path) -> list[Cell]:
    """Return every training: the first repeats of all members first, then folds, so that early tables are of all.

    Args:
        systems: What is to be done.
        root: The study's folder.
    """
    config = systems.config
    most = max(config.repeats_of(member) for member in systems.arms)
    return [
        Cell(
            member,
            config.seed + repeat,
            fold,
            replace(arm.config, seed=config.seed + repeat, manifest=str(table_of(systems, root, fold))),
            root,
        )
        for repeat in range(most)
        for fold in fold_numbers(systems)
        for member, arm in systems.arms.items()
        if repeat < config.repeats_of(member)
    ]


def fold_numbers(systems: Systems) -> tuple[int, ...]:
    """Return the folds to run; one where the table's own folds are taken."""
    folds = systems.config.folds
    if not isinstance(folds, OuterFolds):
        return (0,)
    return folds.only if folds.only is not None else tuple(range(folds.num_folds))


def table_of(systems: Systems, root: Path, fold: int) -> Path:
    """Return the table that a fold's trainings learn from."""
    if isinstance(systems.config.folds, OuterFolds):
        return root / "folds" / f"fold_{fold}.csv"
    return Path(_first(systems).manifest)


def _first(systems: Systems) -> Any:
    return next(iter(systems.arms.values())).config


def _checked_manifest(systems: Systems) -> Manifest:
    config = _first(systems)
    table = read_manifest(config.manifest, groups=config.groups)
    reference = next(iter(systems.arms))
    manifest = check_labels(systems.arms, table, reference=reference, where=systems.name)
    wanted, there = systems.task.class_names, manifest.labels.class_names
    missing = [name for name in wanted if name not in there]
    if missing:
        raise MedtailError(
            f"{manifest.name}: lacks {listing([repr(name) for name in missing], limit=12)} of CXR-LT"
            f" {systems.edition.name}, task {systems.task.number}; expected a table that `medtail data import cxr_lt`"
            " or `… import nih_cxr --as cxr-lt` wrote."
        )
    if not isinstance(systems.config.folds, OuterFolds):
        manifest.check_folds("train", "tune", "test")
    return manifest


def _train_counts(systems: Systems, manifest: Manifest) -> ClassCounts:
    if isinstance(systems.config.folds, OuterFolds):  # every row is learnt from in all folds but one
        manifest = manifest.with_folds(np.full(len(manifest), "train", dtype=object))
    return count_classes(manifest).select(systems.task.class_names)


# --- the folder -------------------------------------------------------------------------------------------------------


def _begin(systems: Systems, manifest: Manifest, root: Path, *, watch: Watch | None) -> None:
    if root.exists() and not root.is_dir():
        raise UsageError(f"--out {root}: is a file; give a folder.")
    if not (root / PLAN).exists() and root.is_dir() and any(not p.name.startswith(".") for p in root.iterdir()):
        raise UsageError(f"--out {root}: is not empty and holds no systems; give a new folder.")
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(str(root / ".plan.lock")):
        known = read_json(root / PLAN) if (root / PLAN).exists() else None
        if known is not None:
            _check_same(systems, manifest, known, root)
        elif isinstance(systems.config.folds, OuterFolds):
            _write_folds(systems, manifest, root, watch)
        arms = {} if known is None else dict(known["members"])
        write_json(
            root / PLAN,
            {
                "format": FORMAT,
                "name": systems.name,
                "folds": _dealt(systems),
                "manifest_digest": manifest.digest,
                "members": arms
                | {
                    name: {"config": portable(arm.config, folder=root), "settings": arm.settings}
                    for name, arm in systems.arms.items()
                },
                "config": config_to_dict(systems.config),
            },
        )


def _dealt(systems: Systems) -> dict[str, Any]:
    """Return what decides the folds; which of them are run does not."""
    return {key: value for key, value in _plain(systems.config.folds).items() if key != "only"}


def _plain(config: Any) -> dict[str, Any]:
    """Return a config as a JSON file gives it back."""
    found: dict[str, Any] = json.loads(json.dumps(config_to_dict(config)))
    return found


def _check_same(systems: Systems, manifest: Manifest, known: Mapping[str, Any], root: Path) -> None:
    if known.get("format") != FORMAT:
        raise UsageError(f"--out {root}: holds another kind of study; give a new folder.")
    problems = Problems(str(root))
    if known["folds"] != _dealt(systems):
        problems.add(f"folds: found {_dealt(systems)}; the trainings there were made with {known['folds']}.")
    if known["manifest_digest"] != manifest.digest:
        problems.add(f"manifest {manifest.name}: has changed since the trainings began. Restore it, or begin anew.")
    for name, arm in systems.arms.items():
        if name not in known["members"]:
            continue
        for change in differences(settings_of(name, known["members"][name], root), arm.settings):
            problems.add(
                f"member {name!r}, {change.key}: found {change.arm!r}; it was trained with {change.base!r}. Give the"
                " changed member another name, or begin in a new folder."
            )
    problems.raise_if_any(kind=UsageError)


def _write_folds(systems: Systems, manifest: Manifest, root: Path, watch: Watch | None) -> None:
    folds = systems.config.folds
    assert isinstance(folds, OuterFolds), "asked where they are"
    duplicates = None
    if folds.duplicates:
        from medtail.pixels.decode import read_image
        from medtail.tables.duplicates import near_duplicate_groups

        manifest.check_files()
        tick: Any = None if watch is None else watch("looking for near-duplicates")
        duplicates = near_duplicate_groups(manifest.image_paths(), read=read_image, progress=tick)
    parts = outer_folds(
        manifest, num_folds=folds.num_folds, tune=folds.tune, reward=0.0, seed=folds.seed, duplicate_groups=duplicates
    )
    config = _first(systems)
    table = read_manifest(config.manifest, groups=config.groups)
    for k, part in enumerate(parts):
        table.with_folds(part.folds).write(table_of(systems, root, k))


def _check_unopened(systems: Systems, root: Path) -> None:
    if not (root / OPENED).exists():
        return
    record, asked = read_json(root / OPENED), _asked(systems)
    changed = [name for name in {**asked, **record["systems"]} if asked.get(name) != record["systems"].get(name)]
    if changed or list(record["folds"]) != list(fold_numbers(systems)):
        what = listing(changed, limit=12) if changed else "other folds"
        raise MedtailError(
            f"{root}: test was opened on {record['time']}; {what} would be made with its scores in view. Keep the"
            " systems and folds as they were, or begin in a new folder."
        )


def _asked(systems: Systems) -> dict[str, Any]:
    """Return what decides the systems' scores, as plain values."""
    return {
        name: {
            **{key: value for key, value in _plain(system).items() if key not in ("notes", "against")},
            "members": list(systems.config.members_of(name)),
        }
        for name, system in systems.config.systems.items()
    }


# --- scores -----------------------------------------------------------------------------------------------------------


def _score(
    systems: Systems, manifest: Manifest, cells: list[Cell], root: Path, *, watch: Watch | None
) -> dict[str, SystemScores]:
    """Open test, put every system together in every fold, and keep what came of it."""
    from medtail.training.predict import predict

    tick: Callable[[int, int], None] | None = None if watch is None else watch("scoring test")
    for number, cell in enumerate(cells):
        if not cell.predictions(TEST).exists():
            table = read_manifest(cell.config.manifest, groups=cell.config.groups)
            predict(cell.folder, table, fold=TEST, allow_batch_dependent=True, quiet=True).write(cell.predictions(TEST))
        if tick is not None:
            tick(number + 1, len(cells))
    if not (root / OPENED).exists():
        told = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        write_json(root / OPENED, {"time": told, "folds": list(fold_numbers(systems)), "systems": _asked(systems)})
    by = {(cell.arm, cell.seed, cell.fold): Pair(cell.scores(TUNE), cell.scores(TEST)) for cell in cells}
    found = {}
    for name in systems.config.systems:
        made = {fold: _assembled(systems, name, by, manifest, fold) for fold in fold_numbers(systems)}
        found[name] = _gathered(name, made)
        _keep(found[name], root / "systems" / name)
    return found


def _assembled(
    systems: Systems, name: str, by: Mapping[tuple[str, int, int], Pair], manifest: Manifest, fold: int
) -> Assembled:
    config = systems.config
    members = {
        member: [by[member, config.seed + k, fold] for k in range(config.systems[name].repeats)]
        for member in config.members_of(name)
    }
    return assemble(name, config.systems[name], members, manifest, seed=config.judge.seed)


def _gathered(name: str, made: Mapping[int, Assembled]) -> SystemScores:
    from medtail.training.callbacks import tune_quality

    def quality(tables: list[Predictions]) -> float:
        values = [tune_quality(table.scores, table.targets)[0] for table in tables]
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else float("nan")

    folds = list(made.values())
    parts = list(folds[0].parts)
    return SystemScores(
        test=pooled([fold.scores.test for fold in folds], name=name),
        parts={part: pooled([fold.parts[part].test for fold in folds], name=part) for part in parts},
        tune_map=quality([fold.scores.tune for fold in folds]),
        parts_tune_map={part: quality([fold.parts[part].tune for fold in folds]) for part in parts},
        folds=made,
    )


def _keep(scores: SystemScores, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    scores.test.write(folder / "predictions_test.parquet")
    for number, fold in scores.folds.items():
        fold.scores.tune.write(folder / f"predictions_tune_fold_{number}.parquet")
        if fold.weights is not None:
            fold.weights.write(folder / f"weights_fold_{number}.json")
        if fold.trials is not None:
            fold.trials.write(folder / f"rules_fold_{number}.json")
