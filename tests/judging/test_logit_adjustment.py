from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, log_softmax, softmax
from sklearn.metrics import f1_score

from medtail.errors import MedtailError
from medtail.judging.calibration import CalibrationConfig, fit_calibration
from medtail.judging.calibration_record import apply_maps
from medtail.judging.decisions import decide
from medtail.judging.logit_adjustment import TAUS, adjusting_maps, choose_tau, decided_f1, log_priors
from medtail.judging.metrics import average_precision
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions
from medtail.tables.tail import ClassCounts

LABELS = LabelSpace.from_columns(["halo", "type=a", "type=b", "type=c"])
COUNTS = ClassCounts(LABELS.class_names, (50, 800, 150, 50), (50, 800, 150, 50), (1000,) * 4)
GROUPS = (("type", (1, 2, 3)),)


def table(*, counts: ClassCounts | None = COUNTS, rows: int = 900, seed: int = 0, fold: str = "tune") -> Predictions:
    """Scores of a model that knows the features and the class frequencies, as Bayes would join them."""
    random = np.random.default_rng(seed)
    true = random.choice(3, size=rows, p=[0.8, 0.15, 0.05])
    evidence = random.normal(0, 1, (rows, 3)) + 1.2 * np.eye(3)[true]
    group = softmax(1.2 * evidence + np.log([0.8, 0.15, 0.05]), axis=1)
    halo = random.random(rows) < 0.05
    odds = 2.0 * random.normal(halo, 1.0) - 1.0 + np.log(0.05 / 0.95)
    scores = np.column_stack([expit(odds), group])
    targets = np.column_stack([halo, np.eye(3)[true]]).astype(float)
    ids = np.array([f"i{row}" for row in range(rows)], dtype=object)
    return Predictions(ids, ids, scores, targets, LABELS, np.array([fold] * rows, dtype=object), train_counts=counts)


def test_tau_takes_the_log_prior_off() -> None:
    rows = table()
    made = apply_maps(adjusting_maps(rows, tau=1.5, groups=GROUPS), rows.scores, LABELS)
    expected = softmax(np.log(rows.scores[:, 1:]) - 1.5 * np.log([0.8, 0.15, 0.05]), axis=1)
    np.testing.assert_allclose(made[:, 1:], expected, rtol=1e-6)
    halo = rows.scores[:, 0]
    np.testing.assert_allclose(made[:, 0], expit(np.log(halo / (1 - halo)) - 1.5 * np.log(0.05 / 0.95)), rtol=1e-6)


def test_tau_zero_is_nothing_and_tau_one_undoes_the_prior_of_bayes() -> None:
    rows = table()
    np.testing.assert_allclose(
        apply_maps(adjusting_maps(rows, tau=0.0, groups=GROUPS), rows.scores, LABELS), rows.scores, rtol=1e-6
    )
    balanced = apply_maps(adjusting_maps(rows, tau=1.0, groups=GROUPS), rows.scores, LABELS)[:, 1:]
    evidence = log_softmax(np.log(rows.scores[:, 1:]) - np.log([0.8, 0.15, 0.05]), axis=1)
    np.testing.assert_allclose(np.log(balanced), evidence, atol=1e-6)


def test_chosen_tau_has_the_best_decisions_and_helps_the_rare_classes() -> None:
    rows = table()
    tau, tried = choose_tau(rows, groups=GROUPS)
    assert list(tried) == [f"{value:g}" for value in TAUS]
    assert tried[f"{tau:g}"] == max(tried.values())
    assert 0 < tau <= 1.5
    assert tried[f"{tau:g}"] > tried["0"] + 0.03
    held = table(seed=1, fold="test")
    made = apply_maps(adjusting_maps(rows, tau=tau, groups=GROUPS), held.scores, LABELS)
    recall = [decide(scores, groups=[(1, 2, 3)])[held.targets[:, 3] == 1, 3].mean() for scores in (held.scores, made)]
    assert recall[1] > recall[0] + 0.1


def test_order_of_images_of_a_free_class_stays() -> None:
    rows = table()
    made = apply_maps(adjusting_maps(rows, tau=2.0, groups=GROUPS), rows.scores, LABELS)
    before, after = (average_precision(scores[:, 0], rows.targets[:, 0]) for scores in (rows.scores, made))
    assert after == pytest.approx(before)


def test_decided_f1_is_scikit_learns_on_assessed_cells() -> None:
    rows = table()
    called = decide(rows.scores, groups=[(1, 2, 3)])
    expected = f1_score(rows.targets, called, average="macro", zero_division=0.0)
    assert decided_f1(rows.scores, rows.targets, groups=[(1, 2, 3)]) == pytest.approx(expected)
    targets = rows.targets.copy()
    targets[::3, 0] = np.nan
    known = ~np.isnan(targets[:, 0])
    free = f1_score(targets[known, 0], called[known, 0])
    assert decided_f1(rows.scores[:, :1], targets[:, :1], groups=()) == pytest.approx(free)


def test_priors_are_those_of_the_train_fold_where_known_and_else_of_the_rows() -> None:
    np.testing.assert_allclose(log_priors(table())[0], np.log(0.05 / 0.95))
    rows = table(counts=None)
    share = rows.targets[:, 0].mean()
    np.testing.assert_allclose(log_priors(rows)[0], np.log(share / (1 - share)))


def test_it_is_a_method_of_calibrate_and_only_fitted_on_tune() -> None:
    rows = table()
    made = fit_calibration(rows, CalibrationConfig(method="logit_adjustment"))
    tau, _ = choose_tau(rows, groups=GROUPS)
    assert made.method == "logit_adjustment"
    assert {part.note for part in made.maps} == {f"logit adjustment, tau {tau:g}"}
    with pytest.raises(MedtailError, match="tune"):
        fit_calibration(table(fold="test"), CalibrationConfig(method="logit_adjustment"))


def test_rows_without_a_positive_cannot_choose() -> None:
    rows = table()
    none = Predictions(
        rows.image_ids, rows.patients, rows.scores, np.zeros_like(rows.targets), LABELS, rows.folds, train_counts=COUNTS
    )
    with pytest.raises(MedtailError, match="no class has a positive tune row; tau cannot be chosen"):
        choose_tau(none, groups=())
