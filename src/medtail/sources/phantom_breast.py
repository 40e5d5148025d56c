"""The breast-subtype phantom: six classes told apart by known attributes, for generators and samplers of rare classes.

Class names are mnemonics: **no clinical claim may rest on it**. Cyst-like and papilloma-like, and fibroadenoma-like and
phyllodes-like, differ by one attribute on purpose, which shows when a generator mixes classes up. `render_breast` draws
one image with its mask and boundary, the oracles of a sketch extractor; `breast_pool` makes fresh images of any class,
correctly or wrongly labelled, to test what chooses among generated images; `breast_manifest` writes the long-tailed
set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, final

import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage

from medtail.errors import UsageError, did_you_mean
from medtail.runs import atomic_path, new_folder, write_text
from medtail.seeding import stream
from medtail.sources.phantom import DISCLAIMER, LEAST_PX, MOST_PX
from medtail.sources.phantom_writing import MANIFEST, NOTICE, NOTICE_TEXT
from medtail.tables.manifest import Manifest, manifest_from_frame

RewardSetting = Literal["generous", "scarce", "none"]
PER_CLASS: Mapping[str, int] = {"test": 150, "tune": 30}
GENEROUS, SCARCE_SHARE = 30, 0.10
DRAWN_AT_PX = 64
"""Widths in pixels are meant at this size."""


COMPRESSION = 6.0
"""Of the display: gray = log(1 + 6 a) / log 7 for an amplitude a."""


@final
@dataclass(frozen=True)
class Subtype:
    """What sets a class apart.

    Attributes:
        name: Mnemonic.
        train: Images in the long-tailed train fold.
        height_over_width: Of the lesion.
        lobes: Amplitude of lobulation, of the radius.
        spikes: Amplitude of spiculation, of the radius.
        inner: Echo inside; the background is around 0.55.
        edge_px: Width of the border, at 64 pixels.
        posterior: Gain of what lies behind the lesion; below 0 a shadow.
        halo: Strength of a bright rim.
        nodule: Strength of a solid part inside.
    """

    name: str
    train: int
    height_over_width: float
    lobes: float
    spikes: float
    inner: float
    edge_px: float
    posterior: float
    halo: float
    nodule: float


SUBTYPES = (
    Subtype("fibroadenoma_like", 400, 0.65, 0.03, 0.0, 0.30, 1.0, 0.0, 0.0, 0.05),
    Subtype("cyst_like", 160, 0.80, 0.02, 0.0, 0.03, 0.6, 0.35, 0.0, 0.0),
    Subtype("phyllodes_like", 80, 0.75, 0.14, 0.0, 0.25, 1.0, 0.05, 0.0, 0.08),
    Subtype("idc_like", 40, 1.15, 0.05, 0.16, 0.18, 1.8, -0.30, 0.25, 0.05),
    Subtype("mucinous_like", 20, 0.75, 0.09, 0.03, 0.42, 1.2, 0.15, 0.0, 0.06),
    Subtype("papilloma_like", 10, 0.75, 0.04, 0.0, 0.05, 0.7, 0.20, 0.0, 0.45),
)
CLASS_NAMES = tuple(f"subtype={subtype.name}" for subtype in SUBTYPES)


@final
@dataclass(frozen=True, eq=False)
class BreastPhantom:
    """One image and its oracles.

    Attributes:
        pixels: uint8 [size, size].
        mask: bool [size, size], the lesion.
        boundary: bool [size, size], its outermost pixels: what a sketch of the lesion should show.
        subtype: Number of the class, 0 to 5.
    """

    pixels: np.ndarray
    mask: np.ndarray
    boundary: np.ndarray
    subtype: int


def render_breast(
    subtype: int | str, *, seed: int = 0, number: int = 0, speckle: int = 0, size_px: int = DRAWN_AT_PX
) -> BreastPhantom:
    """Draw one lesion of a class.

    Args:
        subtype: 0 to 5, or the class's mnemonic such as `cyst_like`.
        seed: Of the series.
        number: Of the lesion in it; another number is another lesion.
        speckle: Another one gives the same lesion under other speckle.
        size_px: Pixels a side, 32 to 512.

    Returns:
        The image, its mask and its boundary.

    Raises:
        UsageError: No such class, or an impossible size.

    Example:
        >>> phantom = render_breast("cyst_like")
        >>> phantom.pixels.shape, phantom.subtype
        ((64, 64), 1)
    """
    if not LEAST_PX <= size_px <= MOST_PX:
        raise UsageError(f"breast6: size_px {size_px}; expected {LEAST_PX} to {MOST_PX} pixels a side.")
    which = _number(subtype)
    kind = SUBTYPES[which]
    random = stream(seed, "breast6", which, number)
    x, y = _grid(size_px)
    stripe, phase = random.uniform(2, 4), random.uniform(0, 2 * np.pi)
    wave = phase + 0.6 * np.sin(2 * np.pi * x + random.uniform(0, 2 * np.pi))
    field = 0.55 + 0.12 * np.sin(2 * np.pi * stripe * y + wave)

    cy, cx, radius = random.uniform(0.40, 0.58), random.uniform(0.38, 0.62), random.uniform(0.13, 0.21)
    stretch = np.sqrt(kind.height_over_width)
    u, v = (x - cx) * stretch, (y - cy) / stretch
    angle = np.arctan2(v, u)
    k, j = int(random.integers(3, 6)), int(random.integers(5, 9))
    turn, other = random.uniform(0, 2 * np.pi, 2)
    border = radius * (
        1
        + kind.lobes * np.sin(k * angle + turn)
        + kind.spikes * np.sqrt(np.abs(np.sin(j * angle + other)))
        + 0.03 * np.sin(2 * angle)
    )
    distance = border - np.hypot(u, v)
    weight = 1 / (1 + np.exp(np.clip(-distance * DRAWN_AT_PX / kind.edge_px, -40, 40)))
    at_u, at_v = random.uniform(-0.3, 0.3, 2) * radius
    inner = kind.inner + kind.nodule * np.exp(-((u - at_u) ** 2 + (v - at_v) ** 2) / (2 * (0.35 * radius) ** 2))
    mask = distance > 0
    field = field * (1 - weight) + inner * weight
    if kind.halo:
        field = field + kind.halo * np.exp(-((distance * DRAWN_AT_PX / 1.6) ** 2)) * (distance < 0)
    # behind the lesion: every pixel deeper than the last one of the lesion in its column
    behind = (np.cumsum(mask, axis=0) > 0) & ~mask & (y > cy)
    gain = 1 + kind.posterior * ndimage.gaussian_filter(behind.astype(float), 1.0 * size_px / DRAWN_AT_PX)

    noise = stream(seed, "breast6", "speckle", which, number, speckle).standard_normal((2, size_px, size_px))
    blur = tuple(width * size_px / DRAWN_AT_PX for width in (0.6, 1.1))
    envelope = np.hypot(*(ndimage.gaussian_filter(part, blur, mode="wrap") for part in noise))
    seen = np.clip(field, 0.01, None) * gain * (envelope / envelope.mean()) * np.exp(-0.5 * y)
    shown = np.clip(np.log1p(COMPRESSION * seen) / np.log1p(COMPRESSION), 0, 1)
    pixels = (255 * shown + 0.5).astype(np.uint8)
    boundary = mask & ~ndimage.binary_erosion(mask)
    return BreastPhantom(pixels, mask, boundary, which)


@lru_cache(maxsize=8)
def _grid(size_px: int) -> tuple[np.ndarray, np.ndarray]:
    line = (np.arange(size_px) + 0.5) / size_px
    x, y = np.meshgrid(line, line)
    return x, y


def _number(subtype: int | str) -> int:
    names = [kind.name for kind in SUBTYPES]
    if isinstance(subtype, str):
        if subtype not in names:
            near = did_you_mean(subtype, names) or f"; known: {', '.join(names)}."
            raise UsageError(f"breast6: class {subtype!r}: unknown{near}")
        return names.index(subtype)
    if not 0 <= subtype < len(SUBTYPES):
        raise UsageError(f"breast6: class {subtype}; expected 0 to {len(SUBTYPES) - 1}.")
    return subtype


def breast_pool(
    counts: Sequence[int], *, seed: int = 0, start: int = 1_000_000, wrong: float = 0.0, size_px: int = DRAWN_AT_PX
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make fresh images that a perfect (or careless) generator would have made.

    Args:
        counts: Images wanted of each of the six classes.
        seed: Of the series; with the seed of a written set, `start` keeps the lesions apart.
        start: Number of the first lesion of each class; those of `breast_manifest` lie below a million.
        wrong: Probability that an image shows another class than its label says; 0.4 is the corrupted pool.
        size_px: Pixels a side.

    Returns:
        Pixels uint8 [N, size, size], labels int64 [N], and the classes truly shown int64 [N].

    Raises:
        UsageError: Not six counts >= 0, or `wrong` is no probability.

    Example:
        >>> pixels, labels, shown = breast_pool([2, 0, 0, 0, 0, 1], wrong=1.0)
        >>> labels.tolist(), bool((labels != shown).all())
        ([0, 0, 5], True)
    """
    if len(counts) != len(SUBTYPES) or min(counts) < 0:
        raise UsageError(f"breast6: counts {list(counts)}; expected {len(SUBTYPES)} numbers >= 0, one a class.")
    if not 0.0 <= wrong <= 1.0:
        raise UsageError(f"breast6: wrong {wrong}; expected a probability from 0 to 1.")
    labels, shown, pixels = [], [], []
    for label, count in enumerate(counts):
        for number in range(count):
            chance = stream(seed, "breast6", "pool", label, start + number)
            swap, other = chance.random() < wrong, int(chance.integers(1, len(SUBTYPES)))
            truly = (label + other) % len(SUBTYPES) if swap else label
            # lesions wrongly labelled come from a range of their own, so no lesion is in the pool twice
            lesion = start * (2 + label) + number if swap else start + number
            pixels.append(render_breast(truly, seed=seed, number=lesion, size_px=size_px).pixels)
            labels.append(label)
            shown.append(truly)
    stacked = np.stack(pixels) if pixels else np.zeros((0, size_px, size_px), dtype=np.uint8)
    return stacked, np.array(labels, dtype=np.int64), np.array(shown, dtype=np.int64)


