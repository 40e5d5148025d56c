"""How often each descriptor of a phantom nodule is drawn, alone and together: a long tail to order.

Every possible report (composition x echogenicity x shape x margin x foci, benign or malignant) has a weight. The base
weights hold what goes with what: cystic means anechoic, punctate foci come with solid and malignant nodules, a rare
label never comes alone. Wanted shares of labels are then reached by tilting these weights as little as possible
(minimum Kullback-Leibler divergence), which keeps the odds ratios between labels. No clinical figure is claimed.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import final

import numpy as np

from medtail.errors import Problems, UsageError, did_you_mean
from medtail.sources.thyro_lmd import EXCLUSIVE, FOCI, GROUPS, LABELS, NO_FOCI

MALIGNANT = "malignant"
"""The latent diagnosis; its share can be ordered like a label's."""
NAMES = (*LABELS.class_names, MALIGNANT)
PENALTY = 1e-6
"""Ridge on the tilt: keeps unreachable or redundant wishes bounded."""

NATURAL: Mapping[str, float] = {
    "comp_cystic": 0.06, "comp_spongiform": 0.02, "comp_mixed": 0.17, "comp_solid": 0.75,
    "echo_anechoic": 0.06, "echo_hyper": 0.03, "echo_iso": 0.29, "echo_hypo": 0.585, "echo_very_hypo": 0.035,
    "shape_wider": 0.77, "shape_taller": 0.23,
    "margin_smooth": 0.60, "margin_ill_defined": 0.25, "margin_irregular": 0.13, "margin_ete": 0.02,
    "foci_none": 0.65, "foci_comet_tail": 0.015, "foci_macro": 0.11, "foci_rim": 0.012, "foci_punctate": 0.24,
    MALIGNANT: 0.35,
}  # fmt: skip
"""A tail of the kind that operated nodules show: nine head, five body and six tail labels by the protocol's cuts."""
UNIFORM: Mapping[str, float] = {
    **dict.fromkeys(EXCLUSIVE["composition"], 1 / 4),
    "echo_anechoic": 1 / 4, **dict.fromkeys(EXCLUSIVE["echogenicity"][1:], 3 / 16),
    **dict.fromkeys(EXCLUSIVE["shape"], 1 / 2),
    **dict.fromkeys(EXCLUSIVE["margin"], 1 / 4),
    **dict.fromkeys(FOCI, 1 / 4),
    MALIGNANT: 1 / 2,
}  # fmt: skip
"""Members of a group alike; anechoic is as frequent as cystic, which is the same thing."""
TAILS: Mapping[str, Mapping[str, float]] = {"natural": NATURAL, "uniform": UNIFORM}

# name → weight among the benign, among the malignant; foci are independent Bernoulli shares
BASE: Mapping[str, tuple[float, float]] = {
    "comp_cystic": (0.10, 0.004), "comp_spongiform": (0.05, 0.001), "comp_mixed": (0.27, 0.07),
    "comp_solid": (0.58, 0.925),
    "echo_anechoic": (1.0, 1.0), "echo_hyper": (0.06, 0.01), "echo_iso": (0.45, 0.12), "echo_hypo": (0.47, 0.72),
    "echo_very_hypo": (0.02, 0.15),
    "shape_wider": (0.90, 0.60), "shape_taller": (0.10, 0.40),
    "margin_smooth": (0.72, 0.28), "margin_ill_defined": (0.22, 0.28), "margin_irregular": (0.055, 0.35),
    "margin_ete": (0.003, 0.09),
    "foci_comet_tail": (0.05, 0.003), "foci_macro": (0.10, 0.18), "foci_rim": (0.02, 0.025),
    "foci_punctate": (0.06, 0.45),
}  # fmt: skip
# two labels → log of the factor by which they come together more often than the table above alone would have it
TOGETHER: Mapping[tuple[str, str], float] = {
    ("comp_spongiform", "shape_taller"): -1.5, ("comp_spongiform", "margin_irregular"): -2.0,
    ("comp_spongiform", "margin_ete"): -2.0, ("comp_spongiform", "echo_very_hypo"): -2.5,
    ("comp_spongiform", "echo_hypo"): -1.0, ("comp_spongiform", "foci_macro"): -1.0,
    ("comp_spongiform", "foci_punctate"): -1.0, ("comp_spongiform", "foci_comet_tail"): 1.0,
    ("comp_cystic", "shape_taller"): -1.5, ("comp_cystic", "margin_irregular"): -1.5,
    ("comp_cystic", "margin_ete"): -3.0, ("comp_cystic", "margin_ill_defined"): -1.0,
    ("comp_cystic", "foci_macro"): -1.5, ("comp_cystic", "foci_comet_tail"): 1.5,
    ("comp_mixed", "foci_comet_tail"): 1.0, ("comp_solid", "foci_comet_tail"): -1.0,
    ("comp_mixed", "margin_ete"): -0.5,
    ("echo_very_hypo", "shape_taller"): 0.7, ("echo_very_hypo", "margin_irregular"): 0.5,
    ("echo_hyper", "margin_irregular"): -0.7, ("echo_hyper", "foci_punctate"): -0.5,
    ("shape_taller", "margin_ete"): 0.4, ("margin_ill_defined", "foci_rim"): -0.5,
    ("foci_macro", "foci_rim"): 0.5, ("foci_macro", "foci_punctate"): 0.5,
}  # fmt: skip
IMPOSSIBLE: tuple[tuple[str, str], ...] = (
    *(("comp_cystic", echo) for echo in EXCLUSIVE["echogenicity"][1:]),
    *((composition, "echo_anechoic") for composition in EXCLUSIVE["composition"][1:]),
    ("comp_cystic", "foci_punctate"),
)
"""Pairs that no report holds: fluid is anechoic and nothing else is, and punctate foci lie in tissue."""


