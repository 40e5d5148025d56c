"""`medtail bench`: how long a run takes to answer, by engine, batch size and threads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medtail.errors import MedtailError, UsageError

if TYPE_CHECKING:
    from medtail.exchange.speed import Engine

BENCH_EXAMPLE = """Examples:

  medtail bench runs/quick

  medtail bench runs/quick --engines torch,onnx,int8 --batches 1,32 --threads 1 --json
"""


def bench(
    run: Annotated[Path, typer.Argument(help="A run folder made by `medtail train`.", show_default=False)],
    engines: Annotated[
        str, typer.Option(help="By commas: torch, onnx, int8; int8 needs `medtail export --int8` first.")
    ] = "torch,onnx",
    batches: Annotated[str, typer.Option(help="Images a call, by commas.")] = "1,7,32",
    threads: Annotated[str, typer.Option(help="Threads a call, by commas.")] = "1,2",
    rounds: Annotated[int, typer.Option(help="Calls of each setting; they take turns.", min=1)] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print the timings as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Time a run on this machine's CPU, from prepared pixels to calibrated probabilities: latency and throughput."""
    import tempfile

    from medtail.cli.progress import bar
    from medtail.exchange.speed import check_settings, measure_speed

    names = [word.strip() for word in engines.split(",") if word.strip()]
    sizes, counts = _numbers(batches, "--batches"), _numbers(threads, "--threads")
    try:
        check_settings(names, sizes, counts, rounds)
    except MedtailError as error:
        raise UsageError(f"--{error}") from error
    with tempfile.TemporaryDirectory() as folder:
        files = _files(run, names, Path(folder))
        with bar("bench", quiet=quiet) as tick:
            speed = measure_speed(
                run,
                files,
                engines=names,  # type: ignore[arg-type] # checked above
                batches=sizes,
                threads=counts,
                rounds=rounds,
                progress=tick,
            )
    typer.echo(json.dumps(speed.to_json(), indent=1) if as_json else speed.text())


def _files(run: Path, engines: list[str], folder: Path) -> dict[Engine, Path]:
    """Return the exported files to time; one that is not in the run folder is made for the occasion."""
    from medtail.exchange.onnx import export_onnx
    from medtail.exchange.onnx_engine import INT8_FILE, MODEL_FILE, open_exported

    files: dict[Engine, Path] = {}
    if "onnx" in engines:
        if (run / MODEL_FILE).exists():
            files["onnx"] = open_exported(run).path
        else:
            typer.echo(f"{run}: not exported yet; exporting to a temporary file.", err=True)
            files["onnx"] = export_onnx(run, folder / MODEL_FILE)
    if "int8" in engines:
        files["int8"] = open_exported(run, file=INT8_FILE).path
    return files


def _numbers(text: str, option: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",") if word.strip()]
    except ValueError:
        raise UsageError(f"{option} {text!r}: expected whole numbers, such as 1,32.") from None
