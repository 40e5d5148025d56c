"""The bibliography: read `references.bib` and write the entries of the methods a run used.

Docstrings cite papers by key; a report prints exactly the ones behind its numbers. The file keeps to a small part
of BibTeX (UTF-8, braces, no commands), so a reader of fifty lines is enough and needs no LaTeX.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import final

from medtail.errors import MedtailError, Problems, did_you_mean

NEEDED = ("author", "title", "year")
KEY = re.compile(r"[a-z]+(19|20)\d\d[a-z]?")
AUTHORS_SHOWN = 6


@final
@dataclass(frozen=True)
class Entry:
    """One paper, book or data set.

    Attributes:
        key: How docstrings cite it, such as `cui2019`.
        kind: The BibTeX type, such as `article`.
        fields: Lower-case field names and their values, without braces.
    """

    key: str
    kind: str
    fields: Mapping[str, str]


def parse_bib(text: str, *, name: str = "references.bib") -> dict[str, Entry]:
    """Read BibTeX text.

    Args:
        text: Entries `@kind{key, field = {value}, …}`; anything outside entries is a comment.
        name: What to call the text in messages.

    Returns:
        Key → entry, in the text's order.

    Raises:
        MedtailError: Every mistake at once: braces that do not close, LaTeX commands, repeated or odd keys, an
            entry without author, title or year.

    Example:
        >>> parse_bib("@article{cui2019, author = {Cui, Yin}, title = {A {Title}}, year = {2019}}")["cui2019"].fields
        {'author': 'Cui, Yin', 'title': 'A Title', 'year': '2019'}
    """
    problems = Problems(name)
    entries: dict[str, Entry] = {}
    for match in re.finditer(r"^@(\w+)\s*\{\s*([^,\s]+)\s*,", text, flags=re.MULTILINE):
        kind, key = match[1].lower(), match[2]
        body = _braced(text, match.end())
        if body is None or re.search(r"^@", body, flags=re.MULTILINE):
            problems.add(f"entry {key!r}: its braces do not close.")
            continue
        fields = _fields(body)
        missing = [needed for needed in NEEDED if needed not in fields]
        if missing:
            problems.add(f"entry {key!r}: has no {', '.join(missing)}.")
        if not KEY.fullmatch(key):
            problems.add(f"entry {key!r}: expected a key such as 'cui2019' (first author, year).")
        if key in entries:
            problems.add(f"entry {key!r}: stands twice.")
        if "\\" in body:
            problems.add(f"entry {key!r}: holds a LaTeX command; write the character itself (é, ł, –).")
        entries[key] = Entry(key, kind, fields)
    problems.raise_if_any()
    return entries


def _braced(text: str, start: int) -> str | None:
    """Return the text from start up to the brace that closes the one before it, or None."""
    depth = 1
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start:position]
    return None


def _fields(body: str) -> dict[str, str]:
    fields = {}
    position = 0
    while match := re.compile(r"\s*(\w+)\s*=\s*\{").search(body, position):
        value = _braced(body, match.end()) or ""
        fields[match[1].lower()] = " ".join(value.replace("{", "").replace("}", "").split())
        position = match.end() + len(value) + 1
    return fields


@cache
def bibliography() -> Mapping[str, Entry]:
    """Return the packaged bibliography, key → entry.

    Example:
        >>> bibliography()["cui2019"].fields["year"]
        '2019'
    """
    return parse_bib(files("medtail").joinpath("references.bib").read_text(encoding="utf-8"))


def find_entry(key: str) -> Entry:
    """Return the packaged entry of a key.

    Raises:
        MedtailError: No such key.
    """
    known = bibliography()
    if key not in known:
        raise MedtailError(f"references.bib: no entry {key!r}{did_you_mean(key, known)}")
    return known[key]


def format_entry(entry: Entry) -> str:
    """Write an entry as one line of plain text: authors, title, where, year, identifier.

    Example:
        >>> print(format_entry(bibliography()["lipton2014"]))
        Lipton ZC, Elkan C, Naryanaswamy B. Optimal Thresholding of Classifiers to Maximize F1 Measure. \
Machine Learning and Knowledge Discovery in Databases (ECML PKDD), 2014. arXiv:1402.1892
    """
    fields = entry.fields
    where = fields.get("journal") or fields.get("booktitle") or fields.get("publisher") or ""
    number = fields.get("volume", "") + (f"({fields['number']})" if "number" in fields else "")
    if number and fields.get("pages"):
        number += ":" + fields["pages"]
    elif fields.get("pages"):
        number = "pp. " + fields["pages"]
    place = ", ".join(part for part in (where, number, fields["year"]) if part)
    tail = [f"doi:{fields['doi']}"] if "doi" in fields else []
    tail += [f"arXiv:{fields['eprint']}"] if "eprint" in fields else []
    tail += [fields["note"]] if "note" in fields else []
    return " ".join([f"{_authors(fields['author'])}. {fields['title']}. {place}.", ". ".join(tail)]).strip()


def _authors(text: str) -> str:
    names = [part.strip() for part in text.split(" and ")]
    shown = [_initials(name) for name in names if name != "others"]
    if len(shown) > AUTHORS_SHOWN or "others" in names:
        return ", ".join(shown[:AUTHORS_SHOWN]) + ", et al"
    return ", ".join(shown)


def _initials(name: str) -> str:
    family, _, given = name.partition(", ")
    # "Tsung-Yi" and "Quoc V." become TY and QV
    letters = "".join(part[0] for part in re.split(r"[\s-]+", given) if part)
    return f"{family} {letters}".strip()


def format_references(keys: Sequence[str]) -> list[str]:
    """Write the entries of some keys, sorted by author and year, each once.

    A key without an entry is printed as such: a report that took an hour to earn must not fail over a citation,
    nor silently drop one.
    """
    known = bibliography()
    asked = list(dict.fromkeys(keys))
    lines = sorted((format_entry(known[key]) for key in asked if key in known), key=str.casefold)
    return lines + [f"{key} (no entry in references.bib)" for key in asked if key not in known]
