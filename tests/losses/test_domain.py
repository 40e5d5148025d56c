from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from medtail.errors import MedtailError
from medtail.losses.domain import (
    Cross,
    block_mmds,
    domain_blocks,
    domain_mmd,
    mmd_squared,
    shuffle_within_labels,
    squared_distances,
)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def slow_mmd(first: Tensor, second: Tensor, *, kernel_sum: bool = False, cross: Cross = "mean") -> float:
    """The formula of the specification, pair by pair."""
    x, y = first.tolist(), second.tolist()
    union = x + y

    def square(a: list[float], b: list[float]) -> float:
        return sum((p - q) ** 2 for p, q in zip(a, b, strict=True))

    pairs = [square(a, b) for i, a in enumerate(union) for j, b in enumerate(union) if i != j]
    width = sum(pairs) / len(pairs)
    if width == 0:
        return 0.0

    def kernel(a: list[float], b: list[float]) -> float:
        terms = [math.exp(-square(a, b) / (width * 2.0 ** (u - 2))) for u in range(5)]
        return sum(terms) if kernel_sum else sum(terms) / 5

    m, n = len(x), len(y)
    within = sum(kernel(a, b) for a in x for b in x) / m**2 + sum(kernel(a, b) for a in y for b in y) / n**2
    across = sum(kernel(a, b) for a in x for b in y)
    return within - 2 * across / (m if cross == "over_b" else m * n)


@pytest.mark.parametrize(("m", "n"), [(1, 1), (2, 5), (7, 3), (6, 6)])
@pytest.mark.parametrize("kernel_sum", [False, True])
def test_mmd_equals_a_double_loop(m: int, n: int, kernel_sum: bool) -> None:
    first, second = noise(m, 4), noise(n, 4, seed=1) + 0.5
    found = mmd_squared(first, second, kernel_sum=kernel_sum)
    assert found.item() == pytest.approx(slow_mmd(first, second, kernel_sum=kernel_sum), rel=1e-10)


@pytest.mark.parametrize("kernel_sum", [False, True])
def test_the_printed_cross_term_equals_a_double_loop_and_is_far_below_zero(kernel_sum: bool) -> None:
    first, second = noise(16, 64), noise(16, 64, seed=1)
    found = mmd_squared(first, second, kernel_sum=kernel_sum, cross="over_b").item()
    assert found == pytest.approx(slow_mmd(first, second, kernel_sum=kernel_sum, cross="over_b"), rel=1e-10)
    assert found == pytest.approx(-58.0 if kernel_sum else -58.0 / 5, rel=0.05)


def test_a_set_has_no_discrepancy_from_itself_and_the_order_of_sides_and_rows_is_no_matter() -> None:
    first, second = noise(9, 5), noise(6, 5, seed=1) + 1
    assert mmd_squared(first, first).item() == pytest.approx(0.0, abs=1e-12)
    value = mmd_squared(first, second).item()
    assert mmd_squared(second, first).item() == pytest.approx(value, rel=1e-12)
    assert mmd_squared(first.flip(0), second[[3, 0, 5, 1, 2, 4]]).item() == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_mmd_is_never_below_zero(seed: int) -> None:
    for m, n, dim in ((1, 2, 1), (3, 3, 2), (12, 5, 30)):
        both = noise(m + n, dim, seed=seed, dtype=torch.float32)
        assert mmd_squared(both[:m], both[m:]).item() >= 0
        assert mmd_squared(both[:m], both[:m]).item() >= 0


def test_mmd_rises_with_the_shift_between_sides() -> None:
    first, second = noise(16, 20), noise(12, 20, seed=1)
    values = [mmd_squared(first, second + shift).item() for shift in (0.25, 0.5, 1.0, 2.0)]
    assert values == sorted(values)
    assert len(set(values)) == 4


def test_noise_has_the_floor_that_the_documentation_names() -> None:
    values = [mmd_squared(noise(16, 64, seed=seed), noise(12, 64, seed=100 + seed)).item() for seed in range(20)]
    assert sum(values) / len(values) == pytest.approx(0.085, abs=0.015)


def test_gradient_is_that_of_finite_differences_on_both_sides() -> None:
    first, second = noise(4, 3).requires_grad_(True), (noise(3, 3, seed=1) + 0.5).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda a, b: mmd_squared(a, b, bandwidth=2.0), (first, second))
    mmd_squared(first, second).backward()
    for side in (first, second):
        assert side.grad is not None
        assert (side.grad.abs().sum(dim=1) > 0).all()


def test_the_bandwidth_has_no_gradient() -> None:
    first, second = noise(4, 3), noise(5, 3, seed=1) + 1
    union = torch.cat([first, second])
    pairs = torch.cdist(union, union).square()
    width = float(pairs.sum() / (9 * 8))
    gradients = []
    for bandwidth in (None, width):
        leaf = first.clone().requires_grad_(True)
        mmd_squared(leaf, second, bandwidth=bandwidth).backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cross", ["mean", "over_b"])
def test_equal_rows_give_numbers(dtype: torch.dtype, cross: Cross) -> None:
    one = noise(1, 6, dtype=dtype).expand(4, 6)
    for first, second in ((one, one), (torch.cat([one[:2], noise(2, 6, seed=1, dtype=dtype)]), one)):
        first, second = first.clone().requires_grad_(True), second.clone().requires_grad_(True)
        value = mmd_squared(first, second, cross=cross)
        value.backward()
        assert torch.isfinite(value)
        assert first.grad is not None
        assert torch.isfinite(first.grad).all()
    assert mmd_squared(one, one, cross=cross).item() == pytest.approx(0.0, abs=1e-6)


