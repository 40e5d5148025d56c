"""Arms: resolved whole, differing in nothing but what is named, and spending alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medtail.config import config_to_dict
from medtail.errors import UsageError
from medtail.studies.arms import NOT_AN_ARMS_BUSINESS, check_budgets, check_labels, differences, nested, resolve_arms
from medtail.studies.config import EqualConfig
from medtail.tables.manifest import Manifest

BASE: dict[str, Any] = {"manifest": "a.csv", "recipe": "baseline", "loss": {"kind": "focal", "gamma": 1.0}}


def test_arms_differ_from_the_base_in_the_named_fields_only() -> None:
    overrides: dict[str, dict[str, Any]] = {
        "full": {},
        "slow": {"optimizer.learning_rate": 1e-4},
        "two": {"optimizer.weight_decay": 0.0, "augment.flip": 0.0},
        "section": {"optimizer": {"warmup": 0.2, "ema_decay": None}, "test_time_flip": True},
        "other_loss": {"loss.kind": "bce"},
        "gamma": {"loss.gamma": 3.0},
    }
    arms = resolve_arms(BASE, overrides, where="study.yaml")
    plain = config_to_dict(arms["full"].config)
    for name, keys in overrides.items():
        named = {
            k if not isinstance(v, dict) else f"{k}.{inner}"
            for k, v in keys.items()
            for inner in (v if isinstance(v, dict) else [""])
        }
        changed = {change.key for change in differences(plain, config_to_dict(arms[name].config))}
        assert changed == {change.key for change in arms[name].changes}
        # a section that becomes another kind is replaced whole; all other keys stay
        sections = {key.removesuffix(".kind") for key in named if key.endswith(".kind")}
        assert {key for key in changed if key.partition(".")[0] not in sections} <= named, name
        assert changed or not named, name
    assert arms["other_loss"].config.loss.kind == "bce"
    assert arms["gamma"].config.optimizer == arms["full"].config.optimizer


def test_dotted_keys_of_one_section_work_in_any_order() -> None:
    one = nested({"loss.gamma": 2, "loss.kind": "focal"}, where="x")
    assert one == {"loss": {"gamma": 2, "kind": "focal"}}
    assert nested({"loss": {"kind": "focal"}, "loss.gamma": 2}, where="x") == {"loss": {"kind": "focal", "gamma": 2}}
    assert nested({"loss.gamma": 2, "loss": {"kind": "focal"}}, where="x") == one


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"loss.gama": 1}, r"study.yaml, arm 'odd', loss.gama: unknown key; did you mean 'gamma'\?"),
        ({"optimiser.epochs": 1}, r"arm 'odd', optimiser: unknown key; did you mean 'optimizer'\?"),
        ({"loss.kind": "focall"}, r"arm 'odd', loss.kind: found 'focall'; expected .*did you mean 'focal'\?"),
        ({"optimizer.epochs": 0}, r"arm 'odd', optimizer.epochs: found 0; expected a value greater than"),
        ({"recipe": "basline"}, r"arm 'odd', recipe: no recipe 'basline'; did you mean 'baseline'\?"),
        ({"seed": 1}, r"arm 'odd', seed: give `seeds:` of the study"),
        ({"manifest": "b.csv"}, r"arm 'odd', manifest: one study is about one table"),
        ({"loss..gamma": 1}, r"arm 'odd', 'loss..gamma': expected a key such as loss.gamma"),
        ({"seed.x": 1, "members": 2, "members.x": 1}, r"'members' is given a value elsewhere"),
        ({"loss.gamma": 1.0}, r"arm 'odd': is the same training as arm 'full'"),
    ],
)
def test_wrong_keys_are_named_with_arm_and_place(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve_arms(BASE, {"full": {}, "odd": keys}, where="study.yaml")


def test_the_mistakes_of_all_arms_are_named_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        resolve_arms(BASE, {"one": {"loss.gama": 1}, "two": {"sede": 1}}, where="study.yaml")
    assert "arm 'one', loss.gama" in str(caught.value)
    assert "arm 'two', sede: unknown key; did you mean 'seed'?" in str(caught.value)


def test_every_key_that_is_no_arms_business_is_a_key() -> None:
    assert set(NOT_AN_ARMS_BUSINESS) <= set(config_to_dict(resolve_arms(BASE, {"a": {}}, where="x")["a"].config))


@pytest.mark.parametrize(
    ("keys", "budget", "told"),
    [
        ({"optimizer.epochs": 40}, "steps", "found 160 steps; 'full' has 80 steps"),
        ({"optimizer.batch_size": 16, "optimizer.epochs": 10}, "batch", "found 16 images a step; 'full' has 32"),
        ({"optimizer.patience": 3}, "steps", "80 steps, stopped early after 3 epochs"),
        ({"mix": {"kind": "mixup", "alpha": 0.2}}, "augmentation", "mix: none → "),
        ({"second": {"kind": "retrain", "epochs": 5}}, "steps", "found 100 steps; 'full' has 80 steps"),
        ({"augment.flip": 0.0}, "augmentation", "flip: none → 0.0"),
        ({"members": 3}, "networks", "found 3; 'full' has 1"),
    ],
)
def test_arms_that_spend_otherwise_are_refused_unless_said(keys: dict[str, Any], budget: Any, told: str) -> None:
    arms = resolve_arms(BASE, {"full": {}, "odd": keys}, where="study.yaml")
    with pytest.raises(UsageError) as caught:
        check_budgets(arms, reference="full", equal=EqualConfig(), train_rows=128, where="study.yaml")
    assert f"arm 'odd', {budget}: " in str(caught.value)
    assert told in str(caught.value)
    assert f"equal: {{unless: {{odd: [{budget}]}}}}" in str(caught.value)
    allowed = EqualConfig(unless={"odd": (budget,)})
    check_budgets(arms, reference="full", equal=allowed, train_rows=128, where="study.yaml")


def test_a_sampler_of_two_streams_takes_twice_the_steps_and_is_told_apart() -> None:
    base = {"manifest": "a.csv", "sampler": {"kind": "uniform"}}
    arms = resolve_arms(base, {"full": {}, "streams": {"sampler.kind": "two_streams"}}, where="s")
    with pytest.raises(UsageError, match="arm 'streams', steps: found 160 steps; 'full' has 80 steps"):
        check_budgets(arms, reference="full", equal=EqualConfig(), train_rows=128, where="s")


def test_half_the_batch_in_half_the_epochs_is_no_excuse() -> None:
    arms = resolve_arms(BASE, {"full": {}, "odd": {"optimizer.batch_size": 16}}, where="s")
    with pytest.raises(UsageError) as caught:
        check_budgets(arms, reference="full", equal=EqualConfig(), train_rows=128, where="s")
    assert "odd', steps" in str(caught.value)
    assert "odd', batch" in str(caught.value)


def test_arms_learn_the_same_classes(made_up: Manifest, tmp_path: Path) -> None:
    base = {"manifest": str(tmp_path / "made_up.csv"), "classes": ["FTC", "MTC"]}
    arms = resolve_arms(base, {"full": {}, "less": {"classes": ["FTC"]}}, where="study.yaml")
    with pytest.raises(UsageError, match=r"arm 'less', classes: learns other classes than 'full' \(MTC\)"):
        check_labels(arms, made_up, reference="full", where="study.yaml")
    assert check_labels({"full": arms["full"]}, made_up, reference="full", where="s").labels.class_names == (
        "FTC",
        "MTC",
    )
