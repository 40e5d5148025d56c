from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medtail.lexicons.descriptors import EXCLUSIVE, Focus
from medtail.lexicons.influence import influence, influence_lines
from medtail.lexicons.probabilities import DescriptorProbabilities, descriptor_probabilities
from medtail.lexicons.propagation import Consistency, level_law
from medtail.lexicons.systems import SYSTEMS, System


def some(rows: int = 6) -> DescriptorProbabilities:
    random = np.random.default_rng(2)
    return descriptor_probabilities(
        composition=random.dirichlet(np.ones(4), rows), echogenicity=random.dirichlet(np.ones(5), rows),
        shape=random.dirichlet(np.ones(2), rows), margin=random.dirichlet(np.ones(4), rows),
        foci=random.random((rows, 4)), is_calibrated=True,
    )  # fmt: skip


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("cystic_stops", [False, True])
def test_each_law_is_that_of_a_descriptor_made_certain(system: System, cystic_stops: bool) -> None:
    given = some()
    found = influence(given, system=system, cystic_stops=cystic_stops)
    now = level_law(given, system=system, cystic_stops=cystic_stops)
    assert len(found.labels) == 4 + 5 + 2 + 4 + 2 * 4
    for number, (group, value) in enumerate(found.labels):
        certain = given.group(group).copy()
        if group == "foci":
            column = [str(focus) for focus in Focus].index(value.removeprefix("no "))
            chance = certain[:, column].copy()
            certain[:, column] = 0.0 if value.startswith("no ") else 1.0
            chance = 1 - chance if value.startswith("no ") else chance
        else:
            column = [str(member) for member in EXCLUSIVE[group]].index(value)
            chance = certain[:, column].copy()
            certain[:] = 0.0
            certain[:, column] = 1.0
        law = level_law(replace(given, **{group: certain}), system=system, cystic_stops=cystic_stops)
        assert np.abs(found.laws[:, number, :-1] - law.probabilities).max() < 1e-12, (group, value)
        assert np.abs(found.laws[:, number, -1] - law.undefined).max() < 1e-12
        assert found.chances[:, number] == pytest.approx(chance)
        moved = 0.5 * (
            np.abs(law.probabilities - now.probabilities).sum(axis=1) + np.abs(law.undefined - now.undefined)
        )
        assert found.moved[:, number] == pytest.approx(moved)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("consistency", ["independent", "conditioned"])
def test_the_laws_of_a_groups_values_average_to_the_law(system: System, consistency: Consistency) -> None:
    given = some()
    found = influence(given, system=system, consistency=consistency)
    now = level_law(given, system=system, consistency=consistency)
    for group in EXCLUSIVE:
        inside = [number for number, label in enumerate(found.labels) if label[0] == group]
        mean = (found.chances[:, inside, None] * found.laws[:, inside]).sum(axis=1)
        assert np.abs(mean[:, :-1] - now.probabilities).max() < 1e-12
        assert found.chances[:, inside].sum(axis=1) == pytest.approx(np.ones(len(given)))


def test_what_contradicts_itself_moves_nothing() -> None:
    solid = descriptor_probabilities(composition="solid", echogenicity=[0.0, 0.2, 0.5, 0.3, 0.0], shape="wider",
                                     margin="smooth", foci="none")  # fmt: skip
    found = influence(solid, consistency="conditioned")
    number = found.labels.index(("echogenicity", "anechoic"))
    assert np.isnan(found.laws[0, number]).all()
    assert found.moved[0, number] == 0.0
    assert influence(solid).moved[0, number] > 0.5


def test_certain_descriptors_weigh_nothing_and_doubtful_ones_do() -> None:
    nodule = descriptor_probabilities(composition="solid", echogenicity=[0, 0, 0.5, 0.5, 0], shape="wider",
                                      margin="smooth", foci=[0, 0, 0, 0.02])  # fmt: skip
    groups = {name: float(values[0]) for name, values in influence(nodule).by_group().items()}
    assert max(groups, key=lambda name: groups[name]) == "echogenicity"
    assert groups["composition"] == groups["shape"] == groups["foci:rim"] == 0.0
    assert groups["foci:punctate"] > 0.0


def test_the_strongest_candidate_must_be_likely_enough() -> None:
    nodule = descriptor_probabilities(composition="solid", echogenicity=[0, 0, 0.94, 0.06, 0], shape=[0.96, 0.04],
                                      margin="smooth", foci="none")  # fmt: skip
    found = influence(nodule)
    best, moved = found.strongest()
    assert found.labels[best[0]] == ("echogenicity", "hypo")
    assert moved[0] == pytest.approx(found.moved[0, best[0]])
    anything, _ = found.strongest(least_chance=0.0)
    assert found.labels[anything[0]] != ("echogenicity", "hypo")


def test_the_line_says_what_would_change() -> None:
    nodule = descriptor_probabilities(composition="solid", echogenicity=[0, 0, 0.7, 0.3, 0], shape="wider",
                                      margin="smooth", foci="none")  # fmt: skip
    assert influence_lines(influence(nodule)) == [
        "echogenicity hypo (now 30%) for certain would move 70% of the probability; then TR4 100%"
    ]
    sure = descriptor_probabilities(
        composition="solid", echogenicity="iso", shape="wider", margin="smooth", foci="none"
    )
    assert influence_lines(influence(sure)) == ["nothing: no other value is at least 5% likely"]
