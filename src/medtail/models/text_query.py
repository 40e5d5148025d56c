"""Text queries: a head whose queries are made of texts, so that it can be asked for classes it was not trained on.

An ML-Decoder whose queries are projected text vectors and whose last layer is one vector for all classes. What is
learnt belongs to no class; the classes are rows of a buffer, which is stored with the weights and can be replaced.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, final

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from medtail.config import CLOSED
from medtail.errors import MedtailError
from medtail.models.contract import Head, HeadAnswer
from medtail.tables.labels import LabelSpace
from medtail.tables.vectors import PhraseKind, read_text_vectors

Natural = Annotated[int, Field(ge=1)]


@final
@dataclass(frozen=True, kw_only=True)
class TextQueryConfig:
    """Queries made of texts, one a class.

    Attributes:
        texts: File of text vectors, as `medtail zero-shot embed` writes; read when training begins and never after.
        phrases: Which phrases of a class are averaged.
        text_width: Length of its vectors; 384 for `minilm`, 512 for CLIP ViT-B.
        width: Length of queries and tokens; a multiple of `heads`.
        heads: Of attention.
        inner: Width of the feed-forward block.
        dropout: While training, of attention too.
        match: Add the likeness of a query and what it read, q_c · v_c / √width; False leaves ML-Decoder's shared vector
            alone to judge, which carries over to classes that were not trained less well.
        prior_bias: Start from the train fold's class frequencies: a fixed offset a class, and one learnt number for
            all. A class asked later has no offset, which moves its scores but not their order.

    References:
        ridnik2023.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    texts: str
    kind: Literal["text_query"] = "text_query"
    phrases: PhraseKind = "prompt"
    text_width: Natural = 384
    width: Natural = 256
    heads: Natural = 8
    inner: Natural = 1024
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    match: bool = True
    prior_bias: bool = True

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise MedtailError(f"width {self.width}, heads {self.heads}: expected a width that is a multiple of heads.")


def read_class_texts(config: TextQueryConfig, labels: LabelSpace) -> np.ndarray:
    """Read the text vectors of the classes to learn.

    Args:
        config: Names the file.
        labels: The classes.

    Returns:
        float32 [C, text_width] of length 1.

    Raises:
        MedtailError: No such file, a class without phrases, or vectors of another length.
    """
    texts = read_text_vectors(config.texts)
    if texts.width != config.text_width:
        raise MedtailError(
            f"head.text_width: found {config.text_width}; {texts.name} has vectors of length {texts.width}. Set"
            f" `text_width: {texts.width}`."
        )
    return texts.means(labels.class_names, config.phrases)


