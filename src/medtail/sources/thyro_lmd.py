"""Thyro-LMD's table of labels: twenty descriptors of a thyroid nodule in five groups, and how a table of them is read.

Labels follow the ACR TI-RADS lexicon; four groups exclude their members, the foci can combine. Only the abstract of the
paper is public: the label list and the file's layout are our reading. The scoring protocol (`medtail.challenges`),
the phantom and every importer of thyroid data share this one table. What becomes of the labels is not decided here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from medtail.errors import MedtailError, Problems, did_you_mean, listing
from medtail.sources.gathering import add_missing_images, dataset_file
from medtail.tables.frames import add_row_problem, read_table, row_list, spreadsheet_rows
from medtail.tables.labels import LabelSpace
from medtail.tables.manifest import META_PREFIX, Manifest, is_metadata, manifest_from_frame

LOG = logging.getLogger(__name__)
EXCLUSIVE: Mapping[str, tuple[str, ...]] = {
    "composition": ("comp_cystic", "comp_spongiform", "comp_mixed", "comp_solid"),
    "echogenicity": ("echo_anechoic", "echo_hyper", "echo_iso", "echo_hypo", "echo_very_hypo"),
    "shape": ("shape_wider", "shape_taller"),
    "margin": ("margin_smooth", "margin_ill_defined", "margin_irregular", "margin_ete"),
}
"""Groups of which exactly one member is present wherever they were assessed."""
NO_FOCI = "foci_none"
FOCI: tuple[str, ...] = (NO_FOCI, "foci_comet_tail", "foci_macro", "foci_rim", "foci_punctate")
"""Echogenic foci can combine; `foci_none` excludes the other four."""
GROUPS: Mapping[str, tuple[str, ...]] = {**EXCLUSIVE, "foci": FOCI}
LABELS = LabelSpace.from_columns([name for members in GROUPS.values() for name in members], groups=EXCLUSIVE)
CONTEXT = ("undetermined", "pathology")
"""Columns of `labels.csv` that are no labels: what could not be determined, and the diagnosis; never an input."""
PATHOLOGIES = ("benign", "malignant")
MOST_MM = 150.0
"""No thyroid nodule is longer; a larger size is one in another unit or a slip of the pen."""
EXPECTED = "labels.csv (image_id, path, patient_id and the twenty label columns) with its images beside it"


def import_thyro_lmd(path: Path | str) -> Manifest:
    """Read a data set laid out by the Thyro-LMD protocol, and check that its files are there.

    Args:
        path: The folder holding `labels.csv`, or the table itself (`.csv` or `.parquet`).

    Returns:
        The manifest, classes in the protocol's order; `undetermined` and `pathology` become `meta_` columns.

    Raises:
        MedtailError: Every mistake at once: see `read_labels`; and images or masks that are missing.

    References:
        zhang2026.
    """
    path = Path(path)
    if not path.exists():
        raise MedtailError(f"thyro_lmd: nothing at {str(path)!r}; expected {EXPECTED}.")
    table = dataset_file(path, ["labels.csv", "labels.parquet"], layout="thyro_lmd", expected=EXPECTED) \
        if path.is_dir() else path  # fmt: skip
    manifest = read_labels(table)
    problems = Problems(str(table))
    add_missing_images(problems, manifest.image_paths(), manifest.frame["path"])
    if "mask_path" in manifest.frame.columns:
        named = manifest.frame["mask_path"]
        # a row without a mask is no mistake, and must not be sought
        sought = [manifest.root / name if name else table for name in named]
        add_missing_images(problems, sought, named)
    problems.raise_if_any()
    _tell_what_teaches_nothing(manifest)
    return manifest


def read_labels(path: Path | str) -> Manifest:
    """Read and check `labels.csv`.

    Args:
        path: `.csv` or `.parquet`: a manifest with the twenty label columns, in any order.

    Returns:
        The manifest, its classes in the protocol's order; `undetermined` and `pathology` become `meta_` columns.

    Raises:
        MedtailError: Every mistake at once: missing or unknown columns, a group assessed in part, an exclusive group
            whose row does not sum to 1, `foci_none` beside another focus, foci assessed and none of the five named,
            an impossible size, a pathology or an undetermined group outside the vocabulary.
    """
    path = Path(path)
    frame, _ = read_table(path, what="table of labels")
    return labels_from_frame(frame, name=path.name, root=path.parent)


def labels_from_frame(frame: pd.DataFrame, *, name: str = "labels", root: Path | None = None) -> Manifest:
    """Check a frame as `read_labels` checks a file.

    Args:
        frame: Manifest columns and the twenty labels; not changed.
        name: For messages.
        root: Where relative image paths start.

    Returns:
        The manifest.

    Raises:
        MedtailError: See `read_labels`.
    """
    named = frame.rename(columns={column: META_PREFIX + column for column in CONTEXT if column in frame.columns})
    problems = Problems(name)
    given = [str(column) for column in named.columns if not is_metadata(str(column))]
    for missing in (label for label in LABELS.class_names if label not in given):
        hint = did_you_mean(missing, [column for column in given if column not in LABELS.class_names])
        problems.add(f"column {missing!r}: missing{hint or '; expected all twenty labels (empty where not assessed).'}")
    for unknown in (column for column in given if column not in LABELS.class_names):
        problems.add(f"column {unknown!r}: is none of the twenty labels{did_you_mean(unknown, LABELS.class_names)}.")
    if len(problems):
        problems.raise_if_any()
    manifest = manifest_from_frame(named, name=name, root=root, groups=EXCLUSIVE).with_classes(LABELS.class_names)
    _check_groups(manifest, problems)
    _check_context(manifest, problems)
    problems.raise_if_any()
    return manifest


def group_columns(group: str) -> list[int]:
    """Return the column numbers of a group in the protocol's order.

    Example:
        >>> group_columns("shape")
        [9, 10]
    """
    return [LABELS.class_names.index(name) for name in GROUPS[group]]


def _check_groups(manifest: Manifest, problems: Problems) -> None:
    targets = manifest.targets
    for group, members in GROUPS.items():
        cells = targets[:, group_columns(group)]
        empty = np.isnan(cells)
        partial = empty.any(axis=1) & ~empty.all(axis=1)
        present = (cells == 1).sum(axis=1)
        assessed = ~empty.any(axis=1)
        if group == "foci":
            faults = [
                (assessed & (present == 0), "at least one of them 1"),
                (assessed & (cells[:, 0] == 1) & (present > 1), f"{NO_FOCI!r} to exclude the other four"),
            ]
        else:
            faults = [(assessed & (present != 1), "exactly one of them 1")]
        for wrong, expected in ((partial, "all of them 0 or 1, or all empty (not assessed)"), *faults):
            if wrong.any():
                row = int(np.flatnonzero(wrong)[0])
                values = ", ".join(
                    f"{name} {'empty' if np.isnan(value) else int(value)}"
                    for name, value in zip(members, cells[row], strict=True)
                )
                more = f" Also {int(wrong.sum()) - 1} more rows." if wrong.sum() > 1 else ""
                problems.add(
                    f"row {row + 2}, image {manifest.frame['image_id'].iloc[row]!r}, group {group!r}: found {values};"
                    f" expected {expected}.{more}"
                )


def _check_context(manifest: Manifest, problems: Problems) -> None:
    frame = manifest.frame
    if "size_mm" in frame.columns:
        sizes = frame["size_mm"].to_numpy(dtype=float)
        wrong = ~np.isnan(sizes) & ~((sizes > 0) & (sizes <= MOST_MM))
        add_row_problem(
            problems, wrong, frame["size_mm"], expected=f"a size above 0 and up to {MOST_MM:g} mm, or empty (unknown)"
        )
    if "meta_pathology" in frame.columns:
        wrong = ~frame["meta_pathology"].isin(["", *PATHOLOGIES]).to_numpy(dtype=bool)
        column = frame["meta_pathology"].rename("pathology")
        add_row_problem(problems, wrong, column, expected=f"{' or '.join(PATHOLOGIES)}, or empty (unknown)")
    if "meta_undetermined" in frame.columns:
        column = frame["meta_undetermined"].rename("undetermined")
        wrong = np.array([any(part not in GROUPS for part in _parts(cell)) for cell in column], dtype=bool)
        add_row_problem(problems, wrong, column, expected=f"some of {', '.join(GROUPS)}, joined by ';', or empty")
        for group in GROUPS:
            told = np.array([group in _parts(cell) for cell in column], dtype=bool)
            filled = ~np.isnan(manifest.targets[:, group_columns(group)]).all(axis=1)
            add_row_problem(
                problems, told & filled, column, expected=f"empty cells in {group!r} where it is undetermined"
            )


def _parts(cell: str) -> list[str]:
    return [part.strip() for part in str(cell).split(";") if part.strip()]


def _tell_what_teaches_nothing(manifest: Manifest) -> None:
    empty = np.isnan(manifest.targets)
    rows = spreadsheet_rows(empty.all(axis=1))
    if rows:
        LOG.warning("%s: nothing was assessed in %s; they teach and test nothing.", manifest.name, row_list(rows))
    groups = [group for group in GROUPS if empty[:, group_columns(group)].all()]
    if groups:
        LOG.warning("%s: no row has labels of %s; it cannot be learnt here.", manifest.name, listing(groups))
