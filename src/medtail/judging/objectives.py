"""What a threshold is to be good for, and the two cuts that say so: the labels' and the scores' own.

The *label cut* is the best one on the labels as they fell: unbiased, but for five positives a matter of luck. The
*plug-in cut* takes calibrated scores at their word and uses every row, no label. `thresholds` mixes the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, final

import numpy as np
from pydantic import Field
from scipy.special import bdtrc

from medtail.config import CLOSED
from medtail.errors import UsageError, did_you_mean
from medtail.judging.counts import assessed

EDGE = 1e-12
"""Scores are kept this far from 0 and 1 before their logit is taken."""
Share = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]


@final
@dataclass(frozen=True, kw_only=True)
class FBeta:
    """Maximise F-beta; beta 1 is F1, 2 weighs recall more.

    Attributes:
        beta: > 0.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED
    kind: Literal["f"] = "f"
    beta: Positive = 1.0


@final
@dataclass(frozen=True, kw_only=True)
class Youden:
    """Maximise sensitivity + specificity - 1."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED
    kind: Literal["youden"] = "youden"


@final
@dataclass(frozen=True, kw_only=True)
class Cost:
    """Call where the expected cost of not calling is higher: t = false_alarm / (false_alarm + miss). Fits nothing.

    Attributes:
        false_alarm: Cost of one, > 0.
        miss: Cost of one in the same unit, > 0.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED
    kind: Literal["cost"] = "cost"
    false_alarm: Positive = 1.0
    miss: Positive = 1.0


@final
@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """The highest cut that finds at least this share of the positives.

    Attributes:
        at_least: In (0, 1).
        confidence: With which it is promised for new patients where there are enough of them, in (0, 1).
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED
    kind: Literal["sensitivity"] = "sensitivity"
    at_least: Share
    confidence: Share = 0.95


@final
@dataclass(frozen=True, kw_only=True)
class Specificity:
    """The lowest cut that leaves at least this share of the negatives alone.

    Attributes:
        at_least: In (0, 1).
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED
    kind: Literal["specificity"] = "specificity"
    at_least: Share


@final
@dataclass(frozen=True, kw_only=True)
class NetBenefit:
    """Maximise TP/n - FP/n · t/(1-t): what is gained by whoever examines from a risk of t on.

    Attributes:
        at: That risk t, in (0, 1).
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED
    kind: Literal["net_benefit"] = "net_benefit"
    at: Share


@final
@dataclass(frozen=True, kw_only=True)
class Fixed:
    """The same threshold for every class.

    Attributes:
        value: In (0, 1).
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED
    kind: Literal["fixed"] = "fixed"
    value: Share = 0.5


AnyObjective = FBeta | Youden | Cost | Sensitivity | Specificity | NetBenefit | Fixed
Objective = Annotated[AnyObjective, Field(discriminator="kind")]

WRITTEN = {
    "f1": "best F1",
    "f@BETA": "best F-beta",
    "youden": "best sensitivity + specificity",
    "cost@ALARM:MISS": "lowest cost, for instance cost@1:20",
    "sensitivity@0.95": "at least that sensitivity",
    "specificity@0.95": "at least that specificity",
    "net_benefit@0.05": "highest net benefit at that risk",
    "fixed@0.5": "that threshold",
}


def parse_objective(text: str) -> AnyObjective:
    """Read an objective as it is written on the command line.

    Args:
        text: `f1`, `f@2`, `youden`, `cost@1:20`, `sensitivity@0.95` (`sensitivity@0.95:0.9` with the confidence),
            `specificity@0.9`, `net_benefit@0.05`, `fixed` or `fixed@0.3`.

    Raises:
        UsageError: Unknown, or its number is missing or out of range.

    Example:
        >>> parse_objective("sensitivity@0.95")
        Sensitivity(kind='sensitivity', at_least=0.95, confidence=0.95)
    """
    from medtail.config import build_config

    name, separator, rest = text.strip().partition("@")
    keys: dict[str, tuple[type[Any], tuple[str, ...], int]] = {
        "f1": (FBeta, (), 0),
        "f": (FBeta, ("beta",), 1),
        "youden": (Youden, (), 0),
        "cost": (Cost, ("false_alarm", "miss"), 2),
        "sensitivity": (Sensitivity, ("at_least", "confidence"), 1),
        "specificity": (Specificity, ("at_least",), 1),
        "net_benefit": (NetBenefit, ("at",), 1),
        "fixed": (Fixed, ("value",), 0),
    }
    if name not in keys:
        hint = did_you_mean(name, keys) or f"; expected one of {', '.join(WRITTEN)}"
        raise UsageError(f"threshold {text!r}: unknown objective{hint}.")
    kind, names, fewest = keys[name]
    words = rest.split(":") if separator else []
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    if len(numbers) != len(words) or not fewest <= len(numbers) <= len(names):
        raise UsageError(f"threshold {text!r}: expected one of {', '.join(WRITTEN)}.")
    made: AnyObjective = build_config(kind, dict(zip(names, numbers, strict=False)), where=f"threshold {text!r}")
    return made


