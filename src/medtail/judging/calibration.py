"""Calibration: maps fitted on the tune fold that make a score mean what it says, gently for rare classes.

A model's 0.3 is rarely 30 %. A map a class mends that, but a class of five positives cannot carry two parameters of
its own: it borrows from all classes, as far as its positive patients are few. Rows outside `tune` are refused; what
was fitted keeps the digest of the rows it saw. Stored beside a model it is applied to whatever the model predicts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, final

import numpy as np
from pydantic import Field

from medtail.config import CLOSED
from medtail.errors import MedtailError, UsageError
from medtail.judging.calibration_fits import (
    WEAK_PRIOR,
    compose,
    fit_affine,
    fit_beta,
    fit_isotonic,
    fit_softmax,
)
from medtail.judging.calibration_maps import (
    AffineMap,
    AnyMap,
    BetaMap,
    IdentityMap,
    IsotonicMap,
    OneClassMap,
    SoftmaxMap,
    adds_to_one,
    to_logits,
)
from medtail.judging.calibration_record import CalibrationMap, Method, apply_maps, kappa_name, refuse_calibrated
from medtail.judging.logit_adjustment import adjusting_maps, choose_tau
from medtail.judging.thresholds import refuse_unless_tune
from medtail.seeding import stream
from medtail.tables.predictions import Predictions

Groups = tuple[tuple[str, tuple[int, ...]], ...]
"""Name and columns of each exclusive group that is calibrated as one."""
KAPPAS = (1.0, 3.0, 10.0, 30.0, 100.0, float("inf"))
"""What `cv` chooses from."""
DEFAULT_KAPPA = 10.0
FLEXIBLE_FROM = 200
"""Patients with, and as many without, a finding from which a beta or isotonic map is fitted to it."""
LOSS_FLOOR = 1e-15


@final
@dataclass(frozen=True, kw_only=True)
class CalibrationConfig:
    """How to calibrate.

    Attributes:
        method: Map of the classes outside exclusive groups. `platt` (slope and shift), `temperature` (slope alone),
            `beta` or `isotonic` (from 200 patients with and without the finding, else `platt`), `softmax` (groups
            only), or `auto`: `platt`, or `beta` where there are 200 and its cross-validated log loss is clearly lower.
            A group whose scores add up to 1 gets a softmax (temperature and biases) under every method; under
            `temperature` the temperature alone. `logit_adjustment` is no calibration but the other direction: it takes
            out the class frequencies (see `logit_adjustment`), and ignores kappa.
        kappa: Positive patients' worth of pull toward the map of all classes, > 0; `inf` gives every class that map;
            `cv` takes the one of 1, 3, 10, 30, 100 and inf with the lowest log loss over patient folds.
        folds: Patient folds of every cross-validation, >= 2.
        seed: Of those folds.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED

    method: Method = "auto"
    kappa: Annotated[float, Field(gt=0)] | Literal["cv", "inf"] = DEFAULT_KAPPA
    folds: Annotated[int, Field(ge=2)] = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.kappa, str) and self.kappa not in ("cv", "inf"):
            raise UsageError(f"kappa {self.kappa!r}: expected a number of patients > 0, 'inf' or 'cv'.")
        if not isinstance(self.kappa, str) and not self.kappa > 0:
            raise UsageError(f"kappa {self.kappa!r}: expected a number of patients > 0, 'inf' or 'cv'.")
        if self.folds < 2:
            raise UsageError(f"folds {self.folds!r}: expected at least 2.")


def fit_calibration(predictions: Predictions, config: CalibrationConfig | None = None) -> CalibrationMap:
    """Fit a calibration on rows of the tune fold.

    A class's map is pulled toward the map of all classes pooled, as if `kappa` positive patients had voted for it:
    with n positive patients of its own it keeps about n / (n + kappa) of its own deviation. The pooled map itself is
    pulled to the identity with one patient's worth.

    Args:
        predictions: Raw scores and targets of tune rows, and of nothing else.
        config: Method and strength; the defaults if None.

    Returns:
        The calibration, without thresholds; see `thresholds.fit_thresholds`.

    Raises:
        MedtailError: A row is not in tune, there are none, or the scores are calibrated already.
        UsageError: `softmax` without an exclusive group whose scores add up to 1.

    Example:
        >>> from medtail.tables.labels import LabelSpace
        >>> ids = np.array([f"i{row}" for row in range(400)], dtype=object)
        >>> scores, targets = np.full((400, 1), 0.5), (np.arange(400) % 10 == 0)[:, None].astype(float)
        >>> folds = np.array(["tune"] * 400, dtype=object)
        >>> tune = Predictions(ids, ids, scores, targets, LabelSpace(("Hernia",)), folds)
        >>> found = fit_calibration(tune, CalibrationConfig(method="platt", kappa=1.0))
        >>> found.apply(np.array([[0.5]])).round(2).tolist()
        [[0.1]]

    References:
        platt1999, guo2017, kull2017, zadrozny2002.
    """
    config = config or CalibrationConfig()
    refuse_unless_tune(predictions, purpose="A calibration fitted")
    refuse_calibrated(predictions)
    groups = calibrated_groups(predictions)
    if config.method == "softmax" and not groups:
        raise UsageError(
            f"{predictions.name}: method 'softmax' needs an exclusive group whose scores add up to 1 in every row;"
            " found none. Use 'platt' or 'auto'."
        )
    maps, kappa, losses = _choose_and_fit(predictions, config, groups)
    return CalibrationMap(
        labels=predictions.labels,
        maps=maps,
        method=config.method,
        kappa=kappa,
        rows=predictions.digest,
        num_rows=len(predictions),
        num_patients=len(set(predictions.patients)),
        kappa_losses=losses,
        model=predictions.digests.get("model"),
    )


