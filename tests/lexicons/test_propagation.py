from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medtail.errors import MedtailError, UsageError
from medtail.lexicons.descriptors import GROUPS, Focus, Reading
from medtail.lexicons.grading import grade
from medtail.lexicons.probabilities import (
    DescriptorProbabilities,
    argmax_readings,
    descriptor_probabilities,
    point_mass,
)
from medtail.lexicons.propagation import (
    NOT_CALIBRATED,
    Consistency,
    average_laws,
    enumerate_law,
    foci_law,
    level_law,
)
from medtail.lexicons.rules import acr_points, category_of
from medtail.lexicons.states import AXES, FOCI_SETS, all_readings
from medtail.lexicons.systems import LEXICONS, SYSTEMS, System

STATES = all_readings()
A = descriptor_probabilities(
    composition=[0.02, 0.03, 0.25, 0.70], echogenicity=[0.02, 0.08, 0.30, 0.55, 0.05], shape=[0.8, 0.2],
    margin=[0.55, 0.15, 0.25, 0.05], foci=[0.03, 0.15, 0.05, 0.30], is_calibrated=True,
)  # fmt: skip
B = descriptor_probabilities(
    composition=[0, 0, 0.45, 0.55], echogenicity=[0, 0, 0.55, 0.45, 0], shape=[0.6, 0.4], margin=[0.6, 0, 0.4, 0],
    foci=[0, 0.4, 0, 0.4],
)  # fmt: skip


def random_probabilities(seed: int, *, rows: int = 1, undetermined: bool = False) -> DescriptorProbabilities:
    random = np.random.default_rng(seed)

    def group(values: int, extra: int) -> np.ndarray:
        shares = random.dirichlet(np.full(values + extra, 0.7), rows)
        return shares if undetermined else np.column_stack([random.dirichlet(np.full(values, 0.7), rows),
                                                            np.zeros((rows, extra))])  # fmt: skip

    return DescriptorProbabilities(
        group(4, 1), group(5, 1), random.dirichlet([1, 1], rows), group(4, 1), random.random((rows, 4)),
        is_calibrated=True,
    )  # fmt: skip


def of_reading(reading: Reading) -> DescriptorProbabilities:
    return DescriptorProbabilities(
        *(point_mass(reading, group)[None] for group in GROUPS), rim_extrusion=reading.rim_extrusion
    )


def brute_force(given: DescriptorProbabilities, *, cystic_stops: bool = False, conditioned: bool = False) -> np.ndarray:
    """Walk over every reading and add its probability to its points: slow, and knows no formula."""
    points = np.zeros(18)
    removed = 0.0
    for numbers in product(*(range(len(axis)) for axis in AXES)):
        c, e, h, m, f = numbers
        chance = given.composition[0, c] * given.echogenicity[0, e] * given.shape[0, h] * given.margin[0, m]
        for bit, _ in enumerate(Focus):
            chance *= given.foci[0, bit] if f >> bit & 1 else 1 - given.foci[0, bit]
        if chance == 0.0:
            continue
        reading = Reading(
            *(axis[number] for axis, number in zip(AXES, numbers, strict=True)), rim_extrusion=given.rim_extrusion
        )
        if conditioned and reading.echogenicity == "anechoic" and reading.composition in ("solid", "mixed"):
            removed += chance
            continue
        points[acr_points(reading, cystic_stops=cystic_stops).total] += chance
    return points / (1 - removed)


def test_distribution_a_of_the_specification() -> None:
    law = level_law(A)
    expected = [0.030127, 0.004011, 0.038741, 0.136482, 0.167284, 0.117625, 0.165709, 0.139015, 0.072604, 0.065568,
                0.036060, 0.014187, 0.008734, 0.002994, 0.000699, 0.000142, 0.000017, 0.000001]  # fmt: skip
    assert law.points is not None
    assert law.points[0] == pytest.approx(expected, abs=6e-7)
    assert law.mean_points[0] == pytest.approx(5.559100, abs=6e-7)
    assert law.probabilities[0] == pytest.approx([0.034137, 0.038741, 0.136482, 0.450618, 0.340022], abs=1.1e-6)
    assert law.off_chart[0] == pytest.approx(0.004011, abs=6e-7)
    found = [law.advice(np.array([size]))["FNA"][0] for size in (12.0, 16.0, 26.0)]
    assert found == pytest.approx([0.340022, 0.790640, 0.927122], abs=6e-7)
    assert law.warnings == ()


