"""A file of systems: what it resolves to, and every mistake in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from medtail.errors import MedtailError, UsageError
from medtail.losses.build import RalConfig
from medtail.studies.systems_config import OuterFolds, Systems, load_systems
from medtail.tables.post_rules import NormalGateConfig

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "studies" / "cxr_lt_nih.yaml"
PLAIN: dict[str, Any] = {
    "edition": "nih14",
    "train": {"manifest": "nih14/manifest.csv", "optimizer": {"epochs": 3}},
    "members": {
        "plain": {"recipe": "cxrlt_baseline/tiny"},
        "robust": {"recipe": "cxrlt_ral/tiny", "optimizer.learning_rate": 0.01},
        "spare": {"recipe": "cxrlt_yale/tiny"},
    },
    "systems": {
        "plain": {},
        "both": {"members": ["plain", "robust"], "repeats": 3, "rules": [{"kind": "normal_gate"}], "against": "plain"},
    },
}


def load(folder: Path, **changes: Any) -> Systems:
    path = folder / "systems.yaml"
    path.write_text(yaml.safe_dump(PLAIN | changes, sort_keys=False), encoding="utf-8")
    return load_systems(path)


def test_members_are_what_all_have_alike_over_their_recipe_and_their_own_keys_over_both(tmp_path: Path) -> None:
    found = load(tmp_path)
    assert list(found.arms) == ["plain", "robust"], "a member that no system asks for is not trained"
    robust = found.arms["robust"].config
    assert isinstance(robust.loss, RalConfig)
    assert (robust.optimizer.epochs, robust.optimizer.learning_rate, robust.pixels.size_px) == (3, 0.01, 64)
    assert robust.manifest == str(tmp_path / "nih14" / "manifest.csv")
    assert found.recipes["robust"].origin.startswith("Park and Ryu")
    assert found.config.lead == "plain"
    assert (found.config.repeats_of("plain"), found.config.repeats_of("spare")) == (3, 0)
    assert found.config.systems["both"].rules == (NormalGateConfig(),)
    assert found.title == "systems"


def test_tail_cuts_of_the_file_replace_the_editions(tmp_path: Path) -> None:
    plain, other = load(tmp_path), load(tmp_path, judge={"tail_cuts": [0.2, 0.05]})
    assert (plain.edition.tail_cuts, other.edition.tail_cuts) == ((0.1, 0.01), (0.2, 0.05))
    assert plain.task.class_names == other.task.class_names


@pytest.mark.parametrize("keys", [{"head.texts": "texts.safetensors"}, {"head": {"texts": "texts.safetensors"}}])
def test_text_vectors_start_at_the_files_folder(
    keys: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = {"plain": {"recipe": "cxrlt_textquery/tiny", **keys}}
    load(tmp_path, members=members, systems={"plain": {}})
    monkeypatch.chdir(tmp_path.parent)
    found = load_systems(Path(tmp_path.name) / "systems.yaml")
    monkeypatch.chdir("/")
    assert getattr(found.arms["plain"].config.head, "texts", "") == str(tmp_path / "texts.safetensors")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"systems": {"plian": {}}}, r"systems, 'plian': no member 'plian'; did you mean 'plain'"),
        ({"systems": {"plain": {"against": "plain"}}}, r"'plain', against: expected another system"),
        ({"systems": {}}, r"systems: found none"),
        ({"systems": {"a b": {"members": ["plain"]}}}, r"'a b': expected letters, digits"),
        ({"reference": "bth"}, r"reference: no system 'bth'; did you mean 'both'"),
        ({"edition": "2025"}, r"2025"),
        ({"task": 9}, r"--task 9: CXR-LT nih14 has the tasks"),
        ({"train": {"optimizer": {"epochs": 1}}}, r"systems.yaml, train.manifest: missing"),
        ({"systems": {"plain": {"switch_below": 0.1}}}, r"switch_below: found 1 member\(s\); expected two"),
        ({"systems": {"plain": {"fit": "greedy"}}}, r"fit: found one training; expected several"),
        ({"systems": {"plain": {"fit": "greedy", "how": "median", "repeats": 2}}}, r"a median takes no weights"),
        ({"systems": {"b": {"members": ["plain", "plain"]}}}, r"expected at least one, each once"),
        ({"systems": {"plain": {"vews": "max"}}}, r"unknown key; did you mean 'views'"),
        ({"folds": {"kind": "outer", "only": [5]}}, r"folds.only \[5\]: expected numbers from 0 to 4"),
        ({"members": PLAIN["members"] | {"plain": {"recipe": "cxrlt_bas"}}}, r"arm 'plain', recipe: no recipe"),
        ({"members": PLAIN["members"] | {"plain": {"seed": 3}}}, r"arm 'plain', seed"),
    ],
)
def test_mistakes_are_told_with_their_place(tmp_path: Path, changes: dict[str, Any], match: str) -> None:
    with pytest.raises((UsageError, MedtailError), match=match):
        load(tmp_path, **changes)


def test_the_nih_study_holds_every_recipe_and_compares_what_it_puts_together() -> None:
    from medtail.training.recipes_cxrlt import CXRLT_RECIPES

    found = load_systems(CONFIG)
    used = {str(arm.config.recipe).partition("/")[0] for arm in found.arms.values()}
    assert used == set(CXRLT_RECIPES)
    assert {str(arm.config.recipe).partition("/")[2] for arm in found.arms.values()} == {"tiny"}
    assert found.config.folds == OuterFolds(num_folds=5, tune=0.2)
    systems = found.config.systems
    assert systems["all_fitted"].members == systems["all_mean"].members
    assert systems["cxrlt_yale"].views == "max"
    assert (systems["cxrlt_tokyo"].views, systems["cxrlt_tokyo"].frontal_weight) == ("frontal", 0.8)
    assert systems["cxrlt_isbi26"].rules == (NormalGateConfig(alpha=0.5),)
