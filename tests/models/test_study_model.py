"""A folder of an image model and a fusion is opened whole, or not at all."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from medtail.errors import MedtailError
from medtail.judging.calibration_maps import IdentityMap
from medtail.judging.calibration_record import CALIBRATION, CalibrationMap
from medtail.models.backbones import ResNetConfig
from medtail.models.checkpoint import CARD, ModelCard, ModelParts, load_model, save_model
from medtail.models.diagnoser import build_diagnoser
from medtail.models.ensembles import check_model, load_members, read_ensemble_card
from medtail.models.heads import LinearHeadConfig
from medtail.models.ml_decoder import MlDecoderConfig
from medtail.models.study_fusion import FusionConfig, StudyFusion
from medtail.models.study_model import (
    FUSION,
    IMAGE_MODEL,
    StudyDiagnoser,
    is_study_model,
    load_study_model,
    save_study_model,
)
from medtail.pixels.settings import PixelConfig
from medtail.tables.labels import LabelSpace

LABELS = LabelSpace.from_columns(["shape=oval", "shape=round", "halo"])
PARTS = ModelParts(
    pixels=PixelConfig(size_px=32, channels=1), backbone=ResNetConfig(), head=LinearHeadConfig(), link="sigmoid"
)
THRESHOLDS = {"shape=oval": 0.5, "shape=round": 0.4, "halo": 0.3}
CONFIG = FusionConfig(width=16, heads=2, inner=16, decoder=MlDecoderConfig(width=16, inner=16))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    image_model = build_diagnoser(
        backbone=PARTS.backbone, head=PARTS.head, labels=LABELS, link="sigmoid", channels=1, size_px=32
    )
    save_model(tmp_path / "images", image_model, ModelCard(labels=LABELS, parts=PARTS, digests={"manifest": "ab"}))
    fusion = StudyFusion(image_model.backbone.feature_dim, 3, config=CONFIG)
    model = StudyDiagnoser(image_model, fusion, link="softmax")
    card = ModelCard(labels=LABELS, parts=PARTS, thresholds=THRESHOLDS, digests={"manifest": "cd"}, seed=3)
    save_study_model(tmp_path / "model", model, card, image_model=tmp_path / "images")
    return tmp_path / "model"


def test_it_comes_back_with_the_fusions_link_and_choices(saved: Path, tmp_path: Path) -> None:
    model, card = load_study_model(saved)
    assert is_study_model(saved)
    assert not is_study_model(tmp_path / "images")
    assert (card.parts.link, model.link, model.image_model.link) == ("softmax", "softmax", "sigmoid")
    assert card.thresholds == THRESHOLDS
    assert (card.digests["manifest"], card.seed) == ("cd", 3)
    assert read_ensemble_card(saved).digests == card.digests
    assert card.digests["weights"] != load_model(saved / IMAGE_MODEL)[1].digests["weights"]
    maps = model.maps(torch.rand(2, 1, 32, 32))[None]
    kinds, is_there = torch.zeros(1, 2, dtype=torch.long), torch.ones(1, 2, dtype=torch.bool)
    scores = model.scores(maps, kinds, is_there)
    torch.testing.assert_close(scores[:, :2].sum(dim=1), torch.ones(1))
    check_model(saved)


def test_whoever_asks_for_an_image_model_is_sent_to_it(saved: Path) -> None:
    with pytest.raises(MedtailError, match=r"answers for studies, from all their images"):
        load_members(saved)
    assert len(load_members(saved / IMAGE_MODEL)[0]) == 1


def test_parts_of_other_models_are_refused(saved: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    other = build_diagnoser(
        backbone=PARTS.backbone, head=PARTS.head, labels=LABELS, link="sigmoid", channels=1, size_px=32
    )
    save_model(tmp_path / "other", other, ModelCard(labels=LABELS, parts=PARTS))
    shutil.rmtree(saved / IMAGE_MODEL)
    shutil.copytree(tmp_path / "other", saved / IMAGE_MODEL)
    with pytest.raises(MedtailError, match="was not written for these weights"):
        check_model(saved)


def test_damage_is_named(saved: Path) -> None:
    content = bytearray((saved / FUSION).read_bytes())
    content[-1] ^= 1
    (saved / FUSION).write_bytes(bytes(content))
    with pytest.raises(MedtailError, match=r"fusion.safetensors: is not the file the card was written for"):
        load_study_model(saved)
    value = json.loads((saved / CARD).read_text())
    del value["link"]
    (saved / CARD).write_text(json.dumps(value))
    with pytest.raises(MedtailError, match="lacks 'link'"):
        load_study_model(saved)


def test_a_calibration_is_of_the_fused_scores_alone(saved: Path) -> None:
    _, card = load_study_model(saved)
    maps = tuple(IdentityMap(class_name=name) for name in LABELS.class_names)
    stored = CalibrationMap(
        LABELS, maps, "platt", 10.0, rows="ab", num_rows=1, num_patients=1, model=card.digests["weights"]
    )
    stored.write(saved / CALIBRATION)
    assert load_study_model(saved)[1].calibration == stored
    replace(stored, model="f" * 64).write(saved / CALIBRATION)
    with pytest.raises(MedtailError, match="was fitted for weights ffffffffffff"):
        load_study_model(saved)


def test_nothing_is_overwritten(saved: Path, tmp_path: Path) -> None:
    model, card = load_study_model(saved)
    with pytest.raises(MedtailError, match="never overwrites"):
        save_study_model(saved, model, card, image_model=tmp_path / "images")
