"""How common findings are: here, at the place a person names, or as unlabelled scores suggest.

Beside `retarget`, which asks what a model is worth there. A table of prevalences is checked whole; an estimate
without labels is the maximum-likelihood share under "what the images of a class look like has not changed", and it
leans on the scores being calibrated where their labels are known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import pandas as pd

from medtail.errors import MedtailError, Problems, did_you_mean, listing
from medtail.judging.bootstrap import PatientWeights, draw_weights, number_patients, patient_sums, resample_sums
from medtail.judging.counts import ratio
from medtail.judging.evaluation import EvaluationConfig
from medtail.judging.intervals import percentile_interval
from medtail.tables.frames import add_row_problem, as_numbers, as_text, check_characters, check_ids, read_table
from medtail.tables.labels import LabelSpace
from medtail.tables.manifest import TARGET_PREFIX
from medtail.tables.predictions import TOLERANCE, Predictions

SUM_TOLERANCE = 0.01
"""Prevalences of an exclusive group may miss 1 by this much, the rounding of a published table."""
EDGE = 1e-9
"""An estimated prevalence stays this far from 0 and 1."""
SCORE_BINS = 512
"""Bins of the scores in the resamples of an estimate; the estimate itself uses every score."""
MOST_GROUP_RESAMPLES = 200
"""Resamples of an exclusive group's estimate: each is an iteration of its own."""


def observed_prevalence(predictions: Predictions) -> dict[str, float]:
    """Return each class's share of positives among its assessed rows, NaN without any.

    Example:
        >>> ids = np.array(["a", "b"], dtype=object)
        >>> rows = Predictions(ids, ids, np.ones((2, 1)), np.array([[1.0], [0]]), LabelSpace(("Hernia",)), ids)
        >>> observed_prevalence(rows)
        {'Hernia': 0.5}
    """
    positive, known = (predictions.targets == 1).sum(axis=0), (~np.isnan(predictions.targets)).sum(axis=0)
    return {
        name: float(share) for name, share in zip(predictions.labels.class_names, ratio(positive, known), strict=True)
    }


def read_prevalence(path: Path | str, *, predictions: Predictions) -> dict[str, dict[str, float]]:
    """Read a table of prevalences and check it whole.

    Args:
        path: `.csv` or `.parquet` with the columns `class`, `prevalence` and, where it differs between places, `site`.
        predictions: What will be re-targeted: its classes are the known ones. Classes of an exclusive group come
            together; they sum to 1 unless it has rows to which none of them applies, and then to at most 1.

    Returns:
        Site ("" where none is named) → class → prevalence, in the table's order. A class may be left out.

    Raises:
        MedtailError: Every mistake: missing columns, unknown classes, repeated rows, values that are no share in
            (0, 1), incomplete groups, groups whose sum is impossible.
    """
    path = Path(path)
    frame, _ = read_table(path, what="table of prevalences")
    problems = Problems(path.name)
    for column in ("class", "prevalence"):
        if column not in frame.columns:
            hint = did_you_mean(column, [str(name) for name in frame.columns])
            problems.add(f"column {column!r}: missing{hint or '; expected class, prevalence and, if needed, site.'}")
    for column in frame.columns:
        if column not in ("class", "prevalence", "site"):
            problems.add(f"column {column!r}: unknown; expected class, prevalence and, if needed, site.")
    if not len(frame):
        problems.add("no rows: found only the header; expected a row a class.")
    problems.raise_if_any()
    names = as_text(frame["class"])
    sites = as_text(frame["site"]) if "site" in frame.columns else pd.Series([""] * len(frame), dtype=str)
    values, bad = as_numbers(frame["prevalence"])
    outside = bad | ~((values > 0.0) & (values < 1.0))
    expected = "a share in (0, 1), such as 0.02 for 2 %"
    add_row_problem(problems, outside, as_text(frame["prevalence"]), expected=expected)
    known = predictions.labels.class_names
    for name in dict.fromkeys(names):
        if name not in known:
            hint = did_you_mean(name, known) or f"; classes: {listing(known, limit=12)}"
            problems.add(f"column 'class': {name!r} is no class of {predictions.name}{hint}")
    found: dict[str, dict[str, float]] = {}
    for row, (site, name) in enumerate(zip(sites, names, strict=True)):
        if name in found.setdefault(site, {}):
            place = f" at site {site!r}" if site else ""
            problems.add(f"row {row + 2}: {name!r}{place} again; expected one prevalence a class and site.")
        found[site].setdefault(name, float(values[row]))
    if not outside.any():
        for site, shares in found.items():
            for message in _group_problems(shares, predictions):
                problems.add(f"site {site!r}, {message}" if site else message)
    problems.raise_if_any()
    return found


