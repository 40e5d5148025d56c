from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from medtail.errors import MedtailError
from medtail.losses import objective
from medtail.models.checkpoint import load_model
from medtail.pixels.dataset import content_masks, to_float
from medtail.pixels.frequency import BandConfig, BandFilter, band_pass
from medtail.pixels.settings import PixelConfig
from medtail.pixels.store import PixelStore, open_store
from medtail.tables.manifest import Manifest, read_manifest
from medtail.tables.predictions import read_predictions
from medtail.training.config import TrainConfig
from medtail.training.ensembles import train
from medtail.training.plan import BAND_IMAGES, measure_band
from medtail.training.predict import predict, score_rows

MakeConfig = Callable[..., TrainConfig]
EXTRA = BandConfig(kind="extra")
MIRROR = PixelConfig(size_px=32, fill="mirror")


def banded(make_config: MakeConfig, *, kind: str = "extra", **changes: object) -> TrainConfig:
    return make_config(pixels={"fill": "mirror"}, band={"kind": kind}, **changes)


def sigma_of(store: PixelStore, rows: np.ndarray, *, seed: int = 0) -> float:
    band = BandFilter(EXTRA, size_px=32)
    measure_band(band, store, rows=rows, seed=seed)
    return float(band.sigma)


def test_the_scale_is_measured_on_content_of_the_train_fold_alone(toy_manifest: Manifest, tmp_path: Path) -> None:
    store = open_store(toy_manifest, MIRROR, cache=tmp_path / "cache")
    train_rows = np.flatnonzero(toy_manifest.folds == "train")
    images = to_float(torch.from_numpy(store.images(train_rows)))
    inside = content_masks(torch.from_numpy(store.content_boxes[train_rows]), size_px=32)
    assert not inside.all()
    expected = band_pass(images, EXTRA.mask(size_px=32))[inside].std(correction=0)
    found = sigma_of(store, train_rows)
    assert found == pytest.approx(float(expected), rel=1e-4)
    assert sigma_of(store, train_rows[::-1]) == found
    assert sigma_of(store, np.arange(len(toy_manifest))) != found


def test_a_large_train_fold_is_measured_on_some_of_its_images_chosen_by_the_seed(
    toy_manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert BAND_IMAGES >= 100
    store = open_store(toy_manifest, MIRROR, cache=tmp_path / "cache")
    whole = sigma_of(store, np.arange(60))
    monkeypatch.setattr("medtail.training.plan.BAND_IMAGES", 20)
    some, again, others = (sigma_of(store, np.arange(60), seed=seed) for seed in (0, 0, 1))
    assert some == again
    assert len({whole, some, others}) == 3


@pytest.mark.parametrize("kind", ["extra", "replace"])
def test_a_band_is_part_of_the_model(make_config: MakeConfig, tmp_path: Path, kind: str) -> None:
    config = banded(make_config, kind=kind, test_time_flip=True)
    train(config, tmp_path / "run", quiet=True)
    diagnoser, card = load_model(tmp_path / "run" / "model")
    assert card.parts.band == config.band
    assert card.parts.pixels.fill == "mirror"
    assert diagnoser.band is not None
    manifest = read_manifest(tmp_path / "toy.csv")
    store = open_store(manifest, config.pixels, cache=tmp_path / "cache")
    expected = sigma_of(store, np.flatnonzero(manifest.folds == "train"))
    assert float(diagnoser.band.sigma) == pytest.approx(expected, rel=1e-6)

    scored = read_predictions(tmp_path / "run" / "predictions_tune.parquet")
    for size in (1, 64):
        again = predict(tmp_path / "run", manifest, fold="tune", batch_size=size, quiet=True)
        np.testing.assert_allclose(again.scores, scored.scores, atol=1e-5)


def test_flipping_takes_the_content_along(make_config: MakeConfig, toy_manifest: Manifest, tmp_path: Path) -> None:
    """Bars of unequal width: a mask left behind would black out tissue on one side."""
    train(banded(make_config, optimizer={"epochs": 1}), tmp_path / "run", quiet=True)
    diagnoser, _ = load_model(tmp_path / "run" / "model")
    boxes = np.tile(np.array([[0, 3, 20, 32]], dtype=np.int16), (60, 1))
    store = replace(open_store(toy_manifest, MIRROR, cache=tmp_path / "cache"), content_boxes=boxes)
    images = to_float(torch.from_numpy(store.images(np.arange(4))))
    content = content_masks(torch.from_numpy(boxes[:4]), size_px=32)
    seen, mirrored = diagnoser.inputs(images, content), diagnoser.inputs(images.flip(-1), content.flip(-1))
    torch.testing.assert_close(mirrored, seen.flip(-1), atol=1e-5, rtol=0)
    assert (diagnoser.inputs(images.flip(-1), content) - seen.flip(-1)).abs().max() > 0.1
    with torch.inference_mode():
        expected = (diagnoser.scores(images, content) + diagnoser.scores(images.flip(-1), content.flip(-1))) / 2
    found = score_rows(diagnoser, store, rows=np.arange(4), test_time_flip=True)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)


