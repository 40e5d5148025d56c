"""The verb `calibrate`: fit on tune, choose thresholds on the calibrated scores, say what it brought, store it.

For a table of scores the outcome is a folder with the calibrated table; for a run it is `model/calibration.json`,
which belongs to the weights named in it and is applied to everything the model predicts from then on. Reads a run's
card as plain JSON: nothing here needs the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import pandas as pd

from medtail.errors import MedtailError, UsageError, listing
from medtail.judging.bootstrap import draw_weights, number_patients
from medtail.judging.calibration import CalibrationConfig, cross_calibrated, fit_calibration
from medtail.judging.calibration_effect import calibration_effect, effect_text
from medtail.judging.calibration_maps import AffineMap, AnyMap, BetaMap, IsotonicMap, SoftmaxMap
from medtail.judging.calibration_record import CALIBRATION, CalibrationMap, kappa_name, refuse_calibrated
from medtail.judging.reliability import reliability_points
from medtail.judging.thresholds import ThresholdConfig, fit_thresholds
from medtail.runs import new_folder, read_json
from medtail.tables.frames import write_table
from medtail.tables.predictions import Predictions, read_predictions


@final
@dataclass(frozen=True)
class Calibrated:
    """A calibration and what it brought.

    Attributes:
        calibration: With thresholds.
        before: Raw scores of the rows it is judged on.
        after: Their calibrated scores, by maps that have not seen these patients' labels.
        effect: Table of `calibration_effect`; empty where there was nothing to judge it on.
        judged_on: Which rows these are, in words.
    """

    calibration: CalibrationMap
    before: Predictions
    after: Predictions
    effect: pd.DataFrame
    judged_on: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values, for machines."""
        made = self.calibration
        assert made.thresholds is not None, "thresholds are chosen with every calibration"
        effect = self.effect.astype(object).where(self.effect.notna(), None)
        return {
            "method": made.method,
            "kappa": kappa_name(made.kappa),
            "kappa_losses": dict(made.kappa_losses),
            "rows": made.rows,
            "num_rows": made.num_rows,
            "num_patients": made.num_patients,
            "thresholds": made.thresholds.to_json(),
            "notes": list(made.notes),
            "judged_on": self.judged_on,
            "effect": effect.to_dict("records"),
        }

    def text(self) -> str:
        """Return a summary for people."""
        made = self.calibration
        assert made.thresholds is not None, "thresholds are chosen with every calibration"
        tried = ", ".join(f"{name}: {loss:.5f}" for name, loss in made.kappa_losses.items())
        width = max(20, *(len(name) for name in made.labels.class_names)) + 2
        lines = [
            f"fitted on {made.num_rows:,} tune images of {made.num_patients:,} patients; method {made.method}, kappa"
            f" {kappa_name(made.kappa)}" + (f" (log loss out of fold by kappa: {tried})" if tried else ""),
            f"thresholds: {made.thresholds.text()}",
            "",
            f"{'class':{width}s}{'patients +':>11s}{'threshold':>11s}  map",
        ]
        for part in made.maps:
            for name, patients, said in _map_lines(part):
                lines.append(f"{name:{width}s}{patients:11,d}{made.thresholds.values[name]:11.4f}  {said}")
        lines += ["", f"judged on {self.judged_on}"]
        if len(self.effect):
            lines.append(effect_text(self.effect))
        noted = [*made.notes, *(f"{name}: {note}" for name, note in made.thresholds.notes.items())]
        if noted:
            lines += ["", *noted]
        return "\n".join(lines)


