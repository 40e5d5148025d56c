"""Recipes after the systems of CXR-LT 2023, 2024 and 2026: one network of each, in three sizes.

`tiny` runs on a CPU in seconds (64 px, from scratch), `small` at 224 px from scratch, `base` has the original's
backbone and resolution by Hub id; weights are fetched when such a training begins and never before. What a system does
with several networks (views, ensembles, gates) stands in `configs/studies/cxr_lt_nih.yaml`, run by `medtail study
systems`.

Known of the originals are slides, code and papers; a rate or a length that none of them names is ours, and
`leaves_out` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medtail.training.recipe import Recipe

WEIGHTED_ASL: Mapping[str, Any] = {"kind": "asl", "prior_weights": True}
"""Positives weighed by e^(1-π), negatives by e^π; γ 4 and 1, clip .05: the loss of most winners."""

# no class of these label lists names a side, so images may be mirrored
_AUGMENT: Mapping[str, Any] = {"profile": "chest_xray", "flip": 0.5}
_TINY_STEPS: Mapping[str, Any] = {
    "epochs": 20, "batch_size": 32, "learning_rate": 2e-3, "weight_decay": 0.02, "warmup": 0.1, "ema_decay": 0.98,
    "keep": "best",
}  # fmt: skip
_SMALL_STEPS: Mapping[str, Any] = {
    "epochs": 30, "batch_size": 32, "learning_rate": 1e-3, "weight_decay": 0.02, "warmup": 0.1, "ema_decay": 0.995,
    "keep": "best",
}  # fmt: skip
_TINY_DECODER: Mapping[str, Any] = {"width": 64, "heads": 4, "inner": 128}


def _from_scratch(kind: str, **more: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the sizes that need no weights: a network of one kind, and what else differs at `tiny` and `small`.

    The smallest ConvNeXt learns nothing in minutes from a thousand images, so `tiny` takes a ResNet in its place.
    """
    tiny = "resnet" if kind == "convnext" else kind
    return {
        size: {
            "pixels": {"size_px": size_px},
            "backbone": {"kind": network, "size": size},
            "optimizer": dict(steps),
            **more.get(size, {}),
        }
        for size, size_px, network, steps in (
            ("tiny", 64, tiny, _TINY_STEPS),
            ("small", 224, kind, _SMALL_STEPS),
        )
    }


