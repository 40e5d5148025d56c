"""Model folders that answer for studies: an ordinary image model, and the transformer that reads its maps together.

    MODEL/card.json            format, the fusion's config, thresholds of the fused scores, one digest of all
    MODEL/fusion.safetensors   its weights
    MODEL/image_model/         an ordinary model folder, which can be used by itself

Whoever wants a score an image opens `image_model`; `training.predict` gives each image the score of its study.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from torch import Tensor, nn

from medtail.config import CLOSED, build_config, config_to_dict
from medtail.errors import MedtailError, UsageError, listing
from medtail.losses.contract import Link
from medtail.models.checkpoint import CARD, ModelCard, calibration_of, fill, load_model, read_card, to_safetensors
from medtail.models.diagnoser import Diagnoser, link_scores
from medtail.models.study_fusion import FusionConfig, StudyFusion
from medtail.runs import atomic_path, digest_bytes, read_json, write_json
from medtail.tables.tail import ClassCounts

STUDY_FORMAT = "medtail-study-model/1"
FUSION, IMAGE_MODEL = "fusion.safetensors", "image_model"


@final
class StudyDiagnoser(nn.Module):
    """The images of a study to one score a class.

    A study gets the same scores alone and in any batch (to rounding), in whatever order its images come.

    Args:
        image_model: Its backbone makes the maps; its head is not asked.
        fusion: Reads the maps of a study.
        link: How the fusion's logits become scores.
    """

    def __init__(self, image_model: Diagnoser, fusion: StudyFusion, *, link: Link) -> None:
        super().__init__()
        self.image_model = image_model
        self.fusion = fusion
        self.link: Link = link
        self.labels = image_model.labels

    def maps(self, images: Tensor, content: Tensor | None = None) -> Tensor:
        """Return feature maps [N, D, h, w] of images in [0, 1] and their content; see `Diagnoser.inputs`."""
        found: Tensor = self.image_model.backbone(self.image_model.inputs(images, content))
        return found

    def forward(self, maps: Tensor, kinds: Tensor, is_there: Tensor) -> Tensor:
        """Return logits [B, C]; see `StudyFusion.answer`."""
        logits: Tensor = self.fusion(maps, kinds, is_there)
        return logits

    def scores(self, maps: Tensor, kinds: Tensor, is_there: Tensor) -> Tensor:
        """Return scores [B, C] in [0, 1], float32; those of a softmax group add up to 1."""
        return link_scores(self(maps, kinds, is_there), labels=self.labels, link=self.link)


@final
@dataclass(frozen=True, kw_only=True)
class _FusionPart:
    """What a card says of the fusion."""

    __pydantic_config__: ClassVar[Any] = CLOSED
    fusion: FusionConfig
    link: Link


def save_study_model(folder: Path | str, model: StudyDiagnoser, card: ModelCard, *, image_model: Path) -> ModelCard:
    """Write a study model's folder; it appears whole or not at all.

    Args:
        folder: A folder that does not exist yet.
        model: The model; its image model is that of `image_model`.
        card: What is known of the whole; digests and the network's parts are filled in.
        image_model: The image model's folder, which is copied.

    Returns:
        The card as written.

    Raises:
        MedtailError: The folder exists, or cannot be written.
    """
    folder = Path(folder)
    if folder.exists():
        raise MedtailError(f"{folder}: exists already; medtail never overwrites a model. Give a new folder.")
    content = to_safetensors(model.fusion.state_dict())
    weights = hashlib.sha256(content).hexdigest()
    value: dict[str, Any] = {
        "format": STUDY_FORMAT,
        **config_to_dict(_FusionPart(fusion=model.fusion.config, link=model.link)),
        "fusion_weights": weights,
        "digests": {**card.digests, "weights": _joined(read_card(image_model), weights)},
        "train_counts": None if card.train_counts is None else card.train_counts.to_json(),
        "thresholds": None if card.thresholds is None else dict(card.thresholds),
        "seed": card.seed,
        "training": dict(card.training),
    }
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        shutil.copytree(image_model, temporary / IMAGE_MODEL, ignore=shutil.ignore_patterns("calibration*.json"))
        (temporary / FUSION).write_bytes(content)
        write_json(temporary / CARD, value)
    return read_study_card(folder)


def is_study_model(folder: Path | str) -> bool:
    """Say whether a model folder answers for studies."""
    path = Path(folder) / CARD
    return path.exists() and read_json(path).get("format") == STUDY_FORMAT


def read_study_card(folder: Path | str) -> ModelCard:
    """Read the card of a study model: its image model's, with the fusion's link, thresholds and digests.

    Raises:
        MedtailError: The folder is damaged, or its parts do not belong together.
    """
    folder = Path(folder)
    value = read_json(folder / CARD)
    needed = ("fusion", "link", "fusion_weights", "digests", "thresholds", "train_counts", "training")
    missing = [key for key in (*needed, "seed") if key not in value]
    if missing:
        raise MedtailError(f"{folder / CARD}: lacks {listing([repr(k) for k in missing])}; expected an untouched card.")
    image_card = read_card(folder / IMAGE_MODEL)
    if _joined(image_card, str(value["fusion_weights"])) != value["digests"].get("weights"):
        raise MedtailError(
            f"{folder / CARD}: was not written for these weights (digests differ). Restore the folder, or train again."
        )
    part = _part(folder, value)
    counts = value["train_counts"]
    if counts is not None:  # JSON keeps no order of keys; the counts follow the classes
        counts = ClassCounts.from_json({name: counts.get(name) for name in image_card.labels.class_names})
    return replace(
        image_card,
        parts=replace(image_card.parts, link=part.link),
        thresholds=value["thresholds"],
        train_counts=counts,
        digests=value["digests"],
        seed=int(value["seed"]),
        training=value["training"],
    )


def load_study_model(folder: Path | str) -> tuple[StudyDiagnoser, ModelCard]:
    """Load a study model in eval mode, on the CPU. Runs no code from it and fetches nothing.

    Args:
        folder: See the module.

    Returns:
        The model and its card, a calibration of the fused scores in it.

    Raises:
        MedtailError: Files are missing or damaged, or do not belong together.
    """
    folder = Path(folder)
    card = read_study_card(folder)
    value = read_json(folder / CARD)
    path = folder / FUSION
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MedtailError(f"{path}: cannot be read ({error.strerror or error}); a study model holds it.") from error
    found = hashlib.sha256(content).hexdigest()
    if found != value["fusion_weights"]:
        raise MedtailError(
            f"{path}: is not the file the card was written for (digest {found[:12]}, the card says"
            f" {str(value['fusion_weights'])[:12]}). Restore the folder, or train again."
        )
    try:
        tensors: Mapping[str, Tensor] = parse_safetensors(content)
    except SafetensorError as error:
        raise MedtailError(
            f"{path}: is not a safetensors file ({error}). Other formats can run code and are never opened."
        ) from error
    image_model, _ = load_model(folder / IMAGE_MODEL)
    part = _part(folder, value)
    with torch.random.fork_rng(devices=[]):  # initial weights that are replaced at once
        fusion = StudyFusion(image_model.backbone.feature_dim, card.labels.num_classes, config=part.fusion)
    fill(fusion, tensors, where=str(path))
    model = StudyDiagnoser(image_model, fusion, link=part.link).eval()
    return model, replace(card, calibration=calibration_of(folder, card))


def _part(folder: Path, value: Mapping[str, Any]) -> _FusionPart:
    try:
        return build_config(_FusionPart, {"fusion": value["fusion"], "link": value["link"]}, where=str(folder / CARD))
    except UsageError as error:  # a damaged file is no misuse of the command line
        raise MedtailError(str(error)) from error


def _joined(image_card: ModelCard, fusion_weights: str) -> str:
    return digest_bytes(str(image_card.digests.get("weights")).encode(), fusion_weights.encode())
