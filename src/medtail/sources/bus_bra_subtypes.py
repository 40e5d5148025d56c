"""BUS-BRA's histologies as one task of twelve: what a generator and a sampler of rare classes are tried on.

The twelve commonest histologies of the public set exclude each other. Images of the rarer ones are no training data:
they serve as images of classes the model was never shown (`judging.unknown`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from medtail.errors import Problems
from medtail.tables.labels import LabelSpace
from medtail.tables.manifest import Manifest, is_metadata

GROUP = "histology="
SUBTYPES = (
    "fibroadenoma", "invasive ductal carcinoma", "cyst", "fibrocystic changes", "invasive lobular carcinoma",
    "intraductal papilloma", "sclerosing adenosis", "hyperplasia", "lipoma", "phyllodes tumor", "papillary carcinoma",
    "mastitis",
)  # fmt: skip
"""From the commonest of the public set down."""


def bus_bra_subtypes(manifest: Manifest) -> tuple[Manifest, Manifest]:
    """Return the images of the twelve histologies, and those of all others with every label empty.

    Args:
        manifest: From `import_bus_bra`.

    Returns:
        A table of one exclusive group of twelve classes, and a table of the unknown classes with the same columns,
        their histology in `meta_histology`.

    Raises:
        MedtailError: A histology is not in the table; all such are named.
    """
    wanted = [GROUP + name for name in SUBTYPES]
    problems = Problems(manifest.name)
    for column in wanted:
        if column not in manifest.labels.class_names:
            problems.add(
                f"class {column!r}: missing; expected the histologies of BUS-BRA as `import_bus_bra` reads them."
            )
    problems.raise_if_any()
    histologies = [name for name in manifest.labels.class_names if name.startswith(GROUP)]
    cells = manifest.frame[histologies].to_numpy(dtype=float) == 1
    named = np.array(
        [histologies[row.argmax()].removeprefix(GROUP) if row.any() else "" for row in cells], dtype=object
    )
    is_known = np.isin(named.astype(str), SUBTYPES)
    metadata = [column for column in manifest.frame.columns if is_metadata(column)]
    frame = manifest.frame[[*metadata, *wanted]]
    frame.insert(len(metadata), "meta_histology", pd.Series(named, index=frame.index, dtype=str))
    labels = LabelSpace.from_columns(wanted)
    other = (named != "") & ~is_known
    known = replace(manifest, frame=frame[is_known].reset_index(drop=True), labels=labels)
    unknown = replace(manifest, frame=frame[other].assign(**dict.fromkeys(wanted, np.nan)), labels=labels)
    return known, unknown.reindexed()
