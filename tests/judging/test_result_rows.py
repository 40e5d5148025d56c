from __future__ import annotations

import numpy as np
import pytest

from medtail.judging.intervals import bca_interval, percentile_interval
from medtail.judging.result_rows import IntervalMaker

DRAWN = np.random.default_rng(0).beta(8, 2, size=500)
LEFT_OUT = np.random.default_rng(1).beta(80, 20, size=60)


def test_an_interval_is_made_as_asked() -> None:
    plain = IntervalMaker(500).row(0.8, DRAWN, LEFT_OUT)
    assert (plain["low"], plain["high"]) == percentile_interval(DRAWN)
    corrected = IntervalMaker(500, 0.9, "bca").row(0.8, DRAWN, LEFT_OUT)
    assert (corrected["low"], corrected["high"]) == bca_interval(0.8, DRAWN, LEFT_OUT, level=0.9)
    assert corrected["low"] != plain["low"]


def test_where_bca_is_impossible_percentiles_stand_and_the_row_is_named() -> None:
    intervals = IntervalMaker(500, method="bca")
    row = intervals.row(0.999, DRAWN, LEFT_OUT, name="ap of Hernia")
    assert (row["low"], row["high"]) == percentile_interval(DRAWN)
    assert intervals.impossible == ["ap of Hernia"]


def test_a_proportion_without_a_miss_has_the_rule_of_three_in_every_method() -> None:
    for method in ("percentile", "bca"):
        row = IntervalMaker(500, method="bca" if method == "bca" else "percentile").row(1.0, np.ones(500), patients=300)
        assert 1 - row["low"] == pytest.approx(3 / 300, rel=0.01)


@pytest.mark.parametrize(("resamples", "value"), [(0, 0.5), (500, float("nan"))])
def test_without_resamples_or_value_there_is_no_interval(resamples: int, value: float) -> None:
    assert "low" not in IntervalMaker(resamples).row(value, DRAWN)
