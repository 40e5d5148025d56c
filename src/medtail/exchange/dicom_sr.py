"""Findings as a DICOM structured report (SR), template TID 1500, beside the image they belong to.

One report an image. Each finding is a measurement group (TID 1501): its code, its certainty in percent, whether the
model calls it, how common it was in training, and in words how far it can be trusted; a TI-RADS assessment is a group
of its own. The observer is a device, the algorithm is named with the digest of its weights, and the document is
unverified, preliminary and marked as research. Built with highdicom (`pip install 'medtail[sr]'`).
"""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from medtail.errors import MedtailError
from medtail.exchange import dicom_codes as coded
from medtail.exchange.dicom_codes import Concept, class_concept, level_concept, share_concept, shortened
from medtail.exchange.dicom_source import SourceImage, read_source, stable_uid
from medtail.exchange.findings import Finding, ImageFindings, TiradsAssessment
from medtail.runs import atomic_path, digest_json

if TYPE_CHECKING:
    from pydicom import Dataset

MANUFACTURER: Final = "medtail (research software)"
SERIES: Final = "medtail findings - RESEARCH USE ONLY"
SERIES_NUMBER: Final = 9001
"""High, so that it does not collide with the scanner's series."""
CODING_SCHEME_UID: Final = stable_uid("medtail", "coding scheme", coded.PRIVATE)
DIGITS: Final = 4
"""Decimal places of a percentage."""


def findings_report(
    findings: ImageFindings,
    source: Path | str | Dataset | SourceImage,
    *,
    frame: int = 0,
    made: datetime.datetime | None = None,
    series_number: int = SERIES_NUMBER,
) -> Dataset:
    """Write one image's findings as a structured report.

    Args:
        findings: Of `findings.findings_of`.
        source: The DICOM image they belong to: a file, a data set, or what `dicom_source.read_source` made of it. The
            patient and study of the report are the image's, whatever `findings.patient_id` says.
        frame: Which frame was judged, from 0; referenced where the image has several.
        made: When the report was made; now if None. Two reports of the same findings and time have the same UID.
        series_number: Of the series of reports.

    Returns:
        A Comprehensive SR data set, ready for `save_as(path, enforce_file_format=True)`.

    Raises:
        MedtailError: highdicom is not installed, the source is no DICOM image or has no valid UIDs, or there is no
            such frame.

    Example:
        >>> report = findings_report(findings, "thyroid.dcm")  # doctest: +SKIP
        >>> report.save_as("findings.dcm", enforce_file_format=True)  # doctest: +SKIP
    """
    sr = require_highdicom()
    image = source if isinstance(source, SourceImage) else read_source(source)
    image.check_frame(frame)
    made = made or datetime.datetime.now()
    algorithm = sr.AlgorithmIdentification(
        name=shortened(findings.model_name or "medtail model"),
        version=shortened(findings.medtail_version),
        parameters=[f"weights SHA-256 {findings.model_digest or 'unknown'}"],
        manufacturer=MANUFACTURER,
    )
    reference = sr.SourceImageForMeasurementGroup(
        referenced_sop_class_uid=image.header.SOPClassUID,
        referenced_sop_instance_uid=image.header.SOPInstanceUID,
        referenced_frame_numbers=[frame + 1] if image.frames > 1 else None,
    )
    groups = [] if findings.tirads is None else [_tirads(sr, findings, findings.tirads, algorithm, reference)]
    groups += [_group(sr, findings, finding, algorithm, reference) for finding in findings.findings]
    content = sr.MeasurementReport(
        observation_context=_context(sr, findings),
        procedure_reported=_code(coded.PROCEDURES.get(image.modality, coded.ANY_PROCEDURE)),
        imaging_measurements=groups,
    )
    _add_notes(sr, content, (*findings.cautions, *image.cautions))
    uid = stable_uid(image.header.SOPInstanceUID, str(frame), digest_json(findings.to_json()), made.isoformat())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of highdicom about values that `read_source` has judged
        report = sr.ComprehensiveSR(
            evidence=[image.header],
            content=content[0],
            series_instance_uid=stable_uid(image.header.StudyInstanceUID, findings.model_digest, "findings"),
            series_number=series_number,
            sop_instance_uid=uid,
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=shortened(findings.model_name or "medtail model"),
            software_versions=shortened(f"medtail {findings.medtail_version}"),
            device_serial_number=findings.model_digest[:16] or "unknown",
            series_description=SERIES,
            content_date=made.date(),
            content_time=made.time(),
            content_qualification="RESEARCH",
            coding_schemes=[_scheme()],
            specific_character_set="ISO_IR 192",
            is_complete=True,
            is_final=False,
            is_verified=False,
        )
    report.InstanceCreationDate, report.InstanceCreationTime = report.ContentDate, report.ContentTime
    for equipment in report.get("ContributingEquipmentSequence", ()):
        equipment.ContributionDateTime = made
    return report  # type: ignore[no-any-return]  # a pydicom Dataset


def write_dicom(report: Dataset, path: Path | str) -> Path:
    """Write a report or image as a DICOM file; it appears whole or not at all.

    Raises:
        MedtailError: The place cannot be written.
    """
    path = Path(path)
    with atomic_path(path) as temporary:
        report.save_as(temporary, enforce_file_format=True)
    return path


