"""What the agents of the ratio policy see and are paid for: scores of reward rows as ten numbers a class, and rewards.

Scores are read softly, because hard figures of a class with five reward images move in steps of a fifth. What a class
gains is the mean score of its rows in a softmax group; elsewhere the soft Youden index, mean score of its positives
minus that of its negatives, since there a class's recall costs no other class anything and must pay for its false
alarms itself. In a softmax group score is taken from others: showing more of a class, good images or bad, raises its
own recall at their expense, and an agent paid for recall alone always asks for more. So what it takes is taken off its
pay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, final

import numpy as np
from pydantic import Field

from medtail.config import CLOSED
from medtail.judging.decisions import decide
from medtail.judging.logit_adjustment import decided_f1

NUMBERS = ("log_count", "level", "soft_recall", "precision", "loss_real", "loss_synthetic", "soft_recall_change",
           "macro_f1", "head_accuracy", "progress")  # fmt: skip
"""What a state holds, in this order."""
HEAD = 0.5
"""A class is head from this share of the largest class's real train images on."""
WORST_LOSS = 20.0
"""Cross-entropies are held below it, so that a sure mistake does not fill a state."""
NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


@final
@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """What an agent is paid for: R_c = own·own_c + team·mean(gain) - stability·stab - cost·m_c / Σ d.

    stab is what head accuracy loses beyond `tolerance` while the agents' levels are in force.

    Attributes:
        measure: own_c: a class's `gain` (soft recall in a softmax group), or its `net` gain, less the mean score it has
            on the rows of each other class of its group. Both are the same for classes without a softmax.
        source: `fold` reads the manifest's fold `reward`. `rotate` has no rows to spare for rare classes: a third of
            their train patients, another third each round, leaves the mixture and joins the reward rows.
        rotate_below: Classes with fewer real train patients than this are rotated, >= 1; only for `rotate`.
        own: Weight of the class's own reward.
        team: Weight of the mean over all classes.
        stability: Weight of what head accuracy loses.
        tolerance: Loss of head accuracy that costs nothing.
        cost: Weight of the share of the pool that is used.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED

    measure: Literal["net", "gain"] = "net"
    source: Literal["fold", "rotate"] = "fold"
    rotate_below: Annotated[int, Field(ge=1)] = 10
    own: NotNegative = 0.5
    team: NotNegative = 0.5
    stability: NotNegative = 1.0
    tolerance: NotNegative = 0.01
    cost: NotNegative = 0.01


@final
@dataclass(frozen=True, eq=False)
class Reading:
    """What reward rows say of a network.

    Attributes:
        gain: What a class gains, float64 [classes]; NaN for a class that cannot be judged on these rows.
        net: The same less what it takes from the others of its softmax group. Its sum over a group is the sum of gains
            less what all of them miss, so no class profits from another's loss.
        soft_recall: Mean score of the rows that show the class; NaN without any.
        precision: Soft precision, the share of a class's scores that falls on rows showing it; NaN without assessed
            positives.
        loss: Mean -log score of the rows that show the class; NaN without any.
        macro_f1: Of plain decisions; NaN if no class has a positive.
        head_accuracy: Mean over head classes of recall (exclusive groups) or balanced accuracy; NaN without head rows.
    """

    gain: np.ndarray
    net: np.ndarray
    soft_recall: np.ndarray
    precision: np.ndarray
    loss: np.ndarray
    macro_f1: float
    head_accuracy: float

    @property
    def team(self) -> float:
        """Mean gain over the classes that can be judged."""
        return float(np.nanmean(self.gain)) if not np.isnan(self.gain).all() else float("nan")


def read_scores(
    scores: np.ndarray,
    targets: np.ndarray,
    *,
    groups: Sequence[Sequence[int]],
    softmax: bool,
    head: np.ndarray,
) -> Reading:
    """Read a network's scores on reward rows.

    Args:
        scores: float [N, C] in [0, 1].
        targets: [N, C] in {0, 1, NaN}.
        groups: Columns of the exclusive groups.
        softmax: Whether the classes of a group share a softmax; see the module's words.
        head: Which classes are head, bool [C].

    Returns:
        The reading.

    Example:
        >>> scores = np.array([[0.8, 0.2], [0.4, 0.6], [0.5, 0.5]])
        >>> targets = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        >>> reading = read_scores(scores, targets, groups=[(0, 1)], softmax=True, head=np.array([True, False]))
        >>> reading.gain.round(2).tolist(), reading.net.round(2).tolist(), round(reading.team, 3)
        ([0.8, 0.55], [0.35, 0.35], 0.675)
    """
    positive, negative = targets == 1, targets == 0
    grouped = np.zeros(targets.shape[1], dtype=bool)
    for columns in groups:
        grouped[list(columns)] = True
    recall, alarm = _means(scores, positive), _means(scores, negative)
    held = np.maximum(scores, np.exp(-WORST_LOSS))
    on_rows = np.where(positive | negative, scores, 0.0).sum(axis=0)
    hits = np.where(positive, scores, 0.0).sum(axis=0)
    precision = np.divide(hits, on_rows, out=np.zeros(len(hits)), where=on_rows > 0)
    called = decide(scores, groups=groups)
    right, quiet = _means(called.astype(float), positive), 1.0 - _means(called.astype(float), negative)
    decided = np.where(grouped, right, (right + quiet) / 2)[head]
    gain = np.where(grouped & softmax, recall, recall - alarm)
    return Reading(
        gain=gain,
        net=gain - (_taken(scores, positive, groups) if softmax else 0.0),
        soft_recall=recall,
        precision=np.where(positive.any(axis=0), precision, np.nan),
        loss=_means(-np.log(held), positive),
        macro_f1=decided_f1(scores, targets, groups=groups),
        head_accuracy=float(np.nanmean(decided)) if not np.isnan(decided).all() else float("nan"),
    )


def _taken(scores: np.ndarray, positive: np.ndarray, groups: Sequence[Sequence[int]]) -> np.ndarray:
    """Return for each class the mean score it has on rows of each other class of its group, added up, float64 [C]."""
    taken = np.zeros(scores.shape[1])
    for columns in groups:
        members = list(columns)
        for other in members:
            rows = positive[:, other]
            if rows.any():
                taken[[c for c in members if c != other]] += scores[rows][:, [c for c in members if c != other]].mean(0)
    return taken


def _means(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return each column's mean over its chosen cells, NaN without any."""
    counts = chosen.sum(axis=0)
    sums = np.where(chosen, values, 0.0).sum(axis=0)
    return np.asarray(np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0))


