"""How a figure grows with the number of patients: an inverse power law, and what it promises for more of them.

    y(n) = a − b · n^(−c),   a ≤ 1, b ≥ 0, 0.1 ≤ c ≤ 2

`a` is where it would end, c how fast it gets there. For a fixed c the law is linear in a and b, so it is fitted on a
grid of c: no start values, no local minimum, the same bytes for the same numbers. Its uncertainty is that of the
measured values: the law is fitted again to every resample of them.

Pure numbers; whoever has values at several sizes may ask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import numpy as np

from medtail.seeding import stream

EXPONENTS = np.geomspace(0.1, 2.0, 40)
FAR = 4.0
"""From this many times the largest size measured an answer is a guess about another regime."""
FEWEST_SIZES = 3
Finding = Literal["reached", "answer", "far", "open", "above", "flat", "few_sizes", "few_patients", "undefined"]
"""`answer` has a number with an interval, `far` one beyond `FAR`, `open` one without an upper end; the others none."""


@final
@dataclass(frozen=True, eq=False)
class PowerLaw:
    """Laws fitted to several rows of values.

    Attributes:
        a: Where each ends, float64 [B].
        b: Factor, >= 0, [B].
        c: Exponent, [B].
    """

    a: np.ndarray
    b: np.ndarray
    c: np.ndarray

    def at(self, sizes: np.ndarray) -> np.ndarray:
        """Return the values at sizes > 0, [B, sizes]."""
        scaled = np.asarray(sizes, dtype=float)[None, :] ** -self.c[:, None]
        return np.asarray(self.a[:, None] - self.b[:, None] * scaled)

    def size_for(self, target: float) -> np.ndarray:
        """Return the size at which each law reaches a value, [B]; inf where it never does.

        Example:
            >>> PowerLaw(np.array([0.9]), np.array([1.0]), np.array([0.5])).size_for(0.8).round(6).tolist()
            [100.0]
        """
        gap = self.a - target
        is_flat = self.b <= 0
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            size = (self.b / gap) ** (1.0 / self.c)
        # a law that does not rise is everywhere or nowhere at its goal
        return np.where(gap <= 0, np.inf, np.where(is_flat, 0.0, size))


def fit_power_law(sizes: np.ndarray, values: np.ndarray, *, weights: np.ndarray | None = None) -> PowerLaw:
    """Fit the law to every row of values by weighted least squares, with a ≤ 1 and b ≥ 0.

    Args:
        sizes: Patients behind each column, > 0, float [S].
        values: float [B, S], no NaN.
        weights: Of the columns, > 0, [S]; alike if None.

    Returns:
        B laws.

    Example:
        >>> n = np.array([25.0, 50.0, 100.0, 200.0])
        >>> law = fit_power_law(n, (0.9 - 2.0 * n**-0.5)[None])
        >>> bool(abs(law.a[0] - 0.9) < 0.02), bool(abs(law.c[0] - 0.5) < 0.05)
        (True, True)

    References:
        figueroa2012.
    """
    sizes = np.asarray(sizes, dtype=float)
    assert (sizes > 0).all(), "sizes are above 0"
    w = np.ones(len(sizes)) if weights is None else np.asarray(weights, dtype=float)
    w = w / w.sum()
    best = np.full(len(values), np.inf)
    a, b, c = (np.zeros(len(values)) for _ in range(3))
    mean_y = values @ w
    for exponent in EXPONENTS:
        # scaled to 1 at the smallest size: n^-2 of a large n would be lost in rounding
        x = (sizes / sizes.min()) ** -exponent
        mean_x = float(x @ w)
        spread = float(((x - mean_x) ** 2) @ w)
        slope = -((values - mean_y[:, None]) * (x - mean_x)) @ w / spread if spread > 0 else np.zeros(len(values))
        slope = np.maximum(slope, 0.0)
        end = mean_y + slope * mean_x
        # where the end would lie above 1 it is 1, and the slope is fitted to that
        is_over = end > 1.0
        slope = np.where(is_over, np.maximum(((1.0 - values) * x) @ w / float((x**2) @ w), 0.0), slope)
        end = np.where(is_over, 1.0, end)
        error = ((values - end[:, None] + slope[:, None] * x) ** 2) @ w
        is_better = error < best
        best = np.where(is_better, error, best)
        a = np.where(is_better, end, a)
        b = np.where(is_better, slope * sizes.min() ** exponent, b)
        c = np.where(is_better, exponent, c)
    return PowerLaw(a, b, c)


@final
@dataclass(frozen=True)
class Growth:
    """What is known of one figure of one class.

    Attributes:
        sizes: Positive train patients at each measured size, [S].
        values: The figure there, [S].
        low: Lower ends, [S].
        high: Upper ends, [S].
        law: The law fitted to the values, as (a, b, c); NaN where there are too few sizes.
        laws: Laws fitted to the resamples; None where there are too few sizes.
        rise: Value at the largest size minus that at the smallest, with interval.
        level: Of the intervals.
    """

    sizes: np.ndarray
    values: np.ndarray
    low: np.ndarray
    high: np.ndarray
    law: tuple[float, float, float]
    laws: PowerLaw | None
    rise: tuple[float, float, float]
    level: float

    @property
    def now(self) -> float:
        """Positive train patients there are."""
        return float(self.sizes.max(initial=0.0))

    def curve(self, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the fitted law and its band at some sizes."""
        assert self.laws is not None, "there is a law"
        found = PowerLaw(*(np.array([part]) for part in self.law)).at(sizes)[0]
        low, high = _ends(self.laws.at(sizes), self.level)
        return found, low, high


