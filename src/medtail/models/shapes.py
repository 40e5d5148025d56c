"""The shapes of networks on the Hub that recipes name, so that they can be built at full size without their weights.

What a repository's `config.json` says beyond the defaults of its class in transformers. Weights are never fetched here;
`build_backbone` fetches them when a training asks for them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from medtail.errors import MedtailError, did_you_mean

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CONVNEXT_BASE = {"hidden_sizes": [128, 256, 512, 1024], "depths": [3, 3, 27, 3]}

SHAPES: Mapping[str, Mapping[str, Any]] = {
    "microsoft/resnet-50": {"model_type": "resnet"},
    "facebook/convnext-small-224": {"model_type": "convnext", "depths": [3, 3, 27, 3]},
    "facebook/convnext-base-384-22k-1k": {"model_type": "convnext", **_CONVNEXT_BASE},
    "facebook/convnext-large-384-22k-1k": {
        "model_type": "convnext", "hidden_sizes": [192, 384, 768, 1536], "depths": [3, 3, 27, 3]
    },
    "facebook/convnextv2-tiny-22k-384": {"model_type": "convnextv2"},
    "facebook/convnextv2-base-22k-384": {"model_type": "convnextv2", **_CONVNEXT_BASE},
    "facebook/dinov2-small": {
        "model_type": "dinov2", "hidden_size": 384, "num_attention_heads": 6, "image_size": 518, "patch_size": 14
    },
    "facebook/dinov2-base": {"model_type": "dinov2", "image_size": 518, "patch_size": 14},
    "google/efficientnet-b4": {
        "model_type": "efficientnet", "width_coefficient": 1.4, "depth_coefficient": 1.8, "hidden_dim": 1792,
        "image_size": 380,
    },
    "google/efficientnet-b7": {"model_type": "efficientnet"},
}  # fmt: skip
"""Hub id → its network's shape."""


def hub_architecture(weights: str) -> dict[str, Any]:
    """Return a Hub network's shape in the form a model card keeps it, for `build_backbone(architecture=…)`.

    Args:
        weights: A Hub id of `SHAPES`.

    Returns:
        `network` (the config of transformers), `channels` (3), `mean` and `std` of ImageNet.

    Raises:
        MedtailError: The shape is not known here.

    Example:
        >>> found = hub_architecture("facebook/convnext-base-384-22k-1k")
        >>> found["network"]["hidden_sizes"], found["channels"]
        ([128, 256, 512, 1024], 3)
    """
    import transformers as tf

    if weights not in SHAPES:
        hint = did_you_mean(weights, SHAPES) or f"; known: {', '.join(SHAPES)}"
        raise MedtailError(f"shape of {weights!r}: not known without its config.json{hint}")
    values = {key: value for key, value in SHAPES[weights].items() if key != "model_type"}
    shape = tf.AutoConfig.for_model(SHAPES[weights]["model_type"], **values)
    return {
        "network": json.loads(shape.to_json_string(use_diff=False)),
        "channels": 3,
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
    }
