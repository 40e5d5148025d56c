"""SHA-256 of image files, read once and remembered while a file's path, size and time of change stay the same.

A file behind a URL is remembered while its size and the version that its server tells stay the same.

The memory is a small SQLite file in the cache. It only saves time: without it, or with a damaged one, files are
read again.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from medtail.runs import digest_bytes, digest_file
from medtail.tables.places import Place, Remote
from medtail.tables.remote import AT_ONCE, Servers
from medtail.tables.remote import Known as KnownFile

SETTLED_NS = 2_000_000_000
"""A file changed less than this before it was read may change again within the clock's tick; it is not remembered."""

State = tuple[int | None, int | str]
"""Size, and time of change in ns or, for what is behind a URL, the version its server tells."""
Known = dict[str, tuple[State, str]]


def content_digests(paths: Sequence[Place], *, memory: Path | None = None, workers: int = 1) -> list[str | OSError]:
    """Digest the content of files.

    Args:
        paths: Files, on disk or behind URLs, in any order, repeats allowed.
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
    keys = [_key(path) for path in paths]
    wanted = dict(zip(keys, paths, strict=True))
    known = _recall(memory, wanted)
    servers = Servers()
    remotes = {key: path for key, path in wanted.items() if isinstance(path, Remote)}
    told = dict(zip(remotes, servers.look_up(list(remotes.values())), strict=True)) if remotes else {}
    fresh: Known = {}

    def digest(key: str) -> str | OSError:
        path = wanted[key]
        try:
            state, settled = _told_state(told[key]) if isinstance(path, Remote) else _file_state(key)
            if key in known and known[key][0] == state and settled is not None:
                return known[key][1]
            read_ns = time.time_ns()
            value = servers.digest(path) if isinstance(path, Remote) else digest_file(key)
        except OSError as error:
            return error
        if settled is not None and read_ns > settled:
            fresh[key] = (state, value)
        return value

    with ThreadPoolExecutor(max(1, workers if not remotes else max(workers, AT_ONCE))) as pool:
        results = dict(zip(wanted, pool.map(digest, wanted), strict=True))
    _remember(memory, fresh)
    return [results[key] for key in keys]


def _key(path: Place) -> str:
    # a URL may hold a signature, which is nobody's to keep
    return f"url:{digest_bytes(path.url.encode())}" if isinstance(path, Remote) else os.path.abspath(path)


def _file_state(path: str) -> tuple[State, int | None]:
    """Return a file's state, and the time in ns from which on it is to be trusted."""
    status = Path(path).stat()
    return (status.st_size, status.st_mtime_ns), status.st_mtime_ns + SETTLED_NS


def _told_state(known: KnownFile | OSError) -> tuple[State, int | None]:
    if isinstance(known, OSError):
        raise known
    return (known.size, known.version), 0 if known.version else None


@contextlib.contextmanager
def _opened(memory: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(memory, timeout=30)) as connection, connection:
        yield connection


def _recall(memory: Path | None, wanted: Collection[str]) -> Known:
    if memory is None or not memory.exists():
        return {}
    try:
        with _opened(memory) as connection:
            rows = connection.execute("SELECT path, size, mtime_ns, sha FROM content")
            return {path: ((size, changed), sha) for path, size, changed, sha in rows if path in wanted}
    except sqlite3.OperationalError:  # locked by another process for long, or not made yet
        return {}
    except sqlite3.DatabaseError:  # damaged
        with contextlib.suppress(OSError):
            memory.unlink()
        return {}


def _remember(memory: Path | None, fresh: Known) -> None:
    if memory is None or not fresh:
        return
    rows = [(path, *state, sha) for path, (state, sha) in fresh.items()]
    # a full disk or a locked file costs time on the next call, never correctness
    with contextlib.suppress(sqlite3.Error, OSError), _opened(memory) as connection:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS content(path TEXT PRIMARY KEY, size INT, mtime_ns INT, sha TEXT)"
        )
        connection.executemany("INSERT OR REPLACE INTO content VALUES (?, ?, ?, ?)", rows)
