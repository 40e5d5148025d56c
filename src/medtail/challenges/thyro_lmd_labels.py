"""The Thyro-LMD split: what counts as head, body and tail, fixed before any model runs.

The twenty labels and the reader of their table live in `medtail.sources.thyro_lmd` and are handed on here. Only the
abstract of the paper is public: cuts and split rule are our reading of it. `split.json` is written once, from the train
fold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import pandas as pd

from medtail.errors import MedtailError, Problems, listing
from medtail.runs import new_file, read_json, write_json
from medtail.sources.thyro_lmd import (
    EXCLUSIVE,
    FOCI,
    GROUPS,
    LABELS,
    NO_FOCI,
    group_columns,
    labels_from_frame,
    read_labels,
)
from medtail.tables.frames import digest_frame
from medtail.tables.manifest import Manifest, manifest_from_frame
from medtail.tables.splits import SplitOutcome, split_manifest
from medtail.tables.tail import ClassCounts, TailGroup, TailGroups, count_classes, tail_groups

__all__ = [
    "CUTS",
    "EXCLUSIVE",
    "FOCI",
    "FRACTIONS",
    "GROUPS",
    "LABELS",
    "NO_FOCI",
    "SPLIT_RULE",
    "AbsentRule",
    "ThyroSplit",
    "describe_split",
    "group_columns",
    "head_body_tail",
    "labels_from_frame",
    "make_split",
    "prevalences",
    "read_labels",
    "read_split",
    "split_digest",
]
CUTS = (0.20, 0.05)
"""Head from 20 % of the assessed train images on, tail below 5 %; between them body (`medium` in tables)."""
FRACTIONS: Mapping[str, float] = {"train": 0.7, "tune": 0.1, "test": 0.2}
SPLIT_RULE = "by patient, balanced over labels and labels by site"


@final
@dataclass(frozen=True)
class ThyroSplit:
    """What `split.json` fixes before any model runs.

    Attributes:
        rule: How patients were dealt, in words.
        seed: Of the split; None where the folds were given.
        digest: Of the rows' ids, patients, folds and labels.
        patients: Fold → patients; images of unknown patients count for themselves.
        counts: Positive and assessed images of each label in train.
        groups: Label → head, medium (body) or tail, by prevalence.
        terciles: The same by thirds of the rank.
    """

    rule: str
    seed: int | None
    digest: str
    patients: Mapping[str, int]
    counts: ClassCounts
    groups: TailGroups
    terciles: TailGroups

    def to_json(self) -> dict[str, Any]:
        """Return plain values, the labels' prevalence among them."""
        return {
            "rule": self.rule,
            "seed": self.seed,
            "digest": self.digest,
            "patients": dict(self.patients),
            "labels": self.counts.to_json(),
            "prevalence": dict(zip(self.counts.class_names, map(float, prevalences(self.counts)), strict=True)),
            "tail": {"cuts": list(self.groups.cuts), "groups": dict(self.groups.group_of)},
            "terciles": dict(self.terciles.group_of),
        }

    def write(self, path: Path | str) -> None:
        """Write as JSON. Atomic; an existing file is refused, because a split is written once."""
        write_json(new_file(path), self.to_json())


def prevalences(counts: ClassCounts) -> np.ndarray:
    """Return positive / assessed train images of each label, 0 where it was never assessed, float64 [C].

    Example:
        >>> prevalences(ClassCounts(("a", "b"), (3, 0), (2, 0), (12, 0))).tolist()
        [0.25, 0.0]
    """
    images, assessed = np.array(counts.images, dtype=float), np.array(counts.assessed, dtype=float)
    shares: np.ndarray = np.divide(images, assessed, out=np.zeros_like(images), where=assessed > 0)
    return shares


def head_body_tail(counts: ClassCounts, *, cuts: tuple[float, float] = CUTS) -> TailGroups:
    """Put labels into head (p >= 20 %), body (called medium) and tail (p < 5 %) by their share of train images.

    Args:
        counts: Of the train fold.
        cuts: Upper and lower cut on the prevalence; the upper one itself is head.

    Returns:
        The groups.

    Raises:
        MedtailError: The cuts do not descend inside (0, 1].

    Example:
        >>> counts = ClassCounts(("a", "b", "c"), (20, 5, 4), (1, 1, 1), (100, 100, 100))
        >>> dict(head_body_tail(counts).group_of)
        {'a': 'head', 'b': 'medium', 'c': 'tail'}
    """
    high, low = cuts
    if not 1.0 >= high > low > 0.0:
        raise MedtailError(f"tail cuts {high}, {low}: expected an upper cut above a lower cut above 0, both shares.")
    found: dict[str, TailGroup] = {
        name: "head" if share >= high else ("tail" if share < low else "medium")
        for name, share in zip(counts.class_names, prevalences(counts), strict=True)
    }
    return TailGroups(found, "thyro_lmd", (high, low))


