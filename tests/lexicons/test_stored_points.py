from __future__ import annotations

import math

import numpy as np
import pytest

from medtail.errors import MedtailError
from medtail.lexicons.descriptors import GROUPS, LABEL_NAMES, LABELS
from medtail.lexicons.rules import ACR_POINTS
from medtail.lexicons.stored_points import FOCI_POINTS, INVERTIBLE, check_diameters, labels_from_points


@pytest.mark.parametrize(
    ("group", "points", "present"),
    [
        ("composition", 1, "comp_mixed"), ("composition", 2, "comp_solid"), ("echogenicity", 0, "echo_anechoic"),
        ("echogenicity", 2, "echo_hypo"), ("echogenicity", 3, "echo_very_hypo"), ("shape", 0, "shape_wider"),
        ("shape", 3, "shape_taller"), ("margin", 2, "margin_irregular"), ("margin", 3, "margin_ete"),
    ],
)  # fmt: skip
def test_points_only_one_value_has_are_read_back(group: str, points: int, present: str) -> None:
    found = labels_from_points({group: points})
    assert [name for name in LABELS[group] if found[name] == 1.0] == [present]
    assert sum(found[name] for name in LABELS[group]) == 1.0
    assert all(math.isnan(found[name]) for other in GROUPS if other != group for name in LABELS[other])


@pytest.mark.parametrize(("group", "points"), [("composition", 0), ("echogenicity", 1), ("margin", 0), ("foci", 3)])
def test_ambiguous_points_stay_empty(group: str, points: int) -> None:
    found = labels_from_points({group: points})
    assert all(math.isnan(value) for value in found.values())


@pytest.mark.parametrize(
    ("points", "present"),
    [(1, {"macro"}), (2, {"rim"}), (4, {"macro", "punctate"}), (5, {"rim", "punctate"}),
     (6, {"macro", "rim", "punctate"})],
)  # fmt: skip
def test_sums_of_foci_that_have_one_meaning(points: int, present: set[str]) -> None:
    found = labels_from_points({"foci": points})
    assert {name for name in ("macro", "rim", "punctate") if found[f"foci_{name}"] == 1.0} == present
    assert found["foci_none"] == 0.0
    assert math.isnan(found["foci_comet_tail"])


def test_no_points_of_foci_may_still_be_comet_tails() -> None:
    found = labels_from_points({"foci": 0})
    assert [found[f"foci_{name}"] for name in ("macro", "rim", "punctate")] == [0.0, 0.0, 0.0]
    assert math.isnan(found["foci_none"])
    assert math.isnan(found["foci_comet_tail"])


def test_the_table_agrees_with_the_chart() -> None:
    for group, values in INVERTIBLE.items():
        for points, value in values.items():
            holders = [name for name, worth in ACR_POINTS[group].items() if worth == points and name != "undetermined"]
            assert holders == [value] if value else len(holders) > 1
    for points, foci in FOCI_POINTS.items():
        if foci is not None:
            assert sum(ACR_POINTS["foci"][focus] for focus in foci) == points


def test_missing_points_are_not_assessed_and_wrong_ones_refused() -> None:
    assert set(labels_from_points({"shape": None, "margin": float("nan")})) == set(LABEL_NAMES)  # type: ignore[dict-item]
    with pytest.raises(MedtailError) as caught:
        labels_from_points({"shape": 2, "foci": 7, "colour": 1}, where="points.csv, row 4")
    assert str(caught.value).splitlines() == [
        "points.csv, row 4, shape: found 2 points; expected 0, 3.",
        "points.csv, row 4, foci: found 7 points; expected 0, 1, 2, 3, 4, 5, 6.",
        "points.csv, row 4, group 'colour': unknown; expected composition, echogenicity, shape, margin, foci.",
    ]


def test_areas_are_no_diameters() -> None:
    check_diameters(np.array([12.0, 8.0, np.nan, 30.0]))
    check_diameters(np.array([np.nan]))
    with pytest.raises(MedtailError, match=r"half of the 3 sizes are below 1.2, too small .* areas \(cm²\)"):
        check_diameters(np.array([0.5, 1.2, 4.0]))
    with pytest.raises(MedtailError, match="found 340; expected diameters"):
        check_diameters(np.array([12.0, 340.0]))
    with pytest.raises(MedtailError, match="found -1; expected diameters"):
        check_diameters(np.array([12.0, 14.0, -1.0]))
