"""A folder of several networks is opened like a folder of one, and only if its members belong together."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from medtail.errors import MedtailError
from medtail.judging.calibration_maps import IdentityMap
from medtail.judging.calibration_record import CalibrationMap
from medtail.models.backbones import ResNetConfig
from medtail.models.checkpoint import ModelCard, ModelParts, load_model, save_model
from medtail.models.diagnoser import build_diagnoser
from medtail.models.ensembles import is_ensemble, load_members, read_ensemble_card, save_ensemble
from medtail.models.heads import LinearHeadConfig
from medtail.pixels.settings import PixelConfig
from medtail.tables.labels import LabelSpace

LABELS = LabelSpace.from_columns(["shape=oval", "shape=round", "halo"])
PARTS = ModelParts(
    pixels=PixelConfig(size_px=32, channels=1), backbone=ResNetConfig(), head=LinearHeadConfig(), link="softmax"
)
THRESHOLDS = {"shape=oval": 0.5, "shape=round": 0.4, "halo": 0.3}


def one(folder: Path, seed: int, *, labels: LabelSpace = LABELS, parts: ModelParts = PARTS) -> Path:
    torch.manual_seed(seed)
    model = build_diagnoser(
        backbone=parts.backbone, head=parts.head, labels=labels, link=parts.link, channels=1, size_px=32
    )
    save_model(folder, model, ModelCard(labels=labels, parts=parts, digests={"manifest": "ab"}, seed=seed))
    return folder


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    return [one(tmp_path / f"run_{seed}", seed) for seed in range(3)]


@pytest.fixture
def saved(sources: list[Path], tmp_path: Path) -> Path:
    save_ensemble(tmp_path / "model", sources, thresholds=THRESHOLDS, training={"members": 3})
    return tmp_path / "model"


def test_members_come_back_as_they_were_in_their_order(saved: Path, sources: list[Path]) -> None:
    diagnosers, card = load_members(saved)
    assert len(diagnosers) == 3
    for diagnoser, source in zip(diagnosers, sources, strict=True):
        expected = load_model(source)[0].state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in diagnoser.state_dict().items())
        assert not diagnoser.training
    assert card.thresholds == THRESHOLDS
    assert card.training == {"members": 3}
    assert card.digests["manifest"] == "ab"
    assert card.digests["weights"] not in {load_model(source)[1].digests["weights"] for source in sources}


def test_a_single_network_is_an_ensemble_of_one(sources: list[Path]) -> None:
    diagnosers, card = load_members(sources[1])
    assert len(diagnosers) == 1
    assert card == load_model(sources[1])[1]
    assert not is_ensemble(sources[1])
    assert read_ensemble_card(sources[1]) == card


def test_the_folder_alone_is_enough(saved: Path, sources: list[Path], tmp_path: Path) -> None:
    for source in sources:
        shutil.rmtree(source)
    shutil.move(saved, tmp_path / "elsewhere")
    assert len(load_members(tmp_path / "elsewhere")[0]) == 3


def test_a_member_that_was_exchanged_is_refused(saved: Path, tmp_path: Path) -> None:
    shutil.rmtree(saved / "member_1")
    one(saved / "member_1", seed=9)
    with pytest.raises(MedtailError, match="was not written for these members"):
        load_members(saved)


def test_a_member_that_is_missing_is_named(saved: Path) -> None:
    shutil.rmtree(saved / "member_2")
    with pytest.raises(MedtailError, match=r"member_2: no card\.json"):
        load_members(saved)


@pytest.mark.parametrize("names", [[], ["../run_0", "member_1"], ["member_1", "member_0"]])
def test_a_card_that_names_other_folders_is_refused(saved: Path, names: list[str]) -> None:
    path = saved / "card.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "members": names}))
    with pytest.raises(MedtailError, match="expected member_0, member_1 and so on"):
        load_members(saved)


def test_a_card_that_lacks_something_says_what(saved: Path) -> None:
    path = saved / "card.json"
    value = json.loads(path.read_text())
    del value["thresholds"], value["weights"]
    path.write_text(json.dumps(value))
    with pytest.raises(MedtailError, match="lacks 'weights', 'thresholds'"):
        read_ensemble_card(saved)


def test_members_that_differ_are_not_joined(sources: list[Path], tmp_path: Path) -> None:
    others = LabelSpace.from_columns(["shape=oval", "shape=round", "calcification"])
    with pytest.raises(MedtailError, match="member 1 has other classes"):
        save_ensemble(tmp_path / "a", [sources[0], one(tmp_path / "x", 0, labels=others)], thresholds={}, training={})
    blurred = replace(PARTS, pixels=PixelConfig(size_px=32, channels=1, crop="roi", margin=0.3))
    with pytest.raises(MedtailError, match="member 1 expects other pixels"):
        save_ensemble(tmp_path / "b", [sources[0], one(tmp_path / "y", 0, parts=blurred)], thresholds={}, training={})
    assert not (tmp_path / "a").exists()


def test_nothing_is_overwritten(saved: Path, sources: list[Path]) -> None:
    before = (saved / "card.json").read_bytes()
    with pytest.raises(MedtailError, match="exists already"):
        save_ensemble(saved, sources[:2], thresholds={}, training={})
    assert (saved / "card.json").read_bytes() == before


def test_one_network_is_not_read_from_an_ensemble(saved: Path) -> None:
    with pytest.raises(MedtailError, match="ensemble of 3"):
        load_model(saved)


def test_an_ensembles_calibration_is_of_its_averaged_scores(saved: Path) -> None:
    maps = tuple(IdentityMap(class_name=name) for name in LABELS.class_names)
    weights = read_ensemble_card(saved).digests["weights"]
    stored = CalibrationMap(LABELS, maps, "platt", 10.0, rows="ab", num_rows=1, num_patients=1, model=weights)
    stored.write(saved / "calibration.json")
    assert load_members(saved)[1].calibration == stored
    replace(stored, model="f" * 64).write(saved / "calibration.json")
    with pytest.raises(MedtailError, match="was fitted for weights ffffffffffff"):
        load_members(saved)
