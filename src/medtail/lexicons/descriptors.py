"""What a thyroid ultrasound reading says: five groups of closed terms, a size, and how people spell them.

Stands at the bottom of the lexicons. A `Reading` holds what somebody chose; a group may be `undetermined` (looked at,
cannot be told) or missing (nobody said), which are different things: the first has points, the second is an error.
Spellings are never repaired: an unknown word is refused with the nearest known one.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, final

from medtail.errors import MedtailError, Problems, listing

MOST_MM = 200.0
"""No thyroid nodule is larger; such a number is an area, a volume or another unit."""


class Composition(StrEnum):
    """What the nodule is made of; `cystic` and `solid` mean (almost) completely so, `spongiform` > 50 % small cysts."""

    CYSTIC = "cystic"
    SPONGIFORM = "spongiform"
    MIXED = "mixed"
    SOLID = "solid"
    UNDETERMINED = "undetermined"


class Echogenicity(StrEnum):
    """Brightness of the solid part against the parenchyma; `very_hypo` is darker than the strap muscles."""

    ANECHOIC = "anechoic"
    HYPER = "hyper"
    ISO = "iso"
    HYPO = "hypo"
    VERY_HYPO = "very_hypo"
    UNDETERMINED = "undetermined"


class Shape(StrEnum):
    """`taller`: higher along the beam than wide, in the transverse plane."""

    WIDER = "wider"
    TALLER = "taller"


class Margin(StrEnum):
    """`irregular`: lobulated, jagged, spiculated, sharp angles; `ete`: obvious invasion beyond the thyroid."""

    SMOOTH = "smooth"
    ILL_DEFINED = "ill_defined"
    IRREGULAR = "irregular"
    ETE = "ete"
    UNDETERMINED = "undetermined"


class Focus(StrEnum):
    """Echogenic foci, which combine; `comet_tail` means the large, V-shaped ones (> 1 mm) of cystic parts."""

    COMET_TAIL = "comet_tail"
    MACRO = "macro"
    RIM = "rim"
    PUNCTATE = "punctate"


NO_FOCI: Final = "none"
EXCLUSIVE: Mapping[str, type[Composition | Echogenicity | Shape | Margin]] = {
    "composition": Composition,
    "echogenicity": Echogenicity,
    "shape": Shape,
    "margin": Margin,
}
"""Groups that take exactly one value."""
GROUPS = (*EXCLUSIVE, "foci")
PREFIXES: Mapping[str, str] = {
    "composition": "comp_", "echogenicity": "echo_", "shape": "shape_", "margin": "margin_", "foci": "foci_",
}  # fmt: skip
UNDETERMINED = "undetermined"
CAN_BE_UNDETERMINED = ("composition", "echogenicity", "margin")


def group_values(group: str) -> tuple[str, ...]:
    """Return the values of a group that are labels, in the protocol's order; of foci, `none` first.

    Example:
        >>> group_values("shape"), group_values("foci")
        (('wider', 'taller'), ('none', 'comet_tail', 'macro', 'rim', 'punctate'))
    """
    if group == "foci":
        return (NO_FOCI, *(str(focus) for focus in Focus))
    return tuple(str(member) for member in EXCLUSIVE[group] if member != UNDETERMINED)


LABELS: Mapping[str, tuple[str, ...]] = {
    group: tuple(PREFIXES[group] + value for value in group_values(group)) for group in GROUPS
}
"""Group → the columns of its labels, twenty in all; the same names as Thyro-LMD's."""
LABEL_NAMES = tuple(name for names in LABELS.values() for name in names)

