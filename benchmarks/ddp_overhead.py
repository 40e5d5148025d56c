"""What a step costs in one process and shared by two: python benchmarks/ddp_overhead.py [--steps 30] [--size-px 64].

Both train the same network on the same rows, augmentation and seed; on CPUs each process has one thread, so two
processes have two cores where one has one. Medians of the epochs' seconds after the first, and the sum over an epoch of
what is not computing: with perfect sharing two processes take half the time of one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from medtail.training.config import train_config
from medtail.training.ensembles import train


def images(folder: Path, *, count: int, size_px: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    (folder / "images").mkdir()
    rows = []
    for number in range(count):
        name = f"images/{number:05d}.png"
        Image.fromarray(random.integers(0, 256, (size_px, size_px), dtype=np.uint8)).save(folder / name)
        fold = "tune" if number % 10 == 0 else "train"
        labels = {"a": number % 2, "b": int(number % 3 == 0)}
        rows.append({"image_id": name, "path": name, "patient_id": f"p{number}", "fold": fold, **labels})
    pd.DataFrame(rows).to_csv(folder / "m.csv", index=False)


def measure(folder: Path, *, devices: int, backbone: str, batch: int, size_px: int, epochs: int) -> dict[str, float]:
    config = train_config(
        {
            "manifest": "m.csv", "cache": "cache", "pixels": {"size_px": size_px}, "backbone": {"kind": backbone},
            "optimizer": {"epochs": epochs, "batch_size": batch}, "threads": 1, "accelerator": "cpu",
            "devices": devices,
        },
        folder=folder,
    )  # fmt: skip
    run = folder / f"{backbone}_{devices}"
    began = time.perf_counter()
    train(config, run, quiet=True)
    whole = time.perf_counter() - began
    seconds = pd.read_csv(run / "log.csv")["seconds"].tolist()
    return {"epoch_s": statistics.median(seconds[1:]), "whole_s": whole, "start_s": whole - sum(seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size-px", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--backbones", default="resnet,vit")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images(folder, count=words.steps * words.batch * 10 // 9, size_px=words.size_px, seed=0)
        for backbone in words.backbones.split(","):
            settings = {"batch": words.batch, "size_px": words.size_px, "epochs": words.epochs}
            one, two = (measure(folder, devices=devices, backbone=backbone, **settings) for devices in (1, 2))
            print(
                json.dumps(
                    {
                        "backbone": backbone,
                        "one": {key: round(value, 3) for key, value in one.items()},
                        "two": {key: round(value, 3) for key, value in two.items()},
                        "speed_up": round(one["epoch_s"] / two["epoch_s"], 3),
                        "lost_share_of_two_cores": round(1 - one["epoch_s"] / (2 * two["epoch_s"]), 3),
                    }
                )
            )


if __name__ == "__main__":
    main()
