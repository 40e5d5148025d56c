"""The numbers of a study: every arm on the same images, and each against the reference.

One long table of values and one of differences. All arms meet the same resampled patients; several training seeds are
drawn with them (`judging.paired_draws`), so an interval holds what other patients and another training would change.
The spread over cells (each fold's model by itself) stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import pandas as pd

from medtail.judging.bootstrap import number_patients
from medtail.judging.comparison import COMFORT, Comparison, describe, tail_of
from medtail.judging.comparison_cautions import word_comparison_cautions
from medtail.judging.comparison_rows import (
    DIFFERENCE_COLUMNS,
    REPLICATE_COLUMNS,
    SYSTEM_COLUMNS,
    difference_row,
    verdict_of,
)
from medtail.judging.fold_comparison import compare_folds
from medtail.judging.pvalues import holm, resamples_needed
from medtail.judging.questions import LEVELS, Level, Question
from medtail.studies.config import LEAST_RESAMPLES, JudgeConfig
from medtail.studies.decoding import decoding_of, protocol_groups
from medtail.studies.factorial import EFFECT_COLUMNS, Design, Effects, effects_of
from medtail.studies.scores import ScoredSet
from medtail.studies.values import How, draw, questions_of, values_of
from medtail.tables.tail import TAIL_GROUPS

STUDY_DIFFERENCES = ("judged", *DIFFERENCE_COLUMNS, "p_folds")
STUDY_EFFECTS = ("judged", *EFFECT_COLUMNS)
FACTORIAL_METRICS, FACTORIAL_LEVELS = ("f1", "micro_f1"), ("macro", "group")
"""What is asked of a factorial beside what its study asks."""


@final
@dataclass(frozen=True, eq=False)
class Judged:
    """The numbers of one set of images.

    Attributes:
        name: `tune`, `test` or `external_NAME`.
        values: `VALUE_COLUMNS`, a row an arm, metric and place.
        differences: `STUDY_DIFFERENCES`, `system_a` an arm and `system_b` the reference: `difference` is arm minus
            reference. `p_folds` is the corrected t-test over folds (and seeds), of cross-validated values.
        comparison: The same differences in the form that `reporting` draws.
        effects: Main effects and interactions, where the arms are a factorial whose every arm has scores.
    """

    name: str
    values: pd.DataFrame
    differences: pd.DataFrame
    comparison: Comparison | None
    effects: Effects | None = None

    @property
    def header(self) -> Mapping[str, Any]:
        """How the differences were made; empty with one arm."""
        return {} if self.comparison is None else self.comparison.header


def judge(
    scored: ScoredSet,
    *,
    reference: str,
    config: JudgeConfig,
    design: Design | None = None,
    threads: int | None = None,
) -> Judged:
    """Judge every arm on one set of images, and each against the reference.

    Args:
        scored: What the arms scored.
        reference: The arm the others are compared with; nothing is compared where it has no scores yet.
        config: How.
        design: The factorial that the arms are, if they are one.
        threads: Worker threads; no effect on the numbers.

    Returns:
        Values, differences and effects.
    """
    truth = scored.truth
    patients, num_patients = number_patients(truth.patients)
    resamples = LEAST_RESAMPLES if config.bootstrap is None else config.bootstrap
    groups = protocol_groups(config, truth) or tail_of(scored.tables, truth, config.comparison(resamples=resamples))
    how = How(config, decoding_of(config, scored.manifest, truth.labels), groups, threads)
    values = values_of(scored, patients, how, resamples)
    if reference not in scored.tables or len(scored.tables) < 2:
        return Judged(scored.name, values, pd.DataFrame(columns=list(STUDY_DIFFERENCES)), None)
    comparison, effects = _compare(scored, reference, patients, num_patients, how, design)
    differences = comparison.differences.assign(judged=scored.name)
    differences["p_folds"] = _p_over_folds(scored, differences, reference, how)
    return Judged(scored.name, values, differences[list(STUDY_DIFFERENCES)], comparison, effects)


def _compare(
    scored: ScoredSet,
    reference: str,
    patients: np.ndarray,
    num_patients: int,
    how: How,
    design: Design | None,
) -> tuple[Comparison, Effects | None]:
    """Compare each arm with the reference, all in the same resamples, corrected for all comparisons made.

    The effects of a factorial are read off those resamples too, and are a family of their own.
    """
    truth, names, config, groups = scored.truth, list(scored.tables), how.config, how.groups
    questions = [*questions_of(truth, config.metrics, config.levels, patients, groups), *how.decoding.compared]
    of_factors: list[Question] = []
    if design is not None and set(design.arms.values()) <= set(names):
        metrics = list(dict.fromkeys((*config.metrics, *FACTORIAL_METRICS)))
        levels: list[Level] = [level for level in LEVELS if level in (*config.levels, *FACTORIAL_LEVELS)]
        of_factors = [*questions_of(truth, metrics, levels, patients, groups), *how.decoding.compared]
    others = [arm for arm in names if arm != reference]
    tested = sum(not question.obstacle for question in questions)
    family = tested * len(others)
    largest = family if config.holm == "study" else max(len(truth.labels.class_names), 1)
    alpha = 1.0 - config.interval
    most = max(largest, 1)
    if design is not None and config.holm == "study":
        most = max(most, len(design.terms) * sum(not question.obstacle for question in of_factors))
    resamples = config.bootstrap or max(LEAST_RESAMPLES, COMFORT * resamples_needed(most, alpha=alpha))
    draws = draw(scored.tables, list(dict.fromkeys([*questions, *of_factors])), patients, resamples, how)
    rows: list[dict[str, Any]] = []
    for question in questions:
        answer = draws.answer(question)
        rows += [
            difference_row(
                question, answer, names, names.index(arm), names.index(reference), interval=config.interval
            ) | {"level": question.level}
            for arm in others
        ]  # fmt: skip
    _correct(rows, config)
    settings = config.comparison(resamples=resamples)
    header = describe(scored.tables, truth, groups, settings, num_patients) | {
        "method": "paired bootstrap of patients",
        "reference": reference,
        "bootstrap": {
            "resamples": resamples, "asked": config.bootstrap, "scheme": settings.scheme, "interval": config.interval,
            "seed": config.seed, "unit": "patient" if truth.has_patients else "image", "seed_draw": config.seed_draw,
        },
        "family": {
            "comparisons": family, "left_out": len(rows) - family, "together": config.holm, "largest": largest,
            "smallest_p_holm": min(1.0, 2.0 * largest / (resamples + 1)) if family else None,
            "resamples_needed": resamples_needed(largest, alpha=alpha) if family else None,
        },
    }  # fmt: skip
    header["warnings"] = word_comparison_cautions(scored.tables, truth, questions, header)
    rows.sort(key=lambda row: names.index(row["system_a"]))
    comparison = Comparison(
        pd.DataFrame(rows, columns=list(DIFFERENCE_COLUMNS)),
        pd.DataFrame(columns=list(SYSTEM_COLUMNS)),
        pd.DataFrame(columns=list(REPLICATE_COLUMNS)),
        header,
    )
    if design is None or not of_factors:
        return comparison, None
    answers = {question: draws.answer(question) for question in of_factors}
    is_one_family = config.holm == "study"
    return comparison, effects_of(answers, names, design, interval=config.interval, together=is_one_family)


def _correct(rows: Sequence[dict[str, Any]], config: JudgeConfig) -> None:
    """Fill in `p_holm` and the verdicts, family by family."""
    families: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        key = () if config.holm == "study" else (row["system_a"], row["metric"], row["level"])
        families.setdefault(key, []).append(row)
    alpha = config.comparison(resamples=1).alpha
    for family in families.values():
        for row, corrected in zip(family, holm(np.array([row["p"] for row in family])), strict=True):
            row["p_holm"] = float(corrected)
            row["verdict"] = row["verdict"] or verdict_of(row, alpha=alpha)


def _p_over_folds(scored: ScoredSet, differences: pd.DataFrame, reference: str, how: How) -> pd.Series:
    """Return the p of the corrected t-test over folds x seeds for each difference; NaN where folds share their rows.

    It asks another question than the resampled patients: would another training on other rows of these say the same?
    """
    nothing = pd.Series(np.nan, index=differences.index)
    ids = [next(iter(fold.values()))[0].image_ids for fold in scored.by_fold]
    total = sum(map(len, ids))
    if len(ids) < 2 or len(set(np.concatenate(ids))) < total:
        return nothing
    by_pair: dict[tuple[str, ...], float] = {}
    settings = how.config.comparison(resamples=1)
    if how.groups is not None:  # those of all rows, in every fold
        members: dict[str, tuple[str, ...]] = {group: how.groups.members(group) for group in TAIL_GROUPS}
        settings = replace(settings, tail_rule="list", tail_cuts=None, tail_members=members)
    for arm in scored.tables:
        seeds = min(len(scored.tables[arm]), len(scored.tables[reference]))
        if arm == reference or not seeds:
            continue
        cells = {name: [fold[name][r] for r in range(seeds) for fold in scored.by_fold] for name in (arm, reference)}
        found = compare_folds(
            cells,
            config=settings,
            train_rows=max(1, round(total * (1 - 1 / len(ids)))),
            decider=how.decoding.call,
        )
        for row in found.differences.to_dict("records"):
            by_pair[arm, row["metric"], row["class"], row["tail_group"]] = float(row["p"])
    keys = zip(*(differences[c] for c in ("system_a", "metric", "class", "tail_group")), strict=True)
    return pd.Series([by_pair.get(key, float("nan")) for key in keys], index=differences.index)
