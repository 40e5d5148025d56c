"""Images a second reaching the model: the pixel store against decoding JPEG files every epoch.

Both sides deliver float32 batches in [0, 1] of the same shuffled BUS-BRA images, in the same process, in turns. The
yardstick is a plain PyTorch DataLoader whose data set opens, resizes and converts a file an item; of 0 and 2 workers
(kept alive between epochs, started before the clock) the faster counts. What is claimed is the ratio: at least 20.

    python benchmarks/loading.py --data ../shared/data
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from medtail.pixels.dataset import PixelBatches, to_float
from medtail.pixels.settings import PixelConfig
from medtail.pixels.store import open_store
from medtail.tables.manifest import Manifest, manifest_from_frame

BATCH_SIZE = 32


def read_bus_bra(data: Path) -> Manifest:
    labels = pd.read_csv(data / "bus_bra" / "labels.csv")
    return manifest_from_frame(
        pd.DataFrame(
            {
                "image_id": labels["image"],
                "path": "images/" + labels["image"],
                "patient_id": labels["patient"],
                "malignant": (labels["pathology"] == "malignant").astype(int),
            }
        ),
        name="bus_bra",
        root=data / "bus_bra",
    )


class JpegFiles(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """What a first script does: open, gray, resize, to tensor."""

    def __init__(self, manifest: Manifest, *, size_px: int) -> None:
        self.paths = manifest.image_paths()
        self.targets = torch.tensor(manifest.targets)
        self.size_px = size_px

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        with Image.open(self.paths[index]) as image:
            small = image.convert("L").resize((self.size_px, self.size_px), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(small)).float().div_(255)[None], self.targets[index]


def images_per_second(epoch: Callable[[], Iterable[torch.Tensor]], *, epochs: int) -> float:
    images = 0
    started = time.perf_counter()
    for _ in range(epochs):
        for batch in epoch():
            assert batch.dtype == torch.float32
            images += len(batch)
    return images / (time.perf_counter() - started)


def compare(manifest: Manifest, *, size_px: int, cache: Path, repeats: int) -> None:
    started = time.perf_counter()
    store = open_store(manifest, PixelConfig(size_px=size_px), cache=cache)
    built_s = time.perf_counter() - started
    started = time.perf_counter()
    store = open_store(manifest, PixelConfig(size_px=size_px), cache=cache)
    opened_s = time.perf_counter() - started

    order = np.random.default_rng(0)
    batches = PixelBatches(
        store, manifest.targets, batch_size=BATCH_SIZE, rows=lambda epoch: order.permutation(len(store))
    )
    epochs_done = 0

    def from_store() -> Iterable[torch.Tensor]:
        nonlocal epochs_done
        epochs_done += 1
        batches.set_epoch(epochs_done)
        return (to_float(batch["images"]) for batch in batches)

    def bare_map() -> Iterable[torch.Tensor]:
        pixels = np.memmap(
            store.files.pixels_path(0), np.uint8, mode="r", shape=(store.files.count, *store.files.shape)
        )
        chunks = np.split(order.permutation(len(pixels)), range(BATCH_SIZE, len(pixels), BATCH_SIZE))
        return (torch.from_numpy(pixels[chunk]).float().div_(255) for chunk in chunks)

    def decoding(workers: int) -> Callable[[], Iterable[torch.Tensor]]:
        loader = DataLoader(
            JpegFiles(manifest, size_px=size_px),
            batch_size=BATCH_SIZE,
            shuffle=True,
            num_workers=workers,
            persistent_workers=workers > 0,
        )
        return lambda: (images for images, _ in loader)

    ways: dict[str, tuple[Callable[[], Iterable[torch.Tensor]], int]] = {
        "JPEG DataLoader, 0 workers": (decoding(0), 1),
        "JPEG DataLoader, 2 workers": (decoding(2), 1),
        "bare memory map": (bare_map, 10),
        "medtail PixelBatches": (from_store, 10),
    }
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for epoch, _ in ways.values():
        images_per_second(epoch, epochs=1)  # warm: pages in memory, workers started
    for _ in range(repeats):
        for name, (epoch, epochs) in ways.items():
            speeds[name].append(images_per_second(epoch, epochs=epochs))
    middle = {name: statistics.median(values) for name, values in speeds.items()}
    plain = max(middle["JPEG DataLoader, 0 workers"], middle["JPEG DataLoader, 2 workers"])
    print(f"\n{size_px} px, {len(manifest):,} images; store built in {built_s:.1f} s, opened again in {opened_s:.2f} s")
    for name, speed in middle.items():
        print(f"  {name:<28}{speed:>12,.0f} images/s   x {speed / plain:6.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder holding bus_bra/")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--repeats", type=int, default=5, help="turns; the median of each way counts")
    parser.add_argument("--threads", type=int, default=1, help="torch's own; on busy cores two wait for each other")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    manifest = read_bus_bra(arguments.data)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batches of {BATCH_SIZE}")
    with tempfile.TemporaryDirectory() as cache:
        for size_px in arguments.sizes:
            compare(manifest, size_px=size_px, cache=Path(cache), repeats=arguments.repeats)


if __name__ == "__main__":
    main()
