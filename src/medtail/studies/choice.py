"""Which rung to take: chosen on tune alone, with an account of how much the choosing itself flatters.

The best of many looks better than it is. So the choice is made again on resampled patients, and each time looked at on
the patients who were left out: what the chosen rung gains there is what choosing so is worth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, final

import numpy as np

from medtail.errors import MedtailError
from medtail.judging.bootstrap import (
    PatientWeights,
    draw_weights,
    number_patients,
    patient_sums,
    rank_rows,
    resample_ranked,
    resample_sums,
)
from medtail.judging.counts import ratio
from medtail.judging.decisions import Decider, decide
from medtail.judging.intervals import mean_of_defined
from medtail.judging.thresholds import refuse_unless_tune
from medtail.seeding import stream_seed
from medtail.studies.scores import ScoredSet
from medtail.tables.predictions import Predictions

Criterion = Literal["ap", "auroc", "f1"]
CRITERIA: dict[Criterion, str] = {"ap": "mean AP", "auroc": "mean AUROC", "f1": "macro F1"}
RESAMPLES = 500


@final
@dataclass(frozen=True)
class Choice:
    """The rung that tune speaks for.

    Attributes:
        rung: Its name.
        criterion: What was compared.
        values: Rung → its value on tune, mean over classes and seeds; NaN where undefined.
        reference: The plain method.
        gain: The chosen rung's value minus the reference's, on the rows it was chosen on.
        honest_gain: The same when choosing on resampled patients and looking at those left out; the mean.
        taken: Rung → share of the resamples that would have chosen it.
        tried: Number of rungs there were to choose from.
    """

    rung: str
    criterion: Criterion
    values: dict[str, float]
    reference: str
    gain: float
    honest_gain: float
    taken: dict[str, float]
    tried: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {key: _plain(value) for key, value in asdict(self).items()}

    @staticmethod
    def from_json(value: dict[str, Any]) -> Choice:
        """Rebuild from `to_json`'s values.

        Raises:
            MedtailError: A key is missing or unknown.
        """
        try:
            number = {key: float("nan") if value[key] is None else float(value[key]) for key in ("gain", "honest_gain")}
            values = {name: float("nan") if v is None else float(v) for name, v in value["values"].items()}
            return Choice(**{**value, **number, "values": values})
        except (KeyError, TypeError, AttributeError) as error:
            raise MedtailError(f"choice.json: is damaged ({error!r}); remove it to choose again.") from error

    @property
    def optimism(self) -> float:
        """How much of the gain is the choosing: gain on the rows chosen on minus the honest one."""
        return self.gain - self.honest_gain


def _plain(value: Any) -> Any:
    """Return a value as JSON knows it: NaN is null."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def choose(
    tune: ScoredSet,
    rungs: Sequence[str],
    *,
    reference: str,
    criterion: Criterion = "ap",
    seed: int = 0,
    decider: Decider = decide,
) -> Choice:
    """Choose the rung with the largest mean over classes on tune, and say what choosing so is worth.

    Args:
        tune: Scores on tune, and on nothing else.
        rungs: What to choose from, in the order in which ties are settled; those without scores are passed over.
        reference: The plain method, one of them.
        criterion: What to compare.
        seed: Of the resamples.
        decider: From scores to decisions, for `f1`.

    Returns:
        The choice.

    Raises:
        MedtailError: Rows are outside tune, or the reference has no scores.
    """
    there = [name for name in rungs if name in tune.tables]
    if reference not in there:
        raise MedtailError(f"choice: {reference!r} has no whole seed yet, so nothing can be held against it.")
    for name in there:
        for table in tune.tables[name]:
            refuse_unless_tune(table, purpose="Methods chosen")
    patients, count = number_patients(tune.truth.patients)
    drawn = draw_weights(count, resamples=RESAMPLES, seed=stream_seed(seed, "choice"))
    # those a resample left out, each once; columns past the last resample are never read
    left = PatientWeights((drawn.blocks == 0).astype(np.uint8), drawn.resamples, drawn.scheme)
    whole = PatientWeights(np.ones((1, count, drawn.blocks.shape[2]), dtype=np.uint8), 1, drawn.scheme)
    parts = [
        [
            np.mean([macro(table, patients, count, w, criterion, decider) for table in tune.tables[name]], axis=0)
            for name in there
        ]
        for w in (whole, drawn, left)
    ]
    values, inside, outside = (np.stack(part) for part in parts)
    values = values[:, 0]
    best = _first_best(values[:, None])[0]
    chosen = _first_best(inside)
    at = there.index(reference)
    gains = outside[chosen, np.arange(RESAMPLES)] - outside[at]
    return Choice(
        rung=there[best],
        criterion=criterion,
        values={name: float(value) for name, value in zip(there, values, strict=True)},
        reference=reference,
        gain=float(values[best] - values[at]),
        honest_gain=float(np.nanmean(gains)) if (~np.isnan(gains)).any() else float("nan"),
        taken={name: float((chosen == i).mean()) for i, name in enumerate(there)},
        tried=len(there),
    )


def _first_best(values: np.ndarray) -> np.ndarray:
    """Return the row of the largest value of each column, the first of equals; undefined ones lose."""
    return np.asarray(np.argmax(np.where(np.isnan(values), -np.inf, values), axis=0))


def macro(
    table: Predictions,
    patients: np.ndarray,
    num_patients: int,
    weights: PatientWeights,
    criterion: Criterion,
    decider: Decider = decide,
) -> np.ndarray:
    """Return the mean over the classes that define it in every resample, float64 [B].

    Args:
        table: Scores, with thresholds for `f1`.
        patients: Patient of each row, int [N].
        num_patients: K.
        weights: Of the patients.
        criterion: What.
        decider: From scores to decisions.
    """
    if criterion == "f1":
        known, there, called = ~np.isnan(table.targets), table.targets == 1, decider(table)
        columns = np.concatenate([called & there & known, (called & known).astype(int) + there], axis=1)
        sums = resample_sums(patient_sums(columns.astype(float), patients, num_patients), weights)
        classes = table.labels.num_classes
        positives = resample_sums(patient_sums(there.astype(float), patients, num_patients), weights)
        found = ratio(2.0 * sums[:classes], sums[classes:])
        return mean_of_defined(np.where(positives > 0, found, np.nan))
    rows = [rank_rows(table.scores[:, c], table.targets[:, c], patients) for c in range(table.labels.num_classes)]
    ap, auroc = resample_ranked(rows, weights)
    return mean_of_defined(ap if criterion == "ap" else auroc)
