"""Systems on test: the challenge's numbers, and every comparison that is asked of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medtail.challenges.cxr_lt import score
from medtail.challenges.cxr_lt_submission import Submission
from medtail.judging.pvalues import holm
from medtail.studies.systems import SystemsRun
from medtail.studies.systems_judged import (
    AGAINST,
    BEST_MEMBER,
    REFERENCE,
    JudgedSystems,
    judge_systems,
    pairs_of,
    truth_of,
)


@pytest.fixture(scope="module")
def judged(systems_run: SystemsRun) -> JudgedSystems:
    """The systems judged, once."""
    return judge_systems(systems_run)


def test_numbers_are_those_of_the_challenges_scorer(systems_run: SystemsRun, judged: JudgedSystems) -> None:
    table, truth = systems_run.scores["both"].test, truth_of(systems_run)
    columns = [table.labels.index(name) for name in truth.class_names]
    by_hand = score(
        truth,
        Submission("x", table.image_ids, table.scores[:, columns], truth.class_names),
        edition=systems_run.systems.edition,
        bootstrap=100,
        absent="nan",
        train_counts=systems_run.train_counts,
    )
    own = judged.systems["both"].results
    for metric in ("ap", "auroc", "f1", "ece@reliability", "ece@leaderboard", "ap_mean_of_groups", "ece@pooled"):
        assert own.value(metric) == by_hand.value(metric)
        ours, theirs = (found.rows(metric).iloc[0][["low", "high"]].tolist() for found in (own, by_hand))
        assert ours == theirs
    assert len(judged.systems["both"].predictions) == 240
    skilled, plain = (judged.systems[name].results.value("ap") for name in ("both", "poor"))
    assert skilled > plain + 0.2


def test_each_system_is_compared_with_reference_best_member_and_whom_it_names(
    systems_run: SystemsRun, judged: JudgedSystems
) -> None:
    best = {name: f"{name}: {systems_run.scores[name].best_part}" for name in ("both", "fitted")}
    assert pairs_of(systems_run.systems.config, systems_run.scores) == [
        ("both", "poor", REFERENCE),
        ("both", best["both"], BEST_MEMBER),
        ("fitted", "poor", REFERENCE),
        ("fitted", "both", AGAINST),
        ("fitted", best["fitted"], BEST_MEMBER),
    ]
    assert set(judged.members) == set(best.values())
    rows = judged.differences
    assert len(rows) == 5 * 3
    assert set(rows["metric"]) == {"ap", "auroc", "f1"}
    for row in rows.to_dict("records"):
        of = {**judged.systems, **judged.members}
        expected = of[row["system"]].results.value(row["metric"]) - of[row["against"]].results.value(row["metric"])
        assert row["difference"] == pytest.approx(expected)
        assert row["low"] <= row["high"]


def test_all_comparisons_are_corrected_together(judged: JudgedSystems) -> None:
    rows = judged.differences
    assert np.allclose(rows["p_holm"], holm(rows["p"].to_numpy()))
    # 15 questions: a file's 100 resamples could not show anything, so more are taken
    assert (rows["p"].min() * len(rows)) < 0.05
    chosen = rows[(rows["system"] == "both") & (rows["against"] == "poor") & (rows["metric"] == "auroc")].iloc[0]
    assert chosen["p"] < 0.05
    assert chosen["verdict"] == "a_ahead"
    assert chosen["p_holm"] < 0.05


def test_groups_follow_the_files_cuts_and_say_so(systems_run: SystemsRun, judged: JudgedSystems) -> None:
    share = np.array(systems_run.train_counts.images) / np.array(systems_run.train_counts.assessed)
    groups = judged.systems["both"].groups
    assert groups is not None
    tail = [name for name, value in zip(systems_run.train_counts.class_names, share, strict=True) if value < 0.15]
    assert tail
    assert sorted(groups.members("tail")) == sorted(tail)
    assert any("cut at 30% and 15% of the train images, which is this study's choice" in note for note in judged.notes)
    assert len(judged.tables) >= 4


def test_thresholds_of_tune_are_used_where_there_is_one_fold(systems_run: SystemsRun) -> None:
    one = {
        name: replace(scores, folds={0: scores.folds[0]}, test=scores.folds[0].scores.test,
                      parts={part: pair.test for part, pair in scores.folds[0].parts.items()})
        for name, scores in systems_run.scores.items()
    }  # fmt: skip
    found = judge_systems(replace(systems_run, scores=one))
    assert len(found.systems["both"].results.rows("fnr_critical@tune")) == 1
    several = judge_systems(systems_run)
    assert len(several.systems["both"].results.rows("fnr_critical@tune")) == 0


def test_the_member_an_ensemble_is_held_against_is_the_one_tune_names(systems_run: SystemsRun) -> None:
    turned = {name: replace(scores, parts_tune_map={**scores.parts_tune_map, "poor": 1.0} if name == "fitted"
                            else scores.parts_tune_map) for name, scores in systems_run.scores.items()}  # fmt: skip
    found = judge_systems(replace(systems_run, scores=turned))
    assert "fitted: poor" in found.members
    poor, alone = found.members["fitted: poor"].results, found.systems["poor"].results
    assert poor.value("ap") == alone.value("ap")
    rows = found.differences[found.differences["against"] == "fitted: poor"]
    expected = found.systems["fitted"].results.value("ap") - alone.value("ap")
    assert rows[rows["metric"] == "ap"]["difference"].iloc[0] == pytest.approx(expected)
