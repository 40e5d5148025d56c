"""Claims: who is at work on a cell, so that several commands, on several machines, share one folder.

A claim is a file made whole in one step (a hard link, which fails where the name is taken), naming host, process and
when the process began. A dead process of this host loses its claim to whoever comes next; of another host nothing can
be known, so its claim stays until somebody removes the file.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from filelock import FileLock

from medtail.errors import MedtailError
from medtail.locks import born_at, is_gone
from medtail.runs import temporary_beside

HALF_MADE_S = 60.0
"""A claim that cannot be read is only left alone for this long: it may be arriving over the network."""


@final
@dataclass(frozen=True)
class Claim:
    """Who is at work.

    Attributes:
        host: Name of the machine.
        pid: The process.
        born: When the process began, as the system counts; "" where it does not say. Tells it from a later process
            with the same number.
        since: When it took the cell, seconds since 1970.
        key: Random, so that nobody releases another's claim.
        attempt: The command it works for; "" if that does not matter.
        deaths: Processes of the same command that died with this claim before.
    """

    host: str
    pid: int
    born: str
    since: float
    key: str
    attempt: str = ""
    deaths: int = 0

    def is_dead(self) -> bool:
        """Return whether the process is known not to be there any more; False for other machines."""
        return is_gone(self.pid, born=self.born, host=self.host)

    def text(self) -> str:
        """Say who and for how long."""
        return f"{self.host}, process {self.pid}, for {max(0.0, time.time() - self.since) / 60:.0f} min"


def take(path: Path, *, attempt: str = "") -> Claim | None:
    """Take a claim, if nobody alive holds it.

    Args:
        path: The claim's file.
        attempt: The command the process works for: deaths are counted within one.

    Returns:
        The claim, to be given back with `release`; None if it is another's.

    Raises:
        MedtailError: The folder cannot be written.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "cell.claim"
        >>> mine = take(path)
        >>> take(path) is None
        True
        >>> release(path, mine); path.exists()
        False
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    pid = os.getpid()
    claim = Claim(socket.gethostname(), pid, born_at(pid), round(time.time(), 3), uuid.uuid4().hex, attempt)
    if _place(path, claim):
        return claim
    if not _is_free(path):
        return None
    # only the holder of this lock removes another's claim, and looks again before: nobody alive is put out
    with FileLock(str(path) + ".lock"):
        if _is_free(path):
            dead = read_claim(path)
            if dead is not None and attempt and dead.attempt == attempt:
                claim = replace(claim, deaths=dead.deaths + 1)
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
        return claim if _place(path, claim) else None


def release(path: Path, claim: Claim | None) -> None:
    """Give a claim back; nothing happens if it is not ours any more."""
    held = read_claim(path)
    if claim is not None and held is not None and held.key == claim.key:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def read_claim(path: Path) -> Claim | None:
    """Return who holds a claim; None if nobody does, or the file is not whole."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        return Claim(
            str(value["host"]),
            int(value["pid"]),
            str(value["born"]),
            float(value["since"]),
            str(value["key"]),
            str(value.get("attempt", "")),
            int(value.get("deaths", 0)),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_free(path: Path) -> bool:
    """Return whether a claim's file may be removed: its process is dead, or it has long been unreadable."""
    claim = read_claim(path)
    if claim is not None:
        return claim.is_dead()
    try:
        return time.time() - path.stat().st_mtime > HALF_MADE_S
    except FileNotFoundError:
        return True


def _place(path: Path, claim: Claim) -> bool:
    """Put a claim's file there whole, or not at all if the name is taken."""
    text = json.dumps(claim.__dict__)
    draft = temporary_beside(path)
    try:
        draft.write_text(text, encoding="utf-8")
        try:
            os.link(draft, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links; a reader may meet the file half made, and waits
            return _create(path, text)
    except OSError as error:
        raise MedtailError(f"{path}: cannot be written ({error}); a study needs a folder it may write to.") from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()
    return True


def _create(path: Path, text: str) -> bool:
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    return True
