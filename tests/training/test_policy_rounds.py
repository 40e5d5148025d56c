from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medtail.errors import MedtailError, UsageError
from medtail.sampling.replay import read_schedule
from medtail.training import policy_rounds
from medtail.training.config import TrainConfig, train_config
from medtail.training.policy_rounds import learn_schedule, policy_budget

MakeConfig = Callable[..., TrainConfig]
POOLED = ["bright", "shape=irregular", "shape=oval", "shape=round"]


@pytest.fixture
def learnt(make_policy_config: MakeConfig, tmp_path: Path) -> pd.DataFrame:
    learn_schedule(make_policy_config(), tmp_path / "run", quiet=True)
    return pd.read_csv(tmp_path / "run" / "policy" / "rounds.csv")


def test_the_rounds_leave_a_schedule_a_table_and_the_carried_copy(learnt: pd.DataFrame, tmp_path: Path) -> None:
    assert {path.name for path in (tmp_path / "run" / "policy").iterdir()} == {
        "schedule.json",
        "rounds.csv",
        "carried.safetensors",
        "kept",
    }
    assert len(list((tmp_path / "run" / "policy" / "kept").iterdir())) == 2
    assert len(learnt) == 2 * 2 * 5  # rounds, copies, classes
    assert (learnt.groupby(["round", "copy"])["kept"].nunique() == 1).all()
    assert (learnt.groupby("round")["kept"].sum() == 5).all(), "one copy a round is carried on"
    best = learnt.groupby("round")["team"].transform("max")
    assert (learnt.loc[learnt["kept"] == 1, "team"] == best[learnt["kept"] == 1]).all()
    assert set(learnt["level"]) <= {0.0, 0.25, 0.5, 0.75, 1.0}
    assert (learnt.loc[learnt["class"] == "rare", "level"] == 0).all(), "no pool, no level"
    schedule = read_schedule(tmp_path / "run" / "policy" / "schedule.json")
    kept = learnt[learnt["kept"] == 1].pivot(index="round", columns="class", values="greedy_level")
    np.testing.assert_array_equal(schedule.levels, kept[list(schedule.class_names)].to_numpy())
    assert schedule.network is not None
    assert list(schedule.network.agents) == [name for name in schedule.class_names if name in POOLED]
    assert schedule.facts["total_steps"] == 2 + 2 * 2 * 2


def test_rewards_are_what_the_readings_say(learnt: pd.DataFrame) -> None:
    row = learnt.iloc[0]
    pools = learnt.drop_duplicates("class").set_index("class")
    sizes = pd.Series({"bright": 6, "shape=irregular": 8, "shape=oval": 10, "shape=round": 12})
    level = learnt[(learnt["round"] == 1) & (learnt["copy"] == 1)].set_index("class")["level"]
    cost = level * sizes.reindex(level.index).fillna(0) / sizes.sum()
    expected = 0.5 * pools["own"] + 0.5 * row["team"] - row["stability"] - 0.01 * cost
    np.testing.assert_allclose(pools["reward"], expected)


