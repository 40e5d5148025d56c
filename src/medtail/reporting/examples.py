"""Example images of the rare classes: the surest hits, the worst misses, the loudest false alarms.

Chosen by rule, never by eye, at most one image a patient in a row of pictures. Each is shrunk and embedded as a
data URI, so that the report stays one file.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from medtail.errors import MedtailError
from medtail.reporting.facts import ClassFacts
from medtail.tables.labels import short_name
from medtail.tables.manifest import Manifest
from medtail.tables.places import Place
from medtail.tables.predictions import Predictions

SIDE_PX = 192
PER_ROW = 4
BUDGET_BYTES = 2_000_000


@final
@dataclass(frozen=True)
class Example:
    """One picture and what it shows.

    Attributes:
        image_id: Its id.
        score: The class's score for it.
        source: A `data:` URI; "" where the image could not be read or the space was used up.
        width: In pixels.
        height: In pixels.
        note: Why there is no picture, else "".
        rival: Inside an exclusive group, what was called instead or what is true; else "".
    """

    image_id: str
    score: float
    source: str
    width: int
    height: int
    note: str = ""
    rival: str = ""


@final
@dataclass(frozen=True)
class ClassExamples:
    """The pictures of one class.

    Attributes:
        facts: The class.
        rows: Title of a row of pictures → the pictures; empty where there is no such image.
    """

    facts: ClassFacts
    rows: dict[str, list[Example]]


def choose(
    predictions: Predictions, called: np.ndarray, *, class_index: int, limit: int = PER_ROW
) -> dict[str, list[int]]:
    """Choose the rows to show of one class.

    Args:
        predictions: Scores and targets.
        called: bool [N], whether the class was called present.
        class_index: Its column.
        limit: Pictures a row, at most.

    Returns:
        `hits` (positives called, highest score first), `misses` (positives not called, lowest first), `false alarms`
        (negatives called, highest first): row numbers, at most one a patient, ties by image id.
    """
    score, target = predictions.scores[:, class_index], predictions.targets[:, class_index]
    ids = predictions.image_ids.astype(str)
    chosen = {}
    for title, mask, sign in (
        ("hits", (target == 1) & called, -1.0),
        ("misses", (target == 1) & ~called, 1.0),
        ("false alarms", (target == 0) & called, -1.0),
    ):
        order = sorted(np.flatnonzero(mask), key=lambda row: (sign * score[row], ids[row]))
        first_of_patient = {predictions.patients[row]: int(row) for row in reversed(order)}
        chosen[title] = [int(row) for row in order if first_of_patient[predictions.patients[row]] == row][:limit]
    return chosen


def encode(image: np.ndarray, *, side_px: int = SIDE_PX) -> tuple[str, int, int]:
    """Shrink an image and write it as a JPEG data URI.

    Args:
        image: float [H, W] or [H, W, 3] in [0, 1].
        side_px: Longest side of the result.

    Returns:
        The URI, width and height in pixels.

    Example:
        >>> uri, width, height = encode(np.zeros((400, 200)))
        >>> uri[:23], width, height
        ('data:image/jpeg;base64,', 96, 192)
    """
    from PIL import Image

    pixels = np.rint(np.clip(np.asarray(image, dtype=np.float64), 0.0, 1.0) * 255.0).astype(np.uint8)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    picture = Image.fromarray(pixels)
    picture.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=80, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii"), *picture.size


def gather_examples(
    rare: Sequence[ClassFacts],
    predictions: Predictions,
    called: np.ndarray,
    *,
    manifest: Manifest,
    read_image: Callable[[Place], np.ndarray],
    budget_bytes: int = BUDGET_BYTES,
) -> list[ClassExamples]:
    """Collect the pictures of the rare classes, rarest first, within a total size.

    Args:
        rare: The classes, in the order to show them.
        predictions: Scores and targets.
        called: bool [N, C], which classes were called.
        manifest: Where the images are.
        read_image: Reads one to float in [0, 1], [H, W] or [H, W, 3].
        budget_bytes: Embedded bytes in all; later pictures are named without being shown.

    Returns:
        One entry a class that has any row of pictures.
    """
    row_of = {image_id: row for row, image_id in enumerate(manifest.frame["image_id"])}
    # the same image may be an example of several classes: read it once, embed it each time
    cache: dict[str, tuple[str, int, int, str]] = {}
    spent = 0
    gathered = []
    for facts in rare:
        index = predictions.labels.index(facts.name)
        rows: dict[str, list[Example]] = {}
        for title, chosen in choose(predictions, called[:, index], class_index=index).items():
            rows[title] = []
            for row in chosen:
                image_id = str(predictions.image_ids[row])
                if image_id not in cache:
                    cache[image_id] = _load(image_id, row_of, manifest, read_image)
                source, width, height, note = cache[image_id]
                if spent + len(source) > budget_bytes:
                    source, note = "", "left out to keep this file small"
                spent += len(source)
                score = float(predictions.scores[row, index])
                rows[title].append(
                    Example(image_id, score, source, width, height, note, _rival(predictions, row, index, title))
                )
        if any(rows.values()):
            gathered.append(ClassExamples(facts, rows))
    return gathered


def _rival(predictions: Predictions, row: int, index: int, title: str) -> str:
    """Say what stands against a class of an exclusive group: the class called instead, or the true one."""
    for group, indices in zip(predictions.labels.groups, predictions.labels.group_indices, strict=True):
        if index not in indices:
            continue
        columns = list(indices)
        if title == "hits":
            return "the highest of its group"
        if title == "misses":
            best = int(np.argmax(predictions.scores[row, columns]))
            return f"called “{short_name(group.classes[best])}” at {predictions.scores[row, columns[best]]:.3f}"
        present = np.flatnonzero(predictions.targets[row, columns] == 1)
        return (
            f"labelled “{short_name(group.classes[int(present[0])])}”"
            if len(present)
            else "labelled as none of its group"
        )
    return ""


def _load(
    image_id: str, row_of: dict[str, int], manifest: Manifest, read_image: Callable[[Place], np.ndarray]
) -> tuple[str, int, int, str]:
    if image_id not in row_of:
        return "", 0, 0, "not in the manifest"
    try:
        return *encode(read_image(manifest.image_path(row_of[image_id]))), ""
    except (MedtailError, OSError):
        return "", 0, 0, "could not be read"
