"""Sections are there when their data are, and rest on the resamples of the results."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medtail.errors import MedtailError
from medtail.judging.evaluation import EvaluationConfig, evaluate
from medtail.reporting.facts import class_facts
from medtail.reporting.sections import check_tune, close_classes, judge_sections, judging_config


def tune_of(predictions):
    return replace(
        predictions,
        image_ids=np.array([f"t{n}" for n in range(len(predictions))], dtype=object),
        patients=np.array([f"t{p}" for p in predictions.patients], dtype=object),
        folds=np.full(len(predictions), "tune", dtype=object),
        name="tune.parquet",
    )


def test_settings_are_read_back_from_the_header(judged) -> None:
    config = EvaluationConfig(bootstrap=16, scheme="bayesian", interval=0.9, seed=7, tail_cuts=(0.3, 0.11))
    made = judging_config(evaluate(judged.predictions, config=config).header)
    for key in ("bootstrap", "scheme", "interval", "seed", "strata", "tail_cuts"):
        assert getattr(made, key) == getattr(config, key)
    members = {
        "head": ("common",),
        "medium": (),
        "tail": tuple(set(judged.predictions.labels.class_names) - {"common"}),
    }
    listed = evaluate(judged.predictions, config=EvaluationConfig(bootstrap=0, tail_rule="list", tail_members=members))
    assert set(judging_config(listed.header).tail_members["tail"]) == set(members["tail"])
    assert judging_config({}).bootstrap == 0


def test_critical_classes_join_the_rare_ones_once(judged) -> None:
    facts = class_facts(judged.predictions, judged.results, counts=None)
    rare = [f for f in facts if f.name == "rare"]
    results = replace(judged.results, header={**judged.results.header, "critical": ["rare", "common"]})
    assert [f.name for f in close_classes(results, facts, rare)] == ["rare", "common"]


def test_sets_and_abstention_come_with_tune_rows_only(judged) -> None:
    facts = class_facts(judged.predictions, judged.results, counts=None)
    rare = [f for f in facts if f.name == "rare"]
    without = judge_sections(judged.predictions, judged.results, facts, rare=rare, drawn=facts)
    assert [name for name, _ in without.contents] == ["reliability", "decisions"]
    tune = tune_of(judged.predictions)
    there = judge_sections(judged.predictions, judged.results, facts, rare=rare, drawn=facts, tune=tune)
    assert [name for name, _ in there.contents] == ["reliability", "decisions", "conformal", "abstention"]
    assert {"vovk2012", "geifman2017"} <= set(there.methods) - set(without.methods)
    assert {"conformal", "abstention"} == there.parts - without.parts


def test_tune_rows_of_another_kind_are_refused(judged) -> None:
    tune, test = tune_of(judged.predictions), judged.predictions
    check_tune(tune, test)
    for key in ("model", "calibration"):
        with pytest.raises(MedtailError, match=rf"made with {key} none, .* with {key} abc"):
            check_tune(tune, replace(test, digests={**test.digests, key: "abc"}))
    with pytest.raises(MedtailError, match=r"of its images are judged too"):
        check_tune(replace(tune, image_ids=test.image_ids), test)
