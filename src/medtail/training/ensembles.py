"""`train`: one network, or several that differ only in their seed and whose scores are averaged.

With few images of a rare class, the seed moves its figures more than most methods do; averaging a handful of
networks takes much of that chance out. An ensemble's run folder is that of a single network, with the members' own
run folders beside it:

    RUN/members/member_0/   a complete run, and so on
    RUN/model/              all members' networks, and the thresholds of their averaged scores
    RUN/log.csv             the members' logs one under another, with a column `member`
"""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from medtail.config import build_config, config_to_dict
from medtail.crew import Crew, open_crew
from medtail.judging.thresholds import choose_thresholds
from medtail.locks import hold
from medtail.models.ensembles import MEMBER, save_ensemble
from medtail.processes import found_place
from medtail.runs import read_json, versions, write_json, write_text
from medtail.seeding import stream_seed
from medtail.tables.combine import average_predictions
from medtail.tables.predictions import read_predictions
from medtail.training.callbacks import tune_quality
from medtail.training.config import TrainConfig
from medtail.training.fit import (
    TrainOutcome,
    check_accelerator,
    config_digest_of,
    finished_outcome,
    prepare_folder,
)
from medtail.training.model_card import try_model_card
from medtail.training.sharing import join, train_here
from medtail.training.stages import train_one

MEMBERS = "members"


def train(config: TrainConfig, out: Path | str, *, resume: bool = False, quiet: bool = False) -> TrainOutcome:
    """Train a model and write its run folder.

    The kept weights are those of the epoch that `optimizer.keep` names (of the moving average, where there is one).
    With `members` above 1, that many networks are trained one after the other, each from its own seed, and their
    scores are averaged wherever the model is used. Thresholds are chosen on tune.

    With `devices` above 1 that many processes are started, which share every batch; the caller waits and watches. Where
    torchrun or srun started this process as one of several, it takes its place among them instead.

    Args:
        config: What to train; see `config.load_train_config`.
        out: A new or empty folder; with `resume` the folder of a run that was cut off.
        resume: Go on from the last whole epoch. On a CPU the final weights are bit for bit those of a run that was
            never cut off. A finished run is left as it is.
        quiet: Show no progress.

    Returns:
        Where the run is and how good it got.

    Raises:
        UsageError: `out` is not empty, or there is nothing to resume.
        MedtailError: The manifest, its folds or images are not usable, another process is at work in `out`, or the
            training diverged.

    Example:
        >>> from medtail.training.config import load_train_config
        >>> outcome = train(load_train_config("config.yaml"), "runs/first")  # doctest: +SKIP
        >>> outcome.tune_map  # doctest: +SKIP
        0.61

    References:
        lakshminarayanan2017 (deep ensembles).
    """
    out = Path(out)
    # a config written in Python has not been through the YAML border: same checks, same messages
    config = build_config(TrainConfig, config_to_dict(config), where="config")
    place = found_place()
    if config.devices * config.num_nodes == 1 and (place is None or place.started_by == "srun"):
        return _train(config, out, resume=resume, quiet=quiet)  # srun may also run a training a task
    check_accelerator(config)
    if place is None:
        train_here(config, out, resume=resume, quiet=quiet)
        return finished_outcome(out)
    place.check(devices=config.devices, num_nodes=config.num_nodes)
    with open_crew(place, gpu=config.accelerator != "cpu" and torch.cuda.is_available()) as crew:
        if not crew.leads:
            return TrainOutcome.of_json(join(crew))
        outcome = _train(config, out, resume=resume, quiet=quiet, crew=crew)
        crew.end(outcome.to_json())
        return outcome


def _train(config: TrainConfig, out: Path, *, resume: bool, quiet: bool, crew: Crew | None = None) -> TrainOutcome:
    with hold(out, go_on=f"`medtail train --resume {out}`"):
        return _train_held(config, out, resume=resume, quiet=quiet, crew=crew)


def _train_held(config: TrainConfig, out: Path, *, resume: bool, quiet: bool, crew: Crew | None) -> TrainOutcome:
    if config.members == 1:
        outcome = train_one(config, out, resume=resume, quiet=quiet, crew=crew)
        try_model_card(out)
        return outcome
    prepare_folder(config, out, resume=resume)
    if resume and (out / "run.json").exists():
        try_model_card(out)
        return finished_outcome(out)
    outcomes = []
    for number in range(config.members):
        member = replace(config, members=1, seed=member_seed(config.seed, number))
        folder = out / MEMBERS / MEMBER.format(number)
        if not quiet:
            sys.stderr.write(f"member {number + 1} of {config.members}, seed {member.seed}\n")
        outcomes.append(train_one(member, folder, resume=(folder / "config.yaml").exists(), quiet=quiet, crew=crew))
    outcome = _join(config, out, outcomes)
    try_model_card(out)
    return outcome


def member_seed(seed: int, number: int) -> int:
    """Return the seed of one member; the first one's is the ensemble's own.

    Example:
        >>> member_seed(7, 0), member_seed(7, 1) != member_seed(7, 2)
        (7, True)
    """
    return seed if number == 0 else stream_seed(seed, "member", number) % 2**31


def _join(config: TrainConfig, out: Path, outcomes: list[TrainOutcome]) -> TrainOutcome:
    """Make the ensemble's model folder, its predictions on tune, and at last `run.json`."""
    runs = [outcome.run for outcome in outcomes]
    tune = average_predictions([read_predictions(run / "predictions_tune.parquet") for run in runs])
    quality, classes = tune_quality(tune.scores, tune.targets)
    outcome = TrainOutcome(
        run=out,
        tune_map=float("nan") if quality is None else quality,
        tune_classes=classes,
        best_epoch=outcomes[0].best_epoch,
        epochs_run=sum(outcome.epochs_run for outcome in outcomes),
        seconds=sum(outcome.seconds for outcome in outcomes),
    )
    if (out / "model").exists():  # left by a run that was cut off just here; run.json is not there yet
        shutil.rmtree(out / "model")
    card = save_ensemble(
        out / "model",
        [run / "model" for run in runs],
        thresholds=choose_thresholds(tune),
        training={
            "members": config.members,
            "epochs_run": outcome.epochs_run,
            "test_time_flip": config.test_time_flip,
            "tta": config.tta,
            "tune_map": outcome.to_json()["tune_map"],
        },
    )
    digests = {**tune.digests, "model": card.digests["weights"]}
    replace(tune, thresholds=card.thresholds, digests=digests).write(out / "predictions_tune.parquet")
    logs = [pd.read_csv(run / "log.csv").assign(member=number) for number, run in enumerate(runs)]
    write_text(out / "log.csv", pd.concat(logs).to_csv(index=False, lineterminator="\n"))
    first = read_json(runs[0] / "run.json")
    kept = ("manifest", "manifest_digest", "pixels_digest", "train_images", "tune_images", "device", "threads")
    write_json(
        out / "run.json",
        {
            **{key: value for key, value in outcome.to_json().items() if key != "run"},
            **{key: first[key] for key in kept},
            "members": config.members,
            "config_digest": config_digest_of(config),
            "weights_digest": card.digests["weights"],
            "command": " ".join(sys.argv),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "versions": versions(),
        },
    )
    return outcome
