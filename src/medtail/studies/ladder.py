"""The ladder: from the plain method up to SynTUS-Net under one budget, and which rung to take.

    base: ../bus_bra_subtypes.yaml      # a training; whatever method it names is undone first
    rungs: [focal, asl, syntus]         # from `rungs`; the core ones if left out, `all` for every one that fits
    adjust: {syntus: {head.attention.width: 64}}
    seeds: [0, 1, 2]

Every rung takes the same number of steps of the same size from the same images, its thresholds are chosen by one rule,
and all meet the same resampled patients. The choice is made on tune and written down before anything else is opened.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, final

import numpy as np
from pydantic import Field

from medtail.config import CLOSED, apply_overrides, build_config, read_yaml
from medtail.errors import MedtailError, Problems, UsageError, did_you_mean
from medtail.runs import read_json, write_json
from medtail.studies.ablation import StudyOutcome, Watch, begin_study, judge_study
from medtail.studies.arms import Arm, nested, resolve_arms
from medtail.studies.choice import Choice, Criterion, choose
from medtail.studies.config import (
    NAME,
    CrossValidationFolds,
    EqualConfig,
    ExternalConfig,
    FixedFolds,
    FoldsConfig,
    JudgeConfig,
    StudyConfig,
    absolute,
    training_of,
)
from medtail.studies.decoding import decoding_of
from medtail.studies.floors import FLOORS, floor_arm, prevalence, run_ladder_cell, score_floors, usable_floors
from medtail.studies.protocol import Study, read_external
from medtail.studies.ray_cells import Cluster
from medtail.studies.rungs import REFERENCE, RUNGS, choose_rungs, plain_base, rung_keys
from medtail.studies.running import run_cells
from medtail.studies.scores import EXTERNAL, TEST, opened, tune_set, whole_seeds
from medtail.tables.manifest import Manifest, read_manifest
from medtail.training.config import TrainConfig, merge, select_classes, train_config

CHOICE = "choice.json"
JUDGE: Mapping[str, Any] = {
    "metrics": ["ap", "f1", "micro_f1"],
    "levels": ["macro", "group"],
    "thresholds": {"shrinkage_patients": 0},
}
"""How a ladder is judged unless its file says otherwise: AP beside every F1, thresholds of the best F1 on tune.

Threshold tuning is equal only where it does not ask what a method's scores mean. Losses for the tail move scores
about: 0.1 may be a loud yes of one and a no of another. Pulling thresholds toward 0.5, or toward what calibrated
scores would suggest, favours whichever method happens to have such scores; the cut with the best F1 on tune is the
same decision whatever is done to the scores, as long as the order of the images stays. With fewer than three positive
patients in tune there is nothing to choose by, and the scores' own cut stands. The benchmark of thyroid reports has a
rule of its own (`judge: {protocol: thyro_lmd}`).
"""


@final
@dataclass(frozen=True, kw_only=True)
class LadderConfig:
    """A ladder's file.

    Attributes:
        base: A training's YAML file, relative to the ladder's.
        train: Keys of a training, laid over `base` where both are given.
        rungs: Names from the table of rungs, or `[all]`; the core ones that fit if None. The plain method is always
            there.
        adjust: Rung → keys laid over it, such as a head's width for a small backbone. They are shown with it.
        extra: Name → keys laid over the plain method: rungs of one's own.
        floors: Floors, from `floors`; all that the training allows if None.
        steps: Gradient steps of every rung; as many as the base's epochs have if None.
        choose_by: What the choice on tune is made by, a mean over classes.
        seeds: Training seeds.
        folds: `fixed` or `cross_validation`.
        judge: How to judge; see `JUDGE` for what differs from other studies.
        external: Name → table of other images.
        equal: What the rungs must have alike.
        title: Of the page; the file's name if None.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    base: str | None = None
    train: Mapping[str, Any] | None = None
    rungs: tuple[str, ...] | None = None
    adjust: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    extra: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    floors: tuple[str, ...] | None = None
    steps: Annotated[int, Field(ge=1)] | None = None
    choose_by: Criterion = "ap"
    seeds: tuple[int, ...] = (0, 1, 2)
    folds: FoldsConfig = field(default_factory=FixedFolds)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    external: Mapping[str, str | ExternalConfig] = field(default_factory=dict)
    equal: EqualConfig = field(default_factory=EqualConfig)
    title: str | None = None

    def __post_init__(self) -> None:
        problems = [
            f"extra {name!r}: expected a name of its own of letters, digits, '_', '-', '+' or '.'; {reason}."
            for name in self.extra
            if (reason := _taken(name))
        ]
        if self.choose_by not in self.judge.metrics or "macro" not in self.judge.levels:
            problems.append(
                f"choose_by {self.choose_by!r}: is not judged; expected it in judge.metrics, and 'macro' in"
                " judge.levels."
            )
        if self.rungs is not None and not self.rungs:
            problems.append("rungs: found none; leave the key out for the core ones.")
        if problems:
            raise MedtailError(" ".join(problems))


