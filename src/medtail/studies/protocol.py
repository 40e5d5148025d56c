"""What a study is, fixed in its folder before the first step: arms, seeds, folds, and which table they are of.

    DIR/plan.json         everything; what the folder may go on with
    DIR/folds/fold_K.csv  the table of a cross-validation's fold

A later command may bring further arms and seeds, and judge otherwise. Changed arms, folds or labels are refused, with
what changed: the cells that are there would not be what the tables say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy as np
from filelock import FileLock

from medtail.config import build_config, config_to_dict
from medtail.errors import MedtailError, Problems, UsageError
from medtail.pixels.store import regions
from medtail.runs import read_json, sweep, write_json
from medtail.studies.arms import Arm, Change, check_budgets, check_labels, differences
from medtail.studies.cells import Cell, resolved_config
from medtail.studies.config import (
    CrossValidationFolds,
    EqualConfig,
    ExternalConfig,
    FixedFolds,
    FoldsConfig,
    JudgeConfig,
)
from medtail.studies.decoding import check_protocol
from medtail.studies.factorial import Design, design_of
from medtail.tables.folds import cross_validation_folds, protocol_record
from medtail.tables.manifest import Manifest, read_manifest
from medtail.tables.tail import ClassCounts, count_classes
from medtail.training.config import portable, select_classes

PLAN = "plan.json"
FORMAT = "medtail-study/1"


@final
@dataclass(frozen=True)
class Study:
    """What is to be done, resolved.

    Attributes:
        name: For messages: the file's name.
        title: Of its page.
        kind: `ablation` or `cross_validation`, or what a further kind of study calls itself.
        arms: In the order of the tables.
        reference: The arm the others are compared with.
        seeds: Training seeds.
        folds: How rows are shared out.
        judge: How to judge.
        external: Name → other images.
        equal: What arms must have alike.
        factors: Factor → arms that have it; empty where the arms are no factorial.
    """

    name: str
    title: str
    kind: str
    arms: Mapping[str, Arm]
    reference: str
    seeds: tuple[int, ...]
    folds: FoldsConfig = field(default_factory=FixedFolds)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    external: Mapping[str, ExternalConfig] = field(default_factory=dict)
    equal: EqualConfig = field(default_factory=EqualConfig)
    factors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def design(self) -> Design | None:
        """The factorial that the arms are; None if they are none."""
        return design_of(self.factors, self.arms) if self.factors else None

    @property
    def num_folds(self) -> int:
        """Folds, each a training of its own."""
        return self.folds.num_folds if isinstance(self.folds, CrossValidationFolds) else 1

    @property
    def is_cross_validated(self) -> bool:
        """Whether the tune scores of all folds together cover every image once."""
        return isinstance(self.folds, CrossValidationFolds)

    @cached_property
    def manifest(self) -> Manifest:
        """The table, with the classes that are learnt."""
        config = self.arms[self.reference].config
        return select_classes(read_manifest(config.manifest, groups=config.groups), config.classes)

    @cached_property
    def train_counts(self) -> ClassCounts:
        """Class counts of what is learnt from: the train fold, or all folds of a cross-validation together."""
        if not self.is_cross_validated:
            return count_classes(self.manifest)
        learnt = ~np.isin(self.manifest.folds.astype(str), ("test", "reward"))
        return count_classes(self.manifest.with_folds(np.where(learnt, "train", self.manifest.folds)))

    def cells(self, root: Path) -> list[Cell]:
        """Return every cell, the seeds one after another, then the folds: early tables are of all arms."""
        config = {name: arm.config for name, arm in self.arms.items()}
        tables = [self.fold_file(root, k) for k in range(self.num_folds)]
        return [
            Cell(arm, seed, k, replace(config[arm], seed=seed, manifest=str(tables[k])), root)
            for seed in self.seeds
            for k in range(self.num_folds)
            for arm in self.arms
        ]

    def fold_file(self, root: Path, fold: int) -> Path:
        """Return the table of a fold: the study's own one, or one of a cross-validation."""
        if not self.is_cross_validated:
            return Path(self.arms[self.reference].config.manifest)
        return root.absolute() / "folds" / f"fold_{fold}.csv"


def check_study(study: Study) -> None:
    """Check what can be known before any step: labels, folds, budgets, external tables.

    Raises:
        UsageError: Arms that are no fair comparison, or a fold to judge that is not there.
        MedtailError: The table or an external one is not usable.
    """
    config = study.arms[study.reference].config
    table = read_manifest(config.manifest, groups=config.groups)
    manifest = check_labels(study.arms, table, reference=study.reference, where=study.name)
    folds = manifest.folds.astype(str)
    if not study.is_cross_validated:
        manifest.check_folds("train", "tune")
        train_rows = int((folds == "train").sum())
    else:
        dealt = int((~np.isin(folds, ("test", "reward"))).sum())
        train_rows = dealt - dealt // study.num_folds
    check_budgets(study.arms, reference=study.reference, equal=study.equal, train_rows=train_rows, where=study.name)
    if study.judge.fold == "test" and not (folds == "test").any():
        raise UsageError(
            f"{study.name}, judge.fold: found 'test', but {manifest.name} has no such row. Hold one out with"
            f" `medtail data split {manifest.name}`, or judge 'tune'."
        )
    check_protocol(study.judge, study.manifest.labels)
    if study.judge.classes is not None:
        try:
            manifest.labels.select(study.judge.classes)
        except MedtailError as error:
            raise UsageError(f"{study.name}, judge.classes: {error}") from error
    for pixels in dict.fromkeys(arm.config.pixels for arm in study.arms.values()):
        regions(manifest, pixels)
    for name, external in study.external.items():
        read_external(name, external, manifest)


