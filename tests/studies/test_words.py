"""What a study says of its arms, and what it warns of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from medtail.studies.config import FixedFolds, JudgeConfig
from medtail.studies.judged import judge
from medtail.studies.words import FEW, PENDING, REFERENCE, SAME, WORSE, cautions, lead_words, set_words, verdicts


def test_each_arm_has_a_verdict_in_plain_words(whole: Any) -> None:
    config = JudgeConfig(metrics=("auroc",), levels=("macro", "class"))
    judged = judge(whole.scored, reference="full", config=config)
    found = {verdict.arm: verdict for verdict in verdicts(whole.study, judged)}
    assert [found[arm].word for arm in ("full", "twin", "poor")] == [REFERENCE, SAME, WORSE]
    assert found["poor"].sentence.startswith("'full' is ahead of 'poor' in macro AUROC by 0.")
    assert "cannot be told apart in macro AUROC" in found["twin"].sentence
    assert "would have been found with probability 0.8" in found["twin"].sentence
    assert "behind in FTC" in found["poor"].classes
    assert lead_words(whole.study, judged) == "macro AUROC"


def test_an_arm_better_than_the_reference_is_called_better(whole: Any) -> None:
    config = JudgeConfig(metrics=("auroc",), levels=("macro",))
    study = replace(whole.study, reference="poor")
    words = {v.arm: v.word for v in verdicts(study, judge(whole.scored, reference="poor", config=config))}
    assert words == {"full": "better", "twin": "better", "poor": REFERENCE}


def test_lower_is_better_for_errors(whole: Any) -> None:
    config = JudgeConfig(metrics=("brier",), levels=("macro",))
    words = {v.arm: v.word for v in verdicts(whole.study, judge(whole.scored, reference="full", config=config))}
    assert words["poor"] == WORSE


def test_too_few_positives_say_so(whole: Any) -> None:
    few = {
        arm: tuple(t.take((t.targets[:, 0] != 1) | (t.patients == "p00")) for t in tables)
        for arm, tables in whole.scored.tables.items()
    }
    folds = tuple(
        {
            arm: tuple(t.take((t.targets[:, 0] != 1) | (t.patients == "p00")) for t in tables)
            for arm, tables in f.items()
        }
        for f in whole.scored.by_fold
    )
    config = JudgeConfig(metrics=("auroc",), levels=("class",), classes=None)
    judged = judge(replace(whole.scored, tables=few, by_fold=folds), reference="full", config=config)
    assert {v.arm: v.word for v in verdicts(whole.study, judged)}["poor"] == FEW


def test_arms_without_scores_are_not_finished(whole: Any) -> None:
    lone = replace(whole.scored, tables={"full": whole.scored.tables["full"]})
    words = {v.arm: v.word for v in verdicts(whole.study, judge(lone, reference="full", config=whole.study.judge))}
    assert words == {"full": REFERENCE, "twin": PENDING, "poor": PENDING}


def test_cautions_name_what_flatters(whole: Any) -> None:
    def said(study: Any, **more: Any) -> str:
        return " ".join(cautions(study, [whole.judged], **({"failed": {}, "unfinished": 0} | more)))

    assert "keep: best" not in said(whole.study)
    arms = dict(whole.study.arms)
    config = arms["twin"].config
    arms["twin"] = replace(arms["twin"], config=replace(config, optimizer=replace(config.optimizer, keep="best")))
    assert "Values on tune flatter twin: the epoch that was kept" in said(replace(whole.study, arms=arms))
    assert "share most of their training images" in said(whole.study)
    assert "share most" not in said(replace(whole.study, folds=FixedFolds()))
    assert "One training seed" in said(replace(whole.study, seeds=(0,)))
    text = said(whole.study, failed={"poor/seed_0/fold_1": "diverged"}, unfinished=2)
    assert "1 cells failed, such as poor/seed_0/fold_1: diverged" in text
    assert "2 cells are not finished" in text
    assert "depend on which images share a batch" not in text
    assert "Scores of poor depend on which images share a batch" in said(whole.study, batch_dependent=["poor"])


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("tune", "tune, out of fold: each image scored by the model that did not learn from it"),
        ("test", "the test fold, opened once for all arms, scores averaged over the 3 fold models"),
        ("external_far", "external images 'far', scores averaged over the 3 fold models"),
    ],
)
def test_a_set_says_which_images_and_models(whole: Any, name: str, told: str) -> None:
    assert set_words(whole.study, name) == told


def test_a_fixed_studys_tune_is_the_tune_fold(whole: Any) -> None:
    assert set_words(replace(whole.study, folds=FixedFolds()), "tune") == "the tune fold"
