"""A study of generated images: which images, which generators, which ways of using them, at one number of steps.

    track: {kind: breast6, reward: generous}
    generator: {size: small, denoiser: {steps: 2600}}
    generators: {ab: {}, ldm: {denoiser: {condition_branch: false, perception_branch: false}}}
    train: {backbone: {kind: resnet}, loss: {kind: cross_entropy}, optimizer: {batch_size: 64}}
    policy: {rounds: 12, copies: 4, steps: 20}
    arms: [real, oversampling, fill, fixed_best, rl, fill@ldm]
    seeds: [0, 1, 2]

Reads and checks; `genaug_arms` makes trainings of it, `genaug_tracks` tables, `genaug` does the work.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, final

from pydantic import Field

from medtail.config import CLOSED, apply_overrides, build_config, read_yaml
from medtail.errors import MedtailError
from medtail.studies.config import NAME
from medtail.tables.tail import RuleName

Natural = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0.0, lt=1.0)]
NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


@final
@dataclass(frozen=True, kw_only=True)
class BreastTrack:
    """The breast-subtype phantom: an oracle of balanced images is to be had, and as many test images as wanted.

    Attributes:
        kind: `breast6`.
        seed: Of the images.
        size_px: Their side.
        reward: Rows that reward a policy: `generous`, 30 a class; `scarce`, a tenth of train.
        balanced: Train images of each class in the oracle's table.
        wrong: Share of wrong labels in the careless pool.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["breast6"] = "breast6"
    seed: int = 0
    size_px: Annotated[int, Field(ge=32, le=512)] = 64
    reward: Literal["generous", "scarce"] = "generous"
    balanced: Natural = 400
    wrong: Share = 0.4


@final
@dataclass(frozen=True, kw_only=True)
class BusBraTrack:
    """Twelve histologies of BUS-BRA, tested once each patient, with a generator a fold.

    Attributes:
        kind: `bus_bra12`.
        path: The data set's folder.
        num_folds: Outer folds; each class needs that many patients, and three at least.
        tune: Share of the rows outside test.
        reward: The same.
        seed: Of the folds.
        duplicates: Keep near-duplicate images in one fold.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    path: str
    kind: Literal["bus_bra12"] = "bus_bra12"
    num_folds: Annotated[int, Field(ge=2)] = 5
    tune: Share = 0.1
    reward: Share = 0.1
    seed: int = 0
    duplicates: bool = True


@final
@dataclass(frozen=True, kw_only=True)
class TableTrack:
    """Any table of one exclusive group of classes.

    Attributes:
        kind: `table`.
        manifest: The table; with `num_folds` its folds are made anew, else it has train, reward, tune and test.
        num_folds: Outer folds; None takes the table's own folds.
        tune: Share of the rows outside test, with `num_folds`.
        reward: The same.
        seed: Of the folds.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    manifest: str
    kind: Literal["table"] = "table"
    num_folds: Annotated[int, Field(ge=2)] | None = None
    tune: Share = 0.1
    reward: Share = 0.1
    seed: int = 0


Track = Annotated[BreastTrack | BusBraTrack | TableTrack, Field(discriminator="kind")]


@final
@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """How pools are made; None leaves it to the generator.

    Attributes:
        mode: `M0` class only, `M1` sketched by itself, `M2` after sketches of train images.
        solver: Of the sampler.
        solver_steps: Its steps.
        class_scale: Guidance towards the class.
        sketch_scale: Guidance towards the sketch.
        seed: Of the images.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    mode: Literal["M0", "M1", "M2"] = "M2"
    solver: Literal["dpm++", "ddim"] | None = None
    solver_steps: Natural | None = None
    class_scale: NotNegative | None = None
    sketch_scale: NotNegative | None = None
    seed: int = 0


@final
@dataclass(frozen=True, kw_only=True)
class GenaugJudge:
    """How the arms are judged, on test, once.

    Attributes:
        bootstrap: Resamples of the patients; as many as Holm's correction needs, 2,000 at least, if None.
        interval: Level of the intervals.
        tail_rule: How classes become head, medium and tail.
        tail_cuts: Upper and lower cut.
        seed: Of the resamples.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    bootstrap: Natural | None = None
    interval: Share = 0.95
    tail_rule: RuleName = "relative"
    tail_cuts: tuple[float, float] | None = None
    seed: int = 0


