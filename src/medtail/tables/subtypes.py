"""Other views of the same images: rare subtypes each against one reference, and classes under other names.

Stands between a table as a hospital keeps it and a training or an evaluation. A view has the same rows with the same
metadata; only its class columns differ, or its site, or a text before its ids. What a view cannot know stays empty: not
assessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medtail.config import read_yaml
from medtail.errors import MedtailError, Problems, UsageError, did_you_mean, listing
from medtail.tables.frames import row_list
from medtail.tables.labels import short_name
from medtail.tables.manifest import NUMBER_METADATA, Manifest, is_metadata, manifest_from_frame

NOT = "not "
"""Before a class's name: the images in which it is absent."""


def one_versus_reference(
    manifest: Manifest, *, reference: str, subtypes: Sequence[str] | None = None, keep: Sequence[str] = ()
) -> Manifest:
    """Make a task of each subtype: 1 for its images, 0 for the reference's, empty for all other images.

    A subtype's images say nothing about another's task: an empty cell keeps them out of its loss and its metrics.
    Classes are named by their values, without `group=`, because the tasks no longer exclude each other.

    Args:
        manifest: The table; no image may be of two of these classes.
        reference: The class every subtype is told from, such as `benign`; or `not malignant`, the images in which a
            class is absent.
        subtypes: Classes to make tasks of; those of the reference's exclusive group if None.
        keep: Further classes to carry along as they are.

    Returns:
        The same rows, with a class a subtype and then the kept classes.

    Raises:
        MedtailError: A class does not exist or is named twice, the reference has no group to take subtypes from or
            no image shows it, or an image is of two of the classes; all at once.

    Example:
        >>> table = manifest_from_frame(pd.DataFrame({
        ...     "image_id": list("abcd"), "path": "x.png", "patient_id": list("1234"),
        ...     "type=benign": [1, 0, 0, None], "type=FTC": [0, 1, 0, None], "type=MTC": [0, 0, 1, None]}))
        >>> view = one_versus_reference(table, reference="type=benign")
        >>> view.labels.class_names, view.targets.tolist()
        (('FTC', 'MTC'), [[0.0, 0.0], [1.0, nan], [nan, 1.0], [nan, nan]])
    """
    problems = Problems(manifest.name)
    is_reference = _cells(manifest, reference, problems) == 1
    if subtypes is None:
        subtypes = _rest_of_group(manifest, reference, problems)
    present = {name: _cells(manifest, name, problems) == 1 for name in subtypes}
    for name in keep:
        _cells(manifest, name, problems)
    for name in sorted({name for name in (reference, *subtypes) if [reference, *subtypes].count(name) > 1}):
        problems.add(f"class {name!r}: named twice; expected a reference and other classes as subtypes.")
    problems.raise_if_any()
    _check_exclusive(manifest, {reference: is_reference, **present}, problems)
    names = {name: short_name(name) for name in subtypes}
    for short in sorted({short for short in (*names.values(), *keep) if [*names.values(), *keep].count(short) > 1}):
        problems.add(f"class {short!r}: two columns of the view would have this name; keep or name one of them.")
    if not is_reference.any():
        problems.add(f"class {reference!r}: no image shows it, so there is nothing to tell the subtypes from.")
    problems.raise_if_any()
    columns = {names[name]: np.where(rows, 1.0, np.where(is_reference, 0.0, np.nan)) for name, rows in present.items()}
    groups = {group.name: group.classes for group in manifest.labels.groups if set(group.classes) <= set(keep)}
    return _with_classes(manifest, columns | {name: _cells(manifest, name, problems) for name in keep}, groups=groups)


def _rest_of_group(manifest: Manifest, reference: str, problems: Problems) -> tuple[str, ...]:
    for group in manifest.labels.groups:
        if reference in group.classes:
            return tuple(name for name in group.classes if name != reference)
    if not problems.found:
        problems.add(
            f"class {reference!r}: is in no exclusive group whose other classes would be the subtypes; name them."
        )
    return ()


