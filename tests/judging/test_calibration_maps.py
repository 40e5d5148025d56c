"""The maps themselves: increasing, inside (0, 1), and identical to what they say at their neutral setting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from medtail.errors import MedtailError
from medtail.judging.calibration_maps import (
    AffineMap,
    BetaMap,
    IdentityMap,
    IsotonicMap,
    OneClassMap,
    SoftmaxMap,
    soft_limit,
    to_logits,
    to_scores,
)
from medtail.judging.metrics import auroc, average_precision

slopes = st.floats(-3, 2)
shifts = st.floats(-8, 8)
increasing = st.one_of(
    st.builds(AffineMap, class_name=st.just("x"), alpha=slopes, beta=shifts),
    st.builds(AffineMap, class_name=st.just("x"), alpha=slopes, kind=st.just("temperature")),
    st.builds(BetaMap, class_name=st.just("x"), rise=slopes, fall=slopes, shift=shifts),
    st.builds(IdentityMap, class_name=st.just("x")),
)
# whole thousandths and both ends: what tools write, and where ties and certainty live
grid = arrays.arrays(np.float64, st.integers(2, 60), elements=st.integers(0, 1000).map(lambda k: k / 1000))


@given(scores=grid, made=increasing, seed=st.integers(0, 99))
def test_an_increasing_map_moves_neither_ap_nor_auroc(scores: np.ndarray, made: OneClassMap, seed: int) -> None:
    targets = np.random.default_rng(seed).integers(0, 2, len(scores)).astype(float)
    mapped = made.apply(scores)
    assert len(np.unique(mapped)) == len(np.unique(scores))
    np.testing.assert_array_equal(average_precision(mapped, targets), average_precision(scores, targets))
    np.testing.assert_array_equal(auroc(mapped, targets), auroc(scores, targets))


@given(scores=grid, made=increasing)
def test_calibrated_scores_are_probabilities(scores: np.ndarray, made: OneClassMap) -> None:
    mapped = made.apply(scores)
    assert np.all((mapped >= 0) & (mapped <= 1))
    if not isinstance(made, IdentityMap):
        assert np.all((mapped > 0) & (mapped < 1)), "nobody is ever certain"


@given(scores=grid, alpha=slopes, beta=st.floats(-4, 4))
def test_the_inverse_of_an_affine_map_brings_scores_back(scores: np.ndarray, alpha: float, beta: float) -> None:
    inner = scores[(scores > 0.05) & (scores < 0.95)]
    there = AffineMap(class_name="x", alpha=alpha, beta=beta).apply(inner)
    if np.all(np.abs(to_logits(there)) < 15):
        back = AffineMap(class_name="x", alpha=-alpha, beta=float(-beta * np.exp(-alpha))).apply(there)
        np.testing.assert_allclose(back, inner, rtol=1e-6)


@given(st.floats(0, 1))
def test_logits_and_scores_are_inverse_where_nothing_is_squeezed(score: float) -> None:
    back = float(to_scores(to_logits(np.array(score))))
    if 1e-6 < score < 1 - 1e-6:
        assert back == pytest.approx(score, rel=1e-9)
    assert 0 < back < 1


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_the_soft_limit_keeps_order_and_sign(a: float, b: float) -> None:
    squeezed = soft_limit(np.array([a, b]))
    assert (squeezed[0] < squeezed[1]) == (a < b) or abs(a - b) < 1e-8 * max(abs(a), abs(b), 1)
    assert np.array_equal(np.sign(squeezed), np.sign([a, b]))
    assert np.abs(squeezed).max() <= max(abs(a), abs(b))


def test_neutral_maps_change_nothing() -> None:
    scores = np.linspace(0.001, 0.999, 50)
    neutral: list[OneClassMap] = [
        AffineMap(class_name="x", alpha=0.0),
        BetaMap(class_name="x", rise=0.0, fall=0.0, shift=0.0),
        IsotonicMap(class_name="x", knots=(0.0, 1.0), values=(0.0, 1.0)),
    ]
    for made in neutral:
        np.testing.assert_allclose(made.apply(scores), scores, rtol=1e-12)
    shares = np.random.default_rng(0).dirichlet(np.ones(3), 20)
    group = SoftmaxMap(group="g", classes=("a", "b", "c"), alpha=0.0, bias=(0.0, 0.0, 0.0))
    np.testing.assert_allclose(group.apply(shares), shares, rtol=1e-9)


def test_beta_with_equal_slopes_is_platt() -> None:
    scores = np.linspace(0.01, 0.99, 30)
    beta = BetaMap(class_name="x", rise=0.4, fall=0.4, shift=-1.0).apply(scores)
    np.testing.assert_allclose(beta, AffineMap(class_name="x", alpha=0.4, beta=-1.0).apply(scores), rtol=1e-12)


def test_a_softmax_of_two_classes_is_platt_on_their_log_odds() -> None:
    scores = np.linspace(0.05, 0.95, 20)
    pair = SoftmaxMap(group="g", classes=("a", "b"), alpha=0.3, bias=(0.7, -0.2))
    mapped = pair.apply(np.column_stack([scores, 1 - scores]))[:, 0]
    np.testing.assert_allclose(mapped, AffineMap(class_name="a", alpha=0.3, beta=0.9).apply(scores), rtol=1e-9)


def test_a_softmax_refuses_scores_that_do_not_add_up() -> None:
    pair = SoftmaxMap(group="type", classes=("a", "b"), alpha=0.0, bias=(0.0, 0.0))
    with pytest.raises(MedtailError, match=r"group 'type': its scores do not add up to 1.*softmax over the group"):
        pair.apply(np.array([[0.4, 0.4]]))


def test_certain_scores_of_a_group_stay_finite() -> None:
    pair = SoftmaxMap(group="type", classes=("a", "b"), alpha=1.0, bias=(0.0, 3.0))
    mapped = pair.apply(np.array([[1.0, 0.0], [0.0, 1.0]]))
    assert np.isfinite(mapped).all()
    np.testing.assert_allclose(mapped.sum(axis=1), 1.0)


@pytest.mark.parametrize(
    ("knots", "values"),
    [((0.1, 0.1), (0.2, 0.3)), ((0.1, 0.2), (0.3, 0.2)), ((), ()), ((0.1,), (0.1, 0.2)), ((0.1, 1.2), (0.1, 0.2))],
)
def test_knots_that_are_no_map_are_refused(knots: tuple[float, ...], values: tuple[float, ...]) -> None:
    with pytest.raises(MedtailError, match="no non-decreasing map"):
        IsotonicMap(class_name="x", knots=knots, values=values)


def test_parameters_out_of_range_are_refused() -> None:
    with pytest.raises(MedtailError, match=r"map of 'x': alpha 11.0; expected a number in \[-10, 10\]"):
        AffineMap(class_name="x", alpha=11.0)
    with pytest.raises(MedtailError, match="a temperature has none"):
        AffineMap(class_name="x", alpha=0.0, beta=1.0, kind="temperature")
    with pytest.raises(MedtailError, match="as many of each"):
        SoftmaxMap(group="g", classes=("a", "b"), alpha=0.0, bias=(0.0,))


def test_a_steep_map_keeps_confident_scores_apart() -> None:
    made = AffineMap(class_name="x", alpha=2.0, beta=3.0).apply(np.array([0.998, 0.999, 0.9999999, 1.0]))
    assert np.all(np.diff(made) > 0)
    assert made[-1] < 1
