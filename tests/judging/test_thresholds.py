from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medtail.errors import MedtailError
from medtail.judging.metrics import f1
from medtail.judging.objectives import Cost, FBeta, Fixed, NetBenefit, Sensitivity, Specificity, Youden
from medtail.judging.thresholds import (
    ThresholdChoice,
    ThresholdConfig,
    choose_thresholds,
    fit_thresholds,
    label_threshold,
    plug_in_threshold,
)
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions


def tune_rows(scores: np.ndarray, targets: np.ndarray, *, folds: str | list[str] = "tune") -> Predictions:
    ids = np.array([f"i{row}" for row in range(len(scores))], dtype=object)
    named = [folds] * len(scores) if isinstance(folds, str) else folds
    labels = LabelSpace(tuple(f"c{c}" for c in range(scores.shape[1])))
    return Predictions(ids, ids, scores, targets, labels, np.array(named, dtype=object))


@pytest.mark.parametrize("fold", ["test", "train", "reward", ""])
def test_rows_outside_tune_are_refused(fold: str) -> None:
    rows = tune_rows(np.full((3, 1), 0.5), np.ones((3, 1)), folds=["tune", fold, "tune"])
    with pytest.raises(MedtailError, match=r"1 of 3 rows are not in fold 'tune'.*score the\n? ?tune fold"):
        choose_thresholds(rows)


def test_no_rows_and_negative_shrinkage_are_refused() -> None:
    rows = tune_rows(np.full((1, 1), 0.5), np.ones((1, 1)))
    with pytest.raises(MedtailError, match="no rows"):
        choose_thresholds(rows.take(np.zeros(1, dtype=bool)))
    with pytest.raises(MedtailError, match=">= 0"):
        choose_thresholds(rows, shrinkage_patients=-1)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), levels=st.sampled_from([1, 3, 1000]), rows=st.integers(1, 30))
def test_the_label_threshold_has_the_best_f1_of_all_cuts(seed: int, levels: int, rows: int) -> None:
    random = np.random.default_rng(seed)
    scores, targets = random.integers(1, levels + 1, rows) / (levels + 1), random.integers(0, 2, rows).astype(float)
    threshold = label_threshold(scores, targets)
    if not targets.any():
        assert np.isnan(threshold)
    else:
        best = max(f1(scores, targets, threshold=float(cut)) for cut in set(scores))
        assert f1(scores, targets, threshold=threshold) == best


def test_tiny_scores_of_a_rare_class_still_get_a_cut_between_them() -> None:
    scores, targets = np.array([1e-8, 1e-9, 1e-10]), np.array([1.0, 0.0, 0.0])
    assert 1e-9 < label_threshold(scores, targets) <= 1e-8


def test_the_plug_in_threshold_is_half_the_best_expected_f1_and_calls_that_very_set() -> None:
    scores = np.random.default_rng(0).beta(0.3, 3.0, 400)
    expected = {k: 2 * np.sort(scores)[::-1][:k].sum() / (k + scores.sum()) for k in range(1, 401)}
    best = max(expected, key=lambda k: expected[k])
    threshold = plug_in_threshold(scores)
    assert threshold == pytest.approx(expected[best] / 2)
    assert int((scores >= threshold).sum()) == best


def test_the_labels_weigh_as_many_as_there_are_positive_patients() -> None:
    random = np.random.default_rng(1)
    targets = np.zeros((200, 3))
    targets[:2, 0], targets[:20, 1], targets[:, 2] = 1, 1, np.nan
    scores = np.clip(random.random((200, 3)) * 0.6 + 0.3 * np.nan_to_num(targets), 0.01, 0.99)
    chosen = choose_thresholds(tune_rows(scores, targets))

    def logit(value: float) -> float:
        return float(np.log(value / (1 - value)))

    assert chosen["c0"] == pytest.approx(plug_in_threshold(scores[:, 0]))  # two patients choose nothing
    half_way = (logit(label_threshold(scores[:, 1], targets[:, 1])) + logit(plug_in_threshold(scores[:, 1]))) / 2
    assert logit(chosen["c1"]) == pytest.approx(half_way)
    assert chosen["c2"] == 0.5  # never assessed