def objective_name(objective: AnyObjective) -> str:
    """Return an objective as `parse_objective` reads it.

    Example:
        >>> [objective_name(parse_objective(text)) for text in ("f1", "f@2", "cost@1:20", "fixed")]
        ['f1', 'f@2', 'cost@1:20', 'fixed@0.5']
    """
    match objective:
        case FBeta():
            return "f1" if objective.beta == 1.0 else f"f@{objective.beta:g}"
        case Youden():
            return "youden"
        case Cost():
            return f"cost@{objective.false_alarm:g}:{objective.miss:g}"
        case Sensitivity():
            sure = "" if objective.confidence == 0.95 else f":{objective.confidence:g}"
            return f"sensitivity@{objective.at_least:g}{sure}"
        case Specificity():
            return f"specificity@{objective.at_least:g}"
        case NetBenefit():
            return f"net_benefit@{objective.at:g}"
        case Fixed():
            return f"fixed@{objective.value:g}"


def label_cut(objective: AnyObjective, scores: np.ndarray, targets: np.ndarray) -> float:
    """Return the best cut on the labels, half-way (in logits) to the next lower score.

    Of equally good cuts the highest. Where calling nothing is best, the cut lies above every score.

    Args:
        objective: What it is to be good for; not `Cost` or `Fixed`, which no label moves.
        scores: float [N] in [0, 1].
        targets: [N] in {0, 1, NaN}.

    Returns:
        A threshold in (0, 1); NaN where the labels cannot say (no positives; for specificity no negatives; for
        Youden's index either).

    Example:
        >>> scores, targets = np.array([0.8, 0.6, 0.4]), np.array([1, 1, 0])
        >>> round(label_cut(Sensitivity(at_least=0.9), scores, targets), 3)
        0.5
    """
    s, y, _ = assessed(scores, targets)
    order = np.argsort(-s, kind="stable")
    s, y = s[order], y[order]
    ends = np.flatnonzero(np.append(s[1:] != s[:-1], True)) if len(s) else np.zeros(0, dtype=np.int64)
    # the first candidate calls nothing
    tp = np.append(0.0, np.cumsum(y)[ends])
    called = np.append(0.0, ends + 1.0)
    value = _value(objective, tp, called - tp, float(y.sum()), float(len(y) - y.sum()))
    if value is None:
        return float("nan")
    best = int(np.argmax(value))
    if best == 0:
        return sigmoid(logit(float(s[0])) + 1.0)
    lowest = float(s[ends[best - 1]])
    below = logit(float(s[ends[best]])) if best < len(ends) else logit(lowest)
    # rounding through the logit must not lift the cut above the very score it is to accept
    return max(min(sigmoid((logit(lowest) + below) / 2.0), lowest), EDGE)


def _value(objective: AnyObjective, tp: np.ndarray, fp: np.ndarray, p: float, n: float) -> np.ndarray | None:
    """Return how good each candidate is, from the one that calls nothing to the one that calls all; None if unknown."""
    match objective:
        case FBeta() if p:
            square = objective.beta**2
            return np.asarray((1.0 + square) * tp / (tp + fp + square * p))
        case Youden() if p and n:
            return np.asarray(tp / p - fp / n)
        case Sensitivity() if p:
            # 19 of 20 is 95 %, whatever the last digit of 0.95 · 20
            return np.asarray((tp >= objective.at_least * p * (1.0 - EDGE)).astype(float))
        case Specificity() if n:
            kept = n - fp >= objective.at_least * n * (1.0 - EDGE)
            return np.asarray(np.where(kept, tp + fp, -1.0))
        case NetBenefit() if p:
            return np.asarray(tp - fp * objective.at / (1.0 - objective.at))
        case _:
            return None


