"""Heat maps on simulated ultrasound, where the nodule is known: does each method point at it, and do the checks work?

    python benchmarks/explain_phantom.py RUN data/phantom/split.csv [--images 60] [--methods layer_cam grad_cam]

RUN is a run trained on the phantom (`medtail study run configs/…` leaves many). For each method that suits the model:
the pointing game with intervals by patient, against chance (the share of the image that the nodule fills) and against
the middle of the image; and the parameter-randomisation check, on the trained network and on a copy of it with
shuffled weights. Exits 1 where the default method does not point better than chance on the trained network, does not
pass the randomisation check there, or does not fail it on the shuffled copy.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from medtail.explain.explaining import ExplainConfig, Explained, explain
from medtail.explain.maps import METHODS, HeatMethod, methods_for
from medtail.explain.randomisation import randomised
from medtail.models.checkpoint import save_model
from medtail.models.ensembles import load_members
from medtail.tables.manifest import Manifest, read_manifest

SHUFFLE_SEED = 4242  # not one that the check itself shuffles with


def shuffled_copy(run: Path, folder: Path) -> Path:
    """Write a run whose network has the values of each weight tensor shuffled; return its folder."""
    members, card = load_members(run / "model" if (run / "model").is_dir() else run)
    save_model(folder / "model", randomised(members[0], seed=SHUFFLE_SEED), replace(card, calibration=None))
    return folder


def measure(run: Path, manifest: Manifest, method: HeatMethod, *, out: Path, cache: Path, images: int) -> Explained:
    """Explain and check one network by one method."""
    config = ExplainConfig(method=method, images=images, classes=None)
    return explain(run, manifest, out=out, config=config, cache=cache)


def row_of(name: str, method: str, found: Explained, seconds: float) -> dict[str, object]:
    """Return one line of the table."""
    values = found.sanity[found.sanity["class"] == ""].set_index("measure")

    def said(measure: str) -> str:
        if measure not in values.index:
            return ""
        mean = values.loc[measure]
        return f"{mean['value']:.2f} [{mean['low']:.2f}, {mean['high']:.2f}]"

    return {
        "network": name,
        "method": method,
        "maps": len(found.maps),
        "hit": said("pointing_hit"),
        "chance": said("pointing_chance"),
        "middle": said("pointing_centre"),
        "over chance": said("pointing_over_chance"),
        "over shuffled": said("pointing_over_randomised"),
        "alike after": said("alike_all"),
        "effect lost": said("gap_over_randomised"),
        "randomisation": {True: "passed", False: "FAILED", None: "not told"}[
            found.record["verdicts"]["randomisation"]["passed"]
        ],
        "s": f"{seconds:.0f}",
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=None)
    given = parser.parse_args()
    torch.set_num_threads(max(1, torch.get_num_threads()))
    manifest = read_manifest(given.manifest)
    members, _ = load_members(given.run / "model" if (given.run / "model").is_dir() else given.run)
    default, *others = methods_for(members[0])
    methods = given.methods or [default, *others]
    rows, verdicts = [], {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        networks = {"trained": given.run, "shuffled": shuffled_copy(given.run, folder / "shuffled")}
        for network, run in networks.items():
            for method in methods:
                start = time.perf_counter()
                out = folder / f"{network}_{method}"
                found = measure(run, manifest, method, out=out, cache=folder / "cache", images=given.images)
                rows.append(row_of(network, method, found, time.perf_counter() - start))
                verdicts[network, method] = {key: value["passed"] for key, value in found.record["verdicts"].items()}
    print(pd.DataFrame(rows).to_string(index=False))
    problems = []
    if default in methods:
        trained, shuffled = verdicts["trained", default], verdicts["shuffled", default]
        if trained.get("pointing") is not True:
            problems.append(f"{default} does not point better than chance on the trained network")
        if trained["randomisation"] is not True:
            problems.append(f"{default} does not pass the randomisation check on the trained network")
        if shuffled["randomisation"] is not False:
            problems.append(f"{default} does not fail the randomisation check on the shuffled network")
    for problem in problems:
        print(f"LIMIT MISSED: {problem}.", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
