"""Backbones through `transformers`: from a size without weights, from a Hub id, or from a local folder.

Two traps of its EfficientNet are disarmed here: BatchNorm momentum in TensorFlow's convention (running statistics
would become the last batch) and, without weights, BatchNorm gains drawn near zero (no signal would pass). Weights
are read from safetensors only, and no code of a model repository is ever run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, assert_never, final

import torch
from torch import Tensor, nn

from medtail.errors import MedtailError
from medtail.models.backbones import (
    Backbone,
    ConvNextConfig,
    EfficientNetConfig,
    HubConfig,
    ResNetConfig,
    TransformersConfig,
    ViTConfig,
    adapt_channels,
)

NORM_MOMENTUM = 0.01
"""Share of the new batch in BatchNorm's running statistics; transformers' EfficientNet says 0.99."""


@final
class TransformersNetwork(nn.Module):
    """A model of transformers read as a feature map.

    Args:
        model: The bare model, without classification head.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        # the pooler of a ViT holds weights that no feature map uses; unused weights would stall DDP
        pooler = getattr(model, "pooler", None)
        if isinstance(pooler, nn.Module) and any(True for _ in pooler.parameters()):
            model.pooler = None  # type: ignore[assignment]
        self.model = model
        self.patch_px = _patch_size(model.config)
        self.interpolates = _takes_interpolation(model)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images [B, c, H, W] to [B, D, h, w]."""
        hidden = self._hidden(images)
        if hidden.ndim == 4:
            return self._as_map(hidden)
        across, down = self._patches(images)
        patches = hidden[:, hidden.shape[1] - down * across :]  # class and register tokens come first
        return patches.transpose(1, 2).reshape(images.shape[0], -1, down, across)

    def vector(self, images: Tensor) -> Tensor:
        """Map normalised images [B, c, H, W] to [B, D]: the class token, or the mean where there is none."""
        hidden = self._hidden(images)
        if hidden.ndim == 4:
            return self._as_map(hidden).mean(dim=(2, 3))
        across, down = self._patches(images)
        return hidden[:, 0] if hidden.shape[1] > across * down else hidden.mean(dim=1)

    def _as_map(self, hidden: Tensor) -> Tensor:
        norm = getattr(self.model, "layernorm", None)  # ConvNeXt keeps one for after its own pooling
        if isinstance(norm, nn.LayerNorm):
            channels_last: Tensor = norm(hidden.permute(0, 2, 3, 1))
            return channels_last.permute(0, 3, 1, 2)
        return hidden

    def _hidden(self, images: Tensor) -> Tensor:
        if self.interpolates:
            hidden = self.model(images, interpolate_pos_encoding=True).last_hidden_state
        else:
            hidden = self.model(images).last_hidden_state
        assert isinstance(hidden, Tensor)
        return hidden

    def _patches(self, images: Tensor) -> tuple[int, int]:
        assert self.patch_px is not None, "checked when built"
        return images.shape[-1] // self.patch_px, images.shape[-2] // self.patch_px


def _patch_size(config: Any) -> int | None:
    patch = getattr(config, "patch_size", None)
    return int(patch[0]) if isinstance(patch, (list, tuple)) else patch


def _takes_interpolation(model: nn.Module) -> bool:
    import inspect

    return "interpolate_pos_encoding" in inspect.signature(model.forward).parameters


def build_from_transformers(
    config: TransformersConfig,
    *,
    channels: int,
    size_px: int,
    architecture: Mapping[str, Any] | None,
    load_weights: bool,
) -> Backbone:
    """Build a backbone through transformers; see `backbones.build_backbone` for arguments and errors."""
    mean: Sequence[float] | None
    if architecture is not None:
        model, network_channels = _from_architecture(architecture["network"]), int(architecture["channels"])
        mean, std = architecture["mean"], architecture["std"]
    elif config.weights is not None and load_weights:
        mean, std = config.mean, config.std
        if mean is None or std is None:
            mean, std = read_normalisation(config.weights)
        model = _from_weights(config)
        network_channels = _fit_channels(model, channels, mean, std)
        mean, std = _spread(mean, network_channels), _spread(std, network_channels)
    else:
        assert not isinstance(config, HubConfig), "a Hub model is rebuilt from its card's architecture"
        model, network_channels = _from_size(config, channels=channels, size_px=size_px), channels
        mean, std = [0.5] * channels, [0.5] * channels
    _set_norm_momentum(model)
    network = TransformersNetwork(model)
    return Backbone(
        network,
        feature_dim=_check_map(network, config, channels=network_channels, size_px=size_px),
        channels=channels,
        network_channels=network_channels,
        mean=mean,
        std=std,
        is_convolutional=not network.interpolates,
        architecture={
            "network": json.loads(model.config.to_json_string(use_diff=False)),
            "channels": network_channels,
            "mean": [float(value) for value in mean],
            "std": [float(value) for value in std],
        },
    )


def _from_size(config: EfficientNetConfig | ViTConfig | ResNetConfig | ConvNextConfig, *,
               channels: int, size_px: int) -> Any:  # fmt: skip
    import transformers as tf

    size = config.size
    match config:
        case EfficientNetConfig():
            width, depth, hidden = {"tiny": (0.25, 0.25, 320), "small": (1.0, 1.0, 1280), "base": (1.1, 1.2, 1408)}[
                size
            ]
            model = tf.EfficientNetModel(
                tf.EfficientNetConfig(
                    num_channels=channels,
                    image_size=size_px,
                    width_coefficient=width,
                    depth_coefficient=depth,
                    hidden_dim=hidden,
                    batch_norm_momentum=NORM_MOMENTUM,
                    drop_connect_rate=config.drop_connect,
                )
            )
            restore_signal(model)
            return model
        case ViTConfig():
            width, depth, heads, inner = {
                "tiny": (64, 2, 4, 128), "small": (384, 12, 6, 1536), "base": (768, 12, 12, 3072)
            }[size]  # fmt: skip
            shape = tf.ViTConfig(
                num_channels=channels,
                image_size=max(size_px // 16, 1) * 16,
                hidden_size=width,
                num_hidden_layers=depth,
                num_attention_heads=heads,
                intermediate_size=inner,
                hidden_dropout_prob=config.dropout,
            )
            return tf.ViTModel(shape, add_pooling_layer=False)
        case ResNetConfig():
            stem, widths, depths, layer = {
                "tiny": (16, [16, 32, 64, 128], [1, 1, 1, 1], "basic"),
                "small": (64, [64, 128, 256, 512], [2, 2, 2, 2], "basic"),
                "base": (64, [256, 512, 1024, 2048], [3, 4, 6, 3], "bottleneck"),
            }[size]
            return tf.ResNetModel(
                tf.ResNetConfig(
                    num_channels=channels, embedding_size=stem, hidden_sizes=widths, depths=depths, layer_type=layer
                )
            )
        case ConvNextConfig():
            widths, depths = {
                "tiny": ([16, 32, 64, 128], [1, 1, 2, 1]),
                "small": ([96, 192, 384, 768], [3, 3, 9, 3]),
                "base": ([128, 256, 512, 1024], [3, 3, 27, 3]),
            }[size]
            return tf.ConvNextModel(
                tf.ConvNextConfig(
                    num_channels=channels, hidden_sizes=widths, depths=depths, drop_path_rate=config.drop_path
                )
            )
        case _:
            assert_never(config)


def restore_signal(model: nn.Module) -> None:
    """Re-initialise a network that starts without weights so that signals keep their size.

    transformers draws the gains of EfficientNet's BatchNorm from a normal distribution of deviation 0.02; after
    a few layers nothing is left of the image. Gains become 1, shifts 0, convolutions variance 2 / fan-out.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            kernel = module.kernel_size[0] * module.kernel_size[1]
            nn.init.normal_(module.weight, std=(2.0 * module.groups / (kernel * module.out_channels)) ** 0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _set_norm_momentum(model: Any) -> None:
    """Make running statistics of an EfficientNet average over batches; other networks keep their own momentum.

    Some of its norms have 0.99, TensorFlow's share of the *old* statistics, others torch's default.
    """
    if model.config.model_type != "efficientnet":
        return
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = NORM_MOMENTUM
    model.config.batch_norm_momentum = NORM_MOMENTUM


MODEL_TYPES = {"efficientnet": "efficientnet", "vit": "vit", "resnet": "resnet", "convnext": "convnext"}


def _from_weights(config: TransformersConfig) -> Any:
    import transformers as tf

    assert config.weights is not None
    source = locate_weights(config.weights)
    try:
        shape = tf.AutoConfig.from_pretrained(source, trust_remote_code=False)
        expected = MODEL_TYPES.get(config.kind)
        if expected is not None and shape.model_type != expected:
            raise MedtailError(
                f"backbone.weights: {config.weights!r} is a {shape.model_type!r} network; expected {expected!r} as"
                f" backbone.kind says. Give `kind: {_kind_of(shape.model_type)}`."
            )
        _set_drop(shape, config)
        model, info = tf.AutoModel.from_pretrained(
            source, config=shape, use_safetensors=True, dtype=torch.float32, trust_remote_code=False,
            output_loading_info=True,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        if isinstance(error, MedtailError):
            raise
        raise MedtailError(_not_found(config.weights, error)) from error
    missing = sorted(name for name in info["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise MedtailError(
            f"backbone.weights: {config.weights!r} lacks {len(missing)} tensors of its network, such as {missing[0]!r};"
            " expected the complete weights. Choose another checkpoint."
        )
    return model


def read_patch_px(weights: str) -> int | None:
    """Read from a model's config alone how many pixels its patches are wide; None if it says nothing of patches.

    Raises:
        MedtailError: There is no such model.
    """
    import transformers as tf

    try:
        shape = tf.AutoConfig.from_pretrained(locate_weights(weights), trust_remote_code=False)
    except (OSError, ValueError) as error:
        if isinstance(error, MedtailError):
            raise
        raise MedtailError(_not_found(weights, error)) from error
    return _patch_size(shape)


def _kind_of(model_type: str) -> str:
    return model_type if model_type in MODEL_TYPES else "hub"


def _set_drop(shape: Any, config: TransformersConfig) -> None:
    match config:
        case EfficientNetConfig():
            shape.drop_connect_rate = config.drop_connect
        case ViTConfig():
            shape.hidden_dropout_prob = config.dropout
        case ConvNextConfig():
            shape.drop_path_rate = config.drop_path
        case ResNetConfig() | HubConfig():
            pass
        case _:
            assert_never(config)


def locate_weights(weights: str) -> str:
    """Return a local folder's path, or the Hub id unchanged.

    Raises:
        MedtailError: It is written as a path, and no such folder exists.
    """
    folder = Path(weights).expanduser()
    if folder.is_dir():
        return str(folder)
    is_path = folder.is_absolute() or weights.startswith((".", "~")) or len(folder.parts) > 2 or folder.exists()
    if is_path:
        raise MedtailError(
            f"backbone.weights: no folder {weights!r}; expected a Hub id such as 'google/vit-base-patch16-224' or a"
            " folder holding config.json, preprocessor_config.json and model.safetensors."
        )
    return weights


def _not_found(weights: str, error: Exception) -> str:
    if Path(weights).is_dir():
        reason = str(error).splitlines()[0]
        return (
            f"backbone.weights: the folder {weights!r} cannot be used ({reason}). Expected config.json and"
            " model.safetensors; pickled weights (.bin, .pth) are never read: convert them with `save_pretrained`."
        )
    offline = "HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") else "asked the Hub"
    return (
        f"backbone.weights: {weights!r} was not found: no such folder here, not in the local Hub cache, and the Hub did"
        f" not give it ({offline}: {str(error).splitlines()[0]}). Expected a Hub id with safetensors weights. On a"
        " machine without internet give a local folder holding config.json, preprocessor_config.json and"
        " model.safetensors, or use `kind: efficientnet_lite0`, whose weights are a pip package."
    )


def read_normalisation(weights: str) -> tuple[list[float], list[float]]:
    """Read mean and standard deviation on the [0, 1] scale from the weights' own preprocessor file.

    Raises:
        MedtailError: There is none, or it rescales in a way other than by 1 / 255.
    """
    from transformers.image_processing_base import ImageProcessingMixin

    source = locate_weights(weights)
    try:
        settings, _ = ImageProcessingMixin.get_image_processor_dict(source)
    except (OSError, ValueError) as error:
        if not Path(source).is_dir():
            raise MedtailError(_not_found(weights, error)) from error
        raise MedtailError(
            f"backbone.weights: {weights!r} has no preprocessor_config.json, so its normalisation is unknown; put the"
            " file beside the weights, or give backbone.mean and backbone.std on the [0, 1] scale."
        ) from error
    return normalisation_of(settings, weights=weights)


def normalisation_of(settings: Mapping[str, Any], *, weights: str) -> tuple[list[float], list[float]]:
    """Turn a preprocessor file's settings into mean and deviation on the [0, 1] scale.

    Example:
        >>> normalisation_of({"image_mean": [0.5], "image_std": [0.25]}, weights="x")
        ([0.5], [0.25])
    """
    scale = 255.0 * float(settings.get("rescale_factor", 1.0 / 255.0)) if settings.get("do_rescale", True) else 255.0
    mean, std = [0.0], [1.0]
    if settings.get("do_normalize", True) and "image_mean" in settings and "image_std" in settings:
        mean = [float(value) for value in settings["image_mean"]]
        std = [float(value) for value in settings["image_std"]]
    offset = 1.0 if settings.get("rescale_offset") else 0.0
    # transformers' EfficientNet divides by the deviation twice where `include_top` is set
    is_twice = settings.get("image_processor_type", "").startswith("EfficientNet") and settings.get("include_top", True)
    if min(std) <= 0 or scale <= 0:
        raise MedtailError(f"backbone.weights: {weights!r} normalises with std {std}; expected values above 0.")
    # (scale·x − offset − mean) / std = (x − (offset + mean) / scale) / (std / scale)
    return (
        [(offset + value) / scale for value in mean],
        [(value * value if is_twice else value) / scale for value in std],
    )


def _spread(values: Sequence[float], channels: int) -> list[float]:
    return [float(values[0])] * channels if len(set(values)) == 1 else [float(value) for value in values]


def _fit_channels(model: Any, channels: int, mean: Sequence[float], std: Sequence[float]) -> int:
    """Adapt the first convolution to the images' channels where that is exact; return the network's channels.

    With one normalisation for all channels, summing weights is exact. Otherwise the zero padding of a convolution
    sees different values a channel, and no single-channel convolution is equal: gray images are repeated instead.
    """
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None:
        return channels  # no network for images; refused when its map is looked at
    found = first.in_channels
    if found == channels or (channels == 1 and (len(set(mean)) > 1 or len(set(std)) > 1)):
        return found
    first.weight = nn.Parameter(adapt_channels(first.weight.detach(), channels))
    first.in_channels = channels
    for module in model.modules():  # the embeddings check the number of channels they were built for
        if getattr(module, "num_channels", None) == found:
            module.num_channels = channels
    model.config.num_channels = channels
    return channels


def _from_architecture(network: Mapping[str, Any]) -> Any:
    import transformers as tf

    values = {key: value for key, value in network.items() if key not in ("transformers_version", "model_type")}
    try:
        shape = tf.AutoConfig.for_model(network["model_type"], **values)
        model = tf.AutoModel.from_config(shape, trust_remote_code=False)  # type: ignore[no-untyped-call]
    except (KeyError, ValueError, TypeError) as error:
        raise MedtailError(
            f"card.json, architecture: transformers cannot build it ({error}); expected an untouched model card."
        ) from error
    return model


def _check_map(network: TransformersNetwork, config: TransformersConfig, *, channels: int, size_px: int) -> int:
    """Run the network once; return the feature channels D.

    Raises:
        MedtailError: What comes out is neither a map nor one token a patch, or the images are too small.
    """
    network.eval()
    where = f"backbone.kind {config.kind!r} at {size_px} px"
    try:
        with torch.no_grad():
            features = network(torch.zeros(1, channels, size_px, size_px))
    except (RuntimeError, AttributeError, AssertionError, TypeError, ValueError) as error:
        raise MedtailError(
            f"{where}: the network does not turn such images into a feature map ({error}); expected a map or one token"
            " a patch. Use larger images, or another backbone."
        ) from error
    network.train()
    if features.numel() == 0:
        raise MedtailError(f"{where}: the feature map is empty; expected larger images for this network.")
    return int(features.shape[1])
