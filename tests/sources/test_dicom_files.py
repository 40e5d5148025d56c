"""A deflated DICOM file is measured before it is unpacked, wherever it is read."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest

from medtail.errors import MedtailError
from medtail.exchange.dicom_source import read_source
from medtail.pixels.decode import image_from_bytes, read_image
from medtail.sources import dicom_files
from medtail.sources.dicom import import_dicom
from medtail.sources.dicom_files import dicom_stream


def picture(path: Path, *, is_deflated: bool = True, megabytes: int = 0) -> Path:
    """Write a 4 x 4 image with a private element of zeros, which shrink a thousandfold."""
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

    data = pydicom.Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian if is_deflated else ExplicitVRLittleEndian
    data.SOPClassUID = UID("1.2.840.10008.5.1.4.1.1.6.1")
    data.SOPInstanceUID, data.StudyInstanceUID = UID("1.2.3"), UID("1.2.4")
    data.add_new(0x00191001, "OB", bytes(megabytes * 2**20))
    data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = 4, 4, 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 8, 8, 7, 0
    data.PixelData = bytes(range(16))
    data.save_as(path, enforce_file_format=True)
    return path


def test_a_bomb_is_refused_wherever_dicom_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = picture(tmp_path / "bomb.dcm", megabytes=8)
    assert path.stat().st_size < 2**15
    with monkeypatch.context() as patch:
        patch.setattr(dicom_files, "MAX_BYTES", 4 * 2**20)
        for read in (read_image, lambda file: image_from_bytes(file.read_bytes()), read_source):
            with pytest.raises(MedtailError, match="deflated DICOM that unpacks to more than 4 MiB; expected an image"):
                read(path)
        (tmp_path / "labels.csv").write_text("image_id,halo\n1.2.3,1\n")
        with pytest.raises(MedtailError, match=r"bomb\.dcm.*unpacks to more than 4 MiB"):
            import_dicom(tmp_path, labels=tmp_path / "labels.csv")
    assert read_image(path).shape == (4, 4)


def test_the_same_image_deflated_or_not_has_the_same_pixels(tmp_path: Path) -> None:
    packed, plain = (picture(tmp_path / name, is_deflated=name == "a.dcm") for name in ("a.dcm", "b.dcm"))
    assert np.array_equal(read_image(packed), read_image(plain))


def test_what_is_not_deflated_is_left_alone_however_large(tmp_path: Path) -> None:
    path = picture(tmp_path / "plain.dcm", is_deflated=False, megabytes=2)
    for source in (path, path.read_bytes()):
        with dicom_stream(source, where="plain.dcm", max_bytes=2**20) as stream:
            assert stream.read(200)[128:132] == b"DICM"


@pytest.mark.parametrize("length", [0, 10, 132, 140, 200, 300])
def test_damaged_files_are_left_to_the_reader(tmp_path: Path, length: int) -> None:
    whole = picture(tmp_path / "a.dcm", megabytes=1).read_bytes()
    for content in (whole[:length], whole[:length] + b"\xff" * 50):
        (tmp_path / "a.dcm").write_bytes(content)
        for source in (content, tmp_path / "a.dcm"):
            with dicom_stream(source, where="a.dcm") as stream:
                assert stream.read() == content


def test_a_missing_file_is_the_callers_affair(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), dicom_stream(tmp_path / "none.dcm", where="none.dcm"):
        pass


@pytest.mark.parametrize("element", [0x00021234, 0x00191002])
def test_a_length_that_lies_takes_no_memory(tmp_path: Path, element: int) -> None:
    """An element that claims 4 GB in a file of 1 kB: pydicom asks for as much, and a plain file would set it aside."""
    import struct
    import tracemalloc

    head = struct.pack("<HH", element >> 16, element & 0xFFFF) + b"OB\0\0" + struct.pack("<I", 0xFFFFFF00)
    content = picture(tmp_path / "a.dcm", is_deflated=False).read_bytes()
    at = 132 if element >> 16 == 2 else content.index(struct.pack("<HH", 0x0019, 0x1001))
    (tmp_path / "a.dcm").write_bytes(content[:at] + head + content[at:])
    (tmp_path / "labels.csv").write_text("image_id,halo\n1.2.3,1\n")
    tracemalloc.start()
    try:
        for read in (read_image, read_source, lambda file: import_dicom(file.parent, labels=tmp_path / "labels.csv")):
            with pytest.raises(MedtailError):
                read(tmp_path / "a.dcm")
        assert tracemalloc.get_traced_memory()[1] < 2**27
    finally:
        tracemalloc.stop()


def test_a_file_is_never_held_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The most that one step unpacks is a block."""
    steps: list[int] = []
    make = zlib.decompressobj

    class Measured:
        def __init__(self, window: int) -> None:
            self.real = make(window)

        def decompress(self, block: bytes, most: int) -> bytes:
            found = self.real.decompress(block, most)
            steps.append(len(found))
            return found

        unconsumed_tail = property(lambda self: self.real.unconsumed_tail)
        eof = property(lambda self: self.real.eof)

    content = picture(tmp_path / "a.dcm", megabytes=5).read_bytes()
    monkeypatch.setattr(dicom_files.zlib, "decompressobj", Measured)
    with dicom_stream(content, where="a.dcm"):
        pass
    assert sum(steps) > 5 * 2**20
    assert max(steps) <= 2**20
