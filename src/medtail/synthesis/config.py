"""The config of a generator, read from YAML: which images, how large, which branches.

`size` sets everything a config leaves out. The resolved config, every default filled in, is kept in the generator's
folder and can be trained again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, final

from pydantic import Field

from medtail.config import CLOSED, apply_overrides, build_config, config_to_dict, read_yaml
from medtail.errors import MedtailError
from medtail.pixels.augment import AugmentConfig
from medtail.pixels.settings import PixelConfig
from medtail.synthesis.sizes import PASSES, SIZES, Size, SizeName, Solver
from medtail.synthesis.sketch import SketchConfig

Natural = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


@final
@dataclass(frozen=True, kw_only=True)
class MoveConfig:
    """How images are moved while the generator learns, each together with its sketch.

    Only movements: what changes the gray values would be learnt and generated.

    Attributes:
        flip: Probability of mirroring left and right; 0 where a side means something, as in a chest.
        rotation_deg: Largest rotation either way, degrees.
        scale: Largest relative change of size.
        shift: Largest shift on each axis, as a fraction of the side.

    Example:
        >>> MoveConfig().moves, MoveConfig(flip=0, rotation_deg=0, scale=0, shift=0).moves
        (True, False)
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    flip: Share = 0.5
    rotation_deg: Annotated[float, Field(ge=0.0, le=30.0)] = 10.0
    scale: Annotated[float, Field(ge=0.0, le=0.5)] = 0.1
    shift: Annotated[float, Field(ge=0.0, le=0.5)] = 0.05

    @property
    def moves(self) -> bool:
        """Whether anything is moved at all."""
        return any((self.flip, self.rotation_deg, self.scale, self.shift))

    def augmentation(self) -> AugmentConfig:
        """Return the same movements for `pixels.augment`."""
        return AugmentConfig(
            profile="none", flip=self.flip, rotation_deg=self.rotation_deg, scale=self.scale, shift=self.shift
        )


@final
@dataclass(frozen=True, kw_only=True)
class EncoderTraining:
    """How the autoencoder is trained; None takes the size's value.

    Attributes:
        steps: Training steps.
        batch_size: Images a step.
        learning_rate: Of AdamW.
        kl_weight: Of the divergence from a normal distribution.
        ssim_weight: Of 1 - SSIM.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    steps: Natural | None = None
    batch_size: Natural | None = None
    learning_rate: Positive | None = None
    kl_weight: NotNegative = 1e-6
    ssim_weight: NotNegative = 0.1


@final
@dataclass(frozen=True, kw_only=True)
class BalanceConfig:
    """Class-balancing term: the prediction for a class is kept near that for another, drawn evenly.

    It carries what all classes share from the head to the tail. Costs a second evaluation a step.

    Attributes:
        tau: Weight of the term at noise level t = 1; it grows with t.
        gamma: Weight of its second half, where the other class is moved and this one is fixed.

    References:
        qin2023
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    tau: Positive = 1e-3
    gamma: NotNegative = 0.25


