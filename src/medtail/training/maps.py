"""Feature maps of a frozen backbone, by image: made once and kept, or made anew with augmentation each time.

What a study fusion learns from. The backbone is in eval mode and gets no gradient.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor

from medtail.models.diagnoser import Diagnoser
from medtail.models.study_model import StudyDiagnoser
from medtail.pixels.augment import AugmentConfig, apply_augmentation, draw_augmentation, warp_masks
from medtail.pixels.dataset import content_masks, to_float
from medtail.pixels.store import PixelStore
from medtail.runs import atomic_path
from medtail.tables.studies import Studies
from medtail.training.tta import VersionPlan

Tick = Callable[[int, int], None]
BATCH_IMAGES = 64


class MapSource(ABC):
    """Gives the feature maps of images."""

    @abstractmethod
    def read(self, rows: np.ndarray, *, seed: int | None = None) -> Tensor:
        """Return the maps of some rows.

        Args:
            rows: Rows of the manifest, integers [n].
            seed: Of the augmentation, for sources that augment; None for the images as they are.

        Returns:
            float32 [n, D, h, w] without gradient.
        """


@final
class StoredMaps(MapSource):
    """Maps that were made before, of every row of a manifest; they know no augmentation.

    Args:
        maps: float32 [rows, D, h, w]; may be a memory map.
        device: Where they are wanted; the CPU if None.
    """

    def __init__(self, maps: np.ndarray, *, device: torch.device | None = None) -> None:
        self._maps = maps
        self._device = device if device is not None else torch.device("cpu")

    def read(self, rows: np.ndarray, *, seed: int | None = None) -> Tensor:
        """Return the stored maps; see `MapSource.read`."""
        del seed
        return torch.from_numpy(np.array(self._maps[rows], dtype=np.float32)).to(self._device)


@final
class LiveMaps(MapSource):
    """Maps made when they are asked for.

    Args:
        model: In eval mode, on its device.
        store: Prepared pixels.
        augment: What is done to images that are read with a seed.
        device: The model's.
    """

    def __init__(self, model: Diagnoser, store: PixelStore, *, augment: AugmentConfig, device: torch.device) -> None:
        self._model, self._store, self._augment, self._device = model, store, augment, device

    def read(self, rows: np.ndarray, *, seed: int | None = None) -> Tensor:
        """Make the maps; see `MapSource.read`."""
        images, content = read_pixels(self._store, rows, device=self._device)
        if seed is not None:
            generator = torch.Generator().manual_seed(seed)
            drawn = draw_augmentation(len(images), self._augment, generator=generator, size_px=images.shape[-1])
            images = apply_augmentation(images, drawn)
            content = warp_masks(content.to(images.dtype), drawn).bool()
        return make_maps(self._model, images, content)


def read_pixels(store: PixelStore, rows: np.ndarray, *, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return images [n, ch, S, S] in [0, 1] and where there is image and not bar, bool [n, 1, S, S]."""
    images = to_float(torch.from_numpy(store.images(rows)).to(device))
    boxes = torch.from_numpy(store.content_boxes[rows].astype(np.int64)).to(device)
    return images, content_masks(boxes, size_px=images.shape[-1])


def make_maps(model: Diagnoser, images: Tensor, content: Tensor) -> Tensor:
    """Return a frozen model's maps of images, float32 [n, D, h, w] without gradient."""
    if model.backbone.is_convolutional:
        images = images.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        found: Tensor = model.backbone(model.inputs(images, content))
    return found.float().contiguous()


def store_maps(
    model: Diagnoser, store: PixelStore, path: Path, *, device: torch.device, progress: Tick | None = None
) -> StoredMaps:
    """Make the maps of every row of a store and keep them in a file; one that is there is used as it is.

    Args:
        model: In eval mode, on its device.
        store: Prepared pixels.
        path: The `.npy` file; it appears whole or not at all.
        device: The model's.
        progress: Called with (rows done, rows).

    Returns:
        The maps, mapped from the file.
    """
    if not path.exists():
        first = make_maps(model, *read_pixels(store, np.arange(1), device=device))
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            shape = (len(store), *first.shape[1:])
            with temporary.open("wb") as handle:
                np.lib.format.write_array_header_1_0(handle, {"descr": "<f4", "fortran_order": False, "shape": shape})
                for start in range(0, len(store), BATCH_IMAGES):
                    rows = np.arange(start, min(start + BATCH_IMAGES, len(store)))
                    maps = make_maps(model, *read_pixels(store, rows, device=device))
                    handle.write(maps.cpu().numpy().astype("<f4").tobytes())
                    if progress is not None:
                        progress(int(rows[-1]) + 1, len(store))
    return StoredMaps(np.load(path, mmap_mode="r", allow_pickle=False), device=device)


