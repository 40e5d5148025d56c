"""Raking: weights over rows, as close to given ones as can be, under which labels are as frequent as wanted.

Drawing rare labels more often by picking a class first also draws whatever comes with them. Raking asks for all the
labels at once: of all weights that reach the wanted shares it takes those nearest to the base weights,

    min_w KL(w ‖ q)   such that   Σ_i w_i y_ic = τ_c,     so     w_i ∝ q_i exp(θ · y_i),

and finds θ as the minimum of the smooth convex D(θ) = log Σ q_i exp(θ · y_i) − θ · τ + ρ/2 ‖θ‖², by Newton's method.
`streams` draws by these weights; which shares to want is said by `wanted_shares`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from medtail.errors import MedtailError, Problems

RIDGE = 1e-4
"""ρ: keeps θ bounded where the wanted shares cannot be reached. 1e-3 would miss a 0.7 % label by 4 % of itself."""
CAP = 10.0
"""No row weighs more than so many times its share under equal weights."""
LEAST_EFFECTIVE = 0.2
"""Least share of the rows that the weights may be worth, (Σw)² / Σw² over N."""
TOLERANCE = 1e-8
STEPS = 50
HALVINGS = 12
"""How often the way to the wanted shares is halved before it is given up."""
MISS = 0.02
"""Relative miss from which a label is named in the notes."""


@final
@dataclass(frozen=True, eq=False)
class Raked:
    """Weights over rows, and what they came to.

    Attributes:
        weights: float64 [N], > 0 where the base is, adding up to 1.
        theta: Exponent of each label, float64 [C]; 0 for labels that were not steered.
        reached: Share of each label under the weights, float64 [C].
        wanted: Share that was asked for in the end, after κ, float64 [C]; for labels not steered as it was given.
        ess: Rows the weights are worth, 1 / Σw².
        kappa: Share of the way to the wanted shares that was gone, 1 all of it.
        dropped: Columns without any positive row; they cannot be steered.
        notes: What did not work out, in words.
    """

    weights: np.ndarray
    theta: np.ndarray
    reached: np.ndarray
    wanted: np.ndarray
    ess: float
    kappa: float
    dropped: tuple[int, ...]
    notes: tuple[str, ...]

    @property
    def largest(self) -> float:
        """The largest weight in units of an equal share, max_i w_i N."""
        return float(self.weights.max() * len(self.weights))


def wanted_shares(
    labels: np.ndarray,
    *,
    groups: Sequence[Sequence[int]] = (),
    follows: Collection[int] = (),
    progress: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Say how frequent each label shall be at a point of the training, and which labels have a θ.

    With p_c the share of rows that show label c, e = 1 − ½ progress and

        τ_c = min(max_k p_k, max(p_c, ½ p_c^e)):

    natural in the beginning; in the end labels under 25 % rise to ½ √p, from 1 % to 5 %. Inside an exclusive group τ
    is scaled so that it adds up to what the group adds up to in the rows. A group that every row has leaves its most
    frequent member without a θ, since it follows from the others.

    Args:
        labels: [N, C]: 1 where present; anything else, empty cells included, counts as absent.
        groups: Columns of each exclusive group.
        follows: Columns that follow from others outside their group ("no foci" from the foci), and have no θ.
        progress: Share of the training's epochs done, in [0, 1].

    Returns:
        Wanted shares τ, float64 [C], and whether each label is steered, bool [C].

    Example:
        >>> labels = np.repeat([[1, 0], [0, 1]], [96, 4], axis=0)
        >>> for progress in (0.0, 1.0):
        ...     wanted_shares(labels, groups=[(0, 1)], progress=progress)[0].round(4)
        array([0.96, 0.04])
        array([0.9057, 0.0943])
    """
    assert 0.0 <= progress <= 1.0, progress
    natural = np.asarray((labels == 1).mean(axis=0), dtype=float)
    exponent = 1.0 - 0.5 * progress
    wanted = np.minimum(natural.max(initial=0.0), np.maximum(natural, 0.5 * natural**exponent))
    is_steered = natural > 0
    for group in groups:
        columns = list(group)
        total = natural[columns].sum()
        if total > 0:
            wanted[columns] *= total / wanted[columns].sum()
        if np.isclose(total, 1.0, rtol=0.0, atol=0.5 / max(len(labels), 1)):
            is_steered[columns[int(natural[columns].argmax())]] = False
    is_steered[list(follows)] = False
    return wanted, is_steered


