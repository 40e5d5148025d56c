"""One process at a time in a run folder, and what it says when it is stopped there.

Two trainings in one folder would each overwrite the other's state and end as neither. Whoever works in a folder
holds `FOLDER/.lock`: by a lock of the operating system, which goes with its process however that ends and does not
look at the clock. On a file system without such locks the file's being there is the lock, and what it says of host
and process tells whether a dead one has left it.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medtail.errors import MedtailError
from medtail.runs import LOCK, explain_os_error, is_alive, is_stray, sweep

_FCNTL: Any = importlib.import_module("fcntl") if os.name == "posix" else None
WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)


@contextlib.contextmanager
def hold(folder: Path | str, *, go_on: str, wanted: bool = True) -> Iterator[None]:
    """Hold a run folder while the block runs.

    What processes that were killed have left half written in it is removed first. A folder that is made for this and
    is still empty at the end goes again.

    Args:
        folder: The folder; made if missing. Where a file is in its place nothing is done: who uses it refuses it.
        go_on: How a work that is interrupted here goes on, in the words after "Go on with"; told with the interrupt,
            and where the disk is full.
        wanted: Whether this process is the one to hold it; of several that work together only the first does.

    Raises:
        MedtailError: Another process holds it, who is named; or it cannot be written.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()) / "run"
        >>> with hold(folder, go_on="`medtail train --resume run`"):
        ...     [path.name for path in folder.iterdir()]
        ['.lock']
        >>> folder.exists()
        False
    """
    folder = Path(folder)
    if not wanted or (folder.exists() and not folder.is_dir()):
        yield
        return
    is_ours = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _take(folder / LOCK)
    except OSError as error:
        raise explain_os_error(folder, error) from error
    try:
        _tidy(folder)
        yield
    except (KeyboardInterrupt, MedtailError) as error:
        if isinstance(error, KeyboardInterrupt) or isinstance(error.__cause__, OSError):
            error.add_note(f"Go on with {go_on}.")
        raise
    finally:
        _give_back(folder / LOCK, handle)
        if is_ours:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _tidy(folder: Path) -> None:
    """Remove what killed processes have left half written, where the folder is a run's or holds nothing else."""
    inside = {path.name for path in folder.iterdir()} - {LOCK}
    if inside & {"config.yaml", "plan.json"} or all(map(is_stray, inside)):
        sweep(folder, alone=True)


def born_at(pid: int) -> str:
    """Return when a process began, in the system's own count since it started; "" where it does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        # the name in brackets may hold spaces and brackets; the fields after it are fixed, this is the 22nd of all
        after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
        return f"{boot}:{after_name.split()[19]}"
    except (OSError, IndexError):
        return ""


def is_gone(pid: int, *, born: str, host: str) -> bool:
    """Return whether a process is known not to be there any more; False for other machines, of which nothing is known.

    Args:
        pid: Its number.
        born: What `born_at` said of it; "" if that is not known. Tells it from a later one with its number.
        host: Its machine.
    """
    if host != socket.gethostname():
        return False
    if not is_alive(pid):
        return True
    now = born_at(pid)
    return bool(now and born and now != born)


def _take(path: Path) -> int:
    """Return the open lock file, which is ours now."""
    while True:
        handle, is_new = _open(path)
        try:
            has_lock = _lock(handle)
            found = {} if is_new else _read(handle)
            if has_lock is False:
                _refuse(path, found)
            if has_lock is None and not is_new:  # its being there is the lock
                if not found or not is_gone(int(found["pid"]), born=str(found["born"]), host=str(found["host"])):
                    _refuse(path, found, advice=f" If that process is not there any more, remove {path}.")
                path.unlink(missing_ok=True)
            if not _is_still(path, handle):  # the holder before has just removed it
                os.close(handle)
                continue
            pid = os.getpid()
            os.ftruncate(handle, 0)
            os.lseek(handle, 0, os.SEEK_SET)
            os.write(handle, json.dumps({"host": socket.gethostname(), "pid": pid, "born": born_at(pid)}).encode())
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(handle)
            raise
        return handle


def _open(path: Path) -> tuple[int, bool]:
    while True:
        with contextlib.suppress(FileExistsError):
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
        with contextlib.suppress(FileNotFoundError):  # given back in between
            return os.open(path, os.O_RDWR), False


def _lock(handle: int) -> bool | None:
    """Lock an open file; None where the file system knows no locks."""
    if _FCNTL is None:
        return None
    try:
        _FCNTL.flock(handle, _FCNTL.LOCK_EX | _FCNTL.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in WITHOUT_LOCKS:
            return None
        raise
    return True


def _is_still(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _read(handle: int) -> dict[str, Any]:
    """Return who holds a lock file; nothing where it does not say all."""
    try:
        value = json.loads(os.read(handle, 4096))
        return {"host": str(value["host"]), "pid": int(value["pid"]), "born": str(value["born"])}
    except (ValueError, KeyError, TypeError):
        return {}


def _refuse(path: Path, found: dict[str, Any], *, advice: str = "") -> None:
    who = f"process {found['pid']} on {found['host']}" if found else "another process"
    raise MedtailError(
        f"{path.parent}: {who} is at work in this folder; expected nobody. Wait for it, stop it, or use another"
        f" folder.{advice}"
    )


def _give_back(path: Path, handle: int) -> None:
    # removed while it is still locked: whoever has it open already sees that it is not the folder's lock any more
    with contextlib.suppress(OSError):
        if _is_still(path, handle):
            path.unlink()
    os.close(handle)
