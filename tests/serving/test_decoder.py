from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medtail.config import config_to_dict
from medtail.errors import MedtailError
from medtail.pixels.decode import read_image
from medtail.pixels.letterbox import letterbox
from medtail.pixels.settings import PixelConfig
from medtail.serving.decoder import LENGTH, answer, count_frames, receive, reduced, send, serve

CONFIG = PixelConfig(size_px=32, channels=3, crop="roi", missing_roi="whole")
MakeFile = Callable[..., bytes]


def request(**changes: object) -> dict[str, object]:
    pixels = config_to_dict(CONFIG)
    return {"frame": 0, "max_pixels": 1_000_000, "pixels": pixels, "roi": None, "preview_px": None, **changes}


@pytest.mark.parametrize("roi", [None, (5, 6, 20, 12)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "WEBP", "dicom", "old dicom"])
def test_bytes_are_prepared_exactly_as_the_file_is(
    kind: str, roi: tuple[int, int, int, int] | None, tmp_path: Path, picture: MakeFile, dicom: MakeFile
) -> None:
    content = dicom(preamble=kind == "dicom") if "dicom" in kind else picture(kind, colour=True)
    path = tmp_path / ("x.dcm" if "dicom" in kind else "x.dat")
    path.write_bytes(content)
    square, box = letterbox(read_image(path), config=CONFIG, roi=roi)
    header, blobs = answer(request(roi=roi), content)
    assert blobs[0] == square.tobytes()
    assert tuple(header["box"]) == box


def test_a_preview_is_the_image_reduced(picture: MakeFile) -> None:
    header, blobs = answer(request(pixels=None, preview_px=20), picture(size=(80, 40)))
    assert header["preview_shape"] == [10, 20]
    assert (header["height"], header["width"], header["frames"]) == (40, 80, 1)
    assert len(blobs[0]) == 200


def test_small_pictures_are_not_enlarged() -> None:
    assert reduced(np.zeros((3, 5), np.float32), longest_px=10).shape == (3, 5)


def test_frames_are_counted_by_content(dicom: MakeFile, picture: MakeFile) -> None:
    assert count_frames(dicom(frames=3)) == 3
    assert count_frames(dicom()) == 1
    assert count_frames(picture("GIF")) == 1


def test_a_chosen_frame_is_read(dicom: MakeFile) -> None:
    frames = [answer(request(frame=frame), dicom(frames=3))[1][0] for frame in range(3)]
    assert len(set(frames)) == 3
    with pytest.raises(MedtailError, match="no frame 3"):
        answer(request(frame=3), dicom(frames=3))


def test_an_image_over_the_limit_is_refused_before_its_pixels_are_decoded() -> None:
    # a header of 30,000 x 30,000 pixels and nothing behind it: whoever decodes finds it truncated
    with pytest.raises(MedtailError, match="too large"):
        answer(request(), b"P5 30000 30000 255 ")


def test_messages_survive_the_pipe_and_a_closed_pipe_is_told_from_a_broken_one() -> None:
    stream = io.BytesIO()
    send(stream, {"a": [1, 2]}, b"one", b"")
    whole = stream.getvalue()
    assert receive(io.BytesIO(whole)) == ({"a": [1, 2], "sizes": [3, 0]}, [b"one", b""])
    assert receive(io.BytesIO(b"")) is None
    for cut in (1, 17, len(whole) - 1):
        with pytest.raises(EOFError):
            receive(io.BytesIO(whole[:cut]))


@pytest.mark.parametrize(
    ("header", "body"),
    [
        (b'{"sizes": [9]}', b"123456789"),  # more than was asked for
        (b'{"sizes": [-1, 5]}', b"1234"),  # read(-1) would read for ever
        (b'{"sizes": [1]}', b"12"),
        (b'{"sizes": 1}', b"1"),
        (b'{"sizes": ["1"]}', b"1"),
        (b"{}", b""),
        (b"[]", b""),
        (b'{"sizes": [], "more": "' + b"x" * 70_000 + b'"}', b""),
        (b'{"sizes": [], "more": ' + b"[" * 60_000, b""),
    ],
)
def test_a_reply_that_is_not_as_it_must_be_is_not_taken(header: bytes, body: bytes) -> None:
    whole = LENGTH.pack(len(header), len(body)) + header + body
    with pytest.raises((ValueError, TypeError, KeyError, EOFError, RecursionError)):
        receive(io.BytesIO(whole), max_bytes=8)


def test_a_length_that_no_memory_holds_is_refused_before_anything_is_read() -> None:
    for lengths in ((2**60, 0), (12, 2**60)):
        with pytest.raises(ValueError, match="larger than allowed"):
            receive(io.BytesIO(LENGTH.pack(*lengths)), max_bytes=1000)


def test_whatever_a_file_does_the_loop_answers_and_goes_on(picture: MakeFile, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, told = io.BytesIO(), io.BytesIO()
    for content in (b"nonsense", b"", picture()):
        send(asked, request(), content)
    asked.seek(0)
    serve(asked, told)
    told.seek(0)
    answers = [receive(told) for _ in range(3)]
    assert [found[0]["ok"] for found in answers if found] == [False, False, True]

    for raised, words in ((MemoryError(), "more memory"), (ZeroDivisionError("secret"), "ZeroDivisionError")):

        def fail(*_: object, raised: BaseException = raised, **__: object) -> None:
            raise raised

        monkeypatch.setattr("medtail.serving.decoder.image_from_bytes", fail)
        asked, told = io.BytesIO(), io.BytesIO()
        send(asked, request(), b"x")
        asked.seek(0)
        serve(asked, told)
        told.seek(0)
        found = receive(told)
        assert found is not None
        assert words in found[0]["message"]
        assert "secret" not in found[0]["message"]


CONFINED = """
from pathlib import Path
from medtail.serving.decoder import confine
confine(max_pixels=1000, max_bytes=1000)
try:
    Path({path!r}).write_text("x" * 100)
    print("wrote")
except OSError:
    print("no file")
try:
    held = bytearray(2_000_000_000)
    print("got memory")
except MemoryError:
    print("no memory")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limits are kept by Linux")
def test_a_confined_process_can_write_no_file_and_take_no_more_memory(tmp_path: Path) -> None:
    script = CONFINED.format(path=str(tmp_path / "left"))
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=120)
    assert done.stdout.split("\n")[:2] == ["no file", "no memory"], done.stderr
    assert not (tmp_path / "left").exists() or (tmp_path / "left").stat().st_size == 0


def test_the_process_that_opens_files_loads_neither_tables_nor_torch() -> None:
    script = "import sys, medtail.serving.decoder; print(sorted({'pandas', 'pyarrow', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-P", "-c", script], check=True, capture_output=True, text=True, timeout=120)
    assert done.stdout == "[]\n"