def rake(
    labels: np.ndarray,
    targets: np.ndarray,
    *,
    base: np.ndarray | None = None,
    steered: np.ndarray | None = None,
    rho: float = RIDGE,
    cap: float = CAP,
    least_effective: float = LEAST_EFFECTIVE,
    names: Sequence[str] | None = None,
) -> Raked:
    """Find the weights nearest to the base under which the labels have the wanted shares.

    Then no weight stays above `cap` / N. Weights that are worth fewer rows than `least_effective` N go only part of
    the way from the natural shares p to the wanted ones, τ ← p + κ (τ − p), with κ halved until they are worth enough.
    Shares that no weights reach (two labels that always come together, wanted unequally often) meet in the middle;
    that is a note, not an error.

    Args:
        labels: [N, C]: 1 where present; anything else, empty cells included, counts as absent.
        targets: Wanted shares τ in [0, 1], [C]; only those of steered labels matter.
        base: Base weights q, >= 0 [N], of any sum; all alike if None.
        steered: Which labels have a θ, bool [C]; all if None. Labels without a positive row never have.
        rho: Ridge ρ, > 0.
        cap: Largest weight in units of an equal share, >= 1.
        least_effective: In [0, 1).
        names: Names of the labels, for notes and messages; their columns' numbers if None.

    Returns:
        The weights, and how near they came.

    Raises:
        MedtailError: Shapes do not match, a number is out of its range, or no row has a base weight.

    Example:
        >>> raked = rake(np.array([[1], [0], [0], [0]]), np.array([0.5]), rho=1e-12)
        >>> raked.weights.round(4), raked.theta.round(4), round(raked.ess, 6)
        (array([0.5   , 0.1667, 0.1667, 0.1667]), array([1.0986]), 3.0)

    References:
        deming1940, for the least change of a table to given margins.
    """
    present = np.asarray(labels) == 1
    wanted = np.array(targets, dtype=np.float64)
    count, num_labels = present.shape
    q = np.full(count, 1.0) if base is None else np.asarray(base, dtype=np.float64)
    _check(q, wanted, count=count, num_labels=num_labels, rho=rho, cap=cap, least_effective=least_effective)
    q = q / q.sum()
    natural = present.mean(axis=0)
    is_steered = natural > 0 if steered is None else (natural > 0) & np.asarray(steered, dtype=bool)
    patterns, pattern_of = _patterns(present)
    masses = np.bincount(pattern_of, weights=q, minlength=len(patterns))
    known = patterns[:, is_steered].astype(np.float64)
    called = [str(column) for column in range(num_labels)] if names is None else list(names)

    kappa, theta, notes = 1.0, np.zeros(int(is_steered.sum())), []
    for halving in range(HALVINGS + 1):
        kappa = 0.0 if halving == HALVINGS else 0.5**halving
        aim = natural + kappa * (wanted - natural)
        theta, logs, has_converged = _solve(known, masses, aim[is_steered], theta, rho=rho)
        weights = q * np.exp(logs)[pattern_of]
        weights = np.minimum(weights / weights.sum(), cap / count)
        weights /= weights.sum()
        ess = float(1.0 / np.square(weights).sum())
        if ess >= least_effective * count:
            break
    if kappa < 1.0:
        notes.append(f"weights worth {ess / count:.1%} of the rows at {kappa:g} of the way to the wanted shares")
    if not has_converged:
        notes.append(f"no minimum within {STEPS} steps")
    reached = _reached(patterns, pattern_of, weights)
    missed = is_steered & (np.abs(reached - aim) > MISS * np.maximum(aim, 1.0 / count))
    notes += [f"{called[c]}: wanted {aim[c]:.4g}, reached {reached[c]:.4g}" for c in np.flatnonzero(missed)]
    dropped = tuple(int(column) for column in np.flatnonzero(natural == 0))
    notes += [f"{called[column]}: no row shows it" for column in dropped]
    exponents = np.zeros(num_labels)
    exponents[is_steered] = theta
    return Raked(weights, exponents, reached, aim, ess, kappa, dropped, tuple(notes))


