"""Factorials: what each of several changes is worth, averaged over the others, and whether they help each other.

Where the arms of a study are all combinations of some factors, the differences to one reference use a fraction of what
was trained. A main effect compares all arms with a factor with all arms without it; an interaction is how much more a
factor is worth where another one is there. Both are contrasts of the arms' values, read off the very resamples of
patients and seeds that the differences are from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any, Literal, final

import numpy as np
import pandas as pd

from medtail.errors import Problems, did_you_mean, listing
from medtail.judging.comparison_rows import difference_row, verdict_of
from medtail.judging.intervals import percentile_interval
from medtail.judging.paired_draws import Answer
from medtail.judging.pvalues import holm
from medtail.judging.questions import Question
from medtail.tables.tail import TAIL_GROUPS

MOST_FACTORS = 5
HEAD_LOSS = 0.005
"""Half a point: what F1 of the head classes may fall at most for a factor to be accepted."""
Holds = Literal["holds", "does not hold", "not shown", "cannot be judged"]
EFFECT_COLUMNS = (
    "effect", "order", "metric", "class", "tail_group", "value", "low", "high", "p", "p_holm", "verdict",
    "smallest_detectable", "defined_share", "support",
)  # fmt: skip


@final
@dataclass(frozen=True)
class Design:
    """A full factorial.

    Attributes:
        factors: Their names.
        arms: The factors that are there → arm, one for every combination.
    """

    factors: tuple[str, ...]
    arms: Mapping[frozenset[str], str]

    @property
    def none(self) -> str:
        """The arm without any factor."""
        return self.arms[frozenset()]

    @property
    def all(self) -> str:
        """The arm with every factor."""
        return self.arms[frozenset(self.factors)]

    @property
    def terms(self) -> list[tuple[str, ...]]:
        """Main effects, then interactions of two, of three and so on."""
        return [term for order in range(1, len(self.factors) + 1) for term in combinations(self.factors, order)]

    def contrast(self, term: Sequence[str]) -> dict[str, float]:
        """Return the weight of every arm's value in an effect; they sum to 0.

        With each factor coded +½ where it is there and -½ where not, the effect is the coefficient of the product of
        its factors. Of one factor that is the mean with it minus the mean without it; of two, how much more the one is
        worth where the other is there.

        Args:
            term: One or more factors.

        Example:
            >>> design_of({"A": ["a", "ab"], "B": ["b", "ab"]}, ["none", "a", "b", "ab"]).contrast(["A", "B"])
            {'none': 1.0, 'b': -1.0, 'a': -1.0, 'ab': 1.0}
        """
        scale = 2.0 ** (len(term) - len(self.factors))
        return {
            arm: scale * math.prod(1.0 if factor in there else -1.0 for factor in term)
            for there, arm in self.arms.items()
        }


def design_of(factors: Mapping[str, Sequence[str]], arms: Sequence[str] | Mapping[str, Any]) -> Design:
    """Read a factorial off the arms that have each factor.

    Args:
        factors: Factor → arms that have it.
        arms: All arms of the study; none may stand outside the factorial.

    Returns:
        The design.

    Raises:
        MedtailError: Unknown arms, fewer than two factors or more than five, a combination that no arm or more than one
            arm is; all are named.

    Example:
        >>> design_of({"A": ["a", "ab"], "B": ["b", "ab"]}, ["none", "a", "b", "ab"]).none
        'none'
    """
    problems = Problems("factors")
    if not 2 <= len(factors) <= MOST_FACTORS:
        problems.add(f"found {len(factors)}; expected 2 to {MOST_FACTORS}, such as `A: [A, AB]` and `B: [B, AB]`.")
    for factor, named in factors.items():
        for arm in dict.fromkeys(named):
            if arm not in arms:
                problems.add(f"{factor}: no arm {arm!r}{did_you_mean(arm, arms) or '.'}")
            elif list(named).count(arm) > 1:
                problems.add(f"{factor}: {arm!r} is named twice.")
    problems.raise_if_any()
    found: dict[frozenset[str], list[str]] = {
        frozenset(there): [] for order in range(len(factors) + 1) for there in combinations(factors, order)
    }
    for arm in arms:
        found[frozenset(factor for factor, named in factors.items() if arm in named)].append(arm)
    for there, named in found.items():
        words = " and ".join(factor for factor in factors if factor in there) or "no factor"
        if not named:
            problems.add(f"no arm has {words}{' and nothing else' if there else ''}; expected every combination.")
        elif len(named) > 1:
            problems.add(f"arms {listing([repr(arm) for arm in named])} have {words} all alike; expected one.")
    problems.raise_if_any()
    # arms without a factor before those with it: the order in which contrasts are written
    order = sorted(found, key=lambda there: [factor in there for factor in factors])
    return Design(tuple(factors), {there: found[there][0] for there in order})


@final
@dataclass(frozen=True)
class Finding:
    """One expectation, and what the numbers say of it.

    Attributes:
        about: A factor, an arm, or a word for it.
        claim: What was expected, in words.
        holds: Whether it does.
        sentence: The numbers.
    """

    about: str
    claim: str
    holds: Holds
    sentence: str


@final
@dataclass(frozen=True, eq=False)
class Effects:
    """What a factorial says.

    Attributes:
        table: `EFFECT_COLUMNS`, a row a question and effect; `verdict` as in comparisons: `a_ahead` is better with it.
        findings: Of F1: which factors earn their place, and the shape of the gain of all together.
        design: The factorial.
    """

    table: pd.DataFrame
    findings: tuple[Finding, ...]
    design: Design


def effects_of(
    answers: Mapping[Question, Answer], names: Sequence[str], design: Design, *, interval: float, together: bool
) -> Effects:
    """Compute all effects on all questions, and hold them against what is expected of a method for the tail.

    Args:
        answers: Question → values and resampled values of every arm.
        names: The arms, in the order of the answers.
        design: Which of them has which factors.
        interval: Level of the intervals; the rest is the share of false claims.
        together: Whether Holm's correction counts all effects on all questions, or those on one metric at one level.

    Returns:
        The effects.

    References:
        holm1979.
    """
    alpha = round(1.0 - interval, 12)
    families: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    rows: list[dict[str, Any]] = []
    for question, answer in answers.items():
        for term in design.terms:
            weights = weights_of(design.contrast(term), names)
            row = _effect_row(question, answer, " x ".join(term), weights, interval=interval) | {"order": len(term)}
            families.setdefault(() if together else (question.metric, question.level), []).append(row)
            rows.append(row)
    for family in families.values():
        for row, corrected in zip(family, holm(np.array([row["p"] for row in family])), strict=True):
            row["p_holm"] = float(corrected)
            row["verdict"] = row["verdict"] or verdict_of({**row, "difference": row["value"]}, alpha=alpha)
    table = pd.DataFrame(rows, columns=list(EFFECT_COLUMNS))
    return Effects(table, findings(answers, names, design, interval=interval), design)


def weights_of(contrast: Mapping[str, float], names: Sequence[str]) -> np.ndarray:
    """Return a contrast's weights in the order of the arms, float64 [S]; 0 for arms outside.

    Example:
        >>> weights_of({"a": 1.0, "none": -1.0}, ["none", "other", "a"]).tolist()
        [-1.0, 0.0, 1.0]
    """
    return np.array([contrast.get(name, 0.0) for name in names])


def combine(answer: Answer, weights: np.ndarray) -> tuple[float, np.ndarray]:
    """Return a weighted sum of the arms' values, and float64 [B] in the resamples."""
    used = np.flatnonzero(weights)
    return float(weights[used] @ answer.values[used]), np.asarray(weights[used] @ answer.resampled[used])


