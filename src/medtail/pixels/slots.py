"""The pixel store on disk: equal slots, one an image, each with its own checksum, in files of bounded size.

Every state of the files is a valid one: a slot counts only if its record says filled *and* its bytes match the
record's checksum. So a build that was killed is simply continued, a damaged, missing or truncated file is mended by
refilling the slots that fail, and nothing half-written is ever believed. Slots lie in *shards*, pairs of files that
stand alone: losing one costs its images only, and copying a store to another disk can stop and go on. What the slots
mean is `store`'s business.

Pixels are read by plain reads, not through a memory map: what is held in memory is what was asked for, and a disk
that goes away is an error to explain instead of the end of the process.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, final

import numpy as np

from medtail.pixels.letterbox import Box

RECORD = np.dtype([("checksum", "<u4"), ("box", "<i2", (4,)), ("filled", "u1")])
SHARD_BYTES = 1 << 30
"""Most bytes of pixels a file: 1 GiB."""
OPEN_SHARDS = 512
"""Most shards a reader holds open: a process may often have a thousand files open, and stores can have more."""
WRITING_SHARDS = 4
CHECKED_AT_ONCE = 8 << 20
"""Bytes a thread reads at once when it checks."""


@final
@dataclass(frozen=True)
class SlotFiles:
    """A folder holding `count` slots of uint8 pixels of one shape, and a record for each.

    Attributes:
        folder: Where.
        count: Slots.
        shape: Of one slot: channels, height, width.
        shard_bytes: Most bytes of pixels in a file; at least one slot is.
    """

    folder: Path
    count: int
    shape: tuple[int, int, int]
    shard_bytes: int = SHARD_BYTES

    @property
    def slot_bytes(self) -> int:
        """Bytes of one slot."""
        return int(np.prod(self.shape))

    @property
    def size_bytes(self) -> int:
        """Bytes of all pixels."""
        return self.count * self.slot_bytes

    @property
    def per_shard(self) -> int:
        """Slots in every shard but the last, which may have fewer."""
        return max(1, self.shard_bytes // self.slot_bytes)

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.count // self.per_shard)

    def slots_of(self, shard: int) -> range:
        """Return the slots of a shard."""
        return range(shard * self.per_shard, min((shard + 1) * self.per_shard, self.count))

    def pixels_path(self, shard: int) -> Path:
        """Return a shard's file of pixels: its slots one after the other, nothing else."""
        return self.folder / f"{shard:05d}.pixels"

    def records_path(self, shard: int) -> Path:
        """Return a shard's file of records."""
        return self.folder / f"{shard:05d}.records"

    def allocate(self) -> None:
        """Make all files with their full size, keeping what they hold.

        The space is claimed from the file system where it can be, so that a full disk shows before the work.

        Raises:
            OSError: The disk is full, or the place may not be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for shard in range(self.shards):
            for path, size in self._sizes(shard):
                if _size(path) != size:
                    with path.open("ab") as handle:
                        handle.truncate(size)
                        _claim_space(handle, size)

    def records(self) -> np.ndarray:
        """Return the records [count] (fields checksum, box, filled); empty ones for shards that are not whole."""
        records = np.zeros(self.count, dtype=RECORD)
        for shard in range(self.shards):
            if self._is_there(shard):
                slots = self.slots_of(shard)
                records[slots.start : slots.stop] = np.fromfile(self.records_path(shard), RECORD, count=len(slots))
        return records

    def sound(self, slots: np.ndarray | None = None, *, workers: int = 1) -> np.ndarray:
        """Read slots and say which are whole.

        Args:
            slots: Which to look at, int64, ascending; all if None. Those that were never filled cost nothing.
            workers: Threads reading and checking.

        Returns:
            Booleans, one a slot looked at; False where its shard's files are missing or have the wrong size.
        """
        asked = np.arange(self.count) if slots is None else np.asarray(slots, dtype=np.int64)
        records = self.records()
        good = np.zeros(self.count, dtype=bool)
        filled = asked[records["filled"][asked] == 1]
        size = self.slot_bytes
        at_once = max(1, CHECKED_AT_ONCE // size)
        # runs of neighbours, within a shard, that one read gets
        starts = np.flatnonzero(np.diff(filled, prepend=-2) != 1)
        runs = [
            (int(first), min(int(first) + at_once, stop))
            for run in np.split(filled, starts[1:])
            if len(run)
            for begin, stop in self._within_shards(int(run[0]), int(run[-1]) + 1)
            for first in range(begin, stop, at_once)
        ]
        with contextlib.closing(SlotReader(self)) as reader, ThreadPoolExecutor(max(1, workers)) as pool:

            def check(run: tuple[int, int]) -> None:
                first, stop = run
                try:
                    data = reader.run(first, stop)
                except OSError:  # what cannot be read is not whole
                    return
                for number, slot in enumerate(range(first, stop)):
                    part = data[number * size : (number + 1) * size]
                    good[slot] = records["checksum"][slot] == _checksum(part, records["box"][slot])

            for _ in pool.map(check, runs):
                pass
        return good[asked]

    def _within_shards(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        while first < stop:
            end = min(stop, (first // self.per_shard + 1) * self.per_shard)
            yield first, end
            first = end

    def _sizes(self, shard: int) -> tuple[tuple[Path, int], tuple[Path, int]]:
        count = len(self.slots_of(shard))
        return (
            (self.pixels_path(shard), count * self.slot_bytes),
            (self.records_path(shard), count * RECORD.itemsize),
        )

    def _is_there(self, shard: int) -> bool:
        return all(_size(path) == size for path, size in self._sizes(shard))

    @contextlib.contextmanager
    def writing(self) -> Iterator[SlotWriter]:
        """Open the allocated files for writing slots; on leaving, the bytes are on the disk."""
        writer = SlotWriter(self)
        try:
            yield writer
        except BaseException:
            writer.close(sync=False)  # the slots that were written count, whether or not the disk has them yet
            raise
        writer.close(sync=True)


@final
class SlotWriter:
    """Writes slots, a few shards open at a time; made by `SlotFiles.writing`."""

    def __init__(self, files: SlotFiles) -> None:
        self._files = files
        self._open: dict[int, tuple[BinaryIO, BinaryIO]] = {}

    def put(self, slot: int, pixels: np.ndarray, box: Box) -> None:
        """Write one image (uint8, the slots' shape) and then its record.

        Raises:
            OSError: The disk is full or failing.
        """
        assert pixels.shape == self._files.shape
        assert pixels.dtype == np.uint8
        data = np.ascontiguousarray(pixels).reshape(-1).data
        record = np.zeros((), dtype=RECORD)
        record["box"] = box
        record["checksum"] = _checksum(data, record["box"])
        record["filled"] = 1
        shard, place = divmod(slot, self._files.per_shard)
        pixels_file, records_file = self._opened(shard)
        # the record comes last and nothing is buffered here: a kill in between leaves the slot unfilled
        _write_at(pixels_file, place * len(data), data)
        _write_at(records_file, place * RECORD.itemsize, memoryview(record.tobytes()))

    def _opened(self, shard: int) -> tuple[BinaryIO, BinaryIO]:
        if shard not in self._open:
            while len(self._open) >= WRITING_SHARDS:
                self._close_one(next(iter(self._open)), sync=True)
            pixels_file = self._files.pixels_path(shard).open("r+b", buffering=0)
            try:
                self._open[shard] = (pixels_file, self._files.records_path(shard).open("r+b", buffering=0))
            except OSError:
                pixels_file.close()
                raise
        return self._open[shard]

    def _close_one(self, shard: int, *, sync: bool) -> None:
        with contextlib.ExitStack() as stack:
            for handle in self._open.pop(shard):
                stack.enter_context(handle)
                if sync:
                    os.fsync(handle.fileno())

    def close(self, *, sync: bool) -> None:
        """Close all files, and with `sync` wait until the disk has their bytes."""
        with contextlib.ExitStack() as stack:
            for shard in list(self._open):
                stack.callback(self._close_one, shard, sync=sync)


@final
class SlotReader:
    """Reads slots; opens a shard when it is first asked for and never writes. Threads may share one."""

    def __init__(self, files: SlotFiles) -> None:
        self._files = files
        self._open: dict[int, int] = {}
        self._lock = threading.Lock()

    def into(self, images: np.ndarray, slots: np.ndarray) -> None:
        """Fill an array with the pixels of slots.

        Args:
            images: uint8 [n, channels, height, width], contiguous; written to.
            slots: int64 [n], repeats allowed.

        Raises:
            OSError: A file is gone, too short, or cannot be read.
        """
        size, per_shard = self._files.slot_bytes, self._files.per_shard
        view = images.reshape(-1).data
        numbers = slots.tolist()
        # in file order: neighbours share pages, and a disk reads forwards
        for place in np.argsort(slots, kind="stable").tolist():
            shard, inside = divmod(numbers[place], per_shard)
            self._read(shard, inside * size, view[place * size : (place + 1) * size])

    def run(self, first: int, stop: int) -> memoryview:
        """Return the bytes of neighbouring slots of one shard.

        Raises:
            OSError: As `into`.
        """
        size = self._files.slot_bytes
        shard, inside = divmod(first, self._files.per_shard)
        view = memoryview(bytearray((stop - first) * size))
        self._read(shard, inside * size, view)
        return view

    def _read(self, shard: int, offset: int, view: memoryview) -> None:
        descriptor = self._open.get(shard)
        if descriptor is None:
            with self._lock:
                if shard not in self._open and len(self._open) < OPEN_SHARDS:
                    self._open[shard] = self._opened(shard)
                descriptor = self._open.get(shard)
        if descriptor is not None:
            _read_at(descriptor, offset, view)
            return
        # closing an older one could take it from under another thread
        descriptor = self._opened(shard)
        try:
            _read_at(descriptor, offset, view)
        finally:
            os.close(descriptor)

    def _opened(self, shard: int) -> int:
        return os.open(self._files.pixels_path(shard), os.O_RDONLY | getattr(os, "O_BINARY", 0))

    def close(self) -> None:
        """Close the files; the next reading opens them again."""
        with self._lock:
            while self._open:
                os.close(self._open.popitem()[1])

    def __del__(self) -> None:
        self.close()


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return None


def _checksum(data: bytes | memoryview, box: np.ndarray) -> int:
    return zlib.crc32(box.tobytes(), zlib.crc32(data))


def _write_at(handle: BinaryIO, offset: int, view: memoryview) -> None:
    handle.seek(offset)
    while len(view):
        view = view[handle.write(view) :]


_SEEKING = threading.Lock()


def _read_at(descriptor: int, offset: int, view: memoryview) -> None:
    while len(view):
        if hasattr(os, "preadv"):
            count = os.preadv(descriptor, [view], offset)
        else:  # Windows: a descriptor has one place, which threads must not move under each other
            with _SEEKING:
                os.lseek(descriptor, offset, os.SEEK_SET)
                part = os.read(descriptor, len(view))
            count = len(part)
            view[:count] = part
        if not count:
            raise OSError(errno.EIO, "the file ends too early")
        view, offset = view[count:], offset + count


def _claim_space(handle: BinaryIO, size: int) -> None:
    claim = getattr(os, "posix_fallocate", None)  # not on every system; writing then meets a full disk later
    if claim is None or not size:
        return
    try:
        claim(handle.fileno(), 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
