"""Conformal sets: for each image the classes that cannot be ruled out, with a promise about how often one is missed.

Calibrated on the tune fold and nothing else. One rule serves every task: class c is in the set where its score is at
least λ_c, and λ_c is the ⌊α(n+1)⌋-th smallest score that n calibration patients with the class gave it. Then a new
patient's finding is missed with probability at most α. Images of one patient are not exchangeable with those of
another, so each patient lends one image. Where a class has too few patients for a limit of its own, the next wider
pool stands in, and the class says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, final

import numpy as np

from medtail.config import CLOSED
from medtail.errors import MedtailError, did_you_mean, listing
from medtail.judging.conformal_limits import (
    Limit,
    by_chain,
    controlled_risk,
    gather_cells,
    interpolated,
    patients_needed,
    prevalence_adjusted,
)
from medtail.seeding import stream
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions
from medtail.tables.tail import RuleName, tail_groups

MethodName = Literal[
    "auto", "marginal", "class_conditional", "clustered", "prevalence_adjusted", "interpolated", "risk_control"
]
METHODS: tuple[MethodName, ...] = (
    "auto", "marginal", "class_conditional", "clustered", "prevalence_adjusted", "interpolated", "risk_control",
)  # fmt: skip


@final
@dataclass(frozen=True, kw_only=True)
class ConformalConfig:
    """How to build conformal sets.

    Attributes:
        alpha: Share of findings that may be missed, in (0, 1).
        method: `class_conditional` (`auto`): a limit a class, falling back class -> cluster -> tail group ->
            marginal. `clustered`: a limit a cluster of classes with alike scores. `marginal`: one limit.
            `prevalence_adjusted`: one limit on score / train prevalence. `interpolated`: between the marginal and the
            class's own. `risk_control`: one limit such that the mean share of findings missed in an image is <= alpha.
        weight: For `interpolated`: share of the class's own limit, in [0, 1].
        draws: Times one image a patient is drawn; limits are averaged over them. 1 keeps the promise exactly.
        tail_rule: How classes become head, medium and tail; see `tables.tail`.
        seed: Of the draws and the clusters.
    """

    __pydantic_config__: ClassVar = CLOSED

    alpha: float = 0.1
    method: MethodName = "auto"
    weight: float = 0.5
    draws: int = 20
    tail_rule: RuleName = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 < self.alpha < 1.0:
            raise MedtailError(f"alpha {self.alpha!r}: expected a share in (0, 1), such as 0.1.")
        if self.method not in METHODS:
            hint = did_you_mean(str(self.method), METHODS) or f"; expected {', '.join(METHODS)}"
            raise MedtailError(f"conformal method {self.method!r}: unknown{hint}")
        if not 0.0 <= self.weight <= 1.0:
            raise MedtailError(f"conformal weight {self.weight!r}: expected a share in [0, 1].")
        if self.draws < 1:
            raise MedtailError(f"conformal draws {self.draws!r}: expected at least 1.")


@final
@dataclass(frozen=True)
class ConformalSets:
    """Limits a class and what they rest on.

    Attributes:
        labels: The classes.
        alpha: Share of findings that may be missed.
        method: How the limits were chosen (never `auto`).
        limits: Class c is in the set where its score >= limits[c]; float64 [C], 0 where it always is.
        levels: What each limit was computed from: `class`, `cluster`, `tail group`, `marginal`, `interpolated`, `risk
            control`; `always` where even the widest pool was too small.
        patients: Calibration patients with the class, int [C].
        pooled: Patients behind the limit that was used, int [C].
        digest: Of the calibration rows.
        details: Method, draws, seed, clusters and tail rule: a JSON object.
    """

    labels: LabelSpace
    alpha: float
    method: str
    limits: np.ndarray
    levels: tuple[str, ...]
    patients: tuple[int, ...]
    pooled: tuple[int, ...]
    digest: str
    details: Mapping[str, Any] = field(default_factory=dict)

    def apply(self, scored: Predictions | np.ndarray) -> np.ndarray:
        """Return the sets of images.

        Args:
            scored: Predictions with the same classes in the same order, or scores float [N, C].

        Returns:
            bool [N, C].

        Raises:
            MedtailError: Other classes.
        """
        if isinstance(scored, Predictions):
            if scored.labels.class_names != self.labels.class_names:
                raise MedtailError(
                    f"{scored.name}: its classes are not those the sets were calibrated for, in their order:"
                    f" {listing(self.labels.class_names, limit=12)}."
                )
            scored = scored.scores
        if scored.ndim != 2 or scored.shape[1] != self.labels.num_classes:
            raise MedtailError(
                f"scores {scored.shape}: expected a column for each of {self.labels.num_classes} classes."
            )
        return np.asarray(scored >= self.limits)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON file; `from_json` gives the same limits to the last bit."""
        per_class = zip(self.labels.class_names, self.limits, self.levels, self.patients, self.pooled, strict=True)
        return {
            "labels": self.labels.to_json(),
            "alpha": self.alpha,
            "method": self.method,
            "classes": {
                name: {"limit": float(limit), "level": level, "patients": own, "pooled": pooled}
                for name, limit, level, own, pooled in per_class
            },
            "digest": self.digest,
            "details": dict(self.details),
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> ConformalSets:
        """Rebuild from `to_json`'s values.

        Raises:
            MedtailError: A part is missing or is of another kind.
        """
        try:
            labels = LabelSpace.from_json(value["labels"])
            rows = [value["classes"][name] for name in labels.class_names]
            limits = np.array([float(row["limit"]) for row in rows])
            if not np.all((limits >= 0.0) & np.isfinite(limits)):
                raise ValueError("a limit is negative or not finite")
            return ConformalSets(
                labels,
                float(value["alpha"]),
                str(value["method"]),
                limits,
                tuple(str(row["level"]) for row in rows),
                tuple(int(row["patients"]) for row in rows),
                tuple(int(row["pooled"]) for row in rows),
                str(value["digest"]),
                dict(value.get("details", {})),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise MedtailError(
                f"conformal sets: expected what `ConformalSets.to_json` gives (labels, alpha, method, classes, digest);"
                f" {error!r}"
            ) from error


def split_tune(predictions: Predictions, *, share: float = 0.5, seed: int = 0) -> tuple[Predictions, Predictions]:
    """Split the tune fold by patient, so that thresholds and conformal sets rest on different people.

    Patients are shuffled within strata of their rarest class, so each half gets its part of the rare ones.

    Args:
        predictions: Tune rows.
        share: Of the patients in the first part, in (0, 1).
        seed: Of the shuffle.

    Returns:
        Rows for thresholds and calibration, rows for conformal sets. No patient is in both.

    Raises:
        MedtailError: A row is not in the tune fold, there are no rows, or the share is not inside (0, 1).

    Example:
        >>> ids = np.array(list("abcd"), dtype=object)
        >>> tune = Predictions(ids, np.array(list("ppqq"), dtype=object), np.ones((4, 1)), np.ones((4, 1)),
        ...                    LabelSpace(("Hernia",)), np.array(["tune"] * 4, dtype=object))
        >>> [len(set(part.patients)) for part in split_tune(tune)]
        [1, 1]
    """
    refuse_unless_tune(predictions, what="halves of the tune fold")
    if not 0.0 < share < 1.0:
        raise MedtailError(f"share {share!r}: expected a part of the patients in (0, 1).")
    positive = predictions.targets == 1
    rarity = np.argsort(np.argsort(positive.sum(axis=0), kind="stable"), kind="stable")
    rank = np.where(positive, rarity, predictions.labels.num_classes).min(axis=1)
    names, codes = np.unique(predictions.patients.astype(str), return_inverse=True)
    stratum = np.full(len(names), predictions.labels.num_classes)
    np.minimum.at(stratum, codes, rank)
    shuffled = stream(seed, "split tune").permutation(len(names))
    dealt = shuffled[np.argsort(stratum[shuffled], kind="stable")]
    first = np.zeros(len(names), dtype=bool)
    places = np.arange(len(names))
    # one patient in 1/share, evenly along the strata
    first[dealt] = np.floor((places + 1) * share) > np.floor(places * share)
    return predictions.take(first[codes]), predictions.take(~first[codes])


def refuse_unless_tune(predictions: Predictions, *, what: str = "conformal sets") -> None:
    """Refuse to calibrate on rows outside the tune fold.

    Raises:
        MedtailError: Some rows are elsewhere, or there are none.
    """
    folds = predictions.folds.astype(str)
    if not len(folds):
        raise MedtailError(f"{predictions.name}: no rows; {what} need the scores of the tune fold.")
    others = sorted(set(folds) - {"tune"})
    if others:
        raise MedtailError(
            f"{predictions.name}: {int((folds != 'tune').sum())} of {len(folds)} rows are not in fold 'tune' (found:"
            f" {listing([fold or 'no fold' for fold in others])}); {what} must come from tune rows alone. The promise"
            " is about patients nobody has calibrated or trained on: score the tune fold."
        )


def fit_conformal(
    predictions: Predictions, *, config: ConformalConfig | None = None, apart_from: Predictions | None = None
) -> ConformalSets:
    """Calibrate conformal sets on the tune fold.

    Args:
        predictions: Scores and targets of tune rows, and of nothing else.
        config: Method and alpha; the defaults if None.
        apart_from: Rows used for thresholds or calibration maps: a patient in both is refused (see `split_tune`).

    Returns:
        The limits, and for each class what its limit rests on.

    Raises:
        MedtailError: A row outside tune, shared patients, or a method that does not fit the task.

    Example:
        >>> random = np.random.default_rng(0)
        >>> ids = np.array([f"i{row}" for row in range(15)], dtype=object)
        >>> tune = Predictions(ids, ids, random.random((15, 1)), np.ones((15, 1)), LabelSpace(("Hernia",)),
        ...                    np.array(["tune"] * 15, dtype=object))
        >>> sets = fit_conformal(tune)
        >>> sets.levels, sets.limits.tolist() == [tune.scores.min()]
        (('class',), True)

    References:
        vovk2012, ding2023, ding2025, angelopoulos2024.
    """
    config = config or ConformalConfig()
    refuse_unless_tune(predictions)
    if apart_from is not None:
        shared = sorted(set(predictions.patients.astype(str)) & set(apart_from.patients.astype(str)))
        if shared:
            raise MedtailError(
                f"{predictions.name}: {len(shared)} patients also chose thresholds or calibration maps"
                f" ({listing(shared)}); expected other patients. Split the tune fold with `split_tune`."
            )
    labels = predictions.labels
    method = "class_conditional" if config.method == "auto" else config.method
    if method == "risk_control" and labels.task == "multiclass":
        raise MedtailError(
            "conformal method 'risk_control': with exclusive classes an image has one finding, so the mean share missed"
            " is what 'marginal' controls; use that."
        )
    groups = _tail_groups(predictions, config)
    found: dict[int, Limit] = {}
    clusters: dict[str, int] = {}
    for columns in [tuple(range(labels.num_classes))] if method == "risk_control" else _families(labels):
        cells = gather_cells(predictions, columns, alpha=config.alpha, draws=config.draws, seed=config.seed)
        if method == "risk_control":
            limits = [controlled_risk(cells)] * len(columns)
        elif method == "marginal":
            limits = [cells.limit(cells.of(*columns), "marginal")] * len(columns)
        elif method == "prevalence_adjusted":
            limits = prevalence_adjusted(cells, columns, _train_shares(predictions, columns))
        elif method == "interpolated":
            limits = interpolated(cells, columns, weight=config.weight)
        else:
            in_group = {c: groups[name] for c, name in enumerate(labels.class_names) if name in groups}
            limits, joined = by_chain(cells, columns, tail_group_of=in_group, own_class=method == "class_conditional")
            clusters |= {labels.class_names[c]: number for c, number in joined.items()}
        found |= dict(zip(columns, limits, strict=True))
    chosen = [found[c] for c in range(labels.num_classes)]
    positive = predictions.targets == 1
    return ConformalSets(
        labels=labels,
        alpha=config.alpha,
        method=method,
        limits=np.array([limit for limit, _, _ in chosen]),
        levels=tuple(level for _, level, _ in chosen),
        patients=tuple(len(set(predictions.patients[positive[:, c]])) for c in range(labels.num_classes)),
        pooled=tuple(behind for _, _, behind in chosen),
        digest=predictions.digest,
        details={
            "draws": config.draws,
            "seed": config.seed,
            "weight": config.weight if method == "interpolated" else None,
            "clusters": clusters,
            "tail_groups": groups,
            "needed": patients_needed(config.alpha),
            "unit": "patient" if predictions.has_patients else "image",
        },
    )


def _families(labels: LabelSpace) -> list[tuple[int, ...]]:
    """Return the exclusive groups and, as one, the free classes: pools never mix them."""
    return [*labels.group_indices, *([labels.free_indices] if labels.free_indices else [])]


def _tail_groups(predictions: Predictions, config: ConformalConfig) -> dict[str, str]:
    counts = predictions.train_counts
    if counts is None or not set(predictions.labels.class_names) <= set(counts.class_names):
        return {}
    found = tail_groups(counts, labels=predictions.labels, rule=config.tail_rule)
    return {name: str(group) for name, group in found.group_of.items()}


def _train_shares(predictions: Predictions, columns: tuple[int, ...]) -> np.ndarray:
    """Return how common each class is in training, or in the calibration rows where that is unknown; never 0."""
    counts, names = predictions.train_counts, [predictions.labels.class_names[c] for c in columns]
    if counts is not None and set(names) <= set(counts.class_names):
        chosen = counts.select(names)
        images, assessed = np.array(chosen.images, dtype=float), np.array(chosen.assessed, dtype=float)
    else:
        targets = predictions.targets[:, list(columns)]
        images, assessed = (targets == 1).sum(axis=0).astype(float), (~np.isnan(targets)).sum(axis=0).astype(float)
    # half an image stands for none: a share of 0 would put the class into every set
    return np.asarray(np.maximum(images, 0.5) / np.maximum(assessed, 1.0))