@final
class TextQueryHead(Head):
    """[B, D, h, w] and text vectors [C, T] → [B, C].

    q_c = norm(W t_c) reads v_c from the map by cross-attention, and both pass a feed-forward block to z_c;
    s_c = w · z_c + q_c · v_c / √width + b + o_c with one w and b for all classes and o_c a fixed offset. No query sees
    another: a class's logit is the same whichever classes are asked beside it. (The second term is this project's.)

    Args:
        feature_dim: D.
        num_classes: C.
        config: Sizes.
        texts: float [C, T] of length 1; zeros, to be filled with stored ones, if None.
        bias: Log prior, one value a class; 0 if None.

    Raises:
        MedtailError: The vectors are not [C, T].

    Example:
        >>> head = TextQueryHead(16, 5, config=TextQueryConfig(texts="t.safetensors", text_width=8, width=8),
        ...                      texts=np.eye(5, 8)).eval()
        >>> head(torch.zeros(2, 16, 4, 4)).shape
        torch.Size([2, 5])
        >>> head.asked(np.eye(8)[5:])(torch.zeros(2, 16, 4, 4)).shape
        torch.Size([2, 3])

    References:
        ridnik2023.
    """

    class_texts: Tensor
    offset: Tensor

    def __init__(
        self,
        feature_dim: int,
        num_classes: int,
        *,
        config: TextQueryConfig,
        texts: np.ndarray | None = None,
        bias: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        width = config.width
        self.config = config
        self.feature_dim = feature_dim
        given = np.zeros((num_classes, config.text_width), np.float32) if texts is None else np.asarray(texts)
        if given.shape != (num_classes, config.text_width):
            raise MedtailError(
                f"head.texts: found vectors {list(given.shape)}; expected {[num_classes, config.text_width]}, one a"
                " class of length head.text_width."
            )
        prior = torch.zeros(num_classes) if bias is None else torch.tensor(list(bias), dtype=torch.float32)
        self.register_buffer("class_texts", torch.as_tensor(given, dtype=torch.float32).clone())
        self.register_buffer("offset", prior - prior.mean())
        self.embed = nn.Linear(feature_dim, width)
        self.project = nn.Linear(config.text_width, width)
        self.query_norm = nn.LayerNorm(width)
        self.to_queries = nn.Linear(width, width)
        self.to_keys = nn.Linear(width, width)
        self.to_values = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.read_norm = nn.LayerNorm(width)
        self.inner = nn.Sequential(
            nn.Linear(width, config.inner), nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(config.inner, width)
        )
        self.last_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)
        self.weight = nn.Parameter(torch.randn(width) / width)
        self.bias = nn.Parameter(prior.mean())

    def asked(self, texts: np.ndarray, *, offset: Sequence[float] | None = None) -> TextQueryHead:
        """Return the head with the same weights and other classes.

        Args:
            texts: float [C', T] of length 1.
            offset: Of each class; 0 if None.
        """
        with torch.random.fork_rng(devices=[]):  # initial weights that are replaced at once
            other = TextQueryHead(self.feature_dim, len(texts), config=self.config, texts=texts)
        own = {name: value for name, value in self.state_dict().items() if name not in ("class_texts", "offset")}
        other.load_state_dict({**other.state_dict(), **own})
        if offset is not None:
            other.offset.copy_(torch.tensor(list(offset)))
        return other.train(self.training)

    def answer(self, features: Tensor) -> HeadAnswer:
        """Let the texts read the map; `pooled` is the mean of the embedded map."""
        tokens = torch.relu(self.embed(features.flatten(2).transpose(1, 2)))
        queries = self.query_norm(self.dropout(self.project(self.class_texts))).expand(tokens.shape[0], -1, -1)
        found = F.scaled_dot_product_attention(
            self._heads(self.to_queries(queries)),
            self._heads(self.to_keys(tokens)),
            self._heads(self.to_values(tokens)),
            dropout_p=self.config.dropout if self.training else 0.0,
        )
        values = self.out(found.transpose(1, 2).flatten(2))
        read = self.read_norm(queries + self.dropout(values))
        vectors = self.last_norm(read + self.dropout(self.inner(read)))
        logits = vectors @ self.weight + self.bias + self.offset
        if self.config.match:
            logits = logits + (queries * values).sum(dim=2) / math.sqrt(self.config.width)
        return HeadAnswer(logits=logits, pooled=tokens.mean(dim=1))

    def attention(self, features: Tensor) -> Tensor:
        """Return where each text looks, [B, heads, C, h · w], adding up to 1 over positions; without dropout."""
        tokens = torch.relu(self.embed(features.flatten(2).transpose(1, 2)))
        queries = self.query_norm(self.project(self.class_texts)).expand(len(tokens), -1, -1)
        asked, keys = self._heads(self.to_queries(queries)), self._heads(self.to_keys(tokens))
        return torch.softmax(asked @ keys.transpose(2, 3) / math.sqrt(keys.shape[-1]), dim=-1)

    def _heads(self, tokens: Tensor) -> Tensor:
        return tokens.reshape(*tokens.shape[:2], self.config.heads, -1).transpose(1, 2)
