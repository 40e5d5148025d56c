"""One of the processes that score; `predict_sharing` starts them with `python -m medtail.training.predict_worker`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from medtail.processes import serve


def _work(job: dict[str, Any]) -> None:
    import numpy as np
    import torch

    from medtail.models.ensembles import load_members
    from medtail.pixels.store import open_store
    from medtail.tables.manifest import read_manifest
    from medtail.training.predict import choose_device, score_members
    from medtail.training.predict_sharing import rows_of_share
    from medtail.training.tta import VersionPlan

    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(job["threads"])
    diagnosers, card = load_members(Path(job["model"]))
    manifest = read_manifest(Path(job["folder"]) / "rows.parquet")
    cache = None if job["cache"] is None else Path(job["cache"])
    device = choose_device(job["device"])
    if device.type == "cuda" and job["device"] in ("auto", "cuda"):
        device = torch.device("cuda", rank % torch.cuda.device_count())
    scores = score_members(
        diagnosers,
        open_store(manifest, card.parts.pixels, cache=cache),
        rows=rows_of_share(len(manifest), batch_size=job["batch_size"], rank=rank, size=size),
        batch_size=job["batch_size"],
        device=device,
        plan=VersionPlan(**job["plan"]),
        quiet=True,
    )
    np.save(Path(job["folder"]) / f"{rank}.npy", scores)


if __name__ == "__main__":
    sys.exit(serve(_work, sys.argv[1:]))
