from __future__ import annotations

import re
from dataclasses import replace

import pytest

from medtail.errors import MedtailError
from medtail.lexicons.descriptors import EXCLUSIVE, Composition, Focus, IncompleteReadingError, Reading, contradictions
from medtail.lexicons.grading import grade
from medtail.lexicons.parsing import parse_reading
from medtail.lexicons.rules import (
    acr_level,
    acr_points,
    c_category,
    c_score,
    category_of,
    eu_match,
    k_match,
    rule_warnings,
)
from medtail.lexicons.states import all_readings
from medtail.lexicons.systems import SYSTEMS, System


def nodule(words: str) -> Reading:
    """Read "solid hypo": wider, smooth and without foci where nothing else is said; UNDETERMINED as COMP?, ECHO?."""
    given = {"composition": "", "echogenicity": "", "shape": "wider", "margin": "smooth"}
    foci = []
    for word in words.split():
        if word in ("comp?", "echo?", "margin?"):
            group = {"comp?": "composition", "echo?": "echogenicity", "margin?": "margin"}[word]
            given[group] = "undetermined"
        elif word in set(Focus):
            foci.append(word)
        else:
            given[next(group for group, kind in EXCLUSIVE.items() if word in set(kind))] = word
    return parse_reading(**given, foci=";".join(foci) or "none")


# ACR points, ACR level, C, EU, K: section 10 of the spec, every cell
VECTORS = [
    ("cystic anechoic", 0, "TR1", "3", "2", "2"),
    ("cystic anechoic comet_tail", 0, "TR1", "2", "2", "2"),
    ("spongiform iso", 0, "TR1", "3", "2", "2"),
    ("mixed iso", 2, "TR2", "3", "3", "3"),
    ("mixed iso comet_tail", 2, "TR2", "2", "3", "2"),
    ("mixed anechoic", 1, "TR1", "3", None, "3"),
    ("cystic anechoic macro", 1, "TR1", "3", "2", "2"),
    ("mixed hypo punctate", 6, "TR4", "4A", "5", "4"),
    ("solid iso", 3, "TR3", "4A", "3", "3"),
    ("solid iso macro rim punctate", 9, "TR5", "4B", "5", "4"),
    ("solid hypo", 4, "TR4", "4A", "4", "4"),
    ("solid hypo ill_defined", 4, "TR4", "4B", "4", "4"),
    ("solid hypo irregular", 6, "TR4", "4B", "5", "5"),
    ("solid hypo taller", 7, "TR5", "4B", "5", "5"),
    ("solid very_hypo", 5, "TR4", "4B", "5", "4"),
    ("comp? echo? rim", 5, "TR4", "4A", None, "4"),
    ("solid very_hypo taller ete macro rim punctate", 17, "TR5", "5", "5", "5"),
]


@pytest.mark.parametrize(("words", "points", "level", "c", "eu", "k"), VECTORS, ids=[row[0] for row in VECTORS])
def test_every_vector_of_the_specification(
    words: str, points: int, level: str, c: str, eu: str | None, k: str | None
) -> None:
    reading = nodule(words)
    assert acr_points(reading).total == points
    assert [category_of(reading, system) for system in SYSTEMS] == [level, c, eu, k]
    found = grade(reading)
    assert any(warning.startswith("off_chart") for warning in found.warnings) == (points == 1)


# section 2, every cell of the chart; cystic, anechoic, wider, smooth and none are worth nothing beside it
CHART = {
    "composition": {"cystic": 0, "spongiform": 0, "mixed": 1, "solid": 2, "undetermined": 2},
    "echogenicity": {"anechoic": 0, "hyper": 1, "iso": 1, "undetermined": 1, "hypo": 2, "very_hypo": 3},
    "shape": {"wider": 0, "taller": 3},
    "margin": {"smooth": 0, "ill_defined": 0, "undetermined": 0, "irregular": 2, "ete": 3},
    "foci": {"none": 0, "comet_tail": 0, "macro": 1, "rim": 2, "punctate": 3},
}
NEUTRAL = {
    "composition": "cystic",
    "echogenicity": "anechoic",
    "shape": "wider",
    "margin": "smooth",
    "foci": "none",
}


