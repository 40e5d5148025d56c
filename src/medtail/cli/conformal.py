"""`medtail conformal`: for each image the classes that cannot be ruled out, and how well that promise was kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medtail.errors import MedtailError, UsageError

if TYPE_CHECKING:
    import numpy as np

    from medtail.tables.predictions import Predictions

MethodChoice = Literal[
    "auto", "marginal", "class_conditional", "clustered", "prevalence_adjusted", "interpolated", "risk_control"
]
ScoreChoice = Literal["probability", "logits", "softmax"]

CONFORMAL_EXAMPLE = """Examples:

  medtail conformal scores.csv --truth manifest.csv --alpha 0.1 --out sets

  medtail conformal runs/bus_bra_malignancy --alpha 0.05 --out sets
"""


def conformal(
    scores_files: Annotated[
        list[Path],
        typer.Argument(
            metavar="SCORES...", help="Scores of tune and test rows (one or more files), or a run.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="New folder for sets.csv, conformal.json and results.csv.")],
    alpha: Annotated[float, typer.Option(help="Share of findings that may be missed.")] = 0.1,
    method: Annotated[
        MethodChoice, typer.Option(help="auto: a limit a class, and the next wider pool for rare ones.")
    ] = "auto",
    truth: Annotated[Path | None, typer.Option(help="Manifest with labels and folds, if SCORES has none.")] = None,
    fold: Annotated[str, typer.Option(help="The fold to build sets for.")] = "test",
    scores: Annotated[ScoreChoice, typer.Option(help="What the numbers are.")] = "probability",
    half: Annotated[
        bool, typer.Option("--half", help="Calibrate on half of the tune patients; the others chose thresholds.")
    ] = False,
    draws: Annotated[int, typer.Option(help="Times one image a patient is drawn; limits are averaged.", min=1)] = 20,
    bootstrap: Annotated[int, typer.Option(help="Resamples of the patients; 0 for no intervals.", min=0)] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of draws and resamples.")] = 0,
    partial: Annotated[bool, typer.Option("--partial", help="Accept scores for a part of the images.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all results as JSON.")] = False,
) -> None:
    """Build sets of classes that miss a finding at most --alpha of the time, calibrated on the tune fold."""
    from medtail.judging.conformal import ConformalConfig, fit_conformal, split_tune
    from medtail.judging.conformal_coverage import judge_sets, sets_text
    from medtail.judging.evaluation import EvaluationConfig
    from medtail.runs import new_folder, write_json

    config = ConformalConfig(alpha=alpha, method=method, draws=draws, seed=seed)
    tune, judged = _tune_and_judged(scores_files, truth=truth, fold=fold, scores=scores, partial=partial)
    if half:
        thresholds, tune = split_tune(tune, seed=seed)
        sets = fit_conformal(tune, config=config, apart_from=thresholds)
    else:
        sets = fit_conformal(tune, config=config)
    results = judge_sets(sets, judged, config=EvaluationConfig(bootstrap=bootstrap, seed=seed))
    folder = new_folder(out)
    write_json(folder / "conformal.json", sets.to_json())
    _write_sets(folder / "sets.csv", judged, sets.apply(judged))
    results.write(folder / "results.csv")
    if as_json:
        rows = json.loads(results.frame.to_json(orient="records"))
        typer.echo(json.dumps({"header": dict(results.header), "results": rows}, indent=1))
    else:
        typer.echo(sets_text(sets, results))
    typer.echo(f"\nWritten: {folder}/sets.csv, {folder}/conformal.json, {folder}/results.csv.", err=True)


def _tune_and_judged(
    files: list[Path], *, truth: Path | None, fold: str, scores: ScoreChoice, partial: bool
) -> tuple[Predictions, Predictions]:
    from medtail.tables.manifest import read_manifest
    from medtail.tables.predictions import read_predictions

    if fold == "tune":
        raise UsageError("--fold tune: the sets are calibrated there; choose rows that calibrated nothing.")
    if len(files) == 1 and (files[0] / "model").is_dir():
        run = files[0]
        files = [run / "predictions_tune.parquet", run / f"predictions_{fold}.parquet"]
        if not files[1].exists():
            raise MedtailError(
                f"{run}: its {fold} fold has not been scored. `medtail report {run} --out report.html` opens test."
            )
    labels = read_manifest(truth) if truth is not None else None
    parts = [read_predictions(file, truth=labels, scores=scores, partial=partial) for file in files]
    tune = [part.take(part.folds == "tune") for part in parts if (part.folds == "tune").any()]
    judged = [part.take(part.folds == fold) for part in parts if (part.folds == fold).any()]
    if not tune or not judged:
        found = sorted({str(name) or "no fold" for part in parts for name in set(part.folds)})
        missing = "tune" if not tune else fold
        raise MedtailError(
            f"{', '.join(file.name for file in files)}: no row is in fold {missing!r}; found {', '.join(found)}. Give"
            " scores of both folds, and a column 'fold' or `--truth` with one."
        )
    return _joined(tune), _joined(judged)


def _joined(parts: list[Predictions]) -> Predictions:
    from dataclasses import replace

    import numpy as np

    first = parts[0]
    for other in parts[1:]:
        if other.labels != first.labels:
            raise MedtailError(f"{other.name}: its classes are not those of {first.name}, in their order.")
        if other.has_patients != first.has_patients:
            raise MedtailError(f"{other.name}, {first.name}: patients are known in only one of them.")

    def stack(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])

    joined = replace(
        first,
        image_ids=stack("image_ids"),
        patients=stack("patients"),
        scores=stack("scores"),
        targets=stack("targets"),
        folds=stack("folds"),
    )
    ids = joined.image_ids.astype(str)
    names, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        repeated = names[counts > 1]
        raise MedtailError(
            f"{', '.join(part.name for part in parts)}: {len(repeated)} images stand in more than one file, the first"
            f" {str(repeated[0])!r}; expected each once."
        )
    return joined


def _write_sets(path: Path, predictions: Predictions, inside: np.ndarray) -> None:
    import pandas as pd

    from medtail.tables.frames import write_table

    names = predictions.labels.class_names
    members = ["; ".join(name for name, there in zip(names, row, strict=True) if there) for row in inside]
    columns = {"image_id": predictions.image_ids.astype(str), "set": members}
    columns |= {name: inside[:, c].astype(int) for c, name in enumerate(names)}
    write_table(path, pd.DataFrame(columns))
