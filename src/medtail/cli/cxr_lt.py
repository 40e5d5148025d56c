"""`medtail cxr-lt score | validate | pack | template | compare | classes`: the CXR-LT challenge, to the digit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from medtail.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medtail.sources.cxr_lt import Edition
    from medtail.tables.results import Results
    from medtail.tables.tail import ClassCounts

app = typer.Typer(
    help="Score, check and pack submissions to the CXR-LT challenge (2023, 2024, 2026).",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

SCORE_EXAMPLE = """Examples:

  medtail cxr-lt score submission.zip --truth test_labeled_task1.csv --edition 2024 --task 1

  medtail cxr-lt score scores.csv --truth labels.csv --split test --edition 2024 --task 2 --out results
"""
VALIDATE_EXAMPLE = "Example:\n\n  medtail cxr-lt validate submission.zip --test test_task1.csv --edition 2024 --task 1"
PACK_EXAMPLE = """Examples:

  medtail cxr-lt pack scores.csv --out submission.zip --test test_task1.csv --code src

  medtail cxr-lt pack predictions.parquet --out submission.zip --test test_task1.csv
"""
TEMPLATE_EXAMPLE = "Example:\n\n  medtail cxr-lt template test_task1.csv --out sample.csv --edition 2024 --task 1"
COMPARE_EXAMPLE = "Example:\n\n  medtail cxr-lt compare ours.zip theirs.csv --truth test_labeled_task2.csv --task 2"
CLASSES_EXAMPLE = "Example:\n\n  medtail cxr-lt classes --edition 2024 --task 2"

EceChoice = Literal["reliability", "leaderboard", "confidence"]
AbsentChoice = Literal["error", "nan", "zero"]

EditionOption = Annotated[str, typer.Option(help="2023, 2024 or 2026; nih14 or nih20 on NIH ChestX-ray14.")]
TaskOption = Annotated[int, typer.Option(help="The edition's task.")]
TruthOption = Annotated[Path, typer.Option(help="Labels of the test set, .csv or .csv.gz, in the challenge's layout.")]
SplitOption = Annotated[str | None, typer.Option(help="Rows of the truth's column 'split' to score.")]
TestOption = Annotated[Path | None, typer.Option(help="CSV of the test set; its ids must all be scored.")]
EceOption = Annotated[EceChoice, typer.Option(help="Reading the row 'ece' shows; both named ones are always printed.")]
AbsentOption = Annotated[
    AbsentChoice, typer.Option(help="Classes without positives: refuse, leave out, or count as 0.")
]
BootstrapOption = Annotated[int, typer.Option(help="Resamples of the patients; 0 for no intervals.", min=0)]
SeedOption = Annotated[int, typer.Option(help="Seed of the resamples.")]
CriticalOption = Annotated[str | None, typer.Option(help="Comma-separated findings that must not be missed.")]
TrainOption = Annotated[Path | None, typer.Option(help="Train CSV to group by, where counts were not published.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


@app.command("score", epilog=SCORE_EXAMPLE)
def score(
    submission: Annotated[Path, typer.Argument(help="Scores, .csv or .zip.", show_default=False)],
    truth: TruthOption,
    edition: EditionOption = "2024",
    task: TaskOption = 1,
    out: Annotated[Path | None, typer.Option("--out", help="New folder for results.csv and the joined table.")] = None,
    split: SplitOption = None,
    ece: EceOption = "reliability",
    absent: AbsentOption = "error",
    bootstrap: BootstrapOption = 1000,
    seed: SeedOption = 0,
    critical: CriticalOption = None,
    thresholds: Annotated[
        Path | None, typer.Option(help="JSON, class to threshold chosen on tune; adds misses at them.")
    ] = None,
    train: TrainOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score a submission: mAP, mAUROC, mF1, mECE in both readings, groups, misses, with patient-level intervals."""
    from medtail.challenges.cxr_lt import judge_submission
    from medtail.challenges.cxr_lt_summary import score_text
    from medtail.runs import new_folder
    from medtail.sources.cxr_lt import edition as edition_table

    tables = edition_table(edition)
    judged = judge_submission(
        truth,
        submission,
        edition=tables,
        task=task,
        ece=ece,
        absent=absent,
        bootstrap=bootstrap,
        seed=seed,
        split=split,
        critical=_names(critical),
        thresholds=_thresholds(thresholds),
        train_counts=_train_counts(train, tables, task),
    )
    if out is not None:
        folder = new_folder(out)
        judged.predictions.write(folder / "predictions.parquet")
        judged.results.write(folder / "results.csv")
    typer.echo(json.dumps(_results_json(judged.results), indent=1) if as_json else score_text(judged.results))
    if out is not None:
        typer.echo(f"\nWritten: {out}/results.csv. Next: medtail report {out} --out report.html", err=True)


