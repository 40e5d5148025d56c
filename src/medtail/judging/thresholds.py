"""Thresholds chosen on the tune fold, shrunken for rare classes toward what the scores alone suggest.

With five positives the F1-best cut follows those five images; the cut that maximises the *expected* F1 of
calibrated scores uses every image. The two are mixed on the logit scale by the number of positive patients.
Evaluated rows never choose their own thresholds: rows outside `tune` are refused. What a threshold is to be good
for, and both cuts, are in `objectives`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, final

import numpy as np
from pydantic import Field

from medtail.config import CLOSED, build_config, config_to_dict
from medtail.errors import MedtailError, UsageError, listing
from medtail.judging.counts import assessed
from medtail.judging.objectives import (
    AnyObjective,
    Cost,
    FBeta,
    Fixed,
    Objective,
    Sensitivity,
    Specificity,
    Youden,
    fewest_patients,
    label_cut,
    logit,
    objective_name,
    plug_in_cut,
    promised_cut,
    sigmoid,
)
from medtail.tables.predictions import Predictions

SHRINKAGE_PATIENTS = 20.0
"""Positive patients at which the labels and the scores weigh the same."""
FEWEST_PATIENTS = 3
"""Below this many positive patients the labels choose nothing."""
ShrinkTo = Literal["plug_in", "half"]


@final
@dataclass(frozen=True, kw_only=True)
class ThresholdConfig:
    """How thresholds are chosen.

    Attributes:
        objective: What they are to be good for; F1.
        shrinkage_patients: κ >= 0; 0 trusts the labels alone (from three positive patients on).
        shrink_to: `plug_in`: toward the scores' own cut, in logits; right where scores are calibrated. `half`: toward
            0.5, t = 0.5 + (t_label - 0.5) · n / (n + κ); for scores that are not.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED

    objective: Objective = field(default_factory=FBeta)
    shrinkage_patients: float = SHRINKAGE_PATIENTS
    shrink_to: ShrinkTo = "plug_in"

    def __post_init__(self) -> None:
        if not self.shrinkage_patients >= 0:
            raise MedtailError(f"shrinkage_patients {self.shrinkage_patients!r}: expected a number of patients >= 0.")
        if self.shrink_to not in ("plug_in", "half"):
            raise MedtailError(f"shrink_to {self.shrink_to!r}: expected plug_in or half.")


