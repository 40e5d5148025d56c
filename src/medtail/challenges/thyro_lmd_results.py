"""The numbers of a Thyro-LMD score: counts per label, means per group, and patients resampled around both.

Everything here is a function of whole-number counts, so one pass over per-patient sums serves every resample. Figures
with `_at_half` in their names are of the raw decisions at 0.5: the untuned column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from medtail.challenges.thyro_lmd_labels import GROUPS, LABELS, AbsentRule, ThyroSplit, group_columns
from medtail.challenges.thyro_lmd_levels import NoduleContext, level_rows
from medtail.errors import listing
from medtail.judging.bootstrap import (
    PatientWeights,
    draw_weights,
    number_patients,
    patient_sums,
    rank_rows,
    resample_ranked,
    resample_sums,
)
from medtail.judging.counts import f1_from_counts, ratio
from medtail.judging.intervals import defined_share, mean_of_defined, percentile_interval
from medtail.judging.metrics import auroc, average_precision, expected_calibration_error, macro, per_class
from medtail.runs import versions
from medtail.tables.predictions import Predictions
from medtail.tables.results import Results, results_from_rows
from medtail.tables.tail import TAIL_GROUPS

INTERVAL = 0.95
FEWEST_POSITIVE_PATIENTS = 20
Row = dict[str, Any]


@final
@dataclass(frozen=True)
class _Value:
    """One number on the full sample, float64 […], and in the resamples, float64 […, B]."""

    point: np.ndarray
    resampled: np.ndarray


def judge_reports(
    predictions: Predictions,
    *,
    decoded: np.ndarray,
    raw: np.ndarray,
    unparsed: np.ndarray,
    invalid: Mapping[str, np.ndarray],
    split: ThyroSplit | None,
    absent: AbsentRule = "nan",
    bootstrap: int = 2000,
    seed: int = 0,
    notes: Sequence[str] = (),
    context: NoduleContext | None = None,
) -> Results:
    """Turn decisions into Results.

    Rows of a label: `f1, precision, recall, f1_at_half, ap, auroc` with intervals, `ece, n_pos, n_pos_patients,
    n_rows, false_positives, threshold (foci), defined_share:f1` without. Rows over labels have an empty class: `f1`,
    `f1_at_half`, `ap`, `auroc`, `precision` and `recall` averaged, `micro_f1` and `micro_f1_at_half` pooled, all over
    everything and over each tail group, and `f1_terciles` over thirds of the labels. A group of labels has
    `exact_match, exact_match_at_half, invalid_report_rate` under its name; the whole report has the last one too, and
    `unparsed_share`. With a `context`, `thyro_lmd_levels.ENDPOINTS` are judged too.

    Args:
        predictions: Scores and targets, columns in the protocol's order.
        decoded: bool [N, 20], the reports.
        raw: bool [N, 20], the decisions at 0.5.
        unparsed: bool [N], rows without an answer.
        invalid: Group → bool [N], reports that break the lexicon before decoding.
        split: Head, body and tail; None where no train fold is known.
        absent: What a label without positives counts as.
        bootstrap: Resamples of patients.
        seed: Of the resamples.
        notes: Further cautions, put last.
        context: Sizes and undetermined groups; None leaves TI-RADS levels and advice out.

    Returns:
        The results; the header holds what `evaluation.evaluate`'s does.
    """
    patients, num_patients = number_patients(predictions.patients)
    weights = draw_weights(num_patients, resamples=bootstrap, seed=seed)
    targets = predictions.targets
    sums = _Sums(patients, num_patients, weights)
    is_hard = bool(np.isin(predictions.scores, (0.0, 1.0)).all())
    known = (~np.isnan(targets)).any(axis=0)
    values = {
        **_decided(sums, decoded, targets, ""),
        **_decided(sums, raw, targets, "_at_half"),
        **_ranked(predictions, patients, weights, is_hard=is_hard),
    }
    if absent == "zero":
        # no ranking stays undefined: that is not about a class without positives
        filled = [name for name in ZERO_FILLED if not (is_hard and name == "ap")]
        values |= {name: _zero_filled(values[name], known) for name in filled}
    rows: list[Mapping[str, Any]] = [
        *_label_rows(predictions, values, decoded, split, is_hard=is_hard),
        *_mean_rows(values, split),
        *_report_rows(sums, decoded, raw, targets, invalid, unparsed),
        {"metric": "n_rows", "value": len(predictions), "support": LABELS.num_classes},
        {"metric": "n_patients", "value": num_patients, "support": LABELS.num_classes},
    ]
    warnings = _cautions(predictions, decoded, unparsed, split, absent, is_hard=is_hard)
    if context is not None:
        found, cautions = level_rows(decoded, targets, unparsed, context, sums=sums.pair, interval=_interval)
        rows += found
        warnings += cautions
    warnings += notes
    header = _header(predictions, split, absent, bootstrap, seed, num_patients, warnings) | {"ranked": not is_hard}
    return results_from_rows(rows, header=header)


AVERAGED = ("f1", "f1_at_half", "precision", "recall", "ap", "auroc")
ZERO_FILLED = ("f1", "f1_at_half", "precision", "recall", "ap")
"""What usual software answers 0 for where there are no positives; AUROC stays undefined there too."""


@final
@dataclass(frozen=True)
class _Sums:
    patients: np.ndarray
    num_patients: int
    weights: PatientWeights

    def of(self, columns: np.ndarray) -> _Value:
        """Sum whole-number columns [N, m] over rows, and over the rows of every resample."""
        per_patient = patient_sums(columns.astype(np.float64), self.patients, self.num_patients)
        return _Value(per_patient.sum(axis=0), resample_sums(per_patient, self.weights))

    def pair(self, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sum as `of` does: float64 [m], and [m, B]."""
        value = self.of(columns)
        return value.point, value.resampled