def _taken(name: str) -> str:
    if name in RUNGS or name in FLOORS:
        return "that is a rung or floor already"
    return "" if NAME.fullmatch(name) else "it names a folder"


@final
@dataclass(frozen=True)
class Ladder:
    """A ladder, resolved.

    Attributes:
        study: Its arms are the floors and the rungs, the plain method the reference.
        rungs: Arms that are trained, in the ladder's order.
        floors: Arms that are not.
        choose_by: What the choice is made by.
        steps: Gradient steps of every rung, a fold.
    """

    study: Study
    rungs: tuple[str, ...]
    floors: tuple[str, ...]
    choose_by: Criterion
    steps: int


@final
@dataclass(frozen=True)
class LadderOutcome:
    """What a ladder came to.

    Attributes:
        ladder: The ladder.
        outcome: As of any study.
        choice: The rung that tune speaks for; None where the plain method is not finished.
        summary: The short version for a terminal.
    """

    ladder: Ladder
    outcome: StudyOutcome
    choice: Choice | None
    summary: str


def load_ladder(
    path: Path | str,
    *,
    overrides: Sequence[str] = (),
    rungs: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    steps: int | None = None,
) -> Ladder:
    """Read a ladder's file and resolve its rungs.

    Args:
        path: The YAML file.
        overrides: Texts such as `judge.fold=test`, laid over its keys.
        rungs: Rungs instead of the file's.
        seeds: Training seeds instead of the file's.
        steps: Gradient steps instead of the file's.

    Raises:
        UsageError: The file, its training or a rung has mistakes; all are named.
    """
    path = Path(path)
    values = apply_overrides(read_yaml(path), overrides)
    given: dict[str, Any] = {"rungs": rungs, "seeds": seeds, "steps": steps}
    values |= {key: list(value) if isinstance(value, Sequence) else value for key, value in given.items() if value}
    if isinstance(values.get("judge") or {}, Mapping):
        given_judge = values.get("judge") or {}
        has_rule = "protocol" in given_judge
        base = {key: value for key, value in JUDGE.items() if not (has_rule and key == "thresholds")}
        values["judge"] = merge(base, given_judge)
    config = build_config(LadderConfig, values, where=path.name)
    return resolve_ladder(config, name=path.name, folder=path.parent)


