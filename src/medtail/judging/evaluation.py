"""Predictions in, Results out: every metric, every class, every tail group, with patient-level intervals.

One bootstrap pass serves all metrics. What the data cannot define stays NaN and is counted; what a reader could
misread is said in words in the header's warnings. Who made the scores is unknown here, and of no interest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np

from medtail.config import CLOSED
from medtail.errors import MedtailError, Problems, did_you_mean
from medtail.judging.bootstrap import Scheme, draw_weights, number_patients
from medtail.judging.cautions import word_cautions
from medtail.judging.counts import EceMode
from medtail.judging.decisions import decide
from medtail.judging.estimates import (
    CLASS_METRICS,
    POOLED_METRICS,
    PROPORTIONS,
    ClassCensus,
    Estimates,
    estimate,
    pool,
)
from medtail.judging.intervals import defined_share, mean_of_defined, percentile_interval, unanimous_interval
from medtail.judging.metrics import chance_average_precision, macro
from medtail.runs import versions
from medtail.tables.predictions import Predictions
from medtail.tables.results import Results, results_from_rows
from medtail.tables.tail import TAIL_GROUPS, ClassCounts, RuleName, TailGroups, tail_groups

Row = dict[str, Any]


@final
@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How to judge.

    Attributes:
        bootstrap: Resamples of patients, >= 0; 0 gives no intervals.
        scheme: `multinomial` (draw with replacement) or `bayesian` (exponential weights).
        interval: Share of resamples inside an interval, in (0, 1).
        tail_rule: How classes become head, medium and tail; see `tables.tail`.
        tail_cuts: Upper and lower cut, overriding the rule's own.
        tail_members: For the rule `list`: head, medium, tail → class names.
        ece_mode: Reading of the calibration error; see `metrics.expected_calibration_error`.
        ece_bins: Its bins, >= 1.
        seed: Of the resamples.
    """

    __pydantic_config__: ClassVar = CLOSED

    bootstrap: int = 1000
    scheme: Scheme = "multinomial"
    interval: float = 0.95
    tail_rule: RuleName = "auto"
    tail_cuts: tuple[float, float] | None = None
    tail_members: Mapping[str, tuple[str, ...]] | None = None
    ece_mode: EceMode = "reliability"
    ece_bins: int = 15
    seed: int = 0

    def __post_init__(self) -> None:
        if self.bootstrap < 0:
            raise MedtailError(f"bootstrap {self.bootstrap}: expected a number of resamples >= 0.")
        if not 0.0 < self.interval < 1.0:
            raise MedtailError(f"interval {self.interval}: expected a share in (0, 1), such as 0.95.")
        if self.ece_bins < 1:
            raise MedtailError(f"ece_bins {self.ece_bins}: expected at least 1.")


def evaluate(
    predictions: Predictions,
    *,
    config: EvaluationConfig | None = None,
    thresholds: Mapping[str, float] | None = None,
    threads: int | None = None,
) -> Results:
    """Judge a table of scores.

    Rows of a class: `ap, auroc, f1, f1_at_half, precision, recall, specificity, ece, brier` with intervals;
    `threshold, ap_chance, n_rows, n_patients, n_pos, n_pos_patients, prevalence, defined_share:ap,
    defined_share:auroc` without. Their macro values have an empty class, over all classes and over each tail group,
    the classes averaged in `support`; beside them stand `micro_f1, micro_precision, micro_recall`. An exclusive
    group has `accuracy, balanced_accuracy, macro_f1` under its own name.

    Args:
        predictions: Scores and targets; rows of any fold, though only `test` gives an honest verdict.
        config: How to judge; the defaults if None.
        thresholds: Class → threshold for every class; the predictions' own if None, 0.5 where there are none.
        threads: Worker threads; all usable cores if None. No effect on the results.

    Returns:
        Values, intervals and supports. The header holds `name, fold, num_rows, num_patients, labels, task, digests,
        train_counts, versions`; `tail` (rule, cuts, description, groups: class → group; None if unknown);
        `thresholds` (source: `tune`, `fixed 0.5` or `given`; values; inside_groups); `bootstrap` (resamples, scheme,
        interval, seed, unit: `patient` or `image`); `ece` (mode, bins); `unsupported` (classes without positives),
        `without_negatives`; and `warnings` in words.

    Raises:
        MedtailError: There are no rows, `thresholds` does not fit the classes, or the tail rule does not.

    Example:
        >>> from medtail.tables.labels import LabelSpace
        >>> ids = np.array(["a", "b", "c", "d"], dtype=object)
        >>> scores, targets = np.array([[0.9], [0.7], [0.6], [0.1]]), np.array([[1.0], [0.0], [1.0], [0.0]])
        >>> folds = np.array(["test"] * 4, dtype=object)
        >>> predictions = Predictions(ids, ids, scores, targets, LabelSpace(("Hernia",)), folds)
        >>> results = evaluate(predictions, config=EvaluationConfig(bootstrap=100))
        >>> round(results.value("ap", class_name="Hernia"), 3), results.value("auroc")
        (0.833, 0.75)

    References:
        efron1979, saito2015.
    """
    config = config or EvaluationConfig()
    if not len(predictions):
        raise MedtailError(f"{predictions.name}: no rows to judge; expected a row an image.")
    limits, source = _thresholds(predictions, thresholds)
    groups = _tail(predictions, config)
    patients, num_patients = number_patients(predictions.patients)
    weights = draw_weights(num_patients, resamples=config.bootstrap, scheme=config.scheme, seed=config.seed)
    estimates = estimate(
        predictions,
        called=decide(predictions, thresholds=limits),
        patients=patients,
        weights=weights,
        ece_mode=config.ece_mode,
        ece_bins=config.ece_bins,
        threads=threads,
    )
    rows: list[Mapping[str, Any]] = [
        *_class_rows(predictions, estimates, limits, groups, config),
        *_macro_rows(predictions, estimates, groups, config),
        *_group_rows(estimates, config),
        {"metric": "n_rows", "value": len(predictions), "support": predictions.labels.num_classes},
        {"metric": "n_patients", "value": num_patients, "support": predictions.labels.num_classes},
    ]
    header = _header(predictions, estimates, limits, source, groups, num_patients, config)
    return results_from_rows(rows, header=header)