@final
@dataclass(frozen=True, kw_only=True)
class GenaugConfig:
    """A study's file.

    Attributes:
        track: The images.
        generator: Keys of a generator's config that all generators share, without `manifest`.
        generators: Name → keys laid over them. The first is the one arms use unless they name another (`fill@NAME`).
        pool: How pools are made.
        train: Keys of the classifier's training, without `manifest`, `sampler`, `seed` and number of epochs.
        policy: Keys of the policy sampler, without `kind`; they set the number of steps of every arm.
        final_steps: Steps of the policy's last training, F.
        epoch_steps: Steps after which tune is looked at.
        arms: Names from the table of arms, `ARM@GENERATOR` for another generator; all that the track allows if None.
        contrasts: Further pairs of arms to compare, beside those of the plan.
        curve: Train at one level for all pools from 0 to 2 as well, to see whether too much harms.
        seeds: Training seeds.
        judge: How to judge.
        inspect: Judge the pools (copying, class fidelity, coverage) before anything learns from them.
        title: Of the page.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    track: Track
    generator: Mapping[str, Any] = field(default_factory=dict)
    generators: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"ab": {}})
    pool: PoolConfig = field(default_factory=PoolConfig)
    train: Mapping[str, Any] = field(default_factory=dict)
    policy: Mapping[str, Any] = field(default_factory=dict)
    final_steps: Natural = 300
    epoch_steps: Natural = 10
    arms: tuple[str, ...] | None = None
    contrasts: tuple[tuple[str, str], ...] = ()
    curve: bool = True
    seeds: tuple[int, ...] = (0, 1, 2)
    judge: GenaugJudge = field(default_factory=GenaugJudge)
    inspect: bool = True
    title: str | None = None

    def __post_init__(self) -> None:
        problems = [
            f"{section}.{key}: is the study's business; leave it out."
            for section, given, own in (
                ("generator", self.generator, ("manifest", "classes", "groups")),
                ("train", self.train, ("manifest", "sampler", "seed", "second", "members")),
                ("policy", self.policy, ("kind",)),
            )
            for key in own
            if key in given
        ]
        optimizer = self.train.get("optimizer") or {}
        if isinstance(optimizer, Mapping):
            problems += [
                f"train.optimizer.{key}: follows from policy, final_steps and epoch_steps; leave it out."
                for key in ("epochs", "epoch_rows", "patience")
                if key in optimizer
            ]
        problems += [
            f"generators: {name!r}: expected letters, digits, '_', '-', '+' or '.', since it names a folder."
            for name in self.generators
            if not NAME.fullmatch(name)
        ]
        if not self.generators:
            problems.append("generators: found none; expected one at least, such as `ab: {}`.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            problems.append(f"seeds: found {list(self.seeds)}; expected at least one, each once.")
        if self.final_steps % self.epoch_steps:
            problems.append(
                f"final_steps: found {self.final_steps}; expected a multiple of epoch_steps {self.epoch_steps}."
            )
        if problems:
            raise MedtailError(" ".join(problems))

    @property
    def main(self) -> str:
        """The generator that arms use unless they name another."""
        return next(iter(self.generators))


def load_genaug(path: Path | str, *, overrides: Sequence[str] = (), seeds: Sequence[int] | None = None) -> GenaugConfig:
    """Read a study's file.

    Args:
        path: The YAML file; relative paths in it start at its folder.
        overrides: Texts such as `final_steps=100`, laid over its keys.
        seeds: Training seeds instead of the file's.

    Raises:
        UsageError: The file is missing or has mistakes; all are named with their place.
    """
    path = Path(path)
    config = build_config(GenaugConfig, apply_overrides(read_yaml(path), overrides), where=path.name)
    if seeds is not None:
        config = replace(config, seeds=tuple(seeds))
    train, generator = dict(config.train), dict(config.generator)
    for keys in (train, generator):
        if isinstance(keys.get("cache"), str):
            keys["cache"] = _absolute(keys["cache"], path.parent)
    track = config.track
    if isinstance(track, BusBraTrack):
        track = replace(track, path=_absolute(track.path, path.parent))
    elif isinstance(track, TableTrack):
        track = replace(track, manifest=_absolute(track.manifest, path.parent))
    return replace(config, track=track, train=train, generator=generator, title=config.title or path.stem)


def _absolute(path: str, folder: Path) -> str:
    return os.path.abspath(folder / Path(path).expanduser())
