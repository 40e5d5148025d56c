from __future__ import annotations

from markupsafe import Markup

from medtail.reporting.section_page import PageTable, Picture, Section, write_section_page


def test_sections_tables_and_pictures_are_on_the_page_and_words_are_escaped(tmp_path):
    table = PageTable("Numbers", ("class", "value"), (("a <b>", "1"), ("c", "2\nunder")), (0,), "less is < more")
    picture = Picture(Markup('<img src="data:," alt="x">'), "a caption")
    section = Section("one", "First & last", ("words",), (table,), (picture,), (picture,))
    page = write_section_page(
        tmp_path / "p.html",
        kicker="kind",
        title="T",
        lede="lede",
        sections=[section],
        cautions=["take care"],
        references=("naeem2020", "naeem2020"),
    )
    text = page.read_text(encoding="utf-8")
    for part in ("First &amp; last", "a &lt;b&gt;", "less is &lt; more", "a caption", "take care", 'id="h-one"'):
        assert part in text
    assert text.count('<img src="data:,"') == 2
    assert text.count("Reliable Fidelity") == 1
    assert "image-rendering: pixelated" in text
    assert '<span class="under">under</span>' in text
    assert "default-src &#39;none&#39;" in text
    assert "<link" not in text


def test_without_references_there_is_no_list_of_them(tmp_path):
    page = write_section_page(tmp_path / "p.html", kicker="k", title="t", lede="l", sections=[], cautions=["c"])
    assert 'id="references"' not in page.read_text(encoding="utf-8")
