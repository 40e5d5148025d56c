"""Class control: does a judge trained on real images call a generated image what it was asked to be?

The judge must be able to see the class at all. One that learnt a long-tailed set plainly recognises no rare class, and
its verdict on generated ones would be worthless whatever they look like; so where the judge fails on real tune images,
no value is given. And no generator can beat the judge's own recall, so the share is read beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from medtail.errors import MedtailError
from medtail.tables.labels import LabelSpace

BLIND_BELOW = 0.3
FEWEST_PATIENTS = 5
SMALLEST = 1e-12


@final
@dataclass(frozen=True)
class ClassControl:
    """What the judge says of the images made for one class.

    Attributes:
        images: Generated images of the class.
        share: Share of them that the judge calls the class; NaN where it is blind.
        score: Mean score it gives the class; NaN where it is blind.
        recall: Its recall of the class on real tune images; NaN without any.
        patients: Tune patients with the class.
        blind: Why nothing is said, "" where something is.
    """

    images: int
    share: float
    score: float
    recall: float
    patients: int
    blind: str

    @property
    def relative(self) -> float:
        """Share over recall: 1 where generated images are recognised as often as real ones; NaN where blind."""
        return self.share / self.recall if self.recall > 0 else float("nan")


def called(scores: np.ndarray, labels: LabelSpace, *, thresholds: np.ndarray | None = None) -> np.ndarray:
    """Say which classes are called present: the highest of an exclusive group, other classes at their threshold.

    Args:
        scores: float [N, C] in [0, 1].
        labels: The classes.
        thresholds: float [C]; 0.5 if None. Not used inside exclusive groups.

    Returns:
        bool [N, C].

    Example:
        >>> space = LabelSpace.from_columns(["shape=oval", "shape=round", "halo"])
        >>> called(np.array([[0.2, 0.3, 0.6]]), space).tolist()
        [[False, True, True]]
    """
    limits = np.full(labels.num_classes, 0.5) if thresholds is None else thresholds
    found = np.asarray(scores >= limits)
    for indices in labels.group_indices:
        columns = np.array(indices)
        found[:, columns] = False
        found[np.arange(len(scores)), columns[scores[:, columns].argmax(axis=1)]] = True
    return found


def judge_entropy(scores: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return -log of the score of each image's asked class, float64 [N].

    Args:
        scores: float [N, C] in [0, 1].
        classes: Asked class of each image, integers [N].

    Example:
        >>> judge_entropy(np.array([[1.0, 0.0]]), np.array([0])).tolist()
        [0.0]
    """
    return np.asarray(-np.log(np.clip(scores[np.arange(len(scores)), classes], SMALLEST, 1.0)) + 0.0)


def class_control(
    scores: np.ndarray,
    classes: np.ndarray,
    *,
    labels: LabelSpace,
    tune_scores: np.ndarray,
    tune_targets: np.ndarray,
    tune_patients: np.ndarray,
    thresholds: np.ndarray | None = None,
) -> dict[str, ClassControl]:
    """Let a judge say how many generated images show the class they were asked for.

    Args:
        scores: The judge's, of the generated images, float [N, C] in [0, 1].
        classes: Asked class of each, integers [N].
        labels: The classes.
        tune_scores: The judge's, of real tune images, float [T, C].
        tune_targets: float [T, C] in {0, 1, NaN}.
        tune_patients: Text [T].
        thresholds: See `called`.

    Returns:
        Class → verdict, for classes that were asked for. A class with fewer than 5 tune patients cannot be checked, one
        recalled below 0.3 is not seen: in both the judge is blind.

    Raises:
        MedtailError: Shapes do not fit.

    Example:
        >>> space = LabelSpace.from_columns(["type=a", "type=b"])
        >>> tune = np.eye(2).repeat(6, axis=0)
        >>> found = class_control(np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([0, 0]), labels=space,
        ...     tune_scores=tune, tune_targets=tune, tune_patients=np.arange(12).astype(str))
        >>> found["type=a"].share, found["type=a"].recall, found["type=a"].blind
        (0.5, 1.0, '')
    """
    if scores.shape != (len(classes), labels.num_classes) or tune_scores.shape != tune_targets.shape:
        raise MedtailError(
            f"judge: found scores of shape {scores.shape} for {len(classes)} images and {labels.num_classes} classes;"
            " expected a row an image and a column a class."
        )
    calls = called(scores, labels, thresholds=thresholds)
    tune_calls = called(tune_scores, labels, thresholds=thresholds)
    found = {}
    for number in sorted(set(classes.tolist())):
        rows, shown = classes == number, tune_targets[:, number] == 1
        patients = len(set(tune_patients[shown]))
        recall = float(tune_calls[shown, number].mean()) if shown.any() else float("nan")
        blind = ""
        if patients < FEWEST_PATIENTS:
            blind = f"judge blind: {patients} tune patients, too few to check it"
        elif recall < BLIND_BELOW:
            blind = f"judge blind: recalls {recall:.2f} of real tune images"
        found[labels.class_names[number]] = ClassControl(
            images=int(rows.sum()),
            share=float("nan") if blind else float(calls[rows, number].mean()),
            score=float("nan") if blind else float(scores[rows, number].mean()),
            recall=recall,
            patients=patients,
            blind=blind,
        )
    return found
