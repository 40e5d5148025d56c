"""The fits against other optimisers, closed forms and scikit-learn, and the meaning of kappa by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from medtail.judging.calibration_fits import compose, fit_affine, fit_beta, fit_isotonic, fit_softmax
from medtail.judging.calibration_maps import log_shares


def draw(random: np.random.Generator, logits: np.ndarray) -> np.ndarray:
    return np.asarray((random.random(logits.shape) < expit(logits)).astype(float))


def test_without_a_pull_the_fit_is_logistic_regression() -> None:
    random = np.random.default_rng(0)
    u = random.normal(-1.0, 1.5, 3000)
    y = draw(random, 0.6 * u + 0.8)
    alpha, beta = fit_affine(u, y, weight=1.0, kappa=1e-9)
    oracle = LogisticRegression(C=1e12, tol=1e-10, max_iter=1000).fit(u[:, None], y)
    assert np.exp(alpha) == pytest.approx(oracle.coef_[0, 0], rel=1e-4)
    assert beta == pytest.approx(oracle.intercept_[0], rel=1e-4)


@given(seed=st.integers(0, 500), kappa=st.sampled_from([0.5, 10.0, 200.0]), positives=st.integers(0, 6))
def test_the_fit_is_the_minimum_of_what_it_says_it_minimises(seed: int, kappa: float, positives: int) -> None:
    random = np.random.default_rng(seed)
    u, y = random.normal(-2, 3, 40), np.zeros(40)
    y[:positives] = 1
    weight = random.random()
    info = expit(u) * expit(-u)
    m = np.sum(info * u) / np.sum(info)

    def loss(point: np.ndarray) -> float:
        x = np.exp(point[0]) * (u - m) + m + point[1]
        return float(weight * np.sum(np.logaddexp(0, x) - y * x) + kappa / 2 * point @ point)

    alpha, beta = fit_affine(u, y, weight=weight, kappa=kappa)
    found = loss(np.array([alpha, beta - m + np.exp(alpha) * m]))
    assert (
        found <= minimize(loss, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12}).fun + 1e-7
    )


def test_an_infinite_pull_changes_nothing_and_no_rows_neither() -> None:
    u, y = np.array([-1.0, 1.0]), np.array([1.0, 0.0])
    assert fit_affine(u, y, weight=1.0, kappa=float("inf")) == (0.0, 0.0)
    assert fit_affine(u[:0], y[:0], weight=1.0, kappa=1.0) == (0.0, 0.0)


def test_a_temperature_has_no_shift() -> None:
    random = np.random.default_rng(1)
    u = random.normal(0, 2, 4000)
    alpha, beta = fit_affine(u, draw(random, u / 2), weight=1.0, kappa=1.0, has_shift=False)
    assert beta == 0.0
    assert np.exp(-alpha) == pytest.approx(2.0, rel=0.1)


def test_separable_scores_have_a_finite_answer() -> None:
    alpha, beta = fit_affine(np.array([-1.0, 1.0]), np.array([0.0, 1.0]), weight=1.0, kappa=1.0)
    assert np.isfinite([alpha, beta]).all()
    assert alpha > 0


@given(*[st.floats(-2, 2)] * 5)
def test_composed_maps_are_one_after_the_other(a: float, b: float, c: float, d: float, x: float) -> None:
    alpha, beta = compose((a, b), (c, d))
    assert np.exp(alpha) * x + beta == pytest.approx(np.exp(a) * (np.exp(c) * x + d) + b)


def rare_class(positives: int, *, shift: float, rows: int = 20_000) -> np.ndarray:
    """Return logits of a class which, shifted by that much, has that many positives on average."""
    z = np.random.default_rng(positives).normal(0.0, 1.0, rows)
    low, high = -30.0, 10.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if expit(z + middle + shift).sum() < positives else (low, middle)
    return z + low


def shift_at_centre(u: np.ndarray, alpha: float, beta: float) -> float:
    """Return how far a map moves the logit where the class's information lies."""
    info = expit(u) * expit(-u)
    centre = float(np.sum(info * u) / np.sum(info))
    return float(np.exp(alpha) * centre + beta - centre)


@pytest.mark.parametrize(("positives", "expected"), [(10, 0.45), (20, 0.64), (100, 0.91)])
def test_kappa_is_worth_that_many_positives(positives: int, expected: float) -> None:
    kept = []
    for shift in (0.7, 0.3):
        u = rare_class(positives, shift=shift)
        # expected labels in place of drawn ones: the average over all draws, without their noise
        kept.append(shift_at_centre(u, *fit_affine(u, expit(u + shift), weight=1.0, kappa=10.0)) / shift)
    assert kept[0] == pytest.approx(expected, abs=0.008)
    assert kept[1] == pytest.approx(positives / (positives + 10), abs=0.02), "the smaller the shift, the nearer"


