"""Many readings at once: a table of words or of twenty labels in, levels and advice out, every bad row named.

A bad row never stops the others: it is left out of the results and every mistake in it is a row of the table of errors.
Each distinct reading goes through the rule engine once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any, final

import numpy as np
import pandas as pd

from medtail.errors import MedtailError, Problems, did_you_mean, listing
from medtail.lexicons.descriptors import (
    CAN_BE_UNDETERMINED,
    GROUPS,
    LABELS,
    PREFIXES,
    UNDETERMINED,
    Reading,
    expected_values,
)
from medtail.lexicons.grading import Finding, bounds, grade
from medtail.lexicons.parsing import parse_reading
from medtail.lexicons.systems import K4_MM, LEXICONS, System, advice, systems_named
from medtail.tables.frames import as_text

IDENTITY = ("image_id", "nodule_id", "study_id", "patient_id")
FURTHER = ("size_mm", "size_cm", "rim_extrusion")
UNDETERMINED_COLUMNS = ("undetermined", "meta_undetermined")
ERROR_COLUMNS = ("row", "id", "group", "value", "message")


@final
@dataclass(frozen=True, eq=False)
class ScoredTable:
    """What a table of readings came to.

    Attributes:
        results: A row a good row: `row` (as a spreadsheet numbers it), the ids, the five groups and the size as read,
            then for each system `acr_category`, `acr_score`, `acr_risk`, `acr_advice`, `acr_why`, `acr_notes` and
            `acr_warnings`. Categories the system cannot give are "".
        errors: A row a mistake: `row, id, group, value, message`; `group` is "" where the whole row is meant.
        readings: Readings of the good rows, in order.
    """

    results: pd.DataFrame
    errors: pd.DataFrame
    readings: tuple[Reading, ...]


def score_table(
    frame: pd.DataFrame, *, system: str = "acr", cystic_stops: bool = False, k4_threshold_mm: float = K4_MM
) -> ScoredTable:
    """Grade every row of a table.

    Args:
        frame: Columns `composition, echogenicity, shape, margin, foci` in words, or the twenty label columns in 1, 0
            and empty (with a text column `undetermined` such as "composition;margin"); optionally `size_mm` or
            `size_cm`, `rim_extrusion` and ids. Other columns are left alone.
        system: One, several with a comma between, or `all`.
        cystic_stops: See `grade`.
        k4_threshold_mm: See `grade`.

    Returns:
        Results and errors; together they name every row.

    Raises:
        MedtailError: The table has no descriptor columns at all, or the system is unknown. Bad rows raise nothing.

    Example:
        >>> frame = pd.DataFrame({"composition": ["solid", "solidd"], "echogenicity": "hypo", "shape": "wider",
        ...                       "margin": "smooth", "foci": "none", "size_mm": ["16", "9"]})
        >>> scored = score_table(frame)
        >>> scored.results[["row", "acr_category", "acr_advice"]].values.tolist()
        [[2, 'TR4', 'FNA']]
        >>> scored.errors[["row", "group", "value"]].values.tolist()
        [[3, 'composition', 'solidd']]
    """
    systems = systems_named(system)
    columns = _text_columns(frame)
    read = _read_words if set(GROUPS) & set(columns) else _read_labels
    ids = next((name for name in IDENTITY if name in columns), None)
    errors: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    readings: list[Reading] = []

    @cache
    def graded(reading: Reading, name: System) -> dict[str, Any]:
        """Each distinct reading goes through the rules once, whatever its size."""
        return _answer(grade(reading, system=name, cystic_stops=cystic_stops, k4_threshold_mm=k4_threshold_mm))

    @cache
    def advised(category: str, size_mm: float | None, name: System) -> dict[str, str]:
        found = advice(category or None, size_mm, system=name, k4_threshold_mm=k4_threshold_mm)
        notes = "" if found is None else " ".join(found.notes)
        return {"advice": "" if found is None else str(found.action), "notes": notes}

    for number in range(len(frame)):
        cells = {name: column[number] for name, column in columns.items()}
        place = {"row": number + 2, "id": cells[ids] if ids else ""}
        reading, mistakes = read(cells)
        if not mistakes and reading is not None:
            mistakes = _incomplete(reading, systems, cystic_stops=cystic_stops)
        if mistakes or reading is None:
            errors += [{**place, "group": group, "value": value, "message": text} for group, value, text in mistakes]
            continue
        readings.append(reading)
        row: dict[str, Any] = {"row": number + 2, **{name: cells[name] for name in IDENTITY if name in cells}}
        row |= {group: reading.text(group) for group in GROUPS}
        row["size_mm"] = np.nan if reading.size_mm is None else reading.size_mm
        sizeless = reading if reading.size_mm is None else replace(reading, size_mm=None)
        for name in systems:
            answers = graded(sizeless, name)
            answers = answers | advised(answers["category"], reading.size_mm, name)
            row |= {f"{name}_{what}": answers[what] for what in ANSWERS}
        rows.append(row)
    named = [name for name in IDENTITY if name in columns]
    header = ["row", *named, *GROUPS, "size_mm", *(f"{name}_{what}" for name in systems for what in ANSWERS)]
    return ScoredTable(
        pd.DataFrame(rows, columns=header), pd.DataFrame(errors, columns=list(ERROR_COLUMNS)), tuple(readings)
    )


ANSWERS = ("category", "score", "risk", "advice", "why", "notes", "warnings")
Mistakes = list[tuple[str, str, str]]


def _text_columns(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return every column this module knows as text; refuse a table that has no descriptors."""
    labels = [name for names in LABELS.values() for name in names]
    known = [*GROUPS, *labels, *FURTHER, *UNDETERMINED_COLUMNS, *IDENTITY]
    names = [str(name) for name in frame.columns]
    wanted, words = set(names) & set(labels), set(names) & set(GROUPS)
    problems = Problems("table of readings")
    if wanted and words:
        problems.add(f"columns: found both words ({listing(sorted(words))}) and labels ({listing(sorted(wanted))});"
                     " expected one of the two.")  # fmt: skip
    elif not wanted and not words:
        problems.add(f"columns: found {listing(names, limit=8)}; expected {', '.join(GROUPS)}, or the twenty labels.")
    else:
        for missing in (name for name in (GROUPS if words else labels) if name not in names):
            hint = did_you_mean(missing, [name for name in names if name not in known])
            problems.add(f"column {missing!r}: missing{hint or '; expected it, with empty cells where not given.'}")
    problems.raise_if_any()
    return {name: as_text(frame[name]).to_numpy(dtype=object) for name in known if name in names}


