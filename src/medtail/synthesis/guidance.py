"""Two-scale guidance: how strongly an image is drawn towards its class, and how strongly towards its sketch.

    e = e(∅,∅) + w_c [ e(c,∅) - e(∅,∅) ] + w_s [ e(c,s) - e(c,∅) ]

At (1, 1) this is e(c,s), at (1, 0) it is e(c,∅), both exactly: the three evaluations are weighed 1 - w_c, w_c - w_s and
w_s, and one that weighs nothing is not made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from medtail.errors import MedtailError
from medtail.synthesis.denoiser import Denoiser


@final
@dataclass(frozen=True)
class Guidance:
    """The two scales.

    Attributes:
        class_scale: w_c, at least 0; 1 is no guidance, more is more typical of the class and less varied.
        sketch_scale: w_s, at least 0; 0 looks at no sketch.

    Raises:
        MedtailError: A scale is negative.

    Example:
        >>> Guidance(2.0, 1.5).weights(with_sketch=True), Guidance(2.0, 1.5).weights(with_sketch=False)
        ((-1.0, 0.5, 1.5), (-1.0, 2.0, 0.0))
    """

    class_scale: float
    sketch_scale: float

    def __post_init__(self) -> None:
        for name in ("class_scale", "sketch_scale"):
            if not getattr(self, name) >= 0:
                raise MedtailError(f"{name}: found {getattr(self, name)!r}; expected 0 or more.")

    def weights(self, *, with_sketch: bool) -> tuple[float, float, float]:
        """Return the weights of e(∅,∅), e(c,∅) and e(c,s); they sum to 1."""
        sketch = self.sketch_scale if with_sketch else 0.0
        return (1 - self.class_scale, self.class_scale - sketch, sketch)


def guided_prediction(
    denoiser: Denoiser,
    noisy: Tensor,
    timestep: Tensor,
    *,
    present: Tensor,
    sketches: Tensor | None,
    given: Tensor | None,
    guidance: Guidance,
) -> Tensor:
    """Evaluate the network as often as the scales need, in one batch, and combine.

    Args:
        denoiser: In eval mode.
        noisy: float [B, 4, h, w].
        timestep: The noise level, int64 scalar.
        present: Labels asked for, float [B, classes].
        sketches: float [B, 1, S, S]; None gives none.
        given: Which sketches count, bool [B].
        guidance: The scales.

    Returns:
        The guided prediction, float [B, 4, h, w].
    """
    with_sketch = sketches is not None and denoiser.has_condition
    weights = guidance.weights(with_sketch=with_sketch)
    count, used = len(noisy), [place for place, weight in enumerate(weights) if weight != 0]
    plain, null = denoiser.class_vectors(present), present.new_ones(count, dtype=torch.bool)
    class_part = [denoiser.class_vectors(present, dropped=null) if place == 0 else plain for place in used]
    repeated, shown = None, None
    if sketches is not None and given is not None and with_sketch:
        repeated = sketches.repeat(len(used), 1, 1, 1)
        shown = torch.cat([given if place == 2 else torch.zeros_like(given) for place in used])
    answer = denoiser(
        noisy.repeat(len(used), 1, 1, 1),
        timestep.expand(count * len(used)),
        classes=torch.cat(class_part),
        sketches=repeated,
        given=shown,
    )
    found = torch.stack(answer.prediction.chunk(len(used)))
    if len(used) == 1:
        return found[0]
    scale = torch.tensor([weights[place] for place in used], dtype=found.dtype, device=found.device)
    return (scale[:, None, None, None, None] * found).sum(dim=0)
