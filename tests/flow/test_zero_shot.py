"""The Python of docs/zero_shot.md runs as written."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "zero_shot.md"


def test_the_python_of_the_page_runs() -> None:
    found = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert found
    for block in found:
        exec(compile(block, PAGE.name, "exec"), {})
