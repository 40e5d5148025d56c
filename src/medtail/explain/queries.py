"""Heat from heads that ask: where the query of each class looks in the feature map.

A forward quantity: it says where the head read, not whether what it read spoke for the class or against it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medtail.errors import MedtailError
from medtail.models.class_attention import ClassAttentionHead
from medtail.models.contract import Head
from medtail.models.diagnoser import Diagnoser
from medtail.models.ml_decoder import MlDecoderHead
from medtail.models.syntus import SyntusHead
from medtail.models.text_query import TextQueryHead


def has_queries(head: Head) -> bool:
    """Say whether a head has a query a class, or a group of classes, that reads the map."""
    return isinstance(head, ClassAttentionHead | MlDecoderHead | TextQueryHead) or (
        isinstance(head, SyntusHead) and head.encoder is not None
    )


def query_maps(diagnoser: Diagnoser, images: Tensor, content: Tensor | None, *, classes: Sequence[int]) -> Tensor:
    """Return where the query of each class looks, the mean over attention heads.

    Args:
        diagnoser: In eval mode.
        images: Float [N, channels, H, W] in [0, 1].
        content: Where there is image, [N, 1, H, W]; None where all is.
        classes: Columns of the classes wanted. Classes that share a query share a map.

    Returns:
        float32 [N, len(classes), h, w], adding up to 1 over positions.

    Raises:
        MedtailError: The head has no queries.

    Example:
        >>> from medtail.explain.examples import tiny_diagnoser
        >>> maps = query_maps(tiny_diagnoser("queries"), torch.rand(2, 1, 64, 64), None, classes=[0, 2])
        >>> maps.shape, maps.sum(dim=(2, 3)).round(decimals=3).tolist()
        (torch.Size([2, 2, 2, 2]), [[1.0, 1.0], [1.0, 1.0]])
    """
    head = diagnoser.head
    if not has_queries(head):
        raise MedtailError("method 'attention': the head has no query a class; choose another method.")
    assert isinstance(head, ClassAttentionHead | MlDecoderHead | TextQueryHead | SyntusHead)
    with torch.no_grad():
        features = diagnoser.backbone(diagnoser.inputs(images, content))
        looks = head.attention(features).mean(dim=1)
    chosen = [query_of(head, int(column)) for column in classes]
    return looks[:, chosen].reshape(len(images), len(chosen), *features.shape[-2:]).float()


def query_of(head: Head, column: int) -> int:
    """Return the number of the query that answers for a class.

    Example:
        >>> from medtail.models.ml_decoder import MlDecoderConfig
        >>> head = MlDecoderHead(8, 5, config=MlDecoderConfig(groups=2, width=8, inner=8))
        >>> [query_of(head, column) for column in range(5)]
        [0, 0, 0, 1, 1]
    """
    return column // int(head.weight.shape[2]) if isinstance(head, MlDecoderHead) else column