@pytest.mark.parametrize(
    ("group", "value", "points"),
    [(group, value, points) for group, cells in CHART.items() for value, points in cells.items()],
)
def test_every_cell_of_the_acr_chart(group: str, value: str, points: int) -> None:
    found = acr_points(parse_reading(**{**NEUTRAL, group: value}))
    assert found.parts[group] == points
    assert found.total == points


def test_points_of_foci_add_and_the_others_too() -> None:
    for reading in all_readings():
        found = acr_points(reading)
        assert reading.foci is not None
        expected = sum(CHART[group][str(getattr(reading, group))] for group in EXCLUSIVE)
        expected += sum(CHART["foci"][str(focus)] for focus in reading.foci)
        assert found.total == (0 if reading.composition is Composition.SPONGIFORM else expected)


@pytest.mark.parametrize(
    ("points", "level"), list(enumerate(["TR1", "TR1", "TR2", "TR3", *["TR4"] * 3, *["TR5"] * 11]))
)
def test_every_band_of_acr_levels(points: int, level: str) -> None:
    assert acr_level(points) == level


def test_levels_are_monotone_in_points() -> None:
    levels = [acr_level(points) for points in range(18)]
    assert levels == sorted(levels)


@pytest.mark.parametrize("points", [-1, 18, 3.5, float("nan")])
def test_totals_that_do_not_exist_are_refused(points: int) -> None:
    with pytest.raises(MedtailError, match=r"ACR TI-RADS 2017, score .*: expected a whole number from 0 to 17"):
        acr_level(points)


@pytest.mark.parametrize(
    ("score", "category"), [(-1, "2"), (0, "3"), (1, "4A"), (2, "4B"), (3, "4C"), (4, "4C"), (5, "5")]
)
def test_every_column_of_c_tirads(score: int, category: str) -> None:
    assert c_category(score) == category


def test_c_scores_beyond_its_range_are_refused() -> None:
    with pytest.raises(MedtailError, match="C-TIRADS 2020, score 6: expected a whole number from -1 to 5"):
        c_category(6)


@pytest.mark.parametrize(
    ("words", "score"),
    [
        ("mixed iso", 0), ("solid iso", 1), ("mixed very_hypo", 1), ("mixed iso punctate", 1), ("mixed iso taller", 1),
        ("mixed iso ill_defined", 1), ("mixed iso irregular", 1), ("mixed iso ete", 1), ("mixed iso comet_tail", -1),
        ("mixed hypo", 0), ("mixed iso macro", 0), ("mixed iso rim", 0), ("spongiform iso taller", 1),
        ("comp? iso", 1), ("mixed echo?", 0), ("mixed iso margin?", 0),
    ],
)  # fmt: skip
def test_every_term_of_the_c_count(words: str, score: int) -> None:
    assert c_score(nodule(words)) == score


# section 4, every row, and what may not change it
EU = [
    ("spongiform hypo", "2", 1), ("spongiform iso taller ete punctate", "2", 1), ("cystic anechoic irregular", "2", 1),
    ("mixed iso taller", "5", 2), ("mixed iso irregular", "5", 2), ("mixed iso ete", "5", 2),
    ("mixed iso punctate", "5", 2), ("mixed very_hypo", "5", 2), ("cystic hypo taller", "5", 2),
    ("cystic iso", "3", 3), ("cystic hypo", "3", 3), ("cystic echo?", "3", 3),
    ("solid hypo", "4", 4), ("mixed hypo", "4", 4), ("comp? hypo", "4", 4),
    ("solid hyper", "3", 5), ("mixed iso", "3", 5), ("comp? iso", "3", 5),
    ("solid echo?", None, 6), ("solid anechoic", None, 6), ("mixed anechoic", None, 6), ("comp? echo?", None, 6),
    ("solid hypo ill_defined macro rim comet_tail margin?", "4", 4),
]  # fmt: skip


@pytest.mark.parametrize(("words", "category", "row"), EU)
def test_every_row_of_eu_tirads(words: str, category: str | None, row: int) -> None:
    found = eu_match(nodule(words))
    assert (found.category, found.row) == (category, row)


