from __future__ import annotations

import numpy as np
import pytest

from medtail.errors import MedtailError
from medtail.sampling.raking import LEAST_EFFECTIVE, rake, wanted_shares

NEXT_TO_NOTHING = 1e-12


def long_tail(count: int = 3000, *, seed: int = 0, labels: int = 8) -> np.ndarray:
    """Labels that lean on each other, from 45 % down to about 1 %."""
    random = np.random.default_rng(seed)
    trait = random.normal(size=(count, 2))
    slopes = random.normal(scale=0.7, size=(2, labels))
    levels = np.linspace(-0.2, -5.0, labels)
    return (random.random((count, labels)) < 1 / (1 + np.exp(-(trait @ slopes + levels)))).astype(float)


# --- closed forms -----------------------------------------------------------------------------------------------------


def test_one_row_in_four_raised_to_half() -> None:
    raked = rake(np.array([[1], [0], [0], [0]]), np.array([0.5]), rho=NEXT_TO_NOTHING)
    np.testing.assert_allclose(raked.weights, [1 / 2, 1 / 6, 1 / 6, 1 / 6], atol=1e-9)
    np.testing.assert_allclose(raked.theta, [np.log(3)], atol=1e-8)
    assert raked.ess == pytest.approx(3.0)


def test_a_tail_label_that_comes_with_the_head_is_raised_and_the_head_stays() -> None:
    labels = np.array([[1, 1], [1, 0], [0, 0], [0, 0]])
    raked = rake(labels, np.array([0.5, 0.4]), rho=NEXT_TO_NOTHING)
    np.testing.assert_allclose(raked.weights, [0.4, 0.1, 0.25, 0.25], atol=1e-8)
    np.testing.assert_allclose(raked.theta, [np.log(0.4), np.log(4)], atol=1e-6)
    np.testing.assert_allclose(raked.reached, [0.5, 0.4], atol=1e-8)


# --- laws -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_the_solution_is_stationary_and_reaches_what_can_be_reached(seed: int) -> None:
    labels = long_tail(seed=seed)
    base = np.random.default_rng(seed).uniform(0.7, 1.4, len(labels))
    wanted, steered = wanted_shares(labels, progress=0.6)
    raked = rake(labels, wanted, base=base, steered=steered, cap=1e9)
    assert (np.abs(raked.weights @ labels + 1e-4 * raked.theta - wanted) < 1e-7).all()
    assert (np.abs(raked.reached - wanted) <= 0.02 * wanted).all()
    assert not raked.notes
    assert raked.weights.sum() == pytest.approx(1.0)
    # the form of the solution: log w − log q is a linear function of the labels
    lift = np.log(raked.weights / (base / base.sum())) - labels @ raked.theta
    np.testing.assert_allclose(lift, lift[0], atol=1e-9)


def test_of_all_weights_with_these_shares_they_are_the_nearest() -> None:
    labels = long_tail(200, labels=3)
    wanted = np.minimum(labels.mean(axis=0) * [1.0, 1.2, 2.0], 0.9)
    raked = rake(labels, wanted, rho=NEXT_TO_NOTHING, cap=1e9)
    nearest = np.sum(raked.weights * np.log(raked.weights * len(labels)))
    # directions that keep both the sum and every share
    kept = np.vstack([np.ones(len(labels)), labels.T])
    _, _, rows = np.linalg.svd(kept)
    random = np.random.default_rng(0)
    for _ in range(20):
        step = random.normal(size=len(rows) - len(kept)) @ rows[len(kept) :]
        other = raked.weights + 0.3 * raked.weights.min() * step / np.abs(step).max()
        np.testing.assert_allclose(kept @ other, kept @ raked.weights, atol=1e-12)
        assert np.sum(other * np.log(other * len(labels))) > nearest


