"""`medtail zero-shot …`: classes nobody has labelled, asked by text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medtail.errors import MedtailError, UsageError

if TYPE_CHECKING:
    from medtail.tables.predictions import Predictions

app = typer.Typer(
    help="Ask a model for classes nobody has labelled, by text.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
ModeChoice = Literal["prompts", "prompts_posneg", "prompts_random", "descriptions"]

PROMPTS_EXAMPLE = "Example:\n\n  medtail zero-shot prompts --phrases chest_xray --classes Bulla,Scoliosis"
EMBED_EXAMPLE = """Examples:

  medtail zero-shot embed --tower minilm --phrases chest_xray --out texts.safetensors

  medtail zero-shot embed --tower models/clip --manifest manifest.csv --out images.safetensors
"""
PREDICT_EXAMPLE = (
    "Example:\n\n  medtail zero-shot predict images.safetensors texts.safetensors manifest.csv --fold test"
    " --classes Bulla,Scoliosis --out predictions.parquet"
)
ASK_EXAMPLE = (
    "Example:\n\n  medtail zero-shot ask runs/seen texts.safetensors --classes Bulla,Scoliosis --out runs/asked\n\n"
    "  medtail predict runs/asked manifest.csv --fold test --out predictions.parquet"
)
NEAREST_EXAMPLE = (
    "Example:\n\n  medtail zero-shot nearest predictions.parquet texts.safetensors --classes Bulla"
    " --out nearest.parquet"
)
JUDGE_EXAMPLE = "Example:\n\n  medtail zero-shot judge predictions.parquet --unseen Bulla,Scoliosis --out results.csv"
WORDING_EXAMPLE = "Example:\n\n  medtail zero-shot wording images.safetensors texts.safetensors --classes Bulla"

ClassesOption = Annotated[str | None, typer.Option(help="Comma-separated classes; all there are if left out.")]
FoldOption = Annotated[str | None, typer.Option(help="Score only this fold.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
ImagesArgument = Annotated[Path, typer.Argument(help="Image vectors, .safetensors.", show_default=False)]
TextsArgument = Annotated[Path, typer.Argument(help="Text vectors, .safetensors.", show_default=False)]


@app.command("prompts", epilog=PROMPTS_EXAMPLE)
def prompts(
    phrases: Annotated[str, typer.Option(help="chest_xray, thyroid_us, breast_us or a .yaml file.")] = "chest_xray",
    classes: ClassesOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what is said of each class, after checking the phrase file."""
    from medtail.zeroshot.prompts import load_phrases

    book = load_phrases(phrases)
    found = book.phrases(_names(classes) or book.class_names)
    if as_json:
        listed = [
            {"class": item.class_name, "kind": item.kind, "keyword": item.keyword, "text": item.text} for item in found
        ]
        typer.echo(json.dumps({"file": book.name, "digest": book.digest, "phrases": listed}, indent=1))
        return
    for name in dict.fromkeys(item.class_name for item in found):
        typer.echo(name)
        for item in (item for item in found if item.class_name == name):
            typer.echo(f"  {item.kind:<12}{item.text}")
    typer.echo(f"\n{book.name}, digest {book.digest[:12]}: {len(found)} phrases.", err=True)


