"""`medtail data import | check | split | view`: from whatever a hospital has to a checked, split manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medtail.cli import phantom, pseudo
from medtail.cli.progress import bar
from medtail.errors import MedtailError, UsageError

if TYPE_CHECKING:
    import numpy as np

    from medtail.sources.importing import ImportOptions
    from medtail.tables.manifest import Manifest

app = typer.Typer(help="Make, check and split the table of images.", no_args_is_help=True, rich_markup_mode="rich")

IMPORT_EXAMPLE = """Examples:

  medtail data import bus_bra BUSBRA/ --out manifest.csv --test-fold 4

  medtail data import csv my.csv --image-column file --patient-column case --label-column diagnosis --out manifest.csv

  medtail data import folders photos/ --out manifest.csv

  medtail data import cxr_lt cxr-lt-2024/ --images MIMIC-CXR-JPG/ --out manifest.csv

  medtail data import nih_cxr NIH/ --as cxr-lt --out nih14
"""
CHECK_EXAMPLE = "Example:\n\n  medtail data check manifest.csv"
SPLIT_EXAMPLE = """Examples:

  medtail data split manifest.csv --fractions 0.7,0.15,0.15 --out split.csv

  medtail data split manifest.csv --test 0.1 --kfold 10 --out folds

  medtail data split manifest.csv --reward 0.1 --out split.csv
"""
VIEW_EXAMPLE = """Examples:

  medtail data view manifest.csv --one-versus benign --subtypes FTC,MTC,ATC --keep malignant --out view.csv

  medtail data view external.csv --label-map classes.yaml --prefix warsaw- --out external_view.csv

A label map names a class wanted, then the columns it stands for (any of them present is present), on a line each:

  malignant: [ductal, lobular]

  benign: not malignant

  ATC:
