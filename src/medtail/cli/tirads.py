"""`medtail tirads`: from descriptors, or a model's twenty scores, to TI-RADS levels and what a guideline advises."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from medtail.errors import MedtailError, UsageError

if TYPE_CHECKING:
    import pandas as pd

    from medtail.lexicons.score_laws import ScoredLaws
    from medtail.lexicons.score_table import ScoredTable

KindChoice = Literal["auto", "readings", "scores"]
MeaningChoice = Literal["probability", "separate"]
ConsistencyChoice = Literal["independent", "conditioned"]

TIRADS_EXAMPLE = """Examples:

  medtail tirads --composition solid --echogenicity hypo --shape wider --margin smooth --foci punctate --size-mm 12

  medtail tirads readings.csv --system all --out graded

  medtail tirads predictions.parquet --sizes labels.csv --consistency conditioned --out laws
"""
DESCRIPTORS = ("composition", "echogenicity", "shape", "margin", "foci")
SHOWN = 10


def tirads(
    table: Annotated[
        Path | None,
        typer.Argument(
            metavar="TABLE", help="Readings, or twenty scores a nodule; .csv or .parquet.", show_default=False
        ),
    ] = None,
    composition: Annotated[
        str | None, typer.Option(help="cystic, spongiform, mixed, solid, undetermined.", show_default=False)
    ] = None,
    echogenicity: Annotated[
        str | None, typer.Option(help="anechoic, hyper, iso, hypo, very_hypo, undetermined.", show_default=False)
    ] = None,
    shape: Annotated[str | None, typer.Option(help="wider, taller.", show_default=False)] = None,
    margin: Annotated[
        str | None, typer.Option(help="smooth, ill_defined, irregular, ete, undetermined.", show_default=False)
    ] = None,
    foci: Annotated[
        str | None, typer.Option(help="none, or some of comet_tail;macro;rim;punctate.", show_default=False)
    ] = None,
    size_mm: Annotated[str | None, typer.Option(help="Largest dimension in mm.", show_default=False)] = None,
    size_cm: Annotated[str | None, typer.Option(help="The same in cm.", show_default=False)] = None,
    rim_extrusion: Annotated[
        bool, typer.Option("--rim-extrusion", help="Tissue beyond an interrupted rim calcification.")
    ] = False,
    system: Annotated[str, typer.Option(help="acr, c, eu, k (with a comma between), or all.")] = "acr",
    kind: Annotated[KindChoice, typer.Option("--as", help="What TABLE holds.")] = "auto",
    scores: Annotated[
        MeaningChoice, typer.Option(help="separate: each score by a sigmoid of its own.")
    ] = "probability",
    consistency: Annotated[
        ConsistencyChoice, typer.Option(help="conditioned: without anechoic solid or mixed nodules.")
    ] = "independent",
    calibrated: Annotated[bool, typer.Option("--calibrated", help="Another tool calibrated the scores.")] = False,
    sizes: Annotated[
        Path | None, typer.Option(help="Table with image_id and size_mm (and labels), for scores.", show_default=False)
    ] = None,
    cystic_stops: Annotated[
        bool, typer.Option("--cystic-stops", help="ACR: cystic nodules stop the count too.")
    ] = False,
    k4_threshold_mm: Annotated[float, typer.Option(help="K-TIRADS 4: needle above this size, 10 to 15.")] = 10.0,
    out: Annotated[Path | None, typer.Option("--out", help="New folder for levels.csv and errors.csv.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Grade thyroid nodules by ACR, C-, EU- or K-TIRADS: one by options, or a table of readings or scores."""
    from medtail.runs import new_folder

    given = {"composition": composition, "echogenicity": echogenicity, "shape": shape, "margin": margin, "foci": foci,
             "size_mm": size_mm, "size_cm": size_cm}  # fmt: skip
    named = [f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None]
    if table is None:
        if not named:
            raise UsageError("tirads: give a TABLE, or the descriptors of one nodule (--composition solid …).")
        if out is not None:
            raise UsageError("--out: one nodule is printed; give a TABLE to write results, or --json.")
        _one(given, rim_extrusion=rim_extrusion, system=system, cystic_stops=cystic_stops,
             k4_threshold_mm=k4_threshold_mm, as_json=as_json)  # fmt: skip
        return
    if named or rim_extrusion:
        raise UsageError(f"tirads: {', '.join(named) or '--rim-extrusion'} describe one nodule; TABLE holds its own.")
    if out is not None:
        new_folder(out)  # refused before the work, not after it
    from medtail.lexicons.systems import check_k4, systems_named
    from medtail.tables.frames import read_table

    systems_named(system)
    check_k4(k4_threshold_mm)
    frame, header = read_table(table, what="table of readings or scores")
    if kind == "auto":
        kind = "scores" if _holds_scores(frame) else "readings"
        typer.echo(f"{table.name}: read as {kind} (choose with --as).", err=True)
    options: dict[str, Any] = {"system": system, "cystic_stops": cystic_stops, "k4_threshold_mm": k4_threshold_mm}
    if kind == "readings":
        if sizes is not None:
            raise UsageError("--sizes: belongs to scores; a table of readings has its own column size_mm.")
        _readings(frame, options, out=out, as_json=as_json)
        return
    is_calibrated = calibrated or "calibration" in header.get("digests", {})
    _scores(frame, {**options, "meaning": scores, "consistency": consistency, "is_calibrated": is_calibrated},
            sizes=sizes, out=out, as_json=as_json)  # fmt: skip


