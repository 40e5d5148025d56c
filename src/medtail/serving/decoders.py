"""The server's end of the decoder processes: a few of them, one file each at a time, killed when a file takes too long.

A file that crashes or hangs its reader costs one process and an answer that says so; the next file finds a new one.
So does one that makes its reader say what no reader would: sizes are checked before anything is taken from the pipe.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
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
        sha256: Of the file's bytes, hexadecimal.
        ms: Milliseconds the process worked on it.
        square: uint8 [channels, S, S] for the model; None if not asked for.
        box: The part of the square that is image: left, top, right, bottom.
        preview: uint8 [h, w] or [h, w, 3], at most `PREVIEW_PX` wide and high; None if not asked for.
        frames: In the file; 1 if no preview was asked for.
    """

    height: int
    width: int
    sha256: str
    ms: float
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
        self._watch = _Watch()
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
        # worked out while the process reads the file, on another core
        digest = functools.cache(lambda: hashlib.sha256(content).hexdigest())

        def ask() -> tuple[dict[str, Any], list[bytes]]:
            return self._ask(request, content, until, meanwhile=digest, max_bytes=_most_bytes(pixels))

        try:
            header, blobs = ask()
        except _DecoderDied:
            try:  # it may have died of something else before; a file is to blame that does it twice
                header, blobs = ask()
            except _DecoderDied:
                raise Refusal.image(CRASHED) from None
        if not header["ok"]:
            raise Refusal.image(str(header.get("message", "image: cannot be read.")))
        return _prepared(header, blobs, pixels, sha256=digest())

    def _ask(
        self,
        request: dict[str, Any],
        content: bytes,
        until: float,
        *,
        meanwhile: Callable[[], object],
        max_bytes: int,
    ) -> tuple[dict[str, Any], list[bytes]]:
        try:
            process = self._idle.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            raise Refusal.timeout() from None
        try:
            if process is None:  # the last one here died
                process = self._started()
            header, blobs = process.ask(request, content, until=until, meanwhile=meanwhile, max_bytes=max_bytes)
            if not _is_proper(header, blobs, request):
                raise _DecoderDied(was_killed=False)
            return header, blobs
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
        self._watch.close()

    def _started(self) -> _Process:
        if self._closed:
            raise Refusal.busy()
        process = _Process(self._watch, max_pixels=self.max_pixels, max_bytes=self.max_bytes)
        with self._lock:
            self._running.add(process)
        return process

    def _forget(self, process: _Process) -> None:
        with self._lock:
            self._running.discard(process)
        process.stop()


def _most_bytes(pixels: PixelConfig | None) -> int:
    """Return the most a reply may hold: the square, and a preview in colour."""
    return 3 * PREVIEW_PX**2 + (0 if pixels is None else math.prod(pixels.shape))


def _is_proper(header: Mapping[str, Any], blobs: list[bytes], request: Mapping[str, Any]) -> bool:
    """Say whether a reply is one that `decoder.answer` gives; a process that a file took over may say anything."""
    if header.get("ok") is False:
        return True
    sizes = [len(blob) for blob in blobs]
    numbers, expected = [header.get("height"), header.get("width")], []
    if request["pixels"] is not None:
        pixels = request["pixels"]
        box = header.get("box")
        if not isinstance(box, list) or len(box) != 4:
            return False
        if not all(type(edge) is int and 0 <= edge <= pixels["size_px"] for edge in box):
            return False
        expected.append(pixels["channels"] * pixels["size_px"] ** 2)
    if request["preview_px"] is not None:
        shape = header.get("preview_shape")
        if not isinstance(shape, list) or len(shape) not in (2, 3):
            return False
        numbers += [*shape, header.get("frames")]
    if header.get("ok") is not True or not all(type(number) is int and number > 0 for number in numbers):
        return False
    if request["preview_px"] is not None:
        expected.append(math.prod(header["preview_shape"]))
    return sizes == expected and isinstance(header.get("ms"), float)


def _prepared(header: Mapping[str, Any], blobs: list[bytes], pixels: PixelConfig | None, *, sha256: str) -> Prepared:
    found = Prepared(height=header["height"], width=header["width"], sha256=sha256, ms=header["ms"])
    rest = list(blobs)
    if pixels is not None:
        square = np.frombuffer(rest.pop(0), dtype=np.uint8).reshape(pixels.shape).copy()  # torch wants to own it
        found = replace(found, square=square, box=cast("Box", tuple(header["box"])))
    if rest:
        shown = np.frombuffer(rest.pop(0), dtype=np.uint8).reshape(header["preview_shape"])
        found = replace(found, preview=shown, frames=header["frames"])
    return found


class _DecoderDied(Exception):  # noqa: N818  # says what happened; never leaves this file
    def __init__(self, *, was_killed: bool) -> None:
        super().__init__()
        self.was_killed = was_killed


@final
class _Watch:
    """One thread that kills the processes whose time is over.

    It sleeps until the earliest end it knows of, and is woken only for an earlier one: ends come in order, so a request
    starts no thread and wakes none.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._until: dict[_Process, float] = {}
        self._wakes = 0.0
        self._closed = False
        threading.Thread(target=self._run, name="medtail-watch", daemon=True).start()

    def begin(self, process: _Process, until: float) -> None:
        """Kill a process at a time of the monotonic clock."""
        with self._changed:
            self._until[process] = until
            if until < self._wakes:
                self._changed.notify()

    def end(self, process: _Process) -> None:
        """Let a process live that is done; when this returns it was killed or never will be."""
        with self._changed:
            self._until.pop(process, None)

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _run(self) -> None:
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                for process in [process for process, until in self._until.items() if until <= now]:
                    del self._until[process]
                    process.kill()
                self._wakes = min(self._until.values(), default=math.inf)
                self._changed.wait(None if self._wakes == math.inf else self._wakes - now)


@final
class _Process:
    """One decoder process and its two pipes."""

    def __init__(self, watch: _Watch, *, max_pixels: int, max_bytes: int) -> None:
        self._watch = watch
        self._was_killed = False
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
            self.ask({"max_pixels": max_pixels, "max_bytes": max_bytes}, until=time.monotonic() + START_S)
        except _DecoderDied:
            self.stop()
            raise MedtailError("serve: the process that opens files cannot be started; is medtail installed?") from None

    def ask(
        self,
        request: dict[str, Any],
        *blobs: bytes,
        until: float,
        meanwhile: Callable[[], object] | None = None,
        max_bytes: int = 0,
    ) -> tuple[dict[str, Any], list[bytes]]:
        """Send a request, do something `meanwhile`, and wait for the answer; the process dies with the time."""
        reply = failed = None
        self._watch.begin(self, until)
        try:
            send(cast("Any", self._in), request, *blobs)
            if meanwhile is not None:
                meanwhile()
            reply = receive(cast("Any", self._out), max_bytes=max_bytes)
        # what came was no message: no JSON, not of these sizes, nested without end
        except (OSError, EOFError, ValueError, TypeError, KeyError, RecursionError) as error:
            failed = error
        finally:
            self._watch.end(self)
        if reply is None or self._was_killed:
            raise _DecoderDied(was_killed=self._was_killed) from failed
        return reply

    def kill(self) -> None:
        """Kill it: its time is over."""
        self._was_killed = True
        self._process.kill()

    def stop(self) -> None:
        """Kill it and close its pipes."""
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
