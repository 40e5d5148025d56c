from __future__ import annotations

import datetime
import shutil
import subprocess
import sys

import numpy as np
import pytest

from medtail.errors import MedtailError
from medtail.exchange.dicom_codes import CALL, CERTAINTY, COMMENT, LEVEL, class_concept
from medtail.exchange.dicom_sr import findings_report, write_dicom
from medtail.exchange.findings import findings_of
from medtail.lexicons.descriptors import LABEL_NAMES, LABELS
from medtail.tables.labels import ExclusiveGroup, LabelSpace
from medtail.tables.tail import ClassCounts

pytest.importorskip("highdicom", reason="the extra sr is not installed")

SPACE = LabelSpace.from_columns(["malignant", "type=fibroadenoma", "type=cyst", "Größe > 4 cm"])
MADE = datetime.datetime(2026, 1, 2, 3, 4, 5)


def breast(**changes):
    options = {
        "labels": SPACE,
        "thresholds": {"malignant": 0.42, "Größe > 4 cm": 0.9},
        "counts": ClassCounts(SPACE.class_names, (9, 8, 7, 2), (8, 7, 6, 1), (20,) * 4),
        "image_id": "i1",
        "tail": {"malignant": "head", "Größe > 4 cm": "tail"},
        "trust": {"malignant": "common: 8 patients in training; test AP 0.82 [0.74, 0.90] on 119 positive images"},
        "model_name": "breast_run",
        "model_digest": "ab" * 32,
    }
    return findings_of([0.813579, 0.6, 0.4, 0.00004], **{**options, **changes})


def thyroid(size_mm=12.0):
    groups = tuple(ExclusiveGroup(group, names) for group, names in LABELS.items() if group != "foci")
    row = np.zeros(20)
    for name in ("comp_solid", "echo_hypo", "shape_wider", "margin_smooth"):
        row[LABEL_NAMES.index(name)] = 1.0
    row[LABEL_NAMES.index("foci_punctate")] = 0.25
    return findings_of(row, labels=LabelSpace(LABEL_NAMES, groups), thresholds=None, counts=None, size_mm=size_mm,
                       model_digest="cd" * 32, model_name="thyroid_run")  # fmt: skip


def written(report, folder, name="report.dcm"):
    return write_dicom(report, folder / name)


def groups_of(path):
    """Read a report back with highdicom: tracking identifier → measurement group."""
    import highdicom.sr

    report = highdicom.sr.srread(path)
    return {group.tracking_identifier: group for group in report.content.get_image_measurement_groups()}


def named(items, concept):
    found = [item for item in items if item.name.value == concept.value]
    return found[0] if found else None


def test_a_report_read_back_by_highdicom_says_what_was_found(tmp_path, ultrasound):
    path = written(findings_report(breast(), ultrasound(), made=MADE), tmp_path)
    groups = groups_of(path)
    assert list(groups) == ["malignant", "type=fibroadenoma", "type=cyst", "Größe > 4 cm"]
    malignant = groups["malignant"]
    assert malignant.finding_type.value == class_concept("malignant").value
    certainty = named(malignant.get_measurements(), CERTAINTY)
    assert (float(certainty.value), certainty.unit.value) == (81.3579, "%")
    call = named(malignant.get_qualitative_evaluations(), CALL)
    assert call.value.meaning == "Present"
    assert float(named(groups["Größe > 4 cm"].get_measurements(), CERTAINTY).value) == 0.004
    assert named(groups["Größe > 4 cm"].get_qualitative_evaluations(), CALL).value.meaning == "Absent"
    fibroadenoma = groups["type=fibroadenoma"]
    assert (fibroadenoma.finding_type.value, fibroadenoma.finding_type.scheme_designator) == ("254845004", "SCT")
    texts = [item.TextValue for item in malignant[0].ContentSequence if item.ValueType == "TEXT"]
    assert any("test AP 0.82 [0.74, 0.90] on 119 positive images" in text for text in texts)