def _effect_row(
    question: Question, answer: Answer, effect: str, weights: np.ndarray, *, interval: float
) -> dict[str, Any]:
    value, drawn = combine(answer, weights)
    # an effect is a difference to nothing, and gets the row of one
    against = Answer(
        np.array([value, 0.0]), np.stack([drawn, np.zeros_like(drawn)]), (), answer.support, np.empty((2, 0))
    )
    row = difference_row(question, against, (effect, "nothing"), 0, 1, interval=interval)
    return {**row, "effect": effect, "value": row["difference"]}


# --- what is expected ------------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class _Line:
    """A value with its interval, and its resamples."""

    value: float
    low: float
    high: float
    drawn: np.ndarray

    def __str__(self) -> str:
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def findings(
    answers: Mapping[Question, Answer], names: Sequence[str], design: Design, *, interval: float
) -> tuple[Finding, ...]:
    """Say which factors earn their place, whether all together beat the best with one left out, and the gain's shape.

    A factor earns it if its main effect on macro F1 and on F1 of the tail classes has an interval above 0 and F1 of the
    head classes does not fall by more than half a point. "All beat the best" holds if every difference to an arm with
    one factor left out has an interval above 0: that needs no correction, and nobody has to pick the best. The shape is
    that of the arm with all minus the arm with none.

    Args:
        answers: With `f1` and `micro_f1` over all classes, and `f1` of tail groups; what is missing cannot be judged.
        names: The arms, in the order of the answers.
        design: The factorial.
        interval: Level of the intervals.

    Returns:
        The findings; none where F1 was not asked for.
    """
    asked = {(question.metric, question.class_name, question.tail_group): question for question in answers}

    def line(weights: Mapping[str, float], metric: str, group: str = "") -> _Line | None:
        question = asked.get((metric, "", group))
        if question is None:
            return None
        value, drawn = combine(answers[question], weights_of(weights, names))
        return None if math.isnan(value) else _lined(value, drawn, interval)

    if line({}, "f1") is None:
        return ()
    has_head = line({}, "f1", "head") is not None
    gain = {design.all: 1.0, design.none: -1.0}
    found = [_earns(factor, design, line, has_head=has_head) for factor in design.factors]
    found.append(_beats_best(design, line))
    found.append(_macro_above_micro(line(gain, "f1"), line(gain, "micro_f1"), interval))
    found.append(_ordered({group: line(gain, "f1", group) for group in TAIL_GROUPS}, interval))
    if has_head:
        found.append(_head_kept(line(gain, "f1", "head")))
    return tuple(found)


