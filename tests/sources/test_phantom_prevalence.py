from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtail.challenges.thyro_lmd_labels import head_body_tail
from medtail.errors import UsageError
from medtail.sources.phantom_prevalence import (
    IMPOSSIBLE,
    MALIGNANT,
    NAMES,
    NATURAL,
    TAILS,
    left_out,
    misread,
    prevalence,
    shares,
)
from medtail.sources.thyro_lmd import EXCLUSIVE, FOCI, GROUPS, LABELS
from medtail.tables.tail import ClassCounts


def cell(found: np.ndarray, name: str) -> np.ndarray:
    return found[:, NAMES.index(name)]


@pytest.mark.parametrize("tail", TAILS)
def test_the_ready_tails_are_reached_exactly(tail: str) -> None:
    reached = prevalence(tail).reached
    if tail == "natural":  # a uniform tail asks more of the foci than their group allows
        assert max(abs(reached[name] - wanted) for name, wanted in TAILS[tail].items()) < 2e-3
    for name in [*LABELS.class_names[:15], MALIGNANT]:
        assert reached[name] == pytest.approx(TAILS[tail][name], abs=2e-3), name


def test_the_natural_tail_has_labels_in_head_body_and_tail_by_the_protocols_cuts() -> None:
    images = tuple(round(10_000 * prevalence("natural").reached[name]) for name in LABELS.class_names)
    groups = head_body_tail(ClassCounts(LABELS.class_names, images, images, (10_000,) * 20))
    assert [len(groups.members(group)) for group in ("head", "medium", "tail")] == [9, 5, 6]


def test_every_possible_report_is_valid_and_possible() -> None:
    states = prevalence("natural").states
    for members in EXCLUSIVE.values():
        assert (sum(cell(states, name).astype(int) for name in members) == 1).all()
    others = np.any([cell(states, name) for name in FOCI[1:]], axis=0)
    assert np.array_equal(cell(states, "foci_none"), ~others)
    assert not any((cell(states, a) & cell(states, b)).any() for a, b in IMPOSSIBLE)
    assert len({row.tobytes() for row in states}) == len(states)


def test_rare_labels_come_with_frequent_ones_and_what_belongs_together_stays_together() -> None:
    found = prevalence("natural")

    def given(name: str, condition: str) -> float:
        among = cell(found.states, condition)
        return float(found.probabilities[among & cell(found.states, name)].sum() / found.probabilities[among].sum())

    assert given("comp_solid", "margin_ete") > 0.8
    assert given("comp_solid", "foci_punctate") > found.reached["comp_solid"]
    assert given(MALIGNANT, "foci_punctate") > found.reached[MALIGNANT] + 0.2
    assert given(MALIGNANT, "margin_ete") > 0.8
    assert given(MALIGNANT, "comp_spongiform") < 0.1
    assert given("echo_anechoic", "comp_cystic") == 1.0


def test_tilting_keeps_odds_ratios_between_labels() -> None:
    def odds(tail: object) -> float:
        found = prevalence(tail)  # type: ignore[arg-type]
        # within one report of everything else, so that nothing but the two labels varies
        fixed = ["comp_solid", "echo_hypo", "margin_smooth"]
        among = np.all([cell(found.states, name) for name in fixed], axis=0)
        among &= ~np.any([cell(found.states, name) for name in FOCI[2:]], axis=0) & cell(found.states, MALIGNANT)
        a, b = cell(found.states, "shape_taller"), cell(found.states, "foci_comet_tail")
        p = [float(found.probabilities[among & x & y].sum()) for x in (a, ~a) for y in (b, ~b)]
        return p[0] * p[3] / (p[1] * p[2])

    assert odds("natural") == pytest.approx(odds({"shape_taller": 0.4, "foci_comet_tail": 0.2}), rel=1e-6)


def test_a_wish_for_one_label_moves_its_rivals_and_leaves_the_rest() -> None:
    reached = prevalence({"margin_ete": 0.2, MALIGNANT: 0.5}).reached
    assert reached["margin_ete"] == pytest.approx(0.2, abs=1e-3)
    assert reached[MALIGNANT] == pytest.approx(0.5, abs=1e-3)
    assert reached["margin_smooth"] == pytest.approx(NATURAL["margin_smooth"] * 0.8 / 0.98, abs=1e-3)
    assert reached["shape_taller"] == pytest.approx(NATURAL["shape_taller"], abs=1e-3)


def test_cystic_brings_anechoic_along() -> None:
    reached = prevalence({"comp_cystic": 0.3}).reached
    assert reached["comp_cystic"] == pytest.approx(reached["echo_anechoic"])
    assert reached["comp_cystic"] == pytest.approx(0.3, abs=1e-3)