def cross_calibrated(predictions: Predictions, config: CalibrationConfig | None = None) -> np.ndarray:
    """Calibrate every tune row by a map that has not seen its patient, choices of the method repeated inside.

    Args:
        predictions: Rows of the tune fold.
        config: As for `fit_calibration`.

    Returns:
        float64 [N, C].

    Raises:
        MedtailError: As `fit_calibration`, or there are fewer patients than folds.

    Example:
        >>> from medtail.tables.labels import LabelSpace
        >>> ids = np.array([f"i{row}" for row in range(40)], dtype=object)
        >>> scores, targets = np.full((40, 1), 0.5), (np.arange(40) % 2 == 0)[:, None].astype(float)
        >>> tune = Predictions(ids, ids, scores, targets, LabelSpace(("a",)), np.array(["tune"] * 40, dtype=object))
        >>> cross_calibrated(tune).shape
        (40, 1)
    """
    config = config or CalibrationConfig()
    refuse_unless_tune(predictions, purpose="A calibration fitted")
    groups = calibrated_groups(predictions)
    made = np.empty(predictions.scores.shape)
    for seen, held in _folded(predictions, config):
        maps, _, _ = _choose_and_fit(predictions.take(seen), config, groups)
        made[held] = apply_maps(maps, predictions.scores[held], predictions.labels)
    return made


def patient_folds(predictions: Predictions, *, folds: int, seed: int = 0) -> np.ndarray:
    """Deal patients to folds so that every class's positive patients are spread over them, the rarest first.

    Args:
        predictions: Rows with targets.
        folds: How many, >= 2.
        seed: Of the deal.

    Returns:
        Fold of each row, int [N]; rows of a patient share it, and the order of rows does not matter.

    Raises:
        MedtailError: Fewer patients than folds.

    Example:
        >>> from medtail.tables.labels import LabelSpace
        >>> ids = np.array(list("abcd"), dtype=object)
        >>> scores, targets = np.full((4, 1), 0.5), np.array([[1.0], [1], [0], [0]])
        >>> rows = Predictions(ids, ids, scores, targets, LabelSpace(("x",)), ids)
        >>> folds = patient_folds(rows, folds=2)
        >>> sorted(folds[:2].tolist()), sorted(folds[2:].tolist())
        ([0, 1], [0, 1])
    """
    names, codes = np.unique(predictions.patients.astype(str), return_inverse=True)
    if len(names) < folds:
        raise MedtailError(
            f"{predictions.name}: found {len(names)} patients; {folds} folds by patient need as many. Give a number for"
            " kappa, or fewer folds."
        )
    positive = np.zeros((len(names), predictions.labels.num_classes), dtype=bool)
    np.logical_or.at(positive, codes, predictions.targets == 1)
    by_rarity = np.argsort(positive.sum(axis=0), kind="stable")
    ranked = positive[:, by_rarity]
    rarest = np.where(ranked.any(axis=1), ranked.argmax(axis=1), len(by_rarity))
    order = stream(seed, "calibration folds").permutation(len(names))
    order = order[np.argsort(rarest[order], kind="stable")]
    fold_of = np.empty(len(names), dtype=np.int64)
    fold_of[order] = np.arange(len(names)) % folds
    return fold_of[codes]


def calibrated_groups(predictions: Predictions) -> Groups:
    """Return name and columns of the exclusive groups that can be calibrated as one: their scores add up to 1."""
    labels = predictions.labels
    return tuple(
        (group.name, columns)
        for group, columns in zip(labels.groups, labels.group_indices, strict=True)
        if adds_to_one(predictions.scores[:, list(columns)])
    )


