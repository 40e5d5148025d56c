"""`medtail synthesise inspect | sketch`: is a pool of images what it should be, and what was it drawn from?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from medtail.errors import UsageError

INSPECT_EXAMPLE = """Examples:

  medtail synthesise inspect pool

  medtail synthesise inspect pool --judge runs/judge

  medtail synthesise inspect pool --judge judge_on_pool.csv --keep --json
"""
SKETCH_EXAMPLE = """Examples:

  medtail synthesise sketch manifest.csv --size 64 --out sketches

  medtail synthesise sketch bus_bra.csv --crop roi --kappa auto --out sketches
"""


def inspect(
    pool: Annotated[Path, typer.Argument(help="Folder of `medtail synthesise make`.", show_default=False)],
    judge: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN_OR_PREDICTIONS",
            help="Says whether images show their class: a run, best with loss.kind logit_adjusted, or its scores.",
        ),
    ] = None,
    generator: Annotated[
        Path | None, typer.Option(help="Its folder, for the latent space; found by itself beside the pool.")
    ] = None,
    imagenet: Annotated[bool, typer.Option("--imagenet", help="Also compare in the ImageNet space (slower).")] = False,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Also filter: write manifest_kept.csv without doubted, copied, double images."),
    ] = False,
    alpha: Annotated[
        float, typer.Option(help="With --keep: doubted if the judge's cross-entropy exceeds this many class means.")
    ] = 1.0,
    title: Annotated[str | None, typer.Option(help="Title of the page.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of halvings and random pairs.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print quality.json.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Measure a pool: does it copy, do the classes come out, is it varied, are sketches kept? Writes inspect.html."""
    if not alpha > 0:
        raise UsageError(f"--alpha {alpha:g}: expected above 0.")
    if judge is not None and not judge.exists():
        raise UsageError(f"--judge {judge}: no such run or file.")
    from medtail.cli.progress import bar
    from medtail.synthesis.inspection import inspect_pool
    from medtail.synthesis.quality_page import KEPT, NUMBERS, PAGE, TABLE, write_inspection, write_kept
    from medtail.synthesis.quality_tables import quality_json
    from medtail.synthesis.verdicts import overall_words

    with bar("encode images", quiet=quiet) as tick:
        found = inspect_pool(pool, judge=judge, generator=generator, imagenet=imagenet, seed=seed, progress=tick)
    write_inspection(found, title=title)
    kept = write_kept(found, alpha=alpha) if keep else None
    if as_json:
        value = quality_json(found)
        if kept is not None:
            value["kept"] = {"images": int(kept.kept.sum()), "of": len(kept.kept), "words": kept.words}
        typer.echo(json.dumps(value, indent=1))
    else:
        typer.echo(overall_words([found.verdicts[quality.name] for quality in found.classes]))
        for quality in found.classes:
            typer.echo(
                f"\n{quality.name} ({quality.group}, {quality.train_images} train, {quality.generated} generated)"
            )
            typer.echo(f"  {found.verdicts[quality.name].words}")
        if kept is not None:
            typer.echo(f"\n{kept.words}")
        for caution in found.cautions:
            typer.echo(f"\nNote: {caution}")
    files = [PAGE, TABLE, NUMBERS, *([KEPT] if keep else [])]
    typer.echo(f"Written: {', '.join(str(pool / name) for name in files)}", err=True)


def sketch(
    manifest: Annotated[Path, typer.Argument(help="Table with images and folds.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="New folder for the page and its sheets.")],
    size: Annotated[int, typer.Option(help="Side of the prepared images in pixels.", min=8, max=4096)] = 64,
    crop: Annotated[Literal["none", "roi"], typer.Option(help="Whole image, or the region of interest.")] = "none",
    kappa: Annotated[
        str | None, typer.Option(metavar="NUMBER|auto", help="How far above the noise; auto asks the train masks.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Sketch the train images of a table and show image beside sketch, before a generator learns from them."""
    strictness = _kappa(kappa)
    from medtail.cli.progress import bar
    from medtail.pixels.settings import PixelConfig
    from medtail.runs import new_folder
    from medtail.synthesis.sketch import SketchConfig
    from medtail.synthesis.sketch_check import check_sketches, sketch_json, write_sketch_check
    from medtail.tables.manifest import read_manifest

    table = read_manifest(manifest)
    new_folder(out)
    with bar("prepare images", quiet=quiet) as tick:
        found = check_sketches(
            table,
            pixels=PixelConfig(size_px=size, crop=crop),
            config=SketchConfig() if strictness is None else SketchConfig(kappa=strictness),
            choose=kappa == "auto",
            progress=tick,
        )
    page = write_sketch_check(found, out)
    if as_json:
        typer.echo(json.dumps(sketch_json(found), indent=1))
    else:
        typer.echo(f"kappa {found.config.kappa:g}; density, empty share and border found of the train images:")
        for part in found.classes:
            border = "no masks" if not part.masks else f"border {part.coverage:.2f} of {part.masks} masks"
            typer.echo(
                f"  {part.name}: {part.images} images, density {part.density:.3f}, empty {part.empty:.0%}, {border}"
            )
        if found.choice is not None:
            typer.echo(f"The masks suggest kappa {found.choice.kappa:g}.")
    typer.echo(f"Written: {page}", err=True)


def _kappa(text: str | None) -> float | None:
    if text is None or text == "auto":
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise UsageError(f"--kappa {text!r}: expected a number >= 0, or auto.")
    return value
