"""Does the ratio policy tell good generated images from bad ones? Oracle and corrupted pools on the breast phantom.

    python benchmarks/policy_direction.py [--seeds 10] [--first 0] [--size 64] [--quick] [--keep FOLDER]
        [--set sampler.rounds=10]

For each seed, half of the classes get an oracle pool (fresh lesions of the class asked for), the other half a corrupted
one (40 % of the images show another class); from seed to seed the halves change places, so that what is learnt of a
class's name shows. The policy learns K 30 rounds of M 4 copies and H 30 steps from a reward fold of 30 images a class.
Printed: the level each class's agent would choose on average in the last third of the rounds. Asked: do levels of
oracle classes end above 0.5, where they begin, and those of corrupted classes below? And, fairer to classes that gain
from any image or from none: is a class's level higher with its oracle pool than with its corrupted one? `--quick` is a
smoke test. With `--keep` a run that was cut off goes on.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medtail.config import apply_overrides
from medtail.sources.phantom_breast import CLASS_NAMES, breast_manifest
from medtail.sources.phantom_breast_pool import CORRUPTED, write_breast_pool
from medtail.training.config import TrainConfig, train_config
from medtail.training.policy_rounds import FOLDER, ROUNDS, learn_schedule

HALVES = ((1, 3, 5), (0, 2, 4))
LAST = 1 / 3
"""Share of the rounds whose levels count."""


def corrupted_classes(seed: int) -> tuple[int, ...]:
    """Return which classes have the corrupted pool; another half in the next seed."""
    return HALVES[seed % 2]


def make_pool(folder: Path, *, seed: int, size_px: int, counts: Mapping[str, int] | None = None) -> Path:
    """Write the phantom and its pools of a seed, unless they are there; return the joined manifest."""
    if (folder / "pool" / "manifest.csv").exists():
        return folder / "pool" / "manifest.csv"
    real = breast_manifest(folder / "real", seed=seed, size_px=size_px)
    wrong = {CLASS_NAMES[c]: CORRUPTED for c in corrupted_classes(seed)}
    write_breast_pool(real, folder / "pool", counts=counts, wrong=wrong, seed=seed, size_px=size_px)
    return folder / "pool" / "manifest.csv"


def policy_config(manifest: Path, *, seed: int, size_px: int, overrides: Sequence[str] = ()) -> TrainConfig:
    """Return the training whose policy is watched: the phantom's small classifier, plain cross-entropy."""
    values: dict[str, Any] = {
        "manifest": str(manifest),
        "pixels": {"size_px": size_px},
        "loss": {"kind": "cross_entropy"},
        "sampler": {"kind": "policy", "size": "small"},
        "backbone": {"kind": "resnet", "size": "tiny"},
        "optimizer": {"batch_size": 64, "learning_rate": 2e-3, "weight_decay": 0.01, "ema_decay": None},
        "seed": seed,
        "threads": 1,
        "accelerator": "cpu",
        "cache": str(manifest.parent / "cache"),
    }
    return train_config(apply_overrides(values, overrides))


def final_levels(rounds: pd.DataFrame) -> np.ndarray:
    """Return each class's mean level under the policy in the last third of the rounds."""
    shown = rounds[rounds["kept"] == 1].pivot(index="round", columns="class", values="expected_level")[[*CLASS_NAMES]]
    return np.asarray(shown.iloc[-max(1, round(LAST * len(shown))) :].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    options = parser.parse_args()
    size_px, counts, overrides = options.size, None, options.overrides
    if options.quick:
        size_px, counts = 32, dict.fromkeys(CLASS_NAMES, 8)
        overrides = ["sampler.size=tiny", "optimizer.batch_size=16", *overrides]
    found: dict[int, np.ndarray] = {}
    print(
        "seed  "
        + "  ".join(f"{name.partition('=')[2][:12]:>13}" for name in CLASS_NAMES)
        + "   oracle  corrupted  right"
    )
    with tempfile.TemporaryDirectory() as temporary:
        base = options.keep or Path(temporary)
        for seed in range(options.first, options.first + options.seeds):
            started = time.perf_counter()
            folder = base / f"seed{seed}"
            manifest = make_pool(folder, seed=seed, size_px=size_px, counts=counts)
            config = policy_config(manifest, seed=seed, size_px=size_px, overrides=overrides)
            learn_schedule(config, folder, quiet=True)
            levels = final_levels(pd.read_csv(folder / FOLDER / ROUNDS))
            found[seed] = levels
            bad = np.isin(np.arange(len(CLASS_NAMES)), corrupted_classes(seed))
            up, down = levels[~bad].mean(), levels[bad].mean()
            right = "both" if up > 0.5 > down else "order" if up > down else "no"
            marks = "  ".join(f"{level:>11.3f} {'x' if c else 'o'}" for level, c in zip(levels, bad, strict=True))
            print(
                f"{seed:>4}  {marks}   {up:6.3f}  {down:9.3f}  {right}   {time.perf_counter() - started:.0f} s",
                flush=True,
            )
    summary(found)


def summary(found: Mapping[int, np.ndarray]) -> None:
    """Print in how many seeds levels went the right way, and the paired contrast by class."""
    masks = {seed: np.isin(np.arange(len(CLASS_NAMES)), corrupted_classes(seed)) for seed in found}
    both = sum(bool(levels[~masks[s]].mean() > 0.5 > levels[masks[s]].mean()) for s, levels in found.items())
    order = sum(bool(levels[~masks[s]].mean() > levels[masks[s]].mean()) for s, levels in found.items())
    print(f"oracle above 0.5 and corrupted below: {both} of {len(found)} seeds; oracle above corrupted: {order}")
    if len({seed % 2 for seed in found}) < 2:
        return
    for c, name in enumerate(CLASS_NAMES):
        good = [float(levels[c]) for s, levels in found.items() if not masks[s][c]]
        bad = [float(levels[c]) for s, levels in found.items() if masks[s][c]]
        print(f"{name}: level {np.mean(good):.3f} with an oracle pool, {np.mean(bad):.3f} with a corrupted one")


if __name__ == "__main__":
    main()
