from __future__ import annotations

from dataclasses import replace

import pytest

from medtail.synthesis.coverage import Coverage
from medtail.synthesis.fidelity import ClassControl
from medtail.synthesis.kernel_distance import KernelPosition
from medtail.synthesis.quality import Adherence, ClassQuality, SpaceQuality
from medtail.synthesis.verdicts import overall_words, verdict_of

NAN = float("nan")
GOOD_SPACE = SpaceQuality(
    position=KernelPosition(0.01, 0.0, 0.02, 0.3, "cyst"),
    fid=NAN,
    fid_reason="few",
    copy_test=0.3,
    copy_share=0.05,
    copy_ratio=1.0,
    unseen_test=0.1,
    coverage=Coverage(1.0, 0.9, 0.9, 0.9, 1.0),
)
GOOD = ClassQuality(
    name="type=a",
    group="tail",
    train_images=20,
    train_patients=20,
    generated=50,
    spaces={"judge": GOOD_SPACE},
    similarity=0.2,
    real_similarity=0.2,
    control=ClassControl(50, 0.9, 0.8, 0.95, 12, ""),
    adherence=Adherence(50, 0.7, 0.3, 0.02),
)


def space(**changes):
    return {"judge": GOOD_SPACE, "latent": replace(GOOD_SPACE, **changes)}


def answers(quality):
    return {finding.question: finding.answer for finding in verdict_of(quality).findings}


def test_a_good_class_is_usable_and_says_why_in_numbers():
    verdict = verdict_of(GOOD)
    assert verdict.overall == "usable"
    for part in (
        "C_T +0.3 in judge",
        "90 % recognised, real ones 95 %",
        "spread 1.00",
        "F1 0.70, with another sketch 0.30",
    ):
        assert part in verdict.words


@pytest.mark.parametrize(("seen", "unseen", "answer"), [
    (-4.0, 0.5, "bad"), (-4.0, float("nan"), "bad"), (-4.0, -3.5, "fair"), (-2.0, 2.0, "fair"), (-2.9, -2.0, "good"),
    (5.0, 5.0, "good"),
])  # fmt: skip
def test_copying_is_being_nearer_to_what_was_learnt_than_to_what_was_not(seen, unseen, answer):
    found = replace(GOOD, spaces=space(copy_test=seen, unseen_test=unseen))
    assert answers(found)["copying"] == answer
    assert (verdict_of(found).overall == "not usable") == (answer == "bad")


def test_one_space_that_shows_copying_is_enough():
    found = replace(GOOD, spaces=space(copy_test=-9.0, unseen_test=0.0))
    assert "in latent" in verdict_of(found).words


def test_too_few_train_images_leave_copying_unknown():
    found = replace(GOOD, train_images=1, spaces={"judge": replace(GOOD_SPACE, copy_test=NAN)})
    assert verdict_of(found).overall == "cannot be judged"
    assert "beside 1 train image, too few to tell" in verdict_of(found).words


@pytest.mark.parametrize(("share", "answer", "overall"), [
    (0.76, "good", "usable"), (0.70, "fair", "usable with care"), (0.40, "bad", "not usable"),
])  # fmt: skip
def test_the_class_is_read_against_the_judges_own_recall(share, answer, overall):
    found = replace(GOOD, control=ClassControl(50, share, 0.5, 0.95, 12, ""))
    assert answers(found)["class"] == answer
    assert verdict_of(found).overall == overall


def test_a_blind_or_absent_judge_leaves_the_class_unknown():
    blind = replace(GOOD, control=ClassControl(50, NAN, NAN, 0.1, 9, "judge blind: recalls 0.10 of real tune images"))
    for found, words in ((blind, "judge blind"), (replace(GOOD, control=None), "no judge was given")):
        assert verdict_of(found).overall == "cannot be judged"
        assert words in verdict_of(found).words


def test_copying_outweighs_what_is_unknown():
    found = replace(GOOD, control=None, spaces=space(copy_test=-9.0, unseen_test=0.0))
    assert verdict_of(found).overall == "not usable"


@pytest.mark.parametrize(("kid", "ceiling", "answer"), [
    (0.01, 0.3, "good"), (0.1, 0.3, "good"), (0.2, 0.3, "fair"), (0.4, 0.3, "bad"),
    (0.019, 0.01, "good"),  # within what two halves of the real images differ by, however near the other class is
    (0.1, float("nan"), "unknown"),
])  # fmt: skip
def test_likeness_is_read_between_the_real_ones_halves_and_the_next_class(kid, ceiling, answer):
    place = KernelPosition(kid, 0.0, 0.02, ceiling, "kind=cyst")
    found = replace(GOOD, spaces={"latent": replace(GOOD_SPACE, position=place)})
    assert answers(found)["likeness"] == answer
    assert (verdict_of(found).overall == "not usable") == (answer == "bad")
    if answer == "bad":
        assert "farther from the class than another class is (KID 0.4 in latent; halves" in verdict_of(found).words
        assert "cyst 0.3" in verdict_of(found).words


@pytest.mark.parametrize(("diversity", "answer"), [(0.85, "good"), (0.7, "fair"), (0.3, "bad"), (NAN, "unknown")])
def test_variety_is_the_lowest_of_all_spaces(diversity, answer):
    poor = replace(GOOD_SPACE, coverage=Coverage(1.0, NAN, 0.9, 0.9, diversity))
    spaces = {"latent": poor} if answer == "unknown" else {"judge": GOOD_SPACE, "latent": poor}
    found = replace(GOOD, spaces=spaces)
    assert answers(found)["variety"] == answer
    assert verdict_of(found).overall == ("usable with care" if answer in ("fair", "bad") else "usable")


@pytest.mark.parametrize(("asked", "error", "answer"), [
    (0.7, 0.02, "good"), (0.7, 0.15, "fair"), (0.4, 0.02, "fair"), (0.32, 0.02, "bad"), (0.25, 0.01, "bad"),
])  # fmt: skip
def test_a_sketch_is_kept_where_it_fits_surely_better_than_another(asked, error, answer):
    assert answers(replace(GOOD, adherence=Adherence(50, asked, 0.3, error)))["sketch"] == answer


def test_no_sketch_asked_for_is_no_fault():
    found = replace(GOOD, adherence=None)
    assert answers(found)["sketch"] == "unknown"
    assert verdict_of(found).overall == "usable"


def test_a_pool_is_counted_in_one_sentence():
    verdicts = [verdict_of(GOOD), verdict_of(replace(GOOD, control=None))]
    assert overall_words(verdicts) == "1 of 2 classes usable, 1 cannot be judged."