@final
@dataclass(frozen=True)
class Need:
    """How many positive patients a goal would need.

    Attributes:
        target: The goal.
        finding: What kind of answer it is.
        patients: Positive train patients in all; NaN where there is no answer, inf where the law never gets there.
        low: Lower end of the interval.
        high: Upper end; inf where some of the resamples' laws never get there.
        more: `patients` minus those there are, at least 0.
        beyond: `patients` in units of those there are.
    """

    target: float
    finding: Finding
    patients: float
    low: float
    high: float
    more: float
    beyond: float


def measure_growth(
    sizes: np.ndarray, by_seed: np.ndarray, resampled: np.ndarray, *, level: float = 0.95, seed: int = 0
) -> Growth:
    """Fit a law to a figure measured at several sizes, and to what it would have been with other patients and seeds.

    Luck of the patients is in the resamples. Luck of the training (its start, and which patients it was given) is the
    spread over seeds, pooled over the sizes since each has few: as much is added to every resample, drawn from a t
    distribution.

    Args:
        sizes: Positive train patients at each size, [S], >= 0; sizes of 0 and undefined values are left out.
        by_seed: The figure of each training seed, [S, R]; NaN = undefined.
        resampled: Its mean over seeds, the same resample of patients at every size, [S, B].
        level: Of the intervals.
        seed: Of what is drawn.

    Returns:
        Values, law and laws.
    """
    sizes, by_seed = np.asarray(sizes, dtype=float), np.asarray(by_seed, dtype=float)
    kept = (sizes > 0) & ~np.isnan(by_seed).any(axis=1)
    sizes, by_seed, drawn = sizes[kept], by_seed[kept], resampled[kept]
    values = by_seed.mean(axis=1)
    drawn = drawn[:, ~np.isnan(drawn).any(axis=0)] if len(drawn) else drawn
    nan = float("nan")
    if not len(sizes) or drawn.shape[1] < 2:
        nothing = np.full(len(sizes), nan)
        return Growth(sizes, values, nothing, nothing, (nan, nan, nan), None, (nan, nan, nan), level)
    # figures are shares: no luck takes them beyond 0 and 1
    drawn = np.clip(drawn + _seed_luck(by_seed, drawn.shape, seed=seed), 0.0, 1.0)
    low, high = _ends(drawn.T, level)
    first, last = int(np.argmin(sizes)), int(np.argmax(sizes))
    gap_low, gap_high = _ends((drawn[last] - drawn[first])[:, None], level)
    rise = (float(values[last] - values[first]), float(gap_low[0]), float(gap_high[0]))
    if len(np.unique(sizes)) < FEWEST_SIZES:
        return Growth(sizes, values, low, high, (nan, nan, nan), None, rise, level)
    variance = drawn.var(axis=1)
    # a size whose resamples all agree is no proof of it
    weights = 1.0 / np.maximum(variance, max(1e-6, 0.1 * float(np.median(variance))))
    law = fit_power_law(sizes, values[None], weights=weights)
    laws = fit_power_law(sizes, np.ascontiguousarray(drawn.T), weights=weights)
    fitted = (float(law.a[0]), float(law.b[0]), float(law.c[0]))
    return Growth(sizes, values, low, high, fitted, laws, rise, level)


