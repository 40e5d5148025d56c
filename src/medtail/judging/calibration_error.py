"""Readings of calibration besides the expected calibration error of `metrics`: how far, which way, and beyond noise.

The plain ECE grows with the number of bins and shrinks with the number of rows even if scores are perfectly
calibrated; `debiased_squared_error` takes the noise out, the integrated calibration index needs no bins, slope and
intercept say in which direction the scores err. One class at a time except `pooled_calibration_error`. NaN where the
data define no value. Mending what is found here is the business of `calibration`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from medtail.errors import MedtailError
from medtail.judging.counts import EceMode, assessed, calibration_gaps, ratio
from medtail.judging.metrics import brier, expected_calibration_error

BinMode = Literal["reliability", "equal_mass"]
ECE_MODES: tuple[EceMode, ...] = ("reliability", "equal_mass", "leaderboard", "confidence")
SPAN = 0.75
"""Share of the rows each local line is fitted to, the usual one of loess."""
KNOTS = 200
"""Scores at which the smoother is fitted; between them it is a straight line."""
LOGIT_FLOOR = 1e-15
"""Scores are kept this far from 0 and 1 before their logit, as in `metrics.log_loss`."""


def pooled_calibration_error(
    scores: np.ndarray, targets: np.ndarray, *, bins: int = 15, weights: np.ndarray | None = None
) -> float:
    """Compute the `reliability` ECE over all assessed cells as if they were one class.

    A rare class hides in it: of a hundred thousand cells near 0, nine in ten are of absent findings. Read it beside
    the macro ECE, never instead.

    Args:
        scores: float [N, C] in [0, 1].
        targets: [N, C] in {0, 1, NaN}.
        bins: Number of bins, >= 1.
        weights: float [N] >= 0, of rows; 1 a row if None.

    Returns:
        A value in [0, 1]; NaN without assessed cells.

    Raises:
        MedtailError: Fewer than one bin, or values out of range.

    Example:
        >>> pooled_calibration_error(np.array([[0.25, 0.25], [0.25, 0.25]]), np.array([[1, 0], [0, 0]]))
        0.0
    """
    across = None if weights is None else np.repeat(weights, scores.shape[1])
    return expected_calibration_error(scores.ravel(), targets.ravel(), bins=bins, weights=across)


def maximum_calibration_error(
    scores: np.ndarray,
    targets: np.ndarray,
    *,
    mode: BinMode = "reliability",
    bins: int = 15,
    weights: np.ndarray | None = None,
) -> float:
    """Compute the largest gap between mean score and share of positives in any bin that holds rows.

    One row in a bin of its own can set it: a number for large tables.

    Args:
        scores: float [N] in [0, 1].
        targets: [N] in {0, 1, NaN}.
        mode: Bins of equal width or of equally many rows.
        bins: Number of bins, >= 1.
        weights: float [N] >= 0; 1 a row if None.

    Returns:
        A value in [0, 1]; NaN without assessed rows.

    Raises:
        MedtailError: Unknown mode, fewer than one bin, or values out of range.

    Example:
        >>> maximum_calibration_error(np.array([0.1, 0.1, 0.75]), np.array([0, 0, 1]))
        0.25

    References:
        naeini2015.
    """
    gaps, _, _ = _bins(scores, targets, mode, bins, weights)
    return float(np.abs(gaps).max()) if len(gaps) else float("nan")


def debiased_squared_error(
    scores: np.ndarray,
    targets: np.ndarray,
    *,
    mode: BinMode = "reliability",
    bins: int = 15,
    weights: np.ndarray | None = None,
) -> float:
    """Compute the squared calibration error without the part that chance alone would show.

    Σ_b n_b/N [ (ȳ_b - s̄_b)² - ȳ_b(1 - ȳ_b)/(n_b - 1) ]: about 0 for calibrated scores of any number of rows, and
    below 0 as often as above. Bins of a single row cannot tell error from noise; they are left out, of N too.

    Args:
        scores: float [N] in [0, 1].
        targets: [N] in {0, 1, NaN}.
        mode: Bins of equal width or of equally many rows.
        bins: Number of bins, >= 1.
        weights: float [N] >= 0, counts of rows: a weight of 2 is a row seen twice; 1 a row if None.

    Returns:
        A value in [-1, 1]; NaN where no bin holds more than one row.

    Raises:
        MedtailError: Unknown mode, fewer than one bin, or values out of range.

    Example:
        >>> round(debiased_squared_error(np.full(4, 0.25), np.array([1, 0, 0, 0])), 4)
        -0.0625

    References:
        kumar2019.
    """
    gaps, share, mass = _bins(scores, targets, mode, bins, weights)
    kept = mass > 1.0
    noise = ratio(share * (1.0 - share), mass - 1.0)
    return float(ratio(np.sum((mass * (gaps**2 - noise))[kept]), np.sum(mass[kept])))


def brier_skill(scores: np.ndarray, targets: np.ndarray, *, weights: np.ndarray | None = None) -> float:
    """Compute 1 - Brier / (π(1 - π)): what is gained over saying the prevalence π to everybody.

    Returns:
        1 perfect, 0 no better than the prevalence, below 0 worse; NaN unless both positives and negatives are there.

    Example:
        >>> brier_skill(np.array([0.5, 0.5]), np.array([1, 0])), brier_skill(np.array([1.0, 0.0]), np.array([1, 0]))
        (0.0, 1.0)
    """
    _, y, w = assessed(scores, targets, weights)
    prevalence = float(ratio(np.sum(w * y), np.sum(w)))
    return float(1.0 - ratio(brier(scores, targets, weights=weights), prevalence * (1.0 - prevalence)))


def observed_to_expected(scores: np.ndarray, targets: np.ndarray, *, weights: np.ndarray | None = None) -> float:
    """Compute positives seen over positives promised, Σy / Σs; above 1 the scores are too low on the whole.

    Example:
        >>> observed_to_expected(np.array([0.5, 0.5, 0.5, 0.5]), np.array([1, 0, 0, 0]))
        0.5
    """
    s, y, w = assessed(scores, targets, weights)
    return float(ratio(np.sum(w * y), np.sum(w * s)))


@final
@dataclass(frozen=True)
class CalibrationLine:
    """The line logit P(y = 1) = intercept + slope · logit s that fits best.

    Attributes:
        slope: 1 if calibrated; below 1 the scores are too extreme, above 1 too timid.
        intercept: 0 if calibrated, of the fit with the slope free.
        in_the_large: Intercept with the slope held at 1: above 0 the scores are too low on the whole.
    """

    slope: float
    intercept: float
    in_the_large: float


def calibration_line(scores: np.ndarray, targets: np.ndarray, *, weights: np.ndarray | None = None) -> CalibrationLine:
    """Fit Cox's calibration slope and intercept by maximum likelihood.

    Args:
        scores: float [N] in [0, 1]; kept 1e-15 from both ends.
        targets: [N] in {0, 1, NaN}.
        weights: float [N] >= 0; 1 a row if None.

    Returns:
        Slope and intercept, NaN where no finite line fits best: one class only, or no overlap of the positives'
        scores with the negatives' (perfect separation). `in_the_large` only needs both classes.

    Raises:
        MedtailError: Shapes differ, or values are out of range.

    Example:
        >>> line = calibration_line(np.array([0.2] * 5 + [0.8] * 5), np.array([1, 0, 0, 0, 0, 1, 1, 1, 1, 0]))
        >>> round(line.slope, 6), abs(round(line.intercept, 6)), abs(round(line.in_the_large, 6))
        (1.0, 0.0, 0.0)

    References:
        cox1958.
    """
    s, y, w = assessed(scores, targets, weights)
    s, y, w = s[w > 0], y[w > 0], w[w > 0]
    undefined = float("nan")
    if not ((y == 1).any() and (y == 0).any()):
        return CalibrationLine(undefined, undefined, undefined)
    s = np.clip(s, LOGIT_FLOOR, 1.0 - LOGIT_FLOOR)
    z, w = np.log(s) - np.log1p(-s), w / w.sum()
    in_the_large = _shift(z, y, w)
    yes, no = z[y == 1], z[y == 0]
    if not (yes.min() < no.max() and no.min() < yes.max()):
        return CalibrationLine(undefined, undefined, in_the_large)
    # centred and scaled, so that the two coefficients hardly depend on each other
    middle = float(np.sum(w * z))
    spread = float(np.sqrt(np.sum(w * (z - middle) ** 2)))
    level, tilt = _likeliest_line((z - middle) / spread, y, w)
    return CalibrationLine(tilt / spread, level - tilt / spread * middle, in_the_large)


@final
@dataclass(frozen=True)
class CalibrationDistance:
    """Distances between a score and the smoothed share of positives at that score, over the rows.

    Attributes:
        ici: Their mean, the integrated calibration index.
        e50: Their median.
        e90: The distance that nine rows in ten stay within.
    """

    ici: float
    e50: float
    e90: float


def calibration_distance(
    scores: np.ndarray, targets: np.ndarray, *, weights: np.ndarray | None = None
) -> CalibrationDistance:
    """Measure calibration without bins: integrated calibration index, E50 and E90.

    The share of positives is smoothed by `smooth_positive_share`. Calibrated scores show about 0, but never exactly:
    the smoother follows some of the noise.

    Args:
        scores: float [N] in [0, 1].
        targets: [N] in {0, 1, NaN}.
        weights: float [N] >= 0; 1 a row if None.

    Returns:
        The distances, each in [0, 1]; NaN unless both positives and negatives are there.

    Raises:
        MedtailError: Shapes differ, or values are out of range.

    Example:
        >>> calibration_distance(np.full(4, 0.5), np.array([1, 0, 0, 0]))
        CalibrationDistance(ici=0.25, e50=0.25, e90=0.25)

    References:
        austin2019.
    """
    s, y, w = assessed(scores, targets, weights)
    if not (np.any(w[y == 1] > 0) and np.any(w[y == 0] > 0)):
        return CalibrationDistance(float("nan"), float("nan"), float("nan"))
    s, y, w = s[w > 0], y[w > 0], w[w > 0]
    apart = np.abs(smooth_positive_share(s, y, at=s, weights=w) - s)
    mean = float(np.sum(w * apart) / np.sum(w))
    return CalibrationDistance(mean, _quantile(apart, w, 0.5), _quantile(apart, w, 0.9))


def smooth_positive_share(
    scores: np.ndarray, targets: np.ndarray, *, at: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """Smooth the share of positives along the score, by lines fitted to the nearest rows (loess).

    At each of up to 200 scores, evenly spread over the ranks of the distinct ones, a straight line is fitted to the
    nearest 75 % of the rows with tricube weights (1 - (d/h)³)³; between them the curve is linear, and it is kept
    inside [0, 1]. Where 75 % of the rows share one score, or a line has nothing to lean on, the local mean is taken.

    Args:
        scores: float [N] in [0, 1].
        targets: [N] in {0, 1, NaN}.
        at: Scores to smooth at, float [M], within the range of the assessed scores.
        weights: float [N] >= 0; 1 a row if None.

    Returns:
        float64 [M] in [0, 1]; all NaN without assessed rows.

    Raises:
        MedtailError: Shapes differ, or values are out of range.

    Example:
        >>> scores, targets = np.array([0.1, 0.2, 0.6, 0.9]), np.array([0, 0, 1, 1])
        >>> low, high = smooth_positive_share(scores, targets, at=np.array([0.1, 0.9]))
        >>> bool(low < high)
        True

    References:
        cleveland1979, austin2019.
    """
    s, y, w = assessed(scores, targets, weights)
    s, y, w = s[w > 0], y[w > 0], w[w > 0]
    if not len(s):
        return np.full(len(at), np.nan)
    values, which = np.unique(s, return_inverse=True)
    mass, positive = np.bincount(which, weights=w), np.bincount(which, weights=w * y)
    chosen = np.unique(np.linspace(0, len(values) - 1, min(KNOTS, len(values))).round().astype(np.int64))
    knots = values[chosen]
    fitted = [
        _local_line(values, mass, positive, at=float(knot), reach=float(reach))
        for knot, reach in zip(knots, _reaches(values, mass, knots), strict=True)
    ]
    return np.asarray(np.clip(np.interp(at, knots, fitted), 0.0, 1.0))


def _reaches(values: np.ndarray, mass: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """Return how far each knot must reach to hold the span's share of all mass, by bisection."""
    below = np.append(0.0, np.cumsum(mass))
    needed = SPAN * below[-1] * (1.0 - 1e-12)
    too_short, enough = np.full(len(knots), -1.0), np.ones(len(knots))
    for _ in range(60):
        middle = (too_short + enough) / 2.0
        first = np.searchsorted(values, knots - middle, side="left")
        last = np.searchsorted(values, knots + middle, side="right")
        holds = (middle >= 0.0) & (below[np.maximum(last, first)] - below[first] >= needed)
        too_short, enough = np.where(holds, too_short, middle), np.where(holds, middle, enough)
    return enough


