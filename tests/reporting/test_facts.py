"""Facts: the one place where the report looks numbers up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medtail.reporting.facts import (
    UNKNOWN,
    class_facts,
    decision_thresholds,
    find_train_counts,
    group_facts,
    number,
    rare_classes,
)
from medtail.tables.results import results_from_rows


def test_facts_agree_with_results_and_with_the_tables(judged) -> None:
    predictions, results = judged.predictions, judged.results
    for facts in class_facts(predictions, results, counts=predictions.train_counts):
        for metric, value in (("n_rows", facts.n_rows), ("n_pos", facts.n_pos), ("n_patients", facts.n_patients),
                              ("n_pos_patients", facts.n_pos_patients)):  # fmt: skip
            assert value == results.value(metric, class_name=facts.name), (facts.name, metric)
        column = predictions.labels.index(facts.name)
        assert facts.train_images == predictions.train_counts.images[column]
        if facts.n_pos:
            # the counts in the sentences are those behind the recall and precision of the table
            assert facts.found / facts.n_pos == pytest.approx(results.value("recall", class_name=facts.name))
            if facts.alarms:
                precision = results.value("precision", class_name=facts.name)
                assert facts.found / facts.alarms == pytest.approx(precision)
        assert facts.n_neg_patients == len(set(predictions.patients[predictions.targets[:, column] == 0]))


def test_classes_come_commonest_in_training_first(judged) -> None:
    found = class_facts(judged.predictions, judged.results, counts=judged.predictions.train_counts)
    assert [f.train_images for f in found] == sorted((f.train_images for f in found), reverse=True)
    assert found[0].name == "shape=oval"


def test_group_values_are_those_of_the_results_with_the_excluded_named(judged) -> None:
    found = class_facts(judged.predictions, judged.results, counts=judged.predictions.train_counts)
    groups = {group.name: group for group in group_facts(found, judged.results)}
    assert list(groups) == ["head", "medium", "tail", "all"]
    assert set(groups["all"].excluded) == {"absent", "shape=odd"}
    for name, group in groups.items():
        stored = judged.results.rows("ap", class_name="", tail_group="" if name == "all" else name)
        assert group.metrics["ap"].support == len(group.averaged) == stored["support"].iloc[0]
        defined = [f.ap.value for f in found if f.name in group.averaged]
        assert group.metrics["ap"].value == pytest.approx(np.mean(defined))


def test_missing_numbers_are_nan_and_unknown_never_zero(judged) -> None:
    predictions = replace(judged.predictions, train_counts=None, thresholds=None)
    facts = class_facts(predictions, results_from_rows([]), counts=None)[0]
    assert facts.train_images == UNKNOWN
    assert np.isnan([facts.ap.value, facts.ap_chance, facts.defined_share]).all()
    assert facts.tail_group == ""
    assert facts.threshold == 0.5


def test_thresholds_are_those_the_results_were_made_with(judged) -> None:
    rows = [{"metric": "threshold", "class": "rare", "value": 0.9}]
    found = decision_thresholds(judged.predictions, results_from_rows(rows))
    at = judged.predictions.labels.index("rare")
    assert found[at] == 0.9
    assert set(np.delete(found, at)) == {0.4}


def test_train_counts_are_taken_from_the_nearest_source(judged) -> None:
    predictions = judged.predictions
    card = {"train_counts": {"common": {"images": 7, "patients": 6, "assessed": 9}}}
    bare = replace(predictions, train_counts=None)
    empty = results_from_rows([])
    assert find_train_counts(predictions, empty, card, None).images == (7,)
    assert find_train_counts(predictions, empty, None, None) == predictions.train_counts
    assert find_train_counts(bare, judged.results, None, None) == predictions.train_counts
    assert find_train_counts(bare, empty, None, judged.manifest) == predictions.train_counts
    assert find_train_counts(bare, empty, None, None) is None


def test_rare_classes_are_the_tail_or_else_the_rarest_third(judged) -> None:
    found = class_facts(judged.predictions, judged.results, counts=judged.predictions.train_counts)
    tail, word = rare_classes(found)
    assert word == "tail"
    assert {f.tail_group for f in tail} == {"tail"}
    assert [f.train_images for f in tail] == sorted(f.train_images for f in tail)
    headless = [replace(f, tail_group="head") for f in found]
    rarest, word = rare_classes(headless)
    assert word == "rarest"
    assert [f.train_images for f in rarest] == sorted(f.train_images for f in found)[:3]
    assert len(rare_classes(headless[:4])[0]) == 3
    assert len(rare_classes(headless[:2])[0]) == 2


def test_numbers_are_short_and_nan_is_a_dash() -> None:
    assert [number(v) for v in (0.0, 0.004, 0.006, 1.0, float("nan"))] == ["0.00", "<0.01", "0.01", "1.00", "–"]