@app.command("validate", epilog=VALIDATE_EXAMPLE)
def validate(
    submission: Annotated[Path, typer.Argument(help="Scores, .csv or .zip.", show_default=False)],
    test: TestOption = None,
    edition: EditionOption = "2024",
    task: TaskOption = 1,
    as_json: JsonOption = False,
) -> None:
    """List every fault of a submission at once. Exits with 1 if there is one."""
    from medtail.challenges.cxr_lt_submission import validate_submission
    from medtail.challenges.cxr_lt_truth import read_test_ids

    ids = None if test is None else read_test_ids(test, edition=edition)
    found = validate_submission(submission, edition=edition, task=task, ids=ids)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=1))
    else:
        for line in found.faults:
            typer.echo(line)
        for line in found.warnings:
            typer.echo(f"! {line}")
        count = len(found.faults)
        verdict = "valid" if found.is_valid else f"{count} fault{'s' if count > 1 else ''}"
        unchecked = "" if test is not None else "; ids not checked (give --test)"
        typer.echo(f"{found.name}: {verdict}, {found.rows:,} rows{unchecked}.")
    if not found.is_valid:
        raise typer.Exit(1)


@app.command("pack", epilog=PACK_EXAMPLE)
def pack(
    scores: Annotated[
        Path,
        typer.Argument(help="Scores, .csv, .zip or predictions.parquet, columns in any order.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out", help="The .zip to write.")],
    test: TestOption = None,
    code: Annotated[Path | None, typer.Option(help="Folder to put under code/.")] = None,
    edition: EditionOption = "2024",
    task: TaskOption = 1,
) -> None:
    """Write scores in the platform's form: its columns, order and names, in a zip whose bytes repeat."""
    from medtail.challenges.cxr_lt_truth import read_test_ids
    from medtail.challenges.cxr_lt_writing import pack_submission
    from medtail.runs import new_file

    new_file(out)
    ids = None if test is None else read_test_ids(test, edition=edition)
    for message in pack_submission(scores, out, edition=edition, task=task, ids=ids, code=code):
        typer.echo(f"! {message}", err=True)
    typer.echo(f"Written: {out}", err=True)


