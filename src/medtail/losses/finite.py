"""Stopping at once where a training no longer computes with numbers: a loss or a gradient that is NaN or infinite.

One such step makes every weight NaN, and what is written after it is worth nothing. So the step is refused before the
weights move, with the images that were in it, and what was kept before stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from medtail.errors import MedtailError, listing

Images = Callable[[], Sequence[str]]
"""Gives the ids of the images of the step; asked only where something is wrong."""


def check_loss(loss: Tensor, *, where: str, images: Images, table: str, advice: str) -> None:
    """Refuse a loss that is no finite number.

    Args:
        loss: A scalar.
        where: Epoch and step, for the message.
        images: Which images the step saw.
        table: Name of the table they are in.
        advice: What to do, and what is kept.

    Raises:
        MedtailError: It is NaN or infinite.

    Example:
        >>> try:
        ...     check_loss(torch.tensor(torch.inf), where="step 5", images=lambda: ["a", "b"], table="t.csv", advice="")
        ... except MedtailError as error:
        ...     print(error)
        step 5: the loss is inf; expected a finite number. The batch held images 'a', 'b' of t.csv.
    """
    if not bool(torch.isfinite(loss)):
        found = f"{where}: the loss is {float(loss.detach())!r}; expected a finite number."
        raise MedtailError(_with_batch(found, images(), table, advice))


def check_gradients(
    parameters: Iterable[tuple[str, Tensor]], *, where: str, images: Images, table: str, advice: str
) -> None:
    """Refuse gradients that are not finite, though the loss was: a square root at 0 or an overflow makes such.

    Costs one pass over the gradients.

    Args:
        parameters: Names and parameters; those without a gradient are passed over.
        where: Epoch and step, for the message.
        images: Which images the step saw.
        table: Name of the table they are in.
        advice: What to do, and what is kept.

    Raises:
        MedtailError: A gradient holds NaN or infinity; the parameters are named.

    Example:
        >>> weight = torch.zeros(1, requires_grad=True)
        >>> weight.sqrt().sum().backward()
        >>> try:
        ...     check_gradients([("w", weight)], where="step 1", images=lambda: ["a"], table="t.csv", advice="")
        ... except MedtailError as error:
        ...     print(str(error)[:65])
        step 1: the loss is finite, but not the gradient of 'w'; expected
    """
    found = [(name, parameter.grad) for name, parameter in parameters if parameter.grad is not None]
    largest = torch.nn.utils.get_total_norm([gradient for _, gradient in found], norm_type=torch.inf)
    if bool(torch.isfinite(largest)):
        return
    names = [name for name, gradient in found if not bool(torch.isfinite(gradient).all())]
    shown = listing([repr(name) for name in names], limit=3)
    said = f"{where}: the loss is finite, but not the gradient of {shown}; expected finite numbers."
    raise MedtailError(_with_batch(said, images(), table, advice))


def _with_batch(found: str, ids: Sequence[str], table: str, advice: str) -> str:
    named = listing([repr(str(name)) for name in ids], limit=8)
    return f"{found} The batch held images {named} of {table}. {advice}".rstrip()