@pytest.mark.parametrize("change", ["ill_defined", "macro", "rim", "macro rim"])
def test_ill_defined_macro_and_rim_alone_change_nothing_in_eu(change: str) -> None:
    for base in ("solid hypo", "mixed iso", "cystic iso"):
        assert eu_match(nodule(f"{base} {change}")).category == eu_match(nodule(base)).category


# section 5
K = [
    ("cystic very_hypo ete punctate", "2", 1), ("spongiform iso", "2", 1), ("spongiform anechoic", "2", 1),
    ("spongiform echo?", "2", 1), ("comp? hypo taller", "4", 2), ("comp? iso", "4", 2),
    ("solid hypo", "4", 3), ("solid very_hypo", "4", 3), ("solid hypo punctate", "5", 3), ("solid hypo taller", "5", 3),
    ("solid hypo irregular", "5", 3), ("solid very_hypo ete", "5", 3), ("solid hypo ill_defined macro rim", "4", 3),
    ("solid iso", "3", 4), ("solid hyper", "3", 4), ("solid hyper punctate", "4", 4), ("solid iso irregular", "4", 4),
    ("mixed hypo taller", "4", 5), ("spongiform hypo punctate", "4", 5), ("mixed anechoic ete", "4", 5),
    ("mixed hypo punctate comet_tail", "4", 5),
    ("mixed iso comet_tail", "2", 6), ("mixed echo? comet_tail", "2", 6),
    ("mixed hypo", "3", 7), ("spongiform very_hypo", "3", 7), ("spongiform hypo comet_tail", "3", 7),
    ("solid anechoic", None, 8), ("solid echo? punctate", None, 8),
]  # fmt: skip


@pytest.mark.parametrize(("words", "category", "row"), K)
def test_every_row_of_k_tirads(words: str, category: str | None, row: int) -> None:
    found = k_match(nodule(words))
    assert (found.category, found.row) == (category, row)


def test_spongiform_stops_and_lists_what_it_ignores() -> None:
    found = acr_points(nodule("spongiform hypo taller ete rim punctate"))
    assert (found.total, found.stopped_by) == (0, "spongiform")
    assert found.ignored == {"echogenicity": 2, "shape": 3, "margin": 3, "foci": 5}
    for word in ("ete", "irregular", "taller", "punctate"):
        assert any("reconsider spongiform" in text for text in contradictions(nodule(f"spongiform iso {word}")))
    for harmless in ("ill_defined", "macro", "rim", "comet_tail"):
        assert contradictions(nodule(f"spongiform iso {harmless}")) == ()


def test_cystic_stops_only_where_a_site_says_so() -> None:
    reading = nodule("cystic hypo taller")
    assert acr_points(reading).total == 5
    stopped = acr_points(reading, cystic_stops=True)
    assert (stopped.total, stopped.stopped_by) == (0, "cystic")
    assert category_of(reading, "acr", cystic_stops=True) == "TR1"
    assert acr_points(nodule("mixed hypo"), cystic_stops=True).total == 3


@pytest.mark.parametrize(("margin", "points"), [("smooth", 2), ("ill_defined", 2), ("irregular", 2), ("ete", 3)])
def test_rim_extrusion_makes_the_margin_count_two_at_least(margin: str, points: int) -> None:
    reading = replace(nodule(f"solid hypo rim {margin}"), rim_extrusion=True)
    assert acr_points(reading).parts["margin"] == points


def test_unusual_single_points_are_the_only_way_off_the_chart() -> None:
    off = [reading for reading in all_readings() if acr_points(reading).total == 1]
    assert {(str(r.composition), str(r.echogenicity)) for r in off} == {
        ("mixed", "anechoic"),
        *(("cystic", echo) for echo in ("iso", "hyper", "undetermined", "anechoic")),
    }
    for reading in off:
        assert category_of(reading, "acr") == "TR1"
        assert any(text.startswith("off_chart") for text in rule_warnings(reading, "acr"))
        if reading.composition is Composition.CYSTIC and reading.echogenicity == "anechoic":
            assert reading.foci is not None
            assert reading.foci - {Focus.COMET_TAIL} == {Focus.MACRO}