def require_highdicom() -> Any:
    """Return highdicom's module of structured reports.

    Raises:
        MedtailError: It is not installed.
    """
    try:
        import highdicom.sr as sr
    except ImportError as error:
        raise MedtailError(
            f"DICOM SR: needs the package 'highdicom' ({error}); install it with `pip install 'medtail[sr]'`."
        ) from error
    return sr


def _scheme() -> Any:
    from highdicom.coding_schemes import CodingSchemeIdentificationItem

    return CodingSchemeIdentificationItem(
        designator=coded.PRIVATE,
        name=coded.PRIVATE_NAME,
        uid=CODING_SCHEME_UID,
        responsible_organization=MANUFACTURER,
    )


def _code(concept: Concept) -> Any:
    from highdicom.sr import CodedConcept

    return CodedConcept(concept.value, concept.scheme, concept.meaning)


def _context(sr: Any, findings: ImageFindings) -> Any:
    from pydicom.sr.codedict import codes

    return sr.ObservationContext(
        observer_device_context=sr.ObserverContext(
            observer_type=codes.DCM.Device,
            observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
                uid=stable_uid("device", findings.model_name, findings.model_digest),
                name=shortened(findings.model_name or "medtail model"),
                manufacturer_name=MANUFACTURER,
                model_name=shortened(f"medtail {findings.medtail_version}"),
                serial_number=findings.model_digest[:16] or "unknown",
            ),
        )
    )


def _group(sr: Any, findings: ImageFindings, finding: Finding, algorithm: Any, reference: Any) -> Any:
    measured = [_percent(sr, coded.CERTAINTY, finding.probability)]
    if finding.threshold is not None:
        measured.append(_percent(sr, coded.THRESHOLD, finding.threshold))
    if finding.train_positives is not None:
        measured.append(_number(sr, coded.TRAIN_PATIENTS, finding.train_positives, coded.PATIENTS))
    said = [(coded.SCORE_KIND, coded.CALIBRATED if finding.calibrated else coded.UNCALIBRATED)]
    if finding.present is not None:
        said.insert(0, (coded.CALL, coded.PRESENT if finding.present else coded.ABSENT))
    if finding.tail_group is not None:
        said.append((coded.FREQUENCY, coded.FREQUENCIES[finding.tail_group]))
    grouped = f", one of the group {finding.group}" if finding.group else ""
    return _measurement_group(
        sr, findings, finding.name, class_concept(finding.name), measured, said, algorithm, reference,
        comment=f"{finding.name}{grouped}: {finding.trust}.",
    )  # fmt: skip


def _tirads(sr: Any, findings: ImageFindings, found: TiradsAssessment, algorithm: Any, reference: Any) -> Any:
    measured = [
        _percent(sr, share_concept(found.system, level), share) for level, share in found.level_probabilities.items()
    ]
    if found.points is not None:
        measured.append(_number(sr, coded.TIRADS_POINTS, found.points, coded.POINTS))
    if found.expected_points is not None:
        measured.append(_number(sr, coded.EXPECTED_POINTS, round(found.expected_points, DIGITS), coded.POINTS))
    if found.size_mm is not None:
        measured.append(_number(sr, coded.LONG_AXIS, found.size_mm, coded.MILLIMETRE))
    said = [(coded.LEVEL, level_concept(found.system, found.level))]
    if found.advice is not None:
        said.append((coded.ADVICE, coded.ADVICES[found.advice]))
    return _measurement_group(
        sr, findings, found.system, coded.THYROID_NODULE, measured, said, algorithm, reference,
        comment=found.sentence, site=coded.THYROID,
    )  # fmt: skip


def _measurement_group(
    sr: Any,
    findings: ImageFindings,
    name: str,
    kind: Concept,
    measured: Sequence[Any],
    said: Sequence[tuple[Concept, Concept]],
    algorithm: Any,
    reference: Any,
    *,
    comment: str,
    site: Concept | None = None,
) -> Any:
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=stable_uid("tracking", findings.model_digest, findings.image_id, name), identifier=shortened(name)
        ),
        finding_type=_code(kind),
        algorithm_id=algorithm,
        finding_sites=None if site is None else [sr.FindingSite(anatomic_location=_code(site))],
        measurements=measured,
        qualitative_evaluations=[sr.QualitativeEvaluation(_code(concept), _code(value)) for concept, value in said],
        source_images=[reference],
    )
    group[0].ContentSequence.append(_text(sr, coded.COMMENT, comment))
    return group


def _percent(sr: Any, concept: Concept, share: float) -> Any:
    return _number(sr, concept, round(100.0 * share, DIGITS), coded.PERCENT)


def _number(sr: Any, concept: Concept, value: float, unit: Concept) -> Any:
    return sr.Measurement(name=_code(concept), value=value, unit=_code(unit))


def _text(sr: Any, concept: Concept, text: str) -> Any:
    return sr.TextContentItem(name=_code(concept), value=text, relationship_type=sr.RelationshipTypeValues.CONTAINS)


def _add_notes(sr: Any, content: Any, cautions: Sequence[str]) -> None:
    """Put the permitted use first and the other cautions after it, as text right below the title's context."""
    for number, caution in enumerate(cautions):
        content[0].ContentSequence.append(_text(sr, coded.RESEARCH if number == 0 else coded.COMMENT, caution))
