"""Inspecting a pool: encode every image, measure every class, say what it amounts to.

    POOL/quality.csv     a row a generated image: nearest train image, copy ratio, the judge's answer, sketch F1
    POOL/quality.json    a class's numbers, space by space, with the verdict; what was used to get them
    POOL/inspect.html    the page to look at            POOL/sheets/*.png   its contact sheets

Nothing of the pool is changed. `quality` measures, `verdicts` words, `quality_page` draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from PIL import Image

from medtail.config import read_yaml
from medtail.errors import MedtailError
from medtail.pixels.decode import read_image
from medtail.pixels.settings import PixelConfig
from medtail.pixels.store import PixelStore, open_store
from medtail.synthesis.features import (
    Encoder,
    Features,
    ImagenetEncoder,
    JudgeEncoder,
    LatentEncoder,
    PixelEncoder,
    load_judge,
    mirrored,
)
from medtail.synthesis.fidelity import ClassControl, class_control, judge_entropy
from medtail.synthesis.folder import Generator, load_generator
from medtail.synthesis.loss_gap import LossGap, chosen_rows, denoising_losses, gap_of
from medtail.synthesis.memorisation import Nearest
from medtail.synthesis.pool_reading import Pool, read_pool
from medtail.synthesis.quality import (
    ClassQuality,
    SpaceFeatures,
    adherences,
    nearest_generated,
    nearest_real,
    similarities,
    space_quality,
)
from medtail.synthesis.sketch import SketchConfig, Sketches, sketch_images
from medtail.synthesis.verdicts import Verdict, verdict_of
from medtail.tables.places import Remote
from medtail.tables.predictions import Predictions, read_predictions
from medtail.tables.tail import count_classes, tail_groups

Tick = Callable[[int, int], None]
ADJUSTED = ("logit_adjusted",)
"""Losses after which a judge's raw scores are those of equally common classes."""


@final
@dataclass(frozen=True, eq=False)
class Judgement:
    """What a judge says of the pool's rows.

    Attributes:
        name: Run or file.
        scores: float [rows of the pool's manifest, C]; NaN where it says nothing.
        thresholds: float [C].
        caution: What makes its verdict doubtful, "" if nothing.
    """

    name: str
    scores: np.ndarray
    thresholds: np.ndarray
    caution: str


@final
@dataclass(frozen=True, eq=False)
class Inspection:
    """Everything found about a pool.

    Attributes:
        pool: The pool.
        classes: Numbers of each class, rarest last as in the table.
        verdicts: Class → words.
        nearest: Encoder → nearest train image of each generated one.
        usual: Encoder → the same of train images.
        features: Encoder → everything encoded.
        sketch_f1: Of each generated image with its asked sketch, float [G], NaN without one.
        judgement: The judge's answers; None without a judge.
        images: Generated images as measured, float32 [G, H, W] in [0, 1].
        real: Train images as measured, float32 [T, H, W].
        sketches: Of the generated images.
        cautions: What a reader must know.
    """

    pool: Pool
    classes: tuple[ClassQuality, ...]
    verdicts: dict[str, Verdict]
    nearest: dict[str, Nearest]
    usual: dict[str, Nearest]
    features: dict[str, SpaceFeatures]
    sketch_f1: np.ndarray
    judgement: Judgement | None
    images: np.ndarray
    real: np.ndarray
    sketches: Sketches
    cautions: tuple[str, ...]

    @property
    def entropy(self) -> np.ndarray | None:
        """The judge's cross-entropy of each generated image, float64 [G]; None without a judge."""
        if self.judgement is None:
            return None
        return judge_entropy(self.judgement.scores[self.pool.synthetic], self.pool.asked)


