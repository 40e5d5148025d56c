from __future__ import annotations

import io
import os
import signal
import time
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from medtail.pixels.decode import image_from_bytes
from medtail.pixels.letterbox import letterbox
from medtail.pixels.settings import PixelConfig
from medtail.serving.decoders import Decoders
from medtail.serving.refusals import Refusal

MakeFile = Callable[..., bytes]
CONFIG = PixelConfig(size_px=16)


@pytest.fixture
def decoders() -> Iterator[Decoders]:
    with Decoders(1, max_pixels=1_000_000, max_bytes=4_000_000) as made:
        yield made


def test_what_comes_back_is_what_the_same_code_makes_here(decoders: Decoders, picture: MakeFile) -> None:
    content = picture(colour=True)
    square, box = letterbox(image_from_bytes(content), config=CONFIG)
    found = decoders.prepare(content, CONFIG, timeout_s=60, with_preview=True)
    np.testing.assert_array_equal(found.square, square)
    assert found.box == box
    assert found.preview is not None
    assert found.preview.shape == (40, 48, 3)
    assert found.frames == 1


def test_a_bad_file_costs_no_process(decoders: Decoders, picture: MakeFile) -> None:
    before = decoders.pids
    for content in (b"PK\x03\x04 a zip", picture()[:60], b"P5 9999 9999 255 "):
        with pytest.raises(Refusal) as caught:
            decoders.prepare(content, CONFIG, timeout_s=60)
        assert caught.value.status == 422
    assert decoders.pids == before


def test_a_reader_that_hangs_is_killed_in_time_and_replaced(decoders: Decoders, picture: MakeFile) -> None:
    (stuck,) = decoders.pids
    os.kill(stuck, signal.SIGSTOP)
    started = time.monotonic()
    with pytest.raises(Refusal) as caught:
        decoders.prepare(picture(), CONFIG, timeout_s=0.5)
    assert caught.value.status == 504
    assert time.monotonic() - started < 10
    assert decoders.prepare(picture(), CONFIG, timeout_s=60).square is not None
    assert stuck not in decoders.pids


def test_a_process_that_died_before_is_not_held_against_the_file(decoders: Decoders, picture: MakeFile) -> None:
    (idle,) = decoders.pids
    os.kill(idle, signal.SIGKILL)
    assert decoders.prepare(picture(), CONFIG, timeout_s=60).square is not None
    assert idle not in decoders.pids


def test_a_file_that_crashes_its_reader_twice_is_refused(
    decoders: Decoders, picture: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medtail.serving import decoders as module

    real = module.send

    def crash(stream: object, header: dict[str, object], *blobs: bytes) -> None:
        real(stream, header, *blobs)  # type: ignore[arg-type]
        if "frame" in header:
            for pid in decoders.pids:
                os.kill(pid, signal.SIGSEGV)

    monkeypatch.setattr(module, "send", crash)
    with pytest.raises(Refusal, match="made its reader crash") as caught:
        decoders.prepare(picture(size=(900, 900)), CONFIG, timeout_s=120)
    assert caught.value.status == 422
    monkeypatch.undo()
    assert decoders.prepare(picture(), CONFIG, timeout_s=60).square is not None


def test_waiting_for_a_busy_reader_has_an_end(decoders: Decoders, picture: MakeFile) -> None:
    process = decoders._idle.get()
    with pytest.raises(Refusal) as caught:
        decoders.prepare(picture(), CONFIG, timeout_s=0.2)
    assert caught.value.status == 504
    decoders._idle.put(process)


def test_closing_ends_every_process(picture: MakeFile) -> None:
    made = Decoders(2, max_pixels=1000, max_bytes=1000)
    pids = made.pids
    assert len(pids) == 2
    made.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    with pytest.raises(Refusal):
        made.prepare(picture(), CONFIG, timeout_s=1)


@pytest.mark.slow
def test_a_file_that_unpacks_to_gigabytes_is_refused_and_the_reader_lives(decoders: Decoders, dicom: MakeFile) -> None:
    from pydicom import Dataset, dcmread
    from pydicom.filewriter import dcmwrite
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    header: Dataset = dcmread(io.BytesIO(dicom()))
    header.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    stream = io.BytesIO()
    dcmwrite(stream, header, enforce_file_format=True)
    whole = stream.getvalue()
    start = 132 + 12 + int(header.file_meta.FileMetaInformationGroupLength)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    zeros = bytes(10_000_000)
    bomb = whole[:start] + b"".join(packer.compress(zeros) for _ in range(300)) + packer.flush()
    assert len(bomb) < decoders.max_bytes
    before = decoders.pids
    with pytest.raises(Refusal) as caught:
        decoders.prepare(bomb, CONFIG, timeout_s=120)
    assert caught.value.status == 422
    assert decoders.pids == before
