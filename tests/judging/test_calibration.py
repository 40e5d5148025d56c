"""Fitting on tune: what is refused, who borrows how much from whom, and that truth comes back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from medtail.errors import MedtailError, UsageError
from medtail.judging.calibration import (
    KAPPAS,
    CalibrationConfig,
    calibrated_groups,
    cross_calibrated,
    fit_calibration,
    patient_folds,
)
from medtail.judging.calibration_maps import AffineMap, BetaMap, IdentityMap, IsotonicMap, SoftmaxMap, to_logits
from medtail.judging.metrics import average_precision, log_loss
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions


def table(
    scores: np.ndarray,
    targets: np.ndarray,
    *,
    patients: np.ndarray | None = None,
    labels: LabelSpace | None = None,
    fold: str = "tune",
    **more: Any,
) -> Predictions:
    ids = np.array([f"i{row:06d}" for row in range(len(scores))], dtype=object)
    own = ids if patients is None else np.array([f"p{number:06d}" for number in patients], dtype=object)
    space = labels or LabelSpace(tuple(f"c{c}" for c in range(scores.shape[1])))
    return Predictions(ids, own, scores, targets, space, np.array([fold] * len(ids), dtype=object), **more)


def long_tail(
    seed: int,
    *,
    rows: int = 3000,
    prevalences: tuple[float, ...] = (0.3, 0.1, 0.03, 0.005),
    slope: float = 1.0,
    shift: float | tuple[float, ...] = 0.0,
    fold: str = "tune",
) -> tuple[Predictions, np.ndarray]:
    """Return scores whose logits are slope · truth + shift, and the true probabilities they stand for."""
    random = np.random.default_rng(seed)
    prior = np.log(prevalences) - np.log1p(-np.array(prevalences))
    truth = random.normal(0, 1.2, (rows, len(prevalences))) + prior - 0.5
    targets = (random.random(truth.shape) < expit(truth)).astype(float)
    return table(expit(slope * truth + np.array(shift)), targets, fold=fold), expit(truth)


@pytest.mark.parametrize("fold", ["test", "train", "reward", ""])
def test_rows_outside_tune_are_refused(fold: str) -> None:
    rows, _ = long_tail(0, rows=20, fold=fold)
    with pytest.raises(MedtailError, match=r"20 of 20 rows are not in fold 'tune'.*A calibration fitted"):
        fit_calibration(rows)
    with pytest.raises(MedtailError, match="not in fold 'tune'"):
        cross_calibrated(rows)


def test_calibrated_scores_are_not_calibrated_again() -> None:
    rows, _ = long_tail(0, rows=200)
    with pytest.raises(MedtailError, match="calibrated already"):
        fit_calibration(fit_calibration(rows).calibrate(rows))


@pytest.mark.parametrize("kappa", [0.0, -1.0, float("nan"), "much"])
def test_a_strength_that_is_none_is_refused(kappa: Any) -> None:
    with pytest.raises(UsageError, match="kappa"):
        CalibrationConfig(kappa=kappa)


@pytest.mark.parametrize("method", ["platt", "temperature", "beta", "isotonic", "auto"])
def test_what_was_bent_comes_back_straight(method: Any) -> None:
    slope, shift = (2.0, 0.0) if method == "temperature" else (2.0, 1.5)
    tune, _ = long_tail(1, rows=8000, prevalences=(0.4, 0.2, 0.1), slope=slope, shift=shift)
    test, truth = long_tail(2, rows=8000, prevalences=(0.4, 0.2, 0.1), slope=slope, shift=shift)
    made = fit_calibration(tune, CalibrationConfig(method=method)).apply(test.scores)
    before, after = (np.sqrt(np.mean((scores - truth) ** 2)) for scores in (test.scores, made))
    assert after < 0.025
    assert after < 0.2 * before
    if method in ("platt", "auto"):
        np.testing.assert_allclose(made.mean(axis=0), truth.mean(axis=0), rtol=0.06)


def test_calibrated_scores_are_left_nearly_alone() -> None:
    moved = []
    for seed in range(5):
        tune, _ = long_tail(seed)
        test, truth = long_tail(seed + 100)
        made = fit_calibration(tune).apply(test.scores)
        for c in range(4):
            before, after = (log_loss(scores[:, c], test.targets[:, c]) for scores in (test.scores, made))
            assert after < before * 1.03 + 0.001, "little is lost where there was nothing to gain"
        error = (to_logits(made) - to_logits(truth))[:, 3]
        moved.append(np.average(error**2, weights=truth[:, 3]))
    assert np.sqrt(np.mean(moved)) < 0.35, "about fifteen positives a draw, seen where they are"


def test_a_rare_class_is_better_off_with_a_pull() -> None:
    """Five positives: their own Platt map against the shrunken one, on fresh patients, over repeats."""
    shift = (1.0, 1.0, 1.0, 1.4)
    prevalences = (0.3, 0.2, 0.1, 0.0017)
    excess: dict[float, list[float]] = {1e-6: [], 10.0: []}
    test, truth = long_tail(999, rows=40_000, prevalences=prevalences, shift=shift)

    def cross_entropy(scores: np.ndarray) -> float:
        p = truth[:, 3]
        return float(np.mean(-p * np.log(scores[:, 3]) - (1 - p) * np.log1p(-scores[:, 3])))

    best, raw = cross_entropy(truth), cross_entropy(test.scores)
    for seed in range(40):
        tune, _ = long_tail(seed, rows=3000, prevalences=prevalences, shift=shift)
        for kappa, found in excess.items():
            made = fit_calibration(tune, CalibrationConfig(method="platt", kappa=kappa))
            found.append(cross_entropy(made.apply(test.scores)) - best)
    pulled, alone = np.array(excess[10.0]), np.array(excess[1e-6])
    assert pulled.mean() < 0.6 * alone.mean()
    assert np.mean(pulled < alone) > 0.6
    assert pulled.mean() < raw - best, "and better off than uncalibrated"


def test_an_infinite_pull_gives_all_classes_one_map() -> None:
    tune, _ = long_tail(3, shift=1.0)
    maps = fit_calibration(tune, CalibrationConfig(method="platt", kappa="inf")).maps
    assert len({(part.alpha, part.beta) for part in maps if isinstance(part, AffineMap)}) == 1
    apart = fit_calibration(tune, CalibrationConfig(method="platt", kappa=1.0)).maps
    assert len({(part.alpha, part.beta) for part in apart if isinstance(part, AffineMap)}) == 4


@pytest.mark.parametrize("method", ["platt", "temperature"])
def test_ap_does_not_move(method: Any) -> None:
    tune, _ = long_tail(4, slope=1.7, shift=2.0)
    made = fit_calibration(tune, CalibrationConfig(method=method)).apply(tune.scores)
    for c in range(4):
        assert average_precision(made[:, c], tune.targets[:, c]) == average_precision(
            tune.scores[:, c], tune.targets[:, c]
        )


def test_many_images_of_one_patient_are_one_patient() -> None:
    random = np.random.default_rng(5)
    scores = np.column_stack([random.uniform(0.2, 0.8, 2000), random.uniform(0.05, 0.4, 2000)])
    targets = (random.random(scores.shape) < scores).astype(float)
    targets[:, 1] = 0
    targets[:40, 1] = 1  # forty positive images, of forty patients or of two
    own = np.arange(2000)
    shared = own.copy()
    shared[:40] = 0
    shared[20:40] = 1
    apart = fit_calibration(table(scores, targets, patients=own), CalibrationConfig(method="platt"))
    together = fit_calibration(table(scores, targets, patients=shared), CalibrationConfig(method="platt"))
    assert [part.positive_patients for part in (apart.maps[1], together.maps[1])] == [40, 2]
    moved = [abs(to_logits(made.apply(scores)[:, 1]) - to_logits(made.apply(scores)[:, 0] * 0 + scores[:, 1])).mean()
             for made in (apart, together)]  # fmt: skip
    assert moved[1] < 0.5 * moved[0], "two patients pull far less than forty"


def test_an_unassessed_class_is_left_and_a_one_sided_one_follows_the_others() -> None:
    tune, _ = long_tail(6, shift=1.0)
    targets = tune.targets.copy()
    targets[:, 3] = np.nan
    targets[:, 2] = 0
    made = fit_calibration(table(tune.scores, targets), CalibrationConfig(method="platt"))
    left, follows = made.maps[3], made.maps[2]
    assert isinstance(left, IdentityMap)
    assert "no assessed row" in left.note
    assert isinstance(follows, AffineMap)
    assert "no patient with it" in follows.note
    assert made.apply(tune.scores)[:, 2].mean() < tune.scores[:, 2].mean()


def test_nothing_assessed_at_all_is_the_identity() -> None:
    rows = table(np.full((4, 2), 0.3), np.full((4, 2), np.nan))
    for method in ("platt", "temperature", "isotonic", "auto"):
        made = fit_calibration(rows, CalibrationConfig(method=method))  # type: ignore[arg-type]
        np.testing.assert_array_equal(made.apply(rows.scores), rows.scores)


@pytest.mark.parametrize(("method", "kind"), [("isotonic", IsotonicMap), ("beta", BetaMap)])
def test_flexible_maps_need_two_hundred_patients_and_say_so(method: Any, kind: type) -> None:
    tune, _ = long_tail(7, rows=1500, prevalences=(0.3, 0.05))
    assert [(tune.targets[:, c] == 1).sum() >= 200 for c in (0, 1)] == [True, False]
    made = fit_calibration(tune, CalibrationConfig(method=method))
    assert isinstance(made.maps[0], kind)
    assert isinstance(made.maps[1], AffineMap)
    assert f"platt instead of {method}" in made.maps[1].note
    if method == "isotonic":
        assert "scores tie" in made.maps[0].note


def test_auto_takes_beta_only_where_it_pays() -> None:
    random = np.random.default_rng(8)
    truth = random.uniform(0.02, 0.98, (6000, 2))
    targets = (random.random(truth.shape) < truth).astype(float)
    logits = np.log(truth / (1 - truth))
    bent = np.column_stack([expit(1.5 * logits[:, 0] + 0.5), truth[:, 1] ** 4])  # one affine, one not
    made = fit_calibration(table(bent, targets))
    assert [type(part) for part in made.maps] == [AffineMap, BetaMap]


GROUP = LabelSpace.from_columns(["t=a", "t=b", "t=c", "free"])


def grouped(seed: int, rows: int = 3000) -> tuple[Predictions, np.ndarray]:
    """An exclusive group, overconfident and biased, beside a free class."""
    random = np.random.default_rng(seed)
    truth = random.dirichlet((4.0, 1.0, 0.2), rows)
    drawn = (truth.cumsum(axis=1) < random.random((rows, 1))).sum(axis=1).clip(0, 2)
    bent = truth**2 * np.array([1.0, 3.0, 8.0])
    bent /= bent.sum(axis=1, keepdims=True)
    free = random.uniform(0.1, 0.9, rows)
    targets = np.column_stack([np.eye(3)[drawn], random.random(rows) < free])
    return table(np.column_stack([bent, free]), targets, labels=GROUP), truth


def test_an_exclusive_group_is_calibrated_as_one() -> None:
    tune, _ = grouped(0)
    test, truth = grouped(1)
    made = fit_calibration(tune)
    assert isinstance(made.maps[0], SoftmaxMap)
    after = made.apply(test.scores)
    np.testing.assert_allclose(after[:, :3].sum(axis=1), 1.0)
    before_error, after_error = (np.sqrt(np.mean((s[:, :3] - truth) ** 2)) for s in (test.scores, after))
    assert after_error < 0.2 * before_error
    assert "most likely class changes" in made.maps[0].note


def test_a_group_with_gaps_uses_rows_whose_class_is_known() -> None:
    tune, _ = grouped(2)
    targets = tune.targets.copy()
    targets[:, :3][targets[:, :3] == 0] = np.nan  # one present, the others never looked at
    assert fit_calibration(table(tune.scores, targets, labels=GROUP)).maps[0] == fit_calibration(tune).maps[0]
    targets[:, :3] = 0  # none of them applies
    left = fit_calibration(table(tune.scores, targets, labels=GROUP)).maps[0]
    assert isinstance(left, SoftmaxMap)
    assert (left.alpha, set(left.bias)) == (0.0, {0.0})


def test_a_group_whose_scores_do_not_add_up_is_calibrated_class_by_class() -> None:
    tune, _ = grouped(3)
    rows = table(tune.scores * 0.5, tune.targets, labels=GROUP)
    assert calibrated_groups(rows) == ()
    assert [type(part) for part in fit_calibration(rows, CalibrationConfig(method="platt")).maps] == [AffineMap] * 4
    with pytest.raises(UsageError, match="needs an exclusive group"):
        fit_calibration(rows, CalibrationConfig(method="softmax"))


def test_softmax_leaves_free_classes_and_temperature_has_no_bias() -> None:
    tune, _ = grouped(4)
    group, free = fit_calibration(tune, CalibrationConfig(method="softmax")).maps
    assert isinstance(free, IdentityMap)
    rigid = fit_calibration(tune, CalibrationConfig(method="temperature")).maps[0]
    assert isinstance(group, SoftmaxMap)
    assert isinstance(rigid, SoftmaxMap)
    assert set(rigid.bias) == {0.0}
    assert len(set(group.bias)) == 3


@settings(max_examples=20)
@given(seed=st.integers(0, 100), folds=st.integers(2, 6))
def test_folds_keep_patients_whole_and_spread_the_rare(seed: int, folds: int) -> None:
    random = np.random.default_rng(seed)
    patients = random.integers(0, 60, 200)
    targets = (random.random((200, 2)) < [0.3, 0.04]).astype(float)
    rows = table(np.full((200, 2), 0.5), targets, patients=patients)
    fold_of = patient_folds(rows, folds=folds, seed=seed)
    assert all(len(set(fold_of[patients == number])) == 1 for number in set(patients))
    rare = [len(set(patients[(fold_of == number) & (targets[:, 1] == 1)])) for number in range(folds)]
    assert max(rare) - min(rare) <= 1
    order = random.permutation(200)
    np.testing.assert_array_equal(patient_folds(rows.take(order), folds=folds, seed=seed), fold_of[order])


def test_more_folds_than_patients_are_refused() -> None:
    rows = table(np.full((4, 1), 0.5), np.array([[1.0], [0], [1], [0]]), patients=np.zeros(4, dtype=int))
    with pytest.raises(MedtailError, match="found 1 patients; 5 folds by patient need as many"):
        fit_calibration(rows, CalibrationConfig(kappa="cv"))


def test_cross_validation_finds_whether_classes_agree() -> None:
    same, _ = long_tail(9, rows=2500, prevalences=(0.01,) * 12, shift=1.0)
    apart, _ = long_tail(9, rows=2500, prevalences=(0.2,) * 12, shift=tuple(np.linspace(-3, 3, 12)))
    chosen = [fit_calibration(rows, CalibrationConfig(method="platt", kappa="cv")) for rows in (same, apart)]
    assert chosen[0].kappa >= 30
    assert chosen[1].kappa <= 10
    assert set(chosen[0].kappa_losses) == {f"{kappa:g}" for kappa in KAPPAS}
    assert min(chosen[1].kappa_losses.values()) == chosen[1].kappa_losses[f"{chosen[1].kappa:g}"]


def test_out_of_fold_scores_have_not_seen_their_patient() -> None:
    tune, _ = long_tail(10, rows=300, shift=1.0)
    made = cross_calibrated(tune)
    fold_of = patient_folds(tune, folds=5)
    held = fold_of == 2
    turned = table(tune.scores, np.where(held[:, None], 1 - tune.targets, tune.targets))
    alone = fit_calibration(tune.take(~held)).apply(tune.scores[held])
    np.testing.assert_array_equal(made[held], alone)
    assert not np.array_equal(cross_calibrated(turned)[~held], made[~held])


def test_it_does_not_depend_on_the_order_of_rows() -> None:
    tune, _ = long_tail(11, rows=800, shift=1.0)
    order = np.random.default_rng(0).permutation(800)
    one, other = fit_calibration(tune), fit_calibration(tune.take(order))
    np.testing.assert_allclose(one.apply(tune.scores), other.apply(tune.scores), rtol=1e-6)


def test_it_knows_the_rows_it_was_fitted_on_and_their_model() -> None:
    tune, _ = long_tail(12, rows=300)
    named = table(tune.scores, tune.targets, digests={"model": "ab"})
    made = fit_calibration(named)
    assert (made.model, made.num_rows, made.num_patients) == ("ab", 300, 300)
    assert made.is_fitted_on(named)
    assert not made.is_fitted_on(named.take(np.arange(299)))
