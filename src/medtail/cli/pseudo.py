"""`medtail data pseudo-label`: a teacher's scores beside the labels that nobody gave."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medtail.errors import UsageError

if TYPE_CHECKING:
    from medtail.tables.pseudo_labels import PseudoLabels

PSEUDO_EXAMPLE = """Examples:

  medtail predict runs/teacher both.csv --out teacher.parquet

  medtail data pseudo-label teacher.parquet both.csv --sites chexpert,nih --out both_pseudo.csv

  medtail data pseudo-label teacher.parquet both.csv --hard --margin 0.5 --out both_pseudo.csv
"""


def pseudo_label(
    predictions: Annotated[Path, typer.Argument(help="The teacher's scores, .parquet or .csv.", show_default=False)],
    manifest: Annotated[Path, typer.Argument(help="A manifest, .csv or .parquet.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="Manifest with pseudo-labels to write.")],
    sites: Annotated[str | None, typer.Option(help="Fill only rows of these sites; commas between.")] = None,
    hard: Annotated[bool, typer.Option("--hard", help="0 and 1 instead of scores, for losses made for them.")] = False,
    margin: Annotated[
        float | None,
        typer.Option(help="--hard: share of the way from threshold to 0 or 1 that must be passed; 0.5.", min=0.0),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Fill cells that nobody assessed, in train rows only, with a teacher's scores, in columns of their own.

    Class columns stay as people wrote them. Train on both with `pseudo_labels: true`.
    """
    from medtail.runs import new_file
    from medtail.tables.manifest import read_manifest
    from medtail.tables.predictions import read_predictions
    from medtail.tables.pseudo_labels import add_pseudo_labels

    if margin is not None and not hard:
        raise UsageError("--margin: says when a score becomes 0 or 1; use it with --hard.")
    new_file(out)
    chosen = None if sites is None else tuple(part.strip() for part in sites.split(",") if part.strip())
    found = add_pseudo_labels(
        read_manifest(manifest),
        read_predictions(predictions),
        hard=hard,
        margin=0.5 if margin is None else margin,
        sites=chosen,
    )
    found.manifest.write(out)
    typer.echo(json.dumps(found.to_json(), indent=1) if as_json else _text(found))
    typer.echo(f"Written: {out}. Next: medtail train CONFIG --set manifest={out} --set pseudo_labels=true", err=True)


def _text(found: PseudoLabels) -> str:
    width = max(len(name) for name in found.filled)
    lines = [f"{'class':{width}s}  pseudo-labels" + ("  undecided" if found.hard else "")]
    for name, count in found.filled.items():
        more = f"  {found.undecided[name]:9,}" if found.hard else ""
        lines.append(f"{name:{width}s}  {count:13,}{more}")
    lines.append(f"{found.kept_out:,} scored empty cells outside train stay empty.")
    return "\n".join(lines)
