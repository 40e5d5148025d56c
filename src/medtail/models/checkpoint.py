"""Model folders: `model.safetensors`, the weights, and `card.json`, all that is needed to use them.

`medtail calibrate` may add `calibration.json`, which belongs to these very weights and is applied to their scores.

Nothing is ever unpickled, so a model from a stranger cannot run code; nothing is fetched, so an old model loads on
a machine without internet. What does not match is refused with every difference named.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as format_safetensors
from torch import Tensor, nn

from medtail.config import CLOSED, build_config, config_to_dict
from medtail.errors import MedtailError, Problems, UsageError, did_you_mean, listing
from medtail.judging.calibration_record import CALIBRATION, CalibrationMap, read_calibration
from medtail.losses.contract import Link
from medtail.models.backbones import BackboneConfig
from medtail.models.diagnoser import Diagnoser, build_diagnoser
from medtail.models.heads import HeadConfig
from medtail.pixels.frequency import BandConfig
from medtail.pixels.settings import PixelConfig
from medtail.runs import atomic_path, read_json, versions, write_json
from medtail.tables.labels import LabelSpace
from medtail.tables.manifest import Manifest
from medtail.tables.selection import match_classes
from medtail.tables.tail import ClassCounts

FORMAT = "medtail-model/1"
WEIGHTS, CARD = "model.safetensors", "card.json"
NEEDED = ("labels", "parts", "digests", "seed")
KINDS: Mapping[str, type] = {
    "labels": dict, "parts": dict, "thresholds": dict, "train_counts": dict, "digests": dict, "seed": int,
    "architecture": dict, "versions": dict, "note": str, "training": dict,
}  # fmt: skip
"""What a card holds under each key; those of `NEEDED` are always there."""
RESEARCH_NOTE = "For research use only. Not a medical device; not for diagnosis or treatment of patients."


@final
@dataclass(frozen=True, kw_only=True)
class ModelParts:
    """What the network is made of: the part of the card that rebuilds it.

    Attributes:
        pixels: How images must be prepared.
        backbone: The backbone's config.
        head: The head's config.
        link: How logits become scores.
        band: Which frequencies the backbone sees; none in cards from before there was one.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    pixels: PixelConfig
    backbone: BackboneConfig
    head: HeadConfig
    link: Link
    band: BandConfig = field(default_factory=BandConfig)


@final
@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What is known of a model besides its weights.

    Attributes:
        labels: Classes in the order of the logits, and exclusive groups.
        parts: What the network is made of.
        thresholds: Class → threshold chosen on tune; None if never chosen.
        train_counts: Images and patients of each class in the train fold.
        digests: `weights` (set when saved), `manifest`, `config`: SHA-256 in hexadecimal.
        seed: The run's seed.
        architecture: The network's shape where the config alone does not say it.
        versions: medtail, Python and the libraries the model was made with.
        note: What the model may be used for.
        training: Free facts about the training: best epoch, tune mAP, and the like.
        calibration: Fitted on tune, from `calibration.json`; not part of `card.json`. None if there is none.
    """

    labels: LabelSpace
    parts: ModelParts
    thresholds: Mapping[str, float] | None = None
    train_counts: ClassCounts | None = None
    digests: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    architecture: Mapping[str, Any] | None = None
    versions: Mapping[str, str] = field(default_factory=versions)
    note: str = RESEARCH_NOTE
    training: Mapping[str, Any] = field(default_factory=dict)
    calibration: CalibrationMap | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the content of `card.json`."""
        return {
            "format": FORMAT,
            "labels": self.labels.to_json(),
            "parts": config_to_dict(self.parts),
            "thresholds": None if self.thresholds is None else dict(self.thresholds),
            "train_counts": None if self.train_counts is None else self.train_counts.to_json(),
            "digests": dict(self.digests),
            "seed": self.seed,
            "architecture": None if self.architecture is None else dict(self.architecture),
            "versions": dict(self.versions),
            "note": self.note,
            "training": dict(self.training),
        }

    def check_manifest(self, manifest: Manifest) -> Manifest:
        """Return the manifest with the model's classes in the model's order; further classes are left out.

        Raises:
            MedtailError: The manifest lacks classes of the model; all are named.
        """
        return match_classes(manifest, self.labels)

    def check_pixels(self, pixels: PixelConfig) -> None:
        """Check that images were prepared as the model expects.

        Raises:
            MedtailError: They were not; every differing setting is named.
        """
        ours, theirs = self.parts.pixels.identity(), pixels.identity()
        problems = Problems("pixels")
        for name in sorted(ours.keys() | theirs.keys()):
            if ours.get(name) != theirs.get(name):
                problems.add(
                    f"{name}: found {theirs.get(name)!r}; expected {ours.get(name)!r}, as the model's card says."
                )
        problems.raise_if_any()


