"""The score's rows: a value, its interval and its support, for classes, groups, and the numbers that stand alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medtail.challenges.cxr_lt_errors import NAMED_ECE
from medtail.judging.estimates import POOLED_METRICS, ClassCensus, Estimates, pool
from medtail.judging.intervals import defined_share, mean_of_defined, percentile_interval, unanimous_interval
from medtail.judging.metrics import chance_average_precision, macro
from medtail.tables.tail import TAIL_GROUPS, TailGroups

RANKED = ("ap", "auroc")
AT_HALF = ("f1", "precision", "recall", "specificity", "fnr")
LEVEL = 0.95

Row = Mapping[str, Any]


def result_row(metric: str, value: float, resampled: np.ndarray, *, patients: int = 0, **place: object) -> Row:
    """Make a row with its interval; a proportion of exactly 0 or 1 takes the rule of three over its patients.

    Where every resample repeats one value there is no interval: no spread is not certainty.

    Args:
        metric: Its name.
        value: On the rows as they are.
        resampled: In the resamples, float [B]; empty for no interval.
        patients: Patients in a proportion's denominator; 0 for what is no proportion.
        place: `class`, `tail_group`, `support`.

    Example:
        >>> result_row("fnr", 0.0, np.zeros(5), patients=10)["high"].__round__(3)
        0.259
    """
    row: dict[str, Any] = {"metric": metric, "value": value, **place}
    if not len(resampled) or np.isnan(value):
        return row
    if patients > 0 and value in (0.0, 1.0):
        row["low"], row["high"] = unanimous_interval(value, patients=patients, level=LEVEL)
    elif len(np.unique(resampled[~np.isnan(resampled)])) > 1:
        row["low"], row["high"] = percentile_interval(resampled, level=LEVEL)
    return row


def class_rows(
    census: ClassCensus,
    values: Mapping[str, np.ndarray],
    resampled: Mapping[str, np.ndarray],
    class_names: Sequence[str],
    groups: TailGroups | None,
    limits: np.ndarray | None,
) -> list[Row]:
    """Return every class's metrics with intervals, and the counts that explain them.

    Args:
        census: How much evidence each class has.
        values: Metric → float64 [C].
        resampled: Metric → float64 [C, B].
        class_names: The C classes.
        groups: Their tail groups; None where unknown.
        limits: Thresholds chosen on tune, float [C]; None where there are none.
    """
    behind = {"precision": census.called_patients, "specificity": census.negative_patients}
    behind |= dict.fromkeys(("recall", "fnr", "fnr@tune"), census.positive_patients)
    rows: list[Row] = []
    for c, name in enumerate(class_names):
        n_rows, n_pos = int(census.rows[c]), int(census.positives[c])
        place = {"class": name, "tail_group": groups.group_of[name] if groups else "", "support": n_pos}
        for metric in _ordered(values):
            patients = int(behind[metric][c]) if metric in behind else 0
            rows.append(result_row(metric, float(values[metric][c]), resampled[metric][c], patients=patients, **place))
        plain = {
            "threshold": 0.5,
            "ap_chance": chance_average_precision(n_pos, n_rows),
            "prevalence": n_pos / n_rows if n_rows else float("nan"),
            "n_rows": n_rows,
            "n_patients": int(census.patients[c]),
            "n_pos": n_pos,
            "n_pos_patients": int(census.positive_patients[c]),
        }
        if limits is not None:
            plain["threshold@tune"] = float(limits[c])
        if resampled["ap"].shape[1]:
            plain |= {f"defined_share:{metric}": defined_share(resampled[metric][c]) for metric in RANKED}
        rows += [{"metric": metric, **place, "value": value} for metric, value in plain.items()]
    return rows


def _ordered(values: Mapping[str, np.ndarray]) -> list[str]:
    first = (*RANKED, *AT_HALF, "ece", *(f"ece@{mode}" for mode in NAMED_ECE))
    return [*first, *sorted(metric for metric in values if metric not in first and metric != "f1_at_half")]


def macro_rows(
    found: Estimates,
    values: Mapping[str, np.ndarray],
    resampled: Mapping[str, np.ndarray],
    class_names: Sequence[str],
    groups: TailGroups | None,
) -> list[Row]:
    """Return the means over all classes and over each tail group, and the values of summed counts.

    Args:
        found: For counts and what micro values are pooled from.
        values: Metric → float64 [C].
        resampled: Metric → float64 [C, B].
        class_names: The C classes.
        groups: Their tail groups; None where unknown.
    """
    census = found.census
    chance = [chance_average_precision(int(p), int(n)) for p, n in zip(census.positives, census.rows, strict=True)]
    shares = np.divide(census.positives, census.rows, out=np.full(len(class_names), np.nan), where=census.rows > 0)
    rows: list[Row] = []
    for group, among in _selections(class_names, groups).items():
        for metric in _ordered(values):
            value, support = macro(values[metric], among=among)
            draws = mean_of_defined(resampled[metric][among & ~np.isnan(values[metric])])
            rows.append(result_row(metric, value, draws, tail_group=group, support=support))
        for metric, per_class in (("ap_chance", np.array(chance)), ("prevalence", shares)):
            value, support = macro(per_class, among=among)
            rows.append({"metric": metric, "tail_group": group, "support": support, "value": value})
        point, pooled = pool(found.sums, among), pool(found.resampled_sums, among)
        judged = int((among & (census.rows > 0)).sum())
        rows += [
            result_row(metric, float(point[metric]), pooled[metric], tail_group=group, support=judged)
            for metric in POOLED_METRICS
        ]
    return rows


def _selections(class_names: Sequence[str], groups: TailGroups | None) -> dict[str, np.ndarray]:
    selections = {"": np.ones(len(class_names), dtype=bool)}
    if groups is not None:
        selections |= {group: np.isin(class_names, groups.members(group)) for group in TAIL_GROUPS}
    return selections


def single_rows(
    values: Mapping[str, np.ndarray],
    resampled: Mapping[str, np.ndarray],
    class_names: Sequence[str],
    groups: TailGroups | None,
    critical: Sequence[str],
) -> list[Row]:
    """Return the mean of the group means and the misses of critical findings.

    Args:
        values: Metric → float64 [C].
        resampled: Metric → float64 [C, B].
        class_names: The C classes.
        groups: Their tail groups; None where unknown.
        critical: Classes that must not be missed.
    """
    rows: list[Row] = []
    if groups is not None:
        value, draws = mean_of_groups(values["ap"], resampled["ap"], class_names=class_names, groups=groups)
        rows.append(result_row("ap_mean_of_groups", value, draws, support=len(TAIL_GROUPS)))
    among = np.isin(class_names, critical)
    for metric in ("fnr", "fnr@tune"):
        if metric in values and among.any():
            value, support = macro(values[metric], among=among)
            draws = mean_of_defined(resampled[metric][among & ~np.isnan(values[metric])])
            rows.append(result_row(metric.replace("fnr", "fnr_critical"), value, draws, support=support))
    return rows


def mean_of_groups(
    values: np.ndarray, resampled: np.ndarray, *, class_names: Sequence[str], groups: TailGroups
) -> tuple[float, np.ndarray]:
    """Average the head, medium and tail means, each group counting the same, as the overview's last column does.

    Args:
        values: float [C].
        resampled: float [C, B].
        class_names: The C classes.
        groups: Their groups.

    Returns:
        The mean and its resampled values [B]; NaN where a group has no defined class.

    Example:
        >>> from medtail.sources.cxr_lt import edition
        >>> names = ("Edema", "Mass", "Fibrosis")
        >>> groups = edition("2024").groups(names)
        >>> value, _ = mean_of_groups(np.array([0.567, 0.263, 0.136]), np.empty((3, 0)), class_names=names,
        ...                           groups=groups)
        >>> round(value, 3)
        0.322
    """
    chosen = [np.isin(class_names, groups.members(group)) & ~np.isnan(values) for group in TAIL_GROUPS]
    means = [float(values[among].mean()) if among.any() else float("nan") for among in chosen]
    return float(np.mean(means)), np.mean([mean_of_defined(resampled[among]) for among in chosen], axis=0)
