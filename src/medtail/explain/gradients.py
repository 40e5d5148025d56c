"""Heat from gradients at a feature map inside the network: Grad-CAM and Layer-CAM.

The last map of a convolutional network at 64 to 160 px has 2 to 5 positions a side, too coarse to point at anything.
So the map explained is the last one with at least `FINEST` positions a side; where there is none, as in a transformer
of few patches, the last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medtail.explain.evidence import Branch, branch_channels, log_odds, require_captum
from medtail.models.diagnoser import Diagnoser
from medtail.models.dual import DualBackbone

FINEST = 7
"""Positions a side that a map should have: what the last map of a ResNet has at 224 px."""
Form = Literal["grad_cam", "layer_cam"]


@final
class Odds(nn.Module):
    """Images to log-odds, as a module whose layers can be explained.

    Args:
        diagnoser: The model; shared, not copied.
        content: Where there is image; None where all is.
    """

    def __init__(self, diagnoser: Diagnoser, content: Tensor | None) -> None:
        super().__init__()
        self.diagnoser, self.content = diagnoser, content

    def forward(self, images: Tensor) -> Tensor:
        """Turn images [N, channels, H, W] into log-odds [N, C]."""
        model = self.diagnoser
        return log_odds(model(images, self.content), labels=model.labels, link=model.link)


def layer_of(diagnoser: Diagnoser, network: nn.Module, image: Tensor, *, finest: int = FINEST) -> nn.Module:
    """Return the layer of a network whose map is to be explained.

    Args:
        diagnoser: The model.
        network: Its trunk, or one branch of it.
        image: Float [1, channels, H, W]; the layers are found by running it.
        finest: Positions a side that the map should have.

    Returns:
        The last layer to run whose output has them; the network itself if none has.

    Example:
        >>> from medtail.explain.examples import tiny_diagnoser
        >>> model = tiny_diagnoser("cnn")
        >>> layer = layer_of(model, model.backbone, torch.zeros(1, 1, 64, 64))
        >>> layer is model.backbone, layer_of(model, model.backbone, torch.zeros(1, 1, 64, 64), finest=99) is layer
        (False, False)
    """
    seen: list[nn.Module] = []

    def note(module: nn.Module, arguments: Any, output: Any) -> None:
        del arguments
        # padding shifts the grid against the image
        is_padding = isinstance(module, nn.ZeroPad2d | nn.ConstantPad2d)
        if isinstance(output, Tensor) and output.ndim == 4 and not is_padding and min(output.shape[-2:]) >= finest:
            seen.append(module)

    handles = [module.register_forward_hook(note) for module in network.modules()]
    try:
        with torch.no_grad():
            diagnoser(image)
    finally:
        for handle in handles:
            handle.remove()
    return seen[-1] if seen else network


def gradient_maps(
    diagnoser: Diagnoser,
    images: Tensor,
    content: Tensor | None,
    *,
    classes: Sequence[int],
    branch: Branch = "joint",
    form: Form = "layer_cam",
) -> Tensor:
    """Weigh a feature map A by how the log-odds s of a class change with it.

    `grad_cam` is Σ_k α_k A_k(x) with α_k the mean over positions of ∂s / ∂A_k, without its last ReLU. `layer_cam` keeps
    the gradient of each position, Σ_k (∂s / ∂A_k(x))⁺ A_k(x), which is what makes maps before the last one useful. The
    joint map of a dual model adds the branches' positive heat, each with its share of the evidence in the joined map.

    Args:
        diagnoser: In eval mode.
        images: Float [N, channels, H, W] in [0, 1].
        content: Where there is image, [N, 1, H, W]; None where all is.
        classes: Columns of the classes wanted.
        branch: Whose map is explained.
        form: `grad_cam` or `layer_cam`.

    Returns:
        float32 [N, len(classes), h, w]: above 0 what speaks for the class.

    Raises:
        MedtailError: No such branch, or captum is not installed (Grad-CAM).

    Example:
        >>> from medtail.explain.examples import tiny_diagnoser
        >>> gradient_maps(tiny_diagnoser("cnn"), torch.rand(2, 1, 64, 64), None, classes=[0, 2]).shape
        torch.Size([2, 2, 8, 8])

    References:
        selvaraju2017 (Grad-CAM); jiang2021 (Layer-CAM); kokhlikyan2020 (captum).
    """
    branch_channels(diagnoser.backbone, branch)  # refuses a branch that is not there
    trunk = diagnoser.backbone
    if not isinstance(trunk, DualBackbone):
        return _at_layer(diagnoser, trunk, images, content, classes=classes, form=form)
    parts: tuple[tuple[Branch, nn.Module | None], ...] = (("vit", trunk.vit), ("cnn", trunk.cnn))
    wanted = [(name, network) for name, network in parts if network is not None and branch in (name, "joint")]
    maps = [_at_layer(diagnoser, network, images, content, classes=classes, form=form) for _, network in wanted]
    if len(maps) == 1:
        return maps[0]
    shares = evidence_shares(diagnoser, images, content, classes=classes)
    side = max(found.shape[-1] for found in maps), max(found.shape[-2] for found in maps)
    joint = torch.zeros(len(images), len(classes), side[1], side[0], device=images.device)
    for (name, _), found in zip(wanted, maps, strict=True):
        heat = F.interpolate(found.relu(), size=joint.shape[-2:], mode="bilinear", align_corners=False)
        joint += shares[name][:, :, None, None] * heat / heat.sum(dim=(2, 3), keepdim=True).clamp(min=1e-20)
    return joint


def evidence_shares(
    diagnoser: Diagnoser, images: Tensor, content: Tensor | None, *, classes: Sequence[int]
) -> dict[Branch, Tensor]:
    """Split what speaks for each class between the branches of a dual model.

    A branch's evidence is Σ_x (Σ_k ∂s / ∂A_k(x) A_k(x))⁺ over its own channels of the joined map.

    Returns:
        Branch → float32 [N, len(classes)], >= 0, adding up to 1; one half each where nothing speaks for a class.

    Example:
        >>> from medtail.explain.examples import tiny_diagnoser
        >>> shares = evidence_shares(tiny_diagnoser("dual"), torch.rand(1, 1, 64, 64), None, classes=[0])
        >>> round(float(shares["cnn"] + shares["vit"]), 3)
        1.0
    """
    trunk = diagnoser.backbone
    with torch.enable_grad():
        features = trunk(diagnoser.inputs(images, content)).detach().requires_grad_()
        odds = log_odds(diagnoser.head(features), labels=diagnoser.labels, link=diagnoser.link)
        gradients = [torch.autograd.grad(odds[:, int(c)].sum(), features, retain_graph=True)[0] for c in classes]
    found: dict[Branch, Tensor] = {}
    names: tuple[Branch, Branch] = ("vit", "cnn")
    for name in names:
        part = branch_channels(trunk, name)
        masses = [(g * features.detach())[:, part].sum(dim=1).relu().sum(dim=(1, 2)) for g in gradients]
        found[name] = torch.stack(masses, dim=1).float()
    total = found["vit"] + found["cnn"]
    halves = torch.full_like(total, 0.5)
    return {name: torch.where(total > 0, mass / total.clamp(min=1e-20), halves) for name, mass in found.items()}


def _at_layer(
    diagnoser: Diagnoser,
    network: nn.Module,
    images: Tensor,
    content: Tensor | None,
    *,
    classes: Sequence[int],
    form: Form,
) -> Tensor:
    layer = layer_of(diagnoser, network, images[:1])
    model = Odds(diagnoser, content)
    if form == "grad_cam":
        method = require_captum().LayerGradCam(model, layer)
        with torch.enable_grad():
            found = [method.attribute(images, target=int(column)).detach()[:, 0] for column in classes]
        return torch.stack(found, dim=1).float()
    return torch.stack(_layer_cam(model, layer, images, classes), dim=1).float()


def _layer_cam(model: Odds, layer: nn.Module, images: Tensor, classes: Sequence[int]) -> list[Tensor]:
    kept: list[Tensor] = []

    def keep(module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
        del module, arguments
        kept.append(output if output.requires_grad else output.requires_grad_())
        return kept[0].clone()  # what follows may work in place

    handle = layer.register_forward_hook(keep)
    try:
        with torch.enable_grad():
            odds = model(images)
            found = []
            for column in classes:
                (gradient,) = torch.autograd.grad(odds[:, int(column)].sum(), kept[0], retain_graph=True)
                found.append((gradient.relu() * kept[0].detach()).sum(dim=1))
    finally:
        handle.remove()
    return found
