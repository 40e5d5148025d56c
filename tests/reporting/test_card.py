"""The small print says what is known, and says when something is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from medtail.reporting.card import (
    blocks,
    data_facts,
    data_tables,
    digests_and_versions,
    interval_words,
    limits,
    own_methods,
    plain,
    tail_rule,
    threshold_note,
)
from medtail.reporting.facts import class_facts
from medtail.tables.manifest import manifest_from_frame
from medtail.tables.results import results_from_rows


def facts_of(judged):
    return class_facts(judged.predictions, judged.results, counts=judged.predictions.train_counts)


def test_data_card_counts_images_patients_and_unassessed_labels(judged) -> None:
    card = dict(data_facts(judged.predictions, facts_of(judged), fold="test"))
    assert card["judged"] == "200 images of 100 patients"
    missing = np.isnan(judged.predictions.targets)
    assert card["not assessed"].startswith(f"{100 * missing.mean():.1f} % of the judged labels")
    assert f"rare ({100 * missing[:, judged.predictions.labels.index('rare')].mean():.0f} %)" in card["not assessed"]
    assert card["never seen in training"] == "shape=odd"
    assert card["imbalance in training"].startswith("136 : 2 ")


def test_fold_table_counts_real_and_synthetic_images_apart(judged) -> None:
    frame = judged.manifest.frame.assign(origin=["synthetic"] * 10 + ["real"] * 390)
    tables = data_tables(manifest_from_frame(frame))
    assert tables[0].rows == (("train", "170", "10", "90"), ("tune", "20", "0", "10"), ("test", "200", "0", "100"))
    assert tables[1].title == "Images by site and fold"
    assert [row[0] for row in tables[1].rows] == ["north", "south"]
    assert sum(int(cell) for row in tables[1].rows for cell in row[1:]) == 400
    assert data_tables(None) == []


def test_interval_words_follow_the_header(judged) -> None:
    header = judged.results.header
    said = " ".join(interval_words(header, judged.predictions))
    assert "100 patients were drawn with replacement 128 times" in said
    assert "whole patients are drawn" in said
    images = {**header, "bootstrap": {**header["bootstrap"], "unit": "image", "scheme": "bayesian"}}
    said = " ".join(interval_words(images, judged.predictions))
    assert "images were given random exponential weights" in said
    assert "too short" in said
    assert interval_words({}, judged.predictions)[0].startswith("No intervals were computed")


def test_threshold_words_say_where_thresholds_come_from(judged) -> None:
    assert threshold_note(judged.results.header, judged.predictions).startswith("at thresholds chosen on the tune fold")
    assert "0.5" in threshold_note({}, replace(judged.predictions, thresholds=None))


def test_tail_rule_is_said_in_words_or_said_to_be_unknown(judged) -> None:
    assert "head > 30 %" in tail_rule(judged.results.header, facts_of(judged))
    assert "not recorded" in tail_rule({}, facts_of(judged))
    assert "not known" in tail_rule({}, [replace(f, tail_group="") for f in facts_of(judged)])


def test_references_are_those_of_the_methods_the_evaluation_used(judged) -> None:
    found = own_methods(judged.results.header, judged.results)
    assert {"efron1979", "saito2015", "naeini2015", "lin2025", "lipton2014"} <= set(found)
    assert "rubin1981" not in found
    assert own_methods({"bootstrap": {"resamples": 9, "scheme": "bayesian"}}, results_from_rows([])) == ["rubin1981"]
    assert own_methods({}, results_from_rows([{"metric": "ap", "class": "a", "value": 1.0}])) == ["saito2015"]
    assert "hanley1983" in own_methods(
        {"bootstrap": {"resamples": 9}},
        results_from_rows([{"metric": "recall", "class": "a", "value": 1.0, "low": 0.7, "high": 1.0}]),
    )


def test_digests_and_versions_are_listed_once() -> None:
    from types import SimpleNamespace

    predictions = SimpleNamespace(digests={"manifest": "aa", "scores": "bb"})
    listed = digests_and_versions(
        predictions, {"digests": {"manifest": "aa"}, "versions": {"numpy": "2"}}, {"versions": {"numpy": "1"}}
    )  # type: ignore[arg-type]
    assert listed == [("manifest (SHA-256)", "aa"), ("scores (SHA-256)", "bb"), ("numpy", "2")]


def test_blocks_are_yaml_without_what_stands_elsewhere() -> None:
    model, training = blocks({"backbone": "vit", "versions": {"numpy": "2"}}, {"loss": {"kind": "bce"}, "lr": 1e-3})
    assert model.text == "backbone: vit\n"
    assert "kind: bce" in training.text
    assert blocks(None, None) == []


def test_plain_values_are_what_yaml_can_say() -> None:
    assert plain({"a": (np.float64(0.5), np.int64(2)), 3: {"x"}, "none": None}) == {
        "a": [0.5, 2],
        "3": ["x"],
        "none": None,
    }


def test_limits_name_small_classes_one_site_and_unheld_folds(judged) -> None:
    said = limits(facts_of(judged), judged.predictions, fold="tune", many_sites=False)
    assert said[0].startswith("Research use only")
    assert any("fewer than 20 positive patients" in sentence for sentence in said)
    assert any("one site" in sentence for sentence in said)
    assert any("'tune', not a held-out test fold" in sentence for sentence in said)
    quiet = limits(
        [replace(f, n_pos_patients=50) for f in facts_of(judged)], judged.predictions, fold="test", many_sites=True
    )
    assert len(quiet) == 5
