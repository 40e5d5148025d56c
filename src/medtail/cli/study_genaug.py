"""`medtail study genaug`: generators, pools, and every way of using them, at one number of gradient steps."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from medtail.cli.study_options import CellCpusOption, CellMemoryOption, RayOption, WorkersOption, cluster_of
from medtail.errors import MedtailError

GENAUG_EXAMPLE = """Examples:

  medtail study genaug configs/studies/genaug_breast6_tiny.yaml --out studies/genaug_tiny

  medtail study genaug configs/studies/genaug_breast6_small.yaml --workers 2 --out studies/genaug
"""


def genaug(
    config: Annotated[Path, typer.Argument(help="A study's YAML file.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="Folder of the study: a new one, or the one it was begun in.")],
    seeds: Annotated[int | None, typer.Option(help="Number of training seeds, 0, 1, …", min=1)] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key.")] = None,
    workers: WorkersOption = 1,
    ray: RayOption = None,
    cell_cpus: CellCpusOption = None,
    cell_memory_gb: CellMemoryOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Train generators, make pools, train every arm at equal steps, and say what generated images are worth.

    Run it again to go on where it stopped; further seeds may be added. Exits with 1 when trainings failed.
    """
    import sys

    from medtail.cli.progress import bar
    from medtail.studies.genaug import run_genaug
    from medtail.studies.genaug_config import load_genaug

    cluster = cluster_of(ray, cpus=cell_cpus, memory_gb=cell_memory_gb, workers=workers)
    resolved = load_genaug(config, overrides=set_ or [], seeds=None if seeds is None else range(seeds))
    with ExitStack() as stack:
        found = run_genaug(
            resolved,
            out,
            workers=workers,
            cluster=cluster,
            quiet=quiet,
            watch=lambda text: stack.enter_context(bar(text, quiet=quiet or not sys.stderr.isatty())),
        )
    if as_json:
        counted = {"folder": str(found.root), "finished": len(found.tally.finished), "failed": found.failures}
        typer.echo(json.dumps(counted | {"plan": [asdict(row) for row in found.rows]}, indent=1))
    else:
        typer.echo(found.summary)
    if found.evidence is not None:
        typer.echo(f"\nWritten: {out}/genaug.html, genaug.md, genaug.json, arms.csv, differences.csv.", err=True)
    for cell in found.tally.elsewhere:
        typer.echo(f"{cell.name}: held by another command; run this again when it is done.", err=True)
    if found.failures:
        lines = [f"  {name}: {why.splitlines()[0]}" for name, why in found.failures.items()]
        raise MedtailError("\n".join([f"{len(lines)} trainings failed:", *lines, "Run it again to retry."]))
