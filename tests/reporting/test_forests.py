"""Forest plots: marks and whiskers where the numbers are."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from medtail.reporting.facts import Estimate
from medtail.reporting.forests import ForestRow, forest

LEFT, RIGHT = 232.0, 520.0


def at(value: float, low: float, high: float) -> float:
    return LEFT + (min(max(value, low), high) - low) / (high - low) * (RIGHT - LEFT)


def test_marks_whiskers_and_reference_stand_at_their_values() -> None:
    rows = [
        ForestRow("site=a", is_heading=True),
        ForestRow("x", Estimate(-0.1, -0.9, 0.05), "−0.10", "head"),
        ForestRow("y", note="too few"),
    ]
    drawn = ET.fromstring(forest(rows, axis=(-0.5, 0.5), reference=0.0, x_name="gap", label="Gaps"))
    (mark,) = list(drawn.iter("circle"))
    assert float(mark.get("cx")) == pytest.approx(at(-0.1, -0.5, 0.5), abs=0.1)
    (whisker,) = [item for item in drawn.iter("line") if "whisker" in item.get("class")]
    ends = sorted((float(whisker.get("x1")), float(whisker.get("x2"))))
    # beyond the axis it is drawn at the end
    assert ends == pytest.approx([LEFT, at(0.05, -0.5, 0.5)], abs=0.1)
    (reference,) = [item for item in drawn.iter("line") if item.get("class") == "chance"]
    assert float(reference.get("x1")) == pytest.approx((LEFT + RIGHT) / 2, abs=0.1)
    words = ["".join(item.itertext()) for item in drawn.iter("text")]
    assert {"too few", "–", "−0.10"} <= set(words)


def test_names_are_escaped_and_long_ones_kept_in_the_hint() -> None:
    name = "<b>" + "n" * 60
    svg = forest([ForestRow(name, Estimate(0.5))], axis=(0, 1), reference=0.9, x_name="c", label="L")
    assert "<b>" not in svg
    drawn = ET.fromstring(svg)
    assert name in {item.text for item in drawn.iter("title")}
