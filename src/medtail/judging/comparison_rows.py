"""The rows of a comparison's tables: a difference with its verdict, a system with its place, a seed with its value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medtail.judging.intervals import defined_share, percentile_interval
from medtail.judging.paired_draws import Answer
from medtail.judging.pvalues import DETECTABLE_AT, bootstrap_p_value
from medtail.judging.questions import Question
from medtail.judging.ranking import first_shares, ranks, tied_blocks

DIFFERENCE_COLUMNS = (
    "metric", "class", "tail_group", "system_a", "system_b", "difference", "low", "high", "p", "p_holm", "verdict",
    "share_a_better", "smallest_detectable", "non_inferior", "defined_share", "support",
)  # fmt: skip
SYSTEM_COLUMNS = (
    "metric", "class", "tail_group", "system", "value", "low", "high", "rank", "mean_rank", "share_first",
    "tied_block", "tied_with", "mean_class_rank", "replicates", "replicate_sd", "support",
)  # fmt: skip
REPLICATE_COLUMNS = ("metric", "class", "tail_group", "system", "replicate", "value", "low", "high")


def difference_row(
    question: Question,
    answer: Answer,
    names: Sequence[str],
    a: int,
    b: int,
    *,
    interval: float,
    margin: float | None = None,
) -> dict[str, Any]:
    """Return one question's row for two systems; `p_holm` and the verdict of tested rows come with the whole family.

    Args:
        question: What was asked.
        answer: Its values and resampled values.
        names: The systems.
        a: The system subtracted from.
        b: The system subtracted.
        interval: Share of resamples inside the interval.
        margin: Largest loss that does not matter; None for no verdict of non-inferiority.
    """
    drawn = answer.resampled[a] - answer.resampled[b]
    known = drawn[~np.isnan(drawn)]
    spread = float(known.std(ddof=1)) if len(known) > 1 else float("nan")
    # without any spread there is no interval: every resample repeats the same decisions
    low, high = percentile_interval(drawn, level=interval) if spread > 0 else (float("nan"),) * 2
    better = known < 0 if question.lower_is_better else known > 0
    return {
        **question.place,
        "system_a": names[a],
        "system_b": names[b],
        "difference": float(answer.values[a] - answer.values[b]),
        "low": low,
        "high": high,
        "p": float("nan") if question.obstacle else bootstrap_p_value(drawn),
        "verdict": question.obstacle,
        "share_a_better": float((better + (known == 0) / 2).mean()) if len(known) else float("nan"),
        "smallest_detectable": DETECTABLE_AT * spread if spread > 0 else float("nan"),
        "non_inferior": non_inferior(question, low, high, margin),
        "defined_share": defined_share(drawn),
        "support": answer.support,
    }


def non_inferior(question: Question, low: float, high: float, margin: float | None) -> str:
    """Say which of two systems is shown to lose less than the margin to the other: `a`, `b`, `both` or `neither`.

    Example:
        >>> question = Question("ap", "macro", "", "", (0,))
        >>> non_inferior(question, -0.01, 0.04, 0.02), non_inferior(question, -0.01, 0.04, None)
        ('a', '')
    """
    if margin is None or question.obstacle or np.isnan(low):
        return ""
    worst_a, worst_b = (-high, low) if question.lower_is_better else (low, -high)
    return {(True, True): "both", (True, False): "a", (False, True): "b"}.get(
        (worst_a > -margin, worst_b > -margin), "neither"
    )


def verdict_of(row: Any, *, alpha: float) -> str:
    """Say who is ahead in a tested difference, after Holm, only before it, or nobody."""
    question = Question(row["metric"], "macro", "", "", ())
    if np.isnan(row["p"]):
        return "undefined"
    ahead = "a_ahead" if (row["difference"] < 0) == question.lower_is_better else "b_ahead"
    if row["p_holm"] <= alpha + 1e-12:
        return ahead
    return f"{ahead}_uncorrected" if not covers_zero(row) else "tied"


def covers_zero(row: Any) -> bool:
    """Return whether a difference's interval covers 0, or there is none: the two cannot be told apart."""
    return not (row["low"] > 0 or row["high"] < 0)


def system_rows(
    question: Question, answer: Answer, pairs: Sequence[Mapping[str, Any]], names: Sequence[str], *, interval: float
) -> list[dict[str, Any]]:
    """Return a question's row of every system: value, interval, ranks, first places, tied block and ties.

    Args:
        question: What was asked.
        answer: Its values.
        pairs: The rows of all pairs' differences.
        names: The systems.
        interval: Level of the intervals.
    """
    sign = -1.0 if question.lower_is_better else 1.0
    tied = np.eye(len(names), dtype=bool)
    for row in pairs:
        a, b = names.index(row["system_a"]), names.index(row["system_b"])
        tied[a, b] = tied[b, a] = bool(question.obstacle) or covers_zero(row)
    good = sign * answer.values
    place = ranks(good)
    order = sorted(range(len(names)), key=lambda s: (np.isnan(good[s]), -good[s] if good[s] == good[s] else 0.0, s))
    block = {s: number for number, found in enumerate(tied_blocks(order, tied), start=1) for s in found}
    in_resamples = ranks(sign * answer.resampled)
    defined = in_resamples[:, ~np.isnan(in_resamples).any(axis=0)]
    shares = first_shares(sign * answer.resampled)
    over_classes = ranks(sign * answer.class_values)
    rows = []
    for s, name in enumerate(names):
        low, high = percentile_interval(answer.resampled[s], level=interval)
        points = answer.by_seed[s][0]
        rows.append(
            {
                **question.place,
                "system": name,
                "value": float(answer.values[s]),
                "low": low,
                "high": high,
                "rank": float(place[s]),
                "mean_rank": float(defined[s].mean()) if defined.shape[1] else float("nan"),
                "share_first": float(shares[s]),
                "tied_block": block[s],
                "tied_with": "; ".join(other for t, other in enumerate(names) if t != s and tied[s, t]),
                "mean_class_rank": float(over_classes[s].mean()) if over_classes.shape[1] else float("nan"),
                "replicates": len(points),
                "replicate_sd": float(np.std(points, ddof=1)) if len(points) > 1 else float("nan"),
                "support": answer.support,
            }
        )
    return rows


def seed_rows(question: Question, answer: Answer, names: Sequence[str], *, interval: float) -> list[dict[str, Any]]:
    """Return a row a system and training seed; none where every system has one."""
    if all(len(points) == 1 for points, _ in answer.by_seed):
        return []
    rows = []
    for name, (points, drawn) in zip(names, answer.by_seed, strict=True):
        for r, point in enumerate(points):
            low, high = percentile_interval(drawn[r], level=interval)
            place = {**question.place, "system": name, "replicate": r + 1}
            rows.append({**place, "value": float(point), "low": low, "high": high})
    return rows
