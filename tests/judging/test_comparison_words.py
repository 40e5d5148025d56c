"""What a comparison says in words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medtail.judging.comparison import Comparison, ComparisonConfig, compare
from medtail.judging.comparison_words import comparison_text, main_place, rows_at, statements, summary_places
from medtail.judging.fold_comparison import compare_folds
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions


def table(skill: float, *, seed: int, images: int = 406, fold: int = 0) -> Predictions:
    """One of several systems scored on the same images, as many as the gold set of a challenge."""
    truth = np.random.default_rng(fold)
    y = (truth.random((images, 3)) < (0.3, 0.15, 0.1)).astype(float)
    logits = skill * y + truth.normal(size=y.shape) * 0.7 + np.random.default_rng(seed).normal(size=y.shape) * 0.7
    ids = np.array([f"f{fold}i{k}" for k in range(images)], dtype=object)
    where = np.array(["test"] * images, dtype=object)
    return Predictions(ids, ids, 1 / (1 + np.exp(-logits)), y, LabelSpace(("a", "b", "c")), where)


@pytest.fixture(scope="module")
def board() -> Comparison:
    """A leaderboard: a winner, six that are nearly equal, and a last one."""
    skills = {"win": 3.0, **{f"team{k}": 1.5 for k in range(2, 8)}, "last": 0.1}
    tables = {name: table(skill, seed=k) for k, (name, skill) in enumerate(skills.items())}
    return compare(tables, config=ComparisonConfig(metrics=("ap", "auroc"), levels=("macro",)))


def test_ranks_within_noise_are_said_to_be(board: Comparison) -> None:
    said = [statement.text for statement in statements(board) if statement.kind == "block"]
    ranked = rows_at(board.systems, main_place(board)).sort_values("rank")
    assert ranked["tied_block"].tolist() == [1] + [2] * 6 + [3]
    assert said[0].startswith("Ranks 2-7 in macro AP are within noise: 'team")
    assert "no neighbours can be told apart" in said[0]
    assert said[0] in comparison_text(board)


def test_only_neighbours_have_a_sentence_where_pairs_are_many(board: Comparison) -> None:
    about_ap = [s for s in statements(board) if s.kind in ("ahead", "tied", "maybe")]
    assert len(about_ap) == len(board.names) - 1


def test_a_clear_difference_is_told_from_its_better_side() -> None:
    tables = {"poor": table(0.2, seed=1), "good": table(2.5, seed=2)}
    found = compare(tables, config=ComparisonConfig(metrics=("ap",), levels=("macro",)))
    said = statements(found)[0]
    row = found.differences.iloc[0]
    assert said.kind == "ahead"
    assert said.text == (
        f"'good' is ahead of 'poor' in macro AP by {-row['difference']:.3f} [{-row['high']:.3f}, {-row['low']:.3f}],"
        f" p = {row['p']:.2g}."
    )


def test_a_tie_names_what_could_have_been_seen() -> None:
    tables = {"one": table(1.5, seed=1), "two": table(1.5, seed=2)}
    found = compare(tables, config=ComparisonConfig(metrics=("ap", "ece"), levels=("macro",)))
    said = [statement for statement in statements(found) if "macro AP" in statement.text]
    assert said[0].kind == "tied"
    detectable = found.differences["smallest_detectable"][0]
    assert said[0].text.endswith(f"A true difference of {detectable:.3f} would have been found with probability 0.8.")
    assert "after Holm's correction for 2 comparisons" in said[0].text


def test_a_finding_that_does_not_survive_correction_says_so() -> None:
    tables = {"a": table(1.5, seed=1), "b": table(1.5, seed=2)}
    two = compare(tables, config=ComparisonConfig(metrics=("ap",), levels=("macro",), bootstrap=100))
    differences = two.differences.copy()
    columns = ["difference", "low", "high", "p", "p_holm", "verdict"]
    differences.loc[0, columns] = [0.1, 0.01, 0.2, 0.02, 0.4, "a_ahead_uncorrected"]
    said = statements(replace(two, differences=differences))[0]
    assert said.kind == "maybe"
    assert said.text.startswith("'a' is ahead of 'b' in macro AP by 0.100 [0.010, 0.200], p = 0.02")
    assert said.text.endswith("its own interval excludes 0, but not once all comparisons are counted.")


def test_classes_are_counted_and_margins_worded() -> None:
    tables = {"good": table(2.5, seed=1), "poor": table(0.2, seed=2)}
    config = ComparisonConfig(metrics=("ap",), margins={"ap": 0.01})
    said = [statement.text for statement in statements(compare(tables, config=config))]
    assert "'good' is not inferior to 'poor' in macro AP by more than 0.01." in said
    assert said[-1] == (
        "Class by class (AP, after Holm), 'good' is ahead in 3 (a, b, c) and 'poor' is ahead in 0 of 3 tested."
    )


def test_the_text_of_folds_has_their_spread_and_method() -> None:
    folds = {name: [table(skill, seed=9 + n, fold=k, images=80) for k in range(4)]
             for n, (name, skill) in enumerate((("good", 2.0), ("poor", 0.5)))}  # fmt: skip
    text = comparison_text(compare_folds(folds, config=ComparisonConfig(metrics=("auroc",), levels=("macro",))))
    assert "over 4)" in text
    assert "corrected resampled t-test over folds" in text


def test_without_the_whole_the_first_question_leads() -> None:
    tables = {"a": table(1.5, seed=1), "b": table(1.0, seed=2)}
    found = compare(tables, config=ComparisonConfig(metrics=("ap",), levels=("class",), bootstrap=100))
    assert summary_places(found) == [{"metric": "ap", "class": "a", "tail_group": ""}]
    assert "AP of a" in comparison_text(found)
