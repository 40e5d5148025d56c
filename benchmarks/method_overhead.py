"""What each method costs a training step: seconds against plain training, all in one run.

A step is what a training does between two batches: augmentation, mixing, forward, objective, backward and AdamW, on
random pixels with 20 labels of which 15 are in four exclusive groups. Methods are measured in turns, round after round,
and the fastest step of each counts: a busy machine slows some rounds and speeds up none. `--clock cpu` counts what this
process had of a machine that others use. Methods with two streams take the same number of rows a step here.

    python benchmarks/method_overhead.py
    python benchmarks/method_overhead.py --batch 64 --size 128 --rounds 20 --clock cpu
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from medtail.config import read_yaml
from medtail.losses.objectives import build_objective
from medtail.pixels.dataset import Batch
from medtail.sampling.build import build_sampler
from medtail.studies.arms import nested
from medtail.tables.manifest import Manifest, manifest_from_frame
from medtail.tables.tail import count_classes
from medtail.training.config import TrainConfig, merge, train_config
from medtail.training.context import joint_counts, train_context
from medtail.training.module import TrainingModule
from medtail.training.plan import ModelPlan

STUDY = Path(__file__).resolve().parents[1] / "configs" / "studies" / "methods.yaml"
ROWS, STEPS = 2000, 10_000


def table(groups: Mapping[str, Any], *, seed: int = 0) -> Manifest:
    """Return made-up labels with a long tail: the study's groups, and five free findings."""
    random = np.random.default_rng(seed)
    columns: dict[str, np.ndarray] = {}
    for members in groups.values():
        shares = 0.4 ** np.arange(len(members))
        picked = random.choice(len(members), size=ROWS, p=shares / shares.sum())
        columns |= {name: (picked == number).astype(float) for number, name in enumerate(members)}
    columns |= {f"finding_{number}": (random.random(ROWS) < 0.3 * 0.4**number).astype(float) for number in range(5)}
    ids = [f"i{row}" for row in range(ROWS)]
    frame = pd.DataFrame({"image_id": ids, "path": ids, "patient_id": ids, "fold": "train", **columns})
    return manifest_from_frame(frame, groups=groups)


def module_of(config: TrainConfig, manifest: Manifest) -> TrainingModule:
    """Build what trains, as `training.fit` does, without a run folder."""
    if config.second is not None:
        config = config.second_stage()
    sampler = build_sampler(config.sampler, manifest, seed=0, epochs=10)
    context = train_context(manifest, count_classes(manifest), sampler=sampler, draws=ROWS, epochs=10)
    objective = build_objective(config.objective, loss=config.loss, context=context)
    plan = ModelPlan(config, manifest.labels, objective.link, context, joint_counts(manifest))
    model = plan.build(load_weights=False, architecture=None)
    if config.optimizer.freeze_epochs:
        model.backbone.requires_grad_(False)
    return TrainingModule(
        model, objective, config=config, manifest=manifest, sampler=sampler, first_epoch=0, steps_per_epoch=STEPS
    )


def stepper(config: TrainConfig, manifest: Manifest, *, batch: int) -> Callable[[], None]:
    """Return a function that takes one training step."""
    module = module_of(config, manifest).train()
    optimizer = module.configure_optimizers()
    size, random = config.pixels.size_px, torch.Generator().manual_seed(0)
    rows = torch.arange(batch)
    given = Batch(
        images=torch.randint(0, 256, (batch, 1, size, size), dtype=torch.uint8, generator=random),
        targets=torch.from_numpy(manifest.targets[:batch].copy()),
        rows=rows,
        streams=(rows >= batch // 2).long(),
        content=torch.tensor([[0, 0, size, size]]).repeat(batch, 1),
    )
    # nine tenths of the training are done, so that what begins late is on
    module.steps_done = module.config.optimizer.epochs * STEPS * 9 // 10

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        module.training_step(given, 0).backward()
        torch.nn.utils.clip_grad_norm_([p for p in module.parameters() if p.grad is not None], 1.0)
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    clock = time.perf_counter if asked.clock == "wall" else time.process_time
    study = read_yaml(STUDY)
    manifest = table(study["train"]["groups"])
    steps: dict[str, Callable[[], None]] = {}
    for name, keys in study["arms"].items():
        config = train_config(merge(study["train"], nested(keys or {}, where=name)), folder=STUDY.parent)
        config = replace(config, pixels=replace(config.pixels, size_px=asked.size))
        steps[name] = stepper(config, manifest, batch=asked.batch)
        steps[name]()
    fastest = dict.fromkeys(steps, float("inf"))
    for _ in range(asked.rounds):
        for name, step in steps.items():
            began = clock()
            step()
            fastest[name] = min(fastest[name], clock() - began)
    print(f"batch {asked.batch}, {asked.size} px, {asked.threads} threads, {asked.clock} time, {asked.rounds} rounds")
    print(f"{'method':24s}{'ms a step':>12s}{'of plain':>10s}")
    for name, seconds in fastest.items():
        print(f"{name:24s}{1000 * seconds:12.1f}{seconds / fastest['plain']:10.2f}")


if __name__ == "__main__":
    main()
