"""A process that opens files for the server: bytes in, prepared pixels out, and nothing else it could do.

Image readers are large C libraries, and a file from outside may crash, hang or bloat them. Here they can: this process
has a limit on memory, may write no file, and is killed when a time is over; the server starts another. It speaks JSON
and raw bytes over its pipes, never objects, so nothing it says can run code in the server.

Run as `python -P -m medtail.serving.decoder`; `decoders` starts and stops it. Never imports torch.
"""

from __future__ import annotations

import json
import os
import re
import struct
import time
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from medtail.errors import MedtailError
from medtail.pixels.decode import FORMATS, image_from_bytes
from medtail.pixels.dicom import is_dicom
from medtail.pixels.letterbox import letterbox
from medtail.pixels.settings import PixelConfig

LENGTH = struct.Struct(">QQ")
OLD_DICOM = (b"\x08\x00", b"\x02\x00")
"""How DICOM data without the preamble begins: a tag of group 0008 or 0002, the low byte first."""
BYTES_A_PIXEL = 64
"""Memory a decoder may take for each pixel allowed: colour as float64 and the copies on the way."""
SPARE_BYTES = 600_000_000
LONGEST_MESSAGE = 400
LONGEST_HEADER = 65_536
"""Bytes of the JSON a server takes from a decoder, which a hostile file may have made its own."""


def send(stream: BinaryIO, header: dict[str, Any], *blobs: bytes | memoryview) -> None:
    """Write one message: two lengths, a JSON header, then its blobs one after the other.

    Args:
        stream: Where to write.
        header: What JSON can hold; the blobs' sizes are added as `sizes`.
        blobs: Raw bytes.

    Example:
        >>> stream = BytesIO()
        >>> send(stream, {"a": 1}, b"xy")
        >>> _ = stream.seek(0)
        >>> receive(stream)
        ({'a': 1, 'sizes': [2]}, [b'xy'])
    """
    sizes = [len(blob) for blob in blobs]
    text = json.dumps({**header, "sizes": sizes}).encode()
    stream.write(LENGTH.pack(len(text), sum(sizes)) + text)
    for blob in blobs:
        stream.write(blob)
    stream.flush()


def receive(stream: BinaryIO, *, max_bytes: int | None = None) -> tuple[dict[str, Any], list[bytes]] | None:
    """Read one message; None where the other side has closed the pipe.

    Args:
        stream: Where to read.
        max_bytes: Most bytes that the blobs may have together, where the other side is not to be trusted; then its
            header is limited, too.

    Raises:
        EOFError: It closed in the middle of one.
        ValueError: What came is no message, or is larger than allowed.
    """
    lengths = stream.read(LENGTH.size)
    if not lengths:
        return None
    if len(lengths) < LENGTH.size:
        raise EOFError
    header_length, total = LENGTH.unpack(lengths)
    if max_bytes is not None and (header_length > LONGEST_HEADER or total > max_bytes):
        raise ValueError("a message is larger than allowed")
    header = json.loads(_exactly(stream, header_length))
    sizes = header["sizes"]
    if sum(sizes) != total or min(sizes, default=0) < 0:
        raise ValueError("a message's sizes do not add up")
    return header, [_exactly(stream, size) for size in sizes]


def _exactly(stream: BinaryIO, size: int) -> bytes:
    content = stream.read(size)
    if len(content) < size:
        raise EOFError
    return content


def name_by_content(content: bytes) -> str:
    """Return a name that makes bytes be read as what they are: only old DICOM needs an ending.

    Example:
        >>> name_by_content(b"GIF89a"), name_by_content(b"\\x08\\x00\\x05\\x00CS")
        ('image', 'image.dcm')
    """
    return "image.dcm" if content[:2] in OLD_DICOM else "image"


