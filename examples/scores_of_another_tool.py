"""Judge scores that somebody else's code made: no model, no torch, no images.

    python examples/scores_of_another_tool.py

Any tool can write `image_id` and one score column a class. The labels, the patients and the train counts come from
the manifest. Here the "other tool" is a random ranker with some knowledge, on a long-tailed table of 600 images.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

import medtail

PREVALENCE = {"effusion": 0.30, "nodule": 0.08, "fracture": 0.03, "hernia": 0.006}


def main(folder: Path) -> medtail.Results:
    """Write a manifest and scores, judge them, write a report, return the results."""
    random = np.random.default_rng(0)
    labels = {name: (random.random(600) < share).astype(int) for name, share in PREVALENCE.items()}
    table = pd.DataFrame(
        {
            "image_id": [f"image{i:03d}" for i in range(600)],
            "path": [f"image{i:03d}.png" for i in range(600)],
            "patient_id": [f"patient{i // 2:03d}" for i in range(600)],
            "fold": ["train" if i < 300 else "test" for i in range(600)],
            **labels,
        }
    )
    manifest = medtail.manifest_from_frame(table)
    manifest.write(folder / "labels.csv")

    test = table[table["fold"] == "test"]
    scores = {name: 1 / (1 + np.exp(2 - 1.5 * test[name] - random.normal(size=len(test)))) for name in PREVALENCE}
    pd.DataFrame({"image_id": test["image_id"], **scores}).to_csv(folder / "scores.csv", index=False)

    truth = medtail.read_manifest(folder / "labels.csv")
    predictions = medtail.read_predictions(folder / "scores.csv", truth=truth, fold="test")
    results = medtail.evaluate(predictions, config=medtail.EvaluationConfig(bootstrap=500))
    print(medtail.summary_text(results))
    medtail.write_report(folder / "report.html", predictions=predictions, results=results, title="Another tool")
    return results


if __name__ == "__main__":
    main(Path(tempfile.mkdtemp()))
