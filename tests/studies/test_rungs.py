"""The rungs: each resolves, differs from the plain method in its own keys alone, and undoes whatever the base was."""

from __future__ import annotations

from typing import Any

import pytest

from medtail.errors import UsageError
from medtail.reporting.bibliography import bibliography
from medtail.studies.arms import budgets, differences, resolve_arms
from medtail.studies.config import BUDGETS
from medtail.studies.rungs import REFERENCE, RUNGS, choose_rungs, obstacle, plain, plain_base, rung_keys
from medtail.tables.labels import LabelSpace
from medtail.training.config import train_config
from medtail.training.recipes import RECIPES

FREE = LabelSpace(("Hernia", "Mass"))
MIXED = LabelSpace.from_columns(["shape=oval", "shape=round", "halo"])
MULTICLASS = LabelSpace.from_columns(["shape=oval", "shape=round"])
SPACES = {"free": FREE, "mixed": MIXED, "multiclass": MULTICLASS}


def arms_on(labels: LabelSpace, base: dict[str, Any]) -> Any:
    given = plain_base(base, labels)
    epochs = train_config(given).optimizer.epochs
    names = choose_rungs(["all"], labels, where="ladder.yaml")
    return resolve_arms(given, {name: rung_keys(name, labels, epochs=epochs) for name in names}, where="ladder.yaml")


@pytest.mark.parametrize("space", SPACES)
def test_every_rung_differs_from_the_plain_method_in_its_own_keys_alone(space: str) -> None:
    labels = SPACES[space]
    arms = arms_on(labels, {"manifest": "a.csv", "optimizer": {"epoch_rows": 640}})
    assert not arms[REFERENCE].changes
    for name, arm in arms.items():
        named = set(RUNGS[name].config)
        assert {change.key.split(".")[0] for change in arm.changes} == named, name
        own = budgets(arm.config, train_rows=1000)
        other = budgets(arms[REFERENCE].config, train_rows=1000)
        unlike = {budget for budget in BUDGETS if own[budget] != other[budget]}
        assert unlike <= set(RUNGS[name].unlike), f"{name} spends other {unlike}"


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_plain_method_undoes_what_a_recipe_does_about_the_tail(recipe: str) -> None:
    given = plain_base({"manifest": "a.csv", "recipe": recipe, "mix": {"kind": "mixup"}}, FREE)
    found = train_config(given)
    bare = train_config({"manifest": "a.csv"})
    for part in ("loss", "sampler", "objective", "tail_mix", "mix", "second"):
        assert getattr(found, part) == getattr(bare, part), part
    assert found.head == bare.head
    assert found.optimizer.patience is None


def test_what_a_training_says_about_images_and_rates_stays() -> None:
    base = {"manifest": "a.csv", "loss": {"kind": "asl"}, "head": {"kind": "linear", "dropout": 0.5}}
    kept = {**base, "pixels": {"size_px": 64}, "optimizer": {"learning_rate": 0.01, "epochs": 3}, "members": 2}
    before, after = train_config(kept), train_config(plain_base(kept, FREE))
    assert {change.key.split(".")[0] for change in differences(before.__dict__, after.__dict__)} == {"loss"}


def test_a_rung_keeps_the_link_of_the_task() -> None:
    for labels, link in ((FREE, "sigmoid"), (MIXED, "sigmoid"), (MULTICLASS, "softmax")):
        for name in choose_rungs(["all"], labels, where="x"):
            loss = rung_keys(name, labels).get("loss", {})
            if name not in ("softmax", "balanced_softmax"):
                assert loss.get("link", link) == link, name
    assert plain(MULTICLASS)["loss"]["kind"] == "cross_entropy"
    assert plain(MIXED)["loss"]["kind"] == "bce"


def test_rungs_of_two_stages_share_out_the_epochs() -> None:
    assert rung_keys("crt", FREE, epochs=8)["second"]["epochs"] == 2
    assert rung_keys("crt", FREE, epochs=8)["optimizer"]["epochs"] == 6
    assert rung_keys("lws", FREE, epochs=2)["optimizer"]["epochs"] == 1
    with pytest.raises(UsageError, match=r"rung 'crt': has two stages, and optimizer.epochs is 1; expected at least 2"):
        rung_keys("crt", FREE, epochs=1)


def test_rungs_are_chosen_in_the_ladders_order_and_mistakes_are_named_together() -> None:
    assert choose_rungs(["syntus", "focal"], FREE, where="x") == ["erm", "focal", "syntus"]
    core = choose_rungs(None, MULTICLASS, where="x")
    assert core[0] == "erm"
    assert "syntus" not in core
    assert not [name for name in core if obstacle(RUNGS[name], MULTICLASS)]
    with pytest.raises(UsageError, match=r"no rung 'fokal'; did you mean 'focal'\?") as error:
        choose_rungs(["fokal", "softmax"], FREE, where="ladder.yaml")
    assert "rung 'softmax': needs an exclusive group beside other classes" in str(error.value)


def test_every_origin_is_in_the_bibliography() -> None:
    known = bibliography()
    missing = {key.strip() for rung in RUNGS.values() for key in rung.origin.split(",") if key.strip()} - set(known)
    assert not missing
