"""Seen and unseen classes side by side: what a model is worth where it was trained, where it was only told, and both.

The harmonic mean is low when either is; the line of chance says what a random order would get from the same labels.
Torch-free: scores may come from anybody's zero-shot method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medtail.errors import Problems, did_you_mean
from medtail.judging.bootstrap import draw_weights, number_patients, rank_rows, rank_values, resample_ranked
from medtail.judging.intervals import mean_of_defined, percentile_interval
from medtail.judging.metrics import chance_average_precision
from medtail.runs import versions
from medtail.tables.predictions import Predictions
from medtail.tables.results import Results, results_from_rows

PARTS = ("seen", "unseen")
METRICS = ("ap", "auroc")


def judge_generalised(
    predictions: Predictions,
    *,
    unseen: Sequence[str],
    bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    threads: int | None = None,
) -> Results:
    """Judge seen and unseen classes, and their harmonic mean, with patient-level intervals.

    Args:
        predictions: Scores of both, and targets.
        unseen: The classes the model never had a label of; all others are seen.
        bootstrap: Resamples of the patients; 0 for no intervals.
        level: Of the intervals.
        seed: Of the resamples.
        threads: Worker threads; no effect on the result.

    Returns:
        Rows `ap`, `auroc`, `chance_ap` and `prevalence` of every class, in subgroup `seen` or `unseen`; the means of
        both and, where both are there, of `harmonic`, 2ab / (a + b), in the rows without a class. A class without
        positives has NaN and counts in no mean.

    Raises:
        MedtailError: An unseen class is not scored, none is named, or no row is assessed.

    Example:
        >>> from medtail.tables.labels import LabelSpace
        >>> ids = np.array(list("abcd"), dtype=object)
        >>> rows = Predictions(ids, ids, np.array([[0.9, 0.1], [0.8, 0.7], [0.2, 0.6], [0.1, 0.2]]),
        ...                    np.array([[1.0, 0], [1, 0], [0, 1], [0, 0]]), LabelSpace(("Mass", "Bulla")), ids)
        >>> found = judge_generalised(rows, unseen=["Bulla"], bootstrap=0)
        >>> [found.value("ap", subgroup=part) for part in ("seen", "unseen", "harmonic")]
        [1.0, 0.5, 0.6666666666666666]

    References:
        xian2019 (the harmonic mean).
    """
    names = predictions.labels.class_names
    problems = Problems(predictions.name)
    for name in unseen:
        if name not in names:
            problems.add(f"unseen class {name!r}: is not scored{did_you_mean(name, names) or '.'}")
    if not unseen:
        problems.add("no unseen classes; expected one at least. With none, `medtail evaluate` is the judge.")
    if not len(predictions):
        problems.add("no rows; expected an image at least.")
    problems.raise_if_any()
    patients, num_patients = number_patients(predictions.patients)
    weights = draw_weights(num_patients, resamples=bootstrap, seed=seed)
    ranked = [rank_rows(predictions.scores[:, c], predictions.targets[:, c], patients) for c in range(len(names))]
    points = np.array([rank_values(rows) for rows in ranked])
    resampled = dict(zip(METRICS, resample_ranked(ranked, weights, threads=threads), strict=True))
    positives = (predictions.targets == 1).sum(axis=0)
    assessed = (~np.isnan(predictions.targets)).sum(axis=0)
    chance = np.array([chance_average_precision(int(p), int(n)) for p, n in zip(positives, assessed, strict=True)])
    is_unseen = np.isin(names, list(unseen))

    def row(metric: str, value: float, drawn: np.ndarray | None, **place: Any) -> dict[str, Any]:
        made = {"metric": metric, "value": value, **place}
        if drawn is not None and bootstrap and not np.isnan(value):
            made["low"], made["high"] = percentile_interval(drawn, level=level)
        return made

    rows: list[Mapping[str, Any]] = []
    for c, name in enumerate(names):
        place = {"class": name, "subgroup": PARTS[int(is_unseen[c])], "support": int(positives[c])}
        for m, metric in enumerate(METRICS):
            rows.append(row(metric, float(points[c, m]), resampled[metric][c], **place))
        rows.append(row("chance_ap", float(chance[c]), None, **place))
        rows.append(row("prevalence", float(positives[c] / assessed[c]) if assessed[c] else np.nan, None, **place))
    for m, metric in enumerate(METRICS):
        means = {
            part: (points[among, m], resampled[metric][among])
            for part, among in zip(PARTS, (~is_unseen, is_unseen), strict=True)
            if among.any()
        }
        values = {part: (_mean(value), mean_of_defined(drawn)) for part, (value, drawn) in means.items()}
        for part, (value, drawn) in values.items():
            support = int(np.isfinite(means[part][0]).sum())
            rows.append(row(metric, value, drawn, subgroup=part, support=support))
        if len(values) == 2:
            (a, drawn_a), (b, drawn_b) = values.values()
            support = int(np.isfinite(points[:, m]).sum())
            joined = row(metric, _harmonic(a, b), _harmonic(drawn_a, drawn_b), subgroup="harmonic", support=support)
            rows.append(joined)
    for part, among in zip(PARTS, (~is_unseen, is_unseen), strict=True):
        if among.any():
            support = int(np.isfinite(chance[among]).sum())
            rows.append(row("chance_ap", _mean(chance[among]), None, subgroup=part, support=support))
    header = {
        "kind": "generalised",
        "unseen": [name for name in names if name in set(unseen)],
        "rows": len(predictions),
        "patients": num_patients,
        "digests": dict(predictions.digests),
        "bootstrap": {"resamples": bootstrap, "scheme": "multinomial", "interval": level, "seed": seed},
        "versions": versions(),
    }
    return results_from_rows(rows, header=header)


def generalised_text(results: Results) -> str:
    """Return the table as text: a line a class, then seen, unseen and harmonic.

    Example:
        >>> rows = [{"metric": "ap", "class": "Mass", "subgroup": "seen", "value": 0.5, "support": 3}]
        >>> print(generalised_text(results_from_rows(rows)))
        class  part  positives    AP  chance  AUROC
        Mass   seen          3  .500       -      -
    """
    lines = [("class", "part", "positives", "AP", "chance", "AUROC")]
    frame = results.frame
    keys = frame[["class", "subgroup"]].drop_duplicates()
    for name, part in zip(keys["class"], keys["subgroup"], strict=True):
        chosen = frame[(frame["class"] == name) & (frame["subgroup"] == part)].set_index("metric")
        support = int(chosen["support"].iloc[0])
        called = name or f"mean of {support}"
        cells = [_cell(chosen, metric) for metric in ("ap", "chance_ap", "auroc")]
        lines.append((called, part, str(support) if name else "", *cells))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    aligned = (str.ljust, str.ljust, str.rjust, str.rjust, str.rjust, str.rjust)
    return "\n".join(
        "  ".join(align(cell, width) for align, cell, width in zip(aligned, line, widths, strict=True))
        for line in lines
    )


def _cell(chosen: Any, metric: str) -> str:
    if metric not in chosen.index or np.isnan(chosen.loc[metric, "value"]):
        return "-"
    value, low, high = (float(chosen.loc[metric, key]) for key in ("value", "low", "high"))
    said = _share(value)
    return said if np.isnan(low) else f"{said} ({_share(low)}-{_share(high)})"


def _share(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _harmonic(a: Any, b: Any) -> Any:
    total = np.asarray(a + b)
    known = np.where(np.isnan(total), np.nan, 0.0)  # of nothing and nothing it is nothing
    return np.divide(2.0 * np.asarray(a * b), total, out=known, where=total > 0)[()]
