"""How good the generated images of each class are: every number, class by class and space by space.

Real images are read for two things. Whether the generator copies is asked of the train images it learnt from; whether
its images look like the class is asked of train and tune images together. Test images are never opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

import numpy as np

from medtail.seeding import stream
from medtail.synthesis.adherence import boundary_f1
from medtail.synthesis.coverage import Coverage, coverage_of
from medtail.synthesis.features import Features, FeatureSpace, shared_space
from medtail.synthesis.fidelity import ClassControl
from medtail.synthesis.kernel_distance import KernelPosition, frechet_distance, kernel_position
from medtail.synthesis.loss_gap import LossGap
from medtail.synthesis.memorisation import Nearest, copy_test, low_ratio, nearest_train
from medtail.synthesis.pool_reading import Pool
from medtail.synthesis.similarity import WINDOW, pairwise_similarity

PAIRS = 200
"""Pairs of images whose structural similarity is averaged."""


@final
@dataclass(frozen=True, eq=False)
class SpaceFeatures:
    """All images of a pool in one space.

    Attributes:
        synthetic: Generated images, in the order of `Pool.synthetic`.
        synthetic_mirrored: Their mirror images.
        train: Real train images, in the order of `Pool.train`.
        train_mirrored: Their mirror images.
        tune: Real tune images, in the order of `Pool.tune`.
    """

    synthetic: Features
    synthetic_mirrored: Features
    train: Features
    train_mirrored: Features
    tune: Features

    @property
    def space(self) -> FeatureSpace:
        """The one space of all; see `shared_space`."""
        return shared_space(self.synthetic, self.synthetic_mirrored, self.train, self.train_mirrored, self.tune)


@final
@dataclass(frozen=True)
class SpaceQuality:
    """One class in one space.

    Attributes:
        position: KID with floor and ceiling.
        fid: Fréchet distance; NaN where there are too few rows.
        fid_reason: Why it is NaN.
        copy_test: C_T; about 0 for new images, under -3 for copies.
        copy_share: Share of generated images whose copy ratio is below the 5th percentile of train images; 0.05 is
            usual.
        copy_ratio: Median copy ratio.
        unseen_test: C_T with distances to tune images instead, for generated and for train images. As low as
            `copy_test` where images are smooth or typical; about 0 where they are copies.
        coverage: Coverage and the like.
    """

    position: KernelPosition
    fid: float
    fid_reason: str
    copy_test: float
    copy_share: float
    copy_ratio: float
    unseen_test: float
    coverage: Coverage


@final
@dataclass(frozen=True)
class Adherence:
    """How well images of a class keep to the sketches they were asked for.

    Attributes:
        images: Images with an asked sketch.
        asked: Mean boundary F1 with the asked sketch.
        other: Mean boundary F1 with a sketch asked of another image.
        error: Standard error of the mean difference.
        by_scale: Sketch guidance as the pool's text → mean F1 with the asked sketch.
    """

    images: int
    asked: float
    other: float
    error: float
    by_scale: Mapping[str, float] = field(default_factory=dict)

    @property
    def gain(self) -> float:
        """How much better the asked sketch fits than another."""
        return self.asked - self.other


@final
@dataclass(frozen=True)
class ClassQuality:
    """Everything measured of a class.

    Attributes:
        name: The class.
        group: Its tail group.
        train_images: Real train images with it.
        train_patients: Their patients.
        generated: Images made for it.
        spaces: Encoder → numbers.
        similarity: Mean MS-SSIM of pairs of generated images.
        real_similarity: The same of real images.
        control: What a judge says; None without a judge.
        adherence: None where no sketch was asked for.
        loss_gap: What the generator itself remembers; None without it.
    """

    name: str
    group: str
    train_images: int
    train_patients: int
    generated: int
    spaces: Mapping[str, SpaceQuality]
    similarity: float
    real_similarity: float
    control: ClassControl | None
    adherence: Adherence | None
    loss_gap: LossGap | None = None


def space_quality(
    pool: Pool, features: SpaceFeatures, nearest: Nearest, usual: Nearest, *, seed: int = 0
) -> dict[int, SpaceQuality]:
    """Measure every class of a pool in one space.

    Args:
        pool: The pool.
        features: Its images in the space.
        nearest: From `nearest_generated`.
        usual: From `nearest_real`.
        seed: Of the halvings.

    Returns:
        Class number → numbers, for the classes that images were made for.
    """
    shared = features.space.encoder
    real_rows = np.concatenate([pool.train, pool.tune])
    real = np.concatenate([features.train.values, features.tune.values])
    targets = pool.manifest.targets
    names = pool.manifest.labels.class_names
    of_class = {number: real[targets[real_rows, number] == 1] for number in range(len(names))}
    unseen, usual_unseen = nearest_unseen(pool, features)
    found = {}
    for number in sorted(set(pool.asked.tolist())):
        made = pool.asked == number
        own = of_class[number]
        # in a multi-label table an image with this class too is no image of another class
        others = {
            names[other]: real[(targets[real_rows, other] == 1) & (targets[real_rows, number] != 1)]
            for other in range(len(names))
            if other != number
        }
        reference = targets[pool.train, number] == 1
        limit = low_ratio(usual.ratio[reference])
        generated = features.synthetic.values[made]
        distance, reason = frechet_distance(generated, own)
        random = stream(seed, "quality", shared, names[number])
        ratios = nearest.ratio[made]
        found[number] = SpaceQuality(
            position=kernel_position(generated, own, others=others, random=random),
            fid=distance,
            fid_reason=reason,
            copy_test=copy_test(nearest.distance[made], usual.distance[reference]),
            copy_share=float((ratios < limit).mean()) if not np.isnan(limit) else float("nan"),
            copy_ratio=float(np.median(ratios)),
            unseen_test=copy_test(unseen.distance[made], usual_unseen.distance[reference]),
            coverage=coverage_of(generated, own),
        )
    return found


def nearest_generated(pool: Pool, features: SpaceFeatures) -> Nearest:
    """Find the nearest train image of every generated one."""
    return nearest_train(
        features.synthetic.values,
        features.synthetic_mirrored.values,
        features.train.values,
        train_patients=pool.manifest.patients[pool.train],
    )


def nearest_real(pool: Pool, features: SpaceFeatures) -> Nearest:
    """Find the nearest train image of another patient of every train image."""
    patients = pool.manifest.patients[pool.train]
    return nearest_train(
        features.train.values,
        features.train_mirrored.values,
        features.train.values,
        patients=patients,
        train_patients=patients,
    )


def nearest_unseen(pool: Pool, features: SpaceFeatures) -> tuple[Nearest, Nearest]:
    """Find the nearest tune image of every generated and of every train image."""
    patients = pool.manifest.patients
    generated = nearest_train(features.synthetic.values, features.synthetic_mirrored.values, features.tune.values)
    real = nearest_train(
        features.train.values,
        features.train_mirrored.values,
        features.tune.values,
        patients=patients[pool.train],
        train_patients=patients[pool.tune],
    )
    return generated, real


def similarities(
    pool: Pool, generated: np.ndarray, real: np.ndarray, *, seed: int = 0
) -> dict[int, tuple[float, float]]:
    """Return the mean structural similarity within each class, of generated and of real train images.

    Args:
        pool: The pool.
        generated: float [G, H, W] in [0, 1].
        real: Of the train rows, float [T, H, W].
        seed: Draws the pairs.
    """
    found = {}
    for number in sorted(set(pool.asked.tolist())):
        random = stream(seed, "similarity", number)
        sets = (generated[pool.asked == number], real[pool.manifest.targets[pool.train, number] == 1])
        if min(generated.shape[1:]) < WINDOW:
            found[number] = (float("nan"), float("nan"))
            continue
        made, usual = (pairwise_similarity(images, pairs=PAIRS, random=random) for images in sets)
        found[number] = (made, usual)
    return found


def adherences(
    pool: Pool, lines: np.ndarray, places: np.ndarray, asked: np.ndarray, *, seed: int = 0
) -> tuple[dict[int, Adherence], np.ndarray]:
    """Compare the lines of generated images with the sketches they were asked for.

    Args:
        pool: The pool.
        lines: Of the generated images, bool [G, H, W].
        places: Which of them were asked for a sketch, integers [K].
        asked: The sketches, bool [K, H, W].
        seed: Picks the other sketches.

    Returns:
        Class number → adherence, for classes with two such images or more; and the F1 of every generated image,
        float64 [G], NaN without a sketch.
    """
    f1 = np.full(len(pool.asked), np.nan)
    if len(places):
        f1[places] = boundary_f1(lines[places], asked)
    scales = pool.meta("meta_w_s", pool.synthetic).astype(str)
    sources = pool.meta("meta_sketch_source", pool.synthetic).astype(str)
    found = {}
    for number in sorted(set(pool.asked[places].tolist())):
        here = np.flatnonzero(pool.asked[places] == number)
        if len(here) < 2:
            continue
        other = _others(sources[places[here]], random=stream(seed, "other sketch", number))
        # an image without any line agrees with nothing
        own = np.nan_to_num(f1[places[here]])
        away = np.nan_to_num(boundary_f1(lines[places[here]], asked[here[other]]))
        gaps = own - away
        by_scale = {
            scale: float(own[scales[places[here]] == scale].mean()) for scale in sorted(set(scales[places[here]]))
        }
        found[number] = Adherence(
            len(here),
            float(own.mean()),
            float(away.mean()),
            float(gaps.std(ddof=1) / np.sqrt(len(gaps))),
            by_scale if len(by_scale) > 1 else {},
        )
    return found, f1


def _others(sources: np.ndarray, *, random: np.random.Generator) -> np.ndarray:
    """Pick another image for each, drawn from another source where there is one."""
    count = len(sources)
    picked = np.empty(count, dtype=np.int64)
    for place in range(count):
        strangers = np.flatnonzero(sources != sources[place])
        if not len(strangers):
            strangers = np.delete(np.arange(count), place)
        picked[place] = random.choice(strangers)
    return picked
