from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medtail.errors import MedtailError
from medtail.lexicons.follow_up import grew, grew_since, next_scan, plan
from medtail.lexicons.grading import Finding, grade
from medtail.lexicons.parsing import parse_reading


@pytest.mark.parametrize(
    ("old", "new", "by_dimensions", "by_volume"),
    [
        ((10, 10, 10), (12, 12, 10), True, False),
        ((11, 11, 10), (13.2, 13.2, 10), True, False),
        ((5, 5, 5), (6, 6, 6), False, True),
        ((10, 10, 10), (11.5, 11.5, 11.5), False, True),
        ((20, 20, 20), (23, 23, 20), False, False),
        ((10, 8, 8), (12, 9.5, 8), False, False),
        ((10, 10, 10), (10, 10, 15), False, True),
        ((20, 20, 20), (12, 12, 12), False, False),
        ((10, 10, 10), (12, 10, 10), False, False),
        ((30, 30, 30), (32, 32, 30), False, False),
    ],
)
def test_growth(old: tuple[float, ...], new: tuple[float, ...], by_dimensions: bool, by_volume: bool) -> None:
    found = grew(old, new)
    assert (found.by_dimensions, found.by_volume) == (by_dimensions, by_volume)
    assert found.grew is (by_dimensions or by_volume)


def test_the_volume_ratio_is_reported() -> None:
    assert grew((10, 10, 10), (11.5, 11.5, 11.5)).volume_ratio == pytest.approx(1.520875)


def test_a_missing_dimension_is_not_guessed() -> None:
    unknown = grew((10, 10, None), (10.5, 10.5, 30))
    assert (unknown.by_dimensions, unknown.by_volume, unknown.grew) == (False, None, None)
    perhaps = grew((10, 10, None), (12, 10, 10))
    assert (perhaps.by_dimensions, perhaps.by_volume, perhaps.grew) == (None, None, None)
    certain = grew((10, 10, float("nan")), (12, 12, 10))
    assert (certain.by_dimensions, certain.by_volume, certain.grew) == (True, None, True)
    nothing = grew((None, None, None), (12, 12, 10))
    assert nothing.grew is None


def test_dimensions_without_axes_are_sorted_and_that_is_said() -> None:
    assert grew((20, 10, 10), (10, 12, 12)).grew is True
    found = grew((20, 10, 10), (10, 12, 12), same_axes=False)
    assert found.grew is False
    assert "paired by size" in found.warnings[0]
    assert grew((10, 20, 10), (20, 10, 10)).warnings == ()
    with pytest.raises(MedtailError, match="can only be paired by size if all three"):
        grew((10, None, 10), (20, 10, 10), same_axes=False)


def test_impossible_dimensions_are_refused() -> None:
    with pytest.raises(MedtailError, match="growth, old: found 2 dimensions; expected three"):
        grew((10, 10), (12, 12, 10))
    with pytest.raises(MedtailError, match="growth, new, dimension 2: found 0"):
        grew((10, 10, 10), (12, 0, 10))


DIMENSIONS = st.tuples(*[st.floats(2, 80)] * 3)


@given(DIMENSIONS, DIMENSIONS, st.permutations([0, 1, 2]))
@settings(max_examples=60, deadline=None)
def test_growth_does_not_mind_the_order_of_axes(old, new, order) -> None:  # type: ignore[no-untyped-def]
    first = grew(old, new)
    second = grew([old[i] for i in order], [new[i] for i in order])
    assert first.by_dimensions == second.by_dimensions
    assert first.volume_ratio == pytest.approx(second.volume_ratio)


@given(DIMENSIONS, DIMENSIONS)
@settings(max_examples=60, deadline=None)
def test_a_larger_nodule_never_grew_less(old, new) -> None:  # type: ignore[no-untyped-def]
    if grew(old, new).grew:
        assert grew(old, [value * 1.01 for value in new]).grew


def test_slow_growth_shows_against_the_oldest_scan() -> None:
    last, oldest = grew_since([(10, 10, 10), (11, 11, 10), (12, 12, 10)])
    assert (last.grew, oldest.grew) == (False, True)
    with pytest.raises(MedtailError, match="found 1 scans"):
        grew_since([(10, 10, 10)])


@pytest.mark.parametrize(
    ("level", "followed", "years"),
    [("TR3", 0, 1), ("TR3", 1, 2), ("TR3", 3, 2), ("TR4", 0, 1), ("TR4", 1, 1), ("TR4", 2, 1), ("TR4", 3, 2),
     ("TR5", 0, 1), ("TR5", 4, 1), ("TR4", 2.8, 1), ("TR3", 1.5, 2)],
)  # fmt: skip
def test_the_schedule(level: str, followed: float, years: int) -> None:
    assert next_scan(level, years_followed=followed).in_years == years


def test_a_risen_level_is_scanned_in_a_year() -> None:
    assert next_scan("TR4", years_followed=3, level_before="TR3").in_years == 1
    assert next_scan("TR4", years_followed=3, level_before="TR4").in_years == 2
    assert next_scan("TR4", years_followed=3, level_before="TR5").in_years == 2
    assert next_scan("TR4", years_followed=7, level_before="TR3").in_years == 1


def test_unchanged_at_five_years_stops() -> None:
    stopped = next_scan("TR5", years_followed=5, grew=False)
    assert (stopped.in_years, stopped.why) == (None, "size unchanged at 5 years: following may stop")
    for growing in (True, None):
        assert "keep following" in next_scan("TR5", years_followed=5, grew=growing).why
    assert next_scan("TR2", years_followed=0).in_years is None


@given(st.sampled_from(["TR3", "TR4", "TR5"]), st.floats(0, 10))
def test_no_interval_is_under_a_year(level: str, followed: float) -> None:
    found = next_scan(level, years_followed=followed).in_years
    assert found is None or found >= 1


def test_wrong_levels_and_years_are_refused() -> None:
    with pytest.raises(MedtailError, match="category 'TR9'"):
        next_scan("TR9", years_followed=1)
    with pytest.raises(MedtailError, match="category 'TR0'"):
        next_scan("TR4", years_followed=1, level_before="TR0")
    with pytest.raises(MedtailError, match="expected years >= 0"):
        next_scan("TR4", years_followed=-1)


def finding(foci: str, size: float | None) -> Finding:
    words = {"composition": "solid", "echogenicity": "hypo", "shape": "wider", "margin": "smooth"}
    return grade(parse_reading(**words, foci=foci, size_mm=size))


def test_two_needles_and_four_to_follow() -> None:
    nodules = [finding("none", 40), finding("punctate", 11), finding("none", 16), finding("none", 11),
               finding("none", 12), finding("none", 13), finding("none", 14), finding("none", None)]  # fmt: skip
    found = plan(nodules)
    assert found.fna == (1, 0)  # most points first, then size
    assert found.follow == (2, 6, 5, 4)  # a third that qualifies for a needle is followed first
    assert "lymph nodes" in found.note
    assert plan([]).fna == ()
    with pytest.raises(MedtailError, match="found a finding of EU-TIRADS 2017"):
        plan([grade(replace(nodules[0].reading), system="eu")])
