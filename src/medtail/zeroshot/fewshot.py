"""From zero shots to a few: a linear head on frozen image vectors that starts at the text and is held near it.

With no labelled image it is the zero-shot classifier; every image pulls it away from the text, the more of them the
further. The images come from the train fold, from different patients, by a random stream of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, final

import numpy as np
from pydantic import Field
from scipy.optimize import minimize
from scipy.special import expit

from medtail.config import CLOSED, config_to_dict
from medtail.errors import MedtailError, Problems
from medtail.runs import digest_json
from medtail.seeding import stream
from medtail.tables.labels import LabelSpace
from medtail.tables.manifest import Manifest
from medtail.tables.predictions import Predictions, scores_from_logits
from medtail.tables.vectors import ImageVectors, TextVectors, check_same_space
from medtail.zeroshot.scores import ScoreConfig, predict_zero_shot


@final
@dataclass(frozen=True, kw_only=True)
class FewShotConfig:
    """How the head leaves the text.

    Attributes:
        shots: Labelled images a class that show it, and as many that do not; at most one a patient.
        pull: Strength of the pull back to the text's weights, > 0; the larger, the more the text decides.
        sharpness: k of the zero-shot start, > 0.
        seed: Of the choice of images.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    shots: Annotated[int, Field(ge=0)] = 8
    pull: Annotated[float, Field(gt=0.0)] = 1.0
    sharpness: Annotated[float, Field(gt=0.0)] = 5.0
    seed: int = 0


@final
@dataclass(frozen=True)
class FewShotHead:
    """Weights on unit image vectors: logit_c = w_c · v + b_c.

    Attributes:
        class_names: The classes.
        weights: float64 [C, d].
        biases: float64 [C].
        used: Class → ids of the images it learnt from.
        short: Classes with fewer than the asked number of images that show them, or that do not → how many of each.
    """

    class_names: tuple[str, ...]
    weights: np.ndarray
    biases: np.ndarray
    used: dict[str, tuple[str, ...]]
    short: dict[str, tuple[int, int]]

    def scores(self, images: np.ndarray) -> np.ndarray:
        """Return scores of unit vectors [N, d], float64 [N, C]; inside an exclusive group they add up to 1."""
        logits = np.asarray(images, dtype=np.float64) @ self.weights.T + self.biases
        return scores_from_logits(logits, LabelSpace.from_columns(list(self.class_names)).group_indices)


def fit_few_shot(
    images: ImageVectors,
    texts: TextVectors,
    manifest: Manifest,
    *,
    class_names: Sequence[str] | None = None,
    config: FewShotConfig | None = None,
) -> FewShotHead:
    """Fit the head on a few images of the train fold.

    Minimises Σ log loss + pull / 2 · (|w - k t|² / k² + b²) a class, from w = k t, b = 0 with t the unit mean of its
    prompts. Positives and negatives weigh the same in total. (The penalty toward the text is this project's choice.)

    Args:
        images: Vectors of the train fold's images at least.
        texts: Vectors of the prompts.
        manifest: Labels and folds.
        class_names: The classes; all of `texts` if None.
        config: How; eight shots if None.

    Returns:
        The head; the images it saw are named.

    Raises:
        MedtailError: A class has no column in the manifest, or there is no train fold although shots are asked for.
    """
    config = config or FewShotConfig()
    check_same_space(images, texts)
    names = tuple(texts.class_names if class_names is None else class_names)
    start = config.sharpness * texts.means(names).astype(np.float64)
    if not config.shots:
        return FewShotHead(names, start, np.zeros(len(names)), dict.fromkeys(names, ()), {})
    problems = Problems(manifest.name)
    for name in names:
        if name not in manifest.labels.class_names:
            problems.add(f"class {name!r}: no such column; expected labels to learn from, or --shots 0.")
    train = manifest.take((manifest.folds == "train") & manifest.is_real)
    if not len(train):
        problems.add("column 'fold': no row is in 'train'; make folds with `medtail data split`.")
    problems.raise_if_any()
    weights, biases = np.empty_like(start), np.zeros(len(names))
    used, short = {}, {}
    for c, name in enumerate(names):
        rows, counts = _choose(train, name, config)
        if min(counts) < config.shots:
            short[name] = counts
        ids = train.frame["image_id"].to_numpy(dtype=object)[rows]
        used[name] = tuple(str(image_id) for image_id in ids)
        targets = train.targets[rows, train.labels.index(name)].astype(np.float64)
        weights[c], biases[c] = _fit(images.of(ids).astype(np.float64), targets, start[c], config)
    return FewShotHead(names, weights, biases, used, short)


