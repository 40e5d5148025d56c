"""A search's file: one training, the ranges in which some of its keys are tried, and what is to become best.

    base: ../nih_cxr.yaml
    space:
      optimizer.learning_rate: {kind: float, low: 1e-4, high: 1e-2, log: true}
      loss.kind: {kind: choice, values: [bce, focal]}
      loss.gamma: {kind: float, low: 0.5, high: 5, when: {loss.kind: [focal]}}
    objective: {metric: ap, level: macro}
    trials: 30

Only reads and checks; `search_store` draws the trials, `search` runs them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, final

from pydantic import Field

from medtail.config import CLOSED, apply_overrides, build_config, read_yaml
from medtail.errors import MedtailError, Problems, UsageError, did_you_mean
from medtail.judging.questions import CLASS_METRICS, LOWER_IS_BETTER, POOLED_METRICS
from medtail.studies.arms import NOT_AN_ARMS_BUSINESS, Arm, resolve_arms
from medtail.studies.config import FixedFolds, FoldsConfig, JudgeConfig, StudyConfig, training_of
from medtail.tables.tail import TAIL_GROUPS
from medtail.training.fit import FREE_TO_CHANGE

SHUT = {
    **NOT_AN_ARMS_BUSINESS,
    **dict.fromkeys(("classes", "groups"), "trials of other classes have other objectives"),
    **dict.fromkeys(("accelerator", "devices", "num_nodes", "strategy", *FREE_TO_CHANGE), "it moves no weights"),
    "recipe": "give the keys in which recipes differ, or make each an arm of a study",
}
"""Keys that cannot be searched, and why."""
When = Mapping[str, tuple[Any, ...]]
Metric = Literal["ap", "auroc", "f1", "f1_at_half", "precision", "recall", "specificity", "ece", "brier", "micro_f1"]
assert set(CLASS_METRICS) | set(POOLED_METRICS) == set(Metric.__args__)  # type: ignore[attr-defined] # of Literal


@final
@dataclass(frozen=True, kw_only=True)
class FloatRange:
    """Real numbers from `low` to `high`.

    Attributes:
        kind: `float`.
        low: The smallest.
        high: The largest.
        log: Whether factors count instead of differences, as they do for rates.
        when: Other key → values at which this one is there at all.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["float"] = "float"
    low: float
    high: float
    log: bool = False
    when: When = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_ends(self.low, self.high, is_log=self.log)


@final
@dataclass(frozen=True, kw_only=True)
class IntRange:
    """Whole numbers from `low` to `high`.

    Attributes:
        kind: `int`.
        low: The smallest.
        high: The largest.
        log: Whether factors count instead of differences.
        when: Other key → values at which this one is there at all.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["int"] = "int"
    low: int
    high: int
    log: bool = False
    when: When = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_ends(self.low, self.high, is_log=self.log)


@final
@dataclass(frozen=True, kw_only=True)
class ChoiceRange:
    """One of several values, which may be sections (`{kind: focal, gamma: 2}`).

    Attributes:
        kind: `choice`.
        values: At least two, each once.
        when: Other key → values at which this one is there at all.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["choice"] = "choice"
    values: tuple[Any, ...]
    when: When = field(default_factory=dict)

    def __post_init__(self) -> None:
        words = [word_of(value) for value in self.values]
        if len(words) < 2 or len(set(words)) < len(words):
            raise MedtailError(f"values: found {', '.join(words) or 'none'}; expected at least two, each once.")


Range = Annotated[FloatRange | IntRange | ChoiceRange, Field(discriminator="kind")]


def _check_ends(low: float, high: float, *, is_log: bool) -> None:
    if not low < high:
        raise MedtailError(f"low {low:g}, high {high:g}: expected low below high.")
    if is_log and low <= 0:
        raise MedtailError(f"low {low:g}: expected above 0 with `log: true`.")


def word_of(value: Any) -> str:
    """Write a value of a choice as the JSON by which trials remember it.

    Example:
        >>> word_of("focal"), word_of({"kind": "focal"}), word_of(None)
        ('"focal"', '{"kind": "focal"}', 'null')
    """
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


@final
@dataclass(frozen=True, kw_only=True)
class TpeConfig:
    """Tree-structured Parzen estimator: after `startup` random trials, near what was good so far.

    Attributes:
        kind: `tpe`.
        seed: Of what is drawn.
        startup: Random trials first.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["tpe"] = "tpe"
    seed: int = 0
    startup: Annotated[int, Field(ge=1)] = 10


@final
@dataclass(frozen=True, kw_only=True)
class RandomConfig:
    """Every trial by chance.

    Attributes:
        kind: `random`.
        seed: Of what is drawn.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["random"] = "random"
    seed: int = 0