@final
@dataclass(frozen=True, kw_only=True)
class DenoiserTraining:
    """What the denoiser is made of and how it is trained; None takes the size's value.

    Attributes:
        condition_branch: Reading A: a sketch can be given. Off, the network has no channels for it.
        perception_branch: Reading B: the network says which sketch it perceives. Off, it has no channels for it.
        perception_weight: Of the perception loss.
        drop_both: Share of training images shown without class and sketch.
        drop_sketch: Share shown without sketch only.
        drop_class: Share shown without class only.
        class_power: Classes are drawn with probability ∝ count ** class_power: 1 as they come, 0 all alike.
        balance: Class-balancing term; None leaves it out.
        variants: Moved versions of each image that are encoded once, before the training, and then drawn from; None
            moves and encodes anew at every step. About 16 are as good and save a third of the time on a CPU.
        steps: Training steps.
        batch_size: Images a step.
        learning_rate: Peak rate of AdamW; rises over the size's warm-up, then half a cosine down to 0.
        weight_decay: Of AdamW.
        gradient_clip: Largest norm of the gradient.
        ema_decay: Decay of the averaged weights that are kept.
        gradient_checkpointing: Compute activations twice and keep them once: less memory, more time.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    condition_branch: bool = True
    perception_branch: bool = True
    perception_weight: NotNegative = 0.1
    drop_both: Share = 0.1
    drop_sketch: Share = 0.45
    drop_class: Share = 0.05
    class_power: Share = 0.5
    balance: BalanceConfig | None = None
    variants: Natural | None = None
    steps: Natural | None = None
    batch_size: Natural | None = None
    learning_rate: Positive | None = None
    weight_decay: NotNegative = 0.01
    gradient_clip: Positive = 1.0
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        total = self.drop_both + self.drop_sketch + self.drop_class
        if total > 1:
            raise MedtailError(f"drop_both + drop_sketch + drop_class: found {total:g}; expected at most 1.")


@final
@dataclass(frozen=True, kw_only=True)
class DrawingConfig:
    """How images are drawn from the generator unless `medtail synthesise make` is told otherwise.

    Attributes:
        solver: `dpm++` (DPM-Solver++, second order) or `ddim`; None takes the size's.
        steps: Its steps; None takes the size's.
        class_scale: Guidance towards the class: 1 none, more is more typical and less varied; None takes the size's.
        sketch_scale: Guidance towards the sketch.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    solver: Solver | None = None
    steps: Natural | None = None
    class_scale: NotNegative | None = None
    sketch_scale: NotNegative = 1.5


