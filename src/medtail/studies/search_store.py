"""Trials of a search as Optuna keeps them: what was tried, what it came to, and what to try next.

One line a step in `DIR/trials.journal`, a file that processes and machines share. What is next depends on the trial's
number, the sampler's seed and the trials that are finished, and on nothing a killed process could have known: going on
with a search that was cut off draws what it would have drawn.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, final

from filelock import FileLock

from medtail.config import config_to_dict
from medtail.errors import MedtailError
from medtail.seeding import stream_seed
from medtail.studies.search_config import (
    ChoiceRange,
    FloatRange,
    GridConfig,
    Range,
    Search,
    SearchConfig,
    TpeConfig,
    word_of,
)

JOURNAL = "trials.journal"
SLOT = "slot"
"""Under this name a trial says its number in the search: one that failed is tried again under the same."""
Ending = Literal["complete", "pruned", "failed"]


def optuna_package() -> Any:
    """Return Optuna, quiet.

    Raises:
        MedtailError: It is not installed; says which extra brings it.
    """
    try:
        optuna = importlib.import_module("optuna")
    except ImportError as error:
        raise MedtailError(
            f"study search: needs the package 'optuna' ({error}); install it with `pip install 'medtail[search]'`."
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


@final
class JournalLock:
    """A lock of the operating system on the journal, which goes with its process; whoever takes it mends the end.

    Args:
        path: The journal.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(f"{path}.lock")

    def acquire(self) -> bool:
        """Take it, and cut off the line that a process killed in the middle of it has left."""
        self._lock.acquire()
        mend(self.path)
        return True

    def release(self) -> None:
        """Give it back."""
        self._lock.release()


def mend(path: Path) -> None:
    """Cut off the last line of a journal if it is not whole: what it would have said has not happened."""
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        tail = b""
        while end > 0 and b"\n" not in tail:
            start = max(0, end - 4096)
            file.seek(start)
            tail, end = file.read(end - start) + tail, start
        if tail and not tail.endswith(b"\n"):
            file.truncate(end + tail.rfind(b"\n") + 1)