def inspect_pool(
    folder: Path | str,
    *,
    judge: Path | None = None,
    generator: Path | None = None,
    imagenet: bool = False,
    pixels: PixelConfig | None = None,
    sketch: SketchConfig | None = None,
    cache: Path | None = None,
    seed: int = 0,
    progress: Tick | None = None,
) -> Inspection:
    """Inspect a pool.

    Args:
        folder: The pool.
        judge: A run, best trained with `loss: {kind: logit_adjusted}`, or its predictions for the pool's `manifest.csv`
            (all folds but test); None leaves class control unknown.
        generator: Brings the `latent` space; one lying beside the pool under the name of its record is found by itself.
        imagenet: Also use the ImageNet space.
        pixels: How images are prepared for the spaces without settings of their own; None is as for the generator, else
            as for the judge, else whole images at the generated ones' size.
        sketch: How lines are found; None is as for the generator, else the default.
        cache: Folder of prepared pixels; the default if None.
        seed: Of halvings and random pairs.
        progress: Called with (spaces done, spaces).

    Returns:
        The inspection.

    Raises:
        MedtailError: The pool, judge or generator cannot be used; see `read_pool`, `load_judge`, `load_generator`.
    """
    pool = read_pool(folder)
    found_generator = _find_generator(pool, generator)
    cautions: list[str] = []
    encoders: list[Encoder] = []
    judgement: Judgement | None = None
    judge_encoder = load_judge(judge) if judge is not None and judge.is_dir() else None
    if pixels is None:
        pixels = _pixels(pool, found_generator, judge_encoder)
    if judge_encoder is not None and judge is not None:
        encoders.append(judge_encoder)
    elif judge is not None:
        judgement = _from_file(pool, judge)
    if found_generator is not None:
        encoders.append(LatentEncoder(found_generator))
    if imagenet:
        encoders.append(ImagenetEncoder(pixels))
    encoders.append(PixelEncoder(pixels))

    features: dict[str, SpaceFeatures] = {}
    for number, encoder in enumerate(encoders):
        store = _open(pool, encoder.pixels, cache)
        if isinstance(encoder, JudgeEncoder) and judge is not None:
            judgement, features[encoder.space.encoder] = _judged(pool, encoder, store, judge=judge)
        else:
            features[encoder.space.encoder] = _encoded(pool, encoder, store)
        if progress is not None:
            progress(number + 1, len(encoders))
    if judgement is None:
        cautions.append("No judge was given, so nothing is said of whether images show the class they were made for.")
    elif judgement.caution:
        cautions.append(judgement.caution)
    if not pool.record:
        cautions.append("The pool has no record.json: nobody can tell whom its generator has learnt from.")

    gray = replace(pixels, channels=1)
    store = _open(pool, gray, cache)
    images, real = _gray(store, pool.synthetic), _gray(store, pool.train)
    config = (
        sketch if sketch is not None else (SketchConfig() if found_generator is None else found_generator.config.sketch)
    )
    sketches = sketch_images(images, config, content_boxes=store.content_boxes[pool.synthetic])
    places, asked = pool.asked_lines(images.shape[1])
    kept, sketch_f1 = adherences(pool, sketches.lines, places, asked, seed=seed)
    nearest = {name: nearest_generated(pool, found) for name, found in features.items()}
    usual = {name: nearest_real(pool, found) for name, found in features.items()}
    spaces = {
        name: space_quality(pool, found, nearest[name], usual[name], seed=seed) for name, found in features.items()
    }
    similar = similarities(pool, images, real, seed=seed)
    control = {} if judgement is None else _control(pool, judgement)
    counts = count_classes(pool.manifest)
    groups = tail_groups(counts, labels=pool.manifest.labels).group_of
    classes = []
    for number in sorted(set(pool.asked.tolist())):
        name = pool.manifest.labels.class_names[number]
        classes.append(
            ClassQuality(
                name=name,
                group=groups[name],
                train_images=counts.images[number],
                train_patients=counts.patients[number],
                generated=int((pool.asked == number).sum()),
                spaces={space: found[number] for space, found in spaces.items()},
                similarity=similar[number][0],
                real_similarity=similar[number][1],
                control=control.get(name),
                adherence=kept.get(number),
                loss_gap=None
                if found_generator is None
                else _loss_gap(pool, found_generator, store, number, seed=seed),
            )
        )
    return Inspection(
        pool=pool,
        classes=tuple(classes),
        verdicts={quality.name: verdict_of(quality) for quality in classes},
        nearest=nearest,
        usual=usual,
        features=features,
        sketch_f1=sketch_f1,
        judgement=judgement,
        images=images,
        real=real,
        sketches=sketches,
        cautions=tuple(cautions),
    )