def _one(
    given: dict[str, Any],
    *,
    rim_extrusion: bool,
    system: str,
    cystic_stops: bool,
    k4_threshold_mm: float,
    as_json: bool,
) -> None:
    from medtail.lexicons.descriptors import IncompleteReadingError, expected_values
    from medtail.lexicons.grading import RESEARCH_USE, bounds, grade
    from medtail.lexicons.parsing import parse_reading
    from medtail.lexicons.systems import LEXICONS, check_k4, systems_named
    from medtail.lexicons.wording import READERS_DIFFER, finding_json, finding_text

    systems = systems_named(system)
    check_k4(k4_threshold_mm)
    reading = parse_reading(**given, rim_extrusion=rim_extrusion)
    if reading.missing:
        lines = [f"--{group}: not given; {expected_values(group)}." for group in reading.missing]
        possible = "; ".join(
            f"{LEXICONS[name].title} {bounds(reading, system=name, cystic_stops=cystic_stops).text}" for name in systems
        )
        raise IncompleteReadingError("\n".join([*lines, f"With what is given: {possible}."]))
    options: dict[str, Any] = {"cystic_stops": cystic_stops, "k4_threshold_mm": k4_threshold_mm}
    findings = [grade(reading, system=name, **options) for name in systems]
    if as_json:
        typer.echo(json.dumps([finding_json(finding, **options) for finding in findings], indent=1))
        return
    typer.echo("\n\n".join(finding_text(finding, **options) for finding in findings))
    typer.echo(f"\n{READERS_DIFFER}\n{RESEARCH_USE}")


def _holds_scores(frame: pd.DataFrame) -> bool:
    """Say whether label columns hold anything but 0, 1 and empty cells."""
    from medtail.lexicons.descriptors import LABEL_NAMES
    from medtail.tables.frames import as_text

    labels = [name for name in LABEL_NAMES if name in frame.columns]
    return any(not as_text(frame[name]).isin(["", "0", "1"]).all() for name in labels)


def _readings(frame: pd.DataFrame, options: dict[str, Any], *, out: Path | None, as_json: bool) -> None:
    from medtail.lexicons.grading import RESEARCH_USE
    from medtail.lexicons.score_table import score_table
    from medtail.lexicons.systems import LEXICONS, systems_named

    scored: ScoredTable = score_table(frame, **options)
    if as_json:
        record = {"results": _records(scored.results), "errors": _records(scored.errors), "note": RESEARCH_USE}
        typer.echo(json.dumps(record, indent=1))
    else:
        lines = []
        for name in systems_named(options["system"]):
            rules = LEXICONS[name]
            lines.append(f"{rules.label}: {len(scored.results)} nodules")
            for level in [*rules.names, *([""] if (scored.results[f"{name}_category"] == "").any() else [])]:
                rows = scored.results[scored.results[f"{name}_category"] == level]
                counts = Counter(rows[f"{name}_advice"].astype(str))
                told = ", ".join(
                    f"{count} {action or 'without size'}"
                    for action, count in sorted(counts.items(), key=lambda c: c[0] or "~")
                )
                words = rules.category(level).words if level else "no category"
                lines.append(f"  {level or '-':4} {words:32} {len(rows):6}  {told}".rstrip())
        typer.echo("\n".join([*lines, "", RESEARCH_USE]))
    _write(out, scored.results, scored.errors)
    _finish(len(scored.results), scored.errors)


