"""Do two sites' images of one label look alike to the network? Maximum mean discrepancy (MMD) between their features.

Sites differ in scanner and habit; a network that tells sites apart by their look, among images of one and the same
label, leans on something other than the disease. MMD² measures that difference by five Gaussian kernels, and has a
gradient for the features of both sides. Everything here is a pure function; `tasks` makes it a term of an objective.

MMD² of two finite sets is not 0 even if both come from one distribution: for 16 against 12 rows of noise it is about
0.08. Read it beside its value after `shuffle_within_labels`, which has the same floor.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor

from medtail.errors import MedtailError

Cross = Literal["mean", "over_b"]
"""How the cross term is averaged: over its m · n pairs, or, as one paper prints it, over B = m = n alone."""

Block = tuple[tuple[int, ...], tuple[int, ...]]
"""Rows of one label from one site, and rows of that label from another."""

KERNEL_WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Widths of the five kernels, as multiples of the mean squared distance."""
FEWEST_ROWS = 2
"""A site needs so many rows of a label in the batch to be compared."""


def squared_distances(rows: Tensor) -> Tensor:
    """Compute ‖x_i − x_j‖² between all rows, in float32 at least, also under autocast.

    Args:
        rows: Float [n, D].

    Returns:
        [n, n], >= 0, exactly 0 on the diagonal; its gradient is finite for equal rows too.

    Example:
        >>> squared_distances(torch.tensor([[0.0, 0.0], [3.0, 4.0]])).tolist()
        [[0.0, 25.0], [25.0, 0.0]]
    """
    with torch.autocast(rows.device.type, enabled=False):
        rows = rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows
        # distances do not change with the origin; near the rows' mean their squares lose the fewest digits
        centred = rows - rows.detach().mean(dim=0)
        norms = centred.square().sum(dim=1)
        distances = norms[:, None] + norms[None, :] - 2 * centred @ centred.T
        return distances.clamp_min(0).masked_fill(torch.eye(len(rows), dtype=torch.bool, device=rows.device), 0)


def mmd_squared(
    first: Tensor,
    second: Tensor,
    *,
    bandwidth: float | Tensor | None = None,
    kernel_sum: bool = False,
    cross: Cross = "mean",
) -> Tensor:
    """Compute the squared maximum mean discrepancy between two sets of feature vectors.

    MMD² = mean k(A, A) + mean k(B, B) − 2 mean k(A, B) with k(x, y) = ⅕ Σ_{u=0..4} exp(−‖x − y‖² / (h₀ 2^{u−2})) and h₀
    the mean squared distance over all ordered pairs i ≠ j of both sets together, which gets no gradient. The means run
    over all pairs, i = j included, so that it is never negative, for any m and n.

    Args:
        first: Float [m, D], m >= 1.
        second: Float [n, D], n >= 1.
        bandwidth: h₀ itself, > 0; None computes it. At 0 (all rows equal) the value is 0.
        kernel_sum: Add the five kernels up instead of averaging them: five times the value.
        cross: `mean`, or `over_b` for a cross term of −2/B Σ over all pairs with B = m = n, as P. Li et al. print it
            for CSASN. That one goes far below 0 (about −58 for 16 rows of noise and `kernel_sum`).

    Returns:
        A scalar, in [0, 2] (times 5 with `kernel_sum`) unless `over_b`.

    Raises:
        MedtailError: A side has no row, the sides have differing D, or `over_b` is asked for sides of differing size.

    Example:
        >>> near, far = torch.tensor([[0.0], [1.0]]), torch.tensor([[5.0], [6.0]])
        >>> mmd_squared(near, near).item(), mmd_squared(near, far).round(decimals=4)
        (0.0, tensor(1.3120))

    References:
        long2015.
    """
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1] or not len(first) or not len(second):
        raise MedtailError(
            f"MMD: found features of shape {tuple(first.shape)} and {tuple(second.shape)}; expected [m, D] and [n, D]"
            " with m and n of at least 1."
        )
    if cross == "over_b" and len(first) != len(second):
        raise MedtailError(
            f"MMD, cross 'over_b': found {len(first)} and {len(second)} rows; expected as many on both sides. Use"
            " cross 'mean', which is defined for any."
        )
    rows = tuple(range(len(first) + len(second)))
    distances = squared_distances(torch.cat([first, second]))
    block = (rows[: len(first)], rows[len(first) :])
    return block_mmds(distances, [block], bandwidth=bandwidth, kernel_sum=kernel_sum, cross=cross)[0]


def domain_blocks(labels: Sequence[int], domains: Sequence[int]) -> list[Block]:
    """List what can be compared in a batch: within each label, every pair of sites with two rows or more.

    Args:
        labels: Label of each row; below 0 for a row that is not assessed.
        domains: Site of each row; below 0 where it is not known.

    Returns:
        Pairs of rows' numbers, in the order of labels and sites.

    Example:
        >>> domain_blocks([1, 1, 1, 1, 0, 0, -1], [0, 0, 5, 5, 0, 5, 5])
        [((0, 1), (2, 3))]
    """
    rows_of: dict[tuple[int, int], list[int]] = {}
    for row, (label, domain) in enumerate(zip(labels, domains, strict=True)):
        if label >= 0 and domain >= 0:
            rows_of.setdefault((label, domain), []).append(row)
    sides: dict[int, list[tuple[int, ...]]] = {}
    for (label, _), rows in sorted(rows_of.items()):
        if len(rows) >= FEWEST_ROWS:
            sides.setdefault(label, []).append(tuple(rows))
    return [pair for listed in sides.values() for pair in combinations(listed, 2)]