@final
@dataclass(frozen=True, kw_only=True)
class SynthesisConfig:
    """Everything a generator is made of.

    Attributes:
        manifest: The table of images; only real rows of the fold `train` are used.
        size: `tiny`, `small` or `full`.
        classes: Class names or patterns to generate; all if None.
        groups: Exclusive groups beyond those that `group=value` names declare.
        pixels: How images are prepared, one channel; None is the whole image at the size's side.
        sketch: How sketches are extracted.
        move: How images are moved while learning.
        autoencoder: First stage.
        denoiser: Second stage.
        drawing: Defaults for drawing.
        seed: Seed of everything random.
        save_every: Steps between two states that a cut-off training goes on from.
        threads: CPU threads of torch; its own default if None.
        accelerator: `auto` takes a GPU where there is one.
        precision: `auto` is bf16 on a GPU and 32 bits on a CPU.
        cache: Folder of prepared pixels; `$MEDTAIL_CACHE` or `~/.cache/medtail/pixels` if None.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    manifest: str
    size: SizeName = "small"
    classes: tuple[str, ...] | None = None
    groups: Mapping[str, tuple[str, ...]] | None = None
    pixels: PixelConfig | None = None
    sketch: SketchConfig = field(default_factory=SketchConfig)
    move: MoveConfig = field(default_factory=MoveConfig)
    autoencoder: EncoderTraining = field(default_factory=EncoderTraining)
    denoiser: DenoiserTraining = field(default_factory=DenoiserTraining)
    drawing: DrawingConfig = field(default_factory=DrawingConfig)
    seed: int = 0
    save_every: Natural = 250
    threads: Natural | None = None
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    precision: Literal["auto", "32", "bf16"] = "auto"
    cache: str | None = None

    def __post_init__(self) -> None:
        if self.pixels is None:
            return
        multiple = self.shape.side_multiple
        if self.pixels.channels != 1:
            raise MedtailError(f"pixels.channels: found {self.pixels.channels}; a generator makes gray images: 1.")
        if self.pixels.size_px % multiple:
            raise MedtailError(
                f"pixels.size_px: found {self.pixels.size_px}; expected a multiple of {multiple}, which size"
                f" {self.size!r} divides by."
            )

    @property
    def shape(self) -> Size:
        """What the size sets."""
        return SIZES[self.size]

    @property
    def prepared(self) -> PixelConfig:
        """How images are prepared, the size's side where the config names none."""
        return PixelConfig(size_px=self.shape.size_px) if self.pixels is None else self.pixels

    def resolved(self, *, train_images: int) -> SynthesisConfig:
        """Return the config with every value that the size sets filled in.

        Args:
            train_images: Real train images, from which `full` takes its steps.

        Example:
            >>> config = SynthesisConfig(manifest="a.csv", size="tiny").resolved(train_images=10)
            >>> config.denoiser.steps, config.drawing.solver, config.pixels.size_px
            (80, 'ddim', 32)
        """
        shape, coder, denoiser, drawing = self.shape, self.autoencoder, self.denoiser, self.drawing
        coder_batch = shape.encoder_batch if coder.batch_size is None else coder.batch_size
        batch = shape.batch if denoiser.batch_size is None else denoiser.batch_size
        return replace(
            self,
            pixels=self.prepared,
            autoencoder=replace(
                coder,
                steps=_first(coder.steps, shape.encoder_steps, -(-PASSES * train_images // coder_batch)),
                batch_size=coder_batch,
                learning_rate=_first(coder.learning_rate, shape.encoder_rate),
            ),
            denoiser=replace(
                denoiser,
                steps=_first(denoiser.steps, shape.steps, -(-PASSES * train_images // batch)),
                batch_size=batch,
                learning_rate=_first(denoiser.learning_rate, shape.rate),
                ema_decay=_first(denoiser.ema_decay, shape.ema_decay),
            ),
            drawing=replace(
                drawing,
                solver=_first(drawing.solver, shape.solver),
                steps=_first(drawing.steps, shape.solver_steps),
                class_scale=_first(drawing.class_scale, shape.class_scale),
            ),
        )


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)


FREE_TO_CHANGE = ("cache", "threads", "save_every")
"""Keys a resumed training may have changed: they move no weight."""


def load_synthesis_config(path: Path | str, *, overrides: Sequence[str] = ()) -> SynthesisConfig:
    """Read a generator's YAML file.

    Args:
        path: The file. Relative paths in it start at its folder.
        overrides: Texts such as `denoiser.steps=100`, applied last; relative paths in them start at the working folder.

    Returns:
        The config, with absolute paths.

    Raises:
        UsageError: The file is missing, or has mistakes; all are named with their place.
    """
    path = Path(path)
    values = apply_overrides(read_yaml(path), overrides)
    typed = {override.partition("=")[0].strip() for override in overrides}
    for key in ("manifest", "cache"):
        if key in typed and isinstance(values.get(key), str):
            values[key] = os.path.abspath(Path(str(values[key])).expanduser())
    return synthesis_config(values, where=path.name, folder=path.parent)


def synthesis_config(
    values: Mapping[str, Any], *, where: str = "config", folder: Path | None = None
) -> SynthesisConfig:
    """Build a config from a mapping, as `load_synthesis_config` does from a file.

    Args:
        values: What a YAML file would hold.
        where: Its name, for messages.
        folder: Where relative paths start; the working folder if None.

    Raises:
        UsageError: Any mistake; all are named.

    Example:
        >>> synthesis_config({"manifest": "a.csv", "denoiser": {"perception_branch": False}}).denoiser.condition_branch
        True
        >>> synthesis_config({"manifest": "a.csv", "move": {"flip": 2}})
        Traceback (most recent call last):
        medtail.errors.UsageError: config, move.flip: found 2; expected a value less than or equal to 1
    """
    config = build_config(SynthesisConfig, values, where=where)
    start = folder if folder is not None else Path()
    cache = None if config.cache is None else os.path.abspath(start / Path(config.cache).expanduser())
    return replace(config, manifest=os.path.abspath(start / Path(config.manifest).expanduser()), cache=cache)


def portable(config: SynthesisConfig, *, folder: Path) -> dict[str, Any]:
    """Return plain values for a file in `folder`, with the manifest's path relative to it if it is near."""
    values = config_to_dict(config)
    relative = os.path.relpath(config.manifest, os.path.abspath(folder))
    if not relative.startswith(os.path.join(*[".."] * 4)):
        values["manifest"] = Path(relative).as_posix()
    return values