def _choose_and_fit(
    predictions: Predictions, config: CalibrationConfig, groups: Groups
) -> tuple[tuple[AnyMap, ...], float, dict[str, float]]:
    """Return the maps, the kappa they were fitted with, and what every kappa tried cost out of fold."""
    if config.method == "logit_adjustment":  # one number for all classes: nothing is borrowed
        tau, _ = choose_tau(predictions, groups=groups)
        return adjusting_maps(predictions, tau=tau, groups=groups), float("inf"), {}
    if config.kappa != "cv":
        kappa = float(config.kappa)
        return _Ground.of(predictions, config, groups).maps(kappa), kappa, {}
    totals = dict.fromkeys(KAPPAS, 0.0)
    for seen, held in _folded(predictions, config):
        ground, others = _Ground.of(predictions.take(seen), config, groups), predictions.take(held)
        for kappa in KAPPAS:
            made = apply_maps(ground.maps(kappa, has_choices=False), others.scores, others.labels)
            totals[kappa] += float(_losses(made, others.targets).sum())
    cells = max(int((~np.isnan(predictions.targets)).sum()), 1)
    # of equally good ones the strongest pull
    best = min(reversed(KAPPAS), key=lambda kappa: totals[kappa])
    maps = _Ground.of(predictions, config, groups).maps(best)
    return maps, best, {kappa_name(kappa): total / cells for kappa, total in totals.items()}


def _folded(predictions: Predictions, config: CalibrationConfig) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    fold_of = patient_folds(predictions, folds=config.folds, seed=config.seed)
    for number in range(config.folds):
        yield fold_of != number, fold_of == number


@final
@dataclass(frozen=True)
class _Ground:
    """What does not depend on kappa: every class's rows and the map of all classes together."""

    predictions: Predictions
    config: CalibrationConfig
    groups: Groups
    evidence: Mapping[int, _Evidence]
    pooled: tuple[float, float]

    @staticmethod
    def of(predictions: Predictions, config: CalibrationConfig, groups: Groups) -> _Ground:
        grouped = {column for _, columns in groups for column in columns}
        free = [c for c in range(predictions.labels.num_classes) if c not in grouped]
        evidence = {c: _Evidence.of(predictions, c) for c in free}
        pooled = (0.0, 0.0)
        if config.method != "softmax":
            pooled = _fit_pooled(list(evidence.values()), has_shift=config.method != "temperature")
        return _Ground(predictions, config, groups, evidence, pooled)

    def maps(self, kappa: float, *, has_choices: bool = True) -> tuple[AnyMap, ...]:
        """Fit every map; without choices `auto` is `platt`."""
        method: Method = "platt" if self.config.method == "auto" else self.config.method
        names = self.predictions.labels.class_names
        maps: dict[int, AnyMap] = {
            c: _fit_class(rows, names[c], method, kappa, self.pooled) for c, rows in self.evidence.items()
        }
        if self.config.method == "auto" and has_choices:
            maps |= _better_betas(self, kappa)
        for name, columns in self.groups:
            maps[columns[0]] = _fit_group(self.predictions, name, columns, method, kappa)
        return tuple(maps[c] for c in sorted(maps))


@final
@dataclass(frozen=True)
class _Evidence:
    """A class's assessed rows, and how many patients stand behind them."""

    logits: np.ndarray
    scores: np.ndarray
    targets: np.ndarray
    positive_patients: int
    negative_patients: int
    weight: float

    @staticmethod
    def of(predictions: Predictions, column: int) -> _Evidence:
        targets = predictions.targets[:, column]
        kept = ~np.isnan(targets)
        scores, targets, patients = predictions.scores[kept, column], targets[kept], predictions.patients[kept]
        counts = [(len(set(patients[targets == value])), int((targets == value).sum())) for value in (1, 0)]
        # the rarer side is what the class's information is about; count its patients, not its images
        present = [(of, rows) for of, rows in counts if rows]
        share = min(present, key=lambda count: count[1]) if present else (1, 1)
        return _Evidence(to_logits(scores), scores, targets, counts[0][0], counts[1][0], weight=share[0] / share[1])

    @property
    def is_flexible(self) -> bool:
        return min(self.positive_patients, self.negative_patients) >= FLEXIBLE_FROM


def _fit_pooled(classes: list[_Evidence], *, has_shift: bool) -> tuple[float, float]:
    if not classes:
        return 0.0, 0.0
    return fit_affine(
        np.concatenate([part.logits for part in classes]),
        np.concatenate([part.targets for part in classes]),
        weight=np.concatenate([np.full(len(part.logits), part.weight) for part in classes]),
        kappa=WEAK_PRIOR,
        has_shift=has_shift,
    )


