"""NIH ChestX-ray14 in CXR-LT's layout, so that tasks 1 to 3 run without credentials for MIMIC-CXR.

The findings get the challenge's names, `Normal` is what shows none of them, every image is a study of its own, and
the label files carry the challenge's names and columns: what reads, trains on and scores an official download does
so with these. The images stay where they are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import pandas as pd

from medtail.errors import MedtailError, Problems, did_you_mean
from medtail.runs import new_folder
from medtail.sources.cxr_lt import Edition, edition
from medtail.sources.gathering import dataset_folder, files_by_name, text_column
from medtail.tables.frames import read_table, write_table
from medtail.tables.manifest import Manifest, is_metadata, manifest_from_frame
from medtail.tables.splits import split_manifest
from medtail.tables.views import view_kind

FRACTIONS = {"train": 0.7, "tune": 0.1, "test": 0.2}
"""Shares of images that have no fold yet, as in the challenge."""
NIH20_FILES = {"train": "miccai2023_nih-cxr-lt_labels_train.csv", "tune": "miccai2023_nih-cxr-lt_labels_val.csv",
               "test": "miccai2023_nih-cxr-lt_labels_test.csv"}  # fmt: skip
_SPLIT_OF_FOLD = {"train": "train", "tune": "val", "test": "test"}
_NAMES = re.compile(r"(\d+)_(\d+)")


@final
@dataclass(frozen=True, eq=False)
class Layout:
    """What was written.

    Attributes:
        folder: Where.
        edition: `nih14` or `nih20`.
        manifest: The table of task 1, with folds.
        files: Names of the files.
        messages: What a split could not give every fold.
    """

    folder: Path
    edition: str
    manifest: Manifest
    files: tuple[str, ...]
    messages: tuple[str, ...]


def read_nih20(path: Path | str, *, images: Path | str | None = None) -> Manifest:
    """Read NIH-CXR-LT's multi-label files: 19 findings, `No Finding`, and folds of their own.

    Args:
        path: The folder with the three `miccai2023_nih-cxr-lt_labels_….csv`.
        images: Folder with the images below it; those not found stay as names.

    Returns:
        A row an image with CXR-LT's names.

    Raises:
        MedtailError: A file or a column is missing, or the labels are no labels.

    References:
        holste2023.
    """
    folder = dataset_folder(path, layout="nih_cxr", expected=", ".join(NIH20_FILES.values()))
    tables, problems, parts = edition("nih20"), Problems("nih_cxr"), []
    for fold, name in NIH20_FILES.items():
        frame, _ = read_table(folder / name, what="label file of NIH-CXR-LT")
        named = {tables.canonical(str(column)): str(column) for column in frame.columns}
        missing = [needed for needed in ("id", "subj_id") if needed not in frame.columns]
        missing += [found for found in tables.by_name if found not in named]
        for needed in missing:
            near = did_you_mean(needed, list(map(str, frame.columns)))
            problems.add(f"{name}, column {needed!r}: missing{near or '.'}")
        if missing:
            continue
        cells = text_column(frame, "id")
        part = {"image_id": cells.str.replace(r"\.\w+$", "", regex=True), "path": cells,
                "patient_id": text_column(frame, "subj_id"), "fold": fold}  # fmt: skip
        parts.append(pd.DataFrame({**part, **{found: frame[named[found]] for found in tables.by_name}}))
    problems.raise_if_any()
    table = pd.concat(parts, ignore_index=True)
    root = folder
    if images is not None:
        root = dataset_folder(images, layout="nih_cxr", expected="a folder of images")
        found_files = files_by_name(root, table["path"], problems=problems)
        problems.raise_if_any()
        table["path"] = [found_files[c].relative_to(root).as_posix() if c in found_files else c for c in table["path"]]
    manifest = manifest_from_frame(table, name="NIH-CXR-LT", root=root)
    manifest.check_folds()
    return _with_studies(manifest)


def as_nih14(manifest: Manifest) -> Manifest:
    """Give the 14 findings CXR-LT's names and add `Normal`: none of them is present.

    Args:
        manifest: From `import_nih_cxr`.

    Returns:
        The same images with 15 classes, `study_id` (one image a study) and `view` as frontal or lateral.

    Raises:
        MedtailError: The classes are not NIH's.

    Example:
        >>> from medtail.sources.nih_cxr import FINDINGS
        >>> table = pd.DataFrame({"image_id": ["00000001_002"], "path": ["a"], "patient_id": ["1"]})
        >>> found = as_nih14(manifest_from_frame(table.assign(**dict.fromkeys(FINDINGS, 0))))
        >>> found.frame[["study_id", "Normal", "Pleural Effusion"]].values.tolist()
        [['1-002', 1.0, 0.0]]
    """
    tables = edition("nih14")
    named = {tables.canonical(name): name for name in manifest.labels.class_names}
    wanted = [name for name in tables.by_name if name != "Normal"]
    lost = [name for name in wanted if name not in named]
    if lost or len(named) != len(wanted):
        raise MedtailError(f"{manifest.name}: its classes are not the 14 findings of NIH ChestX-ray14.")
    targets = np.column_stack([manifest.frame[named[name]].to_numpy(dtype=np.float64) for name in wanted])
    present, unknown = (targets == 1).any(axis=1), np.isnan(targets).any(axis=1)
    normal = np.where(present, 0.0, np.where(unknown, np.nan, 1.0))
    values = {**{name: targets[:, c] for c, name in enumerate(wanted)}, "Normal": normal}
    metadata = [column for column in manifest.frame.columns if is_metadata(str(column))]
    frame = manifest.frame[metadata].assign(**{name: values[name] for name in tables.by_name})
    return _with_studies(manifest_from_frame(frame, name=manifest.name, root=manifest.root))


def _with_studies(manifest: Manifest) -> Manifest:
    """Make every image a study, and turn view codes into kinds."""
    frame = manifest.frame.copy()
    studies = []
    for image, patient in zip(frame["image_id"], frame["patient_id"], strict=True):
        match = _NAMES.fullmatch(str(image))
        studies.append(f"{patient}-{match[2] if match else image}")
    codes = frame["view"].to_numpy(dtype=object) if "view" in frame.columns else np.full(len(frame), "", dtype=object)
    frame["study_id"], frame["meta_view_position"] = studies, codes
    frame["view"] = [view_kind(str(code)) or ("other" if str(code) else "") for code in codes]
    return manifest_from_frame(frame, name=manifest.name, root=manifest.root)


def write_layout(manifest: Manifest, out: Path | str, *, tables: Edition, seed: int = 0) -> Layout:
    """Write a manifest as CXR-LT's label files.

    Args:
        manifest: From `as_nih14` or `read_nih20`; rows without a fold are split by patient, 0.7, 0.1, 0.2.
        out: New folder. It receives `labels.csv` (all rows, with `split`), `train_labeled.csv`, and for each task
            `development_labeled_taskN.csv` and `test_labeled_taskN.csv`; `manifest.csv` to train task 1 on; and for a
            zero-shot task `manifest_taskN.csv`, in which the classes asked for and Normal, which would hide them, are
            missing.
        tables: The edition it is of.
        seed: Of the split.

    Returns:
        What was written.

    Raises:
        UsageError: The folder is not empty.
        MedtailError: A patient in two folds, too few patients, or a fold CXR-LT has no name for.
    """
    folder = new_folder(out)
    outcome = split_manifest(manifest, fractions=_open_fractions(manifest), seed=seed)
    ready = outcome.manifest
    ready.check_folds("train", "tune", "test")
    written: list[str] = []

    def write(name: str, frame: pd.DataFrame) -> None:
        write_table(folder / name, frame)
        written.append(name)

    every = tuple(tables.by_name)
    write("labels.csv", layout_frame(ready, every, tables, with_split=True))
    write("train_labeled.csv", layout_frame(ready.in_fold("train"), tables.task(1).class_names, tables))
    for number, task in tables.tasks.items():
        for word, fold in (("development", "tune"), ("test", "test")):
            write(f"{word}_labeled_task{number}.csv", layout_frame(ready.in_fold(fold), task.class_names, tables))
    tables_for = {"manifest.csv": tables.task(1).class_names}
    for number, task in tables.tasks.items():
        if task.unseen:
            tables_for[f"manifest_task{number}.csv"] = tuple(
                name for name in every if name not in (*task.class_names, "Normal")
            )
    for name, class_names in tables_for.items():
        ready.with_classes(class_names).write(folder / name)
        written.append(name)
    return Layout(folder, tables.name, ready, tuple(written), outcome.messages)


def _open_fractions(manifest: Manifest) -> dict[str, float]:
    odd = sorted({str(fold) for fold in manifest.folds} - {"", *FRACTIONS})
    if odd:
        raise MedtailError(f"{manifest.name}, column 'fold': found {odd[0]!r}; CXR-LT knows train, tune and test.")
    return dict(FRACTIONS)


def layout_frame(
    manifest: Manifest, class_names: Sequence[str], tables: Edition, *, with_split: bool = False
) -> pd.DataFrame:
    """Return rows as one of CXR-LT's label files: its metadata columns, then 0/1 labels.

    Args:
        manifest: Rows with the edition's class names.
        class_names: Which classes, in order.
        tables: The edition.
        with_split: Add a column `split` (train, val, test).
    """
    frame = manifest.frame
    given: dict[str, object] = {
        tables.id_column: frame["image_id"], tables.patient_column: frame["patient_id"],
        "study_id": frame["study_id"], "ViewPosition": frame["meta_view_position"],
        "ViewCodeSequence_CodeMeaning": "", "fpath": frame["path"],
    }  # fmt: skip
    columns = {name: given[name] for name in tables.meta_columns}
    columns |= {name: frame[name] for name in class_names}
    if with_split:
        columns["split"] = frame["fold"].map(_SPLIT_OF_FOLD)
    return pd.DataFrame(columns)