@final
@dataclass(frozen=True, eq=False)
class Prevalence:
    """A distribution over reports.

    Attributes:
        states: bool [S, 21], the twenty labels and `malignant` of every possible report.
        probabilities: float64 [S], summing to 1.
        wanted: Label → share that was asked for.
    """

    states: np.ndarray
    probabilities: np.ndarray
    wanted: Mapping[str, float]

    @property
    def reached(self) -> dict[str, float]:
        """Label (or `malignant`) → its share under this distribution."""
        return dict(zip(NAMES, map(float, self.probabilities @ self.states), strict=True))

    def draw(self, uniform: float) -> np.ndarray:
        """Return the report at a point of the unit interval, bool [21]."""
        row = int(np.searchsorted(np.cumsum(self.probabilities), uniform, side="right"))
        return np.asarray(self.states[min(row, len(self.states) - 1)])


def prevalence(tail: str | Mapping[str, float] = "natural") -> Prevalence:
    """Order the shares of the labels.

    Args:
        tail: `natural` (a long tail), `uniform`, or shares of single labels and of `malignant`, each in [0, 1].
            Unnamed members of an exclusive group share what is left as in `natural`; other labels not named keep
            their natural share.

    Returns:
        The distribution. What was asked for is met where the lexicon allows it; `Prevalence.reached` tells.

    Raises:
        UsageError: An unknown name, a share outside [0, 1], or a group whose shares cannot sum to 1.

    Example:
        >>> reached = prevalence({"margin_ete": 0.1}).reached
        >>> round(reached["margin_ete"], 3), round(sum(reached[name] for name in EXCLUSIVE["margin"]), 3)
        (0.1, 1.0)
    """
    if isinstance(tail, str):
        if tail not in TAILS:
            raise UsageError(
                f"tail {tail!r}: unknown{did_you_mean(tail, TAILS) or '.'} Expected {' or '.join(TAILS)}, or shares of"
                " labels (a YAML file on the command line)."
            )
        wanted = dict(TAILS[tail])
    else:
        wanted = _completed(tail)
    return _tilted(tuple(wanted[name] for name in NAMES))


def _completed(given: Mapping[str, float]) -> dict[str, float]:
    problems = Problems("tail")
    for name, share in given.items():
        if name not in NAMES:
            near = did_you_mean(name, NAMES) or f"; known: {', '.join(NAMES)}."
            problems.add(f"label {name!r}: unknown{near}")
        elif isinstance(share, bool) or not isinstance(share, (int, float)) or not 0.0 <= share <= 1.0:
            problems.add(f"label {name!r}: found {share!r}; expected a share from 0 to 1.")
    problems.raise_if_any(kind=UsageError)
    wanted = dict(NATURAL) | {name: float(share) for name, share in given.items()}
    for left, right in (("comp_cystic", "echo_anechoic"), ("echo_anechoic", "comp_cystic")):
        if left in given and right not in given:
            wanted[right] = wanted[left]  # the same nodules
    fixed = set(given) | {name for name in ("comp_cystic", "echo_anechoic") if wanted[name] != NATURAL[name]}
    for group, members in EXCLUSIVE.items():
        named = [name for name in members if name in fixed]
        others = [name for name in members if name not in fixed]
        left_over = 1.0 - sum(wanted[name] for name in named)
        if left_over < -1e-9 or (not others and left_over > 1e-9):
            shown = ", ".join(f"{name} {wanted[name]:g}" for name in named)
            problems.add(f"group {group!r}: {shown} sum to {1 - left_over:g}; expected {'at most ' * bool(others)}1.")
        rest = sum(NATURAL[name] for name in others)
        for name in others:
            wanted[name] = max(left_over, 0.0) * NATURAL[name] / rest
    if "foci_none" not in given and set(FOCI) & set(given):
        # none is what the four leave over; as if they were independent is near enough for a wish
        wanted[NO_FOCI] = float(np.prod([1.0 - wanted[name] for name in FOCI[1:]]))
    problems.raise_if_any(kind=UsageError)
    return wanted


