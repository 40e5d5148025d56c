"""Reading files that are named by URLs, through fsspec: object stores, web servers, memory.

Reading only: nothing is written, listed further than asked, or kept on the local disk. What fails for a moment is tried
again, up to a limit of time; a server that does not answer for several files is given up for all of them, so that a
machine without a network says so in seconds and not after hours. Keys and settings are fsspec's own (environment,
`~/.config/fsspec`), packages for a protocol (`s3fs`, `gcsfs`, `adlfs`, `paramiko`) the user's.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar, final

from medtail.errors import MedtailError
from medtail.tables.places import Remote

ATTEMPTS = 4
FIRST_PAUSE_S = 0.5
"""Pause before the second attempt; each further one is twice as long."""
TIME_LIMIT_S = 300.0
"""Longest time for one file with all its attempts."""
SILENCE_S = 30.0
"""Longest wait for a web server's next bytes."""
LOST_FILES = 8
"""Files in a row that fail after all attempts before their server is given up."""
MAX_BYTES = 1 << 30
"""Larger files are refused: they would have to be held in memory."""
AT_ONCE = 16
LISTED_FROM = 200
"""From so many files in a folder of an object store, its list is asked for instead of each file."""
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs",
             "abfss": "adlfs", "sftp": "paramiko", "http": "aiohttp", "https": "aiohttp"}  # fmt: skip
_VERSIONS = ("ETag", "etag", "Content-MD5", "md5Hash", "content_md5", "generation", "VersionId", "LastModified",
             "last_modified", "Last-Modified", "mtime", "created")  # fmt: skip

T = TypeVar("T")


@final
@dataclass(frozen=True)
class Known:
    """What a server tells about a file without sending it.

    Attributes:
        size: Bytes; None where it does not say.
        version: Changes when the file does (its ETag, checksum or time of change); "" where it does not say.
    """

    size: int | None
    version: str


@final
class Servers:
    """Reads remote files, and remembers which servers have stopped answering. Threads may share one."""

    def __init__(self) -> None:
        self._lost: dict[str, int] = {}
        self._lock = threading.Lock()

    def fetch(self, remote: Remote) -> bytes:
        """Return a file's bytes.

        Raises:
            MedtailError: The package for its protocol is not installed.
            FileNotFoundError: There is no such file.
            PermissionError: The server refuses it.
            ConnectionError: The server could not be reached, or failed, after all attempts.
            OSError: It is larger than `MAX_BYTES`.
        """
        system, path = _system(remote)
        return self._patiently(remote, lambda: _download(system, path, remote))

    def digest(self, remote: Remote) -> str:
        """Return the SHA-256 of a file's bytes, as `runs.digest_file` does for a file on the disk.

        Raises:
            OSError: As `fetch` raises.
        """
        return hashlib.sha256(self.fetch(remote)).hexdigest()

    def look_up(self, remotes: Sequence[Remote]) -> list[Known | OSError]:
        """Ask for each file's size and version, without its bytes.

        Args:
            remotes: Files, repeats allowed.

        Returns:
            What is known of each, or why nothing is (errors as `fetch` raises).

        Raises:
            MedtailError: The package for a protocol is not installed.
        """
        distinct = list(dict.fromkeys(remotes))
        for remote in {remote.protocol: remote for remote in distinct}.values():
            _system(remote)
        folders: dict[str, list[Remote]] = {}
        for remote in distinct:
            folders.setdefault(remote.url.rpartition("/")[0], []).append(remote)
        found: dict[Remote, Known | OSError] = {}
        single: list[Remote] = []
        for group in folders.values():
            listed = _can_list(group) and self._listed(group, found)
            single += [] if listed else group

        def one(remote: Remote) -> Known | OSError:
            try:
                system, path = _system(remote)
                return self._patiently(remote, lambda: _known(_web_info(system, path)))
            except OSError as error:
                return error

        with ThreadPoolExecutor(AT_ONCE) as pool:
            found.update(zip(single, pool.map(one, single), strict=True))
        return [found[remote] for remote in remotes]

    def _listed(self, group: Sequence[Remote], found: dict[Remote, Known | OSError]) -> bool:
        """Look files of one folder up in its list; False where there is none."""
        system, path = _system(group[0])
        try:
            entries = self._patiently(group[0], lambda: system.ls(path.rpartition("/")[0], detail=True))
        except OSError:  # no such folder, or it may not be listed: each file then tells
            return False
        known = {str(entry["name"]): _known(entry) for entry in entries if entry.get("type") == "file"}
        for remote in group:
            missing = FileNotFoundError(f"no such file: {remote}")
            found[remote] = known.get(_system(remote)[1], missing)
        return True

    def _patiently(self, remote: Remote, action: Callable[[], T]) -> T:
        began, pause = time.monotonic(), FIRST_PAUSE_S
        for attempt in range(1, ATTEMPTS + 1):
            with self._lock:
                if self._lost.get(remote.host, 0) >= LOST_FILES:
                    raise ConnectionError(f"{remote.host} does not answer; given up after {LOST_FILES} files in a row")
            try:
                result = action()
            except Exception as error:  # each protocol's library raises its own
                lasting = _lasting(error, remote)
                if lasting is not None:
                    self._count(remote, answered=True)
                    raise lasting from error
                if attempt == ATTEMPTS or time.monotonic() - began + pause > TIME_LIMIT_S:
                    self._count(remote, answered=False)
                    told = _told(error)
                    raise ConnectionError(
                        f"{remote.host} cannot be reached or fails ({told}), {attempt} attempts; is there a network?"
                    ) from error
            else:
                self._count(remote, answered=True)
                return result
            time.sleep(pause)
            pause *= 2
        raise AssertionError("the last attempt returns or raises")

    def _count(self, remote: Remote, *, answered: bool) -> None:
        with self._lock:
            self._lost[remote.host] = 0 if answered else self._lost.get(remote.host, 0) + 1