def test_no_weight_stays_above_the_cap() -> None:
    labels = np.zeros((1000, 2))
    labels[:400, 0] = 1
    labels[:2, 1] = 1
    free = rake(labels, np.array([0.4, 0.05]), cap=1e9)
    capped = rake(labels, np.array([0.4, 0.05]))
    assert free.largest > 20
    assert capped.weights.sum() == pytest.approx(1.0)
    assert 10.0 <= capped.largest < 10.5  # 10 / N before the weights are made to add up again
    assert any("wanted 0.05" in note for note in capped.notes)


def test_natural_shares_and_equal_base_weights_change_nothing() -> None:
    labels = long_tail()
    raked = rake(labels, labels.mean(axis=0))
    np.testing.assert_array_equal(raked.theta, 0.0)
    np.testing.assert_allclose(raked.weights, 1 / len(labels))
    assert raked.ess == pytest.approx(len(labels))


def test_permuting_rows_permutes_weights() -> None:
    labels = long_tail()
    base = np.random.default_rng(1).uniform(0.7, 1.4, len(labels))
    wanted, _ = wanted_shares(labels, progress=1.0)
    order = np.random.default_rng(2).permutation(len(labels))
    np.testing.assert_allclose(
        rake(labels[order], wanted, base=base[order]).weights, rake(labels, wanted, base=base).weights[order], rtol=1e-6
    )


def test_two_identical_labels_are_finite() -> None:
    labels = long_tail(labels=3)
    labels = np.column_stack([labels, labels[:, 2]])
    wanted, _ = wanted_shares(labels, progress=1.0)
    raked = rake(labels, wanted)
    assert np.isfinite(raked.weights).all()
    assert raked.theta[2] == pytest.approx(raked.theta[3])
    assert raked.reached[2] == pytest.approx(wanted[2], rel=0.02)


def test_labels_that_always_come_together_meet_between_what_is_wanted_of_them() -> None:
    labels = long_tail(labels=2)
    labels = np.column_stack([labels[:, 0], labels[:, 0]])
    raked = rake(labels, np.array([0.3, 0.6]), names=["a", "b"])
    assert raked.reached[0] == raked.reached[1]
    assert 0.3 < raked.reached[0] < 0.6
    assert raked.reached[0] == pytest.approx(0.45, abs=0.02)
    assert [note.partition(":")[0] for note in raked.notes] == ["a", "b"]


def test_empty_cells_count_as_absent() -> None:
    labels = long_tail()
    holes = np.where(labels == 0, np.nan, labels)
    wanted, _ = wanted_shares(labels, progress=1.0)
    np.testing.assert_array_equal(wanted_shares(holes, progress=1.0)[0], wanted)
    np.testing.assert_array_equal(rake(holes, wanted).weights, rake(labels, wanted).weights)


def test_a_label_nobody_shows_is_dropped_and_named() -> None:
    labels = np.column_stack([long_tail(labels=2), np.zeros(3000)])
    raked = rake(labels, np.array([0.4, 0.1, 0.3]), names=["x", "y", "never"])
    assert raked.dropped == (2,)
    assert raked.theta[2] == raked.reached[2] == 0.0
    assert "never: no row shows it" in raked.notes


def test_weights_worth_too_few_rows_go_part_of_the_way() -> None:
    random = np.random.default_rng(0)
    labels = (random.random((4000, 30)) < 0.01).astype(float)
    wanted = np.full(30, 0.3)
    far = rake(labels, wanted, least_effective=0.0)
    near = rake(labels, wanted)
    assert far.ess < LEAST_EFFECTIVE * 4000 <= near.ess
    assert 0 < near.kappa < 1
    np.testing.assert_allclose(near.wanted, labels.mean(axis=0) + near.kappa * (0.3 - labels.mean(axis=0)))
    assert "of the way" in near.notes[0]


def test_more_labels_than_fit_one_word_are_told_apart() -> None:
    labels = np.zeros((140, 70))
    labels[np.arange(140), np.arange(140) % 70] = 1
    wanted = np.full(70, 1 / 70)
    wanted[0], wanted[1:] = 2 / 70, (1 - 2 / 70) / 69
    raked = rake(labels, wanted, steered=np.arange(70) < 69)
    np.testing.assert_allclose(raked.weights[[0, 70]], 1 / 70, rtol=0.02)
    np.testing.assert_allclose(raked.reached, wanted, rtol=0.02)


