"""From estimates to the rows of a Results table: per class, over classes and tail groups, inside exclusive groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

import numpy as np

from medtail.judging.estimates import (
    CLASS_METRICS,
    POOLED_METRICS,
    PROPORTIONS,
    ClassCensus,
    Estimates,
    Replicates,
    pool,
)
from medtail.judging.intervals import (
    IntervalMethod,
    bca_interval,
    defined_share,
    mean_of_defined,
    percentile_interval,
    unanimous_interval,
    wilson_interval,
)
from medtail.judging.metrics import chance_average_precision, macro
from medtail.tables.tail import TAIL_GROUPS, TailGroups

Row = dict[str, Any]
ZEROED = ("ap", "auroc", "f1", "f1_at_half", "precision", "recall", "balanced_accuracy", "mcc")
"""What the absent policy `zero` sets to 0 for a class without positives."""
WILSON = {"recall": "recall", "fnr": "recall", "specificity": "specificity"}
"""Proportions with a Wilson interval beside the bootstrap's, and whose effective size each takes."""


@final
@dataclass
class IntervalMaker:
    """Makes a row's value and interval, all in one way.

    Attributes:
        resamples: B; 0 for no intervals.
        level: Share inside, in (0, 1).
        method: `percentile` or `bca`.
        impossible: Names of rows where BCa could not be done and percentiles stand instead.
    """

    resamples: int
    level: float = 0.95
    method: IntervalMethod = "percentile"
    impossible: list[str] = field(default_factory=list)

    def row(
        self,
        value: float,
        resampled: np.ndarray,
        left_out: np.ndarray | None = None,
        *,
        patients: int | None = None,
        name: str = "",
    ) -> Row:
        """Return `value`, `low` and `high`; the value alone where there can be no interval.

        Args:
            value: On the rows as they are.
            resampled: float [B].
            left_out: Without each jackknife group, float [G]; for `bca`.
            patients: Patients behind a proportion, for the rule of three at 0 and 1; None for what is no proportion.
            name: For `impossible`.

        Example:
            >>> IntervalMaker(3).row(0.5, np.array([0.4, 0.5, 0.6]))["high"]
            0.595
        """
        if not self.resamples or np.isnan(value):
            return {"value": value}
        if patients and value in (0.0, 1.0):
            low, high = unanimous_interval(value, patients=patients, level=self.level)
            return {"value": value, "low": low, "high": high}
        found = None
        if self.method == "bca" and left_out is not None:
            found = bca_interval(value, resampled, left_out, level=self.level)
            if found is None:
                self.impossible.append(name)
        low, high = found or percentile_interval(resampled, level=self.level)
        return {"value": value, "low": low, "high": high}


def class_rows(
    names: Sequence[str],
    estimates: Estimates,
    *,
    thresholds: np.ndarray,
    groups: TailGroups | None,
    intervals: IntervalMaker,
) -> list[Row]:
    """Return the rows of every class: metrics with intervals, then counts that explain them.

    Args:
        names: The classes.
        estimates: Of these classes.
        thresholds: float [C].
        groups: Tail groups, or None.
        intervals: How intervals are made.
    """
    rows: list[Row] = []
    census, left_out = estimates.census, estimates.left_out
    for c, name in enumerate(names):
        n_rows, n_pos = int(census.rows[c]), int(census.positives[c])
        place = {"class": name, "tail_group": groups.group_of[name] if groups else "", "support": n_pos}
        for metric in CLASS_METRICS:
            value, resampled = float(estimates.values[metric][c]), estimates.resampled[metric][c]
            if metric in ZEROED and n_pos == 0:
                # by decree, not by data: a 0 that no resample could contradict needs no interval
                rows.append({"metric": metric, **place, "value": value})
                continue
            jackknife = left_out.metrics[metric][c] if left_out else None
            behind = _patients_behind(metric, census, c)
            made = intervals.row(value, resampled, jackknife, patients=behind, name=f"{metric} of {name}")
            rows.append({"metric": metric, **place, **made})
        rows += [{**place, **row} for row in _wilson_rows(estimates, c, intervals)]
        plain = {
            "threshold": float(thresholds[c]),
            "ap_chance": chance_average_precision(n_pos, n_rows),
            "n_rows": n_rows,
            "n_patients": int(census.patients[c]),
            "n_pos": n_pos,
            "n_pos_patients": int(census.positive_patients[c]),
            "prevalence": n_pos / n_rows if n_rows else float("nan"),
        }
        if intervals.resamples:
            plain |= {f"defined_share:{m}": defined_share(estimates.resampled[m][c]) for m in ("ap", "auroc")}
        rows += [{"metric": metric, **place, "value": value} for metric, value in plain.items()]
    return rows


def _wilson_rows(estimates: Estimates, c: int, intervals: IntervalMaker) -> list[Row]:
    rows: list[Row] = []
    for metric, source in WILSON.items() if intervals.resamples else ():
        value, size = float(estimates.values[metric][c]), float(estimates.effective[source][c])
        row: Row = {"metric": f"{metric}@wilson", "value": value}
        behind = _patients_behind(metric, estimates.census, c)
        # without rows behind it a value is undefined, or 0 by decree
        if behind and value in (0.0, 1.0):
            row["low"], row["high"] = unanimous_interval(value, patients=behind, level=intervals.level)
        elif behind:
            row["low"], row["high"] = wilson_interval(value, size=size, level=intervals.level)
        rows.append(row)
    if intervals.resamples:
        rows += [{"metric": f"n_effective:{name}", "value": float(v[c])} for name, v in estimates.effective.items()]
    return rows


