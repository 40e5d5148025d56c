from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medtail.reporting.checklist_answers import answers, words_of
from medtail.reporting.run_facts import RunFacts
from medtail.tables.labels import LabelSpace
from medtail.tables.results import Results

CONFIG = {
    "classes": ["Rare (AdamW)"], "seed": 7, "pixels": {"size_px": 64, "channels": 1, "crop": "none", "margin": 0.15},
    "augment": {"profile": "ultrasound", "flip": None}, "sampler": {"kind": "repeat_factor"},
    "loss": {"kind": "focal", "gamma": 2.0}, "backbone": {"kind": "resnet", "weights": None},
    "head": {"kind": "linear"}, "optimizer": {"epochs": 3, "keep": "best"},
}  # fmt: skip


@pytest.fixture
def facts(judged) -> RunFacts:
    return RunFacts(
        name="run", labels=judged.predictions.labels, digest="ab" * 32, note="For research.",
        counts=judged.predictions.train_counts, config=CONFIG, versions={"medtail": "1", "platform": "here"},
        manifest=judged.manifest, manifest_name="judged.csv", predictions=judged.predictions, results=judged.results,
    )  # fmt: skip


def test_answers_say_what_was_done(facts):
    found = answers(facts)
    assert "focal (gamma 2.0)" in found["training"].text
    assert "seed 7" in found["training"].text
    assert found["software"].text == "medtail 1."
    assert "random weights" in found["initialisation"].text
    assert "epoch of the best tune mAP" in found["selection"].text
    assert found["subset"].text == "Classes Rare (AdamW); whole images."
    assert "size px 64, channels 1. Varied" in found["preparation"].text
    assert found["ensemble"].text == "One network."
    assert found["sites"].text.startswith("2 sites")
    assert found["uncertainty"].state == "filled"
    assert found["internal"].state == "filled"


def test_missing_labels_are_counted_in_the_table(facts, judged):
    share = 100 * np.isnan(judged.manifest.targets).mean()
    assert f"{share:.1f} % of the labels were not assessed" in answers(facts)["missing"].text


def test_patients_are_really_compared_between_folds(facts, judged):
    assert answers(facts)["disjoint"].state == "filled"
    folds = judged.manifest.folds.copy()
    folds[0] = "test"  # the patient's other image stays in train
    torn = replace(facts, manifest=judged.manifest.with_folds(folds))
    assert answers(torn)["disjoint"].state == "gap"
    assert answers(torn)["disjoint"].text == "1 patient in more than one fold."


def test_an_empty_cell_names_no_site(facts, judged):
    column = judged.manifest.frame["site"].astype("str").mask(np.arange(len(judged.manifest)) == 0)
    gap = replace(judged.manifest, frame=judged.manifest.frame.assign(site=column))
    assert answers(replace(facts, manifest=gap))["sites"].text.startswith("2 sites")


def test_a_run_that_was_not_judged_answers_nothing_about_performance(facts):
    found = answers(replace(facts, predictions=None, results=None))
    assert not {"performance", "diagnostic", "metrics", "uncertainty", "internal", "subgroups"} & set(found)
    assert "not evaluated yet" in found["kind"].text


def test_a_bare_run_still_answers_what_it_can():
    found = answers(RunFacts("run", LabelSpace(("a",)), digest="ab" * 32))
    assert not {"data", "partition", "training", "model", "missing", "counts", "software"} & set(found)
    assert found["specification"].text.startswith("Weights (SHA-256 abababab")


def test_subgroups_and_sites_count_only_where_they_were_judged(facts):
    assert not {"subgroups", "clusters"} & set(answers(facts))
    assert answers(facts)["performance"].state == "partly"
    frame = facts.results.frame
    rows = frame[(frame["metric"] == "ap") & (frame["class"] != "")].assign(subgroup="site=north")
    import pandas as pd

    by_site = replace(facts, results=Results(pd.concat([frame, rows]), facts.results.header))
    assert answers(by_site)["subgroups"].text == "Judged by site; in the results table."
    assert answers(by_site)["clusters"].state == "filled"
    assert answers(by_site)["performance"].state == "filled"


def test_components_are_written_in_a_line():
    assert words_of(None) == "none"
    assert words_of({"kind": "none", "low": 1}) == "none"
    assert words_of({"kind": "a", "b": {"kind": "c", "d": 1}, "e": [1, 2], "f": True, "g": False}) == (
        "a (b c (d 1), e 1/2, f)"
    )
