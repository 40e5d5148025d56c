"""The one CSV of a submission, from the file itself or from inside a zip, read as a stream and never extracted.

A zip from a stranger may lie about its sizes, name paths outside itself or hold links. Nothing of it is ever written
to disk; whatever could hurt a program that *would* extract it is refused, and all reasons are told at once.
"""

from __future__ import annotations

import gzip
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import IO

from medtail.errors import MedtailError, Problems, listing

MAX_CSV_BYTES = 512 * 2**20
"""A submission of 78,946 images and 40 classes at full precision takes about 70 MiB."""
MAX_RATIO = 200.0
"""Tables of scores shrink 2 to 10 times; a bomb a thousand times."""
RATIO_FROM_BYTES = 2**20
"""Below this size a table cannot hurt, however well it shrinks."""
MAX_ENTRIES = 20_000
IGNORED_FOLDERS = ("code", "__MACOSX")
_BLOCK = 2**20
_ZIP_MARKS = (b"PK\x03\x04", b"PK\x05\x06")
_END_MARK = b"PK\x05\x06"


def read_submission_bytes(path: Path | str, *, max_bytes: int = MAX_CSV_BYTES) -> bytes:
    """Return the bytes of a submission's CSV.

    Args:
        path: A `.csv`, or a `.zip` holding exactly one `.csv` at any depth; folders `code` and `__MACOSX` are ignored.
        max_bytes: The largest table accepted, unpacked.

    Returns:
        The CSV as it was written.

    Raises:
        MedtailError: No such file, unknown ending, or an archive that is broken or hostile: two CSVs or none, paths
            outside the archive, links, encryption, sizes that lie or explode. All reasons at once.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "scores.csv"
        >>> _ = path.write_text("dicom_id,Hernia")
        >>> read_submission_bytes(path)
        b'dicom_id,Hernia'
    """
    path = Path(path)
    _check_exists(path)
    ending = path.suffix.lower()
    if ending not in (".csv", ".zip"):
        raise MedtailError(f"{path}: unknown ending {path.suffix!r}; expected a submission as .csv or .zip.")
    try:
        with path.open("rb") as handle:
            is_zip = handle.read(4) in _ZIP_MARKS
            handle.seek(0)
            if ending == ".zip":
                if not is_zip:
                    raise MedtailError(f"{path}: is not a zip archive; expected one that holds the CSV. Is it whole?")
                return _from_zip(path, handle, max_bytes)
            if is_zip:
                raise MedtailError(f"{path}: holds a zip archive, not text; rename it to .zip.")
            return _bounded(handle, str(path), max_bytes)
    except OSError as error:
        raise MedtailError(f"{path}: cannot be read ({error.strerror or error}).") from error


def read_table_bytes(path: Path | str, *, max_bytes: int = MAX_CSV_BYTES) -> bytes:
    """Return the bytes of a label table, `.csv` or `.csv.gz`.

    Raises:
        MedtailError: No such file, unknown ending, broken, or larger than `max_bytes` unpacked.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "truth.csv.gz"
        >>> _ = path.write_bytes(gzip.compress(b"dicom_id,Hernia"))
        >>> read_table_bytes(path)
        b'dicom_id,Hernia'
    """
    path = Path(path)
    _check_exists(path)
    name = path.name.lower()
    if not name.endswith((".csv", ".csv.gz")):
        raise MedtailError(f"{path}: unknown ending {path.suffix!r}; expected a table as .csv or .csv.gz.")
    try:
        if name.endswith(".gz"):
            with gzip.open(path) as unpacked:
                return _bounded(unpacked, str(path), max_bytes)
        with path.open("rb") as handle:
            return _bounded(handle, str(path), max_bytes)
    except (OSError, EOFError, zlib.error) as error:
        raise MedtailError(f"{path}: cannot be read ({error}). Is the file whole?") from error


def _check_exists(path: Path) -> None:
    if os.path.isdir(path):  # noqa: PTH112 - never raises, whatever the name
        raise MedtailError(f"{path}: is a folder; expected a file.")
    if not os.path.exists(path):  # noqa: PTH110
        raise MedtailError(f"{path}: no such file.")


def _bounded(handle: IO[bytes] | gzip.GzipFile, where: str, limit: int) -> bytes:
    """Read to the end, but never more than the limit."""
    blocks: list[bytes] = []
    total = 0
    while block := handle.read(_BLOCK):
        total += len(block)
        if total > limit:
            raise MedtailError(f"{where}: larger than {_size(limit)}; expected a table of scores. Is it one?")
        blocks.append(block)
    return b"".join(blocks)


