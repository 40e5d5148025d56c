"""Weights from the tune fold: closed forms, shrinkage, and a guard that lets luck not through."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medtail.errors import MedtailError
from medtail.judging.calibration import patient_folds
from medtail.judging.ensemble_fitting import METHODS, EnsembleConfig, fit_ensemble
from medtail.judging.metrics import average_precision
from medtail.tables.combine import combine_predictions
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions

NAMES = ("head", "rare")


def members(
    skills: list[tuple[float, float]], *, rows: int = 600, seed: int = 0, fold: str = "tune", shared: float = 0.0
) -> list[Predictions]:
    """Systems whose scores are target times skill plus noise of their own (and noise they share)."""
    random = np.random.default_rng(seed)
    targets = (random.random((rows, 2)) < [0.3, 0.08]).astype(float)
    common = shared * random.normal(size=targets.shape)
    ids = np.array([f"i{k}" for k in range(rows)], dtype=object)
    patients = np.array([f"p{k // 2}" for k in range(rows)], dtype=object)
    tables = []
    for number, skill in enumerate(skills):
        logits = targets * skill + common + random.normal(size=targets.shape) - 1
        tables.append(
            Predictions(ids, patients, 1 / (1 + np.exp(-logits)), targets, LabelSpace(NAMES),
                        np.array([fold] * rows, dtype=object), digests={"model": f"m{number}"}, name=f"s{number}")
        )  # fmt: skip
    return tables


def unguarded(method: str, **settings: float) -> EnsembleConfig:
    return EnsembleConfig(method=method, guard_folds=0, **settings)


def test_score_weights_are_the_mean_ap_to_the_power_above_the_floor():
    tables = members([(2, 2), (1, 1), (0, 0)])
    ap = np.array([[average_precision(t.scores[:, c], t.targets[:, c]) for c in range(2)] for t in tables])
    mean = ap.mean(axis=1) ** 3
    found = fit_ensemble(tables, config=unguarded("score", power=3.0, floor=0.3)).weights
    np.testing.assert_allclose(found, np.repeat((0.1 + 0.7 * mean / mean.sum())[:, None], 2, axis=1))
    assert found.min() >= 0.1


def test_class_weights_are_shrunk_by_their_positive_patients():
    tables = members([(2, 0), (0, 2)])
    ap = np.array([[average_precision(t.scores[:, c], t.targets[:, c]) for c in range(2)] for t in tables])
    patients = np.array([len(set(tables[0].patients[tables[0].targets[:, c] == 1])) for c in range(2)])
    trust = patients / (patients + 25.0)
    own = 0.1 + 0.8 * ap / ap.sum(axis=0)
    found = fit_ensemble(tables, config=unguarded("class_score", floor=0.2, kappa=25.0))
    np.testing.assert_allclose(found.weights, trust * own + (1 - trust) / 2)
    best = fit_ensemble(tables, config=unguarded("class_best", kappa=25.0))
    np.testing.assert_allclose(best.weights, trust * np.eye(2) + (1 - trust) / 2)
    assert best.evidence["positive_patients"] == dict(zip(NAMES, patients.tolist(), strict=True))
    plain = fit_ensemble(tables, config=unguarded("class_best", kappa=0.0))
    assert np.array_equal(plain.weights, np.eye(2))


@pytest.mark.parametrize("method", METHODS)
def test_laws_of_every_method(method):
    tables = members([(2, 0.5), (1, 1.5), (0.2, 0.2)], rows=300)
    config = EnsembleConfig(method=method, guard_folds=0, rounds=6)
    found = fit_ensemble(tables, config=config)
    np.testing.assert_allclose(found.weights.sum(axis=0), 1.0)
    assert (found.weights >= 0).all()
    order = np.random.default_rng(1).permutation(300)
    moved = fit_ensemble([table.take(order) for table in tables], config=config)
    assert np.array_equal(moved.weights, found.weights)
    turned = fit_ensemble(tables[::-1], config=config)
    np.testing.assert_allclose(turned.weights[::-1], found.weights, atol=1e-12)
    columns = [replace(table, scores=table.scores[:, ::-1], targets=table.targets[:, ::-1],
                       labels=LabelSpace(NAMES[::-1])) for table in tables]  # fmt: skip
    np.testing.assert_allclose(fit_ensemble(columns, config=config).weights[:, ::-1], found.weights, atol=1e-12)


def test_the_guard_keeps_weights_that_help_patients_not_seen():
    tables = members([(3, 0.0), (0.0, 3)])
    found = fit_ensemble(tables, config=EnsembleConfig(method="class_best", bootstrap=200))
    guard = found.evidence["guard"]
    assert guard["accepted"]
    assert guard["low"] > 0
    assert found.method == "class_best"
    fresh = members([(3, 0.0), (0.0, 3)], seed=9, fold="test")

    def value(table: Predictions) -> float:
        return float(np.mean([average_precision(table.scores[:, c], table.targets[:, c]) for c in range(2)]))

    assert value(found.combine(fresh)) > value(combine_predictions(fresh)) + 0.02


@pytest.mark.parametrize("method", ["class_greedy", "greedy", "class_best"])
def test_the_guard_turns_luck_into_the_mean(method):
    # ten systems as good as each other: whatever the search prefers is the tune fold's noise
    tables = members([(1.0, 1.0)] * 10, rows=200, seed=4)
    found = fit_ensemble(tables, config=EnsembleConfig(method=method, kappa=0.0, bootstrap=200, rounds=6))
    assert not found.evidence["guard"]["accepted"]
    assert found.method == "mean"
    assert np.array_equal(found.weights, np.full((10, 2), 0.1))


def test_the_guard_judges_each_patient_by_weights_that_have_not_seen_it():
    tables = members([(1.0, 1.0), (0.8, 1.2), (1.2, 0.6)], rows=300, seed=2)
    config = EnsembleConfig(method="class_best", kappa=3.0, bootstrap=50, guard_folds=3)
    folds = patient_folds(tables[0], folds=3)
    made = np.empty(tables[0].scores.shape)
    for fold in range(3):
        seen = fit_ensemble(
            [table.take(folds != fold) for table in tables], config=replace(config, guard_folds=0)
        ).weights
        held = [table.take(folds == fold) for table in tables]
        made[folds == fold] = combine_predictions(held, weights=seen).scores

    def value(scores: np.ndarray) -> float:
        return float(np.mean([average_precision(scores[:, c], tables[0].targets[:, c]) for c in range(2)]))

    expected = value(made) - value(combine_predictions(tables).scores)
    found = fit_ensemble(tables, config=config).evidence["guard"]["change"]
    assert found == pytest.approx(expected, abs=1e-12)


def test_greedy_without_guard_fits_these_rows_better_than_the_mean_and_that_is_why_there_is_one():
    tables = members([(1.0, 1.0)] * 6, rows=200, seed=4)
    found = fit_ensemble(tables, config=unguarded("class_greedy", kappa=0.0))
    rare = [average_precision(t.scores[:, 1], t.targets[:, 1]) for t in (found.combine(tables),
                                                                        combine_predictions(tables))]  # fmt: skip
    assert rare[0] > rare[1]


def test_a_class_without_positives_gets_equal_weights():
    tables = [
        replace(t, targets=np.column_stack([t.targets[:, 0], np.zeros(len(t))])) for t in members([(2, 0), (0, 2)])
    ]
    for method in ("class_score", "class_best", "class_greedy"):
        found = fit_ensemble(tables, config=unguarded(method))
        assert found.weights[:, 1].tolist() == [0.5, 0.5]
        assert found.evidence["member_ap"][0]["rare"] is None


def test_logits_and_ranks_are_searched_in_their_own_space():
    tables = members([(2, 1), (1, 2)], rows=200)
    for how in ("logits", "rank"):
        found = fit_ensemble(tables, config=unguarded("class_best", kappa=0.0, how=how))
        assert found.how == how
        assert found.combine(tables).scores.shape == (200, 2)


def test_nothing_but_the_tune_fold_may_choose():
    tables = members([(2, 1), (1, 2)], rows=100, fold="test")
    with pytest.raises(MedtailError, match=r"100 of 100 rows are not in fold 'tune'.*Weights chosen"):
        fit_ensemble(tables)


def test_bad_requests_are_refused():
    tables = members([(2, 1), (1, 2)], rows=100)
    with pytest.raises(MedtailError, match="found 1 member"):
        fit_ensemble(tables[:1])
    with pytest.raises(MedtailError, match="method 'greed': unknown; did you mean 'greedy'"):
        EnsembleConfig(method="greed")
    with pytest.raises(MedtailError, match="how 'median': unknown"):
        EnsembleConfig(how="median")
    for name, value in (("floor", 1.5), ("kappa", -1.0), ("power", -1.0), ("rounds", 0), ("guard_folds", 1),
                        ("bootstrap", 0)):  # fmt: skip
        with pytest.raises(MedtailError, match=f"ensemble, {name}"):
            EnsembleConfig(**{name: value})
    nobody = [replace(table, targets=np.zeros_like(table.targets)) for table in tables]
    with pytest.raises(MedtailError, match="no class has a positive image"):
        fit_ensemble(nobody)
    other = replace(tables[1], image_ids=tables[1].image_ids[::-1] + "x")
    with pytest.raises(MedtailError, match="member 2"):
        fit_ensemble([tables[0], other])
