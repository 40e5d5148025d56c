from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from medtail.pixels.augment import AugmentParameters, apply_augmentation, warp_masks
from medtail.pixels.dataset import to_float
from medtail.pixels.frequency import BandFilter
from medtail.pixels.store import open_store
from medtail.tables.manifest import read_manifest
from medtail.training import module as module_under_test
from medtail.training.config import TrainConfig
from medtail.training.ensembles import train
from medtail.training.module import set_norm_momentum, update_average, warm_decay


def test_average_follows_its_closed_form() -> None:
    """After steps with values v_t: d^T v_0 + (1 - d) Σ d^(T - t) v_t, for parameters and running statistics alike."""
    decay, values = 0.9, [3.0, -1.0, 4.0, 1.5]
    model, average = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    nn.init.constant_(average.weight, 7.0)
    average.running_mean.fill_(7.0)
    for value in values:
        nn.init.constant_(model.weight, value)
        model.running_mean.fill_(value)
        model.num_batches_tracked += 1
        update_average(average, model, decay=decay)
    steps = len(values)
    expected = decay**steps * 7.0 + sum(
        (1 - decay) * decay ** (steps - 1 - step) * value for step, value in enumerate(values)
    )
    torch.testing.assert_close(average.weight.detach(), torch.full((2,), expected))
    torch.testing.assert_close(average.running_mean, torch.full((2,), expected))
    assert average.num_batches_tracked == steps


def test_average_forgets_the_start_while_young() -> None:
    assert [warm_decay(0.9, step=step) for step in (1, 8, 80, 1000)] == pytest.approx([2 / 11, 0.5, 0.9, 0.9])


def test_running_statistics_follow_the_first_steps() -> None:
    norm = nn.BatchNorm2d(3)
    momenta = []
    for step in (0, 10, 90, 890, 5000):
        set_norm_momentum(norm, step=step)
        momenta.append(norm.momentum)
    assert momenta == pytest.approx([0.9, 0.45, 0.09, 0.01, 0.01])


def test_augmentation_touches_train_images_only(
    make_config: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touched: list[torch.Tensor] = []

    def watched(images: torch.Tensor, parameters: AugmentParameters) -> torch.Tensor:
        touched.append(images.clone())
        return apply_augmentation(images, parameters)

    monkeypatch.setattr(module_under_test, "apply_augmentation", watched)
    config = make_config()
    train(config, tmp_path / "run", quiet=True)
    manifest = read_manifest(config.manifest)
    store = open_store(manifest, config.pixels, cache=tmp_path / "cache")
    pixels = to_float(torch.from_numpy(store.images(np.arange(len(manifest)))))
    seen = {image.numpy().tobytes() for batch in touched for image in batch.contiguous()}
    found = np.array([image.numpy().tobytes() in seen for image in pixels])
    np.testing.assert_array_equal(found, manifest.folds == "train")


def test_the_content_moves_with_the_image_into_the_band(
    make_config: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[AugmentParameters] = []
    shown: list[torch.Tensor] = []
    genuine = BandFilter.forward

    def watched(images: torch.Tensor, parameters: AugmentParameters) -> torch.Tensor:
        drawn.append(parameters)
        return apply_augmentation(images, parameters)

    def watching(self: BandFilter, images: torch.Tensor, content: torch.Tensor | None = None) -> torch.Tensor:
        assert content is not None
        if content.is_floating_point():  # while training; tune images are not moved
            shown.append(content)
        return genuine(self, images, content)

    monkeypatch.setattr(module_under_test, "apply_augmentation", watched)
    monkeypatch.setattr(BandFilter, "forward", watching)
    changes = {"pixels": {"fill": "mirror"}, "band": {"kind": "extra"}, "augment": {"rotation_deg": 30}}
    train(make_config(optimizer={"epochs": 1}, **changes), tmp_path / "run", quiet=True)
    still = torch.zeros(1, 1, 32, 32)
    still[:, :, 3:29] = 1  # 40 x 48 pixels in a square of 32: bars of 3 above and below
    assert len(shown) == len(drawn) > 0
    for content, parameters in zip(shown, drawn, strict=True):
        assert parameters.moves
        torch.testing.assert_close(content, warp_masks(still.expand(len(parameters), -1, -1, -1), parameters))
