"""After the first scan: did it grow, when to look again, and which of several nodules to act on (ACR TI-RADS 2017).

Growth needs three dimensions each time; where one is missing, a criterion is answered only if the missing one cannot
change it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from medtail.errors import MedtailError
from medtail.lexicons.descriptors import checked_size
from medtail.lexicons.grading import Finding
from medtail.lexicons.systems import LEXICONS, Action

TOLERANCE = 1e-9
SHARE, MILLIMETRES, VOLUME = 0.20, 2.0, 0.50
FNA_AT_MOST, FOLLOW_AT_MOST = 2, 4


@final
@dataclass(frozen=True)
class Growth:
    """Whether a nodule grew, and by which criterion.

    Attributes:
        by_dimensions: At least 20 % and 2 mm in two dimensions; None where a missing dimension decides.
        by_volume: At least 50 % more volume; None where a dimension is missing.
        volume_ratio: New over old volume; None where a dimension is missing.
        warnings: How the dimensions were paired.
    """

    by_dimensions: bool | None
    by_volume: bool | None
    volume_ratio: float | None
    warnings: tuple[str, ...] = ()

    @property
    def grew(self) -> bool | None:
        """True if a criterion holds; else None if one could not be answered; else False."""
        if self.by_dimensions or self.by_volume:
            return True
        return None if self.by_dimensions is None or self.by_volume is None else False


def grew(old: Sequence[float | None], new: Sequence[float | None], *, same_axes: bool = True) -> Growth:
    """Compare two scans of a nodule.

    Args:
        old: Three dimensions in mm, such as width, height, length; None or NaN where missing.
        new: The same, later.
        same_axes: The dimensions of both stand in the same order; False sorts both and says so.

    Returns:
        The growth; `.grew` is the answer.

    Raises:
        MedtailError: Not three dimensions, an impossible one, or lists with gaps that cannot be sorted.

    Example:
        >>> grew((11, 11, 10), (13.2, 13.2, 10)).grew, grew((20, 20, 20), (23, 23, 20)).grew
        (True, False)
        >>> found = grew((5, 5, 5), (6, 6, 6))
        >>> found.by_dimensions, found.by_volume
        (False, True)

    References:
        tessler2017.
    """
    before: Sequence[float | None] = _three(old, "old")
    after: Sequence[float | None] = _three(new, "new")
    warnings: tuple[str, ...] = ()
    if not same_axes:
        if None in before or None in after:
            raise MedtailError("growth: dimensions without axes can only be paired by size if all three are given.")
        before, after = (sorted(known) for known in _known(before, after))
        warnings = ("The dimensions were paired by size: growth along one axis may be taken for another's.",)
    return Growth(*_criteria(before, after), warnings)


def _three(given: Sequence[float | None], name: str) -> list[float | None]:
    if len(given) != 3:
        raise MedtailError(
            f"growth, {name}: found {len(given)} dimensions; expected three, in mm (None where missing)."
        )
    found = []
    for number, value in enumerate(given, start=1):
        size, mistake = checked_size(value)
        if mistake:
            raise MedtailError(f"growth, {name}, dimension {number}: {mistake}")
        found.append(size)
    return found


def _known(*lists: Sequence[float | None]) -> list[list[float]]:
    return [[value for value in values if value is not None] for values in lists]


def _criteria(
    before: Sequence[float | None], after: Sequence[float | None]
) -> tuple[bool | None, bool | None, float | None]:
    pairs = [(old, new) for old, new in zip(before, after, strict=True) if old is not None and new is not None]
    # 13.2 against 11 is 20 %, but not in binary
    grown = sum((new - old) / old >= SHARE - TOLERANCE and new - old >= MILLIMETRES - TOLERANCE for old, new in pairs)
    unknown = 3 - len(pairs)
    by_dimensions = True if grown >= 2 else (None if grown + unknown >= 2 else False)
    if unknown:
        return by_dimensions, None, None
    ratio = math.prod(new for _, new in pairs) / math.prod(old for old, _ in pairs)
    return by_dimensions, ratio >= 1.0 + VOLUME - TOLERANCE, ratio


def grew_since(scans: Sequence[Sequence[float | None]], *, same_axes: bool = True) -> tuple[Growth, Growth]:
    """Compare the latest scan with the one before and with the oldest: slow growth shows only in the second.

    Args:
        scans: Dimensions of two or more scans, oldest first.
        same_axes: See `grew`.

    Returns:
        Growth since the last scan, and since the oldest.

    Raises:
        MedtailError: Fewer than two scans, or see `grew`.

    Example:
        >>> last, oldest = grew_since([(10, 10, 10), (11, 11, 10), (12, 12, 10)])
        >>> last.grew, oldest.grew
        (False, True)
    """
    if len(scans) < 2:
        raise MedtailError(f"growth: found {len(scans)} scans; expected two or more, oldest first.")
    latest = scans[-1]
    return grew(scans[-2], latest, same_axes=same_axes), grew(scans[0], latest, same_axes=same_axes)


@final
@dataclass(frozen=True)
class NextScan:
    """When to look again.

    Attributes:
        in_years: Years from now, at least 1; None where no further scan is advised or no interval is given.
        why: In words.
    """

    in_years: int | None
    why: str


def next_scan(
    level: str, *, years_followed: float, level_before: str | None = None, grew: bool | None = False
) -> NextScan:
    """Say when a followed nodule is scanned next.

    Args:
        level: ACR level now.
        years_followed: Years since the first scan, >= 0.
        level_before: Level at the scan before; a rise means one year.
        grew: Since the oldest scan; None if unknown.

    Returns:
        The interval.

    Raises:
        MedtailError: Unknown level, or negative years.

    Example:
        >>> next_scan("TR4", years_followed=3).in_years, next_scan("TR4", years_followed=3, level_before="TR3").in_years
        (2, 1)
        >>> next_scan("TR3", years_followed=5).why
        'size unchanged at 5 years: following may stop'

    References:
        tessler2017.
    """
    rules = LEXICONS["acr"]
    category = rules.category(level)
    if not years_followed >= 0:
        raise MedtailError(f"{rules.label}, years_followed {years_followed!r}: expected years >= 0.")
    if not category.scans_years:
        return NextScan(None, f"{level} is not followed")
    if level_before is not None and rules.names.index(rules.category(level_before).name) < rules.names.index(level):
        return NextScan(1, f"{level} after {level_before}: the next scan in 1 year, whatever the level")
    due = next((year for year in category.scans_years if year > years_followed), None)
    if due is None:
        if grew is False:
            return NextScan(None, "size unchanged at 5 years: following may stop")
        return NextScan(None, "growing, or unknown, at 5 years: keep following; the guideline names no interval")
    return NextScan(max(1, math.ceil(due - years_followed)), f"{level} is scanned {_years(category.scans_years)}")


def _years(years: tuple[int, ...]) -> str:
    return f"{', '.join(map(str, years[:-1]))} and {years[-1]} years after the first scan"


@final
@dataclass(frozen=True)
class Plan:
    """Which of a patient's nodules to act on.

    Attributes:
        fna: Numbers of the nodules for FNA, most points first; two at most.
        follow: Numbers of those to follow; four at most.
        note: What it leaves out.
    """

    fna: tuple[int, ...]
    follow: tuple[int, ...]
    note: str = "Suspicious lymph nodes are sampled in addition."


def plan(findings: Sequence[Finding]) -> Plan:
    """Choose among several nodules of one patient: FNA of two at most, following of four at most.

    Those with most points come first, the larger among equals. A nodule that qualifies for FNA but is third or later is
    followed before the others (OURS).

    Args:
        findings: ACR findings of one patient.

    Returns:
        Numbers into `findings`.

    Raises:
        MedtailError: A finding is of another system.

    Example:
        >>> from medtail.lexicons.parsing import parse_reading
        >>> from medtail.lexicons.grading import grade
        >>> nodules = [grade(parse_reading(composition="solid", echogenicity="hypo", shape="wider", margin="smooth",
        ...                                foci="none", size_mm=size)) for size in (16, 20, 30, 11)]
        >>> plan(nodules).fna, plan(nodules).follow
        ((2, 1), (0, 3))

    References:
        tessler2017.
    """
    other = next((finding.version for finding in findings if finding.system != "acr"), None)
    if other is not None:
        raise MedtailError(f"plan for several nodules: found a finding of {other}; expected ACR TI-RADS.")

    def rank(number: int) -> tuple[float, float]:
        finding = findings[number]
        return -float(finding.score or 0), -(finding.reading.size_mm or 0.0)

    def wanting(action: Action) -> list[int]:
        chosen = [n for n, finding in enumerate(findings) if finding.advice and finding.advice.action is action]
        return sorted(chosen, key=rank)

    needles = wanting(Action.FNA)
    follow = [*needles[FNA_AT_MOST:], *wanting(Action.FOLLOW)]
    return Plan(tuple(needles[:FNA_AT_MOST]), tuple(follow[:FOLLOW_AT_MOST]))