def test_many_images_of_one_patient_are_one_patient() -> None:
    scores = np.concatenate([np.full(30, 0.9), np.linspace(0.05, 0.5, 60)])[:, None]
    targets = np.concatenate([np.ones(30), np.zeros(60)])[:, None]
    rows = tune_rows(scores, targets)
    patients = rows.patients.copy()
    patients[:30] = "one"
    together = Predictions(rows.image_ids, patients, scores, targets, rows.labels, rows.folds)
    assert choose_thresholds(together)["c0"] == pytest.approx(plug_in_threshold(scores[:, 0]))
    assert choose_thresholds(rows)["c0"] != pytest.approx(plug_in_threshold(scores[:, 0]))


@pytest.mark.parametrize("value", [0.0, 1.0, 0.5])
def test_constant_scores_give_a_threshold_inside_the_unit_interval(value: float) -> None:
    targets = np.array([[1.0], [1.0], [1.0], [0.0]])
    assert 0 < choose_thresholds(tune_rows(np.full((4, 1), value), targets))["c0"] < 1


def test_shrinking_steadies_the_threshold_of_a_rare_class() -> None:
    random = np.random.default_rng(2)
    chosen: dict[float, list[float]] = {0.0: [], 20.0: []}
    for _ in range(60):
        scores = random.beta(0.15, 5.0, (300, 1))
        targets = (random.random((300, 1)) < scores).astype(float)
        if targets.sum() >= 3:
            for kappa, found in chosen.items():
                threshold = choose_thresholds(tune_rows(scores, targets), shrinkage_patients=kappa)["c0"]
                found.append(float(np.log(threshold / (1 - threshold))))
    assert np.std(chosen[20.0]) < 0.6 * np.std(chosen[0.0])


def spread(positives: int, *, repeats: int = 150) -> tuple[float, float]:
    """Return the sd of the logit threshold chosen by labels alone and by calibrated scores alone."""
    random = np.random.default_rng(positives)
    rows, chosen = 2000, []
    for _ in range(repeats):
        truth = random.normal(0, 1.5, rows)
        scores = 1 / (1 + np.exp(-(truth - np.log(rows / positives) - 1.0)))
        targets = (random.random(rows) < scores).astype(float)
        if targets.sum() >= 3:
            cuts = np.array([label_threshold(scores, targets), plug_in_threshold(scores)])
            chosen.append(np.log(cuts / (1 - cuts)))
    by_label, by_scores = np.std(chosen, axis=0)
    return float(by_label), float(by_scores)


@pytest.mark.parametrize("positives", [5, 20, 100])
def test_scores_alone_choose_far_more_steadily_than_few_labels(positives: int) -> None:
    by_label, by_scores = spread(positives)
    assert by_scores < by_label / 3
    assert by_scores < 0.35


def test_few_labels_choose_less_steadily_than_many() -> None:
    assert spread(5)[0] > 1.4 * spread(100)[0]


def sixty_patients(positives: int) -> Predictions:
    random = np.random.default_rng(positives)
    targets = (np.arange(600) < positives).astype(float)[:, None]
    return tune_rows(np.clip(0.2 + 0.5 * targets + random.normal(0, 0.12, (600, 1)), 0.01, 0.99), targets)


def test_a_sensitivity_is_promised_from_fifty_nine_patients_on() -> None:
    config = ThresholdConfig(objective=Sensitivity(at_least=0.95))
    enough, short = (fit_thresholds(sixty_patients(n), config) for n in (59, 58))
    assert enough.promised == ("c0",)
    assert enough.notes == {}
    assert enough.values["c0"] == sixty_patients(59).scores[:59, 0].min()
    assert short.promised == ()
    assert short.notes["c0"] == ("sensitivity >= 0.95 cannot be promised (95 % sure): 58 positive patients, 59 needed.")


