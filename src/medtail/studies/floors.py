"""The floor of the ladder: what is had without training a network.

    prevalence     every image gets each class's share of the train fold
    most_frequent  every image is said to show each group's commonest class, and no other class below one half
    linear_probe   logistic regression on the average features of the backbone as it came, where it came with weights

A method that does not clear these has learnt nothing worth its cost. A floor is a cell like any other: fitted on the
train rows of its fold, judged with the same thresholds rule.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medtail.errors import MedtailError
from medtail.runs import atomic_path, write_json
from medtail.studies.arms import Arm, Change
from medtail.studies.cells import Cell
from medtail.studies.running import run_cell
from medtail.tables.labels import LabelSpace
from medtail.tables.manifest import Manifest, read_manifest
from medtail.tables.predictions import Predictions
from medtail.training.config import TrainConfig, select_classes

FLOORS: Mapping[str, str] = {
    "prevalence": "Every image gets each class's share of the train fold.",
    "most_frequent": "Every image is said to show each group's commonest class.",
    "linear_probe": "Logistic regression on the features of the backbone as it came, nothing of it trained.",
}
FITTED = "floor.npz"
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Of the probe's regularisation (inverse, on standardised features): chosen on train patients left out."""
INNER_FOLDS = 3


def usable_floors(config: TrainConfig) -> list[str]:
    """Return the floors that a training's parts allow: the probe needs a backbone with weights."""
    has_weights = getattr(config.backbone, "weights", None) is not None and config.band.kind == "none"
    return [name for name in FLOORS if name != "linear_probe" or has_weights]


def floor_arm(name: str, config: TrainConfig) -> Arm:
    """Return a floor as an arm; its config says which images and classes, and is not trained."""
    return Arm(name, config, (Change("trained", "yes", "nothing; " + FLOORS[name]),))


def run_ladder_cell(cell: Cell) -> None:
    """Train a rung's cell, or fit a floor's, and write its record last."""
    if cell.arm in FLOORS:
        _run_floor(cell)
    else:
        run_cell(cell)


def _run_floor(cell: Cell) -> None:
    began = time.perf_counter()
    config = cell.config
    manifest = select_classes(read_manifest(config.manifest, groups=config.groups), config.classes)
    manifest.check_folds("train", "tune")
    is_assessed = ~np.isnan(manifest.targets).all(axis=1)
    train = manifest.take((manifest.folds == "train") & is_assessed)
    tune = manifest.take((manifest.folds == "tune") & is_assessed)
    cell.folder.mkdir(parents=True, exist_ok=True)
    known = _sibling(cell)
    fitted = known if known is not None else _fit(cell.arm, config, train)
    with atomic_path(cell.folder / FITTED) as path, path.open("wb") as file:
        np.savez(file, **fitted)  # type: ignore[arg-type] # its stub takes a keyword of numpy's own for an array
    predictions = _score(cell, fitted, tune)
    predictions.write(cell.predictions())
    write_json(
        cell.record,
        {
            "cell": cell.name,
            "arm": cell.arm,
            "seed": cell.seed,
            "fold": cell.fold,
            "config_digest": cell.digest,
            "predictions_digest": predictions.digest,
            "train_images": len(train),
            "tune_images": len(tune),
            "parameters": sum(int(part.size) for name, part in fitted.items() if name in ("scores", "weights", "bias")),
            "epochs_run": 1,
            "seconds": round(time.perf_counter() - began, 3),
        },
    )


def score_floors(cells: Sequence[Cell], what: str, manifest: Manifest, *, fold: str | None = None) -> None:
    """Score other images with the floors among the cells, where that was not done; for the final sets.

    Args:
        cells: Finished cells; those of rungs are passed over.
        what: Name of the set, `test` or `external_NAME`.
        manifest: Its table.
        fold: Only this fold of it.
    """
    for cell in cells:
        if cell.arm not in FLOORS or cell.predictions(what).exists():
            continue
        labels = select_classes(manifest, cell.config.classes).labels.class_names
        rows = manifest.with_classes(labels)
        rows = rows if fold is None else rows.in_fold(fold)
        with np.load(cell.folder / FITTED, allow_pickle=False) as stored:
            fitted = {name: stored[name] for name in stored.files}
        _score(cell, fitted, rows).write(cell.predictions(what))


def _sibling(cell: Cell) -> dict[str, np.ndarray] | None:
    """Return what another seed's cell of the same fold was fitted to: floors know no seed."""
    for folder in sorted((cell.root / "cells" / cell.arm).glob(f"seed_*/fold_{cell.fold}")):
        if (folder / "cell.json").exists() and (folder / FITTED).exists():
            with np.load(folder / FITTED, allow_pickle=False) as stored:
                return {name: stored[name] for name in stored.files}
    return None


def _fit(name: str, config: TrainConfig, train: Manifest) -> dict[str, np.ndarray]:
    if name == "linear_probe":
        return fit_probe(features_of(config, train), train)
    share = prevalence(train)
    return {"scores": share if name == "prevalence" else most_frequent(share, train.labels)}


