"""A training of two stages: a run for each, and a run folder that looks as that of one.

    RUN/stages/first/    a complete run: the training without its second stage
    RUN/stages/second/   a run that began with the first one's weights; only RUN/config.yaml can be run again by itself
    RUN/model/           the outcome
    RUN/log.csv          both logs, one under the other, with a column `stage`; epochs count on

Each stage resumes by itself, so the whole does, bit for bit.
"""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from medtail.crew import Crew
from medtail.judging.calibration import CalibrationConfig, fit_calibration
from medtail.judging.calibration_record import CALIBRATION
from medtail.judging.logit_adjustment import decided_f1
from medtail.judging.thresholds import choose_thresholds, fit_thresholds
from medtail.models.checkpoint import load_model, save_model
from medtail.models.diagnoser import Diagnoser
from medtail.models.heads import LinearHead
from medtail.pixels.store import open_store
from medtail.runs import atomic_path, copy_file, read_json, versions, write_json, write_text
from medtail.tables.manifest import read_manifest
from medtail.tables.predictions import read_predictions
from medtail.training.callbacks import tune_quality
from medtail.training.config import TrainConfig
from medtail.training.fit import TrainOutcome, config_digest_of, finished_outcome, prepare_folder, train_network
from medtail.training.predict import as_predictions, choose_device, score_rows
from medtail.training.second import LogitAdjustmentConfig, Start, StudyFusionConfig, TauNormConfig
from medtail.training.study_stage import check_table, fuse_studies
from medtail.training.tta import read_plan

FIRST, SECOND = "stages/first", "stages/second"


def train_one(
    config: TrainConfig, out: Path, *, resume: bool = False, quiet: bool = False, crew: Crew | None = None
) -> TrainOutcome:
    """Train one network, in one stage or in two; see `ensembles.train`, through which everybody calls it.

    Args:
        config: What to train, checked; `members` is 1.
        out: A new or empty folder; with `resume` the folder of a run that was cut off.
        resume: Go on from the last whole epoch of the stage that was cut off.
        quiet: Show no progress.
        crew: The processes that share the epochs; None for one alone.

    Returns:
        Where the run is and how good it got.

    Raises:
        UsageError: `out` is not empty, or there is nothing to resume.
        MedtailError: The manifest, its folds or images are not usable, or the training diverged.
    """
    if config.second is None:
        return train_network(config, out, resume=resume, quiet=quiet, crew=crew)
    prepare_folder(config, out, resume=resume)
    if resume and (out / "run.json").exists():
        return finished_outcome(out)
    if isinstance(config.second, StudyFusionConfig):
        check_table(config)
    if isinstance(config.second, StudyFusionConfig) and config.second.init is not None:
        return _fuse(config, config.second, out, None, quiet=quiet)
    first = _stage(replace(config, second=None), out / FIRST, quiet=quiet, start=None, crew=crew)
    if isinstance(config.second, StudyFusionConfig):
        return _fuse(config, config.second, out, first, quiet=quiet)
    if (out / "model").exists():  # left by a run that was cut off just here; run.json is not there yet
        shutil.rmtree(out / "model")
    if isinstance(config.second, TauNormConfig):
        return _normalise(config, config.second, out, first, quiet=quiet)
    if isinstance(config.second, LogitAdjustmentConfig):
        return _take_off_priors(config, out, first)
    start = Start(out / FIRST / "model", learn=config.second.learn)
    second = _stage(config.second_stage(), out / SECOND, quiet=quiet, start=start, crew=crew)
    with atomic_path(out / "model") as temporary:
        shutil.copytree(second.run / "model", temporary)
    copy_file(second.run / "predictions_tune.parquet", out / "predictions_tune.parquet")
    outcome = replace(
        second,
        run=out,
        best_epoch=first.epochs_run + second.best_epoch,
        epochs_run=first.epochs_run + second.epochs_run,
        seconds=first.seconds + second.seconds,
    )
    logs = [pd.read_csv(stage.run / "log.csv").assign(stage=number) for number, stage in enumerate((first, second), 1)]
    logs[1]["epoch"] += first.epochs_run
    write_text(out / "log.csv", pd.concat(logs).to_csv(index=False, lineterminator="\n"))
    return _close(config, outcome, weights=read_json(second.run / "run.json")["weights_digest"])


def _stage(config: TrainConfig, folder: Path, *, quiet: bool, start: Start | None, crew: Crew | None) -> TrainOutcome:
    if not quiet:
        sys.stderr.write(f"stage {folder.name}\n")
    resume = (folder / "config.yaml").exists()
    return train_network(config, folder, resume=resume, quiet=quiet, start=start, crew=crew)


def _fuse(
    config: TrainConfig, second: StudyFusionConfig, out: Path, first: TrainOutcome | None, *, quiet: bool
) -> TrainOutcome:
    """Read studies together, on top of the stage trained here or of the run that was named."""
    start = out / FIRST if second.init is None else Path(second.init)
    outcome, card = fuse_studies(config, second, out, first=start, folder=out / SECOND, quiet=quiet)
    log = pd.read_csv(out / SECOND / "log.csv")
    if first is not None:
        before = pd.read_csv(out / FIRST / "log.csv").assign(stage=1)
        log = pd.concat([before, log.assign(stage=2, epoch=log["epoch"] + first.epochs_run)])
        outcome = replace(
            outcome,
            best_epoch=first.epochs_run + outcome.best_epoch,
            epochs_run=first.epochs_run + outcome.epochs_run,
            seconds=first.seconds + outcome.seconds,
        )
    write_text(out / "log.csv", log.to_csv(index=False, lineterminator="\n"))
    return _close(config, outcome, weights=card.digests["weights"], first_run=start)


