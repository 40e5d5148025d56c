from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from medtail.judging.metrics import auroc, average_precision, expected_calibration_error, f1


@pytest.fixture(scope="module")
def coverage() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "interval_coverage.py"
    spec = importlib.util.spec_from_file_location("benchmarks_interval_coverage", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("slope", "shift"), [(1.0, 0.0), (1.0, 1.0), (1.6, -0.5)])
def test_the_true_answers_are_those_of_a_very_large_data_set(coverage: ModuleType, slope: float, shift: float) -> None:
    world = coverage.World(patients=60_000, images=3, positives=(9000, 900), slope=slope, shift=shift)
    drawn = coverage.draw(world, seed=1)
    for c, positives in enumerate(world.positives):
        truth = coverage.truth_of(world, positives)
        s, y = drawn.scores[:, c], drawn.targets[:, c]
        called, t = s >= truth.threshold, truth.threshold
        found = {
            "ap": average_precision(s, y),
            "auroc": auroc(s, y),
            "f1": f1(s, y, threshold=t),
            "ece": expected_calibration_error(s, y),
            "net_benefit": np.mean(called & (y == 1)) - np.mean(called & (y == 0)) * t / (1 - t),
        }
        for metric, value in found.items():
            # three standard errors of AP and F1, more of the others
            assert value == pytest.approx(truth.values[metric], abs=1.1 / np.sqrt(positives)), metric
        assert f1(s, y, threshold=t) > max(f1(s, y, threshold=t * 0.6), f1(s, y, threshold=min(0.99, t * 1.6)))
        if (slope, shift) == (1.0, 0.0):
            assert truth.values["ece"] < 1e-6
            # of calibrated scores the best F1 is at half itself
            assert truth.threshold == pytest.approx(truth.values["f1"] / 2, abs=1e-4)


def test_images_of_a_patient_resemble_each_other_as_asked(coverage: ModuleType) -> None:
    world = coverage.World(patients=4000, positives=(400,), icc=0.5, shift=0.0)
    drawn = coverage.draw(world, seed=0)
    latent = np.log(drawn.scores[:, 0] / (1 - drawn.scores[:, 0])).reshape(4000, 3) / world.separation
    healthy = drawn.targets[:, 0].reshape(4000, 3)[:, 0] == 0
    assert np.corrcoef(latent[healthy].T)[0, 1] == pytest.approx(0.5, abs=0.04)
    assert latent[healthy].std() == pytest.approx(1.0, abs=0.03)
    assert (drawn.targets.reshape(4000, 3).std(axis=1) == 0).all()


def test_the_number_of_positive_patients_is_fixed_or_varies_about_its_mean(coverage: ModuleType) -> None:
    def counts(fixed: bool) -> np.ndarray:
        world = coverage.World(fixed=fixed, images=1)
        return np.array([coverage.draw(world, seed=seed).targets.sum(axis=0) for seed in range(40)])

    assert (counts(True) == [60, 20, 10, 5, 2]).all()
    varied = counts(False)
    assert varied.std(axis=0).min() > 0
    assert varied.mean(axis=0) == pytest.approx([60, 20, 10, 5, 2], rel=0.25)


def test_a_study_counts_and_writes_what_it_found(coverage: ModuleType, tmp_path: Path) -> None:
    world = coverage.World(patients=120, positives=(30, 10))
    study = coverage.Study(world)
    for seed in range(3):
        study.judge(seed=seed, resamples=40, method="percentile")
    assert {tally.drawn for tally in study.tallies.values()} == {3}
    # three like images taken for three patients: intervals too short
    for metric in ("ap", "auroc"):
        by_patient, by_image = (study.tallies[metric, world.class_names[0], unit] for unit in ("patient", "image"))
        assert by_image.width < 0.85 * by_patient.width
    text = coverage.table(world, study.tallies)
    assert [line.split("  ")[0] for line in text.splitlines()[2:]] == [*world.class_names, "mean (mAP)"]
    coverage.write(tmp_path / "coverage.csv", world, study.tallies)
    with (tmp_path / "coverage.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * (2 * 4 + 1)
    assert {row["positive_patients"] for row in rows} == {"30", "10", ""}


def test_a_tally_knows_on_which_side_an_interval_missed(coverage: ModuleType) -> None:
    tally = coverage.Tally(0.5)
    for low, high in ((0.4, 0.6), (0.6, 0.7), (0.1, 0.2), (0.5, 0.5), (float("nan"), 0.5)):
        tally.add(low, high)
    assert (tally.drawn, tally.defined, tally.too_high, tally.too_low) == (5, 4, 1, 1)
    assert tally.coverage == 0.5
