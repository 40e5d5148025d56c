"""Scoring in several processes of one machine: each takes every n-th batch, so no batch differs from one process's.

The caller has prepared the pixels; the processes read them, score, and leave their shares in a file each.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

from medtail.config import config_to_dict
from medtail.processes import supervise
from medtail.tables.manifest import Manifest
from medtail.training.tta import VersionPlan

WORKER = "medtail.training.predict_worker"


def rows_of_share(count: int, *, batch_size: int, rank: int, size: int) -> np.ndarray:
    """Return the rows of every `size`-th batch from the `rank`-th on.

    Example:
        >>> [rows_of_share(7, batch_size=2, rank=rank, size=2).tolist() for rank in (0, 1)]
        [[0, 1, 4, 5], [2, 3, 6]]
    """
    rows = np.arange(count)
    return np.asarray(rows[rows // batch_size % size == rank])


def score_shared(
    model: Path,
    manifest: Manifest,
    *,
    batch_size: int,
    device: str,
    plan: VersionPlan,
    cache: Path | None,
    devices: int,
) -> np.ndarray:
    """Score all rows of a manifest in several processes.

    Args:
        model: The model folder.
        manifest: The rows, with the model's classes; their pixels are prepared.
        batch_size: Images at a time.
        device: As `predict` takes it; with GPUs each process takes the one of its number.
        plan: Versions of each image to average.
        cache: Folder of prepared pixels.
        devices: Processes, at least 2.

    Returns:
        float64 [N, C], the bytes of one process.

    Raises:
        MedtailError: A process found a mistake, or was lost.
    """
    with tempfile.TemporaryDirectory(prefix="medtail-predict-") as name:
        folder = Path(name)
        manifest.write(folder / "rows.parquet")
        job = {
            "model": str(model.resolve()),
            "folder": name,
            "batch_size": batch_size,
            "device": device,
            "plan": config_to_dict(plan),
            "cache": None if cache is None else str(cache.resolve()),
            "threads": torch.get_num_threads(),  # as many as in one process: the same rounding
        }
        supervise(WORKER, job, processes=devices, where=str(model), advice="Predict again; nothing was written.")
        shares = [np.load(folder / f"{rank}.npy", allow_pickle=False) for rank in range(devices)]
        scores = np.empty((len(manifest), manifest.labels.num_classes))
        for rank, share in enumerate(shares):
            scores[rows_of_share(len(manifest), batch_size=batch_size, rank=rank, size=devices)] = share
    return scores
