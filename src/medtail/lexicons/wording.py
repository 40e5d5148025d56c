"""Findings as text a person reads: points by group, level, advice, why, and what would change it."""

from __future__ import annotations

from typing import Any

from medtail.lexicons.descriptors import GROUPS
from medtail.lexicons.grading import RESEARCH_USE, Change, Finding, what_would_change
from medtail.lexicons.systems import K4_MM, LEXICONS, Action, Advice

READERS_DIFFER = (
    "Readers differ: kappa about 0.25-0.39 for margin and most foci, 0.51 for the biopsy decision (Hoang, AJR 2018)."
)
ACTIONS = {Action.FNA: "fine-needle aspiration", Action.FOLLOW: "scan again", Action.NONE: "nothing advised"}


def finding_text(
    finding: Finding, *, changes: bool = True, cystic_stops: bool = False, k4_threshold_mm: float = K4_MM
) -> str:
    """Render a finding for a terminal.

    Args:
        finding: From `grade`.
        changes: Also say what would change it.
        cystic_stops: As it was graded.
        k4_threshold_mm: As it was graded.

    Returns:
        Lines without a final line end.

    Example:
        >>> from medtail.lexicons.parsing import parse_reading
        >>> from medtail.lexicons.grading import grade
        >>> nodule = parse_reading(composition="solid", echogenicity="hypo", shape="wider", margin="smooth",
        ...                        foci="punctate", size_mm=12)
        >>> print(finding_text(grade(nodule), changes=False))
        ACR TI-RADS 2017: TR5, highly suspicious
          composition    solid                  2
          echogenicity   hypo                   2
          shape          wider                  0
          margin         smooth                 0
          foci           punctate               3
          total                                 7  points
          risk           >= 20 % (observed 35 %)
          advice         FNA: fine-needle aspiration (12 mm; FNA at >= 10 mm)
    """
    reading, level = finding.reading, finding.level
    called = "no category" if level is None else f"{_named(finding)}, {level.words}"
    lines = [f"{finding.version}: {called}"]
    stopped = finding.system == "acr" and finding.score == 0 and any(finding.parts.values())
    for group in GROUPS:
        points = ""
        if finding.parts:
            given = finding.parts[group]
            points = f"({given})" if stopped and given else str(given)
        lines.append(f"  {group:14} {_descriptor(finding, group):20} {points:>3}".rstrip())
    if finding.score is not None:
        word = "" if finding.system == "c" else ("point" if finding.score == 1 else "points")
        lines.append(f"  {'total':14} {'':20} {finding.score:>3}  {word}".rstrip())
    if finding.system in ("eu", "k") or stopped:
        lines.append(f"  {'why':14} {finding.why}")
    if level is not None:
        lines.append(f"  {'risk':14} {level.risk}")
    lines.append(f"  {'advice':14} {advice_text(finding.advice, is_sized=reading.size_mm is not None)}")
    if finding.advice is not None:
        lines += [f"  {'':14} {note}" for note in finding.advice.notes]
    if changes:
        found = what_would_change(finding, cystic_stops=cystic_stops, k4_threshold_mm=k4_threshold_mm)
        for number, text in enumerate(_merged(finding, found)):
            lines.append(f"  {'would change' if number == 0 else '':14} {text}")
    return "\n".join([*lines, *(f"  ! {warning}" for warning in finding.warnings)])


def _named(finding: Finding) -> str:
    return str(finding.category) if finding.system == "acr" else f"category {finding.category}"


def _descriptor(finding: Finding, group: str) -> str:
    text = finding.reading.text(group)
    return f"{text}, rim extrusion" if group == "margin" and finding.reading.rim_extrusion else text


def advice_text(advice: Advice | None, *, is_sized: bool) -> str:
    """Render an advice in one line.

    Args:
        advice: None where category or size is unknown.
        is_sized: Whether the size is known.

    Example:
        >>> advice_text(None, is_sized=False)
        'not given: the size is unknown'
    """
    if advice is None:
        return "not given: the system has no category" if is_sized else "not given: the size is unknown"
    scans = f", scans after {', '.join(map(str, advice.scans_years))} years" if advice.scans_years else ""
    return f"{advice.action}: {ACTIONS[advice.action]}{scans} ({advice.why})"


def _merged(finding: Finding, changes: list[Change]) -> list[str]:
    """Put values of a group that come to the same into one line."""
    values: dict[tuple[str, str], list[str]] = {}
    for change in changes:
        values.setdefault((change.group, _outcome(finding, change)), []).append(change.other)
    return [f"{group} {' or '.join(others)}: {outcome}" for (group, outcome), others in values.items()]


def _outcome(finding: Finding, change: Change) -> str:
    names = LEXICONS[finding.system].names
    then = "no category" if change.category is None else change.category
    advice = "" if change.advice is None else f", {change.advice.action}"
    if change.group == "size":
        return f"{then}{advice}"
    score = "" if change.score is None else f" ({change.score})"
    way = ""
    if change.category is not None and finding.category is not None and change.category != finding.category:
        way = "up to " if names.index(change.category) > names.index(finding.category) else "down to "
    return f"{way}{then}{score}{advice}"


def finding_json(finding: Finding, *, cystic_stops: bool = False, k4_threshold_mm: float = K4_MM) -> dict[str, Any]:
    """Return a finding as plain values.

    Args:
        finding: From `grade`.
        cystic_stops: As it was graded.
        k4_threshold_mm: As it was graded.

    Returns:
        A JSON object.
    """
    level, advice = finding.level, finding.advice
    return {
        "system": finding.system,
        "version": finding.version,
        "reading": {
            **{group: finding.reading.text(group) for group in GROUPS},
            "size_mm": finding.reading.size_mm,
            "rim_extrusion": finding.reading.rim_extrusion,
        },
        "category": finding.category,
        "words": None if level is None else level.words,
        "risk": None if level is None else level.risk,
        "score": finding.score,
        "points": dict(finding.parts),
        "why": finding.why,
        "advice": _advice_json(advice),
        "would_change": [
            {
                "group": change.group,
                "now": change.now,
                "other": change.other,
                "category": change.category,
                "score": change.score,
                "advice": None if change.advice is None else str(change.advice.action),
            }
            for change in what_would_change(finding, cystic_stops=cystic_stops, k4_threshold_mm=k4_threshold_mm)
        ],
        "warnings": list(finding.warnings),
        "note": RESEARCH_USE,
    }


def _advice_json(advice: Advice | None) -> dict[str, Any] | None:
    if advice is None:
        return None
    return {
        "action": str(advice.action),
        "why": advice.why,
        "notes": list(advice.notes),
        "scans_years": list(advice.scans_years),
    }
