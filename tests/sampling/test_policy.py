from __future__ import annotations

import numpy as np
import pytest

from medtail.errors import MedtailError
from medtail.sampling.policy import (
    LEARNING,
    Agents,
    Algorithm,
    PolicySamplerConfig,
    Tried,
    advantages,
    build_agents,
    choose,
)
from medtail.sampling.policy_network import SHARED

NAMES = ("a", "b", "c")


def made(config: PolicySamplerConfig, *, rounds: int = 30, seed: int = 0, names: tuple[str, ...] = NAMES) -> Agents:
    return build_agents(config, class_names=names, with_pool=names, rounds=rounds, seed=seed)


def states_of(names: tuple[str, ...], number: int) -> np.ndarray:
    """States that follow from the class's name, as far as they differ."""
    rows = [np.random.default_rng([ord(name), number]).normal(size=10) for name in names]
    return np.stack(rows).astype(np.float32)


def play(
    agents: Agents, paid: dict[str, list[float]], *, names: tuple[str, ...], rounds: int, copies: int = 4, seed: int = 0
) -> np.ndarray:
    """Let agents play a game with a fixed reward for each class and level; return their last chances."""
    table = np.array([paid[name] for name in names])
    for number in range(rounds):
        states = states_of(names, number)
        chosen = choose(
            agents.chances(states), copies=copies, seed=seed, round_number=number, agents=agents.network.agents
        )
        laid = np.broadcast_to(chosen, (copies, len(names))) if agents.network.agents == (SHARED,) else chosen
        noise = np.stack([np.random.default_rng([ord(name), number, 7]).normal(size=copies) for name in names], axis=1)
        rewards = table[np.arange(len(names)), laid] + 0.05 * noise
        agents.learn(Tried(number, states, chosen, rewards, int(rewards.mean(axis=1).argmax())))
    return agents.chances(states_of(names, rounds))


