"""The stage that fuses studies, from a first stage to a run folder that looks as any other.

`fusion` trains; here are the checks at the border, the model folder, the predictions on tune and `run.json`.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from medtail.errors import MedtailError, Problems
from medtail.judging.thresholds import choose_thresholds
from medtail.models.checkpoint import ModelCard, load_model
from medtail.models.diagnoser import Diagnoser
from medtail.models.ensembles import is_ensemble
from medtail.models.study_model import is_study_model, save_study_model
from medtail.pixels.store import open_store
from medtail.runs import read_json
from medtail.tables.manifest import Manifest, read_manifest
from medtail.tables.selection import select_classes
from medtail.tables.studies import gather_studies, study_manifest
from medtail.tables.tail import count_classes
from medtail.training.config import TrainConfig
from medtail.training.fit import TrainOutcome, config_digest_of
from medtail.training.fusion import FusionTrainer, best_model, plan_fusion
from medtail.training.maps import LiveMaps, MapSource, score_studies, store_maps
from medtail.training.predict import as_predictions, choose_device
from medtail.training.progress import counter
from medtail.training.rows import usable_rows
from medtail.training.second import StudyFusionConfig
from medtail.training.tta import read_plan

MAPS = "maps.npy"


def check_table(config: TrainConfig) -> None:
    """Check that a training's table has usable studies, before a first stage is trained for nothing.

    Raises:
        MedtailError: It names none, or a study's images contradict each other.
    """
    table = read_manifest(config.manifest, groups=config.groups)
    manifest = usable_rows(select_classes(table, config.classes))
    study_manifest(manifest, gather_studies(manifest))


def fuse_studies(
    config: TrainConfig, second: StudyFusionConfig, out: Path, *, first: Path, folder: Path, quiet: bool = False
) -> tuple[TrainOutcome, ModelCard]:
    """Train the fusion on a finished first stage and write the model folder and its predictions on tune.

    Args:
        config: The training.
        second: Its second stage.
        out: The run folder.
        first: Run folder of the first stage.
        folder: Where the stage keeps its state; one that was cut off is gone on with.
        quiet: Show no progress.

    Returns:
        What the stage came to, and the model's card.

    Raises:
        MedtailError: The first stage does not fit, the manifest names no studies, or the training diverged.
    """
    table = read_manifest(config.manifest, groups=config.groups)
    manifest = usable_rows(select_classes(table, config.classes))
    image_model, image_card = _first_stage(config, first, manifest=manifest, table=table)
    studies = gather_studies(manifest)
    if not quiet:
        sys.stderr.write(studies.text(most=second.fusion.most_views) + "\n")
    before = torch.get_num_threads()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    try:
        plan = plan_fusion(config, second, manifest, studies)
        device = choose_device("cpu" if config.accelerator == "cpu" else "auto")
        image_model = image_model.to(device).eval().requires_grad_(False)
        with counter("prepare images", quiet=quiet) as tick:
            cache = None if config.cache is None else Path(config.cache)
            store = open_store(manifest, config.pixels, cache=cache, progress=tick)
        folder.mkdir(parents=True, exist_ok=True)
        source: MapSource = LiveMaps(image_model, store, augment=config.augment, device=device)
        if second.features == "stored":
            with counter("feature maps", quiet=quiet) as tick:
                source = store_maps(image_model, store, folder / MAPS, device=device, progress=tick)
        trainer = FusionTrainer(
            plan, plan.network(image_model.backbone.feature_dim), source, folder=folder, device=device
        )
        trainer.resume()
        progress = trainer.run(quiet=quiet)
        (folder / MAPS).unlink(missing_ok=True)
        model = best_model(plan, image_model, folder=folder)
        versions = read_plan("flip", average="scores") if config.test_time_flip else read_plan(config.tta)
        scores = score_studies(model, store, studies, device=device, plan=versions)
    finally:
        torch.set_num_threads(before)
    tune_rows = np.flatnonzero(manifest.folds == "tune")
    tune = manifest.take(tune_rows)
    assert progress.best_epoch is not None, "at least one epoch was run"
    outcome = TrainOutcome(
        run=out,
        tune_map=float("nan") if progress.best_map is None else progress.best_map,
        tune_classes=int(progress.log[progress.best_epoch]["tune_classes"] or 0),
        best_epoch=progress.best_epoch + 1,
        epochs_run=progress.epochs_done,
        seconds=progress.seconds,
    )
    card = replace(
        image_card,
        parts=replace(image_card.parts, link=plan.objective.link),
        thresholds=None,
        calibration=None,
        train_counts=count_classes(manifest),
        digests={"weights": "", "manifest": table.digest, "config": config_digest_of(config)},
        seed=config.seed,
        training={
            "best_epoch": outcome.best_epoch,
            "epochs_run": outcome.epochs_run,
            "test_time_flip": config.test_time_flip,
            "tta": config.tta,
            "tune_map": outcome.to_json()["tune_map"],
            "studies": {
                "train": int((plan.rows.folds == "train").sum()),
                "tune": int((plan.rows.folds == "tune").sum()),
                "several_images": studies.census.several,
                "without_frontal": studies.census.without_frontal,
            },
        },
    )
    unchosen = as_predictions(scores[tune_rows], tune, card, manifest_digest=table.digest)
    card = replace(card, thresholds=choose_thresholds(unchosen))
    if (out / "model").exists():  # left by a run that was cut off just here; run.json is not there yet
        shutil.rmtree(out / "model")
    card = save_study_model(out / "model", model.cpu(), card, image_model=first / "model")
    as_predictions(scores[tune_rows], tune, card, manifest_digest=table.digest).write(out / "predictions_tune.parquet")
    return outcome, card


def _first_stage(
    config: TrainConfig, first: Path, *, manifest: Manifest, table: Manifest
) -> tuple[Diagnoser, ModelCard]:
    """Open the first stage and check that the studies may be read through its backbone."""
    if not (first / "run.json").exists():
        raise MedtailError(f"second.init: {first} holds no run.json; expected the folder of a finished run.")
    if is_ensemble(first / "model") or is_study_model(first / "model"):
        raise MedtailError(
            f"second.init: {first / 'model'} is no single image model; expected the run of one network (members 1)."
        )
    image_model, card = load_model(first / "model")
    problems = Problems(f"second.init {first}")
    known = read_json(first / "run.json").get("manifest_digest")
    if known != table.digest:
        problems.add(
            f"manifest: was trained on another table (digest {str(known)[:12]}, here {table.digest[:12]}), whose train"
            " fold may hold patients of this tune or test fold; expected the same table."
        )
    if card.labels != manifest.labels:
        problems.add(
            f"classes: found {card.labels.num_classes} of them, {list(card.labels.class_names)[:4]!r} …; expected the"
            f" {manifest.labels.num_classes} of this training, in its order."
        )
    if card.parts.pixels.identity() != config.pixels.identity():
        problems.add("pixels: images were prepared otherwise; expected the same settings under `pixels`.")
    problems.raise_if_any()
    return image_model, card
