"""`medtail evaluate | report`: scores made by anybody become numbers with intervals, and a page to read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medtail.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from medtail.tables.manifest import Manifest
    from medtail.tables.places import Remote
    from medtail.tables.predictions import Predictions
    from medtail.tables.results import Results

ScoreChoice = Literal["probability", "logits", "softmax"]
TailChoice = Literal["auto", "prevalence", "count", "relative", "terciles"]
SchemeChoice = Literal["multinomial", "bayesian"]
MethodChoice = Literal["percentile", "bca"]
StrataChoice = Literal["rarest"]
AbsentChoice = Literal["nan", "error", "zero"]

EVALUATE_EXAMPLE = """Examples:

  medtail evaluate predictions.parquet --out results

  medtail evaluate anyones_scores.csv --truth manifest.csv --fold test --out results

  medtail evaluate scores.csv --truth manifest.csv --by sex,site --groups count --cuts 500,50 --out results

  medtail evaluate scores.csv --truth manifest.csv --interval-method bca --critical Pneumothorax --out results
"""
REPORT_EXAMPLE = """Examples:

  medtail report runs/bus_bra_malignancy --out report.html

  medtail report results --out report.html

  medtail report results --retargeted elsewhere/retargeted.csv --out report.html
"""


def evaluate(
    scores_file: Annotated[
        Path,
        typer.Argument(metavar="SCORES", help="Scores a class, .csv or .parquet, by any tool.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out", help="New folder for results.csv and what the report needs.")],
    truth: Annotated[Path | None, typer.Option(help="Manifest with the labels, if SCORES has none.")] = None,
    fold: Annotated[str | None, typer.Option(help="Judge only this fold; test where there is one.")] = None,
    scores: Annotated[ScoreChoice, typer.Option(help="What the numbers are.")] = "probability",
    groups: Annotated[TailChoice, typer.Option(help="Tail rule; auto is relative for multi-class.")] = "auto",
    cuts: Annotated[
        str | None, typer.Option(help="Head and tail cut of the rule, such as 0.1,0.01.", show_default=False)
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(help="Also by subgroup: columns of the manifest, such as sex,site.", show_default=False),
    ] = None,
    critical: Annotated[
        str | None, typer.Option(help="Classes not to be missed, with a comma between.", show_default=False)
    ] = None,
    bootstrap: Annotated[int, typer.Option(help="Resamples of the patients; 0 for no intervals.", min=0)] = 1000,
    scheme: Annotated[SchemeChoice, typer.Option(help="How patients are drawn.")] = "multinomial",
    strata: Annotated[
        StrataChoice | None, typer.Option(help="Draw inside strata of the rarest finding.", show_default=False)
    ] = None,
    interval_method: Annotated[MethodChoice, typer.Option(help="bca corrects for bias and skewness.")] = "percentile",
    absent: Annotated[AbsentChoice, typer.Option(help="What a class without positives counts in averages.")] = "nan",
    seed: Annotated[int, typer.Option(help="Seed of the resamples.")] = 0,
    partial: Annotated[bool, typer.Option("--partial", help="Accept scores for a part of the images.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all results as JSON.")] = False,
) -> None:
    """Judge scores: per class and by head, medium and tail, with patient-level intervals."""
    from medtail.judging.evaluation import EvaluationConfig
    from medtail.judging.evaluation import evaluate as judge
    from medtail.judging.summary import summary_text
    from medtail.runs import new_folder
    from medtail.tables.manifest import read_manifest
    from medtail.tables.predictions import read_predictions

    if by is not None and truth is None:
        raise UsageError("--by: needs the manifest that has the columns; give it with --truth.")
    config = EvaluationConfig(
        bootstrap=bootstrap,
        scheme=scheme,
        strata=strata,
        interval_method=interval_method,
        tail_rule=groups,
        tail_cuts=None if cuts is None else _two_cuts(cuts, groups),
        critical=_listed(critical),
        absent=absent,
        seed=seed,
    )
    labels = read_manifest(truth) if truth is not None else None
    predictions = read_predictions(scores_file, truth=labels, fold=fold, scores=scores, partial=partial)
    if fold is None and {"test"} < set(predictions.folds):
        predictions = predictions.take(predictions.folds == "test")
        typer.echo(f"judging the {len(predictions)} images of the test fold (choose with --fold).", err=True)
    columns = None
    if by is not None and labels is not None:
        from medtail.judging.subgroups import columns_from_manifest

        columns = columns_from_manifest(labels, predictions, _listed(by))
    results = judge(predictions, config=config, by=columns)
    folder = new_folder(out)
    predictions.write(folder / "predictions.parquet")
    results.write(folder / "results.csv")
    if as_json:
        rows = json.loads(results.frame.to_json(orient="records"))
        typer.echo(json.dumps({"header": dict(results.header), "results": rows}, indent=1))
        return
    typer.echo(summary_text(results))
    if columns is not None:
        from medtail.judging.fairness_words import fairness_summary

        typer.echo(f"\n{fairness_summary(results)}")
    typer.echo(f"\nWritten: {folder}/results.csv. Next: medtail report {folder} --out report.html", err=True)


def _listed(text: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())


def _two_cuts(text: str, rule: str) -> tuple[float, float]:
    if rule == "terciles":
        raise UsageError("--cuts: the rule 'terciles' takes none; they belong to prevalence, count and relative.")
    try:
        high, low = (float(word) for word in text.split(","))
    except ValueError:
        raise UsageError(f"--cuts {text!r}: expected two numbers, the higher first, such as 0.1,0.01.") from None
    if not high > low > 0:
        raise UsageError(f"--cuts {text!r}: expected the higher cut first and both above 0, such as 0.1,0.01.")
    return high, low


def report(
    source: Annotated[
        Path, typer.Argument(metavar="RUN_OR_RESULTS", help="A run or a results folder.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", help="The HTML file to write.")],
    manifest: Annotated[Path | None, typer.Option(help="Results only: the manifest, for example images.")] = None,
    title: Annotated[str | None, typer.Option(help="Title of the report.")] = None,
    retargeted: Annotated[
        Path | None, typer.Option(help="retargeted.csv of `medtail retarget`, for other prevalences.")
    ] = None,
    explained: Annotated[
        Path | None, typer.Option(help="Folder of `medtail explain` of this run, for its heat maps and their checks.")
    ] = None,
    allow_batch_dependent: Annotated[
        bool, typer.Option("--allow-batch-dependent", help="Accept scores that depend on an image's batch.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Write one self-contained HTML file: what can be concluded about the rare findings, and what cannot."""
    from medtail.runs import new_file
    from medtail.tables.results import read_results

    new_file(out)
    elsewhere = read_results(retargeted) if retargeted is not None else None
    if (source / "model").is_dir():
        from medtail.training.judged import report_run

        report_run(
            source,
            out,
            title=title,
            retargeted=elsewhere,
            explained=explained,
            allow_batch_dependent=allow_batch_dependent,
            quiet=quiet,
        )
    elif explained is not None:
        raise UsageError("--explained: needs a run; a results folder has no model.")
    elif (source / "results.csv").is_file():
        _report_results(source, out, manifest=manifest, title=title, retargeted=elsewhere)
    else:
        raise UsageError(f"{source}: neither a run (model/) nor a results folder (results.csv).")
    typer.echo(f"{out}: written.")


def _report_results(
    source: Path, out: Path, *, manifest: Path | None, title: str | None, retargeted: Results | None
) -> None:
    from medtail.reporting.report import write_report
    from medtail.tables.manifest import read_manifest
    from medtail.tables.predictions import read_predictions
    from medtail.tables.results import read_results

    predictions: Predictions = read_predictions(source / "predictions.parquet")
    table: Manifest | None = read_manifest(manifest) if manifest is not None else None
    decode: Callable[[Path | Remote], np.ndarray] | None = None
    if table is not None:
        from medtail.pixels.decode import read_image

        decode = read_image
    write_report(
        out,
        predictions=predictions,
        results=read_results(source / "results.csv"),
        title=title or f"Results of {source.name}",
        manifest=table,
        read_image=decode,
        retargeted=retargeted,
    )
