"""What a reader of a comparison could misread, said in words beside the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medtail.errors import listing
from medtail.judging.questions import AT_THRESHOLDS, CALIBRATION, FEWEST_PATIENTS, Question
from medtail.tables.predictions import Predictions

SHORT_UNDER = 20
"""Positive patients under which patient-level intervals were too short in simulations."""
FEW_SEEDS = 5


def word_comparison_cautions(
    tables: Mapping[str, Sequence[Predictions]],
    truth: Predictions,
    questions: Sequence[Question],
    header: Mapping[str, Any],
) -> list[str]:
    """Say everything about these differences that a careful reader must know.

    Args:
        tables: The systems as given.
        truth: The shared rows.
        questions: What was asked.
        header: Of the comparison: `alpha`, `method`, and with a bootstrap `bootstrap` and `family`.

    Returns:
        Warnings in the order a reader should meet them; empty where there is nothing to say.
    """
    return [
        *_about_power(header),
        *_about_rows(truth),
        *_about_systems(tables, header),
        *_about_support(truth, questions),
        *_about_lost_classes(truth, questions, header),
        *_about_seeds(tables, header),
    ]


def _about_power(header: Mapping[str, Any]) -> list[str]:
    family = header["family"]
    if not family["comparisons"]:
        return ["Nothing could be tested: no question has enough patients with and without its findings."]
    if "bootstrap" in header and family["smallest_p_holm"] > header["alpha"] + 1e-12:
        return [
            f"Nothing can be significant here: with {header['bootstrap']['resamples']:,} resamples the smallest p-value"
            f" of {family['comparisons']:,} comparisons is {family['smallest_p_holm']:.2g} after Holm's correction."
            f" Draw {family['resamples_needed']:,} resamples or more, or ask fewer questions (metrics, levels,"
            f" systems)."
        ]
    return []


def _about_rows(truth: Predictions) -> list[str]:
    found = []
    folds = set(truth.folds.astype(str))
    if folds == {""}:
        found.append("The fold of the rows is unknown: nothing shows that no system learnt from them.")
    named = [fold for fold in ("train", "tune", "reward") if fold in folds]
    if named:
        found.append(
            f"Rows of the {' and '.join(named)} fold are among those compared: a system that learnt or was chosen on"
            f" them looks better than it is."
        )
    if not truth.has_patients:
        found.append(
            "Patients are unknown, so each image is resampled as a patient of its own: if patients have several images,"
            " intervals are too short and p-values too small. Add a column 'patient_id'."
        )
    elif len(set(truth.patients)) < 2:
        found.append("All rows are of one patient: resampling patients shows no spread.")
    return found


def _about_systems(tables: Mapping[str, Sequence[Predictions]], header: Mapping[str, Any]) -> list[str]:
    found = []
    digests: dict[str, list[str]] = {}
    for name, parts in tables.items():
        for table in parts:
            digests.setdefault(table.digest, []).append(name)
    for names in digests.values():
        if len(names) > 1:
            same = listing([repr(name) for name in dict.fromkeys(names)])
            found.append(f"{same}: the same table of scores was given {len(names)} times.")
    asked = [metric for metric in header["metrics"] if metric in AT_THRESHOLDS]
    tuned = {name: {table.thresholds is not None for table in parts} for name, parts in tables.items()}
    if asked and len(set().union(*tuned.values())) > 1:
        without = [name for name, kinds in tuned.items() if False in kinds]
        found.append(
            f"{listing(asked)}: {listing([repr(name) for name in without])} decides at 0.5, the others at thresholds"
            f" chosen on tune. The difference may be one of thresholds; compare `f1_at_half`, `ap` or `auroc` too."
        )
    counts = [table.train_counts.to_json() for parts in tables.values() for table in parts if table.train_counts]
    if any(other != counts[0] for other in counts[1:]):
        found.append(
            "The systems were trained on different numbers of images: head, medium and tail follow the counts of the"
            " first."
        )
    if "group" in header["levels"] and header["tail"] is None:
        found.append("Train counts are unknown: differences by head, medium and tail are missing.")
    return found


def _about_support(truth: Predictions, questions: Sequence[Question]) -> list[str]:
    found = []
    few = list(
        dict.fromkeys(q.class_name for q in questions if q.level == "class" and q.obstacle == "too_few_patients")
    )
    if few:
        found.append(
            f"Too few patients for a test (under {FEWEST_PATIENTS} with or without the finding), shown but not judged:"
            f" {listing(few, limit=10)}."
        )
    undefined = list(dict.fromkeys(q.class_name for q in questions if q.level == "class" and q.obstacle == "undefined"))
    if undefined:
        found.append(f"Not defined on these rows, and in no mean: {listing(undefined, limit=10)}.")
    tested = {q.class_name for q in questions if q.level == "class" and not q.obstacle}
    short = [
        name
        for c, name in enumerate(truth.labels.class_names)
        if name in tested and len(np.unique(truth.patients[truth.targets[:, c] == 1].astype(str))) < SHORT_UNDER
    ]
    if short:
        found.append(
            f"Under {SHORT_UNDER} positive patients intervals are too short and p-values somewhat too small, even by"
            f" patient: {listing(short, limit=10)}."
        )
    return found


def _about_lost_classes(truth: Predictions, questions: Sequence[Question], header: Mapping[str, Any]) -> list[str]:
    """Name the classes that leave many resamples: e^-2 is 14 % with two positive patients, e^-1 37 % with one."""
    if header.get("bootstrap", {}).get("scheme") != "multinomial":
        return []
    if all(question.level == "class" or question.metric in CALIBRATION for question in questions):
        return []
    lost = [
        name
        for c, name in enumerate(truth.labels.class_names)
        if len(np.unique(truth.patients[truth.targets[:, c] == 1].astype(str))) in (1, 2)
    ]
    if not lost:
        return []
    return [
        f"With one or two positive patients a class is lost from many resamples, which shifts means over classes:"
        f" {listing(lost, limit=10)}. `--scheme bayesian` keeps every class in every resample."
    ]


def _about_seeds(tables: Mapping[str, Sequence[Predictions]], header: Mapping[str, Any]) -> list[str]:
    if "bootstrap" not in header:
        return []
    seeds = {name: len(parts) for name, parts in tables.items()}
    if max(seeds.values()) == 1:
        return []
    found = []
    if header["bootstrap"]["seed_draw"] == "hierarchical":
        found.append(
            "Intervals are of the mean over training seeds and contain both the luck of the patients and that of the"
            " seeds."
        )
        single = [name for name, count in seeds.items() if count == 1]
        if single:
            found.append(
                f"{listing([repr(name) for name in single])}: one training seed only, whose luck is in no interval."
            )
        few = [name for name, count in seeds.items() if 1 < count < FEW_SEEDS]
        if few:
            found.append(
                f"{listing([repr(name) for name in few])}: fewer than {FEW_SEEDS} seeds show the luck of training"
                f" poorly; intervals tend to be too short."
            )
    else:
        found.append("Intervals hold for these very training seeds: they contain the luck of the patients only.")
    return found
