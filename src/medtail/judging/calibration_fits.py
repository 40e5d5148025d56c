"""Fitting the maps of `calibration_maps` to one class or one exclusive group: penalised likelihood, few parameters.

A class of few positives is pulled toward the map of all classes together. `kappa` is the strength of that pull in
positive patients: the information on a rare class's shift is about its number of positives n, so the data weigh
n / (n + kappa). Likelihoods are scaled so that n counts patients: ten images of one patient are one experience.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import isotonic_regression, minimize
from scipy.special import expit

from medtail.judging.calibration_maps import STEEPEST, log_ends, log_shares

WEAK_PRIOR = 1.0
"""Pull of a pooled fit toward the identity: one patient's worth, so that separable data have an answer."""
MOST_STEPS = 200
SMALLEST_STEP = 1e-9


def fit_affine(
    logits: np.ndarray, targets: np.ndarray, *, weight: float | np.ndarray, kappa: float, has_shift: bool = True
) -> tuple[float, float]:
    """Find the penalised best slope and shift of logits that are right already if the penalty has its way.

    Minimises w · Σ -log lik(σ(e^a (u - m) + m + b)) + κ/2 (a² + b²), with m the class's centre: the mean logit where
    its information lies. Measured at logit 0 instead, far from every image of a rare class, a small change of slope
    would do the work of a large shift and go nearly unpunished, and kappa would lose its meaning.

    Args:
        logits: float [n], finite.
        targets: float [n] in {0, 1}.
        weight: Patients' worth of a row, > 0; one number, or float [n].
        kappa: Strength of the pull to (0, 0), > 0; infinite returns it.
        has_shift: False keeps b and m at 0: a temperature.

    Returns:
        alpha and beta of x → e^alpha · x + beta.

    Example:
        >>> u = np.repeat([-2.0, 2.0], 1000)
        >>> y = np.repeat([0.0, 1.0, 0.0, 1.0], [500, 500, 20, 980])
        >>> alpha, beta = fit_affine(u, y, weight=1.0, kappa=1.0)
        >>> [round(float(p), 2) for p in expit(np.exp(alpha) * np.array([-2.0, 2.0]) + beta)]
        [0.5, 0.98]

    References:
        platt1999.
    """
    if not len(logits) or np.isinf(kappa):
        return 0.0, 0.0
    information = weight * expit(logits) * expit(-logits)
    centre = float(np.sum(information * logits) / np.sum(information)) if has_shift else 0.0
    away = logits - centre

    def loss(point: np.ndarray) -> float:
        x = np.exp(point[0]) * away + centre + point[1]
        return float(np.sum(weight * (np.logaddexp(0.0, x) - targets * x)) + kappa / 2.0 * point @ point)

    point, value = np.zeros(2), loss(np.zeros(2))
    for _ in range(MOST_STEPS):
        slope = np.exp(point[0])
        p = expit(slope * away + centre + point[1])
        rise, info = weight * (p - targets), weight * p * (1.0 - p)
        lever = slope * away
        gradient = np.array([np.sum(rise * lever), np.sum(rise)]) + kappa * point
        cross = float(np.sum(info * lever))
        # expected, not observed, curvature: always a descent direction
        curvature = np.array([[np.sum(info * lever**2), cross], [cross, np.sum(info)]]) + kappa * np.eye(2)
        if not has_shift:
            gradient[1], curvature[0, 1], curvature[1, 0] = 0.0, 0.0, 0.0
        step = np.linalg.solve(curvature, gradient)
        step *= min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-300))
        nearer = point - step
        nearer_value = loss(nearer)
        while nearer_value > value and np.abs(step).max() > SMALLEST_STEP:
            step /= 2.0
            nearer = point - step
            nearer_value = loss(nearer)
        if nearer_value > value:
            break
        point, value = nearer, nearer_value
        if np.abs(step).max() <= SMALLEST_STEP:
            break
    a, b = float(np.clip(point[0], -STEEPEST, STEEPEST)), float(point[1])
    return a, float(centre - np.exp(a) * centre + b)


def compose(outer: tuple[float, float], inner: tuple[float, float]) -> tuple[float, float]:
    """Return alpha and beta of the outer affine map after the inner one, alpha kept in its range.

    Example:
        >>> compose((0.0, 1.0), (0.0, 2.0))
        (0.0, 3.0)
    """
    alpha = float(np.clip(outer[0] + inner[0], -STEEPEST, STEEPEST))
    return alpha, float(np.exp(outer[0]) * inner[1] + outer[1])


