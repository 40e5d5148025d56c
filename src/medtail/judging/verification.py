"""A second opinion on stored results: the same scores through scikit-learn alone.

Values are recomputed from the stored predictions and the thresholds and groups in the results' header, without any
metric, decision or averaging code of medtail, and compared with what stands in the table. Intervals are not redone:
resampling has no second implementation here. scikit-learn is asked for only when something is verified.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from medtail.errors import MedtailError
from medtail.tables.predictions import Predictions
from medtail.tables.results import Results

TOLERANCE = 1e-9
ARGMAX_RULE = "highest score"
"""What a header says of decisions inside exclusive groups where they can be redone here."""
RANKED = ("ap", "auroc", "brier", "f1_at_half")
DECIDED = ("f1", "precision", "recall", "specificity")
ZERO_FILLED = ("ap", "f1_at_half", "f1", "precision", "recall")
"""What a header saying `absent: zero` counts as 0 where a class has no positives, to imitate other software."""
GROUPED = ("accuracy", "balanced_accuracy", "macro_f1")
_Key = tuple[str, str, str]


@final
@dataclass(frozen=True)
class Check:
    """A stored number beside its recomputation.

    Attributes:
        metric: Its name; `support:METRIC` is the number of classes a mean runs over.
        class_name: The class or exclusive group, "" for means over classes.
        tail_group: `head`, `medium`, `tail` or "".
        stored: What the results say.
        recomputed: What scikit-learn says; NaN where medtail defines no value.
        tolerance: Largest absolute difference that counts as equal.
    """

    metric: str
    class_name: str
    tail_group: str
    stored: float
    recomputed: float
    tolerance: float = TOLERANCE

    @property
    def differs(self) -> bool:
        """Whether the two are apart, or only one of them is defined."""
        if np.isnan(self.stored) or np.isnan(self.recomputed):
            return bool(np.isnan(self.stored) != np.isnan(self.recomputed))
        return not abs(self.stored - self.recomputed) <= self.tolerance

    def text(self) -> str:
        """Say it in a line."""
        place = ", ".join(word for word in (self.class_name, self.tail_group) if word) or "all classes"
        return f"{self.metric} of {place}: stored {self.stored!r}, scikit-learn {self.recomputed!r}"


def verify_results(predictions: Predictions, results: Results, *, tolerance: float = TOLERANCE) -> list[Check]:
    """Return the stored numbers that scikit-learn does not confirm.

    Args:
        predictions: The stored scores and targets.
        results: What was made of them.
        tolerance: Largest absolute difference that counts as equal, >= 0.

    Returns:
        The differing checks; an empty list where everything agrees.

    Raises:
        MedtailError: scikit-learn is not installed, the two tables are not of the same rows and classes, or the
            results hold nothing that can be recomputed.

    Example:
        >>> from medtail.judging.evaluation import EvaluationConfig, evaluate
        >>> from medtail.tables.labels import LabelSpace
        >>> ids = np.array(["a", "b", "c", "d"], dtype=object)
        >>> scores, targets = np.array([[0.9], [0.7], [0.6], [0.1]]), np.array([[1.0], [0.0], [1.0], [0.0]])
        >>> table = Predictions(ids, ids, scores, targets, LabelSpace(("Hernia",)), np.array(["test"] * 4))
        >>> verify_results(table, evaluate(table, config=EvaluationConfig(bootstrap=0)))
        []

    References:
        pedregosa2011.
    """
    return [check for check in rescore(predictions, results, tolerance=tolerance) if check.differs]


def rescore(predictions: Predictions, results: Results, *, tolerance: float = TOLERANCE) -> list[Check]:
    """Recompute every stored number that scikit-learn can give, of all rows together.

    These are `ap, auroc, brier, f1_at_half` of each class, `f1, precision, recall, specificity` where decisions were
    by threshold and by the highest score inside exclusive groups, their means over classes and tail groups with the
    number of classes averaged, the micro values, and accuracy and its kin of exclusive groups.

    Args:
        predictions: The stored scores and targets.
        results: What was made of them.
        tolerance: Largest absolute difference that counts as equal.

    Returns:
        One check a stored number, in the table's order.

    Raises:
        MedtailError: As `verify_results`.
    """
    _check_same(predictions, results)
    found = _recompute(predictions, results.header, _oracle())
    frame = results.frame[results.frame["subgroup"] == ""]
    checks = []
    for metric, name, group, value, support in zip(
        *(frame[column] for column in ("metric", "class", "tail_group", "value", "support")), strict=True
    ):
        # a class's tail group is a label on its row; only means over classes are taken within it
        key = (str(metric), str(name), "" if name else str(group))
        if key in found:
            checks.append(Check(key[0], key[1], str(group), float(value), found[key], tolerance))
        counted = (f"support:{metric}", str(name), key[2])
        if counted in found:
            checks.append(Check(counted[0], key[1], str(group), float(support), found[counted], 0.0))
    if not checks:
        raise MedtailError(
            "results: no number that scikit-learn could recompute; expected ap, auroc or f1 of the predictions'"
            " classes."
        )
    return checks


def is_of_these_predictions(predictions: Predictions, results: Results) -> bool | None:
    """Say whether the results' header names the digest of these predictions; None where it names none."""
    named = results.header.get("digests", {}).get("predictions")
    return None if named is None else bool(named == predictions.digest)


