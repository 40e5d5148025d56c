from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from medtail.errors import MedtailError, UsageError
from medtail.lexicons.descriptors import GROUPS, LABEL_NAMES, LABELS
from medtail.lexicons.grading import grade
from medtail.lexicons.score_table import score_table
from medtail.lexicons.states import all_readings
from medtail.lexicons.systems import SYSTEMS

GOOD = {"composition": "solid", "echogenicity": "hypo", "shape": "wider", "margin": "smooth", "foci": "punctate",
        "size_mm": "12"}  # fmt: skip


def words(*changes: dict[str, str]) -> pd.DataFrame:
    return pd.DataFrame([{"image_id": f"n{number}", **GOOD, **change} for number, change in enumerate(changes)])


def labels(*changes: dict[str, object]) -> pd.DataFrame:
    row = dict.fromkeys(LABEL_NAMES, "0")
    row |= dict.fromkeys(("comp_solid", "echo_hypo", "shape_wider", "margin_smooth", "foci_punctate"), "1")
    return pd.DataFrame([{"image_id": f"n{number}", **row, **change} for number, change in enumerate(changes)])


def test_every_row_is_graded_as_a_single_reading_is() -> None:
    readings = all_readings()[::37]
    frame = pd.DataFrame({group: [reading.text(group) for reading in readings] for group in GROUPS})
    frame["size_mm"] = np.linspace(1, 60, len(frame)).round(1)
    scored = score_table(frame, system="all")
    assert len(scored.results) == len(readings)
    assert scored.errors.empty
    for row, reading in zip(scored.results.to_dict("records"), scored.readings, strict=True):
        for system in SYSTEMS:
            found = grade(reading, system=system)
            assert row[f"{system}_category"] == (found.category or "")
            assert row[f"{system}_advice"] == ("" if found.advice is None else str(found.advice.action))
            assert row[f"{system}_notes"] == ("" if found.advice is None else " ".join(found.advice.notes))
            assert row[f"{system}_warnings"] == " ".join(found.warnings)
            assert row[f"{system}_why"] == found.why
            score = row[f"{system}_score"]
            assert np.isnan(score) if found.score is None else score == found.score


def test_labels_and_words_come_to_the_same() -> None:
    one, other = score_table(words({})), score_table(labels({"size_mm": "12"}))
    columns = [*GROUPS, "size_mm", "acr_category", "acr_score", "acr_advice"]
    pd.testing.assert_frame_equal(one.results[columns], other.results[columns])
    assert one.results["acr_category"].tolist() == ["TR5"]


def test_a_bad_row_never_stops_the_others() -> None:
    changes = [
        {},
        {"composition": "solidd"},
        {"margin": ""},
        dict.fromkeys(GROUPS, ""),
        {"size_mm": "1.2 cm"},
        {"size_mm": "-4"},
        {"shape": "wider;taller"},
        {"foci": "none;rim"},
        {"echogenicity": "markedly hypoechoic", "margin": "lobulated"},
        {"size_mm": ""},
    ]
    scored = score_table(words(*changes))
    assert scored.results["row"].tolist() == [2, 11]
    found = [(row.row, row.id, row.group) for row in scored.errors.itertuples()]
    assert found == [
        (3, "n1", "composition"), (4, "n2", "margin"), (5, "n3", ""), (6, "n4", "size"), (7, "n5", "size"),
        (8, "n6", "shape"), (9, "n7", "foci"), (10, "n8", "echogenicity"), (10, "n8", "margin"),
    ]  # fmt: skip
    messages = scored.errors["message"].tolist()
    for message, expected in zip(
        messages,
        [
            "did you mean 'solid'?", "With the rest as it is: ACR TI-RADS TR5.", "every descriptor is empty",
            "centimetres in size_cm", "expected 0 < size <= 200 mm", "2 values of an exclusive group",
            "'none' excludes the others", "did you mean 'very_hypo'?", "did you mean 'irregular'?",
        ],
        strict=True,
    ):  # fmt: skip
        assert expected in message
    assert not any(message.startswith(("TI-RADS", "composition,", "size,")) for message in messages)
    assert scored.errors["value"].tolist()[:2] == ["solidd", ""]


def test_a_missing_group_is_answered_with_bounds_of_every_system() -> None:
    scored = score_table(words({"echogenicity": "", "foci": "none"}), system="all")
    assert scored.results.empty
    message = scored.errors["message"].iloc[0]
    assert (
        "ACR TI-RADS TR2 to TR4; C-TIRADS 4A to 4B; EU-TIRADS 3 to 5 or undefined; K-TIRADS 3 to 4 or undefined"
        in message
    )