def split_digest(manifest: Manifest) -> str:
    """Return the digest of what a split fixes: ids, patients, folds and labels, whatever the order of rows."""
    columns = ["image_id", "patient_id", "fold", *LABELS.class_names]
    return digest_frame(manifest.frame[columns].sort_values("image_id", ignore_index=True))


def describe_split(
    manifest: Manifest, *, rule: str = "given", seed: int | None = None, cuts: tuple[float, float] = CUTS
) -> ThyroSplit:
    """Fix head, body and tail from the train fold of a table with folds.

    Args:
        manifest: From `read_labels`.
        rule: How the folds came about.
        seed: Of that.
        cuts: See `head_body_tail`.

    Returns:
        The split.

    Raises:
        MedtailError: There is no train fold.
    """
    folds = manifest.folds.astype(str)
    if not (folds == "train").any():
        raise MedtailError(
            f"{manifest.name}, column 'fold': no row is in 'train'; head, body and tail are read off the train fold."
        )
    counts = count_classes(manifest)
    return ThyroSplit(
        rule=rule,
        seed=seed,
        digest=split_digest(manifest),
        patients={fold: len(set(manifest.patients[folds == fold])) for fold in sorted(set(folds) - {""})},
        counts=counts,
        groups=head_body_tail(counts, cuts=cuts),
        terciles=tail_groups(counts, labels=LABELS, rule="terciles"),
    )


def make_split(manifest: Manifest, *, seed: int = 0) -> tuple[SplitOutcome, ThyroSplit]:
    """Deal patients into train 70 %, tune 10 % and test 20 %, balanced over labels and over labels at each site.

    Args:
        manifest: From `read_labels`; folds already there stay.
        seed: Of the split.

    Returns:
        The table with folds and messages about labels a fold lacks; and the split record.

    Raises:
        MedtailError: Too few patients, or existing folds that cut one in two.
    """
    frame = manifest.frame
    sites = sorted(set(frame["site"]) - {""}) if "site" in frame.columns else []
    at_sites = {
        f"{label} at site {number}": frame[label].where(frame["site"] == site, 0.0)
        for number, site in enumerate(sites)
        for label in LABELS.class_names
        if len(sites) > 1
    }
    wide = pd.concat([frame, pd.DataFrame(at_sites, index=frame.index)], axis=1)
    outcome = split_manifest(
        manifest_from_frame(wide, name=manifest.name, root=manifest.root, groups=EXCLUSIVE),
        fractions=FRACTIONS,
        seed=seed,
    )
    ready = manifest.with_folds(outcome.manifest.folds)
    messages = tuple(message for message in outcome.messages if " at site " not in message)
    rule = SPLIT_RULE if at_sites else "by patient, balanced over labels"
    return SplitOutcome(ready, messages), describe_split(ready, rule=rule, seed=seed)


def read_split(path: Path | str) -> ThyroSplit:
    """Read `split.json`.

    Raises:
        MedtailError: It is missing, no JSON, lacks a part, or does not cover the twenty labels.
    """
    value = read_json(path)
    problems = Problems(str(path))
    for key in ("rule", "seed", "digest", "patients", "labels", "tail", "terciles"):
        if key not in value:
            problems.add(f"key {key!r}: missing; expected what `medtail thyro-lmd split` writes.")
    problems.raise_if_any()
    try:
        high, low = (float(cut) for cut in value["tail"]["cuts"])
        split = ThyroSplit(
            rule=str(value["rule"]),
            seed=None if value["seed"] is None else int(value["seed"]),
            digest=str(value["digest"]),
            patients={str(fold): int(count) for fold, count in value["patients"].items()},
            counts=ClassCounts.from_json(value["labels"]),
            groups=TailGroups(_checked_groups(value["tail"]["groups"], "tail"), "thyro_lmd", (high, low)),
            terciles=TailGroups(_checked_groups(value["terciles"], "terciles"), "terciles", ()),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MedtailError(f"{path}: {error}. Expected what `medtail thyro-lmd split` writes.") from error
    return ThyroSplit(**{**split.__dict__, "counts": split.counts.select(LABELS.class_names)})


def _checked_groups(value: Mapping[str, Any], place: str) -> dict[str, TailGroup]:
    known: Mapping[str, TailGroup] = {"head": "head", "medium": "medium", "tail": "tail"}
    if set(value) != set(LABELS.class_names):
        differing = sorted(set(value) ^ set(LABELS.class_names))
        raise MedtailError(f"{place}: {listing(differing)} missing or unknown; expected the twenty labels")
    wrong = [f"{name} {group!r}" for name, group in value.items() if group not in known]
    if wrong:
        raise MedtailError(f"{place}: found {listing(wrong)}; expected head, medium or tail")
    return {name: known[value[name]] for name in LABELS.class_names}


AbsentRule = Literal["nan", "zero"]
"""A label without test positives: left out of every mean (`nan`), or counted as 0 as usual software does (`zero`)."""