@app.command("embed", epilog=EMBED_EXAMPLE)
def embed(
    tower: Annotated[str, typer.Option(help="minilm, a local folder, or a Hub id.")],
    out: Annotated[Path, typer.Option("--out", help="The .safetensors to write.")],
    phrases: Annotated[
        str | None, typer.Option(help="Texts: chest_xray, thyroid_us, breast_us or a .yaml file.")
    ] = None,
    classes: ClassesOption = None,
    manifest: Annotated[Path | None, typer.Option(help="Images: the manifest to look at.")] = None,
    crop: Annotated[Literal["none", "roi"], typer.Option(help="Of images: whole, or the region of interest.")] = "none",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Turn phrases or images into vectors, once; every mode and every few-shot head starts from these files."""
    if (phrases is None) == (manifest is None):
        raise UsageError("expected either --phrases (texts) or --manifest (images).")
    if manifest is not None and classes is not None:
        raise UsageError("--classes: images are looked at whole; give it with --phrases.")
    from medtail.cli.progress import bar
    from medtail.runs import new_file
    from medtail.tables.manifest import read_manifest
    from medtail.tables.vectors import ImageVectors, TextVectors
    from medtail.zeroshot.embedding import embed_images, embed_texts
    from medtail.zeroshot.guards import tower_caution
    from medtail.zeroshot.prompts import load_phrases
    from medtail.zeroshot.towers import open_tower

    new_file(out)
    made: TextVectors | ImageVectors
    if phrases is not None:
        book = load_phrases(phrases)
        names = _names(classes)
        book.phrases(names or book.class_names)  # a wrong class is told before a tower is opened
        made = embed_texts(open_tower(tower), book, names)
        said = f"{len(made.phrases)} phrases of {len(made.class_names)} classes"
    else:
        assert manifest is not None, "one of the two was given"
        table = read_manifest(manifest)
        with bar("look at images", quiet=quiet) as tick:
            made = embed_images(open_tower(tower), table, crop=crop, progress=tick)
        said = f"{len(made)} images"
    made.write(out)
    typer.echo(f"{out}: {said}, vectors of length {made.width}.")
    typer.echo(tower_caution(made.header), err=True)


@app.command("predict", epilog=PREDICT_EXAMPLE)
def predict(
    images: ImagesArgument,
    texts: TextsArgument,
    manifest: Annotated[Path, typer.Argument(help="The images to score, .csv or .parquet.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="Predictions to write, .parquet or .csv.")],
    mode: Annotated[ModeChoice, typer.Option(help="How what is said becomes a score.")] = "prompts",
    classes: ClassesOption = None,
    fold: FoldOption = None,
    shots: Annotated[int, typer.Option(help="Labelled train images a class to learn from; 0 for none.", min=0)] = 0,
    prior: Annotated[
        Path | None, typer.Option(help="Table class, prevalence: match it without labels, on --reference-fold.")
    ] = None,
    reference_fold: Annotated[
        Literal["train", "tune"], typer.Option(help="Whose scores are moved to the prevalence.")
    ] = "tune",
    seed: Annotated[int, typer.Option(help="Of keyword draws and of the choice of shots.")] = 0,
) -> None:
    """Score images by cosines of vectors; an ordinary table of predictions comes out."""
    from medtail.judging.prevalence import read_prevalence
    from medtail.runs import new_file
    from medtail.tables.manifest import read_manifest
    from medtail.tables.vectors import read_image_vectors, read_text_vectors
    from medtail.zeroshot.fewshot import FewShotConfig, fit_few_shot, predict_few_shot
    from medtail.zeroshot.priors import match_prior
    from medtail.zeroshot.scores import ScoreConfig, predict_zero_shot

    new_file(out)
    if shots and mode != "prompts":
        raise UsageError(f"--shots {shots}: starts from the prompts; expected --mode prompts, found {mode!r}.")
    pictures, words, table = read_image_vectors(images), read_text_vectors(texts), read_manifest(manifest)
    names = _names(classes)
    few = FewShotConfig(shots=shots, seed=seed)
    head = fit_few_shot(pictures, words, table, class_names=names, config=few) if shots else None

    def score(part: str | None) -> Predictions:
        if head is not None:
            return predict_few_shot(head, pictures, words, table, fold=part, config=few)
        config = ScoreConfig(mode=mode, seed=seed)
        return predict_zero_shot(pictures, words, table, class_names=names, fold=part, config=config)

    found = score(fold)
    if prior is not None:
        stated = read_prevalence(prior, predictions=found)
        if list(stated) != [""]:
            raise MedtailError(f"{prior.name}: names sites; expected one prevalence a class.")
        found = match_prior(score(reference_fold), stated[""]).apply(found)
    found.write(out)
    typer.echo(f"{out}: {len(found)} images, {found.labels.num_classes} classes.")
    if head is not None:
        for name, (positives, negatives) in head.short.items():
            typer.echo(f"! {name}: only {positives} images that show it and {negatives} that do not.", err=True)
    typer.echo(f"Next: medtail evaluate {out} --out results", err=True)


@app.command("ask", epilog=ASK_EXAMPLE)
def ask(
    run: Annotated[Path, typer.Argument(help="A run whose head is text_query.", show_default=False)],
    texts: TextsArgument,
    classes: Annotated[str, typer.Option(help="Comma-separated classes to score, trained or not.")],
    out: Annotated[Path, typer.Option("--out", help="New model folder, for `medtail predict`.")],
    manifest: Annotated[
        Path | None, typer.Option(help="The training's manifest, to check that it has no labels of the new classes.")
    ] = None,
    phrases: Annotated[str, typer.Option(help="Phrase file whose aliases are known.")] = "chest_xray",
) -> None:
    """Ask a trained text-query model for other classes; an ordinary model folder comes out."""
    from medtail.models.ensembles import read_ensemble_card
    from medtail.tables.manifest import read_manifest
    from medtail.tables.vectors import read_text_vectors
    from medtail.training.asking import ask as asked
    from medtail.zeroshot.guards import check_unseen
    from medtail.zeroshot.prompts import load_phrases

    folder = run / "model" if (run / "model").is_dir() else run
    trained = read_ensemble_card(folder).labels.class_names
    names = _names(classes) or []
    new = [name for name in names if name not in trained]
    check_unseen(
        new,
        trained=trained,
        manifest=None if manifest is None else read_manifest(manifest),
        book=load_phrases(phrases),
    )
    card = asked(run, read_text_vectors(texts), out, class_names=names)
    typer.echo(f"{out}: scores {card.labels.num_classes} classes, {len(new)} of them never trained.")
    typer.echo(f"Next: medtail predict {out} MANIFEST --fold test --out predictions.parquet", err=True)


@app.command("nearest", epilog=NEAREST_EXAMPLE)
def nearest(
    scores: Annotated[Path, typer.Argument(help="Predictions of trained classes.", show_default=False)],
    texts: TextsArgument,
    classes: Annotated[str, typer.Option(help="Comma-separated classes to score, none of them trained.")],
    out: Annotated[Path, typer.Option("--out", help="Predictions to write, .parquet or .csv.")],
    manifest: Annotated[Path | None, typer.Option(help="Labels of the new classes.")] = None,
) -> None:
    """Score each class by the trained one whose text is nearest: the yardstick of every zero-shot method."""
    from medtail.runs import new_file
    from medtail.tables.manifest import read_manifest
    from medtail.tables.predictions import read_predictions
    from medtail.tables.vectors import read_text_vectors
    from medtail.zeroshot.guards import check_unseen
    from medtail.zeroshot.transfer import nearest_seen, transfer

    new_file(out)
    known, words = read_predictions(scores), read_text_vectors(texts)
    names = _names(classes) or []
    check_unseen(names, trained=known.labels.class_names)
    stands_in = nearest_seen(words, unseen=names, seen=known.labels.class_names)
    found = transfer(known, stands_in, manifest=None if manifest is None else read_manifest(manifest))
    found.write(out)
    for name, other in stands_in.items():
        typer.echo(f"{name}: scored by {other}")
    typer.echo(f"Written: {out}", err=True)


@app.command("judge", epilog=JUDGE_EXAMPLE)
def judge(
    scores: Annotated[Path, typer.Argument(help="Predictions of seen and unseen classes.", show_default=False)],
    unseen: Annotated[str, typer.Option(help="Comma-separated classes without a label in training.")],
    truth: Annotated[Path | None, typer.Option(help="Manifest with labels, if SCORES has none.")] = None,
    fold: Annotated[str | None, typer.Option(help="Judge only this fold.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Results to write, .csv or .parquet.")] = None,
    bootstrap: Annotated[int, typer.Option(help="Resamples of the patients; 0 for no intervals.", min=0)] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the resamples.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Judge seen and unseen classes and their harmonic mean, beside the line of chance."""
    from medtail.judging.generalised import generalised_text, judge_generalised
    from medtail.runs import new_file
    from medtail.tables.manifest import read_manifest
    from medtail.tables.predictions import read_predictions

    if out is not None:
        new_file(out)
    found = read_predictions(scores, truth=None if truth is None else read_manifest(truth), fold=fold)
    results = judge_generalised(found, unseen=_names(unseen) or [], bootstrap=bootstrap, seed=seed)
    if out is not None:
        results.write(out)
    if as_json:
        rows = json.loads(results.frame.to_json(orient="records"))
        typer.echo(json.dumps({"header": dict(results.header), "results": rows}, indent=1))
    else:
        typer.echo(generalised_text(results))
    if out is not None:
        typer.echo(f"\nWritten: {out}", err=True)


@app.command("wording", epilog=WORDING_EXAMPLE)
def wording(
    images: ImagesArgument,
    texts: TextsArgument,
    classes: ClassesOption = None,
    out: Annotated[Path | None, typer.Option("--out", help="All rows, .csv or .parquet.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Drop each prompt in turn and say how much the order of the images changes; needs no labels."""
    from medtail.runs import new_file
    from medtail.tables.frames import write_table
    from medtail.tables.vectors import read_image_vectors, read_text_vectors
    from medtail.zeroshot.influence import phrase_influence

    if out is not None:
        new_file(out)
    table = phrase_influence(read_image_vectors(images), read_text_vectors(texts), class_names=_names(classes))
    if out is not None:
        write_table(out, table)
    if as_json:
        typer.echo(table.to_json(orient="records", indent=1))
    else:
        for row in table.groupby("class", sort=False).head(1).to_dict(orient="records"):
            typer.echo(
                f"{row['class']}: without {row['text']!r} rank correlation {row['rank_correlation']:.3f},"
                f" {row['top_overlap']:.0%} of the top tenth stays"
            )
    if out is not None:
        typer.echo(f"\nWritten: {out}", err=True)


def _names(text: str | None) -> Sequence[str] | None:
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError("--classes: no names; expected some, separated by commas.")
    return names
