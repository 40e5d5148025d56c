"""From members' scores to a system's: views, ensembles, switches and rules, chosen on tune and done to test."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medtail.errors import MedtailError
from medtail.judging.metrics import average_precision
from medtail.studies.systems_assembly import Assembled, Pair, assemble
from medtail.studies.systems_config import SystemConfig
from medtail.tables.labels import LabelSpace
from medtail.tables.manifest import Manifest, manifest_from_frame
from medtail.tables.post_rules import ExclusiveNormalConfig, NormalGateConfig
from medtail.tables.predictions import Predictions
from medtail.tables.tail import ClassCounts

NAMES = ("Mass", "Hernia", "Normal")
COUNTS = ClassCounts(NAMES, (300, 10, 500), (300, 10, 500), (1000, 1000, 1000))


def world(*, views: int = 2, studies: int = 400, seed: int = 0) -> tuple[Manifest, np.ndarray]:
    """A table of studies with a frontal view first and lateral ones, and each image's labels (its study's)."""
    random = np.random.default_rng(seed)
    truth = (random.random((studies, 3)) < [0.3, 0.15, 0.4]).astype(int)
    rows = [
        {
            "image_id": f"s{s}v{v}", "path": "x.png", "patient_id": f"p{s}", "study_id": f"s{s}",
            "view": "PA" if v == 0 else "LL", "fold": "tune" if s % 2 else "test",
            **dict(zip(NAMES, truth[s], strict=True)),
        }
        for s in range(studies)
        for v in range(views)
    ]  # fmt: skip
    return manifest_from_frame(pd.DataFrame(rows), name="studies.csv"), np.repeat(truth, views, axis=0)


def member(manifest: Manifest, truth: np.ndarray, *, skill: Any = 1.0, seed: int = 0, digest: str = "m") -> Pair:
    """Scores of every image by itself: a study's labels under noise of its own."""
    noise = np.random.default_rng(seed).normal(size=truth.shape)
    scores = 1 / (1 + np.exp(-(np.asarray(skill) * truth + noise)))
    frame = manifest.frame
    whole = Predictions(
        image_ids=frame["image_id"].to_numpy(dtype=object), patients=manifest.patients, scores=scores,
        targets=truth.astype(float), labels=LabelSpace(NAMES), folds=manifest.folds, train_counts=COUNTS,
        digests={"model": digest},
    )  # fmt: skip
    return Pair(*(whole.take(np.flatnonzero(manifest.folds == fold)) for fold in ("tune", "test")))


def mean_ap(table: Predictions) -> float:
    return float(np.mean([average_precision(table.scores[:, c], table.targets[:, c]) for c in range(3)]))


def made(system: SystemConfig, manifest: Manifest, **members: Any) -> Assembled:
    pairs = {name: found if isinstance(found, list) else [found] for name, found in members.items()}
    return assemble("system", system, pairs, manifest)


def test_one_member_is_left_as_it_is() -> None:
    manifest, truth = world()
    one = member(manifest, truth)
    found = made(SystemConfig(), manifest, plain=one)
    assert np.array_equal(found.scores.test.scores, one.test.scores)
    assert (found.scores.test.name, list(found.parts), found.notes) == ("system", ["plain"], ())


def test_two_views_of_a_study_are_worth_what_averaging_noise_is_worth() -> None:
    """Noise of deviation 1 an image; the logits' mean over two views has 0.71: the gain of that much more skill."""
    manifest, truth = world()
    alone = member(manifest, truth, skill=1.0)
    both = made(SystemConfig(views="mean"), manifest, plain=alone).scores.test
    told = member(manifest, truth, skill=np.sqrt(2.0), seed=9).test
    assert mean_ap(both) - mean_ap(alone.test) > 0.04
    assert mean_ap(both) == pytest.approx(mean_ap(told), abs=0.04)
    for study in ("s0", "s2"):
        rows = [n for n, name in enumerate(both.image_ids) if name.startswith(f"{study}v")]
        assert (both.scores[rows] == both.scores[rows[0]]).all()


def test_frontal_views_weigh_eight_to_two() -> None:
    manifest, truth = world()
    alone = member(manifest, truth)
    found = made(SystemConfig(views="frontal"), manifest, plain=alone).scores.test
    assert np.allclose(found.scores[0], 0.8 * alone.test.scores[0] + 0.2 * alone.test.scores[1])


def test_views_that_are_not_there_are_said_and_not_made_up() -> None:
    manifest, truth = world(views=1)
    alone = member(manifest, truth)
    found = made(SystemConfig(views="max"), manifest, plain=alone)
    assert np.array_equal(found.scores.test.scores, alone.test.scores)
    assert found.notes == ("views: every study has one image, so max changes nothing",)
    manifest, truth = world()
    blind = replace(manifest, frame=manifest.frame.assign(view=""))
    found = made(SystemConfig(views="frontal"), blind, plain=member(manifest, truth))
    mean = made(SystemConfig(views="mean"), manifest, plain=member(manifest, truth))
    assert np.array_equal(found.scores.test.scores, mean.scores.test.scores)
    assert "no image is known to be frontal" in found.notes[0]