def save_model(folder: Path | str, diagnoser: Diagnoser, card: ModelCard) -> ModelCard:
    """Write a model folder; it appears whole or not at all.

    Args:
        folder: A folder that does not exist yet.
        diagnoser: The model.
        card: Its card; the weights' digest and the architecture are filled in.

    Returns:
        The card as written.

    Raises:
        MedtailError: The folder exists, or cannot be written.
    """
    folder = Path(folder)
    if folder.exists():
        raise MedtailError(f"{folder}: exists already; medtail never overwrites a model. Give a new folder.")
    content = to_safetensors(diagnoser.state_dict())
    card = replace(
        card,
        digests={**card.digests, "weights": hashlib.sha256(content).hexdigest()},
        architecture=diagnoser.backbone.architecture,
    )
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        (temporary / WEIGHTS).write_bytes(content)
        write_json(temporary / CARD, card.to_json())
    return card


def to_safetensors(tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None) -> bytes:
    """Return tensors as the bytes of a safetensors file; equal tensors give equal bytes, whatever their layout."""
    plain = {name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)}
    return bytes(format_safetensors(plain, metadata=None if metadata is None else dict(metadata)))


def load_model(folder: Path | str) -> tuple[Diagnoser, ModelCard]:
    """Load a model folder in eval mode, on the CPU. Runs no code from it and fetches nothing.

    Args:
        folder: Holds `model.safetensors` and `card.json`, and `calibration.json` where it was calibrated.

    Returns:
        The model and its card, the calibration in it.

    Raises:
        MedtailError: Files are missing, are of another format, or weights, card and calibration do not belong
            together.
    """
    folder = Path(folder)
    card = read_card(folder)
    path = folder / WEIGHTS
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MedtailError(f"{path}: cannot be read ({error.strerror or error}); a model folder holds it.") from error
    found = hashlib.sha256(content).hexdigest()
    if found != card.digests.get("weights"):
        expected = str(card.digests.get("weights"))[:12]
        raise MedtailError(
            f"{path}: is not the file the card was written for (digest {found[:12]}, the card says {expected})."
            " Restore the folder, or train again."
        )
    try:
        tensors = parse_safetensors(content)
    except SafetensorError as error:
        raise MedtailError(
            f"{path}: is not a safetensors file ({error}). Other formats can run code and are never opened."
        ) from error
    with torch.random.fork_rng(devices=[]):  # building draws initial weights that are replaced at once
        diagnoser = build_diagnoser(
            backbone=card.parts.backbone,
            head=card.parts.head,
            labels=card.labels,
            link=card.parts.link,
            channels=card.parts.pixels.channels,
            size_px=card.parts.pixels.size_px,
            band=card.parts.band,
            architecture=card.architecture,
            load_weights=False,
        )
    fill(diagnoser, tensors, where=str(path))
    return diagnoser.eval(), replace(card, calibration=calibration_of(folder, card))


def calibration_of(folder: Path | str, card: ModelCard) -> CalibrationMap | None:
    """Read the calibration beside a model, and check that it is that model's; None where there is none.

    Raises:
        MedtailError: It is damaged, or belongs to other weights or classes.
    """
    path = Path(folder) / CALIBRATION
    if not path.exists():
        return None
    calibration = read_calibration(path)
    if calibration.model != card.digests["weights"]:
        found = "no model" if calibration.model is None else f"weights {calibration.model[:12]}"
        raise MedtailError(
            f"{path}: was fitted for {found}, not for these (digest {card.digests['weights'][:12]}). Remove it, or"
            " fit it again with `medtail calibrate RUN --fit tune --replace`."
        )
    calibration.check_labels(card.labels, where=str(path))
    return calibration


