"""Heat maps a class for every family of model; see `explain/sanity` for how far one may be believed.

A method gives raw values on its own grid, above 0 what speaks for the class. Here they are brought to the size of the
image and to [0, 1]. `gradients`, `rollout`, `queries` and `occlusion` hold the methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, assert_never

import torch
import torch.nn.functional as F
from torch import Tensor

from medtail.errors import MedtailError, listing
from medtail.explain.evidence import Branch, branch_channels, is_pooled
from medtail.explain.gradients import gradient_maps
from medtail.explain.occlusion import occlusion_maps
from medtail.explain.queries import has_queries, query_maps
from medtail.explain.rollout import rollout_maps, transformer_of
from medtail.models.diagnoser import Diagnoser

__all__ = [
    "METHODS",
    "Branch",
    "HeatMethod",
    "branches_of",
    "check_method",
    "heat_maps",
    "methods_for",
    "raw_maps",
    "scale_maps",
]

HeatMethod = Literal["layer_cam", "grad_cam", "attention", "rollout", "occlusion"]
METHODS: tuple[HeatMethod, ...] = ("layer_cam", "grad_cam", "attention", "rollout", "occlusion")


def methods_for(diagnoser: Diagnoser, *, branch: Branch = "joint") -> tuple[HeatMethod, ...]:
    """Return the methods that say something of this model, the default first.

    Example:
        >>> from medtail.explain.examples import tiny_diagnoser
        >>> methods_for(tiny_diagnoser("cnn")), methods_for(tiny_diagnoser("vit"))
        (('layer_cam', 'grad_cam', 'occlusion'), ('layer_cam', 'grad_cam', 'rollout', 'occlusion'))
        >>> methods_for(tiny_diagnoser("queries"))
        ('layer_cam', 'grad_cam', 'attention', 'occlusion')
    """
    branch_channels(diagnoser.backbone, branch)
    pooled = is_pooled(diagnoser.backbone)
    found: list[HeatMethod] = []
    if not pooled:
        found += ["layer_cam", "grad_cam"]
        if branch == "joint" and has_queries(diagnoser.head):
            found.append("attention")
    if branch != "cnn" and transformer_of(diagnoser) is not None and not (pooled and branch == "joint"):
        found.append("rollout")
    return (*found, "occlusion")


def branches_of(diagnoser: Diagnoser) -> tuple[Branch, ...]:
    """Return the branches whose maps can be asked for, `joint` first.

    Example:
        >>> from medtail.explain.examples import tiny_diagnoser
        >>> branches_of(tiny_diagnoser("dual")), branches_of(tiny_diagnoser("cnn"))
        (('joint', 'cnn', 'vit'), ('joint',))
    """
    both: tuple[Branch, ...] = ("joint", "cnn", "vit")
    return both if len(diagnoser.backbone.feature_parts) > 1 else ("joint",)


def check_method(diagnoser: Diagnoser, method: HeatMethod | None, *, branch: Branch = "joint") -> HeatMethod:
    """Return the method, or the model's default for None.

    Raises:
        MedtailError: The method or branch does not suit the model, or its scores depend on the batch.

    Example:
        >>> from medtail.explain.examples import tiny_diagnoser
        >>> check_method(tiny_diagnoser("cnn"), None)
        'layer_cam'
    """
    allowed = methods_for(diagnoser, branch=branch)
    if method is not None and method not in allowed:
        raise MedtailError(
            f"method: found {method!r}; for this model and branch {branch!r} expected one of {listing(allowed)}."
        )
    if diagnoser.batch_dependent:
        raise MedtailError(
            "explain: in this model the images of a batch attend to each other (head.rmsc.attend 'batch' with at_test"
            " 'mates'), so no map is a function of the image; expected a model that scores an image by itself."
        )
    return allowed[0] if method is None else method


def raw_maps(
    diagnoser: Diagnoser,
    images: Tensor,
    *,
    classes: Sequence[int],
    method: HeatMethod | None = None,
    branch: Branch = "joint",
    content: Tensor | None = None,
) -> Tensor:
    """Return what a method gives, on its own grid and scale; see `heat_maps` for arguments and errors.

    Returns:
        float32 [N, len(classes), h, w]; above 0 what speaks for a class. `attention` and `rollout` are never below 0.
    """
    method = check_method(diagnoser, method, branch=branch)
    count = diagnoser.labels.num_classes
    wrong = [column for column in classes if not 0 <= int(column) < count]
    if wrong or not len(classes):
        raise MedtailError(f"classes: found {list(classes)}; expected columns from 0 to {count - 1}, at least one.")
    was_training = diagnoser.training
    diagnoser.eval()
    try:
        # whoever calls from inference mode gets tensors that gradients may pass
        with torch.inference_mode(False), torch.no_grad():
            images = images.detach().clone()
            content = None if content is None else content.detach().clone()
            return _raw(diagnoser, images, content, classes=classes, method=method, branch=branch)
    finally:
        diagnoser.train(was_training)


def _raw(
    diagnoser: Diagnoser,
    images: Tensor,
    content: Tensor | None,
    *,
    classes: Sequence[int],
    method: HeatMethod,
    branch: Branch,
) -> Tensor:
    match method:
        case "layer_cam" | "grad_cam":
            return gradient_maps(diagnoser, images, content, classes=classes, branch=branch, form=method)
        case "attention":
            return query_maps(diagnoser, images, content, classes=classes)
        case "rollout":
            return rollout_maps(diagnoser, images, content, classes=classes, branch=branch)
        case "occlusion":
            return occlusion_maps(diagnoser, images, content, classes=classes, branch=branch)
        case _:
            assert_never(method)


def scale_maps(raw: Tensor, *, size: tuple[int, int], content: Tensor | None = None) -> Tensor:
    """Bring raw maps to the image's size and to [0, 1], each by itself.

    What speaks against a class is cut off at 0, and what is left runs from its least to its greatest value. Where
    nothing speaks for a class, as often for one that is absent, nothing is cut off: the map then shows where the image
    speaks *least against* the class.

    Args:
        raw: Float [N, K, h, w].
        size: Height and width wanted.
        content: Where there is image, [N, 1, H, W]; bars get 0 and have no say in the scale.

    Returns:
        float32 [N, K, H, W] in [0, 1]; all 0 only where a raw map is the same everywhere.

    Example:
        >>> scale_maps(torch.tensor([[[[-1.0, 2.0]], [[-4.0, -2.0]]]]), size=(1, 2)).tolist()
        [[[[0.0, 1.0]], [[0.0, 1.0]]]]
    """
    raw = raw.float()
    if tuple(raw.shape[-2:]) != tuple(size):
        raw = F.interpolate(raw, size=size, mode="bilinear", align_corners=False)
    inside = torch.ones_like(raw[:, :1], dtype=torch.bool) if content is None else content.bool()
    low = raw.masked_fill(~inside, torch.inf).amin(dim=(2, 3), keepdim=True)
    high = raw.masked_fill(~inside, -torch.inf).amax(dim=(2, 3), keepdim=True)
    floor = torch.where(high > 0, low.clamp(min=0), low)
    span = high - floor
    flat = (high - low) <= 1e-6 * torch.maximum(high.abs(), low.abs())
    scaled = ((raw - floor) / torch.where(span > 0, span, torch.ones_like(span))).clamp(0, 1)
    return scaled.masked_fill(flat | ~inside, 0.0)


def heat_maps(
    diagnoser: Diagnoser,
    images: Tensor,
    *,
    classes: Sequence[int],
    method: HeatMethod | None = None,
    branch: Branch = "joint",
    content: Tensor | None = None,
) -> Tensor:
    """Show where in the images the evidence for each class lies.

    All methods explain the log-odds of the class's score:

    - `layer_cam`: a map inside the network weighted by its gradient, position by position; any model with a map.
    - `grad_cam`: the same map, each channel weighted by its mean gradient; the well-known one, and coarser.
    - `attention`: where the query of the class looks; heads with queries. Says where it read, not for or against.
    - `rollout`: the evidence carried back through a transformer's attention, weighted by the class's gradient (the
      plain roll-out would be the same for all classes).
    - `occlusion`: how far covering a window lowers the class; any model, slow.

    Args:
        diagnoser: The model, on the device of the images. It is put into eval mode for the call.
        images: Float [N, channels, H, W] in [0, 1], as the model takes them.
        classes: Columns of the classes wanted.
        method: One of `methods_for`; its first if None.
        branch: Of a dual model, whose evidence: both (`joint`), or one branch's.
        content: Where there is image and not letterbox bar, [N, 1, H, W]; None where all is.

    Returns:
        float32 [N, len(classes), H, W] in [0, 1]; 1 is the greatest heat of that image and class. Heat of two maps
        cannot be compared: a class that is absent has a hottest place too.

    Raises:
        MedtailError: The method or branch does not suit the model, no such class, captum is not installed, or the
            model's scores depend on the batch.

    Example:
        >>> from medtail.explain.examples import tiny_diagnoser
        >>> maps = heat_maps(tiny_diagnoser("dual"), torch.rand(2, 1, 64, 64), classes=[0, 2], branch="vit")
        >>> maps.shape, float(maps.min()), float(maps.max())
        (torch.Size([2, 2, 64, 64]), 0.0, 1.0)

    References:
        selvaraju2017; jiang2021; abnar2020; chefer2021; zeiler2014.
    """
    raw = raw_maps(diagnoser, images, classes=classes, method=method, branch=branch, content=content)
    height, width = images.shape[-2:]
    return scale_maps(raw, size=(height, width), content=content)
