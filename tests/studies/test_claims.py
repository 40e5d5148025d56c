"""Claims: one holder at a time, the dead lose theirs, the living and the unknown keep it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from medtail.errors import MedtailError
from medtail.locks import born_at
from medtail.studies import claims
from medtail.studies.claims import HALF_MADE_S, Claim, read_claim, release, take


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def put(path: Path, claim: Claim) -> None:
    path.write_text(json.dumps(claim.__dict__), encoding="utf-8")


def test_a_claim_is_taken_once_and_again_after_it_is_given_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "cell.claim"
    mine = take(path)
    assert mine is not None
    assert mine.pid == os.getpid()
    assert take(path) is None
    release(path, mine)
    assert take(path) is not None


def test_of_many_who_want_it_one_gets_it(tmp_path: Path) -> None:
    path = tmp_path / "cell.claim"
    with ThreadPoolExecutor(16) as pool:
        got = [claim for claim in pool.map(lambda _: take(path), range(64)) if claim is not None]
    assert len(got) == 1
    assert read_claim(path) == got[0]
    assert [p.name for p in tmp_path.iterdir()] == ["cell.claim"], "no drafts are left"


def test_of_many_who_find_a_dead_ones_claim_one_gets_it(tmp_path: Path) -> None:
    for attempt in range(5):
        path = tmp_path / f"{attempt}.claim"
        put(path, Claim(socket.gethostname(), dead_pid(), "", time.time(), "old"))
        with ThreadPoolExecutor(16) as pool:
            got = [claim for claim in pool.map(lambda _, at=path: take(at), range(32)) if claim is not None]
        assert len(got) == 1
        assert read_claim(path) == got[0]


def test_who_finds_a_claim_dead_looks_again_before_removing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cell.claim"
    put(path, Claim(socket.gethostname(), dead_pid(), "", 0.0, "old"))
    living = Claim(socket.gethostname(), os.getpid(), "", 0.0, "faster")

    @contextlib.contextmanager
    def overtaken(_: str) -> Iterator[None]:
        put(path, living)  # another process was first, between the look and the lock
        yield

    monkeypatch.setattr(claims, "FileLock", overtaken)
    assert take(path) is None
    assert read_claim(path) == living


def test_deaths_with_a_claim_are_counted_within_one_command(tmp_path: Path) -> None:
    path = tmp_path / "cell.claim"
    put(path, Claim(socket.gethostname(), dead_pid(), "", 0.0, "old", "this", 1))
    again = take(path, attempt="this")
    assert again is not None
    assert (again.attempt, again.deaths) == ("this", 2)
    assert read_claim(path) == again
    put(path, Claim(socket.gethostname(), dead_pid(), "", 0.0, "old", "this", 1))
    other = take(path, attempt="another command")
    assert other is not None
    assert other.deaths == 0


def test_another_machines_claim_stays(tmp_path: Path) -> None:
    path = tmp_path / "cell.claim"
    put(path, Claim("elsewhere.example", dead_pid(), "", 0.0, "theirs"))
    assert take(path) is None
    claim = read_claim(path)
    assert claim is not None
    assert claim.text().startswith("elsewhere.example, process ")


@pytest.mark.skipif(not born_at(os.getpid()), reason="this system does not say when a process began")
def test_a_later_process_with_the_same_number_does_not_inherit(tmp_path: Path) -> None:
    path = tmp_path / "cell.claim"
    put(path, Claim(socket.gethostname(), os.getpid(), "another-boot:1", 0.0, "old"))
    assert take(path) is not None


def test_a_living_process_keeps_its_claim(tmp_path: Path) -> None:
    path = tmp_path / "cell.claim"
    put(path, Claim(socket.gethostname(), os.getpid(), born_at(os.getpid()), 0.0, "other"))
    assert take(path) is None


def test_nobody_gives_back_what_is_anothers(tmp_path: Path) -> None:
    path = tmp_path / "cell.claim"
    mine = take(path)
    assert mine is not None
    theirs = Claim("elsewhere", 1, "", 0.0, "theirs")
    put(path, theirs)
    release(path, mine)
    assert read_claim(path) == theirs


def test_a_half_made_claim_is_waited_for_and_then_taken(tmp_path: Path) -> None:
    path = tmp_path / "cell.claim"
    path.write_text('{"host": "x')
    assert take(path) is None
    before = time.time() - HALF_MADE_S - 5
    os.utime(path, (before, before))
    assert take(path) is not None


def test_a_file_system_without_hard_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(claims.os, "link", refused)
    path = tmp_path / "cell.claim"
    mine = take(path)
    assert mine is not None
    assert read_claim(path) == mine
    assert take(path) is None


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError("read-only")

    monkeypatch.setattr(Path, "write_text", refused)
    with pytest.raises(MedtailError, match=r"cell.claim: cannot be written \(read-only\)"):
        take(tmp_path / "cell.claim")
