"""Uncertainty weighting: how much each of several tasks counts is learnt beside the network.

A task whose loss stays high is taken to be noisy and gets a smaller weight; a price on the logarithm of that noise
keeps weights from running to 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, final

import torch
from torch import Tensor, nn

from medtail.errors import MedtailError

UncertaintyForm = Literal["kendall", "paper_form"]
"""`kendall`: ½ e^{−s} L + ½ s; `paper_form`: ½ e^{−s} L + s, as P. Li et al. print it for CSASN."""

LARGEST = 4.0
"""Log variances stay within ± this; a weight is between 1/55 and 55 of what it began with."""


def uncertainty_weighted(losses: Tensor, log_variances: Tensor, *, form: UncertaintyForm = "kendall") -> Tensor:
    """Weigh losses by their tasks' noise: ½ e^{−s} L + ½ s.

    Over s it is least at e^s = L, where it is ½ (1 + log L). With `paper_form` the price is s: least at e^s = L / 2.

    Args:
        losses: Float [T], each >= 0.
        log_variances: s = log σ², float [T].
        form: Which price.

    Returns:
        [T], one value a task; may be negative.

    Raises:
        MedtailError: A loss is below 0; s would run away to −∞.

    Example:
        >>> uncertainty_weighted(torch.tensor([1.0, 2.0]), torch.zeros(2)).tolist()
        [0.5, 1.0]

    References:
        kendall2018.
    """
    if bool((losses < 0).any()):
        raise MedtailError(
            f"uncertainty weighting: found losses {[round(value, 6) for value in losses.tolist()]}; expected none below"
            " 0, for which the weight would grow without end. Keep such a term outside, or switch the weighting off."
        )
    price = 0.5 * log_variances if form == "kendall" else log_variances
    return 0.5 * torch.exp(-log_variances) * losses + price


@final
class UncertaintyWeights(nn.Module):
    """The log variances of several tasks, s_t = 4 tanh(θ_t / 4), θ_t learnt from 0.

    Args:
        num_tasks: T, at least 1.
        form: See `uncertainty_weighted`.

    Example:
        >>> weights = UncertaintyWeights(3)
        >>> weights(torch.tensor([1.0, 2.0]), tasks=[0, 2]).item(), weights.log_variances.tolist()
        (1.5, [0.0, 0.0, 0.0])

    References:
        kendall2018.
    """

    def __init__(self, num_tasks: int, *, form: UncertaintyForm = "kendall") -> None:
        super().__init__()
        self.form: UncertaintyForm = form
        # one tensor for all tasks: in several processes each parameter must get a gradient in every step
        self.theta = nn.Parameter(torch.zeros(num_tasks))

    @property
    def log_variances(self) -> Tensor:
        """s_t, float [T], within ± 4; close to θ_t while that is small."""
        return LARGEST * torch.tanh(self.theta / LARGEST)

    def forward(self, losses: Tensor, *, tasks: Sequence[int]) -> Tensor:
        """Add up the weighted losses of the tasks a step has; θ of the others gets a gradient of exactly 0.

        Args:
            losses: Float [len(tasks)], each >= 0.
            tasks: Numbers of the tasks, each at most once; none gives 0.

        Returns:
            A scalar.

        Raises:
            MedtailError: A loss is below 0.
        """
        chosen = self.log_variances[list(tasks)]
        return uncertainty_weighted(losses, chosen, form=self.form).sum() + 0 * self.theta.sum()
