"""Decision curves: drawn where they may be, where the numbers are, and worded by their intervals."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from medtail.judging.bootstrap import draw_weights, number_patients
from medtail.judging.evaluation import EvaluationConfig
from medtail.judging.net_benefit import net_benefit
from medtail.reporting.decision_curves import decision_section, gain_words, threshold_grid
from medtail.reporting.facts import class_facts

LEFT, WIDE, TOP, SIDE = 46.0, 260.0, 22.0, 140.0


def section(judged, names: list[str], *, calibrated: bool = True):
    predictions = judged.predictions
    if calibrated:
        predictions = replace(predictions, digests={**predictions.digests, "calibration": "abc"})
    facts = class_facts(predictions, judged.results, counts=None)
    patients, total = number_patients(predictions.patients)
    close = [f for name in names for f in facts if f.name == name]
    weights = draw_weights(total, resamples=64)
    return decision_section(predictions, close, config=EvaluationConfig(), patients=patients, weights=weights)


def test_scores_without_a_calibration_on_record_get_a_sentence_and_no_curve(judged) -> None:
    found = section(judged, ["common"], calibrated=False)
    assert found.panels == ()
    assert found.table is None
    assert "run medtail calibrate first" in found.reason


def test_classes_with_few_positive_patients_are_named_instead_of_drawn(judged) -> None:
    found = section(judged, ["absent", "common", judged.evil])
    assert [panel.facts.name for panel in found.panels] == ["common"]
    assert found.reason == f"No curve under 10 positive patients: absent, {judged.evil}."


def test_curve_and_table_are_the_net_benefit(judged) -> None:
    found = section(judged, ["common"])
    (panel,) = found.panels
    column = judged.predictions.labels.index("common")
    grid = threshold_grid(panel.facts.prevalence)
    wanted = net_benefit(judged.predictions.scores[:, column], judged.predictions.targets[:, column], thresholds=grid)
    drawn = ET.fromstring(panel.svg)
    (curve,) = [item for item in drawn.iter("polyline") if "curve" in item.get("class")]
    points = np.array([[float(v) for v in pair.split(",")] for pair in curve.get("points").split()])
    ticks = [item for item in drawn.iter("line") if item.get("class") == "axis"]
    zero = next(float(item.get("y1")) for item in ticks if float(item.get("y1")) < TOP + SIDE - 1)
    # the picture reaches from -0.3 to 1 of its height
    high = (1 - (zero - TOP) / SIDE) / 0.3
    assert high == pytest.approx(1 / 1.3, abs=0.01)
    drawn_benefit = (zero - points[:, 1]) / (zero - TOP)
    at = np.interp((points[:, 0] - LEFT) / WIDE * grid[-1], grid, wanted)
    np.testing.assert_allclose(drawn_benefit / drawn_benefit[0], at / at[0], atol=0.02)
    table = {float(row[1].key): float(row[2].key) for row in found.table.rows}
    for threshold, value in zip(grid[9::10], wanted[9::10], strict=True):
        assert table[float(threshold)] == pytest.approx(value, abs=1e-12)


def test_words_follow_the_interval_of_the_gain_only() -> None:
    curve = pd.DataFrame({"threshold": [0.1, 0.2, 0.3, 0.4], "gain": 0.5, "gain_low": [-1, 0.1, 0.1, -1.0],
                          "gain_high": [1, 1, 1, -0.1]})  # fmt: skip
    assert gain_words(curve, prevalence=0.25) == (
        "prevalence 25 %; the scores beat both defaults at 20–30 %; surely worse than the better default at 40 %"
    )
    never = curve.assign(gain_low=-1.0, gain_high=1.0)
    assert gain_words(never, prevalence=0.25).endswith("at no threshold do they surely beat both")
    blind = curve.assign(gain_low=np.nan, gain_high=np.nan)
    assert gain_words(blind, prevalence=0.25).endswith("no intervals")


@pytest.mark.parametrize(("prevalence", "end"), [(0.0005, 0.05), (0.02, 0.1), (0.3, 0.5)])
def test_thresholds_reach_four_prevalences_within_limits(prevalence: float, end: float) -> None:
    grid = threshold_grid(prevalence)
    assert grid[-1] == pytest.approx(end)
    assert np.all(np.diff(grid) > 0)
    assert grid[0] > 0
