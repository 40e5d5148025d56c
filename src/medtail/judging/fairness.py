"""Subgroups: does the model serve everybody alike, and could the data show it if it did not?

Every metric of every class in every subgroup, with its interval; the gap between a subgroup and the rest from the
same resamples of patients, so that the gap has an interval and a p-value of its own, corrected for how many were
asked. Too small a group gets no value but keeps its counts: it is flagged, never hidden. Who is in which group is
said in `subgroups`, what is measured in `subgroup_estimates`, and `fairness_words` puts it into sentences.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import permutations
from typing import TYPE_CHECKING, Any, final

import numpy as np

from medtail.judging.bootstrap import PatientWeights, rank_rows, resample_ranked
from medtail.judging.estimates import ClassCensus, Estimates, take_census
from medtail.judging.intervals import mean_of_defined, percentile_interval
from medtail.judging.metrics import auroc, macro
from medtail.judging.pvalues import bootstrap_p_value, holm
from medtail.judging.subgroup_estimates import SUBGROUP_METRICS
from medtail.judging.subgroup_study import (
    FEWEST_PATIENTS,
    Part,
    Study,
    choose_engine,
    is_enough,
    measure_division,
    rows_key,
)
from medtail.judging.subgroups import Division, divide
from medtail.tables.predictions import Predictions
from medtail.tables.tail import TAIL_GROUPS, TailGroups

if TYPE_CHECKING:
    from medtail.judging.evaluation import EvaluationConfig

Row = dict[str, Any]
LOWER_IS_BETTER = ("fnr", "fpr", "ece_debiased")
MODEL_METRICS = tuple(name for name in SUBGROUP_METRICS if name != "prevalence")
"""What may differ because of the model; prevalence differs because patients do."""


@final
@dataclass
class _Family:
    """The comparisons of one metric that are corrected together."""

    places: list[Row] = field(default_factory=list)
    keys: list[object] = field(default_factory=list)
    p_values: list[float] = field(default_factory=list)

    def rows(self, metric: str) -> list[Row]:
        """Return each comparison's p-value as it is and after Holm's correction.

        A comparison asked twice (F against M is M against F) counts once.
        """
        asked = dict(zip(self.keys, self.p_values, strict=True))
        corrected = dict(zip(asked, holm(np.array(list(asked.values()))), strict=True))
        rows: list[Row] = []
        for place, key, p in zip(self.places, self.keys, self.p_values, strict=True):
            rows.append({"metric": f"p:gap:{metric}", **place, "value": p})
            rows.append({"metric": f"p_holm:gap:{metric}", **place, "value": float(corrected[key])})
        return rows

    @property
    def size(self) -> int:
        """How many different comparisons were asked and could be answered."""
        return len({key for key, p in zip(self.keys, self.p_values, strict=True) if not np.isnan(p)})


def subgroup_rows(
    predictions: Predictions,
    columns: Mapping[str, np.ndarray],
    *,
    called: np.ndarray,
    patients: np.ndarray,
    weights: PatientWeights,
    config: EvaluationConfig,
    overall: Estimates | None = None,
    tail: TailGroups | None = None,
    depth: int = 2,
) -> list[Row]:
    """Measure every class in every subgroup, and the gap to the rest.

    Metrics: `auroc, ap_at_prevalence, recall, fnr, specificity, fpr, precision_at_prevalence, observed_to_expected,
    ece_debiased, prevalence`; the prevalence they are "at" is the class's in the whole sample. Beside each `METRIC`
    stand `gap:METRIC` (the subgroup less all other rows of known value, interval from the same resamples),
    `p:gap:METRIC` and `p_holm:gap:METRIC` (see `gap_p_value`; Holm over all subgroups and classes of the metric,
    `n_comparisons:gap:METRIC` of them). Counts of a class in a subgroup are `n_rows, n_patients, n_pos,
    n_pos_patients, n_neg_patients`; `too_few_patients` is 1 where fewer than 10 positive or 10 negative patients are
    there, and every value is NaN then. An empty class is the mean over the classes printed, their number in
    `support`; for a gap, over those printed on both sides. Of each column (its name in `subgroup`) and class there is
    `max_gap:METRIC`, the largest less the smallest value of the known subgroups, and `max_gap_by_chance:METRIC`, what
    that difference would be if all were alike; `worst:METRIC` repeats the row of the subgroup served worst.

    Args:
        predictions: Scores and targets.
        columns: Name → text [N]; see `subgroups.columns_from_manifest`. Two or more are also crossed in pairs.
        called: Decisions, bool [N, C].
        patients: Patient numbers into `weights`, int [N].
        weights: The resamples.
        config: Of the evaluation: the interval's level and the bins of the calibration error are used.
        overall: Estimates of the whole sample; saves counting it again.
        tail: Each class's tail group, for the rows and for means over head, medium and tail.
        depth: 1 leaves the crossings out.

    Returns:
        Mappings for `results_from_rows`.

    Raises:
        MedtailError: No column, lengths that differ, or a column of more than 20 values.

    Example:
        >>> from medtail.judging.bootstrap import draw_weights
        >>> from medtail.judging.evaluation import EvaluationConfig
        >>> from medtail.tables.labels import LabelSpace
        >>> from medtail.tables.results import results_from_rows
        >>> n = 80
        >>> ids = np.array([f"i{row}" for row in range(n)], dtype=object)
        >>> targets = (np.arange(n) % 2).astype(float)[:, None]
        >>> scores = np.where(np.arange(n) < 40, 0.25 + targets[:, 0] / 2, 0.5)[:, None]
        >>> sex = np.where(np.arange(n) < 40, "F", "M").astype(object)
        >>> predictions = Predictions(ids, ids, scores, targets, LabelSpace(("Hernia",)), ids)
        >>> rows = subgroup_rows(predictions, {"sex": sex}, called=scores >= 0.5, patients=np.arange(n),
        ...     weights=draw_weights(n, resamples=200), config=EvaluationConfig(bootstrap=200))
        >>> results_from_rows(rows).value("gap:auroc", class_name="Hernia", subgroup="sex=F")
        0.5

    References:
        holm1979, kumar2019, efron1979.
    """
    assert called.shape == predictions.targets.shape, "a decision a score"
    assert patients.shape == (len(predictions),), "a patient a row"
    divisions = divide(columns, depth=depth)
    assert all(len(division.known) == len(predictions) for division in divisions), "a value a row"
    census = overall.census if overall is not None else take_census(predictions.targets, called, patients)
    study = Study(
        predictions, called, patients, weights, config, census, tail, choose_engine(predictions, weights, divisions)
    )
    families: dict[tuple[str, bool], _Family] = {}
    rows: list[Row] = []
    for division in divisions:
        rows += _division_rows(study, division, families)
    for (metric, by_class), family in families.items():
        rows += family.rows(metric)
        if by_class:
            rows.append({"metric": f"n_comparisons:gap:{metric}", "value": float(family.size)})
    return rows


def _division_rows(study: Study, division: Division, families: dict[tuple[str, bool], _Family]) -> list[Row]:
    parts, rests = measure_division(study, division)
    rows: list[Row] = []
    for name, chosen in division.groups.items():
        part, rest = parts[name], rests[name]
        rows.append({"metric": "n_rows", "subgroup": name, "value": float(chosen.sum())})
        rows.append({"metric": "n_patients", "subgroup": name, "value": float(len(np.unique(study.patients[chosen])))})
        pair = frozenset((rows_key(chosen), rows_key(division.rest(name))))
        for c, class_name in enumerate(study.names):
            place: Row = {"class": class_name, "tail_group": _tail_of(study, class_name), "subgroup": name}
            place["support"] = int(part.census.positives[c])
            rows += _count_rows(part.census, c, place)
            for metric in SUBGROUP_METRICS:
                rows.append({"metric": metric, **place, **_valued(part, metric, c, study)})
                gap = _gap(part, rest, metric, c, study)
                rows.append({"metric": f"gap:{metric}", **place, **gap.cells()})
                if metric in MODEL_METRICS and study.weights.resamples:
                    _note(families, metric, place, (pair, c), gap.p)
        rows += _macro_rows(study, name, part, rest, pair, families)
    return rows + list(_spread_rows(study, division, parts))


def _tail_of(study: Study, class_name: str) -> str:
    return study.tail.group_of[class_name] if study.tail is not None else ""


def _note(families: dict[tuple[str, bool], _Family], metric: str, place: Row, key: tuple[Any, ...], p: float) -> None:
    family = families.setdefault((metric, bool(place["class"])), _Family())
    family.places.append(place)
    family.keys.append(key)
    family.p_values.append(p)


def _count_rows(census: ClassCensus, c: int, place: Row) -> list[Row]:
    counts = {
        "n_rows": census.rows[c],
        "n_patients": census.patients[c],
        "n_pos": census.positives[c],
        "n_pos_patients": census.positive_patients[c],
        "n_neg_patients": census.negative_patients[c],
        "too_few_patients": not is_enough(census)[c],
    }
    return [{"metric": metric, **place, "value": float(count)} for metric, count in counts.items()]


def _valued(part: Part, metric: str, c: int, study: Study) -> Row:
    value = part.value(metric, c)
    if np.isnan(value) or not study.weights.resamples:
        return {"value": value}
    low, high = part.interval(metric, c, level=study.level)
    return {"value": value, "low": low, "high": high}


@final
@dataclass(frozen=True)
class _Gap:
    value: float
    low: float = float("nan")
    high: float = float("nan")
    p: float = float("nan")

    def cells(self) -> Row:
        return {"value": self.value, "low": self.low, "high": self.high}


def _gap(part: Part, rest: Part, metric: str, c: int, study: Study) -> _Gap:
    value = part.value(metric, c) - rest.value(metric, c)
    if np.isnan(value) or not study.weights.resamples:
        return _Gap(value)
    resampled = part.resampled(metric, c) - rest.resampled(metric, c)
    low, high = percentile_interval(resampled, level=study.level)
    return _Gap(value, low, high, gap_p_value(value, resampled))


def gap_p_value(gap: float, resampled: np.ndarray) -> float:
    """Return the two-sided p-value of "no gap".

    Counted in the resamples as for a comparison of systems. Where not one of B crosses 0, counting says no more than
    2 / (B + 1), too coarse to be corrected for hundreds of comparisons; then the normal tail of gap / sd(resamples)
    is taken if it is smaller.

    Example:
        >>> gap_p_value(0.1, np.array([-0.1, 0.1, 0.2, 0.2]))
        0.8
        >>> gap_p_value(0.4, np.array([0.3, 0.4, 0.4, 0.5])) < 1e-6
        True
    """
    p, known = bootstrap_p_value(resampled), resampled[~np.isnan(resampled)]
    if np.isnan(p) or p > 2.0 / (len(known) + 1):
        return p
    spread = float(np.std(known))
    return min(p, math.erfc(abs(gap) / spread / math.sqrt(2.0))) if spread > 0 else p


def _macro_rows(
    study: Study,
    name: str,
    part: Part,
    rest: Part,
    pair: frozenset[bytes],
    families: dict[tuple[str, bool], _Family],
) -> list[Row]:
    rows: list[Row] = []
    for group, among in _selections(study).items():
        place: Row = {"class": "", "tail_group": group, "subgroup": name}
        for metric in SUBGROUP_METRICS:
            values = part.values(metric)
            value, support = macro(values, among=among)
            spread = _mean_resampled(part, metric, among & ~np.isnan(values), study)
            rows.append({"metric": metric, **place, "support": support, **_interval(value, spread, study)})
            both = among & ~np.isnan(values) & ~np.isnan(rest.values(metric))
            gap = float(np.mean((values - rest.values(metric))[both])) if both.any() else float("nan")
            each = [part.resampled(metric, c) - rest.resampled(metric, c) for c in np.flatnonzero(both).tolist()]
            spread = mean_of_defined(np.stack(each)) if each else np.empty(0)
            cells = _interval(gap, spread, study)
            rows.append({"metric": f"gap:{metric}", **place, "support": int(both.sum()), **cells})
            if metric in MODEL_METRICS and study.weights.resamples:
                at = {**place, "support": int(both.sum())}
                _note(families, metric, at, (pair, group), gap_p_value(gap, spread))
    return rows


def _selections(study: Study) -> dict[str, np.ndarray]:
    chosen = {"": np.ones(len(study.names), dtype=bool)}
    if study.tail is not None:
        chosen |= {group: np.isin(study.names, study.tail.members(group)) for group in TAIL_GROUPS}
    return chosen


def _mean_resampled(part: Part, metric: str, among: np.ndarray, study: Study) -> np.ndarray:
    each = [part.resampled(metric, c) for c in np.flatnonzero(among).tolist()]
    return mean_of_defined(np.stack(each)) if each else np.full(study.weights.resamples, np.nan)


def _interval(value: float, spread: np.ndarray, study: Study) -> Row:
    if np.isnan(value) or not study.weights.resamples:
        return {"value": value}
    low, high = percentile_interval(spread, level=study.level)
    return {"value": value, "low": low, "high": high}


def _spread_rows(study: Study, division: Division, parts: Mapping[str, Part]) -> Iterator[Row]:
    """Yield, a class each and for their mean, the widest difference between subgroups and who is served worst."""
    named = [name for name in parts if name not in division.unnamed]
    for metric in MODEL_METRICS:
        values = np.array([parts[name].values(metric) for name in named])  # [groups, C]
        for c, class_name in enumerate(study.names):
            at = [g for g in range(len(named)) if not np.isnan(values[g, c])]
            if len(at) < 2:
                continue
            place: Row = {"class": class_name, "tail_group": _tail_of(study, class_name)}
            spreads = [parts[named[g]].resampled(metric, c) for g in at]
            yield from _extremes(study, division.name, metric, place, [named[g] for g in at], values[at, c], spreads)
        shown = np.flatnonzero(~np.isnan(values).all(axis=1)) if len(named) else np.empty(0, dtype=int)
        common = ~np.isnan(values[shown]).any(axis=0)
        if len(shown) < 2 or not common.any():
            continue
        spreads = [_mean_resampled(parts[named[g]], metric, common, study) for g in shown]
        means = values[shown][:, common].mean(axis=1)
        place = {"class": "", "tail_group": ""}
        yield from _extremes(study, division.name, metric, place, [named[g] for g in shown], means, spreads)


def _extremes(
    study: Study,
    column: str,
    metric: str,
    place: Row,
    names: list[str],
    values: np.ndarray,
    spreads: list[np.ndarray],
) -> Iterator[Row]:
    worst = int(np.argmax(_badness(metric, values)))
    support = {**place, "support": len(names)}
    yield {"metric": f"max_gap:{metric}", **support, "subgroup": column, "value": float(np.ptp(values))}
    cells = _interval(float(values[worst]), spreads[worst], study)
    yield {"metric": f"worst:{metric}", **support, "subgroup": names[worst], **cells}
    if study.weights.resamples:
        # were all alike, each would still stray from the others as its resamples stray from its value
        strayed = np.stack([spread - value for spread, value in zip(spreads, values, strict=True)])
        apart = strayed.max(axis=0) - strayed.min(axis=0)
        expected = float(np.mean(apart[~np.isnan(apart)])) if (~np.isnan(apart)).any() else float("nan")
        cells = _interval(expected, apart, study)
        yield {"metric": f"max_gap_by_chance:{metric}", **support, "subgroup": column, **cells}


def _badness(metric: str, values: np.ndarray) -> np.ndarray:
    """Return how bad values are: the larger, the worse."""
    if metric == "observed_to_expected":
        return np.asarray(np.abs(np.log(np.maximum(values, 1e-12))))
    return values if metric in LOWER_IS_BETTER else -values


def cross_auroc_rows(
    predictions: Predictions,
    columns: Mapping[str, np.ndarray],
    *,
    patients: np.ndarray,
    weights: PatientWeights,
    config: EvaluationConfig,
) -> list[Row]:
    """Ask whether the sick of one subgroup outscore the healthy of another, for every ordered pair of values.

    A model may rank well inside each group and still score all of one group higher: AUROC by group misses that, the
    crossed one shows it as unlike values of the two directions. Rows are `cross_auroc@NEGATIVES` with the positives'
    subgroup in `subgroup` and their number in `support`; NaN from fewer than 10 positive or 10 negative patients.

    Args:
        predictions: Scores and targets.
        columns: Name → text [N]; never crossed, unknown values left out.
        patients: Patient numbers into `weights`, int [N].
        weights: The resamples.
        config: Of the evaluation: the interval's level is used.

    Returns:
        Mappings for `results_from_rows`.

    Raises:
        MedtailError: As `subgroup_rows`.

    Example:
        >>> from medtail.judging.bootstrap import draw_weights
        >>> from medtail.judging.evaluation import EvaluationConfig
        >>> from medtail.tables.labels import LabelSpace
        >>> n = 80
        >>> ids = np.array([f"i{row}" for row in range(n)], dtype=object)
        >>> targets, old = (np.arange(n) % 2).astype(float)[:, None], np.arange(n) >= 40
        >>> predictions = Predictions(ids, ids, targets / 4 + old[:, None] / 2, targets, LabelSpace(("Hernia",)), ids)
        >>> rows = cross_auroc_rows(predictions, {"age": np.where(old, "old", "young")}, patients=np.arange(n),
        ...     weights=draw_weights(n, resamples=50), config=EvaluationConfig())
        >>> [(row["subgroup"], row["metric"], row["value"]) for row in rows]
        [('age=old', 'cross_auroc@age=young', 1.0), ('age=young', 'cross_auroc@age=old', 0.0)]

    References:
        kallus2019 (the xAUC).
    """
    scores, targets = predictions.scores, predictions.targets
    rows: list[Row] = []
    for division in divide(columns, depth=1):
        named = [name for name in division.groups if name not in division.unnamed]
        for sick, healthy in permutations(named, 2):
            masked = np.where(division.groups[sick][:, None] & (targets == 1), 1.0, np.nan)
            masked[division.groups[healthy][:, None] & (targets == 0)] = 0.0
            for c, class_name in enumerate(predictions.labels.class_names):
                y = masked[:, c]
                place: Row = {"metric": f"cross_auroc@{healthy}", "class": class_name, "subgroup": sick}
                place["support"] = int((y == 1).sum())
                behind = [len(np.unique(patients[y == side])) for side in (0, 1)]
                if min(behind) < FEWEST_PATIENTS:
                    rows.append({**place, "value": float("nan")})
                    continue
                _, spread = resample_ranked([rank_rows(scores[:, c], y, patients)], weights)
                low, high = percentile_interval(spread[0], level=config.interval)
                rows.append({**place, "value": auroc(scores[:, c], y), "low": low, "high": high})
    return rows
