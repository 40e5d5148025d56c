"""Weights of an ensemble from the tune fold: by score, by class, by greedy search; shrunk, and guarded.

Twelve members and forty classes are hundreds of weights, and a rare class has a handful of tune patients: what fits
them best is partly luck. So a class's weights are pulled toward the plain mean by n / (n + kappa), n its positive
tune patients, and the whole choice is repeated inside patient folds: only where the weights beat the plain mean on
patients they have not seen, beyond resampling noise, are they kept. Otherwise the ensemble is the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, final

import numpy as np

from medtail.config import CLOSED
from medtail.errors import MedtailError, did_you_mean
from medtail.judging.bootstrap import number_patients
from medtail.judging.calibration import patient_folds
from medtail.judging.comparison import ComparisonConfig, compare
from medtail.judging.ensemble_record import EnsembleWeights
from medtail.judging.ensemble_search import ClassRows, class_rows, member_precision, search_classes, search_shared
from medtail.judging.estimates import take_census
from medtail.judging.thresholds import refuse_unless_tune
from medtail.tables.combine import POOLINGS, Pooling, aligned_scores, pooled, to_space
from medtail.tables.predictions import Predictions

Method = Literal["mean", "score", "class_score", "class_best", "greedy", "class_greedy"]
METHODS: tuple[Method, ...] = ("mean", "score", "class_score", "class_best", "greedy", "class_greedy")


@final
@dataclass(frozen=True, kw_only=True)
class EnsembleConfig:
    """How to choose an ensemble's weights.

    Attributes:
        method: `mean` (equal), `score` (a member's mean AP to the `power`), `class_score` (its AP of the class),
            `class_best` (the class's best member), `greedy` (search for one set of weights by mean AP) or
            `class_greedy` (a search a class).
        how: What is averaged: `mean` (scores), `logits` or `rank`.
        power: Exponent of the scores, >= 0; the members' AP lie close together, and 4 tells them apart more.
        floor: For `score` and `class_score`: share of the weight dealt out equally, in [0, 1], so that no member
            vanishes. 1 is the plain mean.
        kappa: Positive tune patients at which a class's weights are half its own and half the plain mean; >= 0.
        rounds: Members a search draws at most.
        guard_folds: Patient folds in which the choice is repeated and judged on the fold left out; 0 for no guard.
        bootstrap: Resamples of the patients in the guard.
        seed: Of folds and resamples.
    """

    __pydantic_config__: ClassVar = CLOSED

    method: Method = "class_greedy"
    how: Pooling = "mean"
    power: float = 1.0
    floor: float = 0.2
    kappa: float = 10.0
    rounds: int = 20
    guard_folds: int = 2
    bootstrap: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, known in (("method", self.method, METHODS), ("how", self.how, POOLINGS[:3])):
            if value not in known:
                hint = did_you_mean(str(value), known) or f"; expected {', '.join(known)}."
                raise MedtailError(f"ensemble, {name} {value!r}: unknown{hint}")
        if not 0.0 <= self.floor <= 1.0:
            raise MedtailError(f"ensemble, floor {self.floor!r}: expected a share in [0, 1], such as 0.2.")
        for name, number in (("power", self.power), ("kappa", self.kappa)):
            if not 0.0 <= number < float("inf"):
                raise MedtailError(f"ensemble, {name} {number!r}: expected a number >= 0.")
        if self.rounds < 1:
            raise MedtailError(f"ensemble, rounds {self.rounds!r}: expected at least 1.")
        if self.guard_folds == 1 or self.guard_folds < 0:
            raise MedtailError(f"ensemble, guard_folds {self.guard_folds!r}: expected 2 or more, or 0 for no guard.")
        if self.bootstrap < 1:
            raise MedtailError(f"ensemble, bootstrap {self.bootstrap!r}: expected at least 1 resample.")


def fit_ensemble(
    members: Sequence[Predictions],
    *,
    config: EnsembleConfig | None = None,
    names: Sequence[str] | None = None,
    threads: int | None = None,
) -> EnsembleWeights:
    """Choose the weights of an ensemble on the tune fold.

    Args:
        members: Tune scores of at least two systems on the same images.
        config: How to choose; the defaults if None.
        names: The members' names; the tables' own if None.
        threads: Worker threads; all usable cores if None. No effect on the result.

    Returns:
        The weights, with what the guard found. Where it objects, `method` is `mean` and the weights are equal.

    Raises:
        MedtailError: Fewer than two members; rows outside the tune fold; tables that differ in images, classes,
            groups or targets; no class with a positive image; fewer patients than guard folds.

    Example:
        >>> from medtail.tables.labels import LabelSpace
        >>> random = np.random.default_rng(0)
        >>> y = (np.arange(300)[:, None] % 4 == 0).astype(float)
        >>> ids, fold = np.array([f"i{n}" for n in range(300)], dtype=object), np.array(["tune"] * 300, dtype=object)
        >>> good, poor = (np.clip(skill * y + random.random(y.shape) / 2, 0, 1) for skill in (0.5, 0.0))
        >>> tables = [Predictions(ids, ids, scores, y, LabelSpace(("Hernia",)), fold) for scores in (good, poor)]
        >>> found = fit_ensemble(tables, config=EnsembleConfig(method="class_best"))
        >>> found.method, found.weights.round(2).ravel().tolist()
        ('class_best', [0.94, 0.06])

    References:
        caruana2004.
    """
    config = config or EnsembleConfig()
    if len(members) < 2:
        raise MedtailError(f"ensemble: found {len(members)} member(s); expected two or more to choose among.")
    stack = aligned_scores(members)
    truth = members[0]
    for member in members:
        refuse_unless_tune(member, purpose="Weights chosen")
    if not (truth.targets == 1).any():
        raise MedtailError(f"{truth.name}: no class has a positive image; expected labels to choose weights by.")
    space = to_space(stack, truth, how=config.how)
    patients = _positive_patients(truth)
    rows = class_rows(space, truth.targets)
    scores = member_precision(rows, threads=threads)
    weights = _choose(rows, scores, patients, config, threads=threads)
    evidence: dict[str, Any] = {
        "tune": {"file": truth.name, "rows": len(truth), "digest": truth.digest},
        "positive_patients": dict(zip(truth.labels.class_names, patients.tolist(), strict=True)),
        "member_ap": [
            {name: _json(value) for name, value in zip(truth.labels.class_names, row, strict=True)} for row in scores
        ],
        "member_macro_ap": [_json(float(np.nanmean(row))) for row in scores],
        "settings": {"method": config.method, "how": config.how, "power": config.power, "floor": config.floor,
                     "kappa": config.kappa, "rounds": config.rounds, "seed": config.seed},
    }  # fmt: skip
    method: str = config.method
    if config.method != "mean" and config.guard_folds:
        guard = _guard(space, truth, config, threads=threads)
        evidence["guard"] = guard
        if not guard["accepted"]:
            method, weights = "mean", np.full_like(weights, 1.0 / len(members))
    return EnsembleWeights(
        members=tuple(names) if names is not None else tuple(member.name for member in members),
        models=tuple(member.digests.get("model", "") for member in members),
        class_names=truth.labels.class_names,
        how=config.how,
        method=method,
        weights=weights,
        evidence=evidence,
    )


def _json(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _positive_patients(table: Predictions) -> np.ndarray:
    codes, _ = number_patients(table.patients)
    return take_census(table.targets, np.zeros(table.targets.shape, dtype=bool), codes).positive_patients


def _choose(
    rows: Sequence[ClassRows],
    scores: np.ndarray,
    patients: np.ndarray,
    config: EnsembleConfig,
    *,
    threads: int | None,
) -> np.ndarray:
    """Return weights [M, C], shrunk toward the plain mean.

    Args:
        rows: Members' values of each class.
        scores: Members' AP, [M, C], NaN where undefined.
        patients: Positive patients of each class, [C].
        config: How.
        threads: Worker threads.
    """
    members, classes = scores.shape
    equal = np.full((members, classes), 1.0 / members)
    defined = ~np.isnan(scores).any(axis=0)
    own = patients / (patients + config.kappa) if config.kappa > 0 else np.ones(classes)
    trust = np.where(defined, own, 0.0)
    match config.method:
        case "mean":
            return equal
        case "score":
            mean = scores[:, defined].mean(axis=1) ** config.power
            # many classes stand behind each member's mean; the floor is all the caution it needs
            return np.repeat((config.floor / members + (1.0 - config.floor) * mean / mean.sum())[:, None], classes, 1)
        case "class_score":
            raised = np.where(defined, scores, 1.0) ** config.power
            chosen = config.floor / members + (1.0 - config.floor) * raised / raised.sum(axis=0)
        case "class_best":
            chosen = np.zeros_like(equal)
            chosen[np.argmax(np.where(defined, scores, 0.0), axis=0), np.arange(classes)] = 1.0
        case "greedy":
            chosen = np.repeat(search_shared(rows, rounds=config.rounds, threads=threads)[:, None], classes, axis=1)
            trust = np.full(classes, float(own[defined].mean()))
        case "class_greedy":
            chosen = search_classes(rows, rounds=config.rounds, threads=threads)
    return np.asarray(trust * chosen + (1.0 - trust) * equal)


def _guard(space: np.ndarray, truth: Predictions, config: EnsembleConfig, *, threads: int | None) -> dict[str, Any]:
    """Repeat the choice without each patient fold and judge it there against the plain mean."""
    folds = patient_folds(truth, folds=config.guard_folds, seed=config.seed)
    made = np.empty(truth.scores.shape)
    members = len(space)
    for fold in range(config.guard_folds):
        seen = np.flatnonzero(folds != fold)
        held = np.flatnonzero(folds == fold)
        part = truth.take(seen)
        rows = class_rows(space[:, seen], part.targets)
        if not any(row.is_defined for row in rows):
            weights = np.full((members, truth.labels.num_classes), 1.0 / members)
        else:
            scores = member_precision(rows, threads=threads)
            weights = _choose(rows, scores, _positive_patients(part), config, threads=threads)
        made[held] = pooled(space[:, held], weights, truth.take(held), how=config.how)
    equal = np.full((members, truth.labels.num_classes), 1.0 / members)
    plain = replace(truth, scores=np.clip(pooled(space, equal, truth, how=config.how), 0.0, 1.0), name="mean")
    chosen = replace(truth, scores=np.clip(made, 0.0, 1.0), name="chosen")
    found = compare(
        {"chosen": chosen, "mean": plain},
        config=ComparisonConfig(metrics=("ap",), levels=("macro",), bootstrap=config.bootstrap, seed=config.seed),
        threads=threads,
    )
    row = found.differences.iloc[0]
    low, high = float(row["low"]), float(row["high"])
    return {
        "folds": config.guard_folds,
        "metric": "macro AP of patients the weights have not seen, chosen - mean",
        "change": _json(float(row["difference"])),
        "low": _json(low),
        "high": _json(high),
        "accepted": bool(low > 0.0),
    }