@pytest.mark.parametrize(
    ("system", "expected", "undefined"),
    [
        ("c", [0.002633, 0.095371, 0.342072, 0.375805, 0.183202, 0.000917], 0.0),
        ("eu", [0.030400, 0.148803, 0.204820, 0.608529], 0.007448),
        ("k", [0.034940, 0.206388, 0.489312, 0.255360], 0.014000),
    ],
)
def test_distribution_a_in_the_other_systems(system: str, expected: list[float], undefined: float) -> None:
    law = level_law(A, system=system)
    assert law.probabilities[0] == pytest.approx(expected, abs=1.1e-6)
    assert law.undefined[0] == pytest.approx(undefined, abs=6e-7)


def test_distribution_b_says_why_not_argmax() -> None:
    law = level_law(B)
    assert law.probabilities[0, 1:] == pytest.approx([0.0321, 0.0868, 0.3854, 0.4957], abs=6e-5)
    reading = argmax_readings(B)[0]
    assert [reading.text(group) for group in GROUPS] == ["solid", "iso", "wider", "smooth", "none"]
    assert grade(reading).category == "TR3"
    assert law.categories[law.most_probable[0]] == "TR5"


@given(st.integers(0, 10_000), st.booleans(), st.booleans())
@settings(max_examples=8, deadline=None)
def test_convolution_is_brute_force(seed: int, undetermined: bool, cystic_stops: bool) -> None:
    given_law = random_probabilities(seed, undetermined=undetermined)
    if seed % 3 == 0:
        given_law = replace(given_law, rim_extrusion=True)
    law = level_law(given_law, cystic_stops=cystic_stops)
    assert law.points is not None
    assert np.abs(law.points[0] - brute_force(given_law, cystic_stops=cystic_stops)).max() < 1e-12


def test_conditioned_is_brute_force_without_the_contradictions() -> None:
    for seed in range(3):
        given_law = random_probabilities(seed)
        law = level_law(given_law, consistency="conditioned")
        assert law.points is not None
        assert np.abs(law.points[0] - brute_force(given_law, conditioned=True)).max() < 1e-12
        c, e = given_law.composition[0], given_law.echogenicity[0]
        assert law.removed[0] == pytest.approx((c[2] + c[3]) * e[0])


@pytest.mark.parametrize("consistency", ["independent", "conditioned"])
@pytest.mark.parametrize("cystic_stops", [False, True])
def test_acr_through_the_table_is_acr_by_convolution(consistency: Consistency, cystic_stops: bool) -> None:
    for extrusion in (False, True):
        many = replace(random_probabilities(7, rows=40, undetermined=True), rim_extrusion=extrusion)
        law = level_law(many, consistency=consistency, cystic_stops=cystic_stops)
        table = enumerate_law(many, system="acr", consistency=consistency, cystic_stops=cystic_stops)
        assert np.abs(table[:, :-1] - law.probabilities).max() < 1e-12
        assert np.abs(table[:, -1]).max() == 0.0


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("consistency", ["independent", "conditioned"])
def test_laws_sum_to_one_with_what_is_undefined(system: System, consistency: Consistency) -> None:
    many = random_probabilities(3, rows=1500)
    law = level_law(many, system=system, consistency=consistency)
    assert np.abs(law.probabilities.sum(axis=1) + law.undefined - 1.0).max() < 1e-12
    assert law.probabilities.min() >= 0.0
    assert law.probabilities.dtype == np.float64
    one = level_law(many.take(slice(1200, 1201)), system=system, consistency=consistency)
    assert one.probabilities[0] == pytest.approx(law.probabilities[1200], abs=1e-14)


@pytest.mark.parametrize("system", SYSTEMS)
def test_point_masses_reproduce_the_rule_engine_on_all_states(system: System) -> None:
    groups = [np.concatenate([point_mass(reading, group)[None] for reading in STATES]) for group in GROUPS]
    law = level_law(DescriptorProbabilities(*groups), system=system)
    names = LEXICONS[system].names
    for row, reading in enumerate(STATES):
        category = category_of(reading, system)
        expected = np.array([float(name == category) for name in names])
        assert np.array_equal(law.probabilities[row], expected), reading
        assert law.undefined[row] == float(category is None)
        if law.points is not None:
            assert law.points[row, acr_points(reading).total] == 1.0