def _fit_class(rows: _Evidence, name: str, method: Method, kappa: float, pooled: tuple[float, float]) -> OneClassMap:
    count = rows.positive_patients
    if method == "softmax":
        return IdentityMap(class_name=name, note="left as it is: method 'softmax' fits exclusive groups only.")
    if not len(rows.targets):
        return IdentityMap(class_name=name, note="left as it is: no assessed row in tune.")
    note = ""
    if method in ("beta", "isotonic"):
        if rows.is_flexible:
            return _fit_flexible(rows, name, method)
        note = (
            f"platt instead of {method}: {count} patients with and {rows.negative_patients} without it; from"
            f" {FLEXIBLE_FROM} of each."
        )
    elif not count or not rows.negative_patients:
        note = f"no patient {'with' if not count else 'without'} it in tune: nearly the map of all classes together."
    has_shift = method != "temperature"
    deviation = fit_affine(
        np.exp(pooled[0]) * rows.logits + pooled[1], rows.targets, weight=rows.weight, kappa=kappa, has_shift=has_shift
    )
    alpha, beta = compose(deviation, pooled)
    kind: Literal["platt", "temperature"] = "platt" if has_shift else "temperature"
    return AffineMap(class_name=name, kind=kind, alpha=alpha, beta=beta, positive_patients=count, note=note)


def _fit_flexible(rows: _Evidence, name: str, method: Method) -> OneClassMap:
    if method == "beta":
        rise, fall, shift = fit_beta(rows.logits, rows.targets, weight=rows.weight)
        return BetaMap(class_name=name, rise=rise, fall=fall, shift=shift, positive_patients=rows.positive_patients)
    knots, values = fit_isotonic(rows.scores, rows.targets)
    note = f"isotonic: {len(np.unique(values))} levels, so scores tie and AP and AUROC may move a little."
    return IsotonicMap(class_name=name, knots=knots, values=values, positive_patients=rows.positive_patients, note=note)


def _better_betas(ground: _Ground, kappa: float) -> dict[int, AnyMap]:
    """Return beta maps of the classes that have the patients for one and clearly gain by it, out of fold."""
    predictions, names = ground.predictions, ground.predictions.labels.class_names
    able = [c for c, rows in ground.evidence.items() if rows.is_flexible]
    if not able:
        return {}
    gains = np.zeros((len(predictions), len(able)))
    for seen, held in _folded(predictions, ground.config):
        inner, others = _Ground.of(predictions.take(seen), ground.config, ground.groups), predictions.take(held)
        for at, c in enumerate(able):
            rows = inner.evidence[c]
            rivals = (_fit_class(rows, "", "platt", kappa, inner.pooled), _fit_flexible(rows, "", "beta"))
            platt, beta = (_losses(rival.apply(others.scores[:, c]), others.targets[:, c]) for rival in rivals)
            gains[held, at] = platt - beta
    _, patients = np.unique(predictions.patients.astype(str), return_inverse=True)
    found: dict[int, AnyMap] = {}
    for at, c in enumerate(able):
        gained = np.bincount(patients, weights=gains[:, at])
        if gained.sum() > np.sqrt(np.sum(gained**2)):  # more than its own standard error
            found[c] = _fit_flexible(ground.evidence[c], names[c], "beta")
    return found


def _fit_group(predictions: Predictions, name: str, columns: tuple[int, ...], method: Method, kappa: float) -> AnyMap:
    chosen = list(columns)
    targets = predictions.targets[:, chosen]
    # one class present says that the others are absent, assessed or not
    known = (targets == 1).sum(axis=1) == 1
    true = (targets[known] == 1).argmax(axis=1) if known.any() else np.zeros(0, dtype=np.int64)
    patients = predictions.patients[known]
    counts = tuple(len(set(patients[true == at])) for at in range(len(chosen)))
    classes = tuple(predictions.labels.class_names[c] for c in chosen)
    if not known.any():
        return SoftmaxMap(
            group=name, classes=classes, alpha=0.0, bias=(0.0,) * len(chosen), positive_patients=counts,
            note="left as it is: no tune row has exactly one of its classes.",
        )  # fmt: skip
    scores = predictions.scores[known][:, chosen]
    alpha, bias = fit_softmax(
        scores,
        true,
        weight=len(set(patients)) / len(patients),
        kappa=float("inf") if method == "temperature" else kappa,
    )
    made = SoftmaxMap(group=name, classes=classes, alpha=alpha, bias=bias, positive_patients=counts)
    every = predictions.scores[:, chosen]
    turned = int((made.apply(every).argmax(axis=1) != every.argmax(axis=1)).sum())
    if turned:
        note = f"the most likely class changes in {turned} of {len(every)} tune rows."
        made = replace(made, note=note)
    return made


def _losses(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return each row's negative log likelihood, 0 where it was not assessed."""
    s = np.clip(scores, LOSS_FLOOR, 1.0 - LOSS_FLOOR)
    return np.asarray(-np.where(targets == 1, np.log(s), np.where(targets == 0, np.log1p(-s), 0.0)))