def _check_exclusive(manifest: Manifest, present: Mapping[str, np.ndarray], problems: Problems) -> None:
    crowded = np.flatnonzero(np.sum(list(present.values()), axis=0) > 1)
    if len(crowded):
        both = [repr(name) for name, rows in present.items() if rows[crowded[0]]]
        problems.add(
            f"{row_list((crowded + 2).tolist())}: more than one of the classes is 1 (in the first {listing(both)});"
            " expected classes that exclude each other, so that one can be told from another."
        )


def mapped_labels(manifest: Manifest, label_map: Mapping[str, Sequence[str]]) -> Manifest:
    """Rename and join classes, so that a table from elsewhere can be judged by a model's classes.

    A class stands for the union of the columns listed: 1 where any of them is 1, 0 where all are 0, else empty. A
    class with nothing listed is empty everywhere: it was not assessed there, and no metric will have a value for it.

    Args:
        manifest: The table from elsewhere.
        label_map: Class wanted → columns of the table that it stands for; `not NAME` is a class's absence.

    Returns:
        The same rows with the classes of the map, in its order, and no others.

    Raises:
        MedtailError: A column does not exist, or a wanted class is the name of a metadata column; all at once.

    Example:
        >>> table = manifest_from_frame(pd.DataFrame({
        ...     "image_id": list("abc"), "path": "x.png", "patient_id": list("123"),
        ...     "ductal": [1, 0, 0], "lobular": [0, 1, None]}))
        >>> view = mapped_labels(table, {"cancer": ["ductal", "lobular"], "FTC": []})
        >>> view.labels.class_names, view.targets.tolist()
        (('cancer', 'FTC'), [[1.0, nan], [1.0, nan], [nan, nan]])
    """
    problems = Problems(manifest.name)
    if not label_map:
        problems.add("label map: is empty; expected a line a class.")
    columns = {}
    for name, parts in label_map.items():
        if is_metadata(name):
            problems.add(f"label map, {name!r}: is the name of a metadata column; expected a class.")
        cells = np.array([_cells(manifest, part, problems) for part in parts]).reshape(-1, len(manifest))
        all_absent = (cells == 0).all(axis=0) & bool(len(cells))
        columns[name] = np.where((cells == 1).any(axis=0), 1.0, np.where(all_absent, 0.0, np.nan))
    problems.raise_if_any()
    return _with_classes(manifest, columns)


def with_site(manifest: Manifest, column: str) -> Manifest:
    """Take another metadata column, such as `device`, as the site that splits and domain losses go by.

    Args:
        manifest: The table.
        column: A text column of its metadata.

    Returns:
        The same table, its `site` column made or replaced.

    Raises:
        MedtailError: There is no such column.

    Example:
        >>> table = manifest_from_frame(pd.DataFrame({
        ...     "image_id": list("ab"), "path": "x.png", "patient_id": list("12"), "device": ["P", "Q"], "halo": 1}))
        >>> with_site(table, "device").frame["site"].tolist()
        ['P', 'Q']
    """
    texts = [name for name in manifest.frame.columns if is_metadata(name) and name not in NUMBER_METADATA]
    if column not in texts:
        hint = did_you_mean(column, texts) or f"; its columns: {listing(texts, limit=12)}"
        raise MedtailError(f"{manifest.name}: no metadata column {column!r} to take as site{hint}")
    frame = manifest.frame.assign(site=manifest.frame[column])
    return manifest_from_frame(
        frame,
        name=manifest.name,
        root=manifest.root,
        groups={group.name: group.classes for group in manifest.labels.groups},
    )


