"""One of the processes of a training; `sharing.train_here` starts them with `python -m medtail.training.worker`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from medtail.config import build_config
from medtail.processes import serve


def _work(job: dict[str, Any]) -> None:
    from medtail.training.config import TrainConfig
    from medtail.training.ensembles import train

    config = build_config(TrainConfig, job["config"], where="config")
    train(config, Path(job["out"]), resume=job["resume"], quiet=job["quiet"])


if __name__ == "__main__":
    sys.exit(serve(_work, sys.argv[1:]))
