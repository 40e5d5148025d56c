"""`medtail study cv | ablate | ladder | learning-curve | show`: trainings compared, resumed, spread over processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from medtail.cli import study_genaug, study_search, study_systems
from medtail.cli.study_options import CellCpusOption, CellMemoryOption, RayOption, WorkersOption, cluster_of
from medtail.errors import UsageError

if TYPE_CHECKING:
    from medtail.studies.ablation import StudyOutcome, Watch
    from medtail.studies.protocol import Study
    from medtail.studies.ray_cells import Cluster

app = typer.Typer(
    help="Compare trainings over seeds and folds.", no_args_is_help=True, rich_markup_mode="rich"
)  # fmt: skip

FoldChoice = Literal["tune", "test"]
CV_EXAMPLE = """Examples:

  medtail study cv configs/bus_bra_subtypes.yaml --folds 5 --seeds 3 --out studies/subtypes

  medtail study cv config.yaml --external warsaw=breast_usg.csv --out studies/cv
"""
ABLATE_EXAMPLE = """Examples:

  medtail study ablate configs/studies/bus_bra_losses.yaml --workers 2 --out studies/losses

  medtail study ablate configs/studies/bus_bra_losses.yaml --seeds 0,1,2,3,4 --out studies/losses
"""
LADDER_EXAMPLE = """Examples:

  medtail study ladder configs/studies/ladder_nih_cxr.yaml --workers 2 --out studies/ladder

  medtail study ladder ladder.yaml --rungs focal,asl,syntus --seeds 3 --steps 2000 --out studies/ladder
"""
CURVE_EXAMPLE = """Examples:

  medtail study learning-curve configs/studies/learning_curve_nih_cxr.yaml --out studies/curve

  medtail study learning-curve config.yaml --fractions .25,.5,.75,1 --target recall=0.8 --seeds 3 --out studies/curve
"""
SHOW_EXAMPLE = "Example:\n\n  medtail study show studies/losses"

OutOption = Annotated[Path, typer.Option("--out", help="Folder of the study: a new one, or the one it was begun in.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


@app.command("cv", epilog=CV_EXAMPLE)
def cv(
    config: Annotated[Path, typer.Argument(help="A training's YAML config.", show_default=False)],
    out: OutOption,
    folds: Annotated[int, typer.Option(help="Number of folds.", min=2)] = 10,
    seeds: Annotated[int, typer.Option(help="Number of training seeds, 0, 1, …", min=1)] = 3,
    folds_seed: Annotated[int, typer.Option(help="Seed of the folds.")] = 0,
    min_positives: Annotated[
        int, typer.Option(help="Positive images every class must have in each fold; 0 accepts folds without.", min=0)
    ] = 1,
    duplicates: Annotated[
        bool, typer.Option("--duplicates/--no-duplicates", help="Keep near-duplicate images in one fold.")
    ] = True,
    fold: Annotated[FoldChoice, typer.Option(help="What is judged; test is opened once, at the end.")] = "tune",
    external: Annotated[
        list[str] | None, typer.Option(metavar="NAME=PATH", help="Other images to score once at the end.")
    ] = None,
    bootstrap: Annotated[int | None, typer.Option(help="Resamples of the patients.", min=1)] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key.")] = None,
    workers: WorkersOption = 1,
    ray: RayOption = None,
    cell_cpus: CellCpusOption = None,
    cell_memory_gb: CellMemoryOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Cross-validate a training: each image is scored by a model that did not learn from it or its patient.

    Run it again to go on where it stopped. Exits with 1 when cells failed.
    """
    from medtail.studies.config import JudgeConfig
    from medtail.studies.cv import cross_validation_study

    cluster = cluster_of(ray, cpus=cell_cpus, memory_gb=cell_memory_gb, workers=workers)
    study = cross_validation_study(
        config,
        num_folds=folds,
        seeds=seeds,
        folds_seed=folds_seed,
        min_positives=min_positives,
        duplicates=duplicates,
        judge=JudgeConfig(fold=fold, bootstrap=bootstrap),
        external=_external(external or []),
        overrides=set_ or [],
    )
    _run(study, out, workers=workers, cluster=cluster, as_json=as_json, quiet=quiet)


