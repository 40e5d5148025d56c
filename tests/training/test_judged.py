"""From a run to its judgement and report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from medtail.errors import MedtailError
from medtail.judging.calibrating import calibrate_run
from medtail.judging.calibration import CalibrationConfig
from medtail.losses.build import LossConfig
from medtail.models.backbones import BackboneConfig, HubConfig
from medtail.models.heads import HeadConfig, SyntusHeadConfig, TextQueryConfig
from medtail.reporting.bibliography import bibliography
from medtail.sampling.build import CopiesSamplerConfig, ReplaySamplerConfig, SamplerConfig
from medtail.tables.manifest import Manifest, read_manifest
from medtail.tables.predictions import read_predictions
from medtail.training.config import train_config
from medtail.training.ensembles import train
from medtail.training.judged import judge_run, methods_of, report_run
from medtail.training.mixing import BalancedMixupConfig, MixConfig, MixupConfig
from medtail.training.second import TauNormConfig


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


def test_what_was_judged_before_the_calibration_changed_is_not_passed_off_as_new(run: Path) -> None:
    judge_run(run, quiet=True)
    calibrate_run(run, config=CalibrationConfig(method="platt"), resamples=0)
    with pytest.raises(MedtailError, match=r"predictions_test.parquet: was scored before .*Remove it"):
        judge_run(run, quiet=True)
    (run / "predictions_test.parquet").unlink()
    with pytest.raises(MedtailError, match=r"test.csv: was judged before .*Remove it"):
        judge_run(run, quiet=True)
    (run / "results" / "test.csv").unlink()
    made = judge_run(run, quiet=True)
    assert made.results.header["digests"]["calibration"] == made.predictions.digests["calibration"]
    tune = judge_run(run, fold="tune", quiet=True)
    assert tune.predictions.digests["calibration"] == made.predictions.digests["calibration"]
    assert "calibration" not in read_predictions(run / "predictions_tune.parquet").digests, "kept raw"


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
    # the sets come from the run's own tune rows, its calibration is on record only once there is one
    assert '<section id="conformal"' in page
    assert "No calibration map is on record" in page


def test_a_calibrated_run_is_reported_as_such_and_its_maps_are_cited(run: Path, tmp_path: Path) -> None:
    calibrate_run(run, config=CalibrationConfig(method="platt"), resamples=0)
    page = report_run(run, tmp_path / "report.html", quiet=True).read_text()
    assert "These scores are calibrated" in page
    assert "Platt J" in page
    assert "Beta calibration" not in page
    assert '<section id="conformal"' in page
    (run / "predictions_tune.parquet").unlink()
    assert '<section id="conformal"' not in report_run(run, tmp_path / "again.html", quiet=True).read_text()


def test_every_method_cited_has_an_entry() -> None:
    known = set(bibliography())
    base = train_config({"manifest": "a.csv"})
    unions = ((LossConfig, "loss"), (SamplerConfig, "sampler"), (BackboneConfig, "backbone"), (HeadConfig, "head"))
    for union, key in unions:
        for member in get_args(get_args(union)[0]):
            needed: dict[type, dict[str, Any]] = {
                HubConfig: {"weights": "somebody/model"},
                CopiesSamplerConfig: {"classes": ("a",)},
                ReplaySamplerConfig: {"schedule": "schedule.json"},
                TextQueryConfig: {"texts": "texts.safetensors"},
                SyntusHeadConfig: {"batch_mixer": None, "two_layers": False},  # their routes ask for an objective
            }
            chosen = member(**needed.get(member, {}))
            assert set(methods_of(replace(base, **{key: chosen}))) <= known
    for member in get_args(get_args(MixConfig)[0]):
        sampler = {"kind": "two_branches"} if member is BalancedMixupConfig else {"kind": "uniform"}
        mixed = train_config({"manifest": "a.csv", "sampler": sampler, "mix": {"kind": member().kind}})
        assert set(methods_of(mixed)) <= known
    assert "zhang2018" in methods_of(replace(base, mix=MixupConfig(alpha=0.2)))
    assert "kang2020" in methods_of(replace(base, second=TauNormConfig()))
    silent = train_config({"manifest": "a.csv", "loss": {"kind": "focal"}, "objective": {"kind": "zlpr"}})
    assert {"su2022"} <= set(methods_of(silent)) <= known
    assert "lin2017" not in methods_of(silent), "zlpr leaves the loss unused"


def test_a_report_cites_the_parts_a_method_is_made_of_and_not_those_switched_off() -> None:
    def cited(**given: Any) -> set[str]:
        return set(methods_of(train_config({"manifest": "a.csv", **given}))) - {"saito2015", "he2016", "tan2019"}

    whole = cited(sampler={"kind": "two_streams"}, tail_mix={}, head={"kind": "syntus"}, objective={"kind": "syntus"})
    assert whole == {"zhang2026", "deming1940", "liu2021", "hou2022", "wu2020"}
    assert cited(
        sampler={"kind": "two_streams", "rake": False},
        head={"kind": "syntus", "batch_mixer": None, "two_layers": False},
        objective={"kind": "syntus", "balanced": None, "consistency": None},
    ) == {"zhang2026", "liu2021"}
    experts = {"kind": "experts", "count": 2}
    bbn = cited(head=experts, objective={"kind": "branches"}, sampler={"kind": "two_branches", "second": "reversed"})
    ltml = cited(head=experts, objective={"kind": "branches", "schedule": "equal"}, sampler={"kind": "two_branches"})
    assert (bbn, ltml) == ({"zhou2020b"}, {"guo2021"})
    assert cited(loss={"kind": "class_balanced"}) == {"cui2019"}
    assert cited(loss={"kind": "class_balanced", "reweight_from": 0.8}) == {"cui2019", "cao2019"}
    assert cited(loss={"kind": "logit_adjusted"}) == {"menon2021", "ren2020"}
    assert cited(loss={"kind": "logit_adjusted", "link": "sigmoid"}) == {"menon2021"}
    assert cited(second={"kind": "retrain", "learn": "all"}) == {"cao2019", "kang2020"}  # sampled class by class
    assert cited(second={"kind": "retrain", "learn": "all", "sampler": {"kind": "uniform"}}) == {"cao2019"}
    assert cited(objective={"kind": "tasks", "lambda1": 0.0, "lambda2": 0.9, "lambda3": 0.0}) == {
        "li2025",
        "chen2019",
        "kendall2018",
    }