def test_advantages_compare_copies_and_add_up_to_nothing() -> None:
    rewards = np.random.default_rng(0).normal(size=(4, 6))
    gain = advantages(rewards)
    np.testing.assert_allclose(gain.sum(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(gain.std(axis=0), 1.0, rtol=1e-4)
    np.testing.assert_allclose(advantages(rewards + 10.0), gain, rtol=1e-6)  # a shared start cancels
    assert (advantages(np.ones((4, 2))) == 0).all(), "no difference, nothing to learn"


@pytest.mark.parametrize("algorithm", LEARNING)
def test_the_better_of_two_arms_is_found_in_fifty_rounds(algorithm: Algorithm) -> None:
    config = PolicySamplerConfig(algorithm=algorithm, choices=(0.0, 1.0))
    chances = play(made(config, rounds=50), {"a": [0.2, 0.6], "b": [0.6, 0.2], "c": [0.3, 0.5]}, names=NAMES, rounds=50)
    assert chances[0, 1] > 0.8
    assert chances[1, 0] > 0.8
    assert chances[2, 1] > 0.8


def test_a_table_freezes_the_best_mean_level_and_random_keeps_the_best_copies() -> None:
    paid = {"a": [0.1, 0.2, 0.9], "b": [0.9, 0.1, 0.2], "c": [0.1, 0.9, 0.2]}
    table = made(PolicySamplerConfig(algorithm="table", choices=(0.0, 0.5, 1.0)))
    assert (play(table, paid, names=NAMES, rounds=30) == 1 / 3).all()
    greedy, kept = np.zeros((2, 3)), np.array([[0.5, 0.0, 1.0], [1.0, 1.0, 0.5]])
    np.testing.assert_array_equal(table.schedule(greedy, kept), [[1.0, 0.0, 0.5]] * 2)
    random = made(PolicySamplerConfig(algorithm="random", choices=(0.0, 0.5, 1.0)))
    np.testing.assert_array_equal(random.schedule(greedy, kept), kept)
    np.testing.assert_array_equal(made(PolicySamplerConfig()).schedule(greedy, kept), greedy)


def test_one_shared_agent_sets_one_level_for_all_classes() -> None:
    agents = made(PolicySamplerConfig(agents="shared", choices=(0.0, 1.0)), rounds=50)
    assert agents.network.agents == (SHARED,)
    # two classes gain from images, one loses less: together they gain
    chances = play(agents, {"a": [0.2, 0.6], "b": [0.5, 0.4], "c": [0.2, 0.6]}, names=NAMES, rounds=50)
    assert chances.shape == (1, 2)
    assert chances[0, 1] > 0.8
    assert agents.network.greedy(states_of(NAMES, 0), class_names=NAMES).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("algorithm", ["group", "ppo_clip", "table"])
def test_the_order_of_the_classes_changes_nothing(algorithm: Algorithm) -> None:
    paid = {"a": [0.2, 0.6], "b": [0.6, 0.2], "c": [0.5, 0.45]}
    config = PolicySamplerConfig(algorithm=algorithm, choices=(0.0, 1.0))
    first = play(made(config), paid, names=NAMES, rounds=20)
    turned = ("c", "a", "b")
    second = play(made(config, names=turned), paid, names=turned, rounds=20)
    np.testing.assert_allclose(second, first[[2, 0, 1]], atol=1e-4)


def test_other_names_lead_to_the_same_end() -> None:
    config = PolicySamplerConfig(choices=(0.0, 1.0))
    for names in (("x", "y", "z"), ("q", "r", "s")):
        paid = dict(zip(names, ([0.2, 0.6], [0.6, 0.2], [0.2, 0.6]), strict=True))
        chances = play(made(config, names=names, rounds=50), paid, names=names, rounds=50)
        assert (chances.argmax(axis=1) == [1, 0, 1]).all()


@pytest.mark.parametrize("algorithm", ["group", "ppo_clip", "reinforce", "table", "random"])
def test_what_was_learnt_is_taken_up_again_exactly(algorithm: Algorithm) -> None:
    paid = {"a": [0.2, 0.6], "b": [0.6, 0.2], "c": [0.5, 0.45]}
    config = PolicySamplerConfig(algorithm=algorithm, choices=(0.0, 1.0))
    whole, stopped, resumed = made(config), made(config), made(config)
    play(whole, paid, names=NAMES, rounds=6)
    play(stopped, paid, names=NAMES, rounds=6)
    resumed.load(stopped.tensors())
    after = [play(agents, paid, names=NAMES, rounds=4, seed=9) for agents in (whole, resumed)]
    np.testing.assert_array_equal(*after)


def test_choices_follow_the_chances() -> None:
    chances = np.array([[0.1, 0.6, 0.3], [0.0, 0.0, 1.0]])
    chosen = choose(chances, copies=20_000, seed=0, round_number=3, agents=["a", "b"])
    shares = np.bincount(chosen[:, 0], minlength=3) / len(chosen)
    np.testing.assert_allclose(shares, chances[0], atol=3 * np.sqrt(0.25 / len(chosen)))
    assert (chosen[:, 1] == 2).all()


def test_agents_choose_independently_of_each_other() -> None:
    chosen = choose(np.full((2, 2), 0.5), copies=4000, seed=0, round_number=0, agents=["a", "b"])
    assert abs(np.corrcoef(chosen.T)[0, 1]) < 0.06
    later = choose(np.full((2, 2), 0.5), copies=4000, seed=0, round_number=1, agents=["a", "b"])
    assert not np.array_equal(chosen, later)


def test_entropy_is_kept_by_its_bonus() -> None:
    paid = {"a": [0.5, 0.55], "b": [0.5, 0.5], "c": [0.5, 0.5]}
    free = play(
        made(PolicySamplerConfig(choices=(0.0, 1.0), entropy=0.0, entropy_end=0.0)), paid, names=NAMES, rounds=30
    )
    held = play(
        made(PolicySamplerConfig(choices=(0.0, 1.0), entropy=5.0, entropy_end=5.0)), paid, names=NAMES, rounds=30
    )

    def entropy(chances: np.ndarray) -> float:
        return float(-(chances * np.log(chances)).sum(axis=1).mean())

    assert entropy(held) > entropy(free)
    assert entropy(held) > 0.65


def test_only_classes_with_generated_images_have_an_agent() -> None:
    agents = build_agents(PolicySamplerConfig(), class_names=NAMES, with_pool=["b"], rounds=3, seed=0)
    assert agents.network.agents == ("b",)
    assert agents.network.spread(np.array([[0.75]]), class_names=NAMES).tolist() == [[0.0, 0.75, 0.0]]
    with pytest.raises(MedtailError, match=r"no synthetic row is in the train fold, so there is nothing to decide"):
        build_agents(PolicySamplerConfig(), class_names=NAMES, with_pool=[], rounds=3, seed=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"copies": 1}, r"copies: found 1 with 'group'"),
        ({"choices": (0.5, 0.0)}, r"choices: found \[0.5, 0.0\]; expected at least two different levels, ascending"),
        ({"algorithm": "table", "order": "closed_loop"}, r"'closed_loop' with 'table', which learns no network"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(MedtailError, match=message):
        PolicySamplerConfig(**changes)  # type: ignore[arg-type]


def test_the_budget_counts_every_copy() -> None:
    small = PolicySamplerConfig().at(steps_per_epoch=11)
    assert (small.warmup, small.rounds, small.copies, small.steps) == (100, 30, 4, 30)
    assert small.total == 100 + 30 * 4 * 30
    assert small.path == 100 + 30 * 30
    full = PolicySamplerConfig(size="full").at(steps_per_epoch=11)
    assert (full.warmup, full.steps, full.rounds) == (55, 11, 40)
