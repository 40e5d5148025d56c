from __future__ import annotations

import json
from dataclasses import replace

import pytest

from medtail.lexicons.grading import RESEARCH_USE, grade
from medtail.lexicons.parsing import parse_reading
from medtail.lexicons.states import all_readings
from medtail.lexicons.systems import SYSTEMS, System
from medtail.lexicons.wording import advice_text, finding_json, finding_text

NODULE = parse_reading(
    composition="solid", echogenicity="hypo", shape="wider", margin="ill_defined", foci="punctate", size_mm=12
)


def test_the_text_shows_points_level_advice_why_and_what_would_change() -> None:
    text = finding_text(grade(NODULE))
    assert text.startswith("ACR TI-RADS 2017: TR5, highly suspicious\n")
    for line in (
        "composition    solid                  2",
        "foci           punctate               3",
        "total                                 7  points",
        "risk           >= 20 % (observed 35 %)",
        "advice         FNA: fine-needle aspiration (12 mm; FNA at >= 10 mm)",
        "would change   composition cystic: down to TR4 (5), FOLLOW",
        "echogenicity hyper or iso: down to TR4 (6), FOLLOW",
        "size below 10 mm: TR5, FOLLOW",
    ):
        assert line in text, line
    assert "would change" not in finding_text(grade(NODULE), changes=False)


def test_ignored_points_stand_in_brackets() -> None:
    text = finding_text(grade(replace(NODULE, composition=parse_reading(composition="spongiform").composition)))
    assert "echogenicity   hypo                 (2)" in text
    assert "why            0 points: spongiform stops the count; ignored: echogenicity 2, foci 3" in text
    assert "! spongiform beside punctate: reconsider spongiform." in text


def test_following_names_its_scans_and_notes_their_condition() -> None:
    text = finding_text(grade(replace(NODULE, size_mm=7.0)))
    assert "FOLLOW: scan again, scans after 1, 2, 3, 4, 5 years (7 mm; follow at >= 5 mm, FNA at >= 10 mm)" in text
    assert "FNA only by shared decision" in text


def test_what_is_unknown_is_said() -> None:
    assert "not given: the size is unknown" in finding_text(grade(replace(NODULE, size_mm=None)))
    hidden = replace(NODULE, echogenicity=parse_reading(echogenicity="undetermined").echogenicity)
    text = finding_text(grade(hidden, system="k"))
    assert text.startswith("K-TIRADS 2021: no category\n")
    assert "not given: the system has no category" in text
    assert advice_text(None, is_sized=True).endswith("no category")


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_state_can_be_worded_and_written(system: System) -> None:
    for reading in all_readings()[::401]:
        for size in (None, 7.0, 18.0):
            found = grade(replace(reading, size_mm=size), system=system)
            lines = finding_text(found).splitlines()
            assert all(line == line.rstrip() for line in lines)
            record = json.loads(json.dumps(finding_json(found), allow_nan=False))
            assert record["category"] == found.category
            assert record["note"] == RESEARCH_USE
            assert (record["advice"] is None) == (found.advice is None)
            assert record["points"] == dict(found.parts)


def test_rim_extrusion_is_shown_with_the_margin() -> None:
    rim = replace(NODULE, foci=parse_reading(foci="rim").foci, rim_extrusion=True)
    assert "margin         ill_defined, rim extrusion   2" in finding_text(grade(rim))
