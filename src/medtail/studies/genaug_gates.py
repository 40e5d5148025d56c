"""What is asked of generators and pools once classifiers are there: does texture survive, are the pools good?

    DIR/gates/NAME/fold_K.json   macro-F1 of classifiers trained on real images, on tune and on its reconstructions
    DIR/pools/NAME/fold_K/       `quality.json` and `inspect.html`, written by `synthesis.quality_page`

Both read tune, never test, and change nothing that an arm learns from.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from medtail.judging.logit_adjustment import decided_f1
from medtail.pixels.store import open_store
from medtail.runs import atomic_path, read_json, write_json
from medtail.studies.cells import Cell
from medtail.studies.genaug_arms import REAL
from medtail.studies.genaug_material import Material
from medtail.studies.scores import TUNE
from medtail.synthesis.folder import Generator, load_generator
from medtail.tables.generators import RECORD
from medtail.tables.manifest import ROI as REGION
from medtail.tables.manifest import Manifest, read_manifest
from medtail.tables.pools import MANIFEST

JUDGE = "logit_adjusted"
"""The arm whose classifier judges pools: a plain one has next to no recall in the tail, and its verdict no worth."""
QUALITY = "quality.json"
Watch = Callable[[str], Callable[[int, int], None] | None]


def pass_gates(material: Material, cells: Sequence[Cell], *, watch: Watch | None = None) -> None:
    """Measure what autoencoders lose, and inspect the pools; what is there is left as it is.

    Args:
        material: Generators and pools.
        cells: Finished trainings; those of `real` and `logit_adjusted` are used where they are there.
        watch: Given what is being done, returns what is told (done, total), or None.
    """
    for name in material.config.generators:
        for fold in range(material.tables.num_folds):
            if not (material.generator(name, fold) / RECORD).exists():
                continue
            runs = [cell for cell in cells if cell.arm == REAL and cell.fold == fold and cell.record.exists()]
            gate = gate_file(material, name, fold)
            if runs and not gate.exists():
                found = reconstruction_scores(load_generator(material.generator(name, fold)), runs, gate.parent)
                write_json(gate, found)
            pool = material.pool("pool", name, fold)
            if material.config.inspect and (pool / MANIFEST).exists() and not (pool / QUALITY).exists():
                _inspect(material, name, fold, cells, watch)


def gate_file(material: Material, name: str, fold: int) -> Path:
    """Return the file with what a generator's autoencoder loses."""
    return material.root / "gates" / name / f"fold_{fold}.json"


def reconstruction_scores(generator: Generator, runs: Sequence[Cell], folder: Path) -> dict[str, list[float]]:
    """Score tune with classifiers trained on real images, as it is and as the autoencoder gives it back.

    Args:
        generator: Its autoencoder is used.
        runs: Finished trainings of one fold, a seed each.
        folder: Where the reconstructions stand for a moment.

    Returns:
        `real` and `reconstructed`: macro-F1 of each training.
    """
    from medtail.training.predict import predict

    table = read_manifest(runs[0].config.manifest).in_fold(TUNE)
    rebuilt = folder / "reconstructed"
    with atomic_path(rebuilt) as temporary:
        manifest = write_reconstructions(generator, table, temporary)
        groups = table.labels.group_indices
        before = [cell.scores(TUNE) for cell in runs]
        after = [predict(cell.folder, manifest, allow_batch_dependent=True, quiet=True) for cell in runs]
    shutil.rmtree(rebuilt)
    return {
        name: [decided_f1(one.scores, one.targets, groups=groups) for one in tables]
        for name, tables in (("real", before), ("reconstructed", after))
    }


def write_reconstructions(generator: Generator, table: Manifest, folder: Path) -> Manifest:
    """Write images as the autoencoder gives them back.

    Args:
        generator: Its autoencoder is used.
        table: The images.
        folder: Where to.

    Returns:
        The same rows with the new files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = generator.config
    cache = None if config.cache is None else Path(config.cache)
    pixels = open_store(table, config.prepared, cache=cache).images(np.arange(len(table)))
    images = torch.from_numpy(pixels[:, :1]).float() / 255.0
    given = generator.decode(generator.encode(images))
    shown = np.rint(given.clamp(0.0, 1.0).numpy()[:, 0] * 255.0).astype(np.uint8)
    paths = [f"{row:06d}.png" for row in range(len(table))]
    for path, image in zip(paths, shown, strict=True):
        Image.fromarray(image).save(folder / path, compress_level=1)
    frame = table.frame.assign(path=pd.Series(paths, dtype=str))
    if set(REGION) <= set(frame.columns):  # what is given back is all region: cropping leaves it whole
        side = float(config.prepared.size_px)
        frame = frame.assign(**dict(zip(REGION, (0.0, 0.0, side, side), strict=True)))
    return Manifest(frame, table.labels, table.name, folder)


def drop_of(path: Path) -> float:
    """Return the mean macro-F1 that is lost on reconstructions.

    Args:
        path: See `gate_file`.
    """
    value = read_json(path)
    return float(np.mean(value["real"]) - np.mean(value["reconstructed"]))


def _inspect(material: Material, name: str, fold: int, cells: Sequence[Cell], watch: Watch | None) -> None:
    from medtail.synthesis.inspection import inspect_pool
    from medtail.synthesis.quality_page import write_inspection

    judges = [c for c in cells if c.arm == JUDGE and c.fold == fold and c.record.exists()]
    cache = material.config.train.get("cache")
    found = inspect_pool(
        material.pool("pool", name, fold),
        judge=judges[0].folder if judges else None,
        generator=material.generator(name, fold),
        cache=None if cache is None else Path(str(cache)),
        progress=None if watch is None else watch(f"inspecting the pool of {name}"),
    )
    write_inspection(found, title=f"Pool of {name}" + (f", fold {fold}" if material.tables.num_folds > 1 else ""))
