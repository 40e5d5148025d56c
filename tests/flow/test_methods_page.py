"""docs/methods.md and configs/studies/methods.yaml tell of every method there is, and each can be trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
from ruamel.yaml import YAML

from medtail.losses.build import LossConfig
from medtail.losses.objectives import ObjectiveConfig
from medtail.models.heads import HeadConfig
from medtail.sampling.build import SamplerConfig
from medtail.studies.arms import Arm, check_budgets, nested, resolve_arms
from medtail.studies.config import StudyConfig, load_study, training_of
from medtail.studies.rungs import RUNGS, plain_base, rung_keys
from medtail.tables.labels import LabelSpace
from medtail.tables.manifest import Manifest
from medtail.training.config import merge, train_config
from medtail.training.ensembles import train
from medtail.training.mixing import MixConfig
from medtail.training.second import SecondConfig

ROOT = Path(__file__).resolve().parents[2]
STUDY = ROOT / "configs" / "studies" / "methods.yaml"
PAGE = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
UNIONS = {
    "loss": LossConfig,
    "objective": ObjectiveConfig,
    "head": HeadConfig,
    "sampler": SamplerConfig,
    "mix": MixConfig,
    "second": SecondConfig,
}
ELSEWHERE = {
    "csasn", "tasks", "sites", "copies", "syntus", "two_streams", "text_query", "mixture", "policy", "replay",
    "db_light", "sop", "glori", "study_fusion",
}  # fmt: skip
"""Kinds that belong to a recipe with studies of its own."""


def study() -> StudyConfig:
    return load_study(STUDY)[0]


def arms() -> dict[str, Arm]:
    found = study()
    return resolve_arms(training_of(found, folder=STUDY.parent), found.arms, where="methods.yaml", folder=STUDY.parent)


def kinds(union: Any) -> set[str]:
    return {member.__dataclass_fields__["kind"].default for member in get_args(get_args(union)[0])}


@pytest.mark.parametrize("key", UNIONS)
def test_every_kind_is_on_the_page_and_in_the_study(key: str) -> None:
    used = {getattr(getattr(arm.config, key), "kind", None) for arm in arms().values()}
    for kind in kinds(UNIONS[key]) - {"plain"}:
        assert f"`{kind}`" in PAGE or f"kind: {kind}`" in PAGE or f"{kind}`" in PAGE, kind
        assert kind in used | ELSEWHERE, f"no arm of methods.yaml uses {key} {kind!r}"


def test_the_rungs_stand_on_the_page_as_what_they_are() -> None:
    """Copied from the page into a training's file, a rung is what the ladder trains."""
    block = PAGE.partition("## By name")[2].partition("```yml\n")[2].partition("```")[0]
    told = YAML(typ="safe", pure=True).load(block)
    assert list(told) == list(RUNGS)
    labels = LabelSpace.from_columns(["shape=round", "shape=oval", "halo"])
    plain_keys = plain_base({"manifest": "m.csv"}, labels)
    for name, keys in told.items():
        own = rung_keys(name, labels, epochs=20)
        own.pop("optimizer", None)  # the ladder shares the epochs out
        assert train_config(merge(plain_keys, keys)) == train_config(merge(plain_keys, own)), name


def test_arms_spend_alike_but_for_what_they_are_about() -> None:
    found = study()
    check_budgets(arms(), reference="plain", equal=found.equal, train_rows=3000, where="methods.yaml")
    assert set(found.equal.unless) < set(found.arms)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(study().arms))
def test_every_arm_trains(name: str, toy_manifest: Manifest, tmp_path: Path) -> None:
    toy_manifest.write(tmp_path / "toy.csv")
    overrides: Mapping[str, Any] = nested(study().arms[name] or {}, where=name)
    second = {} if "second" not in overrides else {"second": {**overrides["second"]}}
    if second.get("second", {}).get("kind") == "retrain":
        second["second"]["epochs"] = 1
    optimizer = {"epochs": 2, "batch_size": 18, "learning_rate": 0.005}
    base = {
        "manifest": "toy.csv",
        "pixels": {"size_px": 32},
        "backbone": {"kind": "resnet"},
        "cache": "cache",
        "threads": 1,
        "accelerator": "cpu",
    }
    config = train_config(merge(merge(base, overrides), {"optimizer": optimizer, **second}), folder=tmp_path)
    outcome = train(config, tmp_path / "run", quiet=True)
    assert outcome.epochs_run >= 2
    assert 0 < outcome.tune_map <= 1