# what reports and other tables write; offered in the error, never taken silently
SYNONYMS: Mapping[str, Mapping[str, str]] = {
    "composition": {
        "almost completely cystic": "cystic", "completely cystic": "cystic", "cyst": "cystic", "simple cyst": "cystic",
        "honeycomb": "spongiform", "sponge": "spongiform",
        "mixed cystic and solid": "mixed", "partially cystic": "mixed", "partly cystic": "mixed", "complex": "mixed",
        "predominantly cystic": "mixed", "predominantly solid": "mixed", "cystic solid": "mixed",
        "almost completely solid": "solid", "completely solid": "solid", "dense": "solid",
    },
    "echogenicity": {
        "echo free": "anechoic", "anechogenic": "anechoic",
        "hyperechoic": "hyper", "hyperechogenic": "hyper", "hyperechogenicity": "hyper",
        "isoechoic": "iso", "isoechogenic": "iso", "isoechogenicity": "iso",
        "hypoechoic": "hypo", "hypoechogenic": "hypo", "hypoechogenicity": "hypo", "mildly hypoechoic": "hypo",
        "very hypoechoic": "very_hypo", "marked hypoechogenicity": "very_hypo", "marked hypo": "very_hypo",
        "markedly hypoechoic": "very_hypo", "marked hypoechoic": "very_hypo", "markedly hypo": "very_hypo",
    },
    "shape": {
        "wider than tall": "wider", "wider-than-tall": "wider", "parallel": "wider",
        "taller than wide": "taller", "nonparallel": "taller", "not parallel": "taller", "vertical": "taller",
    },
    "margin": {
        "well defined": "smooth", "well defined smooth": "smooth", "circumscribed": "smooth", "regular": "smooth",
        "poorly defined": "ill_defined", "indistinct": "ill_defined", "blurred": "ill_defined",
        "lobulated": "irregular", "microlobulated": "irregular", "macrolobulated": "irregular", "jagged": "irregular",
        "spiculated": "irregular", "angular": "irregular", "lobulated or irregular": "irregular",
        "extrathyroidal extension": "ete", "extra thyroidal extension": "ete", "invasion": "ete",
    },
    "foci": {
        "no": "none", "non": "none", "absent": "none", "no foci": "none",
        "comet tail artifact": "comet_tail", "comet": "comet_tail", "large comet tail": "comet_tail",
        "colloid": "comet_tail", "comet tail artefact": "comet_tail",
        "macrocalcification": "macro", "macrocalcifications": "macro", "coarse": "macro", "calcification": "macro",
        "peripheral": "rim", "eggshell": "rim", "rim calcification": "rim", "peripheral calcification": "rim",
        "microcalcification": "punctate", "microcalcifications": "punctate", "micro": "punctate",
        "punctate echogenic foci": "punctate", "psammoma": "punctate",
    },
}  # fmt: skip


class IncompleteReadingError(MedtailError):
    """A group was not given. It is never counted as 0 points; `bounds` says between which levels the nodule lies."""


@final
@dataclass(frozen=True)
class Reading:
    """What somebody saw in one nodule.

    Attributes:
        composition: None where it was not given, as in the next four.
        echogenicity: Of the solid part.
        shape: In the transverse plane.
        margin: The worst part of it.
        foci: All kinds present; the empty set means none.
        size_mm: Largest dimension, 0 < size <= 200; None if unknown.
        rim_extrusion: Soft tissue beyond an interrupted rim calcification (ACR: the margin counts 2 at least).

    Raises:
        MedtailError: A value is no member of its group, or the size is impossible.

    Example:
        >>> Reading(Composition.SOLID, Echogenicity.HYPO, Shape.WIDER, Margin.SMOOTH, frozenset()).missing
        ()
    """

    composition: Composition | None = None
    echogenicity: Echogenicity | None = None
    shape: Shape | None = None
    margin: Margin | None = None
    foci: frozenset[Focus] | None = None
    size_mm: float | None = field(default=None, kw_only=True)
    rim_extrusion: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        problems = Problems("TI-RADS reading")
        for group, kind in EXCLUSIVE.items():
            value: Any = getattr(self, group)
            if value is not None and not isinstance(value, kind):
                problems.add(f"{group}: {unknown_value(value, group)} `parse_reading` reads text.")
        if self.foci is not None and not (
            isinstance(self.foci, frozenset) and all(isinstance(focus, Focus) for focus in self.foci)
        ):
            problems.add(f"foci: found {self.foci!r}; expected a frozenset of Focus. `parse_reading` reads text.")
        size, mistake = checked_size(self.size_mm)
        if mistake:
            problems.add(f"size_mm: {mistake}")
        problems.raise_if_any()
        object.__setattr__(self, "size_mm", size)

    @property
    def missing(self) -> tuple[str, ...]:
        """Groups nobody gave."""
        return tuple(group for group in GROUPS if getattr(self, group) is None)

    def text(self, group: str) -> str:
        """Return a group's value in words; "" where it is missing.

        Example:
            >>> Reading(foci=frozenset({Focus.RIM, Focus.MACRO})).text("foci")
            'macro + rim'
        """
        value = getattr(self, group)
        if value is None:
            return ""
        if group == "foci":
            return " + ".join(str(focus) for focus in Focus if focus in value) or NO_FOCI
        return str(value)


def complete(reading: Reading, *, system: str = "TI-RADS") -> Reading:
    """Return the reading if every group is given.

    Raises:
        IncompleteReadingError: A group is missing.

    Example:
        >>> complete(Reading(Composition.SOLID, Echogenicity.ISO, Shape.WIDER, Margin.SMOOTH))
        Traceback (most recent call last):
        medtail.lexicons.descriptors.IncompleteReadingError: TI-RADS, foci: not given; expected comet_tail, macro, ...
    """
    if reading.missing:
        lines = [f"{system}, {group}: not given; {expected_values(group)}." for group in reading.missing]
        advice = "A missing group is never 0 points; `bounds` gives the lowest and highest level that remain possible."
        raise IncompleteReadingError("\n".join([*lines, advice]))
    return reading


