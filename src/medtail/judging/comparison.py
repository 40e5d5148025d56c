"""Which of several systems is better, on which findings, and which differences are noise.

All systems are judged on the same rows in the same resamples of patients; every difference has an interval, a p-value
corrected for all questions asked in the call, and the smallest difference these data could have shown. Systems that
cannot be told apart are named as tied. For differences over folds see `fold_comparison`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
import pandas as pd

from medtail.config import CLOSED
from medtail.errors import MedtailError
from medtail.judging.bootstrap import Scheme, number_patients
from medtail.judging.comparison_cautions import word_comparison_cautions
from medtail.judging.comparison_rows import (
    DIFFERENCE_COLUMNS,
    REPLICATE_COLUMNS,
    SYSTEM_COLUMNS,
    difference_row,
    seed_rows,
    system_rows,
    verdict_of,
)
from medtail.judging.counts import EceMode
from medtail.judging.paired_draws import PairedDraws, SeedDraw, draw_systems
from medtail.judging.pairing import pair_rows
from medtail.judging.pvalues import holm, resamples_needed
from medtail.judging.questions import FEWEST_PATIENTS, LEVELS, Level, Question, ask, check_choice
from medtail.runs import atomic_path, versions, write_json
from medtail.tables.predictions import Predictions
from medtail.tables.tail import ClassCounts, RuleName, TailGroups, tail_groups

COMFORT = 2
"""At the fewest resamples that allow significance a single stray one forbids it; so this many times as many."""
LEAST_RESAMPLES, MOST_RESAMPLES = 1000, 100_000
"""What is drawn at least, and at most, when the number of resamples follows from the number of questions."""


@final
@dataclass(frozen=True, kw_only=True)
class ComparisonConfig:
    """How to compare.

    Attributes:
        metrics: What to compare, from `questions.METRICS`; the first is what the summary speaks of.
        levels: Where: `macro` (all classes), `group` (head, medium, tail) and `class`. Every metric at every place and
            for every pair is one question of the family that Holm's correction counts: ask less to be told more.
        bootstrap: Resamples; None takes as many as the family needs for its smallest p-value to survive correction.
        scheme: `multinomial` (draw with replacement) or `bayesian` (exponential weights).
        interval: Share of resamples inside an interval, in (0, 1); 1 - interval is alpha, the share of false claims.
        margins: Metric → largest loss that does not matter (> 0), for a verdict of non-inferiority.
        seed_draw: With several training seeds a system: `hierarchical` draws seeds, then patients; `fixed` averages
            over these very seeds.
        tail_rule: How classes become head, medium and tail; see `tables.tail`.
        tail_cuts: Upper and lower cut, overriding the rule's own.
        tail_members: For the rule `list`: head, medium, tail → class names.
        ece_mode: Reading of the calibration error.
        ece_bins: Its bins, >= 1.
        seed: Of the resamples.
    """

    __pydantic_config__: ClassVar = CLOSED

    metrics: tuple[str, ...] = ("ap", "auroc", "f1")
    levels: tuple[Level, ...] = LEVELS
    bootstrap: int | None = None
    scheme: Scheme = "multinomial"
    interval: float = 0.95
    margins: Mapping[str, float] = field(default_factory=dict)
    seed_draw: SeedDraw = "hierarchical"
    tail_rule: RuleName = "auto"
    tail_cuts: tuple[float, float] | None = None
    tail_members: Mapping[str, tuple[str, ...]] | None = None
    ece_mode: EceMode = "reliability"
    ece_bins: int = 15
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice(self.metrics, self.levels, self.margins)
        if self.bootstrap is not None and self.bootstrap < 1:
            raise MedtailError(f"bootstrap {self.bootstrap}: expected a number of resamples >= 1; a comparison is one.")
        if not 0.0 < self.interval < 1.0:
            raise MedtailError(f"interval {self.interval}: expected a share in (0, 1), such as 0.95.")
        if self.seed_draw not in ("hierarchical", "fixed"):
            raise MedtailError(f"seed_draw {self.seed_draw!r}: expected hierarchical or fixed.")
        if self.ece_bins < 1:
            raise MedtailError(f"ece_bins {self.ece_bins}: expected at least 1.")

    @property
    def alpha(self) -> float:
        """Share of false claims accepted."""
        return round(1.0 - self.interval, 12)


@final
@dataclass(frozen=True, eq=False)
class Comparison:
    """Differences between systems and how they were found.

    Attributes:
        differences: `DIFFERENCE_COLUMNS`, a row a question and pair; `difference` is A - B as it is, `verdict` knows
            which direction is better: `a_ahead`, `b_ahead` (after Holm), `a_ahead_uncorrected`, `b_ahead_uncorrected`
            (its own interval excludes 0, the family does not), `tied`, `too_few_patients`, `undefined`.
            `non_inferior` is `a`, `b`, `both`, `neither`, or "" without a margin.
        systems: `SYSTEM_COLUMNS`, a row a question and system: value and interval, rank on the rows, mean rank over
            the resamples, share of resamples in which it is first, tied block (1 is the best), who it cannot be told
            apart from, and its mean rank over the classes averaged.
        replicates: `REPLICATE_COLUMNS`, a row a question, system and training seed (or fold); empty with one each.
        header: Everything needed to repeat it: a JSON object.
    """

    differences: pd.DataFrame
    systems: pd.DataFrame
    replicates: pd.DataFrame
    header: Mapping[str, Any]

    @property
    def names(self) -> tuple[str, ...]:
        """The systems, in the order given."""
        return tuple(self.header["systems"])

    @property
    def alpha(self) -> float:
        """Share of false claims accepted."""
        return float(self.header["alpha"])

    def write(self, folder: Path | str) -> None:
        """Write `comparison.csv`, `systems.csv`, `replicates.csv` where there are any, and `comparison.json`."""
        folder = Path(folder)
        tables = {"comparison.csv": self.differences, "systems.csv": self.systems}
        tables |= {"replicates.csv": self.replicates} if len(self.replicates) else {}
        for name, table in tables.items():
            with atomic_path(folder / name) as path:
                table.to_csv(path, index=False, lineterminator="\n")
        write_json(folder / "comparison.json", dict(self.header))


def compare(
    systems: Mapping[str, Predictions | Sequence[Predictions]],
    *,
    config: ComparisonConfig | None = None,
    threads: int | None = None,
) -> Comparison:
    """Compare two or more systems on the same images.

    Rows are joined by `image_id`, classes by name. All systems meet the same resampled patients, so a difference's
    interval is that of the difference, usually far narrower than the systems' own intervals suggest. A system with
    several tables (training seeds) is judged by the mean of its seeds' *values*; their scores are not averaged, that
    would be an ensemble, another system.

    Args:
        systems: Name → predictions, or one table a training seed; at least two systems.
        config: What to compare and how; the defaults if None.
        threads: Worker threads; all usable cores if None. No effect on the results.

    Returns:
        The comparison.

    Raises:
        MedtailError: Fewer than two systems, a system without tables, or tables that do not describe the same rows,
            classes, targets and patients (all differences listed).

    Example:
        >>> from medtail.tables.labels import LabelSpace
        >>> random = np.random.default_rng(0)
        >>> y = (np.arange(200)[:, None] % 4 == 0).astype(float)
        >>> ids, fold = np.array([f"i{n}" for n in range(200)], dtype=object), np.array(["test"] * 200, dtype=object)
        >>> good, poor = (np.clip(skill * y + random.random(y.shape) / 2, 0, 1) for skill in (0.5, 0.1))
        >>> tables = {name: Predictions(ids, ids, scores, y, LabelSpace(("Hernia",)), fold)
        ...           for name, scores in (("good", good), ("poor", poor))}
        >>> found = compare(tables, config=ComparisonConfig(metrics=("ap",), levels=("macro",)))
        >>> found.differences[["system_a", "system_b", "verdict"]].values.tolist()
        [['good', 'poor', 'a_ahead']]

    References:
        efron1994, holm1979.
    """
    config = config or ComparisonConfig()
    tables = listed(systems)
    paired = _paired(tables)
    truth = next(iter(paired.values()))[0]
    codes, num_patients = number_patients(truth.patients)
    groups = tail_of(tables, truth, config)
    questions = ask(truth, metrics=config.metrics, levels=config.levels, patients=codes, groups=groups)
    pairs = list(combinations(range(len(tables)), 2))
    family = len(pairs) * sum(not question.obstacle for question in questions)
    resamples = _resamples(family, config)
    draws = draw_systems(
        paired,
        questions,
        patients=codes,
        resamples=resamples,
        scheme=config.scheme,
        seed=config.seed,
        seed_draw=config.seed_draw,
        ece_mode=config.ece_mode,
        ece_bins=config.ece_bins,
        threads=threads,
    )
    differences, ranked, replicates = _tables(draws, questions, pairs, list(tables), config)
    header = describe(tables, truth, groups, config, num_patients) | {
        "method": "paired bootstrap of patients",
        "bootstrap": {
            "resamples": resamples,
            "asked": config.bootstrap,
            "scheme": config.scheme,
            "interval": config.interval,
            "seed": config.seed,
            "unit": "patient" if truth.has_patients else "image",
            "seed_draw": config.seed_draw,
        },
        "family": {
            "comparisons": family,
            "left_out": len(pairs) * len(questions) - family,
            "smallest_p_holm": min(1.0, 2.0 * family / (resamples + 1)) if family else None,
            "resamples_needed": resamples_needed(family, alpha=config.alpha) if family else None,
        },
    }
    header["warnings"] = word_comparison_cautions(tables, truth, questions, header)
    return Comparison(differences, ranked, replicates, header)


def listed(systems: Mapping[str, Predictions | Sequence[Predictions]]) -> dict[str, list[Predictions]]:
    """Return every system's tables as a list.

    Raises:
        MedtailError: Fewer than two systems, or one without a table.
    """
    if len(systems) < 2:
        raise MedtailError(f"compare: found {len(systems)} system(s); expected two or more.")
    tables = {str(name): [given] if isinstance(given, Predictions) else list(given) for name, given in systems.items()}
    for name, found in tables.items():
        if not found or any(not len(table) for table in found):
            raise MedtailError(f"compare, {name!r}: no predictions; expected a table of scores with rows.")
    return tables


def _paired(tables: Mapping[str, Sequence[Predictions]]) -> dict[str, list[Predictions]]:
    label = {
        (name, r): name if len(found) == 1 else f"{name}, seed {r + 1}"
        for name, found in tables.items()
        for r in range(len(found))
    }
    paired = pair_rows({label[name, r]: table for name, found in tables.items() for r, table in enumerate(found)})
    return {name: [paired[label[name, r]] for r in range(len(found))] for name, found in tables.items()}


def tail_of(
    tables: Mapping[str, Sequence[Predictions]], truth: Predictions, config: ComparisonConfig
) -> TailGroups | None:
    """Return the tail groups by the first train counts found among the systems; None where nobody has any."""
    labels = truth.labels
    if config.tail_rule == "list":
        zeros = (0,) * labels.num_classes
        counts = ClassCounts(labels.class_names, zeros, zeros, zeros)
    else:
        known = [table.train_counts for found in tables.values() for table in found if table.train_counts is not None]
        fitting = [counts for counts in known if set(labels.class_names) <= set(counts.class_names)]
        if not fitting:
            return None
        counts = fitting[0].select(labels.class_names)
    return tail_groups(counts, labels=labels, rule=config.tail_rule, cuts=config.tail_cuts, members=config.tail_members)


def _resamples(family: int, config: ComparisonConfig) -> int:
    if config.bootstrap is not None:
        return config.bootstrap
    if not family:
        return LEAST_RESAMPLES
    # with n positive patients a share of about e^-n of the resamples defines nothing; n is at least 5 here
    defined = 1.0 - math.exp(-FEWEST_PATIENTS)
    needed = math.ceil(COMFORT * resamples_needed(family, alpha=config.alpha) / defined)
    return min(max(LEAST_RESAMPLES, needed), MOST_RESAMPLES)


def _tables(
    draws: PairedDraws,
    questions: Sequence[Question],
    pairs: Sequence[tuple[int, int]],
    names: Sequence[str],
    config: ComparisonConfig,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    differences: list[dict[str, Any]] = []
    systems: list[dict[str, Any]] = []
    replicates: list[dict[str, Any]] = []
    for question in questions:
        answer = draws.answer(question)
        margin = config.margins.get(question.metric)
        rows = [
            difference_row(question, answer, names, a, b, interval=config.interval, margin=margin) for a, b in pairs
        ]
        systems += system_rows(question, answer, rows, names, interval=config.interval)
        differences += rows
        replicates += seed_rows(question, answer, names, interval=config.interval)
    corrected = holm(np.array([row["p"] for row in differences]))
    for row, p_holm in zip(differences, corrected, strict=True):
        row["p_holm"] = float(p_holm)
        row["verdict"] = row["verdict"] or verdict_of(row, alpha=config.alpha)
    return (
        pd.DataFrame(differences, columns=list(DIFFERENCE_COLUMNS)),
        pd.DataFrame(systems, columns=list(SYSTEM_COLUMNS)),
        pd.DataFrame(replicates, columns=list(REPLICATE_COLUMNS)),
    )


def describe(
    tables: Mapping[str, Sequence[Predictions]],
    truth: Predictions,
    groups: TailGroups | None,
    config: ComparisonConfig,
    num_patients: int,
) -> dict[str, Any]:
    """Return the header's common part: systems with digests, rows, tail rule, settings, versions."""
    return {
        "systems": {
            name: [
                {
                    "file": table.name,
                    "digests": {**table.digests, "predictions": table.digest},
                    "thresholds": "fixed 0.5" if table.thresholds is None else "tune",
                }
                for table in found
            ]
            for name, found in tables.items()
        },
        "num_rows": len(truth),
        "num_patients": num_patients,
        "fold": " and ".join(sorted(set(truth.folds.astype(str)) - {""})),
        "labels": truth.labels.to_json(),
        "task": truth.labels.task,
        "metrics": list(config.metrics),
        "levels": list(config.levels),
        "alpha": config.alpha,
        "margins": {name: float(margin) for name, margin in config.margins.items()},
        "tail": None if groups is None else {"rule": groups.rule, "cuts": list(groups.cuts),
                                             "description": groups.describe(), "groups": dict(groups.group_of)},
        "ece": {"mode": config.ece_mode, "bins": config.ece_bins},
        "versions": versions(),
    }  # fmt: skip
