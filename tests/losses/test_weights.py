from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtail.errors import MedtailError
from medtail.losses.contract import Link, LossContext
from medtail.losses.weights import block_weights, effective_number_weights, ldam_margins, prior_shifts


def test_weights_by_hand() -> None:
    # E(2) = 1.5 and E(1) = 1, so 1/E = (2/3, 1) with mean 5/6
    assert effective_number_weights(np.array([2, 1]), beta=0.5) == pytest.approx([0.8, 1.2])


def test_weights_near_one_are_the_inverse_count() -> None:
    found = effective_number_weights(np.array([100.0, 10.0, 1.0]), beta=1 - 1e-12)
    assert found / found[0] == pytest.approx([1.0, 10.0, 100.0], rel=1e-3)


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.9999])
def test_a_class_never_seen_weighs_nothing_and_sets_no_scale(beta: float) -> None:
    with_unseen = effective_number_weights(np.array([50, 0, 5]), beta=beta)
    assert with_unseen[1] == 0.0
    assert with_unseen[[0, 2]] == pytest.approx(effective_number_weights(np.array([50, 5]), beta=beta))
    assert effective_number_weights(np.zeros(3), beta=beta).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("beta", [1.0, -0.1, float("nan")])
def test_beta_outside_its_range_is_refused(beta: float) -> None:
    with pytest.raises(MedtailError, match=r"beta: found .*; expected at least 0 and below 1"):
        effective_number_weights(np.array([1.0]), beta=beta)


def test_weights_and_margins_are_scaled_inside_a_block() -> None:
    context = LossContext((800, 200, 16, 1), (1000,) * 4, ((0, 1),), 1000)
    apart = block_weights(context, link="softmax", beta=0.99)
    assert apart[:2].mean() == pytest.approx(1.0)
    assert apart[2:].mean() == pytest.approx(1.0)
    assert block_weights(context, link="sigmoid", beta=0.99).mean() == pytest.approx(1.0)
    assert ldam_margins(context, link="softmax")[[1, 3]] == pytest.approx([0.5, 0.5])
    # n ** (-1/4): 16 images have half the margin of 1; 1/4 as many have sqrt(2) times it
    assert ldam_margins(context, link="softmax")[[0, 2]] == pytest.approx([0.5 / 2**0.5, 0.25])
    assert ldam_margins(context, link="sigmoid")[1] == pytest.approx(0.5 * 200**-0.25)


def test_prior_shifts_by_hand() -> None:
    context = LossContext((30, 10, 20, 0, 40, 0), (40, 40, 100, 50, 40, 0), ((0, 1),), 100)
    expected = np.log([0.75, 0.25, 20 / 80, 0.5 / 49.5, 39.5 / 0.5, 1.0])
    assert prior_shifts(context, link="softmax") == pytest.approx(expected)
    assert prior_shifts(context, link="sigmoid")[:2] == pytest.approx(np.log([30 / 10, 10 / 30]))


@given(
    counts=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), min_size=2, max_size=6),
    link=st.sampled_from(["softmax", "sigmoid"]),
    beta=st.sampled_from([0.0, 0.99, 0.999999]),
)
def test_no_count_makes_an_infinity(counts: list[tuple[int, int]], link: Link, beta: float) -> None:
    positives, assessed = zip(*((min(pair), max(pair)) for pair in counts), strict=True)
    context = LossContext(positives, assessed, ((0, 1),), max(assessed))
    for found in (block_weights(context, link=link, beta=beta), ldam_margins(context, link=link)):
        assert np.isfinite(found).all()
        assert (found >= 0).all()
    assert np.isfinite(prior_shifts(context, link=link)).all()
    assert (np.array(positives) > 0).tolist() == (block_weights(context, link=link, beta=beta) > 0).tolist()
