"""The figures of single classes, checked against the numbers they show."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest

from medtail.judging.confusion import GroupConfusion
from medtail.judging.metrics import average_precision
from medtail.reporting.curves import class_curves, confusion_plot, reliability_plot
from medtail.reporting.facts import class_facts

LEFT, SIDE, TOP = 34.0, 128.0, 22.0


def with_class(drawing: ET.Element, name: str) -> list[ET.Element]:
    return [item for item in drawing.iter() if name in item.get("class", "").split()]


def points(curve: ET.Element) -> np.ndarray:
    return np.array([[float(v) for v in pair.split(",")] for pair in curve.get("points").split()])


def pr_area(drawing: ET.Element) -> float:
    drawn = points(with_class(drawing, "curve")[0])
    across, up = (drawn[:, 0] - LEFT) / SIDE, 1 - (drawn[:, 1] - TOP) / SIDE
    return float(np.sum(np.diff(across) * up[1:]))


def test_area_under_the_drawn_staircase_is_the_average_precision(judged) -> None:
    predictions = judged.predictions
    for facts in class_facts(predictions, judged.results, counts=None):
        column = predictions.labels.index(facts.name)
        scores, targets = predictions.scores[:, column], predictions.targets[:, column]
        drawing = ET.fromstring(class_curves(facts, scores, targets))
        if facts.n_pos:
            # coordinates carry one decimal of a pixel
            assert pr_area(drawing) == pytest.approx(average_precision(scores, targets), abs=0.02)
        else:
            assert with_class(drawing, "curve") == []
            assert sum("".join(t.itertext()) == "not defined" for t in drawing.iter("text")) == 2


def test_mark_stands_where_the_decisions_are(judged) -> None:
    facts = next(f for f in class_facts(judged.predictions, judged.results, counts=None) if f.name == "common")
    facts = replace(facts, n_rows=100, n_pos=40, found=20, alarms=50, tail_group="head")
    column = judged.predictions.labels.index("common")
    drawing = ET.fromstring(
        class_curves(facts, judged.predictions.scores[:, column], judged.predictions.targets[:, column])
    )
    first, second = with_class(drawing, "mark")
    assert float(first.get("cx")) == pytest.approx(LEFT + 0.5 * SIDE, abs=0.1)
    assert float(first.get("cy")) == pytest.approx(TOP + 0.6 * SIDE, abs=0.1)
    assert float(second.get("cx")) == pytest.approx(LEFT + SIDE + 44 + 0.5 * SIDE, abs=0.1)
    silent = class_curves(
        replace(facts, found=0, alarms=0), judged.predictions.scores[:, column], judged.predictions.targets[:, column]
    )
    assert len(with_class(ET.fromstring(silent), "mark")) == 1


def test_reliability_of_calibrated_scores_lies_on_the_diagonal() -> None:
    scores = np.repeat([0.1, 0.3, 0.7], 1000)
    targets = np.concatenate([np.repeat([1.0, 0.0], [int(1000 * s), 1000 - int(1000 * s)]) for s in (0.1, 0.3, 0.7)])
    drawing = ET.fromstring(reliability_plot("all", scores, targets))
    drawn = points(with_class(drawing, "curve")[0])
    across, up = (drawn[:, 0] - 38.0) / SIDE, 1 - (drawn[:, 1] - TOP) / SIDE
    np.testing.assert_allclose(across, up, atol=0.002)
    np.testing.assert_allclose(across, [0.1, 0.3, 0.7], atol=0.002)
    assert len(with_class(drawing, "bar")) == 3


def test_reliability_stands_a_class_nobody_assessed() -> None:
    drawing = ET.fromstring(reliability_plot("none", np.array([0.5]), np.array([np.nan])))
    assert with_class(drawing, "mark") == []


def test_confusion_hatches_rows_of_absent_classes_and_shows_every_count() -> None:
    counts = np.array([[5, 1, 0], [2, 8, 0], [0, 0, 0]])
    drawn = ET.fromstring(
        confusion_plot(GroupConfusion("shape", ("shape=oval", "shape=round", "shape=odd"), counts), pattern_id="h7")
    )
    assert drawn.get("aria-label") == ("Confusion inside shape: 13 of 16 images called right. Without images: odd.")
    assert len(with_class(drawn, "cell")) == 6
    hatched = [item for item in drawn.iter("rect") if item.get("fill") == "url(#h7)"]
    assert len(hatched) == 1
    assert [item.get("id") for item in drawn.iter("pattern")] == ["h7"]
    shown = {"".join(item.itertext()) for item in drawn.iter("text")}
    assert {"5", "1", "2", "8", "none", "0.83 of 6", "0.80 of 10"} <= shown
    assert "0" not in shown
