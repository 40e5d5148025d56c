from __future__ import annotations

import numpy as np
import pytest

from medtail.errors import MedtailError
from medtail.lexicons import birads
from medtail.lexicons.birads import (
    ANY_OF,
    CATEGORIES,
    ONE_OF,
    SYNONYMS,
    band,
    consistency,
    parse_category,
    sort_key,
    validate,
)


def test_there_is_no_point_rule() -> None:
    assert not hasattr(birads, "category")


@pytest.mark.parametrize("group", [*ONE_OF, *ANY_OF])
def test_every_term_is_read_in_any_case(group: str) -> None:
    for term in (*ONE_OF.get(group, ()), *ANY_OF.get(group, ())):
        value = getattr(validate({group: term.upper().replace("_", " ")}), group)
        assert value == (term if group in ONE_OF else frozenset({term}))


VOCABULARY = {
    "tissue": 3, "shape": 3, "orientation": 2, "echo": 6, "posterior": 4, "vascularity": 3, "elasticity": 3,
    "margin": 5, "calcifications": 3, "associated": 5, "special": 9,
}  # fmt: skip


def test_the_vocabulary_is_whole() -> None:
    assert {group: len(terms) for group, terms in {**ONE_OF, **ANY_OF}.items()} == VOCABULARY


def test_every_mistake_is_named_at_once() -> None:
    with pytest.raises(MedtailError) as caught:
        validate({"shape": "oval; round", "margin": ["circumscribed", "spiculated"], "echo": "hypo", "colour": "red",
                  "posterior": "parallel", "orientation": "paralel"}, where="row 3")  # fmt: skip
    lines = str(caught.value).splitlines()
    assert all(line.startswith("row 3, ") for line in lines)
    for words in ("group 'colour': unknown", "shape: found oval and round, 2 terms of an exclusive group",
                  "margin: found circumscribed beside spiculated",
                  "echo: found 'hypo', unknown; did you mean 'hypoechoic'?",
                  "posterior: found 'parallel', unknown; it belongs to orientation",
                  "orientation: found 'paralel', unknown; did you mean 'parallel'?"):  # fmt: skip
        assert any(words in line for line in lines), words
    assert len(lines) == 6


def test_synonyms_lead_to_terms() -> None:
    terms = {term for group in (ONE_OF, ANY_OF) for values in group.values() for term in values}
    assert set(SYNONYMS.values()) <= terms
    assert not set(SYNONYMS) & terms


def test_margins_other_than_circumscribed_combine() -> None:
    assert validate({"margin": "indistinct; angular"}).margin == {"indistinct", "angular"}
    assert validate({}).has_mass is False
    assert validate({"margin": None, "special": "lymph_nodes"}).has_mass is False


@pytest.mark.parametrize(
    ("probability", "expected"),
    [(0.0, "3 or lower"), (0.02, "3 or lower"), (0.0201, "4A"), (0.10, "4A"), (0.1001, "4B"), (0.50, "4B"),
     (0.5001, "4C"), (0.9499, "4C"), (0.95, "5"), (1.0, "5")],
)  # fmt: skip
def test_every_band(probability: float, expected: str) -> None:
    assert band(probability).tolist() == [expected]


def test_bands_are_monotone_and_never_0_1_2_or_6() -> None:
    found = band(np.linspace(0, 1, 2001)).tolist()
    order = ["3 or lower", "4A", "4B", "4C", "5"]
    assert [order.index(name) for name in found] == sorted(order.index(name) for name in found)
    assert set(found) == set(order)


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan")])
def test_bands_are_of_probabilities(wrong: float) -> None:
    with pytest.raises(MedtailError, match=r"BI-RADS band, row 1: found .*expected a probability in \[0, 1\]"):
        band(np.array([0.5, wrong]))


TABLE = {
    "0": ("", "more imaging"), "1": ("about 0", "routine"), "2": ("about 0", "routine"),
    "3": ("> 0 to <= 2 %", "short interval (6 months)"), "4": ("> 2 to < 95 %", "tissue diagnosis"),
    "4A": ("> 2 to <= 10 %", "tissue diagnosis"), "4B": ("> 10 to <= 50 %", "tissue diagnosis"),
    "4C": ("> 50 to < 95 %", "tissue diagnosis"), "5": (">= 95 %", "tissue diagnosis"),
    "6": ("proven", "excision when appropriate"),
}  # fmt: skip


def test_what_categories_mean() -> None:
    assert {name: (entry.likelihood, entry.management) for name, entry in CATEGORIES.items()} == TABLE
    assert [name for name, entry in CATEGORIES.items() if not entry.is_ordinal] == ["0", "6"]


def test_categories_are_read_sorted_and_refused() -> None:
    assert [parse_category(text) for text in ("4a", " 5 ", "4", "0")] == ["4A", "5", "4", "0"]
    names = ["0", "1", "2", "3", "4", "4A", "4B", "4C", "5", "6"]
    assert sorted(["6", "4B", "0", "5", "4", "4A", "2", "4C", "1", "3"], key=sort_key) == names
    assert parse_category("4") != parse_category("4A")
    for wrong in ("4D", "7", "", "TR4"):
        with pytest.raises(MedtailError, match=f"BI-RADS category {wrong!r}: unknown; expected 0, 1, 2"):
            parse_category(wrong)


@pytest.mark.parametrize(
    ("terms", "category", "words"),
    [
        ({"margin": "spiculated"}, "2", "category 2 with a spiculated margin"),
        ({"margin": "angular"}, "3", "category 3 with an angular margin"),
        ({"shape": "irregular", "echo": "hypoechoic"}, "2", "category 2 with a solid irregular mass"),
        ({"shape": "irregular", "echo": "hypoechoic"}, "3", "category 3 with irregular shape"),
        ({"orientation": "not_parallel", "echo": "isoechoic"}, "3", "category 3 with not parallel"),
        ({"margin": "microlobulated", "echo": "isoechoic"}, "3", "category 3 with microlobulated margin"),
        ({"shape": "oval"}, "1", "category 1"),
        ({"special": "simple_cyst"}, "4", "for a simple cyst, which is benign"),
        ({"shape": "oval", "margin": "circumscribed"}, "5", "category 5 for an oval circumscribed mass"),
    ],
)
def test_categories_that_do_not_fit_are_warned_of(terms: dict[str, str], category: str, words: str) -> None:
    found = consistency(validate(terms), category)
    assert len(found) == 1
    assert words in found[0]


@pytest.mark.parametrize(
    ("terms", "category"),
    [
        ({"shape": "oval", "orientation": "parallel", "margin": "circumscribed", "echo": "hypoechoic"}, "3"),
        ({"special": "simple_cyst", "shape": "irregular", "echo": "anechoic"}, "2"),
        ({"margin": "spiculated", "shape": "irregular", "echo": "hypoechoic"}, "5"),
        ({"margin": "spiculated"}, "0"),
        ({}, "1"),
        ({"shape": "irregular"}, "6"),
    ],
)
def test_what_fits_is_not_warned_of(terms: dict[str, str], category: str) -> None:
    assert consistency(validate(terms), category) == ()


def test_consistency_refuses_categories_that_do_not_exist() -> None:
    with pytest.raises(MedtailError, match="'4D'"):
        consistency(validate({}), "4D")
