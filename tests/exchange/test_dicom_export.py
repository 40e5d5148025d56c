from __future__ import annotations

import datetime
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from medtail.errors import MedtailError, UsageError
from medtail.exchange.dicom_export import evidence_of_predictions, export_reports
from medtail.tables.labels import LabelSpace
from medtail.tables.manifest import manifest_from_frame
from medtail.tables.predictions import Predictions

pytest.importorskip("highdicom", reason="the extra sr is not installed")

MADE = datetime.datetime(2026, 1, 2, 3, 4, 5)


@pytest.fixture
def table(tmp_path, ultrasound):
    """Three DICOM images of a manifest, and predictions of the last two, in another order."""
    rows = []
    for number in range(3):
        ultrasound(f"{number}.dcm", seed=number, PatientID=f"ANON-{number}", frames=2 if number == 2 else 1)
        rows.append({"image_id": f"i{number}", "path": f"{number}.dcm", "patient_id": f"ANON-{number}",
                     "size_mm": 8.0 + number, "mass": 1, "rare": 0})  # fmt: skip
    manifest = manifest_from_frame(pd.DataFrame(rows), name="manifest.csv", root=tmp_path)
    predictions = Predictions(
        image_ids=np.array(["i2", "i1"], dtype=object),
        patients=np.array(["ANON-2", "ANON-1"], dtype=object),
        scores=np.array([[0.9, 0.2], [0.3, 0.8]]),
        targets=np.full((2, 2), np.nan),
        labels=LabelSpace(("mass", "rare")),
        folds=np.array(["", ""], dtype=object),
        thresholds={"mass": 0.5, "rare": 0.1},
        digests={"model": "ab" * 32},
    )
    return manifest, predictions


def export(table, out, **changes):
    manifest, predictions = table
    evidence = evidence_of_predictions(predictions, name="table")
    return export_reports(predictions, manifest, evidence, out, made=MADE, **changes)


def test_every_predicted_image_gets_its_own_report(table, tmp_path):
    import pydicom

    done = export(table, tmp_path / "out")
    assert done.index["image_id"].tolist() == ["i2", "i1"]
    assert done.index["called"].tolist() == ["mass; rare", "rare"]
    assert done.index["likeliest"].tolist() == ["mass", "rare"]
    for line in done.index.to_dict("records"):
        report = pydicom.dcmread(tmp_path / "out" / line["file"])
        assert report.SOPInstanceUID == line["sop_instance_uid"]
        assert report.PatientID == line["patient"] == f"ANON-{line['image_id'][1]}"
        evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
        referenced = evidence.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        assert referenced == f"2.25.{1000 + int(line['image_id'][1])}"
    stored = pd.read_csv(tmp_path / "out" / "index.csv")
    assert stored["file"].tolist() == done.index["file"].tolist()
    assert done.notes == ("1 of 2 images have several frames; the first was judged and is referenced.",)


def test_another_patient_in_the_manifest_is_told_and_the_files_own_is_kept(table, tmp_path):
    manifest, predictions = table
    other = replace(manifest, frame=manifest.frame.assign(patient_id="pseudonym"))
    done = export((other, predictions), tmp_path / "out")
    assert done.notes[0].startswith("2 of 2 images: the manifest's patient_id is not the file's PatientID")
    assert done.index["patient"].tolist() == ["ANON-2", "ANON-1"]


def test_pictures_become_secondary_captures_of_the_same_study(table, tmp_path):
    import pydicom

    seen = []

    def pictures(row, findings):
        seen.append((row, findings.image_id))
        yield findings.findings[0].name, np.full((24, 32, 3), 80, np.uint8)

    done = export(table, tmp_path / "out", pictures=pictures)
    assert seen == [(2, "i2"), (1, "i1")]
    assert done.index["kind"].tolist() == ["report", "picture"] * 2
    report, capture = (pydicom.dcmread(tmp_path / "out" / file) for file in done.index["file"][:2])
    assert capture.StudyInstanceUID == report.StudyInstanceUID
    assert capture.SourceImageSequence[0].ReferencedSOPInstanceUID == "2.25.1002"
    assert capture.DerivationDescription.startswith("mass.")


def test_every_image_that_is_no_dicom_is_named_and_nothing_is_written(table, tmp_path):
    (tmp_path / "1.dcm").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(200))
    (tmp_path / "2.dcm").unlink()
    with pytest.raises(MedtailError) as caught:
        export(table, tmp_path / "out")
    assert "2.dcm: no such file" in str(caught.value)
    assert "1.dcm: is no DICOM file" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_images_outside_the_manifest_are_named(table, tmp_path):
    manifest, predictions = table
    with pytest.raises(MedtailError, match="image 'i2': was predicted, and is not in the manifest"):
        export((manifest.take(np.array([0, 1])), predictions), tmp_path / "out")


def test_predictions_of_another_model_are_refused(table, tmp_path):
    manifest, predictions = table
    evidence = replace(evidence_of_predictions(predictions, name="x"), labels=LabelSpace(("mass", "halo")))
    with pytest.raises(MedtailError, match=r"its classes .mass, rare. are not the model's .mass, halo."):
        export_reports(predictions, manifest, evidence, tmp_path / "out")


def test_a_folder_that_holds_something_is_left_alone(table, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("x")
    with pytest.raises(UsageError, match="is not empty"):
        export(table, tmp_path / "out")


def test_a_size_reaches_the_assessment_of_a_model_of_descriptors(tmp_path, ultrasound):
    from medtail.lexicons.descriptors import LABEL_NAMES

    ultrasound("0.dcm")
    row = {"image_id": "i0", "path": "0.dcm", "patient_id": "", "size_mm": 21.5, **dict.fromkeys(LABEL_NAMES)}
    manifest = manifest_from_frame(pd.DataFrame([row]), name="manifest.csv", root=tmp_path)
    one = np.array(["i0"], dtype=object)
    predictions = Predictions(one, one, np.full((1, 20), 0.5), np.full((1, 20), np.nan), LabelSpace(LABEL_NAMES), one)
    done = export((manifest, predictions), tmp_path / "out", system="eu")
    assert done.index["tirads_level"].tolist() != [""]
    assert b"21.5" in (tmp_path / "out" / done.index["file"][0]).read_bytes()
