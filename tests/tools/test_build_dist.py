from __future__ import annotations

import importlib.util
import io
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_dist", PROJECT / "tools" / "build_dist.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def packed(names: list[str], *, when: int, owner: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.uname, member.uid = len(name), when, owner, when % 1000
            archive.addfile(member, io.BytesIO(name.encode()))
    return stream.getvalue()


def test_two_archives_of_the_same_files_become_the_same_bytes(tool: ModuleType) -> None:
    one = tool.dated(packed(["p/a", "p/b"], when=1_600_000_000, owner="x"), epoch=1_700_000_000)
    other = tool.dated(packed(["p/b", "p/a"], when=1_650_000_007, owner="y"), epoch=1_700_000_000)
    assert one == other
    assert one != tool.dated(packed(["p/b", "p/c"], when=1, owner="y"), epoch=1_700_000_000)
    with tarfile.open(fileobj=io.BytesIO(one)) as archive:
        assert [(item.name, item.mtime, item.uname) for item in archive] == [
            ("p/a", 1_700_000_000, ""), ("p/b", 1_700_000_000, ""),
        ]  # fmt: skip
        assert archive.extractfile("p/b").read() == b"p/b"


def test_the_given_date_goes_before_the_last_commits(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "123")
    assert tool.committed_at(PROJECT) == "123"


def test_the_citation_names_this_version_and_licence() -> None:
    import tomllib

    from ruamel.yaml import YAML

    project = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["project"]
    cited = YAML(typ="safe").load((PROJECT / "CITATION.cff").read_text("utf-8"))
    assert (cited["title"], str(cited["version"]), cited["license"]) == (
        project["name"], project["version"], project["license"],
    )  # fmt: skip
    assert set(project["license-files"]) >= {"LICENSE", "NOTICE"}
    for pattern in project["license-files"]:
        assert (PROJECT / pattern).is_file()