def with_id_prefix(manifest: Manifest, prefix: str) -> Manifest:
    """Put a text before every id of images, patients and studies, so that two centres' tables cannot be confused.

    Args:
        manifest: The table.
        prefix: Such as `warsaw-`; letters, digits, `-`, `_` and `.`.

    Returns:
        The same rows with other ids.

    Raises:
        UsageError: The prefix is empty or has other characters.

    Example:
        >>> table = manifest_from_frame(pd.DataFrame({
        ...     "image_id": ["1"], "path": ["1.png"], "patient_id": ["7"], "halo": [1]}))
        >>> with_id_prefix(table, "usg_").frame[["image_id", "patient_id"]].values.tolist()
        [['usg_1', 'usg_7']]
    """
    if not re.fullmatch(r"[A-Za-z0-9._-]+", prefix):
        raise UsageError(f"--prefix {prefix!r}: expected letters, digits, '-', '_' and '.', such as warsaw-")
    columns = {
        column: manifest.frame[column].map(lambda name: f"{prefix}{name}" if name else "").astype(str)
        for column in ("image_id", "patient_id", "study_id")
        if column in manifest.frame.columns
    }
    return replace(manifest, frame=manifest.frame.assign(**columns))


def read_label_map(path: Path | str) -> dict[str, tuple[str, ...]]:
    """Read a label map, `class wanted: column`, `class wanted: [columns]` or `class wanted:` for none.

    Args:
        path: A YAML file.

    Returns:
        Class wanted → columns.

    Raises:
        UsageError: The file is missing, is no YAML mapping, or has lines of another form; all at once.
    """
    path = Path(path)
    values = read_yaml(path)
    problems = Problems(path.name)
    found: dict[str, tuple[str, ...]] = {}
    for name, parts in values.items():
        listed = _listed(parts)
        if listed is None:
            problems.add(f"{name}: found {parts!r}; expected a column, a list of columns, or nothing.")
        elif len(set(listed)) < len(listed):
            problems.add(f"{name}: names a column twice; expected once.")
        else:
            found[str(name)] = listed
    problems.raise_if_any(kind=UsageError)
    return found


def class_sizes(manifest: Manifest) -> dict[str, dict[str, int]]:
    """Count each class's images, and the patients it is present in.

    Example:
        >>> table = manifest_from_frame(pd.DataFrame({
        ...     "image_id": list("abc"), "path": "x.png", "patient_id": list("112"), "halo": [1, 1, None]}))
        >>> class_sizes(table)
        {'halo': {'present': 2, 'absent': 0, 'not_assessed': 1, 'patients_present': 1}}
    """
    found = {}
    for name, cells in zip(manifest.labels.class_names, manifest.targets.T, strict=True):
        found[name] = {
            "present": int((cells == 1).sum()),
            "absent": int((cells == 0).sum()),
            "not_assessed": int(np.isnan(cells).sum()),
            "patients_present": len(set(manifest.patients[cells == 1])),
        }
    return found


def _listed(parts: Any) -> tuple[str, ...] | None:
    if parts is None:
        return ()
    parts = [parts] if isinstance(parts, str) else parts
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        return None
    return tuple(parts)


def _cells(manifest: Manifest, name: str, problems: Problems) -> np.ndarray:
    """Return the cells of a class or of its absence, float64 [images]; adds a problem if there is no such class."""
    known = manifest.labels.class_names
    if name in known:
        return manifest.frame[name].to_numpy(dtype=float)
    if name.startswith(NOT) and name.removeprefix(NOT) in known:
        return 1.0 - manifest.frame[name.removeprefix(NOT)].to_numpy(dtype=float)
    hint = did_you_mean(name, known) or f"; classes: {listing(known, limit=12)}"
    problems.add(f"no class {name!r}{hint}")
    return np.full(len(manifest), np.nan)


def _with_classes(
    manifest: Manifest, columns: Mapping[str, np.ndarray], *, groups: Mapping[str, Sequence[str]] | None = None
) -> Manifest:
    """Return the metadata with other classes, which exclude each other where their names or `groups` say so."""
    metadata = [column for column in manifest.frame.columns if is_metadata(column)]
    frame = pd.concat(
        [manifest.frame[metadata], pd.DataFrame(dict(columns), index=manifest.frame.index, dtype=float)], axis=1
    )
    return manifest_from_frame(frame, name=manifest.name, root=manifest.root, groups=groups)
