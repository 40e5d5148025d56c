"""Rules on top of scores: what follows from findings excluding or implying each other.

Each rule is plausible and none is safe: a normal gate helped one winning system and cost another ensemble 0.024 mAP.
So nothing applies them by default; `judging.post_rule_trials` tries each on the tune fold and keeps what helps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal, final

import numpy as np
from pydantic import Field

from medtail.config import CLOSED
from medtail.errors import MedtailError, Problems, did_you_mean
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions

NORMAL_NAMES = ("normal", "no finding", "no_finding")


@final
@dataclass(frozen=True, kw_only=True)
class NormalGateConfig:
    """Lower every finding where the image looks normal: p ← p · (1 - p_normal)^α.

    Attributes:
        kind: Which rule.
        alpha: Strength, >= 0; 0 changes nothing.
        normal: The class that means no finding; `Normal` or `No Finding` if None.
        beside: Classes that a normal image may show; they stay as they are.
    """

    __pydantic_config__: ClassVar = CLOSED

    kind: Literal["normal_gate"] = "normal_gate"
    alpha: float = 0.5
    normal: str | None = None
    beside: tuple[str, ...] = ("Support Devices",)

    def __post_init__(self) -> None:
        if not 0.0 <= self.alpha < float("inf"):
            raise MedtailError(f"normal_gate.alpha {self.alpha!r}: expected a number >= 0, such as 0.5.")


@final
@dataclass(frozen=True, kw_only=True)
class ExclusiveNormalConfig:
    """An image with a finding is not normal: p_normal ← min(p_normal, 1 - the highest finding).

    Attributes:
        kind: Which rule.
        normal: The class that means no finding; `Normal` or `No Finding` if None.
        beside: Classes that a normal image may show.
    """

    __pydantic_config__: ClassVar = CLOSED

    kind: Literal["exclusive_normal"] = "exclusive_normal"
    normal: str | None = None
    beside: tuple[str, ...] = ("Support Devices",)


@final
@dataclass(frozen=True, kw_only=True)
class HierarchyConfig:
    """A finding is at most as likely as what it implies: p_child ← min(p_child, p_parents).

    Attributes:
        kind: Which rule.
        implies: Finding → findings it implies.
        direction: `lower` the child to its parents, or `raise` the parents to their children.
    """

    __pydantic_config__: ClassVar = CLOSED

    kind: Literal["hierarchy"] = "hierarchy"
    implies: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    direction: Literal["lower", "raise"] = "lower"


Rule = Annotated[NormalGateConfig | ExclusiveNormalConfig | HierarchyConfig, Field(discriminator="kind")]
AnyRule = NormalGateConfig | ExclusiveNormalConfig | HierarchyConfig
KINDS = ("normal_gate", "exclusive_normal", "hierarchy")


@final
@dataclass(frozen=True, kw_only=True)
class RulesConfig:
    """Rules in the order they apply.

    Attributes:
        rules: Any number.
    """

    __pydantic_config__: ClassVar = CLOSED

    rules: tuple[Rule, ...] = ()


def apply_rules(predictions: Predictions, rules: Sequence[AnyRule]) -> Predictions:
    """Apply rules one after the other.

    Args:
        predictions: Scores.
        rules: In order.

    Returns:
        The same rows with new scores. Thresholds and a calibration no longer fit, and are gone if any rule is there.

    Raises:
        MedtailError: A class that does not exist or is inside an exclusive group, or findings that imply each other
            in a circle.

    Example:
        >>> ids, labels = np.array(["a"], dtype=object), LabelSpace(("Normal", "Mass"))
        >>> scored = Predictions(ids, ids, np.array([[0.8, 0.75]]), np.ones((1, 2)), labels, ids)
        >>> apply_rules(scored, [NormalGateConfig(alpha=1.0)]).scores.round(3).tolist()
        [[0.8, 0.15]]
        >>> apply_rules(scored, [ExclusiveNormalConfig()]).scores.tolist()
        [[0.25, 0.75]]
        >>> apply_rules(scored, [HierarchyConfig(implies={"Normal": ("Mass",)})]).scores.tolist()
        [[0.75, 0.75]]
    """
    if not rules:
        return predictions
    scores = predictions.scores.astype(np.float64, copy=True)
    grouped = {name for group in predictions.labels.groups for name in group.classes}
    for rule in rules:
        match rule:
            case NormalGateConfig():
                normal = _normal(predictions.labels, rule.normal, rule.kind, grouped)
                findings = _findings(predictions.labels, normal, rule.beside, grouped)
                scores[:, findings] *= ((1.0 - scores[:, normal]) ** rule.alpha)[:, None]
            case ExclusiveNormalConfig():
                normal = _normal(predictions.labels, rule.normal, rule.kind, grouped)
                findings = _findings(predictions.labels, normal, rule.beside, grouped)
                if len(findings):
                    scores[:, normal] = np.minimum(scores[:, normal], 1.0 - scores[:, findings].max(axis=1))
            case HierarchyConfig():
                _apply_hierarchy(scores, predictions.labels, rule, grouped)
    digests = {key: value for key, value in predictions.digests.items() if key != "calibration"}
    return replace(predictions, scores=np.clip(scores, 0.0, 1.0), thresholds=None, digests=digests)


def _normal(labels: LabelSpace, given: str | None, kind: str, grouped: set[str]) -> int:
    if given is None:
        found = [name for name in labels.class_names if name.strip().lower() in NORMAL_NAMES]
        if len(found) != 1:
            raise MedtailError(
                f"{kind}: found {len(found)} classes called Normal or No Finding; expected one. Name it: normal."
            )
        given = found[0]
    if given in grouped:
        raise MedtailError(f"{kind}: {given!r} is in an exclusive group, whose scores share a sum; no rule applies.")
    return labels.index(given)


def _findings(labels: LabelSpace, normal: int, beside: Sequence[str], grouped: set[str]) -> np.ndarray:
    return np.array(
        [c for c, name in enumerate(labels.class_names) if c != normal and name not in beside and name not in grouped],
        dtype=np.int64,
    )


def _apply_hierarchy(scores: np.ndarray, labels: LabelSpace, rule: HierarchyConfig, grouped: set[str]) -> None:
    order = implied_order(rule.implies, labels, grouped=grouped)
    index = {name: c for c, name in enumerate(labels.class_names)}
    if rule.direction == "lower":  # the most general first: a lowered parent lowers its children too
        for child in reversed(order):
            for parent in rule.implies[child]:
                scores[:, index[child]] = np.minimum(scores[:, index[child]], scores[:, index[parent]])
    else:
        for child in order:
            for parent in rule.implies[child]:
                scores[:, index[parent]] = np.maximum(scores[:, index[parent]], scores[:, index[child]])


def implied_order(
    implies: Mapping[str, Sequence[str]], labels: LabelSpace, *, grouped: set[str] | None = None
) -> list[str]:
    """Return the findings that imply others, the most special first.

    Args:
        implies: Finding → findings it implies.
        labels: Where all of them must be.
        grouped: Classes inside exclusive groups, which no hierarchy may touch.

    Raises:
        MedtailError: A class does not exist or is in an exclusive group, a finding implies nothing, or a circle.

    Example:
        >>> labels = LabelSpace(("Rib Fracture", "Fracture", "Injury"))
        >>> implied_order({"Fracture": ("Injury",), "Rib Fracture": ("Fracture",)}, labels)
        ['Rib Fracture', 'Fracture']
    """
    problems = Problems("hierarchy")
    if not implies:
        problems.add("'implies' is empty; expected a finding and the findings it implies.")
    for child, parents in implies.items():
        if not parents:
            problems.add(f"{child!r}: implies nothing; expected at least one finding.")
        for name in (child, *parents):
            if name not in labels.class_names:
                problems.add(f"{name!r}: no such class{did_you_mean(name, labels.class_names) or '.'}")
            elif name in (grouped or ()):
                problems.add(f"{name!r}: is in an exclusive group, whose scores share a sum; no hierarchy applies.")
    problems.raise_if_any()
    order: list[str] = []
    open_now: list[str] = []

    def visit(name: str) -> None:
        if name in open_now:
            raise MedtailError(f"hierarchy: {' implies '.join([*open_now[open_now.index(name) :], name])}, a circle.")
        if name in order or name not in implies:
            return
        open_now.append(name)
        for parent in implies[name]:
            visit(parent)
        open_now.pop()
        order.append(name)

    for name in implies:
        visit(name)
    return order[::-1]