def answer(request: dict[str, Any], content: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """Do what one request asks with the bytes of a file.

    Args:
        request: `frame`, `max_pixels`; `pixels` (a `PixelConfig` as a mapping, or None) and `roi` for the model's
            square; `preview_px` (longest side, or None) for a picture to look at.
        content: The file.

    Returns:
        `height`, `width`, `ms` (this took, milliseconds), and where asked for `box`, `preview_shape` and `frames`; the
        square and the picture as bytes.

    Raises:
        MedtailError: The file is no image that can be read, or too large.

    Example:
        >>> request = {"frame": 0, "max_pixels": 100, "pixels": {"size_px": 8}, "roi": None, "preview_px": None}
        >>> header, blobs = answer(request, b"P5 2 1 255 " + bytes([0, 255]))
        >>> header["box"], len(blobs[0])
        ([0, 2, 8, 6], 64)
    """
    started = time.perf_counter()
    pixels = image_from_bytes(
        content, name=name_by_content(content), frame=request["frame"], max_pixels=request["max_pixels"]
    )
    header: dict[str, Any] = {"height": pixels.shape[0], "width": pixels.shape[1]}
    blobs = []
    if request["pixels"] is not None:
        roi = None if request["roi"] is None else tuple(request["roi"])
        square, box = letterbox(pixels, config=PixelConfig(**request["pixels"]), roi=roi)
        header["box"] = [int(edge) for edge in box]
        blobs.append(square.tobytes())
    if request["preview_px"] is not None:
        shown = reduced(pixels, longest_px=request["preview_px"])
        header |= {"preview_shape": list(shown.shape), "frames": count_frames(content)}
        blobs.append(shown.tobytes())
    header["ms"] = round(1000 * (time.perf_counter() - started), 2)
    return header, blobs


def reduced(pixels: np.ndarray, *, longest_px: int) -> np.ndarray:
    """Return an image to look at: bytes, its longer side at most so many pixels, its shape kept.

    Args:
        pixels: float32 [H, W] or [H, W, 3] in [0, 1].
        longest_px: Of the longer side.

    Returns:
        uint8 [h, w] or [h, w, 3].

    Example:
        >>> reduced(np.ones((20, 40), np.float32), longest_px=10).shape
        (5, 10)
    """
    shown: np.ndarray = np.rint(np.clip(pixels, 0.0, 1.0) * 255.0).astype(np.uint8)
    height, width = shown.shape[:2]
    factor = longest_px / max(height, width)
    if factor >= 1:
        return shown
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(Image.fromarray(shown).resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0))


def plain_message(error: MedtailError) -> str:
    """Return what an error says, without the names of objects in memory that libraries put into theirs.

    Example:
        >>> plain_message(MedtailError("cannot identify image file <_io.BytesIO object at 0x7f2a37129a80>"))
        'cannot identify image file'
    """
    return " ".join(re.sub(r"<[^<>]* object at 0x[0-9a-fA-F]+>", "", str(error)).split())[:LONGEST_MESSAGE]


def count_frames(content: bytes) -> int:
    """Return how many frames a file holds that was read as an image before.

    Example:
        >>> count_frames(b"P5 2 1 255 " + bytes([0, 255]))
        1
    """
    if is_dicom(content[:132], name=name_by_content(content)):
        import pydicom

        header = pydicom.dcmread(BytesIO(content), force=True, stop_before_pixels=True)
        return int(header.get("NumberOfFrames") or 1)
    with Image.open(BytesIO(content), formats=FORMATS) as image:
        return int(getattr(image, "n_frames", 1))


def confine(*, max_pixels: int, max_bytes: int) -> None:
    """Limit this process: its memory, no file written, no core dump, which would hold the image.

    Where the system has no such limits (Windows), the time limit of the server remains.

    Args:
        max_pixels: Largest image allowed.
        max_bytes: Largest file allowed.
    """
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    status = Path("/proc/self/statm")
    if status.exists():  # elsewhere the limit on address space is not kept by the system
        now = int(status.read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        limit = now + BYTES_A_PIXEL * max_pixels + 4 * max_bytes + SPARE_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer requests until the pipe is closed. What a file does wrong is an answer, too."""
    while (message := receive(requests)) is not None:
        request, (content,) = message
        try:
            header, blobs = answer(request, content)
            send(replies, {"ok": True, **header}, *blobs)
        except MedtailError as error:
            send(replies, {"ok": False, "message": plain_message(error)})
        except MemoryError:
            send(replies, {"ok": False, "message": "image: needs more memory to open than is allowed; reduce it."})
        except Exception as error:  # a reader nobody foresaw to fail so: a mistake of ours, but the server must live
            send(replies, {"ok": False, "message": f"image: cannot be read ({type(error).__name__})."})
        del message, request, content


def main() -> None:
    """Set the limits and serve on the pipes this process was started with."""
    import pydicom.pixels  # noqa: F401  # loaded before the limits, as everything that needs its files read

    Image.init()
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb")
    silence = os.open(os.devnull, os.O_RDWR)
    os.dup2(silence, 0)
    os.dup2(silence, 1)  # what a library prints is no answer
    try:
        settings = receive(requests)
        if settings is not None:
            confine(max_pixels=settings[0]["max_pixels"], max_bytes=settings[0]["max_bytes"])
            send(replies, {"ok": True})
            serve(requests, replies)
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return


if __name__ == "__main__":
    main()