def head_classes(counts: np.ndarray) -> np.ndarray:
    """Say which classes have at least half as many real train images as the largest, bool [classes].

    Example:
        >>> head_classes(np.array([400, 200, 199])).tolist()
        [True, True, False]
    """
    return np.asarray(counts >= HEAD * counts.max())


def agent_states(
    reading: Reading,
    *,
    before: np.ndarray | None,
    levels: np.ndarray,
    counts: np.ndarray,
    loss_synthetic: np.ndarray,
    progress: float,
) -> np.ndarray:
    """Put together what each class's agent sees at the start of a round; see `NUMBERS`.

    Args:
        reading: Of the network as it is now.
        before: Soft recall a round ago, float [C]; None in the first round.
        levels: Levels that were in force last, float [C].
        counts: Real train images of each class, integers [C].
        loss_synthetic: Mean -log score of each class on its pool rows, float [C], NaN without any.
        progress: Rounds done as a share of all, in [0, 1].

    Returns:
        float32 [C, 10]. What is not defined for a class is 0: an agent has no other way to see "nothing".
    """
    change = np.zeros(len(counts)) if before is None else reading.soft_recall - before
    alike = np.ones(len(counts))
    columns = (
        np.log(np.maximum(counts, 1) / max(int(counts.max()), 1)),
        levels,
        reading.soft_recall,
        reading.precision,
        reading.loss,
        loss_synthetic,
        change,
        reading.macro_f1 * alike,
        reading.head_accuracy * alike,
        progress * alike,
    )
    return np.asarray(np.nan_to_num(np.stack(columns, axis=1)), dtype=np.float32)


@final
@dataclass(frozen=True, eq=False)
class Payment:
    """What one copy's agents get for a round.

    Attributes:
        rewards: R_c, float64 [classes]; a class that cannot be judged is paid as a member of the team only.
        own: own_c, float64 [classes]; NaN for such a class.
        team: The team's part, the mean gain.
        stability: What head accuracy lost beyond the tolerance, >= 0.
    """

    rewards: np.ndarray
    own: np.ndarray
    team: float
    stability: float


def pay(before: Reading, after: Reading, *, levels: np.ndarray, sizes: np.ndarray, config: RewardConfig) -> Payment:
    """Compute the agents' rewards for one round.

    Args:
        before: The network when the round began.
        after: After training with the levels.
        levels: The levels, float [C].
        sizes: Rows in each class's pool, d_c, float [C].
        config: The weights.

    Returns:
        The payment.

    Example:
        >>> both = dict(precision=np.ones(2), loss=np.ones(2), macro_f1=0.5)
        >>> then, now = np.array([0.9, 0.1]), np.array([0.8, 0.4])
        >>> before = Reading(gain=then, net=then, soft_recall=then, head_accuracy=0.9, **both)
        >>> after = Reading(gain=now, net=now, soft_recall=now, head_accuracy=0.8, **both)
        >>> paid = pay(before, after, levels=np.array([0.0, 1.0]), sizes=np.array([5.0, 5.0]), config=RewardConfig())
        >>> paid.rewards.round(3).tolist(), round(paid.stability, 2)
        ([0.61, 0.405], 0.09)
    """
    lost = before.head_accuracy - after.head_accuracy - config.tolerance
    stability = max(0.0, lost) if not np.isnan(lost) else 0.0
    team = after.team
    own = after.net if config.measure == "net" else after.gain
    filled = np.where(np.isnan(own), team, own)
    cost = levels * sizes / max(float(sizes.sum()), 1.0)
    rewards = config.own * filled + config.team * team - config.stability * stability - config.cost * cost
    return Payment(np.asarray(rewards), np.asarray(own), team, stability)
