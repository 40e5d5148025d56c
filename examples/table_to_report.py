"""From a labelled table to a report in Python: the same steps as the command line, on the three tables.

    python examples/table_to_report.py

Uses the breast-ultrasound images that come with the package and a very small model from scratch, so that it runs
in seconds; it shows the road, not a good model (`medtail quickstart` fine-tunes a better one).
"""

from __future__ import annotations

import tempfile
from importlib.resources import files
from pathlib import Path

import medtail
from medtail.training.config import train_config


def main(folder: Path) -> Path:
    """Import, check, split, train, judge and report; return the report."""
    data = Path(str(files("medtail") / "quickstart_data"))
    manifest = medtail.import_layout("breast_usg", data)

    audit = medtail.audit_manifest(manifest, read=medtail.read_image)
    assert not audit.invalidates, audit.text()

    outcome = medtail.split_manifest(manifest, fractions={"train": 0.6, "tune": 0.2, "test": 0.2}, seed=0)
    outcome.manifest.write(folder / "split.csv")

    settings = {
        "manifest": str(folder / "split.csv"),
        "classes": ["malignant", "halo", "shape=*", "margin_*"],
        "pixels": {"size_px": 32, "crop": "roi", "missing_roi": "whole"},
        "backbone": {"kind": "resnet", "size": "tiny"},
        "loss": {"kind": "logit_adjusted"},
        "optimizer": {"epochs": 2, "batch_size": 16, "learning_rate": 1e-3},
    }
    config = train_config(settings)
    trained = medtail.train(config, folder / "run", quiet=True)

    judgement = medtail.judge_run(trained.run, quiet=True)
    print(medtail.summary_text(judgement.results))
    return medtail.report_run(trained.run, folder / "report.html")


if __name__ == "__main__":
    print(main(Path(tempfile.mkdtemp())))
