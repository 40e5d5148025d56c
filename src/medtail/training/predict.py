"""Prediction: a trained model and a manifest become Predictions.

Used at the end of training for the tune fold and by `medtail predict` for any other; both give the same numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from medtail.config import read_yaml
from medtail.errors import MedtailError
from medtail.models.checkpoint import ModelCard
from medtail.models.diagnoser import Diagnoser
from medtail.models.ensembles import load_members
from medtail.models.study_model import StudyDiagnoser, is_study_model, load_study_model
from medtail.pixels.dataset import PixelBatches, content_masks, to_float
from medtail.pixels.store import PixelStore, open_store
from medtail.tables.manifest import FOLDS, Manifest
from medtail.tables.predictions import Predictions
from medtail.tables.studies import gather_studies
from medtail.training.maps import score_studies
from medtail.training.predict_sharing import score_shared
from medtail.training.progress import counter
from medtail.training.tta import VersionPlan, read_plan

BATCH_SIZE = 64
Tick = Callable[[int, int], None]


def predict(
    run: Path | str,
    manifest: Manifest,
    *,
    fold: str | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    test_time_flip: bool | None = None,
    tta: VersionPlan | None = None,
    cache: Path | None = None,
    calibrated: bool = True,
    allow_batch_dependent: bool = False,
    devices: int = 1,
    quiet: bool = False,
) -> Predictions:
    """Score images with a trained model.

    Args:
        run: A run folder, or the model folder inside it.
        manifest: The images. Classes are matched by name and further ones ignored; cells may be empty.
        fold: Score only this fold; all rows if None.
        batch_size: Images at a time, which changes no score (beyond rounding); 64 if None.
        device: `auto` takes a GPU where there is one; or a name torch knows.
        test_time_flip: Average the scores of an image and its mirror image; None as the run's config says.
        tta: Versions of each image to average, in place of `test_time_flip`; None as the run's config says.
        cache: Folder of prepared pixels; None as the run's config says.
        calibrated: Apply the model's calibration, where it has one, and use the thresholds chosen after it. It was
            fitted to scores made as the run's config says; another `test_time_flip` makes slightly other ones.
        allow_batch_dependent: Score even with a model in which an image's scores depend on the other images of its
            batch. They then change with `batch_size` and with the order of the rows.
        devices: Processes that score, on a GPU each where there are GPUs; the scores are the same. Not for a model that
            reads studies.
        quiet: Show no progress.

    Returns:
        Scores and targets in the manifest's order, with the model's thresholds, train counts and digests. A model that
        reads studies gives each image the score of its study, from those of the study's images that are scored here.

    Raises:
        MedtailError: No such fold, classes or images are missing, the model folder is damaged, or its scores depend on
            the batch.
    """
    run = Path(run)
    folder = run / "model" if (run / "model").is_dir() else run
    study_model: StudyDiagnoser | None = None
    diagnosers: tuple[Diagnoser, ...] = ()
    if is_study_model(folder):
        study_model, card = load_study_model(folder)
    else:
        diagnosers, card = load_members(folder)
    if not allow_batch_dependent and any(diagnoser.batch_dependent for diagnoser in diagnosers):
        raise MedtailError(
            f"{folder}: its model lets a batch's images attend to each other (head.rmsc.attend 'batch' with at_test"
            " 'mates'), so an image's scores depend on its company; expected a score that is a function of the image."
            " Train with at_test 'alone' or another reading, or ask by name: allow_batch_dependent=True,"
            " --allow-batch-dependent."
        )
    if fold is not None and fold not in FOLDS:
        raise MedtailError(f"fold: found {fold!r}; expected one of {', '.join(FOLDS)}.")
    chosen = card.check_manifest(manifest if fold is None else manifest.in_fold(fold))
    if not len(chosen):
        raise MedtailError(
            f"{manifest.name}, column 'fold': no row is in {fold!r}; nothing to predict. Leave the fold out to score"
            " all rows."
        )
    versions = _versions(card, tta=tta, test_time_flip=test_time_flip, where=f"{folder}, card")
    if cache is None and (run / "config.yaml").exists():
        named = read_yaml(run / "config.yaml").get("cache")
        cache = None if named is None else Path(str(named))
    with counter("prepare images", quiet=quiet) as tick:
        store = open_store(chosen, card.parts.pixels, cache=cache, progress=tick)
    if devices > 1:
        if study_model is not None:
            raise MedtailError(
                f"{folder}, devices: found {devices} for a model that reads studies, whose images stay together;"
                " expected 1."
            )
        scores = score_shared(
            folder, chosen, batch_size=BATCH_SIZE if batch_size is None else batch_size, device=device, plan=versions,
            cache=cache, devices=devices,
        )  # fmt: skip
        return as_predictions(scores, chosen, card, manifest_digest=manifest.digest, calibrated=calibrated)
    if study_model is not None:
        studies = gather_studies(chosen)
        if not quiet:
            sys.stderr.write(studies.text(most=study_model.fusion.config.most_views) + "\n")
        with counter("predict studies", quiet=quiet) as tick:
            scores = score_studies(
                study_model,
                store,
                studies,
                batch_size=BATCH_SIZE if batch_size is None else batch_size,
                device=choose_device(device),
                plan=versions,
                progress=tick,
            )
        return as_predictions(scores, chosen, card, manifest_digest=manifest.digest, calibrated=calibrated)
    scores = score_members(
        diagnosers, store, rows=np.arange(len(chosen)), batch_size=BATCH_SIZE if batch_size is None else batch_size,
        device=choose_device(device), plan=versions, quiet=quiet,
    )  # fmt: skip
    return as_predictions(scores, chosen, card, manifest_digest=manifest.digest, calibrated=calibrated)


def score_members(
    diagnosers: tuple[Diagnoser, ...],
    store: PixelStore,
    *,
    rows: np.ndarray,
    batch_size: int,
    device: torch.device,
    plan: VersionPlan,
    quiet: bool,
) -> np.ndarray:
    """Score rows with each member and average; see `score_rows`."""
    shares = []
    for number, diagnoser in enumerate(diagnosers, start=1):
        text = "predict" if len(diagnosers) == 1 else f"predict, member {number} of {len(diagnosers)}"
        with counter(text, quiet=quiet) as tick:
            shares.append(
                score_rows(diagnoser, store, rows=rows, batch_size=batch_size, device=device, plan=plan, progress=tick)
            )
    return np.asarray(np.mean(shares, axis=0))


def _versions(card: ModelCard, *, tta: VersionPlan | None, test_time_flip: bool | None, where: str) -> VersionPlan:
    """Say which versions of an image are scored: those asked for, else those of the training."""
    if tta is not None:
        return tta
    if test_time_flip is None:
        stored = read_plan(card.training.get("tta"), where=where)
        if stored.versions > 1:
            return stored
        test_time_flip = bool(card.training.get("test_time_flip", False))
    return read_plan("flip", average="scores") if test_time_flip else VersionPlan()


def choose_device(device: str) -> torch.device:
    """Return the device `auto` stands for, or the one named.

    Raises:
        MedtailError: torch knows no such device, or has none here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise MedtailError(
            f"device: {device!r} cannot be used ({reason}); expected 'auto', 'cpu' or 'cuda'."
        ) from error
    return found


