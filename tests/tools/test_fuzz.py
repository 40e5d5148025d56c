from __future__ import annotations

import importlib
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from medtail.errors import MedtailError

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture(scope="module")
def tool() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOOLS))
        yield importlib.import_module("fuzz")
    for name in ("fuzz", "fuzz_edits", "fuzz_readers"):
        sys.modules.pop(name, None)


def session(tool: ModuleType, folder: Path, read) -> object:
    def make(place: Path) -> None:
        (place / "a.csv").write_text("x,y\n1,2\n")

    for name in ("files", "out"):
        (folder / name).mkdir()
    made = tool.Session(tool.Reader(make, read), folder / "files", folder / "out")
    made.prepare()
    return made


def test_success_refusal_and_findings_are_told_apart(tool: ModuleType, tmp_path: Path) -> None:
    answers = iter([None, None, MedtailError("no"), KeyError("k"), KeyError("again"), tool.TooSlow("slow")])

    def read(folder: Path) -> None:
        answer = next(answers)
        (folder / "out" / "written").write_text("x")
        if isinstance(answer, BaseException):
            raise answer

    found = session(tool, tmp_path, read)  # the first answer is the one to the valid file
    for number in range(5):
        found.case(tool.RandomChooser(random.Random(number)))
    tally = found.tally
    assert (tally.tried, tally.accepted, tally.refused) == (5, 1, 1)
    assert [place.partition(" ")[0] for place in tally.findings] == ["KeyError", "TooSlow"]
    assert (tmp_path / "out" / "finding_1" / "raised.txt").read_text().startswith("a.csv\nKeyError at test_fuzz.py")
    assert (tmp_path / "files" / "a.csv").read_text() == "x,y\n1,2\n", "the valid file is back"
    assert not (tmp_path / "files" / "out").exists()


def test_a_reader_that_hangs_is_stopped(tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def read(folder: Path) -> None:
        calls.append(1)
        while len(calls) > 1:
            pass

    found = session(tool, tmp_path, read)
    monkeypatch.setattr(tool, "SECONDS", 0.1)
    found.case(tool.RandomChooser(random.Random(0)))
    assert next(iter(found.tally.findings)).startswith("TooSlow")


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.json", "a.yaml", "a.npz", "a.safetensors", "a.xml", "a.png"])
def test_the_same_choices_damage_a_file_in_the_same_way_whatever_it_holds(tool: ModuleType, name: str) -> None:
    edits = sys.modules["fuzz_edits"]
    for content in (b"", b"a", b"x,y\n1,2\n", b'{"a": [1, {"b": "{}"}]}', bytes(range(256))):
        for number in range(20):
            made = [edits.damaged(content, name, tool.RandomChooser(random.Random(number))) for _ in range(2)]
            if not name.endswith((".gz", ".npz")):  # they hold the time of day
                assert made[0] == made[1]
            assert len(made[0]) <= edits.MOST_BYTES


def test_every_reader_has_a_seed_and_files_to_damage(tool: ModuleType) -> None:
    assert len(tool.READERS) >= 30
    assert {"manifest_csv", "dicom", "images", "cxr_lt", "medmnist", "phrases", "tirads", "model"} <= set(tool.READERS)
