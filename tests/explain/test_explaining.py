from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from medtail.errors import MedtailError, UsageError
from medtail.explain.explaining import ExplainConfig, explain, judge_maps, mark_maps
from medtail.explain.sanity import Verdict
from medtail.tables.manifest import manifest_from_frame

FAST = ExplainConfig(images=5, bootstrap=50)


@pytest.fixture(scope="module")
def explained(run_folder, masked_manifest, tmp_path_factory):
    folder = tmp_path_factory.mktemp("explained")
    return explain(run_folder, masked_manifest, out=folder / "out", config=FAST, cache=folder / "cache")


def test_a_folder_holds_pictures_tables_and_page(explained):
    folder = explained.folder
    maps, sanity = pd.read_csv(folder / "maps.csv"), pd.read_csv(folder / "sanity.csv")
    record = json.loads((folder / "explain.json").read_text())
    assert len(maps) == len(list((folder / "maps").glob("*.png"))) == len(record["maps"])
    assert maps["patient"].nunique() == 5
    assert (maps["label"] == 1).all()
    assert {"randomisation", "pointing"} == set(record["verdicts"])
    assert {"pointing_hit", "pointing_chance", "alike_all", "gap_over_chance"} <= set(sanity["measure"])
    chance = sanity[(sanity["measure"] == "pointing_chance") & sanity["class"].isna()]["value"].item()
    assert chance == pytest.approx(400 / (48 * 80), abs=0.03)


def test_an_untrained_model_fails_and_every_picture_says_so(explained):
    """Nothing was learnt, so nothing can be forgotten."""
    assert explained.record["verdicts"]["randomisation"]["passed"] is False
    assert not explained.maps["passed"].any()
    assert explained.maps["warnings"].str.contains("FAILED randomisation").all()
    page = (explained.folder / "explain.html").read_text()
    assert page.count("FAILED randomisation check") >= len(explained.maps)


def test_asked_classes_and_folds_are_kept(run_folder, masked_manifest, tmp_path):
    folds = ["train"] * 4 + ["tune"] * 4
    table = replace(masked_manifest, frame=masked_manifest.frame.assign(fold=folds))
    config = replace(FAST, classes=("halo",), fold="tune", images=2, method="grad_cam", bootstrap=0)
    found = explain(run_folder, table, out=tmp_path / "out", config=config, cache=tmp_path / "cache")
    assert set(found.maps["class"]) == {"halo"}
    assert set(found.maps["image_id"]) <= {"i4", "i5", "i6", "i7"}
    assert found.record["method"] == "grad_cam"
    assert found.record["verdicts"]["randomisation"]["passed"] is None  # two patients


def test_without_masks_the_pointing_game_is_not_played(run_folder, masked_manifest, tmp_path):
    frame = masked_manifest.frame.drop(columns=["mask_path"])
    table = manifest_from_frame(frame, root=masked_manifest.root)
    config = replace(FAST, images=1, classes=("halo",))
    found = explain(run_folder, table, out=tmp_path / "out", config=config, cache=tmp_path / "cache")
    assert "pointing" not in found.record["verdicts"]
    assert "Pointing game not played" in (found.folder / "explain.html").read_text()


def test_wrong_requests_are_refused_before_the_work(run_folder, masked_manifest, tmp_path):
    with pytest.raises(MedtailError, match="no class 'haloo'; did you mean 'halo'"):
        explain(run_folder, masked_manifest, out=tmp_path / "out", config=replace(FAST, classes=("haloo",)))
    with pytest.raises(MedtailError, match="no row is in 'test'"):
        explain(run_folder, masked_manifest, out=tmp_path / "out", config=replace(FAST, fold="test"))
    with pytest.raises(MedtailError, match="images: found 0"):
        explain(run_folder, masked_manifest, out=tmp_path / "out", config=replace(FAST, images=0))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UsageError, match="full"):
        explain(run_folder, masked_manifest, out=tmp_path / "full", config=FAST)


def row(**changes):
    return {"flat": False, "gap": 1.0, "chance_gap": 0.0, "speaks_for": True, "pointing_hit": 1.0, **changes}


@pytest.mark.parametrize(
    ("changes", "word", "passed"),
    [
        ({}, "", True),
        ({"flat": True}, "FAILED: the map is the same everywhere", False),
        ({"gap": -0.1}, "FAILED deletion and insertion", False),
        ({"pointing_hit": 0.0}, "Misses", True),
        ({"pointing_hit": np.nan}, "", True),
        ({"speaks_for": False}, "Relative", True),
    ],
)
def test_each_map_is_marked_with_what_is_wrong_with_it(changes, word, passed):
    marked = mark_maps(pd.DataFrame([row(**changes)]), {"randomisation": Verdict(True, "passed")})
    assert marked["passed"].tolist() == [passed]
    assert marked["warnings"][0].startswith(word)
    assert bool(marked["warnings"][0]) == bool(word)


def test_a_method_that_fails_marks_all_its_maps_and_an_untold_one_none():
    frame = pd.DataFrame([row()])
    assert not mark_maps(frame, {"randomisation": Verdict(False, "failed")})["passed"].any()
    assert mark_maps(frame, {"randomisation": Verdict(None, "not told")})["passed"].all()


def test_measures_are_given_for_all_and_for_each_class():
    names = ["deletion", "insertion", "gap", "chance_gap", "randomised_gap", "ssim"]
    frame = pd.DataFrame({name: [0.0, 1.0, 2.0] for name in names})
    frame = frame.assign(
        alike_head=0.9, alike_half=0.5, alike_all=0.1, patient=["a", "b", "c"], **{"class": ["x", "x", "y"]}
    )
    table, verdicts = judge_maps(frame.assign(randomised_gap=0.0), bootstrap=20, seed=0)
    values = table.set_index(["class", "measure"])["value"]
    assert values["", "gap_over_randomised"] == 1.0
    assert values["x", "gap_over_randomised"] == 0.5
    assert values["y", "gap_over_randomised"] == 2.0
    assert list(verdicts) == ["randomisation"]
