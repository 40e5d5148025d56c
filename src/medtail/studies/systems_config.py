"""A file of systems: several trainings, and how their scores become those of whole challenge systems.

    edition: nih14
    train: {manifest: ../../data/nih14/manifest.csv}    # what all members have alike
    members:
      plain: {recipe: cxrlt_baseline/tiny}
      asl: {recipe: cxrlt_yale/tiny}
    systems:
      plain: {}                                          # the member of that name by itself
      both: {members: [plain, asl], repeats: 3, how: logits, rules: [{kind: normal_gate}]}
    folds: {kind: outer, num_folds: 5}

Only reads and checks; `systems` does the work.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, final

from pydantic import Field

from medtail.challenges.cxr_lt import EceReading
from medtail.challenges.cxr_lt_truth import as_edition
from medtail.config import CLOSED, apply_overrides, build_config, read_yaml
from medtail.errors import MedtailError, UsageError, did_you_mean
from medtail.judging.ensemble_fitting import Method
from medtail.sources.cxr_lt import ChallengeTask, Edition
from medtail.studies.arms import Arm, resolve_arms
from medtail.studies.config import NAME, FixedFolds, with_absolute_paths
from medtail.tables.combine import Pooling
from medtail.tables.post_rules import Rule
from medtail.tables.views import ViewRule
from medtail.training.recipe import Recipe
from medtail.training.recipes import RECIPES

Share = Annotated[float, Field(gt=0.0, lt=1.0)]


@final
@dataclass(frozen=True, kw_only=True)
class OuterFolds:
    """Every patient is tested once; inside each fold the others are train and tune. See `tables.outer_folds`.

    Attributes:
        kind: `outer`.
        num_folds: How many, at least 2.
        tune: Share of the rows outside test.
        seed: Of the split.
        duplicates: Keep near-duplicate images in one fold.
        only: Numbers of the folds to run, for a trial; all if None.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["outer"] = "outer"
    num_folds: Annotated[int, Field(ge=2, le=1000)] = 5
    tune: Share = 0.15
    seed: int = 0
    duplicates: bool = True
    only: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.only is not None and (not self.only or not set(self.only) <= set(range(self.num_folds))):
            raise MedtailError(f"folds.only {list(self.only)}: expected numbers from 0 to {self.num_folds - 1}.")


SystemFolds = Annotated[FixedFolds | OuterFolds, Field(discriminator="kind")]


@final
@dataclass(frozen=True, kw_only=True)
class SystemConfig:
    """How one system's scores are made of its members', in this order: views, ensemble, rules.

    Attributes:
        members: Trainings by name; the one of the system's own name if None.
        repeats: How often each is trained, every time from another seed.
        views: What becomes of a study's images: `mean`, `max` or `frontal`; None leaves them alone.
        frontal_weight: For `frontal`: share of the frontal views.
        how: How members are pooled: `mean` of scores, `logits`, `rank` or `median`.
        fit: Choose the members' weights on tune by this method, guarded; None pools them equally.
        switch_below: Of two members the second scores the classes with a smaller train prevalence than this.
        rules: Rules on top; each is tried on tune and kept only if its gain is beyond noise.
        against: Another system to compare with, beside the reference and the best member.
        notes: What a reader must know of it.

    Raises:
        MedtailError: Keys that do not go together.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    members: tuple[str, ...] | None = None
    repeats: Annotated[int, Field(ge=1, le=50)] = 1
    views: ViewRule | None = None
    frontal_weight: Annotated[float, Field(ge=0.0, le=1.0)] = 0.8
    how: Pooling = "mean"
    fit: Method | None = None
    switch_below: Share | None = None
    rules: tuple[Rule, ...] = ()
    against: str | None = None
    notes: str = ""

    def __post_init__(self) -> None:
        count = 1 if self.members is None else len(self.members)
        problems = []
        if not count or (self.members is not None and len(set(self.members)) < count):
            problems.append(f"members {list(self.members or ())}: expected at least one, each once.")
        if self.switch_below is not None and count != 2:
            problems.append(f"switch_below: found {count} member(s); expected two, for common and for rare classes.")
        if self.switch_below is not None and self.fit is not None:
            problems.append("fit: with switch_below the classes' members are given; leave one out.")
        if self.fit is not None and count * self.repeats < 2:
            problems.append("fit: found one training; expected several members or repeats to choose among.")
        if self.fit is not None and self.how == "median":
            problems.append("how: a median takes no weights; expected mean, logits or rank beside fit.")
        if problems:
            raise MedtailError(" ".join(problems))


@final
@dataclass(frozen=True, kw_only=True)
class SystemsJudgeConfig:
    """How systems are judged on test, by the challenge's protocol.

    Attributes:
        bootstrap: Resamples of the patients; comparisons take more where their correction needs them.
        ece: Which reading of the calibration error `ece` shows.
        critical: Findings that must not be missed; medtail's list if None.
        tail_cuts: Head and tail by train prevalence; the edition's own (10 % and 1 %) if None.
        seed: Of the resamples.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    bootstrap: Annotated[int, Field(ge=100)] = 2000
    ece: EceReading = "reliability"
    critical: tuple[str, ...] | None = None
    tail_cuts: tuple[float, float] | None = None
    seed: int = 0