@pytest.mark.parametrize(
    ("change", "group", "match"),
    [
        ({"comp_mixed": "1"}, "composition", "found mixed and solid, 2 values of an exclusive group"),
        ({"comp_solid": "0"}, "composition", "the group has no label; expected exactly one 1"),
        ({"comp_solid": ""}, "composition", "found solid empty and the others not"),
        ({"shape_wider": "2"}, "shape", "found wider '2'; expected 1"),
        ({"foci_none": "1"}, "foci", "'none' excludes the others"),
        ({"foci_punctate": "0"}, "foci", "expected at least one of the five 1"),
        ({"foci_rim": ""}, "foci", "expected all five or none"),
        (dict.fromkeys(LABELS["margin"], ""), "margin", "not given; expected smooth"),
        (dict.fromkeys(LABEL_NAMES, ""), "", "all twenty labels are empty"),
        ({"undetermined": "shape"}, "undetermined", "found 'shape'; expected composition, echogenicity, margin"),
        ({"undetermined": "composition"}, "composition", "named undetermined; expected empty cells"),
        ({"size_mm": "400"}, "size", "found 400; expected 0 < size"),
    ],
)
def test_labels_that_make_no_reading(change: dict[str, str], group: str, match: str) -> None:
    scored = score_table(labels({}, change))
    assert scored.results["row"].tolist() == [2]
    assert scored.errors[["row", "group"]].values.tolist() == [[3, group]]
    assert match in scored.errors["message"].iloc[0]


def test_undetermined_groups_have_their_points() -> None:
    hidden = {**dict.fromkeys((*LABELS["composition"], *LABELS["echogenicity"]), ""),
              "undetermined": "composition; echogenicity"}  # fmt: skip
    scored = score_table(labels(hidden), system="all")
    assert scored.results[["composition", "acr_score", "acr_category"]].values.tolist() == [
        ["undetermined", 6.0, "TR4"]
    ]
    assert scored.results["eu_category"].tolist() == ["5"]
    renamed = labels(hidden).rename(columns={"undetermined": "meta_undetermined"})
    assert score_table(renamed).results["acr_score"].tolist() == [6.0]


def test_numbers_are_read_as_labels() -> None:
    frame = labels({}).drop(columns="image_id").astype(float).assign(size_mm=[np.nan])
    scored = score_table(frame)
    assert scored.results["acr_category"].tolist() == ["TR5"]
    assert scored.results["acr_advice"].tolist() == [""]


def test_ids_and_centimetres_are_carried() -> None:
    frame = words({"size_mm": "", "size_cm": "1.2"}, {}).assign(patient_id=["a", "b"], age="60")
    scored = score_table(frame)
    assert list(scored.results.columns)[:3] == ["row", "image_id", "patient_id"]
    assert "age" not in scored.results.columns
    assert scored.results["size_mm"].tolist() == [12.0, 12.0]


def test_rim_extrusion_is_a_column() -> None:
    scored = score_table(words({"foci": "rim", "rim_extrusion": "yes"}, {"foci": "rim", "rim_extrusion": "no"},
                               {"foci": "rim", "rim_extrusion": "perhaps"}))  # fmt: skip
    assert scored.results["acr_score"].tolist() == [8, 6]
    assert scored.errors["group"].tolist() == ["rim_extrusion"]


def test_a_table_that_cannot_be_meant_is_refused() -> None:
    with pytest.raises(
        MedtailError, match=r"columns: found age; expected composition, echogenicity, shape, margin, foci, or"
    ):
        score_table(pd.DataFrame({"age": ["60"]}))
    with pytest.raises(MedtailError, match=r"column 'margin': missing; did you mean 'margins'"):
        score_table(words({}).rename(columns={"margin": "margins"}))
    with pytest.raises(MedtailError, match="column 'echo_iso': missing; expected it, with empty cells"):
        score_table(labels({}).drop(columns="echo_iso"))
    with pytest.raises(MedtailError, match=r"found both words \(composition\) and labels"):
        score_table(labels({}).assign(composition="solid"))
    with pytest.raises(UsageError, match="version '2015'"):
        score_table(words({}), system="acr-2015")


def test_an_empty_table_has_no_results_and_all_columns() -> None:
    scored = score_table(words({}).iloc[:0])
    assert len(scored.results) == len(scored.errors) == 0
    assert "acr_category" in scored.results.columns


def test_options_reach_the_rules() -> None:
    cyst = words({"composition": "cystic"})
    assert score_table(cyst).results["acr_category"].tolist() == ["TR4"]
    assert score_table(cyst, cystic_stops=True).results["acr_category"].tolist() == ["TR1"]
    mixed = words({"composition": "mixed"})
    assert score_table(mixed, system="k").results["k_advice"].tolist() == ["FNA"]
    assert score_table(mixed, system="k", k4_threshold_mm=15.0).results["k_advice"].tolist() == ["NONE"]