def read_external(name: str, external: ExternalConfig, manifest: Manifest) -> Manifest:
    """Read a table of other images onto the study's classes; a class it lacks is not assessed there.

    Args:
        name: What the study calls it.
        external: Where it is, and its names of our classes.
        manifest: The study's own table.

    Raises:
        MedtailError: It cannot be read, has none of the classes, no rows in the fold asked for, or shares images or
            patients with the study.
    """
    from medtail.tables.frames import read_table
    from medtail.tables.manifest import is_metadata, manifest_from_frame

    path = Path(external.manifest)
    frame, _ = read_table(path, what="manifest")
    absent = [column for column in external.rename if column not in frame.columns]
    if absent:
        raise MedtailError(f"external {name!r}, rename: {path.name} has no column {absent[0]!r}.")
    frame = frame.rename(columns=dict(external.rename))
    wanted = manifest.labels.class_names
    known = [column for column in wanted if column in frame.columns]
    if not known:
        raise MedtailError(
            f"external {name!r}: {path.name} has none of the classes {', '.join(wanted[:8])}; say with `rename` which"
            " of its columns is which of ours."
        )
    metadata = [column for column in frame.columns if is_metadata(str(column))]
    frame = frame[[*metadata, *known]].assign(**{column: "" for column in wanted if column not in known})
    groups = {group.name: group.classes for group in manifest.labels.groups}
    table = manifest_from_frame(frame[[*metadata, *wanted]], name=path.name, root=path.parent, groups=groups)
    if external.fold is not None:
        table = table.in_fold(external.fold)
    if not len(table):
        raise MedtailError(f"external {name!r}: no row of {path.name} is in fold {external.fold!r}.")
    shared = set(table.frame["image_id"]) & set(manifest.frame["image_id"])
    if table.has_patients and manifest.has_patients:
        shared |= set(table.patients) & set(manifest.patients)
    if shared:
        raise MedtailError(
            f"external {name!r}: {len(shared)} images or patients are the study's own, such as {min(shared)!r};"
            " expected images from elsewhere. If only the ids are alike, give them a prefix."
        )
    return table


def begin(study: Study, root: Path, *, duplicates: np.ndarray | None = None) -> None:
    """Fix the study in its folder, or check that it is the one that was begun there.

    Args:
        study: What is to be done.
        root: The folder.
        duplicates: Group of each row that shows the same picture; None if not looked for.

    Raises:
        UsageError: The folder holds something else, or the study's arms, folds or table have changed.
        MedtailError: The folds cannot be made.
    """
    if root.exists() and not root.is_dir():
        raise UsageError(f"--out {root}: is a file; give a folder.")
    if not (root / PLAN).exists() and root.is_dir() and any(not p.name.startswith(".") for p in root.iterdir()):
        raise UsageError(f"--out {root}: is not empty and holds no study; give a new folder, or that of a study.")
    root.mkdir(parents=True, exist_ok=True)
    sweep(root, alone=False)
    with FileLock(str(root / ".plan.lock")):
        if (root / PLAN).exists():
            _check_same(study, root)
        elif study.is_cross_validated:
            _write_folds(study, root, duplicates)
        write_json(root / PLAN, _plan(study, root))


def needs_duplicates(study: Study, root: Path) -> bool:
    """Return whether near-duplicates must be looked for: once, before the folds are made."""
    folds = study.folds
    return isinstance(folds, CrossValidationFolds) and folds.duplicates and not (root / PLAN).exists()


def read_study(root: Path) -> Study:
    """Read a study back from its folder.

    Raises:
        UsageError: There is none.
        MedtailError: Its plan is damaged.
    """
    if not (root / PLAN).exists():
        raise UsageError(f"{root}: holds no study (no {PLAN}); give the folder that `medtail study` wrote to.")
    value = read_json(root / PLAN)
    if value.get("format") != FORMAT:
        raise MedtailError(f"{root / PLAN}: found format {value.get('format')!r}; expected {FORMAT!r}.")
    where = str(root / PLAN)
    arms = {
        name: Arm(
            name,
            resolved_config(value["arms"][name]["config"], where=where, folder=root),
            tuple(Change(**change) for change in value["arms"][name]["changes"]),
        )
        for name in value["order"]
    }
    return Study(
        name=str(value["name"]),
        title=str(value["title"]),
        kind=str(value["kind"]),
        arms=arms,
        reference=str(value["reference"]),
        seeds=tuple(value["seeds"]),
        folds=_read_folds(value["folds"], where),
        judge=build_config(JudgeConfig, value["judge"], where=where),
        external={name: build_config(ExternalConfig, part, where=where) for name, part in value["external"].items()},
        equal=build_config(EqualConfig, value["equal"], where=where),
        factors={name: tuple(arms) for name, arms in value.get("factors", {}).items()},
    )


