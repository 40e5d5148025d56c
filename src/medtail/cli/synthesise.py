"""`medtail synthesise`: a generator of images is trained, and fills the rare classes of a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medtail.cli import synthesise_inspect
from medtail.errors import UsageError

if TYPE_CHECKING:
    from medtail.synthesis.pool_items import PerClass

app = typer.Typer(
    name="synthesise",
    help="Generate images of rare classes: train a generator, make a pool, inspect it.",
    no_args_is_help=True,
)

app.command("inspect", epilog=synthesise_inspect.INSPECT_EXAMPLE)(synthesise_inspect.inspect)
app.command("sketch", epilog=synthesise_inspect.SKETCH_EXAMPLE)(synthesise_inspect.sketch)

TRAIN_EXAMPLE = """Examples:

  medtail synthesise train configs/synthesis/phantom_tiny.yaml --out gen

  medtail synthesise train configs/synthesis/phantom_tiny.yaml --out gen --resume
"""
MAKE_EXAMPLE = """Examples:

  medtail synthesise make gen --per-class fill --out pool

  medtail synthesise make gen --per-class 'histology=lipoma=50' --mode M0 --out lipomas
"""


@app.command("train", epilog=TRAIN_EXAMPLE)
def train(
    config: Annotated[Path, typer.Argument(help="A YAML config.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="New folder for the generator.")],
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the training in --out.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the config and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no log.")] = False,
) -> None:
    """Train a generator on the real images of the fold train; no other image is read."""
    from medtail.config import config_to_dict, dump_yaml
    from medtail.synthesis.config import load_synthesis_config

    resolved = load_synthesis_config(config, overrides=set_ or [])
    if dry_run:
        typer.echo(dump_yaml(config_to_dict(resolved)), nl=False)
        return
    from medtail.cli.progress import bar
    from medtail.synthesis.fit import train_generator

    with bar("train generator", quiet=quiet) as tick:
        outcome = train_generator(
            resolved, out, resume=resume, progress=tick, say=None if quiet else lambda text: typer.echo(text, err=True)
        )
    if as_json:
        typer.echo(json.dumps(outcome.to_json(), indent=1))
        return
    typer.echo(
        f"{out}: generator {outcome.digest[:12]}, {outcome.steps} steps; its autoencoder brings images back with"
        f" L1 {outcome.l1:.4f} (gray range 0 to 1) and SSIM {outcome.ssim:.3f}."
    )
    typer.echo(f"Next: medtail synthesise make {out} --per-class fill --out pool", err=True)


@app.command("make", epilog=MAKE_EXAMPLE)
def make(
    generator: Annotated[Path, typer.Argument(help="A generator's folder.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="New folder for the pool.")],
    per_class: Annotated[
        list[str] | None,
        typer.Option(
            "--per-class",
            metavar="fill|N|CLASS=N",
            help="fill up to balance (d_c says the same), N of every class, or N of a class (repeat).",
        ),
    ] = None,
    mode: Annotated[
        Literal["M0", "M1", "M2"] | None,
        typer.Option(help="M0 class only, M1 the generator's own sketch, M2 a changed sketch of a train image."),
    ] = None,
    sampler: Annotated[Literal["dpm++", "ddim"] | None, typer.Option(help="The generator's own if left out.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of the sampler.", min=1)] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Towards the class: 1 none; more is more typical, less varied.", min=0.0)
    ] = None,
    sketch_guidance: Annotated[float | None, typer.Option(help="Towards the sketch; 0 ignores it.", min=0.0)] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="The real table; the one it was trained with if left out.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the pool.")] = 0,
    accelerator: Annotated[Literal["auto", "cpu", "gpu"], typer.Option(help="Where to draw.")] = "auto",
    devices: Annotated[int, typer.Option(help="Processes that draw; the pool is the same.", min=1)] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the pool in --out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Draw images and put them beside the real table, as synthetic rows of the fold train."""
    asked = parse_per_class(per_class or ["fill"])
    from medtail.cli.progress import bar
    from medtail.synthesis.drawing import DrawingSettings
    from medtail.synthesis.fit import choose_device
    from medtail.synthesis.folder import load_generator
    from medtail.synthesis.pool import make_pool

    loaded = load_generator(generator, device=choose_device(accelerator))
    settings = DrawingSettings.of(
        loaded, solver=sampler, steps=steps, class_scale=guidance, sketch_scale=sketch_guidance
    )
    with bar("draw images", quiet=quiet) as tick:
        outcome = make_pool(
            loaded,
            out,
            per_class=asked,
            mode=mode,
            settings=settings,
            manifest=manifest,
            seed=seed,
            resume=resume,
            devices=devices,
            progress=tick,
        )
    if as_json:
        typer.echo(json.dumps(outcome.to_json(), indent=1))
        return
    for name, count in outcome.counts.items():
        typer.echo(f"{count:6d}  {name}")
    typer.echo(f"{outcome.images:6d}  images in {out} ({outcome.made} drawn now)")
    typer.echo(f"Written: {out / 'manifest.csv'} (real rows and these)", err=True)
    typer.echo(f"Next: medtail synthesise inspect {out}", err=True)


def parse_per_class(words: list[str]) -> PerClass:
    """Read what `--per-class` was given.

    Raises:
        UsageError: Neither `fill`, a number, nor names with numbers.

    Example:
        >>> parse_per_class(["fill"]), parse_per_class(["4"]), parse_per_class(["type=cyst=20", "halo=5"])
        ('fill', 4, {'type=cyst': 20, 'halo': 5})
    """
    if words in (["fill"], ["d_c"]):
        return "fill"
    if len(words) == 1 and words[0].isdecimal():
        return int(words[0])
    counts: dict[str, int] = {}
    for word in words:
        name, _, count = word.rpartition("=")
        if not name or not count.isdecimal() or name in counts:
            raise UsageError(
                f"--per-class {word!r}: expected 'fill', one number for all classes, or CLASS=N once a class, such as"
                " --per-class 'histology=lipoma=50'."
            )
        counts[name] = int(count)
    return counts