def test_a_promise_counts_patients_and_their_worst_image() -> None:
    rows = sixty_patients(100)
    patients = rows.patients.copy()
    patients[:100] = [f"twin{row // 2}" for row in range(100)]
    twins = Predictions(rows.image_ids, patients, rows.scores, rows.targets, rows.labels, rows.folds)
    choice = fit_thresholds(twins, ThresholdConfig(objective=Sensitivity(at_least=0.9)))
    lowest = np.sort(rows.scores[:100, 0].reshape(50, 2).min(axis=1))
    assert choice.values["c0"] == lowest[1]  # of 50 patients the second lowest is 95 % sure of 90 %


def test_every_objective_gives_a_threshold_inside_the_unit_interval() -> None:
    random = np.random.default_rng(7)
    for positives in (0, 2, 30):
        targets = np.zeros((80, 2))
        targets[:positives, 0] = 1
        targets[:, 1] = np.nan
        rows = tune_rows(random.random((80, 2)).round(1), targets)
        for objective in (
            FBeta(beta=2), Youden(), Cost(miss=4), Sensitivity(at_least=0.9), Specificity(at_least=0.9),
            NetBenefit(at=0.2), Fixed(value=0.3),
        ):  # fmt: skip
            for toward in ("plug_in", "half"):
                chosen = choose_thresholds(rows, objective=objective, shrink_to=toward)  # type: ignore[arg-type]
                assert all(0 < value < 1 for value in chosen.values())


def test_specificity_shrinks_by_its_negative_patients() -> None:
    rows = sixty_patients(560)  # forty negatives
    free = choose_thresholds(rows, objective=Specificity(at_least=0.9), shrinkage_patients=0)["c0"]
    mixed = choose_thresholds(rows, objective=Specificity(at_least=0.9), shrinkage_patients=40)["c0"]
    firm = choose_thresholds(rows, objective=Specificity(at_least=0.9), shrinkage_patients=1e12)["c0"]

    def logit(value: float) -> float:
        return float(np.log(value / (1 - value)))

    assert logit(mixed) == pytest.approx((logit(free) + logit(firm)) / 2, rel=1e-6)
    negatives = rows.scores[560:, 0]
    assert np.mean(negatives < free) >= 0.9


def test_shrinking_to_half_is_the_recipes_formula() -> None:
    rows = sixty_patients(20)
    label = label_threshold(rows.scores[:, 0], rows.targets[:, 0])
    half = choose_thresholds(rows, shrink_to="half")["c0"]
    assert half == pytest.approx(0.5 + (label - 0.5) * 20 / 40)
    assert choose_thresholds(sixty_patients(2), shrink_to="half")["c0"] == 0.5


def test_costs_on_raw_scores_are_cautioned() -> None:
    choice = fit_thresholds(sixty_patients(20), ThresholdConfig(objective=Cost(miss=9.0)))
    assert choice.values["c0"] == pytest.approx(0.1)
    assert "presumes calibrated scores" in choice.notes["c0"]


def test_an_oracle_may_look_and_must_say_so() -> None:
    rows = sixty_patients(20)
    test = Predictions(
        rows.image_ids, rows.patients, rows.scores, rows.targets, rows.labels, np.array(["test"] * 600, dtype=object)
    )
    with pytest.raises(MedtailError, match="not in fold 'tune'"):
        fit_thresholds(test)
    choice = fit_thresholds(test, oracle=True)
    assert choice.is_optimistic
    assert "OPTIMISTIC" in choice.text()
    assert choice.values == fit_thresholds(rows).values
    assert "OPTIMISTIC" not in fit_thresholds(rows, oracle=True).text()


def test_a_choice_comes_back_with_its_rows() -> None:
    rows = sixty_patients(20)
    choice = fit_thresholds(rows, ThresholdConfig(objective=Sensitivity(at_least=0.95), shrink_to="half"))
    assert choice.rows == rows.digest
    assert ThresholdChoice.from_json(choice.to_json()) == choice
    with pytest.raises(MedtailError, match=r"values\.c0"):
        ThresholdChoice.from_json({**choice.to_json(), "values": {"c0": 1.5}})
    with pytest.raises(MedtailError, match="surprise: unknown key"):
        ThresholdChoice.from_json({**choice.to_json(), "surprise": 1})
