from __future__ import annotations

import numpy as np
import pytest

from medtail.errors import MedtailError, UsageError
from medtail.lexicons.systems import LEXICONS, SYSTEMS, Action, System, advice, advised_at, lexicon, systems_named


def action(level: str, size: float, system: str = "acr", **options: float) -> str:
    found = advice(level, size, system=system, **options)
    assert found is not None
    return str(found.action)


@pytest.mark.parametrize(
    ("level", "size", "expected"),
    [
        ("TR3", 14.9, "NONE"), ("TR3", 15.0, "FOLLOW"), ("TR3", 24.9, "FOLLOW"), ("TR3", 25.0, "FNA"),
        ("TR4", 9.9, "NONE"), ("TR4", 10.0, "FOLLOW"), ("TR4", 14.9, "FOLLOW"), ("TR4", 15.0, "FNA"),
        ("TR5", 4.9, "NONE"), ("TR5", 5.0, "FOLLOW"), ("TR5", 9.9, "FOLLOW"), ("TR5", 10.0, "FNA"),
        ("TR2", 60.0, "NONE"), ("TR1", 60.0, "NONE"), ("TR4", 14.9999999, "FNA"),
    ],
)  # fmt: skip
def test_every_size_limit_of_acr(level: str, size: float, expected: str) -> None:
    assert action(level, size) == expected


@pytest.mark.parametrize(
    ("system", "level", "size", "expected"),
    [
        ("eu", "3", 20.0, "NONE"), ("eu", "3", 20.1, "FNA"), ("eu", "4", 15.0, "NONE"), ("eu", "4", 15.1, "FNA"),
        ("eu", "5", 10.0, "NONE"), ("eu", "5", 10.1, "FNA"), ("eu", "2", 60.0, "NONE"),
        ("c", "4A", 14.9, "NONE"), ("c", "4A", 15.0, "FNA"), ("c", "4B", 9.9, "NONE"), ("c", "4B", 10.0, "FNA"),
        ("c", "4C", 9.9, "NONE"), ("c", "4C", 10.0, "FNA"), ("c", "5", 9.9, "NONE"), ("c", "5", 10.0, "FNA"),
        ("c", "3", 60.0, "NONE"), ("c", "2", 60.0, "NONE"),
        ("k", "5", 10.0, "NONE"), ("k", "5", 10.1, "FNA"), ("k", "4", 10.0, "NONE"), ("k", "4", 10.1, "FNA"),
        ("k", "3", 20.0, "NONE"), ("k", "3", 20.1, "FNA"), ("k", "2", 60.0, "NONE"),
    ],
)  # fmt: skip
def test_every_size_limit_of_the_others(system: str, level: str, size: float, expected: str) -> None:
    assert action(level, size, system) == expected


def test_the_limit_of_k4_is_the_sites() -> None:
    assert action("4", 14.0, "k", k4_threshold_mm=15.0) == "NONE"
    assert action("4", 15.1, "k", k4_threshold_mm=15.0) == "FNA"
    assert action("5", 14.0, "k", k4_threshold_mm=15.0) == "FNA"
    for wrong in (9.9, 15.1, float("nan")):
        with pytest.raises(UsageError, match="expected 10 to 15 mm"):
            advice("4", 12.0, system="k", k4_threshold_mm=wrong)


@pytest.mark.parametrize(
    ("system", "level", "size", "words"),
    [
        ("acr", "TR5", 5.0, "shared decision; state reproducibility"),
        ("acr", "TR5", 9.9, "trachea or nerve groove"),
        ("c", "4A", 10.1, "may be considered above 10 mm when there are several nodules"),
        ("c", "4B", 5.1, "may be considered above 5 mm"),
        ("c", "4C", 9.9, "may be considered above 5 mm"),
        ("c", "5", 5.1, "next to trachea, nerve or capsule"),
        ("eu", "5", 10.0, "FNA or surveillance"),
        ("k", "5", 5.0, "selectively from 5 to 10 mm"),
        ("k", "4", 12.0, "between 10 and 15 mm to the site; 10 mm is used"),
    ],
)
def test_what_the_guideline_adds(system: str, level: str, size: float, words: str) -> None:
    found = advice(level, size, system=system)
    assert found is not None
    assert any(words in note for note in found.notes)


@pytest.mark.parametrize(
    ("system", "level", "size"),
    [("acr", "TR5", 4.9), ("acr", "TR5", 10.0), ("acr", "TR4", 9.0), ("c", "4A", 10.0), ("c", "4A", 15.0),
     ("c", "4B", 5.0), ("eu", "5", 10.1), ("k", "5", 4.9), ("k", "4", 10.0), ("c", "3", 12.0)],
)  # fmt: skip
def test_no_note_where_the_guideline_has_none(system: str, level: str, size: float) -> None:
    found = advice(level, size, system=system)
    assert found is not None
    assert found.notes == ()


