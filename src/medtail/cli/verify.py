"""`medtail verify`: a second opinion on results, from scikit-learn alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from medtail.errors import MedtailError, UsageError

VERIFY_EXAMPLE = """Examples:

  medtail verify results

  medtail verify runs/bus_bra_malignancy
"""


def verify(
    source: Annotated[
        Path, typer.Argument(metavar="RUN_OR_RESULTS", help="A run or a results folder.", show_default=False)
    ],
    tolerance: Annotated[float, typer.Option(help="Largest difference that counts as equal.", min=0.0)] = 1e-9,
    as_json: Annotated[bool, typer.Option("--json", help="Print every check as JSON.")] = False,
) -> None:
    """Recompute stored results with scikit-learn alone and compare. Exits with 1 where something differs."""
    from dataclasses import asdict

    from medtail.judging.verification import is_of_these_predictions, rescore
    from medtail.tables.predictions import read_predictions
    from medtail.tables.results import read_results

    record = []
    is_confirmed = True
    for scored, judged in _pairs(source):
        predictions, results = read_predictions(scored), read_results(judged)
        checks = rescore(predictions, results, tolerance=tolerance)
        differing = [check for check in checks if check.differs]
        others = is_of_these_predictions(predictions, results) is False
        is_confirmed = is_confirmed and not differing and not others
        if as_json:
            values = [{**asdict(check), "differs": check.differs} for check in checks]
            values = [{key: None if value != value else value for key, value in check.items()} for check in values]
            record.append({"results": str(judged), "same_predictions": not others, "checks": values})
            continue
        typer.echo(f"{judged}: {len(checks) - len(differing):,} of {len(checks):,} numbers confirmed by scikit-learn.")
        if others:
            typer.echo(f"! {scored} is not the table that was judged: its digest is another.")
        for check in differing:
            typer.echo(f"! {check.text()}")
    if as_json:
        typer.echo(json.dumps(record, indent=1))
    if not is_confirmed:
        raise typer.Exit(1)


def _pairs(source: Path) -> list[tuple[Path, Path]]:
    """Return (predictions, results) files of a run or a results folder."""
    if (source / "results.csv").is_file():
        scored = [source / name for name in ("predictions.parquet", "predictions.csv")]
        found = next((path for path in scored if path.is_file()), None)
        if found is None:
            raise MedtailError(f"{source}: has results.csv but no predictions.parquet to recompute it from.")
        return [(found, source / "results.csv")]
    judged = sorted((source / "results").glob("*.csv")) if (source / "results").is_dir() else []
    pairs = [(source / f"predictions_{path.stem}.parquet", path) for path in judged]
    missing = [str(scored) for scored, _ in pairs if not scored.is_file()]
    if missing:
        raise MedtailError(f"{source}: has results but not the predictions behind them: {', '.join(missing)}.")
    if not pairs:
        raise UsageError(
            f"{source}: neither a results folder (results.csv, predictions.parquet) nor a run with judged folds"
            f" (results/); judge first with `medtail evaluate` or `medtail report`."
        )
    return pairs