def _check(
    base: np.ndarray,
    wanted: np.ndarray,
    *,
    count: int,
    num_labels: int,
    rho: float,
    cap: float,
    least_effective: float,
) -> None:
    problems = Problems("rake")
    if wanted.shape != (num_labels,):
        problems.add(f"targets: found shape {wanted.shape}; expected ({num_labels},), one a label.")
    elif not ((wanted >= 0) & (wanted <= 1)).all():
        problems.add(f"targets: found {wanted.min()} to {wanted.max()}; expected shares from 0 to 1.")
    if base.shape != (count,):
        problems.add(f"base: found shape {base.shape}; expected ({count},), one weight a row.")
    elif not (np.isfinite(base).all() and (base >= 0).all() and base.sum() > 0):
        problems.add("base: found weights below 0 or not finite, or none above 0; expected >= 0 and not all 0.")
    for name, value, is_right, expected in (
        ("rho", rho, rho > 0, "above 0"),
        ("cap", cap, cap >= 1, "at least 1"),
        ("least_effective", least_effective, 0 <= least_effective < 1, "0 to below 1"),
    ):
        if not is_right:
            problems.add(f"{name}: found {value!r}; expected {expected}.")
    problems.raise_if_any(kind=MedtailError)


def _patterns(present: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the different rows of a bool table and which of them each row is: equal rows share all arithmetic."""
    packed = np.packbits(present, axis=1)
    width = -(-packed.shape[1] // 8) * 8
    padded = np.zeros((len(packed), max(width, 8)), dtype=np.uint8)
    padded[:, : packed.shape[1]] = packed
    words = padded.view(np.uint64)
    order = np.lexsort(words.T)
    ordered = words[order]
    is_first = np.ones(len(words), dtype=bool)
    is_first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    pattern_of = np.empty(len(words), dtype=np.int64)
    pattern_of[order] = np.cumsum(is_first) - 1
    return present[order[is_first]], pattern_of


def _reached(patterns: np.ndarray, pattern_of: np.ndarray, weights: np.ndarray) -> np.ndarray:
    masses = np.bincount(pattern_of, weights=weights, minlength=len(patterns))
    return np.asarray(masses @ patterns)


def _solve(
    known: np.ndarray, masses: np.ndarray, aim: np.ndarray, start: np.ndarray, *, rho: float
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Minimise D(θ) over patterns of labels with their base masses.

    Args:
        known: float64 [patterns, steered labels] of 0 and 1.
        masses: Base mass of each pattern, adding up to 1.
        aim: Wanted shares.
        start: θ to begin with.
        rho: Ridge.

    Returns:
        θ; log of the factor exp(θ·y) / Σ q exp(θ·y) of each pattern; and whether the gradient vanished.
    """

    def dual(theta: np.ndarray) -> tuple[float, np.ndarray]:
        exponents = known @ theta
        top = exponents.max(initial=0.0)
        log_sum = top + np.log(masses @ np.exp(exponents - top))
        return float(log_sum - theta @ aim + 0.5 * rho * theta @ theta), exponents - log_sum

    theta = start.copy()
    value, logs = dual(theta)
    for _ in range(STEPS):
        shares = masses * np.exp(logs)
        mean = shares @ known
        gradient = mean - aim + rho * theta
        if np.abs(gradient).max(initial=0.0) < TOLERANCE:
            return theta, logs, True
        curvature = (known * shares[:, None]).T @ known - np.outer(mean, mean) + rho * np.eye(len(theta))
        step = np.linalg.solve(curvature, gradient)
        slope, length = float(gradient @ step), 1.0
        trial, trial_logs = dual(theta - step)
        # the last digits of D are noise: a step whose gain drowns in them is taken as it is
        while trial > value - 1e-4 * length * slope + 1e-13 and length > 1e-9:
            length *= 0.5
            trial, trial_logs = dual(theta - length * step)
        theta, value, logs = theta - length * step, trial, trial_logs
    return theta, logs, False
