from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medtail.cli.main import call

pytest.importorskip("highdicom", reason="the extra sr is not installed")


def write_dicom(path: Path, pixels: np.ndarray, *, number: int) -> None:
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, UltrasoundImageStorage

    header = Dataset()
    header.SOPClassUID, header.SOPInstanceUID = UltrasoundImageStorage, f"2.25.{500 + number}"
    header.StudyInstanceUID, header.SeriesInstanceUID, header.Modality = "2.25.7", "2.25.8", "US"
    header.PatientID, header.PatientName = f"ANON-{number}", ""
    header.Rows, header.Columns = pixels.shape
    header.SamplesPerPixel, header.PhotometricInterpretation, header.PixelRepresentation = 1, "MONOCHROME2", 0
    header.BitsAllocated, header.BitsStored, header.HighBit = 8, 8, 7
    header.PixelData = pixels.astype(np.uint8).tobytes()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    header.save_as(path, enforce_file_format=True)


@pytest.fixture
def scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """new.csv: two DICOM images; scores.csv: scores for them by some other tool."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for number in range(2):
        write_dicom(tmp_path / f"{number}.dcm", random.integers(0, 256, (40, 48)), number=number)
    ids = [f"n{number}" for number in range(2)]
    table = {"image_id": ids, "path": ["0.dcm", "1.dcm"], "patient_id": ["ANON-0", "ANON-1"]}
    classes = ["bright", "rare", "shape=irregular", "shape=oval", "shape=round"]
    pd.DataFrame({**table, **dict.fromkeys(classes)}).to_csv("new.csv", index=False)
    scores = {"bright": [0.9, 0.2], "rare": [0.1, 0.4]}
    targets = {f"target:{name}": [None, None] for name in scores}
    pd.DataFrame({"image_id": ids, **scores, **targets}).to_csv("scores.csv", index=False)
    return tmp_path


@pytest.fixture
def run(toy_manifest, tmp_path):
    from medtail.training.config import train_config
    from medtail.training.ensembles import train

    toy_manifest.write(tmp_path / "toy.csv")
    values = {"manifest": str(tmp_path / "toy.csv"), "pixels": {"size_px": 32}, "cache": str(tmp_path / "cache"),
              "backbone": {"kind": "resnet", "size": "tiny"}, "optimizer": {"epochs": 1, "batch_size": 18}}  # fmt: skip
    return train(train_config(values), tmp_path / "first", quiet=True).run


def test_a_table_of_scores_becomes_reports(scans, capsys):
    assert call(["export", "scores.csv", "new.csv", "--format", "sr", "--out", "reports"]) == 0
    captured = capsys.readouterr()
    assert "reports: 2 reports, 0 pictures." in captured.out
    assert "research use only" in captured.out
    assert "Written: reports/index.csv" in captured.err
    assert len(list(Path("reports").glob("SR_*.dcm"))) == 2


def test_a_run_becomes_reports_with_its_digest_trust_and_heat_maps(scans, run, capsys):
    import pydicom

    words = ["export", str(run), "new.csv", "--format", "sr", "--out", "reports", "--heat-maps", "2", "--json", "-q"]
    assert call(words) == 0, capsys.readouterr().err
    found = json.loads(capsys.readouterr().out)
    kinds = [file["kind"] for file in found["files"]]
    assert kinds == ["report", "picture", "picture"] * 2
    digest = json.loads((run / "model" / "card.json").read_text())["digests"]["weights"]
    report = pydicom.dcmread(Path("reports") / found["files"][0]["file"])
    texts = [str(element.value) for element in report.iterall() if element.keyword == "TextValue"]
    assert f"weights SHA-256 {digest}" in texts
    assert report.DeviceSerialNumber == digest[:16]
    assert any("patients in training; not tested" in text for text in texts)
    capture = pydicom.dcmread(Path("reports") / found["files"][1]["file"])
    assert capture.SourceImageSequence[0].ReferencedSOPInstanceUID == "2.25.500"
    assert capture.pixel_array.shape[0] == 40 + 18


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["scores.csv", "--format", "sr", "--out", "o"], "--format sr: expected the images too"),
        (["scores.csv", "new.csv", "--format", "sr", "--out", "o", "--heat-maps", "1"], "--heat-maps: needs the model"),
        (["scores.csv", "new.csv", "--format", "sr", "--out", "o", "--system", "bi"], "TI-RADS system 'bi': unknown"),
        (["scores.csv", "new.csv", "--format", "onnx", "--out", "o.onnx"], "--format onnx: takes no images"),
        (["scores.csv", "new.csv", "--out", "o"], "Missing option '--format'"),
    ],
)
def test_a_wrong_request_is_explained(scans, capsys, words, said):
    assert call(["export", *words]) == 2
    assert said in capsys.readouterr().err


def test_pictures_that_are_no_dicom_fail_with_a_way_out(scans, toy_manifest, capsys):
    toy_manifest.write("toy.csv")
    first = toy_manifest.frame["image_id"].iloc[0]
    pd.DataFrame({"image_id": [first], "bright": [0.5], "target:bright": [1]}).to_csv("one.csv", index=False)
    assert call(["export", "one.csv", "toy.csv", "--format", "sr", "--out", "reports"]) == 1
    assert "is no DICOM file" in capsys.readouterr().err
    assert not list(Path().glob("reports/*"))