def predict_few_shot(
    head: FewShotHead,
    images: ImageVectors,
    texts: TextVectors,
    manifest: Manifest,
    *,
    fold: str | None = None,
    config: FewShotConfig | None = None,
) -> Predictions:
    """Score a manifest's images with a fitted head; the table is an ordinary one.

    Args:
        head: What `fit_few_shot` returned.
        images: Vectors of the images.
        texts: The texts the head started from.
        manifest: The rows.
        fold: Score only this fold; all if None.
        config: What it was fitted with, for the record.

    Raises:
        MedtailError: Images without vectors; see `predict_zero_shot`.
    """
    config = config or FewShotConfig()
    plain = predict_zero_shot(
        images,
        texts,
        manifest,
        class_names=head.class_names,
        fold=fold,
        config=ScoreConfig(sharpness=config.sharpness),
    )
    record = {
        "texts": texts.digest,
        "images": images.digest,
        "config": config_to_dict(config),
        "used": {name: list(ids) for name, ids in head.used.items()},
    }
    return replace(
        plain,
        scores=head.scores(images.of(plain.image_ids)),
        digests={**plain.digests, "model": digest_json(record)},
        name=f"{config.shots}-shot scores",
    )


def _choose(train: Manifest, name: str, config: FewShotConfig) -> tuple[np.ndarray, tuple[int, int]]:
    """Return the rows to learn from, at most one a patient, and how many show the class and how many do not."""
    targets = train.targets[:, train.labels.index(name)]
    order = stream(config.seed, "shots", name).permutation(len(train))
    taken: set[str] = set()
    chosen: list[int] = []
    counts = []
    for value in (1.0, 0.0):  # positives first: they are rare
        kept = 0
        for row in order:
            if kept == config.shots:
                break
            patient = str(train.patients[row])
            if targets[row] == value and patient not in taken:
                taken.add(patient)
                chosen.append(int(row))
                kept += 1
        counts.append(kept)
    return np.array(chosen, dtype=np.int64), (counts[0], counts[1])


def _fit(
    vectors: np.ndarray, targets: np.ndarray, start: np.ndarray, config: FewShotConfig
) -> tuple[np.ndarray, float]:
    positives, negatives = int((targets == 1).sum()), int((targets == 0).sum())
    if not positives or not negatives:  # one kind alone says nothing of where the border is
        return start, 0.0
    balance = np.where(targets == 1, len(targets) / (2.0 * positives), len(targets) / (2.0 * negatives))
    signs, scale = 2.0 * targets - 1.0, config.sharpness**2

    def value(point: np.ndarray) -> tuple[float, np.ndarray]:
        weights, bias = point[:-1], point[-1]
        margins = signs * (vectors @ weights + bias)
        loss = float((balance * np.logaddexp(0.0, -margins)).sum())
        slope = -balance * signs * expit(-margins)
        away = weights - start
        total = loss + config.pull / 2.0 * (float(away @ away) / scale + float(bias * bias))
        gradient = np.append(vectors.T @ slope + config.pull * away / scale, slope.sum() + config.pull * bias)
        return total, gradient

    found = minimize(value, np.append(start, 0.0), jac=True, method="L-BFGS-B", options={"maxiter": 500})
    if not np.isfinite(found.x).all():
        raise MedtailError("few-shot head: its fit diverged; expected finite image vectors.")
    return found.x[:-1], float(found.x[-1])