def fill(model: nn.Module, tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Copy tensors into a model of the same shape.

    Raises:
        MedtailError: Missing, unknown or differently shaped tensors, or such as hold NaN or infinity; all are named.
    """
    own = model.state_dict()
    problems = Problems(where)
    for name, tensor in own.items():
        if name not in tensors:
            problems.add(f"tensor {name!r}: missing; expected shape {list(tensor.shape)}.")
        elif tensors[name].shape != tensor.shape:
            problems.add(
                f"tensor {name!r}: found shape {list(tensors[name].shape)}; expected {list(tensor.shape)}, as the"
                " card describes the network."
            )
        elif bad := int((~torch.isfinite(tensors[name])).sum()):
            problems.add(
                f"tensor {name!r}: {bad} of {tensor.numel()} values are NaN or infinite; expected numbers. Restore the"
                " file, or train again."
            )
    for name in tensors:
        if name not in own:
            problems.add(f"tensor {name!r}: the network has no such tensor{did_you_mean(name, own)}.")
    problems.raise_if_any()
    model.load_state_dict(dict(tensors))


def _check_kinds(card: Mapping[str, Any], *, where: str) -> None:
    """Note values of a kind that no card holds, before any of them is used."""
    problems = Problems(where)
    for key, kind in KINDS.items():
        found = card.get(key)
        if (found is not None or (key in card and key in NEEDED)) and (not isinstance(found, kind) or found is True):
            problems.add(f"{key}: found {type(found).__name__}; expected an untouched model card.")
    thresholds = card.get("thresholds")
    if isinstance(thresholds, dict):
        for name, number in thresholds.items():
            if not isinstance(number, int | float) or isinstance(number, bool):
                problems.add(f"thresholds, {name!r}: found {number!r}; expected a number.")
    problems.raise_if_any()


def read_card(folder: Path | str) -> ModelCard:
    """Read and check `card.json` of a model folder.

    Raises:
        MedtailError: It is missing, of another format, or incomplete; every mistake is named.
    """
    path = Path(folder) / CARD
    if not path.exists():
        raise MedtailError(f"{folder}: no {CARD}; expected a model folder, such as RUN/model of a finished training.")
    value = read_json(path)
    if "members" in value:
        raise MedtailError(
            f"{folder}: is an ensemble of {len(value['members'])} networks; expected one. Open one of its folders, such"
            " as member_0, or all of them with `medtail.models.ensembles.load_members`."
        )
    _check_kinds(value, where=str(path))
    if value.get("format") != FORMAT:
        raise MedtailError(
            f"{path}: format {value.get('format')!r} is unknown; this version of medtail reads {FORMAT!r}."
            f" Use the version that wrote it ({value.get('versions', {}).get('medtail', 'unknown')})."
        )
    missing = [key for key in NEEDED if key not in value]
    if missing:
        raise MedtailError(
            f"{path}: lacks {listing([repr(key) for key in missing])}; expected an untouched model card."
        )
    try:
        parts = build_config(ModelParts, value["parts"], where=f"{path}, parts")
    except UsageError as error:  # a damaged file is no misuse of the command line
        raise MedtailError(str(error)) from error
    labels = LabelSpace.from_json(value["labels"])
    counts = value.get("train_counts")
    if counts is not None:  # JSON keeps no order of keys; the counts follow the classes
        counts = ClassCounts.from_json({name: counts.get(name) for name in labels.class_names})
    return ModelCard(
        labels=labels,
        parts=parts,
        thresholds=value.get("thresholds"),
        train_counts=counts,
        digests=value["digests"],
        seed=int(value["seed"]),
        architecture=value.get("architecture"),
        versions=value.get("versions", {}),
        note=value.get("note", RESEARCH_NOTE),
        training=value.get("training", {}),
    )
