"""Training of one network: a config becomes a run folder.

    RUN/config.yaml               the resolved config, which can be run again
    RUN/run.json                  written last, so a run that has it is finished: digests, versions, timings, command
    RUN/log.csv                   a row an epoch
    RUN/model/                    the best epoch's model: model.safetensors and card.json with thresholds from tune
    RUN/predictions_tune.parquet  its scores on tune
    RUN/last/state.safetensors    what `--resume` goes on from: weights, average, optimizer, progress
    RUN/last/best.safetensors     the best epoch's weights so far

The test fold is not touched: its rows are left out before pixels are prepared.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from medtail.config import config_to_dict, dump_yaml, read_yaml
from medtail.crew import Crew
from medtail.errors import MedtailError, Problems, UsageError
from medtail.judging.thresholds import choose_thresholds
from medtail.models.checkpoint import ModelCard, ModelParts, fill, save_model
from medtail.models.ensembles import check_model
from medtail.processes import Place
from medtail.runs import digest_json, new_folder, read_json, versions, write_json, write_text
from medtail.training.callbacks import BEST, log_text
from medtail.training.config import TrainConfig, portable
from medtail.training.epochs import run_epochs, threads
from medtail.training.ground import Ground, lay_ground
from medtail.training.policy_replay import save_carried
from medtail.training.predict import as_predictions, choose_device, score_rows
from medtail.training.second import Start
from medtail.training.sharing import shared_job
from medtail.training.state import Progress, read_state
from medtail.training.tta import read_plan

FREE_TO_CHANGE = ("cache", "threads", "logging")
"""Keys a resumed run may have changed: they move no weights, or are the machine's business."""


