"""`medtail explain`: heat maps of a trained model, with the checks that say how far to believe them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from medtail.cli.progress import bar

MethodChoice = Literal["layer_cam", "grad_cam", "attention", "rollout", "occlusion"]
BranchChoice = Literal["joint", "cnn", "vit"]

EXPLAIN_EXAMPLE = """Examples:

  medtail explain runs/bus_bra_malignancy data/bus_bra.csv --out explained

  medtail explain runs/quick manifest.csv --classes malignant --method occlusion --images 8 --out explained
"""


def explain(
    run: Annotated[Path, typer.Argument(help="A run folder made by `medtail train`.", show_default=False)],
    manifest: Annotated[
        Path,
        typer.Argument(help="Images, .csv or .parquet; masks and boxes are used for checks.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out", help="New folder for pictures, page and tables.")],
    classes: Annotated[
        str | None,
        typer.Option(help="Classes, with a comma between; those present in each image if left out."),
    ] = None,
    method: Annotated[
        MethodChoice | None, typer.Option(help="How maps are made; the model's default if left out.")
    ] = None,
    branch: Annotated[BranchChoice, typer.Option(help="Of a dual model, whose evidence.")] = "joint",
    images: Annotated[int, typer.Option(help="Images, the rare findings first.", min=1)] = 16,
    fold: Annotated[str | None, typer.Option(help="Only this fold; test where there is one.")] = None,
    bootstrap: Annotated[int, typer.Option(help="Resamples of the patients; 0 for no intervals.", min=0)] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the checks.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print verdicts and measures as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Show what a model looks at for each finding, and whether such a map may be believed."""
    from medtail.explain.explaining import ExplainConfig
    from medtail.explain.explaining import explain as work
    from medtail.tables.manifest import read_manifest

    names = None if classes is None else tuple(word.strip() for word in classes.split(",") if word.strip())
    found = work(
        run,
        read_manifest(manifest),
        out=out,
        config=ExplainConfig(
            classes=names,
            method=method,
            branch=branch,
            images=images,
            fold=fold,
            bootstrap=bootstrap,
            seed=seed,
        ),
        counter=lambda text: bar(text, quiet=quiet),
    )
    if as_json:
        typer.echo(json.dumps(found.record, indent=1))
        return
    record = found.record
    failed = int((~found.maps["passed"]).sum())
    typer.echo(f"{len(found.maps)} maps by {record['method']} ({record['branch']}); {failed} failed a check.")
    for name, verdict in record["verdicts"].items():
        typer.echo(f"{name} check {verdict['words']}")
    typer.echo(f"\nWritten: {found.folder}/explain.html, maps/, maps.csv, sanity.csv, explain.json", err=True)
