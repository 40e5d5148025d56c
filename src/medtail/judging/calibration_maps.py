"""The maps a calibration is made of: scores in, calibrated scores out, one kind a dataclass.

Numbers only, so that a stored calibration can be read from a stranger without running anything. How they are fitted
is in `calibration_fits`. Maps of one class (`temperature`, `platt`, `beta`) are strictly increasing and leave its AP
and AUROC where they were; `isotonic` makes ties, and `softmax` lets the classes of an exclusive group trade places.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, final

import numpy as np
from pydantic import Field
from scipy.special import expit

from medtail.config import CLOSED
from medtail.errors import MedtailError

LIMIT = 15.0
"""Logits beyond this (scores within 3e-7 of 0 or 1) are squeezed, so that neither 0 nor 1 is ever claimed."""
LOWEST, HIGHEST = -750.0, 40.0
"""Stand-ins for the logits of 0 and 1: just beyond those of the nearest doubles."""
STEEPEST = 10.0
"""Largest |alpha| and |logarithm of a slope| that is believed."""


def soft_limit(logits: np.ndarray) -> np.ndarray:
    """Squeeze logits beyond ±15 logarithmically: still strictly increasing, never so large that scores tie at 1.

    Args:
        logits: float, any shape, finite.

    Example:
        >>> soft_limit(np.array([-3.0, 15.0, 15.0 + np.e - 1.0])).tolist()
        [-3.0, 15.0, 16.0]
    """
    beyond = np.maximum(np.abs(logits) - LIMIT, 0.0)
    return np.asarray(np.where(beyond > 0, np.sign(logits) * (LIMIT + np.log1p(beyond)), logits))


def to_logits(scores: np.ndarray) -> np.ndarray:
    """Return log(s / (1 - s)), softly limited and so finite for 0 and 1 too.

    Args:
        scores: float, any shape, in [0, 1].

    Example:
        >>> to_logits(np.array([0.0, 0.5, 1.0])).round(2).tolist()
        [-21.6, 0.0, 18.26]
    """
    s = np.asarray(scores, dtype=np.float64)
    with np.errstate(divide="ignore"):
        return soft_limit(np.clip(np.log(s) - np.log1p(-s), LOWEST, HIGHEST))


def to_scores(logits: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-x)) of softly limited logits: inside (0, 1), never at an end.

    Example:
        >>> to_scores(np.array([0.0, 1e9])).round(6).tolist()
        [0.5, 1.0]
        >>> bool(to_scores(np.array([1e9]))[0] < 1)
        True
    """
    return np.asarray(expit(soft_limit(logits)))


@final
@dataclass(frozen=True, kw_only=True)
class IdentityMap:
    """Leave a class as it is: there was nothing to fit, or nothing was asked.

    Attributes:
        class_name: The class.
        positive_patients: Patients of the fit with a positive image.
        note: Why it is so, for people.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED
    kind: Literal["identity"] = "identity"
    class_name: str
    positive_patients: int = 0
    note: str = ""

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """Return the scores [N]."""
        return scores


@final
@dataclass(frozen=True, kw_only=True)
class AffineMap:
    """Stretch and shift a class's logit: logit s' = exp(alpha) · logit s + beta.

    Attributes:
        class_name: The class.
        kind: `platt`, or `temperature` where beta is 0 and exp(-alpha) the temperature.
        alpha: Logarithm of the slope, in [-10, 10]; 0 leaves it.
        beta: Shift in logits; 0 leaves it.
        positive_patients: Patients of the fit with a positive image.
        note: What a reader should know of it.

    Example:
        >>> AffineMap(class_name="nodule", alpha=0.0, beta=np.log(3.0)).apply(np.array([0.5])).round(3).tolist()
        [0.75]
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED
    kind: Literal["platt", "temperature"] = "platt"
    class_name: str
    alpha: float
    beta: float = 0.0
    positive_patients: int = 0
    note: str = ""

    def __post_init__(self) -> None:
        _check_range(self.class_name, "alpha", self.alpha)
        if self.kind == "temperature" and self.beta != 0.0:
            raise MedtailError(f"map of {self.class_name!r}: beta {self.beta!r}; a temperature has none.")

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """Return calibrated scores [N] in (0, 1)."""
        return to_scores(np.exp(self.alpha) * to_logits(scores) + self.beta)


