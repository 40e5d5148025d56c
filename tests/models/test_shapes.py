"""Shapes of Hub networks: as many weights as published, and every recipe's network at full size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medtail.errors import MedtailError
from medtail.models.backbones import branch_configs
from medtail.models.diagnoser import build_diagnoser
from medtail.models.shapes import SHAPES, hub_architecture
from medtail.models.text_query import TextQueryConfig
from medtail.tables.labels import LabelSpace
from medtail.training.config import train_config
from medtail.training.recipes_cxrlt import CXRLT_RECIPES

PUBLISHED = {
    "microsoft/resnet-50": (25.56, 2048 * 1000 + 1000),
    "facebook/convnext-small-224": (50.22, 768 * 1000 + 1000),
    "facebook/convnext-base-384-22k-1k": (88.59, 1024 * 1000 + 1000),
    "facebook/convnext-large-384-22k-1k": (197.77, 1536 * 1000 + 1000),
    "facebook/convnextv2-tiny-22k-384": (28.64, 768 * 1000 + 1000),
    "facebook/convnextv2-base-22k-384": (88.72, 1024 * 1000 + 1000),
    "facebook/dinov2-small": (22.06, 0),
    "facebook/dinov2-base": (86.58, 0),
    "google/efficientnet-b4": (19.34, 1792 * 1000 + 1000),
    "google/efficientnet-b7": (66.35, 2560 * 1000 + 1000),
}
"""Parameters in millions as the papers and model pages say, and those of the ImageNet classifier among them."""


@pytest.mark.parametrize("weights", SHAPES)
def test_a_shape_has_as_many_weights_as_was_published(weights: str) -> None:
    import transformers as tf

    network = hub_architecture(weights)["network"]
    values = {key: value for key, value in network.items() if key not in ("transformers_version", "model_type")}
    with torch.device("meta"):
        model = tf.AutoModel.from_config(tf.AutoConfig.for_model(network["model_type"], **values))
    millions, classifier = PUBLISHED[weights]
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(millions * 1e6 - classifier, rel=0.005)


def test_an_unknown_shape_is_refused_with_the_nearest() -> None:
    with pytest.raises(MedtailError, match=r"'facebook/dinov2-bas': not known.*did you mean 'facebook/dinov2-base'"):
        hub_architecture("facebook/dinov2-bas")


@pytest.mark.slow
@pytest.mark.parametrize("name", CXRLT_RECIPES)
def test_every_recipes_network_is_built_at_full_size_without_weights(name: str) -> None:
    config = train_config({"manifest": "m.csv", "recipe": f"{name}/base"})
    (backbone,) = branch_configs(config.backbone)
    texts = np.eye(40, config.head.text_width) if isinstance(config.head, TextQueryConfig) else None
    network = build_diagnoser(
        backbone=config.backbone,
        head=config.head,
        labels=LabelSpace(tuple(f"c{n}" for n in range(40))),
        link="sigmoid",
        channels=config.pixels.channels,
        size_px=224,
        architecture=hub_architecture(str(getattr(backbone, "weights", None))),
        load_weights=False,
        texts=texts,
    ).eval()
    with torch.inference_mode():
        logits = network(torch.rand(1, config.pixels.channels, 224, 224))
    assert logits.shape == (1, 40)
    assert torch.isfinite(logits).all()