@final
@dataclass(frozen=True, kw_only=True)
class SystemsConfig:
    """A file of systems.

    Attributes:
        train: Keys of a training that all members have; `manifest` is one of them.
        members: Name → further keys, `recipe` among them.
        systems: Name → how it is made.
        edition: Of the challenge: `2023`, `2024`, `2026`, `nih14` or `nih20`.
        task: Its task.
        reference: The system the others are compared with; the first if None.
        seed: Training seed of every member's first repeat; the others count on from it.
        folds: `fixed` (the table's own train, tune and test) or `outer`.
        judge: How systems are judged.
        title: Of the page; the file's name if None.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    train: Mapping[str, Any]
    members: Mapping[str, Mapping[str, Any]]
    systems: Mapping[str, SystemConfig]
    edition: str
    task: int = 1
    reference: str | None = None
    seed: int = 0
    folds: SystemFolds = field(default_factory=FixedFolds)
    judge: SystemsJudgeConfig = field(default_factory=SystemsJudgeConfig)
    title: str | None = None

    def __post_init__(self) -> None:
        problems = []
        for kind, names in (("members", self.members), ("systems", self.systems)):
            if not names:
                problems.append(f"{kind}: found none; expected at least one.")
            problems += [
                f"{kind}, {name!r}: expected letters, digits, '_', '-', '+' or '.', since it names a folder."
                for name in names
                if not NAME.fullmatch(name)
            ]
        for name, system in self.systems.items():
            for member in system.members or (name,):
                if member not in self.members:
                    hint = did_you_mean(member, self.members) or "."
                    problems.append(f"systems, {name!r}: no member {member!r}{hint}")
            if system.against is not None and (system.against not in self.systems or system.against == name):
                problems.append(f"systems, {name!r}, against: expected another system, found {system.against!r}.")
        if self.reference is not None and self.reference not in self.systems:
            hint = did_you_mean(self.reference, self.systems) or "."
            problems.append(f"reference: no system {self.reference!r}{hint}")
        if problems:
            raise MedtailError(" ".join(problems))

    @property
    def lead(self) -> str:
        """The system the others are compared with."""
        return self.reference if self.reference is not None else next(iter(self.systems))

    def members_of(self, system: str) -> tuple[str, ...]:
        """Return the trainings a system is made of.

        Args:
            system: Its name.
        """
        return self.systems[system].members or (system,)

    def repeats_of(self, member: str) -> int:
        """Return how often a member is trained: as often as the greediest system asks; 0 if none does."""
        asked = [system.repeats for name, system in self.systems.items() if member in self.members_of(name)]
        return max(asked, default=0)


@final
@dataclass(frozen=True)
class Systems:
    """A file of systems, resolved.

    Attributes:
        name: The file's name.
        config: What it says.
        arms: Member → its training.
        recipes: Member → the recipe it began with, where it did.
    """

    name: str
    config: SystemsConfig
    arms: Mapping[str, Arm]
    recipes: Mapping[str, Recipe]

    @property
    def title(self) -> str:
        """Of the page."""
        return self.config.title or Path(self.name).stem.replace("_", " ")

    @cached_property
    def edition(self) -> Edition:
        """The challenge's tables, with the tail cuts of the file."""
        from dataclasses import replace

        found = as_edition(self.config.edition)
        cuts = self.config.judge.tail_cuts
        return found if cuts is None else replace(found, tail_rule="prevalence", tail_cuts=cuts)

    @property
    def task(self) -> ChallengeTask:
        """The challenge's task."""
        return self.edition.task(self.config.task)


def load_systems(path: Path | str, *, overrides: Sequence[str] = ()) -> Systems:
    """Read a file of systems and resolve its members.

    Args:
        path: The YAML file; relative paths in it start at its folder.
        overrides: Texts such as `train.optimizer.epochs=1`, laid over its keys.

    Returns:
        The systems.

    Raises:
        UsageError: The file, an edition, a member or a system has mistakes; all of a kind are named.
    """
    path = Path(path)
    values = apply_overrides(read_yaml(path), overrides)
    config = build_config(SystemsConfig, values, where=path.name)
    base = _located(config.train, path.parent)
    if not isinstance(base.get("manifest"), str):
        raise UsageError(f"{path.name}, train.manifest: missing; expected the path of the table of images.")
    members = {name: _located(keys, path.parent) for name, keys in config.members.items() if config.repeats_of(name)}
    arms = resolve_arms(base, members, where=path.name)
    recipes = {name: str(arm.config.recipe).partition("/")[0] for name, arm in arms.items() if arm.config.recipe}
    found = Systems(path.name, config, arms, {name: RECIPES[recipe] for name, recipe in recipes.items()})
    _ = found.task  # an edition or task that does not exist is refused here
    return found


def _located(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return keys of a training with absolute paths, a head's text vectors included."""
    ready = with_absolute_paths(values, folder=folder)
    head = ready.get("head")
    if isinstance(head, Mapping) and isinstance(head.get("texts"), str):
        ready["head"] = {**head, "texts": os.path.abspath(folder / Path(head["texts"]).expanduser())}
    if isinstance(ready.get("head.texts"), str):
        ready["head.texts"] = os.path.abspath(folder / Path(ready["head.texts"]).expanduser())
    return ready
