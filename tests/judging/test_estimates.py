from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, log_loss, matthews_corrcoef

from medtail.judging import metrics
from medtail.judging.bootstrap import Scheme, draw_weights, number_patients
from medtail.judging.decisions import decide
from medtail.judging.estimates import CLASS_METRICS, Estimates, estimate, take_census
from medtail.judging.jackknife import leave_out_weights
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions


def made_up(*, rows: int, classes: int, patients: int, missing: float = 0.05, seed: int = 0) -> Predictions:
    """A long tail of free classes and a group of three, scores with some ties, targets with gaps."""
    random = np.random.default_rng(seed)
    prevalence = np.geomspace(0.3, 0.003, classes)
    targets = (random.random((rows, classes + 3)) < np.append(prevalence, [0, 0, 0])).astype(float)
    targets[np.arange(rows), classes + random.integers(0, 3, rows)] = 1.0
    scores = np.round(np.clip(0.6 * random.random(targets.shape) + 0.3 * targets, 0, 1), 4)
    targets[random.random(targets.shape) < missing] = np.nan
    names = [f"class {c}" for c in range(classes)] + ["kind=a", "kind=b", "kind=c"]
    return Predictions(
        image_ids=np.array([f"i{row}" for row in range(rows)], dtype=object),
        patients=np.array([f"p{owner}" for owner in random.integers(0, patients, rows)], dtype=object),
        scores=scores,
        targets=targets,
        labels=LabelSpace.from_columns(names),
        folds=np.array(["test"] * rows, dtype=object),
        thresholds=dict.fromkeys(names, 0.45),
    )


def estimated(
    predictions: Predictions, *, resamples: int, engine: str, threads: int = 1, scheme: Scheme = "multinomial"
) -> Estimates:
    patients, count = number_patients(predictions.patients)
    return estimate(
        predictions,
        called=decide(predictions),
        patients=patients,
        weights=draw_weights(count, resamples=resamples, scheme=scheme),
        left_out=leave_out_weights(count, scheme=scheme),
        engine="compiled" if engine == "compiled" else "numpy",
        threads=threads,
    )


def all_bytes(found: Estimates) -> dict[str, bytes]:
    assert found.left_out is not None
    parts = {f"value {name}": array for name, array in found.values.items()}
    parts |= {f"resampled {name}": array for name, array in found.resampled.items()}
    parts |= {f"sums {name}": array for name, array in found.resampled_sums.items()}
    parts |= {f"left out {name}": array for name, array in found.left_out.metrics.items()}
    parts |= {f"kind {name}": pair[1] for name, pair in found.groups["kind"].items()}
    return {name: array.tobytes() for name, array in parts.items()}


