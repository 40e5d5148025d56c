"""Tables that keep 0 to 3 points a group instead of descriptors: what can be read back, and what cannot.

Points are not invertible. Composition 0, echogenicity 1 and margin 0 each stand for several values, and 3 points of
foci are punctate, or macro and rim; such groups stay empty. The stored total and level are worth keeping as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from medtail.errors import MedtailError, Problems
from medtail.lexicons.descriptors import LABEL_NAMES, LABELS, NO_FOCI, PREFIXES

INVERTIBLE: Mapping[str, Mapping[int, str | None]] = MappingProxyType(
    {
        "composition": {0: None, 1: "mixed", 2: "solid"},
        "echogenicity": {0: "anechoic", 1: None, 2: "hypo", 3: "very_hypo"},
        "shape": {0: "wider", 3: "taller"},
        "margin": {0: None, 2: "irregular", 3: "ete"},
    }
)
"""Group → stored points → the one value that has them; None where several have."""
FOCI_POINTS: Mapping[int, tuple[str, ...] | None] = MappingProxyType(
    {
        0: (), 1: ("macro",), 2: ("rim",), 3: None, 4: ("macro", "punctate"), 5: ("rim", "punctate"),
        6: ("macro", "rim", "punctate"),
    }
)  # fmt: skip
"""Sum of the foci's points → the foci; None where two sets have it."""


def labels_from_points(points: Mapping[str, int | None], *, where: str = "stored points") -> dict[str, float]:
    """Turn stored points into the twenty labels as far as they go.

    Two points of composition or one of echogenicity may also have been given to what could not be determined; the
    tables do not say, and solid is taken.

    Args:
        points: Group → points; a missing group or None is not assessed. Foci: the sum.
        where: For messages.

    Returns:
        Label → 1, 0 or NaN (not assessed, or ambiguous). `foci_none` and `foci_comet_tail` stay NaN where no focus has
        points, because both have none.

    Raises:
        MedtailError: An unknown group, or points no value of the group has; all at once.

    Example:
        >>> found = labels_from_points({"composition": 2, "margin": 0, "foci": 4})
        >>> found["comp_solid"], found["margin_smooth"], found["foci_punctate"], found["foci_rim"], found["shape_wider"]
        (1.0, nan, 1.0, 0.0, nan)

    References:
        tessler2017.
    """
    problems = Problems(where)
    found = dict.fromkeys(LABEL_NAMES, float("nan"))
    for group, value in points.items():
        known = FOCI_POINTS if group == "foci" else INVERTIBLE.get(group)
        if known is None:
            problems.add(f"group {group!r}: unknown; expected {', '.join((*INVERTIBLE, 'foci'))}.")
        elif value is not None and not (isinstance(value, float) and np.isnan(value)):
            if value not in known:
                problems.add(f"{group}: found {value!r} points; expected {', '.join(map(str, known))}.")
            elif group == "foci":
                found |= _foci(FOCI_POINTS[int(value)])
            elif (name := INVERTIBLE[group][int(value)]) is not None:
                found |= {label: float(label == PREFIXES[group] + name) for label in LABELS[group]}
    problems.raise_if_any()
    return found


def _foci(present: tuple[str, ...] | None) -> dict[str, float]:
    if present is None:
        return {}
    scored = {f"foci_{focus}": float(focus in present) for focus in ("macro", "rim", "punctate")}
    # with no points there may be comet tails or nothing; beside other foci "none" is certainly absent
    return {**scored, f"foci_{NO_FOCI}": 0.0} if present else scored


def check_diameters(values: np.ndarray, *, name: str = "size_mm") -> None:
    """Refuse a column of sizes that are areas (cm²) rather than diameters (mm).

    Nodules are described from about 3 mm on and rarely exceed 100 mm; areas in cm² lie below 3 for most.

    Args:
        values: float [N], NaN where unknown.
        name: The column, for the message.

    Raises:
        MedtailError: Half of the known sizes are below 3 mm, or one is above 200 mm.

    Example:
        >>> check_diameters(np.array([0.4, 1.3, 2.2, 0.8]))
        Traceback (most recent call last):
        medtail.errors.MedtailError: size_mm: half of the 4 sizes are below 1.1, too small for diameters in mm; ...
    """
    known = np.asarray(values, dtype=np.float64)
    known = known[~np.isnan(known)]
    if not len(known):
        return
    middle = float(np.median(known))
    if middle < 3.0:
        raise MedtailError(
            f"{name}: half of the {len(known)} sizes are below {middle:.2g}, too small for diameters in mm; are they"
            " areas (cm²) or centimetres? Give the largest dimension in mm."
        )
    if known.max() > 200.0 or known.min() <= 0.0:
        wrong = known.max() if known.max() > 200.0 else known.min()
        raise MedtailError(f"{name}: found {wrong:g}; expected diameters, 0 < size <= 200 mm.")
