"""`medtail thyro-lmd score | template | split`: the Thyro-LMD protocol, from labels to Tail-F1."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

AbsentChoice = Literal["nan", "zero"]

app = typer.Typer(
    help="Thyro-LMD: Micro-, Macro-, Head-, Body- and Tail-F1 of thyroid reports.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

SCORE_EXAMPLE = """Examples:

  medtail thyro-lmd score scores.csv --truth labels.csv --out scored

  medtail thyro-lmd score answers.csv --truth labels.csv --tune tune_scores.csv --split split.json
"""
TEMPLATE_EXAMPLE = "Example:\n\n  medtail thyro-lmd template labels.csv --out submission.csv"
SPLIT_EXAMPLE = "Example:\n\n  medtail thyro-lmd split labels.csv --out thyro"

TruthArgument = Annotated[Path, typer.Argument(metavar="LABELS", help="The table of labels.", show_default=False)]


@app.command("score", epilog=SCORE_EXAMPLE)
def score(
    submission: Annotated[
        Path, typer.Argument(metavar="SCORES", help="image_id and twenty scores, or 0 and 1.", show_default=False)
    ],
    truth: Annotated[Path, typer.Option(help="The table of labels, with folds.")],
    tune: Annotated[Path | None, typer.Option(help="Scores of the tune fold, if not in SCORES.")] = None,
    split: Annotated[Path | None, typer.Option(help="split.json, if LABELS has no train fold.")] = None,
    absent: Annotated[AbsentChoice, typer.Option(help="F1 of a label without test positives.")] = "nan",
    bootstrap: Annotated[int, typer.Option(help="Resamples of the patients; 0 for no intervals.", min=0)] = 2000,
    seed: Annotated[int, typer.Option(help="Seed of the resamples.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", help="New folder for results and decoded reports.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all numbers as JSON.")] = False,
) -> None:
    """Score a submission on the test fold, decoded and untuned side by side."""
    from medtail.challenges.thyro_lmd import endpoints, headline, score_text, score_thyro_lmd, write_score
    from medtail.challenges.thyro_lmd_labels import read_labels, read_split
    from medtail.runs import new_folder

    if out is not None:
        new_folder(out)  # refused before the work, not after it
    found = score_thyro_lmd(
        submission,
        truth=read_labels(truth),
        tune=tune,
        split=None if split is None else read_split(split),
        absent=absent,
        bootstrap=bootstrap,
        seed=seed,
    )
    if out is not None:
        write_score(found, out)
    if as_json:
        results = json.loads(found.results.frame.to_json(orient="records"))
        record = {
            "headline": headline(found.results),
            "endpoints": endpoints(found.results),
            "header": dict(found.results.header),
            "results": results,
        }
        typer.echo(json.dumps(record, indent=1))
    else:
        typer.echo(score_text(found))
    if out is not None:
        typer.echo(f"\nWritten: {out}/results.csv, {out}/reports.csv", err=True)


@app.command("template", epilog=TEMPLATE_EXAMPLE)
def template(
    labels: TruthArgument,
    out: Annotated[Path, typer.Option("--out", help="The .csv to write.")],
    fold: Annotated[str, typer.Option(help="Whose rows.")] = "test",
) -> None:
    """Write a submission to fill in: the fold's ids and twenty empty columns."""
    from medtail.challenges.thyro_lmd import write_template
    from medtail.challenges.thyro_lmd_labels import read_labels

    count = write_template(out, truth=read_labels(labels), fold=fold)
    typer.echo(f"{out}: {count} rows to fill in.")


@app.command("split", epilog=SPLIT_EXAMPLE)
def split(
    labels: TruthArgument,
    out: Annotated[Path, typer.Option("--out", help="New folder for labels.csv with folds and split.json.")],
    seed: Annotated[int, typer.Option(help="Seed of the split.")] = 0,
) -> None:
    """Deal patients into train, tune and test, and fix head, body and tail. Folds already there stay."""
    from medtail.challenges.thyro_lmd_labels import make_split, read_labels
    from medtail.runs import new_folder

    outcome, record = make_split(read_labels(labels), seed=seed)
    folder = new_folder(out)
    outcome.manifest.write(folder / "labels.csv")
    record.write(folder / "split.json")
    counts = ", ".join(f"{fold} {count}" for fold, count in record.patients.items())
    typer.echo(f"{folder}: patients in {counts}.")
    for message in outcome.messages:
        typer.echo(f"! {message}")
