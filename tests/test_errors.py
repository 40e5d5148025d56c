from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtail.errors import MedtailError, Problems, UsageError, did_you_mean, listing


def test_errors_are_value_errors_so_that_plain_callers_catch_them():
    assert issubclass(MedtailError, ValueError)
    assert issubclass(UsageError, MedtailError)


@pytest.mark.parametrize(
    ("written", "known", "meant"),
    [
        ("gama", ["gamma", "beta"], "gamma"),
        ("GAMMA", ["gamma", "beta"], "gamma"),
        ("Patient ID", ["patient_id", "path"], "patient_id"),
        ("patient-id", ["patientxid", "patient_id"], "patient_id"),
        ("Plueral Thickening", ["Pleural_Thickening", "Pneumonia"], "Pleural_Thickening"),
    ],
)
def test_nearest_name_is_proposed_whatever_its_case_spaces_and_hyphens(written, known, meant):
    assert did_you_mean(written, known) == f"; did you mean {meant!r}?"


@pytest.mark.parametrize("known", [[], ["entirely", "different"]])
def test_nothing_is_proposed_where_nothing_is_near(known):
    assert did_you_mean("zzz", known) == ""


def test_of_names_that_differ_only_by_case_the_first_is_proposed():
    assert did_you_mean("hernia!", ["Hernia", "hernia"]) == "; did you mean 'Hernia'?"


@given(name=st.text(max_size=20), known=st.lists(st.text(max_size=20), max_size=5))
def test_a_proposal_is_always_one_of_the_known_names(name, known):
    hint = did_you_mean(name, known)
    assert hint == "" or any(hint == f"; did you mean {candidate!r}?" for candidate in known)


def test_listing_shows_the_limit_and_counts_the_rest():
    assert listing(range(5)) == "0, 1, 2, 3, 4"
    assert listing(range(6)) == "0, 1, 2, 3, 4 and 1 more"
    assert listing([]) == ""


def test_no_mistake_raises_nothing():
    problems = Problems("table.csv")
    problems.raise_if_any()
    assert len(problems) == 0
    assert problems.text() == ""


def test_every_mistake_is_named_with_its_place():
    problems = Problems("table.csv")
    problems.add("row 2: wrong")
    problems.add("row 3: wrong too")
    with pytest.raises(MedtailError) as caught:
        problems.raise_if_any()
    assert str(caught.value) == "table.csv, row 2: wrong\ntable.csv, row 3: wrong too"
    assert type(caught.value) is MedtailError


def test_the_kind_of_error_is_the_callers_choice():
    problems = Problems("run.yaml")
    problems.add("loss.gama: unknown key")
    with pytest.raises(UsageError, match=r"run\.yaml, loss\.gama: unknown key"):
        problems.raise_if_any(kind=UsageError)


@pytest.mark.parametrize(
    ("count", "last"), [(20, "t, m19"), (21, "t: and 1 more mistake"), (523, "t: and 503 more mistakes")]
)
def test_twenty_mistakes_are_shown_and_the_rest_counted(count, last):
    problems = Problems("t")
    for number in range(count):
        problems.add(f"m{number}")
    lines = problems.text().splitlines()
    assert lines[:20] == [f"t, m{number}" for number in range(20)]
    assert lines[-1] == last
    assert len(lines) == min(count, 21)