def _local_line(values: np.ndarray, mass: np.ndarray, positive: np.ndarray, *, at: float, reach: float) -> float:
    distance = np.abs(values - at)
    if reach > 1e-12:
        # products, as powers of floats cost ten times as much
        near = distance / reach
        kernel = np.maximum(1.0 - near * near * near, 0.0)
        kernel = kernel * kernel * kernel
    else:
        kernel = (distance == 0).astype(np.float64)
    weight, share = kernel * mass, positive / mass
    total = float(np.sum(weight))
    middle, level = float(np.sum(weight * values)) / total, float(np.sum(weight * share)) / total
    spread = float(np.sum(weight * (values - middle) ** 2))
    # a handful of rows at the rim of the window must not tilt the line
    if spread <= 1e-12 * total * max(reach, 1e-12) ** 2:
        return level
    return level + float(np.sum(weight * (values - middle) * share)) / spread * (at - middle)


def _quantile(values: np.ndarray, weights: np.ndarray, share: float) -> float:
    """Return the smallest value that at least this share of the weight does not exceed."""
    order = np.argsort(values, kind="stable")
    below = np.cumsum(weights[order])
    at = int(np.searchsorted(below, share * below[-1] * (1.0 - 1e-12), side="left"))
    return float(values[order[at]])


