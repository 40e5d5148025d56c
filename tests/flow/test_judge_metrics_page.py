"""The page on metrics: its Python runs, and the table of disagreements is what the libraries say here and now."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "judge-metrics.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)


def output_of(block: str) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block, PAGE.name, "exec"), {})
    return printed.getvalue()


def test_the_example_of_the_one_door_runs_as_written() -> None:
    assert output_of(BLOCKS[0]) == ""


def test_the_printed_table_of_disagreements_is_the_one_the_libraries_give() -> None:
    printed = output_of(BLOCKS[1]).splitlines()
    shown = [line for line in TEXT.split("<!-- printed by the block below -->")[1].splitlines() if line.startswith("|")]
    assert shown == printed
    assert len(printed) >= 25


def test_a_cell_that_is_no_longer_true_is_noticed() -> None:
    wrong = BLOCKS[1].replace('expect="1 | 1 | — | 1"', 'expect="1 | 0 | — | 1"')
    assert wrong != BLOCKS[1]
    with pytest.raises(AssertionError, match="AP, all positive"):
        output_of(wrong)