def _read_words(cells: Mapping[str, str]) -> tuple[Reading | None, Mistakes]:
    if not any(cells.get(group) for group in GROUPS):
        return None, [("", "", "no group is given: every descriptor is empty. Remove the row, or fill it.")]
    mistakes: Mistakes = []
    values: dict[str, Any] = {}
    for name in (*GROUPS, "rim_extrusion"):
        values[name], mistake = _parsed(name, cells.get(name, ""))
        if mistake:
            mistakes.append((name, cells.get(name, ""), mistake))
    size, problem = _size(cells)
    mistakes += problem
    if mistakes:
        return None, mistakes
    return Reading(**values, size_mm=size), []


@lru_cache(maxsize=4096)
def _parsed(name: str, text: str) -> tuple[Any, str]:
    """Return what a cell says and what is wrong with it; each distinct text is read once."""
    try:
        return getattr(parse_reading(**{name: text}, where=name), name), ""
    except MedtailError as error:
        return None, str(error).replace(f"{name}, {name}: ", "")


def _size(cells: Mapping[str, str]) -> tuple[float | None, Mistakes]:
    try:
        parsed = parse_reading(size_mm=cells.get("size_mm", ""), size_cm=cells.get("size_cm", ""), where="size")
    except MedtailError as error:
        value = cells.get("size_mm") or cells.get("size_cm", "")
        return None, [("size", value, str(error).removeprefix("size, "))]
    return parsed.size_mm, []