_Liner = Callable[..., _Line | None]


def _lined(value: float, drawn: np.ndarray, interval: float) -> _Line:
    low, high = percentile_interval(drawn, level=interval)
    return _Line(value, low, high, drawn)


def _earns(factor: str, design: Design, line: _Liner, *, has_head: bool) -> Finding:
    contrast = design.contrast([factor])
    macro, tail, head = (line(contrast, "f1", group) for group in ("", "tail", "head"))
    claim = "earns its place: macro and tail F1 rise, head F1 falls by no more than half a point"
    if macro is None or tail is None:
        return Finding(factor, claim, "cannot be judged", "no tail class can be judged")
    told = f"averaged over the other factors: macro F1 {macro}, tail {tail}, head {head or 'has no class'}"
    if head is not None and head.value >= -HEAD_LOSS > head.low:
        told += "; a larger loss of the head is not excluded"
    is_kept = head is None or head.value >= -HEAD_LOSS
    if macro.low > 0 and tail.low > 0 and is_kept:
        return Finding(factor, claim, "holds", told)
    is_refuted = macro.high < 0 or tail.high < 0 or not is_kept
    return Finding(factor, claim, "does not hold" if is_refuted else "not shown", told)


def _beats_best(design: Design, line: _Liner) -> Finding:
    rivals = {}
    for left_out in design.factors:
        rival = design.arms[frozenset(design.factors) - {left_out}]
        rivals[rival] = line({design.all: 1.0, rival: -1.0}, "f1")
    known = {rival: found for rival, found in rivals.items() if found is not None}
    claim = "is ahead of every arm with one factor left out, in macro F1"
    best = min(known, key=lambda rival: known[rival].value)
    told = ", ".join(f"minus {rival} {found}" for rival, found in known.items())
    told += f"; the best of them is {best}"
    if all(found.low > 0 for found in known.values()):
        return Finding(design.all, claim, "holds", told)
    refuted = any(found.high < 0 for found in known.values())
    return Finding(design.all, claim, "does not hold" if refuted else "not shown", told)


def _macro_above_micro(macro: _Line | None, micro: _Line | None, interval: float) -> Finding:
    claim = "all factors together gain more in macro F1 than in micro F1"
    if macro is None or micro is None:
        return Finding("macro, micro", claim, "cannot be judged", "micro F1 was not judged")
    more = _lined(macro.value - micro.value, macro.drawn - micro.drawn, interval)
    told = f"macro {macro}, micro {micro}, macro minus micro {more}"
    if micro.low > 0:
        ratio = _lined(macro.value / micro.value, macro.drawn / micro.drawn, interval)
        told += f"; {ratio.value:.1f} times as much [{ratio.low:.1f}, {ratio.high:.1f}]"
    else:
        told += "; the gain in micro F1 is not shown to be above 0, so no ratio is given"
    return Finding("macro, micro", claim, _judged([more]), told)


def _ordered(gains: Mapping[str, _Line | None], interval: float) -> Finding:
    known = {group: gains[group] for group in ("tail", "medium", "head") if gains.get(group) is not None}
    claim = f"all factors together gain most in the tail: {' > '.join(known)}"
    if len(known) < 2:
        claim = "all factors together gain most in the tail"
        return Finding("tail, head", claim, "cannot be judged", "fewer than two tail groups")
    steps = []
    told = ", ".join(f"{group} {found}" for group, found in known.items())
    for above, below in pairwise(known):
        a, b = known[above], known[below]
        assert a is not None, "left out above"
        assert b is not None, "left out above"
        steps.append(_lined(a.value - b.value, a.drawn - b.drawn, interval))
        told += f"; {above} minus {below} {steps[-1]}"
    return Finding("tail, head", claim, _judged(steps), told)


def _head_kept(head: _Line | None) -> Finding:
    claim = "all factors together do not lower F1 of the head by more than half a point"
    if head is None:
        return Finding("head", claim, "cannot be judged", "no head class")
    told = f"head {head}"
    if head.low > -HEAD_LOSS:
        return Finding("head", claim, "holds", told)
    return Finding("head", claim, "does not hold" if head.high < -HEAD_LOSS else "not shown", told)


def _judged(lines: Sequence[_Line]) -> Holds:
    """Return whether all of some differences are shown to be above 0, or one of them to be below."""
    if all(line.low > 0 for line in lines):
        return "holds"
    return "does not hold" if any(line.high < 0 for line in lines) else "not shown"
