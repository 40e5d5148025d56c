from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medtail.errors import MedtailError
from medtail.lexicons.descriptors import EXCLUSIVE, GROUPS, Composition, Echogenicity, Focus, group_values
from medtail.lexicons.parsing import parse_reading


@pytest.mark.parametrize("group", EXCLUSIVE)
def test_every_value_is_read_in_any_case(group: str) -> None:
    for member in EXCLUSIVE[group]:
        for written in (str(member), str(member).upper(), str(member).replace("_", " "), str(member).replace("_", "-")):
            assert getattr(parse_reading(**{group: f" {written} "}), group) is member


@given(st.sets(st.sampled_from(list(Focus))), st.sampled_from([";", ", ", " + ", "&"]))
@settings(max_examples=40, deadline=None)
def test_foci_are_read_in_any_order_and_with_any_separator(foci: set[Focus], separator: str) -> None:
    words = separator.join(foci) if foci else "None"
    assert parse_reading(foci=words).foci == foci
    assert parse_reading(foci=[str(focus) for focus in foci] or ["none"]).foci == foci


def test_nothing_given_is_missing_and_none_is_not() -> None:
    assert parse_reading().missing == ("composition", "echogenicity", "shape", "margin", "foci")
    assert parse_reading(composition="", foci=" ").missing == ("composition", "echogenicity", "shape", "margin", "foci")
    assert parse_reading(foci="none").foci == frozenset()


def test_every_mistake_is_named_at_once() -> None:
    with pytest.raises(MedtailError) as caught:
        parse_reading(composition="solidd", echogenicity="hypoechoic", shape="solid", margin="smooth;ete",
                      foci="none;rim", size_mm="1.2 cm", rim_extrusion="perhaps", where="table.csv, row 7")  # fmt: skip
    lines = str(caught.value).splitlines()
    assert len(lines) == 7
    assert all(line.startswith("table.csv, row 7, ") for line in lines)
    for words in ("did you mean 'solid'?", "did you mean 'hypo'?", "it belongs to composition",
                  "2 values of an exclusive group; expected one", "found 'none' beside rim",
                  "centimetres in size_cm", "found 'perhaps'; expected yes or no"):  # fmt: skip
        assert any(words in line for line in lines), words


@pytest.mark.parametrize("written", ["solid;mixed", "solid, mixed", "solid + mixed", "solid/mixed", "solid&hypoechoic"])
def test_two_values_of_an_exclusive_group_are_refused(written: str) -> None:
    expected = "unknown" if "hypo" in written else "2 values of an exclusive group"
    with pytest.raises(MedtailError, match=f"composition: found .*{expected}"):
        parse_reading(composition=written)


def test_undetermined_is_a_value_of_three_groups_only() -> None:
    found = parse_reading(composition="undetermined", echogenicity="undetermined", margin="undetermined")
    assert found.composition is Composition.UNDETERMINED
    assert found.echogenicity is Echogenicity.UNDETERMINED
    with pytest.raises(MedtailError, match="shape: found 'undetermined', unknown"):
        parse_reading(shape="undetermined")
    with pytest.raises(MedtailError, match="foci are seen or not"):
        parse_reading(foci="undetermined")


def test_centimetres_must_be_named() -> None:
    assert parse_reading(size_cm=1.2).size_mm == pytest.approx(12.0)
    assert parse_reading(size_cm="1.2", size_mm="").size_mm == pytest.approx(12.0)
    with pytest.raises(MedtailError, match=r"size_cm: found 1.2 beside size_mm 12; give one of the two"):
        parse_reading(size_cm=1.2, size_mm=12)
    with pytest.raises(MedtailError, match=r"size_cm: 25 cm is 250.0; expected 0 < size <= 200 mm"):
        parse_reading(size_cm=25)
    with pytest.raises(MedtailError, match="size_cm: found 'x', no number"):
        parse_reading(size_cm="x")


@pytest.mark.parametrize(
    ("written", "expected"), [("yes", True), ("0", False), ("", False), (True, True), ("TRUE", True)]
)
def test_rim_extrusion_is_yes_or_no(written: str | bool, expected: bool) -> None:
    assert parse_reading(rim_extrusion=written).rim_extrusion is expected


def test_what_a_reading_says_can_be_read_again() -> None:
    for made in group_values("composition"):
        for echo in group_values("echogenicity"):
            first = parse_reading(composition=made, echogenicity=echo, shape="taller", margin="ete", foci="rim + macro")
            again = parse_reading(**{group: first.text(group) for group in GROUPS})
            assert again == first