def block_mmds(
    distances: Tensor,
    blocks: Sequence[Block],
    *,
    bandwidth: float | Tensor | None = None,
    kernel_sum: bool = False,
    cross: Cross = "mean",
) -> Tensor:
    """Compute MMD² of every block of a batch whose squared distances are known, all blocks at once.

    Args:
        distances: From `squared_distances` of the whole batch, [B, B].
        blocks: Pairs of rows' numbers, each side with one row at least.
        bandwidth: h₀ of all blocks; each block's own mean squared distance, without gradient, if None.
        kernel_sum: See `mmd_squared`.
        cross: See `mmd_squared`; with `over_b` the larger side of a block is cut to its first rows.

    Returns:
        [blocks].

    Example:
        >>> features = torch.tensor([[0.0], [1.0], [5.0], [6.0]])
        >>> block_mmds(squared_distances(features), [((0, 1), (2, 3)), ((0, 2), (1, 3))]).round(decimals=4)
        tensor([1.3120, 0.0691])
    """
    if cross == "over_b":
        blocks = [(first[: len(second)], second[: len(first)]) for first, second in blocks]
    if not blocks:
        return 0 * distances.sum() * distances.new_zeros(0)
    # blocks of differing size are padded to one rectangle by row 0 with a weight of 0
    longest = max(len(first) + len(second) for first, second in blocks)
    rows = torch.zeros(len(blocks), longest, dtype=torch.long)
    first_share, second_share = torch.zeros(2, len(blocks), longest, dtype=distances.dtype)
    for number, (first, second) in enumerate(blocks):
        m, n = len(first), len(second)
        rows[number, : m + n] = torch.tensor([*first, *second])
        first_share[number, :m] = 1 / m
        second_share[number, m : m + n] = 1 / n
    rows, first_share, second_share = (part.to(distances.device) for part in (rows, first_share, second_share))
    inside = distances[rows[:, :, None], rows[:, None, :]]
    is_row = ((first_share + second_share) > 0).to(distances.dtype)
    if bandwidth is None:
        counts = is_row.sum(dim=1)
        width = torch.einsum("bi,bij,bj->b", is_row, inside.detach(), is_row) / (counts * (counts - 1))
    else:
        width = torch.as_tensor(bandwidth, dtype=distances.dtype, device=distances.device).expand(len(blocks))
    scales = torch.tensor(KERNEL_WIDTHS, dtype=distances.dtype, device=distances.device)[:, None, None, None]
    kernels = torch.exp(-inside / (torch.where(width > 0, width, 1)[:, None, None] * scales))
    kernel = kernels.sum(dim=0) if kernel_sum else kernels.mean(dim=0)
    from_first = torch.einsum("bi,bij->bj", first_share, kernel)
    from_second = torch.einsum("bi,bij->bj", second_share, kernel)
    within = (from_first * first_share).sum(dim=1) + (from_second * second_share).sum(dim=1)
    across = (from_first * second_share).sum(dim=1)
    if cross == "over_b":
        # 2/B Σ Σ over B² pairs is 2 B times their mean
        value = within - 2 * (first_share > 0).sum(dim=1) * across
    else:
        value = (within - 2 * across).clamp_min(0)  # below 0 by rounding only
    return torch.where(width > 0, value, 0 * value)


def domain_mmd(
    features: Tensor,
    *,
    labels: Sequence[int],
    domains: Sequence[int],
    kernel_sum: bool = False,
    cross: Cross = "mean",
) -> Tensor:
    """Average MMD² between sites over the labels and pairs of sites that a batch allows to compare.

    Only rows of one label are compared with each other, so sites may differ in how often they see a disease. The
    features must carry their gradient; on detached ones the term would teach nothing.

    Args:
        features: Float [B, D].
        labels: Label of each row; below 0 for a row that is not assessed.
        domains: Site of each row; below 0 where it is not known.
        kernel_sum: See `mmd_squared`.
        cross: See `block_mmds`.

    Returns:
        A scalar; 0 with zero gradient where nothing can be compared.

    Example:
        >>> features = torch.tensor([[0.0], [1.0], [5.0], [6.0]], requires_grad=True)
        >>> domain_mmd(features, labels=[1, 1, 1, 1], domains=[0, 0, 1, 1]).item() > 1
        True
        >>> domain_mmd(features, labels=[1, 1, 1, 1], domains=[0, 0, 0, 0]).item()
        0.0

    References:
        long2015.
    """
    blocks = domain_blocks(labels, domains)
    values = block_mmds(squared_distances(features), blocks, kernel_sum=kernel_sum, cross=cross)
    return values.mean() if blocks else values.sum()


def shuffle_within_labels(domains: Tensor, labels: Tensor, *, generator: torch.Generator) -> Tensor:
    """Deal the known sites of each label's rows out anew among those rows.

    Every block keeps its size, so MMD² after shuffling is what the same batch would show if sites did not matter.

    Args:
        domains: int64 [B] on the CPU; below 0 where not known, which stays.
        labels: int64 [B] on the CPU; rows below 0 keep their site.
        generator: Of the CPU.

    Returns:
        int64 [B], a new tensor.

    Example:
        >>> dealt = shuffle_within_labels(torch.tensor([0, 0, 1, 1, -1]), torch.tensor([1, 1, 1, 1, 1]),
        ...                               generator=torch.Generator().manual_seed(0))
        >>> sorted(dealt.tolist()), dealt[4].item()
        ([-1, 0, 0, 1, 1], -1)
    """
    shuffled = domains.clone()
    for label in torch.unique(labels[labels >= 0]).tolist():
        rows = torch.nonzero((labels == label) & (domains >= 0)).flatten()
        shuffled[rows] = domains[rows[torch.randperm(len(rows), generator=generator)]]
    return shuffled
