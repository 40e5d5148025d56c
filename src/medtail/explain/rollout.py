"""Heat from a transformer's attention: the evidence in its last tokens, carried back to the patches they came from.

The plain roll-out multiplies attention matrices and is the same for every class. Here each matrix is weighted by the
gradient of the class (Chefer's rule), so there is one map a class. The plain, class-blind one is not offered.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medtail.errors import MedtailError
from medtail.explain.evidence import Branch, branch_channels, is_pooled, log_odds
from medtail.models.backbones import Backbone
from medtail.models.diagnoser import Diagnoser
from medtail.models.dual import DualBackbone


def transformer_of(diagnoser: Diagnoser) -> Backbone | None:
    """Return the network of patches and attention in a diagnoser; None if it has none."""
    trunk = diagnoser.backbone
    network = trunk.vit if isinstance(trunk, DualBackbone) else trunk
    if not isinstance(network, Backbone) or network.is_convolutional:
        return None
    model = getattr(network.network, "model", None)
    # swin and its like attend in shifted windows, which no product of matrices describes
    has_patches = getattr(network.network, "patch_px", None) is not None
    return network if has_patches and hasattr(model, "set_attn_implementation") else None


def rollout_maps(
    diagnoser: Diagnoser,
    images: Tensor,
    content: Tensor | None,
    *,
    classes: Sequence[int],
    branch: Branch = "joint",
) -> Tensor:
    """Carry the evidence of the last tokens back through the attention that made them.

    For class c and layer l, Ā = mean over heads of (∂s_c / ∂A ⊙ A)⁺ and R ← R + Ā R from R = 1. Row i of R - 1 says
    which patches token i was made of; rows are weighted by the evidence at their position, (Σ_k ∂s_c / ∂z_k · z_k)⁺, or
    the class token's row stands alone where the head sees nothing else. In a dual model the joint map adds the
    convolutional branch's evidence where it stands, each branch with its share of the evidence.

    Args:
        diagnoser: In eval mode. Its attention is computed step by step for the time of the call, so do not use the
            model from another thread meanwhile.
        images: Float [N, channels, H, W] in [0, 1].
        content: Where there is image, [N, 1, H, W]; None where all is.
        classes: Columns of the classes wanted.
        branch: `vit` or `joint`.

    Returns:
        float32 [N, len(classes), h, w], >= 0.

    Raises:
        MedtailError: The branch has no attention.

    Example:
        >>> from medtail.explain.examples import tiny_diagnoser
        >>> rollout_maps(tiny_diagnoser("vit"), torch.rand(2, 1, 64, 64), None, classes=[0, 1]).shape
        torch.Size([2, 2, 4, 4])

    References:
        abnar2020 (roll-out); chefer2021 (class by gradient).
    """
    transformer = transformer_of(diagnoser)
    if transformer is None or branch == "cnn":
        raise MedtailError("method 'rollout': needs attention between patches; this network or branch has none.")
    trunk, pooled = diagnoser.backbone, is_pooled(diagnoser.backbone)
    if pooled and branch == "joint" and isinstance(trunk, DualBackbone) and trunk.cnn is not None:
        raise MedtailError(
            "method 'rollout': the model joins its branches after pooling, so the convolutional one has no positions;"
            " expected branch 'vit', or method 'occlusion'."
        )
    size = tuple(images.shape[-2:])
    patch = getattr(transformer.network, "patch_px")  # noqa: B009 - checked in transformer_of
    down, across = size[0] // patch, size[1] // patch
    part = branch_channels(trunk, "vit") if isinstance(trunk, DualBackbone) else slice(0, trunk.feature_dim)
    with torch.enable_grad(), attention_of(transformer) as recorded:
        features = trunk(diagnoser.inputs(images, content).requires_grad_())
        odds = log_odds(diagnoser.head(features), labels=diagnoser.labels, link=diagnoser.link)
        maps = []
        for column in classes:
            gradients = torch.autograd.grad(
                odds[:, int(column)].sum(), [features, *recorded], retain_graph=True, materialize_grads=True
            )
            evidence = gradients[0] * features
            weights = None if pooled else evidence[:, part].sum(dim=1).relu().flatten(1).detach()
            vit = _carry_back([a.detach() for a in recorded], gradients[1:], weights, down * across)
            found = vit.reshape(-1, down, across)
            if branch == "joint" and weights is not None and trunk.feature_dim > part.stop - (part.start or 0):
                cnn = evidence.sum(dim=1).detach() - evidence[:, part].sum(dim=1).detach()
                share = weights.sum(dim=1)[:, None, None] / found.sum(dim=(1, 2), keepdim=True).clamp(min=1e-20)
                found = found * share + cnn.relu()
            maps.append(found)
    return torch.stack(maps, dim=1).float()


def _carry_back(
    attention: Sequence[Tensor], gradients: Sequence[Tensor], weights: Tensor | None, patches: int
) -> Tensor:
    """Return [N, patches] of attention [N, heads, L, L] a layer; without weights the class token's row stands alone."""
    batch, _, length, _ = attention[0].shape
    rolled = torch.eye(length, device=attention[0].device).expand(batch, -1, -1)
    own = rolled
    for matrix, gradient in zip(attention, gradients, strict=True):
        step = (matrix * gradient).relu().mean(dim=1)
        rolled = rolled + step @ rolled
    made_of = (rolled - own)[:, :, length - patches :]  # class and register tokens come first
    if weights is None:
        return made_of[:, 0]
    return torch.einsum("bp,bpq->bq", weights, made_of[:, length - patches :])


@contextlib.contextmanager
def attention_of(transformer: Backbone) -> Iterator[list[Tensor]]:
    """Record the attention of every layer while the block runs, in order, each [N, heads, L, L] in the graph.

    Yields:
        A list that fills as the network runs.
    """
    model: Any = getattr(transformer.network, "model")  # noqa: B009 - checked in transformer_of
    recorded: list[Tensor] = []

    def note(module: nn.Module, arguments: Any, output: Any) -> None:
        del module, arguments
        found = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        # wrappers pass on what their inner layer gave
        if isinstance(found, Tensor) and found.ndim == 4 and not any(found is known for known in recorded):
            recorded.append(found)

    before = model.config._attn_implementation
    handles = [module.register_forward_hook(note) for module in model.modules()]
    try:
        model.set_attn_implementation("eager")  # fused kernels never hold the matrices
        yield recorded
    finally:
        model.set_attn_implementation(before)
        for handle in handles:
            handle.remove()