def breast_manifest(
    out: Path | str,
    *,
    seed: int = 0,
    size_px: int = DRAWN_AT_PX,
    reward: RewardSetting = "generous",
    balanced: int | None = None,
) -> Manifest:
    """Write the long-tailed set with its four folds.

    Train holds 400, 160, 80, 40, 20 and 10 images of the classes, test 150 and tune 30 of each; one image is one
    patient. Writes `images/`, `masks/`, `boundaries/`, `manifest.csv` and `ATTRIBUTION.md`.

    Args:
        out: New or empty folder.
        seed: Of everything.
        size_px: Pixels a side.
        reward: Rows for a policy: `generous`, 30 of each class; `scarce`, a tenth of train (one at least) is taken out
            of train; `none`.
        balanced: Train images of every class instead of the long tail: the oracle's training set. Lesions are numbered
            alike, so that the long-tailed train fold is part of it.

    Returns:
        The manifest, one exclusive group `subtype=…`; paths of boundaries in `meta_boundary_path`.

    Raises:
        UsageError: The folder is not empty, or a number is out of range.
    """
    if balanced is not None and balanced < 1:
        raise UsageError(f"breast6: balanced {balanced}; expected 1 or more images a class.")
    render_breast(0, size_px=size_px)  # a faulty size is refused before any file is made
    rows = planned_rows(reward=reward, balanced=balanced)
    folder = new_folder(out)
    folder.rmdir()
    with atomic_path(folder) as temporary:
        for name in ("images", "masks", "boundaries"):
            (temporary / name).mkdir(parents=True)
        ids = []
        for which, number, _ in rows:
            phantom = render_breast(which, seed=seed, number=number, size_px=size_px)
            ids.append(f"breast{seed}_{which}_{number:07d}")
            for name, plane in (("images", phantom.pixels), ("masks", phantom.mask), ("boundaries", phantom.boundary)):
                image = Image.fromarray(plane if plane.dtype == np.uint8 else plane.astype(np.uint8) * 255)
                image.save(temporary / name / f"{ids[-1]}.png", compress_level=1)
        frame = pd.DataFrame(
            {
                "image_id": ids,
                "path": [f"images/{name}.png" for name in ids],
                "patient_id": [f"phantom_{name}" for name in ids],
                "fold": [fold for _, _, fold in rows],
                "mask_path": [f"masks/{name}.png" for name in ids],
                "meta_boundary_path": [f"boundaries/{name}.png" for name in ids],
                "meta_source": DISCLAIMER,
                **{name: [float(which == c) for which, _, _ in rows] for c, name in enumerate(CLASS_NAMES)},
            }
        )
        manifest = manifest_from_frame(frame, name=MANIFEST, root=temporary)
        manifest.write(temporary / MANIFEST)
        write_text(temporary / NOTICE, NOTICE_TEXT)
    return Manifest(manifest.frame, manifest.labels, MANIFEST, folder)


def planned_rows(*, reward: RewardSetting = "generous", balanced: int | None = None) -> list[tuple[int, int, str]]:
    """Return class, lesion number and fold of every image of a set; each fold has a range of numbers of its own.

    Args:
        reward: See `breast_manifest`.
        balanced: See `breast_manifest`.

    Example:
        >>> planned_rows(reward="none")[0]
        (0, 0, 'train')
    """
    rows = []
    for which, kind in enumerate(SUBTYPES):
        train = kind.train if balanced is None else balanced
        taken = max(1, round(SCARCE_SHARE * kind.train)) if reward == "scarce" else 0
        rows += [(which, n, "reward" if n < taken else "train") for n in range(max(train, taken))]
        rows += [(which, 100_000 + n, "tune") for n in range(PER_CLASS["tune"])]
        rows += [(which, 200_000 + n, "test") for n in range(PER_CLASS["test"])]
        if reward == "generous":
            rows += [(which, 300_000 + n, "reward") for n in range(GENEROUS)]
    return rows
