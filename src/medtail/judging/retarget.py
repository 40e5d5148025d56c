"""What a model is worth where the findings are as common as *you* say.

A test fold is rarely as rare as the clinic. Under label shift - what images of a class look like stays, only how
many there are changes - sensitivity carries over, and predictive values, alarms and average precision follow by
arithmetic. Inside an exclusive group specificity does not carry over by itself: which other classes there are changes
too, so false alarms are counted class by class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np

from medtail.errors import MedtailError, Problems, did_you_mean, listing
from medtail.judging.bootstrap import draw_weights, number_patients
from medtail.judging.counts import ratio
from medtail.judging.decisions import decide
from medtail.judging.evaluation import EvaluationConfig
from medtail.judging.headers import results_header
from medtail.judging.intervals import mean_of_defined
from medtail.judging.label_shift import Family, gather_family
from medtail.judging.metrics import average_precision, macro
from medtail.judging.prevalence import PrevalenceEstimate, observed_prevalence
from medtail.judging.proportions import interval_row, spread_unanimous, word_few_patients
from medtail.tables.predictions import Predictions
from medtail.tables.results import Results, results_from_rows

ASSUMPTION = (
    "Assumed: images of a class look alike here and there (P(image | class) unchanged); only how common the classes"
    " are differs. Another scanner, another age mix or milder disease breaks this, and no number here shows it."
)
ESTIMATED = "estimated"
"""Subgroup of the rows whose prevalence was estimated without labels."""


def shift_scores(scores: np.ndarray, *, before: float, after: float) -> np.ndarray:
    """Move the scores of one class from one prevalence to another: logit s' = logit s + logit π' - logit π.

    Args:
        scores: Calibrated at `before`, float [N] in [0, 1]; 0 and 1 stay.
        before: Prevalence the scores belong to, in (0, 1).
        after: Prevalence to move to, in (0, 1).

    Returns:
        float64 [N] in [0, 1], in the same order.

    Raises:
        MedtailError: A prevalence is outside (0, 1).

    Example:
        >>> shift_scores(np.array([0.5]), before=0.5, after=0.1).round(3).tolist()
        [0.1]

    References:
        saerens2002.
    """
    for name, value in (("before", before), ("after", after)):
        if not 0.0 < value < 1.0:
            raise MedtailError(f"prevalence {name} {value!r}: expected a share in (0, 1).")
    s = np.asarray(scores, dtype=np.float64)
    present, absent = s * (after / before), (1.0 - s) * ((1.0 - after) / (1.0 - before))
    return np.asarray(present / (present + absent))


def retarget_predictions(
    predictions: Predictions, *, prevalence: Mapping[str, float], before: Mapping[str, float] | None = None
) -> Predictions:
    """Move calibrated scores to other prevalences, class by class and jointly inside exclusive groups.

    Thresholds of free classes move along, so that the same images are called; inside a group the highest score may be
    another class now. Classes that `prevalence` does not name stay as they are.

    Args:
        predictions: Scores calibrated where the classes are as common as in `before`.
        prevalence: Class → share to move to, in (0, 1); an exclusive group whole or not at all.
        before: Class → share the scores belong to; that of the rows if None.

    Returns:
        The same rows with other scores.

    Raises:
        MedtailError: Unknown classes, shares outside (0, 1) (a class that no row shows cannot be moved), or part of a
            group.

    Example:
        >>> from medtail.tables.labels import LabelSpace
        >>> ids = np.array(["a", "b"], dtype=object)
        >>> rows = Predictions(ids, ids, np.array([[0.5], [0.8]]), np.array([[0.0], [1]]), LabelSpace(("Hernia",)), ids)
        >>> retarget_predictions(rows, prevalence={"Hernia": 0.1}).scores.round(3).tolist()
        [[0.1], [0.308]]

    References:
        saerens2002.
    """
    labels, known = predictions.labels, dict(before or observed_prevalence(predictions))
    problems = Problems("prevalence")
    for name, share in prevalence.items():
        if name not in labels.class_names:
            hint = did_you_mean(name, labels.class_names)
            problems.add(f"class {name!r}: {predictions.name} has no such class{hint or '.'}")
        elif not 0.0 < share < 1.0:
            problems.add(f"class {name!r}: found {share!r}; expected a share in (0, 1).")
        elif not 0.0 < known.get(name, np.nan) < 1.0:
            problems.add(f"class {name!r}: its prevalence here is {known.get(name)!r}; scores cannot be moved from it.")
    for group in labels.groups:
        left = [name for name in group.classes if name not in prevalence]
        if left and len(left) < len(group.classes):
            problems.add(f"group {group.name!r}: {listing(left)} missing; give all of its classes or none.")
    problems.raise_if_any()
    scores = predictions.scores.copy()
    limits = dict(predictions.thresholds) if predictions.thresholds is not None else None
    for c in labels.free_indices:
        name = labels.class_names[c]
        if name in prevalence:
            scores[:, c] = shift_scores(scores[:, c], before=known[name], after=prevalence[name])
            # without thresholds of their own the rows are called at .5, and that moves as well
            limits = dict.fromkeys(labels.class_names, 0.5) if limits is None else limits
            moved = shift_scores(np.array([limits[name]]), before=known[name], after=prevalence[name])
            limits[name] = float(moved[0])
    for group, indices in zip(labels.groups, labels.group_indices, strict=True):
        if group.classes[0] in prevalence:
            columns = list(indices)
            mixed = scores[:, columns] * np.array([prevalence[n] / known[n] for n in group.classes])
            total = mixed.sum(axis=1, keepdims=True)
            scores[:, columns] = np.divide(mixed, total, out=scores[:, columns], where=total > 0)
    return replace(predictions, scores=scores, thresholds=limits)


@final
@dataclass(frozen=True)
class PredictiveValues:
    """What a decision means at a prevalence. Every field has the shape of the inputs.

    Attributes:
        ppv: Share of the called that have the finding; NaN where nothing is called.
        npv: Share of the uncalled that do not have it; NaN where all are called.
        number_needed_to_evaluate: Called images looked at for each finding among them, 1 / PPV; infinite at PPV 0.
        alarms_per_1000: Called images among 1,000.
        false_alarms_per_1000: Of those, images without the finding.
        missed_per_1000: Findings not called among 1,000 images.
    """

    ppv: np.ndarray
    npv: np.ndarray
    number_needed_to_evaluate: np.ndarray
    alarms_per_1000: np.ndarray
    false_alarms_per_1000: np.ndarray
    missed_per_1000: np.ndarray


def predictive_values(
    sensitivity: np.ndarray | float, specificity: np.ndarray | float, *, prevalence: np.ndarray | float
) -> PredictiveValues:
    """Compute what sensitivity and specificity amount to at a prevalence.

    PPV = se·π / (se·π + (1-sp)(1-π)), NPV = sp(1-π) / (sp(1-π) + (1-se)π).

    Args:
        sensitivity: In [0, 1]; NaN gives NaN.
        specificity: In [0, 1].
        prevalence: In [0, 1].

    Returns:
        The values; inputs broadcast.

    Example:
        >>> found = predictive_values(0.9, 0.9, prevalence=0.01)
        >>> round(float(found.ppv), 4), round(float(found.number_needed_to_evaluate), 1)
        (0.0833, 12.0)
    """
    se, sp, pi = (np.asarray(value, dtype=np.float64) for value in (sensitivity, specificity, prevalence))
    true, false = se * pi, (1.0 - sp) * (1.0 - pi)
    missed, spared = (1.0 - se) * pi, sp * (1.0 - pi)
    alarms = true + false
    needed = np.full(alarms.shape, np.nan)
    np.divide(alarms, true, out=needed, where=true > 0)
    needed = np.where((true == 0) & (alarms > 0), np.inf, needed)
    return PredictiveValues(
        ratio(true, alarms), ratio(spared, spared + missed), needed, 1000 * alarms, 1000 * false, 1000 * missed
    )


def average_precision_at(scores: np.ndarray, targets: np.ndarray, *, prevalence: float) -> float:
    """Compute the average precision the same scores have at another prevalence.

    Rows weigh π'/π if positive and (1-π')/(1-π) if negative.

    Args:
        scores: float [N] in [0, 1].
        targets: [N] in {0, 1, NaN}.
        prevalence: In (0, 1).

    Returns:
        A value in (0, 1]; NaN without positives or without negatives.

    Raises:
        MedtailError: The prevalence is outside (0, 1), or values are out of range.

    Example:
        >>> average_precision_at(np.array([0.9, 0.8, 0.1]), np.array([0, 1, 0]), prevalence=0.5).__round__(4)
        0.6667
    """
    if not 0.0 < prevalence < 1.0:
        raise MedtailError(f"prevalence {prevalence!r}: expected a share in (0, 1).")
    known = ~np.isnan(np.asarray(targets, dtype=np.float64))
    positive = np.asarray(targets)[known] == 1
    here = positive.mean() if len(positive) else float("nan")
    if not 0.0 < here < 1.0:
        return float("nan")
    weights = np.where(positive, prevalence / here, (1.0 - prevalence) / (1.0 - here))
    return average_precision(np.asarray(scores)[known], positive.astype(float), weights=weights)


def retarget(
    predictions: Predictions,
    prevalence: Mapping[str, Mapping[str, float]],
    *,
    estimate: PrevalenceEstimate | None = None,
    config: EvaluationConfig | None = None,
) -> Results:
    """Say what the decisions and the ranking are worth at other prevalences.

    The same images are called as here. Rows a class: `prevalence` (here), `target_prevalence`, `recall`,
    `specificity`, `ppv`, `npv`, `number_needed_to_evaluate`, `alarms_per_1000`, `false_alarms_per_1000`,
    `missed_per_1000`, `ap` (here) and `ap_at_prevalence`; the mean of the last two has an empty class. Intervals are
    over patients; a given prevalence is taken as known, an estimated one moves with its own resamples. A sensitivity
    or specificity of exactly 0 or 1 gets the spread its number of patients allows.

    Args:
        predictions: Scores and targets of the judged rows.
        prevalence: Site ("" for everywhere) → class → share, in (0, 1); an exclusive group whole or not at all.
        estimate: Prevalences estimated without labels, judged as site `estimated`.
        config: Resamples, scheme, seed and interval; the defaults if None.

    Returns:
        Results with the site as `subgroup`, and the assumption in its header.

    Raises:
        MedtailError: Unknown classes, shares outside (0, 1), part of a group, or nothing to judge.

    Example:
        >>> from medtail.tables.labels import LabelSpace
        >>> ids = np.array(list("abcd"), dtype=object)
        >>> rows = Predictions(ids, ids, np.array([[0.9], [0.6], [0.2], [0.1]]), np.array([[1.0], [0], [1], [0]]),
        ...                    LabelSpace(("Hernia",)), np.array(["test"] * 4, dtype=object))
        >>> there = retarget(rows, {"": {"Hernia": 0.1}})
        >>> round(there.value("ppv", class_name="Hernia"), 3), there.value("missed_per_1000", class_name="Hernia")
        (0.1, 50.0)

    References:
        saerens2002, hanley1983.
    """
    config = config or EvaluationConfig()
    sites = {site: dict(shares) for site, shares in prevalence.items()}
    if estimate is not None:
        sites[ESTIMATED] = dict(estimate.values)
    _check(predictions, sites)
    labels = predictions.labels
    patients, total = number_patients(predictions.patients)
    weights = draw_weights(total, resamples=config.bootstrap, scheme=config.scheme, seed=config.seed)
    called = decide(predictions)
    here = observed_prevalence(predictions)
    rows: list[dict[str, Any]] = []
    cautions = list(estimate.cautions) if estimate is not None else []
    ranked: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {site: [] for site in sites}
    for columns in _families(labels.group_indices, labels.free_indices):
        names = [labels.class_names[c] for c in columns]
        wanted = {site: shares for site, shares in sites.items() if names[0] in shares}
        if not wanted:
            continue
        family = gather_family(predictions, called, columns, patients, weights)
        shares = {
            site: _shares(family, given, estimate if site == ESTIMATED else None) for site, given in wanted.items()
        }
        for site, share in shares.items():
            cautions += _left_out(family, share, site)
        for i, name in enumerate(names):
            here_ap, *there_ap = family.average_precisions(i, [None, *shares.values()])
            for (site, share), at_target in zip(shares.items(), there_ap, strict=True):
                found = _decisions(family, i, share, config)
                found |= {"ap": interval_row(float(here_ap[0]), here_ap[1:], level=config.interval)}
                found |= {"ap_at_prevalence": interval_row(float(at_target[0]), at_target[1:], level=config.interval)}
                found |= {"prevalence": {"value": here[name]}}
                place = {"class": name, "subgroup": site, "support": int(family.counts[i, 0])}
                rows += [{"metric": metric, **place, **row} for metric, row in found.items()]
                ranked[site].append((here_ap, at_target))
    named = [name for name in labels.class_names if any(name in shares for shares in sites.values())]
    cautions += word_few_patients(predictions, named) if config.bootstrap else []
    for site, found_here in ranked.items():
        rows += _macro_rows(site, found_here, config)
    thresholds = {name: float(t) for name, t in zip(labels.class_names, predictions.threshold_array, strict=True)}
    header = results_header(predictions, num_patients=total, config=config) | {
        "assumption": ASSUMPTION,
        "prevalence": sites,
        "estimated": estimate is not None,
        "thresholds": {"source": "fixed 0.5" if predictions.thresholds is None else "stored", "values": thresholds},
        "warnings": list(dict.fromkeys(cautions)),
    }
    return results_from_rows(list(rows), header=header)


def _check(predictions: Predictions, sites: Mapping[str, Mapping[str, float]]) -> None:
    problems = Problems("prevalence")
    names = predictions.labels.class_names
    for site, shares in sites.items():
        place = f"site {site!r}, " if site else ""
        for name, share in shares.items():
            if name not in names:
                problems.add(f"{place}class {name!r}: {predictions.name} has no such class{did_you_mean(name, names)}.")
            elif not 0.0 < share < 1.0:
                problems.add(f"{place}class {name!r}: found {share!r}; expected a share in (0, 1).")
        for group in predictions.labels.groups:
            left = [name for name in group.classes if name not in shares]
            if left and len(left) < len(group.classes):
                problems.add(f"{place}group {group.name!r}: {listing(left)} missing; give all of its classes or none.")
    if not any(sites.values()):
        problems.add("no prevalence is given; expected one a class.")
    if not len(predictions):
        problems.add(f"{predictions.name}: no rows to judge.")
    problems.raise_if_any()


def _families(groups: tuple[tuple[int, ...], ...], free: tuple[int, ...]) -> list[tuple[int, ...]]:
    return sorted([*groups, *((c,) for c in free)])


def _shares(family: Family, given: Mapping[str, float], estimate: PrevalenceEstimate | None) -> np.ndarray:
    """Return the shares of the family's categories, [D, 1 + B]: as given, then in each resample."""
    shares = np.repeat(np.array([[given[name]] for name in family.names]), family.counts.shape[1], axis=1)
    if estimate is not None and family.counts.shape[1] > 1:
        shares[:, 1:] = [estimate.resampled[name] for name in family.names]
    return family.shares(shares)