def calibrate_table(
    predictions: Predictions,
    *,
    config: CalibrationConfig | None = None,
    thresholds: ThresholdConfig | None = None,
    held_out: Predictions | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Calibrated:
    """Fit a calibration on the tune rows of a table, choose thresholds, and judge it on rows it has not seen.

    Those are the test rows where there are any with labels; else the tune rows, each calibrated by a fit without its
    patient.

    Args:
        predictions: Raw scores; rows in fold `tune` and, if you like, others.
        config: Method and strength; the defaults if None.
        thresholds: Objective and shrinkage; the defaults if None.
        held_out: Raw test rows where they are in a table of their own.
        resamples: Of the patients, for the intervals.
        seed: Of the resamples.

    Returns:
        The calibration with thresholds, and its effect.

    Raises:
        MedtailError: No row is in tune, or the scores are calibrated already.

    Example:
        >>> from medtail.tables.labels import LabelSpace
        >>> ids = np.array([f"i{row}" for row in range(60)], dtype=object)
        >>> scores, targets = np.full((60, 1), 0.5), (np.arange(60) % 3 == 0)[:, None].astype(float)
        >>> folds = np.array(["tune"] * 30 + ["test"] * 30, dtype=object)
        >>> made = calibrate_table(Predictions(ids, ids, scores, targets, LabelSpace(("x",)), folds), resamples=0)
        >>> made.judged_on
        '30 images of the test fold, held out'
    """
    config = config or CalibrationConfig()
    refuse_calibrated(predictions)
    folds = predictions.folds.astype(str)
    tune = predictions.take(folds == "tune")
    if not len(tune):
        found = listing(sorted(set(folds) - {""})) or "no folds"
        raise MedtailError(
            f"{predictions.name}: no row is in fold 'tune' (found {found}). A calibration is fitted on tune alone:"
            " score that fold too, or give folds with `--truth manifest.csv`."
        )
    fitted = fit_calibration(tune, config)
    chosen = fit_thresholds(fitted.calibrate(tune), thresholds)
    fitted = replace(fitted, thresholds=chosen)
    test = predictions.take(folds == "test") if held_out is None else held_out
    test = test.take(~np.isnan(test.targets).all(axis=1))
    if len(test):
        before, after = test, fitted.calibrate(test)
        judged_on = f"{len(test):,} images of the test fold, held out"
    elif len(set(tune.patients)) >= config.folds:
        before, after = tune, replace(tune, scores=cross_calibrated(tune, config))
        judged_on = (
            f"the {len(tune):,} tune images, each calibrated by one of {config.folds} fits that have not seen its"
            " patient (no test fold here)"
        )
    else:
        before = after = tune.take(np.zeros(len(tune), dtype=bool))
        judged_on = f"nothing: no test fold, and fewer patients in tune than the {config.folds} folds"
    effect = pd.DataFrame()
    if len(before):
        effect = calibration_effect(before, after, resamples=resamples, seed=seed)
    return Calibrated(fitted, before, after, effect, judged_on)


def write_calibrated(made: Calibrated, predictions: Predictions, out: Path | str) -> Path:
    """Write the folder of a calibrated table of scores.

    `calibration.json`; `predictions.parquet`, every row calibrated, thresholds in its header; `effect.csv`, before
    and after; `reliability.csv`, points of both with patient intervals.

    Args:
        made: Of `calibrate_table`.
        predictions: All rows, raw.
        out: A new or empty folder.

    Returns:
        The folder.

    Raises:
        UsageError: It is not empty.
    """
    calibrated = made.calibration.calibrate(predictions)
    folder = new_folder(out)
    calibrated.write(folder / "predictions.parquet")
    if len(made.effect):
        write_table(folder / "effect.csv", made.effect)
        write_table(folder / "reliability.csv", _all_points(made))
    made.calibration.write(folder / CALIBRATION)
    return folder


def calibrate_run(
    run: Path | str,
    *,
    config: CalibrationConfig | None = None,
    thresholds: ThresholdConfig | None = None,
    is_replaced: bool = False,
    resamples: int = 1000,
    seed: int = 0,
) -> Calibrated:
    """Fit a calibration on a run's tune scores and store it with the model.

    Args:
        run: A finished run: `model/` and `predictions_tune.parquet`. Raw scores of the test fold, if they were made
            already (`predictions_test.parquet`), only judge the outcome.
        config: Method and strength; the defaults if None.
        thresholds: Objective and shrinkage; the defaults if None.
        is_replaced: Put it in the place of an earlier one.
        resamples: Of the patients, for the intervals.
        seed: Of the resamples.

    Returns:
        The calibration, now in `model/calibration.json`, and its effect.

    Raises:
        UsageError: There is one already, and it is not to be replaced.
        MedtailError: The run is unfinished, or its tune scores are not of its weights.

    Example:
        >>> calibrate_run("runs/nowhere")
        Traceback (most recent call last):
        medtail.errors.MedtailError: runs/nowhere: no model/card.json; expected a finished run of `medtail train`.
    """
    run = Path(run)
    target, card = run / "model" / CALIBRATION, run / "model" / "card.json"
    if not card.exists():
        raise MedtailError(f"{run}: no model/card.json; expected a finished run of `medtail train`.")
    if target.exists() and not is_replaced:
        raise UsageError(f"{target}: the model is calibrated already. Say `--replace` to fit it anew.")
    weights = _weights_digest(read_json(card))
    tune = read_predictions(run / "predictions_tune.parquet")
    if weights is None or tune.digests.get("model") != weights:
        raise MedtailError(
            f"{run / 'predictions_tune.parquet'}: holds no scores of this model (digest"
            f" {str(tune.digests.get('model'))[:12]}, the card says {str(weights)[:12]}). Restore the run, or train"
            " again."
        )
    made = calibrate_table(
        tune,
        config=config,
        thresholds=thresholds,
        held_out=_raw_test_scores(run, weights),
        resamples=resamples,
        seed=seed,
    )
    made.calibration.write(target)
    return made


def _weights_digest(card: Mapping[str, Any]) -> str | None:
    """Return the digest a card names; that of an ensemble stands at its top."""
    digests = card.get("digests")
    found = digests.get("weights") if isinstance(digests, Mapping) else card.get("weights")
    return found if isinstance(found, str) and found else None


def _raw_test_scores(run: Path, weights: str) -> Predictions | None:
    path = run / "predictions_test.parquet"
    if not path.exists():
        return None
    test = read_predictions(path)
    is_ours = test.digests.get("model") == weights and "calibration" not in test.digests
    return test if is_ours else None


def _all_points(made: Calibrated) -> pd.DataFrame:
    # both systems stand on the same rows, so one table of weights serves all
    patients, count = number_patients(made.before.patients)
    weights, tables = draw_weights(count, resamples=1000), []
    for name in made.calibration.labels.class_names:
        for when, scored in (("before", made.before), ("after", made.after)):
            points = reliability_points(scored, name, weights=weights, patients=patients)
            points.insert(0, "scores", when)
            points.insert(0, "class", name)
            tables.append(points)
    filled = [points for points in tables if len(points)]
    return pd.concat(filled, ignore_index=True) if filled else tables[0]


def _map_lines(part: AnyMap) -> list[tuple[str, int, str]]:
    """Return class, positive patients and a description of each class of a map."""
    if isinstance(part, SoftmaxMap):
        slope = np.exp(part.alpha)
        counts = part.positive_patients or (0,) * len(part.classes)
        return [
            (name, count, f"softmax, slope {slope:.3f}, bias {bias:+.3f}")
            for name, count, bias in zip(part.classes, counts, part.bias, strict=True)
        ]
    if isinstance(part, AffineMap):
        said = f"{part.kind}, slope {np.exp(part.alpha):.3f}, shift {part.beta:+.3f}"
    elif isinstance(part, BetaMap):
        said = f"beta, slopes {np.exp(part.rise):.3f} and {np.exp(part.fall):.3f}, shift {part.shift:+.3f}"
    elif isinstance(part, IsotonicMap):
        said = f"isotonic, {len(part.knots)} knots"
    else:
        said = "left as it is"
    return [(part.class_name, part.positive_patients, said)]
