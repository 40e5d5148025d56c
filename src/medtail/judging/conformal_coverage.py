"""Do conformal sets keep their promise on rows nobody calibrated on, for the rare classes too, and how large are they?

A set that misses little because it holds everything promises nothing: coverage stands beside how often a class is in
the sets, and beside their size.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from medtail.errors import MedtailError, listing
from medtail.judging.bootstrap import draw_weights, fixed_point, number_patients, patient_sums, resample_sums
from medtail.judging.conformal import ConformalSets
from medtail.judging.counts import ratio
from medtail.judging.evaluation import EvaluationConfig
from medtail.judging.headers import results_header
from medtail.judging.intervals import mean_of_defined
from medtail.judging.metrics import macro
from medtail.judging.proportions import interval_row, word_few_patients
from medtail.tables.predictions import Predictions
from medtail.tables.results import Results, results_from_rows
from medtail.tables.tail import TAIL_GROUPS, TailGroups, tail_groups

Row = dict[str, Any]


def judge_sets(sets: ConformalSets, predictions: Predictions, *, config: EvaluationConfig | None = None) -> Results:
    """Measure coverage and size of conformal sets, with patient-level intervals.

    Rows a class: `coverage` (share of its images whose set holds it), `inclusion` (share of all assessed images whose
    set holds it), `limit`, `calibration_patients`, `n_pos`, `n_pos_patients`. Over all classes and each tail group:
    `coverage` (mean over classes) and `micro_coverage` (over findings). Over all columns, and for each exclusive group
    under its name: `set_size`, `singleton_share`, `empty_share`. Over images with a finding: `missed_share`, the mean
    share of an image's findings that its set misses.

    Args:
        sets: From `fit_conformal`.
        predictions: Scores and targets of rows that calibrated nothing.
        config: Resamples, scheme, seed, interval and tail rule; the defaults if None.

    Returns:
        The results; the sets and what each limit rests on are in the header.

    Raises:
        MedtailError: Tune rows among them, other classes, or no rows.

    Example:
        >>> from medtail.judging.conformal import fit_conformal
        >>> from medtail.tables.labels import LabelSpace
        >>> random = np.random.default_rng(0)
        >>> def rows(fold):
        ...     ids = np.array([f"{fold}{i}" for i in range(200)], dtype=object)
        ...     folds = np.array([fold] * 200, dtype=object)
        ...     return Predictions(ids, ids, random.random((200, 1)), np.ones((200, 1)), LabelSpace(("Hernia",)), folds)
        >>> sets = fit_conformal(rows("tune"))
        >>> bool(judge_sets(sets, rows("test")).value("coverage", class_name="Hernia") > 0.8)
        True
    """
    config = config or EvaluationConfig()
    if not len(predictions):
        raise MedtailError(f"{predictions.name}: no rows to judge the sets on.")
    if (predictions.folds == "tune").any():
        raise MedtailError(
            f"{predictions.name}: {int((predictions.folds == 'tune').sum())} rows are in fold 'tune', where the sets"
            " come from; there they keep their promise by construction. Judge them on the test fold."
        )
    inside = sets.apply(predictions)
    patients, total = number_patients(predictions.patients)
    weights = draw_weights(total, resamples=config.bootstrap, scheme=config.scheme, seed=config.seed)

    def both(columns: np.ndarray) -> np.ndarray:
        """Sum columns [N, m] on the rows as they are and in each resample, [m, 1 + B]."""
        drawn = resample_sums(patient_sums(columns, patients, weights.num_patients), weights)
        return np.concatenate([columns.sum(axis=0)[:, None], drawn], axis=1)

    positive, known = predictions.targets == 1, ~np.isnan(predictions.targets)
    findings, covered = both(positive.astype(float)), both((positive & inside).astype(float))
    assessed, included = both(known.astype(float)), both((known & inside).astype(float))
    coverage, inclusion = ratio(covered, findings), ratio(included, assessed)
    groups = _tail(predictions, config)
    rows: list[Row] = []
    for c, name in enumerate(predictions.labels.class_names):
        with_it, seen = (len(np.unique(patients[mask[:, c]])) for mask in (positive, known))
        group = groups.group_of[name] if groups else ""
        place = {"class": name, "tail_group": group, "support": int(findings[c, 0])}
        rows += [
            {"metric": "coverage", **place, **_interval(coverage[c], config, patients=with_it)},
            {"metric": "inclusion", **place, **_interval(inclusion[c], config, patients=seen)},
            {"metric": "limit", **place, "value": float(sets.limits[c])},
            {"metric": "calibration_patients", **place, "value": sets.patients[c]},
            {"metric": "n_pos", **place, "value": int(findings[c, 0])},
            {"metric": "n_pos_patients", **place, "value": with_it},
        ]
    among: dict[str, np.ndarray] = {"": np.ones(len(coverage), dtype=bool)}
    if groups is not None:
        among |= {group: np.isin(predictions.labels.class_names, groups.members(group)) for group in TAIL_GROUPS}
    for where, mask in among.items():
        value, support = macro(coverage[:, 0], among=mask)
        drawn = mean_of_defined(coverage[mask & ~np.isnan(coverage[:, 0]), 1:])
        if value in (0.0, 1.0):  # every resample repeats it, and a mean over classes has no rule of three
            drawn = drawn[:0]
        place = {"tail_group": where, "support": support}
        rows.append({"metric": "coverage", **place, **interval_row(value, drawn, level=config.interval)})
        pooled = ratio(covered[mask].sum(axis=0), findings[mask].sum(axis=0))
        behind = len(np.unique(patients[positive[:, mask].any(axis=1)]))
        place = {"tail_group": where, "support": int(findings[mask, 0].sum())}
        rows.append({"metric": "micro_coverage", **place, **_interval(pooled, config, patients=behind)})
    named = {"": tuple(range(predictions.labels.num_classes))}
    named |= {
        group.name: at for group, at in zip(predictions.labels.groups, predictions.labels.group_indices, strict=True)
    }
    for name, columns in named.items():
        size = inside[:, list(columns)].sum(axis=1)
        shape = np.stack([size, size == 1, size == 0], axis=1).astype(float)
        for metric, sums in zip(("set_size", "singleton_share", "empty_share"), both(shape), strict=True):
            share = sums / both(np.ones((len(size), 1)))[0]
            place = {"metric": metric, "class": name, "support": len(size)}
            rows.append({**place, **_interval(share, config, patients=None if metric == "set_size" else total)})
    has = positive.any(axis=1)
    missed = np.where(has, ratio((positive & ~inside).sum(axis=1), positive.sum(axis=1)), 0.0)
    exact = fixed_point(missed[:, None], rows=len(missed), heaviest=weights.heaviest)
    share = ratio(both(exact)[0], both(has[:, None].astype(float))[0])
    behind = len(np.unique(patients[has]))
    rows.append({"metric": "missed_share", "support": int(has.sum()), **_interval(share, config, patients=behind)})
    header = results_header(predictions, num_patients=total, config=config)
    header["digests"]["calibration"] = sets.digest
    header |= {
        "conformal": sets.to_json(),
        "tail": None if groups is None else {"rule": groups.rule, "description": groups.describe()},
        "warnings": word_fallbacks(sets)
        + (word_few_patients(predictions, sets.labels.class_names) if weights.resamples else []),
    }
    return results_from_rows(list(rows), header=header)


def word_fallbacks(sets: ConformalSets) -> list[str]:
    """Say in words which classes have no promise of their own.

    Example:
        >>> from medtail.tables.labels import LabelSpace
        >>> labels = LabelSpace(("Hernia",))
        >>> word_fallbacks(ConformalSets(labels, 0.1, "marginal", np.zeros(1), ("always",), (2,), (2,), ""))[0]
        'in every set, for want of patients to set a limit from: Hernia (2); in brackets their calibration patients.'
    """
    words = {
        "cluster": "the promise holds on average over a cluster of classes, not for each",
        "tail group": "the promise holds on average over a tail group, not for each",
        "marginal": "the promise holds on average over all findings, not for each",
        "always": "in every set, for want of patients to set a limit from",
    }
    found = []
    for level, meaning in words.items():
        # where one limit for all was asked for, saying so class by class would say nothing
        if sets.method in ("class_conditional", "clustered") or level == "always":
            classes = zip(sets.labels.class_names, sets.levels, sets.patients, strict=True)
            named = [f"{name} ({patients})" for name, own, patients in classes if own == level]
            if named:
                found.append(f"{meaning}: {listing(named, limit=8)}; in brackets their calibration patients.")
    if sets.method in ("marginal", "prevalence_adjusted"):
        found.append("one limit for all classes: the promise holds on average over all findings, not for a class.")
    if sets.method == "interpolated":
        found.append("interpolated limits: no promise for a class; read the coverage measured.")
    if sets.details.get("unit") == "image":
        found.append("patients unknown: images count as patients, and if some share one the promise is too bold.")
    return found


def sets_text(sets: ConformalSets, results: Results) -> str:
    """Write the sets and their measured coverage as plain text for a terminal.

    Args:
        sets: From `fit_conformal`.
        results: From `judge_sets`.

    Returns:
        A table of the classes, the sizes of the sets, and the notes.
    """
    table = [["class", "calibration patients", "limit from", "limit", "coverage", "in sets"]]
    for name, level, own, pooled, limit in zip(
        sets.labels.class_names, sets.levels, sets.patients, sets.pooled, sets.limits, strict=True
    ):
        source = level if level in ("class", "always") else f"{level} ({pooled} patients)"
        cells = [_cell(results, metric, name) for metric in ("coverage", "inclusion")]
        table.append([name, str(own), source, f"{limit:.4g}", *cells])
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]
    lines += [
        "",
        f"promise: a finding is missed at most {sets.alpha:.0%} of the time ({sets.method.replace('_', ' ')})",
    ]
    for group in ("", *TAIL_GROUPS):
        if len(results.rows("coverage", class_name="", tail_group=group)):
            found = _cell(results, "coverage", "", tail_group=group)
            if found != "undefined":
                lines.append(f"coverage, mean over {group or 'all'} classes: {found}")
    for group_name in ("", *(group.name for group in sets.labels.groups)):
        if group_name and sets.labels.task == "multiclass":
            continue
        parts = [_cell(results, metric, group_name) for metric in ("set_size", "singleton_share", "empty_share")]
        place = f" in {group_name}" if group_name else ""
        lines.append(f"set size{place} {parts[0]}, one class {parts[1]}, empty {parts[2]}")
    return "\n".join([*lines, *(f"! {warning}" for warning in results.header.get("warnings", ()))])


def _cell(results: Results, metric: str, name: str, *, tail_group: str | None = None) -> str:
    found = results.rows(metric, class_name=name, tail_group=tail_group if name or tail_group else "").iloc[0]
    if np.isnan(found["value"]):
        return "undefined"
    interval = "" if np.isnan(found["low"]) else f" [{found['low']:.3f}, {found['high']:.3f}]"
    return f"{found['value']:.3f}{interval}"


def _interval(values: np.ndarray, config: EvaluationConfig, *, patients: int | None = None) -> dict[str, float]:
    return interval_row(float(values[0]), values[1:], level=config.interval, patients=patients)


def _tail(predictions: Predictions, config: EvaluationConfig) -> TailGroups | None:
    counts, names = predictions.train_counts, predictions.labels.class_names
    if counts is None or not set(names) <= set(counts.class_names):
        return None
    return tail_groups(
        counts.select(names),
        labels=predictions.labels,
        rule=config.tail_rule,
        cuts=config.tail_cuts,
        members=config.tail_members,
    )