def _thresholds(predictions: Predictions, given: Mapping[str, float] | None) -> tuple[np.ndarray, str]:
    names = predictions.labels.class_names
    if given is None:
        chosen = predictions.thresholds
        source = "fixed 0.5" if chosen is None else "tune"
        return predictions.threshold_array, source
    problems = Problems("thresholds")
    for name in names:
        if name not in given:
            problems.add(f"class {name!r}: missing; expected a threshold for every class.")
        elif not 0.0 <= given[name] <= 1.0:
            problems.add(f"class {name!r}: found {given[name]!r}; expected a score in [0, 1].")
    for name in given:
        if name not in names:
            problems.add(f"class {name!r}: {predictions.name} has no such class{did_you_mean(name, names)}.")
    problems.raise_if_any()
    return np.array([float(given[name]) for name in names]), "given"


def _tail(predictions: Predictions, config: EvaluationConfig) -> TailGroups | None:
    labels, counts = predictions.labels, predictions.train_counts
    if config.tail_rule == "list":
        zeros = (0,) * labels.num_classes
        counts = ClassCounts(labels.class_names, zeros, zeros, zeros)
    elif counts is None or not set(labels.class_names) <= set(counts.class_names):
        return None
    else:
        at = [counts.class_names.index(name) for name in labels.class_names]
        counts = ClassCounts(
            labels.class_names,
            tuple(counts.images[i] for i in at),
            tuple(counts.patients[i] for i in at),
            tuple(counts.assessed[i] for i in at),
        )
    return tail_groups(counts, labels=labels, rule=config.tail_rule, cuts=config.tail_cuts, members=config.tail_members)


def _class_rows(
    predictions: Predictions,
    estimates: Estimates,
    limits: np.ndarray,
    groups: TailGroups | None,
    config: EvaluationConfig,
) -> list[Row]:
    rows: list[Row] = []
    census = estimates.census
    for c, name in enumerate(predictions.labels.class_names):
        n_rows, n_pos = int(census.rows[c]), int(census.positives[c])
        place = {"class": name, "tail_group": groups.group_of[name] if groups else "", "support": n_pos}
        for metric in CLASS_METRICS:
            value, resampled = float(estimates.values[metric][c]), estimates.resampled[metric][c]
            behind = _patients_behind(metric, census, c)
            rows.append({"metric": metric, **place, **_with_interval(value, resampled, config, patients=behind)})
        plain = {
            "threshold": float(limits[c]),
            "ap_chance": chance_average_precision(n_pos, n_rows),
            "n_rows": n_rows,
            "n_patients": int(census.patients[c]),
            "n_pos": n_pos,
            "n_pos_patients": int(census.positive_patients[c]),
            "prevalence": n_pos / n_rows if n_rows else float("nan"),
        }
        if config.bootstrap:
            plain |= {f"defined_share:{m}": defined_share(estimates.resampled[m][c]) for m in ("ap", "auroc")}
        rows += [{"metric": metric, **place, "value": value} for metric, value in plain.items()]
    return rows


