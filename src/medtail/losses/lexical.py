"""What a lexicon says about labels, as a penalty on logits: exactly one of a group, and nothing beside "none".

The classes keep a sigmoid each; the penalty ties those of an exclusive group together. Label spaces without groups, a
chest X-ray's findings for instance, have none.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import relu

from medtail.losses.contract import GroupLayout


def lexical_penalty(
    logits: Tensor,
    targets: Tensor,
    *,
    layout: GroupLayout,
    exclusions: Sequence[tuple[int, Sequence[int]]] = (),
) -> Tensor:
    """Penalise answers that are no valid report.

    A group counts in a row where all its members were assessed and one is present; its value is the cross-entropy of
    a softmax over its members plus (Σ_c σ(z_c) − 1)². An exclusion counts where all its labels were assessed; its value
    is relu(p_none + max_other p − 1).

    Args:
        logits: Float [B, C].
        targets: Float [B, C] in [0, 1], NaN = not assessed.
        layout: The exclusive groups.
        exclusions: A column that excludes others, and those.

    Returns:
        A scalar: the mean over what groups count, plus the mean over what exclusions count. 0 with zero gradient where
        none does.

    Example:
        >>> layout = GroupLayout([(0, 1)], num_classes=2)
        >>> valid, both = torch.tensor([[9.0, -9.0]]), torch.tensor([[9.0, 9.0]])
        >>> target = torch.tensor([[1.0, 0.0]])
        >>> [round(lexical_penalty(z, target, layout=layout).item(), 3) for z in (valid, both)]
        [0.0, 1.693]
    """
    is_assessed = ~torch.isnan(targets)
    total = 0 * logits.sum()
    if layout.num_groups:
        known = torch.where(is_assessed, targets, 0).to(logits.dtype)
        counts = layout.is_all(is_assessed) & (layout.sums(known) > 0)
        cross_entropy = -layout.sums(known * layout.log_softmax(logits))
        excess = (layout.sums(torch.sigmoid(logits)) - 1).square()
        total = total + _mean(cross_entropy + excess, counts)
    if exclusions:
        scores = torch.sigmoid(logits)
        overlaps = [scores[:, none] + scores[:, list(others)].amax(dim=1) - 1 for none, others in exclusions]
        counted = [is_assessed[:, [none, *others]].all(dim=1) for none, others in exclusions]
        total = total + _mean(relu(torch.stack(overlaps, dim=1)), torch.stack(counted, dim=1))
    return total


def _mean(values: Tensor, counts: Tensor) -> Tensor:
    return torch.where(counts, values, 0).sum() / counts.sum().clamp_min(1)
