"""Phrases and images through a tower, into files of vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from medtail.errors import MedtailError
from medtail.pixels.dataset import to_float
from medtail.pixels.settings import PixelConfig
from medtail.pixels.store import open_store
from medtail.tables.manifest import Manifest
from medtail.tables.vectors import ImageVectors, TextVectors, text_vectors, unit_rows
from medtail.zeroshot.prompts import PhraseBook
from medtail.zeroshot.towers import DualTower, Tower

Tick = Callable[[int, int], None]
BATCH = 32


def embed_texts(tower: Tower, book: PhraseBook, class_names: Sequence[str] | None = None) -> TextVectors:
    """Read every phrase of some classes with a tower.

    Args:
        tower: Reads the texts.
        book: Has them.
        class_names: As the manifest spells them; all of the book if None.

    Returns:
        A unit vector a phrase, with the digests of tower and phrase file.

    Raises:
        MedtailError: The book does not speak of a class.
    """
    phrases = book.phrases(book.class_names if class_names is None else class_names)
    distinct = list(dict.fromkeys(phrase.text for phrase in phrases))
    found = dict(zip(distinct, tower.texts(distinct), strict=True))
    header = {**tower.header(), "phrase_file": book.name, "phrases_digest": book.digest}
    return text_vectors(phrases, np.stack([found[phrase.text] for phrase in phrases]), header=header, name=book.name)


def embed_images(
    tower: Tower, manifest: Manifest, *, crop: str = "none", cache: Path | None = None, progress: Tick | None = None
) -> ImageVectors:
    """Look at every image of a manifest with a tower.

    Images are fitted into the tower's square without stretching, bars black; CLIP's own preparation cuts the middle out
    instead, and with it the sides of a chest.

    Args:
        tower: One that reads images.
        manifest: The images.
        crop: `none`, or `roi` for the region of interest.
        cache: Folder of prepared pixels; as everywhere if None.
        progress: Called with (images done, images).

    Raises:
        MedtailError: The tower reads texts alone, or images are missing.
    """
    if not isinstance(tower, DualTower):
        raise MedtailError(
            f"--tower {tower.name!r}: reads texts only, so images cannot be compared with them. Expected a model of"
            " texts and images (CLIP, SigLIP). With this tower train a `head: {kind: text_query}` instead."
        )
    config = PixelConfig(size_px=tower.size_px, channels=3, crop="roi" if crop == "roi" else "none")
    store = open_store(manifest, config, cache=cache, progress=progress)
    parts = []
    for start in range(0, len(manifest), BATCH):
        rows = np.arange(start, min(start + BATCH, len(manifest)))
        parts.append(tower.images(to_float(torch.from_numpy(store.images(rows)))))
        if progress is not None:
            progress(int(rows[-1]) + 1, len(manifest))
    ids = manifest.frame["image_id"].to_numpy(dtype=object)
    values = unit_rows(np.concatenate(parts), what=[f"image {image_id!r}" for image_id in ids])
    return ImageVectors(ids, values, {**tower.header(), "manifest": manifest.digest, "pixels": store.digest})
