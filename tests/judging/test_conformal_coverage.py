from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medtail.errors import MedtailError
from medtail.judging.bootstrap import draw_weights, number_patients
from medtail.judging.conformal import ConformalSets
from medtail.judging.conformal_coverage import judge_sets, sets_text, word_fallbacks
from medtail.judging.evaluation import EvaluationConfig
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions
from medtail.tables.tail import ClassCounts

LABELS = LabelSpace.from_columns(["t=a", "t=b", "x", "y"])
SETS = ConformalSets(
    LABELS,
    0.1,
    "class_conditional",
    np.array([0.4, 0.6, 0.5, 0.0]),
    ("class", "tail group", "class", "always"),
    (30, 4, 12, 2),
    (30, 13, 12, 2),
    "abc",
    {"unit": "patient"},
)


def rows(size: int = 60, *, fold: str = "test", seed: int = 0) -> Predictions:
    random = np.random.default_rng(seed)
    a = random.random(size)
    scores = np.stack([a, 1 - a, random.random(size), random.random(size)], axis=1)
    is_a = random.random(size) < 0.5
    targets = np.stack([is_a, ~is_a, random.random(size) < 0.3, random.random(size) < 0.2], axis=1).astype(float)
    targets[0, 2] = np.nan
    ids = np.array([f"i{i}" for i in range(size)], dtype=object)
    patients = np.array([f"p{i // 2}" for i in range(size)], dtype=object)
    counts = ClassCounts(LABELS.class_names, (500, 500, 50, 5), (1,) * 4, (1000,) * 4)
    folds = np.array([fold] * size, dtype=object)
    return Predictions(ids, patients, scores, targets, LABELS, folds, train_counts=counts)


def test_values_are_those_of_a_plain_count():
    judged = rows()
    inside = SETS.apply(judged)
    found = judge_sets(SETS, judged, config=EvaluationConfig(bootstrap=20))
    for c, name in enumerate(LABELS.class_names):
        positive, known = judged.targets[:, c] == 1, ~np.isnan(judged.targets[:, c])
        assert found.value("coverage", class_name=name) == pytest.approx(inside[positive, c].mean())
        assert found.value("inclusion", class_name=name) == pytest.approx(inside[known, c].mean())
        assert found.value("n_pos", class_name=name) == positive.sum()
    assert found.value("coverage", class_name="y") == 1.0
    cover = [found.value("coverage", class_name=name) for name in LABELS.class_names]
    assert found.value("coverage") == pytest.approx(np.mean(cover))
    assert found.value("coverage", tail_group="tail") == 1.0
    assert found.value("coverage", tail_group="head") == pytest.approx(np.mean(cover[:2]))
    positive = judged.targets == 1
    assert found.value("micro_coverage") == pytest.approx((inside & positive).sum() / positive.sum())
    size = inside.sum(axis=1)
    assert found.value("set_size") == pytest.approx(size.mean())
    assert found.value("singleton_share") == pytest.approx((size == 1).mean())
    of_group = inside[:, :2].sum(axis=1)
    assert found.value("empty_share", class_name="t") == pytest.approx((of_group == 0).mean())
    assert found.value("set_size", class_name="t") == pytest.approx(of_group.mean())
    missed = (positive & ~inside).sum(axis=1) / positive.sum(axis=1)
    assert found.value("missed_share") == pytest.approx(missed.mean())


def test_intervals_are_those_of_resampled_patients():
    judged = rows(seed=1)
    config = EvaluationConfig(bootstrap=90, interval=0.8, seed=2)
    found = judge_sets(SETS, judged, config=config)
    patients, total = number_patients(judged.patients)
    table = draw_weights(total, resamples=90, seed=2).matrix()
    loop: dict[str, list[float]] = {"coverage": [], "micro_coverage": [], "missed_share": [], "set_size": []}
    for b in range(90):
        again = judged.take(np.repeat(np.arange(len(judged)), table[patients, b]))
        inside, positive = SETS.apply(again), again.targets == 1
        loop["coverage"].append(np.mean([inside[positive[:, c], c].mean() for c in range(4)]))
        loop["micro_coverage"].append((inside & positive).sum() / positive.sum())
        loop["missed_share"].append(((positive & ~inside).sum(axis=1) / positive.sum(axis=1)).mean())
        loop["set_size"].append(inside.sum(axis=1).mean())
    for metric, values in loop.items():
        row = found.rows(metric, class_name="", tail_group="").iloc[0]
        assert (row["low"], row["high"]) == pytest.approx(tuple(np.quantile(values, [0.1, 0.9])), abs=1e-9)


def test_full_coverage_is_doubted_by_the_number_of_patients():
    judged = rows()
    row = judge_sets(SETS, judged, config=EvaluationConfig(bootstrap=10)).rows("coverage", class_name="y").iloc[0]
    with_it = len(set(judged.patients[judged.targets[:, 3] == 1]))
    assert (row["low"], row["high"]) == pytest.approx((0.05 ** (1 / with_it), 1.0))
    group = judge_sets(SETS, judged).rows("coverage", class_name="", tail_group="tail").iloc[0]
    assert np.isnan(group["low"])


def test_tune_rows_are_refused_and_so_are_none():
    with pytest.raises(MedtailError, match=r"60 rows are in fold 'tune'.*Judge them on the test fold"):
        judge_sets(SETS, rows(fold="tune"))
    with pytest.raises(MedtailError, match="no rows"):
        judge_sets(SETS, rows().take(np.zeros(60, dtype=bool)))


def test_every_class_without_a_promise_of_its_own_is_named():
    said = " ".join(word_fallbacks(SETS))
    assert "on average over a tail group, not for each: t=b (4)" in said
    assert "in every set, for want of patients to set a limit from: y (2)" in said
    assert "t=a" not in said
    one_for_all = replace(SETS, method="marginal", levels=("marginal",) * 4)
    assert word_fallbacks(one_for_all) == [
        "one limit for all classes: the promise holds on average over all findings, not for a class."
    ]
    blind = replace(SETS, details={"unit": "image"})
    assert "patients unknown" in word_fallbacks(blind)[-1]


def test_the_text_shows_source_coverage_and_sizes():
    results = judge_sets(SETS, rows(), config=EvaluationConfig(bootstrap=50))
    text = sets_text(SETS, results)
    assert "tail group (13 patients)" in text
    assert "a finding is missed at most 10% of the time (class conditional)" in text
    assert f"{results.value('coverage', class_name='t=a'):.3f} [" in text
    assert "set size in t " in text
    assert "! in every set" in text
