"""BI-RADS ultrasound, 5th edition: the terms, what a category means, and what does not fit together.

There is no point rule: nobody can compute a category from descriptors, and this module does not. It checks terms,
places a calibrated probability of cancer in the band the atlas gives it, and warns where a category somebody gave does
not fit what they described.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, final

import numpy as np

from medtail.errors import MedtailError, Problems, did_you_mean, listing

EDITION: Final = "BI-RADS ultrasound, 5th edition 2013"

ONE_OF: Mapping[str, tuple[str, ...]] = {
    "tissue": ("homogeneous_fat", "homogeneous_fibroglandular", "heterogeneous"),
    "shape": ("oval", "round", "irregular"),
    "orientation": ("parallel", "not_parallel"),
    "echo": ("anechoic", "hyperechoic", "complex", "hypoechoic", "isoechoic", "heterogeneous"),
    "posterior": ("none", "enhancement", "shadowing", "combined"),
    "vascularity": ("absent", "internal", "rim"),
    "elasticity": ("soft", "intermediate", "hard"),
}
"""Groups that take one term."""
ANY_OF: Mapping[str, tuple[str, ...]] = {
    "margin": ("circumscribed", "indistinct", "angular", "microlobulated", "spiculated"),
    "calcifications": ("in_mass", "outside", "intraductal"),
    "associated": ("architectural_distortion", "duct_changes", "skin_thickening", "skin_retraction", "edema"),
    "special": (
        "simple_cyst", "clustered_microcysts", "complicated_cyst", "mass_in_or_on_skin", "foreign_body", "lymph_nodes",
        "vascular_abnormality", "fluid_collection", "fat_necrosis",
    ),
}  # fmt: skip
"""Groups that take several terms; `circumscribed` excludes the other margins."""
MASS: Final = ("shape", "orientation", "margin", "echo", "posterior")
SYNONYMS: Mapping[str, str] = {
    "lobulated": "microlobulated", "spiculate": "spiculated", "ill_defined": "indistinct", "smooth": "circumscribed",
    "well_defined": "circumscribed", "wider_than_tall": "parallel", "taller_than_wide": "not_parallel",
    "wider": "parallel", "taller": "not_parallel", "vertical": "not_parallel", "hypo": "hypoechoic",
    "iso": "isoechoic", "hyper": "hyperechoic", "complex_cystic_solid": "complex", "mixed": "combined", "no": "none",
    "shadow": "shadowing", "intramass": "in_mass", "in_a_mass": "in_mass", "oedema": "edema", "cyst": "simple_cyst",
}  # fmt: skip


@final
@dataclass(frozen=True, kw_only=True)
class BiradsReading:
    """Descriptors of a breast ultrasound; "" or the empty set where nothing was said.

    Attributes:
        tissue: Background echotexture.
        shape: Of the mass, as the next four.
        orientation: Against the skin.
        margin: `circumscribed` alone, or any of the others.
        echo: Echo pattern.
        posterior: Features behind it.
        calcifications: Where they lie.
        associated: Features beside the mass.
        vascularity: As Doppler shows it.
        elasticity: As elastography shows it.
        special: Cases that are recognised as such.
    """

    tissue: str = ""
    shape: str = ""
    orientation: str = ""
    margin: frozenset[str] = field(default_factory=frozenset)
    echo: str = ""
    posterior: str = ""
    calcifications: frozenset[str] = field(default_factory=frozenset)
    associated: frozenset[str] = field(default_factory=frozenset)
    vascularity: str = ""
    elasticity: str = ""
    special: frozenset[str] = field(default_factory=frozenset)

    @property
    def has_mass(self) -> bool:
        """Whether anything of a mass is described."""
        return any(bool(getattr(self, group)) for group in MASS)


def validate(reading: Mapping[str, str | Iterable[str] | None], *, where: str = "BI-RADS reading") -> BiradsReading:
    """Check terms and gather them; nothing is repaired.

    Args:
        reading: Group → a term, or for `margin`, `calcifications`, `associated` and `special` a list of them (or text
            joined by `;`). None, "" and missing groups say nothing.
        where: For messages.

    Returns:
        The reading.

    Raises:
        MedtailError: Every mistake at once: unknown groups and terms with the nearest known one, several terms in a
            group of one, `circumscribed` beside another margin.

    Example:
        >>> validate({"shape": "oval", "margin": ["circumscribed"], "orientation": "parallel"}).has_mass
        True
        >>> validate({"margin": "circumscribed; spiculated"})
        Traceback (most recent call last):
        medtail.errors.MedtailError: BI-RADS reading, margin: found circumscribed beside spiculated; expected ...

    References:
        mendelson2013.
    """
    problems = Problems(where)
    for unknown in (name for name in reading if name not in ONE_OF and name not in ANY_OF):
        hint = did_you_mean(unknown, [*ONE_OF, *ANY_OF]) or f"; expected {', '.join((*ONE_OF, *ANY_OF))}."
        problems.add(f"group {unknown!r}: unknown{hint}")
    single = {group: _terms(group, reading.get(group), problems) for group in ONE_OF}
    several = {group: _terms(group, reading.get(group), problems) for group in ANY_OF}
    for group, terms in single.items():
        if len(terms) > 1:
            problems.add(
                f"{group}: found {' and '.join(terms)}, {len(terms)} terms of an exclusive group; expected one."
            )
    margins = several["margin"]
    if "circumscribed" in margins and len(margins) > 1:
        others = listing([term for term in margins if term != "circumscribed"])
        problems.add(f"margin: found circumscribed beside {others}; expected circumscribed alone, or the others.")
    problems.raise_if_any()
    checked: dict[str, Any] = {group: next(iter(terms), "") for group, terms in single.items()}
    checked |= {group: frozenset(terms) for group, terms in several.items()}
    return BiradsReading(**checked)


def _terms(group: str, given: str | Iterable[str] | None, problems: Problems) -> list[str]:
    known = ONE_OF.get(group) or ANY_OF[group]
    words = [] if given is None else (given.split(";") if isinstance(given, str) else list(given))
    plain = [word.strip().lower().replace(" ", "_").replace("-", "_") for word in words if word.strip()]
    for word in (word for word in plain if word not in known):
        meant = SYNONYMS.get(word)
        hint = f"; did you mean {meant!r}?" if meant in known else did_you_mean(word, known)
        elsewhere = [other for other in (*ONE_OF, *ANY_OF) if word in (*ONE_OF.get(other, ()), *ANY_OF.get(other, ()))]
        if not hint and elsewhere:
            hint = f"; it belongs to {elsewhere[0]}."
        problems.add(f"{group}: found {word!r}, unknown{hint or '.'} (expected {', '.join(known)})")
    return list(dict.fromkeys(word for word in plain if word in known))


@final
@dataclass(frozen=True)
class BiradsCategory:
    """What a category means.

    Attributes:
        name: `0` to `6`, `4A` to `4C`.
        words: What it is called.
        likelihood: Of cancer, as the atlas gives it; "" where it gives none.
        management: What follows.
        is_ordinal: Whether it has a place in an order of suspicion (0 and 6 have none).
    """

    name: str
    words: str
    likelihood: str
    management: str
    is_ordinal: bool = True


CATEGORIES: Mapping[str, BiradsCategory] = {
    category.name: category
    for category in (
        BiradsCategory("0", "incomplete", "", "more imaging", is_ordinal=False),
        BiradsCategory("1", "negative", "about 0", "routine"),
        BiradsCategory("2", "benign", "about 0", "routine"),
        BiradsCategory("3", "probably benign", "> 0 to <= 2 %", "short interval (6 months)"),
        BiradsCategory("4", "suspicious", "> 2 to < 95 %", "tissue diagnosis"),
        BiradsCategory("4A", "low suspicion", "> 2 to <= 10 %", "tissue diagnosis"),
        BiradsCategory("4B", "moderate suspicion", "> 10 to <= 50 %", "tissue diagnosis"),
        BiradsCategory("4C", "high suspicion", "> 50 to < 95 %", "tissue diagnosis"),
        BiradsCategory("5", "highly suggestive of malignancy", ">= 95 %", "tissue diagnosis"),
        BiradsCategory("6", "known, biopsy-proven malignancy", "proven", "excision when appropriate", is_ordinal=False),
    )
}
"""In the order of display. A "4" without its letter stays "4": it stands before 4A and is none of the three."""


def parse_category(text: str) -> str:
    """Read a category; "4a" becomes "4A", and "4" stays "4".

    Raises:
        MedtailError: No such category.

    Example:
        >>> parse_category("4a"), parse_category(" 4 ")
        ('4A', '4')
        >>> parse_category("4D")
        Traceback (most recent call last):
        medtail.errors.MedtailError: BI-RADS category '4D': unknown; expected 0, 1, 2, 3, 4, 4A, 4B, 4C, 5, 6.
    """
    plain = str(text).strip().upper()
    if plain not in CATEGORIES:
        raise MedtailError(f"BI-RADS category {str(text)!r}: unknown; expected {', '.join(CATEGORIES)}.")
    return plain


def sort_key(category: str) -> int:
    """Return the place of a category in a display; 0 and 6 have one here but stay out of ordinal metrics.

    Raises:
        MedtailError: No such category.

    Example:
        >>> sorted(["6", "4B", "0", "5", "4", "4A"], key=sort_key)
        ['0', '4', '4A', '4B', '5', '6']
    """
    return list(CATEGORIES).index(parse_category(category))


BANDS: Final = ("3 or lower", "4A", "4B", "4C", "5")


def band(probability: np.ndarray | float) -> np.ndarray:
    """Place calibrated probabilities of cancer in the bands of the atlas.

    Args:
        probability: float [N] or one number, in [0, 1].

    Returns:
        Text [N]: `3 or lower` (p <= .02), `4A` (<= .10), `4B` (<= .50), `4C` (< .95) or `5`. Never 0, 1, 2 or 6: those
        are not probabilities.

    Raises:
        MedtailError: NaN, or outside [0, 1].

    Example:
        >>> band(np.array([0.02, 0.021, 0.10, 0.5, 0.51, 0.95])).tolist()
        ['3 or lower', '4A', '4A', '4B', '4C', '5']
    """
    values = np.atleast_1d(np.asarray(probability, dtype=np.float64))
    wrong = ~((values >= 0.0) & (values <= 1.0))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise MedtailError(f"BI-RADS band, row {row}: found {values[row]}; expected a probability in [0, 1].")
    number = np.searchsorted([0.02, 0.10, 0.50, math.nextafter(0.95, 0.0)], values, side="left")
    return np.array(BANDS, dtype=object)[number]


def consistency(reading: BiradsReading, category: str) -> tuple[str, ...]:
    """Warn where a category does not fit the descriptors.

    Args:
        reading: From `validate`.
        category: As somebody gave it.

    Returns:
        Warnings; none means only that no contradiction was found.

    Raises:
        MedtailError: No such category.

    Example:
        >>> consistency(validate({"shape": "irregular", "margin": "spiculated", "echo": "hypoechoic"}), "2")
        ('category 2 with a spiculated margin.', 'category 2 with a solid irregular mass.')
        >>> consistency(validate({"shape": "oval", "margin": "circumscribed"}), "3")
        ()

    References:
        mendelson2013.
    """
    name = parse_category(category)
    is_cyst = bool(reading.special & {"simple_cyst", "clustered_microcysts", "complicated_cyst"})
    is_solid = reading.echo not in ("", "anechoic") and not is_cyst
    found = []
    if name == "1" and (reading.has_mass or reading.special or reading.calcifications):
        found.append("category 1 (nothing to comment on) beside a described finding.")
    if name in ("2", "3"):
        found += [f"category {name} with {_article(term)} margin."
                  for term in ("angular", "spiculated") if term in reading.margin]  # fmt: skip
    if name == "2" and is_solid and reading.shape == "irregular":
        found.append("category 2 with a solid irregular mass.")
    if name == "3" and is_solid:
        doubtful = [
            *(["irregular shape"] if reading.shape == "irregular" else []),
            *(["not parallel"] if reading.orientation == "not_parallel" else []),
            *(f"{term} margin" for term in ("indistinct", "microlobulated") if term in reading.margin),
        ]
        if doubtful:
            found.append(
                f"category 3 with {listing(doubtful)}: probably benign solid masses are oval, circumscribed, parallel."
            )
    if name in ("4", "4A", "4B", "4C", "5") and "simple_cyst" in reading.special and not is_solid:
        found.append(f"category {name} for a simple cyst, which is benign.")
    if name == "5" and reading.shape == "oval" and reading.margin == {"circumscribed"}:
        found.append("category 5 for an oval circumscribed mass.")
    return tuple(found)


def _article(term: str) -> str:
    return f"{'an' if term[0] in 'aeiou' else 'a'} {term}"