@final
@dataclass(frozen=True, kw_only=True)
class GridConfig:
    """Every combination, in the order of the file; the last key changes fastest.

    Attributes:
        kind: `grid`.
        points: Values of a range of numbers, its ends among them.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["grid"] = "grid"
    points: Annotated[int, Field(ge=2)] = 3


@final
@dataclass(frozen=True, kw_only=True)
class MedianConfig:
    """Stop a trial whose best tune mAP so far is below the median of the others' at the same epoch.

    Attributes:
        kind: `median`.
        startup: Finished trials before any is stopped.
        warmup: Epochs before a trial is stopped.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["median"] = "median"
    startup: Annotated[int, Field(ge=1)] = 5
    warmup: Annotated[int, Field(ge=0)] = 3


SearchSampler = Annotated[TpeConfig | RandomConfig | GridConfig, Field(discriminator="kind")]


@final
@dataclass(frozen=True, kw_only=True)
class ObjectiveOfSearch:
    """What is to become best, on tune.

    Attributes:
        metric: Of the study's metrics; calibration errors are made small, all others large.
        level: `macro` over all classes, `group`, or `class`.
        of: The group (`head`, `medium`, `tail`) or the class.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    metric: Metric = "ap"
    level: Literal["macro", "group", "class"] = "macro"
    of: str | None = None

    def __post_init__(self) -> None:
        if (self.level == "macro") != (self.of is None):
            raise MedtailError(f"level {self.level!r}, of {self.of!r}: `of` names the group or class, and only those.")
        if self.level == "group" and self.of not in TAIL_GROUPS:
            raise MedtailError(f"of {self.of!r}: expected one of {', '.join(TAIL_GROUPS)}.")
        if self.level == "class" and self.metric in POOLED_METRICS:
            raise MedtailError(f"metric {self.metric!r}: is of several classes; expected level macro or group.")

    @property
    def is_to_be_small(self) -> bool:
        """Whether a smaller value is the better one."""
        return self.metric in LOWER_IS_BETTER

    @property
    def words(self) -> str:
        """Name it."""
        return f"{self.metric} on tune, {self.of or 'mean over classes'}"


@final
@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """A search's file.

    Attributes:
        base: A training's YAML file, relative to the search's.
        train: Keys of a training, laid over `base` where both are given.
        space: Dotted key of a training → its range.
        objective: What is to become best, on tune.
        trials: How many; a grid's default is all of it.
        sampler: How trials are drawn.
        pruner: When a trial is stopped early; None never.
        seeds: Training seeds of every trial; its value is their mean.
        folds: `fixed` or `cross_validation`.
        judge: Decisions, thresholds, tail groups; and how test is judged at the end. Its `fold` stays `tune`.
        include_base: Whether the training as it stands is the first trial.
        title: Of the page; the file's name if None.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    base: str | None = None
    train: Mapping[str, Any] | None = None
    space: Mapping[str, Range]
    objective: ObjectiveOfSearch = field(default_factory=ObjectiveOfSearch)
    trials: Annotated[int, Field(ge=1, le=9999)] | None = None
    sampler: SearchSampler = field(default_factory=TpeConfig)
    pruner: MedianConfig | None = None
    seeds: tuple[int, ...] = (0,)
    folds: FoldsConfig = field(default_factory=FixedFolds)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    include_base: bool = True
    title: str | None = None

    def __post_init__(self) -> None:
        problems: list[str] = []
        if not self.space:
            problems.append("space: found no key; expected at least one.")
        for key, given in self.space.items():
            reason = SHUT.get(key.split(".")[0])
            if reason is not None:
                problems.append(f"space, {key}: cannot be searched: {reason}.")
            problems += [f"space, {key}: {word}" for word in self._wrong_conditions(key, given)]
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            problems.append(f"seeds: found {list(self.seeds)}; expected at least one, each once.")
        if self.judge.fold != "tune":
            problems.append("judge.fold: a search looks at tune only; `--judge` opens test once, at its end.")
        if self.pruner is not None and self.objective.is_to_be_small:
            problems.append("pruner: looks at tune mAP, which says little of a calibration error; leave it out.")
        if problems:
            raise MedtailError(" ".join(problems))

    def _wrong_conditions(self, key: str, given: Range) -> list[str]:
        found, before = [], list(self.space)[: list(self.space).index(key)]
        for other, values in given.when.items():
            target = self.space.get(other)
            if other not in before or not isinstance(target, ChoiceRange):
                found.append(f"when, {other}: expected a choice that stands before it{did_you_mean(other, before)}.")
                continue
            known = {word_of(value) for value in target.values}
            found += [
                f"when, {other}: {value!r} is none of its values." for value in values if word_of(value) not in known
            ]
        return found

    def is_there(self, key: str, values: Mapping[str, Any]) -> bool:
        """Return whether a key is there where others have these values."""
        return all(
            other in values and word_of(values[other]) in {word_of(v) for v in wanted}
            for other, wanted in self.space[key].when.items()
        )

    def grid(self) -> list[dict[str, Any]]:
        """Return every combination of a grid's points; those that differ only in keys that are not there, once."""
        assert isinstance(self.sampler, GridConfig)
        points = [points_of(given, self.sampler.points) for given in self.space.values()]
        found: dict[str, dict[str, Any]] = {}
        for combined in product(*points):
            values: dict[str, Any] = {}
            for key, value in zip(self.space, combined, strict=True):
                if self.is_there(key, values):
                    values[key] = value
            found.setdefault(word_of(values), values)
        return list(found.values())

    @property
    def total(self) -> int:
        """How many trials there are to be."""
        if isinstance(self.sampler, GridConfig):
            whole = len(self.grid()) + self.include_base
            return whole if self.trials is None else min(self.trials, whole)
        assert self.trials is not None, "checked when it was read"
        return self.trials


