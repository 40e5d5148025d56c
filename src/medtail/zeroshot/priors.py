"""Calibration without labels: move each class's scores until they agree with a prevalence somebody states.

A stated prevalence is the only thing known of a class nobody has labelled. One shift of the logit makes the mean score
equal to it, and the cut above which that share of images lies becomes the threshold. The order of images stays, and so
do AP and AUROC; F1 and calibration error change. Both are fitted on images whose labels are not looked at, outside the
test fold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

import numpy as np
from scipy.optimize import brentq

from medtail.errors import MedtailError, Problems, did_you_mean
from medtail.judging.calibration_maps import AffineMap
from medtail.judging.calibration_record import apply_maps, refuse_calibrated
from medtail.runs import digest_json
from medtail.tables.predictions import Predictions

WIDEST = 60.0
"""Shifts, in logits, are looked for within this."""
EDGE = 1e-6
"""Prevalences and thresholds stay this far from 0 and 1."""


@final
@dataclass(frozen=True)
class PriorMatch:
    """A shift and a threshold a class.

    Attributes:
        maps: The shifts; classes without a stated prevalence have none.
        thresholds: Class → score above which the stated share of the reference images lies, after the shift.
        prior: Class → what was stated.
        rows: Digest of the reference scores.
        images: How many they were.
    """

    maps: tuple[AffineMap, ...]
    thresholds: Mapping[str, float]
    prior: Mapping[str, float]
    rows: str
    images: int

    def apply(self, predictions: Predictions) -> Predictions:
        """Return predictions with shifted scores and the thresholds.

        Raises:
            MedtailError: The scores are calibrated already, or a class is not theirs.
        """
        refuse_calibrated(predictions)
        names = predictions.labels.class_names
        missing = [part.class_name for part in self.maps if part.class_name not in names]
        if missing:
            raise MedtailError(f"{predictions.name}: has no class {missing[0]!r}, for which a prevalence was matched.")
        record = {
            "shifts": {part.class_name: part.beta for part in self.maps},
            "prior": dict(self.prior),
            "rows": self.rows,
        }
        return replace(
            predictions,
            scores=apply_maps(self.maps, predictions.scores, predictions.labels),
            thresholds={name: self.thresholds.get(name, 0.5) for name in names},
            digests={**predictions.digests, "calibration": digest_json(record)},
        )


def match_prior(reference: Predictions, prior: Mapping[str, float]) -> PriorMatch:
    """Find the shift of each class's logit that makes the mean score of the reference images its stated prevalence.

    Solves mean σ(logit s + b) = π for b, which has one solution. The threshold is the (1 - π) quantile of the shifted
    scores. Targets are not read.

    Args:
        reference: Scores of images outside the test fold.
        prior: Class → prevalence in (0, 1); classes left out keep their scores.

    Returns:
        Shifts and thresholds.

    Raises:
        MedtailError: A reference row is in the test fold, a class is unknown, or a prevalence is no share.

    Example:
        >>> from medtail.tables.labels import LabelSpace
        >>> ids = np.array(["a", "b"], dtype=object)
        >>> rows = Predictions(ids, ids, np.array([[0.5], [0.5]]), np.full((2, 1), np.nan), LabelSpace(("Bulla",)),
        ...                    np.array(["tune", "tune"], dtype=object))
        >>> match_prior(rows, {"Bulla": 0.1}).apply(rows).scores.round(6).tolist()
        [[0.1], [0.1]]
    """
    refuse_calibrated(reference)
    problems = Problems("--prior")
    names = reference.labels.class_names
    for name, share in prior.items():
        if name not in names:
            problems.add(f"class {name!r}: is none of {reference.name}{did_you_mean(name, names) or '.'}")
        elif not EDGE <= share <= 1.0 - EDGE:
            problems.add(f"class {name!r}: found {share!r}; expected a share in (0, 1), such as 0.02 for 2 %.")
    if not len(reference):
        problems.add("no reference images; expected some whose scores can be looked at.")
    if (reference.folds.astype(str) == "test").any():
        problems.add(
            f"{reference.name}: holds images of the test fold, on which nothing may be fitted, labels or not; expected"
            " images of train or tune, as --reference-fold names them."
        )
    problems.raise_if_any()
    maps = tuple(
        AffineMap(class_name=name, alpha=0.0, beta=_shift(reference, name, share)) for name, share in prior.items()
    )
    shifted = apply_maps(maps, reference.scores, reference.labels)
    thresholds = {
        name: float(np.clip(np.quantile(shifted[:, reference.labels.index(name)], 1.0 - share), EDGE, 1.0 - EDGE))
        for name, share in prior.items()
    }
    return PriorMatch(maps, thresholds, dict(prior), reference.digest, len(reference))


def _shift(reference: Predictions, name: str, share: float) -> float:
    scores = reference.scores[:, reference.labels.index(name)]

    def miss(shift: float) -> float:
        return float(AffineMap(class_name=name, alpha=0.0, beta=shift).apply(scores).mean() - share)

    return float(brentq(miss, -WIDEST, WIDEST, xtol=1e-12))
