"""Ranks, first places and tied blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from medtail.judging.ranking import first_shares, ranks, tied_blocks, tied_runs


@given(st.lists(st.integers(0, 4), min_size=1, max_size=7))
def test_ranks_are_scipys_average_ranks_of_the_negative(values: list[int]) -> None:
    found = ranks(np.array(values, dtype=float))
    assert found.tolist() == rankdata(-np.array(values)).tolist()


def test_a_system_without_a_value_leaves_no_ranking() -> None:
    assert np.isnan(ranks(np.array([0.3, np.nan, 0.1]))).all()
    columns = ranks(np.array([[0.3, 0.3], [np.nan, 0.1]]))
    assert np.isnan(columns[:, 0]).all()
    assert columns[:, 1].tolist() == [1, 2]


def test_wins_are_shared_among_those_who_tie() -> None:
    drawn = np.array([[0.9, 0.5, 0.2, np.nan], [0.8, 0.5, 0.4, 0.1], [0.1, 0.5, 0.3, 0.2]])
    assert first_shares(drawn).tolist() == pytest.approx([4 / 9, 4 / 9, 1 / 9])
    assert np.isnan(first_shares(drawn[:, 3:])).all()


def tied_within(values: list[float], width: float) -> np.ndarray:
    v = np.array(values)
    return np.abs(v[:, None] - v[None]) <= width


def test_blocks_chain_neighbours_while_runs_need_every_pair() -> None:
    tied = tied_within([0.9, 0.8, 0.7, 0.4, 0.35], 0.12)
    assert tied_blocks(range(5), tied) == [[0, 1, 2], [3, 4]]
    assert tied_runs(range(5), tied) == [[0, 1], [1, 2], [3, 4]]


@given(st.lists(st.integers(0, 20), min_size=1, max_size=8), st.integers(0, 6))
def test_blocks_hold_everyone_once_and_runs_are_the_longest(values: list[int], width: int) -> None:
    ordered = sorted(map(float, values), reverse=True)
    tied = tied_within(ordered, width)
    n = len(ordered)
    assert [s for block in tied_blocks(range(n), tied) for s in block] == list(range(n))
    runs = tied_runs(range(n), tied)
    every = [(i, j) for i in range(n) for j in range(i + 1, n) if tied[i : j + 1, i : j + 1].all()]
    longest = [pair for pair in every if not any(a <= pair[0] and pair[1] <= b and (a, b) != pair for a, b in every)]
    assert [(run[0], run[-1]) for run in runs] == longest