def test_distances_keep_their_digits_far_from_the_origin() -> None:
    rows = noise(6, 8, dtype=torch.float32)
    torch.testing.assert_close(
        squared_distances(rows + 100), torch.cdist(rows.double(), rows.double()).square().float(), atol=1e-3, rtol=1e-3
    )


def test_half_precision_and_autocast_are_computed_in_float32() -> None:
    rows = noise(6, 400, dtype=torch.float32)
    exact = squared_distances(rows)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(squared_distances(rows), exact)
    assert squared_distances(rows.bfloat16()).dtype == torch.float32


def test_sides_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(MedtailError, match=r"found features of shape \(0, 3\) and \(2, 3\); expected"):
        mmd_squared(torch.zeros(0, 3), torch.zeros(2, 3))
    with pytest.raises(MedtailError, match=r"cross 'over_b': found 2 and 3 rows; expected as many on both sides"):
        mmd_squared(torch.zeros(2, 3), torch.zeros(3, 3), cross="over_b")


# --- blocks of a batch ---------------------------------------------------------------------------------------------


def test_blocks_pair_sites_within_a_label_and_skip_lone_rows() -> None:
    labels = [1, 1, 1, 1, 1, 0, 0, 0, 0, 1, -1, 0, 0, -1]
    domains = [0, 0, 1, 1, 2, 0, 0, 2, 2, 1, 1, -1, -1, 1]
    assert domain_blocks(labels, domains) == [((5, 6), (7, 8)), ((0, 1), (2, 3, 9))]


def test_three_sites_are_three_pairs() -> None:
    blocks = domain_blocks([0] * 6, [4, 4, 1, 1, 7, 7])
    assert blocks == [((2, 3), (0, 1)), ((2, 3), (4, 5)), ((0, 1), (4, 5))]


def test_the_term_is_the_mean_over_labels_and_pairs_of_sites() -> None:
    features = noise(12, 4)
    labels, domains = [0] * 6 + [1] * 6, [0, 0, 1, 1, 2, 2, 0, 0, 0, 1, 1, 2]
    found = domain_mmd(features, labels=labels, domains=domains)
    expected = [slow_mmd(features[list(a)], features[list(b)]) for a, b in domain_blocks(labels, domains)]
    assert len(expected) == 4
    assert found.item() == pytest.approx(sum(expected) / 4, rel=1e-10)


def test_without_sites_the_term_is_exactly_zero_and_still_differentiable() -> None:
    for labels, domains in (
        ([1] * 4, [-1] * 4),
        ([1] * 4, [0] * 4),
        ([1, 1, 1, 0], [0, 0, 1, 1]),
        ([-1] * 4, [0, 0, 1, 1]),
    ):
        features = noise(4, 3).requires_grad_(True)
        value = domain_mmd(features, labels=labels, domains=domains)
        value.backward()
        assert value.item() == 0.0
        assert features.grad is not None
        assert (features.grad == 0).all()


def test_blocks_of_differing_size_are_each_as_if_alone() -> None:
    features = noise(12, 4)
    blocks = [((0, 1), (2, 3)), ((4, 5, 6, 7, 8), (9, 10)), ((1, 3, 5), (0, 11, 7, 9))]
    found = block_mmds(squared_distances(features), blocks)
    for value, (first, second) in zip(found, blocks, strict=True):
        assert value.item() == pytest.approx(slow_mmd(features[list(first)], features[list(second)]), rel=1e-10)
    assert block_mmds(squared_distances(features), []).shape == (0,)


def test_the_printed_form_cuts_the_larger_side() -> None:
    features = noise(7, 4)
    blocks = [((0, 1, 2, 3), (4, 5, 6))]
    found = block_mmds(squared_distances(features), blocks, cross="over_b")[0].item()
    assert found == pytest.approx(slow_mmd(features[:3], features[4:], cross="over_b"), rel=1e-10)


def test_shuffling_keeps_the_sites_of_each_label_and_breaks_their_order() -> None:
    random = torch.Generator().manual_seed(3)
    labels = torch.tensor([0] * 20 + [1] * 20 + [-1] * 5)
    domains = torch.tensor(([0] * 10 + [1] * 10) * 2 + [0, 1, 0, 1, 2])
    domains[3] = -1
    dealt = shuffle_within_labels(domains, labels, generator=random)
    for label in (0, 1):
        rows = labels == label
        assert Counter(dealt[rows].tolist()) == Counter(domains[rows].tolist())
        assert not torch.equal(dealt[rows], domains[rows])
    assert dealt[3] == -1
    assert torch.equal(dealt[labels < 0], domains[labels < 0])
    assert len(domain_blocks(labels.tolist(), dealt.tolist())) == len(domain_blocks(labels.tolist(), domains.tolist()))


def test_the_shuffled_value_shows_that_sites_matter() -> None:
    """Sites two units apart: the term is far above its value after shuffling; sites that do not differ: it is not."""
    labels = torch.zeros(32, dtype=torch.long)
    domains = torch.tensor([0] * 16 + [1] * 16)
    random = torch.Generator().manual_seed(0)
    for shift, ratio in ((2.0, 4.0), (0.0, 0.7)):
        features = noise(32, 20) + shift * domains[:, None]
        dealt = shuffle_within_labels(domains, labels, generator=random)
        real = domain_mmd(features, labels=labels.tolist(), domains=domains.tolist()).item()
        sham = domain_mmd(features, labels=labels.tolist(), domains=dealt.tolist()).item()
        assert real > ratio * sham
        assert shift > 0 or sham > 0.7 * real
