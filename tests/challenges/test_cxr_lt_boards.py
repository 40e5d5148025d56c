"""Known leaderboards: arithmetic that must hold among published numbers, and placing a score among them."""

from __future__ import annotations

import pytest

from medtail.challenges.cxr_lt_boards import BOARDS, HEAD, MEDIUM, TAIL, board_of, place
from medtail.sources.cxr_lt import edition
from medtail.tables.results import Results, results_from_rows


def mine(value: float, low: float = float("nan"), high: float = float("nan")) -> Results:
    return results_from_rows([{"metric": "ap", "value": value, "low": low, "high": high, "support": 26}])


@pytest.mark.parametrize("key", BOARDS, ids=str)
def test_every_board_is_in_order_and_of_an_edition_there_is(key):
    board = BOARDS[key]
    assert (board.edition, board.task) == key
    edition(board.edition).task(board.task)
    places = [row.rank for row in board.ranked]
    assert places == sorted(set(places))
    scores = [row.values["ap"] for row in board.ranked]
    assert scores == sorted(scores, reverse=True)
    assert len({row.system for row in board.rows}) == len(board.rows)
    for row in board.rows:
        assert all(0 < value < 1 for value in row.values.values())
        assert (row.rank is None) == (row.provenance == "rerun")


@pytest.mark.parametrize(("year", "task"), [("2023", 1), ("2024", 1)])
def test_group_means_of_a_board_give_its_map_to_the_printed_digits(year, task):
    tables = edition(year)
    groups = tables.groups(tables.task(task).class_names)
    sizes = [len(groups.members(group)) for group in ("head", "medium", "tail")]
    checked = 0
    for row in board_of(year, task).rows:
        if HEAD in row.values:
            total = sum(n * row.values[name] for n, name in zip(sizes, (HEAD, MEDIUM, TAIL), strict=True))
            # three digits in the group means allow half a thousandth here, and the mAP as much again
            assert total / sum(sizes) == pytest.approx(row.values["ap"], abs=1e-3)
            checked += 1
    assert checked >= 3


def test_winner_of_2024_is_the_mean_of_its_groups_and_classes():
    row = board_of("2024", 1).rows[0]
    head, medium, tail = (row.values[name] for name in (HEAD, MEDIUM, TAIL))
    assert round((9 * head + 15 * medium + 16 * tail) / 40, 4) == 0.2806
    assert round((head + medium + tail) / 3, 3) == 0.322
    assert row.values["ap"] == 0.281


def test_winner_of_the_zero_shot_task_is_the_mean_of_its_five_classes():
    values = dict(board_of("2024", 3).rows[0].values)
    total = values.pop("ap")
    assert {name.removeprefix("ap@") for name in values} == set(edition("2024").task(3).class_names)
    assert sum(values.values()) / 5 == pytest.approx(total, abs=0.005)


def test_task_2_lists_thirteen_systems_and_says_which_places_are_noise():
    board = board_of("2024", 2)
    assert len(board.ranked) == 13
    assert "places 2 to 7 are within noise" in board.note


def test_a_score_takes_its_place_and_its_interval_names_those_it_cannot_be_told_from():
    found = place(mine(0.508, 0.480, 0.512), board_of("2024", 2))
    assert found.rank == 5
    assert [row.rank for row in found.within] == [3, 4, 5, 6, 7, 8]
    assert place(mine(0.9), board_of("2024", 2)).rank == 1
    assert place(mine(0.526), board_of("2024", 2)).rank == 1, "an equal score shares the place"


def test_no_place_is_given_where_the_places_are_not_known():
    # the third of 2023 is not known to three digits: below the second, nobody can say
    assert place(mine(0.36), board_of("2023", 1)).rank == 2
    assert place(mine(0.352), board_of("2023", 1)).rank is None
    assert place(mine(0.1), board_of("2024", 1)).rank is None
    assert place(mine(0.1), board_of("2024", 3)).rank is None


def test_yardsticks_are_never_ranked():
    above_one = 0.2379 + 0.001
    assert place(mine(above_one, 0.2, 0.25), board_of("2024", 1)).within == ()


def test_an_unknown_board_is_none():
    assert board_of("2025", 1) is None
