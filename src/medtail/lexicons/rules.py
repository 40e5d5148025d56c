"""The rules themselves: ACR points and levels, the C-TIRADS count, the EU and K ladders.

Each rule is a function of the descriptors it reads and of nothing else; sizes and advice are in `systems`. Where a
guideline is silent our reading is marked OURS and comes back as a warning. Descriptors must be complete here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

from medtail.errors import MedtailError
from medtail.lexicons.descriptors import Composition, Echogenicity, Focus, Margin, Reading, Shape, complete
from medtail.lexicons.systems import LEXICONS, System

ACR_POINTS: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        "composition": {"cystic": 0, "spongiform": 0, "mixed": 1, "solid": 2, "undetermined": 2},
        "echogenicity": {"anechoic": 0, "hyper": 1, "iso": 1, "hypo": 2, "very_hypo": 3, "undetermined": 1},
        "shape": {"wider": 0, "taller": 3},
        "margin": {"smooth": 0, "ill_defined": 0, "irregular": 2, "ete": 3, "undetermined": 0},
        "foci": {"comet_tail": 0, "macro": 1, "rim": 2, "punctate": 3},
    }
)
"""Points of the chart; those of foci add up."""
MOST_POINTS = 17
EXTRUSION_POINTS = 2
HIGH_RISK_MARGINS = (Margin.IRREGULAR, Margin.ETE)
DARK = (Echogenicity.HYPO, Echogenicity.VERY_HYPO)


@final
@dataclass(frozen=True)
class AcrPoints:
    """The points of a reading, group by group.

    Attributes:
        parts: Group → points given by the chart, counted or not.
        stopped_by: `spongiform` (or `cystic` where a site stops there too), which makes the total 0; else "".
        total: What counts, 0 to 17.
    """

    parts: Mapping[str, int]
    stopped_by: str
    total: int

    @property
    def ignored(self) -> dict[str, int]:
        """Points that were given but do not count, because the composition stops."""
        return {group: points for group, points in self.parts.items() if points and self.stopped_by}


def acr_points(reading: Reading, *, cystic_stops: bool = False) -> AcrPoints:
    """Count ACR TI-RADS points.

    Args:
        reading: Complete.
        cystic_stops: Also stop at cystic nodules, as some sites do; the chart stops at spongiform ones only.

    Returns:
        The points.

    Raises:
        IncompleteReadingError: A group is missing.

    Example:
        >>> from medtail.lexicons.parsing import parse_reading
        >>> nodule = parse_reading(composition="solid", echogenicity="hypo", shape="wider", margin="smooth",
        ...                        foci="punctate")
        >>> acr_points(nodule).total, dict(acr_points(nodule).parts)["foci"]
        (7, 3)

    References:
        tessler2017.
    """
    complete(reading, system=LEXICONS["acr"].label)
    assert reading.foci is not None, "complete"
    parts = {group: ACR_POINTS[group][str(getattr(reading, group))] for group in ACR_POINTS if group != "foci"}
    if reading.rim_extrusion:
        parts["margin"] = max(parts["margin"], EXTRUSION_POINTS)
    parts["foci"] = sum(ACR_POINTS["foci"][focus] for focus in reading.foci)
    stops = (Composition.SPONGIFORM, Composition.CYSTIC) if cystic_stops else (Composition.SPONGIFORM,)
    stopped_by = str(reading.composition) if reading.composition in stops else ""
    return AcrPoints(parts, stopped_by, 0 if stopped_by else sum(parts.values()))


def acr_level(points: int) -> str:
    """Return the ACR level of a total.

    Args:
        points: 0 to 17; 1 is not on the chart and counts as TR1 (OURS).

    Raises:
        MedtailError: No such total.

    Example:
        >>> [acr_level(points) for points in (0, 1, 2, 3, 4, 6, 7)]
        ['TR1', 'TR1', 'TR2', 'TR3', 'TR4', 'TR4', 'TR5']
    """
    return _level_of(points, "acr")


def c_parts(reading: Reading) -> dict[str, int]:
    """Count C-TIRADS group by group: one for each suspicious feature, one off for comet tails.

    An undetermined composition counts as solid (OURS, as in ACR); undetermined echogenicity or margin adds nothing.

    Args:
        reading: Complete.

    Returns:
        Group → count; of foci -1 to 1.

    Raises:
        IncompleteReadingError: A group is missing.

    Example:
        >>> from medtail.lexicons.parsing import parse_reading
        >>> c_parts(parse_reading(composition="solid", echogenicity="hypo", shape="taller", margin="ill_defined",
        ...                       foci="comet_tail"))
        {'composition': 1, 'echogenicity': 0, 'shape': 1, 'margin': 1, 'foci': -1}

    References:
        zhou2020.
    """
    complete(reading, system=LEXICONS["c"].label)
    assert reading.foci is not None, "complete"
    return {
        "composition": int(reading.composition in (Composition.SOLID, Composition.UNDETERMINED)),
        "echogenicity": int(reading.echogenicity is Echogenicity.VERY_HYPO),
        "shape": int(reading.shape is Shape.TALLER),
        "margin": int(reading.margin in (Margin.ILL_DEFINED, *HIGH_RISK_MARGINS)),
        "foci": int(Focus.PUNCTATE in reading.foci) - int(Focus.COMET_TAIL in reading.foci),
    }


def c_score(reading: Reading) -> int:
    """Return the C-TIRADS count of a reading, -1 to 5; see `c_parts`.

    Raises:
        IncompleteReadingError: A group is missing.

    Example:
        >>> from medtail.lexicons.parsing import parse_reading
        >>> c_score(parse_reading(composition="cystic", echogenicity="anechoic", shape="wider", margin="smooth",
        ...                       foci="comet_tail"))
        -1
    """
    return sum(c_parts(reading).values())


def c_category(score: int) -> str:
    """Return the C-TIRADS category of a score.

    Raises:
        MedtailError: No such score.

    Example:
        >>> [c_category(score) for score in range(-1, 6)]
        ['2', '3', '4A', '4B', '4C', '4C', '5']
    """
    return _level_of(score, "c")


def _level_of(score: int, system: System) -> str:
    rules = LEXICONS[system]
    for category in rules.categories:
        assert category.scores is not None, "a counting system"
        low, high = category.scores
        if low <= score <= high:
            return category.name
    lowest, highest = rules.categories[0].scores, rules.categories[-1].scores
    assert lowest is not None, "a counting system"
    assert highest is not None, "a counting system"
    raise MedtailError(f"{rules.label}, score {score!r}: expected a whole number from {lowest[0]} to {highest[1]}.")


@final
@dataclass(frozen=True)
class Match:
    """The first row of a ladder that fits.

    Attributes:
        category: Its category; None where the system cannot tell.
        row: Number of the row, from 1.
        why: The row in words.
    """

    category: str | None
    row: int
    why: str


def eu_match(reading: Reading) -> Match:
    """Find the first fitting row of EU-TIRADS.

    Args:
        reading: Complete.

    Returns:
        The row. Extra-thyroidal extension counts as an irregular margin (OURS).

    Raises:
        IncompleteReadingError: A group is missing.

    Example:
        >>> from medtail.lexicons.parsing import parse_reading
        >>> eu_match(parse_reading(composition="solid", echogenicity="iso", shape="taller", margin="smooth",
        ...                        foci="none"))
        Match(category='5', row=2, why='high-risk feature: taller')

    References:
        russ2017.
    """
    complete(reading, system=LEXICONS["eu"].label)
    assert reading.foci is not None, "complete"
    composition, echo = reading.composition, reading.echogenicity
    high_risk = [
        *(["taller"] if reading.shape is Shape.TALLER else []),
        *([str(reading.margin)] if reading.margin in HIGH_RISK_MARGINS else []),
        *(["punctate"] if Focus.PUNCTATE in reading.foci else []),
        *(["very_hypo"] if echo is Echogenicity.VERY_HYPO else []),
    ]
    if composition is Composition.SPONGIFORM:
        return Match("2", 1, "spongiform")
    if composition is Composition.CYSTIC and echo is Echogenicity.ANECHOIC:
        return Match("2", 1, "cystic and anechoic")
    if high_risk:
        return Match("5", 2, f"high-risk feature: {', '.join(high_risk)}")
    if composition is Composition.CYSTIC:
        return Match("3", 3, "cystic, not anechoic: doubt about a solid part is low risk")
    if echo is Echogenicity.HYPO:
        return Match("4", 4, "hypoechoic without high-risk feature")
    if echo in (Echogenicity.HYPER, Echogenicity.ISO):
        return Match("3", 5, f"{echo}echoic without high-risk feature")
    return Match(None, 6, "needs the echogenicity of the solid part")


def k_match(reading: Reading) -> Match:
    """Find the first fitting row of K-TIRADS.

    A sign is punctate foci, taller, an irregular margin or extra-thyroidal extension (the last OURS). An undetermined
    composition is taken as hidden by calcification (OURS: entirely calcified).

    Args:
        reading: Complete.

    Returns:
        The row.

    Raises:
        IncompleteReadingError: A group is missing.

    Example:
        >>> from medtail.lexicons.parsing import parse_reading
        >>> k_match(parse_reading(composition="solid", echogenicity="hypo", shape="wider", margin="smooth",
        ...                       foci="none"))
        Match(category='4', row=3, why='solid hypo without sign')

    References:
        ha2021.
    """
    complete(reading, system=LEXICONS["k"].label)
    assert reading.foci is not None, "complete"
    composition, echo = reading.composition, reading.echogenicity
    signs = [
        *(["punctate"] if Focus.PUNCTATE in reading.foci else []),
        *(["taller"] if reading.shape is Shape.TALLER else []),
        *([str(reading.margin)] if reading.margin in HIGH_RISK_MARGINS else []),
    ]
    told = f"with {', '.join(signs)}" if signs else "without sign"
    if composition is Composition.CYSTIC:
        return Match("2", 1, "cystic")
    if composition is Composition.SPONGIFORM and echo not in DARK:
        return Match("2", 1, "spongiform, not hypoechoic")
    if composition is Composition.UNDETERMINED:
        return Match("4", 2, "composition hidden by calcification")
    if composition is Composition.SOLID:
        if echo in DARK:
            return Match("5" if signs else "4", 3, f"solid {echo} {told}")
        if echo in (Echogenicity.HYPER, Echogenicity.ISO):
            return Match("4" if signs else "3", 4, f"solid {echo} {told}")
        return Match(None, 8, "needs the echogenicity of the solid nodule")
    if signs:
        return Match("4", 5, f"{composition} {told}")
    if composition is Composition.MIXED and Focus.COMET_TAIL in reading.foci:
        return Match("2", 6, "mixed with comet tails, without sign")
    return Match("3", 7, f"{composition} without sign")


def category_of(reading: Reading, system: System, *, cystic_stops: bool = False) -> str | None:
    """Return the category alone.

    Args:
        reading: Complete.
        system: A short name.
        cystic_stops: See `acr_points`.

    Returns:
        The category; None where the system cannot tell.

    Example:
        >>> from medtail.lexicons.parsing import parse_reading
        >>> nodule = parse_reading(composition="solid", echogenicity="very hypo", shape="wider", margin="smooth",
        ...                        foci="none")
        >>> [category_of(nodule, system) for system in ("acr", "c", "eu", "k")]
        ['TR4', '4B', '5', '4']
    """
    match system:
        case "acr":
            return acr_level(acr_points(reading, cystic_stops=cystic_stops).total)
        case "c":
            return c_category(c_score(reading))
        case "eu":
            return eu_match(reading).category
        case "k":
            return k_match(reading).category


def rule_warnings(reading: Reading, system: System, *, cystic_stops: bool = False) -> tuple[str, ...]:
    """Return where a system's answer rests on our reading of the guideline, or is unusual.

    Args:
        reading: Complete.
        system: A short name.
        cystic_stops: See `acr_points`.

    Example:
        >>> from medtail.lexicons.parsing import parse_reading
        >>> nodule = parse_reading(composition="mixed", echogenicity="anechoic", shape="wider", margin="smooth",
        ...                        foci="none")
        >>> rule_warnings(nodule, "acr")
        ('off_chart: 1 point is not on the chart; taken as TR1.',)
    """
    composition, foci = reading.composition, reading.foci or frozenset()
    hidden = composition is Composition.UNDETERMINED
    if system == "acr" and acr_points(reading, cystic_stops=cystic_stops).total == 1:
        return ("off_chart: 1 point is not on the chart; taken as TR1.",)
    if system == "c" and hidden:
        return ("undetermined composition is counted as solid; the guideline is silent.",)
    if system == "eu" and eu_match(reading).row == 1 and composition is Composition.CYSTIC:
        beside = [
            *([str(reading.margin)] if reading.margin in HIGH_RISK_MARGINS else []),
            *(["punctate"] if Focus.PUNCTATE in foci else []),
        ]
        if beside:
            return (f"category 2 stands for a pure cyst, though it shows {', '.join(beside)}: look again.",)
    if system == "eu" and eu_match(reading).category is None:
        return ("no category: EU-TIRADS needs the echogenicity of the solid part.",)
    if system == "k" and hidden and not foci & {Focus.MACRO, Focus.RIM}:
        return ("undetermined composition is taken as entirely calcified, though no macro or rim focus is named.",)
    if system == "k" and k_match(reading).category is None:
        return ("no category: K-TIRADS needs the echogenicity of a solid nodule.",)
    return ()
