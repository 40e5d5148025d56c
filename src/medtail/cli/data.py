"""`medtail data import | check | split`: from whatever a hospital has to a checked, split manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from medtail.cli.progress import bar
from medtail.errors import MedtailError, UsageError

app = typer.Typer(help="Make, check and split the table of images.", no_args_is_help=True, rich_markup_mode="rich")

IMPORT_EXAMPLE = """Examples:

  medtail data import bus_bra BUSBRA/ --out manifest.csv --test-fold 4

  medtail data import csv my.csv --image-column file --patient-column case --label-column diagnosis --out manifest.csv

  medtail data import folders photos/ --out manifest.csv
"""
CHECK_EXAMPLE = "Example:\n\n  medtail data check manifest.csv"
SPLIT_EXAMPLE = "Example:\n\n  medtail data split manifest.csv --fractions 0.7,0.15,0.15 --out split.csv"

ManifestArgument = Annotated[Path, typer.Argument(help="A manifest, .csv or .parquet.", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no log.")]


@app.command("import", epilog=IMPORT_EXAMPLE)
def import_(
    layout: Annotated[str, typer.Argument(help="The layout's name; `medtail data layouts` lists them.")],
    path: Annotated[Path, typer.Argument(help="The folder or file in that layout.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="Manifest to write, .csv or .parquet.")],
    image_column: Annotated[str | None, typer.Option(help="csv: column with the image file.")] = None,
    patient_column: Annotated[str | None, typer.Option(help="csv: column with the patient.")] = None,
    label_column: Annotated[str | None, typer.Option(help="csv: one column naming the class or classes.")] = None,
    label_columns: Annotated[str | None, typer.Option(help="csv: comma-separated 0/1 columns, one a class.")] = None,
    separator: Annotated[str | None, typer.Option(help="csv: what joins several classes, such as '|'.")] = None,
    negative: Annotated[str | None, typer.Option(help="csv: comma-separated names that mean no class.")] = None,
    keep: Annotated[str | None, typer.Option(help="csv: comma-separated columns to keep as metadata.")] = None,
    images: Annotated[Path | None, typer.Option(help="csv, nih_cxr: folder the image files are in.")] = None,
    labels: Annotated[Path | None, typer.Option(help="dicom: CSV with the labels.")] = None,
    patient_pattern: Annotated[str | None, typer.Option(help="folders: pattern whose group is the patient.")] = None,
    test_fold: Annotated[int | None, typer.Option(help="bus_bra: official fold to hold out as test.")] = None,
    images_out: Annotated[Path | None, typer.Option(help="medmnist: new folder for the images.")] = None,
    class_names: Annotated[str | None, typer.Option(help="medmnist: comma-separated names of classes 0, 1, …")] = None,
) -> None:
    """Turn a known layout into a manifest: a row an image, a column a class."""
    from medtail.pixels.decode import read_image
    from medtail.runs import new_file
    from medtail.sources.importing import ImportOptions, import_layout

    new_file(out)
    options = ImportOptions(
        image_column=image_column,
        patient_column=patient_column,
        label_column=label_column,
        label_columns=_split_names(label_columns),
        separator=separator,
        negative=_split_names(negative),
        keep=_split_names(keep),
        images=images,
        labels=labels,
        patient_pattern=patient_pattern,
        test_fold=test_fold,
        images_out=images_out,
        class_names=_split_names(class_names),
    )
    manifest = import_layout(layout, path, options=options, read_image=read_image)
    manifest.write(out)
    known = len(set(manifest.patients)) if manifest.has_patients else None
    patients = f"{known} patients" if known is not None else "patients unknown"
    typer.echo(f"{out}: {len(manifest)} images, {patients}, {manifest.labels.num_classes} classes.")
    typer.echo(f"Next: medtail data check {out}", err=True)


def _split_names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip()) if text else ()


@app.command("layouts", epilog="Example:\n\n  medtail data layouts")
def layouts() -> None:
    """List the layouts that `import` knows."""
    from medtail.sources.importing import LAYOUTS

    for name, description in LAYOUTS.items():
        typer.echo(f"{name:12} {description}")


@app.command("check", epilog=CHECK_EXAMPLE)
def check(
    manifest: ManifestArgument,
    images: Annotated[bool, typer.Option("--images/--no-images", help="Open every image too.")] = True,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Find what would spoil a study: leaks, duplicates, contradictions, hopeless classes, broken files.

    Exits with 1 when something found would invalidate results.
    """
    from medtail.pixels.decode import read_image
    from medtail.tables.audit import audit_manifest
    from medtail.tables.manifest import read_manifest

    table = read_manifest(manifest)
    with bar("checking images", quiet=quiet or as_json) as tick:
        audit = audit_manifest(table, read=read_image, check_images=images, progress=tick)
    typer.echo(json.dumps(audit.to_json(), indent=1) if as_json else audit.text())
    if audit.invalidates:
        raise typer.Exit(1)


