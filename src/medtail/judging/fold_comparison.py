"""Comparing systems over the folds of a cross-validation: one difference a fold, and the corrected t-test.

Every fold trains its own model, so differences over folds contain the luck of training, which a comparison on one
test fold does not. There are few of them and their training rows overlap; the test of `pvalues` allows for both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from medtail.errors import MedtailError, Problems, listing
from medtail.judging.bootstrap import number_patients
from medtail.judging.comparison import Comparison, ComparisonConfig, describe, listed, tail_of
from medtail.judging.comparison_cautions import word_comparison_cautions
from medtail.judging.comparison_rows import (
    DIFFERENCE_COLUMNS,
    REPLICATE_COLUMNS,
    SYSTEM_COLUMNS,
    non_inferior,
    system_rows,
    verdict_of,
)
from medtail.judging.decisions import Decider, decide
from medtail.judging.paired_draws import Answer, draw_systems
from medtail.judging.pairing import pair_rows
from medtail.judging.pvalues import DETECTABLE_AT, corrected_resampled_t, holm
from medtail.judging.questions import Question, ask
from medtail.tables.predictions import Predictions


def compare_folds(
    systems: Mapping[str, Sequence[Predictions]],
    *,
    config: ComparisonConfig | None = None,
    train_rows: int | None = None,
    decider: Decider = decide,
) -> Comparison:
    """Compare systems that were cross-validated on the same folds.

    In each fold the systems are judged on the same rows; the differences of the k folds are tested with Nadeau and
    Bengio's corrected resampled t-test and Holm's correction over all questions asked. A class that a fold does not
    hold is left out of that fold, for all systems alike. Ranks and first places are over folds.

    Args:
        systems: Name → one table a fold, the folds in the same order for every system.
        config: What to compare; `bootstrap`, `scheme` and `seed_draw` play no part. The defaults if None.
        train_rows: Training images behind a fold's model. If None, from the tables' train counts, or where the folds
            share no image, the images of the other folds.
        decider: From scores to decisions.

    Returns:
        A comparison whose replicates are the folds and whose intervals are those of the t-test; a system's own
        interval, which folds do not give, is empty.

    Raises:
        MedtailError: Fewer than two systems or folds, unequal numbers of folds, rows of a fold that differ, or no way
            to tell how many images a fold's model was trained on.

    Example:
        >>> from medtail.tables.labels import LabelSpace
        >>> random, y = np.random.default_rng(0), (np.arange(40)[:, None] % 4 == 0).astype(float)
        >>> def fold(number, skill):
        ...     ids = np.array([f"{number}-{n}" for n in range(40)], dtype=object)
        ...     scores = np.clip(skill * y + random.random(y.shape) / 2, 0, 1)
        ...     return Predictions(ids, ids, scores, y, LabelSpace(("Hernia",)), ids)
        >>> tables = {name: [fold(k, skill) for k in range(5)] for name, skill in (("good", 0.4), ("poor", 0.0))}
        >>> found = compare_folds(tables, config=ComparisonConfig(metrics=("auroc",), levels=("macro",)))
        >>> found.differences[["system_a", "verdict"]].values.tolist(), found.header["folds"]["test_share"]
        ([['good', 'a_ahead']], 0.25)

    References:
        nadeau2003, holm1979.
    """
    config = config or ComparisonConfig()
    tables = listed(systems)
    counts = {name: len(found) for name, found in tables.items()}
    if len(set(counts.values())) > 1 or min(counts.values()) < 2:
        found = listing([f"{name!r} {count}" for name, count in counts.items()], limit=10)
        raise MedtailError(
            f"compare folds: found {found} folds; expected the same number, two or more, of every system."
        )
    folds = _paired_folds(tables)
    everything = _stacked([next(iter(fold.values())) for fold in folds])
    groups = tail_of(tables, everything, config)
    codes, num_patients = number_patients(everything.patients)
    questions = ask(everything, metrics=config.metrics, levels=config.levels, patients=codes, groups=groups)
    test_share, source = _test_share(folds, train_rows)
    answers = _answers(folds, questions, config, decider)
    names, pairs = list(tables), list(combinations(range(len(tables)), 2))
    rows, ranked, replicates = [], [], []
    for question, answer in zip(questions, answers, strict=True):
        found_rows = [_fold_row(question, answer, names, a, b, config, test_share) for a, b in pairs]
        rows += found_rows
        ranked += [row | {"low": float("nan"), "high": float("nan")} for row in
                   system_rows(question, answer, found_rows, names, interval=config.interval)]  # fmt: skip
        replicates += [
            {**question.place, "system": name, "replicate": k + 1, "value": float(value)}
            for name, (values, _) in zip(names, answer.by_seed, strict=True)
            for k, value in enumerate(values)
        ]
    for row, p_holm in zip(rows, holm(np.array([row["p"] for row in rows])), strict=True):
        row["p_holm"] = float(p_holm)
        row["verdict"] = row["verdict"] or verdict_of(row, alpha=config.alpha)
    tested = sum(row["p"] == row["p"] for row in rows)
    header = describe(tables, everything, groups, config, num_patients) | {
        "method": "corrected resampled t-test over folds",
        "folds": {"count": len(folds), "test_share": test_share, "train_rows_from": source,
                  "rows": [len(next(iter(fold.values()))) for fold in folds]},
        "family": {"comparisons": tested, "left_out": len(rows) - tested},
    }  # fmt: skip
    header["warnings"] = word_comparison_cautions(tables, everything, questions, header)
    return Comparison(
        pd.DataFrame(rows, columns=list(DIFFERENCE_COLUMNS)),
        pd.DataFrame(ranked, columns=list(SYSTEM_COLUMNS)),
        pd.DataFrame(replicates, columns=list(REPLICATE_COLUMNS)),
        header,
    )


def _paired_folds(tables: Mapping[str, Sequence[Predictions]]) -> list[dict[str, Predictions]]:
    """Pair every fold, gathering the mistakes of all of them."""
    problems = Problems("compare folds")
    folds = []
    for k in range(len(next(iter(tables.values())))):
        try:
            folds.append(pair_rows({name: found[k] for name, found in tables.items()}))
        except MedtailError as error:
            problems.add(f"fold {k + 1}: " + str(error).replace("\n", f"\nfold {k + 1}: "))
    problems.raise_if_any()
    first = next(iter(folds[0].values())).labels.class_names
    for k, fold in enumerate(folds, start=1):
        other = next(iter(fold.values())).labels.class_names
        if sorted(other) != sorted(first):
            differing = sorted(set(first) ^ set(other))
            problems.add(f"fold {k}: other classes than fold 1 ({listing(differing)}).")
    problems.raise_if_any()
    order = next(iter(folds[0].values())).labels
    return [{name: _select(table, order.class_names) for name, table in fold.items()} for fold in folds]


def _select(table: Predictions, class_names: Sequence[str]) -> Predictions:
    from dataclasses import replace

    columns = [table.labels.class_names.index(name) for name in class_names]
    labels = table.labels.select(class_names)
    return replace(table, scores=table.scores[:, columns], targets=table.targets[:, columns], labels=labels)


def _stacked(parts: Sequence[Predictions]) -> Predictions:
    """Put the folds' rows behind one another: what the questions' evidence is counted on."""
    first = parts[0]
    return Predictions(
        image_ids=np.concatenate([part.image_ids for part in parts]),
        patients=np.concatenate([part.patients for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        targets=np.concatenate([part.targets for part in parts]),
        labels=first.labels,
        folds=np.concatenate([part.folds for part in parts]),
        has_patients=all(part.has_patients for part in parts),
        train_counts=first.train_counts,
        name=first.name,
    )


def _test_share(folds: Sequence[Mapping[str, Predictions]], train_rows: int | None) -> tuple[float, str]:
    """Return n_test / n_train of a fold, and where n_train is from."""
    parts = [next(iter(fold.values())) for fold in folds]
    sizes = np.array([len(part) for part in parts], dtype=float)
    if train_rows is not None:
        if train_rows < 1:
            raise MedtailError(f"train_rows {train_rows!r}: expected the images a fold's model was trained on, >= 1.")
        return float(sizes.mean() / train_rows), "given"
    counted = [max(part.train_counts.assessed, default=0) if part.train_counts else 0 for part in parts]
    if all(counted):
        return float(np.mean(sizes / np.array(counted))), "train counts"
    distinct = len(np.unique(np.concatenate([part.image_ids.astype(str) for part in parts])))
    if distinct == int(sizes.sum()):
        return float(np.mean(sizes / (sizes.sum() - sizes))), "the other folds"
    raise MedtailError(
        "compare folds: the folds share images and carry no train counts, so nothing tells how many images a model was"
        " trained on. Give their number with `--train-rows`."
    )


def _answers(
    folds: Sequence[Mapping[str, Predictions]],
    questions: Sequence[Question],
    config: ComparisonConfig,
    decider: Decider,
) -> list[Answer]:
    """Return every question's values over the folds, which take the place of resamples."""
    by_fold = []
    for fold in folds:
        patients, _ = number_patients(next(iter(fold.values())).patients)
        draws = draw_systems(
            {name: [table] for name, table in fold.items()},
            questions,
            patients=patients,
            resamples=0,
            scheme=config.scheme,
            seed=config.seed,
            seed_draw="fixed",
            ece_mode=config.ece_mode,
            ece_bins=config.ece_bins,
            decider=decider,
        )
        by_fold.append([draws.answer(question) for question in questions])
    answers = []
    for question, *parts in zip(questions, *by_fold, strict=True):
        values = np.stack([part.values for part in parts], axis=1)
        known = ~np.isnan(values).any(axis=0)
        means = values[:, known].mean(axis=1) if known.any() else np.full(len(values), np.nan)
        nothing = np.empty((len(values), 0))
        supports = [part.support for part in parts]
        support = sum(supports) if question.level == "class" else max(supports)
        answers.append(Answer(means, values, tuple((row, nothing) for row in values), support, nothing))
    return answers


def _fold_row(
    question: Question,
    answer: Answer,
    names: Sequence[str],
    a: int,
    b: int,
    config: ComparisonConfig,
    test_share: float,
) -> dict[str, object]:
    by_fold = answer.resampled[a] - answer.resampled[b]
    test = corrected_resampled_t(by_fold, test_share=test_share, level=config.interval)
    known = by_fold[~np.isnan(by_fold)]
    better = known < 0 if question.lower_is_better else known > 0
    margin = config.margins.get(question.metric)
    return {
        **question.place,
        "system_a": names[a],
        "system_b": names[b],
        "difference": test.difference,
        "low": test.low,
        "high": test.high,
        "p": float("nan") if question.obstacle else test.p,
        "verdict": question.obstacle,
        "share_a_better": float((better + (known == 0) / 2).mean()) if len(known) else float("nan"),
        "smallest_detectable": DETECTABLE_AT * test.standard_error if test.standard_error > 0 else float("nan"),
        "non_inferior": non_inferior(question, test.low, test.high, margin),
        "defined_share": len(known) / len(by_fold),
        "support": answer.support,
    }