@pytest.mark.parametrize(("rows", "classes", "resamples"), [(500, 5, 80), (8000, 37, 256)])
def test_both_engines_and_any_number_of_threads_give_the_same_bytes(rows: int, classes: int, resamples: int) -> None:
    predictions = made_up(rows=rows, classes=classes, patients=rows // 3)
    plain = all_bytes(estimated(predictions, resamples=resamples, engine="numpy"))
    assert all_bytes(estimated(predictions, resamples=resamples, engine="compiled")) == plain
    assert all_bytes(estimated(predictions, resamples=resamples, engine="compiled", threads=3)) == plain


def test_heavy_weights_leave_the_sums_exact() -> None:
    predictions = made_up(rows=4000, classes=3, patients=900)
    shuffled = predictions.take(np.random.default_rng(0).permutation(4000))
    first, second = (
        estimated(table, resamples=70, engine=engine, scheme="bayesian")
        for table, engine in ((predictions, "numpy"), (shuffled, "compiled"))
    )
    for metric in CLASS_METRICS:
        assert first.resampled[metric].tobytes() == second.resampled[metric].tobytes(), metric


def test_values_are_those_of_the_exact_metrics_and_of_scikit_learn() -> None:
    predictions = made_up(rows=600, classes=4, patients=200)
    found = estimated(predictions, resamples=2, engine="numpy").values
    for c in range(4):
        kept = ~np.isnan(predictions.targets[:, c])
        s, y = predictions.scores[kept, c], predictions.targets[kept, c]
        assert found["ap"][c] == metrics.average_precision(s, y)
        assert found["auroc"][c] == metrics.auroc(s, y)
        assert found["mcc"][c] == pytest.approx(matthews_corrcoef(y, s >= 0.45), abs=1e-12)
        assert found["balanced_accuracy"][c] == pytest.approx(balanced_accuracy_score(y, s >= 0.45), abs=1e-12)
        assert found["log_loss"][c] == pytest.approx(log_loss(y, np.clip(s, 1e-15, 1 - 1e-15)), abs=1e-12)
        assert found["npv"][c] == pytest.approx(np.mean(y[s < 0.45] == 0), abs=1e-12)
        assert found["fnr"][c] == pytest.approx(np.mean(s[y == 1] < 0.45), abs=1e-12)
        assert found["fnr_at_half"][c] == pytest.approx(np.mean(s[y == 1] < 0.5), abs=1e-12)
        assert found["ap_lift"][c] == pytest.approx(found["ap"][c] / y.mean(), abs=1e-12)
        assert found["brier"][c] == pytest.approx(metrics.brier(s, y), abs=1e-12)
        assert found["ece"][c] == pytest.approx(metrics.expected_calibration_error(s, y), abs=1e-12)


@pytest.mark.parametrize("missing", [0.0, 0.05])
def test_a_resample_and_a_left_out_group_are_the_metrics_of_the_repeated_rows(missing: float) -> None:
    predictions = made_up(rows=400, classes=2, patients=120, missing=missing)
    found = estimated(predictions, resamples=3, engine="numpy")
    patients, count = number_patients(predictions.patients)
    assert found.left_out is not None
    cases = [(draw_weights(count, resamples=3).matrix(), found.resampled, 1)]
    cases.append((leave_out_weights(count).matrix(), found.left_out.metrics, 17))
    for weights, tables, column in cases:
        times = weights[patients, column].astype(int)
        s, y = np.repeat(predictions.scores[:, 0], times), np.repeat(predictions.targets[:, 0], times)
        called = np.repeat(decide(predictions)[:, 0], times)
        kept = ~np.isnan(y)
        s, y, called = s[kept], y[kept], called[kept]
        assert tables["auroc"][0, column] == pytest.approx(metrics.auroc(s, y), abs=1e-12)
        assert tables["ap_lift"][0, column] == pytest.approx(metrics.average_precision(s, y) / y.mean(), abs=1e-12)
        assert tables["mcc"][0, column] == pytest.approx(matthews_corrcoef(y, called), abs=1e-12)
        assert tables["log_loss"][0, column] == pytest.approx(metrics.log_loss(s, y), abs=1e-8)
        assert tables["ece"][0, column] == pytest.approx(metrics.expected_calibration_error(s, y), abs=1e-8)


def test_every_metric_has_a_value_resamples_and_a_jackknife_in_one_order() -> None:
    found = estimated(made_up(rows=200, classes=2, patients=60), resamples=5, engine="numpy")
    assert found.left_out is not None
    assert tuple(found.values) == tuple(found.resampled) == tuple(found.left_out.metrics) == CLASS_METRICS
    assert found.resampled["ap"].shape == (5, 5)
    assert found.left_out.metrics["ap"].shape == (
        5,
        number_patients(made_up(rows=200, classes=2, patients=60).patients)[1],
    )


def test_the_census_counts_patients_once() -> None:
    targets = np.array([[1, 0], [1, 1], [0, np.nan], [np.nan, 0]])
    called = np.array([[True, False], [False, False], [True, True], [True, False]])
    census = take_census(targets, called, np.array([0, 0, 1, 2]))
    assert census.rows.tolist() == [3, 3]
    assert census.patients.tolist() == [2, 2]
    assert census.positives.tolist() == [2, 1]
    assert census.positive_patients.tolist() == [1, 1]
    assert census.negative_patients.tolist() == [1, 2]
    assert census.called_patients.tolist() == [2, 0]
    assert census.passed_patients.tolist() == [1, 2]


def test_few_rows_of_the_patients_the_weights_know_are_enough() -> None:
    # a subgroup: the numbers still point into the weights of everybody
    predictions = made_up(rows=300, classes=2, patients=100)
    patients, count = number_patients(predictions.patients)
    weights, chosen = draw_weights(count, resamples=20), np.arange(0, 300, 3)
    part = predictions.take(chosen)
    found = estimate(part, called=decide(part), patients=patients[chosen], weights=weights)
    times = weights.matrix()[patients[chosen], 4].astype(float)
    expected = metrics.auroc(part.scores[:, 0], part.targets[:, 0], weights=times)
    assert found.resampled["auroc"][0, 4] == pytest.approx(expected, abs=1e-12)
