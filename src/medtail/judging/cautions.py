"""What a reader could misread, said in words beside the numbers."""

from __future__ import annotations

import numpy as np

from medtail.errors import listing
from medtail.judging.estimates import Estimates
from medtail.judging.intervals import defined_share
from medtail.tables.predictions import Predictions

FEWEST_POSITIVE_PATIENTS = 20
"""Below this many positive patients even patient-level intervals were too short in simulations (spec, §5)."""
STABLE_SHARE = 0.95


def word_cautions(predictions: Predictions, estimates: Estimates, *, source: str, has_tail: bool) -> list[str]:
    """Say everything about these numbers that a careful reader must know, one sentence or two each.

    Args:
        predictions: What was judged.
        estimates: What came out.
        source: Where the thresholds are from: `tune`, `fixed 0.5` or `given`.
        has_tail: Whether classes could be put into tail groups.

    Returns:
        Warnings in the order a reader should meet them; empty where there is nothing to say.
    """
    return [
        *_about_rows(predictions, source),
        *_about_patients(predictions),
        *_about_support(predictions, estimates),
        *_about_intervals(predictions, estimates),
        *_about_scores(predictions),
        *([] if has_tail else [_no_tail(predictions)]),
    ]


def _about_rows(predictions: Predictions, source: str) -> list[str]:
    folds = set(predictions.folds.astype(str))
    found: list[str] = []
    if folds == {""}:
        found.append("The fold of the rows is unknown: nothing shows that the model did not learn from them.")
    if "train" in folds:
        found.append("Rows of the train fold are among those judged: the model learnt from them, so this flatters it.")
    if "reward" in folds:
        found.append("Rows of the reward fold are among those judged: they steered the training, so this flatters it.")
    if "tune" in folds and source == "tune":
        found.append(
            "Thresholds were chosen on the tune fold, and rows of it are judged: F1 and its kin are optimistic."
        )
    elif "tune" in folds:
        found.append("Rows of the tune fold are among those judged: choices made on them flatter the model.")
    if source == "fixed 0.5":
        found.append(
            "No thresholds were chosen on tune, so decisions are at score >= 0.5. Rare classes seldom reach it: a low"
            " F1 may say more about the threshold than about the model."
        )
    return found


def _about_patients(predictions: Predictions) -> list[str]:
    if not predictions.has_patients:
        return [
            "Patients are unknown, so each image is resampled as a patient of its own: if patients have several images,"
            " the intervals are too short. Add a column 'patient_id'."
        ]
    if len(set(predictions.patients)) < 2:
        return ["All rows are of one patient: resampling patients shows no spread, so the intervals mean nothing."]
    return []


def _about_support(predictions: Predictions, estimates: Estimates) -> list[str]:
    names, census = predictions.labels.class_names, estimates.census
    found: list[str] = []
    unseen = [name for name, n in zip(names, census.rows, strict=True) if n == 0]
    if unseen:
        found.append(f"Not assessed in any row, so nothing can be said of {_classes(unseen)}.")
    absent = [name for name, n, p in zip(names, census.rows, census.positives, strict=True) if n > 0 and p == 0]
    if absent:
        found.append(
            f"No positive row for {_classes(absent)}: AP, AUROC, recall and F1 are undefined there and"
            f" left out of every average, not counted as 0."
        )
    full = [name for name, n, p in zip(names, census.rows, census.positives, strict=True) if n > 0 and n == p]
    if full:
        found.append(f"No negative row for {_classes(full)}: AUROC and specificity are undefined there.")
    few = [
        f"{name} ({n})"
        for name, n in zip(names, census.positive_patients, strict=True)
        if 0 < n < FEWEST_POSITIVE_PATIENTS
    ]
    if few:
        unit = "patients" if predictions.has_patients else "images"
        found.append(
            f"Fewer than {FEWEST_POSITIVE_PATIENTS} positive {unit} for {_classes(few)}: the interval is too short"
            f" even so."
        )
    return found


def _about_intervals(predictions: Predictions, estimates: Estimates) -> list[str]:
    names = predictions.labels.class_names
    found: list[str] = []
    unstable = []
    for c, name in enumerate(names):
        shares = [
            defined_share(estimates.resampled[metric][c])
            for metric in ("ap", "auroc")
            if not np.isnan(estimates.values[metric][c])
        ]
        if shares and min(shares) < STABLE_SHARE:
            unstable.append(f"{name} ({min(shares):.2f})")
    if unstable:
        found.append(
            f"Unstable intervals for {_classes(unstable)}: fewer than {STABLE_SHARE:.0%} of the resamples define AP and"
            f" AUROC (share in brackets), because positives or negatives are of very few patients."
        )
    perfect = [name for c, name in enumerate(names) if estimates.values["auroc"][c] in (0.0, 1.0)]
    if perfect:
        found.append(
            f"Positives and negatives are fully separated for {_classes(perfect)}, in every resample too: an interval"
            f" without width there is not certainty."
        )
    return found


def _about_scores(predictions: Predictions) -> list[str]:
    hard, constant = [], []
    for c, name in enumerate(predictions.labels.class_names):
        scores = predictions.scores[~np.isnan(predictions.targets[:, c]), c]
        if len(scores) > 1 and np.all(scores == scores[0]):
            constant.append(name)
        elif len(scores) and np.all((scores == 0.0) | (scores == 1.0)):
            hard.append(name)
    found: list[str] = []
    if hard:
        found.append(
            f"Only the scores 0 and 1 for {_classes(hard)}: these look like decisions, so AP, AUROC and calibration"
            f" describe one operating point, not a ranking."
        )
    if constant:
        found.append(f"The same score in every row for {_classes(constant)}: AP is the prevalence and AUROC 0.5.")
    return found


def _no_tail(predictions: Predictions) -> str:
    return (
        f"No head, medium and tail rows: {predictions.name} does not say how often each class was seen in training."
        f" Judge with a manifest that has a train fold (`--truth`), or name the groups (`tail_rule: list`)."
    )


def _classes(names: list[str]) -> str:
    return f"{len(names)} class{'es' if len(names) > 1 else ''}: {listing(names, limit=8)}"
