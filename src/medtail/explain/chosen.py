"""Which images and classes are explained: chosen by rule, never by eye, the rare findings first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medtail.errors import MedtailError
from medtail.tables.manifest import Manifest

MOST_CLASSES = 6
"""Classes explained in one image, where none are asked for by name."""


def choose_rows(manifest: Manifest, *, images: int, classes: Sequence[str] | None = None) -> np.ndarray:
    """Choose images so that rare findings are among them.

    Goes round the classes from the rarest to the commonest; each takes in turn the next image that shows it, of a
    patient not taken yet as long as there is one. Images without any finding fill up what is left.

    Args:
        manifest: The images.
        images: How many, at most.
        classes: Only these take images; all if None.

    Returns:
        Rows in the manifest's order, int64 [n], n <= images.

    Raises:
        MedtailError: The manifest has no rows, or no class of that name.

    Example:
        >>> import pandas as pd
        >>> from medtail.tables.manifest import manifest_from_frame
        >>> frame = pd.DataFrame({"image_id": list("abcd"), "path": list("abcd"), "patient_id": list("1234"),
        ...                       "common": [1, 1, 1, 0], "rare": [0, 0, 1, 0]})
        >>> choose_rows(manifest_from_frame(frame), images=2).tolist()
        [0, 2]
    """
    if not len(manifest):
        raise MedtailError(f"{manifest.name}: has no rows; nothing to explain.")
    names = manifest.labels.class_names if classes is None else tuple(classes)
    columns = [manifest.labels.index(name) for name in names]
    shown = manifest.targets == 1
    order = sorted((column for column in columns if shown[:, column].any()), key=lambda c: (shown[:, c].sum(), c))
    waiting = [list(np.flatnonzero(shown[:, column])) for column in order]
    taken: list[int] = []
    patients: set[str] = set()
    while len(taken) < images and any(waiting):
        for rows in waiting:
            rows[:] = [row for row in rows if row not in taken]
            if rows and len(taken) < images:
                fresh = next((row for row in rows if manifest.patients[row] not in patients), rows[0])
                taken.append(int(fresh))
                patients.add(manifest.patients[fresh])
    rest = [row for row in range(len(manifest)) if row not in set(taken)]
    step = max(1, len(rest) // max(1, images - len(taken)))
    return np.array(sorted([*taken, *rest[::step][: images - len(taken)]]), dtype=np.int64)


def choose_classes(scores: np.ndarray, targets: np.ndarray, *, classes: Sequence[int] | None = None) -> list[int]:
    """Choose the classes to explain in one image.

    Args:
        scores: Float [C] in [0, 1].
        targets: 1, 0 or NaN, float [C].
        classes: Just these, if given.

    Returns:
        Columns: those asked; or the findings labelled present, the likeliest first; or the likeliest class where none
        is.

    Example:
        >>> choose_classes(np.array([0.2, 0.9, 0.5]), np.array([1.0, 0.0, 1.0]))
        [2, 0]
        >>> choose_classes(np.array([0.2, 0.9, 0.5]), np.array([0.0, np.nan, 0.0]))
        [1]
    """
    if classes is not None:
        return [int(column) for column in classes]
    order = np.argsort(-scores, kind="stable")
    present = [int(column) for column in order if targets[column] == 1]
    return present[:MOST_CLASSES] if present else [int(order[0])]
