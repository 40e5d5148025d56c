from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import BasicTextSRStorage, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from medtail.errors import MedtailError
from medtail.sources.dicom import import_dicom
from medtail.tables.manifest import Manifest


def write(path: Path, number: int, **elements: object) -> None:
    """Write an 8 x 8 image `1.2.NUMBER` of patient `P` + number // 2, with further or other elements; None removes."""
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    header.file_meta.MediaStorageSOPInstanceUID = f"1.2.{number}"
    values: dict[str, object] = {
        "SOPClassUID": SecondaryCaptureImageStorage, "SOPInstanceUID": f"1.2.{number}",
        "PatientID": f"P{number // 2}", "StudyInstanceUID": f"1.3.{number // 2}", "Modality": "US", "Rows": 8,
        "Columns": 8, "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "BitsAllocated": 8,
        "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0, "PixelData": bytes(64), **elements,
    }  # fmt: skip
    for keyword, value in values.items():
        if value is not None:
            setattr(header, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    header.save_as(path, enforce_file_format=True)


def labelled(folder: Path, text: str) -> Manifest:
    (folder.parent / "labels.csv").write_text(text)
    return import_dicom(folder, labels=folder.parent / "labels.csv")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(
        tmp_path / "study" / "a.dcm", 0, ViewPosition="PA", ImageLaterality="L", PatientAge="057Y", PatientSex="F",
        InstitutionName="Ward 1", Manufacturer="ACME", ManufacturerModelName="Sono 3", PixelSpacing=[0.2, 0.2],
    )  # fmt: skip
    write(tmp_path / "study" / "deep" / "without_ending", 1, Laterality="R", ImagerPixelSpacing=[0.1, 0.1])
    write(tmp_path / "study" / "c.dcm", 2)
    return tmp_path / "study"


BY_IMAGE = "image_id,Mass,Cyst\n1.2.0,1,0\n1.2.1,0,\n1.2.2,0,1\n"


def test_headers_become_columns_and_files_keep_their_place(folder: Path) -> None:
    manifest = labelled(folder, BY_IMAGE)
    frame = manifest.frame.set_index("image_id")
    assert sorted(frame.index) == ["1.2.0", "1.2.1", "1.2.2"]
    first = frame.loc["1.2.0"]
    assert (first["patient_id"], first["study_id"], first["path"]) == ("P0", "1.3.0", "a.dcm")
    assert (first["view"], first["laterality"], first["age"], first["sex"]) == ("PA", "L", 57, "F")
    assert (first["site"], first["device"], first["meta_modality"]) == ("Ward 1", "ACME Sono 3", "US")
    assert first["spacing_mm"] == pytest.approx(0.2)
    second = frame.loc["1.2.1"]
    assert (second["path"], second["laterality"], second["device"]) == ("deep/without_ending", "R", "")
    assert second["spacing_mm"] == pytest.approx(0.1)
    assert np.isnan(second["age"])
    manifest.check_files()


def test_labels_are_joined_by_image(folder: Path) -> None:
    manifest = labelled(folder, BY_IMAGE)
    targets = dict(zip(manifest.frame["image_id"], manifest.targets.tolist(), strict=True))
    assert manifest.labels.class_names == ("Mass", "Cyst")
    assert targets["1.2.0"] == [1, 0]
    assert targets["1.2.2"] == [0, 1]
    assert np.isnan(targets["1.2.1"][1])


@pytest.mark.parametrize(("key", "names"), [("study_id", ("1.3.0", "1.3.1")), ("patient_id", ("P0", "P1"))])
def test_labels_are_joined_by_study_or_patient(folder: Path, key: str, names: tuple[str, str]) -> None:
    manifest = labelled(folder, f"{key},Mass,fold\n{names[0]},1,train\n{names[1]},0,test\n")
    rows = manifest.frame.set_index("image_id")
    assert rows["Mass"].to_dict() == {"1.2.0": 1, "1.2.1": 1, "1.2.2": 0}
    assert rows["fold"].to_dict() == {"1.2.0": "train", "1.2.1": "train", "1.2.2": "test"}
    assert rows["patient_id"].to_dict() == {"1.2.0": "P0", "1.2.1": "P0", "1.2.2": "P1"}


def test_tables_metadata_goes_before_the_headers(folder: Path) -> None:
    manifest = labelled(folder, "image_id,Mass,patient_id,site\n1.2.0,1,X,\n1.2.1,1,Y,Home\n1.2.2,0,Z,\n")
    rows = manifest.frame.set_index("image_id")
    assert rows["patient_id"].to_dict() == {"1.2.0": "X", "1.2.1": "Y", "1.2.2": "Z"}
    assert rows["site"].to_dict() == {"1.2.0": "Ward 1", "1.2.1": "Home", "1.2.2": ""}


def test_what_is_left_out_is_counted_aloud(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "readme.txt").write_text("not DICOM")
    write(folder / "report.dcm", 9, SOPClassUID=BasicTextSRStorage, Rows=None, Columns=None, PixelData=None)
    with caplog.at_level(logging.WARNING):
        manifest = labelled(folder, "image_id,Mass\n1.2.0,1\n1.2.2,0\n1.2.77,1\n")
    assert "left out 1 files that are not DICOM and 1 DICOM files without pixels" in caplog.text
    assert "1 images have no row in" in caplog.text
    assert "1 of its rows have no image" in caplog.text
    assert len(manifest) == 3
    assert np.isnan(manifest.targets).sum() == 1


def test_ultrasound_regions_give_spacing_and_oblong_pixels_give_none(tmp_path: Path) -> None:
    region = Dataset()
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
    region.PhysicalDeltaX, region.PhysicalDeltaY = 0.007, -0.007
    other = Dataset()
    other.PhysicalUnitsXDirection, other.PhysicalUnitsYDirection = 4, 7  # a Doppler trace: seconds, cm/s
    other.PhysicalDeltaX = other.PhysicalDeltaY = 1.0
    write(tmp_path / "s" / "a.dcm", 0, SequenceOfUltrasoundRegions=[other, region])
    write(tmp_path / "s" / "b.dcm", 1, PixelSpacing=[0.1, 0.2])
    write(tmp_path / "s" / "c.dcm", 2, PixelSpacing=[0, 0], NumberOfFrames=3, PixelData=bytes(192))
    frame = labelled(tmp_path / "s", BY_IMAGE).frame.set_index("image_id")
    assert frame.loc["1.2.0", "spacing_mm"] == pytest.approx(0.07)
    assert np.isnan(frame["spacing_mm"][["1.2.1", "1.2.2"]]).all()
    assert frame["meta_frames"].to_dict() == {"1.2.0": "1", "1.2.1": "1", "1.2.2": "3"}


def test_labels_are_asked_for_with_the_keys_at_hand(folder: Path) -> None:
    with pytest.raises(MedtailError, match=r"no labels for the 3 images.*image_id '1\.2\.0', study_id '1\.3\.0', pat"):
        import_dicom(folder, labels=None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("uid,Mass\n1.2.0,1\n", "no column to join by; expected one of image_id, study_id, patient_id"),
        ("image_id,Mass\n9.9,1\n", r"names none of the 3 images; found '9\.9', while the first image has '1\.2\.0'"),
        ("image_id,Mass\n1.2.0,1\n1.2.0,0\n", r"1 values stand in several rows: 1\.2\.0"),
        ("image_id,fold\n1.2.0,train\n", "no class columns"),
        ("image_id,Mass\n1.2.0,3\n1.2.1,0\n1.2.2,0\n", "column 'Mass': found '3'; expected 1"),
    ],
)
def test_label_tables_that_do_not_fit_are_explained(folder: Path, text: str, message: str) -> None:
    with pytest.raises(MedtailError, match=message):
        labelled(folder, text)


def test_truncated_and_damaged_files_are_named_and_not_taken_for_reports(folder: Path) -> None:
    whole = (folder / "c.dcm").read_bytes()
    (folder / "c.dcm").write_bytes(whole[: whole.index(b"\x28\x00\x10\x00")])  # ends before Rows
    (folder / "cut.dcm").write_bytes(whole[:170])
    write(folder / "nameless.dcm", 3, SOPInstanceUID="")
    with pytest.raises(MedtailError) as caught:
        labelled(folder, BY_IMAGE)
    for name in ("c.dcm", "cut.dcm", "nameless.dcm"):
        assert f"file '{name}': its header" in str(caught.value)


def test_same_image_twice_is_refused(folder: Path) -> None:
    write(folder / "copy.dcm", 0)
    with pytest.raises(MedtailError, match=r"column 'image_id': '1\.2\.0' stands in rows"):
        labelled(folder, BY_IMAGE)


def test_folder_without_dicom_is_explained(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "a.dcm").write_text("text")
    with pytest.raises(MedtailError, match="no DICOM images in"):
        import_dicom(tmp_path / "s", labels=None)
