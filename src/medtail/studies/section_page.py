"""A page of sections: words, tables and figures in one self-contained HTML file, for studies with their own page."""

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
from medtail.studies.grids import Grid
from medtail.studies.page import Picture

if TYPE_CHECKING:
    from jinja2 import Template


@final
@dataclass(frozen=True)
class PageGrid:
    """A table of words, and which of its columns are sentences."""

    grid: Grid
    texts: tuple[int, ...] = ()

    @property
    def title(self) -> str:
        """Above it."""
        return self.grid.title

    @property
    def note(self) -> str:
        """Below it."""
        return self.grid.note

    @property
    def columns(self) -> tuple[str, ...]:
        """Headings."""
        return self.grid.columns

    @property
    def rows(self) -> tuple[tuple[str, ...], ...]:
        """Cells."""
        return self.grid.rows


@final
@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        key: Its anchor.
        title: Its heading.
        words: Paragraphs.
        grids: Tables.
        pictures: Wide figures, one below another.
        panels: Small figures, side by side.
    """

    key: str
    title: str
    words: tuple[str, ...] = ()
    grids: tuple[PageGrid, ...] = ()
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
    style = packaged("report.css") + packaged("comparison.css") + packaged("study.css")
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
