"""The model that is served: prepared pixels in, findings, heat maps and features out.

Probabilities come from the engine that `medtail predict` is checked against, or from the file that `medtail export`
wrote, and the words from `exchange.findings`; here they are only joined, and what does not change between requests is
worked out once. Torch is loaded where it scores, and for heat maps and similar cases.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast, final

import numpy as np
from PIL import Image

from medtail.errors import MedtailError, UsageError, did_you_mean, listing
from medtail.exchange.evidence import RARITY, read_evidence
from medtail.exchange.findings import RESEARCH_ONLY, ImageFindings, findings_of
from medtail.exchange.onnx_engine import open_exported
from medtail.lexicons.descriptors import LABEL_NAMES
from medtail.lexicons.systems import LEXICONS
from medtail.pixels.letterbox import Box
from medtail.pixels.settings import PixelConfig
from medtail.serving.settings import Engine, default_threads

if TYPE_CHECKING:
    from torch import Tensor

    from medtail.exchange.torch_engine import TorchDiagnoser
    from medtail.explain.maps import Branch, HeatMethod
    from medtail.tables.manifest import Manifest

HEAT_CAUTION: Final = (
    "Shows where the evidence for this class lies in the image, not that the class is present. Run `medtail explain` on"
    " images with masks to see how far maps of this model can be believed."
)


@final
class Diagnosis:
    """A trained run, ready to answer for one image at a time.

    Args:
        run: A run folder, or the model folder inside it.
        with_heat: Offer heat maps; False where captum is missing or they are not wanted.
        engine: What scores: `torch`, or `onnx`, the file that `medtail export RUN --format onnx` wrote.
        threads: CPU threads of `onnx`; None takes half the cores, at least 1. Torch has one number for the whole
            process, which its owner sets.

    Attributes:
        evidence: What the run says of its model.
        engine: What scores.
        pixels: How images must be prepared.

    Raises:
        MedtailError: The folder is damaged, the model's scores depend on the other images of a batch, or nothing was
            exported, or not of this model.
    """

    def __init__(
        self, run: Path | str, *, with_heat: bool = True, engine: Engine = "torch", threads: int | None = None
    ) -> None:
        self._run = run
        self.engine: Engine = engine
        # before anything else is read: the engine says best what is wrong with a folder
        self._exported = open_exported(run, threads=threads or default_threads()) if engine == "onnx" else None
        self.pixels: PixelConfig = (
            self._torch.card.parts.pixels if self._exported is None else self._exported.record.pixels
        )
        self.evidence = read_evidence(run)
        # each of these reads tables; they are the same for every image
        self._tail, self._trust = dict(self.evidence.tail), dict(self.evidence.trust)
        self.class_names: tuple[str, ...] = self.evidence.labels.class_names
        self.methods: tuple[str, ...] = ()
        self.branches: tuple[str, ...] = ()
        if with_heat:
            from medtail.explain.maps import branches_of, methods_for

            shared = [methods_for(member) for member in self._torch.diagnosers]
            self.methods = tuple(name for name in shared[0] if all(name in others for others in shared))
            self.branches = branches_of(self._torch.diagnosers[0])

    @cached_property
    def _torch(self) -> TorchDiagnoser:
        from medtail.exchange.torch_engine import TorchDiagnoser

        return TorchDiagnoser(self._run)

    @property
    def needs_roi(self) -> bool:
        """Whether every image must come with a region of interest, because the model never saw a whole one."""
        return self.pixels.crop == "roi" and self.pixels.missing_roi == "error"

    @property
    def takes_roi(self) -> bool:
        """Whether a region of interest changes what the model sees."""
        return self.pixels.crop == "roi"

    @property
    def has_tirads(self) -> bool:
        """Whether the classes include the twenty thyroid descriptors."""
        return set(LABEL_NAMES) <= set(self.class_names)

    def probabilities(self, square: np.ndarray, box: Box) -> np.ndarray:
        """Score one prepared image, exactly as `medtail predict` scores it with the same engine.

        Args:
            square: uint8 [channels, S, S].
            box: The part of it that is image.

        Returns:
            float64 [C] in [0, 1], calibrated where the model is.

        Raises:
            MedtailError: The model gives a score that is no number.
        """
        boxes = np.array([box], dtype=np.int64)
        if self._exported is not None:
            made = self._exported.probabilities(square[None], boxes)[0].astype(np.float64)
            return np.asarray(np.clip(made, 0.0, 1.0))
        found: np.ndarray = self._torch.probabilities(square[None], boxes)[0]
        if not np.isfinite(found).all():
            raise MedtailError("model: gives scores that are no numbers; its training has diverged. Train again.")
        return found

    def findings(
        self, square: np.ndarray, box: Box, *, image_id: str, size_mm: float | None = None, system: str = "acr"
    ) -> ImageFindings:
        """Say what the model finds in one prepared image.

        Args:
            square: uint8 [channels, S, S].
            box: The part of it that is image.
            image_id: What to call it.
            size_mm: Largest dimension of the nodule, mm, for TI-RADS; None if unknown.
            system: TI-RADS system, for models of descriptors.

        Raises:
            MedtailError: An impossible size, an unknown system, or the model's scores are no numbers.
        """
        return findings_of(
            self.probabilities(square, box),
            labels=self.evidence.labels,
            thresholds=self.evidence.thresholds,
            counts=self.evidence.counts,
            image_id=image_id,
            calibrated=self.evidence.calibrated,
            tail=self._tail,
            trust=self._trust,
            system=system,
            size_mm=size_mm,
            model_name=self.evidence.name,
            model_digest=self.evidence.digest,
            cautions=self.evidence.cautions,
        )

    def check_heat(self, class_name: str, *, method: str | None, branch: str) -> None:
        """Refuse a heat map nobody can make, before a file is opened for it.

        Raises:
            UsageError: No heat maps here, no such class, method or branch.
        """
        if not self.methods:
            raise UsageError("heat maps: not offered by this server.")
        if class_name not in self.class_names:
            hint = did_you_mean(class_name, self.class_names) or f"; classes: {listing(self.class_names)}"
            raise UsageError(f"class_name: the model has no such class{hint}")
        if method is not None and method not in self.methods:
            raise UsageError(f"method: expected one of {listing(self.methods)}.")
        if branch not in self.branches:
            raise UsageError(f"branch: expected one of {listing(self.branches)}.")

    def heat(
        self, square: np.ndarray, box: Box, *, class_name: str, method: str | None = None, branch: str = "joint"
    ) -> np.ndarray:
        """Show where the evidence for a class lies, on the model's square; the mean over an ensemble's members.

        Args:
            square: uint8 [channels, S, S].
            box: The part of it that is image.
            class_name: The class.
            method: One of `methods`; the first if None.
            branch: One of `branches`.

        Returns:
            float32 [S, S] in [0, 1].

        Raises:
            UsageError: See `check_heat`.
        """
        self.check_heat(class_name, method=method, branch=branch)
        import torch

        from medtail.explain.maps import heat_maps

        column = self.class_names.index(class_name)
        images, masks = self._tensors(square[None], np.array([box]))
        maps = [
            heat_maps(
                member,
                images,
                classes=[column],
                method=cast("HeatMethod", method or self.methods[0]),
                branch=cast("Branch", branch),
                content=masks,
            )
            for member in self._torch.diagnosers
        ]
        return np.asarray(torch.stack(maps).mean(dim=0)[0, 0].numpy(), dtype=np.float32)

    def check_manifest(self, manifest: Manifest) -> Manifest:
        """Return a manifest with the model's classes in the model's order.

        Raises:
            MedtailError: It lacks some.
        """
        return self._torch.card.check_manifest(manifest)

    def features(self, squares: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """Return what the first member's head pools of images, each scaled to length 1.

        Args:
            squares: uint8 [N, channels, S, S].
            boxes: Integers [N, 4], the part of each that is image.

        Returns:
            float32 [N, D].
        """
        import torch

        images, masks = self._tensors(squares, boxes)
        with torch.inference_mode():
            pooled = self._torch.diagnosers[0].answer(images, masks).pooled.float().flatten(1)
            return np.asarray(torch.nn.functional.normalize(pooled).numpy(), dtype=np.float32)

    def facts(self) -> Mapping[str, Any]:
        """Return what a client must know of the model: classes, thresholds, trust, and what it takes and offers."""
        counts = None if self.evidence.counts is None else self.evidence.counts.select(self.class_names)
        group_of = {name: group.name for group in self.evidence.labels.groups for name in group.classes}
        thresholds = self.evidence.thresholds or {}
        return {
            "name": self.evidence.name,
            "digest": self.evidence.digest,
            "medtail_version": self.evidence.version,
            "note": RESEARCH_ONLY,
            "calibrated": self.evidence.calibrated,
            "networks": (self._exported.record.members if self._exported is not None else len(self._torch.diagnosers)),
            "engine": self.engine,
            "classes": [
                {
                    "name": name,
                    "group": group_of.get(name),
                    "threshold": None if name in group_of else thresholds.get(name),
                    "tail_group": self._tail.get(name),
                    "rarity": RARITY.get(self._tail.get(name, "")),
                    "train_positives": None if counts is None else counts.patients[column],
                    "trust": self._trust[name],
                }
                for column, name in enumerate(self.class_names)
            ],
            "size_px": self.pixels.size_px,
            "takes_roi": self.takes_roi,
            "needs_roi": self.needs_roi,
            "heat_methods": list(self.methods),
            "heat_branches": list(self.branches),
            "tirads_systems": {name: rules.label for name, rules in LEXICONS.items()} if self.has_tirads else {},
            "cautions": list(self.evidence.cautions),
        }

    def _tensors(self, squares: np.ndarray, boxes: np.ndarray) -> tuple[Tensor, Tensor]:
        import torch

        from medtail.pixels.dataset import content_masks, to_float

        images = to_float(torch.from_numpy(squares))
        return images, content_masks(torch.from_numpy(boxes.astype(np.int64)), size_px=images.shape[-1])


def heat_picture(
    preview: np.ndarray, heat: np.ndarray, *, height: int, width: int, pixels: PixelConfig, roi: Box | None
) -> np.ndarray:
    """Lay heat on the model's square over the picture of the whole image.

    Args:
        preview: uint8 [h, w] or [h, w, 3], the image reduced.
        heat: float32 [S, S].
        height: Of the image itself, pixels.
        width: Of the image itself, pixels.
        pixels: How the square was made.
        roi: Region the square was cut out by, in pixels of the image itself.

    Returns:
        uint8 [h, w, 3].
    """
    from medtail.explain.overlay import overlay, to_image

    shown_height, shown_width = preview.shape[:2]
    if roi is not None:  # the region, in the reduced picture
        across, down = shown_width / width, shown_height / height
        x, y = int(roi[0] * across), int(roi[1] * down)
        roi = (x, y, max(1, round(roi[2] * across)), max(1, round(roi[3] * down)))
    return overlay(preview, to_image(heat, height=shown_height, width=shown_width, config=pixels, roi=roi))


def png_bytes(picture: np.ndarray) -> bytes:
    """Return a picture as the bytes of a PNG file without metadata.

    Args:
        picture: uint8 [h, w] or [h, w, 3].

    Example:
        >>> png_bytes(np.zeros((2, 2), np.uint8))[:4]
        b'\\x89PNG'
    """
    stream = BytesIO()
    Image.fromarray(picture).save(stream, format="PNG", compress_level=3)
    return stream.getvalue()