def score_rows(
    diagnoser: Diagnoser,
    store: PixelStore,
    *,
    rows: np.ndarray,
    batch_size: int = BATCH_SIZE,
    device: torch.device | None = None,
    test_time_flip: bool = False,
    plan: VersionPlan | None = None,
    progress: Tick | None = None,
) -> np.ndarray:
    """Score rows of a store in eval mode and full precision.

    Args:
        diagnoser: The model; it is moved to the device.
        store: Prepared pixels.
        rows: Rows of the store, integers [N].
        batch_size: Images at a time.
        device: Where to compute; the CPU if None.
        test_time_flip: Average with the scores of the mirror image.
        plan: Versions of each image to average instead; None for the image alone.
        progress: Called with (rows done, rows).

    Returns:
        float64 [N, C] in [0, 1].

    Raises:
        MedtailError: The model gives a score that is no number.
    """
    device = device if device is not None else torch.device("cpu")
    diagnoser = diagnoser.to(device).eval()
    if test_time_flip:
        plan = read_plan("flip", average="scores")
    plan = VersionPlan() if plan is None else plan
    layout = torch.channels_last if diagnoser.backbone.is_convolutional else torch.contiguous_format
    num_classes = diagnoser.labels.num_classes
    scores = np.empty((len(rows), num_classes), dtype=np.float64)
    no_targets = np.empty((len(store), 0), dtype=np.float32)
    done = 0
    with torch.inference_mode():
        for batch in PixelBatches(store, no_targets, batch_size=batch_size, rows=rows):
            images = to_float(batch["images"].to(device)).contiguous(memory_format=layout)
            content = content_masks(batch["content"].to(device), size_px=images.shape[-1])
            found = plan.scores(diagnoser, images, content, labels=diagnoser.labels, link=diagnoser.link)
            scores[done : done + len(found)] = found.double().cpu().numpy()
            done += len(found)
            if progress is not None:
                progress(done, len(rows))
    if not np.isfinite(scores).all():
        bad = int((~np.isfinite(scores)).any(axis=1).sum())
        raise MedtailError(
            f"model: gives scores that are no numbers for {bad} of {len(rows)} images; its training has diverged."
            " Train again with a lower optimizer.learning_rate."
        )
    return np.clip(scores, 0.0, 1.0)


def as_predictions(
    scores: np.ndarray, manifest: Manifest, card: ModelCard, *, manifest_digest: str, calibrated: bool = True
) -> Predictions:
    """Join scores with what the manifest and the card know, and calibrate them if the card can.

    Args:
        scores: float64 [N, C] in the card's class order.
        manifest: The N rows scored, with the card's classes.
        card: The model's card.
        manifest_digest: Digest of the whole table the rows came from.
        calibrated: Apply the card's calibration, where it has one; its digest is then in the header.
    """
    raw = Predictions(
        image_ids=manifest.frame["image_id"].to_numpy(dtype=object),
        patients=manifest.patients,
        scores=scores,
        targets=manifest.targets.astype(np.float64),
        labels=card.labels,
        folds=manifest.folds,
        has_patients=manifest.has_patients,
        thresholds=card.thresholds,
        train_counts=card.train_counts,
        digests={"model": card.digests["weights"], "manifest": manifest_digest},
    )
    return card.calibration.calibrate(raw) if calibrated and card.calibration is not None else raw
