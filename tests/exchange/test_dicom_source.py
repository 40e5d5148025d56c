from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from medtail.errors import MedtailError
from medtail.exchange.dicom_source import read_source, stable_uid


def test_patient_study_and_identifiers_are_taken_over_and_nothing_else(ultrasound):
    found = read_source(ultrasound())
    header = found.header
    assert (header.PatientID, str(header.PatientName), header.StudyID) == ("ANON-1", "Anonymous^A", "S1")
    assert (header.Rows, header.Columns, found.frames, found.modality) == (24, 32, 1, "US")
    assert found.cautions == ()
    assert not any(element.tag.is_private for element in header)
    assert "SECRET" not in str(header)
    assert "PixelData" not in header


def test_missing_attributes_are_left_empty(ultrasound):
    gone = dict.fromkeys(("PatientID", "PatientName", "PatientSex", "PatientBirthDate", "StudyDate", "StudyID",
                          "AccessionNumber", "ReferringPhysicianName", "StudyTime"))  # fmt: skip
    found = read_source(ultrasound(**gone))
    assert all(str(found.header[keyword].value or "") == "" for keyword in gone)
    assert found.cautions == ()


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientSex", "Unknown"),
        ("PatientBirthDate", "01.02.1960"),
        ("StudyDate", "yesterday"),
        ("StudyTime", "25:61"),
        ("StudyID", "a study identifier of more than sixteen"),
        ("AccessionNumber", "A" * 17),
        ("PatientAge", "sixty"),
        ("PatientID", "P" * 65),
        ("PatientName", "a=b=c=d"),
    ],
)
def test_values_that_are_no_dicom_are_left_out_with_a_caution(ultrasound, keyword, value):
    found = read_source(ultrasound(**{keyword: value}))
    assert str(found.header.get(keyword) or "") == ""
    assert found.cautions == (f"{keyword} of the image is not valid DICOM and is left out.",)


def test_names_of_other_alphabets_come_out_as_unicode(ultrasound):
    latin = read_source(ultrasound(SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jörg"))
    assert str(latin.header.PatientName) == "Müller^Jörg"
    japanese = ultrasound(
        "j.dcm", SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName="Yamada^Tarou=山田^太郎=やまだ^たろう"
    )
    assert str(read_source(japanese).header.PatientName) == "Yamada^Tarou=山田^太郎=やまだ^たろう"
    assert read_source(japanese).header.SpecificCharacterSet == "ISO_IR 192"


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID"])
def test_an_image_that_nothing_can_point_at_is_refused(ultrasound, keyword):
    with pytest.raises(MedtailError, match=f"{keyword}: missing; expected a UID"):
        read_source(ultrasound(**{keyword: None}))
    with pytest.raises(MedtailError, match=f"{keyword}: found 'abc'"):
        read_source(ultrasound(**{keyword: "abc"}))


def test_every_mistake_of_a_header_is_named_at_once(ultrasound):
    with pytest.raises(MedtailError) as caught:
        read_source(ultrasound(StudyInstanceUID=None, SeriesInstanceUID="1..2", Rows=None))
    assert "StudyInstanceUID" in str(caught.value)
    assert "SeriesInstanceUID" in str(caught.value)
    assert "no pixels" in str(caught.value)


def test_pictures_that_are_no_dicom_are_refused_with_a_way_out(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(MedtailError, match=r"a.png: is no DICOM file.*medtail data import dicom"):
        read_source(tmp_path / "a.png")
    with pytest.raises(MedtailError, match="no such file"):
        read_source(tmp_path / "b.dcm")
    (tmp_path / "c.dcm").write_bytes(bytes(128) + b"DICM" + b"\x02\x00\x00\x00UL\x04\x00\xff\xff")
    with pytest.raises(MedtailError, match=r"c.dcm"):
        read_source(tmp_path / "c.dcm")


def test_an_image_without_pixels_is_refused(ultrasound):
    from pydicom.uid import EnhancedSRStorage

    with pytest.raises(MedtailError, match=r"no pixels .*Enhanced SR Storage"):
        read_source(ultrasound(SOPClassUID=EnhancedSRStorage, Rows=None, Columns=None))


def test_frames_are_counted_and_checked(ultrasound):
    found = read_source(ultrasound(frames=3))
    assert found.frames == 3
    found.check_frame(2)
    with pytest.raises(MedtailError, match="no frame 3; the file has 3"):
        found.check_frame(3)


def test_stable_uids_are_valid_and_separate_their_parts():
    found = stable_uid("ab", "c")
    assert found != stable_uid("a", "bc")
    assert len(found) <= 64
    assert found.replace(".", "").isdigit()