def test_shares_of_nought_and_one_are_met_exactly() -> None:
    reached = prevalence({"foci_rim": 0.0, "shape_taller": 1.0}).reached
    assert reached["foci_rim"] == 0.0
    assert reached["shape_taller"] == pytest.approx(1.0)
    assert reached["shape_wider"] == 0.0


def test_an_unreachable_wish_stays_bounded_and_is_reported() -> None:
    reached = prevalence({"comp_cystic": 0.5, "echo_anechoic": 0.3}).reached
    assert reached["comp_cystic"] == pytest.approx(reached["echo_anechoic"])
    assert 0.3 < reached["comp_cystic"] < 0.5


@given(st.floats(0.01, 0.6), st.floats(0.01, 0.6), st.floats(0.02, 0.9))
def test_wishes_of_free_labels_are_met(ete: float, punctate: float, malignant: float) -> None:
    wanted = {"margin_ete": ete, "foci_punctate": punctate, MALIGNANT: malignant}
    reached = prevalence(wanted).reached
    assert reached["margin_ete"] == pytest.approx(ete, abs=0.01)
    assert sum(reached[name] for name in EXCLUSIVE["margin"]) == pytest.approx(1.0)
    assert all(0.0 <= share <= 1.0 for share in reached.values())


def test_faulty_wishes_are_named_all_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        prevalence({"margin_et": 0.1, "shape_taller": 1.4, "foci_rim": True})
    text = str(caught.value)
    assert "tail, label 'margin_et': unknown; did you mean 'margin_ete'?" in text
    assert "tail, label 'shape_taller': found 1.4; expected a share from 0 to 1" in text
    assert "'foci_rim': found True" in text
    with pytest.raises(UsageError, match=r"group 'margin': margin_smooth 0.8, margin_ete 0.4 sum to 1.2; .* at most 1"):
        prevalence({"margin_ete": 0.4, "margin_smooth": 0.8})
    with pytest.raises(UsageError, match=r"group 'shape': shape_wider 0.3, shape_taller 0.3 sum to 0.6; expected 1"):
        prevalence({"shape_wider": 0.3, "shape_taller": 0.3})
    with pytest.raises(UsageError, match=r"tail 'unifrom': unknown; did you mean 'uniform'\?"):
        prevalence("unifrom")


def test_draws_follow_the_distribution() -> None:
    found = prevalence("natural")
    random = np.random.default_rng(0)
    drawn = np.array([found.draw(u) for u in random.random(6000)])
    for name, share in found.reached.items():
        error = 4 * np.sqrt(share * (1 - share) / 6000)
        assert cell(drawn, name).mean() == pytest.approx(share, abs=error), name
    assert found.draw(0.0).any()
    assert found.draw(1.0).any()


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_misread_reports_are_valid_and_as_wrong_as_asked(rate: float) -> None:
    random = np.random.default_rng(1)
    found = prevalence("natural")
    truth = np.array([found.draw(u)[:-1] for u in random.random(800)])
    read = np.array([misread(row, random, rate=rate) for row in truth])
    for group, members in GROUPS.items():
        at = [LABELS.index(name) for name in members]
        wrong = (read[:, at] != truth[:, at]).any(axis=1).mean()
        assert wrong == pytest.approx(rate, abs=0.06 if 0 < rate < 1 else 0.0), group
        if group == "foci":
            assert np.array_equal(read[:, at[0]], ~read[:, at[1:]].any(axis=1))
        else:
            assert (read[:, at].sum(axis=1) == 1).all()


def test_left_out_groups_are_wholly_empty() -> None:
    random = np.random.default_rng(2)
    row = prevalence("natural").draw(0.5)[:-1]
    cells = np.array([left_out(row, random, rate=0.4) for _ in range(500)])
    for members in GROUPS.values():
        empty = np.isnan(cells[:, [LABELS.index(name) for name in members]])
        assert np.array_equal(empty.any(axis=1), empty.all(axis=1))
        assert empty.all(axis=1).mean() == pytest.approx(0.4, abs=0.09)
    assert not np.isnan(left_out(row, random, rate=0.0)).any()


def test_shares_count_assessed_rows_only() -> None:
    rows = np.zeros((3, 20))
    rows[0, 0] = 1
    rows[1, 0] = np.nan
    rows[:, 1] = np.nan
    found = shares(rows)
    assert found["comp_cystic"] == 0.5
    assert np.isnan(found["comp_spongiform"])
