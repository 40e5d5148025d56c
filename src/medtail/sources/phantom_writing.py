"""A phantom series as a data set on disk: PNG images, PNG masks, a manifest, the true labels, and what was ordered.

The folder appears whole or not at all. Images are spread over processes; bytes do not depend on how many there are.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from medtail.config import config_to_dict
from medtail.errors import UsageError
from medtail.runs import atomic_path, new_folder, write_json, write_text
from medtail.sources.phantom import BLOCK, DISCLAIMER, Case, PhantomConfig, phantom_case, render_case, spacing_mm
from medtail.sources.phantom_physics import SCANNERS
from medtail.sources.phantom_prevalence import MALIGNANT, shares
from medtail.sources.thyro_lmd import EXCLUSIVE, LABELS
from medtail.tables.frames import write_table
from medtail.tables.manifest import Manifest, manifest_from_frame

MANIFEST, TRUTH, RECORD, NOTICE = "manifest.csv", "truth.csv", "phantom.json", "ATTRIBUTION.md"
CHUNK = 40
"""Images a process draws before it reports."""
NOTICE_TEXT = f"""# What these images are

{DISCLAIMER.capitalize()}.

Drawn by a program, not acquired from a person: no patient, no scanner, no pathology. They exist to test software and to
study the mechanics of learning from rare labels. A figure obtained on them says nothing about ultrasound of people, and
must not be reported as if it did. Names of sites, devices, patients and diagnoses are made up.
"""


def phantom_manifest(
    out: Path | str,
    *,
    images: int,
    config: PhantomConfig | None = None,
    offset: int = 0,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Write images `offset` to `offset + images - 1` of a series, and their table.

    Writes `images/`, `masks/`, `manifest.csv` (recorded labels, one row an image), `truth.csv` (labels as drawn),
    `phantom.json` (config, wanted and reached shares of labels) and `ATTRIBUTION.md`.

    Args:
        out: New or empty folder.
        images: How many, >= 1.
        config: The series; the defaults if None.
        offset: Number of the first image, a multiple of 20, so that no patient is cut in two: fresh test data of the
            same kind begin wherever training data end.
        workers: Processes, >= 1.
        progress: Called with images done and images in all.

    Returns:
        The manifest, paths relative to `out`; folds are left to `medtail data split`. `origin` stays `real`, because
        `synthetic` marks a generator's images, which may stand in the train fold only; `meta_source` says what they
        are.

    Raises:
        UsageError: A number is out of range, the folder is not empty, or the config is faulty.
        MedtailError: The folder cannot be written.

    Example:
        >>> import tempfile
        >>> manifest = phantom_manifest(tempfile.mkdtemp(), images=3, config=PhantomConfig(size_px=32))
        >>> len(manifest), manifest.labels.num_classes
        (3, 20)
    """
    config = config or PhantomConfig()
    if images < 1:
        raise UsageError(f"phantom: {images} images; expected 1 or more.")
    if offset < 0 or offset % BLOCK:
        raise UsageError(
            f"phantom: offset {offset}; expected a multiple of {BLOCK}, which never cuts a patient in two."
        )
    if workers < 1:
        raise UsageError(f"phantom: {workers} workers; expected 1 or more.")
    ordered = config.prevalence()  # a faulty tail is refused before any file is made
    folder = new_folder(out)
    folder.rmdir()  # it is known to be new or empty now; the finished folder takes its place
    parts = [range(start, min(start + CHUNK, offset + images)) for start in range(offset, offset + images, CHUNK)]
    cases: list[Case] = []
    with atomic_path(folder) as temporary:
        for name in ("images", "masks"):
            (temporary / name).mkdir(parents=True)
        for drawn in _drawn(config, parts, temporary, workers):
            cases += drawn
            if progress is not None:
                progress(len(cases), images)
        manifest = _manifest(cases, config, root=temporary)
        manifest.write(temporary / MANIFEST)
        truth = pd.DataFrame([case.truth for case in cases], columns=list(LABELS.class_names)).astype(int)
        truth.insert(0, "image_id", [case.image_id for case in cases])
        truth[MALIGNANT] = [int(case.malignant) for case in cases]
        write_table(temporary / TRUTH, truth)
        write_json(temporary / RECORD, _record(cases, config, ordered.wanted, ordered.reached, offset))
        write_text(temporary / NOTICE, NOTICE_TEXT)
    return replace(manifest, root=folder)


def _drawn(config: PhantomConfig, parts: Sequence[range], folder: Path, workers: int) -> Iterator[list[Case]]:
    if workers == 1 or len(parts) == 1:
        for part in parts:
            yield _draw_part(config, part, folder)
        return
    # a fresh interpreter a worker: a fork may inherit locks of the parent's threads
    with ProcessPoolExecutor(min(workers, len(parts)), mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_draw_part, [config] * len(parts), parts, [folder] * len(parts))


def _draw_part(config: PhantomConfig, part: range, folder: Path) -> list[Case]:
    cases = []
    for index in part:
        case = phantom_case(config, index)
        phantom = render_case(config, case)
        Image.fromarray(phantom.pixels).save(folder / "images" / f"{case.image_id}.png", compress_level=1)
        mask = Image.fromarray(phantom.lesion.astype(np.uint8) * 255)
        mask.save(folder / "masks" / f"{case.image_id}.png", compress_level=1)
        cases.append(case)
    return cases


def _manifest(cases: Sequence[Case], config: PhantomConfig, *, root: Path) -> Manifest:
    columns: dict[str, Any] = {
        "image_id": [case.image_id for case in cases],
        "path": [f"images/{case.image_id}.png" for case in cases],
        "patient_id": [case.patient_id for case in cases],
        "study_id": [case.nodule_id for case in cases],
        "site": [case.site for case in cases],
        "device": [SCANNERS[case.site].device for case in cases],
        "mask_path": [f"masks/{case.image_id}.png" for case in cases],
        "age": [case.age for case in cases],
        "sex": [case.sex for case in cases],
        "view": [case.view for case in cases],
        "size_mm": [case.size_mm for case in cases],
        "spacing_mm": [round(spacing_mm(config, case), 5) for case in cases],
        "meta_pathology": ["malignant" if case.malignant else "benign" for case in cases],
        "meta_source": [DISCLAIMER] * len(cases),
    }
    labels = pd.DataFrame([case.recorded for case in cases], columns=list(LABELS.class_names))
    frame = pd.concat([pd.DataFrame(columns), labels], axis=1)
    return manifest_from_frame(frame, name=MANIFEST, root=root, groups=EXCLUSIVE)


def _record(
    cases: Sequence[Case],
    config: PhantomConfig,
    wanted: Mapping[str, float],
    reached: Mapping[str, float],
    offset: int,
) -> dict[str, Any]:
    """Return what was ordered and what came of it; None stands for a label never assessed."""
    recorded = shares([case.recorded for case in cases])
    drawn = shares([case.truth for case in cases]) | {MALIGNANT: float(np.mean([case.malignant for case in cases]))}
    return {
        "what": DISCLAIMER,
        "family": "thyroid",
        "config": config_to_dict(config),
        "images": len(cases),
        "offset": offset,
        "patients": len({case.patient_id for case in cases}),
        "shares": {
            name: {
                "wanted": wanted[name],
                "reached": reached[name],
                "drawn": drawn[name],
                "recorded": None if np.isnan(recorded.get(name, np.nan)) else recorded[name],
            }
            for name in wanted
        },
    }