@final
class TrialStore:
    """The journal of one search.

    Args:
        root: The search's folder.
        search: The search.

    Raises:
        MedtailError: Optuna is missing, or the journal is damaged.
    """

    def __init__(self, root: Path, search: Search) -> None:
        self.search, self.path = search, root / JOURNAL
        self._optuna = optuna_package()
        config, optuna = search.config, self._optuna
        self._asking = FileLock(str(root / ".ask.lock"))
        pruner = optuna.pruners.NopPruner()
        if config.pruner is not None:
            pruner = optuna.pruners.MedianPruner(
                n_startup_trials=config.pruner.startup, n_warmup_steps=config.pruner.warmup
            )
        with self._reading():
            backend = optuna.storages.journal.JournalFileBackend(str(self.path), lock_obj=JournalLock(self.path))
            self._study = optuna.create_study(
                storage=optuna.storages.JournalStorage(backend), study_name="search", pruner=pruner,
                direction="minimize" if config.objective.is_to_be_small else "maximize", load_if_exists=True,
            )  # fmt: skip

    def ask(self, slot: int) -> dict[str, Any]:
        """Return the values of a trial: those it began with, or new ones, which are written down.

        Args:
            slot: Its number in the search, from 0.

        Returns:
            Dotted key → value, for the keys that are there.
        """
        with self._asking, self._reading():
            known = self.by_slot()
            found = known.get(slot)
            if found is None:
                others = [trial for number, trial in sorted(known.items()) if number != slot]
                params, distributions = draw(self.search, slot, others)
            elif found.state == self._state("failed"):  # tried again
                params, distributions = found.params, found.distributions
            else:
                return self.values(slot)
            states = self._optuna.trial.TrialState
            trial = self._optuna.trial.create_trial(
                state=states.RUNNING, params=params, distributions=distributions, user_attrs={SLOT: slot}
            )
            self._study.add_trial(trial)
            return self.values(slot)

    def values(self, slot: int) -> dict[str, Any]:
        """Return the values of a trial that was begun, in the order of the file; of others, none."""
        found = self.by_slot().get(slot)
        params = {} if found is None else found.params
        return {key: read_value(given, params[key]) for key, given in self.search.config.space.items() if key in params}

    def ending(self, slot: int) -> Ending | None:
        """Return how a trial ended; None if it did not."""
        found = self.by_slot().get(slot)
        endings: dict[Any, Ending] = {self._state(name): name for name in ("complete", "pruned", "failed")}
        return None if found is None else endings.get(found.state)

    def report(self, slot: int, *, epoch: int, value: float) -> bool:
        """Write down how good a trial is after an epoch.

        Returns:
            Whether it should be stopped.
        """
        with self._reading():
            trial = self._optuna.trial.Trial(self._study, self.by_slot()[slot]._trial_id)
            if epoch not in trial.storage.get_trial(trial._trial_id).intermediate_values:
                trial.report(value, epoch)
            return bool(trial.should_prune())

    def tell(self, slot: int, ending: Ending, value: float | None = None) -> None:
        """Write down how a trial ended, once."""
        with self._reading():
            found = self.by_slot()[slot]
            if not found.state.is_finished():
                self._study.tell(found.number, value, state=self._state(ending))

    def by_slot(self) -> dict[int, Any]:
        """Return the latest trial of every number in the search."""
        found = {}
        for trial in self._study.get_trials(deepcopy=False):
            if SLOT in trial.user_attrs:
                found[int(trial.user_attrs[SLOT])] = trial
        return found

    def importances(self) -> dict[str, float]:
        """Return the share of each key in how the better trials differ from all; empty with fewer than ten trials.

        References:
            watanabe2023.
        """
        optuna = self._optuna
        complete = [trial for trial in self.by_slot().values() if trial.state == self._state("complete")]
        keys = [key for key in self.search.config.space if all(key in trial.params for trial in complete)]
        if len(complete) < 10 or len(keys) < 2:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            memory = optuna.create_study(direction=self._study.direction)
            memory.add_trials(complete)
            try:
                evaluator = optuna.importance.PedAnovaImportanceEvaluator()
                found = optuna.importance.get_param_importances(memory, evaluator=evaluator, params=keys)
            except (ValueError, RuntimeError):  # all trials alike
                return {}
        return {key: float(found[key]) for key in keys}

    def _state(self, name: str) -> Any:
        states = self._optuna.trial.TrialState
        return {"complete": states.COMPLETE, "pruned": states.PRUNED, "failed": states.FAIL}[name]

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Say what to do where the journal cannot be read."""
        try:
            yield
        except MedtailError:
            raise
        except (ValueError, KeyError) as error:
            raise MedtailError(
                f"{self.path}: is damaged ({type(error).__name__}: {error}). Restore it, or begin the search anew; the"
                " trainings in `cells` are whole."
            ) from error


def draw(search: Search, slot: int, others: Sequence[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Draw the values of a trial.

    Args:
        search: The search.
        slot: The trial's number.
        others: Trials that were begun, in the order of their numbers.

    Returns:
        Values and distributions, as Optuna keeps them.
    """
    optuna, config = optuna_package(), search.config
    distributions = {key: distribution_of(given) for key, given in config.space.items()}
    if config.include_base and slot == 0:
        return _only(distributions, base_values(search))
    if isinstance(config.sampler, GridConfig):
        return _only(distributions, config.grid()[slot - config.include_base])
    seed = stream_seed(config.sampler.seed, "trial", slot) % 2**32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of options that may change
        if isinstance(config.sampler, TpeConfig):
            sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=config.sampler.startup, constant_liar=True)
        else:
            sampler = optuna.samplers.RandomSampler(seed=seed)
        memory = optuna.create_study(
            direction="minimize" if config.objective.is_to_be_small else "maximize", sampler=sampler
        )
        memory.add_trials([trial for trial in others if trial.state != optuna.trial.TrialState.FAIL])
        trial = memory.ask()
        values: dict[str, Any] = {}
        for key, given in config.space.items():
            if config.is_there(key, values):
                values[key] = read_value(given, _suggest(trial, key, given))
    return _only(distributions, values)


def _suggest(trial: Any, key: str, given: Range) -> Any:
    if isinstance(given, ChoiceRange):
        return trial.suggest_categorical(key, [word_of(value) for value in given.values])
    suggest = trial.suggest_float if isinstance(given, FloatRange) else trial.suggest_int
    return suggest(key, given.low, given.high, log=given.log)


def _only(distributions: Mapping[str, Any], values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    params = {
        key: word_of(value) if _is_choice(distributions[key]) else value for key, value in values.items()
    }  # fmt: skip
    return params, {key: distributions[key] for key in params}


def _is_choice(distribution: Any) -> bool:
    return hasattr(distribution, "choices")


def distribution_of(given: Range) -> Any:
    """Return a range in Optuna's words; a choice by the JSON of its values."""
    found = optuna_package().distributions
    if isinstance(given, ChoiceRange):
        return found.CategoricalDistribution([word_of(value) for value in given.values])
    kind = found.FloatDistribution if isinstance(given, FloatRange) else found.IntDistribution
    return kind(given.low, given.high, log=given.log)


def read_value(given: Range, param: Any) -> Any:
    """Return a value as a config has it."""
    if isinstance(given, ChoiceRange):
        return next(value for value in given.values if word_of(value) == param)
    return float(param) if isinstance(given, FloatRange) else int(param)


def base_values(search: Search) -> dict[str, Any]:
    """Return where the training as it stands lies in the space; keys of which it is outside are left out."""
    config: SearchConfig = search.config
    plain = config_to_dict(search.arm("base", {}).config)
    found: dict[str, Any] = {}
    for key, given in config.space.items():
        value: Any = plain
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if not config.is_there(key, found):
            continue
        if isinstance(given, ChoiceRange):
            if word_of(value) in {word_of(one) for one in given.values}:
                found[key] = value
        elif isinstance(value, int | float) and not isinstance(value, bool) and given.low <= value <= given.high:
            found[key] = float(value) if isinstance(given, FloatRange) else int(value)
    return found
