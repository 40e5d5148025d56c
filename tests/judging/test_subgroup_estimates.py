from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics as oracle

from medtail.judging.bootstrap import Engine, PatientWeights, Scheme, draw_weights, rank_rows
from medtail.judging.calibration_error import debiased_squared_error
from medtail.judging.subgroup_estimates import (
    ClassRows,
    class_rows,
    debiased_ece,
    measure,
    resample_rows,
    resample_shifted,
    sum_rows,
)
from medtail.judging.subgroup_kernel import _shifted_block

PREVALENCE = 0.07


def made_up(rows: int = 260, patients: int = 70, seed: int = 0) -> ClassRows:
    random = np.random.default_rng(seed)
    targets = (random.random(rows) < 0.2).astype(float)
    targets[random.random(rows) < 0.1] = np.nan
    scores = np.clip(np.rint(20 * (random.random(rows) + 0.3 * (targets == 1))) / 26, 0, 1)
    return class_rows(
        scores,
        targets,
        called=scores >= 0.5,
        patients=random.integers(0, patients, rows).astype(np.int32),
        bins=15,
        prevalence=PREVALENCE,
    )


def repeated(rows: ClassRows, chosen: np.ndarray, weights: PatientWeights, b: int) -> np.ndarray:
    """The rows of one resample, each as often as its patient was drawn."""
    return np.repeat(np.flatnonzero(chosen), weights.matrix()[rows.patients[chosen], b])


def test_the_debiased_error_of_sums_is_that_of_rows() -> None:
    for seed in range(20):
        rows = made_up(rows=5 + 12 * seed, seed=seed)
        sums = sum_rows(rows, np.ones(len(rows.scores), dtype=bool))
        expected = debiased_squared_error(rows.scores, rows.targets)
        assert float(debiased_ece(sums.rows, sums.positives, sums.scores)) == pytest.approx(
            expected, abs=1e-12, nan_ok=True
        )


def test_calibrated_scores_show_no_debiased_error_however_few() -> None:
    random = np.random.default_rng(0)
    for size in (30, 300):
        found = []
        for _ in range(600):
            scores = random.random(size)
            bins = np.floor(scores * 15).astype(int)
            targets = (random.random(size) < scores).astype(float)
            found.append(
                debiased_ece(*(np.bincount(bins, weights=w, minlength=15) for w in (scores**0, targets, scores)))
            )
        # in a bin the scores differ, which makes the binomial part a little too large: hence not exactly 0
        assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(600) + 4e-4


@pytest.mark.parametrize("scheme", ["multinomial", "bayesian"])
@pytest.mark.parametrize("engine", ["numpy", "compiled"])
def test_every_resample_equals_scikit_learn_on_the_weighted_rows(scheme: Scheme, engine: Engine) -> None:
    rows = made_up()
    chosen = np.arange(260) % 3 > 0
    weights = draw_weights(70, resamples=70, scheme=scheme, seed=3)
    (sums,) = resample_rows(rows, [chosen], weights, engine=engine)
    found = measure(rows, chosen, resampled=sums, weights=weights, engine=engine)
    kept = chosen & ~np.isnan(rows.targets)
    y, s, called = rows.targets[kept], rows.scores[kept], rows.called[kept]
    for b in (0, 1, 63, 64, 69):
        weight = weights.matrix()[rows.patients[kept], b].astype(float)
        assert found.resampled["auroc"][b] == pytest.approx(oracle.roc_auc_score(y, s, sample_weight=weight), abs=1e-12)
        share = np.average(y, weights=weight)
        shifted = weight * np.where(y == 1, PREVALENCE / share, (1 - PREVALENCE) / (1 - share))
        for name, value in {
            "ap_at_prevalence": oracle.average_precision_score(y, s, sample_weight=shifted),
            "precision_at_prevalence": oracle.precision_score(y, called, sample_weight=shifted),
            "recall": oracle.recall_score(y, called, sample_weight=weight),
            "specificity": oracle.recall_score(y, called, sample_weight=weight, pos_label=0),
            "observed_to_expected": np.sum(weight * y) / np.sum(weight * s),
            "prevalence": share,
        }.items():
            assert found.resampled[name][b] == pytest.approx(value, abs=1e-9), name
        assert found.resampled["fnr"][b] == 1 - found.resampled["recall"][b]
        assert found.resampled["fpr"][b] == pytest.approx(1 - found.resampled["specificity"][b], abs=1e-15)