def _seed_luck(by_seed: np.ndarray, shape: tuple[int, ...], *, seed: int) -> np.ndarray:
    """Return what another choice of seeds would add to the mean over seeds, [S, B]; nothing where there is one seed."""
    num_seeds = by_seed.shape[1]
    if num_seeds < 2:
        return np.zeros(shape)
    freedom = by_seed.shape[0] * (num_seeds - 1)
    error = np.sqrt(by_seed.var(axis=1, ddof=1).mean() / num_seeds)
    return np.asarray(error * stream(seed, "growth", "seeds").standard_t(freedom, size=shape))


def patients_needed(growth: Growth, target: float, *, has_few_patients: bool = False) -> Need:
    """Say how many positive patients would reach a goal, or why that cannot be said.

    Args:
        growth: What was measured.
        target: The goal, in (0, 1).
        has_few_patients: Whether too few patients were there to judge by; then nothing is said.

    Returns:
        The answer. `few_patients`: as was said. `reached`: the value there is is at the goal. `few_sizes`: fewer than
        three sizes define the figure. `flat`: the rise from the smallest size to the largest is not beyond doubt.
        `above`: the law ends below the goal. `open`: it gets there, but too many of the resamples' laws do not. `far`:
        it gets there beyond four times what was measured.
    """
    nan = float("nan")
    if not len(growth.values):
        return Need(target, "undefined", nan, nan, nan, nan, nan)
    if has_few_patients:
        return Need(target, "few_patients", nan, nan, nan, nan, nan)
    largest = int(np.argmax(growth.sizes))
    if growth.values[largest] >= target:
        return Need(target, "reached", growth.now, nan, nan, 0.0, 1.0)
    if growth.laws is None:
        return Need(target, "few_sizes", nan, nan, nan, nan, nan)
    if not growth.rise[1] > 0:
        return Need(target, "flat", nan, nan, nan, nan, nan)
    point = float(PowerLaw(*(np.array([part]) for part in growth.law)).size_for(target)[0])
    low, high = _open_ends(growth.laws.size_for(target), growth.level)
    if np.isinf(point):
        return Need(target, "above", point, low, high, point, point)
    more = max(0.0, point - growth.now)
    beyond = point / growth.now
    finding: Finding = "open" if np.isinf(high) else "far" if beyond > FAR else "answer"
    return Need(target, finding, point, low, high, more, beyond)


def _ends(values: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def _open_ends(sizes: np.ndarray, level: float) -> tuple[float, float]:
    """Return the ends of an interval of numbers some of which may be infinite: by rank, without interpolation."""
    ordered = np.sort(sizes)
    last = len(ordered) - 1
    return (
        float(ordered[int(np.floor((1 - level) / 2 * last))]),
        float(ordered[int(np.ceil((1 + level) / 2 * last))]),
    )
