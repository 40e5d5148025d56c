"""The server's end of the decoder processes: a few of them, one file each at a time, killed when a file takes too long.

A file that crashes or hangs its reader costs one process and an answer that says so; the next file finds a new one.
"""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import IO, Any, cast, final

import numpy as np

from medtail.config import config_to_dict
from medtail.errors import MedtailError
from medtail.pixels.letterbox import Box
from medtail.pixels.settings import PixelConfig
from medtail.serving.decoder import receive, send
from medtail.serving.refusals import Refusal

PREVIEW_PX = 1024
START_S = 120.0
PIPE_BYTES = 1 << 20
CRASHED = "image: made its reader crash; it is damaged. Copy it again from its origin."


@final
@dataclass(frozen=True, eq=False)
class Prepared:
    """What a file came to.

    Attributes:
        height: Of the image, pixels.
        width: Of the image, pixels.
        square: uint8 [channels, S, S] for the model; None if not asked for.
        box: The part of the square that is image: left, top, right, bottom.
        preview: uint8 [h, w] or [h, w, 3], at most `PREVIEW_PX` wide and high; None if not asked for.
        frames: In the file; 1 if no preview was asked for.
    """

    height: int
    width: int
    square: np.ndarray | None = None
    box: Box | None = None
    preview: np.ndarray | None = None
    frames: int = 1


