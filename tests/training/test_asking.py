from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medtail.errors import MedtailError, UsageError
from medtail.models.checkpoint import load_model
from medtail.models.text_query import TextQueryHead
from medtail.tables.labels import LabelSpace
from medtail.tables.manifest import Manifest
from medtail.tables.vectors import Phrase, TextVectors, text_vectors
from medtail.training.asking import ask
from medtail.training.config import TrainConfig, load_train_config, train_config
from medtail.training.ensembles import train
from medtail.training.predict import predict

CLASSES = ("bright", "rare", "dark", "odd")


def texts(seed: int = 0) -> TextVectors:
    phrases = [Phrase(name, "prompt", word, f"{name} {word}") for name in CLASSES for word in "ab"]
    return text_vectors(phrases, np.random.default_rng(seed).normal(size=(8, 8)), header={"tower": "made up"})


def config_of(manifest: Manifest, folder: Path, **further: object) -> TrainConfig:
    manifest.write(folder / "toy.csv")
    texts().write(folder / "texts.safetensors")
    head = {"kind": "text_query", "texts": "texts.safetensors", "text_width": 8, "width": 16, "heads": 2, "inner": 16}
    values = {"manifest": "toy.csv", "classes": ["bright", "rare"], "pixels": {"size_px": 32, "channels": 1},
              "head": head, "backbone": {"kind": "resnet"}, "optimizer": {"epochs": 1, "batch_size": 16}, "threads": 1,
              "accelerator": "cpu", **further}  # fmt: skip
    return train_config(values, folder=folder)


@pytest.fixture
def run(toy_manifest: Manifest, tmp_path: Path) -> Path:
    train(config_of(toy_manifest, tmp_path), tmp_path / "run", quiet=True)
    return tmp_path / "run"


def labelled(manifest: Manifest) -> Manifest:
    """The table as the asked model needs it: with columns of the new classes."""
    frame = manifest.frame.assign(dark=np.nan, odd=np.nan)
    return replace(manifest, frame=frame, labels=LabelSpace.from_columns([*manifest.labels.class_names, "dark", "odd"]))


def test_asked_model_is_an_ordinary_one_and_trained_classes_keep_their_scores(
    run: Path, toy_manifest: Manifest, tmp_path: Path
) -> None:
    (tmp_path / "texts.safetensors").unlink()  # a trained model needs its file of texts no more
    before = predict(run, toy_manifest, fold="test", quiet=True)
    card = ask(run, texts(), tmp_path / "asked", class_names=["dark", "rare", "odd", "bright"])
    assert card.training["asked"] == ["dark", "odd"]
    assert card.thresholds is None
    found = predict(tmp_path / "asked", labelled(toy_manifest), fold="test", quiet=True)
    np.testing.assert_allclose(found.scores[:, [3, 1]], before.scores, atol=1e-6)
    assert np.abs(found.scores[:, 0] - found.scores[:, 2]).max() > 0, "two texts are two questions"
    only_trained = ask(run, texts(), tmp_path / "same", class_names=["rare"])
    assert only_trained.train_counts is not None
    assert only_trained.train_counts.class_names == ("rare",)


def test_trained_model_holds_the_texts_it_was_trained_with(run: Path) -> None:
    diagnoser, card = load_model(run / "model")
    assert isinstance(diagnoser.head, TextQueryHead)
    np.testing.assert_allclose(diagnoser.head.class_texts, texts().means(["bright", "rare"]), atol=1e-6)
    assert card.labels.class_names == ("bright", "rare")
    # an offset a class, from the class frequencies of the train fold; the rare class is below
    assert diagnoser.head.offset[1] < diagnoser.head.offset[0]


def test_texts_of_another_tower_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(MedtailError, match=r"class 'bright': its vector has cosine .* expected nearly 1"):
        ask(run, texts(seed=1), tmp_path / "asked", class_names=["dark"])
    with pytest.raises(MedtailError, match="has texts of none of the classes"):
        ask(run, texts().select(["dark"]), tmp_path / "asked", class_names=["dark"])
    narrow = texts()
    with pytest.raises(MedtailError, match=r"vectors of length 6; .* trained with texts of length 8"):
        ask(run, replace(narrow, values=narrow.values[:, :6]), tmp_path / "asked", class_names=["dark"])
    with pytest.raises(MedtailError, match="class 'drak': no vectors; did you mean 'dark'"):
        ask(run, texts(), tmp_path / "asked", class_names=["drak"])
    assert not (tmp_path / "asked").exists()


def test_nothing_is_overwritten(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not empty"):
        ask(run, texts(), run, class_names=["dark"])


def test_model_with_another_head_cannot_be_asked(toy_manifest: Manifest, tmp_path: Path) -> None:
    train(config_of(toy_manifest, tmp_path, head={"kind": "linear"}), tmp_path / "linear", quiet=True)
    with pytest.raises(MedtailError, match="its head is 'linear', which knows its classes by number"):
        ask(tmp_path / "linear", texts(), tmp_path / "asked", class_names=["dark"])


@pytest.mark.slow
def test_ensemble_is_asked_member_by_member(toy_manifest: Manifest, tmp_path: Path) -> None:
    train(config_of(toy_manifest, tmp_path, members=2), tmp_path / "run", quiet=True)
    ask(tmp_path / "run", texts(), tmp_path / "asked", class_names=["bright", "dark"])
    found = predict(tmp_path / "asked", labelled(toy_manifest), fold="test", quiet=True)
    assert found.thresholds is None
    parts = []
    for number in range(2):
        member = tmp_path / "run" / "members" / f"member_{number}"
        ask(member, texts(), tmp_path / f"asked_{number}", class_names=["bright", "dark"])
        parts.append(predict(tmp_path / f"asked_{number}", labelled(toy_manifest), fold="test", quiet=True).scores)
    np.testing.assert_allclose(found.scores, np.mean(parts, axis=0), atol=1e-6)


def test_missing_texts_and_a_class_without_text_stop_the_training(toy_manifest: Manifest, tmp_path: Path) -> None:
    config = config_of(toy_manifest, tmp_path, classes=["bright", "shape=oval"])
    with pytest.raises(MedtailError, match="class 'shape=oval': no vectors"):
        train(config, tmp_path / "a", quiet=True)
    (tmp_path / "texts.safetensors").unlink()
    with pytest.raises(MedtailError, match=r"texts\.safetensors: no such file"):
        train(config_of_again(config), tmp_path / "b", quiet=True)


def config_of_again(config: TrainConfig) -> TrainConfig:
    return replace(config, classes=("bright", "rare"))


def test_path_of_the_texts_starts_at_the_config_or_at_the_working_folder(
    toy_manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sub").mkdir()
    file = tmp_path / "sub" / "a.yaml"
    file.write_text("manifest: toy.csv\nhead: {kind: text_query, texts: t.safetensors}\n", encoding="utf-8")
    assert load_train_config(file).head.texts == str(tmp_path / "sub" / "t.safetensors")  # type: ignore[union-attr]
    monkeypatch.chdir(tmp_path)
    typed = load_train_config(file, overrides=["head.texts=u.safetensors"])
    assert typed.head.texts == str(tmp_path / "u.safetensors")  # type: ignore[union-attr]
