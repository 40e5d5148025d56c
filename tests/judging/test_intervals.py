from __future__ import annotations

import numpy as np
import pytest

from medtail.judging.intervals import defined_share, mean_of_defined, percentile_interval, unanimous_interval


def test_undefined_resamples_are_left_out_of_an_interval() -> None:
    values = np.append(np.linspace(0, 1, 1001), [np.nan] * 500)
    assert percentile_interval(values) == pytest.approx((0.025, 0.975))
    assert all(np.isnan(end) for end in percentile_interval(np.full(5, np.nan)))
    assert defined_share(values) == pytest.approx(1001 / 1501)


def test_no_misses_follow_the_rule_of_three() -> None:
    low, high = unanimous_interval(1.0, patients=300)
    assert high == 1.0
    assert 1 - low == pytest.approx(3 / 300, rel=0.01)
    assert unanimous_interval(0.0, patients=300) == pytest.approx((0.0, 1 - low))


def test_an_interval_of_no_misses_covers_as_it_promises() -> None:
    # with a true miss share at the bound, no miss in n patients happens exactly 5 % of the time
    low, _ = unanimous_interval(1.0, patients=12)
    assert low**12 == pytest.approx(0.05)


def test_means_ignore_what_is_undefined() -> None:
    assert mean_of_defined(np.zeros((0, 3))).tolist() == pytest.approx([np.nan] * 3, nan_ok=True)
    assert mean_of_defined(np.array([[1.0, np.nan], [3.0, 4.0]])).tolist() == [2.0, 4.0]
