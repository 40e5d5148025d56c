"""Batch spectral shrinkage: press the weakest directions of a batch's features towards 0.

Directions of a fine-tuned network's features in which a batch hardly varies carry little that transfers; shrinking
their singular values guards against learning noise from few images. A pure function of the features; `tasks` makes it
a term of an objective.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

SpectrumForm = Literal["smallest", "literal"]
"""`smallest`: the smallest singular values of F; `literal`: of FᵀF with all its D values, most of them 0."""


def smallest_singular_values(features: Tensor, *, count: int = 1, form: SpectrumForm = "smallest") -> Tensor:
    """Compute the smallest singular values of a batch's features F [B, D], in float32 at least, also under autocast.

    Args:
        features: Float [B, D].
        count: K, how many, >= 1. At most min(B, D) − 1 are taken, so that the strongest direction never is.
        form: `smallest` are the K smallest of F's min(B, D). `literal` are the K smallest of the D singular values of
            FᵀF, as P. Li et al. print it for CSASN; they are 0 whenever B <= D − K.

    Returns:
        [K or fewer], >= 0, in descending order; empty for one row or one column.

    Example:
        >>> smallest_singular_values(torch.diag(torch.tensor([3.0, 2.0, 1.0]))).tolist()
        [1.0]
        >>> smallest_singular_values(torch.ones(1, 8)).tolist()
        []
    """
    assert features.ndim == 2, tuple(features.shape)
    assert count >= 1, count
    num_rows, dim = features.shape
    with torch.autocast(features.device.type, enabled=False):
        features = features.float() if features.dtype in (torch.float16, torch.bfloat16) else features
        rank = min(num_rows, dim)
        if form == "smallest":
            taken = min(count, rank - 1)
            return _singular_values(features)[rank - taken :] if taken > 0 else features.new_zeros(0)
        taken = min(count, dim - 1) if num_rows > 1 else 0
        num_zeros = min(taken, max(dim - num_rows, 0))  # FᵀF has rank B at most
        zeros = 0 * features.sum() * features.new_ones(num_zeros)
        if taken == num_zeros:
            return zeros
        return torch.cat([_singular_values(features)[rank - (taken - num_zeros) :].square(), zeros])


def _singular_values(features: Tensor) -> Tensor:
    if not bool(torch.isfinite(features).all()):
        # the decomposition would stop with a message that names no image; training names the batch of a NaN
        return features.sum() * features.new_full((min(features.shape),), torch.nan)
    values: Tensor = torch.linalg.svdvals(features)
    return values


def batch_spectral_shrinkage(
    features: Tensor, *, count: int = 1, eta: float = 1e-3, form: SpectrumForm = "smallest"
) -> Tensor:
    """Compute η Σ of the squares of the K smallest singular values of a batch's features.

    For features of N(0, 1), 32 × 2176, the smallest squared singular value is about 1,700: without a small η the term
    would swamp any other. Two equal rows make it 0, which does no harm.

    Args:
        features: Float [B, D]; must carry its gradient.
        count: K, >= 1; at most min(B, D) − 1 are taken.
        eta: η >= 0.
        form: See `smallest_singular_values`.

    Returns:
        A scalar >= 0; 0 for fewer than two rows or columns.

    Example:
        >>> batch_spectral_shrinkage(torch.diag(torch.tensor([3.0, 2.0, 1.0])), count=2, eta=0.1).round(decimals=4)
        tensor(0.5000)

    References:
        chen2019.
    """
    values = smallest_singular_values(features, count=count, form=form)
    return eta * values.square().sum() + 0 * features.sum()


def is_spectrum_short(features: Tensor, values: Tensor, *, form: SpectrumForm = "smallest") -> Tensor:
    """Say whether shrunk singular values are 0 to rounding, as after two equal rows: the term then teaches nothing.

    Args:
        features: Float [B, D].
        values: Its `smallest_singular_values` of the same form.
        form: See there.

    Returns:
        A boolean scalar; True also where there are no values.

    Example:
        >>> twice = torch.ones(2, 3)
        >>> is_spectrum_short(twice, smallest_singular_values(twice)).item()
        True
    """
    largest = torch.linalg.matrix_norm(features.detach().to(values.dtype))  # at least the largest singular value
    if form == "literal":
        largest = largest.square()
    limit = largest * max(features.shape) ** 0.5 * torch.finfo(values.dtype).eps
    is_short: Tensor = (values.detach() <= limit).all()
    return is_short
