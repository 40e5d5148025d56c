"""Image vectors and text vectors become Predictions, without a label and without training.

Scores are functions of cosines; what is said of a class decides them. They rank images, and are no probabilities until
`priors` has moved them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, assert_never, final

import numpy as np
from pydantic import Field

from medtail.config import CLOSED, config_to_dict
from medtail.errors import MedtailError, UsageError, did_you_mean
from medtail.runs import digest_json
from medtail.seeding import stream
from medtail.tables.labels import LabelSpace
from medtail.tables.manifest import FOLDS, Manifest
from medtail.tables.predictions import Predictions, scores_from_logits
from medtail.tables.vectors import ImageVectors, PhraseKind, TextVectors, check_same_space, unit_rows

Mode = Literal["prompts", "prompts_posneg", "prompts_random", "descriptions"]


@final
@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """How cosines become scores.

    Attributes:
        mode: `prompts`: σ(k · cos(v, mean of the prompts)). `prompts_posneg`: softmax of the cosines with the prompts'
            and the negatives' mean. `prompts_random`: the mean of `prompts` over random draws of keywords.
            `descriptions`: as `prompts`, of sentences that say what a finding looks like and where.
        sharpness: k > 0; changes F1 and ECE, never the order.
        temperature: τ > 0 of the softmax; never the order either.
        draws: Draws of keywords.
        share: Of a class's keywords in a draw, in (0, 1]; one at least.
        seed: Of the draws.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    mode: Mode = "prompts"
    sharpness: Annotated[float, Field(gt=0.0)] = 5.0
    temperature: Annotated[float, Field(gt=0.0)] = 1.0
    draws: Annotated[int, Field(ge=1)] = 3
    share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    seed: int = 0


def zero_shot_scores(
    images: np.ndarray, texts: TextVectors, class_names: Sequence[str], *, config: ScoreConfig | None = None
) -> np.ndarray:
    """Score images by what is said of each class; inside an exclusive group the scores add up to 1.

    Args:
        images: Unit vectors, float [N, d].
        texts: Unit vectors of phrases.
        class_names: The classes to score.
        config: How; prompts with k = 5 if None.

    Returns:
        float64 [N, C] in (0, 1).

    Raises:
        MedtailError: A class has no phrase of the kind that the mode asks for, or the phrases' mean has no direction.

    Example:
        >>> from medtail.tables.vectors import Phrase, text_vectors
        >>> texts = text_vectors([Phrase("Mass", "prompt", "mass", "a mass")], np.array([[1.0, 0.0]]))
        >>> zero_shot_scores(np.array([[1.0, 0.0], [0.0, 1.0]]), texts, ["Mass"]).round(4).tolist()
        [[0.9933], [0.5]]

    References:
        radford2021, tiu2022 (prompts_posneg).
    """
    config = config or ScoreConfig()
    images = np.asarray(images, dtype=np.float64)

    def cosines(kind: PhraseKind) -> np.ndarray:
        return np.asarray(images @ texts.means(class_names, kind).astype(np.float64).T)

    groups = LabelSpace.from_columns(list(class_names)).group_indices
    match config.mode:
        case "prompts":
            return scores_from_logits(config.sharpness * cosines("prompt"), groups)
        case "descriptions":
            return scores_from_logits(config.sharpness * cosines("description"), groups)
        case "prompts_posneg":
            texts.check(class_names, "prompt", "negative")
            return scores_from_logits((cosines("prompt") - cosines("negative")) / config.temperature, groups)
        case "prompts_random":
            texts.check(class_names, "prompt")
            drawn = [
                np.stack([_drawn_mean(texts, name, draw, config) for name in class_names])
                for draw in range(config.draws)
            ]
            shares = [scores_from_logits(config.sharpness * images @ mean.T, groups) for mean in drawn]
            return np.asarray(np.mean(shares, axis=0))
        case _:
            assert_never(config.mode)


def _drawn_mean(texts: TextVectors, name: str, draw: int, config: ScoreConfig) -> np.ndarray:
    """Return the mean prompt of one draw of a class's keywords; a class's draw does not depend on the others."""
    rows = texts.rows(name)
    keywords = sorted({texts.phrases[row].keyword for row in rows})
    count = max(1, round(config.share * len(keywords)))
    chosen = set(stream(config.seed, "keywords", name, draw).permutation(keywords)[:count])
    kept = [row for row in rows if texts.phrases[row].keyword in chosen]
    mean = texts.values[kept].mean(axis=0, keepdims=True)
    unit = unit_rows(mean, what=[f"{texts.name}, class {name!r}, draw {draw}"])
    return np.asarray(unit[0], dtype=np.float64)


def predict_zero_shot(
    images: ImageVectors,
    texts: TextVectors,
    manifest: Manifest,
    *,
    class_names: Sequence[str] | None = None,
    fold: str | None = None,
    config: ScoreConfig | None = None,
) -> Predictions:
    """Score a manifest's images without training; the table is an ordinary one.

    Labels are carried along for whoever judges the scores and have no part in them. A class the manifest has no column
    for is not assessed anywhere.

    Args:
        images: Their vectors.
        texts: Vectors of phrases, of the same tower.
        manifest: The rows.
        class_names: The classes; all of `texts` if None.
        fold: Score only this fold; all rows if None.
        config: How cosines become scores.

    Returns:
        Predictions without thresholds, whose digests name tower, phrases and manifest.

    Raises:
        MedtailError: Vectors are missing or of two towers, or a class has no phrases.
        UsageError: No such fold.
    """
    config = config or ScoreConfig()
    check_same_space(images, texts)
    names = tuple(texts.class_names if class_names is None else class_names)
    if not names:
        raise MedtailError("--classes: none; expected a class at least.")
    labels = LabelSpace.from_columns(names)
    if fold is not None and fold not in FOLDS:
        raise UsageError(f"--fold {fold!r}: expected one of {', '.join(FOLDS)}{did_you_mean(fold, FOLDS)}.")
    rows = manifest if fold is None else manifest.in_fold(fold)
    if not len(rows):
        raise MedtailError(f"{manifest.name}, column 'fold': no row is in {fold!r}; leave the fold out for all rows.")
    ids = rows.frame["image_id"].to_numpy(dtype=object)
    targets = np.full((len(rows), len(names)), np.nan)
    for c, name in enumerate(names):
        if name in rows.labels.class_names:
            targets[:, c] = rows.targets[:, rows.labels.index(name)]
    header = texts.header
    phrases = {"phrases": str(header["phrases_digest"])} if "phrases_digest" in header else {}
    tower = {"tower": str(header["tower_digest"])} if "tower_digest" in header else {}
    made_of = {"texts": texts.digest, "images": images.digest, "config": config_to_dict(config), "classes": list(names)}
    return Predictions(
        image_ids=ids,
        patients=rows.patients,
        scores=zero_shot_scores(images.of(ids), texts, names, config=config),
        targets=targets,
        labels=labels,
        folds=rows.folds,
        has_patients=rows.has_patients,
        digests={"manifest": manifest.digest, "model": digest_json(made_of), **tower, **phrases},
        name=f"{config.mode} scores",
    )
