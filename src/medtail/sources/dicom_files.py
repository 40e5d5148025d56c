"""The one door through which DICOM files reach pydicom: lengths that lie take no memory, bombs are found unpacked.

pydicom asks the file for as many bytes as an element claims to have, up to 4 GB, and unpacks a deflated file, one
compressed stream behind its first group, in one piece. Here a file is mapped, so that no more can be asked of it than
it holds, and a deflated one is first unpacked in blocks that are thrown away, only to count. Other files are looked at
no further than their first group.
"""

from __future__ import annotations

import contextlib
import mmap
import warnings
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from medtail.errors import MedtailError

MAX_BYTES = 2**30
"""A minute of ultrasound, 1,800 colour frames of 800 x 600, is 2.6 GB and never sent deflated; an X-ray is 20 MB."""
_BLOCK = 2**20


@contextlib.contextmanager
def dicom_stream(source: Path | str | bytes, *, where: str, max_bytes: int | None = None) -> Iterator[Any]:
    """Open a file for pydicom, refusing a deflated one that unpacks to too much. Damaged files are left to pydicom.

    Args:
        source: The file, or its bytes.
        where: What to call it in messages.
        max_bytes: The most that may be behind the first group of a deflated file, unpacked; `MAX_BYTES` if None.

    Yields:
        A seekable binary stream at its start.

    Raises:
        MedtailError: There is more.
        OSError: The file cannot be opened.

    Example:
        >>> with dicom_stream(b"GIF89a", where="a.dcm") as stream:
        ...     stream.read(3)
        b'GIF'
    """
    limit = MAX_BYTES if max_bytes is None else max_bytes
    with contextlib.ExitStack() as stack:
        if isinstance(source, bytes):
            stream: Any = BytesIO(source)
        else:
            file = stack.enter_context(Path(source).open("rb"))
            is_empty = not file.seek(0, 2)  # nothing can be mapped then
            stream = BytesIO() if is_empty else stack.enter_context(_mapped(file))
        _check(stream, where=where, max_bytes=limit)
        stream.seek(0)
        yield stream


def _mapped(file: Any) -> mmap.mmap:
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _check(stream: Any, *, where: str, max_bytes: int) -> None:
    if not _is_deflated(stream):
        return
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    total = 0
    try:
        while block := unpacker.unconsumed_tail or stream.read(_BLOCK):
            total += len(unpacker.decompress(block, _BLOCK))
            if total > max_bytes:
                raise MedtailError(
                    f"{where}: deflated DICOM that unpacks to more than {max_bytes >> 20:,} MiB; expected an image."
                )
            if unpacker.eof:
                return
    except zlib.error:  # damaged: pydicom says so
        return


def _is_deflated(stream: Any) -> bool:
    """Read the first group as pydicom does, which is never compressed, and leave the stream behind it."""
    from pydicom.filereader import read_dataset, read_preamble
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd values: who reads the whole file warns of them
            read_preamble(stream, force=True)
            group = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
            return bool(group.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian)
    except MemoryError:
        raise
    except Exception:  # damaged: pydicom says so
        return False
