"""Cells: what is shown, what it sorts by, and dashes with their reason."""

from __future__ import annotations

import pytest

from medtail.reporting.facts import UNKNOWN, Estimate
from medtail.reporting.tables import amount_cell, gap_cell, group_cell, signed, signed_interval, text_cell, value_cell


def test_an_undefined_value_is_a_dash_that_sorts_last_and_says_why() -> None:
    for cell in (value_cell(Estimate(), why="no positives"), gap_cell(Estimate(), why="no positives")):
        assert (cell.text, cell.key, cell.hint) == ("–", "", "no positives")
    assert amount_cell(UNKNOWN).key == amount_cell(float("nan")).key == ""


def test_a_value_sorts_by_itself_and_not_by_what_is_shown() -> None:
    cell = value_cell(Estimate(0.123456, 0.1, 0.2), digits=2, with_interval=True)
    assert (cell.text, float(cell.key), cell.interval) == ("0.12", 0.123456, "[0.10–0.20]")
    assert value_cell(Estimate(0.0), shown="none").text == "none"
    assert value_cell(Estimate(0.5), with_interval=True).interval == ""


@pytest.mark.parametrize(
    ("value", "shown"), [(0.104, "+0.10"), (-0.104, "−0.10"), (-0.001, "0.00"), (0.0, "0.00"), (1.2, "+1.20")]
)
def test_a_difference_carries_its_sign_unless_it_is_shown_as_zero(value: float, shown: str) -> None:
    assert signed(Estimate(value)) == gap_cell(Estimate(value)).text == shown
    assert signed_interval(Estimate(value)) == ""


def test_groups_sort_from_head_to_tail() -> None:
    keys = [group_cell(group).key for group in ("head", "medium", "tail")]
    assert keys == sorted(keys)
    assert group_cell("").text == "–"
    assert text_cell("a").key == "a"
