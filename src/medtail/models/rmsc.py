"""RMsC, the residual multiscale classifier of CSASN: attention over tokens of a map, then a small MLP.

The paper writes `softmax(Q Kᵀ / sqrt(D)) V` over a matrix [B, D] of pooled features, which is attention across the
images of a batch. What its tokens should be is open, so each reading is a small type of its own; the block around
them (residual, layer norm) and the MLP behind them are the same for all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, assert_never, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from medtail.config import CLOSED
from medtail.errors import MedtailError

Natural = Annotated[int, Field(ge=1)]


@final
@dataclass(frozen=True, kw_only=True)
class Positions:
    """Every position of the map is a token."""

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["positions"] = "positions"


@final
@dataclass(frozen=True, kw_only=True)
class Pyramid:
    """Positions of the map at several scales together; the only reading with more than one scale.

    Attributes:
        grids: Sides of the grids the map is averaged to; none above the map's own side.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["pyramid"] = "pyramid"
    grids: Annotated[tuple[Natural, ...], Field(min_length=1)] = (14, 7, 1)


@final
@dataclass(frozen=True, kw_only=True)
class Branches:
    """One token a branch of the trunk, each projected to the width; read out side by side."""

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["branches"] = "branches"


@final
@dataclass(frozen=True, kw_only=True)
class Chunks:
    """The pooled vector cut into equal tokens; read out end to end. `width` has no say here.

    Attributes:
        count: Tokens; must divide the channels of the map.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["chunks"] = "chunks"
    count: Natural = 17


@final
@dataclass(frozen=True, kw_only=True)
class Batch:
    """Every image of the batch is a token: the formula as printed.

    Attributes:
        at_test: In eval mode an image attends to itself `alone`, or to its `mates` in the batch. With `mates` the
            scores are no function of the image, and prediction refuses the model unless it is asked for by name.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["batch"] = "batch"
    at_test: Literal["alone", "mates"] = "alone"


@final
@dataclass(frozen=True, kw_only=True)
class NoAttention:
    """No token looks at another: layer norm and mean over the positions (the control of all readings)."""

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["none"] = "none"


Attend = Annotated[
    Positions | Pyramid | Branches | Chunks | Batch | NoAttention,
    Field(discriminator="kind"),
]


