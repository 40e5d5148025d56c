"""Every complete reading there is, and what each system makes of it, as small whole-number arrays.

4,800 states: composition x echogenicity x shape x margin x sets of foci, undetermined values among them (the 2,560
without them are all a model of the twenty labels can say). Filled once by the rule engine and looked up from then on,
so probabilities and tables can never follow other rules than single readings do.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Final

import numpy as np

from medtail.lexicons.descriptors import GROUPS, Composition, Echogenicity, Focus, Margin, Reading, Shape
from medtail.lexicons.rules import acr_points, category_of
from medtail.lexicons.systems import LEXICONS, System

COMPOSITIONS: Final = tuple(Composition)
ECHOGENICITIES: Final = tuple(Echogenicity)
SHAPES: Final = tuple(Shape)
MARGINS: Final = tuple(Margin)
FOCI: Final = tuple(Focus)
FOCI_SETS: Final = tuple(
    frozenset(focus for bit, focus in enumerate(FOCI) if code >> bit & 1) for code in range(2 ** len(FOCI))
)
"""Number i holds the foci whose bits are set in i, lowest bit first."""
AXES: Final = (COMPOSITIONS, ECHOGENICITIES, SHAPES, MARGINS, FOCI_SETS)
SHAPE_OF_STATES: Final = tuple(len(axis) for axis in AXES)


def all_readings(*, rim_extrusion: bool = False) -> list[Reading]:
    """Return every complete reading, in the order of the tables' cells.

    Example:
        >>> len(all_readings())
        4800
    """
    return [Reading(*state, rim_extrusion=rim_extrusion) for state in product(*AXES)]


@cache
def category_table(system: System, *, cystic_stops: bool = False, rim_extrusion: bool = False) -> np.ndarray:
    """Return the number of the category of every state, int8 [5, 6, 2, 5, 16]; -1 where the system cannot tell.

    Args:
        system: A short name.
        cystic_stops: See `rules.acr_points`.
        rim_extrusion: Of every state.

    Example:
        >>> category_table("acr")[COMPOSITIONS.index(Composition.SPONGIFORM)].max()
        np.int8(0)
    """
    names = (*LEXICONS[system].names, None)
    found = [
        names.index(category_of(reading, system, cystic_stops=cystic_stops))
        for reading in all_readings(rim_extrusion=rim_extrusion)
    ]
    numbers = np.array(found, dtype=np.int8)
    numbers[numbers == len(names) - 1] = -1
    return _sealed(numbers)


@cache
def point_table(*, cystic_stops: bool = False, rim_extrusion: bool = False) -> np.ndarray:
    """Return the ACR points of every state, int8 [5, 6, 2, 5, 16].

    Example:
        >>> point_table().max()
        np.int8(17)
    """
    found = [
        acr_points(reading, cystic_stops=cystic_stops).total for reading in all_readings(rim_extrusion=rim_extrusion)
    ]
    return _sealed(np.array(found, dtype=np.int8))


def _sealed(numbers: np.ndarray) -> np.ndarray:
    table = numbers.reshape(SHAPE_OF_STATES)
    table.flags.writeable = False  # it is shared by every caller
    return table


def cells_of(reading: Reading) -> tuple[slice | int, ...]:
    """Return the index of the table cells a reading leaves possible: one number a group given, all of a missing one.

    Example:
        >>> cells_of(Reading(Composition.SOLID, shape=Shape.TALLER))
        (3, slice(None, None, None), 1, slice(None, None, None), slice(None, None, None))
    """
    found: list[slice | int] = []
    for group, axis in zip(GROUPS, AXES, strict=True):
        value = getattr(reading, group)
        found.append(slice(None) if value is None else axis.index(value))
    return tuple(found)