def test_integer_weights_are_repeated_rows_for_the_calibration_error_too() -> None:
    rows = made_up()
    chosen = np.arange(260) < 150
    weights = draw_weights(70, resamples=10)
    found = measure(rows, chosen, resampled=resample_rows(rows, [chosen], weights)[0], weights=weights)
    drawn = [repeated(rows, chosen, weights, b) for b in range(10)]
    raw = np.array([debiased_squared_error(rows.scores[at], rows.targets[at]) for at in drawn])
    # moved as a whole, so that the resamples lie around the value
    assert np.mean(found.resampled["ece_debiased"]) == pytest.approx(found.values["ece_debiased"], abs=1e-12)
    assert np.diff(found.resampled["ece_debiased"]) == pytest.approx(np.diff(raw), abs=1e-9)


def test_the_rest_is_the_total_less_the_subgroup_to_the_last_digit() -> None:
    rows = made_up()
    chosen = np.arange(260) % 4 == 0
    weights = draw_weights(70, resamples=65, scheme="bayesian")
    everybody, part, rest = resample_rows(rows, [np.ones(260, dtype=bool), chosen, ~chosen], weights)
    for name in ("true", "false", "rows", "positives", "scores"):
        assert np.array_equal(getattr(everybody.minus(part), name), getattr(rest, name)), name
        assert np.array_equal(getattr(part.plus(rest), name), getattr(everybody, name)), name


def test_the_engines_and_the_uncompiled_kernel_agree_to_the_last_byte() -> None:
    rows = made_up(rows=900, patients=200)
    weights = draw_weights(200, resamples=100, seed=1)
    ranked = rank_rows(rows.scores, rows.targets, rows.patients)
    matrix = weights.matrix()[rows.patients].astype(float)
    totals = tuple((matrix * (rows.targets == side)[:, None]).sum(axis=0) for side in (1, 0))
    found = [
        resample_shifted(ranked, weights, totals=(totals[0], totals[1]), prevalence=PREVALENCE, engine=engine)
        for engine in ("numpy", "compiled")
    ]
    for one, other in zip(*found, strict=True):
        assert np.array_equal(one, other)
    precision, lost, lanes = np.zeros(64), np.zeros(64), slice(0, 64)
    negative = (1 - PREVALENCE) / PREVALENCE * (totals[0][lanes] / totals[1][lanes])
    _shifted_block(
        ranked.patients, ranked.flags, weights.blocks[0], negative, np.zeros((4, 64), dtype=np.int64), precision, lost
    )
    assert np.array_equal(precision / totals[0][lanes], found[0][0][lanes])
    assert np.array_equal(1 - lost / (2 * totals[0][lanes] * totals[1][lanes]), found[0][1][lanes])


def test_a_resample_without_positives_or_negatives_is_undefined() -> None:
    rows = class_rows(
        np.array([0.9, 0.1, 0.2]),
        np.array([1.0, 0.0, 0.0]),
        called=np.array([True, False, False]),
        patients=np.array([0, 1, 1], dtype=np.int32),
        bins=5,
        prevalence=0.5,
    )
    weights = PatientWeights(np.zeros((1, 2, 64), dtype=np.uint8), 3, "multinomial")
    weights.blocks[0, :, :3] = [[2, 0, 1], [0, 2, 1]]
    chosen = np.ones(3, dtype=bool)
    found = measure(rows, chosen, resampled=resample_rows(rows, [chosen], weights)[0], weights=weights)
    for name in ("auroc", "ap_at_prevalence"):
        assert np.isnan(found.resampled[name][:2]).all()
        assert found.resampled[name][2] == 1.0


def test_a_recall_of_one_is_given_the_spread_its_patients_allow() -> None:
    random = np.random.default_rng(0)
    targets = (np.arange(120) < 24).astype(float)
    rows = class_rows(
        np.clip(0.3 + 0.5 * targets + 0.1 * random.random(120), 0, 1),
        targets,
        called=targets == 1,
        patients=(np.arange(120) // 2).astype(np.int32),
        bins=15,
        prevalence=0.2,
    )
    chosen, weights = np.ones(120, dtype=bool), draw_weights(60, resamples=2000)
    found = measure(rows, chosen, resampled=resample_rows(rows, [chosen], weights)[0], weights=weights, name="all")
    assert found.values["recall"] == found.values["specificity"] == 1.0
    # twelve positive patients: 5 % lie below .05 ** (1 / 12)
    assert np.quantile(found.resampled["recall"], 0.05) == pytest.approx(0.05 ** (1 / 12), abs=0.02)
    assert np.array_equal(found.resampled["fnr"], 1 - found.resampled["recall"])
    # no false alarm among 48 patients does not make precision certain
    assert 0.5 < np.quantile(found.resampled["precision_at_prevalence"], 0.05) < 0.95