@final
@dataclass(frozen=True)
class TrainOutcome:
    """What a training came to.

    Attributes:
        run: The run folder.
        tune_map: Mean average precision on tune of the epoch that was kept; NaN where no class could be judged.
        tune_classes: Classes it averages.
        best_epoch: The epoch that was kept, from 1.
        epochs_run: Epochs trained, over all resumptions.
        seconds: Wall-clock time of the epochs.
    """

    run: Path
    tune_map: float
    tune_classes: int
    best_epoch: int
    epochs_run: int
    seconds: float

    @staticmethod
    def of_json(value: Mapping[str, Any]) -> TrainOutcome:
        """Return the outcome that `to_json` wrote."""
        quality = value["tune_map"]
        return TrainOutcome(
            **{**value, "run": Path(value["run"]), "tune_map": float("nan") if quality is None else quality}
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values; a NaN is null."""
        return {
            "run": str(self.run),
            "tune_map": None if np.isnan(self.tune_map) else self.tune_map,
            "tune_classes": self.tune_classes,
            "best_epoch": self.best_epoch,
            "epochs_run": self.epochs_run,
            "seconds": round(self.seconds, 3),
        }


def train_network(
    config: TrainConfig,
    out: Path,
    *,
    resume: bool = False,
    quiet: bool = False,
    start: Start | None = None,
    crew: Crew | None = None,
) -> TrainOutcome:
    """Train one network and write its run folder; see `ensembles.train`, through which everybody calls it.

    Args:
        config: What to train, checked; `members` is 1 and there is no `second`.
        out: A new or empty folder; with `resume` the folder of a run that was cut off.
        resume: Go on from the last whole epoch.
        quiet: Show no progress.
        start: The weights to begin with; None begins as the config says.
        crew: The processes it is shared by, of which this is the first; None trains alone.

    Returns:
        Where the run is and how good it got.

    Raises:
        UsageError: `out` is not empty, or there is nothing to resume.
        MedtailError: The manifest, its folds or images are not usable, or the training diverged.
    """
    assert config.members == 1, "an ensemble trains its members one by one"
    assert config.second is None, "stages are trained one by one"
    check_accelerator(config)
    prepare_folder(config, out, resume=resume)
    if resume and (out / "run.json").exists():
        return finished_outcome(out)
    with threads(config.threads):
        ground = lay_ground(config, out, quiet=quiet)
        if crew is not None:
            crew.give(shared_job(config, out, ground, start=start, resume=resume))
        place = Place() if crew is None else crew.place
        progress = run_epochs(config, out, ground, place=place, start=start, resume=resume, quiet=quiet)
        return _finish(config, out, ground, progress)


def check_accelerator(config: TrainConfig) -> None:
    """Check that there is a GPU where one was asked for.

    Raises:
        MedtailError: There is none.
    """
    if config.accelerator == "gpu" and not torch.cuda.is_available():
        raise MedtailError("accelerator: found 'gpu', but torch sees no CUDA device here; use 'auto' or 'cpu'.")


def prepare_folder(config: TrainConfig, out: Path, *, resume: bool) -> None:
    """Make the run folder, or check that the given one is of this very config.

    Raises:
        UsageError: The folder is not empty, is of no run, or of a run with another config.
    """
    path = out / "config.yaml"
    if not resume:
        new_folder(out)
        write_text(path, dump_yaml(portable(config, folder=out)))
        return
    if not path.exists():
        raise UsageError(f"--resume {out}: no config.yaml; expected the folder of a run that was cut off.")
    before, now = read_yaml(path), portable(config, folder=out)
    problems = Problems(f"--resume {out}")
    for key in sorted(before.keys() | now.keys()):
        if key not in FREE_TO_CHANGE and before.get(key) != now.get(key):
            problems.add(f"{key}: found {now.get(key)!r}; the run began with {before.get(key)!r}. Start a new run.")
    problems.raise_if_any(kind=UsageError)


def _finish(config: TrainConfig, out: Path, ground: Ground, progress: Progress) -> TrainOutcome:
    """Make the model folder from the best epoch, its predictions on tune, and at last `run.json`."""
    feed, plan, table = ground.feed, ground.plan, ground.table
    tensors, _ = read_state(out / BEST)
    diagnoser = plan.build(load_weights=False, architecture=progress.architecture)
    fill(diagnoser, tensors, where=str(out / BEST))
    manifest = feed.manifest
    tune = manifest.take(feed.tune_rows)
    config_digest = config_digest_of(config)
    outcome = _outcome(out, progress)
    card = ModelCard(
        labels=manifest.labels,
        parts=ModelParts(
            pixels=config.pixels, backbone=config.backbone, head=config.head, link=plan.link, band=config.band
        ),
        train_counts=ground.counts,
        digests={"weights": "", "manifest": table.digest, "config": config_digest},
        seed=config.seed,
        training={
            "best_epoch": outcome.best_epoch,
            "epochs_run": outcome.epochs_run,
            "test_time_flip": config.test_time_flip,
            "tta": config.tta,
            "tune_map": outcome.to_json()["tune_map"],
        },
    )
    device = choose_device("cpu" if config.accelerator == "cpu" else "auto")
    scores = score_rows(
        diagnoser,
        feed.store,
        rows=feed.tune_rows,
        device=device,
        test_time_flip=config.test_time_flip,
        plan=read_plan(config.tta),
    )
    unchosen = as_predictions(scores, tune, card, manifest_digest=table.digest)
    card = replace(card, thresholds=choose_thresholds(unchosen))
    if (out / "model").exists():  # left by a run that was cut off just here; run.json is not there yet
        shutil.rmtree(out / "model")
    card = save_model(out / "model", diagnoser, card)
    as_predictions(scores, tune, card, manifest_digest=table.digest).write(out / "predictions_tune.parquet")
    save_carried(out, diagnoser, feed, card, table=table, device=device)
    write_text(out / "log.csv", log_text(progress.log))
    write_json(
        out / "run.json",
        {
            **{key: value for key, value in outcome.to_json().items() if key != "run"},
            "manifest": table.name,
            "manifest_digest": table.digest,
            "config_digest": config_digest,
            "weights_digest": card.digests["weights"],
            "pixels_digest": feed.store.digest,
            "train_images": int((manifest.folds == "train").sum()),
            "tune_images": len(tune),
            "device": str(device),
            "threads": torch.get_num_threads(),
            "command": " ".join(sys.argv),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "versions": versions(),
        },
    )
    return outcome


def config_digest_of(config: TrainConfig) -> str:
    """Return the digest of everything in a config that can change a result."""
    return written_digest_of(config_to_dict(config))


def written_digest_of(values: Mapping[str, Any]) -> str:
    """Return the same digest of a config as it stands in a run folder's `config.yaml`, with that day's keys."""
    # the manifest has a digest of its own: where it lies changes no result; so has a schedule that is replayed
    kept = {k: v for k, v in values.items() if k not in (*FREE_TO_CHANGE, "manifest")}
    sampler = kept.get("sampler")
    if isinstance(sampler, Mapping) and sampler.get("digest") is not None:
        kept["sampler"] = {k: v for k, v in sampler.items() if k != "schedule"}
    return digest_json(kept)


def _outcome(out: Path, progress: Progress) -> TrainOutcome:
    assert progress.best_epoch is not None, "at least one epoch was run"
    classes: Mapping[str, float | int | None] = progress.log[progress.best_epoch]
    return TrainOutcome(
        run=out,
        tune_map=float("nan") if progress.best_map is None else progress.best_map,
        tune_classes=int(classes["tune_classes"] or 0),
        best_epoch=progress.best_epoch + 1,
        epochs_run=progress.epochs_done,
        seconds=progress.seconds,
    )


def finished_outcome(out: Path) -> TrainOutcome:
    """Return what a finished run came to, of one network or of several.

    Raises:
        MedtailError: Its model folder is damaged.
    """
    check_model(out / "model")  # a damaged run must not pass as finished
    value = read_json(out / "run.json")
    return TrainOutcome(
        run=out,
        tune_map=float("nan") if value["tune_map"] is None else float(value["tune_map"]),
        tune_classes=int(value["tune_classes"]),
        best_epoch=int(value["best_epoch"]),
        epochs_run=int(value["epochs_run"]),
        seconds=float(value["seconds"]),
    )
