"""Conformal sets on the page are those of the judge."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from medtail.judging.conformal import fit_conformal
from medtail.judging.conformal_coverage import judge_sets
from medtail.judging.evaluation import EvaluationConfig, evaluate
from medtail.reporting.conformal import conformal_section
from medtail.reporting.facts import class_facts
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions


def rows(fold: str, seed: int) -> Predictions:
    random = np.random.default_rng(seed)
    targets = (random.random((400, 3)) < [0.4, 0.05, 0.01]).astype(float)
    targets[0, 2] = 1
    scores = 1 / (1 + np.exp(-(random.normal(size=(400, 3)) + 2 * targets - 1)))
    ids = np.array([f"{fold}{n}" for n in range(400)], dtype=object)
    return Predictions(ids, ids, scores, targets, LabelSpace(("head", "few", "hardly")), np.full(400, fold, object))


@pytest.fixture(scope="module")
def found():
    tune, test = rows("tune", 1), rows("test", 2)
    config = EvaluationConfig(bootstrap=64)
    facts = class_facts(test, evaluate(test, config=config), counts=None)
    return tune, test, config, conformal_section(tune, test, facts, close=facts, config=config)


def test_the_table_is_the_judgement_of_sets_fitted_on_tune(found) -> None:
    tune, test, config, section = found
    sets = fit_conformal(tune)
    judged = judge_sets(sets, test, config=config)
    for row in section.table.rows:
        at = sets.labels.index(row[0].text)
        assert float(row[2].key) == sets.patients[at]
        assert float(row[4].key) == sets.limits[at]
        for column, metric in ((5, "coverage"), (6, "inclusion")):
            assert float(row[column].key) == judged.value(metric, class_name=row[0].text)


def test_a_class_without_a_promise_of_its_own_says_what_its_limit_rests_on(found) -> None:
    _, _, _, section = found
    rests = {row[0].text: row[3].text for row in section.table.rows}
    assert rests["head"] == "its own patients"
    assert rests["hardly"].startswith(("all findings (", "classes with alike scores ("))
    assert any("1 of 3 classes have fewer than 9 tune patients" in line for line in section.words)


def test_the_promise_line_and_coverage_are_drawn(found) -> None:
    _, _, _, section = found
    assert "at most 10 % of the time" in section.promise
    drawn = ET.fromstring(section.plot)
    (line,) = [item for item in drawn.iter("line") if item.get("class") == "chance"]
    assert float(line.get("x1")) == pytest.approx(232 + 0.9 * 288, abs=0.1)
    value = section.results.value("coverage", class_name="head")
    marks = [float(item.get("cx")) for item in drawn.iter("circle")]
    assert any(mark == pytest.approx(232 + value * 288, abs=0.1) for mark in marks)
