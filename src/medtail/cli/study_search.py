"""`medtail study search`: hyper-parameters tried on tune, the best training written as a file."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from medtail.cli.study_options import CellCpusOption, CellMemoryOption, RayOption, WorkersOption, cluster_of
from medtail.errors import MedtailError

SEARCH_EXAMPLE = """Examples:

  medtail study search configs/studies/search_bus_bra.yaml --trials 30 --workers 2 --out studies/search

  medtail study search configs/studies/search_bus_bra.yaml --trials 30 --judge --out studies/search
"""


def search(
    config: Annotated[Path, typer.Argument(help="A search's YAML file.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="Folder of the search: a new one, or the one it was begun in.")],
    trials: Annotated[int | None, typer.Option(help="How many trials, instead of the file's number.", min=1)] = None,
    judge: Annotated[
        bool, typer.Option("--judge", help="At the end, open test once: the best against the base.")
    ] = False,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key.")] = None,
    workers: WorkersOption = 1,
    ray: RayOption = None,
    cell_cpus: CellCpusOption = None,
    cell_memory_gb: CellMemoryOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Try settings of a training on tune, and write the best as a file that can be run.

    Run it again to go on where it stopped; a larger --trials adds some. A trial that fails is recorded, and tried again
    by the next command. Exits with 1 when no trial finished.
    """
    import sys

    from medtail.cli.progress import bar
    from medtail.studies.search import run_search
    from medtail.studies.search_config import load_search

    cluster = cluster_of(ray, cpus=cell_cpus, memory_gb=cell_memory_gb, workers=workers)
    resolved = load_search(config, overrides=set_ or [], trials=trials)
    with ExitStack() as stack:
        found = run_search(
            resolved,
            out,
            workers=workers,
            cluster=cluster,
            judge=judge,
            quiet=quiet,
            watch=lambda text: stack.enter_context(bar(text, quiet=quiet or not sys.stderr.isatty())),
        )
    typer.echo(json.dumps(found.to_json(), indent=1) if as_json else found.summary)
    if found.best is not None:
        more = " Test: study.html, study.md, tables.csv." if found.judged else ""
        typer.echo(f"\nWritten: {out}/best.yaml, search.html, search.md, search.json, results.csv.{more}", err=True)
    for name in found.elsewhere:
        typer.echo(f"{name}: held by another command; run this again when it is done.", err=True)
    if found.best is None:
        raise MedtailError(found.summary)
