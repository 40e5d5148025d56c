"""`medtail export`: a trained run leaves the house, as an ONNX file or as DICOM reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medtail.errors import UsageError

if TYPE_CHECKING:
    from medtail.exchange.dicom_export import Exported

FormatChoice = Literal["onnx", "sr"]
SchemeChoice = Literal["auto", "dynamic", "static"]

EXPORT_EXAMPLE = """Examples:

  medtail export runs/thyroid --format onnx --out thyroid.onnx

  medtail export runs/thyroid --format onnx --int8 --accept-loss 0.01

  medtail export runs/thyroid manifest.csv --format sr --out reports

  medtail export predictions.parquet manifest.csv --format sr --system eu --out reports
"""


def export(
    source: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run folder; for sr a table of predictions too.", show_default=False)
    ],
    manifest: Annotated[
        Path | None, typer.Argument(help="For sr: the DICOM images, .csv or .parquet.", show_default=False)
    ] = None,
    *,
    kind: Annotated[FormatChoice, typer.Option("--format", help="onnx: one file; sr: a DICOM report an image.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="New file (onnx; RUN/model.onnx if left out) or folder (sr).")
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="onnx: smaller weights, if they lose little on tune.")] = False,
    scheme: Annotated[SchemeChoice, typer.Option(help="onnx: how --int8 is made; auto goes by the network.")] = "auto",
    accept_loss: Annotated[
        float, typer.Option(help="onnx: largest loss of macro AP that --int8 may show at worst.", min=0.0)
    ] = 0.01,
    fold: Annotated[str | None, typer.Option(help="sr: only this fold of the manifest.")] = None,
    system: Annotated[str, typer.Option(help="sr: TI-RADS system, for models of descriptors.")] = "acr",
    heat_maps: Annotated[
        int, typer.Option(help="sr: also secondary captures of this many findings' heat maps an image.", min=0)
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Write a run as one ONNX file, or its findings as DICOM structured reports (TID 1500) beside their images."""
    if kind == "onnx":
        from medtail.cli.export_onnx import write_onnx

        if manifest is not None:
            raise UsageError(f"--format onnx: takes no images; leave {manifest} out.")
        write_onnx(source, out, is_int8=int8, scheme=scheme, accept_loss=accept_loss, as_json=as_json)
        return
    if out is None:
        raise UsageError("--out: missing; expected a new folder for the reports, as in --out reports.")
    if manifest is None:
        raise UsageError("--format sr: expected the images too, as in `medtail export RUN manifest.csv --format sr`.")
    done = _sr(source, manifest, out, fold=fold, system=system, heat_maps=heat_maps, quiet=quiet)
    if as_json:
        records = json.loads(done.index.to_json(orient="records"))
        typer.echo(json.dumps({"files": records, "notes": list(done.notes)}, indent=1))
    else:
        reports = done.index[done.index["kind"] == "report"]
        typer.echo(f"{done.folder}: {len(reports)} reports, {len(done.index) - len(reports)} pictures.")
        typer.echo("For research use only; unverified and preliminary.")
    for note in done.notes:
        typer.echo(f"! {note}", err=True)
    typer.echo(f"Written: {done.folder}/index.csv and the files it names", err=True)


def _sr(
    source: Path, manifest_file: Path, out: Path, *, fold: str | None, system: str, heat_maps: int, quiet: bool
) -> Exported:
    from medtail.exchange.dicom_export import evidence_of_predictions, export_reports
    from medtail.exchange.dicom_sr import require_highdicom
    from medtail.exchange.evidence import read_evidence
    from medtail.lexicons.systems import lexicon
    from medtail.runs import new_folder
    from medtail.tables.manifest import read_manifest

    # refused before the work, not after it
    require_highdicom()
    lexicon(system)
    new_folder(out)
    manifest = read_manifest(manifest_file)
    if not source.is_dir():
        if heat_maps:
            raise UsageError("--heat-maps: needs the model; give the run, not a table of predictions.")
        from medtail.tables.predictions import read_predictions

        truth = manifest if fold is not None else None
        predictions = read_predictions(source, truth=truth, fold=fold, partial=True)
        evidence = evidence_of_predictions(predictions, name=source.stem)
        return export_reports(predictions, manifest, evidence, out, system=system)
    from medtail.training.predict import predict

    evidence = read_evidence(source)
    predictions = predict(source, manifest, fold=fold, quiet=quiet)
    pictures = None
    if heat_maps:
        from medtail.cli.export_pictures import heat_pictures

        pictures = heat_pictures(source, manifest, most=heat_maps)
    return export_reports(predictions, manifest, evidence, out, system=system, pictures=pictures)
