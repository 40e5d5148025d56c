"""SHA-256 of image files, read once and remembered while a file's path, size and time of change stay the same.

The memory is a small SQLite file in the cache. It only saves time: without it, or with a damaged one, files are
read again.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from medtail.runs import digest_file

SETTLED_NS = 2_000_000_000
"""A file changed less than this before it was read may change again within the clock's tick; it is not remembered."""

Known = dict[str, tuple[int, int, str]]


def content_digests(paths: Sequence[Path], *, memory: Path | None = None, workers: int = 1) -> list[str | OSError]:
    """Digest the content of files.

    Args:
        paths: Files, in any order, repeats allowed.
        memory: The SQLite file to remember digests in, or None to read everything.
        workers: Threads reading.

    Returns:
        For each path 64 hex digits, or the error met on reading it.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a"
        >>> _ = path.write_bytes(b"")
        >>> content_digests([path])[0][:8]
        'e3b0c442'
    """
    absolute = [os.path.abspath(path) for path in paths]
    wanted = list(dict.fromkeys(absolute))
    known = _recall(memory, wanted)
    fresh: Known = {}

    def digest(path: str) -> str | OSError:
        try:
            status = Path(path).stat()
            if known.get(path, (None, None, ""))[:2] == (status.st_size, status.st_mtime_ns):
                return known[path][2]
            read_ns = time.time_ns()
            value = digest_file(path)
        except OSError as error:
            return error
        if read_ns - status.st_mtime_ns > SETTLED_NS:
            fresh[path] = (status.st_size, status.st_mtime_ns, value)
        return value

    with ThreadPoolExecutor(max(1, workers)) as pool:
        results = dict(zip(wanted, pool.map(digest, wanted), strict=True))
    _remember(memory, fresh)
    return [results[path] for path in absolute]


@contextlib.contextmanager
def _opened(memory: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(memory, timeout=30)) as connection, connection:
        yield connection


def _recall(memory: Path | None, paths: Sequence[str]) -> Known:
    if memory is None or not memory.exists():
        return {}
    wanted = set(paths)
    try:
        with _opened(memory) as connection:
            rows = connection.execute("SELECT path, size, mtime_ns, sha FROM content")
            return {path: (size, mtime_ns, sha) for path, size, mtime_ns, sha in rows if path in wanted}
    except sqlite3.OperationalError:  # locked by another process for long, or not made yet
        return {}
    except sqlite3.DatabaseError:  # damaged
        with contextlib.suppress(OSError):
            memory.unlink()
        return {}


def _remember(memory: Path | None, fresh: Known) -> None:
    if memory is None or not fresh:
        return
    rows = [(path, *entry) for path, entry in fresh.items()]
    # a full disk or a locked file costs time on the next call, never correctness
    with contextlib.suppress(sqlite3.Error, OSError), _opened(memory) as connection:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS content(path TEXT PRIMARY KEY, size INT, mtime_ns INT, sha TEXT)"
        )
        connection.executemany("INSERT OR REPLACE INTO content VALUES (?, ?, ?, ?)", rows)
