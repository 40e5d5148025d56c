"""`medtail retarget`: what the decisions are worth where the findings are as common as the user says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medtail.errors import MedtailError, UsageError

if TYPE_CHECKING:
    import pandas as pd

    from medtail.judging.evaluation import EvaluationConfig
    from medtail.tables.predictions import Predictions
    from medtail.tables.results import Results

RETARGET_EXAMPLE = """Examples:

  medtail retarget results --prevalence prevalence.csv --out at_our_clinic

  medtail retarget runs/bus_bra_malignancy --estimate our_unlabelled_scores.csv
"""


def retarget(
    source: Annotated[
        Path,
        typer.Argument(metavar="RESULTS", help="A folder of medtail evaluate, or a reported run.", show_default=False),
    ],
    prevalence: Annotated[
        Path | None, typer.Option(help="Table: class, prevalence and, where places differ, site.")
    ] = None,
    estimate: Annotated[
        Path | None, typer.Option(metavar="UNLABELLED_SCORES", help="Estimate it from scores without labels.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="New folder for retargeted.csv, decision_curves.csv and the scores.")
    ] = None,
    bootstrap: Annotated[
        int | None, typer.Option(help="Resamples of the patients; as in RESULTS if left out.", min=0)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the resamples; as in RESULTS if left out.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all results as JSON.")] = False,
) -> None:
    """Say what the same decisions mean at another prevalence: predictive values, alarms, missed findings, AP."""
    if prevalence is None and estimate is None:
        raise UsageError("expected --prevalence p.csv (class,prevalence) or --estimate UNLABELLED_SCORES.")
    from medtail.judging.prevalence import estimate_prevalence, read_prevalence, read_unlabelled
    from medtail.judging.retarget import retarget as judge
    from medtail.runs import new_folder

    predictions, config = _judged(source)
    config = replace(
        config,
        bootstrap=config.bootstrap if bootstrap is None else bootstrap,
        seed=config.seed if seed is None else seed,
    )
    sites = read_prevalence(prevalence, predictions=predictions) if prevalence is not None else {}
    estimated = None
    if estimate is not None:
        unlabelled = read_unlabelled(estimate, labels=predictions.labels)
        estimated = estimate_prevalence(unlabelled, labelled=predictions, config=config)
    results = judge(predictions, sites, estimate=estimated, config=config)
    folder = new_folder(out) if out is not None else None
    if folder is not None:
        results.write(folder / "retargeted.csv")
        _write_curves(folder, predictions, results, config)
    if as_json:
        rows = json.loads(results.frame.to_json(orient="records"))
        typer.echo(json.dumps({"header": dict(results.header), "results": rows}, indent=1))
    else:
        typer.echo(retargeted_text(results))
    if folder is not None:
        typer.echo(f"\nWritten: {folder}/retargeted.csv, {folder}/decision_curves.csv.", err=True)


def _judged(source: Path) -> tuple[Predictions, EvaluationConfig]:
    """Return the judged rows with the thresholds they were judged at, and how they were resampled."""
    from medtail.judging.evaluation import EvaluationConfig
    from medtail.tables.predictions import read_predictions
    from medtail.tables.results import read_results

    if (source / "model").is_dir():
        scored, judged = source / "predictions_test.parquet", source / "results" / "test.csv"
        if not scored.exists():
            raise MedtailError(
                f"{source}: its test fold has not been opened. `medtail report {source} --out report.html` does that."
            )
    else:
        scored, judged = source / "predictions.parquet", source / "results.csv"
        if not scored.exists():
            raise UsageError(
                f"{source}: neither a folder of `medtail evaluate` (results.csv, predictions.parquet) nor a run"
                " (model/)."
            )
    predictions, config = read_predictions(scored), EvaluationConfig()
    if not judged.exists():
        return predictions, config
    header = read_results(judged).header
    written = header.get("digests", {}).get("predictions")
    if written is not None and written != predictions.digest:
        raise MedtailError(
            f"{judged}: was made from other scores than {scored.name} beside it. Judge them again with"
            " `medtail evaluate`."
        )
    thresholds = header.get("thresholds", {})
    if thresholds.get("source") not in (None, "fixed 0.5"):
        predictions = replace(predictions, thresholds={str(k): float(v) for k, v in thresholds["values"].items()})
    known = {key: header.get("bootstrap", {}).get(key) for key in ("scheme", "interval", "seed")}
    known["bootstrap"] = header.get("bootstrap", {}).get("resamples")
    return predictions, replace(config, **{key: value for key, value in known.items() if value is not None})


def _write_curves(folder: Path, predictions: Predictions, results: Results, config: EvaluationConfig) -> None:
    """Write decision curves of the moved scores at every site and, where there is one site, the scores."""
    import pandas as pd

    from medtail.judging.net_benefit import decision_curve
    from medtail.judging.prevalence import observed_prevalence
    from medtail.judging.retarget import retarget_predictions
    from medtail.tables.frames import write_table

    here, sites = observed_prevalence(predictions), dict(results.header["prevalence"])
    frozen = {name for name, share in here.items() if not 0.0 < share < 1.0}
    for group in predictions.labels.groups:
        frozen |= set(group.classes) if frozen & set(group.classes) else set()
    curves: list[pd.DataFrame] = []
    for site, shares in sites.items():
        movable = {name: share for name, share in shares.items() if name not in frozen}
        if not movable:
            continue
        moved = retarget_predictions(predictions, prevalence=movable)
        found = decision_curve(moved, classes=list(movable), prevalence=movable, config=config)
        found.insert(0, "site", site)
        curves.append(found)
        if len(sites) == 1:
            digests = {**moved.digests, "retargeted_from": predictions.digest}
            replace(moved, digests=digests).write(folder / "predictions.parquet")
    left = sorted(frozen & {name for shares in sites.values() for name in shares})
    if left:
        typer.echo(
            f"no decision curve for {', '.join(left)}: without positives and negatives here, scores cannot be moved.",
            err=True,
        )
    if curves:
        write_table(folder / "decision_curves.csv", pd.concat(curves, ignore_index=True))


def retargeted_text(results: Results) -> str:
    """Write re-targeted results as plain text for a terminal: a few lines a class and site.

    Args:
        results: From `judging.retarget.retarget`.
    """
    lines: list[str] = []
    for site in results.header["prevalence"]:
        if site:
            lines += [f"== {site}", ""]
        for name in results.header["prevalence"][site]:
            cells = _cells(results, name, site)
            lines += [
                f"{name}: prevalence {cells('prevalence', '.4g')} here -> {cells('target_prevalence', '.4g')} there",
                f"  sensitivity {cells('recall')}, specificity {cells('specificity')}",
                f"  PPV {cells('ppv')}, NPV {cells('npv')}, number needed to evaluate"
                f" {cells('number_needed_to_evaluate', '.1f')}",
                f"  of 1,000: {cells('alarms_per_1000', '.1f')} alarms, {cells('false_alarms_per_1000', '.1f')} of them"
                f" false; {cells('missed_per_1000', '.2f')} missed",
                f"  AP {cells('ap')} here -> {cells('ap_at_prevalence')} there",
                "",
            ]
        macro = _cells(results, "", site)
        lines += [f"mean AP {macro('ap')} here -> {macro('ap_at_prevalence')} there", ""]
    boot = results.header["bootstrap"]
    if boot["resamples"]:
        lines.append(f"{boot['interval']:.0%} intervals from {boot['resamples']:,} resamples of {boot['unit']}s")
    lines.append(f"thresholds: {results.header['thresholds']['source']}; the same images are called here and there")
    return "\n".join([*lines, f"! {results.header['assumption']}", *(f"! {w}" for w in results.header["warnings"])])


def _cells(results: Results, name: str, site: str) -> Any:
    def cell(metric: str, form: str = ".3f") -> str:
        found = results.rows(metric, class_name=name, subgroup=site).iloc[0]
        if found["value"] != found["value"]:
            return "undefined"
        interval = "" if found["low"] != found["low"] else f" [{found['low']:{form}}, {found['high']:{form}}]"
        return f"{found['value']:{form}}{interval}"

    return cell
