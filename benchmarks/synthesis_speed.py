"""How fast a generator draws, and what a training step costs, all in one run.

Drawing: 20-step DPM-Solver++ against 100-step DDIM and 1,000-step DDPM from one generator: images a second, and KID to
real images of the tune fold, so that speed is compared at equal quality. Sets are drawn in turns, part after part. KID
is taken in the generator's own latents (no other weights are needed), with the real floor beside it: KID of test
images to tune images. Unguided, from the class alone, in the tune fold's proportions, so that the three draw from the
same distribution and can reach the floor.

    medtail synthesise train configs/synthesis/phantom_small.yaml --out gen
    python benchmarks/synthesis_speed.py draw gen --images 192

Training: a denoiser step of ours (class, sketch encoder, perception head) against the step of diffusers' own example
of unconditional training (`UNet2DModel`, `DDPMScheduler.add_noise`, `mse_loss`, clipping, AdamW) at the same size and
batch, in turns; the fastest step of each counts, since a busy machine slows some and speeds up none.

    python benchmarks/synthesis_speed.py step --size small
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from medtail.pixels.dataset import to_float
from medtail.pixels.store import open_store
from medtail.synthesis.config import SynthesisConfig
from medtail.synthesis.drawing import DrawingSettings, draw_latents, noise_for
from medtail.synthesis.folder import Generator, build_denoiser, load_generator
from medtail.synthesis.guidance import Guidance
from medtail.synthesis.kernel_distance import kernel_distance
from medtail.synthesis.objective import denoising_loss, draw_step
from medtail.synthesis.pool import real_table
from medtail.synthesis.schedules import SolverName, diffusers_library, generator_for, signal_shares
from medtail.synthesis.sizes import SIZES, SizeName

RUNS: tuple[tuple[SolverName, int], ...] = (("dpm++", 20), ("ddim", 100), ("ddpm", 1000))


def real_latents(generator: Generator, fold: str) -> np.ndarray:
    """Return the latents of a fold's real images, float64 [N, d]."""
    part = real_table(generator, None).in_fold(fold)
    store = open_store(part, generator.config.prepared)
    images = to_float(torch.from_numpy(store.images(np.arange(len(part)))))
    return generator.encode(images).flatten(1).double().numpy()


def draw(folder: Path, *, images: int, batch: int, seed: int) -> None:
    """Compare the solvers."""
    generator = load_generator(folder)
    table = real_table(generator, None)
    tune_targets = table.in_fold("tune").targets
    present = torch.from_numpy(tune_targets[np.arange(images) % len(tune_targets)])
    steps = generator.config.shape.schedule.timesteps
    runs = [(solver, min(count, steps)) for solver, count in RUNS]
    found: dict[tuple[str, int], list[torch.Tensor]] = {run: [] for run in runs}
    wall, cpu = dict.fromkeys(runs, 0.0), dict.fromkeys(runs, 0.0)
    for start in range(0, images, batch):
        asked = present[start : start + batch]
        noise = noise_for(generator, range(start, start + len(asked)))
        for run in runs:
            settings = DrawingSettings(solver=run[0], steps=run[1], guidance=Guidance(1.0, 0.0))
            began, own = time.perf_counter(), time.process_time()
            latents = draw_latents(generator, noise, present=asked, settings=settings, chance=generator_for(seed))
            generator.decode(latents)
            wall[run] += time.perf_counter() - began
            cpu[run] += time.process_time() - own
            found[run].append(latents.cpu())
    other, tune = real_latents(generator, "test"), real_latents(generator, "tune")
    print(f"{images} images of {generator.config.prepared.size_px} px, batches of {batch}, {generator.device}")
    print(f"KID floor (real test images to tune): {kernel_distance(other, tune):+.4f}")
    print("solver       steps  images/s  cpu s/image       KID")
    for run in runs:
        drawn = torch.cat(found[run]).flatten(1).double().numpy()
        kid = kernel_distance(drawn, tune)
        rate, each = images / wall[run], cpu[run] / images
        print(f"{run[0]:<10} {run[1]:7d} {rate:9.3f} {each:12.4f} {kid:+9.4f}")


