"""The config of a training: every component's config assembled, read from YAML.

A config file may start from a recipe (see `recipes`) and states only what differs. Paths in it are relative to the
file. The resolved config, every default filled in, is kept in the run folder and can be run again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, final

from pydantic import Field

from medtail.config import CLOSED, apply_overrides, build_config, config_to_dict, read_yaml
from medtail.errors import MedtailError, Problems
from medtail.losses.build import BceConfig, LossConfig
from medtail.losses.experts import BranchesConfig, SkillDiverseConfig
from medtail.losses.objectives import ObjectiveConfig, PlainObjectiveConfig, SopConfig, SyntusObjectiveConfig
from medtail.models.backbones import BackboneConfig, DualConfig, EfficientNetConfig, map_weights
from medtail.models.dual import check_size
from medtail.models.experts import ExpertsConfig
from medtail.models.heads import HeadConfig, LinearHeadConfig, SyntusHeadConfig
from medtail.models.text_query import TextQueryConfig
from medtail.pixels.augment import AugmentConfig
from medtail.pixels.frequency import BandConfig
from medtail.pixels.settings import PixelConfig
from medtail.runs import digest_file
from medtail.sampling.build import (
    PolicySamplerConfig,
    ReplaySamplerConfig,
    SamplerConfig,
    TwoBranchesSamplerConfig,
    TwoStreamSamplerConfig,
    UniformSamplerConfig,
)
from medtail.tables.selection import select_classes as select_classes
from medtail.training.mixing import BalancedMixupConfig, MixConfig
from medtail.training.recipes import recipe_layers
from medtail.training.second import (
    LogitAdjustmentConfig,
    RetrainConfig,
    SecondConfig,
    StudyFusionConfig,
    TauNormConfig,
)
from medtail.training.tail_mix import TailMixConfig
from medtail.training.tta import read_plan

Keep = Literal["best", "best_f1", "last"]
STRATEGIES = ("auto", "ddp")
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Natural = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
ShareOfOne = Annotated[float, Field(ge=0.0, lt=1.0)]


@final
@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How weights are moved: AdamW, warm-up then cosine.

    Attributes:
        epochs: Passes over what the sampler draws.
        batch_size: Images a step, all devices together; the batches of an epoch are made equally large, at most this.
        epoch_rows: Images drawn an epoch; None as many as the train fold has.
        learning_rate: Peak rate of the head, and of the backbone unless the next two reduce it.
        backbone_factor: Factor on the rate of the whole backbone, above 0.
        layer_decay: Factor on the rate from each backbone block to the one before it, in (0, 1]; 1 gives all the same.
        weight_decay: Decoupled; not applied to biases and norms.
        warmup: Share of the training over which the rate rises from 0, in [0, 1).
        final_rate: Where the cosine ends, as a fraction of the peak, in [0, 1].
        gradient_clip: Largest norm of the gradient; None never clips.
        ema_decay: Decay of the moving average of the weights that is judged and kept, in [0, 1); None keeps the weights
            themselves.
        keep: Which epoch's weights become the model: the `best` by tune mAP, `best_f1` by tune macro F1 after decoding
            (see `training.quality`), or the `last`. With a handful of tune positives a class the best epoch is mostly
            luck; the last of a cosine schedule, averaged, is the safer pick.
        tune_by: What tune mAP and F1 are of: each `image`, or each image with the mean score of its `study`.
        patience: Stop after so many epochs without a better one; None never stops early. Needs one of the best.
        freeze_epochs: First epochs in which only the head learns.
        precision: `auto` is bf16 on a GPU and 32 bits on a CPU.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    epochs: Natural = 20
    batch_size: Natural = 32
    epoch_rows: Natural | None = None
    learning_rate: Positive = 1e-3
    backbone_factor: Positive = 1.0
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    weight_decay: NotNegative = 0.02
    warmup: ShareOfOne = 0.1
    final_rate: Annotated[float, Field(ge=0.0, le=1.0)] = 0.01
    gradient_clip: Positive | None = 1.0
    ema_decay: ShareOfOne | None = 0.99
    keep: Keep = "best"
    tune_by: Literal["image", "study"] = "image"
    patience: Natural | None = None
    freeze_epochs: Annotated[int, Field(ge=0)] = 0
    precision: Literal["auto", "32", "bf16"] = "auto"

    def __post_init__(self) -> None:
        if self.keep == "last" and self.patience is not None:
            raise MedtailError("optimizer.patience: stops early for the best epoch, which keep: last does not keep.")


@final
@dataclass(frozen=True, kw_only=True)
class LoggingConfig:
    """Where numbers go besides `log.csv`, which is always written.

    Attributes:
        to: Any of `tensorboard` (into the run folder), `mlflow`, `wandb`; each needs its package.
        project: Name of the experiment (MLflow) or project (W&B).
        uri: MLflow's tracking server; a folder in the run folder if None.
        offline: W&B keeps everything on this machine.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    to: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ()
    project: str = "medtail"
    uri: str | None = None
    offline: bool = True