def _group_problems(shares: Mapping[str, float], predictions: Predictions) -> list[str]:
    found = []
    for group, indices in zip(predictions.labels.groups, predictions.labels.group_indices, strict=True):
        given = [name for name in group.classes if name in shares]
        left = [name for name in group.classes if name not in shares]
        total = sum(shares[name] for name in given)
        targets = predictions.targets[:, list(indices)]
        none_applies = bool((targets == 0).all(axis=1).any())
        if given and left:
            found.append(
                f"group {group.name!r}: {listing(left)} missing; its classes exclude each other, so a share of one is"
                " taken from the others: give all of them or none."
            )
        elif given and not none_applies and abs(total - 1.0) > SUM_TOLERANCE:
            found.append(f"group {group.name!r}: its classes sum to {total:.4g}; expected 1.")
        elif given and total > 1.0 + SUM_TOLERANCE:
            found.append(f"group {group.name!r}: its classes sum to {total:.4g}; expected at most 1.")
    return found


@final
@dataclass(frozen=True)
class PrevalenceEstimate:
    """Prevalences estimated without labels: an estimate under an assumption, not a count.

    Attributes:
        values: Class → share.
        resampled: Class → share in resamples of the unlabelled patients, float64 [B].
        images: Unlabelled rows it rests on.
        cautions: What to know before using it, in words.
    """

    values: Mapping[str, float]
    resampled: Mapping[str, np.ndarray]
    images: int
    cautions: tuple[str, ...]

    def interval(self, name: str, *, level: float = 0.95) -> tuple[float, float]:
        """Return the interval of a class's share; NaN without resamples."""
        return percentile_interval(self.resampled[name], level=level)


def estimate_prevalence(
    unlabelled: Predictions, *, labelled: Predictions, config: EvaluationConfig | None = None
) -> PrevalenceEstimate:
    """Estimate how common each class is among rows without labels.

    If images of a class look the same in both places, the scores mix in proportion to the shares there. EM iterates
    share = mean of the scores re-targeted to the share; its limit, the maximum of a concave likelihood, is found by
    bisection for a class of its own and by iteration in an exclusive group.

    Args:
        unlabelled: Scores where the shares are wanted; its targets are never read.
        labelled: Scores and targets where the shares are known, from the same model, calibrated.
        config: Resamples, scheme, seed; the defaults if None.

    Returns:
        The estimate for every class that has positives and negatives in `labelled`, with its cautions.

    Raises:
        MedtailError: Other classes, or no rows.

    Example:
        >>> random = np.random.default_rng(0)
        >>> def place(prevalence):
        ...     y = (random.random(4000) < prevalence).astype(float)
        ...     x = random.normal(2 * y)
        ...     ids = np.array([str(i) for i in range(4000)], dtype=object)
        ...     score = 1 / (1 + np.exp(-(2 * x - 2)))  # the posterior at one half
        ...     return Predictions(ids, ids, score[:, None], y[:, None], LabelSpace(("Hernia",)), ids)
        >>> found = estimate_prevalence(place(0.1), labelled=place(0.5), config=EvaluationConfig(bootstrap=50))
        >>> bool(abs(found.values["Hernia"] - 0.1) < 0.02)
        True

    References:
        saerens2002.
    """
    config = config or EvaluationConfig()
    labels = labelled.labels
    if unlabelled.labels.class_names != labels.class_names:
        raise MedtailError(f"{unlabelled.name}: its classes are not those of {labelled.name}, in their order.")
    if not len(unlabelled):
        raise MedtailError(f"{unlabelled.name}: no rows to estimate a prevalence from.")
    before = observed_prevalence(labelled)
    patients, total = number_patients(unlabelled.patients)
    weights = draw_weights(total, resamples=config.bootstrap, scheme=config.scheme, seed=config.seed)
    values: dict[str, float] = {}
    resampled: dict[str, np.ndarray] = {}
    skipped: list[str] = []
    for columns in [*labels.group_indices, *((c,) for c in labels.free_indices)]:
        names = [labels.class_names[c] for c in columns]
        shares = np.array([before[name] for name in names])
        if not np.all((shares > 0) & (shares < 1)):
            skipped += names
            continue
        scores = unlabelled.scores[:, list(columns)]
        if len(columns) == 1:
            point, drawn = _single(scores[:, 0], float(shares[0]), patients, weights)
        else:
            point, drawn = _exclusive(scores, shares / shares.sum(), patients, weights)
        values |= {name: float(point[i]) for i, name in enumerate(names)}
        resampled |= {name: drawn[i] for i, name in enumerate(names)}
    order = [name for name in labels.class_names if name in values]
    return PrevalenceEstimate(
        {name: values[name] for name in order},
        {name: resampled[name] for name in order},
        len(unlabelled),
        (*_cautions(labelled, before, order, skipped),),
    )


def _cautions(labelled: Predictions, before: Mapping[str, float], order: list[str], skipped: list[str]) -> list[str]:
    found = ["prevalences were estimated from scores without labels: an estimate under an assumption, not a count."]
    if skipped:
        found.append(f"not estimated, for want of positives and negatives in {labelled.name}: {listing(skipped)}.")
    off = []
    for name in order:
        c = labelled.labels.index(name)
        mean = float(labelled.scores[~np.isnan(labelled.targets[:, c]), c].mean())
        if not 0.8 <= mean / before[name] <= 1.25:
            off.append(f"{name} (mean score {mean:.3g}, prevalence {before[name]:.3g})")
    if off:
        found.append(
            f"the estimate takes scores for probabilities, and they are not: {listing(off)}. Calibrate them first."
        )
    return found