def our_step(size: SizeName, batch: int) -> Callable[[int], None]:
    """Return a training step of ours, on latents that are there."""
    config = SynthesisConfig(manifest="none", size=size).resolved(train_images=1000)
    denoiser, schedule = build_denoiser(config, num_classes=6), config.shape.schedule
    shares = signal_shares(schedule)
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=1e-4)
    side, latents = config.prepared.size_px, torch.randn(batch, *_latent_shape(config))
    sketches = (torch.rand(batch, 1, side, side) > 0.95).float()
    present, has_sketch = torch.eye(6)[torch.arange(batch) % 6], torch.ones(batch, dtype=torch.bool)

    def step(number: int) -> None:
        draws = draw_step(
            tuple(latents.shape),  # type: ignore[arg-type] # four axes
            config.denoiser,
            timesteps=schedule.timesteps,
            generator=generator_for(number),
        )
        loss, _ = denoising_loss(
            denoiser,
            latents,
            present=present,
            sketches=sketches,
            has_sketch=has_sketch,
            draws=draws,
            shares=shares,
            prediction=schedule.prediction,
            perception_weight=config.denoiser.perception_weight,
        )
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _latent_shape(config: SynthesisConfig) -> tuple[int, int, int]:
    side = config.prepared.size_px // config.shape.encoder_factor
    return (4, side, side)


def example_step(size: SizeName, batch: int) -> Callable[[int], None]:
    """Return the step of diffusers' example of unconditional training, with a network of the same widths."""
    config, library = SynthesisConfig(manifest="none", size=size), diffusers_library()
    shape = SIZES[size]
    levels, attending = len(shape.channels), shape.attention_levels
    model = library.UNet2DModel(
        sample_size=_latent_shape(config)[1],
        in_channels=4,
        out_channels=4,
        layers_per_block=shape.layers,
        block_out_channels=shape.channels,
        norm_num_groups=shape.norm_groups,
        down_block_types=tuple("AttnDownBlock2D" if i >= levels - attending else "DownBlock2D" for i in range(levels)),
        up_block_types=tuple("AttnUpBlock2D" if i < attending else "UpBlock2D" for i in range(levels)),
    )
    scheduler = library.DDPMScheduler(num_train_timesteps=1000)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    clean = torch.randn(batch, *_latent_shape(config))

    def step(number: int) -> None:
        chance = generator_for(number)
        noise = torch.randn(clean.shape, generator=chance)
        timesteps = torch.randint(0, 1000, (batch,), generator=chance)
        output = model(scheduler.add_noise(clean, noise, timesteps), timesteps).sample
        torch.nn.functional.mse_loss(output, noise).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def compare_steps(size: SizeName, *, batch: int, rounds: int) -> None:
    """Time both steps in turns, in seconds of this process's CPU time."""
    steps = {"diffusers' example": example_step(size, batch), "ours": our_step(size, batch)}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            began = time.process_time()
            step(number)
            if number:  # the first one warms up
                seconds[name].append(time.process_time() - began)
    print(f"{size}, batch {batch}, {torch.get_num_threads()} threads, {rounds} rounds in turns; CPU seconds a step")
    for name, values in seconds.items():
        print(f"{name:<20} fastest {min(values):.4f}  median {np.median(values):.4f}")
    theirs, ours = (np.array(seconds[name]) for name in steps)
    print(
        f"overhead: fastest {ours.min() / theirs.min() - 1:+.1%}, median of rounds {np.median(ours / theirs) - 1:+.1%}"
    )


def main() -> None:
    """Read the request and run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    drawing = verbs.add_parser("draw", help="images a second at equal KID")
    drawing.add_argument("generator", type=Path)
    drawing.add_argument("--images", type=int, default=192)
    drawing.add_argument("--batch", type=int, default=32)
    stepping = verbs.add_parser("step", help="cost of a training step")
    stepping.add_argument("--size", choices=list(SIZES), default="small")
    stepping.add_argument("--batch", type=int, default=32)
    stepping.add_argument("--rounds", type=int, default=20)
    for verb in (drawing, stepping):
        verb.add_argument("--seed", type=int, default=0)
        verb.add_argument("--threads", type=int, default=None)
    given = parser.parse_args()
    if given.threads is not None:
        torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)
    if given.verb == "draw":
        draw(given.generator, images=given.images, batch=given.batch, seed=given.seed)
    else:
        compare_steps(given.size, batch=given.batch, rounds=given.rounds)


if __name__ == "__main__":
    main()