def _left_out(family: Family, shares: np.ndarray, site: str) -> list[str]:
    missing = family.left_out(shares[:, :1])
    if not missing or len(family.names) == 1:
        return []
    place = f" at {site}" if site else ""
    return [
        f"{listing(missing)}: no image here, so nobody knows what they are called; their share{place} is given to the"
        " other classes of the group."
    ]


def _decisions(family: Family, c: int, shares: np.ndarray, config: EvaluationConfig) -> dict[str, dict[str, float]]:
    """Return the rows of one class at its thresholds, metric -> value, low, high."""
    level, behind = config.interval, (family.patients_of(c, inside=True), family.patients_of(c, inside=False))
    share = shares[c]
    found: dict[str, dict[str, float]] = {
        "target_prevalence": interval_row(float(share[0]), share[1:], level=level)
        if np.ptp(share)
        else {"value": float(share[0])}
    }
    carried = []
    for metric, rate, patients in zip(("recall", "specificity"), family.rates(c, shares), behind, strict=True):
        value, drawn = float(rate[0]), rate[1:]
        # a weighted mean of exact ones may miss 1 by rounding
        value = float(np.rint(value)) if abs(value - np.rint(value)) < 1e-12 else value
        found[metric] = interval_row(value, drawn, level=level, patients=patients)
        if len(drawn) and value in (0.0, 1.0):
            purpose = f"{metric}/{family.names[c]}"
            drawn = spread_unanimous(value, patients=patients, resamples=len(drawn), seed=config.seed, purpose=purpose)
        carried.append(np.append(value, drawn))
    values = predictive_values(*carried, prevalence=share)
    for metric in ("ppv", "npv", "alarms_per_1000", "false_alarms_per_1000", "missed_per_1000"):
        both = getattr(values, metric)
        found[metric] = _around(interval_row(float(both[0]), both[1:], level=level))
    ppv = found["ppv"]
    needed = {"value": float(values.number_needed_to_evaluate[0])}
    if "low" in ppv:
        # 1 / x turns an interval around; a PPV that may be 0 has no upper end
        needed |= {"low": _reciprocal(ppv["high"]), "high": _reciprocal(ppv["low"])}
    return found | {"number_needed_to_evaluate": needed}


def _around(row: dict[str, float]) -> dict[str, float]:
    """Let the interval reach the value: draws for a rate of exactly 0 or 1 all lie to one side of it."""
    if "low" in row:
        row |= {"low": min(row["low"], row["value"]), "high": max(row["high"], row["value"])}
    return row


def _reciprocal(value: float) -> float:
    return float("inf") if value == 0.0 else 1.0 / value


def _macro_rows(
    site: str, ranked: list[tuple[np.ndarray, np.ndarray]], config: EvaluationConfig
) -> list[dict[str, Any]]:
    rows = []
    for metric, at in (("ap", 0), ("ap_at_prevalence", 1)):
        found = np.array([pair[at] for pair in ranked])
        value, support = macro(found[:, 0])
        drawn = mean_of_defined(found[~np.isnan(found[:, 0]), 1:])
        place = {"metric": metric, "subgroup": site, "support": support}
        rows.append({**place, **interval_row(value, drawn, level=config.interval)})
    return rows
