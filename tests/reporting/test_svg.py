"""Drawing primitives: escaping, scales and ticks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtail.reporting.svg import Axis, element, polyline, text


def test_text_and_attributes_are_escaped() -> None:
    drawn = str(text('<script>"&', 0, 0, hint="</title><b>"))
    assert "<script>" not in drawn
    assert "<b>" not in drawn
    assert 'class="&#34;&gt;"' in str(element("g", class_='">'))


def test_polyline_drops_points_on_the_same_pixel() -> None:
    assert 'points="0,0 1,1"' in str(polyline([(0, 0), (0.01, 0.02), (1, 1)], class_="c"))


def test_values_beyond_an_axis_are_drawn_at_its_end() -> None:
    axis = Axis(0, 1, 100, 0)
    assert [axis(v) for v in (-1.0, 0.0, 1.0, 2.0)] == [100, 100, 0, 0]


@given(st.floats(0.001, 1e4), st.floats(1.5, 1e6))
def test_ticks_lie_inside_the_axis_and_rise(low: float, factor: float) -> None:
    for log in (False, True):
        axis = Axis(low, low * factor, 0, 100, log=log)
        ticks = axis.ticks()
        assert ticks == sorted(set(ticks))
        assert len(ticks) <= 24
        assert all(low * (1 - 1e-9) <= tick <= low * factor * (1 + 1e-9) for tick in ticks)
        assert log or len(ticks) >= 2


def test_log_axis_maps_equal_ratios_to_equal_lengths() -> None:
    axis = Axis(1, 1000, 0, 300, log=True)
    assert [axis(v) for v in (1, 10, 100, 1000)] == pytest.approx([0, 100, 200, 300])
