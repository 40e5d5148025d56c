"""Several trainings of one recipe, judged on the same rows: how much is the seed's doing, how much the patients'.

A patient interval of one run says what other patients would have given *this* model; the spread over seeds says what
another training would have given on *these* patients. They are different questions, so each has rows of its own,
and the interval that holds both is named so in the header.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medtail.errors import MedtailError
from medtail.judging.bootstrap import number_patients
from medtail.judging.counts import ratio
from medtail.judging.decisions import decide
from medtail.judging.estimates import CLASS_METRICS, Estimates, estimate
from medtail.judging.evaluation import EvaluationConfig, group_classes, weigh_patients
from medtail.judging.intervals import mean_of_defined
from medtail.judging.paired_draws import draw_seed_weights
from medtail.judging.pairing import pair_rows
from medtail.judging.result_rows import IntervalMaker, Row
from medtail.runs import versions
from medtail.seeding import stream_seed
from medtail.tables.predictions import Predictions
from medtail.tables.results import Results, results_from_rows
from medtail.tables.tail import TAIL_GROUPS


def judge_seeds(
    runs: Mapping[str, Predictions],
    *,
    config: EvaluationConfig | None = None,
    metrics: Sequence[str] = ("ap", "auroc", "f1"),
    threads: int | None = None,
) -> Results:
    """Judge several trainings of one recipe on the same rows, each for itself and all together.

    For every class, every tail group and over all classes there are: the value of each seed with its patient
    interval (`subgroup` is `seed=NAME`); the mean over seeds with the interval of the hierarchical bootstrap, which
    draws seeds and then patients, the same ones for every seed (as `comparison` does); the same mean with patients
    drawn only (`METRIC@fixed_seeds`); and `sd_over_seeds:METRIC`, the standard deviation over seeds on the rows as
    they are.

    Args:
        runs: Name of the seed → its predictions, at least two, of the same images.
        config: How to judge; intervals are percentiles.
        metrics: Names from `estimates.CLASS_METRICS`.
        threads: Worker threads; no effect on the result.

    Returns:
        Results; support is the number of positives (a class) or of classes averaged, of `sd_over_seeds` the seeds.

    Raises:
        MedtailError: Fewer than two runs, an unknown metric, or runs of different rows.

    Example:
        >>> from medtail.tables.labels import LabelSpace
        >>> ids, y = np.array(list("abcd"), dtype=object), np.array([[1.0], [0.0], [1.0], [0.0]])
        >>> runs = {str(seed): Predictions(ids, ids, np.random.default_rng(seed).random((4, 1)), y,
        ...                                LabelSpace(("Hernia",)), ids) for seed in range(3)}
        >>> results = judge_seeds(runs, config=EvaluationConfig(bootstrap=20))
        >>> values = [results.value("auroc", subgroup=f"seed={seed}") for seed in range(3)]
        >>> bool(np.isclose(results.value("sd_over_seeds:auroc"), np.std(values, ddof=1)))
        True

    References:
        davison1997, rao1988.
    """
    config = config or EvaluationConfig()
    unknown = [metric for metric in metrics if metric not in CLASS_METRICS]
    if unknown:
        raise MedtailError(f"seeds: no metric {', '.join(unknown)}; expected {', '.join(CLASS_METRICS)}.")
    if len(runs) < 2:
        raise MedtailError(f"seeds: found {len(runs)} run; expected at least two trainings of one recipe.")
    paired = pair_rows(runs)
    first = next(iter(paired.values()))
    patients, num_patients = number_patients(first.patients)
    weights = weigh_patients(first, patients, num_patients, config, threads)
    found = [
        estimate(run, called=decide(run), patients=patients, weights=weights, threads=threads)
        for run in paired.values()
    ]
    seed_weights = draw_seed_weights(
        len(paired), resamples=config.bootstrap, seed=stream_seed(config.seed, "bootstrap", "seeds")
    )
    groups = group_classes(first, config)
    names = first.labels.class_names
    places = [({"class": name}, np.array([c])) for c, name in enumerate(names)]
    places += [({}, np.arange(len(names)))]
    if groups is not None:
        for group in TAIL_GROUPS:
            among = np.flatnonzero(np.isin(names, groups.members(group)))
            places.append(({"tail_group": group}, among))
    intervals = IntervalMaker(config.bootstrap, config.interval)
    rows: list[Mapping[str, Any]] = []
    for place, among in places:
        for metric in metrics:
            made = _rows(metric, found, among, list(paired), seed_weights, intervals)
            rows += [{**place, **row} for row in made]
    header = {
        "name": first.name,
        "seeds": list(paired),
        "num_rows": len(first),
        "num_patients": num_patients,
        "labels": first.labels.to_json(),
        "digests": {name: run.digest for name, run in paired.items()},
        "tail": None if groups is None else {"rule": groups.rule, "cuts": list(groups.cuts)},
        "bootstrap": {
            "resamples": config.bootstrap,
            "scheme": config.scheme,
            "strata": config.strata,
            "interval": config.interval,
            "seed": config.seed,
            "unit": "seed, then patient" if first.has_patients else "seed, then image",
        },
        "warnings": [_warning(len(paired))],
        "versions": versions(),
    }
    return results_from_rows(rows, header=header)


def _rows(
    metric: str,
    found: Sequence[Estimates],
    among: np.ndarray,
    seeds: Sequence[str],
    seed_weights: np.ndarray,
    intervals: IntervalMaker,
) -> list[Row]:
    table = np.stack([one.values[metric][among] for one in found])
    defined = ~np.isnan(table).any(axis=0)
    kept = among[defined]
    single = len(among) == 1
    support = int(found[0].census.positives[among[0]]) if single else int(defined.sum())
    values = table[:, defined].mean(axis=1) if len(kept) else np.full(len(found), np.nan)
    resampled = np.stack([mean_of_defined(one.resampled[metric][kept]) for one in found])
    rows: list[Row] = [
        {"metric": metric, "subgroup": f"seed={seed}", "support": support, **intervals.row(float(value), draws)}
        for seed, value, draws in zip(seeds, values, resampled, strict=True)
    ]
    mean = float(values.mean())
    weighed = np.where(np.isnan(resampled), 0.0, seed_weights)
    both = ratio(np.where(np.isnan(resampled), 0.0, resampled * seed_weights).sum(axis=0), weighed.sum(axis=0))
    rows.append({"metric": metric, "support": support, **intervals.row(mean, both)})
    fixed = intervals.row(mean, mean_of_defined(resampled))
    rows.append({"metric": f"{metric}@fixed_seeds", "support": support, **fixed})
    rows.append({"metric": f"sd_over_seeds:{metric}", "support": len(seeds), "value": float(np.std(values, ddof=1))})
    return rows


def _warning(seeds: int) -> str:
    return (
        f"The interval of a mean draws seeds, then patients: it holds what another training and other patients would"
        f" change. {seeds} seeds say little about all seeds. The rows `@fixed_seeds` draw patients only;"
        " `sd_over_seeds` is the spread of the seeds alone."
    )
