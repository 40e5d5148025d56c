"""Some of a table's classes, named or matched by patterns."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from medtail.errors import MedtailError, Problems, did_you_mean
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
