"""DICOM pixels end as float32 in [0, 1] by window or bit depth, in every photometric form and coding."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.processing import apply_modality_lut, apply_windowing
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from medtail.errors import MedtailError
from medtail.pixels.decode import read_image

SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"
RAMP = (np.arange(64, dtype=np.uint16) * 60).reshape(8, 8)


def header_for(values: np.ndarray, *, bits: int | None = None, photometric: str = "MONOCHROME2") -> Dataset:
    """A secondary capture of [H, W], [H, W, 3] or, with `frames` set by the caller, stacked frames."""
    file_meta = FileMetaDataset()
    file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["medtail"])
    file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header = Dataset()
    header.file_meta = file_meta
    header.SOPClassUID = SecondaryCaptureImageStorage
    header.SOPInstanceUID = file_meta.MediaStorageSOPInstanceUID
    header.PhotometricInterpretation = photometric
    is_colour = values.shape[-1] == 3 and photometric not in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
    header.SamplesPerPixel = 3 if is_colour else 1
    if is_colour:
        header.PlanarConfiguration = 0
    header.Rows, header.Columns = values.shape[-3:-1] if is_colour else values.shape[-2:]
    header.BitsAllocated = values.dtype.itemsize * 8
    header.BitsStored = bits or header.BitsAllocated
    header.HighBit = header.BitsStored - 1
    header.PixelRepresentation = int(values.dtype.kind == "i")
    header.PixelData = values.tobytes()
    return header


def written(folder: Path, header: Dataset, name: str = "a.dcm") -> Path:
    header.save_as(folder / name, enforce_file_format=True)
    return folder / name


@pytest.mark.parametrize("bits", [12, 16])
def test_without_window_the_bit_depth_is_the_range(tmp_path: Path, bits: int) -> None:
    pixels = read_image(written(tmp_path, header_for(RAMP, bits=bits)))
    assert pixels.dtype == np.float32
    assert np.allclose(pixels, RAMP / (2**bits - 1))


def test_signed_values_span_the_signed_range(tmp_path: Path) -> None:
    values = np.array([[-32768, 0, 32767]], dtype=np.int16)
    assert np.allclose(read_image(written(tmp_path, header_for(values))), [[0, 32768 / 65535, 1]])


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    header = header_for(RAMP, bits=12, photometric="MONOCHROME1")
    assert np.allclose(read_image(written(tmp_path, header)), 1 - RAMP / 4095)


def test_monochrome1_is_inverted_after_the_window(tmp_path: Path) -> None:
    header = header_for(RAMP, bits=12, photometric="MONOCHROME1")
    header.WindowCenter, header.WindowWidth = 100, 3
    pixels = read_image(written(tmp_path, header))
    assert pixels[0, 0] == 1
    assert pixels[-1, -1] == 0


@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("slope", "intercept"), [(None, None), (1, -1024), (2.5, 7)])
@pytest.mark.parametrize(("center", "width"), [(1000, 1500), (40, 400), (2000.5, 1.5)])
def test_window_agrees_with_pydicom(
    tmp_path: Path, function: str | None, slope: float | None, intercept: float | None, center: float, width: float
) -> None:
    header = header_for(RAMP, bits=12)
    header.WindowCenter, header.WindowWidth = center, width
    if function is not None:
        header.VOILUTFunction = function
    ends = np.array([0.0, 4095.0])
    if slope is not None:
        header.RescaleSlope, header.RescaleIntercept = slope, intercept
        ends = ends * slope + intercept
    with np.errstate(over="ignore"):  # pydicom's sigmoid overflows, rightly, to 0
        oracle = apply_windowing(apply_modality_lut(RAMP, header), header)
    expected = np.clip((oracle - ends[0]) / (ends[1] - ends[0]), 0, 1)
    assert np.allclose(read_image(written(tmp_path, header)), expected, atol=1e-6)


def test_window_of_width_one_is_a_step(tmp_path: Path) -> None:
    header = header_for(np.array([[99, 100, 101]], dtype=np.uint16))
    header.WindowCenter, header.WindowWidth = 100, 1
    assert read_image(written(tmp_path, header)).tolist() == [[0, 1, 1]]


def test_first_of_several_windows_is_used(tmp_path: Path) -> None:
    header = header_for(np.array([[0, 50, 100]], dtype=np.uint16))
    header.WindowCenter, header.WindowWidth = [50, 3000], [100, 10]
    header.VOILUTFunction = "LINEAR_EXACT"
    assert np.allclose(read_image(written(tmp_path, header)), [[0, 0.5, 1]])


def test_negative_slope_turns_the_values_not_the_range(tmp_path: Path) -> None:
    header = header_for(np.array([[0, 255]], dtype=np.uint8))
    header.RescaleSlope, header.RescaleIntercept = -1, 255
    assert read_image(written(tmp_path, header)).tolist() == [[1, 0]]


def lut_item(table: list[int], *, first: int, bits: int, form: str = "US") -> Dataset:
    """A LUT as numbers ("US"), as 16-bit words ("OW") or as bytes, two a word ("packed")."""
    item = Dataset()
    item.LUTDescriptor = [len(table), first, bits]
    if form == "US":
        item.add_new("LUTData", "US", table)
    else:
        item.add_new("LUTData", "OW", np.array(table, dtype=np.uint8 if form == "packed" else "<u2").tobytes())
    return item


@pytest.mark.parametrize("form", ["US", "OW", "packed"])
def test_voi_lut_goes_before_the_window_and_may_be_narrower_than_the_image(tmp_path: Path, form: str) -> None:
    values = np.array([[0, 10, 11, 300, 4000]], dtype=np.uint16)
    header = header_for(values, bits=12)
    header.WindowCenter, header.WindowWidth = 1, 1
    header.VOILUTSequence = [lut_item([0, 51, 102, 255], first=10, bits=8, form=form)]
    # below the first entry: the first; above the last: the last, however far
    assert np.allclose(read_image(written(tmp_path, header)), [[0, 0, 51 / 255, 1, 1]])


@pytest.mark.parametrize("form", ["US", "OW"])
def test_modality_lut_sets_values_and_range(tmp_path: Path, form: str) -> None:
    header = header_for(np.array([[0, 1, 2, 200]], dtype=np.uint8))
    item = lut_item([0, 1000, 4095], first=0, bits=12, form=form)
    item.ModalityLUTType = "US"
    header.ModalityLUTSequence = [item]
    assert np.allclose(read_image(written(tmp_path, header)), [[0, 1000 / 4095, 1, 1]])


def test_lut_of_signed_pixels_may_start_below_zero(tmp_path: Path) -> None:
    header = header_for(np.array([[-100, -99, 50]], dtype=np.int16))
    item = lut_item([0, 30, 255], first=0, bits=8)
    item.add_new("LUTDescriptor", "US", [3, 65536 - 100, 8])  # as some devices write it
    header.VOILUTSequence = [item]
    assert np.allclose(read_image(written(tmp_path, header)), [[0, 30 / 255, 1]])


def test_padding_is_background_even_when_inverted(tmp_path: Path) -> None:
    header = header_for(np.array([[0, 5, 255]], dtype=np.uint8), photometric="MONOCHROME1")
    header.PixelPaddingValue = 0
    assert np.allclose(read_image(written(tmp_path, header)), [[0, 250 / 255, 0]])


def test_window_and_rescale_of_an_enhanced_file_come_from_the_frame(tmp_path: Path) -> None:
    frames = np.array([[[0, 50, 100]], [[0, 50, 100]]], dtype=np.uint16)
    header = header_for(frames)
    header.NumberOfFrames = 2
    groups = []
    for center in (50, 100):
        window, group = Dataset(), Dataset()
        window.WindowCenter, window.WindowWidth, window.VOILUTFunction = center, 100, "LINEAR_EXACT"
        group.FrameVOILUTSequence = [window]
        groups.append(group)
    header.PerFrameFunctionalGroupsSequence = groups
    shared, rescale = Dataset(), Dataset()
    rescale.RescaleSlope, rescale.RescaleIntercept = 1, 50
    shared.PixelValueTransformationSequence = [rescale]
    header.SharedFunctionalGroupsSequence = [shared]
    path = written(tmp_path, header)
    assert np.allclose(read_image(path), [[0.5, 1, 1]])
    assert np.allclose(read_image(path, frame=1), [[0, 0.5, 1]])


def test_first_frame_is_read_unless_asked(tmp_path: Path) -> None:
    header = header_for(np.stack([np.full((2, 2), value, dtype=np.uint8) for value in (10, 20, 30)]))
    header.NumberOfFrames = 3
    path = written(tmp_path, header)
    assert np.allclose(read_image(path), 10 / 255)
    assert np.allclose(read_image(path, frame=2), 30 / 255)
    with pytest.raises(MedtailError, match=r"a\.dcm: no frame 3; the file has 3"):
        read_image(path, frame=3)


def test_rgb_is_scaled_by_its_depth_and_equal_channels_become_gray(tmp_path: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 255, (4, 5, 3), dtype=np.uint8)
    assert np.allclose(read_image(written(tmp_path, header_for(colour, photometric="RGB"))), colour / 255)
    gray = np.repeat(colour[..., :1], 3, axis=-1)
    pixels = read_image(written(tmp_path, header_for(gray, photometric="RGB"), "b.dcm"))
    assert np.allclose(pixels, gray[..., 0] / 255)


def test_ybr_becomes_rgb(tmp_path: Path) -> None:
    red = np.broadcast_to(np.array([76, 85, 255], dtype=np.uint8), (2, 2, 3)).copy()  # BT.601 red
    pixels = read_image(written(tmp_path, header_for(red, photometric="YBR_FULL")))
    assert np.allclose(pixels, [1, 0, 0], atol=0.01)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_lossless_compression_changes_nothing(tmp_path: Path, syntax: Any) -> None:
    if syntax == JPEGLSLossless:
        pytest.importorskip("jpeg_ls")
    if syntax == JPEG2000Lossless:
        pytest.importorskip("openjpeg")
    header = header_for(np.kron(RAMP, np.ones((8, 8), dtype=np.uint16)), bits=12)
    plain = read_image(written(tmp_path, header))
    header.compress(syntax)
    assert np.array_equal(read_image(written(tmp_path, header, "b.dcm")), plain)


def test_jpeg_baseline_is_decoded(tmp_path: Path) -> None:
    from PIL import Image

    values = np.linspace(0, 255, 1024).reshape(32, 32).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, format="JPEG", quality=95)
    header = header_for(values)
    header.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.50"
    header.PixelData = encapsulate([stream.getvalue()])
    header["PixelData"].VR = "OB"
    header["PixelData"].is_undefined_length = True
    assert np.abs(read_image(written(tmp_path, header)) - values / 255).max() < 0.03


def test_missing_plugin_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pydicom.pixels.decoders import JPEGLSLosslessDecoder

    pytest.importorskip("jpeg_ls")
    header = header_for(RAMP, bits=12)
    header.compress(JPEGLSLossless)
    path = written(tmp_path, header)
    monkeypatch.setattr(JPEGLSLosslessDecoder, "_available", {})
    with pytest.raises(
        MedtailError, match=r"a\.dcm: compressed as JPEG-LS Lossless.* `pip install 'medtail\[dicom\]'`"
    ):
        read_image(path)


def test_films_are_refused(tmp_path: Path) -> None:
    header = header_for(RAMP)
    header.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"  # MPEG2
    header.PixelData = encapsulate([b"\0\0"])
    header["PixelData"].VR = "OB"
    header["PixelData"].is_undefined_length = True
    with pytest.raises(MedtailError, match=r"a\.dcm: stored as MPEG2 .* which is not read"):
        read_image(written(tmp_path, header))


def test_dicom_is_known_by_its_content_whatever_its_name(tmp_path: Path) -> None:
    path = written(tmp_path, header_for(RAMP, bits=12), "a.png")
    assert np.allclose(read_image(path), RAMP / 4095)


def test_old_file_without_preamble_is_read_under_a_dicom_name(tmp_path: Path) -> None:
    header = header_for(RAMP, bits=12)
    del header.file_meta
    pydicom.dcmwrite(tmp_path / "a.dcm", header, implicit_vr=True, little_endian=True)
    assert (tmp_path / "a.dcm").read_bytes()[128:132] != b"DICM"
    assert np.allclose(read_image(tmp_path / "a.dcm"), RAMP / 4095)


def test_text_named_dcm_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_text("this is not a DICOM file, only a note about one" * 9)
    with pytest.raises(MedtailError, match=r"a\.dcm: (no pixels|cannot be read as DICOM)"):
        read_image(tmp_path / "a.dcm")


@pytest.mark.parametrize("share", [0.2, 0.5, 0.95])
def test_truncated_files_are_refused_and_named(tmp_path: Path, share: float) -> None:
    whole = written(tmp_path, header_for(np.zeros((64, 64), dtype=np.uint16))).read_bytes()
    (tmp_path / "cut.dcm").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(MedtailError, match=r"cut\.dcm: (damaged|cannot be read|no pixels)"):
        read_image(tmp_path / "cut.dcm")


def test_report_without_pixels_is_refused_by_kind() -> None:
    with pytest.raises(MedtailError, match=r"test-SR\.dcm: no pixels in this DICOM file \(Comprehensive SR Storage\)"):
        read_image(SHIPPED / "test-SR.dcm")


@pytest.mark.parametrize(("key", "value", "message"), [
    ("WindowWidth", 0, "WindowWidth is 0; expected 1 or more"),
    ("VOILUTFunction", "CUBIC", "VOILUTFunction is 'CUBIC'; expected LINEAR"),
])  # fmt: skip
def test_senseless_windows_are_refused(tmp_path: Path, key: str, value: object, message: str) -> None:
    header = header_for(RAMP)
    header.WindowCenter, header.WindowWidth = 100, 50
    setattr(header, key, value)
    with pytest.raises(MedtailError, match=message):
        read_image(written(tmp_path, header))


def test_too_many_pixels_are_refused_before_decoding(tmp_path: Path) -> None:
    header = header_for(RAMP)
    header.Rows = header.Columns = 20_000
    with pytest.raises(MedtailError, match=r"a\.dcm: too large \(20000 x 20000\)"):
        read_image(written(tmp_path, header))


@pytest.mark.parametrize(
    ("name", "like"),
    [
        ("MR_small_RLE.dcm", "MR_small.dcm"),
        ("MR_small_jp2klossless.dcm", "MR_small.dcm"),
        ("MR_small_jpeg_ls_lossless.dcm", "MR_small.dcm"),
        ("MR_small_bigendian.dcm", "MR_small.dcm"),
        ("MR_small_implicit.dcm", "MR_small.dcm"),
        ("SC_rgb_rle.dcm", "SC_rgb_jpeg_gdcm.dcm"),
    ],
)
def test_real_files_read_alike_in_every_coding(name: str, like: str) -> None:
    for needed in ("openjpeg", "jpeg_ls", "gdcm"):
        pytest.importorskip(needed)
    pixels = read_image(SHIPPED / name)
    assert np.array_equal(pixels, read_image(SHIPPED / like))
    assert 0 <= pixels.min() < pixels.max() <= 1


def test_palette_colour_is_looked_up() -> None:
    pixels = read_image(SHIPPED / "examples_palette.dcm")
    assert pixels.shape == (350, 800, 3)
    assert 0.9 < pixels.max() <= 1