def plug_in_cut(objective: AnyObjective, scores: np.ndarray) -> float:
    """Return the cut that would be best if the scores were probabilities. No label is used.

    Args:
        objective: What it is to be good for.
        scores: float [N] in [0, 1], calibrated.

    Returns:
        A threshold in [0, 1]; NaN without scores.

    Example:
        >>> scores = np.array([0.9, 0.1])
        >>> [round(plug_in_cut(objective, scores), 3) for objective in (FBeta(), Youden(), Cost(miss=19.0))]
        [0.45, 0.5, 0.05]

    References:
        lipton2014, theorem 1 (the optimal threshold is half the optimal F1).
    """
    if isinstance(objective, Cost):
        return objective.false_alarm / (objective.false_alarm + objective.miss)
    if isinstance(objective, Fixed):
        return objective.value
    if isinstance(objective, NetBenefit):
        return objective.at
    if not len(scores):
        return float("nan")
    ordered = np.sort(np.asarray(scores, dtype=np.float64))[::-1]
    found, total, count = np.cumsum(ordered), float(ordered.sum()), np.arange(1, len(ordered) + 1)
    if isinstance(objective, FBeta):
        # beta² stands beside the positives; at F*/(1 + beta²) one more call gains as much as it costs
        square = objective.beta**2
        return float(np.max((1.0 + square) * found / np.maximum(count + square * total, EDGE))) / (1.0 + square)
    if isinstance(objective, Youden):
        return total / len(ordered)
    if isinstance(objective, Sensitivity):
        at = int(np.searchsorted(found, objective.at_least * total * (1.0 - EDGE)))
        return float(ordered[min(at, len(ordered) - 1)])
    spared = float(len(ordered) - total)
    alarms = np.cumsum(1.0 - ordered)
    kept = int((spared - alarms >= objective.at_least * spared * (1.0 - EDGE)).sum())
    return float(ordered[kept - 1]) if kept else float((1.0 + ordered[0]) / 2.0)


def promised_cut(objective: Sensitivity, lowest: np.ndarray) -> float | None:
    """Return the highest cut that keeps the sensitivity for new patients with the asked confidence.

    Of n positive patients the k-th lowest score is taken with the largest k for which a Binomial(n, 1 - x) count
    reaches k with probability >= the confidence. For k = 1 that is 1 - x^n, so n >= ln δ / ln x patients are needed.

    Args:
        objective: Sensitivity x and confidence 1 - δ.
        lowest: The lowest positive score of each positive patient, float [n].

    Returns:
        The cut, one of the scores; None where n is too small for any promise.

    Example:
        >>> promised_cut(Sensitivity(at_least=0.95), np.linspace(0.1, 0.9, 58)) is None
        True
        >>> promised_cut(Sensitivity(at_least=0.95), np.linspace(0.1, 0.9, 59))
        0.1

    References:
        wilks1941.
    """
    n, miss = len(lowest), 1.0 - objective.at_least
    chance = bdtrc(np.arange(n), n, miss)  # of at least k = 1, 2, … below the true quantile
    # 1 - 0.95 is not 0.05 in binary; the last digits must not cost a patient
    ranks = int((chance >= objective.confidence - EDGE).sum())
    return float(np.sort(lowest)[ranks - 1]) if ranks else None


def fewest_patients(objective: Sensitivity) -> int:
    """Return how many positive patients a promise needs: the smallest n with x^n <= δ.

    Example:
        >>> fewest_patients(Sensitivity(at_least=0.95))
        59
    """
    needed = np.log1p(-objective.confidence) / np.log(objective.at_least)
    return max(int(np.ceil(needed - EDGE)), 1)


def logit(score: float) -> float:
    """Return log(s / (1 - s)) of a score kept 1e-12 away from 0 and 1.

    Example:
        >>> logit(0.5), round(logit(1.0), 2)
        (0.0, 27.63)
    """
    inside = min(max(score, EDGE), 1.0 - EDGE)
    return float(np.log(inside / (1.0 - inside)))


def sigmoid(value: float) -> float:
    """Return 1 / (1 + exp(-x)).

    Example:
        >>> sigmoid(0.0)
        0.5
    """
    return float(1.0 / (1.0 + np.exp(-value)))
