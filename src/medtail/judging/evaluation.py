"""Predictions in, Results out: every metric, every class, every tail group, with patient-level intervals.

One bootstrap pass serves all metrics. What the data cannot define stays NaN and is counted; what a reader could
misread is said in words in the header's warnings. Who made the scores is unknown here, and of no interest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, final

import numpy as np

from medtail.config import CLOSED
from medtail.errors import MedtailError, Problems, did_you_mean, listing
from medtail.judging.bootstrap import PatientWeights, Scheme, draw_weights, number_patients
from medtail.judging.cautions import word_cautions
from medtail.judging.counts import EceMode
from medtail.judging.decisions import decide
from medtail.judging.estimates import Estimates, estimate
from medtail.judging.headers import rows_header, support_header, tail_header
from medtail.judging.intervals import IntervalMethod
from medtail.judging.jackknife import JACKKNIFE_GROUPS, leave_out_weights
from medtail.judging.result_rows import (
    IntervalMaker,
    Row,
    class_rows,
    count_absent_as_zero,
    exclusive_rows,
    macro_rows,
)
from medtail.judging.strata import rarest_strata
from medtail.judging.tail_pool import pool_tail
from medtail.runs import versions
from medtail.tables.predictions import Predictions
from medtail.tables.results import Results, results_from_rows
from medtail.tables.tail import ClassCounts, RuleName, TailGroups, tail_groups

AbsentPolicy = Literal["nan", "error", "zero"]


@final
@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How to judge.

    Attributes:
        bootstrap: Resamples of patients, >= 0; 0 gives no intervals.
        scheme: `multinomial` (draw with replacement) or `bayesian` (exponential weights).
        strata: `rarest` resamples inside strata of the patients' rarest positive class, which holds each class's
            number of positive patients nearly fixed and makes intervals narrower; see `strata.rarest_strata`.
        interval: Share of resamples inside an interval, in (0, 1).
        interval_method: `percentile`, or `bca` (corrected for bias and skewness with a jackknife over 100 groups of
            patients; percentile where that is impossible, which the warnings say).
        tail_rule: How classes become head, medium and tail; see `tables.tail`.
        tail_cuts: Upper and lower cut, overriding the rule's own.
        tail_members: For the rule `list`: head, medium, tail → class names.
        ece_mode: Reading of the calibration error; see `metrics.expected_calibration_error`.
        ece_bins: Its bins, >= 1.
        critical: Classes that must not be missed: the mean of their false negative rates becomes `critical_fnr`.
        absent: What a class without positives counts in averages: `nan` (left out and listed), `error` (refused) or
            `zero` (0 for AP, AUROC, F1 and their kin, only to reproduce another tool; said in the warnings).
        seed: Of the resamples.
    """

    __pydantic_config__: ClassVar = CLOSED

    bootstrap: int = 1000
    scheme: Scheme = "multinomial"
    strata: Literal["rarest"] | None = None
    interval: float = 0.95
    interval_method: IntervalMethod = "percentile"
    tail_rule: RuleName = "auto"
    tail_cuts: tuple[float, float] | None = None
    tail_members: Mapping[str, tuple[str, ...]] | None = None
    ece_mode: EceMode = "reliability"
    ece_bins: int = 15
    critical: tuple[str, ...] = ()
    absent: AbsentPolicy = "nan"
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
    by: Mapping[str, np.ndarray] | None = None,
    threads: int | None = None,
) -> Results:
    """Judge a table of scores.

    Rows of a class: `ap, auroc, f1, f1_at_half, precision, recall, specificity, ece, brier, fnr, fnr_at_half,
    balanced_accuracy, mcc, npv, log_loss, ap_lift` with intervals, `recall@wilson, fnr@wilson, specificity@wilson`
    with Wilson's; `threshold, ap_chance, n_rows, n_patients, n_pos, n_pos_patients, prevalence,
    n_effective:recall, n_effective:specificity, defined_share:ap, defined_share:auroc` without. Their macro values
    have an empty class, over all classes and over each tail group, the classes averaged in `support`; beside them
    stand `micro_f1, micro_precision, micro_recall`, over all classes `mean_of_tail_groups:ap`, `critical_fnr` and
    `critical_fnr_at_half`, and for the tail as one `any_finding_ap, any_finding_auroc, micro_ap` with positives in
    `support`. An exclusive group has `accuracy, balanced_accuracy, macro_f1` under its own name.

    Args:
        predictions: Scores and targets; rows of any fold, though only `test` gives an honest verdict.
        config: How to judge; the defaults if None.
        thresholds: Class → threshold for every class; the predictions' own if None, 0.5 where there are none.
        by: Column → text [N], such as sex or site: adds the rows of `fairness.subgroup_rows`, whose `subgroup` is
            `column=value`.
        threads: Worker threads; all usable cores if None. No effect on the results.

    Returns:
        Values, intervals and supports. The header holds `name, fold, num_rows, num_patients, labels, task, digests,
        train_counts, versions`; `tail` (rule, cuts, description, groups: class → group; None if unknown);
        `thresholds` (source: `tune`, `fixed 0.5` or `given`; values; inside_groups); `bootstrap` (resamples, scheme,
        strata, interval, interval_method, jackknife_groups, seed, unit: `patient` or `image`); `ece` (mode, bins);
        `unsupported` (classes without positives), `without_negatives`; `absent`, `critical`; `subgroups` (columns,
        warnings) where asked for; and `warnings` in words.

    Raises:
        MedtailError: There are no rows, `thresholds` does not fit the classes, the tail rule does not, a critical
            class does not exist, or a class is absent under the policy `error`.

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
        efron1979, efron1987, wilson1927, saito2015.
    """
    config = config or EvaluationConfig()
    if not len(predictions):
        raise MedtailError(f"{predictions.name}: no rows to judge; expected a row an image.")
    names = predictions.labels.class_names
    limits, source = _thresholds(predictions, thresholds)
    groups = group_classes(predictions, config)
    _check_classes(predictions, config)
    patients, num_patients = number_patients(predictions.patients)
    weights = weigh_patients(predictions, patients, num_patients, config, threads)
    left_out = None
    if config.interval_method == "bca" and config.bootstrap:
        left_out = leave_out_weights(num_patients, scheme=config.scheme, seed=config.seed)
    called = decide(predictions, thresholds=limits)
    estimates = estimate(
        predictions,
        called=called,
        patients=patients,
        weights=weights,
        ece_mode=config.ece_mode,
        ece_bins=config.ece_bins,
        threads=threads,
        left_out=left_out,
    )
    counted = count_absent_as_zero(estimates) if config.absent == "zero" else estimates
    intervals = IntervalMaker(config.bootstrap, config.interval, config.interval_method)
    rows: list[Mapping[str, Any]] = [
        *class_rows(names, counted, thresholds=limits, groups=groups, intervals=intervals),
        *macro_rows(names, counted, groups=groups, critical=config.critical, intervals=intervals),
        *_tail_rows(predictions, groups, patients, weights, left_out, intervals, threads),
        *exclusive_rows(estimates, intervals=intervals),
        {"metric": "n_rows", "value": len(predictions), "support": predictions.labels.num_classes},
        {"metric": "n_patients", "value": num_patients, "support": predictions.labels.num_classes},
    ]
    if by:
        from medtail.judging.fairness import subgroup_rows

        rows += subgroup_rows(
            predictions,
            by,
            called=called,
            patients=patients,
            weights=weights,
            config=config,
            overall=estimates,
            tail=groups,
        )
    header = _header(predictions, estimates, limits, source, groups, num_patients, config)
    header["warnings"] += _about_method(config, estimates, names, intervals)
    if not by:
        return results_from_rows(rows, header=header)
    from medtail.judging.fairness_words import fairness_cautions

    found = results_from_rows(rows, header=header)
    return replace(found, header={**header, "subgroups": {"columns": list(by), "warnings": fairness_cautions(found)}})