def _decided(sums: _Sums, called: np.ndarray, targets: np.ndarray, suffix: str) -> dict[str, _Value]:
    hit, false, positive = called & (targets == 1), called & (targets == 0), targets == 1
    tp, fp, pos = sums.of(hit), sums.of(false), sums.of(positive)

    def both(formula: Any) -> _Value:
        return _Value(formula(tp.point, fp.point, pos.point), formula(tp.resampled, fp.resampled, pos.resampled))

    found = {
        f"f1{suffix}": both(lambda t, f, p: f1_from_counts(t, f, p - t)),
        **{f"_{name}{suffix}": value for name, value in (("tp", tp), ("fp", fp), ("pos", pos))},
    }
    if not suffix:
        found["precision"] = both(lambda t, f, p: ratio(t, t + f))
        found["recall"] = both(lambda t, f, p: ratio(t, p))
    return found


def _ranked(
    predictions: Predictions, patients: np.ndarray, weights: PatientWeights, *, is_hard: bool
) -> dict[str, _Value]:
    scores, targets = predictions.scores, predictions.targets
    columns = range(scores.shape[1])
    if is_hard:  # one operating point is no ranking
        nothing = _Value(np.full(len(columns), np.nan), np.full((len(columns), weights.resamples), np.nan))
        return {"ap": nothing, "auroc": nothing}
    ap, roc = resample_ranked([rank_rows(scores[:, c], targets[:, c], patients) for c in columns], weights)
    return {
        "ap": _Value(per_class(average_precision, scores, targets), ap),
        "auroc": _Value(per_class(auroc, scores, targets), roc),
    }


def _zero_filled(value: _Value, known: np.ndarray) -> _Value:
    return _Value(
        np.where(np.isnan(value.point) & known, 0.0, value.point),
        np.where(np.isnan(value.resampled) & known[:, None], 0.0, value.resampled),
    )


def _interval(value: float, resampled: np.ndarray) -> Row:
    if np.isnan(value) or not len(resampled):
        return {"value": value}
    low, high = percentile_interval(resampled, level=INTERVAL)
    return {"value": value, "low": low, "high": high}


