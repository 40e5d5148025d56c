"""Verdicts and margins of single rows."""

from __future__ import annotations

import numpy as np
import pytest

from medtail.judging.comparison_rows import covers_zero, difference_row, non_inferior, verdict_of
from medtail.judging.paired_draws import Answer
from medtail.judging.questions import Question

AP, ECE = Question("ap", "macro", "", "", (0,)), Question("ece", "macro", "", "", (0,))


@pytest.mark.parametrize(
    ("metric", "difference", "interval", "p_holm", "verdict"),
    [
        ("ap", 0.1, (0.05, 0.15), 0.01, "a_ahead"),
        ("ap", -0.1, (-0.15, -0.05), 0.01, "b_ahead"),
        ("ece", 0.1, (0.05, 0.15), 0.01, "b_ahead"),
        ("ece", -0.1, (-0.15, -0.05), 0.05, "a_ahead"),
        ("ap", 0.1, (0.01, 0.15), 0.06, "a_ahead_uncorrected"),
        ("ece", 0.1, (0.01, 0.15), 0.06, "b_ahead_uncorrected"),
        ("ap", 0.1, (-0.01, 0.15), 0.2, "tied"),
        ("ap", 0.0, (np.nan, np.nan), 1.0, "tied"),
    ],
)
def test_the_verdict_knows_direction_correction_and_ties(
    metric: str, difference: float, interval: tuple[float, float], p_holm: float, verdict: str
) -> None:
    row = {"metric": metric, "difference": difference, "low": interval[0], "high": interval[1], "p": 0.01}
    assert verdict_of(row | {"p_holm": p_holm}, alpha=0.05) == verdict


def test_an_untested_row_has_no_winner() -> None:
    row = {"metric": "ap", "difference": 0.1, "low": 0.05, "high": 0.2, "p": np.nan, "p_holm": np.nan}
    assert verdict_of(row, alpha=0.05) == "undefined"


@pytest.mark.parametrize(
    ("question", "low", "high", "expected"),
    [
        (AP, -0.01, 0.01, "both"),
        (AP, -0.01, 0.05, "a"),
        (AP, -0.05, 0.01, "b"),
        (AP, -0.05, 0.05, "neither"),
        (ECE, -0.01, 0.05, "b"),
        (ECE, -0.05, 0.01, "a"),
        (AP, -0.02, 0.0, "b"),  # the lower end must lie above the margin, not on it
    ],
)
def test_margins_are_one_sided_and_know_the_better_direction(
    question: Question, low: float, high: float, expected: str
) -> None:
    assert non_inferior(question, low, high, 0.02) == expected


def test_an_interval_that_touches_zero_covers_it() -> None:
    assert covers_zero({"low": 0.0, "high": 0.2})
    assert covers_zero({"low": np.nan, "high": np.nan})
    assert not covers_zero({"low": -0.2, "high": -0.001})


def test_a_difference_without_spread_has_no_interval_and_no_smallest_size() -> None:
    drawn = np.full((2, 50), 0.4)
    seeds = tuple((np.array([0.4]), row[None]) for row in drawn)
    row = difference_row(
        AP, Answer(np.array([0.4, 0.4]), drawn, seeds, 3, np.empty((2, 0))), ["A", "B"], 0, 1, interval=0.95
    )
    assert (row["difference"], row["p"], row["share_a_better"]) == (0.0, 1.0, 0.5)
    assert np.isnan([row["low"], row["high"], row["smallest_detectable"]]).all()


@pytest.mark.parametrize("obstacle", ["undefined", "too_few_patients"])
def test_a_question_with_an_obstacle_has_its_name_for_a_verdict_and_no_p_value(obstacle: str) -> None:
    drawn = np.random.default_rng(0).random((2, 50))
    seeds = tuple((np.array([0.4]), row[None]) for row in drawn)
    answer = Answer(np.array([0.6, 0.4]), drawn, seeds, 3, np.empty((2, 0)))
    asked = Question("ap", "class", "Hernia", "tail", (0,), obstacle)
    row = difference_row(asked, answer, ["A", "B"], 0, 1, interval=0.95, margin=0.5)
    assert (row["verdict"], row["non_inferior"]) == (obstacle, "")
    assert np.isnan(row["p"])
    assert row["low"] < row["high"]
