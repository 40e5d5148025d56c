"""Every arm takes the same number of gradient steps, and each isolates what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medtail.errors import UsageError
from medtail.studies.arms import budgets
from medtail.studies.genaug_arms import KINDS, PHANTOM_ONLY, GenaugPlan, contrasts_of, plan_arms
from medtail.studies.genaug_cells import cell_of
from medtail.studies.genaug_config import BreastTrack, GenaugConfig, TableTrack
from medtail.training.config import TrainConfig
from medtail.training.policy_rounds import policy_budget

NAMES = ["t=a", "t=b", "t=c"]
POLICY = {"rounds": 3, "copies": 2, "steps": 20, "warmup_steps": 10}


def config(**changes: Any) -> GenaugConfig:
    given: dict[str, Any] = {"track": BreastTrack(), "policy": POLICY, "final_steps": 100, "epoch_steps": 10}
    return GenaugConfig(**(given | changes))


def trained(plan: GenaugPlan, study: GenaugConfig, name: str) -> TrainConfig:
    return cell_of(study, plan.trainings[name], manifest=Path("m.csv"), root=Path("r"), seed=0, fold=0).config


def test_without_names_a_phantom_study_takes_every_arm_and_a_table_those_it_can() -> None:
    whole = plan_arms(config(), NAMES)
    assert set(whole.arms) == {name for name, kind in KINDS.items() if not kind.is_part}
    table = plan_arms(config(track=TableTrack(manifest="t.csv")), NAMES)
    assert set(whole.arms) - set(table.arms) == {
        name for name, kind in KINDS.items() if kind.table in PHANTOM_ONLY
    } == {"oracle", "perfect", "rl_mixed"}  # fmt: skip


def test_all_arms_take_the_policys_number_of_steps() -> None:
    study = config()
    plan = plan_arms(study, NAMES)
    assert plan.total_steps == 240  # 10 + 3·2·20 + 100, up to a multiple of four times an epoch's ten
    for arm, members in plan.arms.items():
        if arm in ("frozen", "reversed", "permuted"):
            continue  # their schedule has cost its search already; see below
        steps = 0
        for name in members:
            settings = trained(plan, study, name)
            steps += policy_budget(settings, train_rows=710).total
        slack = 0 if "policy" not in str(plan.trainings[members[0]].keys.get("sampler")) else 10
        assert plan.total_steps - slack <= steps <= plan.total_steps, arm


def test_replays_take_the_final_steps_as_the_policys_own_training_does() -> None:
    plan = plan_arms(config(), NAMES)
    assert {plan.trainings[name].epochs for name in ("rl", "frozen", "reversed", "permuted")} == {10}
    assert plan.trainings["frozen"].replays == "rl"


def test_two_stages_share_the_budget() -> None:
    study = config()
    plan = plan_arms(study, NAMES)
    assert budgets(trained(plan, study, "crt"), train_rows=710)["steps"] == "240 steps"


def test_steps_do_not_follow_the_rows_of_the_table() -> None:
    study = config()
    plan = plan_arms(study, NAMES)
    for name in ("real", "class_balanced", "fill", "oracle"):
        settings = trained(plan, study, name)
        assert {budgets(settings, train_rows=rows)["steps"] for rows in (50, 710, 2400)} == {"240 steps"}


def test_arms_differ_from_real_only_in_what_they_isolate() -> None:
    study = config()
    plan = plan_arms(study, NAMES)
    real = trained(plan, study, "real")
    for name in ("class_balanced", "fill", "oversampling", "shuffled", "perfect"):
        settings = trained(plan, study, name)
        assert settings.sampler != real.sampler, name
        assert (settings.loss, settings.augment, settings.optimizer) == (real.loss, real.augment, real.optimizer), name
    assert trained(plan, study, "logit_adjusted").loss != real.loss
    assert trained(plan, study, "strong_augment").augment != real.augment


def test_an_arm_of_another_generator_has_a_name_and_trainings_of_its_own() -> None:
    study = config(generators={"ab": {}, "ldm": {}}, arms=("real", "fill", "fill@ldm", "fill@ab", "fixed_best@ldm"))
    with pytest.raises(UsageError, match="'fill@ab': named twice"):
        plan_arms(study, NAMES)
    study = config(generators={"ab": {}, "ldm": {}}, arms=("real", "fill", "fill@ldm", "fixed_best@ldm"), curve=False)
    plan = plan_arms(study, NAMES)
    assert plan.trainings["fill"].generator == "ab"
    assert plan.trainings["fill@ldm"].generator == "ldm"
    assert plan.arms["fixed_best@ldm"] == tuple(f"level_{v}@ldm" for v in ("0.25", "0.5", "0.75", "1"))


def test_the_curve_of_use_runs_from_none_to_twice_and_is_no_arm() -> None:
    plan = plan_arms(config(arms=("real", "fill")), NAMES)
    assert [level for level, _ in plan.curve()] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0]
    assert set(plan.arms) == {"real", "fill"}
    assert not plan_arms(config(arms=("real", "fill"), curve=False), NAMES).curve()
    assert not plan_arms(config(arms=("real", "oracle")), NAMES).curve()


def test_mistakes_are_told_all_at_once() -> None:
    study = config(track=TableTrack(manifest="t"), arms=("reel", "fill@x", "real@ab", "oracle", "level_1", "rl", "rl"))
    with pytest.raises(UsageError) as caught:
        plan_arms(study, NAMES)
    for words in (
        "'reel': unknown; did you mean 'real'", "no generator 'x'", "'real@ab': uses no generator's images",
        "'oracle': needs fresh images", "'level_1': unknown", "'rl': named twice",
    ):  # fmt: skip
        assert words in str(caught.value), words


def test_real_images_only_must_be_there_and_policy_keys_right() -> None:
    with pytest.raises(UsageError, match="'real' is missing"):
        plan_arms(config(arms=("fill",)), NAMES)
    with pytest.raises(UsageError, match="algorithm"):
        plan_arms(config(policy={"algorithm": "magic"}), NAMES)


def test_contrasts_are_fixed_by_the_arms_alone_and_asked_once() -> None:
    plan = plan_arms(config(arms=("real", "oversampling", "fill", "shuffled", "rl", "frozen", "oracle")), NAMES)
    pairs = contrasts_of(plan, [("fill", "rl"), ("fill", "real"), ("fill", "nowhere")])
    assert len(pairs) == len(set(pairs))
    assert {("rl", "frozen"), ("rl", "fill"), ("fill", "rl")} <= set(pairs)
    assert {("fill", "oversampling"), ("fill", "shuffled")} <= set(pairs)
    assert ("rl", "oracle") not in pairs
    assert all(arm in plan.arms and against in plan.arms for arm, against in pairs)


def test_random_settings_are_the_same_every_time_and_differ_from_each_other() -> None:
    first, again = (plan_arms(config(arms=("real", "random_best")), NAMES) for _ in range(2))
    levels = [str(first.trainings[f"draw_{n}"].keys["sampler"]["levels"]) for n in range(4)]
    assert levels == [str(again.trainings[f"draw_{n}"].keys["sampler"]["levels"]) for n in range(4)]
    assert len(set(levels)) > 1
