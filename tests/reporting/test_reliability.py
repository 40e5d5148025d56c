"""Reliability plots and words, checked against the numbers they stand for."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest

from medtail.judging.bootstrap import draw_weights, number_patients
from medtail.judging.calibration_error import debiased_squared_error
from medtail.judging.metrics import expected_calibration_error
from medtail.judging.reliability import reliability_points
from medtail.reporting.facts import class_facts
from medtail.reporting.reliability import (
    axis_end,
    balance,
    calibrated_words,
    reliability_panel,
    reliability_section,
)
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions


def made(scores: np.ndarray, targets: np.ndarray) -> Predictions:
    ids = np.array([f"i{n:04d}" for n in range(len(scores))], dtype=object)
    return Predictions(ids, ids, scores[:, None], targets[:, None], LabelSpace(("x",)), np.full(len(ids), "test"))


def section(predictions: Predictions, results, close: list[str]):
    facts = class_facts(predictions, results, counts=predictions.train_counts)
    patients, total = number_patients(predictions.patients)
    chosen = [f for name in close for f in facts if f.name == name]
    return reliability_section(
        predictions, dict(results.header), facts, close=chosen,
        others=[f for f in facts if f not in chosen], patients=patients, weights=draw_weights(total, resamples=128),
    )  # fmt: skip


def test_marks_and_bars_stand_where_the_bins_are(judged) -> None:
    facts = next(f for f in class_facts(judged.predictions, judged.results, counts=None) if f.name == "common")
    points = reliability_points(judged.predictions, "common", mode="equal_mass", bins=10)
    drawn = ET.fromstring(reliability_panel(facts, points))
    end = axis_end(points)
    scale = [item for item in drawn.iter() if "mark" in (item.get("class") or "").split()]
    assert len(scale) == len(points)
    bars = [item for item in drawn.iter("line") if "whisker" in item.get("class")]
    for mark, bar, row in zip(scale, bars, points.to_dict("records"), strict=True):
        x = float(mark.get("cx") or float(mark.get("x") or 0) + float(mark.get("width") or 0) / 2)
        assert (x - 44.0) / 128.0 * end == pytest.approx(row["mean_score"], abs=0.002)
        low, high = (end * (1 - (float(bar.get(key)) - 22.0) / 128.0) for key in ("y1", "y2"))
        assert (low, high) == pytest.approx((row["low"], min(row["high"], end)), abs=0.002)


def test_the_table_holds_the_errors_of_the_results_and_of_the_metrics(judged) -> None:
    table = section(judged.predictions, judged.results, ["rare"]).table
    for row in table.rows:
        name = row[0].text
        column = judged.predictions.labels.index(name)
        scores, targets = judged.predictions.scores[:, column], judged.predictions.targets[:, column]
        stored = judged.results.value("ece", class_name=name)
        assert float(row[5].key) == stored
        assert float(row[6].key) == expected_calibration_error(scores, targets, mode="equal_mass", bins=15)
        squared = debiased_squared_error(scores, targets)
        assert float(row[7].key) == pytest.approx(np.sqrt(max(squared, 0.0)))
        assert (row[7].text == "none") == (squared <= 0)
        expected = np.nansum(np.where(np.isnan(targets), 0, scores))
        assert float(row[3].key) == pytest.approx(expected)
        if row[4].key:
            assert float(row[4].key) == pytest.approx(np.nansum(targets) / expected)


def test_classes_with_a_handful_of_patients_are_folded_away_and_named(judged) -> None:
    found = section(judged.predictions, judged.results, ["absent", "rare"])
    assert [panel.facts.name for panel in found.close] == ["rare"]
    assert "absent" in {panel.facts.name for panel in found.others}
    assert "too few positive patients to say: absent" in found.words[1]


@pytest.mark.parametrize(("factor", "word"), [(0.4, "too high"), (2.5, "too low"), (1.0, "as far as this sample")])
def test_words_say_in_which_direction_scores_err(factor: float, word: str) -> None:
    random = np.random.default_rng(0)
    scores = random.uniform(0.05, 0.35, 3000)
    predictions = made(scores, (random.random(3000) < factor * scores).astype(float))
    from medtail.judging.evaluation import EvaluationConfig, evaluate

    results = evaluate(predictions, config=EvaluationConfig(bootstrap=16))
    assert word in section(predictions, results, ["x"]).words[1]


def test_balance_covers_the_truth_of_calibrated_scores() -> None:
    random = np.random.default_rng(1)
    scores = random.uniform(0, 0.2, 4000)
    predictions = made(scores, (random.random(4000) < scores).astype(float))
    patients, total = number_patients(predictions.patients)
    found = balance(predictions, "x", patients, draw_weights(total, resamples=400))
    assert found.low < 1 < found.high
    # binomial: about 1.96 / sqrt(400) to either side
    assert found.high - found.low == pytest.approx(2 * 1.96 / 20, rel=0.2)


def test_scores_are_called_calibrated_only_on_record(judged) -> None:
    assert calibrated_words(judged.predictions).startswith("No calibration map is on record")
    known = replace(judged.predictions, digests={"calibration": "abcdef0123456789"})
    assert calibrated_words(known) == (
        "These scores are calibrated: a calibration map was applied to them (digest abcdef012345)."
    )
