"""Recipes: named, complete training configurations that a YAML file may start from.

`recipe: NAME` lays the user's keys over the recipe's, and `recipe: NAME/SIZE` over those of a size, where a recipe has
several. Each says what it is for and where it comes from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medtail.errors import UsageError, did_you_mean
from medtail.training.recipe import BOTH, Recipe
from medtail.training.recipes_cxrlt import CXRLT_RECIPES

__all__ = ["BOTH", "RECIPES", "Recipe", "recipe_layers"]

_FINE_TUNING: Mapping[str, Any] = {
    "epochs": 20,
    "batch_size": 32,
    "learning_rate": 1e-3,
    "weight_decay": 0.02,
    "warmup": 0.1,
    "gradient_clip": 1.0,
    "ema_decay": 0.99,
    "keep": "last",
}

RECIPES: Mapping[str, Recipe] = {
    "baseline": Recipe(
        purpose="The plain method every other one is measured against: nothing is done about the long tail.",
        tasks=BOTH,
        origin="binary cross-entropy, images drawn uniformly, small network from scratch",
        config={
            "loss": {"kind": "bce"},
            "sampler": {"kind": "uniform"},
            "backbone": {"kind": "efficientnet", "size": "tiny"},
            "optimizer": {"epochs": 20, "batch_size": 32, "learning_rate": 2e-3, "ema_decay": None},
        },
    ),
    "baseline_finetune": Recipe(
        purpose="The baseline on ImageNet weights: what fine-tuning alone gives.",
        tasks=BOTH,
        origin="tan2019 weights, binary cross-entropy, images drawn uniformly",
        config={
            "loss": {"kind": "bce"},
            "sampler": {"kind": "uniform"},
            "backbone": {"kind": "efficientnet_lite0", "weights": "imagenet", "drop_connect": 0.2},
            "optimizer": _FINE_TUNING,
        },
    ),
    "long_tail_finetune": Recipe(
        purpose="Small medical sets with rare classes: ImageNet weights, logits adjusted by class frequency.",
        tasks=BOTH,
        origin="menon2021 (logit adjustment; ren2020 in one exclusive group) on tan2019 weights, moving average",
        config={
            "loss": {"kind": "logit_adjusted", "tau": 1.0},
            "sampler": {"kind": "uniform"},
            "backbone": {"kind": "efficientnet_lite0", "weights": "imagenet", "drop_connect": 0.2},
            "optimizer": _FINE_TUNING,
        },
    ),
    "long_tail_scratch": Recipe(
        purpose="Rare classes without pretrained weights, or images unlike photographs: square-root sampling.",
        tasks=BOTH,
        origin="menon2021 with weaker adjustment, kang2020 (square-root sampling), small network from scratch",
        config={
            "loss": {"kind": "logit_adjusted", "tau": 0.5},
            "sampler": {"kind": "square_root"},
            "backbone": {"kind": "efficientnet", "size": "tiny"},
            "optimizer": {"epochs": 40, "batch_size": 32, "learning_rate": 2e-3, "ema_decay": 0.99},
        },
    ),
    "csasn": Recipe(
        purpose="Rare subtypes, each against one reference, from several hospitals: the dual-branch attention network.",
        tasks=BOTH,
        origin="li2025 with the readings of docs/csasn.md, at the published size, from scratch; the paper names no"
        " optimiser, rate, epochs or shares of the losses",
        config={
            "pixels": {"size_px": 224, "fill": "mirror"},
            "band": {"kind": "extra"},
            "augment": {"profile": "ultrasound"},
            "sampler": {"kind": "sites"},
            "objective": {"kind": "tasks"},
            "backbone": {"kind": "dual", "size": "base"},
            "head": {"kind": "csasn"},
            "optimizer": {
                "epochs": 60,
                "batch_size": 32,
                "learning_rate": 3e-4,
                "weight_decay": 0.05,
                "warmup": 0.05,
                "gradient_clip": 1.0,
                "ema_decay": 0.999,
                "keep": "best",
                "patience": 15,
            },
        },
    ),
    "syntus": Recipe(
        purpose="Many descriptors with a long tail, some in exclusive groups: two streams, class attention, lexicon.",
        tasks=("multilabel",),
        origin="zhang2026 with the readings of docs/syntus.md, from scratch; of the paper only the abstract is public."
        " The epoch kept is the best by macro F1 after decoding. With pretrained weights set"
        " optimizer.backbone_factor: 0.1",
        config={
            "pixels": {"size_px": 224},
            "augment": {"profile": "ultrasound"},
            "sampler": {"kind": "two_streams"},
            "tail_mix": {"probability": 0.3},
            "objective": {"kind": "syntus"},
            "backbone": {"kind": "resnet", "size": "base"},
            "head": {"kind": "syntus"},
            "optimizer": {
                "epochs": 60,
                "batch_size": 64,
                "learning_rate": 1e-4,
                "weight_decay": 0.05,
                "warmup": 0.05,
                "gradient_clip": 1.0,
                "ema_decay": 0.999,
                "keep": "best_f1",
            },
        },
    ),
    **CXRLT_RECIPES,
}


def recipe_layers(name: str, *, where: str = "config") -> tuple[Mapping[str, Any], ...]:
    """Return the keys a recipe stands for, the lowest layer first.

    Args:
        name: `NAME`, or `NAME/SIZE` of a recipe with sizes.
        where: Whose mistake it is, for messages.

    Raises:
        UsageError: There is no such recipe, or it has no such size.

    Example:
        >>> [layer["pixels"]["size_px"] for layer in recipe_layers("cxrlt_baseline/tiny") if "pixels" in layer]
        [64]
        >>> len(recipe_layers("baseline"))
        1
    """
    plain, slash, size = name.partition("/")
    recipe = RECIPES.get(plain)
    if recipe is None:
        hint = did_you_mean(plain, RECIPES) or f"; known: {', '.join(RECIPES)}"
        raise UsageError(f"{where}, recipe: no recipe {name!r}{hint}")
    if not recipe.sizes:
        if slash:
            raise UsageError(f"{where}, recipe: {plain!r} has one size alone, found {name!r}; expected {plain!r}.")
        return (recipe.config,)
    size = size if slash else recipe.usual
    if size not in recipe.sizes:
        hint = did_you_mean(size, recipe.sizes) or "."
        raise UsageError(f"{where}, recipe: {plain!r} has the sizes {', '.join(recipe.sizes)}; found {size!r}{hint}")
    return recipe.config, recipe.sizes[size]
