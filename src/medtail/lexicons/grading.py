"""One nodule in, one finding out: category, risk, advice, why, and what would change it.

The door for single readings. `bounds` answers where a group is missing, `what_would_change` changes one descriptor at a
time and keeps what moves the category or the advice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import final

import numpy as np

from medtail.errors import MedtailError
from medtail.lexicons.descriptors import CAN_BE_UNDETERMINED, EXCLUSIVE, Focus, Reading, complete, contradictions
from medtail.lexicons.rules import acr_points, c_parts, category_of, eu_match, k_match, rule_warnings
from medtail.lexicons.states import category_table, cells_of
from medtail.lexicons.systems import K4_MM, LEXICONS, Advice, Category, Lexicon, System, advice, fna_limit, lexicon

RESEARCH_USE = "For research: this quotes a guideline and is not a diagnosis."


@final
@dataclass(frozen=True)
class Finding:
    """What a system says of one nodule.

    Attributes:
        system: A short name.
        version: Title and year.
        reading: What was read.
        category: Its category; None where the system cannot tell.
        score: ACR points or the C-TIRADS count; None in EU and K.
        parts: ACR and C: group → points, counted or not; empty in EU and K.
        why: What decided.
        advice: What the guideline advises; None where category or size is unknown.
        warnings: Contradictions, and where the answer rests on our reading of the guideline.
    """

    system: System
    version: str
    reading: Reading
    category: str | None
    score: int | None
    parts: Mapping[str, int]
    why: str
    advice: Advice | None
    warnings: tuple[str, ...]

    @property
    def level(self) -> Category | None:
        """The category with its words and risk."""
        return None if self.category is None else LEXICONS[self.system].category(self.category)


def grade(
    reading: Reading,
    *,
    system: str = "acr",
    version: str | None = None,
    cystic_stops: bool = False,
    k4_threshold_mm: float = K4_MM,
) -> Finding:
    """Grade a nodule.

    Args:
        reading: Complete; its size may be unknown.
        system: `acr`, `c`, `eu` or `k`; see `systems.lexicon`.
        version: Year of the system; None takes the one implemented.
        cystic_stops: ACR: stop at cystic nodules too.
        k4_threshold_mm: K-TIRADS 4: needle above this size, 10 to 15 mm.

    Returns:
        The finding.

    Raises:
        IncompleteReadingError: A group is missing.
        UsageError: Unknown system or version, or a threshold the guideline does not allow.

    Example:
        >>> from medtail.lexicons.parsing import parse_reading
        >>> nodule = parse_reading(composition="solid", echogenicity="hypo", shape="wider", margin="smooth",
        ...                        foci="punctate", size_mm=12)
        >>> found = grade(nodule)
        >>> found.category, found.score, found.advice.action
        ('TR5', 7, <Action.FNA: 'FNA'>)

    References:
        tessler2017, zhou2020, russ2017, ha2021.
    """
    rules = lexicon(system, version=version)
    complete(reading, system=rules.label)
    category = category_of(reading, rules.system, cystic_stops=cystic_stops)
    parts: Mapping[str, int] = {}
    score: int | None = None
    match rules.system:
        case "acr":
            points = acr_points(reading, cystic_stops=cystic_stops)
            parts, score = points.parts, points.total
            why = f"{score} {'point' if score == 1 else 'points'}"
            if points.stopped_by:
                ignored = ", ".join(f"{group} {value}" for group, value in points.ignored.items())
                why += f": {points.stopped_by} stops the count" + (f"; ignored: {ignored}" if ignored else "")
        case "c":
            parts = c_parts(reading)
            score = sum(parts.values())
            why = f"score {score}"
        case "eu":
            why = eu_match(reading).why
        case "k":
            why = k_match(reading).why
    found = advice(category, reading.size_mm, system=rules.system, k4_threshold_mm=k4_threshold_mm)
    warnings = (*contradictions(reading), *rule_warnings(reading, rules.system, cystic_stops=cystic_stops))
    return Finding(rules.system, rules.label, reading, category, score, parts, why, found, warnings)


@final
@dataclass(frozen=True)
class Bounds:
    """Between which categories an incomplete reading lies.

    Attributes:
        low: Lowest category a completion can have; None where none has one.
        high: Highest.
        can_be_undefined: True where some completion has no category in the system.
    """

    low: str | None
    high: str | None
    can_be_undefined: bool

    @property
    def text(self) -> str:
        """The bounds in words.

        Example:
            >>> Bounds("TR3", "TR5", False).text, Bounds("2", "2", True).text
            ('TR3 to TR5', '2 or undefined')
        """
        if self.low is None:
            return "undefined"
        between = self.low if self.low == self.high else f"{self.low} to {self.high}"
        return f"{between} or undefined" if self.can_be_undefined else between


def bounds(reading: Reading, *, system: str = "acr", cystic_stops: bool = False) -> Bounds:
    """Return the lowest and highest category over every way to fill in what is missing.

    Args:
        reading: Groups may be missing; a missing group may turn out to be anything, undetermined included.
        system: See `grade`.
        cystic_stops: See `grade`.

    Returns:
        The bounds; of a complete reading they are its category.

    Example:
        >>> from medtail.lexicons.parsing import parse_reading
        >>> bounds(parse_reading(composition="solid", echogenicity="hypo", shape="wider", foci="none")).text
        'TR4 to TR5'
    """
    rules = lexicon(system)
    table = category_table(rules.system, cystic_stops=cystic_stops, rim_extrusion=reading.rim_extrusion)
    possible = np.unique(table[cells_of(reading)])
    named = possible[possible >= 0]
    low, high = (rules.names[named[0]], rules.names[named[-1]]) if len(named) else (None, None)
    return Bounds(low, high, bool((possible < 0).any()))


@final
@dataclass(frozen=True)
class Change:
    """One descriptor read otherwise, and what the system would then say.

    Attributes:
        group: Whose value changes; `size` for the size.
        now: The value as read.
        other: What it would be.
        category: The category then; None where the system could not tell.
        score: The points then; None in EU and K.
        advice: The advice then; None where unknown.
    """

    group: str
    now: str
    other: str
    category: str | None
    score: int | None
    advice: Advice | None


def what_would_change(finding: Finding, *, cystic_stops: bool = False, k4_threshold_mm: float = K4_MM) -> list[Change]:
    """Change one descriptor at a time and keep what moves the category or the advice; then the size.

    Args:
        finding: From `grade`.
        cystic_stops: As it was graded.
        k4_threshold_mm: As it was graded.

    Returns:
        The changes, in the order of the groups; a focus is added or taken away. Changes to a reading that contradicts
        itself are left out. Sizes at which the advice would change stand last.

    Example:
        >>> from medtail.lexicons.parsing import parse_reading
        >>> found = grade(parse_reading(composition="solid", echogenicity="iso", shape="wider", margin="smooth",
        ...                             foci="none", size_mm=12))
        >>> [(change.group, change.other, change.category) for change in what_would_change(found)][:3]
        [('composition', 'cystic', 'TR1'), ('composition', 'spongiform', 'TR1'), ('composition', 'mixed', 'TR2')]
    """
    changes = []
    contradicted = set(contradictions(finding.reading))
    for group, other in _neighbours(finding.reading):
        if set(contradictions(other)) - contradicted:
            continue
        then = grade(other, system=finding.system, cystic_stops=cystic_stops, k4_threshold_mm=k4_threshold_mm)
        if then.category != finding.category or _action(then.advice) != _action(finding.advice):
            now = finding.reading.text(group)
            changes.append(Change(group, now, other.text(group), then.category, then.score, then.advice))
    return [*changes, *_sizes(finding, k4_threshold_mm)]


def _action(found: Advice | None) -> str:
    return "" if found is None else str(found.action)


def _neighbours(reading: Reading) -> Iterator[tuple[str, Reading]]:
    for group, kind in EXCLUSIVE.items():
        for value in kind:
            if value != getattr(reading, group) and not (group in CAN_BE_UNDETERMINED and value == "undetermined"):
                yield group, replace(reading, **{group: value})  # type: ignore[arg-type]  # the group's own kind
    for focus in Focus:
        yield "foci", replace(reading, foci=(reading.foci or frozenset()) ^ {focus})


def _sizes(finding: Finding, k4_threshold_mm: float) -> list[Change]:
    level, size = finding.level, finding.reading.size_mm
    if level is None:
        return []
    rules = LEXICONS[finding.system]
    changes = []
    for limit in _limits(rules, level, k4_threshold_mm):
        told = f"{'above' if rules.is_strict else 'from'} {limit:g} mm"
        reached = advice(level.name, limit + (0.1 if rules.is_strict else 0.0), system=rules.system,
                         k4_threshold_mm=k4_threshold_mm)  # fmt: skip
        below = advice(level.name, limit - (0.0 if rules.is_strict else 0.1), system=rules.system,
                       k4_threshold_mm=k4_threshold_mm)  # fmt: skip
        now = "" if size is None else f"{size:g} mm"
        is_reached = size is not None and (round(size, 6) > limit if rules.is_strict else round(size, 6) >= limit)
        if is_reached:
            told = f"{limit:g} mm or less" if rules.is_strict else f"below {limit:g} mm"
        changes.append(Change("size", now, told, level.name, finding.score, below if is_reached else reached))
    return changes


def _limits(rules: Lexicon, level: Category, k4_threshold_mm: float) -> list[float]:
    given = (level.follow_mm, fna_limit(rules, level, k4_threshold_mm=k4_threshold_mm))
    return [limit for limit in given if limit is not None]


def check_level(name: str, *, system: str = "acr") -> str:
    """Return a category name of a system as the system writes it.

    Args:
        name: Such as `TR4` or `tr4`.
        system: See `grade`.

    Returns:
        The name.

    Raises:
        MedtailError: It is none of the system's.

    Example:
        >>> check_level("tr4"), check_level("4a", system="c")
        ('TR4', '4A')
    """
    rules = lexicon(system)
    for known in (*rules.names, *rules.outside):
        if known.lower() == str(name).strip().lower():
            return known
    raise MedtailError(
        f"{rules.label}, category {name!r}: no such category; expected {', '.join((*rules.names, *rules.outside))}."
    )
