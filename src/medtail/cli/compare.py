"""`medtail compare`: which system is better, on which findings, and which differences are noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medtail.errors import Problems, UsageError, did_you_mean, listing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medtail.judging.comparison import Comparison
    from medtail.tables.manifest import Manifest
    from medtail.tables.predictions import Predictions

ScoreChoice = Literal["probability", "logits", "softmax"]
TailChoice = Literal["auto", "prevalence", "count", "relative", "terciles"]
SchemeChoice = Literal["multinomial", "bayesian"]
SeedChoice = Literal["hierarchical", "fixed"]
EceChoice = Literal["reliability", "equal_mass", "leaderboard", "confidence"]

COMPARE_EXAMPLE = """Examples:

  medtail compare runs/baseline runs/asl --out comparison

  medtail compare ours=a.csv theirs=b.csv --truth manifest.csv --metrics ap --out comparison

  medtail compare asl=runs/asl_0,runs/asl_1,runs/asl_2 bce=runs/bce_0,runs/bce_1,runs/bce_2 --out comparison

  medtail compare asl=runs/asl_cv bce=runs/bce_cv --folds --out comparison
"""


def compare(
    systems: Annotated[
        list[str],
        typer.Argument(
            metavar="SYSTEM...",
            help="Two or more of PATH or NAME=PATH[,PATH...]: a score file, a run folder or a results folder; several"
            " paths are training seeds (or with --folds, folds) of one system.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="New folder for tables, comparison.json and the page.")],
    truth: Annotated[Path | None, typer.Option(help="Manifest with the labels, for scores without them.")] = None,
    fold: Annotated[str | None, typer.Option(help="Compare on this fold; test where there is one.")] = None,
    scores: Annotated[ScoreChoice, typer.Option(help="What the numbers of score files are.")] = "probability",
    metrics: Annotated[str, typer.Option(help="What to compare, by commas; the first leads.")] = "ap,auroc,f1",
    levels: Annotated[str, typer.Option(help="Where, by commas: macro, group (tail groups), class.")] = (
        "macro,group,class"
    ),
    groups: Annotated[TailChoice, typer.Option(help="Tail rule; auto is relative for multi-class.")] = "auto",
    margin: Annotated[
        str | None, typer.Option(help="Largest harmless loss, such as ap=0.02,auroc=0.01: verdict of non-inferiority.")
    ] = None,
    bootstrap: Annotated[
        int | None, typer.Option(help="Resamples of the patients; as many as the questions need if not given.", min=1)
    ] = None,
    scheme: Annotated[
        SchemeChoice, typer.Option(help="How patients are resampled; bayesian never loses a class.")
    ] = "multinomial",
    interval: Annotated[float, typer.Option(help="Level of the intervals; the rest is alpha.")] = 0.95,
    seed: Annotated[int, typer.Option(help="Seed of the resamples.")] = 0,
    seed_draw: Annotated[
        SeedChoice, typer.Option(help="Several training seeds: draw seeds too, or hold these fixed.")
    ] = "hierarchical",
    folds: Annotated[
        bool, typer.Option("--folds", help="Paths of a system are folds: corrected t-test over them.")
    ] = False,
    train_rows: Annotated[
        int | None, typer.Option(help="With --folds: training images of a fold, if the tables do not say.", min=1)
    ] = None,
    ece: Annotated[EceChoice, typer.Option(help="Reading of the calibration error.")] = "reliability",
    partial: Annotated[bool, typer.Option("--partial", help="Accept scores for a part of --truth.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Compare systems on the same images: differences with intervals, corrected p-values, and who is tied with whom."""
    from medtail.judging.comparison import ComparisonConfig
    from medtail.judging.comparison import compare as judge
    from medtail.judging.comparison_words import comparison_text
    from medtail.judging.fold_comparison import compare_folds
    from medtail.reporting.comparison import write_comparison_page
    from medtail.runs import new_folder
    from medtail.tables.manifest import read_manifest

    try:
        config = ComparisonConfig(
            metrics=_words(metrics),
            levels=_words(levels),  # type: ignore[arg-type]
            bootstrap=bootstrap,
            scheme=scheme,
            interval=interval,
            margins=_margins(margin, _words(metrics)),
            seed_draw=seed_draw,
            tail_rule=groups,
            ece_mode=ece,
            seed=seed,
        )
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error
    named = name_systems(systems, folds=folds, fold=fold or "test")
    labels = read_manifest(truth) if truth is not None else None
    tables = _read_all(named, truth=labels, fold=fold, scores=scores, partial=partial)
    if folds:
        comparison = compare_folds(tables, config=config, train_rows=train_rows)
    else:
        comparison = judge(tables, config=config)
    folder = new_folder(out)
    comparison.write(folder)
    write_comparison_page(folder / "comparison.html", comparison)
    typer.echo(as_json_text(comparison) if as_json else comparison_text(comparison))
    typer.echo(f"\nWritten: {folder}/comparison.html, comparison.csv, systems.csv, comparison.json.", err=True)