def _scores(
    frame: pd.DataFrame, options: dict[str, Any], *, sizes: Path | None, out: Path | None, as_json: bool
) -> None:
    from medtail.lexicons.grading import RESEARCH_USE
    from medtail.lexicons.score_laws import score_laws

    known = None if sizes is None else _further(frame, sizes)
    if known is not None and "size_mm" in known.columns:
        frame = frame.assign(size_mm=known["size_mm"].to_numpy())
    scored = score_laws(frame, **options)
    reliability = {name: _reliability(frame, known, scored, name, options) for name in scored.laws}
    if as_json:
        record = {
            "results": _records(scored.results),
            "errors": _records(scored.errors),
            "reliability": {name: None if found is None else {"rows": found[1], "levels": _records(found[0])}
                            for name, found in reliability.items()},
            "warnings": list(scored.warnings),
            "note": RESEARCH_USE,
        }  # fmt: skip
        typer.echo(json.dumps(record, indent=1))
    else:
        for name in scored.laws:
            typer.echo(_law_text(scored, name, reliability[name]))
        typer.echo("\n".join([*(f"! {warning}" for warning in scored.warnings), RESEARCH_USE]))
    _write(out, scored.results, scored.errors)
    _finish(len(scored.results), scored.errors)


def _further(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Return the rows of a second table that belong to the scores' images, in their order."""
    from medtail.errors import listing
    from medtail.tables.frames import as_text, read_table

    table, _ = read_table(path, what="table with sizes")
    for owner, columns in ((path.name, table.columns), ("the table of scores", frame.columns)):
        if "image_id" not in columns:
            raise MedtailError(f"{owner}: has no column 'image_id'; --sizes joins the two tables by it.")
    keyed = table.assign(image_id=as_text(table["image_id"]))
    repeated = sorted(set(keyed["image_id"][keyed["image_id"].duplicated()]))
    if repeated:
        raise MedtailError(f"{path.name}, column 'image_id': {listing(repeated)} in more than one row; expected once.")
    ids = as_text(frame["image_id"])
    missing = sorted(set(ids) - set(keyed["image_id"]))
    if missing:
        typer.echo(f"! {path.name}: {len(missing)} scored images are not in it: {listing(missing)}.", err=True)
    return keyed.set_index("image_id").reindex(ids).fillna("").reset_index()


def _reliability(
    frame: pd.DataFrame, known: pd.DataFrame | None, scored: ScoredLaws, system: Any, options: dict[str, Any]
) -> tuple[pd.DataFrame, str] | None:
    """Compare the law with the labels, where the scores or the second table carry them; None where they do not."""
    import numpy as np

    from medtail.lexicons.descriptors import LABEL_NAMES
    from medtail.lexicons.reliability import level_reliability
    from medtail.lexicons.score_table import score_table
    from medtail.tables.frames import as_text

    targets = [f"target:{name}" for name in LABEL_NAMES]
    if set(targets) <= set(frame.columns):
        source = frame[targets].set_axis(list(LABEL_NAMES), axis=1)
    elif known is not None and set(LABEL_NAMES) <= set(known.columns):
        source = known
    else:
        return None
    good = scored.results["row"].to_numpy() - 2
    where = next((as_text(table["fold"]) for table in (frame, known) if table is not None and "fold" in table), None)
    # what was chosen on the tune fold is judged there only for want of better; the words say which rows it was
    among, told = np.ones(len(good), dtype=bool), "all rows with labels"
    if where is not None and (where == "tune").any():
        among, told = (where == "tune").to_numpy()[good], "the tune fold"
    wanted = [name for name in ("undetermined", "meta_undetermined", *LABEL_NAMES) if name in source.columns]
    truth = score_table(source[wanted].iloc[good], system=system, cystic_stops=options["cystic_stops"])
    names = list(scored.laws[system].categories)
    levels = np.full(len(good), -1)
    for row, category in zip(truth.results["row"], truth.results[f"{system}_category"], strict=True):
        levels[row - 2] = names.index(category) if category else -1
    levels[~among] = -1
    if not (levels >= 0).any():
        return None
    return level_reliability(scored.laws[system], levels), told


def _law_text(scored: ScoredLaws, system: Any, reliability: tuple[pd.DataFrame, str] | None) -> str:
    from medtail.lexicons.systems import LEXICONS

    law, results = scored.laws[system], scored.results
    lines = [f"{LEXICONS[system].label}: {len(law)} nodules, expected shares of levels"]
    lines += [f"  {name:4} {law.probabilities[:, k].mean():6.1%}" for k, name in enumerate(law.categories)]
    if law.undefined.any():
        lines.append(f"  {'-':4} {law.undefined.mean():6.1%}  no category")
    differs = int(results[f"{system}_argmax_differs"].sum())
    lines.append(f"  {differs} of {len(law)} nodules: the likeliest reading has a level that is not the likeliest one.")
    if reliability is None:
        lines.append("  Reliability of the levels: unknown, no labels were given (--sizes takes a table with them).")
    else:
        table, told = reliability
        lines.append(f"  Reliability on {told}: level, predicted and observed share, nodules")
        lines += [
            f"    {row.category:4} {row.predicted:6.1%} {row.observed:6.1%} {row.n:6}" for row in table.itertuples()
        ]
    lines.append("")
    for row in results.head(SHOWN).to_dict("records"):
        name = row.get("image_id") or row.get("nodule_id") or f"row {row['row']}"
        size = "" if row["size_mm"] != row["size_mm"] else f", {row['size_mm']:g} mm"
        called = row[f"{system}_level"] or "no category"
        lines.append(
            f"{name}{size}: {called} {row[f'{system}_p_level']:.0%}; 90 % within {row[f'{system}_run'] or '-'}"
        )
        if size:
            chances = ", ".join(f"{action} {row[f'{system}_p_{action}']:.0%}" for action in ("FNA", "FOLLOW", "NONE"))
            lines.append(f"  advice         {chances}")
        if row[f"{system}_argmax_differs"]:
            lines.append(f"  ! the likeliest reading would be {row[f'{system}_argmax_level'] or 'no category'}")
        lines.append(f"  would change   {row[f'{system}_would_change']}")
    if len(results) > SHOWN:
        lines.append(f"… and {len(results) - SHOWN} more (--out writes them all).")
    return "\n".join([*lines, ""])


def _records(frame: pd.DataFrame) -> Any:
    return json.loads(frame.to_json(orient="records", double_precision=15))


def _write(out: Path | None, results: pd.DataFrame, errors: pd.DataFrame) -> None:
    if out is None:
        return
    from medtail.tables.frames import write_table

    write_table(out / "levels.csv", results)
    write_table(out / "errors.csv", errors)
    typer.echo(f"Written: {out}/levels.csv, {out}/errors.csv", err=True)


def _finish(graded: int, errors: pd.DataFrame) -> None:
    """Name the bad rows; fail only where nothing could be graded."""
    if not len(errors):
        return
    typer.echo(f"{errors['row'].nunique()} rows were left out:", err=True)
    for row in errors.head(SHOWN).to_dict("records"):
        place = f"row {row['row']}" + (f" ({row['id']})" if row["id"] else "")
        typer.echo(f"  {place}{', ' if row['group'] else ''}{row['group']}: {row['message']}", err=True)
    if len(errors) > SHOWN:
        typer.echo(f"  and {len(errors) - SHOWN} more mistakes", err=True)
    if not graded:
        raise MedtailError("tirads: no row could be graded.")