def _label_rows(
    predictions: Predictions,
    values: Mapping[str, _Value],
    decoded: np.ndarray,
    split: ThyroSplit | None,
    *,
    is_hard: bool,
) -> list[Row]:
    scores, targets = predictions.scores, predictions.targets
    ece = per_class(expected_calibration_error, scores, targets)
    rows: list[Row] = []
    for c, name in enumerate(LABELS.class_names):
        positive = targets[:, c] == 1
        group = split.groups.group_of[name] if split is not None else ""
        place = {"class": name, "tail_group": group, "support": int(positive.sum())}
        for metric in AVERAGED:
            found = values[metric]
            rows.append({"metric": metric, **place, **_interval(float(found.point[c]), found.resampled[c])})
        plain = {
            "ece": float("nan") if is_hard else float(ece[c]),
            "n_rows": int((~np.isnan(targets[:, c])).sum()),
            "n_pos": int(positive.sum()),
            "n_pos_patients": len(set(predictions.patients[positive])),
            "false_positives": int((decoded[:, c] & (targets[:, c] == 0)).sum()),
        }
        if name in GROUPS["foci"]:
            plain["threshold"] = (predictions.thresholds or {}).get(name, 0.5)
        if values["f1"].resampled.shape[1]:
            plain["defined_share:f1"] = defined_share(values["f1"].resampled[c])
        rows += [{"metric": metric, **place, "value": value} for metric, value in plain.items()]
    return rows


def _mean_rows(values: Mapping[str, _Value], split: ThyroSplit | None) -> list[Row]:
    names = LABELS.class_names
    selections = {"": np.ones(len(names), dtype=bool)}
    if split is not None:
        selections |= {group: np.isin(names, split.groups.members(group)) for group in TAIL_GROUPS}
    rows: list[Row] = []
    for group, among in selections.items():
        rows += [_mean_row(metric, values[metric], among, group) for metric in AVERAGED]
        rows += [_micro_row(values, suffix, among, group) for suffix in ("", "_at_half")]
    if split is not None:
        for group in TAIL_GROUPS:
            among = np.isin(names, split.terciles.members(group))
            rows.append({**_mean_row("f1", values["f1"], among, group), "metric": "f1_terciles"})
    return rows


def _mean_row(metric: str, value: _Value, among: np.ndarray, group: str) -> Row:
    point, support = macro(value.point, among=among)
    resampled = mean_of_defined(value.resampled[among & ~np.isnan(value.point)])
    return {"metric": metric, "tail_group": group, "support": support, **_interval(point, resampled)}


def _micro_row(values: Mapping[str, _Value], suffix: str, among: np.ndarray, group: str) -> Row:
    tp, fp, pos = (values[f"_{name}{suffix}"] for name in ("tp", "fp", "pos"))
    point = f1_from_counts(*_pooled(tp.point[among], fp.point[among], pos.point[among]))
    resampled = f1_from_counts(*_pooled(tp.resampled[among], fp.resampled[among], pos.resampled[among]))
    place = {"metric": f"micro_f1{suffix}", "tail_group": group, "support": int(among.sum())}
    return {**place, **_interval(float(point), resampled)}