def _check_classes(predictions: Predictions, config: EvaluationConfig) -> None:
    names = predictions.labels.class_names
    problems = Problems(predictions.name)
    for name in config.critical:
        if name not in names:
            problems.add(f"critical class {name!r}: no such class{did_you_mean(name, names) or '.'}")
    if config.absent == "error":
        absent = [name for name, n in zip(names, (predictions.targets == 1).sum(axis=0), strict=True) if n == 0]
        if absent:
            problems.add(
                f"no positive row for {len(absent)} of {len(names)} classes: {listing(absent)}; `absent: error` asks"
                " for one in every class. Leave such classes out of the averages with `absent: nan`."
            )
    problems.raise_if_any()


def weigh_patients(
    predictions: Predictions,
    patients: np.ndarray,
    num_patients: int,
    config: EvaluationConfig,
    threads: int | None = None,
) -> PatientWeights:
    """Draw the resamples that a config asks for; patients are numbers below `num_patients`, int [N]."""
    strata = None
    if config.strata == "rarest":
        strata = rarest_strata(predictions.targets, patients, num_patients=num_patients)
    return draw_weights(
        num_patients,
        resamples=config.bootstrap,
        scheme=config.scheme,
        seed=config.seed,
        strata=strata,
        threads=threads,
    )


