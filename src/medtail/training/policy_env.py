"""One round of the ratio policy as an environment of `gymnasium`, for agents that are not ours.

An observation is what the agents see, ten numbers a class; an action is the number of a level for each class; a step
trains H steps at these levels and pays the mean of the classes' rewards (each class's own is in `info`). An episode is
K rounds of one copy, from a network that was warmed up on real rows. Needs the extra `synthesis`.
"""

from __future__ import annotations

from typing import Any, final

import numpy as np

from medtail.errors import MedtailError
from medtail.sampling.policy import PolicySamplerConfig
from medtail.sampling.policy_state import NUMBERS, WORST_LOSS, pay
from medtail.training.config import TrainConfig
from medtail.training.policy_course import Course, open_course

try:
    import gymnasium
    from gymnasium import spaces
except ImportError as error:  # pragma: no cover - the extra is installed wherever tests run
    raise MedtailError(
        f"policy_env: the package gymnasium is missing ({error}); install the extra: `pip install medtail[synthesis]`."
    ) from error


@final
class PolicyEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """Set levels, train a little, be paid on reward rows.

    Only classes with generated images take a level; the others' part of an action changes nothing. `reset(seed=…)` sets
    which data the steps of the episode see; the warmed-up network is the same in every episode.

    Args:
        config: A training whose sampler is a policy; its rounds and steps, levels and reward are used.

    Raises:
        MedtailError: The sampler is no policy, or see `open_course`.

    Example:
        >>> from medtail.training.config import load_train_config
        >>> env = PolicyEnv(load_train_config("configs/genaug/breast6_policy.yaml"))  # doctest: +SKIP
        >>> states, _ = env.reset(seed=0)  # doctest: +SKIP
        >>> states, reward, ended, cut, info = env.step(env.action_space.sample())  # doctest: +SKIP
    """

    def __init__(self, config: TrainConfig) -> None:
        if not isinstance(config.sampler, PolicySamplerConfig):
            raise MedtailError(f"policy_env, sampler.kind: found {config.sampler.kind!r}; expected 'policy'.")
        self._settings = config.sampler
        self._course: Course = open_course(config)
        classes = len(self._course.pool.class_names)
        self._course.train(
            np.zeros(classes),
            steps=self._course.rounds.warmup,
            out=self._course.pool.real[:0],
            purpose=("warm-up",),
        )
        self._warm = self._course.snapshot()
        self.observation_space = spaces.Box(-WORST_LOSS, WORST_LOSS, (classes, len(NUMBERS)), np.float32)
        self.action_space = spaces.MultiDiscrete([len(self._settings.choices)] * classes)
        self._round, self._episode = 0, 0
        self._before: np.ndarray | None = None
        self._levels = np.zeros(classes)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode at the warmed-up network.

        Args:
            seed: Of the episode's data; the next one if None.
            options: Not used.

        Returns:
            The states [classes, 10], and the names of the classes.
        """
        super().reset(seed=seed)
        del options
        self._episode = int(self.np_random.integers(2**31))
        self._course.restore(self._warm)
        self._round, self._before = 0, None
        self._levels = np.zeros(len(self._course.pool.class_names))
        return self._states(), {"class_names": self._course.pool.class_names}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Train H steps at the levels chosen.

        Args:
            action: Number of the level of each class, integers [classes].

        Returns:
            States, mean reward, whether the last round is over, False, and what each class was paid.
        """
        course, number = self._course, self._round
        has_pool = course.pool.sizes > 0
        levels = np.where(has_pool, np.array(self._settings.choices)[np.asarray(action)], 0.0)
        start = course.read(number)
        purpose = ("environment", self._episode, number)
        course.train(levels, steps=course.rounds.steps, out=course.reward.out(number), purpose=purpose)
        after = course.read(number)
        paid = pay(start, after, levels=levels, sizes=course.pool.sizes, config=self._settings.reward)
        self._round, self._levels, self._before = number + 1, levels, start.soft_recall
        info = {"rewards": paid.rewards, "team": paid.team, "stability": paid.stability, "levels": levels}
        ended = self._round >= course.rounds.rounds
        return self._states(), float(paid.rewards.mean()), ended, False, info

    def _states(self) -> np.ndarray:
        course = self._course
        reading = course.read(self._round)
        progress = min(self._round / course.rounds.rounds, 1.0)
        states = course.states(reading, before=self._before, levels=self._levels, progress=progress)
        return np.asarray(np.clip(states, -WORST_LOSS, WORST_LOSS))
