"""Where the training proper meets the policy: its schedule is learnt first, replayed, or chosen anew on the way.

For the sampler `policy` the rounds come first and what is trained then is a replay. In a closed loop the learnt network
is asked once an epoch, so reward rows are read as training goes; nothing is learnt from them, and they choose no epoch.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import final

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from medtail.errors import MedtailError
from medtail.judging.logit_adjustment import decided_f1
from medtail.judging.thresholds import choose_thresholds
from medtail.models.checkpoint import ModelCard, fill, save_model
from medtail.models.diagnoser import Diagnoser
from medtail.reporting.policy import PolicyRecord
from medtail.runs import read_json, write_json, write_text
from medtail.sampling.build import PolicySamplerConfig, ReplaySamplerConfig, SamplerConfig
from medtail.sampling.policy_state import Reading, agent_states, head_classes, read_scores
from medtail.sampling.replay import ClosedLoopSampler, read_schedule
from medtail.tables.manifest import Manifest
from medtail.tables.tail import count_classes
from medtail.training.callbacks import Feed, tune_quality
from medtail.training.config import TrainConfig
from medtail.training.module import TrainingModule
from medtail.training.policy_course import SYNTHETIC_ROWS, synthetic_losses
from medtail.training.policy_rounds import CARRIED, FOLDER, KEPT, ROUNDS, SCHEDULE, learn_schedule
from medtail.training.predict import as_predictions, score_rows

FIRST = Path("stages", "first")
"""Where a training in two stages keeps its first; `stages`, which runs them, stands above this module."""


def settled_sampler(config: TrainConfig, out: Path, *, quiet: bool) -> SamplerConfig:
    """Return the sampler of the training proper: the config's own, or a replay of what its policy learns first.

    Args:
        config: The training.
        out: Its run folder.
        quiet: Show no progress.

    Raises:
        MedtailError: See `learn_schedule`.
    """
    if not isinstance(config.sampler, PolicySamplerConfig):
        return config.sampler
    learn_schedule(config, out, quiet=quiet)
    return ReplaySamplerConfig(schedule=str(out / FOLDER / SCHEDULE), order=config.sampler.order)


def reads_reward(sampler: SamplerConfig) -> bool:
    """Return whether the training proper reads reward rows as it goes."""
    return isinstance(sampler, PolicySamplerConfig | ReplaySamplerConfig) and sampler.order == "closed_loop"


@final
class LoopKeeper(pl.Callback):
    """Has the learnt network choose the next epoch's levels in the states of this training.

    Goes before the callback that writes the run's state, so that a resumed run has the choice.

    Args:
        feed: Where batches come from; its manifest holds the reward rows.

    Raises:
        MedtailError: There are no reward rows.
    """

    def __init__(self, feed: Feed) -> None:
        assert isinstance(feed.sampler, ClosedLoopSampler), "the caller looks"
        self._feed, self._sampler = feed, feed.sampler
        self._rows = np.flatnonzero(feed.manifest.folds == "reward")
        if not len(self._rows):
            raise MedtailError(
                f"{feed.manifest.name}, column 'fold': no row is in 'reward', whose states a closed loop reads;"
                " expected some. Make them with `medtail data split --reward`, or replay the order 'logged'."
            )
        self._counts = np.array(count_classes(feed.manifest).images)
        self._synthetic = tuple(rows[:SYNTHETIC_ROWS] for rows in self._sampler.pool.members)

    def begin(self, module: TrainingModule) -> None:
        """Choose the levels of the first epoch, unless a resumed run has them."""
        if self._sampler.epochs_told <= module.first_epoch:
            self._tell(module, done=module.first_epoch)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Choose the levels of the next epoch."""
        del trainer
        assert isinstance(pl_module, TrainingModule)
        self._tell(pl_module, done=pl_module.epoch + 1)

    def _tell(self, module: TrainingModule, *, done: int) -> None:
        reading = self._read(module)
        states = self._sampler.last_states
        device = next(module.diagnoser.parameters()).device

        def score(rows: np.ndarray) -> np.ndarray:
            return score_rows(module.diagnoser, self._feed.store, rows=rows, device=device)

        self._sampler.tell(
            agent_states(
                reading,
                before=None if states is None else states[:, 2].astype(float),
                levels=self._sampler.levels,
                counts=self._counts,
                loss_synthetic=synthetic_losses(score, self._synthetic),
                progress=done / max(self._sampler.epochs, 1),
            )
        )

    def _read(self, module: TrainingModule) -> Reading:
        device = next(module.diagnoser.parameters()).device
        manifest = self._feed.manifest
        return read_scores(
            score_rows(module.diagnoser, self._feed.store, rows=self._rows, device=device),
            manifest.targets[self._rows],
            groups=manifest.labels.group_indices,
            softmax=module.diagnoser.link == "softmax",
            head=head_classes(self._counts),
        )