@final
@dataclass(frozen=True, kw_only=True)
class ThresholdChoice:
    """Thresholds, how they were chosen and on which rows.

    Attributes:
        values: Class → threshold in (0, 1).
        config: How they were chosen.
        rows: Digest of the table they were chosen on.
        promised: Classes whose sensitivity is promised for new patients with the asked confidence.
        is_optimistic: True if they were chosen on rows outside tune: whatever is measured on those rows flatters.
        notes: Class → what a reader should know.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED

    values: dict[str, Annotated[float, Field(gt=0, lt=1)]]
    config: ThresholdConfig
    rows: str
    promised: tuple[str, ...] = ()
    is_optimistic: bool = False
    notes: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "values": dict(self.values),
            "config": config_to_dict(self.config),
            "rows": self.rows,
            "promised": list(self.promised),
            "is_optimistic": self.is_optimistic,
            "notes": dict(self.notes),
        }

    @staticmethod
    def from_json(value: Mapping[str, Any], *, where: str = "thresholds") -> ThresholdChoice:
        """Rebuild from `to_json`'s values.

        Raises:
            MedtailError: Unknown or missing keys, or values out of range; all are named.
        """
        try:
            return build_config(ThresholdChoice, value, where=where)
        except UsageError as error:  # a damaged file is no misuse of the command line
            raise MedtailError(str(error)) from error

    def text(self) -> str:
        """Say in a line how they were chosen."""
        config = self.config
        said = objective_name(config.objective)
        if not isinstance(config.objective, Cost | Fixed):
            toward = "the scores' own cut" if config.shrink_to == "plug_in" else "0.5"
            where = "where it cannot be promised " if isinstance(config.objective, Sensitivity) else ""
            said += f", {where}shrunken toward {toward} (kappa {config.shrinkage_patients:g} patients)"
        return said + (" -- OPTIMISTIC: chosen on the very rows they judge" if self.is_optimistic else "")


def choose_thresholds(
    predictions: Predictions,
    *,
    shrinkage_patients: float = SHRINKAGE_PATIENTS,
    objective: AnyObjective | None = None,
    shrink_to: ShrinkTo = "plug_in",
) -> dict[str, float]:
    """Choose each class's threshold on the tune fold.

    logit t = ω · logit t_label + (1 - ω) · logit t_plug with ω = n⁺ / (n⁺ + κ) for n⁺ positive patients; ω = 0 below
    three. t_label maximises the F1 of the labels, t_plug the expected F1 if the scores were probabilities. Classes
    of an exclusive group get thresholds too, but decisions inside a group are by the highest score.

    Args:
        predictions: Scores and targets of tune rows, and of nothing else.
        shrinkage_patients: κ >= 0; 0 trusts the labels alone (from three positive patients on).
        objective: What they are to be good for; F1 if None.
        shrink_to: What few positives are pulled to; see `ThresholdConfig`.

    Returns:
        Class name → threshold in (0, 1); for a class with no assessed row 0.5, or what needs no label.

    Raises:
        MedtailError: A row is not in the tune fold, there are no rows, or κ is negative.

    Example:
        >>> from medtail.tables.labels import LabelSpace
        >>> ids = np.array(["a", "b", "c", "d"], dtype=object)
        >>> tune = Predictions(ids, ids, np.array([[0.8], [0.6], [0.4], [0.1]]), np.array([[1.0], [1], [1], [0]]),
        ...                    LabelSpace(("Hernia",)), np.array(["tune"] * 4, dtype=object))
        >>> {name: round(value, 3) for name, value in choose_thresholds(tune).items()}
        {'Hernia': 0.345}

    References:
        lipton2014, theorem 1 (the optimal threshold is half the optimal F1).
    """
    refuse_unless_tune(predictions)
    config = ThresholdConfig(objective=objective or FBeta(), shrinkage_patients=shrinkage_patients, shrink_to=shrink_to)
    return dict(fit_thresholds(predictions, config).values)


def fit_thresholds(
    predictions: Predictions, config: ThresholdConfig | None = None, *, oracle: bool = False
) -> ThresholdChoice:
    """Choose each class's threshold, and keep how and on what.

    As `choose_thresholds`. A sensitivity asked for with a confidence is promised to new patients where there are
    n⁺ >= ln δ / ln x positive patients; elsewhere the shrunken cut is taken and the note says that it cannot be.

    Args:
        predictions: Scores and targets of tune rows, and of nothing else.
        config: Objective and shrinkage; the defaults if None.
        oracle: Accept rows of any fold, to see the best that thresholds could have done. The choice says that it is
            optimistic; no such number belongs in a paper.

    Returns:
        Thresholds with their origin.

    Raises:
        MedtailError: A row is not in the tune fold (unless `oracle`), or there are no rows.

    Example:
        >>> from medtail.tables.labels import LabelSpace
        >>> ids = np.array(["a", "b"], dtype=object)
        >>> tune = Predictions(ids, ids, np.array([[0.8], [0.1]]), np.array([[1.0], [0.0]]), LabelSpace(("Hernia",)),
        ...                    np.array(["tune"] * 2, dtype=object))
        >>> choice = fit_thresholds(tune, ThresholdConfig(objective=Sensitivity(at_least=0.95)))
        >>> choice.notes["Hernia"]
        'sensitivity >= 0.95 cannot be promised (95 % sure): 1 positive patients, 59 needed.'
    """
    config = config or ThresholdConfig()
    if not oracle:
        refuse_unless_tune(predictions)
    elif not len(predictions):
        raise MedtailError(f"{predictions.name}: no rows; thresholds need scores.")
    values: dict[str, float] = {}
    notes: dict[str, str] = {}
    promised: list[str] = []
    for c, name in enumerate(predictions.labels.class_names):
        cut, note, is_promised = _choose(predictions, c, config)
        values[name] = float(np.clip(cut, np.nextafter(0.0, 1.0), np.nextafter(1.0, 0.0)))
        if note:
            notes[name] = note
        if is_promised:
            promised.append(name)
    return ThresholdChoice(
        values=values,
        config=config,
        rows=predictions.digest,
        promised=tuple(promised),
        is_optimistic=bool((predictions.folds.astype(str) != "tune").any()),
        notes=notes,
    )


def refuse_unless_tune(predictions: Predictions, *, purpose: str = "Thresholds chosen") -> None:
    """Refuse to choose anything on rows that are not in the tune fold.

    Args:
        predictions: The rows.
        purpose: What was to be done with them, to begin a sentence.

    Raises:
        MedtailError: Some rows are elsewhere, or there are none.
    """
    folds = predictions.folds.astype(str)
    if not len(folds):
        raise MedtailError(f"{predictions.name}: no rows; thresholds need the scores of the tune fold.")
    others = sorted(set(folds) - {"tune"})
    if others:
        named = listing([fold or "no fold" for fold in others])
        raise MedtailError(
            f"{predictions.name}: {int((folds != 'tune').sum())} of {len(folds)} rows are not in fold 'tune' (found:"
            f" {named}). {purpose} on rows that are judged, trained on or rewarded flatter the model; score the"
            f" tune fold and choose them there."
        )


def label_threshold(scores: np.ndarray, targets: np.ndarray) -> float:
    """Return the cut with the highest F1, half-way (in logits) to the next lower score; ties take the highest cut.

    Args:
        scores: float [N] in [0, 1].
        targets: [N] in {0, 1, NaN}.

    Returns:
        A threshold in (0, 1); NaN without positives.

    Example:
        >>> label_threshold(np.array([0.8, 0.6, 0.4]), np.array([1, 1, 0])).__round__(3)
        0.5
    """
    return label_cut(FBeta(), scores, targets)


def plug_in_threshold(scores: np.ndarray) -> float:
    """Return the cut with the highest expected F1 if the scores were probabilities: half that F1.

    Expected F1 of calling the k highest scores is 2 Σ_called s / (k + Σ s); no label is used.

    Args:
        scores: float [N] in [0, 1].

    Returns:
        A threshold in [0, 0.5]; NaN without scores.

    Example:
        >>> round(plug_in_threshold(np.array([0.9, 0.1])), 3)
        0.45
    """
    return plug_in_cut(FBeta(), scores)


def _choose(predictions: Predictions, column: int, config: ThresholdConfig) -> tuple[float, str, bool]:
    """Return a class's cut, a note, and whether its sensitivity is promised."""
    objective = config.objective
    target = predictions.targets[:, column]
    scores, targets, _ = assessed(predictions.scores[:, column], target)
    if isinstance(objective, Fixed):
        return objective.value, "", False
    if isinstance(objective, Cost):
        is_calibrated = "calibration" in predictions.digests
        note = "" if is_calibrated else "a cost ratio presumes calibrated scores, and these are not known to be."
        return plug_in_cut(objective, scores), note, False
    if not len(scores):
        return 0.5, "0.5: no assessed row.", False
    positive, negative = (len(set(predictions.patients[target == value])) for value in (1, 0))
    note = ""
    if isinstance(objective, Sensitivity):
        cut = promised_cut(objective, _lowest_a_patient(predictions, column))
        if cut is not None:
            return max(cut, np.nextafter(0.0, 1.0)), "", True
        note = (
            f"sensitivity >= {objective.at_least:g} cannot be promised ({100 * objective.confidence:g} % sure):"
            f" {positive} positive patients, {fewest_patients(objective)} needed."
        )
    deciding = {Specificity: negative, Youden: min(positive, negative)}.get(type(objective), positive)
    return _shrunken(scores, targets, deciding, config), note, False


def _lowest_a_patient(predictions: Predictions, column: int) -> np.ndarray:
    """Return each positive patient's lowest positive score: called there, the patient is found in every image."""
    rows = predictions.targets[:, column] == 1
    names, codes = np.unique(predictions.patients[rows].astype(str), return_inverse=True)
    lowest = np.ones(len(names))
    np.minimum.at(lowest, codes, predictions.scores[rows, column])
    return lowest


def _shrunken(scores: np.ndarray, targets: np.ndarray, patients: int, config: ThresholdConfig) -> float:
    share = patients / (patients + config.shrinkage_patients) if patients >= FEWEST_PATIENTS else 0.0
    if config.shrink_to == "half":
        return 0.5 if share == 0.0 else 0.5 + (label_cut(config.objective, scores, targets) - 0.5) * share
    plug = logit(plug_in_cut(config.objective, scores))
    if share == 0.0:
        return sigmoid(plug)
    return sigmoid(share * logit(label_cut(config.objective, scores, targets)) + (1.0 - share) * plug)