def _loss_gap(pool: Pool, generator: Generator, store: PixelStore, number: int, *, seed: int) -> LossGap:
    parts = []
    for fold in (pool.train, pool.tune):
        rows = chosen_rows(pool.shows(fold, number))
        images = torch.from_numpy(_gray(store, rows)[:, None])
        order = [pool.manifest.labels.index(name) for name in generator.labels.class_names]
        present = torch.from_numpy(pool.manifest.targets[rows][:, order])
        parts.append(denoising_losses(generator, images, present, seed=seed))
    return gap_of(parts[0], parts[1])


def _find_generator(pool: Pool, folder: Path | None) -> Generator | None:
    digest = pool.record.get("generator_digest")
    if folder is not None:
        generator = load_generator(folder)
        if digest is not None and generator.digest != digest:
            raise MedtailError(
                f"{folder}: is generator {generator.digest[:12]}; the pool was made by {str(digest)[:12]}. Give that"
                " one."
            )
        return generator
    beside = pool.folder.parent / str(pool.record.get("generator", ""))
    if digest is None or not pool.record.get("generator") or not (beside / "record.json").is_file():
        return None
    generator = load_generator(beside)
    return generator if generator.digest == digest else None


def _pixels(pool: Pool, generator: Generator | None, judge: JudgeEncoder | None) -> PixelConfig:
    if generator is not None:
        return generator.config.prepared
    if judge is not None:
        return judge.pixels
    path = pool.manifest.image_path(int(pool.synthetic[0]))
    if isinstance(path, Remote):
        return PixelConfig(size_px=max(read_image(path).shape[:2]))
    try:
        with Image.open(path) as image:
            return PixelConfig(size_px=max(image.size))
    except OSError as error:
        raise MedtailError(f"{path}: cannot be read as an image ({error}). Make the pool again.") from error


def _open(pool: Pool, pixels: PixelConfig, cache: Path | None) -> PixelStore:
    # test rows are not even prepared
    if pixels.crop == "roi":
        pixels = replace(pixels, missing_roi="whole")  # a generated image is all region
    wanted = np.concatenate([pool.synthetic, pool.train, pool.tune])
    store = open_store(pool.manifest.take(wanted), pixels, cache=cache)
    slots = np.full(len(pool.manifest), -1, dtype=np.int64)
    boxes = np.zeros((len(pool.manifest), 4), dtype=np.int16)
    slots[wanted], boxes[wanted] = store.slots, store.content_boxes
    return replace(store, slots=slots, content_boxes=boxes)


def _gray(store: PixelStore, rows: np.ndarray) -> np.ndarray:
    return np.asarray(store.images(rows)[:, 0].astype(np.float32) / 255.0)


def _encoded(pool: Pool, encoder: Encoder, store: PixelStore) -> SpaceFeatures:
    def encode(rows: np.ndarray, *, mirror: bool = False) -> Features:
        images, boxes = store.images(rows), store.content_boxes[rows]
        return encoder.encode(*(mirrored(images, boxes) if mirror else (images, boxes)))

    return SpaceFeatures(
        synthetic=encode(pool.synthetic),
        synthetic_mirrored=encode(pool.synthetic, mirror=True),
        train=encode(pool.train),
        train_mirrored=encode(pool.train, mirror=True),
        tune=encode(pool.tune),
    )