# which fields a system may read at all
USED: dict[System, set[str]] = {
    "acr": {"composition", "echogenicity", "shape", "margin", "macro", "rim", "punctate", "rim_extrusion"},
    "c": {"composition", "echogenicity", "shape", "margin", "comet_tail", "punctate"},
    "eu": {"composition", "echogenicity", "shape", "margin", "punctate"},
    "k": {"composition", "echogenicity", "shape", "margin", "comet_tail", "punctate"},
}


@pytest.mark.parametrize("system", SYSTEMS)
def test_no_system_reads_a_field_it_does_not_use(system: System) -> None:
    """Change one field at a time, from every state: only the fields above may ever change a category."""
    changed = set()
    for reading in all_readings():
        before = category_of(reading, system)
        assert reading.foci is not None
        for focus in Focus:
            if category_of(replace(reading, foci=reading.foci ^ {focus}), system) != before:
                changed.add(str(focus))
        if category_of(replace(reading, rim_extrusion=True), system) != before:
            changed.add("rim_extrusion")
    assert changed == USED[system] - set(EXCLUSIVE)


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_group_a_system_uses_can_change_its_category(system: System) -> None:
    found = {reading: category_of(reading, system) for reading in all_readings()}
    for group, kind in EXCLUSIVE.items():
        assert any(found[replace(reading, **{group: value})] != category
                   for reading, category in found.items() for value in kind), group  # fmt: skip


@pytest.mark.parametrize("system", SYSTEMS)
def test_ill_defined_is_smooth_in_acr_eu_and_k_but_suspicious_in_c(system: System) -> None:
    differs = [
        words
        for words in ("solid hypo", "mixed iso", "cystic anechoic")
        if category_of(nodule(words), system) != category_of(nodule(f"{words} ill_defined"), system)
    ]
    assert bool(differs) == (system == "c")


@pytest.mark.parametrize("system", SYSTEMS)
def test_an_incomplete_reading_is_never_counted_as_zero(system: System) -> None:
    for group in (*EXCLUSIVE, "foci"):
        with pytest.raises(IncompleteReadingError, match=rf"TI-?RADS 20\d\d, {group}: not given; expected"):
            category_of(replace(nodule("solid hypo"), **{group: None}), system)


@pytest.mark.parametrize(
    ("words", "system", "match"),
    [
        ("comp? hypo", "c", "counted as solid"),
        ("cystic anechoic irregular", "eu", "category 2 stands .* irregular"),
        ("cystic anechoic punctate", "eu", "category 2 stands .* punctate"),
        ("solid anechoic", "eu", "needs the echogenicity"),
        ("comp? hypo", "k", "entirely calcified"),
        ("solid anechoic", "k", "needs the echogenicity"),
    ],
)
def test_where_the_guideline_is_silent_the_answer_says_so(words: str, system: System, match: str) -> None:
    found = rule_warnings(nodule(words), system)
    assert any(re.search(match, warning) for warning in found), found
    assert rule_warnings(nodule("solid hypo"), system) == ()


def test_a_calcified_nodule_hides_its_composition_without_a_warning() -> None:
    assert rule_warnings(nodule("comp? echo? rim"), "k") == ()


def test_the_vectors_cover_every_category() -> None:
    reached = {system: {category_of(nodule(row[0]), system) for row in VECTORS} for system in SYSTEMS}
    assert reached["acr"] == {"TR1", "TR2", "TR3", "TR4", "TR5"}
    everything = {system: {category_of(reading, system) for reading in all_readings()} for system in SYSTEMS}
    assert everything["c"] == {"2", "3", "4A", "4B", "4C", "5"}
    assert everything["eu"] == {"2", "3", "4", "5", None}
    assert everything["k"] == {"2", "3", "4", "5", None}


def test_words_of_two_groups_do_not_collide() -> None:
    values = [str(value) for kind in (*EXCLUSIVE.values(), Focus) for value in kind if value != "undetermined"]
    assert len(values) == len(set(values))