def test_measured_at_logit_zero_the_pull_on_a_rare_class_would_be_lost() -> None:
    shift = 0.7
    u = rare_class(10, shift=shift)
    y = expit(u + shift)

    def loss(point: np.ndarray) -> float:
        x = np.exp(point[0]) * u + point[1]
        return float(np.sum(np.logaddexp(0, x) - y * x) + 5.0 * point @ point)

    naive = minimize(loss, np.zeros(2)).x
    assert shift_at_centre(u, naive[0], naive[1]) > 0.85 * shift, "the slope does the work of the shift, unpunished"
    assert shift_at_centre(u, *fit_affine(u, y, weight=1.0, kappa=10.0)) < 0.55 * shift


def test_a_beta_map_finds_different_slopes_at_both_ends() -> None:
    random = np.random.default_rng(4)
    scores = random.uniform(0.01, 0.99, 40_000)
    true = 0.5 * np.log(scores) - 1.5 * np.log1p(-scores) - 0.4
    rise, fall, shift = fit_beta(np.log(scores / (1 - scores)), draw(random, true), weight=1.0)
    np.testing.assert_allclose([np.exp(rise), np.exp(fall), shift], [0.5, 1.5, -0.4], atol=0.08)


@given(seed=st.integers(0, 300), levels=st.sampled_from([3, 1000]))
def test_isotonic_is_scikit_learns(seed: int, levels: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.integers(0, levels + 1, 50) / levels
    targets = random.integers(0, 2, 50).astype(float)
    knots, values = fit_isotonic(scores, targets)
    oracle = IsotonicRegression(y_min=0.5 / 51, y_max=1 - 0.5 / 51, out_of_bounds="clip").fit(scores, targets)
    at = np.linspace(0, 1, 201)
    np.testing.assert_allclose(np.interp(at, knots, values), oracle.predict(at), atol=1e-9)


def test_a_softmax_fit_recovers_temperature_and_biases() -> None:
    random = np.random.default_rng(5)
    scores = random.dirichlet(np.full(4, 0.7), 20_000)
    scores = np.maximum(scores, 1e-6) / np.maximum(scores, 1e-6).sum(axis=1, keepdims=True)
    bias = np.array([0.6, -0.2, 0.3, -0.7])
    logits = 0.5 * log_shares(scores) + bias
    true = (logits + random.gumbel(size=logits.shape)).argmax(axis=1)
    alpha, found = fit_softmax(scores, true, weight=1.0, kappa=1e-3)
    assert np.exp(alpha) == pytest.approx(0.5, rel=0.05)
    np.testing.assert_allclose(np.array(found) - np.mean(found), bias - bias.mean(), atol=0.06)


@given(seed=st.integers(0, 200), kappa=st.sampled_from([1.0, 30.0]))
def test_the_softmax_fit_is_the_minimum_of_what_it_says_it_minimises(seed: int, kappa: float) -> None:
    random = np.random.default_rng(seed)
    scores, true = random.dirichlet(np.ones(3), 60), random.choice(3, 60, p=[0.8, 0.15, 0.05])
    shares = log_shares(scores)

    def loss(point: np.ndarray) -> float:
        x = np.exp(point[0]) * shares + point[1:]
        likelihood = x[np.arange(60), true] - np.log(np.exp(x).sum(axis=1))
        return float(-0.5 * likelihood.sum() + point[0] ** 2 / 2 + kappa / 2 * point[1:] @ point[1:])

    alpha, bias = fit_softmax(scores, true, weight=0.5, kappa=kappa)
    found = np.array([alpha, *bias])
    for step in (*np.eye(4), *-np.eye(4)):
        assert loss(found) <= loss(found + 1e-3 * step) + 1e-9


def test_a_softmax_without_its_own_biases_is_a_temperature() -> None:
    random = np.random.default_rng(6)
    scores = random.dirichlet(np.ones(3), 500)
    _, bias = fit_softmax(scores, random.integers(0, 3, 500), weight=1.0, kappa=float("inf"))
    assert bias == (0.0, 0.0, 0.0)


def test_biases_of_a_softmax_shrink_as_classes_grow_rare() -> None:
    scores = np.tile([[0.5, 0.3, 0.2]], (2000, 1))
    true = np.repeat([0, 1, 2], [1700, 290, 10])
    gentle = np.array(fit_softmax(scores, true, weight=1.0, kappa=10.0)[1])
    free = np.array(fit_softmax(scores, true, weight=1.0, kappa=1e-6)[1])
    assert abs(gentle[2]) < 0.8 * abs(free[2])