@pytest.mark.parametrize(("level", "years"), [("TR3", (1, 3, 5)), ("TR4", (1, 2, 3, 5)), ("TR5", (1, 2, 3, 4, 5))])
def test_the_schedule_comes_with_following_alone(level: str, years: tuple[int, ...]) -> None:
    follow_mm = LEXICONS["acr"].category(level).follow_mm
    followed, needled = advice(level, follow_mm), advice(level, 30.0)
    assert followed is not None
    assert needled is not None
    assert followed.scans_years == years
    assert needled.scans_years == ()


RISKS = {
    "acr": {"TR1": "<= 2 % (observed 0.3 %)", "TR2": "<= 2 % (observed 1.5 %)", "TR3": "5 % (observed 4.8 %)",
            "TR4": "5-20 % (observed 9.1 %)", "TR5": ">= 20 % (observed 35 %)"},
    "c": {"2": "0 % (observed 0 %)", "3": "< 2 % (observed 1.4 %)", "4A": "2-10 % (observed 10.6 %)",
          "4B": "10-50 % (observed 40.0 %)", "4C": "50-90 % (observed 78.0 %)", "5": "> 90 % (observed 94.6 %)"},
    "eu": {"2": "about 0 %", "3": "2-4 %", "4": "6-17 %", "5": "26-87 %"},
    "k": {"2": "< 3 %", "3": "3-10 %", "4": "10-40 %", "5": "> 60 %"},
}  # fmt: skip


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_risks_are_the_guidelines(system: System) -> None:
    assert {category.name: category.risk for category in LEXICONS[system].categories} == RISKS[system]


@pytest.mark.parametrize("system", SYSTEMS)
def test_advice_is_monotone_in_size(system: System) -> None:
    order = {"NONE": 0, "FOLLOW": 1, "FNA": 2}
    for level in LEXICONS[system].names:
        found = [order[action(level, size, system)] for size in np.arange(0.5, 60.0, 0.1)]
        assert found == sorted(found)


@pytest.mark.parametrize("system", SYSTEMS)
def test_arrays_and_single_answers_agree(system: System) -> None:
    sizes = np.concatenate([np.arange(0.5, 40.0, 0.1), [14.9999999, 15.0000001]])
    fna, follow = advised_at(system, sizes)
    assert not (fna & follow).any()
    for row, size in enumerate(sizes):
        for column, level in enumerate(LEXICONS[system].names):
            expected = action(level, float(size), system)
            assert (fna[row, column], follow[row, column]) == (expected == "FNA", expected == "FOLLOW")


def test_unknown_sizes_get_no_advice() -> None:
    assert advice("TR5", None) is None
    assert advice("TR5", float("nan")) is None
    assert advice(None, 20.0, system="eu") is None
    fna, follow = advised_at("acr", np.array([np.nan]))
    assert not fna.any()
    assert not follow.any()


@pytest.mark.parametrize("size", [0.0, -3.0, 200.1, float("inf")])
def test_impossible_sizes_are_refused(size: float) -> None:
    with pytest.raises(MedtailError, match=r"ACR TI-RADS 2017, size_mm: found .*expected 0 < size <= 200 mm"):
        advice("TR4", size)


@pytest.mark.parametrize(
    ("system", "level", "match"),
    [
        ("acr", "TR6", "ACR TI-RADS 2017, category 'TR6': no such category; did you mean 'TR[1-5]'"),
        ("c", "4D", "C-TIRADS 2020, category '4D': no such category"),
        ("c", "6", "proven malignant; it is given from outside and has no advice"),
        ("c", "1", "no nodule; it is given from outside"),
        ("eu", "1", "no nodule"),
        ("k", "4A", "K-TIRADS 2021, category '4A': no such category"),
    ],
)
def test_categories_outside_a_system_are_refused(system: str, level: str, match: str) -> None:
    with pytest.raises(MedtailError, match=match):
        advice(level, 12.0, system=system)


@pytest.mark.parametrize(
    "name", ["acr", "ACR", "ACR TI-RADS", "acr-2017", "ACR TI-RADS 2017", "acr@2017", "acr tirads"]
)
def test_a_system_goes_by_many_names(name: str) -> None:
    assert lexicon(name).system == "acr"


def test_unknown_versions_and_systems_are_refused() -> None:
    with pytest.raises(UsageError, match="ACR TI-RADS, version '2015': not implemented; known: 2017"):
        lexicon("acr-2015")
    with pytest.raises(UsageError, match="K-TIRADS, version '2016': not implemented; known: 2021"):
        lexicon("k", version="2016")
    with pytest.raises(UsageError, match=r"TI-RADS system 'kwak': unknown; expected acr \(ACR TI-RADS 2017\)"):
        lexicon("kwak")
    with pytest.raises(UsageError, match="expected acr"):
        lexicon("")
    with pytest.raises(UsageError, match="or all"):
        systems_named(" , ")


def test_several_systems_can_be_named() -> None:
    assert systems_named("all") == SYSTEMS
    assert systems_named("eu,acr-2017,eu") == ("eu", "acr")


def test_actions_read_as_text() -> None:
    assert [str(member) for member in Action] == ["FNA", "FOLLOW", "NONE"]