# --- the shares that are wanted ---------------------------------------------------------------------------------------


def test_wanted_shares_go_from_natural_to_half_the_square_root() -> None:
    labels = np.zeros((10_000, 3))
    labels[:4000, 0] = labels[:900, 1] = labels[:100, 2] = 1
    np.testing.assert_allclose(wanted_shares(labels, progress=0.0)[0], [0.4, 0.09, 0.01])
    np.testing.assert_allclose(wanted_shares(labels, progress=1.0)[0], [0.4, 0.15, 0.05])
    half = wanted_shares(labels, progress=0.5)[0]
    np.testing.assert_allclose(half, [0.4, max(0.09, 0.5 * 0.09**0.75), 0.5 * 0.01**0.75])


def test_no_label_is_wanted_more_often_than_the_most_frequent_one_is() -> None:
    labels = np.zeros((100, 2))
    labels[:2, 0] = labels[2:3, 1] = 1
    np.testing.assert_allclose(wanted_shares(labels, progress=1.0)[0], [0.02, 0.02])


def test_inside_a_group_shares_add_up_to_what_is_assessed_and_one_member_follows_from_the_others() -> None:
    labels = np.zeros((1000, 4))
    labels[np.arange(1000), np.repeat([0, 1, 2], [900, 80, 20])] = 1
    labels[:30, 3] = 1
    wanted, steered = wanted_shares(labels, groups=[(0, 1, 2)], progress=1.0)
    assert wanted[:3].sum() == pytest.approx(1.0)
    assert steered.tolist() == [False, True, True, True]
    partly = labels.copy()
    partly[:100, :3] = np.nan
    wanted, steered = wanted_shares(partly, groups=[(0, 1, 2)], follows=[3], progress=1.0)
    assert wanted[:3].sum() == pytest.approx(0.9)
    assert steered.tolist() == [True, True, True, False]
    raked = rake(partly, wanted, steered=steered)
    np.testing.assert_allclose(raked.reached[:3], wanted[:3], rtol=0.02)


def test_raking_leaves_the_head_where_class_aware_sampling_lifts_it() -> None:
    """3,000 rows; a 0.7 % label that always comes with a 61 % label."""
    labels = np.zeros((3000, 2))
    labels[:1830, 0] = labels[:21, 1] = 1
    class_aware = 0.5 / 1830 * labels[:, 0] + 0.5 / 21 * labels[:, 1]
    assert class_aware @ labels[:, 0] == pytest.approx(1.0)  # every draw shows the head label
    wanted, _ = wanted_shares(labels, progress=1.0)
    raked = rake(labels, wanted)
    assert raked.reached == pytest.approx([0.61, 0.0418], abs=5e-4)
    assert raked.largest < 10
    assert raked.ess > 0.7 * 3000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": np.array([0.5, 0.5])}, r"targets: found shape \(2,\); expected \(1,\)"),
        ({"targets": np.array([1.5])}, r"targets: found 1.5 to 1.5; expected shares from 0 to 1"),
        ({"base": np.array([1.0, -1.0, 1.0])}, "base: found weights below 0"),
        ({"base": np.ones(2)}, r"base: found shape \(2,\); expected \(3,\)"),
        ({"rho": 0.0}, "rho: found 0.0; expected above 0"),
        ({"cap": 0.5}, "cap: found 0.5; expected at least 1"),
        ({"least_effective": 1.0}, "least_effective: found 1.0; expected 0 to below 1"),
    ],
)
def test_numbers_out_of_range_are_refused(changes: dict[str, object], message: str) -> None:
    given = {"targets": np.array([0.5]), **changes}
    with pytest.raises(MedtailError, match=message):
        rake(np.array([[1], [0], [0]]), **given)  # type: ignore[arg-type]
