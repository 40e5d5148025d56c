"""The page about the lexicons does what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "lexicons.md"


def test_the_python_of_the_page_runs_and_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    shared: dict[str, object] = {}
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), shared)
    said = capsys.readouterr().out.splitlines()
    assert said[2:5] == ["TR3 0.09", "TR4 0.39", "TR5 0.50"]
    assert said[5].startswith("[0.4957")
