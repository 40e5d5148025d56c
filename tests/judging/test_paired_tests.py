"""DeLong, McNemar and patient swaps against slow definitions, SciPy and each other."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from medtail.errors import MedtailError
from medtail.judging.metrics import auroc
from medtail.judging.paired_tests import EXACT_UP_TO, delong, mcnemar, permutation_test


def scored(n: int, *, seed: int, steps: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    y = (random.random(n) < 0.3).astype(float)
    base = random.normal(size=n)
    a, b = (1 / (1 + np.exp(-(skill * y + base + random.normal(size=n)))) for skill in (1.4, 0.9))
    if steps is not None:  # heavy ties
        a, b = np.round(a * steps) / steps, np.round(b * steps) / steps
    return a, b, y


def slow_delong(a: np.ndarray, b: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """The covariance matrix of the paper, every pair compared."""
    kernels = []
    for scores in (a, b):
        high, low = scores[y == 1], scores[y == 0]
        kernels.append(np.array([[float(h > m) + 0.5 * float(h == m) for m in low] for h in high]))
    v10 = np.stack([k.mean(axis=1) for k in kernels])
    v01 = np.stack([k.mean(axis=0) for k in kernels])
    s = np.cov(v10) / v10.shape[1] + np.cov(v01) / v01.shape[1]
    return float(kernels[0].mean() - kernels[1].mean()), float(np.sqrt(s[0, 0] + s[1, 1] - 2 * s[0, 1]))


@pytest.mark.parametrize("steps", [None, 5])
def test_delong_is_the_papers_covariance(steps: int | None) -> None:
    a, b, y = scored(80, seed=1, steps=steps)
    difference, error = slow_delong(a, b, y)
    test = delong(a, b, y)
    assert (test.difference, test.standard_error) == pytest.approx((difference, error), rel=1e-12)
    assert test.difference == pytest.approx(roc_auc_score(y, a) - roc_auc_score(y, b), abs=1e-12)
    assert test.p == pytest.approx(2 * stats.norm.sf(abs(difference / error)), rel=1e-12)


def test_delong_leaves_out_what_was_not_assessed_and_knows_its_limits() -> None:
    a, b, y = scored(60, seed=2)
    holes = y.copy()
    holes[::7] = np.nan
    kept = ~np.isnan(holes)
    assert delong(a, b, holes) == delong(a[kept], b[kept], y[kept])
    assert delong(a, a, y).p == 1.0
    assert np.isnan(delong(a, b, np.zeros(60)).p)


def test_delongs_error_is_the_spread_over_fresh_samples() -> None:
    errors, differences = [], []
    for seed in range(300):
        a, b, y = scored(200, seed=seed)
        errors.append(delong(a, b, y).standard_error)
        differences.append(auroc(a, y) - auroc(b, y))
    assert np.mean(errors) == pytest.approx(np.std(differences, ddof=1), rel=0.12)


def test_mcnemar_is_the_binomial_test_of_the_rows_only_one_gets_right() -> None:
    random = np.random.default_rng(3)
    y = (random.random(200) < 0.4).astype(float)
    a, b = ((y == 1) ^ (random.random(200) < wrong) for wrong in (0.1, 0.2))
    right_a, right_b = a == (y == 1), b == (y == 1)
    only_a, only_b = int((right_a & ~right_b).sum()), int((~right_a & right_b).sum())
    test = mcnemar(a, b, y)
    assert test.p == stats.binomtest(only_a, only_a + only_b).pvalue
    assert test.difference == pytest.approx(right_a.mean() - right_b.mean(), abs=1e-15)
    assert mcnemar(a, a, y).p == 1.0


def test_enumerated_swaps_of_single_rows_are_mcnemars_exact_test() -> None:
    random = np.random.default_rng(4)
    y = (random.random(60) < 0.4).astype(float)
    a = y == 1
    b = a.copy()
    changed = random.choice(60, 11, replace=False)
    b[changed] = ~b[changed]
    a[changed[:2]] = ~a[changed[:2]]
    b[changed[:2]] = ~b[changed[:2]]
    test = permutation_test(a, b, y, patients=np.arange(60), metric="accuracy")
    assert test.exact
    assert test.p == pytest.approx(mcnemar(a, b, y).p, abs=1e-12)


def test_random_swaps_come_near_the_enumerated_ones() -> None:
    random = np.random.default_rng(5)
    y = (random.random(300) < 0.3).astype(float)
    a, b = ((y == 1) ^ (random.random(300) < wrong) for wrong in (0.06, 0.12))
    many = permutation_test(a, b, y, patients=np.arange(300), metric="accuracy", permutations=20_000)
    assert not many.exact
    assert many.p == pytest.approx(mcnemar(a, b, y).p, abs=0.012)


def test_images_of_a_patient_are_swapped_together() -> None:
    random = np.random.default_rng(6)
    y = (random.random(40) < 0.5).astype(float)
    a, b = ((y == 1) ^ (random.random(40) < wrong) for wrong in (0.05, 0.2))
    once = permutation_test(a, b, y, patients=np.arange(40), metric="recall")
    assert once.exact
    assert int((a != b).sum()) <= EXACT_UP_TO
    thrice = permutation_test(
        *(np.repeat(x, 3) for x in (a, b, y)), patients=np.repeat(np.arange(40), 3), metric="recall"
    )
    assert thrice.p == once.p
    # taken for patients of their own, the copies would make chance look like evidence
    alone = permutation_test(*(np.repeat(x, 3) for x in (a, b, y)), patients=np.arange(120), metric="recall")
    assert alone.p < once.p


@pytest.mark.parametrize("metric", ["accuracy", "f1", "precision", "recall", "specificity"])
def test_swaps_work_over_classes_and_do_not_care_who_is_first(metric: str) -> None:
    random = np.random.default_rng(7)
    y = (random.random((90, 3)) < (0.4, 0.2, 0.0)).astype(float)
    y[::9, 1] = np.nan
    a, b = ((y == 1) ^ (random.random((90, 3)) < wrong) for wrong in (0.05, 0.25))
    patients = np.arange(90) // 3
    first = permutation_test(a, b, y, patients=patients, metric=metric, permutations=2000)
    turned = permutation_test(b, a, y, patients=patients, metric=metric, permutations=2000)
    assert first.difference == pytest.approx(-turned.difference, abs=1e-15)
    assert first.p == pytest.approx(turned.p, abs=0.03)
    assert first.p < 0.05


def test_raw_scores_are_never_swapped() -> None:
    a, b, y = scored(30, seed=8)
    with pytest.raises(MedtailError, match="Raw scores cannot be swapped"):
        permutation_test(a, b, y, patients=np.arange(30))
    with pytest.raises(MedtailError, match="expected booleans"):
        mcnemar((a > 0.5).astype(int), b > 0.5, y)
    with pytest.raises(MedtailError, match="expected one shape"):
        mcnemar(a > 0.5, b[:-1] > 0.5, y)
    with pytest.raises(MedtailError, match="expected one of accuracy"):
        permutation_test(a > 0.5, b > 0.5, y, patients=np.arange(30), metric="ap")  # type: ignore[arg-type]
    with pytest.raises(MedtailError, match="29 patients for 30 rows"):
        permutation_test(a > 0.5, b > 0.5, y, patients=np.arange(29))


@pytest.mark.slow
def test_swaps_reject_a_true_null_as_often_as_they_say() -> None:
    rejected = 0
    for seed in range(400):
        random = np.random.default_rng(seed)
        truth = (random.random(60) < 0.4).astype(float)
        y, patients = np.repeat(truth, 3), np.repeat(np.arange(60), 3)
        lean = np.repeat(random.normal(size=60), 3)
        a, b = (y + 0.8 * lean + random.normal(size=180) > 0.6 for _ in range(2))
        rejected += permutation_test(a, b, y, patients=patients, permutations=199, seed=seed).p <= 0.05
    assert stats.binomtest(rejected, 400, 0.05).pvalue > 0.001


def test_drawn_swaps_count_the_data_themselves_so_p_is_never_zero() -> None:
    y = np.ones(400)
    test = permutation_test(y == 1, y == 0, y, patients=np.arange(400), metric="recall", permutations=99)
    assert (test.difference, test.p, test.exact) == (1.0, 0.01, False)
