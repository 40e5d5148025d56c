from __future__ import annotations

import json

import numpy as np
import pytest

from medtail.synthesis.inspection import inspect_pool
from medtail.synthesis.quality_tables import (
    control_table,
    copying_table,
    image_table,
    likeness_table,
    quality_json,
    verdict_table,
)


@pytest.fixture(scope="module")
def found(honest_pool, judge_table):
    return inspect_pool(honest_pool, judge=judge_table)


def test_every_table_has_a_row_a_class_and_as_many_cells_as_headings(found):
    for table in (verdict_table(found), copying_table(found, "pixel32"), likeness_table(found, "pixel32"),
                  control_table(found)):  # fmt: skip
        assert [row[0] for row in table.rows] == ["fibroadenoma_like", "cyst_like", "phyllodes_like"]
        assert {len(row) for row in table.rows} == {len(table.columns)}
        assert not any("nan" in cell for row in table.rows for cell in row)


def test_a_table_of_a_space_names_the_space(found):
    for table in (copying_table(found, "pixel32"), likeness_table(found, "pixel32")):
        assert str(found.features["pixel32"].space) in table.title
    assert "FID: none; 8 rows; FID needs 2,048" in likeness_table(found, "pixel32").note


def test_a_blind_judge_is_printed_instead_of_a_number(found):
    row = control_table(found).rows[2]
    assert row[1].startswith("judge blind")
    assert row[2] == "–"
    assert control_table(found).rows[0][1] == "100 %"


def test_an_image_has_a_row_with_all_that_is_known_of_it(found):
    table = image_table(found)
    assert len(table) == 24
    assert table["image_id"].is_unique
    assert table["judge_highest"].tolist()[16:] == ["subtype=fibroadenoma_like"] * 8
    assert table["meta_judge_ce"].tolist() == pytest.approx(list(-np.log([0.8] * 16 + [0.05] * 8)))
    assert table["nearest_pixel32"].str.startswith("train_").all()
    assert table["sketch_f1"].notna().tolist() == [False] * 8 + [True] * 8 + [False] * 8
    assert (table["meta_copy_ratio"] == table["copy_ratio_pixel32"]).all()


def test_the_file_of_numbers_is_strict_json_with_spaces_and_words(found):
    text = json.dumps(quality_json(found), allow_nan=False)
    value = json.loads(text)
    assert value["judge"] == "judge.csv"
    assert value["generator_digest"].startswith("0123456789ab")
    assert value["spaces"]["pixel32"]["layer"] == "pixels"
    assert value["real"] == {"train": 29, "tune": 18}
    third = value["classes"]["subtype=phyllodes_like"]
    assert third["control"]["share"] is None
    assert third["verdict"] == "cannot be judged"
    assert third["findings"]["class"] == "unknown"
    assert third["spaces"]["pixel32"]["fid"] is None
    assert isinstance(third["kid_position"]["pixel32"], float)