def test_a_run_with_a_band_goes_on_to_the_same_bytes(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = banded(make_config, optimizer={"epochs": 3}, mix={"kind": "mixup", "alpha": 0.4})
    train(config, tmp_path / "whole", quiet=True)
    genuine = objective.masked_sum
    calls = []

    def diverge(*arguments: object, **settings: object) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(1)
        total, weight = genuine(*arguments, **settings)  # type: ignore[arg-type]
        return total * (torch.nan if len(calls) == 4 else 1.0), weight

    monkeypatch.setattr(objective, "masked_sum", diverge)
    with pytest.raises(MedtailError, match="the loss is nan"):
        train(config, tmp_path / "cut", quiet=True)
    monkeypatch.undo()
    monkeypatch.setattr("medtail.training.epochs.measure_band", None)  # it is not measured again
    train(config, tmp_path / "cut", resume=True, quiet=True)
    for name in ("model/model.safetensors", "model/card.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_card_from_before_there_were_bands_still_loads(make_config: MakeConfig, tmp_path: Path) -> None:
    train(make_config(optimizer={"epochs": 1}), tmp_path / "run", quiet=True)
    path = tmp_path / "run" / "model" / "card.json"
    card = json.loads(path.read_text(encoding="utf-8"))
    assert card["parts"].pop("band")["kind"] == "none"
    path.write_text(json.dumps(card), encoding="utf-8")
    diagnoser, loaded = load_model(tmp_path / "run" / "model")
    assert diagnoser.band is None
    assert loaded.parts.band == BandConfig()


def test_the_network_sees_what_the_filter_makes(make_config: MakeConfig, tmp_path: Path) -> None:
    seen = {}
    for kind in ("none", "extra", "replace"):
        train(banded(make_config, kind=kind, optimizer={"epochs": 1}), tmp_path / kind, quiet=True)
        log = pd.read_csv(tmp_path / kind / "log.csv")
        seen[kind] = float(log["train_loss"].iloc[0])
    assert len(set(seen.values())) == 3


def test_synthetic_images_do_not_set_the_scale(make_config: MakeConfig, toy_manifest: Manifest, tmp_path: Path) -> None:
    train(banded(make_config, optimizer={"epochs": 1}), tmp_path / "real", quiet=True)
    rows = np.flatnonzero(toy_manifest.folds == "train")[:2]
    made = toy_manifest.take(rows).frame.assign(image_id=["s0", "s1"], patient_id=["s0", "s1"], origin="synthetic")
    replace(toy_manifest, frame=pd.concat([toy_manifest.frame, made], ignore_index=True)).write(tmp_path / "toy.csv")
    train(banded(make_config, optimizer={"epochs": 1}), tmp_path / "mixed", quiet=True)
    sigmas = [load_model(tmp_path / name / "model")[0].state_dict()["band.sigma"] for name in ("real", "mixed")]
    assert torch.equal(*sigmas)


def test_a_band_without_mirror_bars_is_refused(make_config: MakeConfig) -> None:
    with pytest.raises(
        MedtailError, match=r"band\.kind: 'extra' with pixels\.fill 'black'.*expected pixels.fill 'mirror'"
    ):
        make_config(band={"kind": "extra"})


def test_a_band_beyond_the_image_is_refused_before_training(make_config: MakeConfig) -> None:
    settings = {"kind": "replace", "low": 80, "high": 100, "scale_with_size": False}
    with pytest.raises(MedtailError, match="80 to 100 holds no coefficient of an image of 32 pixels"):
        make_config(pixels={"fill": "mirror"}, band=settings)
