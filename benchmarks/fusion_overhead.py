"""What reading studies costs: seconds a step of fusion and of decoders, and what two views gain where it is known.

Two tables. First, processor time of a training step, parts measured in turns, round after round, the fastest of each:
the image model (forward, backward, AdamW), the frozen backbone alone (what live maps cost), fusion on stored maps with
either decoder, and heads on stored maps. Second, made-up studies of two views with a finding DELTA standard deviations
strong in independent noise: a reader of one view can reach an AUROC of Φ(DELTA / √2), of both Φ(DELTA).

    python benchmarks/fusion_overhead.py
    python benchmarks/fusion_overhead.py --backbone convnext --size-name small --px 384 --studies 8 --rounds 3
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from medtail.judging.metrics import auroc
from medtail.models.backbones import ConvNextConfig, EfficientNetConfig, ResNetConfig, build_backbone
from medtail.models.class_attention import ClassAttentionConfig
from medtail.models.csra import CsraConfig
from medtail.models.glori import GloriConfig
from medtail.models.heads import HeadConfig, LinearHeadConfig, build_head
from medtail.models.ml_decoder import MlDecoderConfig
from medtail.models.study_fusion import FusionConfig, StudyFusion
from medtail.tables.manifest import Manifest, manifest_from_frame
from medtail.tables.studies import gather_studies
from medtail.tables.views import aggregate_views
from medtail.training.config import train_config
from medtail.training.fusion import FusionTrainer, plan_fusion
from medtail.training.maps import StoredMaps
from medtail.training.second import StudyFusionConfig

CLASSES, VIEWS = 40, 2
BACKBONES = {"efficientnet": EfficientNetConfig, "resnet": ResNetConfig, "convnext": ConvNextConfig}
HEADS: dict[str, HeadConfig] = {
    "linear": LinearHeadConfig(),
    "csra": CsraConfig(),
    "ml_decoder": MlDecoderConfig(),
    "class_attention": ClassAttentionConfig(),
    "glori": GloriConfig(),
}


def learning(module: nn.Module, run: Callable[[], Tensor]) -> Callable[[], None]:
    """Return a function that takes one step of a module whose forward pass is `run`."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(run().square().mean())
        optimizer.step()

    return step


def steps_of(*, backbone: str, size_name: str, px: int, studies: int) -> dict[str, Callable[[], None]]:
    """Return a step of each part; all see the same number of images."""
    torch.manual_seed(0)
    trunk = build_backbone(BACKBONES[backbone](size=size_name), channels=1, size_px=px)  # type: ignore[arg-type]
    images = torch.rand(studies * VIEWS, 1, px, px)
    with torch.no_grad():
        maps = trunk.eval()(images)
    trunk.train()
    whole = nn.ModuleList([trunk, build_head(LinearHeadConfig(), feature_dim=trunk.feature_dim, num_classes=CLASSES)])
    parts = {"image model": learning(whole, lambda: whole[1](whole[0](images)))}

    def frozen() -> None:
        with torch.no_grad():
            trunk(images)

    parts["frozen backbone (live maps)"] = frozen
    by_study = maps.unflatten(0, (studies, VIEWS))
    kinds = torch.tensor([0, 1]).expand(studies, -1)
    is_there = torch.ones(studies, VIEWS, dtype=torch.bool)
    for name, decoder in (("ml_decoder", MlDecoderConfig()), ("linear", LinearHeadConfig())):
        fusion = StudyFusion(trunk.feature_dim, CLASSES, config=FusionConfig(decoder=decoder))
        parts[f"fusion, {name}"] = learning(fusion, lambda fusion=fusion: fusion(by_study, kinds, is_there))
    for name, config in HEADS.items():
        head = build_head(config, feature_dim=trunk.feature_dim, num_classes=CLASSES)
        parts[f"head {name}"] = learning(head, lambda head=head: head(maps))
    return parts


