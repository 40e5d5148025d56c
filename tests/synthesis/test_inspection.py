from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from medtail.errors import MedtailError
from medtail.models.backbones import ResNetConfig
from medtail.models.checkpoint import ModelCard, ModelParts, save_model
from medtail.models.diagnoser import build_diagnoser
from medtail.models.heads import LinearHeadConfig
from medtail.pixels.settings import PixelConfig
from medtail.synthesis.inspection import inspect_pool, json_of
from medtail.synthesis.pool import make_pool
from medtail.tables.labels import LabelSpace
from medtail.tables.manifest import read_manifest


@pytest.fixture(scope="module")
def honest(honest_pool, judge_table):
    return inspect_pool(honest_pool, judge=judge_table)


def write_judge(folder: Path, labels: LabelSpace) -> Path:
    torch.manual_seed(0)
    parts = ModelParts(pixels=PixelConfig(size_px=32), backbone=ResNetConfig(), head=LinearHeadConfig(), link="softmax")
    model = build_diagnoser(
        backbone=parts.backbone, head=parts.head, labels=labels, link="softmax", channels=1, size_px=32
    )
    save_model(folder / "model", model, ModelCard(labels=labels, parts=parts))
    return folder


def test_every_class_that_images_were_made_for_is_measured(honest):
    assert [quality.name.split("=")[1] for quality in honest.classes] == [
        "fibroadenoma_like", "cyst_like", "phyllodes_like",
    ]  # fmt: skip
    assert [quality.generated for quality in honest.classes] == [8, 8, 8]
    assert [quality.train_images for quality in honest.classes] == [14, 9, 6]
    assert [quality.adherence is not None for quality in honest.classes] == [False, True, False]
    assert set(honest.features) == {"pixel32"}
    assert honest.features["pixel32"].space.normalisation == "gray in [0, 1] of 32 px"


def test_a_judge_who_is_blind_to_a_class_says_nothing_of_it(honest):
    control = {quality.name: quality.control for quality in honest.classes}
    assert [found.share for found in control.values()][:2] == [1.0, 1.0]
    assert "judge blind: recalls 0.00" in control["subtype=phyllodes_like"].blind
    assert honest.verdicts["subtype=phyllodes_like"].overall == "cannot be judged"
    assert "not known" in honest.cautions[0]
    assert honest.entropy == pytest.approx(-np.log([0.8] * 16 + [0.05] * 8))


def test_copies_are_found_class_by_class(copied_pool, honest):
    found = inspect_pool(copied_pool)
    for copied, fresh in zip(found.classes, honest.classes, strict=True):
        assert copied.spaces["pixel32"].copy_share == 1.0
        assert copied.spaces["pixel32"].copy_test < -2.9
        assert abs(fresh.spaces["pixel32"].copy_test) < 3 or fresh.name == "subtype=cyst_like"
    assert found.verdicts["subtype=fibroadenoma_like"].overall == "not usable"
    # the near-copies' nearest train images are the ones they were copied from
    nearest = found.nearest["pixel32"].row
    ids = found.pool.manifest.frame["image_id"].to_numpy()[found.pool.train[nearest]]
    assert list(ids[:8]) == [f"train_0_{number}" for number in range(8)]


def test_without_a_judge_class_control_is_unknown(honest_pool):
    found = inspect_pool(honest_pool)
    assert found.judgement is None
    assert found.entropy is None
    assert {verdict.overall for verdict in found.verdicts.values()} <= {"cannot be judged", "not usable"}
    assert "No judge was given" in found.cautions[0]


def test_test_images_are_never_opened(own_pool):
    for path in (own_pool / "real").glob("test_*.png"):
        path.unlink()
    assert len(inspect_pool(own_pool).classes) == 3


def test_a_run_judges_and_brings_its_own_space(honest_pool, tmp_path):
    run = write_judge(tmp_path / "run", read_manifest(honest_pool / "manifest.csv").labels)
    (run / "config.yaml").write_text("loss: {kind: cross_entropy}\n")
    found = inspect_pool(honest_pool, judge=run)
    assert list(found.features) == ["judge", "pixel32"]
    assert found.judgement is not None
    assert np.isfinite(found.judgement.scores[found.pool.synthetic]).all()
    assert np.isnan(found.judgement.scores[found.pool.train]).all()
    assert "'cross_entropy', not a logit-adjusted one" in found.cautions[0]
    (run / "config.yaml").write_text("loss: {kind: logit_adjusted}\n")
    assert inspect_pool(honest_pool, judge=run).cautions == ()


def test_a_judge_of_other_classes_is_refused(honest_pool, tmp_path):
    labels = LabelSpace.from_columns(["subtype=fibroadenoma_like", "subtype=cyst_like"])
    with pytest.raises(MedtailError, match=r"does not know the classes \['subtype=phyllodes_like'\]"):
        inspect_pool(honest_pool, judge=write_judge(tmp_path / "run", labels))


def test_scores_that_leave_images_out_are_refused(honest_pool, judge_table, tmp_path):
    frame = pd.read_csv(judge_table)
    frame[frame["image_id"] != "syn_1_1"].to_csv(tmp_path / "part.csv", index=False)
    with pytest.raises(MedtailError, match=r"lacks 1 of the pool's 42 generated and tune images, such as 'syn_1_1'"):
        inspect_pool(honest_pool, judge=tmp_path / "part.csv")


def test_a_made_pool_is_inspected_in_its_generators_space(generator, generator_folder, tmp_path):
    beside = Path(shutil.copytree(generator_folder, tmp_path / generator_folder.name))
    make_pool(generator, tmp_path / "pool", per_class=3)
    found = inspect_pool(tmp_path / "pool")
    assert list(found.features) == ["latent", "pixel32"]  # the generator beside the pool was found
    assert found.images.shape[1:] == (32, 32)
    assert any(quality.adherence is not None for quality in found.classes)
    again = inspect_pool(tmp_path / "pool", generator=beside)
    assert again.classes == found.classes or str(again.classes) == str(found.classes)  # NaN differs from itself


def test_another_generator_than_the_pools_is_refused(own_pool, generator_folder):
    with pytest.raises(MedtailError, match=r"the pool was made by 0123456789ab"):
        inspect_pool(own_pool, generator=generator_folder)


def test_values_for_a_file_hold_no_nan():
    assert json_of({"a": [float("nan"), 1], "b": np.int64(2), "c": "x", "d": float("inf")}) == {
        "a": [None, 1], "b": 2, "c": "x", "d": None,
    }  # fmt: skip
