"""The pools of a study that no generator makes: controls that look like a pool and isolate one thing.

*Copies*: warped train images in the pool's numbers, so that an arm trained on them has the same class counts and the
same movements, and no new content. *Shuffled*: the very images of a pool under permuted labels, so that whatever good
they still do is not the class they show. Both are laid out as any pool (`tables.pools`) and drawn by the same sampler.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage

from medtail.errors import MedtailError
from medtail.pixels.settings import PixelConfig
from medtail.pixels.store import open_store
from medtail.runs import atomic_path, digest_json, read_json, write_json
from medtail.seeding import stream
from medtail.tables.generators import RECORD, GeneratorRecord
from medtail.tables.manifest import ROI, Manifest, read_manifest
from medtail.tables.pools import ASKED, IMAGES, MANIFEST, fill_counts, write_pool_tables

ROTATION_DEG, SCALE, SHIFT, FLIP = 15.0, 0.15, 0.10, 0.5
"""Of the copies: the movements that a bank's sketches are given before a generator draws after them."""


def warp(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Turn, scale, shift and perhaps mirror an image; what comes in from outside is its mirror image.

    Args:
        image: uint8 [H, W].
        random: Draws angle, scale, shifts and mirroring.

    Returns:
        uint8 [H, W].

    Example:
        >>> warp(np.full((4, 4), 7, dtype=np.uint8), np.random.default_rng(0)).tolist()[0]
        [7, 7, 7, 7]
    """
    angle = np.deg2rad(random.uniform(-ROTATION_DEG, ROTATION_DEG))
    scale = random.uniform(1 - SCALE, 1 + SCALE)
    side = np.array(image.shape, dtype=float)
    shift = random.uniform(-SHIFT, SHIFT, 2) * side
    turned = image[:, ::-1] if random.random() < FLIP else image
    matrix = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / scale
    centre = (side - 1) / 2
    moved = ndimage.affine_transform(
        turned.astype(np.float32), matrix, offset=centre - matrix @ (centre + shift), order=1, mode="reflect"
    )
    return np.asarray(np.clip(moved + 0.5, 0, 255)).astype(np.uint8)


def write_copies(
    manifest: Manifest,
    out: Path,
    *,
    pixels: PixelConfig,
    counts: Mapping[str, int] | None = None,
    seed: int = 0,
    cache: Path | None = None,
) -> Manifest:
    """Write warped copies of train images as a pool.

    Each class's images are taken in turn, so that all are copied equally often. A copy belongs to the patient it shows.

    Args:
        manifest: The real table.
        out: The pool's folder.
        pixels: How images are prepared: copies are made of what a network would see.
        counts: Class → copies; as many as fill the train fold up to balance if None.
        seed: Of the movements.
        cache: Folder of prepared pixels.

    Returns:
        The joined table.

    Raises:
        MedtailError: Images cannot be read.
    """
    wanted = fill_counts(manifest) if counts is None else dict(counts)
    train = manifest.take((manifest.folds == "train") & manifest.is_real)
    plain = replace(pixels, channels=1)
    images = open_store(train, plain, cache=cache).images(np.arange(len(train)))[:, 0]
    settings = {
        "family": "copies", "counts": wanted, "seed": seed, "manifest": manifest.digest, "pixels": plain.identity(),
    }  # fmt: skip
    digest = digest_json(settings)
    with atomic_path(out) as temporary:
        (temporary / IMAGES).mkdir(parents=True)
        rows: list[dict[str, object]] = []
        for c, name in enumerate(manifest.labels.class_names):
            members = np.flatnonzero(train.targets[:, c] == 1)
            if not len(members):
                continue
            order = stream(seed, "copies", name).permutation(members)
            for number in range(wanted.get(name, 0)):
                source = int(order[number % len(order)])
                moved = warp(images[source], stream(seed, "copies", name, number))
                image_id = f"copy_{digest[:8]}_{len(rows):05d}"
                Image.fromarray(moved).save(temporary / IMAGES / f"{image_id}.png", compress_level=1)
                rows.append(
                    {
                        "image_id": image_id,
                        "path": f"{IMAGES}/{image_id}.png",
                        "patient_id": train.patients[source],
                        ASKED: name,
                        "meta_mode": "copy",
                        "meta_generator": digest,
                        "meta_copy_of": str(train.frame["image_id"].iloc[source]),
                        **dict(zip(manifest.labels.class_names, train.targets[source].tolist(), strict=True)),
                    }
                )
        frame = pd.DataFrame(rows)
        if set(ROI) <= set(manifest.frame.columns):  # a copy is all region: cropping leaves it whole
            frame = frame.assign(roi_x=0.0, roi_y=0.0, roi_w=float(plain.size_px), roi_h=float(plain.size_px))
        record = {"generator_digest": digest, "train_patients": sorted(set(train.patients.astype(str))), **settings}
        return write_pool_tables(temporary, manifest, frame, record=record, final=out)


def write_alone(pool: Path, out: Path) -> Manifest:
    """Write a pool's table with the real train rows taken out of train: what generated images teach by themselves.

    Args:
        pool: A pool's folder; its images are not copied.
        out: A folder for the table.

    Returns:
        The table; real rows of the other folds are as they were.
    """
    joined = read_manifest(pool / MANIFEST).rebased(out)
    alone = joined.with_folds(np.where(joined.is_real & (joined.folds == "train"), "", joined.folds))
    with atomic_path(out) as temporary:
        temporary.mkdir(parents=True)
        alone.write(temporary / MANIFEST)
        write_json(temporary / RECORD, read_json(pool / RECORD))
    return alone


def write_shuffled(manifest: Manifest, pool: Path, out: Path, *, seed: int = 0) -> Manifest:
    """Write a pool's images under permuted labels.

    Args:
        manifest: The real table.
        pool: A pool's folder; its images are not copied.
        out: The folder of the shuffled one.
        seed: Of the permutation.

    Returns:
        The joined table.

    Raises:
        MedtailError: The folder is no pool.
    """
    joined = read_manifest(pool / MANIFEST)
    rows = joined.take(~joined.is_real).rebased(out)
    labels = list(manifest.labels.class_names)
    moved = stream(seed, "shuffled").permutation(len(rows))
    frame = rows.frame.copy()
    for column in (ASKED, *labels):
        frame[column] = frame[column].to_numpy()[moved]
    if frame[ASKED].nunique() < 2:
        raise MedtailError(f"{pool}: holds images of one class only; expected several, whose labels can be shuffled.")
    known = GeneratorRecord.from_json(read_json(pool / RECORD), name=str(pool / RECORD))
    record = {
        "generator_digest": known.digest, "train_patients": sorted(known.patients), "family": "shuffled", "seed": seed,
    }  # fmt: skip
    with atomic_path(out) as temporary:
        temporary.mkdir(parents=True)
        return write_pool_tables(temporary, manifest, frame, record=record, final=out)