def _read_labels(cells: Mapping[str, str]) -> tuple[Reading | None, Mistakes]:
    told = next((cells[name] for name in UNDETERMINED_COLUMNS if cells.get(name)), "")
    undetermined = {word.strip() for word in told.split(";") if word.strip()}
    mistakes: Mistakes = [
        ("undetermined", word, f"found {word!r}; expected {', '.join(CAN_BE_UNDETERMINED)}, joined by ';'"
         f"{did_you_mean(word, CAN_BE_UNDETERMINED) or '.'}")
        for word in sorted(undetermined - set(CAN_BE_UNDETERMINED))
    ]  # fmt: skip
    words: dict[str, str] = {}
    for group in GROUPS:
        word, mistake = _label_word(group, cells, is_undetermined=group in undetermined & set(CAN_BE_UNDETERMINED))
        words[group] = word
        if mistake:
            mistakes.append((group, " ".join(cells[name] or "-" for name in LABELS[group]), mistake))
    size, problem = _size(cells)
    mistakes += problem
    if mistakes:
        return None, mistakes
    if not any(words.values()):
        return None, [("", "", "no group was assessed: all twenty labels are empty. Remove the row, or fill it.")]
    reading, mistakes = _read_words({**words, "rim_extrusion": cells.get("rim_extrusion", "")})
    if reading is None:
        return None, mistakes
    return Reading(*(getattr(reading, group) for group in GROUPS), size_mm=size,
                   rim_extrusion=reading.rim_extrusion), []  # fmt: skip


def _label_word(group: str, cells: Mapping[str, str], *, is_undetermined: bool) -> tuple[str, str]:
    """Return a group's labels as a word, "" where they are empty, and what is wrong with them."""
    values = {name.removeprefix(PREFIXES[group]): cells[name] for name in LABELS[group]}
    wrong = [f"{name} {value!r}" for name, value in values.items() if value not in ("", "0", "1")]
    if wrong:
        return "", f"found {listing(wrong)}; expected 1 (present), 0 (absent) or empty (not assessed)."
    present = [name for name, value in values.items() if value == "1"]
    if is_undetermined:
        if present:
            return "", f"found {listing(present)} = 1, and the group is named undetermined; expected empty cells."
        return UNDETERMINED, ""
    empty = [name for name, value in values.items() if value == ""]
    if len(empty) == len(values):
        return "", ""
    if empty:
        return "", f"found {listing(empty)} empty and the others not; expected all five or none." if group == "foci" \
            else f"found {listing(empty)} empty and the others not; expected all of the group or none."  # fmt: skip
    if group == "foci":
        if not present:
            return "", "found only 0; expected at least one of the five 1 (foci_none where there are none)."
        return ";".join(present), ""
    if not present:
        return "", "found only 0: the group has no label; expected exactly one 1, or all cells empty."
    if len(present) > 1:
        return "", f"found {' and '.join(present)}, {len(present)} values of an exclusive group; expected one."
    return present[0], ""


def _incomplete(reading: Reading, systems: Sequence[System], *, cystic_stops: bool) -> Mistakes:
    if not reading.missing:
        return []
    possible = "; ".join(
        f"{LEXICONS[name].title} {bounds(reading, system=name, cystic_stops=cystic_stops).text}" for name in systems
    )
    return [
        (group, "", f"not given; {expected_values(group)}. With the rest as it is: {possible}.")
        for group in reading.missing
    ]


def _answer(finding: Finding) -> dict[str, Any]:
    level = finding.level
    return {
        "category": finding.category or "",
        "score": np.nan if finding.score is None else finding.score,
        "risk": "" if level is None else level.risk,
        "why": finding.why,
        "warnings": " ".join(finding.warnings),
    }
