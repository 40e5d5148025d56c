from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from medtail.errors import MedtailError
from medtail.judging.calibration_maps import AffineMap, SoftmaxMap
from medtail.judging.calibration_record import CalibrationMap
from medtail.models.backbones import ResNetConfig
from medtail.models.checkpoint import (
    ModelCard,
    ModelParts,
    load_model,
    read_card,
    save_model,
    to_safetensors,
)
from medtail.models.diagnoser import build_diagnoser
from medtail.models.heads import LinearHeadConfig
from medtail.pixels.settings import PixelConfig
from medtail.runs import digest_file
from medtail.tables.labels import LabelSpace
from medtail.tables.manifest import Manifest, manifest_from_frame
from medtail.tables.tail import ClassCounts

LABELS = LabelSpace.from_columns(["shape=oval", "shape=round", "halo"])
PARTS = ModelParts(
    pixels=PixelConfig(size_px=32, channels=1), backbone=ResNetConfig(), head=LinearHeadConfig(), link="softmax"
)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = build_diagnoser(
        backbone=PARTS.backbone, head=PARTS.head, labels=LABELS, link=PARTS.link, channels=1, size_px=32
    )
    card = ModelCard(
        labels=LABELS,
        parts=PARTS,
        thresholds={"halo": 0.25},
        train_counts=ClassCounts(LABELS.class_names, (5, 3, 1), (4, 3, 1), (8, 8, 7)),
        digests={"manifest": "ab", "config": "cd"},
        seed=7,
    )
    save_model(tmp_path / "model", model, card)
    return tmp_path / "model"


def change_card(folder: Path, **changes: Any) -> None:
    path = folder / "card.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def change_tensors(folder: Path, change: Any) -> None:
    """Change the weights and make the card agree with the new file."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    adopt(folder)


def adopt(folder: Path) -> None:
    digests = {"manifest": "ab", "config": "cd", "weights": digest_file(folder / "model.safetensors")}
    change_card(folder, digests=digests)


def test_card_comes_back_as_it_was(saved: Path) -> None:
    _, card = load_model(saved)
    assert card == read_card(saved)
    assert (card.labels, card.parts, card.seed) == (LABELS, PARTS, 7)
    assert card.thresholds == {"halo": 0.25}
    assert card.train_counts is not None
    assert card.train_counts.images == (5, 3, 1)
    assert {"manifest", "config", "weights"} == set(card.digests)
    assert "research use only" in card.note
    assert card.versions["medtail"]


def test_files_are_weights_and_card_only(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == ["card.json", "model.safetensors"]


def test_same_weights_give_the_same_bytes_whatever_their_layout() -> None:
    tensor = torch.rand(4, 3, 5, 5)
    one = to_safetensors({"b": tensor, "a": torch.ones(2)})
    other = to_safetensors({"a": torch.ones(2), "b": tensor.contiguous(memory_format=torch.channels_last)})
    assert one == other


def test_existing_model_is_never_overwritten(saved: Path) -> None:
    model, card = load_model(saved)
    with pytest.raises(MedtailError, match="never overwrites a model"):
        save_model(saved, model, card)


def test_all_wrong_tensors_are_named_at_once(saved: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["head.linear.bias"]
        tensors["head.linear.weight"] = torch.zeros(2, 128)
        tensors["head.linear.wieght"] = torch.zeros(1)

    change_tensors(saved, change)
    with pytest.raises(MedtailError) as caught:
        load_model(saved)
    message = str(caught.value)
    assert "tensor 'head.linear.bias': missing; expected shape [3]" in message
    assert "tensor 'head.linear.weight': found shape [2, 128]; expected [3, 128]" in message
    assert "tensor 'head.linear.wieght': the network has no such tensor; did you mean 'head.linear.weight'?" in message


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_no_numbers_are_refused_and_named(saved: Path, value: float) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["head.linear.weight"][1, 5:7] = value

    change_tensors(saved, change)
    with pytest.raises(MedtailError, match=r"tensor 'head\.linear\.weight': 2 of 384 values are NaN or infinite"):
        load_model(saved)


def test_weights_of_another_card_are_refused(saved: Path) -> None:
    path = saved / "model.safetensors"
    tensors = load_file(path)
    tensors["head.linear.bias"] += 1
    save_file(tensors, path)
    with pytest.raises(MedtailError, match="is not the file the card was written for"):
        load_model(saved)


def test_unknown_format_is_refused(saved: Path) -> None:
    change_card(saved, format="medtail-model/9")
    with pytest.raises(MedtailError, match="format 'medtail-model/9' is unknown; this version of medtail reads"):
        load_model(saved)


def test_incomplete_card_is_refused(saved: Path) -> None:
    card = json.loads((saved / "card.json").read_text(encoding="utf-8"))
    del card["parts"], card["seed"]
    (saved / "card.json").write_text(json.dumps(card), encoding="utf-8")
    with pytest.raises(MedtailError, match="lacks 'parts', 'seed'"):
        load_model(saved)


def test_unknown_parts_of_a_card_are_named(saved: Path) -> None:
    card = json.loads((saved / "card.json").read_text(encoding="utf-8"))
    card["parts"]["backbone"]["sise"] = "tiny"
    change_card(saved, parts=card["parts"])
    with pytest.raises(MedtailError, match=r"backbone\.sise: unknown key; did you mean 'size'"):
        load_model(saved)


def test_folder_without_a_model_says_what_it_expected(tmp_path: Path) -> None:
    with pytest.raises(MedtailError, match=r"no card\.json; expected a model folder"):
        load_model(tmp_path)


def test_missing_weights_file_is_named(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    with pytest.raises(MedtailError, match=r"model\.safetensors: cannot be read"):
        load_model(saved)


@pytest.mark.parametrize("is_card_forged", [False, True])
def test_pickle_in_place_of_the_weights_is_refused_without_being_run(saved: Path, is_card_forged: bool) -> None:
    witness = saved.parent / "executed"
    (saved / "model.safetensors").write_bytes(pickle.dumps(Bomb(witness)))
    if is_card_forged:
        adopt(saved)
    with pytest.raises(MedtailError, match="never opened" if is_card_forged else "is not the file"):
        load_model(saved)
    assert not witness.exists()
    pickle.loads((saved / "model.safetensors").read_bytes())
    assert witness.exists(), "the bomb must work, or the test shows nothing"


class Bomb:
    """Creates a file when unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self.witness,))