@final
@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything a training is made of.

    Attributes:
        manifest: The table of images, with folds `train` and `tune`.
        recipe: The recipe the file started from; a record, already merged.
        classes: Class names or patterns (`histology=*`) to learn, in the manifest's order; all if None.
        groups: Exclusive groups beyond those that `group=value` names declare, name → classes.
        pixels: How images are prepared.
        augment: How they are varied.
        band: Which spatial frequencies the network sees; other than `none`, `pixels.fill` must be `mirror`.
        sampler: Which images an epoch shows.
        tail_mix: Whether and how rows of rare labels are varied further; None leaves them.
        mix: Whether and how images are mixed with each other; None leaves them.
        loss: What is minimised, a value a cell.
        objective: `plain` minimises the loss; others use more of what a step knows, and may leave `loss` unused.
        backbone: Images to features.
        head: Features to logits.
        optimizer: How weights are moved.
        second: What is done after the training; None is nothing.
        logging: Where numbers go.
        members: Networks to train, each from a seed of its own; their scores are averaged.
        test_time_flip: Average the scores of an image and its mirror image.
        tta: Versions of an image whose logits are averaged at prediction: `flip`, `flip_rotate_scale` or `random:K`;
            see `training.tta`. Thresholds are chosen on scores made so. None is the image alone.
        pseudo_labels: Learn, where nobody assessed, from the columns `meta_pseudo:CLASS` that `medtail data
            pseudo-label` writes. They count for nothing else: frequencies, samplers and thresholds know only labels.
        seed: Seed of everything random.
        threads: CPU threads of torch; its own default if None.
        accelerator: `auto` takes a GPU where there is one.
        devices: Number of devices a node.
        num_nodes: Number of machines.
        strategy: How several devices share a step: `ddp` has the whole network on each; `auto` is that.
        cache: Folder of prepared pixels; `$MEDTAIL_CACHE` or `~/.cache/medtail/pixels` if None.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    manifest: str
    recipe: str | None = None
    classes: tuple[str, ...] | None = None
    groups: Mapping[str, tuple[str, ...]] | None = None
    pixels: PixelConfig = field(default_factory=PixelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    band: BandConfig = field(default_factory=BandConfig)
    sampler: SamplerConfig = field(default_factory=UniformSamplerConfig)
    tail_mix: TailMixConfig | None = None
    mix: MixConfig | None = None
    loss: LossConfig = field(default_factory=BceConfig)
    objective: ObjectiveConfig = field(default_factory=PlainObjectiveConfig)
    backbone: BackboneConfig = field(default_factory=EfficientNetConfig)
    head: HeadConfig = field(default_factory=LinearHeadConfig)
    optimizer: OptimConfig = field(default_factory=OptimConfig)
    second: SecondConfig | None = None
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    members: Annotated[int, Field(ge=1, le=50)] = 1
    test_time_flip: bool = False
    tta: str | None = None
    pseudo_labels: bool = False
    seed: int = 0
    threads: Natural | None = None
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: Natural = 1
    num_nodes: Natural = 1
    strategy: str = "auto"
    cache: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.backbone, DualConfig):
            check_size(self.backbone, size_px=self.pixels.size_px)
        has_streams = isinstance(self.sampler, TwoStreamSamplerConfig | TwoBranchesSamplerConfig)
        if isinstance(self.objective, SyntusObjectiveConfig):
            self.objective.check(
                two_layers=isinstance(self.head, SyntusHeadConfig) and self.head.two_layers, two_streams=has_streams
            )
        elif isinstance(self.head, SyntusHeadConfig) and self.head.batch_mixer is not None:
            raise MedtailError(
                f"head.batch_mixer: its route is read by the objective 'syntus' alone, and objective is"
                f" {self.objective.kind!r}; expected `batch_mixer: null`, or that objective."
            )
        check_experts(self.objective, head=self.head, sampler=self.sampler, has_streams=has_streams)
        if isinstance(self.objective, SopConfig):
            mixes = self.mix is not None or self.tail_mix is not None
            self.objective.check(mixes=mixes, processes=self.devices * self.num_nodes)
        if self.strategy not in STRATEGIES:
            raise MedtailError(
                f"strategy: found {self.strategy!r}; expected {', '.join(map(repr, STRATEGIES))}. medtail starts the"
                " processes itself, so none of Lightning's further words is needed."
            )
        if isinstance(self.mix, BalancedMixupConfig) and self.tail_mix is not None:
            raise MedtailError(
                "mix.kind: 'balanced_mixup' shows no row of the second stream alone, which is what tail_mix varies;"
                " expected one of them. Set `tail_mix: null`."
            )
        if isinstance(self.mix, BalancedMixupConfig) and not has_streams:
            raise MedtailError(
                f"mix.kind: 'balanced_mixup' with sampler {self.sampler.kind!r}, which has one stream; expected a"
                " sampler of two. Use 'two_branches'."
            )
        if self.tail_mix is not None and self.tail_mix.stream > has_streams:
            raise MedtailError(
                f"tail_mix.stream: found {self.tail_mix.stream}, but sampler {self.sampler.kind!r} has streams 0"
                f" to {int(has_streams)}; use the sampler 'two_streams', or another stream."
            )
        if self.second is not None:
            self.second_stage()
        if self.pseudo_labels and isinstance(self.sampler, PolicySamplerConfig):
            raise MedtailError("pseudo_labels: found true with sampler 'policy', which learns from labels alone.")
        if self.tta is not None:
            read_plan(self.tta)
            if self.test_time_flip:
                raise MedtailError("tta: found beside test_time_flip, which averages scores; expected one of them.")
        if self.band.kind == "none":
            return
        if self.pixels.fill != "mirror":
            raise MedtailError(
                f"band.kind: {self.band.kind!r} with pixels.fill {self.pixels.fill!r}, whose edges at the bars would"
                " fill the band; expected pixels.fill 'mirror'."
            )
        self.band.mask(size_px=self.pixels.size_px)

    def second_stage(self) -> TrainConfig:
        """Return the training of the second stage; for one that trains nothing, the first stage.

        Raises:
            MedtailError: The second stage cannot follow this training.
        """
        second = self.second
        assert second is not None, "asked where there is one"
        if isinstance(second, LogitAdjustmentConfig):
            if self.members > 1:
                raise MedtailError(
                    f"second: found 'logit_adjustment' with members {self.members}, whose scores are averaged; expected"
                    " members 1. Adjust the average instead: `medtail calibrate RUN --method logit_adjustment`."
                )
            return replace(self, second=None)
        if isinstance(second, StudyFusionConfig):
            second.check(self.objective, members=self.members)
            return replace(self, second=None)
        needs_linear = isinstance(second, TauNormConfig) or second.learn == "scales"
        if needs_linear and not (isinstance(self.head, LinearHeadConfig) and not self.head.scales):
            raise MedtailError(
                f"second: found head {self.head.kind!r}; a stage that rescales the classes' weights expected the head"
                " 'linear', without scales of its own. Use it, or `second: {kind: retrain, learn: classifier}`."
            )
        if isinstance(second, TauNormConfig):
            return replace(self, second=None)
        if isinstance(second.sampler, PolicySamplerConfig):
            raise MedtailError(
                "second.sampler: found 'policy', which learns its schedule from the start of a training; expected"
                " another sampler, such as 'mixture' or 'replay'."
            )
        freeze = 0 if second.learn == "all" else second.epochs
        rate = self.optimizer.learning_rate if second.learning_rate is None else second.learning_rate
        return replace(
            self,
            second=None,
            sampler=second.sampler,
            loss=self.loss if second.loss is None else second.loss,
            head=replace(self.head, scales=True)
            if isinstance(self.head, LinearHeadConfig) and needs_linear
            else self.head,
            mix=None,
            tail_mix=None,
            optimizer=replace(
                self.optimizer, epochs=second.epochs, learning_rate=rate, freeze_epochs=freeze, patience=None
            ),
        )


