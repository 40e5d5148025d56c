"""`medtail train | predict | quickstart`: a manifest becomes a model, the model becomes predictions."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medtail.errors import UsageError

if TYPE_CHECKING:
    from medtail.tables.predictions import Predictions

EngineChoice = Literal["torch", "onnx"]
AverageChoice = Literal["logits", "scores"]

TRAIN_EXAMPLE = """Examples:

  medtail train configs/bus_bra_malignancy.yaml --set optimizer.epochs=5 --out runs/quick

  medtail train --resume runs/quick
"""
PREDICT_EXAMPLE = """Examples:

  medtail predict runs/quick manifest.csv --fold test --out predictions.parquet

  medtail predict runs/quick manifest.csv --engine onnx --out predictions.parquet

  medtail predict exported.onnx manifest.csv --out predictions.parquet
"""
QUICKSTART_EXAMPLE = "Example:\n\n  medtail quickstart --out quickstart"


def train(
    config: Annotated[Path | None, typer.Argument(help="A YAML config.", show_default=False)] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="New run folder; runs/CONFIG if left out.")] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", help="Continue this run after it was cut off; CONFIG may be left out.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved config and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no log.")] = False,
) -> None:
    """Train a model; keep the weights, the card, the thresholds chosen on tune, and all that repeats the run."""
    if resume is not None and out is not None:
        raise UsageError("--resume goes on in the run's own folder; leave out --out.")
    if resume is None and config is None:
        raise UsageError("expected a config, as in `medtail train configs/bus_bra_malignancy.yaml`, or --resume RUN.")
    from medtail.config import config_to_dict, dump_yaml
    from medtail.processes import is_first
    from medtail.training.config import load_train_config

    source = config if config is not None else Path(resume or "") / "config.yaml"
    resolved = load_train_config(source, overrides=set_ or [])
    if dry_run:
        typer.echo(dump_yaml(config_to_dict(resolved)), nl=False)
        return
    from medtail.training.ensembles import train as fit

    run = resume if resume is not None else out or Path("runs") / source.stem
    outcome = fit(resolved, run, resume=resume is not None, quiet=quiet)
    if resolved.devices * resolved.num_nodes > 1 and not is_first():
        return  # torchrun and srun run this in every process
    if as_json:
        typer.echo(json.dumps(outcome.to_json(), indent=1))
        return
    typer.echo(f"{run}: {outcome.epochs_run} epochs, tune mAP {outcome.tune_map:.3f}.")
    typer.echo(f"Next: medtail report {run} --out report.html", err=True)


def predict(
    run: Annotated[
        Path,
        typer.Argument(help="A run folder made by `medtail train`, or an exported .onnx file.", show_default=False),
    ],
    manifest: Annotated[Path, typer.Argument(help="The images to score, .csv or .parquet.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="Predictions to write, .parquet or .csv.")],
    fold: Annotated[str | None, typer.Option(help="Score only this fold.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images at a time.", min=1)] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Leave a stored calibration out.")] = False,
    engine: Annotated[
        EngineChoice | None,
        typer.Option(help="torch for a run, onnx for what `medtail export` wrote into it.", show_default=False),
    ] = None,
    tta: Annotated[
        str | None,
        typer.Option(
            help="Average versions of an image: flip, flip_rotate_scale, random:K, or none. As in training if left out."
        ),
    ] = None,
    tta_average: Annotated[AverageChoice, typer.Option(help="What --tta averages.")] = "logits",
    allow_batch_dependent: Annotated[
        bool, typer.Option("--allow-batch-dependent", help="Accept scores that depend on an image's batch.")
    ] = False,
    devices: Annotated[int, typer.Option(help="Processes that score; the scores are the same.", min=1)] = 1,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Score images with a trained model; its calibration is applied, where `medtail calibrate` has stored one."""
    from medtail.runs import new_file
    from medtail.tables.manifest import read_manifest

    new_file(out)
    is_file = run.suffix == ".onnx"
    if tta is not None and (is_file or engine == "onnx"):
        raise UsageError("--tta: an exported model scores the image alone; expected --engine torch.")
    if devices > 1 and (is_file or engine == "onnx"):
        raise UsageError("--devices: an exported model is scored in one process; expected --engine torch.")
    if is_file and engine == "torch":
        raise UsageError(f"--engine torch: {run} is an exported file; give the run it came from.")
    if is_file or engine == "onnx":
        predictions = _predict_onnx(run, manifest, fold=fold, batch_size=batch_size, calibrated=not raw, quiet=quiet)
    else:
        from medtail.training.predict import predict as score
        from medtail.training.tta import cautions, read_plan

        plan = None if tta is None else read_plan(tta, average=tta_average, where="--tta")

        predictions = score(
            run,
            read_manifest(manifest),
            fold=fold,
            batch_size=batch_size,
            calibrated=not raw,
            tta=plan,
            allow_batch_dependent=allow_batch_dependent,
            devices=devices,
            quiet=quiet,
        )
        for text in () if plan is None else cautions(plan, labels=predictions.labels):
            typer.echo(text, err=True)
    predictions.write(out)
    typer.echo(f"{out}: {len(predictions)} images, {predictions.labels.num_classes} classes.")
    typer.echo(f"Next: medtail evaluate {out} --out results", err=True)


def _predict_onnx(
    run: Path, manifest: Path, *, fold: str | None, batch_size: int | None, calibrated: bool, quiet: bool
) -> Predictions:
    """Score images with an exported file, without torch."""
    from medtail.cli.progress import bar
    from medtail.config import read_yaml
    from medtail.exchange.onnx_engine import OnnxDiagnoser, open_exported, predict_onnx
    from medtail.tables.manifest import read_manifest

    diagnoser = OnnxDiagnoser(run) if run.suffix == ".onnx" else open_exported(run)
    config = run / "config.yaml"
    cache = read_yaml(config).get("cache") if config.exists() else None
    with bar("prepare and predict", quiet=quiet) as tick:
        return predict_onnx(
            diagnoser,
            read_manifest(manifest),
            fold=fold,
            batch_size=batch_size,
            cache=None if cache is None else Path(str(cache)),
            calibrated=calibrated,
            preparing=tick,
            progress=tick,
        )


def quickstart(
    out: Annotated[Path, typer.Option("--out", help="New folder for everything it makes.")] = Path("quickstart"),
    seed: Annotated[int, typer.Option(help="Seed of split and training.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the table at the end.")] = False,
) -> None:
    """Run the whole road on real breast-ultrasound images that come with the package, in minutes, offline."""
    from medtail.quickstart import quickstart as run_quickstart

    def say(text: str) -> None:
        if not quiet:
            typer.echo(text, err=True)

    outcome = run_quickstart(out, seed=seed, say=say, quiet=quiet or not sys.stderr.isatty())
    typer.echo(outcome.table)
    typer.echo(f"\nReport: {outcome.report}")
