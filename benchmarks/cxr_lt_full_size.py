"""The networks of the CXR-LT recipes at full size, without weights: parameters, memory and one forward pass.

    python benchmarks/cxr_lt_full_size.py [RECIPE ...] [--side PX]

Each recipe's `base` network is built by its Hub id's shape with random weights (nothing is fetched), and one image goes
through it at the recipe's resolution. Every network runs in a process of its own, so that the memory is its own: peak
resident memory, less what the process had before. Seconds are CPU time; a warm-up pass is not timed.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CLASSES = 40


def describe(recipe: str, size_px: int | None) -> dict[str, Any]:
    """Build a recipe's network and send one image through it."""
    import numpy as np
    import torch

    from medtail.models.backbones import branch_configs
    from medtail.models.diagnoser import build_diagnoser
    from medtail.models.shapes import hub_architecture
    from medtail.tables.labels import LabelSpace
    from medtail.training.config import train_config

    torch.manual_seed(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    config = train_config({"manifest": "none.csv", "recipe": f"{recipe}/base"})
    (backbone,) = branch_configs(config.backbone)
    weights = str(getattr(backbone, "weights", None))
    side = size_px or config.pixels.size_px
    texts = None
    if config.head.kind == "text_query":
        texts = np.eye(CLASSES, config.head.text_width, dtype=np.float32)
    network = build_diagnoser(
        backbone=config.backbone,
        head=config.head,
        labels=LabelSpace(tuple(f"c{n}" for n in range(CLASSES))),
        link="sigmoid",
        channels=config.pixels.channels,
        size_px=side,
        architecture=hub_architecture(weights),
        load_weights=False,
        texts=texts,
    ).eval()
    image = torch.rand(1, config.pixels.channels, side, side)
    with torch.inference_mode():
        network(image)
        began = time.process_time()
        logits = network(image)
        seconds = time.process_time() - began
    assert logits.shape == (1, CLASSES)
    assert bool(torch.isfinite(logits).all())
    return {
        "recipe": recipe,
        "network": weights,
        "side": side,
        "head": config.head.kind,
        "parameters": sum(p.numel() for p in network.parameters()),
        "gib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20,
        "seconds": seconds,
    }


def main() -> None:
    """Print a line a recipe."""
    from medtail.training.recipes_cxrlt import CXRLT_RECIPES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=list(CXRLT_RECIPES), metavar="RECIPE")
    parser.add_argument("--side", type=int, help="side of the image in pixels, instead of the recipe's")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(describe(given.recipes[0], given.side)))
        return
    print(f"{'recipe':18s}{'network':36s}{'head':12s}{'px':>6s}{'million':>9s}{'GiB':>7s}{'CPU s':>8s}")
    for recipe in given.recipes:
        side = [] if given.side is None else ["--side", str(given.side)]
        command = [sys.executable, str(Path(__file__).resolve()), recipe, "--one", *side]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"ended with code {done.returncode}"])[-1]
            print(f"{recipe:18s}failed: {reason}")
            continue
        row = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{recipe:18s}{row['network']:36s}{row['head']:12s}{row['side']:6d}{row['parameters'] / 1e6:9.1f}"
            f"{row['gib']:7.2f}{row['seconds']:8.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
