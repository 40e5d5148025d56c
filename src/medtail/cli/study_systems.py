"""`medtail study systems`: whole challenge systems trained, put together and judged by the challenge's protocol."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from medtail.cli.study_options import CellCpusOption, CellMemoryOption, RayOption, WorkersOption, cluster_of
from medtail.errors import MedtailError

SYSTEMS_EXAMPLE = """Examples:

  medtail study systems configs/studies/cxr_lt_nih.yaml --workers 2 --out studies/cxr_lt_nih

  medtail study systems configs/studies/cxr_lt_nih.yaml --set folds.only=[0] --set train.optimizer.epochs=1 --out smoke
"""


def systems(
    config: Annotated[Path, typer.Argument(help="A file of systems, YAML.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="Folder of the study: a new one, or the one it was begun in.")],
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key.")] = None,
    workers: WorkersOption = 1,
    ray: RayOption = None,
    cell_cpus: CellCpusOption = None,
    cell_memory_gb: CellMemoryOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Train the members of CXR-LT systems, put their scores together, and judge them by the challenge's protocol.

    Weights and rules are chosen on tune; test is opened once, when every training is finished. Run it again to go on
    where it stopped. Exits with 1 when trainings failed.
    """
    import sys

    from medtail.cli.progress import bar
    from medtail.runs import read_json
    from medtail.studies.systems import run_systems
    from medtail.studies.systems_config import load_systems
    from medtail.studies.systems_judged import judge_systems
    from medtail.studies.systems_tables import text, write_systems

    cluster = cluster_of(ray, cpus=cell_cpus, memory_gb=cell_memory_gb, workers=workers)
    resolved = load_systems(config, overrides=set_ or [])
    with ExitStack() as stack:
        run = run_systems(
            resolved,
            out,
            workers=workers,
            cluster=cluster,
            quiet=quiet,
            watch=lambda told: stack.enter_context(bar(told, quiet=quiet or not sys.stderr.isatty())),
        )
    done = {"folder": str(run.root), "finished": len(run.tally.finished), "failed": run.failures}
    if run.scores:
        found = judge_systems(run)
        write_systems(run, found)
        typer.echo(json.dumps(done | read_json(run.root / "systems.json"), indent=1) if as_json else text(run, found))
        typer.echo(
            f"\nWritten: {out}/systems.html, systems.md, systems.json, systems.csv, differences.csv; scores in"
            f" {out}/systems/NAME. Next: medtail cxr-lt pack {out}/systems/NAME/predictions_test.parquet",
            err=True,
        )
    elif as_json:
        typer.echo(json.dumps(done, indent=1))
    for cell in run.tally.elsewhere:
        typer.echo(f"{cell.name}: held by another command; run this again when it is done.", err=True)
    if run.failures:
        lines = [f"  {name}: {why.splitlines()[0]}" for name, why in run.failures.items()]
        told = f"{len(lines)} training{'s' if len(lines) > 1 else ''} failed:"
        raise MedtailError("\n".join([told, *lines, "Nothing was judged; run it again to retry."]))