CXRLT_RECIPES: Mapping[str, Recipe] = {
    "cxrlt_baseline": Recipe(
        purpose="The yardstick of CXR-LT: a plain network, nothing done about the long tail or the views.",
        tasks=("multilabel",),
        origin="re-runs by third parties: ResNet-50 at 224 px, mAP .2134 on 2024 task 1 (he2016)",
        leaves_out="rate, length and augmentation are ours; the re-runs do not name them",
        config={"augment": _AUGMENT, "loss": {"kind": "bce"}, "sampler": {"kind": "uniform"}},
        sizes=_from_scratch("resnet")
        | {
            "base": {
                "pixels": {"size_px": 224},
                "backbone": {"kind": "resnet", "weights": "microsoft/resnet-50"},
                "optimizer": {"epochs": 20, "batch_size": 64, "learning_rate": 1e-4, "ema_decay": None, "keep": "best"},
            }
        },
    ),
    "cxrlt_chexfusion": Recipe(
        purpose="The winner of 2023 and, in larger ensembles, of 2024 task 1: class queries, weighted ASL, then a"
        " transformer over all views of a study.",
        tasks=("multilabel",),
        origin="CheXFusion (kim2023), first of 2023 (holste2024); the base of 2024's zguo (first of task 1) and"
        " dongkyunk (lin2025); ridnik2023, ridnik2021",
        leaves_out="trained at 384 px and not again at 1024; ImageNet-1k weights of 224 px instead of ImageNet-22k ones"
        " of 384; no noisy student on CheXpert, NIH and VinDr (dongkyunk), no generated images for tail classes (zguo)."
        " Rates and epochs are ours; the original warms up over 1,000 steps, this over a share. The manifest must name"
        " studies; without any, set `second: null`",
        config={
            "augment": _AUGMENT,
            "loss": WEIGHTED_ASL,
            "sampler": {"kind": "uniform"},
            "head": {"kind": "ml_decoder"},
            "tta": "flip",
            "second": {"kind": "study_fusion", "epochs": 10},
        },
        sizes=_from_scratch(
            "convnext",
            tiny={
                "head": _TINY_DECODER,
                "second": {
                    "epochs": 5,
                    "fusion": {**_TINY_DECODER, "decoder": {"kind": "ml_decoder", **_TINY_DECODER}},
                },
            },
        )
        | {
            "base": {
                "pixels": {"size_px": 384},
                "backbone": {"kind": "convnext", "weights": "facebook/convnext-small-224", "drop_path": 0.1},
                "head": {"width": 768, "inner": 2048},
                "optimizer": {
                    "epochs": 20,
                    "batch_size": 64,
                    "learning_rate": 1e-4,
                    "weight_decay": 0.05,
                    "warmup": 0.02,
                    "ema_decay": 0.9997,
                    "keep": "best",
                    "tune_by": "study",
                    "patience": 5,
                },
                "second": {
                    "features": "live",
                    "fusion": {
                        "width": 768,
                        "inner": 2048,
                        "decoder": {"kind": "ml_decoder", "width": 768, "inner": 2048},
                    },
                },
            }
        },
    ),
    "cxrlt_yale": Recipe(
        purpose="The winner of 2024 task 2: plain networks at high resolution, the highest score of a study's views.",
        tasks=("multilabel",),
        origin="XYPB, first of 2024 task 2 and third of task 1 (lin2025); ridnik2021",
        leaves_out="one of its networks: the head and the tail model, max over views and the mean of ten are put"
        " together by the study. EfficientNetV2-S is not in transformers; EfficientNet-B4 stands in for it where two"
        " networks are wanted. ImageNet weights instead of ones from chest X-rays and their reports. What the tail"
        " model is trained on was not published: ours repeats images of rare classes",
        config={"augment": _AUGMENT, "loss": WEIGHTED_ASL, "sampler": {"kind": "uniform"}},
        sizes=_from_scratch("convnext")
        | {
            "base": {
                "pixels": {"size_px": 1024},
                "backbone": {"kind": "convnext", "weights": "facebook/convnext-base-384-22k-1k", "drop_path": 0.1},
                "optimizer": {
                    "epochs": 20,
                    "batch_size": 16,
                    "learning_rate": 1e-3,
                    "weight_decay": 0.01,
                    "backbone_factor": 0.1,
                    "ema_decay": 0.9997,
                    "keep": "best",
                    "tune_by": "study",
                },
            }
        },
    ),
    "cxrlt_tokyo": Recipe(
        purpose="A strong plain system of 2024: weighted ASL, mirror images at test, frontal views 8:2 against others.",
        tasks=("multilabel",),
        origin="YYama, 2024 tasks 1 (.2728) and 2 (.509; .4908 to .5065 by its views alone) (lin2025); woo2023",
        leaves_out="one network: five patient folds and the views are put together by the study. MaxViT-T is not in"
        " transformers; DINOv2 ViT-S/14 at 518 px stands in for it where two networks are wanted",
        config={
            "augment": _AUGMENT,
            "loss": WEIGHTED_ASL,
            "sampler": {"kind": "uniform"},
            "tta": "flip",
        },
        sizes=_from_scratch("convnext")
        | {
            "base": {
                "pixels": {"size_px": 512},
                "backbone": {"kind": "hub", "weights": "facebook/convnextv2-tiny-22k-384"},
                "optimizer": {
                    "epochs": 20,
                    "batch_size": 32,
                    "learning_rate": 1e-4,
                    "weight_decay": 0.01,
                    "ema_decay": None,
                    "keep": "best",
                    "tune_by": "study",
                },
            }
        },
    ),
    "cxrlt_foundation": Recipe(
        purpose="A frozen self-supervised transformer with a small trained head: what its features know by themselves.",
        tasks=("multilabel",),
        origin="yangz16, third of 2024 task 2 (lin2025): GLoRI on a frozen encoder; oquab2023",
        leaves_out="one resolution: three (336, 448, 512 px; 518 here, a multiple of the patch) are averaged by the"
        " study. Which frozen encoder the team took is not known; DINOv2 ViT-B/14 on photographs, not chest X-rays."
        " Without weights there is nothing to freeze: `tiny` and `small` train the whole network",
        config={
            "augment": _AUGMENT,
            "loss": {"kind": "bce"},
            "sampler": {"kind": "uniform"},
            "head": {"kind": "glori"},
        },
        sizes={
            "tiny": {
                "pixels": {"size_px": 64},
                "backbone": {"kind": "vit_blocks", "blocks": 2, "vit": {"kind": "vit", "size": "tiny"}},
                "head": {"width": 64, "heads": 4},
                "optimizer": dict(_TINY_STEPS),
            },
            "small": {
                "pixels": {"size_px": 224},
                "backbone": {"kind": "vit_blocks", "blocks": 4, "vit": {"kind": "vit", "size": "small"}},
                "optimizer": dict(_SMALL_STEPS),
            },
            "base": {
                "pixels": {"size_px": 448},
                "backbone": {
                    "kind": "vit_blocks",
                    "blocks": 4,
                    "vit": {"kind": "hub", "weights": "facebook/dinov2-base"},
                },
                "optimizer": {
                    "epochs": 20,
                    "freeze_epochs": 20,
                    "batch_size": 64,
                    "learning_rate": 1e-3,
                    "weight_decay": 0.01,
                    "ema_decay": None,
                    "keep": "best",
                },
            },
        },
    ),
    "cxrlt_textquery": Recipe(
        purpose="Queries made of the classes' texts, which can be asked for classes without labels too.",
        tasks=("multilabel",),
        origin="tianjie_dai, second of 2024 task 1 (lin2025); ridnik2023, ridnik2021",
        leaves_out="external sets with missing labels (add their rows with empty cells);"
        " EfficientNetV2-L is not in transformers and EfficientNet-B7 stands in for it; sentence vectors of MiniLM"
        " instead of a radiology text encoder. `head.texts` is a file that `medtail zero-shot embed` makes",
        config={
            "augment": _AUGMENT,
            "loss": {**WEIGHTED_ASL, "gamma_negative": 6.0, "gamma_positive": 0.0},
            "sampler": {"kind": "uniform"},
            "head": {"kind": "text_query", "texts": "texts.safetensors"},
            "tta": "random:4",
        },
        sizes=_from_scratch("convnext", tiny={"head": _TINY_DECODER})
        | {
            "base": {
                "pixels": {"size_px": 512},
                "backbone": {"kind": "efficientnet", "weights": "google/efficientnet-b7", "drop_connect": 0.2},
                "head": {"width": 768, "inner": 2048},
                "optimizer": {
                    "epochs": 20,
                    "batch_size": 16,
                    "learning_rate": 1e-4,
                    "weight_decay": 0.01,
                    "ema_decay": 0.9997,
                    "keep": "best",
                },
            }
        },
    ),
    "cxrlt_ral": Recipe(
        purpose="A loss that is gentler with doubtful labels, and nothing else.",
        tasks=("multilabel",),
        origin="Park and Ryu (park2023), fourth of 2023 (holste2024)",
        leaves_out="its value is averaged over cells where theirs is summed, so rates are not theirs; resolution and"
        " epochs are ours",
        config={"augment": _AUGMENT, "loss": {"kind": "ral"}, "sampler": {"kind": "uniform"}},
        sizes=_from_scratch("convnext")
        | {
            "base": {
                "pixels": {"size_px": 384},
                "backbone": {"kind": "convnext", "weights": "facebook/convnext-base-384-22k-1k", "drop_path": 0.1},
                "optimizer": {
                    "epochs": 20,
                    "batch_size": 32,
                    "learning_rate": 1e-4,
                    "weight_decay": 0.05,
                    "ema_decay": 0.9997,
                    "keep": "best",
                },
            }
        },
    ),
    "cxrlt_isbi26": Recipe(
        purpose="The winner of 2026: rare images repeated, attention a class, a loss that asks most of common classes.",
        tasks=("multilabel",),
        origin="first of CXR-LT 2026 task 1 (arXiv 2602.22092), by its code; zhu2021 (CSRA), gupta2019 (repeat"
        " factors), wu2020 (from which its loss is made)",
        leaves_out="its first stage on 14 labels of other data sets (ASL with adjusted logits). Its README names ASL"
        " for the second stage, its code has DB-light: this follows the code. The gate by Normal (α .5) is tried by the"
        " study and kept only if it helps on tune. `base` warms the head up alone and then trains everything, as the"
        " original; `tiny` and `small`, without weights, train everything from the start",
        config={
            "augment": _AUGMENT,
            "loss": {"kind": "db_light"},
            "sampler": {"kind": "repeat_factor", "threshold": 0.01, "cap": 10.0},
            "head": {"kind": "csra", "share": 0.1},
            "tta": "flip_rotate_scale",
        },
        sizes=_from_scratch("convnext")
        | {
            "base": {
                "pixels": {"size_px": 512},
                "backbone": {"kind": "hub", "weights": "facebook/convnextv2-base-22k-384"},
                "optimizer": {
                    "epochs": 10,
                    "freeze_epochs": 10,
                    "batch_size": 32,
                    "learning_rate": 1e-3,
                    "backbone_factor": 0.1,
                    "weight_decay": 0.05,
                    "ema_decay": 0.9999,
                    "keep": "best",
                },
                "second": {
                    "kind": "retrain",
                    "learn": "all",
                    "epochs": 60,
                    "learning_rate": 1.5e-4,
                    "sampler": {"kind": "repeat_factor", "threshold": 0.01, "cap": 10.0},
                },
            }
        },
    ),
    "cxrlt_ldam": Recipe(
        purpose="Margins for rare classes, late re-weighting, then a new last layer on balanced draws.",
        tasks=("multilabel",),
        origin="fifth of CXR-LT 2026 task 1 (.3950; arXiv 2602.22092); cao2019 (LDAM-DRW), kang2020 (cRT)",
        leaves_out="resolution, rates and lengths are ours",
        config={
            "augment": _AUGMENT,
            "loss": {"kind": "ldam", "link": "sigmoid"},
            "sampler": {"kind": "uniform"},
            "second": {"kind": "retrain", "learn": "classifier", "epochs": 10},
        },
        sizes=_from_scratch("convnext", tiny={"second": {"epochs": 5}})
        | {
            "base": {
                "pixels": {"size_px": 384},
                "backbone": {"kind": "convnext", "weights": "facebook/convnext-large-384-22k-1k", "drop_path": 0.2},
                "optimizer": {
                    "epochs": 20,
                    "batch_size": 16,
                    "learning_rate": 1e-4,
                    "weight_decay": 0.05,
                    "ema_decay": 0.9997,
                    "keep": "best",
                },
                "second": {"epochs": 10, "learning_rate": 1e-3},
            }
        },
    ),
}
