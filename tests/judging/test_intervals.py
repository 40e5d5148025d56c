from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from medtail.judging.bootstrap import draw_weights, rank_rows, resample_ranked
from medtail.judging.intervals import (
    bca_interval,
    defined_share,
    effective_size,
    mean_of_defined,
    percentile_interval,
    unanimous_interval,
    wilson_interval,
)
from medtail.judging.jackknife import leave_out_weights
from medtail.judging.metrics import auroc, average_precision


def test_undefined_resamples_are_left_out_of_an_interval() -> None:
    values = np.append(np.linspace(0, 1, 1001), [np.nan] * 500)
    assert percentile_interval(values) == pytest.approx((0.025, 0.975))
    assert all(np.isnan(end) for end in percentile_interval(np.full(5, np.nan)))
    assert defined_share(values) == pytest.approx(1001 / 1501)


def test_no_misses_follow_the_rule_of_three() -> None:
    low, high = unanimous_interval(1.0, patients=300)
    assert high == 1.0
    assert 1 - low == pytest.approx(3 / 300, rel=0.01)
    assert unanimous_interval(0.0, patients=300) == pytest.approx((0.0, 1 - low))


def test_an_interval_of_no_misses_covers_as_it_promises() -> None:
    # with a true miss share at the bound, no miss in n patients happens exactly 5 % of the time
    low, _ = unanimous_interval(1.0, patients=12)
    assert low**12 == pytest.approx(0.05)


def test_means_ignore_what_is_undefined() -> None:
    assert mean_of_defined(np.zeros((0, 3))).tolist() == pytest.approx([np.nan] * 3, nan_ok=True)
    assert mean_of_defined(np.array([[1.0, np.nan], [3.0, 4.0]])).tolist() == [2.0, 4.0]


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_bca_equals_scipy_on_its_own_resamples(level: float) -> None:
    data = np.random.default_rng(0).exponential(size=40)

    def skewness(values: np.ndarray, axis: int = -1) -> np.ndarray:
        return stats.skew(values, axis=axis)

    oracle = stats.bootstrap(
        (data,), skewness, method="BCa", n_resamples=999, confidence_level=level, rng=np.random.default_rng(1)
    )
    left_out = np.array([skewness(np.delete(data, i)) for i in range(40)])
    found = bca_interval(float(skewness(data)), oracle.bootstrap_distribution, left_out, level=level)
    assert found == pytest.approx(tuple(oracle.confidence_interval), abs=1e-12)


def test_bca_from_the_engines_equals_scipy_on_unclustered_rows() -> None:
    random = np.random.default_rng(2)
    targets = np.repeat([1.0, 0.0], [25, 65])
    scores = random.random(90) + 0.3 * targets
    rows = rank_rows(scores, targets, np.arange(90))
    (resampled,) = resample_ranked([rows], draw_weights(90, resamples=2000))[1]
    (left_out,) = resample_ranked([rows], leave_out_weights(90))[1]
    low, high = bca_interval(auroc(scores / 2, targets), resampled, left_out) or (0.0, 0.0)

    def drawn(index: np.ndarray) -> float:
        return auroc(scores[index] / 2, targets[index])

    oracle = stats.bootstrap(
        (np.arange(90),), drawn, method="BCa", n_resamples=2000, vectorized=False, rng=np.random.default_rng(3)
    ).confidence_interval
    # other resamples of the same rows: equal but for the noise of 2,000 draws
    assert (low, high) == pytest.approx((oracle.low, oracle.high), abs=0.012)
    assert sorted(left_out) == pytest.approx(sorted(drawn(np.delete(np.arange(90), i)) for i in range(90)), abs=1e-12)


def test_bca_shifts_a_skewed_interval_to_where_it_belongs_and_gives_up_where_it_cannot() -> None:
    resampled = np.linspace(0, 1, 1001)
    left_out = np.array([0.5, 0.5, 0.5])
    assert bca_interval(0.5, resampled, left_out) == pytest.approx(percentile_interval(resampled))
    low, high = bca_interval(0.7, resampled, left_out) or (0.0, 0.0)
    assert low > 0.025
    assert high > 0.975
    assert bca_interval(2.0, resampled, left_out) is None
    assert bca_interval(0.5, np.full(9, np.nan), left_out) is None


