"""Transfer: a class scored by another one that a model does know.

Either named by the user (a model of another data set that has the label under its own name), or the trained class
whose text is nearest: the yardstick that any zero-shot method must beat, since it needs no zero-shot method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from medtail.errors import MedtailError, Problems, did_you_mean
from medtail.runs import digest_json
from medtail.tables.labels import LabelSpace
from medtail.tables.manifest import Manifest
from medtail.tables.predictions import Predictions
from medtail.tables.vectors import TextVectors


def nearest_seen(texts: TextVectors, *, unseen: Sequence[str], seen: Sequence[str]) -> dict[str, str]:
    """Return for each unseen class the seen one whose mean prompt is nearest; the first of equals.

    Args:
        texts: Vectors of all these classes.
        unseen: Classes to stand in for.
        seen: Classes that can.

    Raises:
        MedtailError: A class has no prompts, or there is no seen class.

    Example:
        >>> from medtail.tables.vectors import Phrase, text_vectors
        >>> texts = text_vectors([Phrase(w, "prompt", w, w) for w in "abc"], np.array([[1, 0], [0, 1], [0.2, 1]]))
        >>> nearest_seen(texts, unseen=["c"], seen=["a", "b"])
        {'c': 'b'}
    """
    if not seen:
        raise MedtailError("nearest seen class: no seen classes; expected one at least.")
    likeness = texts.means(unseen) @ texts.means(seen).T
    return {name: seen[int(best)] for name, best in zip(unseen, likeness.argmax(axis=1), strict=True)}


def transfer(
    predictions: Predictions, stands_in: Mapping[str, str], *, manifest: Manifest | None = None
) -> Predictions:
    """Score classes by others that a model knows.

    Args:
        predictions: Scores of the classes that stand in.
        stands_in: Class to score → class whose scores it takes.
        manifest: Labels of the classes to score; those of `predictions` where they have them, else not assessed.

    Returns:
        Predictions of the classes to score, without thresholds.

    Raises:
        MedtailError: A class that stands in is not in `predictions`, or images are not in the manifest.

    Example:
        >>> ids = np.array(["a"], dtype=object)
        >>> rows = Predictions(ids, ids, np.array([[0.3]]), np.array([[1.0]]), LabelSpace(("Mass",)), ids)
        >>> transfer(rows, {"Nodule": "Mass"}).scores.tolist()
        [[0.3]]
    """
    known = predictions.labels.class_names
    problems = Problems(predictions.name)
    for name, other in stands_in.items():
        if other not in known:
            problems.add(
                f"class {other!r}, to stand in for {name!r}: not scored there{did_you_mean(other, known) or '.'}"
            )
    problems.raise_if_any()
    names = tuple(stands_in)
    targets = np.full((len(predictions), len(names)), np.nan)
    for c, name in enumerate(names):
        if manifest is not None and name in manifest.labels.class_names:
            targets[:, c] = _targets(predictions, manifest)[:, manifest.labels.index(name)]
        elif name in known:
            targets[:, c] = predictions.targets[:, known.index(name)]
    record = {"of": dict(predictions.digests), "stands_in": dict(stands_in)}
    return replace(
        predictions,
        scores=predictions.scores[:, [known.index(other) for other in stands_in.values()]],
        targets=targets,
        labels=LabelSpace.from_columns(names),
        thresholds=None,
        train_counts=None,
        digests={**predictions.digests, "model": digest_json(record)},
        name="transferred scores",
    )


def _targets(predictions: Predictions, manifest: Manifest) -> np.ndarray:
    place = {str(image_id): row for row, image_id in enumerate(manifest.frame["image_id"])}
    missing = [str(image_id) for image_id in predictions.image_ids if str(image_id) not in place]
    if missing:
        raise MedtailError(f"{manifest.name}: has no row for {len(missing)} scored images, such as {missing[0]!r}.")
    return manifest.targets[[place[str(image_id)] for image_id in predictions.image_ids]].astype(np.float64)
