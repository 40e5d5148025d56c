from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from medtail.errors import MedtailError
from medtail.synthesis.pool_reading import read_pool


def change(pool, **columns):
    frame = pd.read_csv(pool / "manifest.csv")
    for name, values in columns.items():
        frame[name] = values(frame)
    frame.to_csv(pool / "manifest.csv", index=False)


def test_a_pool_knows_its_rows_and_what_each_image_was_made_for(honest_pool):
    pool = read_pool(honest_pool)
    assert (len(pool.synthetic), len(pool.train), len(pool.tune)) == (24, 29, 18)
    assert pool.asked.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert len(pool.shows(pool.train, 2)) == 6
    assert pool.record["strips"]
    assert [path.name for path in pool.strips] == ["00_a.png"]
    assert not set(pool.train) & set(pool.synthetic)
    assert pool.meta("meta_nothing", pool.train[:2]).tolist() == ["", ""]


def test_asked_sketches_are_found_by_the_images_name(honest_pool):
    places, lines = read_pool(honest_pool).asked_lines(32)
    assert places.tolist() == list(range(8, 16))
    assert lines.shape == (8, 32, 32)
    assert 0.01 < lines.mean() < 0.2
    places, lines = read_pool(honest_pool).asked_lines(64)
    assert len(places) == len(lines) == 0


def test_a_damaged_sketch_is_named(own_pool):
    (own_pool / "sketches" / "syn_1_3.png").write_bytes(b"no picture")
    with pytest.raises(MedtailError, match=r"syn_1_3\.png: cannot be read as an image"):
        read_pool(own_pool).asked_lines(32)


def test_a_class_of_another_table_is_refused(own_pool):
    change(own_pool, meta_class=lambda f: f["meta_class"].replace("subtype=cyst_like", "subtype=cyst_lke"))
    with pytest.raises(MedtailError, match=r"unknown class 'subtype=cyst_lke'; did you mean 'subtype=cyst_like'\?"):
        read_pool(own_pool)


def test_a_pool_without_generated_rows_or_classes_is_refused(own_pool):
    frame = pd.read_csv(own_pool / "manifest.csv")
    frame.drop(columns="meta_class").to_csv(own_pool / "manifest.csv", index=False)
    with pytest.raises(MedtailError, match="'meta_class': missing"):
        read_pool(own_pool)
    frame[frame["origin"] != "synthetic"].to_csv(own_pool / "manifest.csv", index=False)
    with pytest.raises(MedtailError, match="no row is synthetic"):
        read_pool(own_pool)
    (own_pool / "manifest.csv").unlink()
    with pytest.raises(MedtailError, match=r"no manifest\.csv; expected a pool of `medtail synthesise make"):
        read_pool(own_pool)


def test_generated_rows_outside_train_are_refused(own_pool):
    change(own_pool, fold=lambda f: np.where(f["image_id"] == "syn_0_0", "test", f["fold"]))
    with pytest.raises(MedtailError, match="synthetic images outside the train fold"):
        read_pool(own_pool)


def test_a_pool_without_the_train_images_is_refused(own_pool):
    change(own_pool, fold=lambda f: np.where(f["image_id"].str.startswith("train_"), "tune", f["fold"]))
    (own_pool / "record.json").unlink()
    with pytest.raises(MedtailError, match="no real row is in 'train'"):
        read_pool(own_pool)


def test_a_generator_that_has_seen_tune_patients_is_refused(own_pool):
    record = json.loads((own_pool / "record.json").read_text())
    record["train_patients"].append("p_tune_2_3")
    (own_pool / "record.json").write_text(json.dumps(record))
    with pytest.raises(MedtailError, match="has learnt from patient 'p_tune_2_3' whose images are in tune"):
        read_pool(own_pool)
