"""A page of sections: words, tables and pictures in one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, final

from markupsafe import Markup

from medtail.reporting.bibliography import format_references
from medtail.reporting.page import packaged, page_template, security_policy, version_of_medtail
from medtail.runs import write_text

if TYPE_CHECKING:
    from jinja2 import Template


@final
@dataclass(frozen=True)
class PageTable:
    """A table of words.

    Attributes:
        title: What it shows.
        columns: Headings.
        rows: Cells; the first of a row names it.
        texts: Columns that are sentences.
        note: Below it, "" for none.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    texts: tuple[int, ...] = ()
    note: str = ""


@final
@dataclass(frozen=True)
class Picture:
    """A picture and what to say under it.

    Attributes:
        svg: The picture's markup: a drawing, or an `img` with a data URI.
        caption: Under it.
    """

    svg: Markup
    caption: str


@final
@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        key: Its anchor.
        title: Its heading.
        words: Paragraphs.
        grids: Tables.
        pictures: Wide pictures, one below another.
        panels: Small ones, side by side.
    """

    key: str
    title: str
    words: tuple[str, ...] = ()
    grids: tuple[PageTable, ...] = ()
    pictures: tuple[Picture, ...] = ()
    panels: tuple[Picture, ...] = ()


def write_section_page(
    out: Path,
    *,
    kicker: str,
    title: str,
    lede: str,
    sections: Sequence[Section],
    cautions: Sequence[str],
    references: Sequence[str] = (),
) -> Path:
    """Write a page, atomically.

    Args:
        out: The file.
        kicker: What kind of page it is.
        title: Its title.
        lede: What it is about, in two sentences.
        sections: Its parts.
        cautions: What a reader must know.
        references: Keys of the bibliography.

    Returns:
        `out`.
    """
    style = "".join(packaged(name) for name in ("report.css", "comparison.css", "study.css", "sheets.css"))
    script = packaged("report.js")
    written = _template().render(
        kicker=kicker,
        title=title,
        lede=lede,
        version=version_of_medtail(),
        policy=security_policy(style, script),
        style=Markup(style),
        script=Markup(script),
        sections=list(sections),
        cautions=list(cautions),
        references=format_references(list(dict.fromkeys(references))),
    )
    write_text(out, written)
    return out


@cache
def _template() -> Template:
    return page_template("sections.html.j2")