def _bins(
    scores: np.ndarray, targets: np.ndarray, mode: BinMode, bins: int, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return gap, share of positives and weight of every bin that holds rows."""
    if mode not in ("reliability", "equal_mass"):
        raise MedtailError(f"bins {mode!r}: expected reliability or equal_mass.")
    s, y, w = assessed(scores, targets, weights)
    index, gap = calibration_gaps(s, y, mode=mode, bins=bins, weights=w)
    mass, gaps, positive = (np.bincount(index, weights=v, minlength=1) for v in (w, w * gap, w * y))
    kept = mass > 0
    return gaps[kept] / mass[kept], positive[kept] / mass[kept], mass[kept]


def _shift(z: np.ndarray, y: np.ndarray, w: np.ndarray) -> float:
    """Return the constant that, added to every logit, makes the promised positives as many as the seen ones."""
    reach = float(np.abs(z).max()) + 40.0
    return float(brentq(lambda b: float(np.sum(w * (y - expit(z + b)))), -reach, reach, xtol=1e-13))


def _likeliest_line(z: np.ndarray, y: np.ndarray, w: np.ndarray) -> tuple[float, float]:
    """Fit logit P(y = 1) = a + b z by Newton's method, halving a step until the likelihood grows."""

    def likelihood(line: np.ndarray) -> float:
        eta = line[0] + line[1] * z
        return float(np.sum(w * (y * eta - np.logaddexp(0.0, eta))))

    design, line = np.stack([np.ones(len(z)), z], axis=1), np.zeros(2)
    reached = likelihood(line)
    for _ in range(200):
        p = expit(design @ line)
        slope = design.T @ (w * (y - p))
        step = np.linalg.lstsq(design.T @ (design * (w * p * (1.0 - p))[:, None]), slope, rcond=None)[0]
        while np.abs(step).max() > 1e-14 and likelihood(line + step) < reached:
            step = step / 2.0
        line = line + step
        reached = likelihood(line)
        if np.abs(step).max() < 1e-12:
            break
    return float(line[0]), float(line[1])