def _pooled(tp: np.ndarray, fp: np.ndarray, pos: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    hits = tp.sum(axis=0)
    return hits, fp.sum(axis=0), pos.sum(axis=0) - hits


def _report_rows(
    sums: _Sums,
    decoded: np.ndarray,
    raw: np.ndarray,
    targets: np.ndarray,
    invalid: Mapping[str, np.ndarray],
    unparsed: np.ndarray,
) -> list[Row]:
    rows: list[Row] = []

    def share(metric: str, marked: np.ndarray, among: np.ndarray, group: str) -> None:
        counted = sums.of(np.stack([marked & among, among], axis=1))
        value = float(ratio(*counted.point))
        interval = _interval(value, ratio(*counted.resampled))
        rows.append({"metric": metric, "class": group, "support": int(among.sum()), **interval})

    answered = ~unparsed
    for group in GROUPS:
        columns = group_columns(group)
        assessed = ~np.isnan(targets[:, columns]).any(axis=1)
        truth = targets[:, columns] == 1
        for suffix, called in (("", decoded), ("_at_half", raw)):
            share(f"exact_match{suffix}", (called[:, columns] == truth).all(axis=1), assessed, group)
        share("invalid_report_rate", invalid[group], answered, group)
    share("invalid_report_rate", np.any(list(invalid.values()), axis=0), answered, "")
    share("unparsed_share", unparsed, np.ones(len(unparsed), dtype=bool), "")
    return rows


def _cautions(
    predictions: Predictions,
    decoded: np.ndarray,
    unparsed: np.ndarray,
    split: ThyroSplit | None,
    absent: AbsentRule,
    *,
    is_hard: bool,
) -> list[str]:
    targets, patients = predictions.targets, predictions.patients
    positive = targets == 1
    found: list[str] = []
    if not predictions.has_patients:
        found.append("Patients are unknown, so images are resampled: intervals are too short if patients have several.")
    if set(predictions.folds.astype(str)) == {""}:
        found.append("The table has no folds, so every scored row was judged: nothing shows they were held out.")
    if predictions.thresholds is None:
        found.append(
            "No tune rows: the foci are called at 0.5. Score the tune fold too (in the same file, or with --tune)."
        )
    if split is None:
        found.append("No head, body and tail: the table has no train fold. Give the split with --split split.json.")
    else:
        empty = [{"medium": "body"}.get(group, group) for group in TAIL_GROUPS if not split.groups.members(group)]
        if empty:
            found.append(f"No label falls into {listing(empty)}: its F1 is undefined.")
    missing = [c for c in range(LABELS.num_classes) if not positive[:, c].any()]
    if missing:
        named = [f"{LABELS.class_names[c]} ({(decoded[:, c] & (targets[:, c] == 0)).sum()})" for c in missing]
        counted = "counted as 0, as asked" if absent == "zero" else "left out of every mean"
        found.append(f"No test positive, so {counted} (false positives in brackets): {listing(named, limit=20)}.")
    few = [
        f"{name} ({count})"
        for name, count in zip(LABELS.class_names, (len(set(patients[column])) for column in positive.T), strict=True)
        if 0 < count < FEWEST_POSITIVE_PATIENTS
    ]
    if few:
        found.append(
            f"Fewer than {FEWEST_POSITIVE_PATIENTS} positive patients, so the interval is too short even so:"
            f" {listing(few, limit=20)}."
        )
    if is_hard:
        found.append("Only 0 and 1 as scores: answers, no ranking, so mAP, AUROC and ECE are undefined.")
    if unparsed.any():
        found.append(
            f"{int(unparsed.sum())} of {len(unparsed)} rows hold no answer (all empty or all 0): no label is called"
            f" there, and every positive is missed."
        )
    return found


def _header(
    predictions: Predictions,
    split: ThyroSplit | None,
    absent: AbsentRule,
    bootstrap: int,
    seed: int,
    num_patients: int,
    warnings: Sequence[str],
) -> dict[str, Any]:
    positive, known = predictions.targets == 1, ~np.isnan(predictions.targets)
    names = LABELS.class_names
    tail = None
    if split is not None:
        high, low = (f"{100 * cut:g} %" for cut in split.groups.cuts)
        tail = {
            "rule": split.groups.rule,
            "cuts": list(split.groups.cuts),
            "description": f"head at least {high}, body {low} to {high}, tail < {low} of the assessed train images",
            "groups": dict(split.groups.group_of),
            "terciles": dict(split.terciles.group_of),
        }
    return {
        "name": predictions.name,
        "fold": " and ".join(sorted(set(predictions.folds.astype(str)) - {""})),
        "num_rows": len(predictions),
        "num_patients": num_patients,
        "labels": LABELS.to_json(),
        "task": LABELS.task,
        "digests": {**predictions.digests, "predictions": predictions.digest},
        "train_counts": None if split is None else split.counts.to_json(),
        "tail": tail,
        "thresholds": {
            "source": "fixed 0.5" if predictions.thresholds is None else "tune, shrunk toward 0.5",
            "values": {name: float(t) for name, t in zip(names, predictions.threshold_array, strict=True)},
            "inside_groups": "highest score; foci by threshold and the foci_none rule of Thyro-LMD",
        },
        "bootstrap": {
            "resamples": bootstrap,
            "scheme": "multinomial",
            "interval": INTERVAL,
            "seed": seed,
            "unit": "patient" if predictions.has_patients else "image",
        },
        "ece": {"mode": "reliability", "bins": 15},
        "absent": absent,
        "unsupported": [name for name, column in zip(names, positive.T, strict=True) if not column.any()],
        "without_negatives": [
            name
            for name, pos, seen in zip(names, positive.T, known.T, strict=True)
            if seen.any() and bool(pos[seen].all())
        ],
        "warnings": list(warnings),
        "versions": versions(),
    }