def _system(remote: Remote) -> tuple[Any, str]:
    """Return the file system of a URL and the path inside it."""
    try:
        server = remote.url.split("://", 1)[1].split("/", 1)[0]
        return _cached_system(remote.protocol, server, os.getpid()), _inside(remote)
    except ImportError as error:
        package = _PACKAGES.get(remote.protocol, "fsspec")
        raise MedtailError(
            f"{remote}: reading {remote.protocol}:// needs the package {package!r}, which is not installed ({error})."
            f" Install it with `pip install {package}`, or copy the images to a disk."
        ) from error


def _inside(remote: Remote) -> str:
    from fsspec.core import split_protocol
    from fsspec.registry import get_filesystem_class

    kind: Any = get_filesystem_class(split_protocol(remote.url)[0].lower())
    return str(kind._strip_protocol(remote.protocol + "://" + remote.url.split("://", 1)[1]))


@lru_cache(maxsize=64)  # fsspec's own keeps one a thread, each with connections of its own
def _cached_system(protocol: str, server: str, process: int) -> Any:
    from fsspec.core import url_to_fs

    del process  # a forked process must not use its parent's connections
    options: dict[str, Any] = {}
    if protocol in ("http", "https"):
        import aiohttp
        from fsspec.config import conf

        timeout = aiohttp.ClientTimeout(total=TIME_LIMIT_S, sock_connect=SILENCE_S / 2, sock_read=SILENCE_S)
        own = conf.get(protocol, {}).get("client_kwargs", {})
        # trust_env: the proxy that everything else on this machine uses
        options = {"client_kwargs": {"trust_env": True, **own, "timeout": timeout}}
    elif protocol != "memory":
        options = {"use_listings_cache": False}
    return url_to_fs(f"{protocol}://{server}/", **options)[0]


def _can_list(group: Sequence[Remote]) -> bool:
    return len(group) >= LISTED_FROM and group[0].protocol not in ("http", "https")


def _web_info(system: Any, path: str) -> dict[str, Any]:
    try:
        return dict(system.info(path))
    except FileNotFoundError as error:
        # fsspec's web client calls every failure a missing file; the real one is its cause
        if isinstance(error.__cause__, Exception):
            raise error.__cause__ from None
        raise


def _known(entry: dict[str, Any]) -> Known:
    version = next((f"{name}:{entry[name]}" for name in _VERSIONS if entry.get(name)), "")
    return Known(None if entry.get("size") is None else int(entry["size"]), version)


def _download(system: Any, path: str, remote: Remote) -> bytes:
    if remote.protocol not in ("http", "https"):
        size = system.info(path).get("size")
        if size is not None and int(size) > MAX_BYTES:
            raise _too_large(remote)
        return bytes(system.cat_file(path))
    # a web server may send without end, whatever size it has told
    parts, total = [], 0
    with system.open(path, "rb", block_size=0, size=1) as stream:
        while part := stream.read(1 << 20):
            parts.append(part)
            total += len(part)
            if total > MAX_BYTES:
                raise _too_large(remote)
    return b"".join(parts)


def _too_large(remote: Remote) -> OSError:
    return _TooLargeError(f"{remote}: larger than {MAX_BYTES:,} bytes; expected an image")


@final
class _TooLargeError(OSError):
    """Trying again would not make it smaller."""


def _lasting(error: Exception, remote: Remote) -> OSError | None:
    """Return the error to raise if another attempt would meet it again; None if it may pass."""
    status = getattr(error, "status", None)
    if isinstance(error, _TooLargeError):
        return error
    if isinstance(error, FileNotFoundError | IsADirectoryError) or status in (404, 410):
        return FileNotFoundError(f"no such file: {remote}")
    if isinstance(error, PermissionError) or status in (401, 403, 407) or "Credentials" in type(error).__name__:
        return PermissionError(f"{remote.host} refuses it ({_told(error)}); check the keys in your environment")
    if isinstance(status, int) and 400 <= status < 500 and status not in (408, 425, 429):
        return OSError(f"{remote.host} answers {status}")
    return None


def _told(error: Exception) -> str:
    """Return an error's first line, without the URL it may hold."""
    told = (str(error) or type(error).__name__).splitlines()[0]
    return type(error).__name__ if "://" in told else told[:120]