def _loss_of(run: Path) -> str | None:
    """Return the loss a run was trained with; None where only its model is there."""
    if not (run / "config.yaml").is_file():
        return None
    loss = read_yaml(run / "config.yaml").get("loss")
    return str(loss["kind"]) if isinstance(loss, dict) and "kind" in loss else None


def _judged(pool: Pool, encoder: JudgeEncoder, store: PixelStore, *, judge: Path) -> tuple[Judgement, SpaceFeatures]:
    labels = pool.manifest.labels
    chosen = encoder.card.check_manifest(pool.manifest).labels
    if set(chosen.class_names) != set(labels.class_names):
        lacking = sorted(set(labels.class_names) - set(chosen.class_names))
        raise MedtailError(f"{judge.name}: the judge does not know the classes {lacking}; expected all of the pool's.")
    order = [chosen.class_names.index(class_name) for class_name in labels.class_names]
    features = _encoded(pool, encoder, store)
    scores = np.full((len(pool.manifest), labels.num_classes), np.nan)
    for rows in (pool.synthetic, pool.tune):
        scores[rows] = encoder.judge(store.images(rows), store.content_boxes[rows])[1][:, order]
    chosen_thresholds = encoder.card.thresholds or {}
    thresholds = np.array([float(chosen_thresholds.get(class_name, 0.5)) for class_name in labels.class_names])
    kind, caution = _loss_of(judge), ""
    if kind is not None and kind not in ADJUSTED:
        caution = (
            f"The judge was trained with the loss {kind!r}, not a logit-adjusted one; it may hardly see rare classes."
        )
    return Judgement(judge.name, scores, thresholds, caution), features


def _from_file(pool: Pool, path: Path) -> Judgement:
    labels = pool.manifest.labels
    wanted = np.concatenate([pool.synthetic, pool.tune])
    found: Predictions = read_predictions(path, truth=pool.manifest, partial=True)
    row_of = {image_id: row for row, image_id in enumerate(found.image_ids)}
    ids = pool.manifest.frame["image_id"].to_numpy(dtype=object)
    missing = [str(ids[row]) for row in wanted if ids[row] not in row_of]
    if missing:
        raise MedtailError(
            f"{path}: lacks {len(missing)} of the pool's {len(wanted)} generated and tune images, such as"
            f" {missing[0]!r}. Make it with `medtail predict RUN {pool.folder}/manifest.csv --out {path.name}`."
        )
    scores = np.full((len(pool.manifest), labels.num_classes), np.nan)
    order = [found.labels.class_names.index(name) for name in labels.class_names]
    scores[wanted] = found.scores[[row_of[ids[row]] for row in wanted]][:, order]
    caution = (
        "The judge is a table of scores; whether it was trained with a logit-adjusted loss is not known. A plain"
        " long-tailed judge hardly sees rare classes."
    )
    return Judgement(path.name, scores, found.threshold_array[order], caution)


def _control(pool: Pool, judgement: Judgement) -> dict[str, ClassControl]:
    return class_control(
        judgement.scores[pool.synthetic],
        pool.asked,
        labels=pool.manifest.labels,
        tune_scores=judgement.scores[pool.tune],
        tune_targets=pool.manifest.targets[pool.tune].astype(float),
        tune_patients=pool.manifest.patients[pool.tune],
        thresholds=judgement.thresholds,
    )


def shown_spaces(classes: Sequence[ClassQuality]) -> tuple[str, ...]:
    """Return the encoders that were used, in the order they were."""
    return tuple(classes[0].spaces) if classes else ()


def json_of(value: Any) -> Any:
    """Return plain values for a file: numbers that are none become null.

    Example:
        >>> json_of({"a": float("nan"), "b": (np.float64(1.5),)})
        {'a': None, 'b': [1.5]}
    """
    if isinstance(value, dict):
        return {str(key): json_of(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_of(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
