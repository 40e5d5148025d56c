"""What a heat map explains: the log-odds of a class's score, given the feature map or the image.

Every method asks the same question of the same number, whatever the head and the link. Inside a softmax group a logit
means nothing alone, so the other classes of the group are taken into it.
"""

from __future__ import annotations

import importlib
import types
from typing import Literal

import torch
from torch import Tensor

from medtail.errors import MedtailError
from medtail.losses.contract import Link
from medtail.models.contract import Trunk
from medtail.models.dual import DualBackbone
from medtail.tables.labels import LabelSpace

Branch = Literal["joint", "cnn", "vit"]


def log_odds(logits: Tensor, *, labels: LabelSpace, link: Link) -> Tensor:
    """Turn logits [B, C] into the log-odds of the scores, log(p / (1 - p)), [B, C].

    Example:
        >>> space = LabelSpace.from_columns(["shape=oval", "shape=round", "halo"])
        >>> log_odds(torch.tensor([[2.0, 1.0, 3.0]]), labels=space, link="softmax").tolist()
        [[1.0, -1.0, 3.0]]
    """
    if link != "softmax":
        return logits
    found = logits.clone()
    for indices in labels.group_indices:
        columns = list(indices)
        group = logits[:, columns]
        count = len(columns)
        others = group[:, None].expand(-1, count, -1).masked_fill(
            torch.eye(count, dtype=torch.bool, device=logits.device), -torch.inf
        )  # fmt: skip
        found[:, columns] = group - torch.logsumexp(others, dim=2)
    return found


def branch_channels(trunk: Trunk, branch: Branch) -> slice:
    """Return the channels of the feature map that come from a branch.

    Raises:
        MedtailError: The trunk has no such branch.

    Example:
        >>> from medtail.explain.examples import tiny_diagnoser
        >>> branch_channels(tiny_diagnoser("dual").backbone, "cnn")
        slice(64, 384, None)
    """
    if branch == "joint":
        return slice(0, trunk.feature_dim)
    if not isinstance(trunk, DualBackbone):
        raise MedtailError(
            f"branch: found {branch!r}; expected 'joint': this model has one network, not a transformer beside a"
            " convolutional one."
        )
    names = [name for name, network in (("vit", trunk.vit), ("cnn", trunk.cnn)) if network is not None]
    if branch not in names:
        raise MedtailError(f"branch: found {branch!r}; this model has only {names[0]!r}. Leave the branch out.")
    start = sum(trunk.feature_parts[: names.index(branch)])
    return slice(start, start + trunk.feature_parts[names.index(branch)])


def is_pooled(trunk: Trunk) -> bool:
    """Say whether the trunk gives a map of a single position, on which nothing can be localised."""
    return isinstance(trunk, DualBackbone) and trunk.fusion == "pooled"


def require_captum() -> types.ModuleType:
    """Return the package `captum.attr`.

    Raises:
        MedtailError: It is not installed; says which extra brings it.
    """
    try:
        return importlib.import_module("captum.attr")
    except ImportError as error:
        raise MedtailError(
            f"explain: needs the package 'captum' ({error}); install it with `pip install 'medtail[explain]'`."
        ) from error
