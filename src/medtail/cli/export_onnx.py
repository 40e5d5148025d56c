"""The `onnx` branch of `medtail export`: one file, in float32 or, where the loss is acceptable, int8."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from medtail.errors import MedtailError, UsageError

if TYPE_CHECKING:
    from medtail.exchange.quantise import Quantised

SchemeChoice = Literal["auto", "dynamic", "static"]


def write_onnx(
    source: Path, out: Path | None, *, is_int8: bool, scheme: SchemeChoice, accept_loss: float, as_json: bool
) -> None:
    """Export a run; by default into its own folder, where `medtail predict --engine onnx` looks.

    Raises:
        UsageError: The target exists, or the source is no run.
        MedtailError: The run cannot be exported, or int8 loses more than is acceptable.
    """
    from medtail.exchange.onnx_engine import INT8_FILE, MODEL_FILE, OnnxDiagnoser
    from medtail.runs import new_file

    if not (source / "card.json").is_file() and not (source / "model").is_dir():
        raise UsageError(f"{source}: no run; expected a folder made by `medtail train`.")
    path = new_file(out if out is not None else source / (INT8_FILE if is_int8 else MODEL_FILE))
    if is_int8:
        made = _int8(source, path, scheme=scheme, accept_loss=accept_loss)
        typer.echo(json.dumps(made.to_json(), indent=1) if as_json else made.text())
        if not made.accepted:
            raise MedtailError(
                f"{path}: not written. At worst it would lose {_lost(made)} of macro AP; --accept-loss"
                f" {accept_loss:g} takes at most that. Keep float32, try another --scheme, or accept more."
            )
    else:
        from medtail.exchange.onnx import export_onnx

        record = OnnxDiagnoser(export_onnx(source, path)).record
        size = path.stat().st_size
        if as_json:
            found = {"file": str(path), "bytes": size, "members": record.members, "differences": record.differences}
            typer.echo(json.dumps(found, indent=1))
        else:
            said = ", ".join(f"{gap:.1e} at batch {batch}" for batch, gap in record.differences.items())
            networks = "1 network" if record.members == 1 else f"{record.members} networks, averaged"
            inside = "calibrated" if "calibration" in record.digests else "not calibrated"
            typer.echo(f"{path}: {size / 1e6:.1f} MB, {networks}, {inside}.")
            typer.echo(f"Largest difference from torch on probabilities: {said}.")
    typer.echo(f"Written: {path}. Next: medtail predict {path} MANIFEST --out predictions.parquet", err=True)


def _int8(source: Path, path: Path, *, scheme: SchemeChoice, accept_loss: float) -> Quantised:
    import tempfile

    from medtail.config import read_yaml
    from medtail.exchange.onnx import export_onnx
    from medtail.exchange.onnx_engine import MODEL_FILE, open_exported
    from medtail.exchange.quantise import quantise_onnx
    from medtail.tables.manifest import read_manifest

    if not (source / "config.yaml").is_file():
        raise UsageError(f"{source}: no config.yaml; --int8 needs the whole run, for its table of images.")
    values = read_yaml(source / "config.yaml")
    manifest = read_manifest(source / str(values["manifest"]), groups=values.get("groups"))
    cache = values.get("cache")
    with tempfile.TemporaryDirectory() as folder:
        if (source / MODEL_FILE).exists():
            plain = open_exported(source).path
        else:
            plain = export_onnx(source, Path(folder) / MODEL_FILE)
        return quantise_onnx(
            plain,
            path,
            manifest,
            scheme=None if scheme == "auto" else scheme,
            accept_loss=accept_loss,
            cache=None if cache is None else source / str(cache),
        )


def _lost(made: Quantised) -> str:
    return "an unknown amount" if made.low != made.low else f"{-made.low:.4f}"