def _tail_rows(
    predictions: Predictions,
    groups: TailGroups | None,
    patients: np.ndarray,
    weights: PatientWeights,
    left_out: PatientWeights | None,
    intervals: IntervalMaker,
    threads: int | None,
) -> list[Row]:
    members = groups.members("tail") if groups else ()
    if not members:
        return []
    at = [predictions.labels.class_names.index(name) for name in members]
    scores, targets = predictions.scores[:, at], predictions.targets[:, at]
    found = pool_tail(scores, targets, patients=patients, weights=weights, left_out=left_out, threads=threads)
    return [
        {
            "metric": metric,
            "tail_group": "tail",
            "support": pooled.support,
            **intervals.row(pooled.value, pooled.resampled, pooled.left_out, name=f"{metric} of the tail"),
        }
        for metric, pooled in found.items()
    ]


def _about_method(
    config: EvaluationConfig, estimates: Estimates, names: tuple[str, ...], intervals: IntervalMaker
) -> list[str]:
    found: list[str] = []
    if config.strata and config.bootstrap:
        found.append(
            "Resampled inside strata of the patients' rarest positive class: intervals are narrower, for they leave"
            " out how many patients have each rare finding."
        )
    if intervals.impossible:
        found.append(
            f"No BCa interval for {len(intervals.impossible)} values, since all resamples lie on one side of them:"
            f" {listing(intervals.impossible, limit=6)}. The percentile interval stands instead."
        )
    absent = [name for name, n in zip(names, estimates.census.positives, strict=True) if n == 0]
    if config.absent == "zero" and absent:
        found.append(
            "Classes without positives count as 0 in the averages, as asked (`absent: zero`):"
            f" {listing(absent, limit=8)}. This punishes a model for findings the sample does not hold; use it only to"
            " reproduce another tool."
        )
    return found


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


def group_classes(predictions: Predictions, config: EvaluationConfig) -> TailGroups | None:
    """Put the classes into head, medium and tail by their train counts; None where those are unknown."""
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
    counts = predictions.train_counts
    unit = "patient" if predictions.has_patients else "image"
    return {
        **rows_header(predictions, num_patients=num_patients),
        "train_counts": None if counts is None else counts.to_json(),
        "tail": tail_header(groups),
        "thresholds": {
            "source": source,
            "values": {name: float(limit) for name, limit in zip(names, limits, strict=True)},
            "inside_groups": "highest score",
        },
        "bootstrap": {
            "resamples": config.bootstrap,
            "scheme": config.scheme,
            "strata": config.strata,
            "interval": config.interval,
            "interval_method": config.interval_method,
            "jackknife_groups": min(num_patients, JACKKNIFE_GROUPS) if config.interval_method == "bca" else None,
            "seed": config.seed,
            "unit": unit,
        },
        "ece": {"mode": config.ece_mode, "bins": config.ece_bins},
        "absent": config.absent,
        "critical": list(config.critical),
        **support_header(predictions.labels, estimates.census),
        "warnings": word_cautions(predictions, estimates, source=source, has_tail=groups is not None),
        "versions": versions(),
    }