@app.command("ablate", epilog=ABLATE_EXAMPLE)
def ablate(
    study: Annotated[Path, typer.Argument(help="A study's YAML file.", show_default=False)],
    out: OutOption,
    seeds: Annotated[str | None, typer.Option(help="Training seeds by commas, instead of the file's.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key.")] = None,
    workers: WorkersOption = 1,
    ray: RayOption = None,
    cell_cpus: CellCpusOption = None,
    cell_memory_gb: CellMemoryOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train every arm of a study with every seed, and say which differences to the reference are more than noise.

    Run it again to go on where it stopped; further arms and seeds may be added to the file. Exits with 1 when cells
    failed.
    """
    from medtail.studies.ablation import ablation_study

    cluster = cluster_of(ray, cpus=cell_cpus, memory_gb=cell_memory_gb, workers=workers)
    numbers = None if seeds is None else _numbers(seeds)
    resolved = ablation_study(study, overrides=set_ or [], seeds=numbers)
    _run(resolved, out, workers=workers, cluster=cluster, as_json=as_json, quiet=quiet)


@app.command("ladder", epilog=LADDER_EXAMPLE)
def ladder(
    config: Annotated[Path, typer.Argument(help="A ladder's YAML file.", show_default=False)],
    out: OutOption,
    rungs: Annotated[
        str | None, typer.Option(help="Rungs by commas, instead of the file's; `all` for every one that fits.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Number of training seeds, 0, 1, …", min=1)] = None,
    steps: Annotated[int | None, typer.Option(help="Gradient steps of every rung.", min=1)] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key.")] = None,
    workers: WorkersOption = 1,
    ray: RayOption = None,
    cell_cpus: CellCpusOption = None,
    cell_memory_gb: CellMemoryOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Climb from the plain method up to SynTUS-Net under one budget, and say which method tune speaks for.

    Run it again to go on where it stopped. Exits with 1 when cells failed.
    """
    from medtail.studies.ablation import raise_for_failures
    from medtail.studies.ladder import load_ladder, run_ladder

    cluster = cluster_of(ray, cpus=cell_cpus, memory_gb=cell_memory_gb, workers=workers)
    named = None if rungs is None else [name.strip() for name in rungs.split(",")]
    numbers = None if seeds is None else tuple(range(seeds))
    resolved = load_ladder(config, overrides=set_ or [], rungs=named, seeds=numbers, steps=steps)
    with _watching(quiet=quiet) as watch:
        found = run_ladder(resolved, out, workers=workers, cluster=cluster, quiet=quiet, watch=watch)
    if as_json:
        choice = None if found.choice is None else found.choice.to_json()
        typer.echo(json.dumps(_as_json(found.outcome) | {"steps": resolved.steps, "choice": choice}, indent=1))
    else:
        typer.echo(found.summary)
    if found.outcome.judged:
        typer.echo(f"\nWritten: {out}/ladder.html, ladder.md, ladder.json, ladder.csv; study.html and more.", err=True)
    _tell_others(found.outcome)
    raise_for_failures(found.outcome)


@app.command("learning-curve", epilog=CURVE_EXAMPLE)
def learning_curve(
    config: Annotated[Path, typer.Argument(help="A learning curve's YAML file, or a training's.", show_default=False)],
    out: OutOption,
    fractions: Annotated[str | None, typer.Option(help="Shares of the train patients by commas, the last 1.")] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(metavar="FIGURE=VALUE", help="What is wanted: recall, ap, auroc or f1, such as recall=0.8."),
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Number of training seeds, 0, 1, …", min=1)] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key.")] = None,
    workers: WorkersOption = 1,
    ray: RayOption = None,
    cell_cpus: CellCpusOption = None,
    cell_memory_gb: CellMemoryOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train on growing shares of the patients, and say how many more each rare class would need.

    Run it again to go on where it stopped. Exits with 1 when cells failed.
    """
    from medtail.studies.ablation import raise_for_failures
    from medtail.studies.curve_tables import answers
    from medtail.studies.learning_curve import load_curve, run_curve

    cluster = cluster_of(ray, cpus=cell_cpus, memory_gb=cell_memory_gb, workers=workers)
    resolved = load_curve(
        config,
        overrides=set_ or [],
        fractions=None if fractions is None else _shares("--fractions", fractions.split(",")),
        targets=None if not target else _targets(target),
        seeds=None if seeds is None else tuple(range(seeds)),
    )
    with _watching(quiet=quiet) as watch:
        found = run_curve(resolved, out, workers=workers, cluster=cluster, quiet=quiet, watch=watch)
    if as_json:
        typer.echo(json.dumps(_as_json(found.outcome) | {"answers": answers(found)}, indent=1))
    else:
        typer.echo(found.summary)
    if found.grown:
        typer.echo(f"\nWritten: {out}/curve.html, curve.md, curve.json, curve.csv; study.html and more.", err=True)
    _tell_others(found.outcome)
    raise_for_failures(found.outcome)


@app.command("show", epilog=SHOW_EXAMPLE)
def show(
    folder: Annotated[Path, typer.Argument(help="A study's folder.", show_default=False)],
    as_json: JsonOption = False,
) -> None:
    """Say how far a study is, and its tables on tune so far. Opens neither test nor external images."""
    from medtail.studies.ablation import failure_text, show_study
    from medtail.studies.cells import failure_of, state_of
    from medtail.studies.claims import read_claim
    from medtail.studies.showing import is_list_of_arms, show_folder
    from medtail.studies.tables import states_text

    if not is_list_of_arms(folder):
        shown = show_folder(folder)
        plain = {"cells": shown.states, "failed": shown.failed, "running": shown.running, "tables": shown.tables}
        typer.echo(json.dumps(plain, indent=1) if as_json else shown.text())
        return
    study, cells, text = show_study(folder)
    states = {cell.name: state_of(cell) for cell in cells}
    failed = {cell.name: failure_of(cell) for cell in cells if states[cell.name] == "failed"}
    held = {
        cell.name: claim.text()
        for cell in cells
        if states[cell.name] == "running" and (claim := read_claim(cell.claim)) is not None
    }
    if as_json:
        typer.echo(json.dumps({"cells": states, "failed": failed, "running": held, "tables": text}, indent=1))
        return
    typer.echo(states_text(study, cells))
    for name, who in held.items():
        typer.echo(f"running: {name} ({who})")
    if failed:
        typer.echo(failure_text(failed))
    typer.echo("\n" + text)


@contextmanager
def _watching(*, quiet: bool) -> Iterator[Watch]:
    import sys

    from medtail.cli.progress import bar

    with ExitStack() as stack:
        yield lambda text: stack.enter_context(bar(text, quiet=quiet or not sys.stderr.isatty()))


def _run(study: Study, out: Path, *, workers: int, cluster: Cluster | None, as_json: bool, quiet: bool) -> None:
    from medtail.studies.ablation import raise_for_failures, run_study

    with _watching(quiet=quiet) as watch:
        outcome = run_study(study, out, workers=workers, cluster=cluster, quiet=quiet, watch=watch)
    if as_json:
        typer.echo(json.dumps(_as_json(outcome), indent=1))
    else:
        typer.echo(outcome.summary)
    if outcome.judged:
        effects = " effects.csv," if outcome.study.factors else ""
        typer.echo(
            f"\nWritten: {out}/study.html, study.md, study.json, tables.csv, differences.csv,{effects} costs.csv.",
            err=True,
        )
    _tell_others(outcome)
    raise_for_failures(outcome)


def _tell_others(outcome: StudyOutcome) -> None:
    from medtail.studies.claims import read_claim

    for cell in outcome.tally.elsewhere:
        claim = read_claim(cell.claim)
        who = "somebody else" if claim is None else claim.text()
        typer.echo(
            f"{cell.name}: held by {who}. Run this again when it is done; if that machine is gone, remove"
            f" {cell.claim}.",
            err=True,
        )


def _as_json(outcome: StudyOutcome) -> dict[str, Any]:
    tally = outcome.tally
    return {
        "folder": str(outcome.root),
        "finished": len(tally.finished),
        "failed": outcome.failures,
        "elsewhere": [cell.name for cell in tally.elsewhere],
        "judged": {
            one.name: {
                "values": json.loads(one.values.to_json(orient="records")),
                "differences": json.loads(one.differences.to_json(orient="records")),
                "verdicts": {verdict.arm: verdict.word for verdict in outcome.verdicts[one.name]},
            }
            for one in outcome.judged
        },
    }


def _numbers(text: str) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--seeds {text!r}: expected whole numbers by commas, such as 0,1,2") from None
    if len(set(found)) < len(found):
        raise UsageError(f"--seeds {text!r}: expected each seed once.")
    return found


def _shares(option: str, given: list[str]) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in given)
    except ValueError:
        raise UsageError(f"{option} {','.join(given)!r}: expected numbers by commas, such as .25,.5,.75,1") from None


def _targets(given: list[str]) -> dict[str, float]:
    found = {}
    for text in given:
        name, _, value = text.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            raise UsageError(f"--target {text!r}: expected FIGURE=VALUE, such as recall=0.8") from None
    return found


def _external(given: list[str]) -> dict[str, Any]:
    import os

    from medtail.studies.config import NAME, ExternalConfig

    found = {}
    for text in given:
        name, separator, path = text.partition("=")
        if not separator or not path or not NAME.fullmatch(name):
            raise UsageError(f"--external {text!r}: expected NAME=PATH, such as warsaw=breast_usg.csv")
        found[name] = ExternalConfig(manifest=os.path.abspath(path))
    return found


app.command("genaug", epilog=study_genaug.GENAUG_EXAMPLE)(study_genaug.genaug)
app.command("search", epilog=study_search.SEARCH_EXAMPLE)(study_search.search)
app.command("systems", epilog=study_systems.SYSTEMS_EXAMPLE)(study_systems.systems)
