from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medtail.errors import MedtailError, UsageError
from medtail.lexicons.descriptors import GROUPS, Composition, Focus, IncompleteReadingError, Margin, contradictions
from medtail.lexicons.grading import bounds, check_level, grade, what_would_change
from medtail.lexicons.parsing import parse_reading
from medtail.lexicons.states import AXES, all_readings
from medtail.lexicons.systems import LEXICONS, SYSTEMS, System

STATES = all_readings()
NODULE = parse_reading(
    composition="solid", echogenicity="hypo", shape="wider", margin="smooth", foci="punctate", size_mm=12
)


def test_a_finding_carries_system_version_and_reading() -> None:
    found = grade(NODULE)
    assert (found.system, found.version, found.reading) == ("acr", "ACR TI-RADS 2017", NODULE)
    assert (found.category, found.score) == ("TR5", 7)
    assert dict(found.parts) == {"composition": 2, "echogenicity": 2, "shape": 0, "margin": 0, "foci": 3}
    assert found.level is not None
    assert found.level.words == "highly suspicious"
    assert found.advice is not None
    assert str(found.advice.action) == "FNA"
    assert [grade(NODULE, system=system).version for system in SYSTEMS[1:]] == [
        "C-TIRADS 2020", "EU-TIRADS 2017", "K-TIRADS 2021",
    ]  # fmt: skip


def test_scores_are_for_counting_systems_only() -> None:
    assert [grade(NODULE, system=system).score for system in SYSTEMS] == [7, 2, None, None]
    assert dict(grade(NODULE, system="c").parts)["foci"] == 1
    assert grade(NODULE, system="eu").parts == {}


def test_no_size_means_no_advice() -> None:
    for system in SYSTEMS:
        found = grade(replace(NODULE, size_mm=None), system=system)
        assert found.category is not None
        assert found.advice is None


def test_no_category_means_no_advice_either() -> None:
    found = grade(replace(NODULE, echogenicity=parse_reading(echogenicity="undetermined").echogenicity), system="k")
    assert (found.category, found.level, found.advice) == (None, None, None)
    assert any("needs the echogenicity" in warning for warning in found.warnings)


def test_ignored_points_are_listed() -> None:
    found = grade(replace(NODULE, composition=Composition.SPONGIFORM, margin=Margin.ETE))
    assert (found.category, found.score) == ("TR1", 0)
    assert found.why == "0 points: spongiform stops the count; ignored: echogenicity 2, margin 3, foci 3"
    assert any("reconsider spongiform" in warning for warning in found.warnings)


def test_options_reach_the_rules() -> None:
    cyst = replace(NODULE, composition=Composition.CYSTIC)
    assert grade(cyst).category == "TR4"
    assert grade(cyst, cystic_stops=True).category == "TR1"
    mixed = replace(NODULE, composition=Composition.MIXED)
    found = [grade(mixed, system="k", k4_threshold_mm=limit).advice for limit in (10.0, 15.0)]
    assert [str(advice.action) for advice in found if advice] == ["FNA", "NONE"]


def test_versions_and_missing_groups_are_refused() -> None:
    with pytest.raises(UsageError, match="version '2018': not implemented"):
        grade(NODULE, version="2018")
    assert grade(NODULE, version="2017").category == "TR5"
    with pytest.raises(IncompleteReadingError, match="C-TIRADS 2020, margin: not given"):
        grade(replace(NODULE, margin=None), system="c")


@given(st.sampled_from(STATES), st.sets(st.sampled_from(GROUPS)), st.sampled_from(SYSTEMS))
@settings(max_examples=150, deadline=None)
def test_bounds_contain_every_completion(reading, hidden, system) -> None:  # type: ignore[no-untyped-def]
    """The reading drawn is itself a completion of what is left of it."""
    partial = replace(reading, **dict.fromkeys(hidden))
    found, rules = bounds(partial, system=system), LEXICONS[system]
    category = grade(reading, system=system).category
    if category is None:
        assert found.can_be_undefined
    else:
        assert found.low is not None
        assert found.high is not None
        assert rules.names.index(found.low) <= rules.names.index(category) <= rules.names.index(found.high)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("group", GROUPS)
def test_bounds_are_reached(system: System, group: str) -> None:
    values = dict(zip(GROUPS, AXES, strict=True))[group]
    for reading in STATES[::151]:
        completions = {grade(replace(reading, **{group: value}), system=system).category for value in values}
        found = bounds(replace(reading, **{group: None}), system=system)
        named = sorted((category for category in completions if category), key=LEXICONS[system].names.index)
        assert (found.low, found.high) == ((named[0], named[-1]) if named else (None, None))
        assert found.can_be_undefined == (None in completions)


def test_bounds_of_a_complete_reading_are_its_category() -> None:
    assert bounds(NODULE).text == "TR5"
    assert bounds(parse_reading()).text == "TR1 to TR5"
    assert bounds(parse_reading(), system="eu").text == "2 to 5 or undefined"
    assert bounds(parse_reading(composition="solid", echogenicity="anechoic"), system="k").text == "undefined"


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_change_comes_out_as_it_says(system: System) -> None:
    for reading in STATES[::211]:
        sized = replace(reading, size_mm=12.0)
        found = grade(sized, system=system)
        for change in what_would_change(found):
            if change.group == "size":
                continue
            value = frozenset() if change.group == "foci" else None
            if change.group == "foci":
                value = frozenset(Focus(word) for word in change.other.split(" + ") if word != "none")
            else:
                value = type(getattr(sized, change.group))(change.other)
            then = grade(replace(sized, **{change.group: value}), system=system)
            assert (then.category, then.score) == (change.category, change.score)
            assert then.category != found.category or str(then.advice and then.advice.action) != str(
                found.advice and found.advice.action
            )


def test_changes_into_contradictions_are_left_out() -> None:
    found = grade(NODULE)
    for change in what_would_change(found):
        if change.group == "echogenicity":
            assert change.other != "anechoic"
    assert contradictions(NODULE) == ()


def test_the_sizes_at_which_advice_changes_stand_last() -> None:
    found = what_would_change(grade(NODULE))
    sizes = [(change.other, str(change.advice and change.advice.action)) for change in found if change.group == "size"]
    assert sizes == [("below 5 mm", "NONE"), ("below 10 mm", "FOLLOW")]
    assert [change.group for change in found][-2:] == ["size", "size"]
    unsized = what_would_change(grade(replace(NODULE, size_mm=None), system="eu"))
    sizes = [
        (change.other, str(change.advice and change.advice.action)) for change in unsized if change.group == "size"
    ]
    assert sizes == [("above 10 mm", "FNA")]
    at_limit = what_would_change(grade(replace(NODULE, size_mm=10.0), system="eu"))
    assert [change.other for change in at_limit if change.group == "size"] == ["above 10 mm"]


def test_levels_are_checked() -> None:
    assert check_level("tr5") == "TR5"
    assert check_level("6", system="c") == "6"
    with pytest.raises(MedtailError, match="ACR TI-RADS 2017, category 'TR6': no such category; expected TR1, TR2"):
        check_level("TR6")