def as_json_text(comparison: Comparison) -> str:
    """Return header and tables as one JSON object; undefined numbers are null."""
    tables = {"differences": comparison.differences, "systems": comparison.systems, "replicates": comparison.replicates}
    rows = {name: json.loads(table.to_json(orient="records")) for name, table in tables.items()}
    return json.dumps({"header": dict(comparison.header), **rows}, indent=1)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _margins(text: str | None, metrics: Sequence[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for part in _words(text or ""):
        name, separator, value = part.rpartition("=")
        try:
            # a bare number is the margin of the leading metric
            found[name.strip() if separator else metrics[0]] = float(value)
        except ValueError:
            raise UsageError(f"--margin {part!r}: expected METRIC=NUMBER, such as ap=0.02.") from None
    return found


def name_systems(arguments: Sequence[str], *, folds: bool, fold: str) -> dict[str, list[Path]]:
    """Read the SYSTEM arguments: names, and the score file behind every path.

    Args:
        arguments: `PATH` or `NAME=PATH[,PATH...]`.
        folds: Whether a folder may hold one run a fold.
        fold: Which of a run's predictions to take.

    Returns:
        Unique name → score files.

    Raises:
        UsageError: Every path that is missing or holds no predictions, and every name given twice.
    """
    problems = Problems("compare")
    given: list[tuple[str, Path, list[Path]]] = []
    for argument in arguments:
        name, separator, rest = argument.partition("=")
        if Path(argument).exists() or not separator:
            name, rest = "", argument
        paths = [rest] if Path(rest).exists() else [part.strip() for part in rest.split(",") if part.strip()]
        if not paths:
            problems.add(f"{argument!r}: expected NAME=PATH[,PATH...].")
        files = [file for path in paths for file in _score_files(Path(path), folds=folds, fold=fold, problems=problems)]
        given.append((name, Path(paths[0]) if paths else Path(), files))
    if len(arguments) < 2:
        problems.add(f"found {len(arguments)} system; expected two or more, as PATH or NAME=PATH[,PATH...].")
    names = [name for name, _, _ in given if name]
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            problems.add(f"name {name!r}: given {names.count(name)} times; join the paths of one system by commas.")
    problems.raise_if_any(kind=UsageError)
    own = [name or _own_name(path) for name, path, _ in given]
    chosen = _unique(own, [path for _, path, _ in given], names)
    return {name: files for name, (_, _, files) in zip(chosen, given, strict=True)}


def _score_files(path: Path, *, folds: bool, fold: str, problems: Problems) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.exists():
        near = [str(item) for item in path.parent.iterdir()] if path.parent.is_dir() else []
        problems.add(f"{path}: no such file or folder{did_you_mean(str(path), near) or '.'}")
        return []
    found = _in_folder(path, fold)
    if found is not None:
        return [found]
    inside = {item: _in_folder(item, fold) for item in sorted(path.iterdir(), key=_natural) if item.is_dir()}
    nested = [file for file in inside.values() if file is not None]
    if folds and nested:
        return nested
    if nested:
        names = listing([str(item) for item, file in inside.items() if file is not None])
        problems.add(
            f"{path}: holds {len(nested)} runs ({names}); give NAME=PATH,PATH,... for training seeds, or say `--folds`."
        )
    elif (path / "model").is_dir():
        problems.add(
            f"{path}: has no predictions_{fold}.parquet yet; open the fold with `medtail report {path} --out"
            f" report.html`."
        )
    else:
        problems.add(f"{path}: holds neither predictions_{fold}.parquet (a run) nor predictions.parquet (results).")
    return []


def _in_folder(folder: Path, fold: str) -> Path | None:
    for name in (f"predictions_{fold}.parquet", "predictions.parquet"):
        if (folder / name).is_file():
            return folder / name
    return None


def _natural(path: Path) -> tuple[tuple[int, str], ...]:
    """Sort fold_2 before fold_10."""
    import re

    return tuple((int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", path.name) if part)


def _own_place(path: Path) -> Path:
    """Return what a system is named after: its folder, or the score file itself unless it has a run's own name."""
    own = path.resolve()
    return own.parent if own.is_file() and own.stem.split("_")[0] == "predictions" else own


def _own_name(path: Path) -> str:
    place = _own_place(path)
    return place.stem if place.is_file() else place.name


def _unique(names: Sequence[str], paths: Sequence[Path], given: Sequence[str]) -> list[str]:
    """Tell equal names apart by the folder above, and where that does not help, by a number."""
    wanted = list(names)
    for index, name in enumerate(names):
        if list(names).count(name) > 1 and name not in given:
            wanted[index] = f"{_own_place(paths[index]).parent.name}/{name}"
    chosen: list[str] = []
    for name in wanted:
        number, candidate = 2, name
        while candidate in chosen:
            candidate, number = f"{name} ({number})", number + 1
        chosen.append(candidate)
    return chosen


def _read_all(
    named: dict[str, list[Path]],
    *,
    truth: Manifest | None,
    fold: str | None,
    scores: ScoreChoice,
    partial: bool,
) -> dict[str, list[Predictions]]:
    from medtail.tables.predictions import read_predictions

    problems = Problems("compare")
    tables: dict[str, list[Predictions]] = {}
    for name, files in named.items():
        for file in files:
            # what medtail wrote itself holds probabilities, whatever the others hold
            own = file.stem.startswith("predictions") and file.suffix == ".parquet"
            try:
                table = read_predictions(
                    file, truth=truth, fold=fold, scores="probability" if own else scores, partial=partial
                )
            except ValueError as error:
                problems.add(f"{name!r}: {error}")
                continue
            if fold is None and {"test"} < set(table.folds):
                table = table.take(table.folds == "test")
                typer.echo(
                    f"{name}: comparing the {len(table)} images of the test fold (choose with --fold).", err=True
                )
            tables.setdefault(name, []).append(table)
    problems.raise_if_any()
    return tables
