"""What an exported file says of itself: classes, pixels, thresholds, digests, and how it was checked.

Kept as strict JSON in the file's metadata, so that the file alone is enough to use it and nothing in it is ever run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, final

from medtail.config import CLOSED, build_config, config_to_dict
from medtail.errors import MedtailError
from medtail.pixels.settings import PixelConfig
from medtail.tables.labels import LabelSpace
from medtail.tables.tail import ClassCounts

FORMAT = "medtail-onnx/1"
KEY = "medtail"
"""Name of the metadata entry that holds the record."""
PREPARATION = (
    "images: uint8 [N, channels, size, size], decoded, cut and letterboxed as `pixels` says (medtail.pixels.decode and"
    " medtail.pixels.letterbox); scaling and normalisation are in this file."
)


@final
@dataclass(frozen=True, kw_only=True)
class OnnxRecord:
    """The record in an exported file.

    Attributes:
        labels: Classes in the order of the outputs' columns, and exclusive groups.
        pixels: How images must be prepared.
        thresholds: Class → probability at or above which it is called present; None if never chosen.
        raw_thresholds: The same for scores without calibration.
        train_counts: Images and patients of each class in the train fold; None if unknown.
        digests: `model`, the weights exported, and `calibration` where one is inside.
        needs_content: Whether there is an input `content`.
        members: Networks averaged.
        mirrored: Whether each image was averaged with its mirror image.
        precision: `float32`, or `int8` after quantisation.
        differences: Batch size → largest difference from torch on probabilities, found when it was written.
        quantisation: How it was made and what it lost, for `int8`; else empty.
        note: What the model may be used for.
        versions: Of medtail and the libraries it was made with.
        preparation: For readers who do not have medtail.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    labels: LabelSpace
    pixels: PixelConfig
    thresholds: Mapping[str, float] | None
    raw_thresholds: Mapping[str, float] | None
    train_counts: ClassCounts | None
    digests: Mapping[str, str]
    needs_content: bool
    members: int
    mirrored: bool
    precision: Literal["float32", "int8"] = "float32"
    differences: Mapping[str, float] = field(default_factory=dict)
    quantisation: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    preparation: str = PREPARATION

    def to_metadata(self) -> dict[str, str]:
        """Return the file's metadata: the record, and what other tools look for under names of their own."""
        value = {
            "format": FORMAT,
            "labels": self.labels.to_json(),
            "pixels": config_to_dict(self.pixels),
            "thresholds": None if self.thresholds is None else dict(self.thresholds),
            "raw_thresholds": None if self.raw_thresholds is None else dict(self.raw_thresholds),
            "train_counts": None if self.train_counts is None else self.train_counts.to_json(),
            "digests": dict(self.digests),
            "needs_content": self.needs_content,
            "members": self.members,
            "mirrored": self.mirrored,
            "precision": self.precision,
            "differences": dict(self.differences),
            "quantisation": dict(self.quantisation),
            "note": self.note,
            "versions": dict(self.versions),
            "preparation": self.preparation,
        }
        return {
            KEY: _dump(value),
            "class_names": _dump(list(self.labels.class_names)),
            "thresholds": _dump(value["thresholds"]),
            "note": self.note,
        }

    @staticmethod
    def from_metadata(metadata: Mapping[str, str], *, where: str) -> OnnxRecord:
        """Rebuild from a file's metadata, checking every value.

        Raises:
            MedtailError: There is none, or it is not what `medtail export` writes; every mistake is named.
        """
        if KEY not in metadata:
            raise MedtailError(
                f"{where}: has no metadata {KEY!r}; expected a file written by `medtail export RUN --format onnx`."
            )
        try:
            value = json.loads(metadata[KEY])
        except (ValueError, RecursionError) as error:
            raise MedtailError(f"{where}, metadata {KEY!r}: is not readable JSON ({error}).") from error
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            found = value.get("format") if isinstance(value, dict) else type(value).__name__
            raise MedtailError(
                f"{where}, metadata {KEY!r}: format {found!r} is unknown; this version of medtail reads {FORMAT!r}."
                " Export the run again."
            )
        try:
            stored = build_config(_Stored, value, where=f"{where}, metadata {KEY!r}")
            labels = LabelSpace.from_json(stored.labels)
            counts = stored.train_counts
            if counts is not None:  # JSON keeps no order of keys; the counts follow the classes
                counts = {name: counts.get(name) for name in labels.class_names}
            for chosen in (stored.thresholds, stored.raw_thresholds):
                if chosen is not None and set(chosen) != set(labels.class_names):
                    raise MedtailError(f"{where}, metadata {KEY!r}, thresholds: are not of the file's classes.")
            return OnnxRecord(
                labels=labels,
                pixels=stored.pixels,
                thresholds=stored.thresholds,
                raw_thresholds=stored.raw_thresholds,
                train_counts=None if counts is None else ClassCounts.from_json(counts),
                digests=stored.digests,
                needs_content=stored.needs_content,
                members=stored.members,
                mirrored=stored.mirrored,
                precision=stored.precision,
                differences=stored.differences,
                quantisation=stored.quantisation,
                note=stored.note,
                versions=stored.versions,
                preparation=stored.preparation,
            )
        except MedtailError as error:  # a damaged file is no misuse of the command line
            raise MedtailError(str(error)) from error


@final
@dataclass(frozen=True, kw_only=True)
class _Stored:
    """What the record may hold as JSON, and nothing else."""

    __pydantic_config__: ClassVar[Any] = CLOSED
    format: Literal["medtail-onnx/1"]
    labels: dict[str, Any]
    pixels: PixelConfig
    thresholds: dict[str, float] | None
    raw_thresholds: dict[str, float] | None
    train_counts: dict[str, Any] | None
    digests: dict[str, str]
    needs_content: bool
    members: int
    mirrored: bool
    precision: Literal["float32", "int8"]
    differences: dict[str, float]
    quantisation: dict[str, Any]
    note: str
    versions: dict[str, str]
    preparation: str


def _dump(value: object) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False)
