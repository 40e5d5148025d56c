"""Some of a table's classes: named, matched by patterns, or those a model knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from medtail.errors import MedtailError, Problems, did_you_mean, listing
from medtail.tables.labels import LabelSpace
from medtail.tables.manifest import Manifest


def select_classes(manifest: Manifest, patterns: Sequence[str] | None) -> Manifest:
    """Keep the classes that any of the names or patterns matches, in the manifest's order.

    Args:
        manifest: The table.
        patterns: Exact names, or shell patterns where `*` and `?` stand for any text and character; None keeps all.

    Returns:
        The manifest with those classes.

    Raises:
        MedtailError: A pattern matches no class; all such are named.
    """
    if patterns is None:
        return manifest
    labels: LabelSpace = manifest.labels
    problems = Problems(manifest.name)
    chosen: set[str] = set()
    for pattern in patterns:
        matched = {name for name in labels.class_names if name == pattern or fnmatchcase(name, pattern)}
        if not matched:
            hint = did_you_mean(pattern, labels.class_names) or f"; classes are {', '.join(labels.class_names[:12])}"
            problems.add(f"classes: no class is called {pattern!r}{hint}")
        chosen |= matched
    problems.raise_if_any()
    if not chosen:
        raise MedtailError(f"{manifest.name}, classes: the list is empty; name classes, or leave it out for all.")
    return manifest.with_classes([name for name in labels.class_names if name in chosen])


def match_classes(manifest: Manifest, labels: LabelSpace) -> Manifest:
    """Return a manifest with a model's classes in the model's order and groups; further classes are left out.

    Args:
        manifest: The table.
        labels: The model's classes.

    Raises:
        MedtailError: The manifest lacks classes of the model; all are named.

    Example:
        >>> import pandas as pd
        >>> from medtail.tables.manifest import manifest_from_frame
        >>> frame = pd.DataFrame({"image_id": ["a"], "path": ["a.png"], "patient_id": ["1"], "x": [1], "y": [0]})
        >>> match_classes(manifest_from_frame(frame, root="."), LabelSpace(("y",))).labels.class_names
        ('y',)
    """
    found = manifest.labels.class_names
    missing = [name for name in labels.class_names if name not in found]
    if missing:
        hint = did_you_mean(missing[0], [name for name in found if name not in labels.class_names])
        raise MedtailError(
            f"{manifest.name}: lacks {len(missing)} of the model's {labels.num_classes} classes:"
            f" {listing([repr(name) for name in missing], limit=10)}{hint}. Add the columns; leave cells empty"
            " where a class was not assessed."
        )
    return replace(manifest.with_classes(labels.class_names), labels=labels)
