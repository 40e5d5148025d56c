"""Attention that re-weighs a feature map: squeeze-and-excitation over channels, CBAM over channels and positions.

Both keep the map's shape. `csasn` puts them one after the other in front of its classifier.
"""

from __future__ import annotations

from typing import Literal, final

import torch
from torch import Tensor, nn

KERNEL = 7
"""Side of CBAM's spatial filter."""


def bottleneck(channels: int, reduction: int) -> nn.Sequential:
    """Return `W2 ReLU(W1 z)` without biases: D → max(1, D // reduction) → D.

    Example:
        >>> sum(weight.numel() for weight in bottleneck(2176, 16).parameters())
        591872
    """
    inner = max(1, channels // reduction)
    return nn.Sequential(nn.Linear(channels, inner, bias=False), nn.ReLU(), nn.Linear(inner, channels, bias=False))


@final
class SqueezeExcitation(nn.Module):
    """Re-weigh channels by what the whole map says: `s = σ(W2 ReLU(W1 GAP(X)))`, `X' = s · X`.

    Args:
        channels: D.
        reduction: r; the bottleneck has D // r channels, at least 1.

    Example:
        >>> SqueezeExcitation(32)(torch.ones(2, 32, 4, 4)).shape
        torch.Size([2, 32, 4, 4])

    References:
        hu2018.
    """

    def __init__(self, channels: int, *, reduction: int = 16) -> None:
        super().__init__()
        self.excite = bottleneck(channels, reduction)

    def forward(self, features: Tensor) -> Tensor:
        """Re-weigh [B, D, h, w]."""
        weights = torch.sigmoid(self.excite(features.mean(dim=(2, 3))))
        return features * weights[:, :, None, None]


@final
class Cbam(nn.Module):
    """Re-weigh positions by the mean and the maximum over channels, after re-weighing channels if asked.

    `Ms = σ(conv7x7([mean_c X; max_c X]))`, `X'' = Ms · X`, zero padding, no bias.

    Args:
        channels: D.
        form: `spatial` is the half the CSASN paper writes. `full` is the whole module: before it channels are
            weighed by `σ(MLP(GAP X) + MLP(GMP X))`. `literal` takes the mean over the map as it was before
            squeeze-and-excitation and the maximum over the map after it, as the paper prints it.
        reduction: r of the MLP of `full`.

    Example:
        >>> Cbam(8)(torch.ones(2, 8, 4, 4), before=torch.ones(2, 8, 4, 4)).shape
        torch.Size([2, 8, 4, 4])

    References:
        woo2018.
    """

    def __init__(
        self, channels: int, *, form: Literal["spatial", "full", "literal"] = "spatial", reduction: int = 16
    ) -> None:
        super().__init__()
        self.form = form
        self.excite = bottleneck(channels, reduction) if form == "full" else None
        self.conv = nn.Conv2d(2, 1, KERNEL, padding=KERNEL // 2, bias=False)

    def forward(self, features: Tensor, *, before: Tensor) -> Tensor:
        """Re-weigh a map.

        Args:
            features: [B, D, h, w].
            before: The map before squeeze-and-excitation, same shape; only `literal` looks at it.

        Returns:
            [B, D, h, w].
        """
        if self.excite is not None:
            # amax shares the gradient among equal maxima, so it is deterministic on every device
            both = self.excite(features.mean(dim=(2, 3))) + self.excite(features.amax(dim=(2, 3)))
            features = features * torch.sigmoid(both)[:, :, None, None]
        averaged = before if self.form == "literal" else features
        summary = torch.cat([averaged.mean(dim=1, keepdim=True), features.amax(dim=1, keepdim=True)], dim=1)
        return features * torch.sigmoid(self.conv(summary))
