"""The whole road on real images that come with the package: check, split, train, predict, evaluate, report.

What `medtail quickstart` runs, and the shortest example of the public API on a mixed task: exclusive groups
(shape, echogenicity, posterior features), combinable margins and single findings, most of them rare.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import final

from medtail.errors import MedtailError
from medtail.judging.summary import summary_text
from medtail.pixels.decode import read_image
from medtail.runs import new_folder, write_text
from medtail.sources.breast_usg import import_breast_usg
from medtail.tables.audit import audit_manifest
from medtail.tables.results import Results
from medtail.tables.splits import split_manifest
from medtail.training.config import load_train_config
from medtail.training.ensembles import train
from medtail.training.judged import judge_run, report_run

FRACTIONS = {"train": 0.6, "tune": 0.15, "test": 0.25}
TITLE = "Breast ultrasound descriptors: the medtail quickstart"


@final
@dataclass(frozen=True)
class QuickstartOutcome:
    """What the quickstart made.

    Attributes:
        report: The HTML report.
        results: Every number of the test fold.
        table: The head/medium/tail summary as text.
        seconds: Wall-clock time a step.
    """

    report: Path
    results: Results
    table: str
    seconds: dict[str, float]


def quickstart(
    out: Path | str, *, seed: int = 0, say: Callable[[str], None] = print, quiet: bool = False
) -> QuickstartOutcome:
    """Run every step on 256 breast-ultrasound images and write a report.

    Args:
        out: A new folder for everything that is made.
        seed: Seed of split and training.
        say: Told what happens, a line a step.
        quiet: Show no progress bars.

    Returns:
        The report, the results and how long each step took.

    Raises:
        UsageError: `out` is not empty.
        MedtailError: The extra `pretrained` is not installed.
    """
    folder = new_folder(out)
    seconds: dict[str, float] = {}
    clock = time.perf_counter()

    def done(step: str, text: str) -> None:
        nonlocal clock
        seconds[step] = time.perf_counter() - clock
        say(f"{step:<9}{seconds[step]:6.1f} s  {text}")
        clock = time.perf_counter()

    data = files("medtail") / "quickstart_data"
    for name in ("labels.csv", "ATTRIBUTION.md", "quickstart.yaml"):
        shutil.copy(str(data / name), folder / name)
    shutil.copytree(str(data / "images"), folder / "images")
    manifest = import_breast_usg(folder)
    manifest.write(folder / "manifest.csv")
    done("import", f"{len(manifest)} images, {manifest.labels.num_classes} classes (BrEaST-Lesions-USG, CC BY 4.0)")

    audit = audit_manifest(manifest, read=read_image)
    write_text(folder / "audit.txt", audit.text() + "\n")
    if audit.invalidates:
        raise MedtailError(f"the embedded images failed their own audit:\n{audit.text()}")
    done("check", f"{len(audit.findings)} remarks, none that invalidates results; see audit.txt")

    outcome = split_manifest(manifest, fractions=FRACTIONS, seed=seed)
    outcome.manifest.write(folder / "split.csv")
    counts = outcome.manifest.frame["fold"].value_counts()
    done("split", ", ".join(f"{fold} {counts[fold]}" for fold in FRACTIONS))

    config = load_train_config(folder / "quickstart.yaml", overrides=[f"seed={seed}"])
    trained = train(config, folder / "run", quiet=quiet)
    done("train", f"{trained.epochs_run} epochs of fine-tuning on the CPU, tune mAP {trained.tune_map:.2f}")

    judgement = judge_run(folder / "run", quiet=True)
    done("judge", f"{len(judgement.predictions)} test images predicted and evaluated")

    report = report_run(folder / "run", folder / "report.html", title=TITLE, quiet=True)
    done("report", str(report))
    return QuickstartOutcome(report, judgement.results, summary_text(judgement.results), seconds)
