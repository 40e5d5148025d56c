"""The four TI-RADS systems as tables: categories, risks, size limits, and what each advises.

One table serves the answer for a nodule and the arrays of `propagation`; no limit is written twice. ACR limits are met
at equality, C-TIRADS' too; EU and K ask for more than the limit. Advice quotes the guideline; it is no diagnosis.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal, final, get_args

import numpy as np

from medtail.errors import MedtailError, UsageError, did_you_mean, listing
from medtail.lexicons.descriptors import checked_size

System = Literal["acr", "c", "eu", "k"]
SYSTEMS: tuple[System, ...] = get_args(System)
K4_MM: Final = 10.0
"""K-TIRADS 4: the guideline leaves the limit between 10 and 15 mm to the site."""
K4_RANGE = (10.0, 15.0)


class Action(StrEnum):
    """What a guideline advises at a size; FNA wins over following."""

    FNA = "FNA"
    FOLLOW = "FOLLOW"
    NONE = "NONE"


@final
@dataclass(frozen=True, kw_only=True)
class Category:
    """One level of a system.

    Attributes:
        name: `TR4`, `4A`, …
        words: What it is called.
        risk: Of malignancy, as the guideline (or the cohort behind it) gives it.
        fna_mm: Size from which a needle is advised; None = never.
        follow_mm: Size from which following is advised.
        consider_mm: Above it, and below `fna_mm`, a needle "may be considered".
        scans_years: When to scan again, in years after the first scan.
        scores: Lowest and highest score of the level; None where there is no score.
    """

    name: str
    words: str
    risk: str
    fna_mm: float | None = None
    follow_mm: float | None = None
    consider_mm: float | None = None
    scans_years: tuple[int, ...] = ()
    scores: tuple[int, int] | None = None


@final
@dataclass(frozen=True, kw_only=True)
class Lexicon:
    """A system and its categories, in order of risk.

    Attributes:
        system: Its short name.
        title: Its full one.
        version: The year that is implemented.
        categories: In ascending order.
        outside: Categories nobody can compute from descriptors → what they mean.
        is_strict: True where the size must be more than the limit.
        consider: When a smaller nodule "may be considered" for a needle.
    """

    system: System
    title: str
    version: str
    categories: tuple[Category, ...]
    outside: Mapping[str, str]
    is_strict: bool
    consider: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the categories."""
        return tuple(category.name for category in self.categories)

    @property
    def label(self) -> str:
        """Title and version."""
        return f"{self.title} {self.version}"

    def category(self, name: str) -> Category:
        """Return a category by name.

        Raises:
            MedtailError: No such category, or one that is given from outside.

        Example:
            >>> LEXICONS["acr"].category("TR4").fna_mm
            15.0
        """
        for category in self.categories:
            if category.name == name:
                return category
        if name in self.outside:
            raise MedtailError(
                f"{self.label}, category {name!r}: {self.outside[name]}; it is given from outside and has no advice."
            )
        hint = did_you_mean(str(name), self.names) or f"; categories: {listing(self.names, limit=8)}"
        raise MedtailError(f"{self.label}, category {name!r}: no such category{hint}")


LEXICONS: Mapping[System, Lexicon] = {
    "acr": Lexicon(
        system="acr",
        title="ACR TI-RADS",
        version="2017",
        categories=(
            Category(name="TR1", words="benign", risk="<= 2 % (observed 0.3 %)", scores=(0, 1)),
            Category(name="TR2", words="not suspicious", risk="<= 2 % (observed 1.5 %)", scores=(2, 2)),
            Category(
                name="TR3", words="mildly suspicious", risk="5 % (observed 4.8 %)",
                fna_mm=25.0, follow_mm=15.0, scans_years=(1, 3, 5), scores=(3, 3),
            ),
            Category(
                name="TR4", words="moderately suspicious", risk="5-20 % (observed 9.1 %)",
                fna_mm=15.0, follow_mm=10.0, scans_years=(1, 2, 3, 5), scores=(4, 6),
            ),
            Category(
                name="TR5", words="highly suspicious", risk=">= 20 % (observed 35 %)",
                fna_mm=10.0, follow_mm=5.0, scans_years=(1, 2, 3, 4, 5), scores=(7, 17),
            ),
        ),
        outside={},
        is_strict=False,
    ),
    "c": Lexicon(
        system="c",
        title="C-TIRADS",
        version="2020",
        categories=(
            Category(name="2", words="benign", risk="0 % (observed 0 %)", scores=(-1, -1)),
            Category(name="3", words="probably benign", risk="< 2 % (observed 1.4 %)", scores=(0, 0)),
            Category(
                name="4A", words="low suspicion", risk="2-10 % (observed 10.6 %)",
                fna_mm=15.0, consider_mm=10.0, scores=(1, 1),
            ),
            Category(
                name="4B", words="moderate suspicion", risk="10-50 % (observed 40.0 %)",
                fna_mm=10.0, consider_mm=5.0, scores=(2, 2),
            ),
            Category(
                name="4C", words="high suspicion", risk="50-90 % (observed 78.0 %)",
                fna_mm=10.0, consider_mm=5.0, scores=(3, 4),
            ),
            Category(
                name="5", words="highly suggestive of malignancy", risk="> 90 % (observed 94.6 %)",
                fna_mm=10.0, consider_mm=5.0, scores=(5, 5),
            ),
        ),
        outside={"1": "no nodule", "6": "proven malignant"},
        is_strict=False,
        consider="when there are several nodules, or next to trachea, nerve or capsule",
    ),
    "eu": Lexicon(
        system="eu",
        title="EU-TIRADS",
        version="2017",
        categories=(
            Category(name="2", words="benign", risk="about 0 %"),
            Category(name="3", words="low risk", risk="2-4 %", fna_mm=20.0),
            Category(name="4", words="intermediate risk", risk="6-17 %", fna_mm=15.0),
            Category(name="5", words="high risk", risk="26-87 %", fna_mm=10.0),
        ),
        outside={"1": "no nodule"},
        is_strict=True,
    ),
    "k": Lexicon(
        system="k",
        title="K-TIRADS",
        version="2021",
        categories=(
            Category(name="2", words="benign", risk="< 3 %"),
            Category(name="3", words="low suspicion", risk="3-10 %", fna_mm=20.0),
            Category(name="4", words="intermediate suspicion", risk="10-40 %", fna_mm=K4_MM),
            Category(name="5", words="high suspicion", risk="> 60 %", fna_mm=10.0),
        ),
        outside={"1": "no nodule"},
        is_strict=True,
    ),
}  # fmt: skip


