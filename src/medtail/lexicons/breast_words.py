"""The words of the BrEaST-Lesions-USG table as BI-RADS terms.

The table splits some groups and joins others: margins stand behind "not circumscribed - " with `&` between, a normal
image has "not applicable" where a lesion would be described. Halo is a label outside the 5th edition; orientation was
not recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

from medtail.errors import MedtailError, Problems, did_you_mean
from medtail.lexicons.birads import BiradsReading, parse_category, validate

NOTHING: Final = ("", "not applicable", "not available")
NOT_CIRCUMSCRIBED: Final = "not circumscribed - "
TISSUES: Mapping[str, str] = {
    "homogeneous: fat": "homogeneous_fat",
    "homogeneous: fibroglandular": "homogeneous_fibroglandular",
    "heterogeneous": "heterogeneous",
    "heterogeneous: predominantly fat": "heterogeneous",
    "heterogeneous: predominantly fibroglandular": "heterogeneous",
}
CALCIFICATIONS: Mapping[str, str] = {"in a mass": "in_mass", "outside a mass": "outside", "intraductal": "intraductal"}


@final
@dataclass(frozen=True)
class BreastRow:
    """One row of the table.

    Attributes:
        reading: Its BI-RADS terms.
        category: As the table gives it ("4A"); "" where it gives none.
        is_lactating: The tissue column says so.
        halo: True, False, or None where it was not said.
        has_calcifications: True, False ("no"), or None ("indefinable", or not said).
    """

    reading: BiradsReading
    category: str
    is_lactating: bool
    halo: bool | None
    has_calcifications: bool | None


def breast_row(row: Mapping[str, str], *, where: str = "BrEaST row") -> BreastRow:
    """Translate a row.

    Args:
        row: Columns `tissue_composition, shape, margin, echogenicity, posterior_features, halo, calcifications,
            skin_thickening, birads`, in any case; missing ones say nothing.
        where: For messages.

    Returns:
        The row in BI-RADS terms.

    Raises:
        MedtailError: A word is outside the table's vocabulary; all at once.

    Example:
        >>> found = breast_row({"Margin": "not circumscribed - angular&microlobulated", "BIRADS": "4a",
        ...                     "Echogenicity": "complex cystic/solid", "Tissue_composition": "lactating"})
        >>> sorted(found.reading.margin), found.category, found.reading.echo, found.is_lactating
        (['angular', 'microlobulated'], '4A', 'complex', True)

    References:
        pawlowska2024.
    """
    problems = Problems(where)
    cells = {name.strip().lower(): str(value).strip().lower() for name, value in row.items()}

    def said(name: str) -> str:
        word = cells.get(name, "")
        return "" if word in NOTHING else word

    tissue, is_lactating = _tissue(said("tissue_composition"), problems)
    calcified = said("calcifications")
    terms = {
        "tissue": tissue,
        "shape": said("shape"),
        "margin": _margin(said("margin")),
        "echo": "complex" if said("echogenicity") == "complex cystic/solid" else said("echogenicity"),
        "posterior": "none" if said("posterior_features") == "no" else said("posterior_features"),
        "calcifications": "" if calcified in ("no", "indefinable") else CALCIFICATIONS.get(calcified, calcified),
        "associated": "skin_thickening" if said("skin_thickening") == "yes" else "",
    }
    halo = _yes_no("halo", said("halo"), problems)
    _yes_no("skin_thickening", said("skin_thickening"), problems)
    reading, category = BiradsReading(), ""
    try:
        reading = validate(terms, where=where)
    except MedtailError as error:
        problems.found += [line.removeprefix(f"{where}, ") for line in str(error).splitlines()]
    try:
        category = parse_category(said("birads")) if said("birads") else ""
    except MedtailError as error:
        problems.add(str(error))
    problems.raise_if_any()
    has = {"": None, "indefinable": None, "no": False}.get(calcified, True)
    return BreastRow(reading, category, is_lactating, halo, has)


def _tissue(text: str, problems: Problems) -> tuple[str, bool]:
    """Return the echotexture and whether the breast is lactating, which the table writes into the same cell."""
    is_lactating = "lactating" in text
    rest = text.replace("lactating", "").strip(" ,;:&-")
    if not rest:
        return "", is_lactating
    if rest not in TISSUES:
        problems.add(f"tissue_composition: found {text!r}, unknown{did_you_mean(rest, TISSUES) or '.'}")
        return "", is_lactating
    return TISSUES[rest], is_lactating


def _margin(text: str) -> str:
    if text.rstrip(" -") == NOT_CIRCUMSCRIBED.rstrip(" -"):
        return ""  # not circumscribed, and the table does not say in which way
    return ";".join(word.strip() for word in text.removeprefix(NOT_CIRCUMSCRIBED).split("&"))


def _yes_no(name: str, word: str, problems: Problems) -> bool | None:
    if word and word not in ("yes", "no"):
        problems.add(f"{name}: found {word!r}; expected yes or no.")
    return {"yes": True, "no": False}.get(word)
