"""Cross-validation of one training is a study with one arm."""

from __future__ import annotations

from pathlib import Path

import pytest

from medtail.errors import UsageError
from medtail.studies.ablation import run_study
from medtail.studies.cv import cross_validation_study
from medtail.tables.manifest import Manifest


def write(folder: Path, text: str, name: str = "my model.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_training_becomes_a_study_of_one_arm(tmp_path: Path) -> None:
    path = write(tmp_path, "manifest: a.csv\noptimizer: {epochs: 3}\n")
    study = cross_validation_study(path, num_folds=5, seeds=2, overrides=["optimizer.epochs=4"])
    assert list(study.arms) == ["my_model"] == [study.reference]
    assert (study.num_folds, study.seeds) == (5, (0, 1))
    assert study.arms["my_model"].config.optimizer.epochs == 4
    assert study.arms["my_model"].config.manifest == str(tmp_path / "a.csv")
    assert study.title == "5-fold cross-validation of my model"


def test_a_wrong_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"optimiser: unknown key; did you mean 'optimizer'\?"):
        cross_validation_study(write(tmp_path, "manifest: a.csv\noptimiser: {epochs: 3}\n"))


@pytest.mark.slow
def test_a_cross_validation_scores_every_image_out_of_fold(toy_manifest: Manifest, tmp_path: Path) -> None:
    toy_manifest.write(tmp_path / "toy.csv")
    path = write(
        tmp_path,
        "manifest: toy.csv\nclasses: [bright]\npixels: {size_px: 32}\nbackbone: {kind: resnet}\nthreads: 1\n"
        "accelerator: cpu\ncache: cache\noptimizer: {epochs: 2, batch_size: 18, keep: last}\n",
    )
    outcome = run_study(cross_validation_study(path, num_folds=3, seeds=1), tmp_path / "out", quiet=True)
    (judged,) = outcome.judged
    row = judged.values[(judged.values["metric"] == "auroc") & (judged.values["class"] == "bright")].iloc[0]
    assert row["images"] == int((toy_manifest.folds != "test").sum())
    assert row["cells"] == 3
    assert judged.comparison is None
