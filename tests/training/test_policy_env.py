from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from medtail.errors import MedtailError
from medtail.training.config import TrainConfig

MakeConfig = Callable[..., TrainConfig]
gymnasium = pytest.importorskip("gymnasium")


def test_the_environment_passes_gymnasiums_own_check(make_policy_config: MakeConfig) -> None:
    from gymnasium.utils.env_checker import check_env

    from medtail.training.policy_env import PolicyEnv

    check_env(PolicyEnv(make_policy_config()), skip_render_check=True)


def test_an_episode_is_the_rounds_and_pays_each_class(make_policy_config: MakeConfig) -> None:
    from medtail.training.policy_env import PolicyEnv

    env = PolicyEnv(make_policy_config())
    first, info = env.reset(seed=1)
    assert info["class_names"] == ("bright", "rare", "shape=irregular", "shape=oval", "shape=round")
    action = np.array([4, 4, 0, 2, 1])
    _, reward, ended, cut, paid = env.step(action)
    assert (ended, cut) == (False, False)
    assert reward == pytest.approx(paid["rewards"].mean())
    np.testing.assert_allclose(paid["levels"], [1.0, 0.0, 0.0, 0.5, 0.25])  # 'rare' has no pool
    assert env.step(action)[2] is True
    again, _ = env.reset(seed=1)
    np.testing.assert_array_equal(again, first)
    assert env.step(action)[1] == reward


def test_another_sampler_is_no_environment(make_policy_config: MakeConfig) -> None:
    from medtail.training.policy_env import PolicyEnv

    with pytest.raises(MedtailError, match=r"sampler.kind: found 'uniform'; expected 'policy'"):
        PolicyEnv(make_policy_config(sampler={"kind": "uniform"}))
