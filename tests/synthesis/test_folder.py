from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from medtail.errors import MedtailError
from medtail.synthesis.folder import AUTOENCODER, DENOISER, load_generator


@pytest.fixture
def copied(generator_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(generator_folder, tmp_path / "gen"))


def test_a_generator_comes_back_as_it_was_trained(generator_folder: Path, phantoms: Path) -> None:
    generator = load_generator(generator_folder)
    assert generator.labels.task == "multiclass"
    assert generator.config.manifest == str(phantoms)
    assert len(generator.train_patients) == 23
    assert not generator.denoiser.training
    assert not any(p.requires_grad for p in generator.denoiser.parameters())


def test_images_go_to_latents_of_deviation_1_and_back(generator_folder: Path, phantoms: Path) -> None:
    from medtail.synthesis.material import gather
    from medtail.tables.manifest import read_manifest

    generator = load_generator(generator_folder)
    config = generator.config
    material = gather(read_manifest(phantoms), config.prepared, config.sketch, cache=None)
    images = material.images(torch.arange(len(material.store)).numpy())
    latents = generator.encode(images)
    assert latents.shape == (23, *generator.latent_shape) == (23, 4, 8, 8)
    assert float(latents.double().std(correction=0)) == pytest.approx(1.0, rel=1e-4)
    back = generator.decode(latents)
    assert back.shape == images.shape
    assert float((back - images).abs().mean()) == pytest.approx(generator.record["autoencoder"]["l1"], rel=1e-4)
    assert generator.decode(generator.encode(images[:0])).shape == (0, 1, 32, 32)


def test_loading_leaves_the_random_state_alone(generator_folder: Path) -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    load_generator(generator_folder)
    assert torch.equal(torch.rand(3), wanted)


def test_an_unfinished_training_is_named(copied: Path) -> None:
    (copied / "record.json").unlink()
    with pytest.raises(MedtailError, match=r"the training is not finished.*--resume"):
        load_generator(copied)
    with pytest.raises(MedtailError, match=r"no record\.json.*Give a generator's folder"):
        load_generator(copied.parent)


@pytest.mark.parametrize("name", [AUTOENCODER, DENOISER])
def test_damaged_weights_are_refused(copied: Path, name: str) -> None:
    content = bytearray((copied / name).read_bytes())
    content[-1] ^= 1
    (copied / name).write_bytes(bytes(content))
    with pytest.raises(MedtailError, match="do not belong together"):
        load_generator(copied)
    (copied / name).write_bytes(b"PK\x03\x04 a pickle in a zip")
    with pytest.raises(MedtailError, match="is not a readable safetensors file"):
        load_generator(copied)


def test_another_latent_scale_or_label_space_is_refused(copied: Path) -> None:
    record = json.loads((copied / "record.json").read_text())
    (copied / "record.json").write_text(json.dumps(record | {"latent_scale": 0.18215}))
    with pytest.raises(MedtailError, match="do not belong together"):
        load_generator(copied)
    labels = record["labels"] | {"class_names": list(reversed(record["labels"]["class_names"]))}
    (copied / "record.json").write_text(json.dumps(record | {"labels": labels}))
    with pytest.raises(MedtailError, match="do not belong together"):
        load_generator(copied)
    (copied / "record.json").write_text(json.dumps(record | {"format": "other/1"}))
    with pytest.raises(MedtailError, match="format 'other/1' is unknown"):
        load_generator(copied)
