"""A study's file: one training, changed in named ways, repeated over seeds and folds, judged in one manner.

    base: ../bus_bra_subtypes.yaml      # a training's file; or `train:` with its keys written here
    arms:
      full: {}
      no_attention: {head.cbam: none}   # any key of a training, as after `--set`
    reference: full
    seeds: [0, 1, 2]
    folds: {kind: cross_validation, num_folds: 10}

Only reads and checks; `arms` resolves the trainings, `protocol` the folds, `running` does the work.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, final

from pydantic import Field

from medtail.config import CLOSED, apply_overrides, build_config, read_yaml
from medtail.errors import MedtailError, Problems, UsageError, did_you_mean
from medtail.judging.comparison import ComparisonConfig
from medtail.judging.paired_draws import SeedDraw
from medtail.judging.questions import LEVELS, Level
from medtail.judging.thresholds import ThresholdConfig
from medtail.studies.factorial import design_of
from medtail.tables.tail import RuleName

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
"""Names of arms and external tables: they become folders and file names."""
Protocol = Literal["thyro_lmd"]
"""Rules of a benchmark for turning scores into decisions; see `decoding`."""
Budget = Literal["steps", "batch", "augmentation", "networks"]
BUDGETS: tuple[Budget, ...] = ("steps", "batch", "augmentation", "networks")
LEAST_RESAMPLES = 2000


@final
@dataclass(frozen=True, kw_only=True)
class FixedFolds:
    """The manifest's own folds `train`, `tune` and `test`.

    Attributes:
        kind: `fixed`.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["fixed"] = "fixed"


@final
@dataclass(frozen=True, kw_only=True)
class CrossValidationFolds:
    """Every row but those of `test` is once tune and otherwise train; see `tables.folds`.

    Attributes:
        kind: `cross_validation`.
        num_folds: How many, at least 2.
        seed: Of the split; the same folds serve every arm and every training seed.
        min_positives: Positive images every class must have in each fold; 0 accepts folds without a class.
        duplicates: Keep near-duplicate images in one fold.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["cross_validation"] = "cross_validation"
    num_folds: Annotated[int, Field(ge=2, le=1000)] = 10
    seed: int = 0
    min_positives: Annotated[int, Field(ge=0)] = 1
    duplicates: bool = True


FoldsConfig = Annotated[FixedFolds | CrossValidationFolds, Field(discriminator="kind")]


@final
@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """How the arms are judged and compared.

    Attributes:
        fold: What the final tables are about. `tune`: in a cross-validation each image is scored by the model that
            did not learn from it. `test`: opened once, when all cells are finished.
        metrics: What is compared with the reference, from `questions.METRICS`; the first leads the verdicts.
        levels: Where: `macro`, `group` (head, medium, tail), `class`. Each is one question more for Holm's correction.
        classes: Names of the classes to judge; all if None.
        bootstrap: Resamples of the patients; None takes at least 2,000, and as many as the correction needs.
        interval: Level of the intervals; the rest is the share of false claims.
        holm: What is corrected together: `study` all comparisons of the study, `classes` those of one arm and metric
            at one level only.
        seed_draw: `hierarchical` draws training seeds, then patients; `fixed` holds these very seeds.
        thresholds: How thresholds are chosen on the tune scores of all folds together.
        protocol: Decide by a benchmark's rule instead, which has thresholds of its own: `thyro_lmd` (twenty labels as
            valid reports, foci by thresholds shrunken toward 0.5, the kappa of the TI-RADS level beside). Its head,
            body and tail hold unless `tail_rule` is given.
        tail_rule: How classes become head, medium and tail; see `tables.tail`.
        tail_cuts: Upper and lower cut.
        tail_members: For the rule `list`.
        seed: Of the resamples.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    fold: Literal["tune", "test"] = "tune"
    metrics: tuple[str, ...] = ("auroc", "ap", "f1")
    levels: tuple[Level, ...] = LEVELS
    classes: tuple[str, ...] | None = None
    bootstrap: Annotated[int, Field(ge=1)] | None = None
    interval: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.95
    holm: Literal["study", "classes"] = "study"
    seed_draw: SeedDraw = "hierarchical"
    thresholds: ThresholdConfig = field(default_factory=ThresholdConfig)
    protocol: Protocol | None = None
    tail_rule: RuleName = "auto"
    tail_cuts: tuple[float, float] | None = None
    tail_members: Mapping[str, tuple[str, ...]] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        self.comparison(resamples=1)  # its checks are ours
        if self.protocol is not None and self.thresholds != ThresholdConfig():
            raise MedtailError(
                f"thresholds: the protocol {self.protocol!r} chooses its own, alike for all arms; leave one out."
            )

    def comparison(self, *, resamples: int) -> ComparisonConfig:
        """Return the settings in the form the judge takes."""
        return ComparisonConfig(
            metrics=self.metrics,
            levels=self.levels,
            bootstrap=resamples,
            interval=self.interval,
            seed_draw=self.seed_draw,
            tail_rule=self.tail_rule,
            tail_cuts=self.tail_cuts,
            tail_members=self.tail_members,
            seed=self.seed,
        )


