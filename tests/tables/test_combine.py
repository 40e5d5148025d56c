"""An ensemble is an average of Predictions of the same images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medtail.errors import MedtailError
from medtail.tables.combine import average_predictions
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions

LABELS = LabelSpace.from_columns(["Hernia", "kind=a", "kind=b"])


def made(seed: int, *, digest: str | None = None) -> Predictions:
    random = np.random.default_rng(seed)
    scores = random.random((5, 3))
    scores[:, 2] = 1 - scores[:, 1]
    targets = np.array([[1, 1, 0], [0, 0, 1], [np.nan, 1, 0], [0, 0, 1], [1, np.nan, np.nan]], dtype=float)
    ids = np.array([f"i{k}" for k in range(5)], dtype=object)
    digests = {} if digest is None else {"model": digest, "manifest": "m"}
    folds = np.array(["test"] * 5, dtype=object)
    return Predictions(ids, ids, scores, targets, LABELS, folds, digests=digests, name=f"s{seed}")


def test_average_is_the_mean_whatever_the_order_of_rows() -> None:
    one, two, three = made(1), made(2), made(3)
    order = np.array([4, 2, 0, 1, 3])
    found = average_predictions([one, two.take(order), three])
    np.testing.assert_allclose(found.scores, (one.scores + two.scores + three.scores) / 3, atol=1e-15)
    assert found.image_ids.tolist() == one.image_ids.tolist()


def test_scores_of_a_group_still_sum_to_one() -> None:
    found = average_predictions([made(1), made(2)])
    np.testing.assert_allclose(found.scores[:, 1:].sum(axis=1), 1.0)


def test_thresholds_of_a_member_are_not_those_of_the_average() -> None:
    one = replace(made(1), thresholds={"Hernia": 0.2, "kind=a": 0.5, "kind=b": 0.5})
    assert average_predictions([one, made(2)]).thresholds is None


def test_digest_names_all_members_and_their_order() -> None:
    one, two = made(1, digest="aa"), made(2, digest="bb")
    both, reversed_ = average_predictions([one, two]), average_predictions([two, one])
    assert both.digests["model"] not in ("aa", "bb", reversed_.digests["model"])
    assert both.digests["manifest"] == "m"
    assert average_predictions([one]).digests["model"] == "aa"


def test_an_average_of_calibrated_scores_does_not_pass_for_calibrated() -> None:
    one = replace(made(1), digests={"calibration": "cc"})
    assert "calibration" not in average_predictions([one, made(2)]).digests
    assert average_predictions([one]).digests["calibration"] == "cc"


def test_a_single_member_keeps_its_scores() -> None:
    one = made(1)
    assert np.array_equal(average_predictions([one]).scores, one.scores)


def test_members_are_left_as_they_were() -> None:
    one, two = made(1), made(2)
    before = one.scores.copy()
    average_predictions([one, two])
    assert np.array_equal(one.scores, before)


def test_every_difference_between_members_is_named() -> None:
    one = made(1)
    strange = replace(made(2), image_ids=np.array(["i0", "i1", "i2", "i3", "x9"], dtype=object), name="strange")
    targets = one.targets.copy()
    targets[1, 0] = 1.0
    other = replace(made(3), targets=targets, name="other")
    renamed = replace(made(4), labels=LabelSpace.from_columns(["Nodule", "kind=a", "kind=b"]), name="renamed")
    with pytest.raises(MedtailError) as caught:
        average_predictions([one, strange, other, renamed])
    text = str(caught.value)
    assert "member 2 (strange): scores 1 images that s1 does not: x9" in text
    assert "member 2 (strange): has no scores for 1 images of s1: i4" in text
    assert "member 3 (other): other targets than s1's in 1 images: i1" in text
    assert "member 4 (renamed): classes or groups differ" in text


def test_no_members_is_an_error() -> None:
    with pytest.raises(MedtailError, match="no members"):
        average_predictions([])
