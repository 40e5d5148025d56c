"""One of the processes that draw a pool; `pool` starts them with `python -m medtail.synthesis.worker`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from medtail.processes import serve


def _work(job: dict[str, Any]) -> None:
    import torch

    from medtail.synthesis.drawing import DrawingSettings
    from medtail.synthesis.folder import load_generator
    from medtail.synthesis.guidance import Guidance
    from medtail.synthesis.pool import draw_share

    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(job["threads"])  # as many as where one process draws: the same rounding
    device = f"cuda:{rank % torch.cuda.device_count()}" if job["gpu"] else "cpu"
    draw_share(
        load_generator(Path(job["generator"]), device=device),
        Path(job["out"]),
        mode=job["mode"],
        settings=DrawingSettings(
            solver=job["solver"], steps=job["steps"], guidance=Guidance(job["class_scale"], job["sketch_scale"])
        ),
        manifest=None if job["manifest"] is None else Path(job["manifest"]),
        counts=job["counts"],
        seed=job["seed"],
        rank=rank,
        size=size,
    )


if __name__ == "__main__":
    sys.exit(serve(_work, sys.argv[1:]))