@final
@dataclass(frozen=True, kw_only=True)
class EqualConfig:
    """What every arm must have alike, so that a difference is the method's.

    Attributes:
        steps: Gradient steps (epochs, rows an epoch, early stopping).
        batch: Images a step.
        augmentation: The `augment` and `mix` sections.
        networks: Networks averaged in a run (`members`).
        unless: Arm → budgets in which it may differ, because that is what it is about.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    steps: bool = True
    batch: bool = True
    augmentation: bool = True
    networks: bool = True
    unless: Mapping[str, tuple[Budget, ...]] = field(default_factory=dict)

    def binds(self, arm: str, budget: Budget) -> bool:
        """Return whether an arm must have a budget like the reference's."""
        return bool(getattr(self, budget)) and budget not in self.unless.get(arm, ())


@final
@dataclass(frozen=True, kw_only=True)
class ExternalConfig:
    """Images from elsewhere, scored once at the end by the mean of the fold models.

    Attributes:
        manifest: The table; a class it lacks counts as not assessed.
        fold: Only this fold of it; all rows if None.
        rename: Its column → our class.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    manifest: str
    fold: str | None = None
    rename: Mapping[str, str] = field(default_factory=dict)


@final
@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """A study's file.

    Attributes:
        base: A training's YAML file, relative to the study's.
        train: Keys of a training, laid over `base` where both are given.
        arms: Name → keys that differ, dotted or in sections; an arm without any is the base itself.
        reference: The arm the others are compared with; the first if None.
        seeds: Training seeds; every arm is trained with each.
        folds: `fixed` or `cross_validation`.
        judge: How to judge.
        external: Name → table of other images (a path, or `ExternalConfig`).
        equal: What the arms must have alike.
        factors: Factor → arms that have it, where the arms are a full factorial: main effects and interactions are then
            told beside the differences. See `factorial`.
        title: Of the page; the file's name if None.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    base: str | None = None
    train: Mapping[str, Any] | None = None
    arms: Mapping[str, Mapping[str, Any] | None]
    reference: str | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    folds: FoldsConfig = field(default_factory=FixedFolds)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    external: Mapping[str, str | ExternalConfig] = field(default_factory=dict)
    equal: EqualConfig = field(default_factory=EqualConfig)
    factors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    title: str | None = None

    def __post_init__(self) -> None:
        problems: list[str] = []
        if self.base is None and self.train is None:
            problems.append("no training to start from; expected `base: FILE.yaml` or a section `train:`.")
        if not self.arms:
            problems.append("arms: found none; expected at least one, such as `full: {}`.")
        for kind, names in (("arm", self.arms), ("external", self.external)):
            problems += [
                f"{kind} {name!r}: expected letters, digits, '_', '-', '+' or '.', since it names a folder."
                for name in names
                if not NAME.fullmatch(name)
            ]
        if self.reference is not None and self.reference not in self.arms:
            problems.append(f"reference: no arm {self.reference!r}{did_you_mean(self.reference, self.arms) or '.'}")
        problems += [
            f"equal.unless: no arm {name!r}{did_you_mean(name, self.arms) or '.'}"
            for name in self.equal.unless
            if name not in self.arms
        ]
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            problems.append(f"seeds: found {list(self.seeds)}; expected at least one, each once.")
        if self.factors:
            try:
                design_of(self.factors, self.arms)
            except MedtailError as error:
                problems.append(str(error))
        if problems:
            raise MedtailError(" ".join(problems))

    @property
    def lead(self) -> str:
        """The reference arm."""
        return self.reference if self.reference is not None else next(iter(self.arms))


