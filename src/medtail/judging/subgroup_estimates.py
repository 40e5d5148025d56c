"""What is measured on a subgroup and on the rest, on the rows as they are and in every resample.

All subgroups see the same resamples of patients, so that a gap between two of them has an interval of its own. Only
what can be compared between groups of different prevalence and size is measured: average precision and precision
at one common prevalence, and the calibration error with the part that smallness alone makes taken off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from medtail.judging.additive import SparseColumns, resample_columns, spread_columns
from medtail.judging.bootstrap import (
    BAYESIAN_UNIT,
    FIRST,
    LANES,
    LAST,
    POSITIVE,
    Engine,
    PatientWeights,
    RankedRows,
    fixed_point,
    in_threads,
    pays_to_compile,
    rank_rows,
)
from medtail.judging.counts import calibration_gaps, ratio
from medtail.judging.metrics import auroc
from medtail.judging.proportions import spread_unanimous
from medtail.judging.retarget import average_precision_at

SUBGROUP_METRICS = (
    "auroc",
    "ap_at_prevalence",
    "recall",
    "fnr",
    "specificity",
    "fpr",
    "precision_at_prevalence",
    "observed_to_expected",
    "ece_debiased",
    "prevalence",
)
"""In the order of their rows. `prevalence` describes the patients, not the model."""
SHARES = {"recall": "positive", "fnr": "positive", "specificity": "negative", "fpr": "negative"}
"""Plain shares of patients' rows and whose; one observed as exactly 0 or 1 has no spread in the resamples."""


@final
@dataclass(frozen=True)
class Measured:
    """A class's metrics on some rows.

    Attributes:
        values: Metric → value.
        resampled: Metric → float64 [B].
    """

    values: Mapping[str, float]
    resampled: Mapping[str, np.ndarray]


@final
@dataclass(frozen=True)
class Sums:
    """A class's additive totals on some rows; a trailing axis holds the resamples, in units of a row.

    Attributes:
        true: Called positives.
        false: Called negatives.
        rows: Rows in each bin of the score, [bins, …].
        positives: Positives in each bin.
        scores: Sum of scores in each bin.
    """

    true: np.ndarray
    false: np.ndarray
    rows: np.ndarray
    positives: np.ndarray
    scores: np.ndarray

    def plus(self, other: Sums) -> Sums:
        """Add the totals of other rows."""
        return Sums(
            self.true + other.true,
            self.false + other.false,
            self.rows + other.rows,
            self.positives + other.positives,
            self.scores + other.scores,
        )

    def minus(self, other: Sums) -> Sums:
        """Take away the totals of some of the rows."""
        return Sums(
            self.true - other.true,
            self.false - other.false,
            self.rows - other.rows,
            self.positives - other.positives,
            self.scores - other.scores,
        )


