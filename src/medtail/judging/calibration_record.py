"""A fitted calibration as it is kept: one map a class, the rows it saw, the model it belongs to.

Reads and writes `calibration.json`, strict JSON of numbers and names, so that a stranger's calibration can be loaded
without running anything. How it is fitted is in `calibration`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, final

import numpy as np
from pydantic import Field

from medtail.config import CLOSED, build_config
from medtail.errors import MedtailError, Problems, listing
from medtail.judging.calibration_maps import AnyMap, SoftmaxMap
from medtail.judging.thresholds import ThresholdChoice
from medtail.runs import digest_json, read_json, write_json
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions

Method = Literal["auto", "temperature", "platt", "softmax", "beta", "isotonic", "logit_adjustment"]
FORMAT = "medtail-calibration/1"
CALIBRATION = "calibration.json"


@final
@dataclass(frozen=True, kw_only=True)
class _Record:
    """What `calibration.json` may hold, and nothing else."""

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED
    format: Literal["medtail-calibration/1"]
    labels: dict[str, Any]
    method: Method
    kappa: Annotated[float, Field(gt=0)] | Literal["inf"]
    kappa_losses: dict[str, float]
    maps: tuple[AnyMap, ...]
    rows: str
    num_rows: Annotated[int, Field(ge=0)]
    num_patients: Annotated[int, Field(ge=0)]
    model: str | None = None
    thresholds: dict[str, Any] | None = None


@final
@dataclass(frozen=True)
class CalibrationMap:
    """A fitted calibration of every class of a label space.

    Attributes:
        labels: The classes and groups it belongs to, in column order.
        maps: One map a class or softmax group; together they cover every class once.
        method: What was asked for.
        kappa: Positive patients' worth of pull; may be infinite.
        rows: Digest of the table of tune rows it saw, scores and targets included.
        num_rows: How many they were.
        num_patients: Of how many patients.
        kappa_losses: Mean log loss over patient folds of every kappa tried, by its name; empty if it was given.
        model: Digest of the weights whose scores these are; None if unknown.
        thresholds: Chosen on the calibrated tune scores; None if not chosen.
    """

    labels: LabelSpace
    maps: tuple[AnyMap, ...]
    method: Method
    kappa: float
    rows: str
    num_rows: int
    num_patients: int
    kappa_losses: Mapping[str, float] = field(default_factory=dict)
    model: str | None = None
    thresholds: ThresholdChoice | None = None

    def __post_init__(self) -> None:
        _check_cover(self.labels, self.maps)

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """Calibrate scores, each row by itself.

        Args:
            scores: float [N, C] in [0, 1], columns in the order of `labels`.

        Returns:
            float64 [N, C] in [0, 1].

        Raises:
            MedtailError: Another number of columns, a score outside [0, 1], or a softmax group whose scores do not
                add up to 1.
        """
        given = np.asarray(scores, dtype=np.float64)
        if given.ndim != 2 or given.shape[1] != self.labels.num_classes:
            raise MedtailError(f"calibration: scores {given.shape}; expected [N, {self.labels.num_classes}].")
        if not np.all((given >= 0.0) & (given <= 1.0)):
            raise MedtailError("calibration: found a score outside [0, 1] or NaN. Turn logits into scores first.")
        return apply_maps(self.maps, given, self.labels)

    def calibrate(self, predictions: Predictions) -> Predictions:
        """Return predictions with calibrated scores, this calibration's thresholds and its digest in the header.

        Raises:
            MedtailError: Other classes or groups, or scores that are calibrated already.
        """
        refuse_calibrated(predictions)
        self.check_labels(predictions.labels, where=predictions.name)
        digests = {key: value for key, value in predictions.digests.items() if key != "scores"}
        return replace(
            predictions,
            scores=self.apply(predictions.scores),
            # thresholds chosen on raw scores mean nothing on calibrated ones
            thresholds=None if self.thresholds is None else dict(self.thresholds.values),
            digests={**digests, "calibration": self.digest},
        )

    def check_labels(self, labels: LabelSpace, *, where: str) -> None:
        """Check that classes, their order and their groups are those of the fit.

        Raises:
            MedtailError: They are not; every difference is named.
        """
        problems = Problems(where)
        mine, theirs = self.labels.class_names, labels.class_names
        missing = [name for name in mine if name not in theirs]
        extra = [name for name in theirs if name not in mine]
        if missing:
            problems.add(f"classes: lacks {listing(missing, limit=10)}, which the calibration was fitted to.")
        if extra:
            problems.add(f"classes: has {listing(extra, limit=10)}, which the calibration does not know.")
        if not missing and not extra and mine != theirs:
            problems.add(f"classes: stand in another order than in the calibration ({listing(mine, limit=10)}).")
        ours, others = ({group.name: set(group.classes) for group in space.groups} for space in (self.labels, labels))
        if not missing and not extra and ours != others:
            problems.add(
                f"exclusive groups: found {listing(sorted(others)) or 'none'}; the calibration was fitted with"
                f" {listing(sorted(ours)) or 'none'}. Fit it again."
            )
        problems.raise_if_any()

    def is_fitted_on(self, predictions: Predictions) -> bool:
        """Say whether these very rows, with these scores, were used for the fit."""
        return self.rows == predictions.digest

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the whole record."""
        return digest_json(self.to_json())

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know, a sentence a map that has something to say."""
        found = []
        for part in self.maps:
            if part.note:
                name = part.group if isinstance(part, SoftmaxMap) else part.class_name
                found.append(f"{name}: {part.note}")
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """Return the content of `calibration.json`: strict JSON, numbers and names only."""
        return {
            "format": FORMAT,
            "labels": self.labels.to_json(),
            "method": self.method,
            "kappa": kappa_name(self.kappa) if np.isinf(self.kappa) else self.kappa,
            "kappa_losses": dict(self.kappa_losses),
            "maps": [_map_json(part) for part in self.maps],
            "rows": self.rows,
            "num_rows": self.num_rows,
            "num_patients": self.num_patients,
            "model": self.model,
            "thresholds": None if self.thresholds is None else self.thresholds.to_json(),
        }

    @staticmethod
    def from_json(value: Mapping[str, Any], *, where: str = CALIBRATION) -> CalibrationMap:
        """Rebuild from `to_json`'s values, checking every one of them.

        Raises:
            MedtailError: Unknown format, unknown or missing keys, values out of range; all are named.
        """
        if value.get("format") != FORMAT:
            raise MedtailError(
                f"{where}: format {value.get('format')!r} is unknown; this version of medtail reads {FORMAT!r}."
            )
        try:
            record = build_config(_Record, value, where=where)
            labels = LabelSpace.from_json(record.labels)
            thresholds = None if record.thresholds is None else ThresholdChoice.from_json(record.thresholds)
            if thresholds is not None and set(thresholds.values) != set(labels.class_names):
                raise MedtailError("thresholds: are not of the calibration's classes.")
            return CalibrationMap(
                labels=labels,
                maps=record.maps,
                method=record.method,
                kappa=float(record.kappa),
                rows=record.rows,
                num_rows=record.num_rows,
                num_patients=record.num_patients,
                kappa_losses=record.kappa_losses,
                model=record.model,
                thresholds=thresholds,
            )
        except MedtailError as error:  # a damaged file is no misuse of the command line
            text = str(error)
            raise MedtailError(text if text.startswith(where) else f"{where}, {text}") from error

    def write(self, path: Path | str) -> None:
        """Write as JSON, atomically."""
        write_json(path, self.to_json())


def read_calibration(path: Path | str) -> CalibrationMap:
    """Read a `calibration.json`. Runs no code from it.

    Raises:
        MedtailError: It is missing or is not what `medtail calibrate` writes; every mistake is named.

    Example:
        >>> read_calibration("nowhere/calibration.json")
        Traceback (most recent call last):
        medtail.errors.MedtailError: nowhere/calibration.json: no such file.
    """
    return CalibrationMap.from_json(read_json(path), where=str(path))


def apply_maps(maps: Iterable[AnyMap], scores: np.ndarray, labels: LabelSpace) -> np.ndarray:
    """Put each class's or group's columns through its map.

    Args:
        maps: Of the classes to change; others stay.
        scores: float64 [N, C] in [0, 1].
        labels: Of the columns.

    Returns:
        float64 [N, C], a new array.

    Example:
        >>> from medtail.judging.calibration_maps import AffineMap
        >>> shift = AffineMap(class_name="b", alpha=0.0, beta=np.log(3.0))
        >>> apply_maps([shift], np.array([[0.5, 0.5]]), LabelSpace(("a", "b"))).round(3).tolist()
        [[0.5, 0.75]]
    """
    made = np.array(scores, dtype=np.float64)
    for part in maps:
        if isinstance(part, SoftmaxMap):
            columns = [labels.index(name) for name in part.classes]
            made[:, columns] = part.apply(made[:, columns])
        else:
            column = labels.index(part.class_name)
            made[:, column] = part.apply(made[:, column])
    return made


def refuse_calibrated(predictions: Predictions) -> None:
    """Refuse scores that went through a calibration already.

    Raises:
        MedtailError: The header names a calibration.
    """
    if "calibration" in predictions.digests:
        raise MedtailError(
            f"{predictions.name}: its scores are calibrated already (calibration"
            f" {predictions.digests['calibration'][:12]}); twice is once too often. Give the raw scores; `medtail"
            " predict --raw` makes them."
        )


def kappa_name(kappa: float) -> str:
    """Return a kappa as it is written in files and messages.

    Example:
        >>> kappa_name(10.0), kappa_name(float("inf"))
        ('10', 'inf')
    """
    return f"{kappa:g}"


def _check_cover(labels: LabelSpace, maps: tuple[AnyMap, ...]) -> None:
    covered = [name for part in maps for name in (part.classes if isinstance(part, SoftmaxMap) else (part.class_name,))]
    problems = Problems("calibration")
    for name in labels.class_names:
        if covered.count(name) != 1:
            problems.add(f"class {name!r}: {covered.count(name)} maps; expected one.")
    unknown = [name for name in dict.fromkeys(covered) if name not in labels.class_names]
    if unknown:
        problems.add(f"maps: {listing(unknown)} are no classes of it.")
    groups = {group.name: group.classes for group in labels.groups}
    for part in maps:
        if isinstance(part, SoftmaxMap) and groups.get(part.group) != part.classes:
            problems.add(f"group {part.group!r}: its softmax is not over the group's classes.")
    problems.raise_if_any()


def _map_json(part: AnyMap) -> dict[str, Any]:
    made = {item.name: getattr(part, item.name) for item in fields(part)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in made.items()}