def lexicon(name: str, *, version: str | None = None) -> Lexicon:
    """Return a system by name.

    Args:
        name: `acr`, `c`, `eu` or `k`, or its title, with or without a year: `acr-2017`, `K-TIRADS 2021`.
        version: The year, if not in the name; None takes the one implemented.

    Returns:
        The lexicon.

    Raises:
        UsageError: No such system, or another version of it.

    Example:
        >>> lexicon("ACR TI-RADS 2017").system, lexicon("k-2021").label
        ('acr', 'K-TIRADS 2021')
    """
    word = str(name).strip().lower()
    for ending in ("ti-rads", "tirads"):
        word = word.replace(ending, " ")
    parts = word.replace("-", " ").replace("_", " ").replace("@", " ").split()
    if len(parts) > 2 or not parts or (version is not None and len(parts) > 1):
        raise UsageError(f"TI-RADS system {name!r}: expected {_known()}.")
    asked = version if version is not None else (parts[1] if len(parts) == 2 else None)
    for system in SYSTEMS:
        if parts[0] == system:
            found = LEXICONS[system]
            if asked is not None and str(asked) != found.version:
                raise UsageError(
                    f"{found.title}, version {str(asked)!r}: not implemented; known: {found.version}. Levels of"
                    " different versions are not the same thing."
                )
            return found
    hint = did_you_mean(parts[0], SYSTEMS) or "."
    raise UsageError(f"TI-RADS system {name!r}: unknown; expected {_known()}{hint}")


def _known() -> str:
    return ", ".join(f"{system} ({found.label})" for system, found in LEXICONS.items())


def systems_named(name: str) -> tuple[System, ...]:
    """Return the systems of `--system`: one, several with a comma between, or `all`.

    Raises:
        UsageError: An unknown one, or none.

    Example:
        >>> systems_named("acr,eu"), systems_named("all")
        (('acr', 'eu'), ('acr', 'c', 'eu', 'k'))
    """
    if name.strip().lower() == "all":
        return SYSTEMS
    found = [lexicon(word).system for word in name.split(",") if word.strip()]
    if not found:
        raise UsageError(f"TI-RADS system {name!r}: expected {_known()}, or all.")
    return tuple(dict.fromkeys(found))


@final
@dataclass(frozen=True)
class Advice:
    """What a guideline advises for a category at a size.

    Attributes:
        action: FNA, FOLLOW or NONE.
        size_mm: The size it was asked for.
        why: The limit that decided, in words.
        notes: What the guideline adds.
        scans_years: When to scan again if it is followed, years after the first scan; empty where the guideline
            (or this implementation) gives none.
    """

    action: Action
    size_mm: float
    why: str
    notes: tuple[str, ...] = ()
    scans_years: tuple[int, ...] = ()