@final
@dataclass(frozen=True, kw_only=True)
class BetaMap:
    """Beta calibration: logit s' = exp(rise) · ln s - exp(fall) · ln(1 - s) + shift.

    Attributes:
        class_name: The class.
        rise: Logarithm of the slope at low scores, in [-10, 10].
        fall: Logarithm of the slope at high scores, in [-10, 10].
        shift: In logits.
        positive_patients: Patients of the fit with a positive image.
        note: What a reader should know of it.

    References:
        kull2017.

    Example:
        >>> BetaMap(class_name="nodule", rise=0.0, fall=0.0, shift=0.0).apply(np.array([0.2])).round(6).tolist()
        [0.2]
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED
    kind: Literal["beta"] = "beta"
    class_name: str
    rise: float
    fall: float
    shift: float
    positive_patients: int = 0
    note: str = ""

    def __post_init__(self) -> None:
        _check_range(self.class_name, "rise", self.rise)
        _check_range(self.class_name, "fall", self.fall)

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """Return calibrated scores [N] in (0, 1)."""
        low, high = log_ends(to_logits(scores))
        return to_scores(np.exp(self.rise) * low - np.exp(self.fall) * high + self.shift)


@final
@dataclass(frozen=True, kw_only=True)
class IsotonicMap:
    """The best non-decreasing map, linear between its knots. Makes ties, so AP and AUROC may move a little.

    Attributes:
        class_name: The class.
        knots: Scores, strictly increasing, in [0, 1].
        values: Calibrated score at each knot, not decreasing, in [0, 1].
        positive_patients: Patients of the fit with a positive image.
        note: What a reader should know of it.

    References:
        zadrozny2002.

    Example:
        >>> steps = IsotonicMap(class_name="a", knots=(0.2, 0.6), values=(0.1, 0.3))
        >>> steps.apply(np.array([0.0, 0.4])).round(3).tolist()
        [0.1, 0.2]
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED
    kind: Literal["isotonic"] = "isotonic"
    class_name: str
    knots: tuple[float, ...]
    values: tuple[float, ...]
    positive_patients: int = 0
    note: str = ""

    def __post_init__(self) -> None:
        knots, values = np.array(self.knots), np.array(self.values)
        inside = [bool(np.all((part >= 0.0) & (part <= 1.0))) for part in (knots, values)]
        is_map = len(knots) and len(knots) == len(values) and all(inside)
        if not is_map or not np.all(np.diff(knots) > 0) or not np.all(np.diff(values) >= 0):
            raise MedtailError(
                f"map of {self.class_name!r}: knots and values are no non-decreasing map; expected as many of each, in"
                " [0, 1], the knots rising."
            )

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """Return calibrated scores [N] in [0, 1]."""
        return np.asarray(np.interp(scores, self.knots, self.values))


@final
@dataclass(frozen=True, kw_only=True)
class SoftmaxMap:
    """Calibrate an exclusive group as one: s' = softmax(exp(alpha) · ln s + bias).

    Attributes:
        group: The group's name.
        classes: Its classes, in column order.
        alpha: Logarithm of the slope, minus that of the temperature; in [-10, 10].
        bias: One shift a class.
        positive_patients: Patients of the fit showing each class.
        note: What a reader should know of it.

    References:
        guo2017.

    Example:
        >>> pair = SoftmaxMap(group="type", classes=("a", "b"), alpha=0.0, bias=(np.log(3.0), 0.0))
        >>> pair.apply(np.array([[0.5, 0.5]])).round(3).tolist()
        [[0.75, 0.25]]
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED
    kind: Literal["softmax"] = "softmax"
    group: str
    classes: tuple[str, ...]
    alpha: float
    bias: tuple[float, ...]
    positive_patients: tuple[int, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        _check_range(self.group, "alpha", self.alpha)
        if len(self.bias) != len(self.classes) or len(self.classes) < 2:
            raise MedtailError(
                f"map of {self.group!r}: found {len(self.classes)} classes and {len(self.bias)} biases; expected as"
                " many of each, two or more."
            )

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """Return calibrated scores [N, classes]; each row adds up to 1.

        Raises:
            MedtailError: Rows of scores do not add up to 1, as those it was fitted on did.
        """
        if not adds_to_one(scores):
            raise MedtailError(
                f"group {self.group!r}: its scores do not add up to 1 in every row, but did where the calibration was"
                " fitted. Give the scores of a softmax over the group (`--scores logits` makes one)."
            )
        logits = np.exp(self.alpha) * log_shares(scores) + np.array(self.bias)
        exponential = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(exponential / exponential.sum(axis=1, keepdims=True))


OneClassMap = IdentityMap | AffineMap | BetaMap | IsotonicMap
AnyMap = Annotated[IdentityMap | AffineMap | BetaMap | IsotonicMap | SoftmaxMap, Field(discriminator="kind")]


def log_ends(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ln s and ln(1 - s) of logits.

    Example:
        >>> [float(part.round(3)) for part in log_ends(np.array(0.0))]
        [-0.693, -0.693]
    """
    return -np.logaddexp(0.0, -logits), -np.logaddexp(0.0, logits)


def log_shares(scores: np.ndarray) -> np.ndarray:
    """Return ln s, softly limited, so finite for 0 too.

    Example:
        >>> log_shares(np.array([1.0, 0.0])).round(2).tolist()
        [0.0, -21.6]
    """
    with np.errstate(divide="ignore"):
        return soft_limit(np.maximum(np.log(np.asarray(scores, dtype=np.float64)), LOWEST))


def adds_to_one(scores: np.ndarray, *, tolerance: float = 1e-3) -> bool:
    """Say whether every row adds up to 1, within what rounding to a few digits explains.

    Example:
        >>> adds_to_one(np.array([[0.4, 0.6], [0.9, 0.9]]))
        False
    """
    return bool(np.all(np.abs(scores.sum(axis=1) - 1.0) <= tolerance))


def _check_range(name: str, what: str, value: float) -> None:
    if not abs(value) <= STEEPEST:
        raise MedtailError(f"map of {name!r}: {what} {value!r}; expected a number in [-{STEEPEST:g}, {STEEPEST:g}].")
