"""What a person reads: chance beside AP, readings beside errors, places only where they mean something."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from medtail.challenges.cxr_lt import score
from medtail.challenges.cxr_lt_boards import Placed, board_of, place
from medtail.challenges.cxr_lt_comparison import compare_submissions
from medtail.challenges.cxr_lt_submission import Submission
from medtail.challenges.cxr_lt_summary import classes_text, comparison_text, placed_text, score_text
from medtail.challenges.cxr_lt_truth import Truth
from medtail.sources.cxr_lt import edition
from medtail.tables.results import Results, results_from_rows


def gold(images: int = 406) -> Results:
    names = edition("2024").task(2).class_names
    random = np.random.default_rng(0)
    labels = (random.random((images, 26)) < 0.1).astype(float)
    labels[np.arange(26), np.arange(26)] = 1
    scores = np.clip(labels * 0.14 + random.random(labels.shape) * 0.6, 0, 1)
    ids = np.array([f"i{number}" for number in range(images)], dtype=object)
    truth = Truth("truth.csv", ids, ids, labels, names, True, "")
    return score(truth, Submission("mine", ids, scores, names), edition="2024", task=2, bootstrap=64)


def test_a_score_of_the_official_size_is_placed_and_noise_is_named():
    results = gold()
    text = score_text(results)
    lines = text.splitlines()
    assert lines[0] == "CXR-LT 2024, task 2: long tail, gold test set"
    headline = next(line for line in lines if line.startswith("mAP "))
    assert f"chance {results.value('ap_chance'):.4f}" in headline
    assert "mECE, reliability" in text
    assert "mECE, leaderboard" in text
    board = [line for line in lines if line.endswith("this score")]
    assert len(board) == 1
    assert f"{results.value('ap'):.4f}" in board[0]
    assert "With 406 images places 2 to 7 are within noise" in text
    assert "! The task-2 images lie in MIMIC-CXR's official train split" in text
    at = lines.index(board[0])
    above, below = lines[at - 1].split(), lines[at + 1].split() if at + 1 < len(lines) else ["0"]
    known = [float(line[-2]) for line in (above,) if line[-1] == "organisers"]
    assert all(value >= results.value("ap") for value in known)
    assert below[-1] != "organisers" or float(below[-2]) <= results.value("ap")


def test_a_score_of_another_size_is_not_placed():
    text = score_text(gold(300))
    assert "Not placed on the leaderboard: these are 300 images, the official test set has 406" in text
    assert "this score" not in text


def test_every_class_stands_with_prevalence_and_chance():
    results = gold()
    row = next(line for line in score_text(results).splitlines() if line.startswith("Hernia "))
    assert f"{results.value('prevalence', class_name='Hernia'):.5f}" in row
    assert f"{results.value('ap_chance', class_name='Hernia'):.4f}" in row
    assert "Hernia" not in score_text(results, by_class=False).partition("Leaderboard")[0]


def test_undefined_classes_show_a_dash_and_means_say_over_how_many(world):
    labels = world.write(world.truth.assign(Hernia=0), "truth.csv")
    found = score(labels, world.write(world.scores), edition=world.edition, absent="nan", bootstrap=16)
    lines = score_text(found).splitlines()
    assert next(line for line in lines if line.startswith("Hernia")).split()[4] == "–"
    assert "over 11 of 12 classes" in next(line for line in lines if line.startswith("mAP "))


def test_the_place_is_worded_by_what_is_known():
    def mine(value: float, low: float, high: float) -> Placed:
        rows = [{"metric": "ap", "value": value, "low": low, "high": high}]
        return place(results_from_rows(rows), board_of("2024", 2))

    assert placed_text(mine(0.52, 0.505, 0.53)) == [
        "It would take place 2. Its interval covers the scores of places 1 to 7: the order among them is within noise."
    ]
    assert placed_text(mine(0.47, 0.465, 0.475))[0].endswith(
        "covers the scores of place 9: the order among them is within noise."
    )
    assert placed_text(mine(0.2, np.nan, np.nan)) == [
        "It lies below place 13; the places from there on are not all known. Without resamples nothing shows how sure"
        " that is."
    ]


def test_a_comparison_prints_tables_differences_and_verdicts(world):
    noisy = world.scores.copy()
    noisy[world.names] = np.random.default_rng(0).random((400, 12))
    files = {"good": world.write(world.scores, "good.csv"), "noise": world.write(noisy, "noise.csv")}
    found = compare_submissions(world.write(world.truth, "truth.csv"), files, edition=world.edition, bootstrap=200)
    text = comparison_text(found)
    assert "mAP by group: head > 10 %" in text
    assert "F1 by class" in text
    row = next(line for line in text.splitlines() if line.startswith("mAP ") and "noise" in line)
    assert row.endswith("ahead")
    assert text.count("good") > 3


def test_the_class_table_says_groups_counts_and_what_is_unknown(world):
    text = classes_text(edition("2024"), task=1)
    row = next(line for line in text.splitlines() if line.startswith("24 "))
    assert row.split() == ["24", "Normal", "head", "34,292", "5,088", "No", "Finding"]
    assert "head > 10 %" in text
    assert "unseen" in classes_text(edition("2024"), task=3)
    unknown = classes_text(edition("2026"), task=1)
    assert "?" in unknown
    assert "not published" in unknown
    assert "groups:" not in unknown
    nameless = replace(world.edition, train_images=None)
    assert "train images" not in classes_text(nameless, task=1)