@given(hits=st.integers(0, 40), rows=st.integers(1, 40), level=st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_solves_the_equation_of_the_score_test(hits: int, rows: int, level: float) -> None:
    value = min(hits, rows) / rows
    z = stats.norm.ppf((1 + level) / 2)
    for end in wilson_interval(value, size=rows, level=level):
        if 0.0 < end < 1.0:
            assert (value - end) ** 2 == pytest.approx(z * z * end * (1 - end) / rows, abs=1e-9)


def test_wilson_equals_scipy() -> None:
    oracle = stats.binomtest(7, 30).proportion_ci(method="wilson")
    assert wilson_interval(7 / 30, size=30) == pytest.approx((oracle.low, oracle.high), abs=1e-12)


def test_images_of_a_patient_that_agree_are_worth_one() -> None:
    hits = (np.arange(300) < 90).astype(float)
    single = effective_size(hits, np.ones(300))
    assert single == pytest.approx(299)
    assert effective_size(3 * hits, np.full(300, 3.0)) == pytest.approx(single)


def test_images_of_a_patient_that_know_nothing_of_each_other_are_worth_themselves() -> None:
    random = np.random.default_rng(0)
    sizes = [effective_size(random.binomial(3, 0.3, 2000).astype(float), np.full(2000, 3.0)) for _ in range(40)]
    # never worth more than there are, so the mean lies a little below 6,000
    assert np.mean(sizes) == pytest.approx(5900, rel=0.02)
    assert max(sizes) <= 6000


def test_the_effective_size_follows_the_spread_of_the_bootstrap() -> None:
    random = np.random.default_rng(1)
    rows = random.integers(1, 8, 400).astype(float)
    hits = random.binomial(rows.astype(int), random.beta(1.2, 2.0, 400)).astype(float)
    share = hits.sum() / rows.sum()
    matrix = draw_weights(400, resamples=2000).matrix().astype(float)
    spread = np.var((hits @ matrix) / (rows @ matrix))
    assert share * (1 - share) / spread == pytest.approx(effective_size(hits, rows), rel=0.1)


def test_a_proportion_without_variance_is_worth_its_patients() -> None:
    assert effective_size(np.full(9, 4.0), np.full(9, 4.0)) == 9
    assert effective_size(np.array([3.0]), np.array([7.0])) == 1
    assert np.isnan(effective_size(np.zeros(3), np.zeros(3)))


def clustered(
    random: np.random.Generator, *, positive: int, negative: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three images a patient, half of the score's variance shared within the patient, AUROC Φ(1.2 / √2)."""
    target = np.repeat([1.0, 0.0], [positive, negative])
    shared = random.normal(size=len(target))
    score = (1.2 * target + np.sqrt(0.5) * shared)[:, None] + np.sqrt(0.5) * random.normal(size=(len(target), 3))
    return 1 / (1 + np.exp(-score.ravel())), np.repeat(target, 3), np.repeat(np.arange(len(target)), 3)


def coverage(*, positive: int, negative: int, tables: int, resamples: int) -> dict[tuple[str, str, str], float]:
    """How often 95 % intervals hold the truth: by unit drawn, method and metric."""
    random = np.random.default_rng(positive)
    truth = dict.fromkeys(("ap", "auroc"), 0.0)
    for _ in range(8):
        scores, targets, _ = clustered(random, positive=10_000 * positive // negative, negative=10_000)
        truth["ap"] += average_precision(scores, targets) / 8
        truth["auroc"] += auroc(scores, targets) / 8
    hits: dict[tuple[str, str, str], list[bool]] = {}
    for table in range(tables):
        scores, targets, patients = clustered(random, positive=positive, negative=negative)
        for unit, owners in (("patient", patients), ("image", np.arange(len(scores)))):
            count = int(owners.max()) + 1
            rows = [rank_rows(scores, targets, owners)]
            resampled = resample_ranked(rows, draw_weights(count, resamples=resamples, seed=table), engine="compiled")
            left_out = resample_ranked(rows, leave_out_weights(count, seed=table), engine="compiled")
            for metric, drawn, out in zip(("ap", "auroc"), resampled, left_out, strict=True):
                value = {"ap": average_precision, "auroc": auroc}[metric](scores, targets)
                ends = {"percentile": percentile_interval(drawn[0])}
                ends["bca"] = bca_interval(value, drawn[0], out[0]) or ends["percentile"]
                for method, (low, high) in ends.items():
                    hits.setdefault((unit, method, metric), []).append(low <= truth[metric] <= high)
    return {key: float(np.mean(found)) for key, found in hits.items()}


@pytest.mark.slow
def test_intervals_by_patient_cover_and_by_image_do_not() -> None:
    found = coverage(positive=40, negative=160, tables=150, resamples=192)
    for method in ("percentile", "bca"):
        assert 0.90 <= found["patient", method, "auroc"] <= 0.985, found
        assert 0.90 <= found["patient", method, "ap"] <= 0.99, found
        assert found["image", method, "auroc"] < 0.90, found
        assert found["image", method, "ap"] < 0.90, found


@pytest.mark.slow
@pytest.mark.parametrize("positive", [20, 60])
def test_intervals_cover_from_twenty_positive_patients_on(positive: int) -> None:
    found = coverage(positive=positive, negative=240, tables=1000, resamples=384)
    for method in ("percentile", "bca"):
        assert 0.91 <= found["patient", method, "auroc"] <= 0.97, found
        assert 0.91 <= found["patient", method, "ap"] <= 0.985, found
        assert found["image", method, "auroc"] < 0.90, found
        assert found["image", method, "ap"] < 0.90, found


@pytest.mark.slow
def test_wilson_with_the_effective_size_covers_where_images_of_a_patient_agree() -> None:
    random = np.random.default_rng(0)
    hits = {"effective": 0, "rows": 0}
    for _ in range(3000):
        chance = random.beta(2.0, 1.0, 40)  # a patient's own sensitivity; the mean is 2/3
        rows = random.integers(1, 6, 40).astype(float)
        found = random.binomial(rows.astype(int), chance).astype(float)
        value = float(found.sum() / rows.sum())
        for name, size in (("effective", effective_size(found, rows)), ("rows", float(rows.sum()))):
            low, high = wilson_interval(value, size=size)
            hits[name] += low <= 2 / 3 <= high
    assert 0.93 <= hits["effective"] / 3000 <= 0.97, hits
    assert hits["rows"] / 3000 < 0.90, hits
