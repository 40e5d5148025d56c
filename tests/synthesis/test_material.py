from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from medtail.errors import MedtailError
from medtail.pixels.settings import PixelConfig
from medtail.synthesis.material import Material, drawn_rows, gather, row_shares, train_part
from medtail.synthesis.sketch import SketchConfig, sketch_images
from medtail.tables.manifest import manifest_from_frame, read_manifest


@pytest.fixture(scope="module")
def material(phantoms: Path) -> Material:
    return gather(read_manifest(phantoms), PixelConfig(size_px=32), SketchConfig(), cache=None)


def test_only_real_train_rows_are_taken(phantoms: Path) -> None:
    frame = pd.read_csv(phantoms, dtype={"patient_id": str})
    frame = pd.concat([frame, frame.iloc[:2].assign(image_id=["s0", "s1"], patient_id=["q0", "q1"])])
    origin = ["real"] * (len(frame) - 2) + ["synthetic"] * 2
    table = manifest_from_frame(frame.assign(origin=origin), root=phantoms.parent)
    part = train_part(table)
    assert set(part.folds) == {"train"}
    assert part.is_real.all()
    assert len(part) == 23


def test_images_of_other_folds_are_never_opened(phantoms: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(phantoms)
    frame["path"] = [
        str(phantoms.parent / path) if fold == "train" else "nowhere.png"
        for path, fold in zip(frame["path"], frame["fold"], strict=True)
    ]
    table = manifest_from_frame(frame, root=tmp_path)
    assert len(gather(table, PixelConfig(size_px=32), SketchConfig(), cache=None).store) == 23


def test_a_table_without_train_images_is_refused(phantoms: Path) -> None:
    table = read_manifest(phantoms)
    with pytest.raises(MedtailError, match="no row is in 'train'"):
        train_part(table.in_fold("test"))
    frame = table.frame.assign(**dict.fromkeys(table.labels.class_names, np.nan))
    with pytest.raises(MedtailError, match="no real image of the fold 'train' has a class assessed"):
        train_part(manifest_from_frame(frame, root=phantoms.parent))


def test_sketches_are_those_of_the_extractor(material: Material) -> None:
    rows = np.arange(5)
    found = sketch_images(material.images(rows)[:, 0].numpy(), SketchConfig())
    assert np.abs(material.sketch_maps(rows)[:, 0].numpy() - found.maps).max() <= 0.5 / 255 + 1e-6
    assert (material.has_sketch[rows] == ~found.empty).all()


def test_the_bank_lends_sketches_of_the_class_asked_for(material: Material) -> None:
    bank, ids = material.bank(), material.manifest.frame["image_id"].tolist()
    for seed in range(5):
        sketch, source = bank.draw(1, np.random.default_rng(seed))
        if source:
            assert material.manifest.targets[ids.index(source), 1] == 1
            assert sketch.shape == (32, 32)


def test_the_digest_tells_labels_and_pixels_apart(material: Material, phantoms: Path) -> None:
    again = gather(read_manifest(phantoms), PixelConfig(size_px=32), SketchConfig(), cache=None)
    assert again.digest == material.digest
    other = gather(read_manifest(phantoms), PixelConfig(size_px=32), SketchConfig(kappa=0.0, percentile=80), cache=None)
    assert other.digest != material.digest


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_classes_are_drawn_as_often_as_their_power_says(power: float) -> None:
    counts = np.array([40.0, 9.0, 1.0])
    targets = np.repeat(np.eye(3), counts.astype(int), axis=0)
    shares = row_shares(targets, power=power)
    assert np.allclose(targets.T @ shares, counts**power / (counts**power).sum())
    assert shares.sum() == pytest.approx(1.0)


def test_a_row_of_two_classes_counts_as_its_rarer_one_and_none_as_one_more() -> None:
    targets = np.array([[1, 1], [1, 0], [1, 0], [1, np.nan], [0, 0], [0, 0]], dtype=float)
    shares = row_shares(targets, power=0.0)
    assert np.allclose(shares / shares[1], [4.0, 1, 1, 1, 2.0, 2.0])


def test_draws_repeat_by_step_alone() -> None:
    shares = np.full(10, 0.1)
    first = [drawn_rows(shares, 5, seed=1, purpose="a", step=step) for step in (3, 3, 4)]
    assert np.array_equal(first[0], first[1])
    assert not np.array_equal(first[0], first[2])
    assert not np.array_equal(first[0], drawn_rows(shares, 5, seed=2, purpose="a", step=3))


def test_labels_keep_what_was_not_assessed(phantoms: Path) -> None:
    frame = pd.read_csv(phantoms)
    frame = frame.rename(columns={c: c.replace("=", "_") for c in frame.columns})
    classes = [c for c in frame.columns if c.startswith("subtype_")]
    frame[classes[0]] = frame[classes[0]].astype(float)
    frame.loc[1, classes[0]] = np.nan
    table = manifest_from_frame(frame, root=phantoms.parent)
    part = gather(table, PixelConfig(size_px=32), SketchConfig(), cache=None)
    assert torch.isnan(part.present(np.array([1]))[0, 0])
