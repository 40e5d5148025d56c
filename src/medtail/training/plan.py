"""What a training's network is made of, apart from its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch

from medtail.losses.contract import Link, LossContext
from medtail.losses.margin import LogitAdjustedConfig
from medtail.losses.objectives import PlainObjectiveConfig
from medtail.losses.weights import prior_shifts
from medtail.models.diagnoser import Diagnoser, build_diagnoser
from medtail.models.text_query import TextQueryConfig, read_class_texts
from medtail.pixels.dataset import content_masks, to_float
from medtail.pixels.frequency import BandFilter
from medtail.pixels.store import PixelStore
from medtail.seeding import stream, stream_seed
from medtail.tables.labels import LabelSpace
from medtail.training.config import TrainConfig

BAND_IMAGES = 512
"""Images the band's scale is measured on, where the train fold has more: one number needs no more than these."""


@final
@dataclass(frozen=True, eq=False)
class ModelPlan:
    """What is needed to make the run's network, with its initial weights or empty.

    Attributes:
        config: The training's config.
        labels: The classes to learn.
        link: How logits become scores.
        context: Counts of the train fold.
        together: Its images that show both of two classes, [C, C]; None where loaded weights bring what is made of it.
    """

    config: TrainConfig
    labels: LabelSpace
    link: Link
    context: LossContext
    together: np.ndarray | None = None

    def build(self, *, load_weights: bool, architecture: Mapping[str, Any] | None) -> Diagnoser:
        """Make the network; its random initial weights depend on the run's seed alone."""
        config = self.config
        prior = prior_shifts(self.context, link=self.link)
        if isinstance(config.objective, PlainObjectiveConfig) and isinstance(config.loss, LogitAdjustedConfig):
            prior = (1.0 - config.loss.tau) * prior  # the loss adds tau of it to the logits itself
        texts = None
        if load_weights and isinstance(config.head, TextQueryConfig):
            texts = read_class_texts(config.head, self.labels)
        with torch.random.fork_rng():
            torch.manual_seed(stream_seed(config.seed, "initial weights"))
            return build_diagnoser(
                backbone=config.backbone,
                head=config.head,
                labels=self.labels,
                link=self.link,
                channels=config.pixels.channels,
                size_px=config.pixels.size_px,
                band=config.band,
                prior=[float(value) for value in prior],
                architecture=architecture,
                load_weights=load_weights,
                together=self.together,
                texts=texts,
            )


def measure_band(band: BandFilter, store: PixelStore, *, rows: np.ndarray, seed: int) -> None:
    """Set a band filter's scale from content pixels, before the first step; it is kept with the weights.

    Args:
        band: The filter to set.
        store: Prepared pixels.
        rows: Rows of the train fold, integers [n]; a random `BAND_IMAGES` of them are measured.
        seed: The run's seed.

    Raises:
        MedtailError: The images have nothing in the band.
    """
    rows = np.sort(stream(seed, "band").permutation(np.sort(rows))[:BAND_IMAGES])
    chunks = (rows[start : start + 64] for start in range(0, len(rows), 64))
    size_px = store.config.size_px
    batches = (
        (
            to_float(torch.from_numpy(store.images(chunk))),
            content_masks(torch.from_numpy(store.content_boxes[chunk]), size_px=size_px),
        )
        for chunk in chunks
    )
    band.set_sigma(band.measure(batches))
