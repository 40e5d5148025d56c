from __future__ import annotations

import numpy as np
import pytest

from medtail.lexicons.descriptors import Reading
from medtail.lexicons.rules import acr_points, category_of
from medtail.lexicons.states import (
    FOCI,
    FOCI_SETS,
    SHAPE_OF_STATES,
    all_readings,
    category_table,
    cells_of,
    point_table,
)
from medtail.lexicons.systems import LEXICONS, SYSTEMS, System


def test_there_are_2560_states_without_undetermined_and_4800_with() -> None:
    found = all_readings()
    assert len(found) == len(set(found)) == 4800
    determined = [r for r in found if "undetermined" not in (r.composition, r.echogenicity, r.margin)]
    assert len(determined) == 4 * 5 * 2 * 4 * 2**4


def test_foci_sets_are_numbered_by_their_bits() -> None:
    for number, foci in enumerate(FOCI_SETS):
        assert sum(2**bit for bit, focus in enumerate(FOCI) if focus in foci) == number


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_table_is_the_rule_engine(system: System) -> None:
    names = (*LEXICONS[system].names, None)
    table = category_table(system)
    assert table.shape == SHAPE_OF_STATES
    for reading in all_readings():
        number = table[cells_of(reading)]
        assert names[int(number)] == category_of(reading, system)
        assert (number == -1) == (category_of(reading, system) is None)


@pytest.mark.parametrize("extrusion", [False, True])
@pytest.mark.parametrize("cystic_stops", [False, True])
def test_the_point_table_is_the_rule_engine_with_every_option(extrusion: bool, cystic_stops: bool) -> None:
    table = point_table(cystic_stops=cystic_stops, rim_extrusion=extrusion)
    for reading in all_readings(rim_extrusion=extrusion)[::7]:
        assert table[cells_of(reading)] == acr_points(reading, cystic_stops=cystic_stops).total


def test_tables_are_shared_and_cannot_be_written_to() -> None:
    assert category_table("k") is category_table("k")
    with pytest.raises(ValueError, match="read-only"):
        category_table("k")[0] = 1


def test_missing_groups_leave_all_their_cells() -> None:
    assert point_table()[cells_of(Reading())].size == 4800
    reading = all_readings()[1234]
    assert np.ndim(point_table()[cells_of(reading)]) == 0