def test_spongiform_for_certain_is_a_point_mass_at_zero() -> None:
    law = level_law(replace(A, composition=np.array([[0.0, 1.0, 0.0, 0.0, 0.0]])))
    assert law.points is not None
    assert law.points[0, 0] == pytest.approx(1.0, abs=1e-15)
    stopped = level_law(replace(A, composition=np.array([[0.4, 0.6, 0.0, 0.0, 0.0]])), cystic_stops=True)
    assert stopped.probabilities[0, 0] == pytest.approx(1.0, abs=1e-15)


ORDERS = {  # labels of a group in ascending points
    "composition": ("cystic", "mixed", "solid"),
    "echogenicity": ("anechoic", "iso", "hypo", "very_hypo"),
    "shape": ("wider", "taller"),
    "margin": ("smooth", "irregular", "ete"),
}


@given(st.integers(0, 10_000), st.sampled_from(sorted(ORDERS)), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_mass_moved_to_more_points_never_lowers_tr5(seed: int, group: str, share: float) -> None:
    from medtail.lexicons.descriptors import EXCLUSIVE

    given_law = random_probabilities(seed)
    values = list(EXCLUSIVE[group])
    for low, high in zip(ORDERS[group], ORDERS[group][1:], strict=False):
        moved = given_law.group(group).copy()
        part = moved[0, values.index(low)] * share  # type: ignore[arg-type]
        moved[0, values.index(low)] -= part  # type: ignore[arg-type]
        moved[0, values.index(high)] += part  # type: ignore[arg-type]
        before, after = level_law(given_law), level_law(replace(given_law, **{group: moved}))
        assert after.probabilities[0, 4] >= before.probabilities[0, 4] - 1e-12
        assert after.mean_points[0] >= before.mean_points[0] - 1e-12


@given(st.integers(0, 10_000), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_a_likelier_focus_never_lowers_tr5(seed: int, focus: int) -> None:
    given_law = random_probabilities(seed)
    foci = given_law.foci.copy()
    foci[0, focus] = 0.5 + foci[0, focus] / 2
    assert (
        level_law(replace(given_law, foci=foci)).probabilities[0, 4] >= level_law(given_law).probabilities[0, 4] - 1e-12
    )


@given(st.integers(0, 10_000), st.sampled_from(SYSTEMS))
@settings(max_examples=30, deadline=None)
def test_chances_of_a_needle_are_monotone_in_size(seed: int, system: System) -> None:
    law = level_law(random_probabilities(seed), system=system)
    sizes = np.array([4.0, 5.0, 9.9, 10.0, 10.1, 14.9, 15.0, 15.1, 20.0, 20.1, 24.9, 25.0, 60.0])
    many = [law.advice(np.array([size])) for size in sizes]
    fna = np.array([found["FNA"][0] for found in many])
    either = np.array([found["FNA"][0] + found["FOLLOW"][0] for found in many])
    assert (np.diff(fna) >= -1e-12).all()
    assert (np.diff(either) >= -1e-12).all()
    for found in many:
        assert found["FNA"][0] + found["FOLLOW"][0] + found["NONE"][0] + law.undefined[0] == pytest.approx(1.0)


UNREAD: dict[System, tuple[int, ...]] = {"acr": (0,), "c": (1, 2), "eu": (0, 1, 2), "k": (1, 2)}


@pytest.mark.parametrize("system", SYSTEMS)
def test_no_law_moves_with_a_focus_its_system_does_not_use(system: System) -> None:
    given_law = random_probabilities(11, rows=20)
    before = level_law(given_law, system=system).probabilities
    for focus in range(4):
        foci = given_law.foci.copy()
        foci[:, focus] = 1.0 - foci[:, focus]
        after = level_law(replace(given_law, foci=foci), system=system).probabilities
        assert np.allclose(before, after, atol=1e-12) == (focus in UNREAD[system])
    extruded = level_law(replace(given_law, rim_extrusion=True), system=system).probabilities
    assert np.allclose(before, extruded, atol=1e-12) == (system != "acr")


def test_the_smallest_run_holds_ninety_percent_and_none_shorter_does() -> None:
    law = level_law(random_probabilities(5, rows=300))
    first, last, mass = law.smallest_run()
    for row in range(len(law)):
        inside = law.probabilities[row, first[row] : last[row] + 1].sum()
        assert inside == pytest.approx(mass[row])
        assert inside >= 0.9 - 1e-12
        length = last[row] - first[row] + 1
        shorter = [law.probabilities[row, start : start + length - 1].sum() for start in range(5 - length + 2)]
        assert max(shorter) < 0.9
        same = [law.probabilities[row, start : start + length].sum() for start in range(5 - length + 1)]
        assert inside == pytest.approx(max(same))
    assert A is not None
    low, high, _ = level_law(A).smallest_run()
    assert (law.categories[low[0]], law.categories[high[0]]) == ("TR3", "TR5")
    with pytest.raises(MedtailError, match=r"share 0.0: expected a number in \(0, 1\]"):
        law.smallest_run(share=0.0)


def test_too_much_undefined_leaves_no_run_and_no_level() -> None:
    law = level_law(replace(A, echogenicity=np.array([[0.6, 0, 0.4, 0, 0, 0]])), system="k")
    first, last, mass = law.smallest_run()
    assert (first[0], last[0], mass[0]) == (-1, -1, 0.0)
    hidden = level_law(replace(A, composition=np.eye(5)[[3]], echogenicity=np.eye(6)[[5]]), system="k")
    assert hidden.most_probable.tolist() == [-1]


def test_unknown_sizes_get_no_chances() -> None:
    law = level_law(random_probabilities(1, rows=2))
    found = law.advice(np.array([np.nan, 12.0]))
    assert all(np.isnan(found[name][0]) and not np.isnan(found[name][1]) for name in ("FNA", "FOLLOW", "NONE"))


def test_scores_nobody_calibrated_are_warned_of() -> None:
    assert level_law(B).warnings == (NOT_CALIBRATED,)
    assert "medtail calibrate" in NOT_CALIBRATED


def test_nothing_left_after_conditioning_is_refused() -> None:
    sure = descriptor_probabilities(
        composition="solid", echogenicity="anechoic", shape="wider", margin="smooth", foci="none"
    )
    with pytest.raises(MedtailError, match="rows 0: all probability is on anechoic solid or mixed nodules"):
        level_law(sure, consistency="conditioned")
    assert level_law(sure).probabilities[0].tolist() == [0, 1, 0, 0, 0]


def test_unknown_systems_are_refused() -> None:
    with pytest.raises(UsageError, match="ACR TI-RADS, version '2018'"):
        level_law(A, system="acr-2018")


def test_laws_are_averaged_and_not_their_inputs() -> None:
    one = of_reading(replace(STATES[0], composition=AXES[0][3], echogenicity=AXES[1][2]))
    other = of_reading(replace(STATES[0], composition=AXES[0][2], echogenicity=AXES[1][4], shape=AXES[2][1]))
    laws = [level_law(given_law) for given_law in (one, other)]
    mean = average_laws(laws)
    assert mean.probabilities[0] == pytest.approx((laws[0].probabilities[0] + laws[1].probabilities[0]) / 2)
    assert mean.mean_points[0] == pytest.approx((laws[0].mean_points[0] + laws[1].mean_points[0]) / 2)
    blurred = DescriptorProbabilities(*((one.group(group) + other.group(group)) / 2 for group in GROUPS))
    assert np.abs(level_law(blurred).probabilities - mean.probabilities).max() > 0.2
    assert mean.warnings == (NOT_CALIBRATED,)
    with pytest.raises(MedtailError, match="found none; expected one a model"):
        average_laws([])
    with pytest.raises(MedtailError, match="found c of 1 nodules beside acr of 1"):
        average_laws([laws[0], level_law(one, system="c")])


def test_sets_of_foci_have_independent_members() -> None:
    foci = np.random.default_rng(0).random((5, 4))
    law = foci_law(foci)
    assert law.sum(axis=1) == pytest.approx(np.ones(5))
    for bit, focus in enumerate(Focus):
        inside = [number for number, members in enumerate(FOCI_SETS) if focus in members]
        assert law[:, inside].sum(axis=1) == pytest.approx(foci[:, bit])


def test_no_nodules_are_no_rows() -> None:
    nothing = A.take(slice(0, 0))
    for system in SYSTEMS:
        assert level_law(nothing, system=system).probabilities.shape == (0, len(LEXICONS[system].names))
