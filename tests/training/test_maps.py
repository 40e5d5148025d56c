from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medtail.models.backbones import ResNetConfig
from medtail.models.diagnoser import Diagnoser, build_diagnoser
from medtail.models.heads import LinearHeadConfig
from medtail.models.study_fusion import FusionConfig, StudyFusion
from medtail.models.study_model import StudyDiagnoser
from medtail.pixels.augment import AugmentConfig
from medtail.pixels.dataset import to_float
from medtail.pixels.settings import PixelConfig
from medtail.pixels.store import PixelStore, open_store
from medtail.tables.manifest import Manifest
from medtail.tables.studies import gather_studies
from medtail.training.maps import LiveMaps, StoredMaps, read_studies, score_studies, store_maps

CPU = torch.device("cpu")


@pytest.fixture
def opened(toy_manifest: Manifest, tmp_path: Path) -> tuple[Manifest, PixelStore, Diagnoser]:
    study = [f"s{int(patient[1:]) // 2}" if row % 5 else "" for row, patient in enumerate(toy_manifest.patients)]
    frame = toy_manifest.frame.assign(study_id=study, patient_id="", fold="", view="PA")
    manifest = replace(toy_manifest, frame=frame)
    store = open_store(manifest, PixelConfig(size_px=32), cache=tmp_path / "cache")
    torch.manual_seed(0)
    model = build_diagnoser(
        backbone=ResNetConfig(), head=LinearHeadConfig(), labels=manifest.labels, link="softmax",
        channels=store.config.channels, size_px=32,
    ).eval()  # fmt: skip
    return manifest, store, model


def test_stored_maps_are_those_made_live_and_are_not_made_twice(
    opened: tuple[Manifest, PixelStore, Diagnoser], tmp_path: Path
) -> None:
    manifest, store, model = opened
    path = tmp_path / "stage" / "maps.npy"
    seen: list[int] = []
    stored = store_maps(model, store, path, device=CPU, progress=lambda done, total: seen.append(done))
    live = LiveMaps(model, store, augment=AugmentConfig(), device=CPU)
    rows = np.array([7, 0, 59, 7])
    torch.testing.assert_close(stored.read(rows), live.read(rows), rtol=1e-4, atol=1e-5)
    assert seen == [len(manifest)]
    assert np.load(path, mmap_mode="r").shape == (60, model.backbone.feature_dim, 1, 1)
    store_maps(model, store, path, device=CPU, progress=lambda done, total: seen.append(done))
    assert seen == [len(manifest)], "what is there is used as it is"


def test_augmentation_is_a_function_of_the_seed_alone(opened: tuple[Manifest, PixelStore, Diagnoser]) -> None:
    _, store, model = opened
    live = LiveMaps(model, store, augment=AugmentConfig(), device=CPU)
    rows = np.arange(4)
    assert torch.equal(live.read(rows, seed=1), live.read(rows, seed=1))
    assert (live.read(rows, seed=1) - live.read(rows, seed=2)).abs().max() > 1e-4
    assert not live.read(rows, seed=1).requires_grad


def test_each_view_stands_in_its_studys_row(opened: tuple[Manifest, PixelStore, Diagnoser]) -> None:
    manifest, _, _ = opened
    studies = gather_studies(manifest)
    numbered = StoredMaps(np.arange(len(manifest), dtype=np.float32)[:, None, None, None])
    chosen = np.array([len(studies) - 1, 0, 3])
    maps, kinds, is_there = read_studies(numbered, studies, chosen, most=3)
    for row, study in enumerate(chosen):
        wanted = studies.images(int(study))[:3]
        assert maps[row, is_there[row]].flatten().tolist() == wanted.tolist()
    assert maps.shape[1] == is_there.sum(dim=1).max(), "no wider than the largest study here"
    assert (maps[~is_there] == 0).all()
    assert (kinds[is_there] == 0).all()


def test_scores_of_studies_are_those_of_a_plain_loop(opened: tuple[Manifest, PixelStore, Diagnoser]) -> None:
    manifest, store, image_model = opened
    studies = gather_studies(manifest)
    config = FusionConfig(width=16, heads=2, inner=16, most_views=3, decoder=LinearHeadConfig())
    fusion = StudyFusion(image_model.backbone.feature_dim, 5, config=config)
    torch.nn.init.normal_(fusion.decoder.linear.weight)  # type: ignore[union-attr]
    model = StudyDiagnoser(image_model, fusion, link="softmax").eval()
    found = score_studies(model, store, studies, batch_size=7)
    for row in (0, 5, 23, 59):
        images = studies.images(int(studies.member[row]))[:3]
        with torch.inference_mode():
            maps = model.maps(to_float(torch.from_numpy(store.images(images))))[None]
            there = torch.ones(1, len(images), dtype=torch.bool)
            expected = model.scores(maps, torch.zeros(1, len(images), dtype=torch.long), there)[0]
        np.testing.assert_allclose(found[row], expected.numpy(), atol=1e-5)
    assert found.std(axis=0).max() > 0
