"""Pools of the breast-subtype phantom: what a perfect generator would have made, or a careless one.

Laid out as a pool of generated images, so that a sampler or a study takes them like any other. Two kinds are permanent
tests of whatever chooses among generated images: the *oracle* pool shows fresh lesions of the class asked for, the
*corrupted* one shows another class with a given probability.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from PIL import Image

from medtail.errors import UsageError
from medtail.runs import atomic_path, digest_json, new_folder
from medtail.sources.phantom import DISCLAIMER
from medtail.sources.phantom_breast import CLASS_NAMES, DRAWN_AT_PX, SUBTYPES, breast_pool, render_breast
from medtail.tables.manifest import Manifest
from medtail.tables.pools import ASKED, IMAGES, fill_counts, synthetic_patient, write_pool_tables

CORRUPTED = 0.4
"""Share of wrong labels of the corrupted pool."""


def write_breast_pool(
    manifest: Manifest,
    out: Path | str,
    *,
    counts: Mapping[str, int] | None = None,
    wrong: float | Mapping[str, float] = 0.0,
    seed: int = 0,
    size_px: int = DRAWN_AT_PX,
) -> Manifest:
    """Write fresh phantoms as a pool of generated images for a phantom table.

    Args:
        manifest: From `breast_manifest`, of any seed.
        out: New or empty folder.
        counts: Class → images; as many as fill the train fold up to balance if None. Classes left out get none.
        wrong: Probability that an image shows another class than asked for, of all classes or by class name.
        seed: Of the series. The lesions are none of the table's, whatever its seed.
        size_px: Pixels a side.

    Returns:
        The table of real and pool rows, which is also in the folder; `meta_shown` holds the class truly shown.

    Raises:
        UsageError: The folder is not empty, a class is unknown, a count or probability is out of range, or the table
            is no breast phantom.

    Example:
        >>> import tempfile
        >>> from medtail.sources.phantom_breast import breast_manifest
        >>> table = breast_manifest(Path(tempfile.mkdtemp()) / "real", size_px=32, reward="none", balanced=1)
        >>> pool = write_breast_pool(table, Path(tempfile.mkdtemp()) / "pool", counts={CLASS_NAMES[5]: 2}, size_px=32)
        >>> pool.frame["meta_class"].tolist()[-2:], int(pool.is_real.sum()) == len(table)
        (['subtype=papilloma_like', 'subtype=papilloma_like'], True)
    """
    if manifest.labels.class_names != CLASS_NAMES:
        raise UsageError(
            f"{manifest.name}: has other classes than the breast phantom; expected {', '.join(CLASS_NAMES)}."
        )
    wanted = fill_counts(manifest) if counts is None else dict(counts)
    rates = dict.fromkeys(CLASS_NAMES, float(wrong)) if isinstance(wrong, int | float) else dict(wrong)
    for name in (*wanted, *rates):
        if name not in CLASS_NAMES:
            raise UsageError(f"breast6: class {name!r}: unknown; expected one of {', '.join(CLASS_NAMES)}.")
    render_breast(0, size_px=size_px)  # a faulty size is refused before any file is made
    settings = {
        "family": "breast6", "counts": wanted, "wrong": rates, "seed": seed, "size_px": size_px,
    }  # fmt: skip
    digest = digest_json(settings)
    folder = new_folder(out)
    folder.rmdir()
    with atomic_path(folder) as temporary:
        (temporary / IMAGES).mkdir(parents=True)
        rows: list[dict[str, object]] = []
        for which, name in enumerate(CLASS_NAMES):
            asked = [wanted.get(name, 0) if c == which else 0 for c in range(len(SUBTYPES))]
            pixels, labels, shown = breast_pool(asked, seed=seed, wrong=rates.get(name, 0.0), size_px=size_px)
            for image, label, truly in zip(pixels, labels, shown, strict=True):
                image_id = f"pool_{digest[:8]}_{len(rows):05d}"
                Image.fromarray(image).save(temporary / IMAGES / f"{image_id}.png", compress_level=1)
                rows.append(
                    {
                        "image_id": image_id,
                        "path": f"{IMAGES}/{image_id}.png",
                        "patient_id": synthetic_patient(digest, len(rows)),
                        ASKED: name,
                        "meta_mode": "phantom",
                        "meta_generator": digest,
                        "meta_shown": CLASS_NAMES[truly],
                        "meta_source": DISCLAIMER,
                        **{column: float(label == c) for c, column in enumerate(CLASS_NAMES)},
                    }
                )
        if not rows:
            raise UsageError("breast6: a pool of no images; expected at least one class with a count above 0.")
        record = {"what": DISCLAIMER, "generator_digest": digest, "train_patients": [], **settings}
        return write_pool_tables(temporary, manifest, pd.DataFrame(rows), record=record, final=folder)
