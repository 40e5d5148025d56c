"""From words to a `Reading`: strict about spelling, generous about case, and every mistake at once."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from medtail.errors import Problems, listing
from medtail.lexicons.descriptors import (
    EXCLUSIVE,
    MOST_MM,
    NO_FOCI,
    UNDETERMINED,
    Focus,
    Reading,
    checked_size,
    expected_values,
    plain_word,
    spellings,
    unknown_value,
)


def parse_reading(
    *,
    composition: str | None = None,
    echogenicity: str | None = None,
    shape: str | None = None,
    margin: str | None = None,
    foci: str | Iterable[str] | None = None,
    size_mm: float | str | None = None,
    size_cm: float | str | None = None,
    rim_extrusion: bool | str = False,
    where: str = "TI-RADS reading",
) -> Reading:
    """Read a nodule from words. Case, spaces and hyphens do not matter; other spellings are refused.

    Args:
        composition: A value, "undetermined", or None or "" where it was not given.
        echogenicity: So too.
        shape: So too, but never undetermined.
        margin: As composition.
        foci: "none", or one or more kinds joined by `;`, `,`, `+` or `&`, or a list of them; None or "" = not given.
        size_mm: Largest dimension; None, NaN or "" = unknown.
        size_cm: The same in centimetres; give one of the two.
        rim_extrusion: True, or "yes" / "no".
        where: For messages.

    Returns:
        The reading; groups not given are None.

    Raises:
        MedtailError: Every mistake at once: unknown values with the nearest known one, two values of an exclusive
            group, `none` beside a focus, an impossible size.

    Example:
        >>> nodule = parse_reading(composition="Solid", echogenicity="very hypo", shape="wider", margin="smooth",
        ...                        foci="macro; rim", size_mm=12)
        >>> nodule.echogenicity, nodule.text("foci"), nodule.size_mm
        (<Echogenicity.VERY_HYPO: 'very_hypo'>, 'macro + rim', 12.0)
    """
    problems = Problems(where)
    given = {"composition": composition, "echogenicity": echogenicity, "shape": shape, "margin": margin}
    values = {group: _one_value(text, group, problems) for group, text in given.items()}
    found = _foci(foci, problems)
    size = _size(size_mm, size_cm, problems)
    extrusion = _yes_no(rim_extrusion, problems)
    problems.raise_if_any()
    return Reading(**values, foci=found, size_mm=size, rim_extrusion=extrusion)


def _one_value(text: str | None, group: str, problems: Problems) -> Any:
    if text is None or not str(text).strip():
        return None
    words = [word for word in re.split(r"[;,+&|/]", str(text)) if word.strip()]
    kind = EXCLUSIVE[group]
    members = {str(member): member for member in kind}
    if len(words) > 1 and all(plain_word(word) in spellings(group) for word in words):
        problems.add(f"{group}: found {str(text)!r}, {len(words)} values of an exclusive group; expected one.")
        return None
    if plain_word(text) in members:
        return members[plain_word(text)]
    problems.add(f"{group}: {unknown_value(text, group)}")
    return None


def _foci(given: str | Iterable[str] | None, problems: Problems) -> frozenset[Focus] | None:
    if given is None:
        return None
    words = re.split(r"[;,+&|]", given) if isinstance(given, str) else [str(word) for word in given]
    if isinstance(given, str) and not given.strip():
        return None
    words = [word for word in words if word.strip()]
    known = {str(focus): focus for focus in Focus}
    unknown = [word.strip() for word in words if plain_word(word) not in (*known, NO_FOCI)]
    for word in unknown:
        if plain_word(word) == UNDETERMINED:
            problems.add(f"foci: found {word!r}; foci are seen or not: {expected_values('foci')}.")
        else:
            problems.add(f"foci: {unknown_value(word, 'foci')}")
    plain = {plain_word(word) for word in words} - {plain_word(word) for word in unknown}
    if NO_FOCI in plain and len(plain) > 1:
        others = listing(sorted(plain - {NO_FOCI}))
        problems.add(f"foci: found {NO_FOCI!r} beside {others}; 'none' excludes the others. Keep one or the other.")
        return None
    return frozenset(known[word] for word in plain - {NO_FOCI})


def _size(size_mm: object, size_cm: object, problems: Problems) -> float | None:
    millimetres, mistake = checked_size(size_mm)
    if mistake:
        problems.add(f"size_mm: {mistake}")
    given_cm = not (size_cm is None or str(size_cm).strip().lower() in ("", "nan"))
    if not given_cm:
        return millimetres
    if millimetres is not None:
        problems.add(f"size_cm: found {size_cm!r} beside size_mm {size_mm!r}; give one of the two.")
        return None
    try:
        converted, mistake = checked_size(float(str(size_cm)) * 10.0)
    except ValueError:
        converted, mistake = None, f"found {size_cm!r}, no number; expected 0 < size <= {MOST_MM / 10:g} cm."
    if mistake:
        problems.add(f"size_cm: {mistake if 'no number' in mistake else f'{size_cm} cm is {mistake[6:]}'}")
    return converted


def _yes_no(value: bool | str, problems: Problems) -> bool:
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    words = {"": False, "no": False, "0": False, "false": False, "yes": True, "1": True, "true": True}
    if str(value).strip().lower() in words:
        return words[str(value).strip().lower()]
    problems.add(f"rim_extrusion: found {value!r}; expected yes or no.")
    return False