@final
class Decoders:
    """A pool of decoder processes; a context manager that stops them all.

    Args:
        count: Processes.
        max_pixels: Largest image.
        max_bytes: Largest file; the processes' memory is limited by both.

    Example:
        >>> with Decoders(1, max_pixels=100, max_bytes=1000) as decoders:
        ...     found = decoders.prepare(b"P5 2 1 255 " + bytes([0, 255]), PixelConfig(size_px=8), timeout_s=60)
        >>> found.square.shape, found.box
        ((1, 8, 8), (0, 2, 8, 6))
    """

    def __init__(self, count: int, *, max_pixels: int, max_bytes: int) -> None:
        self.max_pixels, self.max_bytes = max_pixels, max_bytes
        self._idle: queue.LifoQueue[_Process | None] = queue.LifoQueue()
        self._lock = threading.Lock()
        self._running: set[_Process] = set()
        self._closed = False
        for _ in range(count):
            self._idle.put(self._started())

    def __enter__(self) -> Decoders:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of those that live."""
        with self._lock:
            return tuple(process.pid for process in self._running)

    def prepare(
        self,
        content: bytes,
        pixels: PixelConfig | None,
        *,
        timeout_s: float,
        roi: Box | None = None,
        frame: int = 0,
        with_preview: bool = False,
    ) -> Prepared:
        """Open a file and prepare it as a model wants it.

        Args:
            content: Its bytes.
            pixels: How to prepare the square; None for no square.
            timeout_s: Longest time, waiting for a free process included.
            roi: Region of interest (x, y, width, height), pixels of the image.
            frame: Of a file with several, from 0.
            with_preview: Also return a picture to look at.

        Raises:
            Refusal: The file is no image that can be read, is too large, or takes too long.
        """
        until = time.monotonic() + timeout_s
        request = {
            "frame": frame,
            "max_pixels": self.max_pixels,
            "pixels": None if pixels is None else config_to_dict(pixels),
            "roi": None if roi is None else list(roi),
            "preview_px": PREVIEW_PX if with_preview else None,
        }
        try:
            header, blobs = self._ask(request, content, until)
        except _DecoderDied:
            try:  # it may have died of something else before; a file is to blame that does it twice
                header, blobs = self._ask(request, content, until)
            except _DecoderDied:
                raise Refusal.image(CRASHED) from None
        if not header.get("ok"):
            raise Refusal.image(str(header.get("message", "image: cannot be read.")))
        return _prepared(header, blobs, pixels)

    def _ask(self, request: dict[str, Any], content: bytes, until: float) -> tuple[dict[str, Any], list[bytes]]:
        try:
            process = self._idle.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            raise Refusal.timeout() from None
        try:
            if process is None:  # the last one here died
                process = self._started()
            return process.ask(request, content, timeout_s=max(0.0, until - time.monotonic()))
        except _DecoderDied as error:
            if process is not None:
                self._forget(process)
            process = None
            if error.was_killed:
                raise Refusal.timeout() from None
            raise
        finally:
            self._idle.put(process)

    def close(self) -> None:
        """Stop all processes."""
        self._closed = True
        with self._lock:
            processes = list(self._running)
        for process in processes:
            self._forget(process)

    def _started(self) -> _Process:
        if self._closed:
            raise Refusal.busy()
        process = _Process(max_pixels=self.max_pixels, max_bytes=self.max_bytes)
        with self._lock:
            self._running.add(process)
        return process

    def _forget(self, process: _Process) -> None:
        with self._lock:
            self._running.discard(process)
        process.stop()


def _prepared(header: Mapping[str, Any], blobs: list[bytes], pixels: PixelConfig | None) -> Prepared:
    found = Prepared(height=int(header["height"]), width=int(header["width"]))
    rest = list(blobs)
    if pixels is not None:
        square = np.frombuffer(rest.pop(0), dtype=np.uint8).reshape(pixels.shape).copy()  # torch wants to own it
        found = replace(found, square=square, box=cast("Box", tuple(header["box"])))
    if rest:
        shown = np.frombuffer(rest.pop(0), dtype=np.uint8).reshape(header["preview_shape"])
        found = replace(found, preview=shown, frames=int(header["frames"]))
    return found


class _DecoderDied(Exception):  # noqa: N818  # says what happened; never leaves this file
    def __init__(self, *, was_killed: bool) -> None:
        super().__init__()
        self.was_killed = was_killed


@final
class _Process:
    """One decoder process and its two pipes."""

    def __init__(self, *, max_pixels: int, max_bytes: int) -> None:
        quiet = {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "medtail.serving.decoder"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # readers warn with values of the header, which may name a patient
            env={**os.environ, **quiet},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in: IO[bytes] = self._process.stdin
        self._out: IO[bytes] = self._process.stdout
        self.pid = self._process.pid
        for stream in (self._in, self._out):
            _widen(stream)
        try:
            self.ask({"max_pixels": max_pixels, "max_bytes": max_bytes}, timeout_s=START_S)
        except _DecoderDied:
            self.stop()
            raise MedtailError("serve: the process that opens files cannot be started; is medtail installed?") from None

    def ask(self, request: dict[str, Any], *blobs: bytes, timeout_s: float) -> tuple[dict[str, Any], list[bytes]]:
        """Send a request and wait for the answer; the process dies with the time."""
        killed = threading.Event()

        def kill() -> None:
            killed.set()
            self._process.kill()

        timer = threading.Timer(timeout_s, kill)
        timer.daemon = True
        timer.start()
        try:
            send(cast("Any", self._in), request, *blobs)
            reply = receive(cast("Any", self._out))
        except (OSError, EOFError, ValueError) as error:  # a ValueError: what came was no JSON
            raise _DecoderDied(was_killed=killed.is_set()) from error
        finally:
            timer.cancel()
        if reply is None or killed.is_set():
            raise _DecoderDied(was_killed=killed.is_set())
        return reply

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._in, self._out):
            with contextlib.suppress(OSError):
                stream.close()


def _widen(stream: IO[bytes]) -> None:
    """Let a pipe hold a whole image where the system can: every refill costs two switches between processes."""
    if sys.platform != "linux":
        return
    import fcntl

    set_size = getattr(fcntl, "F_SETPIPE_SZ", None)
    if set_size is not None:
        with contextlib.suppress(OSError):  # over what this user may take
            fcntl.fcntl(stream, set_size, PIPE_BYTES)