def points_of(given: Range, count: int) -> list[Any]:
    """Return a grid's values of a range.

    Example:
        >>> points_of(FloatRange(low=0.001, high=0.1, log=True), 3)
        [0.001, 0.01, 0.1]
        >>> points_of(IntRange(low=1, high=2), 3)
        [1, 2]
    """
    if isinstance(given, ChoiceRange):
        return list(given.values)
    low, high = (math.log(given.low), math.log(given.high)) if given.log else (given.low, given.high)
    between = [low + (high - low) * i / (count - 1) for i in range(count)]
    numbers = [math.exp(x) if given.log else x for x in between]
    numbers[0], numbers[-1] = given.low, given.high
    if isinstance(given, IntRange):
        return sorted({round(x) for x in numbers})
    return [float(f"{x:.12g}") for x in numbers]


@final
@dataclass(frozen=True)
class Search:
    """What is to be done, resolved.

    Attributes:
        name: For messages: the file's name.
        config: The file.
        base: Keys of the training it starts from, with absolute paths.
    """

    name: str
    config: SearchConfig
    base: Mapping[str, Any]

    @property
    def title(self) -> str:
        """Of the page."""
        return self.config.title or Path(self.name).stem.replace("_", " ")

    def arm(self, name: str, values: Mapping[str, Any]) -> Arm:
        """Return the training with some keys at these values.

        Raises:
            UsageError: Together they are no training.
        """
        return resolve_arms(self.base, {name: values}, where=self.name)[name]


def load_search(path: Path | str, *, overrides: Sequence[str] = (), trials: int | None = None) -> Search:
    """Read a search's file and check every range against the training.

    Args:
        path: The YAML file.
        overrides: Texts such as `seeds=[0,1]`, laid over its keys.
        trials: How many, instead of the file's number.

    Raises:
        UsageError: The file, its training or a range has mistakes; all are named.
    """
    path = Path(path)
    values = apply_overrides(read_yaml(path), overrides)
    if trials is not None:
        values["trials"] = trials
    config = build_config(SearchConfig, values, where=path.name)
    if config.trials is None and not isinstance(config.sampler, GridConfig):
        raise UsageError(f"{path.name}, trials: missing; say how many, here or with `--trials 30`.")
    study = StudyConfig(base=config.base, train=config.train, arms={"base": {}})
    search = Search(path.name, config, training_of(study, folder=path.parent))
    check_space(search)
    return search


def check_space(search: Search) -> None:
    """Check that the ends of every range, and every value of a choice, are a training.

    Raises:
        UsageError: Some are not; all are named.
    """
    base = search.arm("base", {}).config
    problems = Problems(search.name)
    for key, given in search.config.space.items():
        others = {other: values[0] for other, values in given.when.items()}
        for value in points_of(given, 2):
            try:
                search.arm("trial", {**others, key: value})
            except UsageError as error:
                problems.add(f"space, {key}: {value!r} is refused: {error}")
    if search.config.pruner is not None and (base.members > 1 or base.second is not None):
        problems.add("pruner: a training of several networks or stages has no one course of epochs; leave it out.")
    problems.raise_if_any(kind=UsageError)