def _from_zip(path: Path, handle: IO[bytes], max_bytes: int) -> bytes:
    _check_directory(path, handle)
    try:
        with zipfile.ZipFile(handle) as archive:
            entry = _the_csv(path, archive, max_bytes)
            return _unpacked(path, archive, entry, max_bytes)
    except MedtailError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, struct.error, ValueError, OverflowError) as error:
        raise MedtailError(f"{path}: cannot be read as a zip ({error}). Make it again.") from error


def _check_directory(path: Path, handle: IO[bytes]) -> None:
    """Refuse a list of contents too long to be one of a submission, before anything parses it."""
    end = handle.seek(0, os.SEEK_END)
    handle.seek(max(0, end - 65_557))  # the record at the end and the longest comment after it
    tail = handle.read()
    at = tail.rfind(_END_MARK)
    handle.seek(0)
    if at < 0 or len(tail) < at + 22:
        raise MedtailError(f"{path}: cannot be read as a zip (its end is missing). Is the file whole?")
    entries, size = struct.unpack_from("<HI", tail, at + 10)
    if entries > MAX_ENTRIES or size > MAX_ENTRIES * 1024:
        raise MedtailError(
            f"{path}: lists {entries:,} entries in {_size(size)}; expected at most {MAX_ENTRIES:,}. Leave out of the"
            " zip what the organisers do not need."
        )


def _the_csv(path: Path, archive: zipfile.ZipFile, max_bytes: int) -> zipfile.ZipInfo:
    problems = Problems(str(path))
    entries = archive.infolist()
    if len(entries) > MAX_ENTRIES:
        problems.add(f"found {len(entries):,} entries; expected at most {MAX_ENTRIES:,}.")
    outside = [entry for entry in entries if _leads_outside(entry)]
    if outside:
        problems.add(f"{_named(outside)}: a path outside the archive; expected paths inside it. Make the zip again.")
    links = [entry for entry in entries if _is_link(entry)]
    if links:
        problems.add(f"{_named(links)}: a link, not a file; expected plain files. Zip what it points to.")
    locked = [entry for entry in entries if entry.flag_bits & 0x1]
    if locked:
        problems.add(f"{_named(locked)}: encrypted; expected no password.")
    tables = [entry for entry in entries if _is_submission_table(entry)]
    if not tables:
        held = [entry.filename for entry in entries if not entry.is_dir()]
        problems.add(
            f"holds no CSV outside {' and '.join(f'{name}/' for name in IGNORED_FOLDERS)}; expected exactly one."
            f" Found: {listing(held) or 'nothing'}."
        )
    elif len(tables) > 1:
        problems.add(f"holds {len(tables)} CSVs ({_named(tables)}); expected exactly one.")
    for entry in tables:
        _check_sizes(entry, max_bytes, problems)
    problems.raise_if_any()
    return tables[0]


def _check_sizes(entry: zipfile.ZipInfo, max_bytes: int, problems: Problems) -> None:
    name = repr(entry.filename)
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        problems.add(f"{name}: packed by method {entry.compress_type}; expected deflate. Make it with an ordinary zip.")
    if entry.file_size > max_bytes:
        problems.add(f"{name}: {_size(entry.file_size)} unpacked; expected at most {_size(max_bytes)}.")
    ratio = entry.file_size / max(entry.compress_size, 1)
    if entry.file_size > RATIO_FROM_BYTES and ratio > MAX_RATIO:
        problems.add(f"{name}: unpacks {ratio:,.0f}-fold; expected at most {MAX_RATIO:.0f}. A zip bomb?")


def _unpacked(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, max_bytes: int) -> bytes:
    """Unpack in memory, in blocks: what the archive declares is no promise."""
    where = f"{path}, {entry.filename!r}"
    with archive.open(entry) as stream:
        content = _bounded(stream, where, max_bytes)
    if len(content) != entry.file_size:
        raise MedtailError(
            f"{where}: {len(content):,} bytes unpacked, {entry.file_size:,} declared; the archive is broken."
        )
    return content


def _is_submission_table(entry: zipfile.ZipInfo) -> bool:
    parts = PurePosixPath(entry.filename).parts
    if entry.is_dir() or not parts or set(parts[:-1]) & {*IGNORED_FOLDERS}:
        return False
    return parts[-1].lower().endswith(".csv") and not parts[-1].startswith("._")


def _leads_outside(entry: zipfile.ZipInfo) -> bool:
    # orig_filename: what the archive says before zipfile cuts it at a zero byte
    name = entry.orig_filename.replace("\\", "/")
    drive = len(name) > 1 and name[1] == ":"
    return name.startswith("/") or drive or "\0" in name or ".." in name.split("/")


def _is_link(entry: zipfile.ZipInfo) -> bool:
    mode = entry.external_attr >> 16
    return bool(mode) and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_IFMT(mode) == 0)


def _named(entries: Iterable[zipfile.ZipInfo]) -> str:
    return listing([repr(entry.filename) for entry in entries])


def _size(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB" if count >= 2**20 else f"{count:,} bytes"
