"""The two stages of a generator's training: what is learnt at each step, from which rows, with which chance."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from medtail.errors import MedtailError
from medtail.models.checkpoint import fill
from medtail.pixels.augment import apply_augmentation, draw_augmentation
from medtail.pixels.dataset import to_float
from medtail.seeding import stream_seed
from medtail.synthesis.autoencoder import build_autoencoder, encode, measure, reconstruction_loss
from medtail.synthesis.config import MoveConfig, SynthesisConfig
from medtail.synthesis.denoiser import Denoiser
from medtail.synthesis.folder import AUTOENCODER, DENOISER, WEIGHTS_FORMAT, build_denoiser
from medtail.synthesis.material import Material, drawn_rows, row_shares
from medtail.synthesis.objective import balance_loss, denoising_loss, draw_step
from medtail.synthesis.schedules import generator_for, signal_shares
from medtail.synthesis.stages import Stage, run_stage
from medtail.synthesis.state import Progress, read_state, read_tensors, write_tensors

STATE = "state"
MEASURED_AT_ONCE = 64

Say = Callable[[str], None]


def _kept(path: Path, *, data: str) -> tuple[dict[str, Tensor], Progress]:
    """Return the state of a stage, or an empty one; refuse one of other data."""
    if not path.exists():
        return {}, Progress(data=data)
    tensors, progress = read_state(path)
    if progress.data != data:
        raise MedtailError(
            f"{path}: was learnt from other images, labels or sketches than the manifest has now; expected the same."
            " Restore the manifest, or train into a new folder."
        )
    return tensors, progress


def _precision(config: SynthesisConfig, device: str) -> str:
    wants = config.precision == "bf16" or (config.precision == "auto" and device == "cuda")
    return "bf16-mixed" if wants else "32-true"


@contextlib.contextmanager
def _seeded(seed: int, *purpose: object) -> Iterator[None]:
    """Draw initial weights from a stream of their own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "synthesis", *purpose))
        yield


