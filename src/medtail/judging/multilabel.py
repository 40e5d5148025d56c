"""Many findings an image: averages over cells, over rows, and over the tail pooled into one question.

Three ways to average besides the macro mean of `metrics.macro`: *micro* throws all assessed cells into one table,
*sample* averages a value of each image, *tail-pooled* asks whether an image shows any rare finding at all, which is
defined where single rare classes have one to three positives. Cells whose target is NaN take no part; an image whose
value is undefined takes no part in a sample average, and `RowAverage.rows` says how many did.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import numpy as np

from medtail.errors import MedtailError
from medtail.judging.counts import f1_from_counts, ratio
from medtail.judging.metrics import Metric

Pooling = Literal["noisy_or", "max"]
CHUNK = 4096
"""Images whose pairs of classes are compared at once: some megabytes, however long the table."""


@final
@dataclass(frozen=True)
class RowAverage:
    """A mean over images.

    Attributes:
        value: NaN where no image defines it.
        rows: Images averaged.
    """

    value: float
    rows: int


@final
@dataclass(frozen=True)
class CellCounts:
    """Weights of the four kinds of assessed cells, summed over some classes.

    Attributes:
        tp: Called and present.
        fp: Called and absent.
        fn: Not called and present.
        tn: Not called and absent.
    """

    tp: float
    fp: float
    fn: float
    tn: float

    @property
    def precision(self) -> float:
        """TP / (TP + FP), NaN where nothing is called."""
        return float(ratio(self.tp, self.tp + self.fp))

    @property
    def recall(self) -> float:
        """TP / (TP + FN), NaN without positives."""
        return float(ratio(self.tp, self.tp + self.fn))

    @property
    def f1(self) -> float:
        """2TP / (2TP + FP + FN), NaN without positives."""
        return float(f1_from_counts(np.array(self.tp), np.array(self.fp), np.array(self.fn)))

    @property
    def hamming(self) -> float:
        """Share of cells decided wrongly, NaN without cells."""
        wrong = self.fp + self.fn
        return float(ratio(wrong, wrong + self.tp + self.tn))


def count_cells(
    called: np.ndarray, targets: np.ndarray, *, among: np.ndarray | None = None, weights: np.ndarray | None = None
) -> CellCounts:
    """Sum true and false calls over all assessed cells: micro precision, recall and F1, and the Hamming loss.

    Over the tail classes its recall is the *pooled tail recall*.

    Args:
        called: Decisions, bool [N, C].
        targets: [N, C] in {0, 1, NaN}.
        among: bool [C], the classes to count; all if None.
        weights: float [N] >= 0, of rows; 1 a row if None.

    Returns:
        The counts and what follows from them.

    Raises:
        MedtailError: Shapes differ, a target is not 0, 1 or NaN, or a weight is negative.

    Example:
        >>> cells = count_cells(np.array([[True, True], [False, True]]), np.array([[1, 0], [1, np.nan]]))
        >>> cells.precision, cells.recall, round(cells.hamming, 3)
        (0.5, 0.5, 0.667)
    """
    c, y, w = _checked(called, targets, weights)
    if among is not None:
        c, y = c[:, among], y[:, among]
    across, hit, present = w[:, None], c.astype(bool), y == 1
    absent = y == 0
    tp, fp, fn, tn = (
        float(np.sum(across * cells)) for cells in (hit & present, hit & absent, ~hit & present, ~hit & absent)
    )
    return CellCounts(tp, fp, fn, tn)


def micro(metric: Metric, scores: np.ndarray, targets: np.ndarray, *, weights: np.ndarray | None = None) -> float:
    """Apply a metric of one class to all assessed cells at once.

    Micro AP and AUROC compare scores *across* classes: only calibrated scores make that fair. Give the tail's columns
    for the tail-pooled micro AP.

    Args:
        metric: Any function of `metrics`; fix its options with `functools.partial`.
        scores: float [N, C] in [0, 1].
        targets: [N, C] in {0, 1, NaN}.
        weights: float [N] >= 0, of rows; 1 a row if None.

    Returns:
        The metric, NaN where undefined.

    Raises:
        MedtailError: Shapes differ, or values are out of range.

    Example:
        >>> from medtail.judging.metrics import average_precision
        >>> micro(average_precision, np.array([[0.9, 0.2], [0.8, 0.1]]), np.array([[1, 0], [0, np.nan]]))
        1.0
    """
    s, y, w = _checked(scores, targets, weights)
    return metric(s.ravel(), y.ravel(), weights=np.repeat(w, s.shape[1]))


def pool_findings(
    scores: np.ndarray, targets: np.ndarray, *, among: np.ndarray, pooling: Pooling = "noisy_or"
) -> tuple[np.ndarray, np.ndarray]:
    """Turn some classes into one: does the image show any of them?

    The score is 1 - Π(1 - s_c), the chance of any finding if findings were independent, or the highest score. The
    target is 1 if any of them is present, 0 if every one is known to be absent, and NaN (not assessed) otherwise: an
    image nobody examined for one of the findings is no proof that it shows none.

    Args:
        scores: float [N, C] in [0, 1].
        targets: [N, C] in {0, 1, NaN}.
        among: bool [C], the classes to pool, such as the tail.
        pooling: `noisy_or` or `max`.

    Returns:
        Score float64 [N] and target float64 [N]: one class for any metric. Targets are all NaN where no class is
        chosen.

    Raises:
        MedtailError: Shapes differ, a target is not 0, 1 or NaN, or the pooling is unknown.

    Example:
        >>> tail = np.array([True, True])
        >>> s, y = pool_findings(np.array([[0.5, 0.5], [0.2, 0.0]]), np.array([[0, 1], [0, np.nan]]), among=tail)
        >>> s.round(3).tolist(), y.tolist()
        ([0.75, 0.2], [1.0, nan])
    """
    if pooling not in ("noisy_or", "max"):
        raise MedtailError(f"pooling {pooling!r}: expected noisy_or or max.")
    s, y, _ = _checked(scores, targets, None)
    s, y = s[:, among], y[:, among]
    if not s.shape[1]:
        return np.zeros(len(s)), np.full(len(s), np.nan)
    pooled = 1.0 - np.prod(1.0 - s, axis=1) if pooling == "noisy_or" else s.max(axis=1)
    target = np.where((y == 1).any(axis=1), 1.0, np.where(np.isnan(y).any(axis=1), np.nan, 0.0))
    return pooled, target


def sample_averages(
    called: np.ndarray, targets: np.ndarray, *, weights: np.ndarray | None = None
) -> dict[str, RowAverage]:
    """Average precision, recall and F1 of each image's set of findings.

    Each has its own images: precision those with a call, recall and F1 those with a finding. Images without a finding
    are left out of F1 even where something is called, as classes without positives are.

    Args:
        called: Decisions, bool [N, C].
        targets: [N, C] in {0, 1, NaN}.
        weights: float [N] >= 0, of rows; 1 a row if None.

    Returns:
        `precision`, `recall` and `f1`.

    Raises:
        MedtailError: Shapes differ, a target is not 0, 1 or NaN, or a weight is negative.

    Example:
        >>> found = sample_averages(np.array([[True, True], [True, False]]), np.array([[1, 0], [0, 0]]))
        >>> found["precision"], found["recall"]
        (RowAverage(value=0.25, rows=2), RowAverage(value=1.0, rows=1))
    """
    c, y, w = _checked(called, targets, weights)
    hit = c.astype(bool)
    tp, fp, fn = (
        np.asarray(cells.sum(axis=1), dtype=np.float64) for cells in (hit & (y == 1), hit & (y == 0), ~hit & (y == 1))
    )
    values = {"precision": ratio(tp, tp + fp), "recall": ratio(tp, tp + fn), "f1": f1_from_counts(tp, fp, fn)}
    return {name: _row_average(value, w) for name, value in values.items()}


def exact_match(called: np.ndarray, targets: np.ndarray, *, weights: np.ndarray | None = None) -> RowAverage:
    """Compute the share of images whose every class is decided rightly.

    Only images with every class assessed are asked: of the others nobody knows.

    Args:
        called: Decisions, bool [N, C].
        targets: [N, C] in {0, 1, NaN}.
        weights: float [N] >= 0, of rows; 1 a row if None.

    Raises:
        MedtailError: Shapes differ, a target is not 0, 1 or NaN, or a weight is negative.

    Example:
        >>> exact_match(np.array([[True, True], [True, False]]), np.array([[1, 0], [1, 0]]))
        RowAverage(value=0.5, rows=2)
    """
    c, y, w = _checked(called, targets, weights)
    right = np.all(c.astype(bool) == (y == 1), axis=1)
    return _row_average(np.where(np.isnan(y).any(axis=1), np.nan, right), w)


def ranking_averages(
    scores: np.ndarray, targets: np.ndarray, *, weights: np.ndarray | None = None
) -> dict[str, RowAverage]:
    """Judge the order of the classes within each image.

    - `ranking_loss`: share of (present, absent) pairs of classes in the wrong order, a tie being wrong.
    - `lrap` (label ranking average precision): mean over present classes of the share of present ones among the
      classes scored at least as high.
    - `coverage_error`: how far down the list one must go to meet every present class, counting ties.
    - `one_error`: how often the highest-scored class is absent; of several in the first place, the share absent.

    An image needs a present class, for the ranking loss an absent one too. scikit-learn counts the others as perfect
    (ranking loss 0, LRAP 1), which flatters a table full of normal images.

    Args:
        scores: float [N, C] in [0, 1].
        targets: [N, C] in {0, 1, NaN}.
        weights: float [N] >= 0, of rows; 1 a row if None.

    Returns:
        The four by name.

    Raises:
        MedtailError: Shapes differ, a target is not 0, 1 or NaN, or a weight is negative.

    Example:
        >>> found = ranking_averages(np.array([[0.9, 0.5, 0.1]]), np.array([[0, 1, 0]]))
        >>> found["lrap"].value, found["ranking_loss"].value, found["one_error"].value
        (0.5, 0.5, 1.0)

    References:
        schapire2000.
    """
    s, y, w = _checked(scores, targets, weights)
    parts = [_rank_rows(s[at : at + CHUNK], y[at : at + CHUNK]) for at in range(0, max(len(s), 1), CHUNK)]
    names = ("ranking_loss", "lrap", "coverage_error", "one_error")
    return {
        name: _row_average(np.concatenate(values), w)
        for name, values in zip(names, zip(*parts, strict=True), strict=True)
    }


def _rank_rows(scores: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return ranking loss, LRAP, coverage and one-error of each image, NaN where undefined."""
    known, present, absent = ~np.isnan(targets), targets == 1, targets == 0
    at_least = scores[:, :, None] >= scores[:, None, :]
    of_all = (at_least & known[:, :, None]).sum(axis=1)
    of_present = (at_least & present[:, :, None]).sum(axis=1)
    count, others = present.sum(axis=1), absent.sum(axis=1)
    loss = ratio(np.where(present, of_all - of_present, 0).sum(axis=1), count * others)
    precision = ratio(np.where(present, ratio(of_present, of_all), 0.0).sum(axis=1), count)
    depth = np.where(present, of_all, 0).max(axis=1, initial=0)
    first = known & (scores == np.where(known, scores, -np.inf).max(axis=1, initial=-np.inf)[:, None])
    wrong_first = ratio((first & absent).sum(axis=1), first.sum(axis=1))
    return loss, precision, np.where(count > 0, depth, np.nan), np.where(count > 0, wrong_first, np.nan)


def _row_average(values: np.ndarray, weights: np.ndarray) -> RowAverage:
    defined = ~np.isnan(values) & (weights > 0)
    w = weights[defined]
    return RowAverage(float(ratio(np.sum(w * values[defined]), np.sum(w))), int(defined.sum()))


def _checked(
    table: np.ndarray, targets: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Check shapes, targets and weights of a table of scores or decisions."""
    t, y = np.asarray(table), np.asarray(targets, dtype=np.float64)
    w = np.ones(len(y)) if weights is None else np.asarray(weights, dtype=np.float64)
    if t.ndim != 2 or y.shape != t.shape or w.shape != y.shape[:1]:
        raise MedtailError(
            f"multi-label metric: scores or decisions {t.shape}, targets {y.shape}, weights {w.shape};"
            f" expected [N, C], [N, C] and [N]."
        )
    if not np.all((y == 0.0) | (y == 1.0) | np.isnan(y)):
        raise MedtailError("multi-label metric: found a target other than 0, 1 or NaN (not assessed).")
    if not np.all((w >= 0.0) & np.isfinite(w)):
        raise MedtailError("multi-label metric: found a negative or infinite weight; expected finite weights >= 0.")
    return t, y, w