"""

ManifestArgument = Annotated[Path, typer.Argument(help="A manifest, .csv or .parquet.", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no log.")]


@app.command("import", epilog=IMPORT_EXAMPLE)
def import_(
    layout: Annotated[str, typer.Argument(help="The layout's name; `medtail data layouts` lists them.")],
    path: Annotated[Path, typer.Argument(help="The folder or file in that layout.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="Manifest to write, .csv or .parquet; a folder with --as.")],
    image_column: Annotated[str | None, typer.Option(help="csv: column with the image file.")] = None,
    patient_column: Annotated[str | None, typer.Option(help="csv: column with the patient.")] = None,
    label_column: Annotated[str | None, typer.Option(help="csv: one column naming the class or classes.")] = None,
    label_columns: Annotated[str | None, typer.Option(help="csv: comma-separated 0/1 columns, one a class.")] = None,
    separator: Annotated[str | None, typer.Option(help="csv: what joins several classes, such as '|'.")] = None,
    negative: Annotated[str | None, typer.Option(help="csv: comma-separated names that mean no class.")] = None,
    keep: Annotated[str | None, typer.Option(help="csv: comma-separated columns to keep as metadata.")] = None,
    images: Annotated[
        str | None, typer.Option(help="csv, nih_cxr, cxr_lt: folder the image files are in; csv: or its URL.")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="dicom: CSV with the labels.")] = None,
    patient_pattern: Annotated[str | None, typer.Option(help="folders: pattern whose group is the patient.")] = None,
    test_fold: Annotated[int | None, typer.Option(help="bus_bra: official fold to hold out as test.")] = None,
    images_out: Annotated[Path | None, typer.Option(help="medmnist: new folder for the images.")] = None,
    class_names: Annotated[str | None, typer.Option(help="medmnist: comma-separated names of classes 0, 1, …")] = None,
    masks_out: Annotated[Path | None, typer.Option(help="ddti: new folder for masks drawn from the polygons.")] = None,
    edition: Annotated[
        str | None, typer.Option(help="cxr_lt: 2023, 2024, 2026, nih14 or nih20; found out if left out.")
    ] = None,
    task: Annotated[int | None, typer.Option(help="cxr_lt: the task whose classes to read; 1 if left out.")] = None,
    written_as: Annotated[
        str | None, typer.Option("--as", help="nih_cxr: cxr-lt writes the challenge's files for tasks 1 to 3.")
    ] = None,
) -> None:
    """Turn a known layout into a manifest: a row an image, a column a class."""
    from medtail.pixels.decode import read_image
    from medtail.runs import new_file
    from medtail.sources.importing import ImportOptions, import_layout

    if written_as is None:
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
        masks_out=masks_out,
        edition=edition,
        task=task,
    )
    if written_as is not None:
        _write_as(written_as, layout, path, out, options)
        return
    manifest = import_layout(layout, path, options=options, read_image=read_image)
    manifest.write(out)
    known = len(set(manifest.patients)) if manifest.has_patients else None
    patients = f"{known} patients" if known is not None else "patients unknown"
    typer.echo(f"{out}: {len(manifest)} images, {patients}, {manifest.labels.num_classes} classes.")
    typer.echo(f"Next: medtail data check {out}", err=True)


def _write_as(form: str, layout: str, path: Path, out: Path, options: ImportOptions) -> None:
    """Write NIH ChestX-ray14 as the files of a CXR-LT edition."""
    from medtail.runs import new_folder
    from medtail.sources.cxr_lt import edition
    from medtail.sources.cxr_lt_writing import NIH20_FILES, as_nih14, read_nih20, write_layout
    from medtail.sources.importing import import_layout

    if form != "cxr-lt" or layout != "nih_cxr":
        raise UsageError(f"data import {layout} --as {form}: expected `data import nih_cxr PATH --as cxr-lt`.")
    new_folder(out)
    if path.is_dir() and (path / NIH20_FILES["train"]).is_file():
        manifest, name = read_nih20(path, images=options.images), "nih20"
    else:
        manifest, name = as_nih14(import_layout(layout, path, options=options)), "nih14"
    written = write_layout(manifest, out, tables=edition(name))
    counts = written.manifest.frame["fold"].value_counts()
    shown = ", ".join(f"{fold} {counts[fold]:,}" for fold in ("train", "tune", "test"))
    typer.echo(f"{out}: NIH ChestX-ray14 as CXR-LT edition {name}: {shown} images, {len(written.files)} files.")
    for message in written.messages:
        typer.echo(message, err=True)
    typer.echo(f"Next: medtail data check {out}/manifest.csv; score with --edition {name}", err=True)


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
    fractions: Annotated[
        str | None, typer.Option(help="Shares of train, tune and test; 0.7,0.15,0.15 if left out.")
    ] = None,
    test: Annotated[
        float | None, typer.Option("--test", help="Take this share of the patients as test, before any other fold.")
    ] = None,
    kfold: Annotated[
        int | None, typer.Option(help="Make K manifests of what is not test; fold k is tune in the k-th.")
    ] = None,
    reward: Annotated[
        float | None, typer.Option(help="Last, take this share of the train images, by patients, as reward.")
    ] = None,
    duplicates: Annotated[
        bool, typer.Option("--duplicates/--no-duplicates", help="Keep near-duplicate images in one fold.")
    ] = True,
    min_positives: Annotated[
        int, typer.Option(help="Positive images wanted of each class in each fold; 0 accepts folds without.", min=0)
    ] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the split.")] = 0,
    quiet: QuietOption = False,
) -> None:
    """Split by patient, balanced over all classes and sites at once. Folds already in the table stay.

    For a study: `--test` takes the test fold first, `--kfold` then makes the folds of a cross-validation. With
    `--test` alone the other rows get no fold yet. `--reward` makes a fold for samplers that learn.
    """
    from medtail.runs import new_file, new_folder, write_json
    from medtail.tables.folds import cross_validation_folds, hold_out_reward, hold_out_test, protocol_record
    from medtail.tables.manifest import read_manifest
    from medtail.tables.splits import split_manifest

    if fractions is not None and (test is not None or kfold is not None):
        raise UsageError("--fractions: shares of train, tune and test; use it without --test and --kfold.")
    if reward is not None and test is not None and kfold is None:
        raise UsageError("--reward: is taken from train, and with --test alone no row is in train yet; add --kfold.")
    shares = _read_fractions(fractions if fractions is not None else "0.7,0.15,0.15")
    table = read_manifest(manifest)
    groups = _duplicate_groups(table, quiet=quiet) if duplicates else None
    messages: tuple[str, ...] = ()
    if test is not None:
        taken = hold_out_test(table, share=test, seed=seed, min_positives=min_positives, duplicate_groups=groups)
        table, messages = taken.manifest, taken.messages
    if kfold is not None:
        parts = cross_validation_folds(
            table, num_folds=kfold, seed=seed, min_positives=min_positives, duplicate_groups=groups
        )
        if reward is not None:
            outcomes = [
                hold_out_reward(part, share=reward, seed=seed, min_positives=min_positives, duplicate_groups=groups)
                for part in parts
            ]
            parts = [outcome.manifest for outcome in outcomes]
            messages = tuple(dict.fromkeys((*messages, *(text for outcome in outcomes for text in outcome.messages))))
        folder = new_folder(out)
        for number, part in enumerate(parts):
            part.write(folder / f"fold{number}.csv")
        record = protocol_record(parts, seed=seed)
        write_json(folder / "folds.json", record)
        typer.echo(f"{folder}: {kfold} manifests, fold0.csv to fold{kfold - 1}.csv; digests in folds.json.")
        if record["test_digest"] is not None:
            size = record["folds"][0]["test"]
            digest = record["test_digest"][:12]
            typer.echo(f"test: {size['images']} images of {size['patients']} patients in all of them, digest {digest}.")
        for message in messages:
            typer.echo(message, err=True)
        return
    new_file(out)
    if test is None:
        outcome = split_manifest(
            table, fractions=shares, seed=seed, min_positives=min_positives, duplicate_groups=groups
        )
        table, messages = outcome.manifest, outcome.messages
        if reward is not None:
            taken = hold_out_reward(
                table, share=reward, seed=seed, min_positives=min_positives, duplicate_groups=groups
            )
            table, messages = taken.manifest, (*messages, *taken.messages)
    table.write(out)
    counts = table.frame["fold"].replace("", "no fold").value_counts()
    names = ("train", "tune", "test", "reward", "no fold")
    shown = ", ".join(f"{fold} {counts[fold]}" for fold in names if fold in counts)
    typer.echo(f"{out}: {shown} images.")
    for message in messages:
        typer.echo(message, err=True)


def _duplicate_groups(table: Manifest, *, quiet: bool) -> np.ndarray:
    from medtail.pixels.decode import read_image
    from medtail.tables.duplicates import near_duplicate_groups

    table.check_files()
    with bar("looking for near-duplicates", quiet=quiet) as tick:
        return near_duplicate_groups(table.image_paths(), read=read_image, progress=tick)


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


@app.command("view", epilog=VIEW_EXAMPLE)
def view(
    manifest: ManifestArgument,
    out: Annotated[Path, typer.Option("--out", help="Manifest to write, .csv or .parquet.")],
    label_map: Annotated[
        Path | None, typer.Option(help="YAML: class wanted, then the columns of this table it stands for.")
    ] = None,
    one_versus: Annotated[
        str | None, typer.Option(help="Class that every subtype is told from; 'not NAME' is a class's absence.")
    ] = None,
    subtypes: Annotated[
        str | None, typer.Option(help="Comma-separated classes to make tasks of; the reference's group if left out.")
    ] = None,
    keep: Annotated[str | None, typer.Option(help="Comma-separated classes to carry along as they are.")] = None,
    site: Annotated[str | None, typer.Option(help="Column to take as the site, such as device.")] = None,
    prefix: Annotated[
        str | None, typer.Option(help="Text to put before every id, where another centre's are the same.")
    ] = None,
    merge_duplicates: Annotated[
        bool, typer.Option("--merge-duplicates", help="Make one patient of those with near-duplicate images.")
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """See the same images otherwise: rare subtypes each against one reference, another centre's classes renamed.

    What the view cannot know is left empty (not assessed), and no metric has a value for a class without positives.
    With both the map comes first.
    """
    from medtail.runs import new_file
    from medtail.tables.folds import merged_patients
    from medtail.tables.manifest import read_manifest
    from medtail.tables.subtypes import (
        class_sizes,
        mapped_labels,
        one_versus_reference,
        read_label_map,
        with_id_prefix,
        with_site,
    )

    if label_map is None and one_versus is None and site is None and prefix is None and not merge_duplicates:
        raise UsageError(
            "data view: nothing to do; give --one-versus REFERENCE, --label-map FILE, --site COLUMN, --prefix TEXT or"
            " --merge-duplicates."
        )
    if one_versus is None and (subtypes is not None or keep is not None):
        raise UsageError("data view: --subtypes and --keep need --one-versus REFERENCE.")
    new_file(out)
    table = read_manifest(manifest)
    if label_map is not None:
        table = mapped_labels(table, read_label_map(label_map))
    if one_versus is not None:
        chosen = None if subtypes is None else _split_names(subtypes)
        table = one_versus_reference(table, reference=one_versus, subtypes=chosen, keep=_split_names(keep))
    if site is not None:
        table = with_site(table, site)
    if prefix is not None:
        table = with_id_prefix(table, prefix)
    if merge_duplicates:
        before = len(set(table.patients))
        table = merged_patients(table, _duplicate_groups(table, quiet=quiet or as_json))
        typer.echo(
            f"patients: {before}, after joining those with near-duplicates {len(set(table.patients))}.", err=True
        )
    table.write(out)
    digest, sizes = read_manifest(out).digest, class_sizes(table)
    if as_json:
        typer.echo(json.dumps({"images": len(table), "digest": digest, "classes": sizes}, indent=1))
    else:
        typer.echo(f"{out}: {len(table)} images, digest {digest[:12]}.")
        for name, size in sizes.items():
            listed = ", ".join(f"{count} {word.replace('_', ' ')}" for word, count in size.items())
            typer.echo(f"{name}: {listed}.")
    for name in [name for name, size in sizes.items() if not size["present"]]:
        typer.echo(f"class {name!r}: no positives here; its metrics will be empty, not a number.", err=True)


app.command("phantom", epilog=phantom.PHANTOM_EXAMPLE)(phantom.phantom)
app.command("pseudo-label", epilog=pseudo.PSEUDO_EXAMPLE)(pseudo.pseudo_label)
