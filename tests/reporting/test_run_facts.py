from __future__ import annotations

from dataclasses import replace

import numpy as np

from medtail.reporting.run_facts import RunFacts


def facts_of(judged) -> RunFacts:
    return RunFacts(
        name="run", labels=judged.predictions.labels, digest="ab" * 32, counts=judged.predictions.train_counts,
        manifest=judged.manifest, predictions=judged.predictions, results=judged.results,
    )  # fmt: skip


def test_a_judged_run_has_facts_of_every_class_and_group(judged):
    facts = facts_of(judged)
    assert {found.name for found in facts.classes} == set(judged.predictions.labels.class_names)
    assert facts.groups[-1].name == "all"
    assert any("Research use only" in limit for limit in facts.limits)
    assert not any("one site" in limit for limit in facts.limits), "the table has two"


def test_a_run_that_was_not_judged_has_none(judged):
    facts = replace(facts_of(judged), results=None)
    assert (facts.classes, facts.groups, facts.limits) == ([], [], [])


def test_one_site_is_a_limit(judged):
    table = judged.manifest.frame.assign(site=np.where(judged.manifest.folds == "train", "", "north"))
    facts = replace(facts_of(judged), manifest=replace(judged.manifest, frame=table))
    assert any("All images come from one site" in limit for limit in facts.limits)