def _patients_behind(metric: str, census: ClassCensus, c: int) -> int | None:
    """Return the patients in a proportion's denominator; None for what is no proportion."""
    if metric not in PROPORTIONS:
        return None
    counted = {
        "precision": census.called_patients,
        "npv": census.passed_patients,
        "specificity": census.negative_patients,
    }
    return int(counted.get(metric, census.positive_patients)[c])


def macro_rows(
    names: Sequence[str],
    estimates: Estimates,
    *,
    groups: TailGroups | None,
    critical: Sequence[str],
    intervals: IntervalMaker,
) -> list[Row]:
    """Return the rows over all classes and over each tail group: means of classes, and pooled cells.

    Args:
        names: The classes.
        estimates: Of these classes.
        groups: Tail groups, or None.
        critical: Classes whose mean false negative rate is a row of its own.
        intervals: How intervals are made.
    """
    census = estimates.census
    chance = np.array(
        [chance_average_precision(int(p), int(n)) for p, n in zip(census.positives, census.rows, strict=True)]
    )
    selections = {"": np.ones(len(names), dtype=bool)}
    if groups is not None:
        selections |= {group: np.isin(names, groups.members(group)) for group in TAIL_GROUPS}
    rows: list[Row] = []
    for group, among in selections.items():
        for metric in CLASS_METRICS:
            rows.append({"tail_group": group, **_mean_row(metric, metric, estimates, among, intervals)})
        value, support = macro(chance, among=among)
        rows.append({"metric": "ap_chance", "tail_group": group, "support": support, "value": value})
        point, pooled = pool(estimates.sums, among), pool(estimates.resampled_sums, among)
        left_out = pool(estimates.left_out.sums, among) if estimates.left_out else {}
        judged = int((among & (census.rows > 0)).sum())
        for metric in POOLED_METRICS:
            made = intervals.row(float(point[metric]), pooled[metric], left_out.get(metric), name=metric)
            rows.append({"metric": metric, "tail_group": group, "support": judged, **made})
    if groups is not None:
        chosen = [selections[group] for group in TAIL_GROUPS]
        rows.append(_mean_of_groups("ap", estimates, chosen, intervals))
    if critical:
        among = np.isin(names, critical)
        rows += [
            _mean_row(f"critical_{metric}", metric, estimates, among, intervals) for metric in ("fnr", "fnr_at_half")
        ]
    return rows


def _mean_row(name: str, metric: str, estimates: Estimates, among: np.ndarray, intervals: IntervalMaker) -> Row:
    values = estimates.values[metric]
    value, support = macro(values, among=among)
    kept = among & ~np.isnan(values)
    left_out = mean_of_defined(estimates.left_out.metrics[metric][kept]) if estimates.left_out else None
    resampled = mean_of_defined(estimates.resampled[metric][kept])
    return {"metric": name, "support": support, **intervals.row(value, resampled, left_out, name=f"macro {name}")}


def _mean_of_groups(metric: str, estimates: Estimates, chosen: Sequence[np.ndarray], intervals: IntervalMaker) -> Row:
    values = estimates.values[metric]
    kept = [among & ~np.isnan(values) for among in chosen]
    kept = [among for among in kept if among.any()]

    def mean(table: np.ndarray) -> np.ndarray:
        means = [mean_of_defined(table[among]) for among in kept]
        return mean_of_defined(np.stack(means)) if means else np.full(table.shape[1], np.nan)

    left_out = mean(estimates.left_out.metrics[metric]) if estimates.left_out else None
    value = float(mean(values[:, None])[0])
    name = f"mean_of_tail_groups:{metric}"
    made = intervals.row(value, mean(estimates.resampled[metric]), left_out, name=name)
    return {"metric": name, "support": len(kept), **made}


def exclusive_rows(estimates: Estimates, *, intervals: IntervalMaker) -> list[Row]:
    """Return the rows of the exclusive groups, under each group's name."""
    rows: list[Row] = []
    for group, found in estimates.groups.items():
        n_rows, n_patients, present = estimates.group_census[group]
        for metric, (value, resampled) in found.items():
            # accuracy is one proportion over the group's rows; the others are means over its classes
            patients, support = (n_patients, n_rows) if metric == "accuracy" else (None, present)
            left_out = estimates.left_out.groups[group][metric] if estimates.left_out else None
            made = intervals.row(value, resampled, left_out, patients=patients, name=f"{metric} of {group}")
            rows.append({"metric": metric, "class": group, "support": support, **made})
    return rows


def count_absent_as_zero(estimates: Estimates) -> Estimates:
    """Set `ZEROED` metrics of classes without positives to 0, as some tools do; see `EvaluationConfig.absent`."""
    absent = estimates.census.positives == 0

    def zeroed(found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        changed = dict(found)
        for metric in ZEROED:
            changed[metric] = found[metric].copy()
            changed[metric][absent] = 0.0
        return changed

    left_out = estimates.left_out
    return replace(
        estimates,
        values=zeroed(estimates.values),
        resampled=zeroed(estimates.resampled),
        left_out=None if left_out is None else Replicates(zeroed(left_out.metrics), left_out.sums, left_out.groups),
    )