def test_model_of_hub_weights_loads_without_them(tmp_path: Path) -> None:
    source = build_diagnoser(
        backbone=PARTS.backbone, head=PARTS.head, labels=LABELS, link="softmax", channels=3, size_px=32
    )
    source.backbone.network.model.save_pretrained(tmp_path / "hub")  # type: ignore[union-attr, operator]
    backbone = ResNetConfig(weights=str(tmp_path / "hub"), mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    model = build_diagnoser(backbone=backbone, head=PARTS.head, labels=LABELS, link="softmax", channels=3, size_px=32)
    parts = ModelParts(pixels=PixelConfig(size_px=32, channels=3), backbone=backbone, head=PARTS.head, link="softmax")
    save_model(tmp_path / "model", model, ModelCard(labels=LABELS, parts=parts))
    import shutil

    shutil.rmtree(tmp_path / "hub")
    loaded, _ = load_model(tmp_path / "model")
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded(images), model.eval()(images))
    assert loaded.backbone.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])


def test_loading_draws_nothing_from_the_global_generator(saved: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    load_model(saved)
    assert torch.equal(torch.rand(1), expected)


def table(*class_names: str) -> Manifest:
    columns = {"image_id": ["a"], "path": ["a.png"], "patient_id": ["1"]}
    return manifest_from_frame(pd.DataFrame({**columns, **{name: [0] for name in class_names}}), name="other.csv")


def test_classes_are_matched_by_name_and_further_ones_left_out(saved: Path) -> None:
    card = read_card(saved)
    matched = card.check_manifest(table("halo", "extra", "shape=round", "shape=oval"))
    assert matched.labels == LABELS
    assert list(matched.frame.columns[-3:]) == list(LABELS.class_names)


def test_missing_classes_are_all_named(saved: Path) -> None:
    with pytest.raises(MedtailError, match=r"other\.csv: lacks 2 of the model's 3 classes: 'shape=round', 'halo'"):
        read_card(saved).check_manifest(table("shape=oval", "hallo"))


def test_other_pixel_settings_are_all_named(saved: Path) -> None:
    card = read_card(saved)
    card.check_pixels(PixelConfig(size_px=32, channels=1, margin=0.3))
    with pytest.raises(MedtailError) as caught:
        card.check_pixels(PixelConfig(size_px=64, channels=3))
    assert "channels: found 3; expected 1, as the model's card says" in str(caught.value)
    assert "size_px: found 64; expected 32" in str(caught.value)


def calibration(*, model: str | None, labels: LabelSpace = LABELS) -> CalibrationMap:
    maps = (
        SoftmaxMap(group="shape", classes=("shape=oval", "shape=round"), alpha=0.1, bias=(0.5, -0.5)),
        AffineMap(class_name=labels.class_names[-1], alpha=0.2, beta=-1.0),
    )
    return CalibrationMap(labels, maps, "auto", 10.0, rows="ab", num_rows=5, num_patients=4, model=model)


def test_a_calibration_of_these_weights_is_loaded_with_them(saved: Path) -> None:
    assert load_model(saved)[1].calibration is None
    stored = calibration(model=read_card(saved).digests["weights"])
    stored.write(saved / "calibration.json")
    _, card = load_model(saved)
    assert card.calibration == stored
    assert "calibration" not in card.to_json()


@pytest.mark.parametrize(("model", "named"), [(None, "no model"), ("f" * 64, "weights ffffffffffff")])
def test_a_calibration_of_other_weights_is_refused(saved: Path, model: str | None, named: str) -> None:
    calibration(model=model).write(saved / "calibration.json")
    with pytest.raises(MedtailError, match=f"was fitted for {named}, not for these .*--replace"):
        load_model(saved)


def test_a_calibration_of_other_classes_or_a_damaged_one_is_refused(saved: Path) -> None:
    weights = read_card(saved).digests["weights"]
    other = LabelSpace.from_columns(["shape=oval", "shape=round", "calcification"])
    calibration(model=weights, labels=other).write(saved / "calibration.json")
    with pytest.raises(MedtailError, match=r"(?s)has calcification|lacks calcification"):
        load_model(saved)
    (saved / "calibration.json").write_text("{}", encoding="utf-8")
    with pytest.raises(MedtailError, match="format None is unknown"):
        load_model(saved)
