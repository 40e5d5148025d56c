"""Model folders of ensembles: a model folder a member, and a card that joins them.

    MODEL/card.json      format, the members' folders, the thresholds of their averaged scores, one digest of all
    MODEL/member_0/      an ordinary model folder, and so on

Whoever scores images opens either kind of folder by `load_members`; a single network is an ensemble of one.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medtail.errors import MedtailError, listing
from medtail.models.checkpoint import CARD, ModelCard, calibration_of, load_model, read_card
from medtail.models.diagnoser import Diagnoser
from medtail.models.study_model import IMAGE_MODEL, is_study_model, load_study_model, read_study_card
from medtail.runs import atomic_path, digest_bytes, read_json, write_json

ENSEMBLE_FORMAT = "medtail-ensemble/1"
MEMBER = "member_{}"


def save_ensemble(
    folder: Path | str,
    sources: Sequence[Path],
    *,
    thresholds: Mapping[str, float] | None,
    training: Mapping[str, Any],
) -> ModelCard:
    """Copy model folders into one ensemble folder; it appears whole or not at all.

    Args:
        folder: A folder that does not exist yet.
        sources: Model folders of the members, at least two.
        thresholds: Class → threshold, chosen on the averaged scores of tune; None if not chosen.
        training: Free facts about the training.

    Returns:
        The ensemble's card.

    Raises:
        MedtailError: The folder exists, or the members' classes, pixels or link differ.
    """
    folder = Path(folder)
    if folder.exists():
        raise MedtailError(f"{folder}: exists already; medtail never overwrites a model. Give a new folder.")
    cards = [read_card(source) for source in sources]
    _check_alike(folder, cards)
    value: dict[str, Any] = {
        "format": ENSEMBLE_FORMAT,
        "members": [MEMBER.format(number) for number in range(len(cards))],
        "weights": _joined_digest(cards),
        "thresholds": None if thresholds is None else dict(thresholds),
        "training": dict(training),
    }
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        for name, source in zip(value["members"], sources, strict=True):
            shutil.copytree(source, temporary / name)
        write_json(temporary / CARD, value)
    return read_ensemble_card(folder)


def is_ensemble(folder: Path | str) -> bool:
    """Say whether a model folder holds several members."""
    path = Path(folder) / CARD
    return path.exists() and read_json(path).get("format") == ENSEMBLE_FORMAT


def read_ensemble_card(folder: Path | str) -> ModelCard:
    """Read the card of any kind of model folder: an ensemble's is its first member's, with the ensemble's choices.

    That of a study model is its image model's, with the fusion's choices.

    Raises:
        MedtailError: The folder is damaged, or its members do not belong together.
    """
    folder = Path(folder)
    if is_study_model(folder):
        return read_study_card(folder)
    if not is_ensemble(folder):
        return read_card(folder)
    value = read_json(folder / CARD)
    missing = [key for key in ("members", "weights", "thresholds", "training") if key not in value]
    if missing:
        raise MedtailError(f"{folder / CARD}: lacks {listing([repr(k) for k in missing])}; expected an untouched card.")
    names = [str(name) for name in value["members"]]
    if not names or any(name != MEMBER.format(number) for number, name in enumerate(names)):
        raise MedtailError(f"{folder / CARD}, members: found {listing(names)}; expected member_0, member_1 and so on.")
    cards = [read_card(folder / name) for name in names]
    _check_alike(folder, cards)
    if _joined_digest(cards) != value["weights"]:
        raise MedtailError(
            f"{folder / CARD}: was not written for these members (digests differ). Restore the folder, or train again."
        )
    return replace(
        cards[0],
        thresholds=value["thresholds"],
        digests={**cards[0].digests, "weights": value["weights"]},
        training=value["training"],
    )


def load_members(folder: Path | str) -> tuple[tuple[Diagnoser, ...], ModelCard]:
    """Load every network of a model folder, in eval mode on the CPU. Runs no code from it and fetches nothing.

    Args:
        folder: A model folder of one network or of an ensemble.

    Returns:
        The networks, whose scores are to be averaged, and the card that speaks for all.

    Raises:
        MedtailError: As `checkpoint.load_model`, and where members do not belong together.
    """
    folder = Path(folder)
    if is_study_model(folder):
        raise MedtailError(
            f"{folder}: answers for studies, from all their images; expected a model that answers for an image."
            f" Use the image model in it, {folder / IMAGE_MODEL}, or score studies with `medtail predict`."
        )
    if not is_ensemble(folder):
        diagnoser, card = load_model(folder)
        return (diagnoser,), card
    card = read_ensemble_card(folder)
    # of the averaged scores; a member's own calibration is not applied
    card = replace(card, calibration=calibration_of(folder, card))
    names = read_json(folder / CARD)["members"]
    return tuple(load_model(folder / name)[0] for name in names), card


def check_model(folder: Path | str) -> None:
    """Open a model folder of any kind and close it again.

    Raises:
        MedtailError: It is damaged.
    """
    if is_study_model(folder):
        load_study_model(folder)
    else:
        load_members(folder)


def _joined_digest(cards: Sequence[ModelCard]) -> str:
    return digest_bytes(*(str(card.digests.get("weights")).encode() for card in cards))


def _check_alike(folder: Path, cards: Sequence[ModelCard]) -> None:
    first = cards[0]
    for number, card in enumerate(cards[1:], start=1):
        if card.labels != first.labels:
            raise MedtailError(
                f"{folder}: member {number} has other classes or groups than member 0; expected the same."
            )
        if card.parts.pixels.identity() != first.parts.pixels.identity():
            raise MedtailError(f"{folder}: member {number} expects other pixels than member 0; expected the same.")
