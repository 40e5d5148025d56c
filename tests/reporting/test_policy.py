from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medtail.reporting.facts import class_facts
from medtail.reporting.policy import PolicyRecord, course_plot, level_plot, policy_section
from medtail.reporting.report import write_report
from medtail.tables.predictions import Predictions
from medtail.tables.results import Results

FACTS: dict[str, Any] = {
    "policy": {"algorithm": "group", "agents": "per_class", "order": "logged"},
    "rounds": 3,
    "copies": 2,
    "steps": 30,
    "warmup_steps": 100,
    "total_steps": 280,
    "reward_images": 1180,
}


def record(names: tuple[str, ...]) -> PolicyRecord:
    levels = np.linspace(0, 1, 3 * len(names)).reshape(3, len(names))
    rows = [
        {
            "round": k + 1,
            "copy": m + 1,
            "kept": int(m == 1),
            "class": name,
            "level": levels[k, c],
            "expected_level": 0.5,
            "own": 0.4,
            "reward": 0.3,
            "team": 0.4 + 0.1 * m + 0.01 * k,
            "stability": 0.02 * m,
            "entropy": 1.6 - 0.3 * k,
        }
        for k in range(3)
        for m in range(2)
        for c, name in enumerate(names)
    ]
    facts = FACTS | {"pool_images": dict.fromkeys(names, 40)}
    return PolicyRecord(pd.DataFrame(rows), names, levels, facts, {"tune_map": 0.5, "tune_macro_f1": None})


@pytest.fixture
def names(judged: Any) -> tuple[str, ...]:
    return tuple(judged.predictions.labels.class_names)


def test_each_class_with_a_pool_has_a_panel(judged: Any, names: tuple[str, ...]) -> None:
    facts = class_facts(judged.predictions, judged.results, counts=judged.predictions.train_counts)
    made = record(names)
    made.facts["pool_images"][names[0]] = 0  # type: ignore[index]
    section = policy_section(made, facts)
    assert [panel.facts.name for panel in section.panels] == [f.name for f in facts if f.name != names[0]]
    assert "40 generated images" in section.panels[0].caption


def test_the_words_tell_the_budget_and_do_not_claim_a_reproduction(judged: Any, names: tuple[str, ...]) -> None:
    facts = class_facts(judged.predictions, judged.results, counts=judged.predictions.train_counts)
    words = " ".join(policy_section(record(names), facts).words)
    assert "3 rounds" in words
    assert "280 gradient steps" in words
    assert "1,180 reward images" in words
    assert "only the abstract is public" in words
    assert "mAP 0.50 on tune" in words.replace("0.500", "0.50")


def test_levels_are_drawn_as_steps(judged: Any) -> None:
    del judged
    drawn = level_plot(np.array([0.0, 1.0]), np.array([0.5, 0.5]), group="tail", name="x & y")
    points = drawn.split('points="')[1].split('"')[0].split()
    assert len(points) == 4  # two levels, each from the start to the end of its round
    heights = [float(point.split(",")[1]) for point in points]
    assert heights[0] == heights[1] > heights[2] == heights[3]
    assert "x &amp; y: level of generated images over 2 rounds, from 0.00 to 1.00." in drawn


def test_levels_above_one_have_room(judged: Any) -> None:
    del judged
    drawn = level_plot(np.array([2.0, 1.0]), np.array([1.5, 1.0]), group="head", name="a")
    heights = [float(point.split(",")[1]) for point in drawn.split('points="')[1].split('"')[0].split()]
    assert heights[0] < heights[-1]


def test_the_course_shows_every_copy_and_the_kept_one(names: tuple[str, ...]) -> None:
    drawn = course_plot(record(names).rounds)
    assert drawn.count("<circle") == 6
    assert drawn.count('class="curve"') == 3
    assert "team reward" in drawn
    assert "entropy" in drawn


def test_a_report_has_the_section_only_after_a_policy(judged: Any, names: tuple[str, ...], tmp_path: Path) -> None:
    predictions: Predictions = judged.predictions
    results: Results = judged.results
    for out, policy in (("with.html", record(names)), ("without.html", None)):
        write_report(tmp_path / out, predictions=predictions, results=results, title="t", policy=policy)
    page = (tmp_path / "with.html").read_text(encoding="utf-8")
    assert '<a href="#generated">Generated images in training</a>' in page
    assert '<section id="generated"' in page
    assert judged.evil not in page
    assert "generated" not in (tmp_path / "without.html").read_text(encoding="utf-8").partition("<body>")[2]