@final
@dataclass(frozen=True, kw_only=True)
class RmscConfig:
    """The residual multiscale classifier.

    Attributes:
        attend: What the tokens are.
        scale: Softmax of `Q Kᵀ` over the square root of a `head`'s width, or of the whole `model` width as printed.
        width: Channels of a token after a 1x1 convolution; None keeps those of the map.
        heads: Attention heads; must divide the token's width.
        readout: The `mean` of the tokens, or the row of a learned `cls` token (only for positions and pyramid).
        hidden: Widths of the MLP's two hidden layers.
        dropout: Chance of dropping a value after each hidden layer while training.

    Raises:
        MedtailError: Heads that do not divide the width, or a `cls` token where there is no sequence.

    Example:
        >>> RmscConfig(width=64, heads=7)
        Traceback (most recent call last):
        medtail.errors.MedtailError: heads: found 7; expected a divisor of the token width 64, the nearest are 4 and 8.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    attend: Attend = field(default_factory=Positions)
    scale: Literal["head", "model"] = "head"
    width: Natural | None = 512
    heads: Natural = 8
    readout: Literal["mean", "cls"] = "mean"
    hidden: tuple[Natural, Natural] = (256, 128)
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5

    def __post_init__(self) -> None:
        if self.width is not None and not isinstance(self.attend, Chunks | NoAttention):
            _check_divides("heads", self.heads, of=self.width, what="the token width")
        if self.readout == "cls" and not isinstance(self.attend, Positions | Pyramid):
            raise MedtailError(
                f"readout: found 'cls' with attend {self.attend.kind!r}; expected 'mean': only positions and pyramid"
                " have a sequence that a further token could join."
            )


def _check_divides(name: str, value: int, *, of: int, what: str) -> None:
    if of % value:
        near = [str(number) for number in nearest_divisors(of, value)]
        raise MedtailError(
            f"{name}: found {value}; expected a divisor of {what} {of}, the nearest are {' and '.join(near)}."
            if len(near) > 1
            else f"{name}: found {value}; expected a divisor of {what} {of}, the nearest is {near[0]}."
        )


def nearest_divisors(number: int, wanted: int) -> list[int]:
    """Return the divisors of a number just below and just above the one wanted.

    Example:
        >>> nearest_divisors(2176, 12), nearest_divisors(64, 100)
        ([8, 16], [64])
    """
    divisors = [divisor for divisor in range(1, number + 1) if number % divisor == 0]
    below, above = [d for d in divisors if d < wanted], [d for d in divisors if d > wanted]
    return below[-1:] + above[:1]


@final
class AttentionBlock(nn.Module):
    """`LN(Z + concat(head_1 … head_H) W_O)`, `head = softmax(Q Kᵀ / sqrt(s)) V`, all four without bias.

    Args:
        width: d, channels of a token.
        heads: H, a divisor of d.
        scale: s is d / H for `head`, d for `model`.
    """

    def __init__(self, width: int, *, heads: int, scale: Literal["head", "model"]) -> None:
        super().__init__()
        _check_divides("head.rmsc.heads", heads, of=width, what="the token width")
        self.heads = heads
        self.factor = (width // heads if scale == "head" else width) ** -0.5
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, *, alone: bool = False) -> Tensor:
        """Let tokens [B, N, d] look at each other, or each only at itself; the shape stays."""
        found = self.value(tokens)
        if not alone:
            query, key, value = (self._split(part) for part in (self.query(tokens), self.key(tokens), found))
            mixed = F.scaled_dot_product_attention(query, key, value, scale=self.factor)
            found = mixed.transpose(1, 2).flatten(2)
        answer: Tensor = self.norm(tokens + self.output(found))
        return answer

    def _split(self, tokens: Tensor) -> Tensor:
        batch, count, width = tokens.shape
        return tokens.reshape(batch, count, self.heads, width // self.heads).transpose(1, 2)


class Reading(nn.Module, ABC):
    """A map to one vector an image: a choice of tokens, attention among them, a read-out.

    Attributes:
        vector_dim: Length of the vector.
        batch_dependent: Whether in eval mode it depends on the other images of the batch.
    """

    vector_dim: int
    batch_dependent: bool = False

    @abstractmethod
    def forward(self, refined: Tensor) -> Tensor:
        """Turn a map [B, D, h, w] into vectors [B, vector_dim]."""


@final
class GridReading(Reading):
    """Positions of the map, at its own scale or averaged to several grids, as tokens.

    Args:
        channels: D.
        config: Width, heads, scale, read-out.
        grids: Sides of the grids; the map as it is if None.
    """

    def __init__(self, channels: int, *, config: RmscConfig, grids: Sequence[int] | None) -> None:
        super().__init__()
        width = config.width or channels
        self.grids = None if grids is None else tuple(grids)
        self.project = _projection(channels, config.width)
        self.cls = nn.Parameter(0.02 * torch.randn(1, 1, width)) if config.readout == "cls" else None
        self.block = AttentionBlock(width, heads=config.heads, scale=config.scale)
        self.vector_dim = width

    def forward(self, refined: Tensor) -> Tensor:
        """Turn a map into the mean of its tokens, or the row of the learned one."""
        cells: Tensor = self.project(refined.permute(0, 2, 3, 1))  # the projection commutes with averaging
        if self.grids is None:
            tokens = cells.flatten(1, 2)
        else:
            check_grids(self.grids, (cells.shape[1], cells.shape[2]))
            tokens = torch.cat([average_to_grid(cells, grid).flatten(1, 2) for grid in self.grids], dim=1)
        if self.cls is None:
            return self.block(tokens).mean(dim=1)  # type: ignore[no-any-return]
        tokens = torch.cat([self.cls.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        return self.block(tokens)[:, 0]  # type: ignore[no-any-return]


def check_grids(grids: Sequence[int], map_size: tuple[int, int]) -> None:
    """Check that a map can be averaged to every grid.

    Raises:
        MedtailError: A grid is finer than the map.
    """
    finest = min(map_size)
    if max(grids) > finest:
        raise MedtailError(
            f"head.rmsc.attend.grids: found {max(grids)}, but the map is {map_size[0]} x {map_size[1]}; expected at"
            f" most {finest}. Give coarser grids, such as {sorted({finest, max(1, finest // 2), 1}, reverse=True)}, or"
            " larger images."
        )


def average_to_grid(cells: Tensor, grid: int) -> Tensor:
    """Average cells [B, h, w, d] to [B, grid, grid, d], as `adaptive_avg_pool2d` does, by two matrices.

    Unlike the pooling function its gradient is deterministic on a GPU.

    Example:
        >>> average_to_grid(torch.arange(4.0).reshape(1, 2, 2, 1), 1).item()
        1.5
    """
    down, across = (_averaging(side, grid, like=cells) for side in cells.shape[1:3])
    return torch.einsum("gh,bhwd,kw->bgkd", down, cells, across)


def _averaging(side: int, grid: int, *, like: Tensor) -> Tensor:
    matrix = torch.zeros(grid, side)
    for row in range(grid):
        start, stop = row * side // grid, -(-(row + 1) * side // grid)
        matrix[row, start:stop] = 1.0 / (stop - start)
    return matrix.to(like)


@final
class BranchReading(Reading):
    """One token a branch; the read-out puts them side by side.

    Args:
        parts: Channels of each branch, at least two.
        config: Width, heads, scale.
    """

    def __init__(self, parts: Sequence[int], *, config: RmscConfig) -> None:
        super().__init__()
        if len(parts) < 2:
            raise MedtailError(
                "head.rmsc.attend: found 'branches', but the backbone has one; expected `backbone: {kind: dual,"
                " branches: both}`, or another reading."
            )
        if config.width is None and len(set(parts)) > 1:
            raise MedtailError(
                f"head.rmsc.width: found null with attend 'branches', of {' and '.join(map(str, parts))} channels;"
                " expected a width that both are projected to, such as 512."
            )
        width = config.width or parts[0]
        self.parts = tuple(parts)
        self.project = nn.ModuleList(_projection(channels, config.width) for channels in parts)
        self.block = AttentionBlock(width, heads=config.heads, scale=config.scale)
        self.vector_dim = len(parts) * width

    def forward(self, refined: Tensor) -> Tensor:
        """Turn a map into its branches' tokens, end to end."""
        pooled = torch.split(refined.mean(dim=(2, 3)), list(self.parts), dim=1)
        tokens = torch.stack([project(part) for project, part in zip(self.project, pooled, strict=True)], dim=1)
        return self.block(tokens).flatten(1)  # type: ignore[no-any-return]


