"""Writing to disk without ever leaving half a file: atomic writes, output folders, digests, versions.

A run folder holds what a verb made and what is needed to make it again. Files are written under a temporary
name beside their target and renamed at the end; a full disk or a kill leaves the old state, never half the new.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import platform
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medtail.errors import MedtailError, UsageError

LOCK = ".lock"
"""Name of the file by which one process holds a run folder (`medtail.locks`)."""
_STRAY = re.compile(r"\..*\.tmp-([0-9a-f]{4})([0-9a-f]{8})[0-9a-f]{8}(\..*)?", re.DOTALL)


@contextlib.contextmanager
def atomic_path(target: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside the target; rename it there if the block succeeds.

    Args:
        target: The final file. Its folder is made if missing.

    Yields:
        A path with the target's suffix to write to.

    Raises:
        MedtailError: The disk is full, or the place may not be written. The temporary file is gone, and
            what stood at the target is untouched.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with atomic_path(folder / "a.txt") as path:
        ...     _ = path.write_text("whole")
        >>> [item.name for item in folder.iterdir()]
        ['a.txt']
    """
    target = Path(target)
    temporary = temporary_beside(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if temporary.is_file():
            with temporary.open("rb") as handle:
                os.fsync(handle.fileno())
        temporary.replace(target)
    except OSError as error:
        raise explain_os_error(target, error) from error
    finally:
        if os.path.isdir(temporary):  # noqa: PTH112 - unlike Path, never raises, which would hide the mistake
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                temporary.unlink()


def temporary_beside(target: Path) -> Path:
    """Return a hidden name beside a file for writing it, which says who writes: what a kill leaves can be told."""
    # four digits of the machine, eight of the process, eight by chance
    mark = f"{_machine()}{os.getpid() & 0xFFFFFFFF:08x}{uuid.uuid4().hex[:8]}"
    return target.with_name(f".{target.stem}.tmp-{mark}{target.suffix}")


def _machine() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:4]


def is_stray(name: str) -> bool:
    """Say whether a file name is that of a temporary file of ours.

    Example:
        >>> is_stray(temporary_beside(Path("a.csv")).name), is_stray("a.csv"), is_stray(".tmp-cache")
        (True, False, False)
    """
    return _STRAY.fullmatch(name) is not None


def sweep(folder: Path, *, alone: bool) -> int:
    """Remove the temporary files that processes which were killed have left in a folder and below.

    Args:
        folder: Where to look; one that is not there holds nothing.
        alone: Nobody else writes there now, so every temporary file is a left one. Otherwise only those are removed
            whose process was one of this machine and is not there any more.

    Returns:
        How many were removed.
    """
    count = 0
    for path in sorted(folder.rglob(".*.tmp-*")):
        found = _STRAY.fullmatch(path.name)
        if found is None or not (alone or (found[1] == _machine() and not is_alive(int(found[2], 16)))):
            continue
        with contextlib.suppress(OSError):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            count += 1
    return count


def is_alive(pid: int) -> bool:
    """Say whether a process of this machine is there and has not ended; True where the system does not tell.

    Example:
        >>> is_alive(os.getpid())
        True
    """
    if os.name != "posix":  # elsewhere asking by a signal would end it
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is there, and another user's
        return True
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return True
    return state not in ("Z", "X")  # ended, and only not yet counted by its parent


def explain_os_error(target: Path, error: OSError) -> MedtailError:
    """Return what a person should know and do where the file system refuses to write to a place."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return MedtailError(
            f"{target}: the disk is full; nothing was written there. Free some space or write elsewhere with --out."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return MedtailError(f"{target}: may not be written ({error.strerror}). Choose another place with --out.")
    return MedtailError(f"{target}: cannot be written ({error}). Choose another place with --out.")


def write_text(target: Path | str, text: str) -> None:
    """Write a UTF-8 text file atomically (see `atomic_path` for what it raises)."""
    with atomic_path(target) as path:
        path.write_text(text, encoding="utf-8", newline="\n")


def copy_file(source: Path, target: Path) -> None:
    """Copy a file's content atomically (see `atomic_path` for what it raises)."""
    with atomic_path(target) as path:
        shutil.copyfile(source, path)


def write_json(target: Path | str, value: Mapping[str, Any]) -> None:
    """Write strict JSON atomically: sorted keys, no NaN."""
    write_text(target, json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path | str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        MedtailError: The file is missing, is not JSON or is not an object.
    """
    path = Path(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MedtailError(f"{path}: no such file.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise MedtailError(f"{path}: is not readable JSON ({error}).") from error
    if not isinstance(value, dict):
        raise MedtailError(f"{path}: found {type(value).__name__}; expected a JSON object.")
    return value


def new_folder(out: Path | str) -> Path:
    """Make an output folder, refusing one that already holds something.

    What a process that was killed before its first file was whole has left there is removed, and does not count.

    Args:
        out: The folder a verb was told to write to.

    Returns:
        The folder, existing and empty.

    Raises:
        UsageError: It holds files, or is a file.
        MedtailError: It cannot be made.
    """
    out = Path(out)
    try:
        if out.exists() and not out.is_dir():
            raise UsageError(f"--out {out}: is a file; give a folder that is new or empty.")
        inside = [item.name for item in out.iterdir() if item.name != LOCK] if out.is_dir() else []
        if inside and all(map(is_stray, inside)):
            sweep(out, alone=False)
            inside = [item.name for item in out.iterdir() if item.name != LOCK]
        if inside:
            raise UsageError(
                f"--out {out}: is not empty; medtail never overwrites. Give a new folder or remove this one."
            )
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explain_os_error(out, error) from error
    return out


def new_file(out: Path | str) -> Path:
    """Check that an output file does not exist yet.

    Returns:
        The path, free to be written.

    Raises:
        UsageError: It exists.
    """
    out = Path(out)
    if os.path.lexists(out):
        raise UsageError(f"--out {out}: exists already; medtail never overwrites. Give a new name or remove it.")
    return out


def digest_bytes(*parts: bytes) -> str:
    """Return the SHA-256 of the parts, each preceded by its length, as 64 hex digits.

    Example:
        >>> digest_bytes(b"ab", b"c") == digest_bytes(b"a", b"bc")
        False
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()


def digest_file(path: Path | str) -> str:
    """Return the SHA-256 of a file's bytes as 64 hex digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def digest_json(value: Mapping[str, Any]) -> str:
    """Return the digest of a JSON object, whatever the order of its keys.

    Example:
        >>> digest_json({"a": 1, "b": 2}) == digest_json({"b": 2, "a": 1})
        True
    """
    return digest_bytes(json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False).encode())


VERSIONED = ("torch", "lightning", "transformers", "kornia", "numpy", "pandas", "pyarrow", "pillow", "pydicom",
             "numba", "scikit-learn")  # fmt: skip


def versions() -> dict[str, str]:
    """Return the versions of medtail, Python and the libraries that shape results. Imports none of them."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in ("medtail", *VERSIONED):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