def loop_keeper(feed: Feed, module: TrainingModule) -> list[pl.Callback]:
    """Return the callback of a closed loop, its first choice made; none for other samplers."""
    if not isinstance(feed.sampler, ClosedLoopSampler):
        return []
    keeper = LoopKeeper(feed)
    keeper.begin(module)
    return [keeper]


def policy_record(run: Path) -> PolicyRecord | None:
    """Read what a sampler that learnt its levels left in a run, for its report; None where there was none.

    Of a training in two stages the first one learnt; of an ensemble each member did, so there is no single record.
    """
    folder = next((path for path in (run / FOLDER, run / FIRST / FOLDER) if (path / SCHEDULE).exists()), None)
    if folder is None:
        return None
    schedule, carried = read_schedule(folder / SCHEDULE), folder / "carried" / "tune.json"
    return PolicyRecord(
        rounds=pd.read_csv(folder / ROUNDS),
        class_names=schedule.class_names,
        levels=schedule.levels,
        facts=schedule.facts,
        carried=read_json(carried) if carried.exists() else None,
    )


def save_carried(
    out: Path, diagnoser: Diagnoser, feed: Feed, card: ModelCard, *, table: Manifest, device: torch.device
) -> None:
    """Read on tune what the rounds of a policy have left; make a model of the copy that went through all of them.

    It is to be reported too: whoever does not trust the replay can compare. Its tune figures go to
    `policy/carried/tune.json` and its thresholds into its card. Each round's best copy is read as well, into the column
    `team_tune` of `rounds.csv`: where the reward grows and this does not, reward rows were over-fitted. This happens
    after the last level was chosen, and nothing of it chooses anything.

    Args:
        out: The run folder; without `policy/carried.safetensors` in it nothing is done.
        diagnoser: A network of the same shape; its weights are replaced.
        feed: Where batches come from.
        card: The card of the trained model.
        table: The whole manifest.
        device: Where to compute.

    Raises:
        MedtailError: The weights are damaged.
    """
    policy, folder = out / FOLDER, out / FOLDER / "carried"
    if (folder / "tune.json").exists():
        shutil.rmtree((policy / KEPT).parent, ignore_errors=True)  # left by a run that was cut off just here
    if not (policy / CARRIED).exists() or (folder / "tune.json").exists():
        return
    rows = feed.tune_rows
    tune = feed.manifest.take(rows)
    flip = bool(card.training.get("test_time_flip", False))

    def scored(path: Path, *, flip: bool) -> np.ndarray:
        try:
            tensors = load_file(path)
        except SafetensorError as error:
            raise MedtailError(f"{path}: is damaged ({error}); remove {policy} and train again.") from error
        fill(diagnoser, tensors, where=str(path))
        return score_rows(diagnoser, feed.store, rows=rows, device=device, test_time_flip=flip)

    rounds = pd.read_csv(policy / ROUNDS)
    if "team_tune" not in rounds.columns:
        teams = {}
        for number in rounds["round"].unique():
            read = read_scores(
                scored(policy / KEPT.format(number), flip=False),
                tune.targets,
                groups=tune.labels.group_indices,
                softmax=diagnoser.link == "softmax",
                head=np.zeros(tune.labels.num_classes, dtype=bool),
            )
            teams[number] = read.team
        rounds = rounds.assign(team_tune=rounds["round"].map(teams))
        write_text(policy / ROUNDS, rounds.to_csv(index=False, lineterminator="\n"))
    scores = scored(policy / CARRIED, flip=flip)
    done = read_json(policy / SCHEDULE)["facts"]["rounds"]
    card = replace(card, thresholds=None, training={"carried_through_rounds": done, "test_time_flip": flip})
    card = replace(card, thresholds=choose_thresholds(as_predictions(scores, tune, card, manifest_digest=table.digest)))
    if not (folder / "card.json").exists():
        save_model(folder, diagnoser.cpu(), card)
    quality, classes = tune_quality(scores, tune.targets)
    f1 = decided_f1(scores, tune.targets, groups=tune.labels.group_indices)
    write_json(
        folder / "tune.json",
        {"tune_map": quality, "tune_classes": classes, "tune_macro_f1": None if np.isnan(f1) else f1},
    )
    shutil.rmtree((policy / KEPT).parent, ignore_errors=True)
