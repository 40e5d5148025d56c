from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from medtail.config import build_config, config_to_dict, dump_yaml, read_yaml
from medtail.errors import MedtailError, UsageError
from medtail.tables.manifest import Manifest, manifest_from_frame
from medtail.training.config import TrainConfig, load_train_config, portable, select_classes, train_config
from medtail.training.recipes import BOTH, RECIPES


def write(folder: Path, text: str) -> Path:
    path = folder / "c.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_mistake_of_a_file_is_listed_with_its_place(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "manifest: m.csv\nlos: {kind: bce}\noptimizer: {epochs: 0, learning_rat: 1}\n"
        "head: {kind: linear, dropout: 2}\n",
    )
    with pytest.raises(UsageError) as caught:
        load_train_config(path)
    message = str(caught.value)
    assert "c.yaml, los: unknown key; did you mean 'loss'?" in message
    assert "c.yaml, optimizer.learning_rat: unknown key; did you mean 'learning_rate'?" in message
    assert "c.yaml, optimizer.epochs: found 0" in message
    assert "c.yaml, head.dropout: found 2" in message


def test_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="manifest: missing"):
        load_train_config(write(tmp_path, "seed: 1\n"))


def test_paths_start_at_the_file(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    text = "manifest: data/m.csv\ncache: pixels\nbackbone: {kind: resnet, weights: weights}\n"
    config = load_train_config(write(tmp_path, text))
    assert config.manifest == str(tmp_path / "data" / "m.csv")
    assert config.cache == str(tmp_path / "pixels")
    assert config.backbone.weights == str(tmp_path / "weights")


def test_hub_ids_are_left_alone(tmp_path: Path) -> None:
    config = load_train_config(write(tmp_path, "manifest: m.csv\nbackbone: {kind: vit, weights: google/vit-base}\n"))
    assert config.backbone.weights == "google/vit-base"


def test_overrides_come_last(tmp_path: Path) -> None:
    path = write(tmp_path, "manifest: m.csv\nrecipe: baseline\noptimizer: {epochs: 3}\n")
    config = load_train_config(path, overrides=["optimizer.epochs=7", "loss.kind=asl"])
    assert (config.optimizer.epochs, config.loss.kind, config.optimizer.ema_decay) == (7, "asl", None)


def test_resolved_config_can_be_read_again_from_the_run_folder(tmp_path: Path) -> None:
    config = load_train_config(write(tmp_path, "manifest: m.csv\nrecipe: long_tail_finetune\nclasses: ['shape=*']\n"))
    run = tmp_path / "runs" / "one"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(dump_yaml(portable(config, folder=run)), encoding="utf-8")
    assert read_yaml(run / "config.yaml")["manifest"] == "../../m.csv"
    assert load_train_config(run / "config.yaml") == config


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_a_valid_config_that_says_what_it_is_for(name: str) -> None:
    config = train_config({"manifest": "m.csv", "recipe": name})
    assert config.recipe == name
    assert build_config(TrainConfig, config_to_dict(config), where="again") == config
    recipe = RECIPES[name]
    assert recipe.purpose.endswith(".")
    assert recipe.origin
    assert set(recipe.tasks) <= set(BOTH)


def test_unknown_recipe_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"recipe: no recipe 'long_tail_finetun'; did you mean 'long_tail_finetune'"):
        load_train_config(write(tmp_path, "manifest: m.csv\nrecipe: long_tail_finetun\n"))


def table() -> Manifest:
    names = ["halo", "shape=oval", "shape=round", "edge=sharp"]
    return manifest_from_frame(
        pd.DataFrame({"image_id": ["a"], "path": ["a"], "patient_id": ["1"], **{name: [0] for name in names}}),
        name="m.csv",
    )


def test_patterns_choose_classes_in_the_manifests_order() -> None:
    assert select_classes(table(), ("shape=*", "halo")).labels.class_names == ("halo", "shape=oval", "shape=round")
    assert select_classes(table(), None).labels.num_classes == 4
    assert select_classes(table(), ("shape=*",)).labels.task == "multiclass"


def test_patterns_without_a_class_are_all_named() -> None:
    with pytest.raises(MedtailError) as caught:
        select_classes(table(), ("hallo", "tail=*"))
    assert "m.csv, classes: no class is called 'hallo'; did you mean 'halo'?" in str(caught.value)
    assert "no class is called 'tail=*'" in str(caught.value)
    with pytest.raises(MedtailError, match="the list is empty"):
        select_classes(table(), ())


def test_a_path_given_on_the_command_line_starts_at_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "c.yaml").write_text("manifest: in_the_file.csv\n")
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "configs" / "c.yaml"
    assert load_train_config(config).manifest == str(tmp_path / "configs" / "in_the_file.csv")
    assert load_train_config(config, overrides=["manifest=typed.csv"]).manifest == str(tmp_path / "typed.csv")


def test_objectives_for_experts_ask_for_their_head_and_streams() -> None:
    with pytest.raises(UsageError) as caught:
        train_config({"manifest": "m.csv", "objective": {"kind": "branches"}})
    assert "head: found 'linear'; expected `head: {kind: experts, count: 2}`" in str(caught.value)
    assert "sampler: found 'uniform', which has one stream; expected 'two_branches'" in str(caught.value)
    head = {"kind": "experts", "count": 2}
    with pytest.raises(UsageError, match="count: 3"):
        train_config({"manifest": "m.csv", "objective": {"kind": "skill_diverse"}, "head": head})


def test_balanced_mixup_asks_for_two_streams_and_no_tail_mix() -> None:
    mix = {"kind": "balanced_mixup"}
    with pytest.raises(UsageError, match=r"'balanced_mixup' with sampler 'uniform', which has one stream"):
        train_config({"manifest": "m.csv", "mix": mix})
    with pytest.raises(UsageError, match=r"Set `tail_mix: null`"):
        train_config({"manifest": "m.csv", "mix": mix, "sampler": {"kind": "two_branches"}, "tail_mix": {}})
    assert train_config({"manifest": "m.csv", "mix": mix, "sampler": {"kind": "two_branches"}}).mix is not None


def test_strategies_that_start_processes_themselves_are_refused() -> None:
    assert train_config({"manifest": "m.csv", "devices": 2, "strategy": "ddp"}).strategy == "ddp"
    for name in ("ddp_spawn", "fsdp", "dpp"):
        with pytest.raises(UsageError, match=rf"strategy: found '{name}'; expected 'auto', 'ddp'"):
            train_config({"manifest": "m.csv", "devices": 2, "strategy": name})


def test_second_stage_that_cannot_follow_is_refused_with_the_first() -> None:
    branches = {
        "head": {"kind": "experts", "count": 2},
        "objective": {"kind": "branches"},
        "sampler": {"kind": "two_branches"},
        "second": {"kind": "retrain"},  # whose sampler, if not said, is class_balanced
    }
    with pytest.raises(UsageError, match="which has one stream"):
        train_config({"manifest": "m.csv", **branches})
