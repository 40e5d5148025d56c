"""What a model card is written from: everything a finished run knows, gathered once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, final

from medtail.judging.calibration_record import CalibrationMap
from medtail.reporting.card import limits
from medtail.reporting.facts import ClassFacts, GroupFacts, class_facts, group_facts
from medtail.tables.labels import LabelSpace
from medtail.tables.manifest import Manifest
from medtail.tables.predictions import Predictions
from medtail.tables.results import Results
from medtail.tables.tail import ClassCounts


@final
@dataclass(frozen=True, eq=False)
class RunFacts:
    """A run, as its model card sees it. What is not there is None or empty, and becomes a gap.

    Attributes:
        name: Of the run.
        labels: The classes.
        digest: SHA-256 of the weights.
        note: What the model may be used for.
        counts: Of the train fold.
        thresholds: Class → threshold.
        versions: Name → version.
        config: The resolved config as plain values.
        training: Free facts about the training, such as `tune_map`.
        members: Networks.
        mirrored: Whether the mirror image is averaged in.
        manifest: The table of images.
        manifest_name: Its file's name, without the folder.
        calibration: Stored with the model.
        predictions: Of the test fold.
        results: Of the test fold.
        methods: Bibliography keys of the methods.
    """

    name: str
    labels: LabelSpace
    digest: str
    note: str = ""
    counts: ClassCounts | None = None
    thresholds: Mapping[str, float] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    members: int = 1
    mirrored: bool = False
    manifest: Manifest | None = None
    manifest_name: str = ""
    calibration: CalibrationMap | None = None
    predictions: Predictions | None = None
    results: Results | None = None
    methods: tuple[str, ...] = ()

    @cached_property
    def classes(self) -> list[ClassFacts]:
        """Facts of the judged classes, commonest first; empty where the test fold was not judged."""
        if self.results is None or self.predictions is None:
            return []
        return class_facts(self.predictions, self.results, counts=self.counts)

    @cached_property
    def groups(self) -> list[GroupFacts]:
        """Means over head, medium, tail and all classes; empty where the test fold was not judged."""
        return [] if self.results is None else group_facts(self.classes, self.results)

    @cached_property
    def limits(self) -> list[str]:
        """What the numbers must not be used for; empty where there are none."""
        if self.results is None or self.predictions is None:
            return []
        many = None
        if self.manifest is not None and "site" in self.manifest.frame.columns:
            many = len(set(self.manifest.frame["site"]) - {""}) > 1
        fold = str(self.results.header.get("fold") or "")
        return limits(self.classes, self.predictions, fold=fold, many_sites=many)