def load_study(path: Path | str, *, overrides: Sequence[str] = ()) -> tuple[StudyConfig, dict[str, Any]]:
    """Read a study's file and the training it starts from.

    Args:
        path: The YAML file.
        overrides: Texts such as `seeds=[0]`, laid over the study's keys.

    Returns:
        The study with absolute paths, and the keys of its training.

    Raises:
        UsageError: A file is missing or has mistakes; all of the study's are named with their place.
    """
    path = Path(path)
    values = apply_overrides(read_yaml(path), overrides)
    study = build_config(StudyConfig, values, where=path.name)
    return absolute(study, folder=path.parent), training_of(study, folder=path.parent)


def absolute(study: StudyConfig, *, folder: Path) -> StudyConfig:
    """Return the study with external tables by absolute paths, each as an `ExternalConfig`."""
    from dataclasses import replace

    def found(given: str | ExternalConfig) -> ExternalConfig:
        external = ExternalConfig(manifest=given) if isinstance(given, str) else given
        return replace(external, manifest=_absolute(external.manifest, folder))

    return replace(study, external={name: found(given) for name, given in study.external.items()})


def training_of(study: StudyConfig, *, folder: Path) -> dict[str, Any]:
    """Return the keys of the training a study starts from, with absolute paths.

    Raises:
        UsageError: The base file is missing or no YAML, or there is no manifest.
    """
    from medtail.training.config import merge

    values: dict[str, Any] = {}
    if study.base is not None:
        file = Path(_absolute(study.base, folder))
        values = with_absolute_paths(read_yaml(file), folder=file.parent)
    values = merge(values, with_absolute_paths(dict(study.train or {}), folder=folder))
    if not isinstance(values.get("manifest"), str):
        problems = Problems(study.base or "train")
        problems.add("manifest: missing; expected the path of the table of images.")
        problems.raise_if_any(kind=UsageError)
    return values


def with_absolute_paths(values: Mapping[str, Any], *, folder: Path) -> dict[str, Any]:
    """Return keys of a training whose relative paths start at a folder as absolute ones."""
    ready = dict(values)
    for key in ("manifest", "cache"):
        if isinstance(ready.get(key), str):
            ready[key] = _absolute(ready[key], folder)
    if isinstance(ready.get("backbone"), Mapping):
        ready["backbone"] = _located(ready["backbone"], folder)
    return ready


def _located(section: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a section of a network, and the branches in it, with weights in local folders by absolute paths."""
    found: dict[str, Any] = {}
    for key, value in section.items():
        if isinstance(value, Mapping):
            found[key] = _located(value, folder)
        elif (
            key == "weights" and isinstance(value, str) and (value.startswith((".", "~")) or (folder / value).is_dir())
        ):
            found[key] = _absolute(value, folder)
        else:
            found[key] = value
    return found


def _absolute(path: str, folder: Path) -> str:
    return os.path.abspath(folder / Path(path).expanduser())
