"""Asking a trained text-query model for other classes: a run becomes a model folder with another list of classes.

The folder is an ordinary one: predict, evaluate and report do not know that some of its classes were never trained.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from medtail.errors import MedtailError
from medtail.models.checkpoint import ModelCard, read_card, save_model
from medtail.models.diagnoser import Diagnoser
from medtail.models.ensembles import MEMBER, is_ensemble, load_members, read_ensemble_card, save_ensemble
from medtail.models.text_query import TextQueryConfig, TextQueryHead
from medtail.runs import new_folder
from medtail.tables.labels import LabelSpace
from medtail.tables.vectors import TextVectors


def ask(run: Path | str, texts: TextVectors, out: Path | str, *, class_names: Sequence[str]) -> ModelCard:
    """Write a model folder that scores the given classes with the weights of a run.

    A class the run was trained on keeps its stored text and its offset; any other is asked by its text alone. The model
    has no thresholds, and no calibration: those of the run were fitted to other classes.

    Args:
        run: A run folder whose head is `text_query`, or the model folder inside it.
        texts: Vectors of the classes, of the tower that the run was trained with.
        out: A new model folder.
        class_names: The classes to score, in order; trained ones, others, or both.

    Returns:
        The card as written; `training.asked` names the classes that were never trained.

    Raises:
        MedtailError: The run has another head, a class has no text, or the texts are of another tower than the run's.
    """
    run, out = Path(run), Path(out)
    folder = run / "model" if (run / "model").is_dir() else run
    diagnosers, card = load_members(folder)
    config = card.parts.head
    if not isinstance(config, TextQueryConfig):
        raise MedtailError(
            f"{folder}: its head is {config.kind!r}, which knows its classes by number and cannot be asked by text;"
            " expected a model trained with `head: {kind: text_query, texts: FILE}`."
        )
    labels = LabelSpace.from_columns(list(class_names))
    new = [name for name in labels.class_names if name not in card.labels.class_names]
    _check_tower(folder, diagnosers[0], card, texts)
    if new:
        texts.check(new, config.phrases)
    if out.exists():
        new_folder(out).rmdir()  # refuses one that holds something
    members = [_asked(diagnoser, card, texts, labels=labels, new=new) for diagnoser in diagnosers]
    facts = {**card.training, "asked": new, "asked_of": card.digests["weights"], "texts": texts.digest}
    if not is_ensemble(folder):
        return save_model(out, members[0], _card(card, labels, facts))
    names = [MEMBER.format(number) for number in range(len(members))]
    with tempfile.TemporaryDirectory() as place:
        for name, member in zip(names, members, strict=True):
            save_model(Path(place) / name, member, _card(read_card(folder / name), labels, facts))
        save_ensemble(out, [Path(place) / name for name in names], thresholds=None, training=facts)
    return read_ensemble_card(out)


def _asked(
    diagnoser: Diagnoser, card: ModelCard, texts: TextVectors, *, labels: LabelSpace, new: Sequence[str]
) -> Diagnoser:
    head = diagnoser.head
    assert isinstance(head, TextQueryHead), "the card's config says so"
    place = {name: number for number, name in enumerate(card.labels.class_names)}
    own = head.class_texts.numpy()
    rows = [
        own[place[name]] if name in place else texts.means([name], head.config.phrases)[0]
        for name in labels.class_names
    ]
    offset = [0.0 if name in new else float(head.offset[place[name]]) for name in labels.class_names]
    asked = head.asked(np.stack(rows), offset=offset)
    return Diagnoser(diagnoser.backbone, asked, labels=labels, link=card.parts.link, band=diagnoser.band)


def _card(card: ModelCard, labels: LabelSpace, facts: dict[str, object]) -> ModelCard:
    known = set(labels.class_names) <= set(card.labels.class_names)
    counts = card.train_counts.select(labels.class_names) if known and card.train_counts is not None else None
    return replace(card, labels=labels, thresholds=None, train_counts=counts, training=facts, calibration=None)


def _check_tower(folder: Path, diagnoser: Diagnoser, card: ModelCard, texts: TextVectors) -> None:
    """Check width, and on classes that both know that the texts are the tower's of the training."""
    head = diagnoser.head
    assert isinstance(head, TextQueryHead), "the card's config says so"
    if texts.width != head.config.text_width:
        raise MedtailError(
            f"{texts.name}: vectors of length {texts.width}; {folder} was trained with texts of length"
            f" {head.config.text_width}. Embed with the tower of the training."
        )
    known = [name for name in card.labels.class_names if texts.rows(name, head.config.phrases)]
    if not known:
        raise MedtailError(
            f"{texts.name}: has texts of none of the classes {folder} was trained on, so nobody can tell whether they"
            " are of the same tower. Embed the trained classes beside the new ones."
        )
    for name in known:
        stored = head.class_texts[card.labels.index(name)].numpy()
        agreement = float(texts.means([name], head.config.phrases)[0] @ stored)
        if agreement < 0.9:
            raise MedtailError(
                f"{texts.name}, class {name!r}: its vector has cosine {agreement:.2f} with the one {folder} was trained"
                " with; expected nearly 1. Another tower, or other phrases: embed with those of the training."
            )
