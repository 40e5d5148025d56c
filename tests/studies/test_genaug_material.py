"""Pools and generators stand where the arms look for them, and are made for the arms there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medtail.studies import genaug_material
from medtail.studies.genaug_arms import plan_arms
from medtail.studies.genaug_config import BreastTrack, GenaugConfig, TableTrack
from medtail.studies.genaug_material import Material, make_material, synthesis_keys
from medtail.studies.genaug_tracks import Tables
from medtail.tables.manifest import manifest_from_frame

NAMES = ("t=a", "t=b")


def material(folder: Path, **changes: Any) -> Material:
    given: dict[str, Any] = {"track": BreastTrack(), "epoch_steps": 20}
    return Material(GenaugConfig(**(given | changes)), folder, Tables((folder / "real.csv",), oracle=folder / "o.csv"))


def test_each_kind_of_table_has_its_place(tmp_path: Path) -> None:
    arms = ("real", "fill", "fill@ldm", "shuffled@ldm", "oracle", "perfect")
    found = material(tmp_path, generators={"ab": {}, "ldm": {}}, arms=arms)
    plan = plan_arms(found.config, NAMES)
    places = {name: found.table(one, 0).relative_to(tmp_path).as_posix() for name, one in plan.trainings.items()}
    assert {name: place for name, place in places.items() if not name.startswith("level")} == {
        "real": "real.csv",
        "fill": "pools/ab/fold_0/manifest.csv",
        "fill@ldm": "pools/ldm/fold_0/manifest.csv",
        "shuffled@ldm": "pools/shuffled@ldm/fold_0/manifest.csv",
        "oracle": "o.csv",
        "perfect": "pools/perfect/fold_0/manifest.csv",
    }


def test_only_what_arms_need_is_made_generators_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr(genaug_material, "_generator", lambda m, name, fold, watch: made.append(f"generator {name}"))
    monkeypatch.setattr(genaug_material, "_pool", lambda m, name, fold, watch: made.append(f"pool {name}"))
    monkeypatch.setattr(genaug_material, "_control", lambda m, kind, name, fold: made.append(f"{kind} {name}".strip()))
    arms = ("real", "oversampling", "shuffled@ldm")
    found = material(tmp_path, generators={"ab": {}, "ldm": {}}, arms=arms, curve=False)
    make_material(found, plan_arms(found.config, NAMES))
    assert made == ["generator ldm", "pool ldm", "copies ab", "shuffled ldm"]
    made.clear()
    control = material(tmp_path, arms=("real", "synthetic_shuffled"), curve=False)
    make_material(control, plan_arms(control.config, NAMES))
    assert made == ["generator ab", "pool ab", "shuffled ab", "alone_shuffled ab"]
    made.clear()
    alone = material(tmp_path, arms=("real", "oracle"))
    make_material(alone, plan_arms(alone.config, NAMES))
    assert made == []


def test_a_generators_keys_are_laid_over_the_shared_ones() -> None:
    config = GenaugConfig(
        track=BreastTrack(), epoch_steps=20, generator={"size": "tiny", "denoiser": {"steps": 5}},
        generators={"a": {"denoiser": {"perception_branch": False}}},
    )  # fmt: skip
    assert synthesis_keys(config, "a") == {"size": "tiny", "denoiser": {"steps": 5, "perception_branch": False}}


def test_copies_are_prepared_as_the_classifier_sees_images(tmp_path: Path) -> None:
    own = material(tmp_path, train={"pixels": {"size_px": 32, "crop": "roi"}}).pixels
    assert (own.size_px, own.crop, own.missing_roi) == (32, "roi", "whole")


def test_perfect_and_mixed_pools_are_of_the_phantom(tmp_path: Path) -> None:
    from medtail.sources.phantom_breast import CLASS_NAMES

    frame = pd.DataFrame({"image_id": range(12), "path": "x.png", "patient_id": range(12), "fold": "train"})
    labels = {name: (np.arange(12) % 6 == c).astype(float) for c, name in enumerate(CLASS_NAMES)}
    manifest_from_frame(frame.assign(**labels)).write(tmp_path / "real.csv")
    arms = ("real", "perfect", "rl_mixed")
    found = material(tmp_path, track=BreastTrack(size_px=32, wrong=0.9), arms=arms, curve=False)
    make_material(found, plan_arms(found.config, CLASS_NAMES))
    right = {}
    for kind in ("perfect", "mixed"):
        rows = pd.read_csv(tmp_path / "pools" / kind / "fold_0" / "pool.csv")
        right[kind] = (rows["meta_class"] == rows["meta_shown"]).groupby(rows["meta_class"]).all()
    assert right["perfect"].all()
    assert right["mixed"][list(CLASS_NAMES[::2])].all()
    assert isinstance(found.config.track, BreastTrack)
    assert not isinstance(found.config.track, TableTrack)