def fit_beta(logits: np.ndarray, targets: np.ndarray, *, weight: float) -> tuple[float, float, float]:
    """Fit a beta map, with one patient's worth of pull toward the identity.

    Args:
        logits: float [n].
        targets: float [n] in {0, 1}.
        weight: Patients' worth of a row.

    Returns:
        rise, fall and shift; see `BetaMap`.

    Example:
        >>> u = np.repeat([-2.0, 2.0], 1000)
        >>> shift = fit_beta(u, np.repeat([0.0, 1.0, 0.0, 1.0], [881, 119, 119, 881]), weight=1.0)[2]
        >>> abs(shift) < 0.01
        True

    References:
        kull2017.
    """
    low, high = log_ends(logits)

    def loss(point: np.ndarray) -> tuple[float, np.ndarray]:
        left, right = np.exp(point[0]) * low, np.exp(point[1]) * high
        x = left - right + point[2]
        rise = weight * (expit(x) - targets)
        value = weight * np.sum(np.logaddexp(0.0, x) - targets * x) + WEAK_PRIOR / 2.0 * point @ point
        return float(value), np.array([rise @ left, -rise @ right, rise.sum()]) + WEAK_PRIOR * point

    rise, fall, shift = _minimise(loss, np.zeros(3), bounds=[(-5.0, 3.0), (-5.0, 3.0), (None, None)])
    return float(rise), float(fall), float(shift)


def fit_isotonic(scores: np.ndarray, targets: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Fit the best non-decreasing map (pool adjacent violators), keeping only knots where it bends.

    Values are kept half a row away from 0 and 1: no finite table proves either.

    Args:
        scores: float [n] in [0, 1], n >= 1.
        targets: float [n] in {0, 1}.

    Returns:
        Knots, strictly increasing, and values at them.

    Example:
        >>> fit_isotonic(np.array([0.1, 0.2, 0.3, 0.9]), np.array([0.0, 1, 0, 1]))
        ((0.1, 0.2, 0.3, 0.9), (0.1, 0.5, 0.5, 0.9))

    References:
        zadrozny2002.
    """
    knots, where, count = np.unique(scores, return_inverse=True, return_counts=True)
    share = np.bincount(where, weights=targets) / count
    values = isotonic_regression(share, weights=count.astype(np.float64)).x
    end = 0.5 / (len(scores) + 1)
    values = np.clip(values, end, 1.0 - end)
    inner = np.ones(len(knots), dtype=bool)
    inner[1:-1] = (values[1:-1] != values[:-2]) | (values[1:-1] != values[2:])
    return tuple(map(float, knots[inner])), tuple(map(float, values[inner]))


def fit_softmax(
    scores: np.ndarray, true: np.ndarray, *, weight: float, kappa: float
) -> tuple[float, tuple[float, ...]]:
    """Fit one temperature and a bias a class to an exclusive group.

    Minimises w · Σ -log softmax(e^a ln s + b)[true] + κ/2 Σ b² (+ a²/2): the biases are pulled to 0.

    Args:
        scores: float [n, G] of rows whose class is known.
        true: Class of each row, int [n].
        weight: Patients' worth of a row.
        kappa: Strength of the pull in positive patients, > 0; infinite fits the temperature alone.

    Returns:
        alpha and the G biases.

    Example:
        >>> alpha, bias = fit_softmax(np.full((40, 2), 0.5), np.repeat([0, 1], [30, 10]), weight=1.0, kappa=1e-6)
        >>> round(bias[0] - bias[1], 3), round(float(np.log(3)), 3)
        (1.099, 1.099)

    References:
        guo2017.
    """
    shares, size = log_shares(scores), scores.shape[1]
    rows, fixed = np.arange(len(true)), np.isinf(kappa)
    pull = 0.0 if fixed else kappa

    def loss(point: np.ndarray) -> tuple[float, np.ndarray]:
        slope, bias = np.exp(point[0]), point[1:]
        x = slope * shares + bias
        top = x.max(axis=1, keepdims=True)
        exponential = np.exp(x - top)
        total = exponential.sum(axis=1, keepdims=True)
        log_likelihood = (x - top)[rows, true] - np.log(total[:, 0])
        excess = weight * exponential / total
        excess[rows, true] -= weight
        value = -weight * log_likelihood.sum() + WEAK_PRIOR / 2.0 * point[0] ** 2 + pull / 2.0 * bias @ bias
        gradient = np.concatenate(([slope * np.sum(excess * shares) + WEAK_PRIOR * point[0]], excess.sum(axis=0)))
        gradient[1:] += pull * bias
        return float(value), gradient

    held = (0.0, 0.0) if fixed else (None, None)
    found = _minimise(loss, np.zeros(1 + size), bounds=[(-5.0, 3.0), *[held] * size])
    return float(found[0]), tuple(float(value) for value in found[1:])


def _minimise(
    loss: Callable[[np.ndarray], tuple[float, np.ndarray]],
    start: np.ndarray,
    *,
    bounds: list[tuple[float | None, float | None]],
) -> np.ndarray:
    options = {"maxiter": 500, "ftol": 1e-13, "gtol": 1e-8}
    return np.asarray(minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x)
