"""Heat from covering: how far the log-odds of a class fall when a window of the image is hidden.

It asks the model as a whole and needs no gradient, so it works behind any trunk and head; it costs some hundred
forward passes an image. A window covers what it hides with the mean gray of the image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medtail.explain.evidence import Branch, branch_channels, log_odds, require_captum
from medtail.models.diagnoser import Diagnoser

WINDOWS_ACROSS = 6
"""Windows that fit side by side; each step is half a window."""
AT_ONCE = 32
"""Covered images of one forward pass."""


def mean_gray(images: Tensor, content: Tensor | None) -> Tensor:
    """Return each image with every pixel at the mean of its content, a channel at a time.

    Args:
        images: Float [N, channels, H, W].
        content: Where there is image, [N, 1, H, W]; None where all is.

    Example:
        >>> mean_gray(torch.tensor([[[[0.0, 1.0]]]]), torch.tensor([[[[0, 1]]]])).tolist()
        [[[[1.0, 1.0]]]]
    """
    inside = torch.ones_like(images[:, :1]) if content is None else content.to(images)
    total = inside.sum(dim=(2, 3), keepdim=True).clamp(min=1)
    return ((images * inside).sum(dim=(2, 3), keepdim=True) / total).expand_as(images)


def occlusion_maps(
    diagnoser: Diagnoser,
    images: Tensor,
    content: Tensor | None,
    *,
    classes: Sequence[int],
    branch: Branch = "joint",
    window_px: int | None = None,
) -> Tensor:
    """Slide a window of mean gray over the image and note how the log-odds fall.

    Args:
        diagnoser: In eval mode.
        images: Float [N, channels, H, W] in [0, 1].
        content: Where there is image, [N, 1, H, W]; None where all is.
        classes: Columns of the classes wanted.
        branch: Who sees the window; with `cnn` or `vit` the other branch goes on seeing the whole image.
        window_px: Side of the window; a sixth of the image if None.

    Returns:
        float32 [N, len(classes), H, W]: above 0 where covering lowers the class. Each pixel has the mean over the
        windows that cover it.

    Raises:
        MedtailError: No such branch, or captum is not installed.

    Example:
        >>> from medtail.explain.examples import tiny_diagnoser
        >>> model, images = tiny_diagnoser("cnn"), torch.rand(1, 1, 64, 64)
        >>> occlusion_maps(model, images, None, classes=[1], window_px=32).shape
        torch.Size([1, 1, 64, 64])

    References:
        zeiler2014; kokhlikyan2020 (captum).
    """
    attr = require_captum()
    channels = branch_channels(diagnoser.backbone, branch)
    columns = [int(column) for column in classes]
    side = images.shape[-1]
    window = window_px or max(4, 2 * round(side / WINDOWS_ACROSS / 2))
    gray = mean_gray(images, content)
    maps = []
    with torch.no_grad():
        for number in range(len(images)):
            image = images[number : number + 1]
            own = None if content is None else content[number : number + 1]
            whole = None if branch == "joint" else diagnoser.backbone(diagnoser.inputs(image, own))

            def ask(covered: Tensor, own: Tensor | None = own, whole: Tensor | None = whole) -> Tensor:
                inside = None if own is None else own.expand(len(covered), -1, -1, -1)
                features = diagnoser.backbone(diagnoser.inputs(covered, inside))
                if whole is not None:  # the branches meet only in the map, so one can be put back there
                    mixed = whole.expand(len(covered), -1, -1, -1).clone()
                    mixed[:, channels] = features[:, channels]
                    features = mixed
                logits = diagnoser.head(features)
                return log_odds(logits, labels=diagnoser.labels, link=diagnoser.link)[:, columns]

            found = attr.Occlusion(ask).attribute(
                image,
                sliding_window_shapes=(image.shape[1], window, window),
                strides=(image.shape[1], window // 2, window // 2),
                baselines=gray[number : number + 1],
                perturbations_per_eval=AT_ONCE,
            )
            maps.append(found.mean(dim=1))  # all channels are covered together
    return torch.stack(maps).float()