@final
class ChunkReading(Reading):
    """The pooled vector cut into tokens; the read-out puts them together again.

    Args:
        channels: D, a multiple of `count`.
        count: Tokens.
        config: Heads, scale.
    """

    def __init__(self, channels: int, *, count: int, config: RmscConfig) -> None:
        super().__init__()
        _check_divides("head.rmsc.attend.count", count, of=channels, what="the map's channels")
        self.count = count
        self.block = AttentionBlock(channels // count, heads=config.heads, scale=config.scale)
        self.vector_dim = channels

    def forward(self, refined: Tensor) -> Tensor:
        """Turn a map into its chunks' tokens, end to end."""
        pooled = refined.mean(dim=(2, 3))
        tokens = pooled.reshape(pooled.shape[0], self.count, -1)
        return self.block(tokens).flatten(1)  # type: ignore[no-any-return]


@final
class BatchReading(Reading):
    """The images of the batch as tokens of one sequence.

    Args:
        channels: D.
        at_test: Whom an image attends to in eval mode.
        config: Width, heads, scale.
    """

    def __init__(self, channels: int, *, at_test: Literal["alone", "mates"], config: RmscConfig) -> None:
        super().__init__()
        width = config.width or channels
        self.project = _projection(channels, config.width)
        self.block = AttentionBlock(width, heads=config.heads, scale=config.scale)
        self.batch_dependent = at_test == "mates"
        self.vector_dim = width

    def forward(self, refined: Tensor) -> Tensor:
        """Turn each map into its row of the attention over the batch."""
        images = self.project(refined.mean(dim=(2, 3)))[None]
        return self.block(images, alone=not (self.training or self.batch_dependent))[0]  # type: ignore[no-any-return]


@final
class MeanReading(Reading):
    """No attention: projection, layer norm, mean over positions.

    Args:
        channels: D.
        config: Width.
    """

    def __init__(self, channels: int, *, config: RmscConfig) -> None:
        super().__init__()
        self.vector_dim = config.width or channels
        self.project = _projection(channels, config.width)
        self.norm = nn.LayerNorm(self.vector_dim)

    def forward(self, refined: Tensor) -> Tensor:
        """Turn a map into the mean of its normalised positions."""
        cells = self.norm(self.project(refined.permute(0, 2, 3, 1)))
        return cells.mean(dim=(1, 2))  # type: ignore[no-any-return]


def _projection(channels: int, width: int | None) -> nn.Module:
    """Return the 1x1 convolution as a linear layer on the last axis; nothing where the channels stay."""
    return nn.Identity() if width is None else nn.Linear(channels, width)


def build_reading(config: RmscConfig, *, parts: Sequence[int], grid: tuple[int, int] | None = None) -> Reading:
    """Build the reading a config names.

    Args:
        config: Which reading, and its sizes.
        parts: Channels of the map by branch.
        grid: Height and width of the map; None if not known yet.

    Raises:
        MedtailError: It does not fit the map.

    Example:
        >>> build_reading(RmscConfig(attend=Branches(), width=64), parts=(384, 320)).vector_dim
        128
    """
    channels = sum(parts)
    match config.attend:
        case Positions():
            return GridReading(channels, config=config, grids=None)
        case Pyramid(grids=grids):
            if grid is not None:
                check_grids(grids, grid)
            return GridReading(channels, config=config, grids=grids)
        case Branches():
            return BranchReading(parts, config=config)
        case Chunks(count=count):
            return ChunkReading(channels, count=count, config=config)
        case Batch(at_test=at_test):
            return BatchReading(channels, at_test=at_test, config=config)
        case NoAttention():
            return MeanReading(channels, config=config)
        case _:
            assert_never(config.attend)
