from __future__ import annotations

import math
from dataclasses import replace

import pytest

from medtail.challenges.thyro_lmd_labels import GROUPS as PROTOCOL_GROUPS
from medtail.challenges.thyro_lmd_labels import LABELS as PROTOCOL
from medtail.errors import MedtailError
from medtail.lexicons.descriptors import (
    EXCLUSIVE,
    GROUPS,
    LABEL_NAMES,
    LABELS,
    SYNONYMS,
    Composition,
    Echogenicity,
    Focus,
    IncompleteReadingError,
    Margin,
    Reading,
    Shape,
    checked_size,
    complete,
    contradictions,
    group_values,
    spellings,
    unknown_value,
)

WHOLE = Reading(Composition.SOLID, Echogenicity.HYPO, Shape.WIDER, Margin.SMOOTH, frozenset())


def test_the_labels_are_the_protocols_twenty() -> None:
    assert PROTOCOL.class_names == LABEL_NAMES
    assert {group: tuple(names) for group, names in PROTOCOL_GROUPS.items()} == dict(LABELS)


@pytest.mark.parametrize("group", GROUPS)
def test_every_synonym_is_offered_for_a_value_of_its_group(group: str) -> None:
    for word, meant in SYNONYMS[group].items():
        assert meant in group_values(group), word
        assert f"did you mean {meant!r}?" in unknown_value(word, group)


@pytest.mark.parametrize("group", GROUPS)
def test_a_value_is_never_an_alias_of_another(group: str) -> None:
    for value in group_values(group):
        assert spellings(group)[value] == value


@pytest.mark.parametrize(
    ("word", "group", "hint"),
    [
        ("solidd", "composition", "did you mean 'solid'?"),
        ("hypoechoic", "echogenicity", "did you mean 'hypo'?"),
        ("Markedly hypoechoic", "echogenicity", "did you mean 'very_hypo'?"),
        ("anechioc", "echogenicity", "did you mean 'anechoic'?"),
        ("taller than wide", "shape", "did you mean 'taller'?"),
        ("spiculated", "margin", "did you mean 'irregular'?"),
        ("extrathyroidal extension", "margin", "did you mean 'ete'?"),
        ("microcalcifications", "foci", "did you mean 'punctate'?"),
        ("comp_solid", "composition", "did you mean 'solid'?"),
        ("hypo", "composition", "it belongs to echogenicity."),
        ("zzz", "shape", "unknown (expected wider or taller.)"),
    ],
)
def test_an_unknown_word_is_answered_with_the_nearest_known_one(word: str, group: str, hint: str) -> None:
    said = unknown_value(word, group)
    assert said.startswith(f"found {word!r}, unknown")
    assert hint in said
    assert "expected" in said


@pytest.mark.parametrize(
    ("value", "size"),
    [(None, None), ("", None), (" ", None), ("NaN", None), (math.nan, None), (12, 12.0), ("7.5", 7.5), (200, 200.0)],
)
def test_sizes_that_are_known_or_unknown(value: object, size: float | None) -> None:
    assert checked_size(value) == (size, "")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "expected 0 < size <= 200 mm"),
        (-4, "expected 0 < size <= 200 mm"),
        (200.5, "An area or a volume?"),
        (math.inf, "expected 0 < size"),
        ("big", "found 'big', no number"),
        ("1.2 cm", "centimetres in size_cm"),
        ("12 mm", "Give the number alone"),
        (True, "found True"),
        ([12], "no number"),
    ],
)
def test_impossible_sizes_are_named(value: object, words: str) -> None:
    size, mistake = checked_size(value)
    assert size is None
    assert words in mistake


def test_a_reading_takes_only_members_of_its_groups() -> None:
    with pytest.raises(
        MedtailError, match=r"TI-RADS reading, composition: found 'solid', unknown; did you mean 'solid'"
    ):
        Reading("solid")  # type: ignore[arg-type]
    with pytest.raises(MedtailError, match=r"foci: found .*expected a frozenset of Focus"):
        Reading(foci={Focus.RIM})  # type: ignore[arg-type]
    with pytest.raises(MedtailError, match="size_mm: found -1"):
        Reading(size_mm=-1.0)
    assert Reading(size_mm=math.nan).size_mm is None


def test_undetermined_is_not_missing() -> None:
    hidden = replace(WHOLE, composition=Composition.UNDETERMINED)
    assert hidden.missing == ()
    assert complete(hidden) is hidden
    absent = replace(WHOLE, composition=None, foci=None)
    assert absent.missing == ("composition", "foci")
    with pytest.raises(IncompleteReadingError) as caught:
        complete(absent, system="ACR TI-RADS 2017")
    assert "ACR TI-RADS 2017, composition: not given; expected cystic, spongiform" in str(caught.value)
    assert "ACR TI-RADS 2017, foci: not given" in str(caught.value)
    assert "`bounds`" in str(caught.value)
    assert isinstance(caught.value, MedtailError)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"echogenicity": Echogenicity.ANECHOIC}, "anechoic in a solid nodule"),
        ({"echogenicity": Echogenicity.ANECHOIC, "composition": Composition.MIXED}, "anechoic in a mixed nodule"),
        ({"composition": Composition.SPONGIFORM, "margin": Margin.ETE}, "spongiform beside ete"),
        ({"foci": frozenset({Focus.COMET_TAIL})}, "comet_tail in a solid nodule"),
        ({"rim_extrusion": True}, "rim_extrusion without a rim"),
    ],
)
def test_contradictions_are_warned_of(change: dict[str, object], words: str) -> None:
    found = contradictions(replace(WHOLE, **change))  # type: ignore[arg-type]
    assert len(found) == 1
    assert found[0].startswith(words)


def test_what_agrees_is_not_warned_of() -> None:
    assert contradictions(WHOLE) == ()
    assert contradictions(Reading()) == ()
    assert contradictions(replace(WHOLE, foci=frozenset({Focus.RIM}), rim_extrusion=True)) == ()
    cyst = replace(WHOLE, composition=Composition.CYSTIC, echogenicity=Echogenicity.ANECHOIC,
                   foci=frozenset({Focus.COMET_TAIL}))  # fmt: skip
    assert contradictions(cyst) == ()


def test_text_names_foci_in_the_protocols_order() -> None:
    every = replace(WHOLE, foci=frozenset(Focus))
    assert every.text("foci") == "comet_tail + macro + rim + punctate"
    assert WHOLE.text("foci") == "none"
    assert Reading().text("foci") == ""
    assert [WHOLE.text(group) for group in EXCLUSIVE] == ["solid", "hypo", "wider", "smooth"]