def resolve_ladder(config: LadderConfig, *, name: str, folder: Path) -> Ladder:
    """Lay every rung over the plain method, with one number of steps for all.

    Args:
        config: The ladder.
        name: For messages.
        folder: Where relative paths start.

    Raises:
        UsageError: Mistakes of the training or of rungs; all are named.
        MedtailError: The table cannot be read.
    """
    source = StudyConfig(base=config.base, train=config.train, arms={REFERENCE: {}}, external=config.external)
    source = absolute(source, folder=folder)
    base = training_of(source, folder=folder)
    start = train_config(base, where=name)
    manifest = select_classes(read_manifest(start.manifest, groups=start.groups), start.classes)
    base = plain_base(base, manifest.labels)
    wanted = choose_rungs(config.rungs, manifest.labels, where=name, others=[*config.extra, *FLOORS])
    optimizer = train_config(base, where=name).optimizer
    keys = {rung: rung_keys(rung, manifest.labels, epochs=optimizer.epochs) for rung in wanted}
    keys |= {extra: nested(given, where=f"{name}, extra {extra!r}") for extra, given in config.extra.items()}
    _adjust(keys, config.adjust, where=name)
    steps_an_epoch = _steps_an_epoch(config, manifest, epochs=optimizer.epochs, batch_size=optimizer.batch_size)
    base = merge(base, {"optimizer": {"epoch_rows": steps_an_epoch * optimizer.batch_size}})
    if optimizer.batch_size % 2:
        raise UsageError(
            f"{name}, optimizer.batch_size: found {optimizer.batch_size}; expected an even number, since some rungs"
            " fill every batch from two streams and all must take the same steps."
        )
    arms = resolve_arms(base, keys, where=name)
    _check_rare(arms, manifest, where=name)
    plain = arms[REFERENCE].config
    floors = _floors(config, plain, name)
    unlike = {rung: RUNGS[rung].unlike for rung in wanted if RUNGS[rung].unlike}
    study = Study(
        name=name,
        title=config.title or f"Ladder of methods: {Path(name).stem.replace('_', ' ')}",
        kind="ladder",
        arms={floor: floor_arm(floor, plain) for floor in floors} | arms,
        reference=REFERENCE,
        seeds=config.seeds,
        folds=config.folds,
        judge=config.judge,
        external={key: part for key, part in source.external.items() if not isinstance(part, str)},
        equal=replace(config.equal, unless=unlike | dict(config.equal.unless)),
    )
    return Ladder(study, tuple(arms), tuple(floors), config.choose_by, steps_an_epoch * optimizer.epochs)


def _adjust(keys: dict[str, dict[str, Any]], adjust: Mapping[str, Mapping[str, Any]], *, where: str) -> None:
    problems = Problems(where)
    for rung, given in adjust.items():
        if rung in keys:
            keys[rung] = merge(keys[rung], nested(given, where=f"{where}, adjust {rung!r}"))
        elif rung not in RUNGS:  # of a rung that is not climbed this time, nothing need be said
            problems.add(f"adjust: no rung {rung!r}{did_you_mean(rung, [*RUNGS, *keys]) or '.'}")
    problems.raise_if_any(kind=UsageError)


def _check_rare(arms: Mapping[str, Arm], manifest: Manifest, *, where: str) -> None:
    """Refuse rungs that vary rare labels where none is as rare as they ask; it would show in the first step only."""
    learnt = manifest.take(~np.isin(manifest.folds.astype(str), ("test", "reward")))
    share = prevalence(learnt)
    rarest = int(np.argmin(np.where(share > 0, share, np.inf)))
    problems = Problems(where)
    for name, arm in arms.items():
        mix = arm.config.tail_mix
        if mix is not None and not (share[rarest] < mix.tail_below):
            problems.add(
                f"rung {name!r}, tail_mix.tail_below {mix.tail_below:g}: no label is in so small a share of the rows;"
                f" the rarest, {manifest.labels.class_names[rarest]!r}, is in {share[rarest]:.1%}. Say"
                f" `adjust: {{{name}: {{tail_mix: null}}}}`, or a larger tail_below there."
            )
    problems.raise_if_any(kind=UsageError)


