"""A trained run as torch answers for it: prepared pixels in, calibrated probabilities out.

What `medtail predict` does, without tables: the reference an exported file is compared with, and the engine that
`medtail bench` times beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, final

import numpy as np
import torch
from torch import Tensor

from medtail.errors import MedtailError
from medtail.models.checkpoint import ModelCard
from medtail.models.diagnoser import Diagnoser, link_scores
from medtail.models.ensembles import load_members
from medtail.pixels.dataset import content_masks, to_float

Mirrored = Literal["scores", "logits"]
"""What is averaged with that of the mirror image."""


@final
class TorchDiagnoser:
    """A run's networks, averaged and calibrated as `medtail predict` does it on the CPU.

    Args:
        run: A run folder, or the model folder inside it.

    Attributes:
        diagnosers: The members, in eval mode.
        card: The card that speaks for all.
        mirrored: What is averaged with that of the mirror image; None for nothing.

    Raises:
        MedtailError: The folder is damaged, its scores depend on the other images of a batch, or it averages versions
            of an image other than its mirror image.
    """

    def __init__(self, run: Path | str) -> None:
        folder = model_folder(run)
        diagnosers, card = load_members(folder)
        if any(diagnoser.batch_dependent for diagnoser in diagnosers):
            raise MedtailError(
                f"{folder}: its model lets a batch's images attend to each other (head.rmsc.attend 'batch' with at_test"
                " 'mates'), so an image's scores depend on its company; expected a score that is a function of the"
                " image. Train with at_test 'alone' or another reading."
            )
        self.diagnosers: tuple[Diagnoser, ...] = diagnosers
        self.card: ModelCard = card
        self.mirrored: Mirrored | None = mirrored_of(card, where=str(folder))

    @property
    def needs_content(self) -> bool:
        """Whether the model asks where there is image and not bar."""
        return any(diagnoser.band is not None for diagnoser in self.diagnosers)

    def scores(self, images: np.ndarray, content: np.ndarray | None = None) -> np.ndarray:
        """Score prepared pixels, without calibration.

        Args:
            images: uint8 [N, channels, S, S], as `pixels.letterbox` makes them.
            content: Integers [N, 4], left, top, right and bottom of the image in its square; all of it if None.

        Returns:
            float64 [N, C] in [0, 1].
        """
        with torch.inference_mode():
            pixels = to_float(torch.from_numpy(np.ascontiguousarray(images)))
            size_px = pixels.shape[-1]
            boxes = np.tile([0, 0, size_px, size_px], (len(images), 1)) if content is None else np.asarray(content)
            masks = content_masks(torch.from_numpy(boxes.astype(np.int64)), size_px=size_px)
            found = [self._member(diagnoser, pixels, masks) for diagnoser in self.diagnosers]
        return np.asarray(np.clip(np.mean(found, axis=0), 0.0, 1.0))

    def probabilities(self, images: np.ndarray, content: np.ndarray | None = None) -> np.ndarray:
        """Score prepared pixels and calibrate, where the model has a calibration.

        Args:
            images: uint8 [N, channels, S, S], as `pixels.letterbox` makes them.
            content: Integers [N, 4], left, top, right and bottom of the image in its square; all of it if None.

        Returns:
            float64 [N, C] in [0, 1].
        """
        scores = self.scores(images, content)
        return scores if self.card.calibration is None else self.card.calibration.apply(scores)

    def _member(self, diagnoser: Diagnoser, pixels: Tensor, masks: Tensor) -> np.ndarray:
        layout = torch.channels_last if diagnoser.backbone.is_convolutional else torch.contiguous_format
        pixels = pixels.contiguous(memory_format=layout)
        found = diagnoser(pixels, masks).float()
        if self.mirrored is None:
            made = link_scores(found, labels=diagnoser.labels, link=diagnoser.link)
        else:
            other = diagnoser(pixels.flip(-1), masks.flip(-1)).float()
            made = mean_scores([found, other], diagnoser, average=self.mirrored)
        return np.asarray(made.double().numpy())


def mirrored_of(card: ModelCard, *, where: str) -> Mirrored | None:
    """Say what a model averages with that of the mirror image, as its training chose: scores, logits, or nothing.

    Raises:
        MedtailError: It averages other versions of an image.
    """
    plan = card.training.get("tta") or "none"
    if plan == "flip":
        return "logits"
    if plan != "none":
        raise MedtailError(
            f"{where}: its scores are means over turned and scaled versions of an image (tta {plan!r}); expected the"
            " image alone or with its mirror image, which is all that an exported graph makes. Predict with torch, or"
            " train with tta flip."
        )
    return "scores" if card.training.get("test_time_flip", False) else None


def mean_scores(logits: Sequence[Tensor], diagnoser: Diagnoser, *, average: Mirrored) -> Tensor:
    """Average versions of the same images before or after the link.

    Args:
        logits: float32 [N, C], one a version.
        diagnoser: Whose they are.
        average: What is averaged.

    Returns:
        Scores float32 [N, C].
    """
    labels, link = diagnoser.labels, diagnoser.link
    if average == "logits":
        return link_scores(torch.stack(list(logits)).mean(dim=0), labels=labels, link=link)
    return torch.stack([link_scores(part, labels=labels, link=link) for part in logits]).mean(dim=0)


def model_folder(run: Path | str) -> Path:
    """Return the model folder of a run, or the folder itself if it is one."""
    run = Path(run)
    return run / "model" if (run / "model").is_dir() else run
