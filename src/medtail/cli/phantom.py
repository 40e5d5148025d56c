"""`medtail data phantom`: simulated ultrasound whose labels and masks are known because they were drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medtail.cli.progress import bar
from medtail.errors import Problems, UsageError

if TYPE_CHECKING:
    from medtail.tables.manifest import Manifest

FamilyChoice = Literal["thyroid", "breast6"]
RewardChoice = Literal["generous", "scarce", "none"]

PHANTOM_EXAMPLE = """Examples:

  medtail data phantom thyroid --images 3000 --tail natural --out phantom

  medtail data phantom thyroid --images 2000 --offset 3000 --out fresh

  medtail data phantom thyroid --images 500 --tail shares.yaml --sites north,west --workers 2 --out shifted

  medtail data phantom breast6 --reward scarce --out breast

shares.yaml names labels with the share of nodules that shall show them, on a line each:

  margin_ete: 0.05
"""


def phantom(
    family: Annotated[
        FamilyChoice, typer.Argument(help="thyroid: twenty descriptors; breast6: six subtypes.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", help="New folder for images, masks and manifest.csv.")],
    images: Annotated[int | None, typer.Option(help="thyroid: how many.", min=1)] = None,
    size: Annotated[int | None, typer.Option(help="Pixels a side; thyroid 128, breast6 64.", min=1)] = None,
    tail: Annotated[str | None, typer.Option(help="thyroid: natural, uniform, or a YAML file of shares.")] = None,
    sites: Annotated[str | None, typer.Option(help="thyroid: comma-separated sites; all four if left out.")] = None,
    label_noise: Annotated[
        float | None, typer.Option(help="thyroid: probability that a group is recorded wrongly.")
    ] = None,
    not_assessed: Annotated[
        float | None, typer.Option(help="thyroid: probability that a group is not recorded.")
    ] = None,
    offset: Annotated[
        int | None, typer.Option(help="thyroid: number of the first image, a multiple of 20: fresh test data.")
    ] = None,
    reward: Annotated[RewardChoice | None, typer.Option(help="breast6: rows of the reward fold.")] = None,
    balanced: Annotated[
        int | None, typer.Option(help="breast6: train images of every class, instead of the long tail.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything; the same seed gives the same bytes.")] = 0,
    workers: Annotated[int | None, typer.Option(help="thyroid: processes.", min=1)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Draw simulated ultrasound with known labels and masks. For mechanics and tests; never a clinical claim."""
    only: dict[str, dict[str, object]] = {
        "thyroid": {
            "--images": images, "--tail": tail, "--sites": sites, "--label-noise": label_noise,
            "--not-assessed": not_assessed, "--offset": offset, "--workers": workers,
        },
        "breast6": {"--reward": reward, "--balanced": balanced},
    }  # fmt: skip
    problems = Problems(f"data phantom {family}")
    for other, options in only.items():
        for option, value in options.items():
            if other != family and value is not None:
                problems.add(f"{option}: is an option of {other}; leave it out.")
    if family == "thyroid" and images is None:
        problems.add("--images: missing; expected how many to draw.")
    problems.raise_if_any(kind=UsageError)

    if family == "breast6":
        from medtail.sources.phantom_breast import breast_manifest

        manifest = breast_manifest(
            out, seed=seed, size_px=64 if size is None else size, reward=reward or "generous", balanced=balanced
        )
        _tell(manifest, out, as_json=as_json)
        return

    from medtail.config import read_yaml
    from medtail.runs import read_json
    from medtail.sources.phantom import PhantomConfig
    from medtail.sources.phantom_prevalence import NAMES
    from medtail.sources.phantom_writing import RECORD, phantom_manifest

    config = PhantomConfig(
        size_px=128 if size is None else size,
        tail=read_yaml(tail) if tail and tail.endswith((".yaml", ".yml")) else tail or "natural",
        seed=seed,
        sites=tuple(site.strip() for site in (sites or "").split(",") if site.strip()),
        label_noise=label_noise or 0.0,
        not_assessed=not_assessed or 0.0,
    )
    assert images is not None, "refused above"
    with bar("drawing phantoms", quiet=quiet or as_json) as tick:
        manifest = phantom_manifest(
            out, images=images, config=config, offset=offset or 0, workers=workers or 1, progress=tick
        )
    record = read_json(out / RECORD)
    if not as_json:
        typer.echo(f"{'label':20} {'wanted':>7} {'reached':>7} {'drawn':>7} {'recorded':>8}")
        for name in NAMES:
            row = record["shares"][name]
            recorded = "" if row["recorded"] is None else f"{row['recorded']:.3f}"
            typer.echo(f"{name:20} {row['wanted']:7.3f} {row['reached']:7.3f} {row['drawn']:7.3f} {recorded:>8}")
    _tell(manifest, out, as_json=as_json, record=record)


def _tell(manifest: Manifest, out: Path, *, as_json: bool, record: dict[str, object] | None = None) -> None:
    if as_json:
        counts = {"images": len(manifest), "patients": len(set(manifest.patients))}
        typer.echo(json.dumps(record or {"family": "breast6", **counts}, indent=1))
    else:
        typer.echo(f"{out}: {len(manifest)} simulated images of {len(set(manifest.patients))} made-up patients.")
        typer.echo(f"Next: medtail data split {out}/manifest.csv", err=True)
    typer.echo(f"Written: {out}/manifest.csv. Simulated: no clinical claim may rest on it.", err=True)