@cache
def _states() -> tuple[np.ndarray, np.ndarray]:
    """Return every possible report, bool [S, 21], and its base weight, float64 [S]."""
    position = {name: index for index, name in enumerate(NAMES)}
    subsets = [[NO_FOCI], *(list(s) for k in range(1, 5) for s in itertools.combinations(FOCI[1:], k))]
    rows, weights = [], []
    for malignant in (0, 1):
        for chosen, foci in itertools.product(itertools.product(*EXCLUSIVE.values()), subsets):
            names = [*chosen, *foci]
            if any(a in names and b in names for a, b in IMPOSSIBLE):
                continue
            row = np.zeros(len(NAMES), dtype=bool)
            row[[position[name] for name in names]] = True
            row[-1] = bool(malignant)
            log_weight = float(sum(np.log(BASE[name][malignant]) for name in chosen))
            for focus in FOCI[1:]:
                share = BASE[focus][malignant]
                log_weight += np.log(share if focus in names else 1.0 - share)
            log_weight += sum(factor for (a, b), factor in TOGETHER.items() if a in names and b in names)
            rows.append(row)
            weights.append(log_weight)
    return np.array(rows), np.exp(np.array(weights) - max(weights))


@cache
def _tilted(wanted: tuple[float, ...]) -> Prevalence:
    """Tilt the base weights until the labels have the wanted shares: Newton on the convex dual."""
    states, weights = _states()
    targets = np.array(wanted)
    # a share of 0 or 1 is met by leaving states out: no finite tilt reaches it
    kept = ~(states[:, targets <= 0.0].any(axis=1) | (~states[:, targets >= 1.0]).any(axis=1))
    if not kept.any():
        raise UsageError("tail: no report has all the labels with share 1 and none of those with share 0; change one.")
    states, log_q = states[kept], np.log(weights[kept])
    free = (targets > 0.0) & (targets < 1.0)
    features = states[:, free].astype(np.float64)
    target = targets[free]
    theta = np.zeros(features.shape[1])

    def dual(at: np.ndarray) -> tuple[float, np.ndarray]:
        exponent = log_q + features @ at
        top = exponent.max()
        p = np.exp(exponent - top)
        total = p.sum()
        return float(top + np.log(total) - at @ target + 0.5 * PENALTY * at @ at), p / total

    value, p = dual(theta)
    for _ in range(200):
        mean = p @ features
        gradient = mean - target + PENALTY * theta
        if np.abs(gradient).max() < 1e-9:
            break
        centred = features - mean
        hessian = (centred * p[:, None]).T @ centred + PENALTY * np.eye(len(theta))
        step = np.linalg.solve(hessian, gradient)
        scale = 1.0
        while True:
            candidate = dual(theta - scale * step)
            if candidate[0] <= value - 1e-4 * scale * float(gradient @ step) or scale < 1e-8:
                break
            scale *= 0.5
        theta, (value, p) = theta - scale * step, candidate
    return Prevalence(states, p, dict(zip(NAMES, wanted, strict=True)))


def misread(labels: np.ndarray, random: np.random.Generator, *, rate: float) -> np.ndarray:
    """Change labels as a careless reader would: each group with a probability, into another valid reading.

    Args:
        labels: bool [20], a valid report.
        random: Draws the same numbers whatever the rate.
        rate: Probability a group, in [0, 1].

    Returns:
        bool [20], a valid report; a copy.
    """
    changed = labels.copy()
    for members in GROUPS.values():
        at = [LABELS.class_names.index(name) for name in members]
        hit, place = random.random() < rate, float(random.random())
        if not hit:
            continue
        if members is GROUPS["foci"]:
            focus = at[1 + int(place * 4)]
            changed[focus] = not changed[focus]
            changed[at[0]] = not changed[at[1:]].any()
        else:
            now = int(np.flatnonzero(changed[at])[0])
            other = (now + 1 + int(place * (len(at) - 1))) % len(at)
            changed[at] = False
            changed[at[other]] = True
    return changed


def left_out(labels: np.ndarray, random: np.random.Generator, *, rate: float) -> np.ndarray:
    """Empty whole groups as if nobody had assessed them, each with a probability.

    Args:
        labels: bool [20].
        random: Draws the same numbers whatever the rate.
        rate: Probability a group, in [0, 1].

    Returns:
        float64 [20] of 1, 0 and NaN.
    """
    values = labels.astype(np.float64)
    for members in GROUPS.values():
        if random.random() < rate:
            values[[LABELS.class_names.index(name) for name in members]] = np.nan
    return values


def shares(rows: Sequence[np.ndarray] | np.ndarray) -> dict[str, float]:
    """Return label → share among the assessed rows, [N, 20]; NaN for a label never assessed.

    Example:
        >>> shares(np.eye(20)[:2])["comp_cystic"]
        0.5
    """
    cells = np.asarray(rows, dtype=np.float64)
    known = ~np.isnan(cells)
    with np.errstate(invalid="ignore"):
        found = np.where(known, cells, 0.0).sum(axis=0) / known.sum(axis=0)
    return dict(zip(LABELS.class_names, map(float, found), strict=True))
