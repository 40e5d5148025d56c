"""The bibliography: a small reader that refuses what it cannot read, and entries that are all there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from medtail.errors import MedtailError
from medtail.reporting.bibliography import bibliography, find_entry, format_entry, format_references, parse_bib

PROMISED = [
    "lin2017",
    "cui2019",
    "menon2021",
    "ren2020",
    "cao2019",
    "ridnik2021",
    "kang2020",
    "gupta2019",
    "tan2019",
    "dosovitskiy2021",
    "he2016",
    "liu2022",
    "pawlowska2024",
    "gomezflores2024",
    "wang2017",
    "holste2024",
    "lin2025",
    "efron1987",
    "efron1994",
    "saito2015",
    "naeini2015",
    "tschandl2018",
    "aldhabyani2020",
    "yang2023",
]


def test_packaged_bibliography_holds_every_promised_entry() -> None:
    assert set(PROMISED) <= set(bibliography())


def test_every_entry_can_be_found_by_its_reader() -> None:
    for key, entry in bibliography().items():
        fields = entry.fields
        note = fields.get("note", "")
        found = "doi" in fields or "eprint" in fields or "JSTOR" in note or "proceedings.mlr.press" in note
        is_chapter = "booktitle" in fields and "publisher" in fields  # a library finds it by the book
        assert found or is_chapter, f"{key}: no doi, no arXiv, JSTOR or PMLR address"
        assert fields["year"] == re.search(r"\d{4}", key)[0], key
        if "doi" in fields:
            assert re.fullmatch(r"10\.\d{4,}/\S+", fields["doi"]), key
        if "eprint" in fields:
            assert re.fullmatch(r"\d{4}\.\d{4,5}", fields["eprint"]), key


def test_key_is_the_first_author_and_names_are_written_family_first() -> None:
    plain = str.maketrans("łóéąćżęśńäöü", "loeaczesnaou")
    for key, entry in bibliography().items():
        family = entry.fields["author"].split(",")[0].lower().translate(plain)
        assert re.sub(r"[^a-z]", "", family) == re.match(r"[a-z]+", key)[0]
        assert all("," in name or name == "others" for name in entry.fields["author"].split(" and "))


def test_every_key_cited_in_a_docstring_has_an_entry() -> None:
    source = Path(__file__).resolve().parents[2] / "src" / "medtail"
    missing = []
    for path in sorted(source.rglob("*.py")):
        for block in re.findall(r"\n +References:\n((?: {4,}\S.*\n)+)", path.read_text(encoding="utf-8")):
            cited = re.findall(r"\b[a-z]+(?:19|20)\d\d[a-z]?\b", block.split('"""')[0])
            missing += [f"{path.name}: {key}" for key in cited if key not in bibliography()]
    assert missing == []


def test_entry_is_written_with_authors_place_and_identifier() -> None:
    assert format_entry(find_entry("gomezflores2024")) == (
        "Gómez-Flores W, Gregorio-Calas MJ, Coelho de Albuquerque Pereira W. BUS-BRA: A Breast Ultrasound Dataset for "
        "Assessing Computer-Aided Diagnosis Systems. Medical Physics, 51(4):3110–3123, 2024. doi:10.1002/mp.16812"
    )


def test_long_author_lists_end_in_et_al() -> None:
    assert "Heigold" not in format_entry(find_entry("dosovitskiy2021"))
    assert ", et al." in format_entry(find_entry("dosovitskiy2021"))
    assert ", et al." in format_entry(find_entry("holste2024"))


def test_references_are_sorted_listed_once_and_never_silently_dropped() -> None:
    lines = format_references(["saito2015", "cui2019", "saito2015", "nobody1900"])
    assert [line.split()[0] for line in lines] == ["Cui", "Saito", "nobody1900"]
    assert lines[-1] == "nobody1900 (no entry in references.bib)"


def test_unknown_key_names_the_nearest() -> None:
    with pytest.raises(MedtailError, match=r"no entry 'cui2018'; did you mean 'cui2019'"):
        find_entry("cui2018")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("@book{a2020, title = {T}, year = {2020}}", "entry 'a2020': has no author"),
        ("@book{A-2020, author = {A, B}, title = {T}, year = {2020}}", "entry 'A-2020': expected a key such as"),
        (r"@book{a2020, author = {Caf{\'e}, B}, title = {T}, year = {2020}}", "holds a LaTeX command"),
        ("@book{a2020, author = {A, B}, title = {T, year = {2020}}", "its braces do not close"),
        ("@book{a2020, author = {A, B}, title = {T}, year = {2020}}\n" * 2, "stands twice"),
    ],
)
def test_mistakes_are_named(text: str, message: str) -> None:
    with pytest.raises(MedtailError, match=re.escape(message)):
        parse_bib(text, name="x.bib")


def test_all_mistakes_come_at_once() -> None:
    with pytest.raises(MedtailError, match=r"(?s)a2020.*b2020"):
        parse_bib("@book{a2020, title = {T}}\n@book{b2020, title = {T}}")
