from __future__ import annotations

import hashlib
import io
import os
import signal
import threading
import time
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from medtail.config import config_to_dict
from medtail.pixels.decode import image_from_bytes
from medtail.pixels.letterbox import letterbox
from medtail.pixels.settings import PixelConfig
from medtail.serving.decoder import answer
from medtail.serving.decoders import Decoders, _Watch
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
    assert found.sha256 == hashlib.sha256(content).hexdigest()
    assert found.ms > 0


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


@pytest.mark.parametrize(
    "changes",
    [
        {"height": -1},
        {"width": 4.5},
        {"width": None},
        {"box": [0, 0, 16]},
        {"box": [0, 0, 16, 17]},
        {"box": [0, 0, "16", 16]},
        {"preview_shape": [40, 47]},
        {"preview_shape": [-40, -48]},
        {"preview_shape": [1, 40, 48, 1]},
        {"frames": "many"},
        {"ms": "long"},
        {"ok": "yes"},
        {"ok": None},
    ],
)
def test_a_reply_no_reader_gives_costs_its_process_and_is_not_used(
    changes: dict[str, object], picture: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medtail.serving import decoders as module

    pixels = config_to_dict(CONFIG)
    request = {"frame": 0, "max_pixels": 10_000, "pixels": pixels, "roi": None, "preview_px": 100}
    header, blobs = answer(request, picture())
    started: list[FakeProcess] = []

    class FakeProcess:
        def __init__(self, *_: object, **__: object) -> None:
            self.pid, self.header, self.is_stopped = len(started), {"ok": True, **header}, False
            started.append(self)

        def ask(self, *_: object, **__: object) -> tuple[dict[str, object], list[bytes]]:
            return self.header, blobs

        def stop(self) -> None:
            self.is_stopped = True

    monkeypatch.setattr(module, "_Process", FakeProcess)
    with Decoders(1, max_pixels=10_000, max_bytes=10_000) as made:
        assert made.prepare(picture(), CONFIG, timeout_s=9, with_preview=True).frames == 1
        started[0].header |= changes
        assert made.prepare(picture(), CONFIG, timeout_s=9, with_preview=True).frames == 1  # of the next process
        assert [process.is_stopped for process in started] == [True, False]
        started[1].header |= changes
        header |= changes
        with pytest.raises(Refusal, match="made its reader crash"):
            made.prepare(picture(), CONFIG, timeout_s=9, with_preview=True)


class Sleeper:
    def __init__(self) -> None:
        self.died = threading.Event()
        self.at = 0.0

    def kill(self) -> None:
        self.at = time.monotonic()
        self.died.set()


def test_processes_die_with_their_own_times_in_whatever_order_they_began() -> None:
    watch = _Watch()
    late, early, done = Sleeper(), Sleeper(), Sleeper()
    now = time.monotonic()
    watch.begin(late, now + 0.5)  # type: ignore[arg-type]
    watch.begin(early, now + 0.1)  # type: ignore[arg-type]
    watch.begin(done, now + 0.2)  # type: ignore[arg-type]
    watch.end(done)  # type: ignore[arg-type]
    assert early.died.wait(30)
    assert late.died.wait(30)
    assert early.at >= now + 0.1
    assert late.at >= now + 0.5
    assert not done.died.is_set()
    watch.begin(done, now - 1)  # type: ignore[arg-type]  # woken from a sleep without end
    assert done.died.wait(30)
    watch.close()


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