def test_repeats_are_pooled_and_only_as_many_as_asked() -> None:
    manifest, truth = world()
    pairs = [member(manifest, truth, seed=n, digest=str(n)) for n in range(3)]
    found = made(SystemConfig(repeats=2), manifest, plain=pairs)
    assert list(found.parts) == ["plain", "plain, repeat 2"]
    assert np.allclose(found.scores.test.scores, (pairs[0].test.scores + pairs[1].test.scores) / 2)
    assert mean_ap(found.scores.test) > mean_ap(pairs[0].test)


def test_rare_classes_come_from_the_second_member() -> None:
    manifest, truth = world()
    head, tail = member(manifest, truth, seed=1), member(manifest, truth, seed=2)
    found = made(SystemConfig(members=("head", "tail"), switch_below=0.05), manifest, head=head, tail=tail).scores.test
    assert np.array_equal(found.scores[:, [0, 2]], head.test.scores[:, [0, 2]])
    assert np.array_equal(found.scores[:, 1], tail.test.scores[:, 1])
    none = made(SystemConfig(members=("head", "tail"), switch_below=0.001), manifest, head=head, tail=tail)
    assert np.array_equal(none.scores.test.scores, head.test.scores)
    assert "no class is below 0.001" in none.notes[0]
    uncounted = Pair(replace(head.tune, train_counts=None), head.test)
    with pytest.raises(MedtailError, match="carries no train counts"):
        made(SystemConfig(members=("head", "tail"), switch_below=0.05), manifest, head=uncounted, tail=tail)


def test_fitted_weights_see_tune_alone_and_are_done_to_test() -> None:
    manifest, truth = world(views=1, studies=800)
    one = member(manifest, truth, skill=(3.0, 0.0, 3.0), seed=1, digest="1")
    two = member(manifest, truth, skill=(0.0, 3.0, 0.0), seed=2, digest="2")
    fitted = SystemConfig(members=("one", "two"), fit="class_best")
    found = made(fitted, manifest, one=one, two=two)
    assert found.weights is not None
    assert found.weights.weights[0, 0] > 0.8
    assert found.weights.weights[1, 1] > 0.7
    assert mean_ap(found.scores.test) > mean_ap(made(SystemConfig(members=("one", "two")), manifest, one=one,
                                                     two=two).scores.test)  # fmt: skip
    # test labels and scores turned over: the weights stay
    other = Pair(two.tune, replace(two.test, scores=1 - two.test.scores, targets=1 - two.test.targets))
    first = Pair(one.tune, replace(one.test, targets=1 - one.test.targets))
    again = made(fitted, manifest, one=first, two=other)
    assert again.weights is not None
    assert np.array_equal(again.weights.weights, found.weights.weights)


def test_weights_that_are_luck_give_way_to_equal_ones() -> None:
    manifest, truth = world(views=1, studies=120)
    pairs = {name: member(manifest, truth, seed=n, digest=name) for n, name in enumerate("abcd")}
    found = made(SystemConfig(members=tuple(pairs), fit="class_best"), manifest, **pairs)
    assert found.weights is not None
    assert found.weights.method == "mean"
    assert "were not shown to beat equal ones" in found.notes[0]


def test_a_rule_is_kept_only_where_tune_says_so() -> None:
    manifest, truth = world(views=1, studies=800)
    truth = truth.copy()
    truth[:, 2] = (truth[:, :2].sum(axis=1) == 0).astype(int)  # normal: neither finding
    skilled = member(manifest, truth, skill=(0.5, 0.5, 4.0))
    found = made(SystemConfig(rules=(NormalGateConfig(alpha=1.0),)), manifest, plain=skilled)
    assert found.trials is not None
    assert len(found.trials.accepted) == 1
    assert mean_ap(found.scores.test) > mean_ap(skilled.test)
    blind = member(manifest, truth, skill=(3.0, 3.0, 0.0))
    found = made(SystemConfig(rules=(NormalGateConfig(alpha=1.0),)), manifest, plain=blind)
    assert found.trials is not None
    assert not found.trials.accepted
    assert np.array_equal(found.scores.test.scores, blind.test.scores)
    assert found.notes == ("normal_gate not shown to help on tune: left out",)


def test_rules_come_after_the_ensemble() -> None:
    manifest, truth = world(views=1, studies=800)
    pairs = [member(manifest, truth, skill=(2.0, 2.0, 0.0), seed=n) for n in range(2)]
    found = made(SystemConfig(repeats=2, rules=(ExclusiveNormalConfig(),)), manifest, plain=pairs)
    assert found.trials is not None
    assert found.trials.trials[0].before == pytest.approx(
        mean_ap(made(SystemConfig(repeats=2), manifest, plain=pairs).scores.tune), abs=1e-9
    )