def _steps_an_epoch(config: LadderConfig, manifest: Manifest, *, epochs: int, batch_size: int) -> int:
    """Return the steps of an epoch, so that all epochs together come nearest to what was asked."""
    if config.steps is not None:
        return max(1, round(config.steps / epochs))
    folds = manifest.folds.astype(str)
    rows = int((folds == "train").sum())
    if isinstance(config.folds, CrossValidationFolds):
        dealt = int((~np.isin(folds, ("test", "reward"))).sum())
        rows = dealt - dealt // config.folds.num_folds
    return max(1, math.ceil(rows / batch_size))


def _floors(config: LadderConfig, plain: TrainConfig, where: str) -> list[str]:
    usable = usable_floors(plain)
    named = [*(config.floors or ()), *(name for name in config.rungs or () if name in FLOORS)]
    if config.floors is None and not named:
        return usable
    problems = Problems(where)
    for name in named:
        if name not in FLOORS:
            problems.add(f"floors: no floor {name!r}{did_you_mean(name, FLOORS) or '; known: ' + ', '.join(FLOORS)}")
        elif name not in usable:
            problems.add(f"floors: {name!r} needs a backbone that comes with weights, and no band filter.")
    problems.raise_if_any(kind=UsageError)
    return [name for name in usable if name in named]


def run_ladder(
    ladder: Ladder,
    out: Path | str,
    *,
    workers: int = 1,
    cluster: Cluster | None = None,
    quiet: bool = False,
    watch: Watch | None = None,
) -> LadderOutcome:
    """Climb what is not climbed yet, choose on tune, then judge and write.

    Args:
        ladder: What is to be done.
        out: A new folder, or the one in which it was begun.
        workers: Processes to spread the cells over.
        cluster: A Ray cluster to spread them over instead; None stays on this machine.
        quiet: Show no progress.
        watch: Given what is being done, returns what is told (done, total), or None.

    Returns:
        What it came to.

    Raises:
        UsageError: The ladder is no fair comparison, or not the one begun in the folder.
        MedtailError: Its tables are not usable, or a rung is new after test was opened.
        KeyboardInterrupt: It was interrupted; the folder is consistent.
    """
    from medtail.studies.ladder_tables import ladder_text, write_ladder

    study = ladder.study
    root = begin_study(study, out, watch=watch)
    cells = study.cells(root)
    tally = run_cells(cells, workers=workers, cluster=cluster, quiet=quiet, train=run_ladder_cell)
    choice = settle(ladder, root)
    if len(tally.finished) == len(cells):
        _score_floors(study, root)
    outcome = judge_study(study, root, tally, watch=watch)
    if not outcome.judged:
        return LadderOutcome(ladder, outcome, choice, outcome.summary)
    write_ladder(ladder, outcome, choice)
    return LadderOutcome(ladder, outcome, choice, ladder_text(ladder, outcome, choice))


def settle(ladder: Ladder, root: Path) -> Choice | None:
    """Choose on tune and write it down; once anything else is open, the choice that stands is the one written.

    Args:
        ladder: The ladder.
        root: Its folder.

    Returns:
        The choice; None where the plain method has no whole seed.

    Raises:
        MedtailError: Scores or the written choice are damaged.
    """
    if opened(root) and (root / CHOICE).exists():
        return Choice.from_json(read_json(root / CHOICE))
    seeds = whole_seeds(ladder.study, root)
    if not seeds[REFERENCE]:
        return None
    tune = tune_set(ladder.study, root, {arm: taken for arm, taken in seeds.items() if taken})
    judged = ladder.study.judge
    choice = choose(
        tune, ladder.rungs, reference=REFERENCE, criterion=ladder.choose_by, seed=judged.seed,
        decider=decoding_of(judged, tune.manifest, tune.truth.labels).call,
    )  # fmt: skip
    write_json(root / CHOICE, choice.to_json())
    return choice


def _score_floors(study: Study, root: Path) -> None:
    cells = study.cells(root)
    if study.judge.fold == TEST:
        score_floors(cells, TEST, study.manifest, fold=TEST)
    for name, external in study.external.items():
        score_floors(cells, EXTERNAL + name, read_external(name, external, study.manifest))