def test_a_run_that_was_cut_off_learns_the_same_schedule(
    learnt: pd.DataFrame, make_policy_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    original = policy_rounds._try_round

    def cut(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return original(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(policy_rounds, "_try_round", cut)
    with pytest.raises(KeyboardInterrupt):
        learn_schedule(make_policy_config(), tmp_path / "cut", quiet=True)
    assert not (tmp_path / "cut" / "policy" / "schedule.json").exists()
    learn_schedule(make_policy_config(), tmp_path / "cut", quiet=True)
    assert calls == 3, "the first round was not run again"
    for name in ("schedule.json", "rounds.csv", "carried.safetensors"):
        whole, cut_off = (tmp_path / run / "policy" / name for run in ("run", "cut"))
        assert whole.read_bytes() == cut_off.read_bytes(), name
    del learnt


def test_what_was_learnt_is_not_learnt_again(make_policy_config: MakeConfig, tmp_path: Path) -> None:
    config = make_policy_config()
    first = learn_schedule(config, tmp_path / "run", quiet=True)
    before = (tmp_path / "run" / "policy" / "schedule.json").stat().st_mtime_ns
    np.testing.assert_array_equal(learn_schedule(config, tmp_path / "run", quiet=True).levels, first.levels)
    assert (tmp_path / "run" / "policy" / "schedule.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_baselines_are_the_same_command(make_policy_config: MakeConfig, tmp_path: Path) -> None:
    for name, changes in {
        "random": {"algorithm": "random"},
        "table": {"algorithm": "table"},
        "shared": {"agents": "shared"},
        "own": {"reward": {"team": 0.0}},
        "rotate": {"reward": {"source": "rotate"}},
    }.items():
        config = make_policy_config(sampler={"kind": "policy", "size": "tiny", **changes})
        schedule = learn_schedule(config, tmp_path / name, quiet=True)
        rounds = pd.read_csv(tmp_path / name / "policy" / "rounds.csv")
        kept = rounds[rounds["kept"] == 1].pivot(index="round", columns="class", values="level")
        kept = kept[list(schedule.class_names)].to_numpy()
        if name == "random":
            np.testing.assert_array_equal(schedule.levels, kept)
            assert schedule.network is None
        if name == "table":
            assert (schedule.levels == schedule.levels[0]).all()
        if name == "shared":
            assert (kept == kept[:, :1]).all()
        if name == "own":
            np.testing.assert_allclose(
                rounds["reward"] + rounds["stability"] - 0.5 * rounds["own"].fillna(rounds["team"]), 0.0, atol=0.0101
            )


def test_multi_class_tasks_learn_too(make_policy_config: MakeConfig, tmp_path: Path) -> None:
    table = pd.read_csv(tmp_path / "pool.csv")
    table[table["meta_class"] != "bright"].to_csv(tmp_path / "shapes.csv", index=False)
    config = make_policy_config(manifest="shapes.csv", classes=["shape=*"])
    schedule = learn_schedule(config, tmp_path / "run", quiet=True)
    assert schedule.class_names == ("shape=irregular", "shape=oval", "shape=round")
    with pytest.raises(MedtailError, match=r"'bright' is no class here"):
        learn_schedule(make_policy_config(classes=["shape=*"]), tmp_path / "other", quiet=True)


def test_the_budget_of_a_training_counts_the_copies(make_policy_config: MakeConfig, tmp_path: Path) -> None:
    config = make_policy_config(members=2)
    real = pd.read_csv(tmp_path / "pool.csv").query("fold == 'train' and origin != 'synthetic'")
    steps = -(-len(real) // 12)
    budget = policy_budget(config)
    assert (budget.rounds, budget.final, budget.members) == (2 + 2 * 2 * 2, 2 * steps, 2)
    assert budget.total == 2 * (10 + 2 * steps)
    plain = make_policy_config(
        sampler={"kind": "mixture"}, second={"kind": "retrain", "epochs": 3, "sampler": {"kind": "mixture"}}
    )
    assert policy_budget(plain).total == 5 * steps


def test_a_policy_in_a_second_stage_is_refused() -> None:
    with pytest.raises(UsageError, match=r"second.sampler: found 'policy'"):
        train_config({"manifest": "a.csv", "second": {"kind": "retrain", "sampler": {"kind": "policy"}}})


def test_the_schedule_says_how_it_was_learnt(learnt: pd.DataFrame, tmp_path: Path) -> None:
    del learnt
    facts = json.loads((tmp_path / "run" / "policy" / "schedule.json").read_text())["facts"]
    assert facts["policy"]["kind"] == "policy"
    assert facts["pool_images"]["shape=round"] == 12
    assert (facts["rounds"], facts["copies"], facts["steps"], facts["warmup_steps"]) == (2, 2, 2, 2)
