"""One process at a time in a folder: the second is refused by name, the dead are succeeded, nothing is left behind."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from medtail import locks
from medtail.errors import MedtailError
from medtail.locks import born_at, hold, is_gone
from medtail.runs import LOCK, temporary_beside

HOLDER = """
import sys
from medtail import locks
if sys.argv[2] == "without":
    locks._FCNTL = None
with locks.hold(sys.argv[1], go_on="it"):
    print("held", flush=True)
    sys.stdin.read()
"""


class Holder:
    """Another process that holds a folder."""

    def __init__(self, folder: Path, *, how: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(folder), how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "held\n"

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()

    def end(self) -> None:
        self.process.communicate("")


@pytest.fixture(params=["with", "without"])
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With locks of the operating system, and on a file system that has none."""
    if request.param == "without":
        monkeypatch.setattr(locks, "_FCNTL", None)
    return str(request.param)


def taken(folder: Path) -> bool:
    try:
        with hold(folder, go_on="it"):
            return True
    except MedtailError:
        return False


def test_a_second_process_is_refused_and_told_who_is_at_work(tmp_path: Path, how: str) -> None:
    holder = Holder(tmp_path / "run", how=how)
    said = rf"run: process {holder.process.pid} on {socket.gethostname()} is at work in this folder; expected nobody"
    try:
        with pytest.raises(MedtailError, match=said), hold(tmp_path / "run", go_on="it"):
            pytest.fail("it was let in")
        assert (tmp_path / "run" / LOCK).exists(), "the refused one must not take the holder's lock away"
    finally:
        holder.end()
    assert not (tmp_path / "run").exists(), "made for the work, empty at its end"
    assert taken(tmp_path / "run")


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path, how: str) -> None:
    holder = Holder(tmp_path, how=how)
    holder.kill()
    assert json.loads((tmp_path / LOCK).read_text())["pid"] == holder.process.pid, "a kill leaves the file"
    with hold(tmp_path, go_on="it"):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
        assert not taken(tmp_path), "also not twice in one process"
    assert list(tmp_path.iterdir()) == []


def test_of_many_at_once_one_is_in_at_a_time(tmp_path: Path) -> None:
    inside, most, done = [0], [0], [0]

    def work() -> None:
        own = 0
        while own < 3:
            try:
                with hold(tmp_path, go_on="it"):
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    own += 1
                    time.sleep(0.0005)
                    inside[0] -= 1
            except MedtailError:
                time.sleep(0.0005)
        done[0] += own

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1
    assert done[0] == 24
    assert list(tmp_path.iterdir()) == []


def test_without_locks_another_machines_and_an_unreadable_lock_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_FCNTL", None)
    for text in (json.dumps({"host": "elsewhere", "pid": 1, "born": ""}), "", '{"pid": 1}', "[]"):
        (tmp_path / LOCK).write_text(text)
        with pytest.raises(MedtailError, match=r"If that process is not there any more, remove .*\.lock"):
            hold(tmp_path, go_on="it").__enter__()
        assert (tmp_path / LOCK).read_text() == text


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_that_refuses_to_lock_is_one_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    class Refusing:
        LOCK_EX, LOCK_NB = 2, 4

        @staticmethod
        def flock(handle: int, how: int) -> None:
            raise OSError(number, "no locks here")

    monkeypatch.setattr(locks, "_FCNTL", Refusing)
    with hold(tmp_path, go_on="it"):
        assert not taken(tmp_path)
    assert taken(tmp_path)


def test_what_killed_processes_left_half_written_is_removed_from_a_run_and_nothing_else(tmp_path: Path) -> None:
    def lay(folder: Path) -> list[Path]:
        (folder / "last").mkdir(parents=True)
        left = [temporary_beside(folder / "config.yaml"), temporary_beside(folder / "last" / "state.safetensors")]
        for path in left:
            path.write_text("half")
        whole = temporary_beside(folder / "model")
        whole.mkdir()
        (whole / "card.json").write_text("half")
        return [*left, whole]

    run = tmp_path / "run"
    left = lay(run)
    (run / "config.yaml").write_text("whole")
    (run / ".notes.tmp-1.txt").write_text("somebody's own")
    with hold(run, go_on="it"):
        assert not any(path.exists() for path in left)
        assert (run / ".notes.tmp-1.txt").exists()
    other = tmp_path / "other"
    left = lay(other)
    (other / "thesis.tex").write_text("no run of ours")
    with hold(other, go_on="it"):
        assert all(path.exists() for path in left)


@pytest.mark.parametrize(
    ("error", "is_told"),
    [
        (lambda: KeyboardInterrupt(), True),
        (lambda: _caused(MedtailError("disk"), OSError(errno.ENOSPC, "full")), True),
        (lambda: MedtailError("a table is wrong"), False),
    ],
)
def test_who_is_interrupted_is_told_how_to_go_on(
    tmp_path: Path, error: Callable[[], BaseException], is_told: bool
) -> None:
    (tmp_path / "kept.txt").write_text("whole")
    with pytest.raises((KeyboardInterrupt, MedtailError)) as caught, hold(tmp_path, go_on="`medtail x --resume`"):
        raise error()
    assert getattr(caught.value, "__notes__", []) == (["Go on with `medtail x --resume`."] if is_told else [])
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def _caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


def test_a_folder_that_cannot_be_written_is_explained_and_a_file_left_to_its_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("kept")
    with hold(tmp_path / "file", go_on="it"):
        pass
    with hold(tmp_path / "unwanted", go_on="it", wanted=False):
        assert not (tmp_path / "unwanted").exists()
    with pytest.raises(MedtailError, match="cannot be written"):
        hold(tmp_path / "file" / "deeper", go_on="it").__enter__()

    def refuse(*arguments: object, **settings: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(locks.os, "open", refuse)
    with pytest.raises(MedtailError, match="may not be written"):
        hold(tmp_path / "locked", go_on="it").__enter__()


def test_a_process_is_known_by_its_birth() -> None:
    own = born_at(os.getpid())
    assert not is_gone(os.getpid(), born=own, host=socket.gethostname())
    if own:
        assert is_gone(os.getpid(), born="another", host=socket.gethostname())
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    assert is_gone(dead.pid, born="", host=socket.gethostname())
    assert not is_gone(dead.pid, born="", host="elsewhere"), "of another machine nothing is known"
