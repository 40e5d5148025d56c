"""An ensemble is a combination of Predictions of the same images: closed forms and laws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from medtail.errors import MedtailError, UsageError
from medtail.tables.combine import POOLINGS, average_predictions, combine_predictions, switch_predictions
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


FREE = LabelSpace(("Hernia", "Mass", "Edema"))


def free(seed: int, *, rows: int = 6, folds: tuple[str, ...] = ("test",)) -> Predictions:
    random = np.random.default_rng(seed)
    ids = np.array([f"i{k}" for k in range(rows)], dtype=object)
    targets = (np.random.default_rng(99).random((rows, 3)) < 0.5).astype(float)
    fold = np.array([folds[k % len(folds)] for k in range(rows)], dtype=object)
    return Predictions(ids, ids, random.random((rows, 3)), targets, FREE, fold, name=f"f{seed}")


def logit(p: np.ndarray) -> np.ndarray:
    return np.log(p) - np.log1p(-p)


def test_closed_forms_of_every_way_to_combine() -> None:
    members = [free(k) for k in range(3)]
    stack = np.stack([member.scores for member in members])
    np.testing.assert_allclose(combine_predictions(members).scores, stack.mean(axis=0), atol=1e-15)
    np.testing.assert_allclose(
        combine_predictions(members, how="logits").scores, 1 / (1 + np.exp(-logit(stack).mean(axis=0))), atol=1e-12
    )
    ranks = (rankdata(stack, axis=1) - 0.5) / 6
    np.testing.assert_allclose(combine_predictions(members, how="rank").scores, ranks.mean(axis=0), atol=1e-15)
    assert np.array_equal(combine_predictions(members, how="median").scores, np.median(stack, axis=0))


def test_weights_a_class_pick_each_classs_member_and_need_not_sum_to_one() -> None:
    one, two = free(1), free(2)
    found = combine_predictions([one, two], weights=np.array([[5.0, 0.0, 1.0], [0.0, 2.0, 1.0]]))
    np.testing.assert_allclose(found.scores[:, 0], one.scores[:, 0])
    np.testing.assert_allclose(found.scores[:, 1], two.scores[:, 1])
    np.testing.assert_allclose(found.scores[:, 2], (one.scores[:, 2] + two.scores[:, 2]) / 2)


@pytest.mark.parametrize("how", POOLINGS)
@given(seed=st.integers(0, 10_000), members=st.integers(1, 4), rows=st.integers(1, 7))
def test_laws_of_combining(how: str, seed: int, members: int, rows: int) -> None:
    tables = [free(seed + k, rows=rows) for k in range(members)]
    found = combine_predictions(tables, how=how).scores
    assert ((found >= 0) & (found <= 1)).all()
    order = np.random.default_rng(seed).permutation(rows)
    moved = combine_predictions([tables[0].take(order), *tables[1:]], how=how).scores
    np.testing.assert_allclose(moved, found[order], atol=1e-12)
    np.testing.assert_allclose(combine_predictions(tables[::-1], how=how).scores, found, atol=1e-12)
    if how != "rank":
        stack = np.stack([table.scores for table in tables])
        assert (found >= stack.min(axis=0) - 1e-12).all()
        assert (found <= stack.max(axis=0) + 1e-12).all()
        same = combine_predictions([tables[0]] * 3, how=how).scores
        np.testing.assert_allclose(same, tables[0].scores, atol=1e-12)


def test_ranks_do_not_care_about_increasing_maps_and_stay_inside_a_fold() -> None:
    one, two = free(1, folds=("tune", "test")), free(2, folds=("tune", "test"))
    bent = replace(two, scores=two.scores**5)
    found = combine_predictions([one, two], how="rank")
    assert np.array_equal(found.scores, combine_predictions([one, bent], how="rank").scores)
    test = one.folds == "test"
    alone = combine_predictions([one.take(test), two.take(test)], how="rank").scores
    assert np.array_equal(found.scores[test], alone)


@pytest.mark.parametrize("how", ["mean", "logits", "median"])
def test_scores_of_a_group_sum_to_one_however_they_are_combined(how: str) -> None:
    found = combine_predictions([made(k) for k in range(3)], how=how)
    np.testing.assert_allclose(found.scores[:, 1:].sum(axis=1), 1.0)
    if how != "median":
        torn = np.array([[1.0, 3.0, 1.0], [1.0, 1.0, 5.0], [1.0, 1.0, 1.0]])
        weighted = combine_predictions([made(k) for k in range(3)], how=how, weights=torn)
        np.testing.assert_allclose(weighted.scores[:, 1:].sum(axis=1), 1.0)


def test_logits_of_a_group_are_pooled_as_log_scores() -> None:
    one, two = made(1), made(2)
    np.testing.assert_allclose(combine_predictions([one], how="logits").scores, one.scores, atol=1e-9)
    found = combine_predictions([one, two], how="logits", weights=np.array([3.0, 1.0])).scores[:, 1:]
    geometric = one.scores[:, 1:] ** 0.75 * two.scores[:, 1:] ** 0.25
    np.testing.assert_allclose(found, geometric / geometric.sum(axis=1, keepdims=True), atol=1e-9)


def test_scores_of_exactly_0_and_1_have_a_logit() -> None:
    one = replace(free(1), scores=np.tile([0.0, 1.0, 0.5], (6, 1)))
    found = combine_predictions([one, one], how="logits").scores
    np.testing.assert_allclose(found, one.scores, atol=1e-11)


def test_the_digest_knows_the_weights_and_the_way() -> None:
    one, two = (replace(free(k), digests={"model": f"m{k}", "calibration": "c"}) for k in (1, 2))
    found = [
        combine_predictions([one, two]), combine_predictions([one, two], how="logits"),
        combine_predictions([one, two], weights=np.array([2.0, 1.0])), combine_predictions([two, one]),
    ]  # fmt: skip
    assert len({table.digests["model"] for table in found}) == 4
    assert all("calibration" not in table.digests for table in found)
    bare = combine_predictions([one, replace(two, digests={})])
    assert "model" not in bare.digests


def test_switch_takes_the_rare_classes_from_the_second_system() -> None:
    head, rare = free(1), free(2)
    found = switch_predictions(head, rare.take(np.arange(6)[::-1]), rare_classes=["Edema"])
    np.testing.assert_allclose(found.scores, np.column_stack([head.scores[:, :2], rare.scores[:, 2]]))
    assert np.array_equal(switch_predictions(head, rare, rare_classes=[]).scores, head.scores)
    with pytest.raises(MedtailError, match="no class 'Edma'; did you mean 'Edema'"):
        switch_predictions(head, rare, rare_classes=["Edma"])
    with pytest.raises(MedtailError, match="classes of 'kind' exclude each other and must come from one system"):
        switch_predictions(made(1), made(2), rare_classes=["kind=a"])


def test_unusable_weights_and_ways_are_refused() -> None:
    one, two = free(1), free(2)
    with pytest.raises(UsageError, match="'ranks' is no way to combine; did you mean 'rank'"):
        combine_predictions([one, two], how="ranks")
    with pytest.raises(MedtailError, match=r"weights of shape \(3,\); expected \(2,\), or \(2, 3\)"):
        combine_predictions([one, two], weights=np.ones(3))
    with pytest.raises(MedtailError, match="negative or infinite weight"):
        combine_predictions([one, two], weights=np.array([1.0, -1.0]))
    with pytest.raises(MedtailError, match="all weights of a class are 0"):
        combine_predictions([one, two], weights=np.zeros(2))
    with pytest.raises(MedtailError, match="a median takes no weights"):
        combine_predictions([one, two], how="median", weights=np.ones(2))
    with pytest.raises(MedtailError, match="ranks inside the group 'kind'"):
        combine_predictions([made(1), made(2)], how="rank")
    with pytest.raises(MedtailError, match="no members"):
        combine_predictions([])
