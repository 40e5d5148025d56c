"""Numbers a class brings into a loss, from its count in the train fold: weights, margins, prior shifts.

Plain NumPy, computed once when a loss is built. A class never seen gets a weight of 0 and finite margins and
shifts; nothing here returns infinity.
"""

from __future__ import annotations

import numpy as np

from medtail.errors import MedtailError
from medtail.losses.contract import Link, LossContext


def effective_number_weights(positives: np.ndarray, *, beta: float = 0.999) -> np.ndarray:
    """Weight each class by the inverse of its effective number of images.

    The n-th image of a finding teaches less than the first. With overlap `beta`, n images count
    as E(n) = (1 - beta**n) / (1 - beta) distinct ones; a class weighs 1 / E(n), scaled to mean 1.

    Args:
        positives: Images showing each class in the train fold, shape (classes,), counts >= 0.
        beta: Overlap between images, in [0, 1). At 0 all classes weigh 1; near 1, about 1 / n.

    Returns:
        Unitless weights, shape (classes,), mean 1 over the classes seen. A class never seen weighs
        0: it cannot be learnt, and must not set the scale of the others.

    Raises:
        MedtailError: `beta` is outside [0, 1).

    Example:
        >>> effective_number_weights(np.array([1000.0, 10.0]), beta=0.99).round(2)
        array([0.17, 1.83])

    References:
        cui2019, eq. 2.
    """
    if not 0.0 <= beta < 1.0:
        raise MedtailError(f"effective-number weights, beta: found {beta!r}; expected at least 0 and below 1.")
    positives = np.asarray(positives, dtype=float)
    seen = positives > 0
    weights = np.zeros_like(positives)
    if not seen.any():
        return weights
    # expm1 keeps the digits that 1 - beta**n loses when beta is within 1e-9 of 1
    remaining = np.expm1(positives[seen] * np.log(beta)) if beta > 0 else -np.ones(int(seen.sum()))
    weights[seen] = (1.0 - beta) / -remaining
    return np.asarray(weights / weights[seen].mean())


def block_weights(context: LossContext, *, link: Link, beta: float) -> np.ndarray:
    """Compute effective-number weights inside each block: every softmax group, and the sigmoid classes together.

    Args:
        context: Counts and groups of the train fold.
        link: Decides the blocks; see `LossContext.blocks`.
        beta: Overlap between images, in [0, 1).

    Returns:
        Float64 [classes], mean 1 over the classes seen of each block.

    Raises:
        MedtailError: `beta` is outside [0, 1).

    Example:
        >>> context = LossContext((1000, 10, 3), (1010, 1010, 1010), ((0, 1),), 1010)
        >>> block_weights(context, link="softmax", beta=0.99).round(2)
        array([0.17, 1.83, 1.  ])
    """
    weights = np.zeros(context.num_classes)
    positives = np.array(context.positives, dtype=float)
    for block in context.blocks(link):
        weights[list(block)] = effective_number_weights(positives[list(block)], beta=beta)
    return weights


def ldam_margins(context: LossContext, *, link: Link, max_margin: float = 0.5) -> np.ndarray:
    """Compute label-distribution-aware margins, proportional to n ** (-1/4).

    The rarest class seen of each block has `max_margin`; one never seen has it too, without setting the scale.

    Args:
        context: Counts and groups of the train fold.
        link: Decides the blocks; see `LossContext.blocks`.
        max_margin: Largest margin in logits, >= 0.

    Returns:
        Float64 [classes], in [0, max_margin].

    Example:
        >>> ldam_margins(LossContext((16, 1, 0), (17, 17, 17), (), 17), link="sigmoid")
        array([0.25, 0.5 , 0.5 ])

    References:
        cao2019, eq. 9.
    """
    positives = np.array(context.positives, dtype=float)
    margins = np.full(context.num_classes, max_margin)
    for block in context.blocks(link):
        columns = np.array(block)[positives[list(block)] > 0]
        if len(columns):
            shrink = positives[columns] ** -0.25
            margins[columns] = max_margin * shrink / shrink.max()
    return margins


def prior_shifts(context: LossContext, *, link: Link) -> np.ndarray:
    """Compute each class's log prior, by which logit adjustment shifts its logit.

    In a softmax group log(share of the group's positives); for a sigmoid class the log-odds of its prevalence
    among the assessed images. Counts are held at least half an image away from "never" and "always".

    Args:
        context: Counts and groups of the train fold.
        link: Decides which classes share a softmax.

    Returns:
        Float64 [classes], finite; 0 for a sigmoid class that was never assessed.

    Example:
        >>> context = LossContext((30, 10, 20), (40, 40, 40), ((0, 1),), 40)
        >>> np.exp(prior_shifts(context, link="softmax")).round(3)
        array([0.75, 0.25, 1.  ])

    References:
        menon2021, eq. 10; ren2020 (balanced softmax).
    """
    positives = np.array(context.positives, dtype=float)
    assessed = np.array(context.assessed, dtype=float)
    held = np.clip(positives, 0.5, np.maximum(assessed - 0.5, 0.5))
    shifts = np.where(assessed > 0, np.log(held / np.maximum(assessed - held, 0.5)), 0.0)
    for group in context.groups if link == "softmax" else ():
        columns = list(group)
        counts = np.maximum(positives[columns], 0.5)
        shifts[columns] = np.log(counts / counts.sum())
    return shifts


def held_prior(context: LossContext) -> np.ndarray:
    """Return how common each class is in the train fold: its share of its exclusive group, or its prevalence.

    Returns:
        Float64 [classes] in (0, 1); shares of a group add up to 1, none is exactly 0.

    Example:
        >>> held_prior(LossContext((30, 10, 20), (40, 40, 40), ((0, 1),), 40)).round(3)
        array([0.75, 0.25, 0.5 ])
    """
    shifts = prior_shifts(context, link="softmax")
    prior = 1.0 / (1.0 + np.exp(-shifts))
    for group in context.groups:
        prior[list(group)] = np.exp(shifts[list(group)])
    return np.asarray(prior)
