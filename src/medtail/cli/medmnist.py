"""`medtail medmnist score | sets`: the official AUC and ACC of a score file, with our own numbers beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

ScoreChoice = Literal["probability", "logits", "softmax"]

app = typer.Typer(
    help="MedMNIST: AUC and ACC as the official evaluator gives them.", no_args_is_help=True, rich_markup_mode="rich"
)

SCORE_EXAMPLE = """Examples:

  medtail medmnist score scores.csv --truth chestmnist.npz --out scored

  medtail medmnist score "octmnist_test_[AUC]0.672_[ACC]0.892@3.csv" --truth octmnist.npz
"""
SETS_EXAMPLE = "Example:\n\n  medtail medmnist sets"


@app.command("score", epilog=SCORE_EXAMPLE)
def score(
    scores_file: Annotated[
        Path,
        typer.Argument(metavar="SCORES", help="Official result file or a medtail table of scores.", show_default=False),
    ],
    truth: Annotated[Path, typer.Option(help="The data set's .npz; only its labels are read.")],
    flag: Annotated[str | None, typer.Option(help="Data set; else from the file names.")] = None,
    split: Annotated[str | None, typer.Option(help="train, val or test; else from SCORES' name, else test.")] = None,
    scores: Annotated[ScoreChoice, typer.Option(help="What the numbers are, for our own numbers.")] = "probability",
    bootstrap: Annotated[int, typer.Option(help="Resamples of the images; 0 for no intervals.", min=0)] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the resamples.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", help="New folder for the result files.")] = None,
    run: Annotated[str, typer.Option(help="What stands after '@' in the official file name.")] = "1",
    as_json: Annotated[bool, typer.Option("--json", help="Print all numbers as JSON.")] = False,
) -> None:
    """Score a file as the official evaluator does, and as medtail does."""
    from medtail.challenges.medmnist import dumps, score_medmnist, score_text, write_score
    from medtail.judging.evaluation import EvaluationConfig
    from medtail.judging.summary import summary_text
    from medtail.runs import new_folder

    if out is not None:
        new_folder(out)  # refused before the work, not after it
    found = score_medmnist(
        scores_file,
        truth=truth,
        flag=flag,
        split=split,
        scores=scores,
        config=EvaluationConfig(bootstrap=bootstrap, seed=seed),
    )
    if out is not None:
        write_score(found, out, run=run)
    if as_json:
        typer.echo(dumps(found))
    else:
        typer.echo(score_text(found))
        if found.results is not None:
            typer.echo(f"\n{summary_text(found.results)}")
    if out is not None:
        typer.echo(f"\nWritten: {out}/{found.file_name(run)}", err=True)


@app.command("sets", epilog=SETS_EXAMPLE)
def sets() -> None:
    """List the data sets, their tasks and what their label numbers mean."""
    from medtail.challenges.medmnist_sets import SETS

    for dataset in SETS.values():
        names = "; ".join(f"{number} {name}" for number, name in enumerate(dataset.class_names))
        typer.echo(f"{dataset.flag:16} {dataset.task:26} {names}")
