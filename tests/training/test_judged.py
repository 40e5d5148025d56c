"""From a run to its judgement and report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from medtail.errors import MedtailError
from medtail.losses.build import LossConfig
from medtail.models.backbones import BackboneConfig, HubConfig
from medtail.reporting.bibliography import bibliography
from medtail.sampling.build import SamplerConfig
from medtail.tables.manifest import Manifest, read_manifest
from medtail.training.config import train_config
from medtail.training.ensembles import train
from medtail.training.judged import judge_run, methods_of, report_run


@pytest.fixture
def run(toy_manifest: Manifest, tmp_path: Path) -> Path:
    toy_manifest.write(tmp_path / "toy.csv")
    config = train_config(
        {
            "manifest": str(tmp_path / "toy.csv"),
            "pixels": {"size_px": 32},
            "backbone": {"kind": "resnet", "size": "tiny"},
            "optimizer": {"epochs": 1, "batch_size": 18},
        }
    )
    return train(config, tmp_path / "run", quiet=True).run


def test_a_judgement_is_kept_and_read_again(run: Path) -> None:
    first = judge_run(run, quiet=True)
    written = (run / "predictions_test.parquet").stat().st_mtime_ns
    again = judge_run(run, quiet=True)
    assert set(first.predictions.folds) == {"test"}
    assert again.results.frame.equals(first.results.frame)
    assert (run / "predictions_test.parquet").stat().st_mtime_ns == written


def test_thresholds_come_from_tune_and_are_said_to(run: Path) -> None:
    assert judge_run(run, quiet=True).results.header["thresholds"]["source"] == "tune"


def test_a_manifest_that_changed_since_training_is_refused(run: Path, tmp_path: Path) -> None:
    table = read_manifest(tmp_path / "toy.csv")
    flipped = replace(table, frame=table.frame.assign(bright=1 - table.frame["bright"]))
    (tmp_path / "toy.csv").unlink()
    flipped.write(tmp_path / "toy.csv")
    with pytest.raises(MedtailError, match=r"has changed since the run was trained .*Restore it"):
        judge_run(run, quiet=True)


def test_the_report_of_a_run_cites_what_it_used_and_shows_its_config(run: Path, tmp_path: Path) -> None:
    page = report_run(run, tmp_path / "report.html", quiet=True).read_text()
    assert "Deep Residual Learning" in page
    assert "resnet" in page
    assert "Focal" not in page


def test_every_method_cited_has_an_entry() -> None:
    known = set(bibliography())
    base = train_config({"manifest": "a.csv"})
    for union, key in ((LossConfig, "loss"), (SamplerConfig, "sampler"), (BackboneConfig, "backbone")):
        for member in get_args(get_args(union)[0]):
            chosen = HubConfig(weights="somebody/model") if member is HubConfig else member()
            assert set(methods_of(replace(base, **{key: chosen}))) <= known
    assert "zhang2018" in methods_of(replace(base, optimizer=replace(base.optimizer, mixup=0.2)))
