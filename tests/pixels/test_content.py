from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from medtail.pixels import content
from medtail.pixels.content import content_digests
from medtail.runs import digest_file


def old_file(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    long_ago = time.time_ns() - 3600 * 10**9
    os.utime(path, ns=(long_ago, long_ago))
    return path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []

    def counted(path: Path | str) -> str:
        names.append(Path(path).name)
        return digest_file(path)

    monkeypatch.setattr(content, "digest_file", counted)
    return names


def test_an_unchanged_file_is_read_once_and_a_changed_one_again(tmp_path: Path, reads: list[str]) -> None:
    first, second = old_file(tmp_path / "a", b"aaa"), old_file(tmp_path / "b", b"bbb")
    memory = tmp_path / "memory.sqlite"
    before = content_digests([first, second, first], memory=memory, workers=2)
    assert before == [digest_file(first), digest_file(second), digest_file(first)]
    assert sorted(reads) == ["a", "b"]
    assert content_digests([first, second, first], memory=memory) == before
    assert sorted(reads) == ["a", "b"]
    old_file(second, b"cc")
    assert content_digests([first, second], memory=memory) == [before[0], digest_file(second)]
    assert sorted(reads) == ["a", "b", "b"]


def test_a_file_changed_this_very_moment_is_not_trusted_next_time(tmp_path: Path, reads: list[str]) -> None:
    fresh = tmp_path / "fresh"
    fresh.write_bytes(b"one")
    status = fresh.stat()
    content_digests([fresh], memory=tmp_path / "memory.sqlite")
    fresh.write_bytes(b"two")  # same size; a coarse clock may show the same time
    os.utime(fresh, ns=(status.st_mtime_ns, status.st_mtime_ns))
    assert content_digests([fresh], memory=tmp_path / "memory.sqlite") == [digest_file(fresh)]
    assert reads == ["fresh", "fresh"]


def test_a_damaged_memory_costs_time_only(tmp_path: Path) -> None:
    path = old_file(tmp_path / "a", b"aaa")
    memory = tmp_path / "memory.sqlite"
    memory.write_bytes(b"this is no database, however long it may be " * 50)
    for _ in range(2):
        assert content_digests([path], memory=memory) == [digest_file(path)]


def test_a_file_that_cannot_be_read_gives_its_error_in_its_place(tmp_path: Path) -> None:
    path = old_file(tmp_path / "a", b"aaa")
    result = content_digests([tmp_path / "missing", path], memory=tmp_path / "memory.sqlite")
    assert isinstance(result[0], FileNotFoundError)
    assert result[1] == digest_file(path)