def check_experts(objective: ObjectiveConfig, *, head: HeadConfig, sampler: SamplerConfig, has_streams: bool) -> None:
    """Check that an objective for several experts has a head with as many, and the streams it asks for.

    Raises:
        MedtailError: It has not.
    """
    if not isinstance(objective, BranchesConfig | SkillDiverseConfig):
        return
    wanted = 2 if isinstance(objective, BranchesConfig) else 3
    problems = Problems(f"objective.kind {objective.kind!r}")
    if not (isinstance(head, ExpertsConfig) and head.count == wanted):
        problems.add(f"head: found {head.kind!r}; expected `head: {{kind: experts, count: {wanted}}}`.")
    if isinstance(objective, BranchesConfig) and not has_streams:
        problems.add(f"sampler: found {sampler.kind!r}, which has one stream; expected 'two_branches'.")
    problems.raise_if_any()


def load_train_config(path: Path | str, *, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a training's YAML file.

    Args:
        path: The file. Relative paths in it start at its folder.
        overrides: Texts such as `optimizer.epochs=5`, applied last; relative paths in them start at the working folder.

    Returns:
        The config with defaults filled in and absolute paths.

    Raises:
        UsageError: The file is missing, or has mistakes; all are named with their place.
    """
    path = Path(path)
    values = apply_overrides(read_yaml(path), overrides)
    typed = {override.partition("=")[0].strip() for override in overrides}
    for key in ("manifest", "cache"):
        if key in typed and isinstance(values.get(key), str):
            values[key] = os.path.abspath(Path(str(values[key])).expanduser())
    if "head.texts" in typed and isinstance(values["head"].get("texts"), str):
        values["head"]["texts"] = os.path.abspath(Path(values["head"]["texts"]).expanduser())
    if "second.init" in typed and isinstance(values["second"].get("init"), str):
        values["second"]["init"] = os.path.abspath(Path(values["second"]["init"]).expanduser())
    if "sampler.schedule" in typed and isinstance(values["sampler"].get("schedule"), str):
        values["sampler"]["schedule"] = os.path.abspath(Path(values["sampler"]["schedule"]).expanduser())
    return train_config(values, where=path.name, folder=path.parent)


def train_config(values: Mapping[str, Any], *, where: str = "config", folder: Path | None = None) -> TrainConfig:
    """Build a config from a mapping, as `load_train_config` does from a file.

    Args:
        values: What a YAML file would hold.
        where: Its name, for messages.
        folder: Where relative paths start; the working folder if None.

    Returns:
        The config.

    Raises:
        UsageError: Any mistake; all are named.

    Example:
        >>> config = train_config({"manifest": "a.csv", "recipe": "baseline", "optimizer": {"epochs": 3}})
        >>> config.optimizer.epochs, config.loss.kind
        (3, 'bce')
    """
    recipe = values.get("recipe")
    if recipe is not None:
        under: Mapping[str, Any] = {}
        for layer in recipe_layers(str(recipe), where=where):
            under = merge(under, layer)
        values = merge(under, values)
    config = build_config(TrainConfig, values, where=where)
    return _resolve(config, folder if folder is not None else Path())


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay a mapping over another, section by section; another `kind` replaces a section whole.

    Example:
        >>> merge({"loss": {"kind": "focal", "gamma": 2}, "seed": 0}, {"loss": {"kind": "bce"}})
        {'loss': {'kind': 'bce'}, 'seed': 0}
        >>> merge({"optimizer": {"epochs": 20, "warmup": 0.1}}, {"optimizer": {"epochs": 2}})
        {'optimizer': {'epochs': 2, 'warmup': 0.1}}
    """
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            is_same_kind = value.get("kind", below.get("kind")) == below.get("kind")
            merged[key] = merge(below, value) if is_same_kind else value
        else:
            merged[key] = value
    return merged


def _resolve(config: TrainConfig, folder: Path) -> TrainConfig:
    def absolute(path: str) -> str:
        return os.path.abspath(folder / Path(path).expanduser())

    def locate(weights: str) -> str:
        return absolute(weights) if weights.startswith((".", "~")) or (folder / weights).is_dir() else weights

    backbone = map_weights(config.backbone, locate)
    cache = None if config.cache is None else absolute(config.cache)
    head = config.head
    if isinstance(head, TextQueryConfig):
        head = replace(head, texts=absolute(head.texts))

    def found(sampler: SamplerConfig) -> SamplerConfig:
        if not isinstance(sampler, ReplaySamplerConfig):
            return sampler
        path = absolute(sampler.schedule)
        digest = sampler.digest
        if digest is None and Path(path).is_file():  # of a missing file is told where it is read
            digest = digest_file(path)
        return replace(sampler, schedule=path, digest=digest)

    second = config.second
    if isinstance(second, RetrainConfig):
        second = replace(second, sampler=found(second.sampler))
    if isinstance(second, StudyFusionConfig) and second.init is not None:
        second = replace(second, init=absolute(second.init))
    sampler = found(config.sampler)
    manifest = absolute(config.manifest)
    return replace(config, manifest=manifest, cache=cache, backbone=backbone, head=head, sampler=sampler, second=second)


def portable(config: TrainConfig, *, folder: Path) -> dict[str, Any]:
    """Return plain values for a file in `folder`, with the manifest's path relative to it if it is near."""
    values = config_to_dict(config)
    relative = os.path.relpath(config.manifest, os.path.abspath(folder))
    if not relative.startswith(os.path.join(*[".."] * 4)):
        values["manifest"] = Path(relative).as_posix()
    if isinstance(config.second, StudyFusionConfig) and config.second.init is not None:
        init = os.path.relpath(config.second.init, os.path.abspath(folder))
        if not init.startswith(os.path.join(*[".."] * 4)):
            values["second"]["init"] = Path(init).as_posix()
    if isinstance(config.sampler, ReplaySamplerConfig):
        schedule = os.path.relpath(config.sampler.schedule, os.path.abspath(folder))
        if not schedule.startswith(os.path.join(*[".."] * 4)):
            values["sampler"]["schedule"] = Path(schedule).as_posix()
    return values