def spread(maps: Tensor, is_there: Tensor) -> Tensor:
    """Put maps [n, D, h, w] of the views that are there, bool [B, V] with n of them, in their places [B, V, D, h, w].

    Example:
        >>> spread(torch.ones(1, 1, 1, 1), torch.tensor([[True, False]])).flatten().tolist()
        [1.0, 0.0]
    """
    places = maps.new_zeros(*is_there.shape, *maps.shape[1:])
    places[is_there] = maps
    return places


def read_studies(
    source: MapSource,
    studies: Studies,
    chosen: np.ndarray,
    *,
    most: int,
    random: np.random.Generator | None = None,
    seed: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Read the maps of some studies.

    Args:
        source: Gives the maps of images.
        studies: The groups.
        chosen: Numbers of studies, integers [B].
        most: Images a study at most.
        random: Draws the images of larger studies; None takes frontal ones first.
        seed: Of the augmentation; None for none.

    Returns:
        Maps [B, V, D, h, w], kinds [B, V] and which views there are [B, V]; V is that of the largest study here.
    """
    rows, kinds, is_there = _places(studies, chosen, most=most, random=random)
    maps = source.read(rows[is_there.numpy()], seed=seed)
    return spread(maps, is_there.to(maps.device)), kinds.to(maps.device), is_there.to(maps.device)


def _places(
    studies: Studies, chosen: np.ndarray, *, most: int, random: np.random.Generator | None
) -> tuple[np.ndarray, Tensor, Tensor]:
    rows = studies.pick(chosen, most=most, random=random)
    rows = rows[:, : int((rows >= 0).sum(axis=1).max(initial=1))]
    kinds = np.where(rows >= 0, studies.kinds[rows], 0)
    return rows, torch.from_numpy(kinds), torch.from_numpy(rows >= 0)


def score_studies(
    model: StudyDiagnoser,
    store: PixelStore,
    studies: Studies,
    *,
    batch_size: int = BATCH_IMAGES,
    device: torch.device | None = None,
    plan: VersionPlan | None = None,
    progress: Tick | None = None,
) -> np.ndarray:
    """Score studies in eval mode and full precision, and give each image the score of its study.

    Args:
        model: The model; it is moved to the device.
        store: Prepared pixels, row for row of the studies' images.
        studies: The groups.
        batch_size: Images at a time.
        device: Where to compute; the CPU if None.
        plan: Versions of each image; None scores the plain one.
        progress: Called with (studies done, studies).

    Returns:
        float64 [N, C] in [0, 1]; equal rows within a study.
    """
    device = device if device is not None else torch.device("cpu")
    model = model.to(device).eval()
    plan = VersionPlan() if plan is None else plan
    most = model.fusion.config.most_views
    found = []
    step = max(1, batch_size // most)
    with torch.inference_mode():
        for start in range(0, len(studies), step):
            chosen = np.arange(start, min(start + step, len(studies)))
            rows, kinds, is_there = _places(studies, chosen, most=most, random=None)
            images, content = read_pixels(store, rows[is_there.numpy()], device=device)
            kinds, is_there = kinds.to(device), is_there.to(device)

            def logits_of(
                images: Tensor, content: Tensor, kinds: Tensor = kinds, is_there: Tensor = is_there
            ) -> Tensor:
                maps = make_maps(model.image_model, images, content)
                logits: Tensor = model(spread(maps, is_there), kinds, is_there)
                return logits

            scores = plan.scores(logits_of, images, content, labels=model.labels, link=model.link)
            found.append(scores.double().cpu().numpy())
            if progress is not None:
                progress(int(chosen[-1]) + 1, len(studies))
    return np.asarray(np.clip(np.concatenate(found), 0.0, 1.0)[studies.member])