@app.command("split", epilog=SPLIT_EXAMPLE)
def split(
    manifest: ManifestArgument,
    out: Annotated[Path, typer.Option("--out", help="Manifest with folds to write; with --kfold, a new folder.")],
    fractions: Annotated[str, typer.Option(help="Shares of train, tune and test.")] = "0.7,0.15,0.15",
    kfold: Annotated[int | None, typer.Option(help="Make K manifests instead; fold k is tune in the k-th.")] = None,
    duplicates: Annotated[
        bool, typer.Option("--duplicates/--no-duplicates", help="Keep near-duplicate images in one fold.")
    ] = True,
    min_positives: Annotated[
        int, typer.Option(help="Positive images wanted of each class in each fold; 0 accepts folds without.", min=0)
    ] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the split.")] = 0,
    quiet: QuietOption = False,
) -> None:
    """Split by patient, balanced over all classes at once. Folds already in the table stay."""
    from medtail.runs import new_file, new_folder
    from medtail.tables.manifest import read_manifest
    from medtail.tables.splits import kfold_manifests, split_manifest

    table = read_manifest(manifest)
    groups = None
    if duplicates:
        from medtail.pixels.decode import read_image
        from medtail.tables.duplicates import near_duplicate_groups

        table.check_files()
        with bar("looking for near-duplicates", quiet=quiet) as tick:
            groups = near_duplicate_groups(table.image_paths(), read=read_image, progress=tick)
    if kfold is not None:
        parts = kfold_manifests(table, folds=kfold, seed=seed, min_positives=min_positives, duplicate_groups=groups)
        folder = new_folder(out)
        for number, part in enumerate(parts):
            part.write(folder / f"fold{number}.csv")
        typer.echo(f"{folder}: {kfold} manifests, fold0.csv to fold{kfold - 1}.csv.")
        return
    new_file(out)
    outcome = split_manifest(
        table,
        fractions=_read_fractions(fractions),
        seed=seed,
        min_positives=min_positives,
        duplicate_groups=groups,
    )
    outcome.manifest.write(out)
    counts = outcome.manifest.frame.groupby("fold", sort=False).size()
    shown = ", ".join(f"{fold} {counts[fold]}" for fold in ("train", "tune", "test", "reward") if fold in counts)
    typer.echo(f"{out}: {shown} images.")
    for message in outcome.messages:
        typer.echo(message, err=True)


def _read_fractions(text: str) -> dict[str, float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--fractions {text!r}: expected three numbers, such as 0.7,0.15,0.15") from None
    if len(values) != 3 or min(values) < 0 or not 0.999 < sum(values) < 1.001:
        raise UsageError(f"--fractions {text!r}: expected train,tune,test shares that sum to 1, such as 0.7,0.15,0.15")
    if values[0] <= 0:
        raise MedtailError("--fractions: the train fold needs a share above 0")
    return dict(zip(("train", "tune", "test"), values, strict=True))