def _close(config: TrainConfig, outcome: TrainOutcome, *, weights: str, first_run: Path | None = None) -> TrainOutcome:
    """Write `run.json`, by which the run is finished."""
    first = read_json((outcome.run / FIRST if first_run is None else first_run) / "run.json")
    kept = ("manifest", "manifest_digest", "pixels_digest", "train_images", "tune_images", "device", "threads")
    write_json(
        outcome.run / "run.json",
        {
            **{key: value for key, value in outcome.to_json().items() if key != "run"},
            **{key: first[key] for key in kept},
            "stages": 2,
            "config_digest": config_digest_of(config),
            "weights_digest": weights,
            "command": " ".join(sys.argv),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "versions": versions(),
        },
    )
    return outcome


def _take_off_priors(config: TrainConfig, out: Path, first: TrainOutcome) -> TrainOutcome:
    """Choose τ on tune and store the adjustment beside the first stage's model, which stays as it is."""
    tune = replace(read_predictions(first.run / "predictions_tune.parquet"), thresholds=None)
    found = fit_calibration(tune, CalibrationConfig(method="logit_adjustment"))
    adjusted = found.calibrate(tune)
    found = replace(found, thresholds=fit_thresholds(adjusted))
    with atomic_path(out / "model") as temporary:
        shutil.copytree(first.run / "model", temporary)
        found.write(temporary / CALIBRATION)
    found.calibrate(tune).write(out / "predictions_tune.parquet")
    copy_file(first.run / "log.csv", out / "log.csv")
    quality, classes = tune_quality(adjusted.scores, adjusted.targets)
    outcome = replace(first, run=out, tune_map=float("nan") if quality is None else quality, tune_classes=classes)
    return _close(config, outcome, weights=read_json(first.run / "run.json")["weights_digest"])


def normalise_weights(diagnoser: Diagnoser, *, tau: float) -> None:
    """Set the linear head's weights to w (m / ‖w‖)^τ, m the geometric mean length in the group or of the free classes.

    Biases stay. A class of length 0 stays too.

    Args:
        diagnoser: Its head is linear; it is changed.
        tau: 0 changes nothing, 1 makes all lengths equal.

    References:
        kang2020, eq. 3, with the mean length as unit.
    """
    assert isinstance(diagnoser.head, LinearHead)
    labels = diagnoser.labels
    groups = labels.group_indices if diagnoser.link == "softmax" else ()
    grouped = {column for group in groups for column in group}
    free = [column for column in range(labels.num_classes) if column not in grouped]
    with torch.no_grad():
        weight = diagnoser.head.linear.weight
        lengths = weight.norm(dim=1)
        factors = torch.ones_like(lengths)
        for columns in (*map(list, groups), free):
            chosen = [column for column in columns if lengths[column] > 0]
            if chosen:
                logs = lengths[chosen].log()
                factors[chosen] = torch.exp(tau * (logs.mean() - logs))
        weight.mul_(factors[:, None])


def _normalise(
    config: TrainConfig, second: TauNormConfig, out: Path, first: TrainOutcome, *, quiet: bool
) -> TrainOutcome:
    """Choose τ on tune and write the model with its weights normalised."""
    del quiet  # seconds at most
    table = read_manifest(config.manifest, groups=config.groups)
    _, card = load_model(first.run / "model")
    tune = card.check_manifest(table.in_fold("tune"))
    tune = tune.take(~np.isnan(tune.targets).all(axis=1))
    store = open_store(tune, config.pixels, cache=None if config.cache is None else Path(config.cache))
    device = choose_device("cpu" if config.accelerator == "cpu" else "auto")
    groups = card.labels.group_indices if card.parts.link == "softmax" else ()
    best: tuple[float, float, np.ndarray, Diagnoser] | None = None
    tried: dict[str, float] = {}
    for tau in np.arange(0.0, second.highest + 1e-9, 0.1).round(1).tolist():
        diagnoser, _ = load_model(first.run / "model")
        normalise_weights(diagnoser, tau=tau)
        scores = score_rows(
            diagnoser,
            store,
            rows=np.arange(len(tune)),
            device=device,
            test_time_flip=config.test_time_flip,
            plan=read_plan(config.tta),
        )
        quality = decided_f1(scores, tune.targets, groups=groups)
        tried[f"{tau:g}"] = quality
        if best is None or quality > best[0]:
            best = quality, tau, scores, diagnoser
    assert best is not None, "tau 0 is always tried"
    _, tau, scores, diagnoser = best
    quality_map, classes = tune_quality(scores, tune.targets)
    outcome = replace(
        first, run=out, tune_map=float("nan") if quality_map is None else quality_map, tune_classes=classes
    )
    facts = {**card.training, "tau": tau, "tune_f1_by_tau": tried, "tune_map": outcome.to_json()["tune_map"]}
    card = replace(card, training=facts, thresholds=None, calibration=None)
    card = replace(card, thresholds=choose_thresholds(as_predictions(scores, tune, card, manifest_digest=table.digest)))
    card = save_model(out / "model", diagnoser.cpu(), card)
    as_predictions(scores, tune, card, manifest_digest=table.digest).write(out / "predictions_tune.parquet")
    copy_file(first.run / "log.csv", out / "log.csv")
    return _close(config, outcome, weights=card.digests["weights"])
