"""One door to every metric: a table of scores in, a flat mapping of names to numbers out.

Multi-class when all classes form one exclusive group, multi-label otherwise: the label space decides, and with it
which metrics apply. No intervals here and no files; `evaluation` gives both. Names are those of Results, `macro_` for a
mean over classes, `micro_` for all cells at once, `sample_` for a mean over images, `tail_` for the rare classes
pooled; an option stands after `@`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import final

import numpy as np

from medtail.errors import MedtailError, Problems, listing
from medtail.judging import calibration_error, metrics, multiclass, multilabel, operating
from medtail.judging.counts import Decision, EceMode, ratio
from medtail.judging.decisions import decide
from medtail.tables.labels import LabelSpace, Task

TOP_K = (3, 5)
RATE = 0.95
"""The specificity, or sensitivity, kept by the metrics at a promised rate."""
PRECISION = 0.5
"""The precision kept by `recall_at_precision`: every second call is right."""
MAX_FPR = 0.1
"""How far the partial AUROC goes."""

_GROUP_MEANS = ("balanced_accuracy", "macro_f1", "recall_geometric_mean", "worst_recall")

_RANKED: Mapping[str, metrics.Metric] = {
    "ap": metrics.average_precision,
    "auroc": metrics.auroc,
    f"partial_auroc@{MAX_FPR}": partial(operating.partial_auroc, max_fpr=MAX_FPR),
    f"sensitivity_at_specificity@{RATE}": partial(operating.sensitivity_at_specificity, at_least=RATE),
    f"specificity_at_sensitivity@{RATE}": partial(operating.specificity_at_sensitivity, at_least=RATE),
    f"recall_at_precision@{PRECISION}": partial(operating.recall_at_precision, at_least=PRECISION),
    "brier": metrics.brier,
    "brier_skill": calibration_error.brier_skill,
    "log_loss": metrics.log_loss,
    "observed_to_expected": calibration_error.observed_to_expected,
}
_DECIDED: Mapping[str, metrics.Metric] = {
    "f1": metrics.f1,
    "f_beta@2": partial(metrics.f_beta, beta=2.0),
    "precision": metrics.precision,
    "npv": metrics.npv,
    "recall": metrics.recall,
    "fnr": metrics.fnr,
    "specificity": metrics.specificity,
    "balanced_accuracy": metrics.balanced_accuracy,
    "mcc": metrics.mcc,
    "cohen_kappa": operating.cohen_kappa,
}


@final
@dataclass(frozen=True)
class ScoreTable:
    """What `score_table` found.

    Attributes:
        task: `multiclass` or `multilabel`.
        values: Metric → number, NaN where undefined.
        support: Metric → number of classes averaged, for means over classes; number of images behind it, for others.
        excluded: Mean over classes → classes left out because their value is undefined (counted as 0 if `absent` was
            `zero`); every `macro_` name is here.
        by_class: Metric → float64 [C], what the means are of.
    """

    task: Task
    values: Mapping[str, float]
    support: Mapping[str, int]
    excluded: Mapping[str, tuple[str, ...]]
    by_class: Mapping[str, np.ndarray]


def score_table(
    scores: np.ndarray,
    targets: np.ndarray,
    *,
    labels: LabelSpace,
    weights: np.ndarray | None = None,
    thresholds: np.ndarray | None = None,
    decision: Decision = ">=",
    tail: Sequence[str] = (),
    ordered: bool = False,
    ece_bins: int = 15,
    absent: metrics.Absent = "nan",
) -> ScoreTable:
    """Compute every metric that applies to the task.

    Args:
        scores: float [N, C] in [0, 1].
        targets: [N, C] in {0, 1, NaN}. In a multi-class task only images with exactly one class known to be present
            are judged, and that class excludes the others.
        labels: The classes; one exclusive group over all of them makes the task multi-class.
        weights: float [N] >= 0, of images; 1 an image if None.
        thresholds: float [C]; 0.5 if None. No effect inside exclusive groups, where the highest score is called.
        decision: Whether a score at its threshold is called (`>=`) or not (`>`).
        tail: The rare classes to pool; no `tail_` metrics if empty or multi-class.
        ordered: Whether the columns of a group are levels in order: adds its linear and quadratic kappa.
        ece_bins: Bins of every reading of the calibration error, >= 1.
        absent: What an undefined class does to a mean: `nan` leaves it out; `error` refuses a table in which a class
            lacks positives or negatives; `zero` counts 0, only to reproduce another tool.

    Returns:
        Values, supports, what was excluded, and the values of each class.

    Raises:
        MedtailError: Shapes do not fit, values are out of range, a tail class does not exist, or `absent` is `error`
            and a class is absent.

    Example:
        >>> labels = LabelSpace(("Nodule", "Hernia"))
        >>> found = score_table(np.array([[0.9, 0.2], [0.4, 0.1]]), np.array([[1, 0], [0, 0]]), labels=labels)
        >>> found.values["macro_ap"], found.support["macro_ap"], found.excluded["macro_ap"]
        (1.0, 1, ('Hernia',))
    """
    s, y, w = _checked(scores, targets, weights, thresholds, labels, tail)
    if labels.task == "multiclass":
        true = multiclass.true_classes(y)
        kept = true >= 0
        s, w, y = s[kept], w[kept], np.eye(labels.num_classes)[true[kept]]
    if absent == "error":
        _refuse_absent(y, w, labels)
    called = decide(s, thresholds=thresholds, groups=labels.group_indices, decision=decision)
    by_class = _class_values(s, y, called, w, ece_bins)
    values: dict[str, float] = {}
    support: dict[str, int] = {}
    excluded: dict[str, tuple[str, ...]] = {}
    for name, column in by_class.items():
        key = f"macro_{name}"
        values[key], support[key] = metrics.macro(column, absent="zero" if absent == "zero" else "nan")
        excluded[key] = tuple(c for c, value in zip(labels.class_names, column, strict=True) if np.isnan(value))
    found: dict[str, tuple[float, int]] = {}
    for group, indices in zip(labels.groups, labels.group_indices, strict=True):
        columns = list(indices)
        inside, lacking = _group_values(s[:, columns], y[:, columns], called[:, columns], w, ordered=ordered)
        names = {name: name if labels.task == "multiclass" else f"{name}:{group.name}" for name in inside}
        if labels.task == "multiclass":
            # the mean of the classes' F1 is there already, and follows `absent`
            del names["macro_f1"]
        found |= {name: inside[plain] for plain, name in names.items()}
        absent_names = tuple(c for c, one in zip(group.classes, lacking, strict=True) if one)
        excluded |= {name: absent_names for plain, name in names.items() if plain in _GROUP_MEANS}
    if labels.task == "multilabel":
        found |= _cell_values(s, y, called, w, ece_bins) | _row_values(s, y, called, w)
        if tail:
            found |= _tail_values(s, y, called, w, np.isin(labels.class_names, list(tail)))
    values |= {name: value for name, (value, _) in found.items()}
    support |= {name: count for name, (_, count) in found.items()}
    return ScoreTable(labels.task, values, support, excluded, by_class)


def _checked(
    scores: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray | None,
    thresholds: np.ndarray | None,
    labels: LabelSpace,
    tail: Sequence[str],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    s, y = np.asarray(scores, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    w = np.ones(len(s)) if weights is None else np.asarray(weights, dtype=np.float64)
    problems = Problems("score table")
    if s.ndim != 2 or s.shape[1] != labels.num_classes:
        problems.add(f"scores: found shape {s.shape}; expected [N, {labels.num_classes}], a column a class.")
    if y.shape != s.shape:
        problems.add(f"targets: found shape {y.shape}; expected the scores' {s.shape}.")
    if w.shape != s.shape[:1]:
        problems.add(f"weights: found shape {w.shape}; expected one a row, {s.shape[:1]}.")
    if not np.all((s >= 0.0) & (s <= 1.0)):
        problems.add("scores: found values outside [0, 1] or NaN. Turn logits into scores first.")
    if not np.all((y == 0.0) | (y == 1.0) | np.isnan(y)):
        problems.add("targets: found a value other than 0, 1 or NaN (not assessed).")
    if not np.all((w >= 0.0) & np.isfinite(w)):
        problems.add("weights: found a negative or infinite one; expected finite weights >= 0.")
    if thresholds is not None and np.shape(thresholds) != (labels.num_classes,):
        problems.add(f"thresholds: found shape {np.shape(thresholds)}; expected one a class, {(labels.num_classes,)}.")
    problems.raise_if_any()
    for name in tail:
        labels.index(name)
    return s, y, w


def _refuse_absent(targets: np.ndarray, weights: np.ndarray, labels: LabelSpace) -> None:
    seen = targets[weights > 0]
    lacking = ~((seen == 1).any(axis=0) & (seen == 0).any(axis=0))
    if lacking.any():
        names = [repr(name) for name, one in zip(labels.class_names, lacking, strict=True) if one]
        raise MedtailError(
            f"score table: no positive, or no negative, row of class {listing(names)}; expected both of every class."
            f" Leave the class out, or judge with absent='nan'."
        )


def _class_values(
    scores: np.ndarray, targets: np.ndarray, called: np.ndarray, weights: np.ndarray, bins: int
) -> dict[str, np.ndarray]:
    """Return every metric of a single class, a column a class."""

    def of(metric: Callable[..., float], table: np.ndarray) -> np.ndarray:
        return metrics.per_class(metric, table, targets, weights=weights)

    values = {name: of(metric, scores) for name, metric in _RANKED.items()}
    # a decision is a score of 0 or 1, wherever its threshold was
    decisions = called.astype(np.float64)
    values |= {name: of(metric, decisions) for name, metric in _DECIDED.items()}
    columns = [(scores[:, c], targets[:, c], decisions[:, c]) for c in range(scores.shape[1])]
    ratios = [operating.likelihood_ratios(d, y, weights=weights) for _, y, d in columns]
    lines = [calibration_error.calibration_line(s, y, weights=weights) for s, y, _ in columns]
    distances = [calibration_error.calibration_distance(s, y, weights=weights) for s, y, _ in columns]
    values["lr_positive"], values["lr_negative"] = np.array(ratios).reshape(-1, 2).T
    values["calibration_slope"] = np.array([line.slope for line in lines])
    values["calibration_intercept"] = np.array([line.intercept for line in lines])
    values["calibration_in_the_large"] = np.array([line.in_the_large for line in lines])
    values["ici"] = np.array([distance.ici for distance in distances])
    values["e50"] = np.array([distance.e50 for distance in distances])
    values["e90"] = np.array([distance.e90 for distance in distances])
    for mode in calibration_error.ECE_MODES:
        values[_ece_name(mode)] = of(partial(metrics.expected_calibration_error, mode=mode, bins=bins), scores)
    values["mce"] = of(partial(calibration_error.maximum_calibration_error, bins=bins), scores)
    values["debiased_squared_ece"] = of(partial(calibration_error.debiased_squared_error, bins=bins), scores)
    counted = (targets[:, :, None] == np.array([1, 0])) & (weights > 0)[:, None, None]
    chance = np.array([metrics.chance_average_precision(int(p), int(p + n)) for p, n in counted.sum(axis=0)])
    mass = np.where(counted, weights[:, None, None], 0.0).sum(axis=0)
    values["ap_chance"] = chance
    values["ap_lift"] = ratio(values["ap"], ratio(mass[:, 0], mass.sum(axis=1)))
    values["ap_above_chance"] = ratio(values["ap"] - chance, 1.0 - chance)
    return values


def _ece_name(mode: EceMode) -> str:
    return "ece" if mode == "reliability" else f"ece@{mode}"


def _group_values(
    scores: np.ndarray, targets: np.ndarray, called: np.ndarray, weights: np.ndarray, *, ordered: bool
) -> tuple[dict[str, tuple[float, int]], np.ndarray]:
    """Return what the confusion of one exclusive group says, and which of its classes are absent."""
    size = scores.shape[1]
    true = multiclass.true_classes(targets)
    confusion = multiclass.confusion_matrix(true, called.argmax(axis=1), num_classes=size, weights=weights)
    lacking = confusion.sum(axis=1) == 0
    rows, present = int(np.sum((true >= 0) & (weights > 0))), int(np.sum(~lacking))
    values = {
        "accuracy": (multiclass.accuracy(confusion), rows),
        "balanced_accuracy": (multiclass.balanced_accuracy(confusion), present),
        "macro_f1": (multiclass.macro_f1(confusion), present),
        "recall_geometric_mean": (multiclass.recall_geometric_mean(confusion), present),
        "worst_recall": (multiclass.worst_recall(confusion), present),
        "kappa": (multiclass.kappa(confusion), rows),
    }
    for k in TOP_K:
        if k < size:
            values[f"top_k_accuracy@{k}"] = (multiclass.top_k_accuracy(scores, true, k=k, weights=weights), rows)
    if ordered:
        values["kappa@linear"] = (multiclass.kappa(confusion, weighting="linear"), rows)
        values["kappa@quadratic"] = (multiclass.kappa(confusion, weighting="quadratic"), rows)
    return values, lacking


def _cell_values(
    scores: np.ndarray, targets: np.ndarray, called: np.ndarray, weights: np.ndarray, bins: int
) -> dict[str, tuple[float, int]]:
    """Return the micro averages, over all assessed cells."""
    cells = multilabel.count_cells(called, targets, weights=weights)
    values = {
        "micro_precision": cells.precision,
        "micro_recall": cells.recall,
        "micro_f1": cells.f1,
        "hamming_loss": cells.hamming,
        "micro_ap": multilabel.micro(metrics.average_precision, scores, targets, weights=weights),
        "micro_auroc": multilabel.micro(metrics.auroc, scores, targets, weights=weights),
        "ece@pooled": calibration_error.pooled_calibration_error(scores, targets, bins=bins, weights=weights),
    }
    rows = int(np.sum((~np.isnan(targets)).any(axis=1) & (weights > 0)))
    return {name: (value, rows) for name, value in values.items()}


def _row_values(
    scores: np.ndarray, targets: np.ndarray, called: np.ndarray, weights: np.ndarray
) -> dict[str, tuple[float, int]]:
    """Return the averages over images."""
    averages = {
        f"sample_{name}": average
        for name, average in multilabel.sample_averages(called, targets, weights=weights).items()
    }
    averages["exact_match"] = multilabel.exact_match(called, targets, weights=weights)
    averages |= multilabel.ranking_averages(scores, targets, weights=weights)
    return {name: (average.value, average.rows) for name, average in averages.items()}


def _tail_values(
    scores: np.ndarray, targets: np.ndarray, called: np.ndarray, weights: np.ndarray, among: np.ndarray
) -> dict[str, tuple[float, int]]:
    """Return the rare classes pooled: one question an image, or all their cells."""
    values: dict[str, tuple[float, int]] = {}
    for pooling in ("noisy_or", "max"):
        s, y = multilabel.pool_findings(scores, targets, among=among, pooling=pooling)
        rows = int(np.sum(~np.isnan(y) & (weights > 0)))
        suffix = "" if pooling == "noisy_or" else f"@{pooling}"
        values[f"tail_any_ap{suffix}"] = (metrics.average_precision(s, y, weights=weights), rows)
        values[f"tail_any_auroc{suffix}"] = (metrics.auroc(s, y, weights=weights), rows)
    cells = multilabel.count_cells(called, targets, among=among, weights=weights)
    rows = int(np.sum((~np.isnan(targets[:, among])).any(axis=1) & (weights > 0)))
    values["tail_micro_ap"] = (
        multilabel.micro(metrics.average_precision, scores[:, among], targets[:, among], weights=weights),
        rows,
    )
    values["tail_recall"] = (cells.recall, rows)
    return values
