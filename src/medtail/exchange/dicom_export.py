"""A table of predictions and its DICOM images become a folder of structured reports.

All images are checked before the first report is written: a folder holds a report for every image, or nothing.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import pandas as pd

from medtail.errors import MedtailError, Problems, listing
from medtail.exchange.dicom_source import SourceImage, read_source
from medtail.exchange.dicom_sr import findings_report, require_highdicom, write_dicom
from medtail.exchange.evidence import ModelEvidence
from medtail.exchange.findings import ImageFindings, findings_by
from medtail.exchange.secondary_capture import secondary_capture
from medtail.runs import new_folder
from medtail.tables.frames import write_table
from medtail.tables.manifest import Manifest
from medtail.tables.places import Remote
from medtail.tables.predictions import Predictions

Pictures = Callable[[int, ImageFindings], Iterable[tuple[str, np.ndarray]]]
"""From a manifest row and its findings to titles and uint8 [H, W, 3] pictures."""


@final
@dataclass(frozen=True, eq=False)
class Exported:
    """What an export wrote.

    Attributes:
        folder: Where.
        index: A row a file: `image_id, kind, file, sop_instance_uid, patient, likeliest, called, tirads_level`.
        notes: What the person should know, a sentence each.
    """

    folder: Path
    index: pd.DataFrame
    notes: tuple[str, ...]


def evidence_of_predictions(predictions: Predictions, *, name: str) -> ModelEvidence:
    """Take what a table of predictions carries of its model: digest, thresholds and counts, but no test results.

    Args:
        predictions: With our header, or anybody's.
        name: What to call the model.
    """
    return ModelEvidence(
        name=name,
        digest=str(predictions.digests.get("model", "")),
        version="",
        labels=predictions.labels,
        thresholds=predictions.thresholds,
        counts=predictions.train_counts,
        calibrated="calibration" in predictions.digests,
        note="",
        results=None,
    )


def export_reports(
    predictions: Predictions,
    manifest: Manifest,
    evidence: ModelEvidence,
    out: Path | str,
    *,
    system: str = "acr",
    pictures: Pictures | None = None,
    made: datetime.datetime | None = None,
) -> Exported:
    """Write a structured report for every predicted image, and `index.csv`.

    Args:
        predictions: Of the images.
        manifest: Names their DICOM files; `size_mm`, where it has one, goes into the TI-RADS assessment.
        evidence: Of the model that made the predictions; of the same classes.
        out: A new or empty folder.
        system: TI-RADS system, for models of descriptors.
        pictures: Makes pictures for secondary captures; none if None.
        made: When; now if None.

    Returns:
        What was written.

    Raises:
        UsageError: The folder is not empty.
        MedtailError: Classes differ, images are not in the manifest, are no DICOM or lack UIDs: all at once, and then
            nothing is written. Or highdicom is not installed.
    """
    require_highdicom()
    if predictions.labels.class_names != evidence.labels.class_names:
        raise MedtailError(
            f"{predictions.name}: its classes ({listing(predictions.labels.class_names, limit=6)}) are not the model's"
            f" ({listing(evidence.labels.class_names, limit=6)}). Predict again with this run."
        )
    rows, sources = _sources(predictions, manifest)
    folder = new_folder(out)
    made = made or datetime.datetime.now()
    sizes = manifest.frame["size_mm"].to_numpy(float) if "size_mm" in manifest.frame else np.full(len(manifest), np.nan)
    patients = manifest.frame["patient_id"].to_numpy(dtype=object)
    listed: list[dict[str, Any]] = []
    for number, (row, source) in enumerate(zip(rows, sources, strict=True)):
        findings = findings_by(
            evidence,
            predictions.scores[number],
            image_id=str(predictions.image_ids[number]),
            patient_id=str(patients[row]) or None,
            calibrated="calibration" in predictions.digests,
            system=system,
            size_mm=None if np.isnan(sizes[row]) else float(sizes[row]),
        )
        files = [("report", findings_report(findings, source, made=made))]
        for place, (title, picture) in enumerate(pictures(row, findings) if pictures is not None else (), start=1):
            capture = secondary_capture(
                picture,
                source,
                title=title,
                model_name=findings.model_name,
                model_digest=findings.model_digest,
                instance_number=place,
                made=made,
            )
            files.append(("picture", capture))
        for kind, data in files:
            name = f"{'SR' if kind == 'report' else 'SC'}_{data.SOPInstanceUID}.dcm"
            write_dicom(data, folder / name)
            listed.append(_line(findings, kind=kind, file=name, uid=str(data.SOPInstanceUID), source=source))
    index = pd.DataFrame(listed)
    write_table(folder / "index.csv", index)
    return Exported(folder, index, _notes(sources, patients[rows]))


def _sources(predictions: Predictions, manifest: Manifest) -> tuple[np.ndarray, list[SourceImage]]:
    place = {str(name): row for row, name in enumerate(manifest.frame["image_id"])}
    problems, rows, sources = Problems(f"{manifest.name}, DICOM images"), [], []
    for name in predictions.image_ids:
        row = place.get(str(name))
        if row is None:
            problems.add(f"image {str(name)!r}: was predicted, and is not in the manifest.")
            continue
        file = manifest.image_path(row)
        if isinstance(file, Remote):
            problems.add(f"{file}: is not on a disk; expected the DICOM file of each image. Copy it and name the copy.")
            continue
        try:
            sources.append(read_source(file))
            rows.append(row)
        except MedtailError as error:
            problems.add(str(error))
    problems.raise_if_any()
    return np.array(rows, dtype=np.int64), sources


def _line(findings: ImageFindings, *, kind: str, file: str, uid: str, source: SourceImage) -> dict[str, Any]:
    called = [finding.name for finding in findings.findings if finding.present]
    return {
        "image_id": findings.image_id,
        "kind": kind,
        "file": file,
        "sop_instance_uid": uid,
        "patient": str(source.header.PatientID),
        "likeliest": findings.findings[0].name,
        "called": "; ".join(called),
        "tirads_level": "" if findings.tirads is None else findings.tirads.level,
    }


def _notes(sources: list[SourceImage], patients: np.ndarray) -> tuple[str, ...]:
    notes = []
    other = sum(bool(told) and str(told) != str(s.header.PatientID) for s, told in zip(sources, patients, strict=True))
    if other:
        notes.append(
            f"{other} of {len(sources)} images: the manifest's patient_id is not the file's PatientID; the reports"
            " carry the file's."
        )
    odd = [source for source in sources if source.cautions]
    if odd:
        notes.append(f"{len(odd)} of {len(sources)} images have odd headers, first {odd[0].name}: {odd[0].cautions[0]}")
    many = sum(source.frames > 1 for source in sources)
    if many:
        notes.append(f"{many} of {len(sources)} images have several frames; the first was judged and is referenced.")
    return tuple(notes)