def _single(
    scores: np.ndarray, share: float, patients: np.ndarray, weights: PatientWeights
) -> tuple[np.ndarray, np.ndarray]:
    point = _most_likely(scores[:, None], np.ones((len(scores), 1)), share)
    if not weights.resamples:
        return point, np.empty((1, 0))
    cuts = np.unique(np.quantile(scores, np.linspace(0, 1, SCORE_BINS + 1)[1:-1]))
    index = np.searchsorted(cuts, scores, side="right")
    size = len(cuts) + 1
    count = np.bincount(index, minlength=size)
    centre = np.bincount(index, weights=scores, minlength=size) / np.maximum(count, 1)
    spread = np.zeros((len(scores), size), dtype=np.float32)
    spread[np.arange(len(scores)), index] = 1.0
    drawn = resample_sums(patient_sums(spread, patients, weights.num_patients), weights)
    return point, _most_likely(centre[:, None], drawn, share)[None, :]


def _most_likely(scores: np.ndarray, weights: np.ndarray, share: float) -> np.ndarray:
    """Return the share that maximises Σ w log(p·s/π + (1-p)·(1-s)/(1-π)), [B] for weights [n, B]."""
    present, absent = scores / share, (1.0 - scores) / (1.0 - share)
    low, high = np.full(weights.shape[1], EDGE), np.full(weights.shape[1], 1.0 - EDGE)
    for _ in range(50):
        middle = (low + high) / 2.0
        # the derivative falls in p: above 0 the maximum lies higher
        slope = (weights * (present - absent) / (middle * present + (1.0 - middle) * absent)).sum(axis=0)
        low, high = np.where(slope > 0, middle, low), np.where(slope > 0, high, middle)
    return np.asarray((low + high) / 2.0)


def _exclusive(
    scores: np.ndarray, shares: np.ndarray, patients: np.ndarray, weights: PatientWeights
) -> tuple[np.ndarray, np.ndarray]:
    likelihood = scores / shares
    point = _iterate(likelihood, np.ones(len(scores)), shares, tolerance=1e-9, most=20_000)
    few = min(weights.resamples, MOST_GROUP_RESAMPLES)
    table = weights.matrix()[:, :few]
    drawn = [
        _iterate(likelihood, table[patients, b].astype(np.float64), point, tolerance=1e-6, most=500) for b in range(few)
    ]
    repeated = np.resize(np.array(drawn).reshape(few, len(shares)), (weights.resamples, len(shares)))
    return point, repeated.T


def _iterate(
    likelihood: np.ndarray, weights: np.ndarray, start: np.ndarray, *, tolerance: float, most: int
) -> np.ndarray:
    share = start
    for _ in range(most):
        mixed = likelihood * share
        renewed = weights @ (mixed / mixed.sum(axis=1, keepdims=True)) / weights.sum()
        moved = float(np.abs(renewed - share).max())
        share = renewed
        if moved < tolerance:
            break
    return share


def read_unlabelled(path: Path | str, *, labels: LabelSpace) -> Predictions:
    """Read scores whose images have no labels; target columns, if there are any, are left unread.

    Args:
        path: `.csv` or `.parquet` with `image_id`, a column of scores a class, and `patient_id` if known.
        labels: The classes to read.

    Returns:
        Predictions whose targets are all NaN.

    Raises:
        MedtailError: Every mistake: missing columns, repeated ids, values that are no score in [0, 1].
    """
    path = Path(path)
    frame, _ = read_table(path, what="table of scores")
    problems = Problems(path.name)
    own = [str(name) for name in frame.columns if not str(name).startswith(TARGET_PREFIX)]
    for name in ("image_id", *labels.class_names):
        if name not in own:
            free = [column for column in own if column not in labels.class_names]
            problems.add(f"column {name!r}: missing{did_you_mean(name, free) or '.'}")
    if not len(frame):
        problems.add("no rows: found only the header; expected a row an image.")
    problems.raise_if_any()
    ids = as_text(frame["image_id"])
    check_ids(ids, problems)
    check_characters(ids, problems)
    columns = []
    for name in labels.class_names:
        values, _ = as_numbers(frame[name])
        outside = ~((values >= -TOLERANCE) & (values <= 1 + TOLERANCE))
        add_row_problem(problems, outside, as_text(frame[name]), expected="a score in [0, 1]")
        columns.append(values)
    patients = as_text(frame["patient_id"]) if "patient_id" in frame.columns else ids
    has_patients = bool((patients != "").all()) and "patient_id" in frame.columns
    problems.raise_if_any()
    scores = np.clip(np.column_stack(columns), 0.0, 1.0)
    return Predictions(
        image_ids=ids.to_numpy(dtype=object),
        patients=(patients if has_patients else ids).to_numpy(dtype=object),
        scores=scores,
        targets=np.full(scores.shape, np.nan),
        labels=labels,
        folds=np.array([""] * len(frame), dtype=object),
        has_patients=has_patients,
        name=path.name,
    )
