"""Leaving the doubtful to a person: how much better the rest becomes, and who is left behind.

A model that refuses its least confident fifth looks better on the others. It may do so by refusing the rare class, or
one group of patients: refusal rates stand beside the risk. Rows of equal confidence are refused together in
proportion, so neither their order nor a tie at the cut changes a number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from medtail.errors import MedtailError, Problems
from medtail.judging.bootstrap import BAYESIAN_UNIT, PatientWeights, draw_weights, number_patients
from medtail.judging.confusion import true_and_called
from medtail.judging.counts import ratio
from medtail.judging.decisions import decide
from medtail.judging.evaluation import EvaluationConfig
from medtail.judging.headers import results_header
from medtail.judging.proportions import interval_row
from medtail.tables.predictions import Predictions
from medtail.tables.results import Results, results_from_rows

COVERAGES = (0.8, 0.9)
"""Shares of images kept at which risk and refusals are reported."""
EDGE = 1e-12
"""Scores are kept this far from 0 and 1 before their logit is taken."""


@final
@dataclass(frozen=True)
class RiskCoverage:
    """Share of mistakes among the rows kept, a point a distinct confidence from the highest down.

    Attributes:
        coverage: Share of rows kept, float64 [K], ascending to 1.
        risk: Share of mistakes among them, float64 [K].
        confidence: Rows at least this confident are kept, float64 [K].
    """

    coverage: np.ndarray
    risk: np.ndarray
    confidence: np.ndarray


def decision_confidence(predictions: Predictions) -> np.ndarray:
    """Say how sure each decision is.

    In an exclusive group the highest score of its classes, the same for all of them; elsewhere the distance of the
    score from its threshold, |logit s - logit t|.

    Args:
        predictions: Scores, and thresholds if there are any.

    Returns:
        float64 [N, C] >= 0.

    Example:
        >>> from medtail.tables.labels import LabelSpace
        >>> ids = np.array(["a"], dtype=object)
        >>> rows = Predictions(ids, ids, np.array([[0.7, 0.3, 0.5]]), np.array([[1.0, 0, 1]]),
        ...                    LabelSpace.from_columns(["t=x", "t=y", "halo"]), ids)
        >>> decision_confidence(rows).tolist()
        [[0.7, 0.7, 0.0]]
    """
    limits = _logit(predictions.threshold_array)
    found: np.ndarray = np.abs(_logit(predictions.scores) - limits)
    for indices in predictions.labels.group_indices:
        columns = list(indices)
        found[:, columns] = predictions.scores[:, columns].max(axis=1, keepdims=True)
    return found


def risk_coverage(confidence: np.ndarray, wrong: np.ndarray) -> RiskCoverage:
    """Return the curve of risk against coverage.

    Args:
        confidence: float [N].
        wrong: bool [N], the mistakes.

    Example:
        >>> curve = risk_coverage(np.array([0.9, 0.8, 0.7]), np.array([False, True, False]))
        >>> curve.risk.round(3).tolist(), curve.coverage.round(3).tolist()
        ([0.0, 0.5, 0.333], [0.333, 0.667, 1.0])

    References:
        geifman2017.
    """
    ranked = rank_runs(confidence)
    total, mistakes = (
        np.cumsum(ranked.sums(column)) for column in (np.ones(len(confidence)), np.asarray(wrong, float))
    )
    at = np.asarray(confidence, dtype=np.float64)[ranked.order][ranked.starts]
    return RiskCoverage(total / max(len(confidence), 1), mistakes / np.maximum(total, 1), at)


def area_under_risk_coverage(confidence: np.ndarray, wrong: np.ndarray) -> float:
    """Compute AURC, the mean over k of the risk among the k most confident rows; lower is better.

    Args:
        confidence: float [N].
        wrong: bool [N].

    Returns:
        A value in [0, 1]; NaN without rows. Ties count as the mean over their orders.

    Example:
        >>> area_under_risk_coverage(np.array([0.9, 0.8]), np.array([False, True]))
        0.25

    References:
        geifman2019.
    """
    ones, mistakes = np.ones(len(confidence)), np.asarray(wrong, dtype=float)
    ranked = rank_runs(confidence)
    return float(_area(ranked.sums(ones)[:, None], ranked.sums(mistakes)[:, None])[0])


def risk_at_coverage(confidence: np.ndarray, wrong: np.ndarray, *, coverage: float) -> float:
    """Compute the share of mistakes among the most confident rows.

    Args:
        confidence: float [N].
        wrong: bool [N].
        coverage: Share of rows kept, in (0, 1]; a row at the cut counts in part.

    Returns:
        A value in [0, 1]; NaN without rows.

    Raises:
        MedtailError: The coverage is outside (0, 1].

    Example:
        >>> risk_at_coverage(np.array([0.9, 0.8, 0.7, 0.1]), np.array([False, True, False, True]), coverage=0.5)
        0.5
    """
    _check_coverages([coverage])
    ranked = rank_runs(confidence)
    total, mistakes = (ranked.sums(v)[:, None] for v in (np.ones(len(confidence)), np.asarray(wrong, dtype=float)))
    kept = _kept(total, coverage)
    return float(ratio((kept * mistakes).sum(axis=0), (kept * total).sum(axis=0))[0])


def judge_abstention(
    predictions: Predictions,
    *,
    coverages: Sequence[float] = COVERAGES,
    subgroups: Mapping[str, np.ndarray] | None = None,
    config: EvaluationConfig | None = None,
) -> Results:
    """Measure what refusing the least confident decisions gains, and who is refused, with patient-level intervals.

    Decisions of an exclusive group are refused together, those of a free class on their own; the rows of a group have
    its name as `class`. `risk` is the share of wrong decisions, `aurc` and `risk_at_coverage@X` what abstention makes
    of it. `refusal_rate@X` of a class is over the images that have it; of a subgroup, over all of its images, with
    `risk_at_coverage@X` among those of it that are kept.

    Args:
        predictions: Scores, targets and thresholds.
        coverages: Shares of decisions kept, in (0, 1].
        subgroups: Name of a column → its value for each row, text [N]; empty values are no subgroup.
        config: Resamples, scheme, seed and interval; the defaults if None.

    Returns:
        The results; a subgroup is written `column=value`.

    Raises:
        MedtailError: Coverages outside (0, 1], subgroups of another length, or no rows.

    Example:
        >>> from medtail.tables.labels import LabelSpace
        >>> ids = np.array(list("abcd"), dtype=object)
        >>> rows = Predictions(ids, ids, np.array([[0.9], [0.6], [0.45], [0.1]]), np.array([[1.0], [1], [1], [0]]),
        ...                    LabelSpace(("Hernia",)), np.array(["test"] * 4, dtype=object))
        >>> kept = judge_abstention(rows, coverages=[0.75])
        >>> kept.value("risk", class_name="Hernia"), kept.value("risk_at_coverage@0.75", class_name="Hernia")
        (0.25, 0.0)

    References:
        geifman2017, geifman2019, jones2021.
    """
    config = config or EvaluationConfig()
    _check_coverages(coverages)
    problems = Problems("abstention")
    if not len(predictions):
        problems.add(f"{predictions.name}: no rows to judge.")
    for name, values in (subgroups or {}).items():
        if len(values) != len(predictions):
            problems.add(f"subgroups {name!r}: {len(values)} values for {len(predictions)} rows.")
    problems.raise_if_any()
    patients, total = number_patients(predictions.patients)
    weights = draw_weights(total, resamples=config.bootstrap, scheme=config.scheme, seed=config.seed)
    called, confidence = decide(predictions), decision_confidence(predictions)
    labels, rows = predictions.labels, []
    for name, columns in decision_families(predictions):
        targets = predictions.targets[:, columns]
        if len(columns) > 1:
            true, guess = true_and_called(targets, called[:, columns])
            kept, wrong = np.flatnonzero(true >= 0), (true != guess)
            classes = {labels.class_names[c]: true == i for i, c in enumerate(columns)}
        else:
            kept, wrong = np.flatnonzero(~np.isnan(targets[:, 0])), called[:, columns[0]] != (targets[:, 0] == 1)
            classes = {name: targets[:, 0] == 1}
        masks = {("class", n): mask[kept] for n, mask in classes.items()}
        for column, values in (subgroups or {}).items():
            text = np.asarray(values).astype(str)
            masks |= {("subgroup", f"{column}={v}"): (text == v)[kept] for v in sorted(set(text) - {""})}
        rows += _family_rows(
            name, confidence[kept, columns[0]], wrong[kept], masks, patients[kept], weights, coverages, config
        )
    return results_from_rows(rows, header=results_header(predictions, num_patients=total, config=config))


@final
@dataclass(frozen=True)
class RankedRuns:
    """Rows from the most confident down, in runs of equal confidence.

    Attributes:
        order: Row indices, int64 [N].
        starts: Where in `order` each run starts, int64 [K].
    """

    order: np.ndarray
    starts: np.ndarray

    def sums(self, column: np.ndarray) -> np.ndarray:
        """Sum a column over each run, [N, …] to [K, …]."""
        ordered = column[self.order]
        return np.asarray(np.add.reduceat(ordered, self.starts, axis=0)) if len(self.starts) else ordered


def rank_runs(confidence: np.ndarray) -> RankedRuns:
    """Sort rows once, for every resample.

    Example:
        >>> rank_runs(np.array([0.1, 0.9, 0.1])).sums(np.ones(3)).tolist()
        [1.0, 2.0]
    """
    order = np.argsort(-np.asarray(confidence, dtype=np.float64), kind="stable")
    ordered = np.asarray(confidence)[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])) if len(order) else np.empty(0, dtype=np.int64)
    return RankedRuns(order, starts)


def _kept(total: np.ndarray, coverage: float) -> np.ndarray:
    """Return the share of each run that is kept, [K, B] for run weights [K, B]."""
    before = np.cumsum(total, axis=0) - total
    room = coverage * total.sum(axis=0) - before
    return np.asarray(np.clip(np.divide(room, total, out=np.zeros_like(total), where=total > 0), 0.0, 1.0))


def _area(total: np.ndarray, mistakes: np.ndarray) -> np.ndarray:
    """Return AURC for run weights and mistakes [K, B].

    The m rows of a run enter one by one, each bringing the run's mean mistake r: the j-th risk is (E + j r) / (N + j),
    and these sum to r m + (E - r N) (H_{N+m} - H_N) with H the harmonic numbers.
    """
    from scipy.special import digamma

    after = np.cumsum(total, axis=0)
    before, wrong_before = after - total, np.cumsum(mistakes, axis=0) - mistakes
    rate = np.divide(mistakes, total, out=np.zeros_like(total), where=total > 0)
    steps = digamma(after + 1.0) - digamma(before + 1.0)
    summed = (rate * total + (wrong_before - rate * before) * steps).sum(axis=0)
    return ratio(summed, total.sum(axis=0))


def row_weights(patients: np.ndarray, weights: PatientWeights) -> Iterator[np.ndarray]:
    """Yield the weights of rows: as they are, [n, 1], then in each block of resamples, [n, up to 64].

    Example:
        >>> [lanes.shape for lanes in row_weights(np.array([0, 0]), draw_weights(1, resamples=70))]
        [(2, 1), (2, 64), (2, 6)]
    """
    yield np.ones((len(patients), 1))
    unit = BAYESIAN_UNIT if weights.scheme == "bayesian" else 1
    for number, block in enumerate(weights.blocks):
        used = min(block.shape[1], weights.resamples - number * block.shape[1])
        yield block[patients][:, :used] / unit


def _family_rows(
    name: str,
    confidence: np.ndarray,
    wrong: np.ndarray,
    masks: Mapping[tuple[str, str], np.ndarray],
    patients: np.ndarray,
    weights: PatientWeights,
    coverages: Sequence[float],
    config: EvaluationConfig,
) -> list[Mapping[str, Any]]:
    ranked, found = rank_runs(confidence), dict[tuple[str, str, str], list[np.ndarray]]()

    def add(metric: str, class_name: str, subgroup: str, values: np.ndarray) -> None:
        found.setdefault((metric, class_name, subgroup), []).append(values)

    for lanes in row_weights(patients, weights):
        total, mistakes = ranked.sums(lanes), ranked.sums(lanes * wrong[:, None])
        add("risk", name, "", ratio(mistakes.sum(axis=0), total.sum(axis=0)))
        add("aurc", name, "", _area(total, mistakes))
        kept = {coverage: _kept(total, coverage) for coverage in coverages}
        for coverage, share in kept.items():
            add(f"risk_at_coverage@{coverage:g}", name, "", ratio((share * mistakes).sum(0), (share * total).sum(0)))
        for (kind, value), mask in masks.items():
            members = ranked.sums(lanes * mask[:, None])
            faults = ranked.sums(lanes * (mask & wrong)[:, None])
            where = (value, "") if kind == "class" else (name, value)
            for coverage, share in kept.items():
                accepted = (share * members).sum(axis=0)
                add(f"refusal_rate@{coverage:g}", *where, 1.0 - ratio(accepted, members.sum(axis=0)))
                if kind == "subgroup":
                    add(f"risk_at_coverage@{coverage:g}", *where, ratio((share * faults).sum(axis=0), accepted))
    members_of = {("", value) if kind == "subgroup" else (value, ""): mask for (kind, value), mask in masks.items()}
    rows: list[Mapping[str, Any]] = []
    for (metric, class_name, subgroup), parts in found.items():
        values = np.concatenate(parts)
        counted = metric.startswith("refusal") or subgroup
        mask = members_of["" if subgroup else class_name, subgroup] if counted else np.ones(len(confidence), dtype=bool)
        behind = len(np.unique(patients[mask]))
        if metric.startswith("risk_at_coverage@"):  # about so many of them are kept
            behind = int(float(metric.partition("@")[2]) * behind)
        place = {"metric": metric, "class": class_name, "subgroup": subgroup, "support": int(mask.sum())}
        proportion = None if metric == "aurc" else behind
        rows.append({**place, **interval_row(float(values[0]), values[1:], level=config.interval, patients=proportion)})
    return rows


def decision_families(predictions: Predictions) -> list[tuple[str, list[int]]]:
    """Return what is decided together: exclusive groups with their columns, then each free class with its own."""
    labels = predictions.labels
    groups = [(group.name, list(at)) for group, at in zip(labels.groups, labels.group_indices, strict=True)]
    return [*groups, *((labels.class_names[c], [c]) for c in labels.free_indices)]


def _check_coverages(coverages: Sequence[float]) -> None:
    for coverage in coverages:
        if not 0.0 < coverage <= 1.0:
            raise MedtailError(f"coverage {coverage!r}: expected a share of rows kept, in (0, 1].")


def _logit(scores: np.ndarray) -> np.ndarray:
    inside = np.clip(scores, EDGE, 1.0 - EDGE)
    return np.asarray(np.log(inside) - np.log1p(-inside))