def advice(
    category: str | None, size_mm: float | None, *, system: str = "acr", k4_threshold_mm: float = K4_MM
) -> Advice | None:
    """Say what a system advises for a category at a size.

    Args:
        category: A category of the system; None where the system cannot tell.
        size_mm: Largest dimension, mm; None or NaN if unknown.
        system: See `lexicon`.
        k4_threshold_mm: Of K-TIRADS 4, from 10 to 15 mm.

    Returns:
        The advice; None where category or size is unknown.

    Raises:
        MedtailError: The category is outside the system, the size impossible, or the threshold outside 10 to 15 mm.

    Example:
        >>> advice("TR4", 15.0).action, advice("TR4", 14.9).action, advice("TR4", None)
        (<Action.FNA: 'FNA'>, <Action.FOLLOW: 'FOLLOW'>, None)

    References:
        tessler2017, russ2017, ha2021.
    """
    rules = lexicon(system)
    size, mistake = checked_size(size_mm)
    if mistake:
        raise MedtailError(f"{rules.label}, size_mm: {mistake}")
    check_k4(k4_threshold_mm)
    found = None if category is None else rules.category(category)
    if found is None or size is None:
        return None
    fna_mm = fna_limit(rules, found, k4_threshold_mm=k4_threshold_mm)
    sign = ">" if rules.is_strict else ">="
    if _reaches(size, fna_mm, is_strict=rules.is_strict):
        return Advice(Action.FNA, size, f"{size:g} mm; FNA at {sign} {fna_mm:g} mm", _notes(rules, found, size, fna_mm))
    notes = _notes(rules, found, size, fna_mm)
    if _reaches(size, found.follow_mm, is_strict=rules.is_strict):
        why = f"{size:g} mm; follow at {sign} {found.follow_mm:g} mm, FNA at {sign} {fna_mm:g} mm"
        return Advice(Action.FOLLOW, size, why, notes, found.scans_years)
    if fna_mm is None:
        why = f"{found.name} needs no FNA at any size"
    elif found.follow_mm is not None:
        why = f"{size:g} mm; below {found.follow_mm:g} mm neither following nor FNA"
    else:
        why = f"{size:g} mm; FNA only at {sign} {fna_mm:g} mm"
    return Advice(Action.NONE, size, why, notes)


def check_k4(threshold_mm: float) -> None:
    """Refuse a limit of K-TIRADS 4 the guideline does not allow.

    Raises:
        UsageError: Outside 10 to 15 mm.
    """
    if not K4_RANGE[0] <= threshold_mm <= K4_RANGE[1]:
        raise UsageError(f"k4_threshold_mm {threshold_mm!r}: expected 10 to 15 mm, which the guideline leaves open.")


def fna_limit(rules: Lexicon, category: Category, *, k4_threshold_mm: float = K4_MM) -> float | None:
    """Return the size at which a needle is advised, mm; None = never."""
    return k4_threshold_mm if rules.system == "k" and category.name == "4" else category.fna_mm


def _reaches(size: float, limit: float | None, *, is_strict: bool) -> bool:
    if limit is None:
        return False
    rounded = round(size, 6)
    return rounded > limit if is_strict else rounded >= limit


def _notes(rules: Lexicon, category: Category, size: float, fna_mm: float | None) -> tuple[str, ...]:
    size = round(size, 6)
    key = (rules.system, category.name)
    notes = []
    if key == ("acr", "TR5") and 5.0 <= size < 10.0:
        notes.append(
            "FNA only by shared decision; state reproducibility of the measurement and nearness to trachea or nerve"
            " groove."
        )
    if category.consider_mm is not None and fna_mm is not None and category.consider_mm < size < fna_mm:
        notes.append(f"FNA may be considered above {category.consider_mm:g} mm {rules.consider}.")
    if key == ("eu", "5") and size <= 10.0:
        notes.append("FNA or surveillance.")
    if key == ("k", "5") and 5.0 <= size <= 10.0:
        notes.append("FNA selectively from 5 to 10 mm.")
    if key == ("k", "4") and 10.0 < size <= 15.0:
        notes.append(f"The guideline leaves the limit between 10 and 15 mm to the site; {fna_mm:g} mm is used here.")
    return tuple(notes)


def advised_at(
    system: System, sizes_mm: np.ndarray, *, k4_threshold_mm: float = K4_MM
) -> tuple[np.ndarray, np.ndarray]:
    """Say for every nodule and category whether the size calls for a needle, and whether for following.

    Args:
        system: A short name.
        sizes_mm: float [N], mm, NaN where unknown.
        k4_threshold_mm: Of K-TIRADS 4.

    Returns:
        Two bool [N, K], FNA and FOLLOW (never both); False where the size is unknown.

    Example:
        >>> fna, follow = advised_at("acr", np.array([12.0]))
        >>> fna.tolist(), follow.tolist()
        ([[False, False, False, False, True]], [[False, False, False, True, False]])
    """
    check_k4(k4_threshold_mm)
    rules = LEXICONS[system]
    rounded = np.round(np.asarray(sizes_mm, dtype=np.float64), 6)[:, None]

    def reached(limits: list[float | None]) -> np.ndarray:
        cut = np.array([np.inf if limit is None else limit for limit in limits])
        return np.asarray(rounded > cut if rules.is_strict else rounded >= cut)

    fna = reached([fna_limit(rules, category, k4_threshold_mm=k4_threshold_mm) for category in rules.categories])
    return fna, reached([category.follow_mm for category in rules.categories]) & ~fna
