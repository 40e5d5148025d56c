"""A pool of generated images beside the table it was made for: how many of each class, and both as one table.

    POOL/images/*.png     the images                  POOL/pool.csv       their rows
    POOL/record.json      generator, settings, whom   POOL/manifest.csv   the real rows and the pool's
                          the generator learnt from

Whoever makes a pool (a diffusion model, a phantom, warped copies) lays it out so; samplers read `meta_class`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from medtail.errors import MedtailError, listing
from medtail.runs import write_json
from medtail.tables.generators import DIGEST_LENGTH, RECORD, SYNTHETIC
from medtail.tables.manifest import NUMBER_METADATA, Manifest, is_metadata, manifest_from_frame
from medtail.tables.tail import count_classes

POOL, MANIFEST, IMAGES = "pool.csv", "manifest.csv", "images"
ASKED = "meta_class"
"""Column with the class an image was made for."""
FLOOR = 0.25
"""Least size of a class's pool, as a share of the largest class: the commonest one leaves something to decide, too."""


def fill_counts(manifest: Manifest, *, floor: float = FLOOR, cap: float | None = None) -> dict[str, int]:
    """Say how many images of each class fill the train fold up to balance.

    d_c = max(n_max - n_c, floor n_max), n_c the real train images that show the class.

    Args:
        manifest: The table.
        floor: Least size of a class's pool, as a share of n_max, in [0, 1].
        cap: Most images a class, as a multiple of n_c; None for no cap.

    Returns:
        Class name → images, >= 0.

    Example:
        >>> table = manifest_from_frame(pd.DataFrame({"image_id": range(10), "path": "x.png", "patient_id": range(10),
        ...     "fold": "train", "type=a": [1] * 8 + [0] * 2, "type=b": [0] * 8 + [1] * 2}))
        >>> fill_counts(table)
        {'type=a': 2, 'type=b': 6}
    """
    counts = np.array(count_classes(manifest).images, dtype=float)
    largest = counts.max(initial=0.0)
    wanted = np.maximum(largest - counts, np.floor(floor * largest + 0.5))
    if cap is not None:
        wanted = np.minimum(wanted, np.floor(cap * counts))
    return {name: int(n) for name, n in zip(manifest.labels.class_names, wanted, strict=True)}


def synthetic_patient(digest: str, number: int) -> str:
    """Return the patient id of a generated image.

    Example:
        >>> synthetic_patient("0123456789abcdef", 7)
        'syn:0123456789ab:7'
    """
    return f"{SYNTHETIC}{digest[:DIGEST_LENGTH]}:{number}"


def with_pool(manifest: Manifest, rows: pd.DataFrame, *, root: Path) -> Manifest:
    """Put a pool's rows behind the real ones.

    Args:
        manifest: The real table.
        rows: `image_id`, `path` (relative to `root`), `meta_class`, label columns and further metadata; `fold` and
            `origin` are filled in.
        root: The pool's folder, from which all paths start.

    Returns:
        One table; metadata that only one side has is empty on the other.

    Raises:
        MedtailError: The pool has other classes than the table, a row asks for no class of it, or ids are repeated.
    """
    wanted = list(manifest.labels.class_names)
    found = [str(column) for column in rows.columns if not is_metadata(str(column))]
    if sorted(found) != sorted(wanted):
        other = sorted(set(found) ^ set(wanted))
        raise MedtailError(
            f"pool for {manifest.name}: its classes are not the table's ({listing(other, limit=6)} in one only);"
            " expected the same label columns. Make a pool with a generator trained on this table."
        )
    if ASKED not in rows.columns or not set(rows[ASKED].astype(str)) <= set(wanted):
        raise MedtailError(f"pool for {manifest.name}, column {ASKED!r}: expected a class of the table in every row.")
    real = manifest.rebased(root)
    rows = rows.assign(fold="train", origin="synthetic")
    columns = [*real.frame.columns, *(name for name in rows.columns if name not in real.frame.columns)]
    metadata = [name for name in columns if is_metadata(name)]
    parts = []
    for frame in (real.frame, rows):
        absent = {c: np.nan if c in NUMBER_METADATA else "" for c in metadata if c not in frame.columns}
        parts.append(frame.assign(**absent)[[*metadata, *wanted]])
    joined = pd.concat(parts, ignore_index=True)
    groups = {group.name: group.classes for group in manifest.labels.groups}
    return manifest_from_frame(joined, name=MANIFEST, root=root, groups=groups)


def write_pool_tables(
    folder: Path, manifest: Manifest, rows: pd.DataFrame, *, record: Mapping[str, object], final: Path | None = None
) -> Manifest:
    """Write `pool.csv`, `manifest.csv` and `record.json` of a pool whose images are there.

    Args:
        folder: The pool's folder, perhaps a temporary one beside the final place.
        manifest: The real table.
        rows: See `with_pool`.
        record: Generator digest, settings, counts and `train_patients`.
        final: Where the folder will stand; `folder` if None.

    Returns:
        The joined table at its final place.
    """
    joined = with_pool(manifest, rows, root=folder)
    joined.write(folder / MANIFEST)
    joined.take(~joined.is_real).write(folder / POOL)
    write_json(folder / RECORD, record)
    return Manifest(joined.frame, joined.labels, MANIFEST, folder if final is None else final)
