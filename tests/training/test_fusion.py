"""What reading two views together gains is known beforehand where the studies are made up."""

from __future__ import annotations

from pathlib import Path
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest
import torch

from medtail.errors import MedtailError
from medtail.judging.metrics import auroc
from medtail.losses.objective import Objective, ObjectiveValue, Step
from medtail.tables.manifest import Manifest, manifest_from_frame
from medtail.tables.studies import gather_studies
from medtail.tables.views import aggregate_views
from medtail.training.config import TrainConfig, train_config
from medtail.training.fusion import FusionTrainer, best_model, plan_fusion
from medtail.training.maps import StoredMaps
from medtail.training.second import StudyFusionConfig

DELTA = 1.2
ALONE = NormalDist().cdf(DELTA / 2**0.5)
TOGETHER = NormalDist().cdf(DELTA)
"""AUROC of the best reader of one view, and of two: signals of DELTA standard deviations in independent noise."""


def studies(count: int, *, views: int = 2, seed: int = 0) -> tuple[Manifest, np.ndarray]:
    """Studies whose images each show the finding DELTA standard deviations strong; the last 40 % are tune."""
    random = np.random.default_rng(seed)
    present = (random.random(count) < 0.4).astype(float)
    number = np.repeat(np.arange(count), views)
    frame = pd.DataFrame(
        {
            "image_id": [f"i{n}" for n in range(count * views)],
            "path": "x",
            "patient_id": [f"p{n}" for n in number],
            "study_id": [f"s{n}" for n in number],
            "view": np.tile(["PA", "LL", "AP"][:views], count),
            "fold": np.where(number < 0.6 * count, "train", "tune"),
            "Hernia": present[number],
        }
    )
    maps = random.normal(size=(count * views, 3, 1, 2)).astype(np.float32)
    maps[:, 0] = (DELTA * present[number] + random.normal(size=count * views))[:, None, None]
    return manifest_from_frame(frame), maps


def in_range(values: np.ndarray) -> np.ndarray:
    """Put values linearly into [0, 1]: what is averaged stays what it was."""
    return np.asarray((values.astype(float) + 20.0) / 40.0)


def config(**second: object) -> TrainConfig:
    network = {"width": 16, "heads": 2, "layers": 1, "inner": 16, "dropout": 0.0, "decoder": {"kind": "linear"}}
    return train_config(
        {
            "manifest": "none.csv",
            "optimizer": {"ema_decay": 0.98},
            "second": {
                "kind": "study_fusion", "fusion": network, "epochs": 6, "batch_size": 64, "learning_rate": 0.003,
                **second,
            },
        }
    )  # fmt: skip


def trained(manifest: Manifest, maps: np.ndarray, folder: Path, **second: object) -> FusionTrainer:
    settings = config(**second)
    assert isinstance(settings.second, StudyFusionConfig)
    plan = plan_fusion(settings, settings.second, manifest, gather_studies(manifest))
    network = plan.network(maps.shape[1])
    trainer = FusionTrainer(plan, network, StoredMaps(maps), folder=folder, device=torch.device("cpu"))
    trainer.run()
    return trainer


def judged(trainer: FusionTrainer) -> float:
    tune = trainer.plan.manifest.folds == "tune"
    return auroc(trainer.tune_scores()[tune, 0], trainer.plan.manifest.targets[tune, 0])


def test_two_views_gain_what_two_independent_readings_must(tmp_path: Path) -> None:
    manifest, maps = studies(2500)
    both = judged(trained(manifest, maps, tmp_path / "both"))
    frontal = (manifest.frame["view"] == "PA").to_numpy()
    single = judged(trained(manifest.take(frontal), maps[frontal], tmp_path / "single"))
    # 1000 tune studies: a standard error of about 0.015
    assert single == pytest.approx(ALONE, abs=0.045)
    assert both == pytest.approx(TOGETHER, abs=0.045)
    assert both - single > 0.5 * (TOGETHER - ALONE)


def test_the_mean_over_views_gains_the_same_where_views_are_alike_and_nothing_is_learnt() -> None:
    manifest, maps = studies(4000, seed=1)
    scores = in_range(maps[:, 0, 0, :1])
    fused = aggregate_views(scores, manifest.frame["study_id"].to_numpy(dtype=object))
    found = [auroc(given[::2, 0], manifest.targets[::2, 0]) for given in (scores, fused)]
    assert found == [pytest.approx(ALONE, abs=0.025), pytest.approx(TOGETHER, abs=0.025)]


