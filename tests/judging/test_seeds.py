from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medtail.errors import MedtailError
from medtail.judging.evaluation import EvaluationConfig, evaluate
from medtail.judging.seeds import judge_seeds
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions
from medtail.tables.tail import ClassCounts

CONFIG = EvaluationConfig(bootstrap=200)


def trainings(*, between: float, seeds: int = 4, rows: int = 300) -> dict[str, Predictions]:
    """Runs whose skill differs from seed to seed by `between`."""
    random = np.random.default_rng(0)
    names = ("common", "rare")
    targets = (random.random((rows, 2)) < [0.4, 0.08]).astype(float)
    shared = random.normal(size=(rows, 2))
    first = Predictions(
        image_ids=np.array([f"i{row}" for row in range(rows)], dtype=object),
        patients=np.array([f"p{row // 2}" for row in range(rows)], dtype=object),
        scores=np.zeros((rows, 2)),
        targets=targets,
        labels=LabelSpace(names),
        folds=np.array(["test"] * rows, dtype=object),
        train_counts=ClassCounts(names, (400, 5), (400, 5), (1000, 1000)),
    )
    skills = 1.0 + between * np.linspace(-1, 1, seeds)
    return {
        str(seed): replace(first, scores=1 / (1 + np.exp(-(skill * targets + shared))))
        for seed, skill in enumerate(skills)
    }


def test_each_seed_is_judged_as_alone_and_the_spread_over_seeds_stands_by_itself() -> None:
    runs = trainings(between=0.5)
    results = judge_seeds(runs, config=CONFIG)
    values = []
    for name, run in runs.items():
        alone = evaluate(run, config=CONFIG)
        for metric in ("ap", "auroc", "f1"):
            expected = alone.rows(metric, class_name="rare").iloc[0]
            found = results.rows(metric, class_name="rare", subgroup=f"seed={name}").iloc[0]
            assert found[["value", "low", "high"]].tolist() == expected[["value", "low", "high"]].tolist()
        values.append(alone.value("auroc", tail_group="tail"))
    assert results.value("auroc", tail_group="tail") == pytest.approx(np.mean(values))
    assert results.value("sd_over_seeds:auroc", tail_group="tail") == pytest.approx(np.std(values, ddof=1))


def width(results: object, metric: str) -> float:
    row = results.rows(metric, class_name="", tail_group="").iloc[0]  # type: ignore[attr-defined]
    return float(row["high"] - row["low"])


def test_drawing_seeds_widens_the_interval_where_seeds_differ_and_only_there() -> None:
    differing, alike = (
        judge_seeds(trainings(between=0.9), config=CONFIG),
        judge_seeds(trainings(between=0.0), config=CONFIG),
    )
    assert width(differing, "auroc") > 1.3 * width(differing, "auroc@fixed_seeds")
    assert width(alike, "auroc") == pytest.approx(width(alike, "auroc@fixed_seeds"), rel=1e-12)
    assert differing.header["bootstrap"]["unit"] == "seed, then patient"
    assert "4 seeds say little about all seeds" in differing.header["warnings"][0]


def test_one_run_other_rows_and_unknown_metrics_are_refused() -> None:
    runs = trainings(between=0.1)
    with pytest.raises(MedtailError, match="at least two trainings"):
        judge_seeds({"0": runs["0"]}, config=CONFIG)
    with pytest.raises(MedtailError, match="no metric aproc"):
        judge_seeds(runs, config=CONFIG, metrics=("aproc",))
    with pytest.raises(MedtailError, match="'1'"):
        judge_seeds({"0": runs["0"], "1": runs["1"].take(np.arange(290))}, config=CONFIG)