def prevalence(train: Manifest) -> np.ndarray:
    """Return the share of assessed rows that show each class, float64 [C]; 0 where none was assessed.

    Example:
        >>> import pandas as pd
        >>> from medtail.tables.manifest import manifest_from_frame
        >>> prevalence(manifest_from_frame(pd.DataFrame(
        ...     {"image_id": list("abc"), "path": "x", "patient_id": list("abc"), "Hernia": [1, 0, None]})))
        array([0.5])
    """
    assessed = (~np.isnan(train.targets)).sum(axis=0)
    return np.asarray((train.targets == 1).sum(axis=0) / np.maximum(assessed, 1), dtype=np.float64)


def most_frequent(share: np.ndarray, labels: LabelSpace) -> np.ndarray:
    """Return 1 for each group's commonest class and for free classes in most rows, else 0, float64 [C].

    Example:
        >>> most_frequent(np.array([0.2, 0.3, 0.6]), LabelSpace.from_columns(["a=x", "a=y", "halo"])).tolist()
        [0.0, 1.0, 1.0]
    """
    scores = (share >= 0.5).astype(np.float64)
    for indices in labels.group_indices:
        columns = list(indices)
        scores[columns] = 0.0
        scores[columns[int(np.argmax(share[columns]))]] = 1.0
    return scores


def features_of(config: TrainConfig, manifest: Manifest) -> np.ndarray:
    """Return what the backbone with its weights says of each image, averaged over the map, float64 [N, D].

    Raises:
        MedtailError: The weights are not to be found, or images cannot be read.
    """
    import torch

    from medtail.models.backbones import build_backbone
    from medtail.pixels.dataset import PixelBatches, to_float
    from medtail.pixels.store import open_store

    pixels = config.pixels
    trunk = build_backbone(config.backbone, channels=pixels.channels, size_px=pixels.size_px).eval()
    store = open_store(manifest, pixels, cache=None if config.cache is None else Path(config.cache))
    found = []
    with torch.inference_mode():
        none = np.empty((len(store), 0), dtype=np.float32)
        for batch in PixelBatches(store, none, batch_size=64, rows=np.arange(len(store))):
            found.append(trunk(to_float(batch["images"])).mean(dim=(2, 3)).double().numpy())
    return np.concatenate(found)


def fit_probe(features: np.ndarray, train: Manifest) -> dict[str, np.ndarray]:
    """Fit a logistic regression a class on standardised features; its strength is chosen on left-out train patients.

    A class without both kinds of rows keeps its prevalence.

    Args:
        features: float [N, D].
        train: The N rows.

    Returns:
        `mean`, `scale` [D], `weights` [C, D], `bias` [C], and the `strength` that was chosen.

    References:
        pedregosa2011.
    """
    mean = features.mean(axis=0)
    scale = features.std(axis=0)
    scale = np.where(scale > 1e-8 * max(1.0, float(np.abs(mean).max(initial=0.0))), scale, 1.0)
    ready = (features - mean) / scale
    strength = _choose_strength(ready, train)
    weights, bias = _fit_classes(ready, train.targets, strength)
    return {"mean": mean, "scale": scale, "weights": weights, "bias": bias, "strength": np.array(strength)}


def _choose_strength(features: np.ndarray, train: Manifest) -> float:
    from sklearn.model_selection import GroupKFold

    patients = train.patients.astype(str)
    folds = min(INNER_FOLDS, len(set(patients)))
    if folds < 2:
        return STRENGTHS[0]
    loss = dict.fromkeys(STRENGTHS, 0.0)
    for learnt, left in GroupKFold(n_splits=folds).split(features, groups=patients):
        for strength in STRENGTHS:
            weights, bias = _fit_classes(features[learnt], train.targets[learnt], strength)
            logits, truth = features[left] @ weights.T + bias, train.targets[left]
            loss[strength] += float(np.nansum(np.logaddexp(0.0, logits) - truth * logits))
    return min(STRENGTHS, key=lambda strength: (loss[strength], strength))


def _fit_classes(features: np.ndarray, targets: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.linear_model import LogisticRegression

    weights, bias = np.zeros((targets.shape[1], features.shape[1])), np.zeros(targets.shape[1])
    for c in range(targets.shape[1]):
        known = ~np.isnan(targets[:, c])
        truth = targets[known, c] == 1
        if truth.all() or not truth.any():
            share = (truth.sum() + 0.5) / (len(truth) + 1.0)
            bias[c] = np.log(share / (1.0 - share))
            continue
        model = LogisticRegression(C=strength, solver="lbfgs", max_iter=2000).fit(features[known], truth)
        weights[c], bias[c] = model.coef_[0], model.intercept_[0]
    return weights, bias


def _score(cell: Cell, fitted: Mapping[str, np.ndarray], manifest: Manifest) -> Predictions:
    if not len(manifest):
        raise MedtailError(f"{cell.name}: no rows to score.")
    if "scores" in fitted:
        scores = np.tile(fitted["scores"], (len(manifest), 1))
    else:
        ready = (features_of(cell.config, manifest) - fitted["mean"]) / fitted["scale"]
        scores = 1.0 / (1.0 + np.exp(-np.clip(ready @ fitted["weights"].T + fitted["bias"], -700, 700)))
    digests: dict[str, Any] = {"model": cell.digest, "manifest": manifest.digest}
    return Predictions(
        image_ids=manifest.frame["image_id"].to_numpy(dtype=object),
        patients=manifest.patients,
        scores=scores,
        targets=manifest.targets.astype(np.float64),
        labels=manifest.labels,
        folds=manifest.folds,
        has_patients=manifest.has_patients,
        digests=digests,
    )
