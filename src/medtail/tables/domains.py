"""Domains: which site (or scanner, or subgroup) each row of a manifest comes from, as a number.

Samplers that spread a class over its sites and objectives that compare sites read them; nothing else does.
"""

from __future__ import annotations

import numpy as np

from medtail.errors import MedtailError, did_you_mean
from medtail.tables.manifest import Manifest

UNKNOWN_DOMAIN = -1
"""Number of the domain of an image whose manifest row names none."""


def domain_numbers(manifest: Manifest, *, column: str | None) -> np.ndarray:
    """Number the domains of a manifest's rows, in the alphabetical order of their names.

    Args:
        manifest: The table.
        column: The column that names the domain (`site`, or any other metadata); None for no domains.

    Returns:
        int64 [rows]; `UNKNOWN_DOMAIN` where the cell is empty, or everywhere without a column.

    Raises:
        MedtailError: The manifest has no such column, unless it is `site`, which may be missing; or it is a class,
            which would make domains of the very labels they are compared within.

    Example:
        >>> import pandas as pd
        >>> from medtail.tables.manifest import manifest_from_frame
        >>> table = pd.DataFrame({"image_id": list("abc"), "path": list("abc"), "patient_id": list("123"),
        ...                       "site": ["Oslo", None, "Kyiv"], "Hernia": [1, 1, None]})
        >>> domain_numbers(manifest_from_frame(table), column="site").tolist()
        [1, -1, 0]
    """
    numbers = np.full(len(manifest), UNKNOWN_DOMAIN, dtype=np.int64)
    if column is None or (column == "site" and column not in manifest.frame.columns):
        return numbers
    metadata = [name for name in manifest.frame.columns if name not in manifest.labels.class_names]
    if column not in metadata:
        found = "is a class" if column in manifest.labels.class_names else "is not there"
        hint = did_you_mean(column, metadata) or f"; its metadata columns are {', '.join(metadata)}"
        raise MedtailError(
            f"{manifest.name}, column {column!r}: {found}; expected a metadata column to take domains from{hint}"
        )
    values = manifest.frame[column]
    # an empty text cell of a manifest is "", an empty number NaN
    is_known = (values.notna() & (values.astype(str) != "")).to_numpy(dtype=bool)
    _, numbers[is_known] = np.unique(values[is_known].astype(str).to_numpy(dtype=str), return_inverse=True)
    return numbers
