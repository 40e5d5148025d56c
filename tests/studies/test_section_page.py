"""A page of sections: everything given is there, escaped, and nothing is fetched."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from medtail.studies.grids import Grid
from medtail.studies.page import Picture
from medtail.studies.section_page import PageGrid, Section, write_section_page


def test_a_page_holds_what_it_is_given_and_fetches_nothing(tmp_path: Path) -> None:
    grid = Grid("T <1>", "a note", ("class", "words", "value"), (("MTC", "said & done", "0.5\n[0.4, 0.6]"),))
    section = Section(
        "one", "First <part>", words=("Some <b>words</b>.",), grids=(PageGrid(grid, texts=(1,)),),
        pictures=(Picture(Markup("<svg></svg>"), "a wide one"),), panels=(Picture(Markup("<svg/>"), "a small one"),),
    )  # fmt: skip
    path = write_section_page(
        tmp_path / "page.html", kicker="Kind", title="A & B", lede="What it is.", sections=[section],
        cautions=["Mind <this>."], references=["holm1979", "holm1979"],
    )  # fmt: skip
    page = path.read_text(encoding="utf-8")
    for text in ("First &lt;part&gt;", "Some &lt;b&gt;words&lt;/b&gt;.", "said &amp; done", "<svg></svg>",
                 "a small one", '<span class="under">[0.4, 0.6]</span>', "Mind &lt;this&gt;.",
                 'href="#one"', "a note"):  # fmt: skip
        assert text in page, text
    assert page.count("Holm") == 1
    assert '<td class="text wrap">said &amp; done' in page
    assert "default-src &#39;none&#39;" in page
    assert "<link" not in page
    assert "src=" not in page.replace("img-src", "").replace("script-src", "").replace("style-src", "")


def test_without_references_there_is_no_list_of_them(tmp_path: Path) -> None:
    path = write_section_page(tmp_path / "p.html", kicker="k", title="t", lede="l", sections=[], cautions=["c"])
    assert 'id="references"' not in path.read_text(encoding="utf-8")
