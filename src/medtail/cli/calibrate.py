"""`medtail calibrate`: scores that mean what they say, and thresholds, from the tune fold alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medtail.errors import UsageError

if TYPE_CHECKING:
    from medtail.judging.calibrating import Calibrated
    from medtail.judging.calibration import CalibrationConfig
    from medtail.judging.thresholds import ThresholdConfig

MethodChoice = Literal["auto", "temperature", "platt", "softmax", "beta", "isotonic", "logit_adjustment"]
ShrinkChoice = Literal["plug_in", "half"]
ScoreChoice = Literal["probability", "logits", "softmax"]

CALIBRATE_EXAMPLE = """Examples:

  medtail calibrate runs/bus_bra_malignancy --fit tune

  medtail calibrate scores.csv --truth manifest.csv --fit tune --threshold sensitivity@0.95 --out calibrated
"""


def calibrate(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN_OR_SCORES", help="A run folder, or scores as .csv or .parquet.", show_default=False
        ),
    ],
    fit: Annotated[str, typer.Option(help="The fold to fit on; tune is the only honest one.")] = "tune",
    method: Annotated[MethodChoice, typer.Option(help="Map of a class; a softmax in exclusive groups.")] = "auto",
    kappa: Annotated[
        str, typer.Option(help="Pull of rare classes toward all, in positive patients: a number, inf or cv.")
    ] = "10",
    threshold: Annotated[
        str,
        typer.Option(
            help="f1, f@2, youden, cost@1:20, sensitivity@0.95, specificity@0.9, net_benefit@0.05 or fixed@0.5."
        ),
    ] = "f1",
    shrink_to: Annotated[
        ShrinkChoice, typer.Option(help="What thresholds of rare classes are pulled to; half is 0.5.")
    ] = "plug_in",
    out: Annotated[Path | None, typer.Option("--out", help="SCORES only: new folder for all that is made.")] = None,
    truth: Annotated[
        Path | None, typer.Option(help="SCORES only: manifest with labels and folds, if they lack them.")
    ] = None,
    scores: Annotated[ScoreChoice, typer.Option(help="SCORES only: what the numbers are.")] = "probability",
    replace: Annotated[bool, typer.Option("--replace", help="RUN only: replace an earlier calibration.")] = False,
    bootstrap: Annotated[int, typer.Option(help="Resamples of the patients; 0 for no intervals.", min=0)] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of resamples and folds.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Calibrate scores on the tune fold and choose thresholds; with a RUN, store both with its model."""
    if fit != "tune":
        raise UsageError(
            f"--fit {fit!r}: expected tune. What is fitted on rows that are trained on or judged flatters the model."
        )
    is_run = (source / "model").is_dir()
    _check_options(source, is_run=is_run, out=out, truth=truth, scores=scores, is_replaced=replace)
    config, limits = _configs(method, kappa, threshold, shrink_to, seed)
    if is_run:
        from medtail.judging.calibrating import calibrate_run

        made = calibrate_run(
            source, config=config, thresholds=limits, is_replaced=replace, resamples=bootstrap, seed=seed
        )
        written = f"{source / 'model' / 'calibration.json'}. `medtail predict` applies it; --raw leaves it out."
        _print(made, as_json=as_json)
        if (source / "model" / "README.md").exists():  # the model card says whether the model is calibrated
            from medtail.training.model_card import try_model_card

            try_model_card(source)
        if (source / "predictions_test.parquet").exists():
            typer.echo(
                f"Scored before: remove {source}/predictions_test.parquet and {source}/results/test.csv for a new"
                " verdict.",
                err=True,
            )
    else:
        from medtail.judging.calibrating import calibrate_table, write_calibrated
        from medtail.runs import new_folder
        from medtail.tables.manifest import read_manifest
        from medtail.tables.predictions import read_predictions

        labels = read_manifest(truth) if truth is not None else None
        predictions = read_predictions(source, truth=labels, scores=scores)
        folder = new_folder(out or "")
        made = calibrate_table(predictions, config=config, thresholds=limits, resamples=bootstrap, seed=seed)
        write_calibrated(made, predictions, folder)
        written = f"{folder}/predictions.parquet. Next: medtail evaluate {folder}/predictions.parquet --out results"
        _print(made, as_json=as_json)
    typer.echo(f"Written: {written}", err=True)


def _check_options(
    source: Path, *, is_run: bool, out: Path | None, truth: Path | None, scores: str, is_replaced: bool
) -> None:
    if is_run:
        given = [name for name, value in (("--out", out), ("--truth", truth)) if value is not None]
        given += ["--scores"] if scores != "probability" else []
        if given:
            raise UsageError(f"{', '.join(given)}: {source} is a run; its calibration is stored with its model.")
    elif source.is_dir():
        raise UsageError(f"{source}: a folder without model/; expected a run of `medtail train`, or a table of scores.")
    elif out is None:
        raise UsageError("--out: missing; calibrated scores need a new folder, as in --out calibrated.")
    elif is_replaced:
        raise UsageError("--replace: is for runs; a folder of calibrated scores is never overwritten.")


def _configs(
    method: MethodChoice, kappa: str, threshold: str, shrink_to: ShrinkChoice, seed: int
) -> tuple[CalibrationConfig, ThresholdConfig]:
    from medtail.judging.calibration import CalibrationConfig
    from medtail.judging.objectives import parse_objective
    from medtail.judging.thresholds import ThresholdConfig

    strength: float | Literal["cv", "inf"]
    if kappa == "cv":
        strength = "cv"
    else:
        try:
            strength = float(kappa)
        except ValueError:
            raise UsageError(f"--kappa {kappa!r}: expected a number of patients > 0, inf or cv.") from None
    config = CalibrationConfig(method=method, kappa=strength, seed=seed)
    return config, ThresholdConfig(objective=parse_objective(threshold), shrink_to=shrink_to)


def _print(made: Calibrated, *, as_json: bool) -> None:
    typer.echo(json.dumps(made.to_json(), indent=1, allow_nan=False) if as_json else made.text())
