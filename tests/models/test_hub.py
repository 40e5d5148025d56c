from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch

from medtail.errors import MedtailError
from medtail.models.backbones import HubConfig, ResNetConfig, build_backbone
from medtail.models.hub import normalisation_of, read_normalisation


@pytest.fixture
def resnet_folder(tmp_path: Path) -> Path:
    backbone = build_backbone(ResNetConfig(), channels=3, size_px=64)
    folder = tmp_path / "resnet"
    backbone.network.model.save_pretrained(folder)  # type: ignore[union-attr, operator]
    settings = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.2], "rescale_factor": 1 / 255}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def test_local_folder_gives_weights_and_normalisation(resnet_folder: Path) -> None:
    torch.manual_seed(1)
    backbone = build_backbone(ResNetConfig(weights=str(resnet_folder)), channels=3, size_px=64)
    from safetensors.torch import load_file

    stored = load_file(resnet_folder / "model.safetensors")
    name = "embedder.embedder.convolution.weight"
    assert torch.equal(backbone.network.state_dict()[f"model.{name}"], stored[name])
    torch.testing.assert_close(backbone.mean.flatten(), torch.tensor([0.5, 0.4, 0.3]))


def test_weights_without_normalisation_are_refused(resnet_folder: Path) -> None:
    (resnet_folder / "preprocessor_config.json").unlink()
    with pytest.raises(MedtailError, match=r"no preprocessor_config\.json.*backbone\.mean and backbone\.std"):
        build_backbone(ResNetConfig(weights=str(resnet_folder)), channels=3, size_px=64)


def test_unknown_hub_id_offline_says_where_was_looked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        MedtailError, match=r"'nobody/nothing' was not found.*Hub cache.*HF_HUB_OFFLINE is set.*local folder"
    ):
        build_backbone(HubConfig(weights="nobody/nothing"), channels=3, size_px=64)


def test_missing_folder_is_not_asked_of_the_hub() -> None:
    with pytest.raises(MedtailError, match=r"no folder './missing'"):
        build_backbone(ResNetConfig(weights="./missing"), channels=3, size_px=64)


def test_pickled_weights_are_never_read(resnet_folder: Path, tmp_path: Path) -> None:
    witness = tmp_path / "executed"
    (resnet_folder / "model.safetensors").unlink()
    (resnet_folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(witness)))
    with pytest.raises(MedtailError, match=r"pickled weights \(\.bin, \.pth\) are never read"):
        build_backbone(ResNetConfig(weights=str(resnet_folder)), channels=3, size_px=64)
    assert not witness.exists()


class Bomb:
    """Creates a file when unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self.witness,))


def test_incomplete_weights_are_refused(resnet_folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = resnet_folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["embedder.embedder.convolution.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(MedtailError, match=r"lacks 1 tensors of its network, such as 'embedder"):
        build_backbone(ResNetConfig(weights=str(resnet_folder)), channels=3, size_px=64)


def test_network_without_a_map_is_refused(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    BertModel(BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
                         vocab_size=50)).save_pretrained(tmp_path)  # fmt: skip
    with pytest.raises(MedtailError, match=r"'hub' at 64 px: the network does not turn such images into a feature map"):
        build_backbone(HubConfig(weights=str(tmp_path), mean=(0.5,), std=(0.5,)), channels=3, size_px=64)


def test_normalisation_of_preprocessors_in_use() -> None:
    """Against what transformers' own classes compute, on one colour."""
    vit = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 1 / 255, "do_rescale": True}
    assert normalisation_of(vit, weights="x") == ([0.5] * 3, [0.5] * 3)
    # google/efficientnet-b0 divides by the deviation twice: 0.4785 squared is ImageNet's 0.229
    twice = {"image_processor_type": "EfficientNetImageProcessor", "include_top": True,
             "image_mean": [0.485, 0.456, 0.406], "image_std": [0.47853944, 0.4732864, 0.47434163]}  # fmt: skip
    mean, std = normalisation_of(twice, weights="x")
    assert mean == [0.485, 0.456, 0.406]
    assert [round(value, 3) for value in std] == [0.229, 0.224, 0.225]
    offset = {"rescale_factor": 1 / 127.5, "rescale_offset": True, "do_normalize": False}
    assert normalisation_of(offset, weights="x") == ([0.5], [0.5])
    raw = {"do_rescale": False, "do_normalize": False}
    assert normalisation_of(raw, weights="x") == ([0.0], [1 / 255])
    with pytest.raises(MedtailError, match="expected values above 0"):
        normalisation_of({"image_mean": [0.5], "image_std": [0.0]}, weights="x")


def test_normalisation_is_read_from_a_folder(resnet_folder: Path) -> None:
    assert read_normalisation(str(resnet_folder)) == ([0.5, 0.4, 0.3], [0.2, 0.2, 0.2])