@app.command("template", epilog=TEMPLATE_EXAMPLE)
def template(
    test: Annotated[Path, typer.Argument(help="CSV of the test set.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="The .csv or .zip to write.")],
    edition: EditionOption = "2024",
    task: TaskOption = 1,
) -> None:
    """Write a sample submission with .5 everywhere, to be filled."""
    from medtail.challenges.cxr_lt_writing import write_template
    from medtail.runs import new_file

    new_file(out)
    rows = write_template(test, out, edition=edition, task=task)
    typer.echo(f"Written: {out}, {rows:,} rows", err=True)


@app.command("compare", epilog=COMPARE_EXAMPLE)
def compare(
    submissions: Annotated[list[Path], typer.Argument(help="Two or more, .csv or .zip.", show_default=False)],
    truth: TruthOption,
    edition: EditionOption = "2024",
    task: TaskOption = 1,
    split: SplitOption = None,
    ece: EceOption = "reliability",
    absent: AbsentOption = "error",
    bootstrap: Annotated[
        int | None, typer.Option(help="Resamples; as many as the differences need if left out, 0 for none.", min=0)
    ] = None,
    seed: SeedOption = 0,
    critical: CriticalOption = None,
    train: TrainOption = None,
    as_json: JsonOption = False,
) -> None:
    """Rebuild the overview's tables from several submissions, and say which differences are noise."""
    from medtail.challenges.cxr_lt_comparison import compare_submissions
    from medtail.challenges.cxr_lt_summary import comparison_text
    from medtail.sources.cxr_lt import edition as edition_table

    tables = edition_table(edition)
    compared = compare_submissions(
        truth,
        _named(submissions),
        edition=tables,
        task=task,
        ece=ece,
        absent=absent,
        bootstrap=bootstrap,
        seed=seed,
        split=split,
        critical=_names(critical),
        train_counts=_train_counts(train, tables, task),
    )
    if not as_json:
        typer.echo(comparison_text(compared))
        return
    differences = compared.differences
    listed = [] if differences is None else json.loads(differences.differences.to_json(orient="records"))
    record = {
        "tables": [table.to_json() for table in compared.tables],
        "differences": listed,
        "results": {name: _results_json(found) for name, found in compared.results.items()},
        "notes": list(compared.notes),
    }
    typer.echo(json.dumps(record, indent=1))


@app.command("classes", epilog=CLASSES_EXAMPLE)
def classes(edition: EditionOption = "2024", task: TaskOption = 1, as_json: JsonOption = False) -> None:
    """List a task's classes in the order of its submission, with counts, groups and aliases."""
    from medtail.challenges.cxr_lt_summary import classes_text
    from medtail.sources.cxr_lt import edition as edition_table

    tables = edition_table(edition)
    chosen = tables.task(task)
    if not as_json:
        typer.echo(classes_text(tables, task=task))
        return
    groups = None if chosen.unseen else tables.groups(chosen.class_names)
    listed = [
        {
            "class": name,
            "aliases": list(tables.by_name[name].aliases),
            "train": tables.by_name[name].train,
            "development": tables.by_name[name].development,
            "tail_group": groups.group_of[name] if groups else None,
        }
        for name in chosen.class_names
    ]
    typer.echo(json.dumps({"edition": edition, "task": task, "classes": listed}, indent=1))


def _results_json(results: Results) -> dict[str, Any]:
    return {"header": dict(results.header), "results": json.loads(results.frame.to_json(orient="records"))}


def _names(text: str | None) -> Sequence[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _named(paths: Sequence[Path]) -> dict[str, Path]:
    """Name systems by their files; by their paths where files share a name."""
    from medtail.challenges.cxr_lt_truth import file_label

    labels = [file_label(path) for path in paths]
    names = [label if labels.count(label) == 1 else str(path) for label, path in zip(labels, paths, strict=True)]
    if len(set(names)) < len(names):
        raise UsageError("compare: a submission is named twice; give each file once.")
    return dict(zip(names, paths, strict=True))


def _train_counts(train: Path | None, tables: Edition, task: int) -> ClassCounts | None:
    from medtail.challenges.cxr_lt_truth import read_train_counts

    if train is None:
        return None
    return read_train_counts(train, edition=tables, class_names=tables.task(task).class_names)


def _thresholds(path: Path | None) -> dict[str, float] | None:
    from medtail.runs import read_json

    if path is None:
        return None
    record = read_json(path)
    inside = record.get("thresholds", record)
    try:
        return {str(name): float(value) for name, value in dict(inside).items()}
    except (TypeError, ValueError):
        raise UsageError(f"--thresholds {path}: expected a JSON object, class to a number in [0, 1].") from None
