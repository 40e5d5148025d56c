"""The verb without its command line: what it fits on, what it judges on, what it writes and what it refuses."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from medtail.errors import MedtailError, UsageError
from medtail.judging.calibrating import calibrate_run, calibrate_table, write_calibrated
from medtail.judging.calibration import CalibrationConfig
from medtail.judging.calibration_record import read_calibration
from medtail.judging.objectives import Cost, Sensitivity
from medtail.judging.thresholds import ThresholdConfig
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions, read_predictions


def scored(seed: int = 0, *, folds: tuple[str, ...] = ("tune", "test", "train"), rows: int = 600) -> Predictions:
    random = np.random.default_rng(seed)
    truth = random.normal((-1.0, -3.0), 1.3, (rows, 2))
    targets = (random.random(truth.shape) < expit(truth)).astype(float)
    ids = np.array([f"i{row}" for row in range(rows)], dtype=object)
    patients = np.array([f"p{row // 2}" for row in range(rows)], dtype=object)
    fold = np.array([folds[row // 2 % len(folds)] for row in range(rows)], dtype=object)
    digests = {"model": "w" * 64}
    return Predictions(ids, patients, expit(2 * truth + 1), targets, LabelSpace(("a", "b")), fold, digests=digests)


def test_only_tune_rows_are_fitted_and_only_test_rows_judged() -> None:
    rows = scored()
    made = calibrate_table(rows, resamples=50)
    assert made.judged_on == "200 images of the test fold, held out"
    assert set(made.before.folds) == {"test"}
    tune = rows.folds == "tune"
    spoilt = replace(rows, targets=np.where(tune[:, None], rows.targets, 1 - rows.targets))
    assert calibrate_table(spoilt, resamples=0).calibration.maps == made.calibration.maps
    losses = made.effect.set_index(["metric", "class"]).loc[("log_loss", "")]
    assert losses["difference_high"] < 0


def test_without_a_test_fold_it_is_judged_out_of_fold() -> None:
    rows = scored(folds=("tune",))
    made = calibrate_table(rows, resamples=0)
    assert "fits that have not seen its patient" in made.judged_on
    inside = made.calibration.calibrate(rows)
    assert not np.array_equal(made.after.scores, inside.scores), "not the map that has seen these rows"


def test_too_few_patients_are_judged_on_nothing_and_that_is_said() -> None:
    made = calibrate_table(scored(folds=("tune",), rows=6))
    assert made.judged_on.startswith("nothing")
    assert len(made.effect) == 0
    assert "judged on nothing" in made.text()
    json.dumps(made.to_json(), allow_nan=False)


def test_no_tune_fold_is_refused() -> None:
    with pytest.raises(MedtailError, match=r"no row is in fold 'tune' \(found test, train\).*--truth"):
        calibrate_table(scored(folds=("test", "train")))


def test_thresholds_are_chosen_on_calibrated_scores() -> None:
    made = calibrate_table(scored(), thresholds=ThresholdConfig(objective=Cost(miss=9.0)), resamples=0)
    choice = made.calibration.thresholds
    assert choice is not None
    assert choice.values == {"a": 0.1, "b": 0.1}
    assert choice.notes == {}, "calibrated scores need no caution"


def test_the_folder_holds_everything(tmp_path: Path) -> None:
    rows = scored()
    made = calibrate_table(rows, resamples=20)
    folder = write_calibrated(made, rows, tmp_path / "out")
    assert sorted(path.name for path in folder.iterdir()) == [
        "calibration.json", "effect.csv", "predictions.parquet", "reliability.csv"
    ]  # fmt: skip
    back = read_predictions(folder / "predictions.parquet")
    stored = read_calibration(folder / "calibration.json")
    assert stored == made.calibration
    assert back.digests["calibration"] == stored.digest
    np.testing.assert_array_equal(back.scores, stored.apply(rows.scores))
    assert stored.thresholds is not None
    assert back.thresholds == stored.thresholds.values
    points = pd.read_csv(folder / "reliability.csv")
    assert set(points["scores"]) == {"before", "after"}
    with pytest.raises(UsageError, match="not empty"):
        write_calibrated(made, rows, folder)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The files of a run that calibration looks at."""
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "model" / "card.json").write_text(json.dumps({"digests": {"weights": "w" * 64}}))
    rows = scored()
    rows.take(rows.folds == "tune").write(tmp_path / "run" / "predictions_tune.parquet")
    return tmp_path / "run"


def test_a_runs_calibration_belongs_to_its_weights(run: Path) -> None:
    made = calibrate_run(run, resamples=0)
    stored = read_calibration(run / "model" / "calibration.json")
    assert stored == made.calibration
    assert stored.model == "w" * 64
    assert "have not seen" in made.judged_on


def test_a_second_calibration_must_be_asked_for(run: Path) -> None:
    calibrate_run(run, resamples=0)
    before = (run / "model" / "calibration.json").read_bytes()
    with pytest.raises(UsageError, match=r"calibrated already.*--replace"):
        calibrate_run(run, resamples=0)
    assert (run / "model" / "calibration.json").read_bytes() == before
    other = CalibrationConfig(kappa="inf")
    assert calibrate_run(run, config=other, is_replaced=True, resamples=0).calibration.kappa == np.inf
    assert (run / "model" / "calibration.json").read_bytes() != before


def test_raw_test_scores_of_the_run_judge_and_change_nothing_else(run: Path) -> None:
    alone = calibrate_run(run, resamples=0)
    rows = scored()
    rows.take(rows.folds == "test").write(run / "predictions_test.parquet")
    judged = calibrate_run(run, is_replaced=True, resamples=0)
    assert "test fold, held out" in judged.judged_on
    assert judged.calibration == alone.calibration
    alone.calibration.calibrate(rows.take(rows.folds == "test")).write(run / "predictions_test.parquet")
    assert "have not seen" in calibrate_run(run, is_replaced=True, resamples=0).judged_on


def test_an_ensembles_digest_stands_at_the_top_of_its_card(run: Path) -> None:
    (run / "model" / "card.json").write_text(json.dumps({"weights": "w" * 64, "members": []}))
    assert calibrate_run(run, resamples=0).calibration.model == "w" * 64


def test_scores_of_other_weights_are_refused(run: Path) -> None:
    (run / "model" / "card.json").write_text(json.dumps({"digests": {"weights": "v" * 64}}))
    with pytest.raises(MedtailError, match=r"holds no scores of this model \(digest wwwwwwwwwwww"):
        calibrate_run(run)
    assert not (run / "model" / "calibration.json").exists()


def test_the_summary_names_every_class_and_what_could_not_be_promised() -> None:
    objective = ThresholdConfig(objective=Sensitivity(at_least=0.95))
    text = calibrate_table(scored(), config=CalibrationConfig(kappa="cv"), thresholds=objective, resamples=20).text()
    assert "log loss out of fold by kappa" in text
    assert "b: sensitivity >= 0.95 cannot be promised" in text
    assert text.count("platt, slope") == 2


def test_the_pages_example_runs_as_written(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "judge-calibration.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "judge-calibration.md", "exec"), {})
    assert "judged on 450 images of the test fold" in capsys.readouterr().out