def first_stage(
    config: SynthesisConfig, out: Path, material: Material, *, device: str, tick: Callable[[int], None], say: Say
) -> tuple[nn.Module, dict[str, float], Progress]:
    """Train the autoencoder and measure it; or read the finished one of a training that was cut off later."""
    settings, size = config.autoencoder, config.shape
    assert settings.steps is not None
    assert settings.batch_size is not None
    assert settings.learning_rate is not None
    with _seeded(config.seed, "autoencoder", "weights"):
        coder = build_autoencoder(size, size_px=config.prepared.size_px)
    coder.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # a fifth faster on a CPU
    shares = row_shares(material.manifest.targets, power=config.denoiser.class_power)
    count, kl, ssim = settings.batch_size, settings.kl_weight, settings.ssim_weight
    names = material.manifest.frame["image_id"].astype(str).to_numpy()

    def loss(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        rows = drawn_rows(shares, count, seed=config.seed, purpose="autoencoder/rows", step=step)
        chance = generator_for(stream_seed(config.seed, "synthesis", "autoencoder", step))
        images, _ = moved(material.images(rows).to(device), None, config.move, generator=chance)
        return reconstruction_loss(coder, images * 2 - 1, kl_weight=kl, ssim_weight=ssim, generator=chance)

    path = out / STATE / AUTOENCODER
    tensors, progress = _kept(path, data=material.digest)
    stage = Stage(
        name="autoencoder",
        model=coder,
        loss=loss,
        steps=settings.steps,
        learning_rate=settings.learning_rate,
        warmup=0,
        weight_decay=0.01,
        gradient_clip=1.0,
        ema_decay=None,
        precision=_precision(config, device),
        device=device,
        save_every=config.save_every,
        images=lambda step: names[drawn_rows(shares, count, seed=config.seed, purpose="autoencoder/rows", step=step)],
        table=material.manifest.name,
    )
    weights, progress = run_stage(stage, path=path, tensors=tensors, progress=progress, tick=tick, say=say)
    if (out / AUTOENCODER).exists():
        weights, header = read_tensors(out / AUTOENCODER, form=WEIGHTS_FORMAT)
        facts = {name: float(header[name]) for name in ("latent_scale", "l1", "ssim")}
        fill(coder, weights, where=str(out / AUTOENCODER))
        return coder.eval().requires_grad_(False), facts, progress
    coder.eval().requires_grad_(False).to(device)
    every = range(0, len(material.store), MEASURED_AT_ONCE)
    rows = np.arange(len(material.store))
    facts = measure(coder, (material.images(rows[s : s + MEASURED_AT_ONCE]).to(device) for s in every))
    if not math.isfinite(facts["latent_scale"]):
        raise MedtailError("autoencoder: its latents are all alike; it has learnt nothing. Train more steps.")
    write_tensors(out / AUTOENCODER, weights, {"format": WEIGHTS_FORMAT, **facts})
    say(f"autoencoder: L1 {facts['l1']:.4f}, SSIM {facts['ssim']:.3f}, latent scale {facts['latent_scale']:.4f}")
    return coder, facts, progress


def second_stage(
    config: SynthesisConfig,
    out: Path,
    material: Material,
    coder: nn.Module,
    *,
    scale: float,
    device: str,
    tick: Callable[[int], None],
    say: Say,
) -> tuple[Denoiser, Progress]:
    """Train the denoiser on the latents of the frozen autoencoder."""
    settings, size = config.denoiser, config.shape
    assert settings.steps is not None
    assert settings.batch_size is not None
    assert settings.learning_rate is not None
    coder.to(device)
    with _seeded(config.seed, "denoiser", "weights"):
        denoiser = build_denoiser(config, num_classes=material.manifest.labels.num_classes)
    if settings.gradient_checkpointing:
        denoiser.unet.enable_gradient_checkpointing()
    targets, count, schedule = material.manifest.targets, settings.batch_size, size.schedule
    names = material.manifest.frame["image_id"].astype(str).to_numpy()
    shares = row_shares(targets, power=settings.class_power)
    even = row_shares(targets, power=0.0)
    signal = signal_shares(schedule).to(device)
    has_sketch = torch.from_numpy(material.has_sketch)
    variants = settings.variants if config.move.moves else 1
    stock = None if variants is None else _encode_stock(config, coder, material, scale, variants, device=device)

    def fresh(rows: np.ndarray, chance: torch.Generator) -> tuple[Tensor, Tensor]:
        images, sketches = material.images(rows).to(device), material.sketch_maps(rows).to(device)
        images, sketches = moved(images, sketches, config.move, generator=chance)
        with torch.no_grad(), torch.autocast(device, enabled=False):
            return encode(coder, images, scale=scale), sketches

    def stored(rows: np.ndarray, chance: torch.Generator) -> tuple[Tensor, Tensor]:
        assert stock is not None
        latents, sketches = stock
        which = torch.randint(len(latents), (len(rows),), generator=chance)
        places = torch.from_numpy(rows)
        return latents[which, places].to(device), to_float(sketches[which, places]).to(device)

    def loss(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        rows = drawn_rows(shares, count, seed=config.seed, purpose="denoiser/rows", step=step)
        chance = generator_for(stream_seed(config.seed, "synthesis", "denoiser", step))
        present = material.present(rows).to(device)
        latents, sketches = (fresh if stock is None else stored)(rows, chance)
        shape = (count, *latents.shape[1:])
        draws = draw_step(shape, settings, timesteps=schedule.timesteps, generator=chance).to(latents.device)
        total, parts = denoising_loss(
            denoiser,
            latents,
            present=present,
            sketches=sketches,
            has_sketch=has_sketch[torch.from_numpy(rows)].to(device),
            draws=draws,
            shares=signal,
            prediction=schedule.prediction,
            perception_weight=settings.perception_weight,
        )
        if settings.balance is None:
            return total, parts
        others = drawn_rows(even, count, seed=config.seed, purpose="denoiser/others", step=step)
        other = material.present(others).to(device)
        term = balance_loss(
            denoiser, latents, present=present, other=other, draws=draws, shares=signal, config=settings.balance
        )
        return total + term, parts | {"balance": term.detach()}

    path = out / STATE / DENOISER
    tensors, progress = _kept(path, data=material.digest)
    stage = Stage(
        name="denoiser",
        model=denoiser,
        loss=loss,
        steps=settings.steps,
        learning_rate=settings.learning_rate,
        warmup=size.warmup,
        weight_decay=settings.weight_decay,
        gradient_clip=settings.gradient_clip,
        ema_decay=settings.ema_decay,
        precision=_precision(config, device),
        device=device,
        save_every=config.save_every,
        images=lambda step: names[drawn_rows(shares, count, seed=config.seed, purpose="denoiser/rows", step=step)],
        table=material.manifest.name,
    )
    weights, progress = run_stage(stage, path=path, tensors=tensors, progress=progress, tick=tick, say=say)
    write_tensors(out / DENOISER, weights, {"format": WEIGHTS_FORMAT})
    return denoiser, progress


def moved(
    images: Tensor, sketches: Tensor | None, config: MoveConfig, *, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Move images and their sketches alike.

    Args:
        images: float [B, 1, S, S] in [0, 1].
        sketches: float [B, 1, S, S]; None where there are none.
        config: How far.
        generator: On the CPU.

    Returns:
        The moved images (outside comes their mirror image) and sketches (outside comes nothing); the images twice
        where no sketches were given.
    """
    if not config.moves:
        return images, images if sketches is None else sketches
    drawn = draw_augmentation(len(images), config.augmentation(), generator=generator, size_px=int(images.shape[-1]))
    shown = apply_augmentation(images, drawn)
    return shown, shown if sketches is None else apply_augmentation(sketches, replace(drawn, border="zeros"))


@torch.no_grad()
def _encode_stock(
    config: SynthesisConfig, coder: nn.Module, material: Material, scale: float, variants: int, *, device: str
) -> tuple[Tensor, Tensor]:
    """Encode moved versions of every image: latents float32 [V, N, 4, h, w], sketches uint8 [V, N, 1, S, S]."""
    all_latents, all_sketches = [], []
    for variant in range(variants):
        for start in range(0, len(material.store), MEASURED_AT_ONCE):
            rows = np.arange(start, min(start + MEASURED_AT_ONCE, len(material.store)))
            chance = generator_for(stream_seed(config.seed, "synthesis", "denoiser/stock", variant, start))
            images, sketches = material.images(rows).to(device), material.sketch_maps(rows).to(device)
            images, sketches = moved(images, sketches, config.move, generator=chance)
            all_latents.append(encode(coder, images, scale=scale).cpu())
            all_sketches.append((sketches * 255).round().to(torch.uint8).cpu())
    latents, sketches, images_each = torch.cat(all_latents), torch.cat(all_sketches), len(material.store)
    return (
        latents.reshape(variants, images_each, *latents.shape[1:]),
        sketches.reshape(variants, images_each, *sketches.shape[1:]),
    )
