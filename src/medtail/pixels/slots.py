"""The pixel store on disk: a file of equal slots, one an image, each with its own checksum.

Every state of the two files is a valid one: a slot counts only if its record says filled *and* its bytes match the
record's checksum. So a build that was killed is simply continued, a damaged or truncated file is mended by refilling
the slots that fail, and nothing half-written is ever believed. What the slots mean is `store`'s business.
"""

from __future__ import annotations

import contextlib
import errno
import os
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, final

import numpy as np

from medtail.pixels.letterbox import Box

RECORD = np.dtype([("checksum", "<u4"), ("box", "<i2", (4,)), ("filled", "u1")])
PIXELS_NAME = "pixels.u8"
RECORDS_NAME = "slots.bin"


@final
@dataclass(frozen=True)
class SlotWriter:
    """Writes slots into the two open files; made by `SlotFile.writing`."""

    shape: tuple[int, int, int]
    pixels_file: BinaryIO
    records_file: BinaryIO

    def put(self, slot: int, pixels: np.ndarray, box: Box) -> None:
        """Write one image (uint8, the slots' shape) and then its record.

        Raises:
            OSError: The disk is full or failing.
        """
        assert pixels.shape == self.shape
        assert pixels.dtype == np.uint8
        data = np.ascontiguousarray(pixels).tobytes()
        record = np.zeros((), dtype=RECORD)
        record["box"] = box
        record["checksum"] = _checksum(data, record["box"])
        record["filled"] = 1
        # the record comes last and nothing is buffered here: a kill in between leaves the slot unfilled
        _write_at(self.pixels_file, slot * len(data), data)
        _write_at(self.records_file, slot * RECORD.itemsize, record.tobytes())


@final
@dataclass(frozen=True)
class SlotFile:
    """A folder holding `count` slots of uint8 pixels of one shape, and a record for each."""

    folder: Path
    count: int
    shape: tuple[int, int, int]

    @property
    def pixels_path(self) -> Path:
        """The file of pixels: the slots one after the other, nothing else."""
        return self.folder / PIXELS_NAME

    @property
    def records_path(self) -> Path:
        """The file of records."""
        return self.folder / RECORDS_NAME

    @property
    def size_bytes(self) -> int:
        """Bytes of the file of pixels."""
        return self.count * int(np.prod(self.shape))

    def allocate(self) -> None:
        """Make both files with their full size, keeping what they hold.

        The space is claimed from the file system where it can be, so that a full disk shows before the work.

        Raises:
            OSError: The disk is full, or the place may not be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for path, size in ((self.pixels_path, self.size_bytes), (self.records_path, self.count * RECORD.itemsize)):
            if path.exists() and path.stat().st_size == size:
                continue
            with path.open("ab") as handle:
                handle.truncate(size)
                _claim_space(handle, size)

    def records(self) -> np.ndarray:
        """Return the records [count] (fields checksum, box, filled)."""
        return np.fromfile(self.records_path, dtype=RECORD, count=self.count)

    def pixels(self) -> np.ndarray:
        """Map the pixels read-only, uint8 [count, channels, size, size]. Costs no memory until read."""
        return np.memmap(self.pixels_path, dtype=np.uint8, mode="r", shape=(self.count, *self.shape))

    def sound(self, *, workers: int = 1) -> np.ndarray:
        """Read every slot and say which are whole.

        Args:
            workers: Threads reading and checking.

        Returns:
            Booleans [count]; all False where a file is missing or has the wrong size.
        """
        good = np.zeros(self.count, dtype=bool)
        for path, size in ((self.pixels_path, self.size_bytes), (self.records_path, self.count * RECORD.itemsize)):
            if not path.is_file() or path.stat().st_size != size:
                return good
        records, pixels = self.records(), np.asarray(self.pixels())

        def check(slots: np.ndarray) -> None:
            for slot in slots:
                good[slot] = records["checksum"][slot] == _checksum(pixels[slot].data, records["box"][slot])

        filled = np.flatnonzero(records["filled"] == 1)
        with ThreadPoolExecutor(max(1, workers)) as pool:
            list(pool.map(check, np.array_split(filled, max(1, min(workers * 4, len(filled))))))
        return good

    @contextlib.contextmanager
    def writing(self) -> Iterator[SlotWriter]:
        """Open the allocated files for writing slots; on leaving, the bytes are on the disk."""
        with (
            self.pixels_path.open("r+b", buffering=0) as pixels_file,
            self.records_path.open("r+b", buffering=0) as records_file,
        ):
            yield SlotWriter(self.shape, pixels_file, records_file)
            os.fsync(pixels_file.fileno())
            os.fsync(records_file.fileno())


def _checksum(data: bytes | memoryview, box: np.ndarray) -> int:
    return zlib.crc32(box.tobytes(), zlib.crc32(data))


def _write_at(handle: BinaryIO, offset: int, data: bytes) -> None:
    handle.seek(offset)
    view = memoryview(data)
    while len(view):
        view = view[handle.write(view) :]


def _claim_space(handle: BinaryIO, size: int) -> None:
    claim = getattr(os, "posix_fallocate", None)  # not on every system; writing then meets a full disk later
    if claim is None or not size:
        return
    try:
        claim(handle.fileno(), 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