def test_fusion_learns_which_view_to_trust_which_a_mean_cannot(tmp_path: Path) -> None:
    manifest, maps = studies(2500, seed=2)
    lateral = (manifest.frame["view"] == "LL").to_numpy()
    # frontal views say nothing here, and are louder
    maps[~lateral, 0] = 2 * np.random.default_rng(0).normal(size=((~lateral).sum(), 1, 2))
    fused = judged(trained(manifest, maps, tmp_path / "fused"))
    tune = manifest.folds == "tune"
    scores = aggregate_views(in_range(maps[:, 0, 0, :1]), manifest.frame["study_id"].to_numpy(dtype=object))
    mean = auroc(scores[tune, 0], manifest.targets[tune, 0])
    assert fused > mean + 0.08
    assert fused == pytest.approx(ALONE, abs=0.05)


def test_larger_studies_are_drawn_anew_and_all_their_images_are_learnt_from(tmp_path: Path) -> None:
    manifest, maps = studies(60, views=3)
    seen: set[int] = set()

    class Watched:
        def read(self, rows: np.ndarray, *, seed: int | None = None) -> torch.Tensor:
            seen.update(rows.tolist())
            assert len(rows) <= 2 * 64
            return torch.from_numpy(maps[rows])

    settings = config(epochs=12)
    assert isinstance(settings.second, StudyFusionConfig)
    from dataclasses import replace

    second = replace(settings.second, fusion=replace(settings.second.fusion, most_views=2))
    plan = plan_fusion(settings, second, manifest, gather_studies(manifest))
    trainer = FusionTrainer(plan, plan.network(3), Watched(), folder=tmp_path, device=torch.device("cpu"))  # type: ignore[arg-type]
    trainer.run()
    assert set(np.flatnonzero(manifest.folds == "train").tolist()) <= seen
    unlooked = (manifest.folds == "tune") & (manifest.frame["view"] == "LL").to_numpy()
    assert not set(np.flatnonzero(unlooked).tolist()) & seen, "judging takes frontal views first"


def test_the_kept_model_is_that_of_the_best_epoch_and_the_noise_model_learns_by_study(tmp_path: Path) -> None:
    manifest, maps = studies(120)
    settings = config(epochs=3)
    assert isinstance(settings.second, StudyFusionConfig)
    trainer = trained(manifest, maps, tmp_path / "run")
    assert trainer.progress.best_epoch is not None
    best = max(row["tune_map"] for row in trainer.progress.log)  # type: ignore[type-var]
    assert trainer.progress.best_map == best
    from medtail.models.backbones import ResNetConfig
    from medtail.models.diagnoser import build_diagnoser
    from medtail.models.heads import LinearHeadConfig

    image_model = build_diagnoser(
        backbone=ResNetConfig(), head=LinearHeadConfig(), labels=manifest.labels, link="sigmoid", channels=1, size_px=32
    )
    image_model.backbone.feature_dim = 3
    model = best_model(trainer.plan, image_model, folder=tmp_path / "run")
    assert not model.training
    noisy = train_config({"manifest": "none.csv", "objective": {"kind": "sop", "learn_from": 0.0, "start": 0.1},
                          "second": {"kind": "study_fusion", "epochs": 1, "batch_size": 16}})  # fmt: skip
    assert isinstance(noisy.second, StudyFusionConfig)
    plan = plan_fusion(noisy, noisy.second, manifest, gather_studies(manifest))
    FusionTrainer(plan, plan.network(3), StoredMaps(maps), folder=tmp_path / "noisy", device=torch.device("cpu")).run()
    moved = (plan.objective.state_dict()["u"] != 0.1).any(dim=1).numpy()
    assert moved.sum() == ((plan.rows.folds == "train") & (plan.rows.targets[:, 0] == 1)).sum()


def test_a_loss_that_is_no_number_stops_it(tmp_path: Path) -> None:
    manifest, maps = studies(30)

    class Bad(Objective):
        link = "sigmoid"

        def forward(self, step: Step) -> ObjectiveValue:
            return ObjectiveValue(total=step.logits.sum() * torch.nan)

    settings = config()
    assert isinstance(settings.second, StudyFusionConfig)
    from dataclasses import replace

    plan = replace(plan_fusion(settings, settings.second, manifest, gather_studies(manifest)), objective=Bad())
    trainer = FusionTrainer(plan, plan.network(3), StoredMaps(maps), folder=tmp_path, device=torch.device("cpu"))
    with pytest.raises(MedtailError, match=r"fusion epoch 1, step 1: the loss is nan"):
        trainer.run()
