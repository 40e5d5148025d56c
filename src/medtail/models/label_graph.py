"""Label graph: the last layer's weights are made by a graph network over the labels.

Labels that go together in the train fold share what they learn: a rare one's weights are drawn toward those of the
common ones it comes with. The graph is fixed, its edges are conditional frequencies above a cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, final

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from medtail.config import CLOSED
from medtail.models.contract import Head, HeadAnswer

Natural = Annotated[int, Field(ge=1)]
LEAK = 0.2


@final
@dataclass(frozen=True, kw_only=True)
class LabelGraphConfig:
    """ML-GCN with learnt label vectors in the place of word vectors.

    Attributes:
        cut: An edge from i to j where P(j | i) is at least this, in (0, 1].
        neighbours: Share p of a label's new vector that comes from its neighbours, in [0, 1).
        embedding: Length of a label's vector; word vectors have 300.
        width: Of the hidden layer; the paper's is 1024.
        pool: Over the map: the paper's `max`, or `mean`.
        prior_bias: Start from the train fold's class frequencies rather than from one half.

    References:
        chen2019b.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["label_graph"] = "label_graph"
    cut: Annotated[float, Field(gt=0.0, le=1.0)] = 0.4
    neighbours: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.2
    embedding: Natural = 128
    width: Natural = 256
    pool: Literal["max", "mean"] = "max"
    prior_bias: bool = True


def label_graph(together: np.ndarray, *, cut: float, neighbours: float) -> np.ndarray:
    """Turn counts of joint occurrence into the graph that a layer multiplies with.

    P(j | i) = M_ij / M_ii is cut to 0 or 1; a label's edges share `neighbours` and its own loop has the rest. A label
    without edges keeps all of itself, so every row adds up to 1.

    Args:
        together: M, rows that show both labels, their own counts on the diagonal, [C, C].
        cut: In (0, 1].
        neighbours: In [0, 1).

    Returns:
        Float64 [C, C].

    Example:
        >>> label_graph(np.array([[10, 1], [1, 2]]), cut=0.4, neighbours=0.2)  # the rare one has the common one
        array([[1. , 0. ],
               [0.2, 0.8]])

    References:
        chen2019b.
    """
    counts = np.maximum(np.diag(together).astype(float), 1.0)[:, None]
    edges = (together / counts >= cut).astype(float)
    np.fill_diagonal(edges, 0.0)
    degree = edges.sum(axis=1, keepdims=True)
    weighed = neighbours * np.divide(edges, degree, out=np.zeros_like(edges), where=degree > 0)
    return np.asarray(weighed + np.diag(np.where(degree[:, 0] > 0, 1.0 - neighbours, 1.0)))


@final
class LabelGraphHead(Head):
    """[B, D, h, w] → pooled [B, D] · W(graph) + b, W = A leaky(A E W₁) W₂.

    Args:
        feature_dim: D.
        num_classes: C.
        config: Sizes and cut.
        together: Counts of joint occurrence in the train fold, [C, C]; None where loaded weights will bring the graph.
        bias: First bias, one value a class; 0 if None.

    Example:
        >>> head = LabelGraphHead(8, 3, config=LabelGraphConfig(), together=np.eye(3))
        >>> head(torch.zeros(2, 8, 4, 4)).shape
        torch.Size([2, 3])

    References:
        chen2019b.
    """

    graph: Tensor

    def __init__(
        self,
        feature_dim: int,
        num_classes: int,
        *,
        config: LabelGraphConfig,
        together: np.ndarray | None = None,
        bias: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        counts = np.eye(num_classes) if together is None else together
        graph = label_graph(counts, cut=config.cut, neighbours=config.neighbours)
        # kept with the weights: a loaded model needs no train fold
        self.register_buffer("graph", torch.as_tensor(graph, dtype=torch.float32))
        self.embedding = nn.Parameter(torch.randn(num_classes, config.embedding) / config.embedding**0.5)
        self.first = nn.Linear(config.embedding, config.width, bias=False)
        self.second = nn.Linear(config.width, feature_dim, bias=False)
        start = torch.zeros(num_classes) if bias is None else torch.tensor(list(bias), dtype=torch.float32)
        self.bias = nn.Parameter(start)

    def weights(self) -> Tensor:
        """Return the last layer's weights, float [C, D]."""
        hidden = leaky_relu(self.graph @ self.first(self.embedding), LEAK)
        found: Tensor = self.graph @ self.second(hidden)
        return found

    def answer(self, features: Tensor) -> HeadAnswer:
        """Pool, then score with the weights the graph makes."""
        pooled = features.amax(dim=(2, 3)) if self.config.pool == "max" else features.mean(dim=(2, 3))
        return HeadAnswer(logits=pooled @ self.weights().T + self.bias, pooled=pooled)