def _patients_behind(metric: str, census: ClassCensus, c: int) -> int | None:
    """Return the patients in a proportion's denominator; None for what is no proportion."""
    if metric not in PROPORTIONS:
        return None
    counted = {"precision": census.called_patients, "recall": census.positive_patients}
    return int(counted.get(metric, census.negative_patients)[c])


def _with_interval(
    value: float, resampled: np.ndarray, config: EvaluationConfig, *, patients: int | None = None
) -> Row:
    if not config.bootstrap or np.isnan(value):
        return {"value": value}
    if patients and value in (0.0, 1.0):
        low, high = unanimous_interval(value, patients=patients, level=config.interval)
    else:
        low, high = percentile_interval(resampled, level=config.interval)
    return {"value": value, "low": low, "high": high}


def _macro_rows(
    predictions: Predictions, estimates: Estimates, groups: TailGroups | None, config: EvaluationConfig
) -> list[Row]:
    names = predictions.labels.class_names
    chance = np.array(
        [
            chance_average_precision(int(p), int(n))
            for p, n in zip(estimates.census.positives, estimates.census.rows, strict=True)
        ]
    )
    selections = {"": np.ones(len(names), dtype=bool)}
    if groups is not None:
        selections |= {group: np.isin(names, groups.members(group)) for group in TAIL_GROUPS}
    rows: list[Row] = []
    for group, among in selections.items():
        for metric in CLASS_METRICS:
            values = estimates.values[metric]
            value, support = macro(values, among=among)
            resampled = mean_of_defined(estimates.resampled[metric][among & ~np.isnan(values)])
            place = {"metric": metric, "tail_group": group, "support": support}
            rows.append({**place, **_with_interval(value, resampled, config)})
        value, support = macro(chance, among=among)
        rows.append({"metric": "ap_chance", "tail_group": group, "support": support, "value": value})
        point, pooled = pool(estimates.sums, among), pool(estimates.resampled_sums, among)
        judged = int((among & (estimates.census.rows > 0)).sum())
        for metric in POOLED_METRICS:
            place = {"metric": metric, "tail_group": group, "support": judged}
            rows.append({**place, **_with_interval(float(point[metric]), pooled[metric], config)})
    return rows


def _group_rows(estimates: Estimates, config: EvaluationConfig) -> list[Row]:
    rows: list[Row] = []
    for group, found in estimates.groups.items():
        n_rows, n_patients, present = estimates.group_census[group]
        for metric, (value, resampled) in found.items():
            # accuracy is one proportion over the group's rows; the others are means over its classes
            patients, support = (n_patients, n_rows) if metric == "accuracy" else (None, present)
            interval = _with_interval(value, resampled, config, patients=patients)
            rows.append({"metric": metric, "class": group, "support": support, **interval})
    return rows


def _header(
    predictions: Predictions,
    estimates: Estimates,
    limits: np.ndarray,
    source: str,
    groups: TailGroups | None,
    num_patients: int,
    config: EvaluationConfig,
) -> dict[str, Any]:
    names = predictions.labels.class_names
    census, counts = estimates.census, predictions.train_counts
    unit = "patient" if predictions.has_patients else "image"
    return {
        "name": predictions.name,
        "fold": " and ".join(sorted(set(predictions.folds.astype(str)) - {""})),
        "num_rows": len(predictions),
        "num_patients": num_patients,
        "labels": predictions.labels.to_json(),
        "task": predictions.labels.task,
        "digests": {**predictions.digests, "predictions": predictions.digest},
        "train_counts": None if counts is None else counts.to_json(),
        "tail": None
        if groups is None
        else {
            "rule": groups.rule,
            "cuts": list(groups.cuts),
            "description": groups.describe(),
            "groups": dict(groups.group_of),
        },
        "thresholds": {
            "source": source,
            "values": {name: float(limit) for name, limit in zip(names, limits, strict=True)},
            "inside_groups": "highest score",
        },
        "bootstrap": {
            "resamples": config.bootstrap,
            "scheme": config.scheme,
            "interval": config.interval,
            "seed": config.seed,
            "unit": unit,
        },
        "ece": {"mode": config.ece_mode, "bins": config.ece_bins},
        "unsupported": [name for name, n in zip(names, census.positives, strict=True) if n == 0],
        "without_negatives": [
            name for name, n, p in zip(names, census.rows, census.positives, strict=True) if n > 0 and n == p
        ],
        "warnings": word_cautions(predictions, estimates, source=source, has_tail=groups is not None),
        "versions": versions(),
    }