def _oracle() -> Any:
    try:
        from sklearn import metrics
    except ImportError as error:
        raise MedtailError(
            "verify: scikit-learn is not installed; it is no dependency of medtail itself, so that it can be a second"
            " opinion. Install it with `pip install 'medtail[dev]'` or `pip install scikit-learn`."
        ) from error
    return metrics


def _check_same(predictions: Predictions, results: Results) -> None:
    names = results.header.get("labels", {}).get("class_names", list(predictions.labels.class_names))
    rows = results.header.get("num_rows", len(predictions))
    if list(names) != list(predictions.labels.class_names) or rows != len(predictions):
        raise MedtailError(
            f"verify: the results are of {rows} rows and {len(names)} classes, {predictions.name} has"
            f" {len(predictions)} rows and {predictions.labels.num_classes} classes; expected the predictions that"
            f" were judged."
        )


def _recompute(predictions: Predictions, header: Mapping[str, Any], sk: Any) -> dict[_Key, float]:
    scores, targets = predictions.scores, predictions.targets
    names = predictions.labels.class_names
    can_decide = header.get("thresholds", {}).get("inside_groups", ARGMAX_RULE) == ARGMAX_RULE
    called = _decide(predictions, header.get("thresholds", {}).get("values", {}))
    found: dict[_Key, float] = {}
    for c, name in enumerate(names):
        kept = ~np.isnan(targets[:, c])
        values = _class_values(targets[kept, c], scores[kept, c], called[kept, c], sk)
        if header.get("absent") == "zero" and kept.any():
            values |= {metric: 0.0 for metric in ZERO_FILLED if np.isnan(values[metric])}
        if header.get("ranked") is False:
            values |= {"ap": float("nan"), "auroc": float("nan")}
        found |= {(metric, name, ""): value for metric, value in values.items() if can_decide or metric in RANKED}
    tail = (header.get("tail") or {}).get("groups", {})
    selections = {"": list(names)}
    selections |= {group: [name for name in names if tail[name] == group] for group in sorted(set(tail.values()))}
    for group, members in selections.items():
        for metric in (*RANKED, *(DECIDED if can_decide else ())):
            defined = [found[metric, name, ""] for name in members if not np.isnan(found[metric, name, ""])]
            found[metric, "", group] = float(np.mean(defined)) if defined else float("nan")
            found[f"support:{metric}", "", group] = float(len(defined))
        if can_decide:
            columns = [names.index(name) for name in members]
            cells = ~np.isnan(targets[:, columns])
            y, yes = targets[:, columns][cells], called[:, columns][cells]
            values = _class_values(y, yes.astype(float), yes, sk)
            found |= {(f"micro_{metric}", "", group): values[metric] for metric in ("f1", "precision", "recall")}
    if can_decide:
        found |= _group_values(predictions, called, sk)
    return found


def _decide(predictions: Predictions, thresholds: Mapping[str, float]) -> np.ndarray:
    limits = np.array([float(thresholds.get(name, 0.5)) for name in predictions.labels.class_names])
    called = predictions.scores >= limits
    for indices in predictions.labels.group_indices:
        columns = list(indices)
        called[:, columns] = np.eye(len(columns), dtype=bool)[predictions.scores[:, columns].argmax(axis=1)]
    return np.asarray(called)


def _class_values(y: np.ndarray, s: np.ndarray, called: np.ndarray, sk: Any) -> dict[str, float]:
    """Ask scikit-learn only where the value is defined: elsewhere it warns, and answers 0."""
    positive, negative = bool((y == 1).any()), bool((y == 0).any())
    half = s >= 0.5

    def when(condition: bool, metric: Callable[[], Any]) -> float:
        return float(metric()) if condition else float("nan")

    return {
        "ap": when(positive, lambda: sk.average_precision_score(y, s)),
        "auroc": when(positive and negative, lambda: sk.roc_auc_score(y, s)),
        "brier": when(positive or negative, lambda: sk.brier_score_loss(y, s)),
        "f1_at_half": when(positive, lambda: sk.f1_score(y, half)),
        "f1": when(positive, lambda: sk.f1_score(y, called)),
        "precision": when(bool(called.any()), lambda: sk.precision_score(y, called)),
        "recall": when(positive, lambda: sk.recall_score(y, called)),
        "specificity": when(negative, lambda: sk.recall_score(y, called, pos_label=0)),
    }


def _group_values(predictions: Predictions, called: np.ndarray, sk: Any) -> dict[_Key, float]:
    found: dict[_Key, float] = {}
    for group, indices in zip(predictions.labels.groups, predictions.labels.group_indices, strict=True):
        columns = list(indices)
        present = predictions.targets[:, columns] == 1
        kept = present.sum(axis=1) == 1
        true, guess = present[kept].argmax(axis=1), called[:, columns][kept].argmax(axis=1)
        labels = np.unique(true)
        values = [float("nan")] * len(GROUPED)
        if len(labels):
            recalls = sk.recall_score(true, guess, labels=labels, average=None)
            values = [
                float(sk.accuracy_score(true, guess)),
                float(np.mean(recalls)),
                float(sk.f1_score(true, guess, labels=labels, average="macro")),
            ]
        found |= {(metric, group.name, ""): value for metric, value in zip(GROUPED, values, strict=True)}
    return found
