from __future__ import annotations

import datetime
import shutil
import subprocess

import numpy as np
import pytest

from medtail.errors import MedtailError
from medtail.exchange.dicom_source import read_source
from medtail.exchange.dicom_sr import write_dicom
from medtail.exchange.secondary_capture import secondary_capture, with_strip

MADE = datetime.datetime(2026, 1, 2, 3, 4, 5)
PICTURE = np.random.default_rng(1).integers(0, 256, (25, 331, 3), dtype=np.uint8)


def capture(image, picture=PICTURE, **changes):
    options = {"title": "malignant 0.82, grad cam", "model_name": "run", "model_digest": "ab" * 32, "made": MADE}
    return secondary_capture(picture, image, **{**options, **changes})


def test_the_picture_comes_back_from_the_file_untouched(tmp_path, ultrasound):
    import pydicom

    found = pydicom.dcmread(write_dicom(capture(ultrasound()), tmp_path / "sc.dcm"))
    pixels = found.pixel_array
    assert np.array_equal(pixels[:25, :331], PICTURE)
    assert pixels[25:].max() == 255, "a strip with text"
    assert pixels.dtype == np.uint8


def test_it_points_at_its_image_and_says_what_it_is(tmp_path, ultrasound):
    found = capture(ultrasound(frames=2), frame=1)
    reference = found.SourceImageSequence[0]
    assert (reference.ReferencedSOPInstanceUID, reference.ReferencedFrameNumber) == ("2.25.1000", 2)
    assert (found.PatientID, found.StudyInstanceUID) == ("ANON-1", "2.25.7")
    assert found.SeriesInstanceUID != "2.25.8"
    assert "NumberOfFrames" not in found
    assert "RESEARCH USE ONLY" in found.SeriesDescription
    assert "malignant 0.82, grad cam" in found.DerivationDescription
    assert "ab" * 32 in found.DerivationDescription
    assert "SECRET" not in str(found)


def test_another_picture_time_or_title_is_another_instance(ultrasound):
    image = ultrasound()
    found = {
        capture(image).SOPInstanceUID,
        capture(image, PICTURE[::-1]).SOPInstanceUID,
        capture(image, title="b").SOPInstanceUID,
        capture(image, made=MADE + datetime.timedelta(days=1)).SOPInstanceUID,
    }
    assert len(found) == 4
    assert capture(image).SOPInstanceUID == capture(image).SOPInstanceUID


def test_pictures_of_one_source_do_not_change_each_other_or_the_source(ultrasound):
    source = read_source(ultrasound())
    before = str(source.header)
    one = capture(source)
    two = capture(source, np.zeros((50, 400, 3), np.uint8), title="b")
    assert (one.Rows, one.Columns, two.Rows, two.Columns) == (43, 331, 68, 400)
    assert str(source.header) == before


def test_small_pictures_get_room_for_the_warning():
    small = np.full((5, 7, 3), 9, np.uint8)
    found = with_strip(small, "RESEARCH USE ONLY")
    assert np.array_equal(found[:5, :7], small)
    assert found[:5, 7:].max() == 0
    assert found.shape[1] > 80


@pytest.mark.parametrize("bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_anything_but_rgb_bytes_is_refused(ultrasound, bad):
    with pytest.raises(MedtailError, match="expected uint8"):
        capture(ultrasound(), bad)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is not installed")
@pytest.mark.parametrize("values", [{}, {"ImageLaterality": "L", "Laterality": None, "BurnedInAnnotation": "NO"}])
def test_dciodvfy_finds_no_error(tmp_path, ultrasound, values):
    path = write_dicom(capture(ultrasound(**values)), tmp_path / "sc.dcm")
    done = subprocess.run(["dciodvfy", str(path)], check=False, capture_output=True, text=True, timeout=60)
    said = (done.stdout + done.stderr).splitlines()
    assert "SCImage" in said
    assert [line for line in said if line.startswith("Error")] == []
    # which side it shows is truly unknown where the image does not say
    assert all("<Laterality>" in line and not values for line in said if line.startswith("Warning"))
