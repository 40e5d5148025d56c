"""One folder a class: `ROOT/CLASS/…/image.png`, with or without `train/`, `val/`, `test/` above the classes."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pandas as pd

from medtail.errors import MedtailError, Problems, UsageError, listing
from medtail.sources.gathering import IMAGE_ENDINGS, dataset_folder, relative, sub_files
from medtail.tables.labels import one_hot
from medtail.tables.manifest import Manifest, manifest_from_frame

EXPECTED = "one sub-folder a class, images inside (sub-folders of these are fine)"
FOLD_NAMES = {
    "train": "train", "training": "train", "tune": "tune", "val": "tune", "valid": "tune", "validation": "tune",
    "test": "test", "testing": "test",
}  # fmt: skip

log = logging.getLogger(__name__)


def import_folders(path: Path | str, *, patient_pattern: str | None = None) -> Manifest:
    r"""Read one folder a class as the exclusive group `class=NAME`.

    Where every folder at the top is called train, val, test or the like, these become folds and the folders
    in them the classes. Files that are no images by their ending are left out and counted on the log.

    Args:
        path: The folder above the classes.
        patient_pattern: Regular expression with one group, searched in each image's path below `path` (with `/`);
            the group is the patient, as in `r"case(\d+)_"`. If None, patients are unknown.

    Returns:
        A row an image; `image_id` is the path below `path`.

    Raises:
        UsageError: The pattern is no regular expression with exactly one group.
        MedtailError: No classes, images outside a class folder, or images that the pattern does not fit.
    """
    folder = dataset_folder(path, layout="folders", expected=EXPECTED)
    pattern = _compiled(patient_pattern) if patient_pattern is not None else None
    everything = sub_files(folder)
    files = [file for file in everything if file.name.lower().endswith(IMAGE_ENDINGS)]
    if len(files) < len(everything):
        log.warning("folders: %d files below %s are no images and left out.", len(everything) - len(files), folder)
    if not files:
        raise MedtailError(f"folders: no images below {str(folder)!r}; expected the layout: {EXPECTED}.")

    names = [relative(file, folder) for file in files]
    tops = {name.split("/")[0].lower() for name in names if "/" in name}
    has_folds = tops <= set(FOLD_NAMES)
    depth = 2 if has_folds else 1
    problems = Problems(f"folders: {folder}")
    outside = [name for name in names if name.count("/") < depth]
    if outside:
        problems.add(f"{len(outside)} images are in no class folder: {listing(outside, limit=4)}; expected {EXPECTED}.")
    patients = [""] * len(names)
    if pattern is not None:
        found = [pattern.search(name) for name in names]
        patients = [str(match[1] or "") if match else "" for match in found]
        unfit = [name for name, patient in zip(names, patients, strict=True) if not patient]
        if unfit:
            problems.add(
                f"patient_pattern {patient_pattern!r}: finds no patient in {len(unfit)} of {len(names)} paths:"
                f" {listing(unfit, limit=4)}."
            )
    problems.raise_if_any()
    classes = [name.split("/")[depth - 1] for name in names]
    if len(set(classes)) < 2:
        raise MedtailError(f"folders: {str(folder)!r} holds only the class {classes[0]!r}; expected at least two.")
    frame = pd.DataFrame(
        {
            "image_id": names,
            "path": names,
            "patient_id": patients,
            "fold": [FOLD_NAMES[name.split("/")[0].lower()] if has_folds else "" for name in names],
            **one_hot(classes, group="class"),
        }
    )
    return manifest_from_frame(frame, name=str(folder), root=folder)


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"patient_pattern {pattern!r}: is no regular expression ({error}).") from error
    if compiled.groups != 1:
        raise UsageError(
            f"patient_pattern {pattern!r}: has {compiled.groups} groups; expected one pair of brackets around the"
            r" patient, as in 'case(\d+)_'."
        )
    return compiled