def test_a_report_belongs_to_the_patient_and_study_of_its_image_and_points_at_it(tmp_path, ultrasound):
    import pydicom

    path = written(findings_report(breast(patient_id="another name"), ultrasound(), made=MADE), tmp_path)
    report = pydicom.dcmread(path)
    assert (report.PatientID, report.StudyInstanceUID, report.StudyID) == ("ANON-1", "2.25.7", "S1")
    assert (report.PatientIdentityRemoved, report.DeidentificationMethod) == ("YES", "for the tests")
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert evidence.SeriesInstanceUID == "2.25.8"
    assert evidence.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "2.25.1000"
    assert report.SeriesInstanceUID != "2.25.8"
    assert "SECRET" not in str(report)
    assert "another name" not in str(report)


def test_a_report_is_marked_as_research_and_its_observer_is_a_device(tmp_path, ultrasound):
    import pydicom

    report = pydicom.dcmread(written(findings_report(breast(), ultrasound(), made=MADE), tmp_path))
    assert (report.VerificationFlag, report.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    assert report.ContentQualification == "RESEARCH"
    assert "RESEARCH USE ONLY" in report.SeriesDescription
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    items = {item.ConceptNameCodeSequence[0].CodeMeaning: item for item in report.ContentSequence}
    assert items["Observer Type"].ConceptCodeSequence[0].CodeMeaning == "Device"
    assert items["Permitted use"].TextValue.startswith("For research use only")
    assert "Person Observer Name" not in items
    schemes = {item.CodingSchemeDesignator: item for item in report.CodingSchemeIdentificationSequence}
    assert "99MEDTAIL" in schemes
    group = items["Imaging Measurements"].ContentSequence[0]
    told = {item.ConceptNameCodeSequence[0].CodeMeaning: item for item in group.ContentSequence}
    assert told["Algorithm Name"].TextValue == "breast_run"
    assert told["Algorithm Parameters"].TextValue == "weights SHA-256 " + "ab" * 32


def test_raw_scores_are_not_called_probabilities(ultrasound):
    raw, sure = (str(findings_report(breast(calibrated=c), ultrasound(), made=MADE)) for c in (False, True))
    assert "Score of the model, not calibrated" in raw
    assert "Calibrated probability" not in raw
    assert "Calibrated probability" in sure


def test_tirads_is_a_group_of_its_own_on_the_thyroid_nodule(tmp_path, ultrasound):
    found = thyroid()
    groups = groups_of(written(findings_report(found, ultrasound(), made=MADE), tmp_path))
    group = groups["ACR TI-RADS 2017"]
    assert group.finding_type.value == "237495005"
    assert group.finding_sites[0].value.meaning == "Thyroid"
    numbers = {item.name.meaning: float(item.value) for item in group.get_measurements()}
    assert numbers["Probability of ACR TI-RADS 2017 TR4"] == 75.0
    assert numbers["Probability of ACR TI-RADS 2017 TR5"] == 25.0
    assert numbers["TI-RADS points, likeliest within the level"] == 4.0
    assert numbers["Long axis"] == 12.0
    said = {item.name.meaning: item.value.meaning for item in group.get_qualitative_evaluations()}
    assert said[LEVEL.meaning] == "ACR TI-RADS 2017 TR4"
    assert said["Advice of the guideline at this size, likeliest"] == "Follow-up by ultrasound"
    texts = [item.TextValue for item in group[0].ContentSequence
             if item.ValueType == "TEXT" and item.name.value == COMMENT.value]  # fmt: skip
    assert texts == [found.tirads.sentence]


def test_without_a_size_the_report_gives_no_advice(tmp_path, ultrasound):
    group = groups_of(written(findings_report(thyroid(None), ultrasound(), made=MADE), tmp_path))["ACR TI-RADS 2017"]
    assert [item.name.meaning for item in group.get_qualitative_evaluations()] == [LEVEL.meaning]
    assert "Long axis" not in {item.name.meaning for item in group.get_measurements()}


def test_of_several_frames_the_judged_one_is_referenced(tmp_path, ultrasound):
    path = written(findings_report(breast(), ultrasound(frames=3), frame=2, made=MADE), tmp_path)
    images = groups_of(path)["malignant"].source_images
    assert images[0].referenced_frame_numbers == [3]
    assert images[0].referenced_sop_instance_uid == "2.25.1000"
    with pytest.raises(MedtailError, match="no frame 3"):
        findings_report(breast(), ultrasound(frames=3), frame=3)


def test_names_of_any_alphabet_survive(tmp_path, ultrasound):
    import pydicom

    image = ultrasound(SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName="Yamada^Tarou=山田^太郎=やまだ^たろう")
    report = pydicom.dcmread(written(findings_report(breast(), image, made=MADE), tmp_path))
    assert str(report.PatientName) == "Yamada^Tarou=山田^太郎=やまだ^たろう"
    assert "Größe > 4 cm" in str(report)


def test_odd_headers_are_told_in_the_report_itself(ultrasound):
    report = findings_report(breast(), ultrasound(PatientSex="Unknown"), made=MADE)
    texts = [item.TextValue for item in report.ContentSequence if "TextValue" in item]
    assert "PatientSex of the image is not valid DICOM and is left out." in texts
    assert report.PatientSex == ""


def test_the_same_findings_at_the_same_time_are_the_same_file(tmp_path, ultrasound):
    image = ultrasound()
    one, two = (written(findings_report(breast(), image, made=MADE), tmp_path, f"{n}.dcm").read_bytes() for n in "ab")
    assert one == two
    later = findings_report(breast(), image, made=MADE + datetime.timedelta(seconds=1))
    other = findings_report(breast(trust={}), image, made=MADE)
    uids = {findings_report(breast(), image, made=MADE).SOPInstanceUID, later.SOPInstanceUID, other.SOPInstanceUID}
    assert len(uids) == 3
    assert later.SeriesInstanceUID == other.SeriesInstanceUID


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is not installed")
@pytest.mark.parametrize("kind", ["breast", "thyroid", "bare", "frames"])
def test_dciodvfy_finds_no_error(tmp_path, ultrasound, kind):
    gone = dict.fromkeys(("PatientID", "PatientName", "PatientSex", "StudyDate", "StudyTime", "StudyID"))
    image = ultrasound(frames=3 if kind == "frames" else 1, **(gone if kind == "bare" else {}))
    path = written(findings_report(thyroid() if kind == "thyroid" else breast(), image, made=MADE), tmp_path)
    done = subprocess.run(["dciodvfy", str(path)], check=False, capture_output=True, text=True, timeout=60)
    said = (done.stdout + done.stderr).splitlines()
    assert "ComprehensiveSR" in said
    assert [line for line in said if line.startswith("Error")] == []
    # a private scheme is no defined term, and a bare image has no study to build a DICOMDIR of
    rest = {line for line in said if line.startswith("Warning") and "99MEDTAIL" not in line and "DICOMDIR" not in line}
    assert rest == set()


@pytest.mark.skipif(shutil.which("dsrdump") is None, reason="dsrdump (dcmtk) is not installed")
def test_dsrdump_reads_the_whole_tree(tmp_path, ultrasound):
    path = written(findings_report(thyroid(), ultrasound(), made=MADE), tmp_path)
    done = subprocess.run(["dsrdump", "+Pl", str(path)], check=True, capture_output=True, text=True, timeout=60)
    assert "TR4 (moderately suspicious), probability 75%" in done.stdout
    assert done.stdout.count('"Measurement Group"') == 21
    assert "E:" not in done.stderr


def test_without_highdicom_the_extra_is_named(ultrasound, monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom.sr", None)
    with pytest.raises(MedtailError, match=r"needs the package 'highdicom' .*pip install 'medtail\[sr\]'"):
        findings_report(breast(), ultrasound())