def _read_folds(value: Mapping[str, Any], where: str) -> FoldsConfig:
    if value["kind"] == "fixed":
        return build_config(FixedFolds, value, where=where)
    return build_config(CrossValidationFolds, value, where=where)


def _write_folds(study: Study, root: Path, duplicates: np.ndarray | None) -> None:
    assert isinstance(study.folds, CrossValidationFolds)
    config = study.arms[study.reference].config
    table = read_manifest(config.manifest, groups=config.groups)
    # balanced over the classes that are learnt; the files keep every column
    parts = cross_validation_folds(
        study.manifest,
        num_folds=study.folds.num_folds,
        seed=study.folds.seed,
        min_positives=study.folds.min_positives,
        duplicate_groups=duplicates,
    )
    for k, part in enumerate(parts):
        table.with_folds(part.folds).write(study.fold_file(root, k))


def _plan(study: Study, root: Path) -> dict[str, Any]:
    """Return what is kept in the folder; arms that another command brought stay known."""
    before = read_json(root / PLAN)["arms"] if (root / PLAN).exists() else {}
    arms = {
        name: {
            "config": portable(arm.config, folder=root),
            "settings": arm.settings,
            "changes": [change.__dict__ for change in arm.changes],
        }
        for name, arm in study.arms.items()
    }
    return {
        "format": FORMAT,
        "name": study.name,
        "title": study.title,
        "kind": study.kind,
        "order": list(study.arms),
        "arms": before | arms,
        "reference": study.reference,
        "seeds": list(study.seeds),
        "folds": config_to_dict(study.folds),
        "judge": config_to_dict(study.judge),
        "external": {name: config_to_dict(part) for name, part in study.external.items()},
        "equal": config_to_dict(study.equal),
        **({"factors": {name: list(arms) for name, arms in study.factors.items()}} if study.factors else {}),
        "manifest_digest": study.manifest.digest,
        "protocol": protocol_record(fold_tables(study, root), seed=getattr(study.folds, "seed", 0)),
    }


def fold_tables(study: Study, root: Path) -> list[Manifest]:
    """Read the table of every fold."""
    config = study.arms[study.reference].config
    return [read_manifest(study.fold_file(root, k), groups=config.groups) for k in range(study.num_folds)]


def _check_same(study: Study, root: Path) -> None:
    """Refuse a study whose cells would not be what the tables say."""
    plan = read_json(root / PLAN)
    problems = Problems(str(root))
    for name, arm in study.arms.items():
        known = plan["arms"].get(name)
        if known is None:
            continue
        for change in differences(settings_of(name, known, root), arm.settings):
            problems.add(
                f"arm {name!r}, {change.key}: found {change.arm!r}; its cells were trained with {change.base!r}."
                " Give the changed arm another name, or begin in a new folder."
            )
    folds = config_to_dict(study.folds)
    if folds != plan["folds"]:
        for change in differences(plan["folds"], folds):
            problems.add(f"folds.{change.key}: found {change.arm!r}; the study began with {change.base!r}.")
    if study.manifest.digest != plan["manifest_digest"]:
        problems.add(
            f"manifest {study.manifest.name}: has changed since the study began (digest"
            f" {study.manifest.digest[:12]}, then {str(plan['manifest_digest'])[:12]}). Restore it, or begin anew."
        )
    elif not problems.found:
        _check_tables(study, root, plan, problems)
    problems.raise_if_any(kind=UsageError)


def settings_of(name: str, known: Mapping[str, Any], root: Path) -> Mapping[str, Any]:
    """Return an arm's settings as they would be written today: keys that came later stand at their defaults.

    Args:
        name: The arm.
        known: Its `config` and `settings` in a plan.
        root: The folder of the plan.
    """
    try:
        return Arm(name, resolved_config(known["config"], where=str(root / PLAN), folder=root)).settings
    except UsageError:  # a key is gone since
        settings: Mapping[str, Any] = known["settings"]
        return settings


def _check_tables(study: Study, root: Path, plan: Mapping[str, Any], problems: Problems) -> None:
    known: Sequence[Mapping[str, Any]] = plan["protocol"]["folds"]
    for k, (table, part) in enumerate(zip(fold_tables(study, root), known, strict=True)):
        if table.digest != part["digest"]:
            problems.add(f"folds/fold_{k}.csv: is not the table the study began with; restore it, or begin anew.")