def debiased_ece(rows: np.ndarray, positives: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Compute the squared calibration error less what chance alone adds to it.

    Σ n_b/N [ (ȳ_b − s̄_b)² − ȳ_b(1 − ȳ_b)/(n_b − 1) ]: its expectation is 0 for calibrated scores at any N, while
    the plain error grows as a subgroup shrinks. Bins of one row say nothing and are left out, of N too; the result may
    be below 0. `calibration_error.debiased_squared_error` is the same from rows.

    Args:
        rows: Rows in each bin, float [bins, …].
        positives: Positives in each bin.
        scores: Sum of scores in each bin.

    Returns:
        float64 […], NaN where no bin holds more than one row.

    Example:
        >>> debiased_ece(np.array([4.0]), np.array([1.0]), np.array([1.0])).item()
        -0.0625

    References:
        kumar2019.
    """
    share, mean = ratio(positives, rows), ratio(scores, rows)
    enough = rows > 1
    excess = np.zeros(rows.shape)
    np.divide(share * (1.0 - share), rows - 1.0, out=excess, where=enough)
    bins = np.where(enough, rows * ((share - mean) ** 2 - excess), 0.0)
    return ratio(bins.sum(axis=0), np.where(enough, rows, 0.0).sum(axis=0))


def from_sums(sums: Sums, *, prevalence: float) -> dict[str, np.ndarray]:
    """Turn additive totals into metrics.

    Args:
        sums: Totals, or totals of every resample.
        prevalence: The common prevalence, in [0, 1].

    Returns:
        Every subgroup metric but the two ranked ones.
    """
    rows, positives, scores = (part.sum(axis=0) for part in (sums.rows, sums.positives, sums.scores))
    negatives = rows - positives
    shares = from_shares(ratio(sums.true, positives), ratio(sums.false, negatives), prevalence=prevalence)
    return shares | {
        "observed_to_expected": ratio(positives, scores),
        "ece_debiased": debiased_ece(sums.rows, sums.positives, sums.scores),
        "prevalence": ratio(positives, rows),
    }


def from_shares(recall: np.ndarray, fpr: np.ndarray, *, prevalence: float) -> dict[str, np.ndarray]:
    """Turn recall and false positive rate into what follows from them, precision at the common prevalence too.

    Example:
        >>> found = from_shares(np.array([0.8]), np.array([0.1]), prevalence=0.2)
        >>> found["precision_at_prevalence"].round(3).tolist()
        [0.667]
    """
    true, false = recall * prevalence, fpr * (1.0 - prevalence)
    return {
        "recall": recall,
        "fnr": 1.0 - recall,
        "specificity": 1.0 - fpr,
        "fpr": fpr,
        "precision_at_prevalence": ratio(true, true + false),
    }


@final
@dataclass(frozen=True)
class ClassRows:
    """One class's scores, targets, decisions and bins of all rows.

    Attributes:
        scores: float64 [N].
        targets: float64 [N] in {0, 1, NaN}.
        called: bool [N].
        patients: Numbers into the weights, int32 [N].
        bin_of: Bin of the score of each assessed row, int64 [N], -1 elsewhere.
        bins: Number of bins.
        prevalence: The common prevalence.
    """

    scores: np.ndarray
    targets: np.ndarray
    called: np.ndarray
    patients: np.ndarray
    bin_of: np.ndarray
    bins: int
    prevalence: float


def class_rows(
    scores: np.ndarray, targets: np.ndarray, *, called: np.ndarray, patients: np.ndarray, bins: int, prevalence: float
) -> ClassRows:
    """Put a class's rows together and find the bin of every score."""
    known = ~np.isnan(targets)
    bin_of = np.full(len(scores), -1, dtype=np.int64)
    bin_of[known] = calibration_gaps(scores[known], targets[known], bins=bins)[0]
    return ClassRows(scores, targets, called, patients, bin_of, bins, prevalence)


def sum_rows(rows: ClassRows, chosen: np.ndarray) -> Sums:
    """Add up the assessed ones of the chosen rows (bool [N]) as they are."""
    at = np.flatnonzero(chosen & (rows.bin_of >= 0))
    y, s, yes, bins = rows.targets[at], rows.scores[at], rows.called[at], rows.bin_of[at]
    binned = [np.bincount(bins, weights=part, minlength=rows.bins) for part in (np.ones(len(at)), y, s)]
    return Sums(np.asarray(np.sum(yes * y)), np.asarray(np.sum(yes * (1.0 - y))), *binned)


def resample_rows(
    rows: ClassRows, groups: Sequence[np.ndarray], weights: PatientWeights, *, engine: Engine = "numpy"
) -> list[Sums]:
    """Add up the assessed ones of each group's rows (bool [N]) in every resample.

    The sums are exact, so that what is left of a total less a group is to the last digit the sum of the others.
    """
    parts = [_columns(rows, np.flatnonzero(chosen & (rows.bin_of >= 0)), weights) for chosen in groups]
    unit = float(BAYESIAN_UNIT) if weights.scheme == "bayesian" else 1.0
    found = []
    for total in resample_columns(parts, weights, engine=engine):
        total /= unit  # a power of two: still exact
        binned = [total[2 + part * rows.bins : 2 + (part + 1) * rows.bins] for part in range(3)]
        found.append(Sums(total[0], total[1], *binned))
    return found


def _columns(rows: ClassRows, at: np.ndarray, weights: PatientWeights) -> SparseColumns:
    """Lay out, of the rows named, called positives and negatives, then rows, positives and scores of each bin."""
    # a grid fine enough for all rows: totals of groups then add up exactly
    s = fixed_point(rows.scores[at], rows=len(rows.scores), heaviest=weights.heaviest)
    owners, yes, positive, bin_of = rows.patients[at], rows.called[at], rows.targets[at] == 1, rows.bin_of[at]
    ones = np.ones(len(at))
    entries = [
        (np.zeros(len(at), dtype=np.int64), yes & positive, ones),
        (np.ones(len(at), dtype=np.int64), yes & ~positive, ones),
        (2 + bin_of, np.ones(len(at), dtype=bool), ones),
        (2 + rows.bins + bin_of, positive, ones),
        (2 + 2 * rows.bins + bin_of, s > 0, s),
    ]
    index = np.concatenate([column[kept] for column, kept, _ in entries])
    values = np.concatenate([value[kept] for _, kept, value in entries])
    patients = np.concatenate([owners[kept] for _, kept, _ in entries])
    return spread_columns(index, patients, values, num_columns=2 + 3 * rows.bins)


def measure(
    rows: ClassRows,
    chosen: np.ndarray,
    *,
    resampled: Sums,
    weights: PatientWeights,
    engine: Engine = "numpy",
    seed: int = 0,
    name: str = "",
) -> Measured:
    """Compute every metric of a class on the chosen rows.

    Args:
        rows: The class.
        chosen: bool [N].
        resampled: `resample_rows` of the chosen rows.
        weights: Of the patients.
        engine: Of the ranked metrics; both give the same.
        seed: The run's seed.
        name: Of these rows, for random streams.

    Returns:
        Values and resampled values. The resamples of `ece_debiased` are moved so that their mean is the value:
        drawing patients adds noise of its own to a square, which would pass for miscalibration. A recall or
        specificity of exactly 0 or 1, which every resample would repeat, gets the spread its patients allow.
    """
    s, y = rows.scores[chosen], rows.targets[chosen]
    values = {
        name: float(value) for name, value in from_sums(sum_rows(rows, chosen), prevalence=rows.prevalence).items()
    }
    values["auroc"] = auroc(s, y)
    values["ap_at_prevalence"] = average_precision_at(s, y, prevalence=rows.prevalence)
    spread = from_sums(resampled, prevalence=rows.prevalence)
    owners = rows.patients[chosen]
    for share, side in (("recall", 1.0), ("fpr", 0.0)):
        if values[share] in (0.0, 1.0):
            patients = len(np.unique(owners[y == side]))
            spread[share] = spread_unanimous(
                values[share], patients=patients, resamples=weights.resamples, seed=seed, purpose=f"{share}/{name}"
            )
    spread |= from_shares(spread["recall"], spread["fpr"], prevalence=rows.prevalence)
    totals = (resampled.positives.sum(axis=0), (resampled.rows - resampled.positives).sum(axis=0))
    ranked = rank_rows(s, y, rows.patients[chosen])
    spread["ap_at_prevalence"], spread["auroc"] = resample_shifted(
        ranked, weights, totals=totals, prevalence=rows.prevalence, engine=engine
    )
    spread["ece_debiased"] = recentred(spread["ece_debiased"], values["ece_debiased"])
    return Measured(values, spread)


def recentred(resampled: np.ndarray, value: float) -> np.ndarray:
    """Move resamples so that their mean over the defined ones is the value.

    Example:
        >>> recentred(np.array([1.0, 3.0]), 0.5).tolist()
        [-0.5, 1.5]
    """
    known = resampled[~np.isnan(resampled)]
    return resampled - (known.mean() - value) if len(known) else resampled


def resample_shifted(
    ranked: RankedRows,
    weights: PatientWeights,
    *,
    totals: tuple[np.ndarray, np.ndarray],
    prevalence: float,
    engine: Engine = "auto",
) -> tuple[np.ndarray, np.ndarray]:
    """Compute average precision at a given prevalence, and AUROC, in every resample.

    A positive weighs π'/π and a negative (1 − π')/(1 − π), π the resample's own prevalence.

    Args:
        ranked: One class's ranked rows.
        weights: Of the patients they name.
        totals: Weight of the positives and of the negatives in each resample, float64 [B] each, in rows.
        prevalence: π', in [0, 1].
        engine: `numpy`, `compiled`, or the faster one for this size (`auto`).

    Returns:
        AP and AUROC, float64 [B] each, NaN where a resample lacks positives or negatives.

    References:
        saito2015.
    """
    padded = len(weights.blocks) * LANES
    positive, negative = (np.pad(total, (0, padded - len(total))) for total in totals)
    both = (positive > 0) & (negative > 0)
    ap, auc = np.full(padded, np.nan), np.full(padded, np.nan)
    if not (ranked.flags & POSITIVE).any() or not both.any():
        return ap[: weights.resamples], auc[: weights.resamples]
    assert prevalence > 0, "a prevalence is common to rows that hold positives"
    odds = (1.0 - prevalence) / prevalence
    negative_weight = odds * np.divide(positive, negative, out=np.zeros(padded), where=both)
    compiled = engine == "compiled" or (engine == "auto" and pays_to_compile(len(ranked.flags) * padded))
    run = _compiled_block() if compiled else _numpy_block
    unit = float(BAYESIAN_UNIT) if weights.scheme == "bayesian" else 1.0

    def work(block: int) -> None:
        lanes = slice(block * LANES, (block + 1) * LANES)
        precision_sum, lost_sum = run(ranked, weights.blocks[block], negative_weight[lanes])
        defined = both[lanes]
        p, n = positive[lanes] * unit, negative[lanes] * unit
        ap[lanes] = np.divide(precision_sum, p, out=np.full(LANES, np.nan), where=defined)
        auc[lanes] = 1.0 - np.divide(lost_sum, 2.0 * p * n, out=np.full(LANES, np.nan), where=defined)

    in_threads(work, range(len(weights.blocks)), threads=None if compiled else 1)
    return ap[: weights.resamples], auc[: weights.resamples]


def _compiled_block() -> Callable[[RankedRows, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    from medtail.judging.subgroup_kernel import shifted_block  # here, once: not in several threads at a time

    def run(rows: RankedRows, weights: np.ndarray, negative_weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        lanes = weights.shape[1]
        precision_sum, lost_sum = np.zeros(lanes), np.zeros(lanes)
        totals = np.zeros((4, lanes), dtype=_total_kind(rows, weights))
        shifted_block(rows.patients, rows.flags, weights, negative_weight, totals, precision_sum, lost_sum)
        return precision_sum, lost_sum

    return run


def _total_kind(rows: RankedRows, weights: np.ndarray) -> type[np.signedinteger]:
    return np.int32 if len(rows.flags) * int(np.iinfo(weights.dtype).max) < 2**31 else np.int64


def _numpy_block(rows: RankedRows, weights: np.ndarray, negative_weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Do what the kernel does with segment sums: only runs that hold a positive need a total of their own."""
    starts = np.flatnonzero(rows.flags & FIRST)
    ends = np.flatnonzero(rows.flags & LAST) + 1
    cuts = np.union1d(starts, np.append(ends[ends < len(rows.flags)], 0))
    segments = np.add.reduceat(weights[rows.patients], cuts, axis=0, dtype=np.int64)
    seen = np.cumsum(segments, axis=0)
    at = np.searchsorted(cuts, starts)
    positive = np.flatnonzero(rows.flags & POSITIVE)
    gained = np.add.reduceat(
        weights[rows.patients[positive]], np.searchsorted(positive, starts), axis=0, dtype=np.int64
    )
    true = np.cumsum(gained, axis=0)
    after, before = seen[at], seen[at] - segments[at]
    false_before, false_after = before - (true - gained), after - true
    weighed = true + negative_weight * false_after
    precise = np.divide(true, weighed, out=np.zeros(weighed.shape), where=weighed > 0)
    # cumsum adds row by row, in the kernel's order: the last digit agrees
    precision_sum = np.cumsum(gained * precise, axis=0)[-1]
    lost_sum = np.cumsum(gained.astype(np.float64) * (false_before + false_after), axis=0)[-1]
    return precision_sum, lost_sum