def made_up(count: int, *, delta: float, seed: int) -> tuple[Manifest, np.ndarray]:
    """Return studies of two views and their maps; the last 40 % of the studies are tune."""
    random = np.random.default_rng(seed)
    present = (random.random(count) < 0.3).astype(float)
    number = np.repeat(np.arange(count), VIEWS)
    frame = pd.DataFrame(
        {
            "image_id": [f"i{n}" for n in range(count * VIEWS)], "path": "x", "patient_id": [f"p{n}" for n in number],
            "study_id": [f"s{n}" for n in number], "view": np.tile(["PA", "LL"], count),
            "fold": np.where(number < 0.6 * count, "train", "tune"), "finding": present[number],
        }
    )  # fmt: skip
    maps = random.normal(size=(count * VIEWS, 4, 2, 2)).astype(np.float32)
    maps[:, 0] = (delta * present[number] + random.normal(size=count * VIEWS))[:, None, None]
    return manifest_from_frame(frame), maps


def gain(*, delta: float, count: int, seed: int) -> dict[str, float]:
    """Return the AUROC on tune of one view, of the mean over two, and of fusion, each learnt from maps alone."""
    manifest, maps = made_up(count, delta=delta, seed=seed)
    decoder = {"kind": "linear"}
    fusion = {"width": 16, "heads": 2, "layers": 1, "inner": 16, "dropout": 0.0, "decoder": decoder}
    second = {"kind": "study_fusion", "fusion": fusion, "epochs": 6, "batch_size": 64, "learning_rate": 0.003}
    settings = train_config({"manifest": "none.csv", "second": second})
    assert isinstance(settings.second, StudyFusionConfig)
    found = {}
    for name in ("one view", "fusion"):
        used = np.arange(len(manifest)) if name == "fusion" else np.arange(0, len(manifest), VIEWS)
        table, own = manifest.take(used), maps[used]
        plan = plan_fusion(settings, settings.second, table, gather_studies(table))
        with tempfile.TemporaryDirectory() as folder:
            network = plan.network(4)
            trainer = FusionTrainer(plan, network, StoredMaps(own), folder=Path(folder), device=torch.device("cpu"))
            trainer.run()
            tune = table.folds == "tune"
            found[name] = auroc(trainer.tune_scores()[tune, 0], table.targets[tune, 0])
    tune = manifest.folds == "tune"
    scores = (maps[:, 0, 0, :1].astype(float) + 20.0) / 40.0
    mean = aggregate_views(scores, manifest.frame["study_id"].to_numpy(dtype=object))
    found["mean of the best readings"] = auroc(mean[tune, 0], manifest.targets[tune, 0])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", choices=sorted(BACKBONES), default="efficientnet")
    parser.add_argument("--size-name", choices=("tiny", "small", "base"), default="small")
    parser.add_argument("--px", type=int, default=128)
    parser.add_argument("--studies", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--delta", type=float, default=1.2)
    parser.add_argument("--made-up", type=int, default=2500)
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    parts = steps_of(backbone=asked.backbone, size_name=asked.size_name, px=asked.px, studies=asked.studies)
    fastest = dict.fromkeys(parts, float("inf"))
    for _ in range(asked.rounds + 1):
        for name, step in parts.items():
            began = time.process_time()
            step()
            fastest[name] = min(fastest[name], time.process_time() - began)
    print(
        f"{asked.backbone} {asked.size_name} at {asked.px} px, {asked.studies} studies of {VIEWS} views, {CLASSES}"
        f" classes, {asked.threads} thread, processor time, {asked.rounds} rounds"
    )
    print(f"{'part':30s}{'ms a step':>12s}{'of image model':>16s}")
    for name, seconds in fastest.items():
        print(f"{name:30s}{1000 * seconds:12.1f}{seconds / fastest['image model']:16.3f}")
    alone, together = (NormalDist().cdf(asked.delta / root) for root in (2**0.5, 1.0))
    print(f"\nknown: AUROC of one view {alone:.3f}, of two {together:.3f}")
    rows = [gain(delta=asked.delta, count=asked.made_up, seed=seed) for seed in range(asked.seeds)]
    for name in rows[0]:
        values = [row[name] for row in rows]
        print(f"{name:30s}{np.mean(values):8.3f}  (seeds: {', '.join(f'{value:.3f}' for value in values)})")


if __name__ == "__main__":
    main()
