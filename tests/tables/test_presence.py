from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import fsspec
import pytest

from medtail.errors import MedtailError
from medtail.tables import presence, remote
from medtail.tables.places import Place, Remote
from medtail.tables.presence import absent, check_presence


def kinds(places: list[Place]) -> list[str]:
    return ["" if error is None else type(error).__name__ for error in absent(places)]


@pytest.fixture
def stats(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files that were asked for one by one."""
    asked: list[str] = []
    really = os.path.isfile
    monkeypatch.setattr(presence.os.path, "isfile", lambda path: (asked.append(str(path)), really(path))[1])
    return asked


def test_a_folder_of_many_files_is_listed_once_and_only_what_is_not_seen_is_asked_for(
    tmp_path: Path, stats: list[str]
) -> None:
    for number in range(40):
        (tmp_path / f"{number}.png").write_text("")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "0.png")
    (tmp_path / "broken.png").symlink_to(tmp_path / "nothing")
    names = [*(f"{number}.png" for number in range(40)), "link.png", "gone.png", "folder.png", "broken.png"]
    assert kinds([tmp_path / name for name in names]) == [""] * 41 + ["FileNotFoundError"] * 3
    assert sorted(Path(path).name for path in stats) == ["broken.png", "folder.png", "gone.png"]


def test_a_few_files_of_a_folder_are_asked_for_one_by_one(tmp_path: Path, stats: list[str]) -> None:
    (tmp_path / "a.png").write_text("")
    assert kinds([tmp_path / "a.png", tmp_path / "b.png", tmp_path / "a.png"]) == ["", "FileNotFoundError", ""]
    assert len(stats) == 2


def test_impossible_names_and_missing_folders_are_absent_not_errors(tmp_path: Path) -> None:
    places: list[Place] = [tmp_path / ("x" * 5000), tmp_path / "a\0b", tmp_path]
    places += [tmp_path / "no folder" / f"{number}.png" for number in range(20)]
    assert set(kinds(places)) == {"FileNotFoundError"}


def test_files_behind_urls_are_asked_for_unless_told_not_to(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/presence/a.png", b"1")
    places: list[Place] = [tmp_path / "b.png", Remote("memory://presence/a.png"), Remote("memory://presence/c.png")]
    assert kinds(places) == ["FileNotFoundError", "", "FileNotFoundError"]
    assert [error is None for error in absent(places, remote=False)] == [False, True, True]
    memory.store.clear()


def test_rows_of_a_server_that_does_not_answer_are_named_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    places: list[Any] = [Path("/nothing/here.png"), *(Remote(f"http://127.0.0.1:9/{n}.png") for n in range(300))]
    with pytest.raises(MedtailError) as caught:
        check_presence(places, name="t.csv", root=Path("/images"))
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("t.csv, row 2, column 'path': no file '/nothing/here.png'")
    assert "1 of 301 files are missing: row 2." in lines[0]
    assert 2 <= len(lines) <= 4  # by reason, not by row
    assert any("http://127.0.0.1:9 does not answer" in line and "rows " in line for line in lines)