def expected_values(group: str) -> str:
    """Return "expected …" with every value of a group.

    Example:
        >>> expected_values("shape")
        'expected wider or taller'
    """
    if group == "foci":
        return f"expected {', '.join(str(focus) for focus in Focus)} (several joined by ';') or {NO_FOCI!r}"
    values = [str(member) for member in EXCLUSIVE[group]]
    return f"expected {', '.join(values[:-1])} or {values[-1]}"


def plain_word(word: object) -> str:
    """Return a word without case, and with underscores for spaces and hyphens.

    Example:
        >>> plain_word(" Very-Hypo ")
        'very_hypo'
    """
    return re.sub(r"[\s_\-]+", "_", str(word).strip().lower())


def unknown_value(value: object, group: str) -> str:
    """Say that a value is none of a group's, and which was perhaps meant.

    Example:
        >>> unknown_value("hypoechoic", "echogenicity")[:54]
        "found 'hypoechoic', unknown; did you mean 'hypo'? (exp"
    """
    meant = _nearest(plain_word(value), group)
    elsewhere = [other for other in GROUPS if other != group and plain_word(value) in spellings(other)]
    hint = ""
    if meant:
        hint = f"; did you mean {meant!r}?"
    elif elsewhere:
        hint = f"; it belongs to {elsewhere[0]}."
    return f"found {str(value)!r}, unknown{hint} ({expected_values(group)}.)"


def spellings(group: str) -> dict[str, str]:
    """Return every spelling of a group's values that is understood in a message → the value.

    Example:
        >>> spellings("shape")["taller_than_wide"]
        'taller'
    """
    members = [*group_values(group), *([UNDETERMINED] if group in CAN_BE_UNDETERMINED else [])]
    words = {plain_word(text): value for text, value in SYNONYMS[group].items()}
    words |= {PREFIXES[group] + value: value for value in group_values(group)}
    return words | {value: value for value in members}


def _nearest(word: str, group: str) -> str | None:
    known = spellings(group)
    if word in known:
        return known[word]
    if any(word in spellings(other) for other in GROUPS if other != group):
        return None
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.7)
    return known[near[0]] if near else None


def checked_size(value: object) -> tuple[float | None, str]:
    """Return a size in mm and, where it is impossible, what is wrong with it.

    Args:
        value: A number of mm, its text, None, NaN or "".

    Returns:
        The size, None where unknown or wrong; and the mistake in words, "" where there is none.

    Example:
        >>> checked_size("12.5"), checked_size(float("nan")), checked_size(300)[1][:30]
        ((12.5, ''), (None, ''), 'found 300; expected 0 < size <')
    """
    limits = f"expected 0 < size <= {MOST_MM:g} mm"
    if value is None or (isinstance(value, str) and value.strip().lower() in ("", "nan")):
        return None, ""
    if isinstance(value, bool):
        return None, f"found {value!r}; {limits}."
    try:
        size = float(value)  # type: ignore[arg-type]  # whatever it is, float says
    except (TypeError, ValueError):
        unit = re.fullmatch(r"\s*[\d.]+\s*(cm|mm|in|inch)\s*", str(value).lower())
        hint = " Give the number alone: millimetres in size_mm, centimetres in size_cm." if unit else ""
        return None, f"found {value!r}, no number; {limits}.{hint}"
    if math.isnan(size):
        return None, ""
    if not 0.0 < size <= MOST_MM:
        hint = " An area or a volume?" if size > MOST_MM else ""
        return None, f"found {value}; {limits}.{hint}"
    return size, ""


def contradictions(reading: Reading) -> tuple[str, ...]:
    """Return warnings about descriptors that do not go together; the answer stands as the tables give it.

    Args:
        reading: Missing groups contradict nothing.

    Example:
        >>> contradictions(Reading(Composition.SOLID, Echogenicity.ANECHOIC))
        ('anechoic in a solid nodule: anechoic belongs to (almost) completely cystic ones; look again.',)
    """
    found = []
    foci = reading.foci or frozenset()
    if reading.echogenicity is Echogenicity.ANECHOIC and reading.composition in (Composition.SOLID, Composition.MIXED):
        found.append(
            f"anechoic in a {reading.composition} nodule: anechoic belongs to (almost) completely cystic ones; look"
            " again."
        )
    if reading.composition is Composition.SPONGIFORM:
        beside = [
            *([str(reading.margin)] if reading.margin in (Margin.IRREGULAR, Margin.ETE) else []),
            *(["taller"] if reading.shape is Shape.TALLER else []),
            *(["punctate"] if Focus.PUNCTATE in foci else []),
        ]
        if beside:
            found.append(f"spongiform beside {listing(beside)}: reconsider spongiform.")
    if Focus.COMET_TAIL in foci and reading.composition is Composition.SOLID:
        found.append("comet_tail in a solid nodule: large comet tails lie in cystic parts; punctate foci?")
    if reading.rim_extrusion and Focus.RIM not in foci:
        found.append("rim_extrusion without a rim calcification: there is no rim that tissue could break through.")
    return tuple(found)
