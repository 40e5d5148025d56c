from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics as oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from medtail.errors import MedtailError
from medtail.judging import metrics
from medtail.judging.bootstrap import (
    Engine,
    Scheme,
    draw_weights,
    fixed_point,
    number_patients,
    patient_sums,
    rank_rows,
    rank_values,
    resample_ranked,
    resample_sums,
)

ENGINES: tuple[Engine, ...] = ("numpy", "compiled")


def made_up_rows(
    *, rows: int = 300, classes: int = 5, patients: int = 90, levels: int = 40, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    prevalence = np.geomspace(0.5, 0.01, classes)
    targets = (random.random((rows, classes)) < prevalence).astype(float)
    scores = np.clip(np.rint((random.random((rows, classes)) + 0.3 * targets) * levels) / levels / 1.3, 0, 1)
    targets[random.random((rows, classes)) < 0.1] = np.nan
    return scores, targets, random.integers(0, patients, rows)


def test_every_multinomial_resample_draws_as_many_patients_as_there_are() -> None:
    weights = draw_weights(50, resamples=130).matrix()
    assert weights.shape == (50, 130)
    assert (weights.sum(axis=0) == 50).all()
    # drawn with replacement: about 1/e of the patients are left out of each
    assert np.mean(weights == 0) == pytest.approx(np.exp(-1), abs=0.02)


def test_bayesian_weights_have_the_moments_of_an_exponential_and_never_vanish() -> None:
    weights = draw_weights(400, resamples=200, scheme="bayesian").matrix() / 256
    assert weights.min() > 0
    assert weights.mean() == pytest.approx(1.0, abs=0.02)
    assert weights.std() == pytest.approx(1.0, abs=0.03)


def test_more_resamples_leave_the_first_ones_as_they_were() -> None:
    few, many = draw_weights(20, resamples=70), draw_weights(20, resamples=200)
    assert np.array_equal(few.matrix(), many.matrix()[:, :70])
    assert not np.array_equal(few.matrix(), draw_weights(20, resamples=70, seed=1).matrix())


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(MedtailError, match="expected multinomial or bayesian"):
        draw_weights(3, resamples=1, scheme="poisson")  # type: ignore[arg-type]
    with pytest.raises(MedtailError, match=">= 0"):
        draw_weights(3, resamples=-1)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("scheme", ["multinomial", "bayesian"])
def test_the_ranked_engine_equals_a_slow_loop_to_the_last_digit(engine: Engine, scheme: Scheme) -> None:
    scores, targets, patients = made_up_rows()
    weights = draw_weights(90, resamples=70, scheme=scheme)
    classes = [rank_rows(scores[:, c], targets[:, c], patients) for c in range(5)]
    ap, auroc = resample_ranked(classes, weights, engine=engine, threads=1)
    matrix = weights.matrix()
    for c in range(5):
        for b in range(70):
            weight = matrix[patients, b].astype(float)
            assert np.array_equal(ap[c, b], slow_ap(scores[:, c], targets[:, c], weight), equal_nan=True)
            assert np.array_equal(auroc[c, b], slow_auroc(scores[:, c], targets[:, c], weight), equal_nan=True)


def slow_ap(scores: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
    total = true = summed = 0.0
    for score in sorted(set(scores[~np.isnan(targets)]), reverse=True):
        tied = scores == score
        gained = float(weights[tied & (targets == 1)].sum())
        total += gained + float(weights[tied & (targets == 0)].sum())
        true += gained
        summed += gained * (true / max(total, 1.0))
    return summed / true if true else float("nan")


def slow_auroc(scores: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
    true = false = lost = 0.0
    for score in sorted(set(scores[~np.isnan(targets)]), reverse=True):
        tied = scores == score
        gained, before = float(weights[tied & (targets == 1)].sum()), false
        false += float(weights[tied & (targets == 0)].sum())
        true += gained
        lost += gained * (before + false)
    return 1.0 - lost / (2.0 * true * false) if true and false else float("nan")


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6), levels=st.sampled_from([1, 3, 500]), rows=st.integers(1, 60), patients=st.integers(1, 9)
)
def test_both_engines_give_the_same_bytes_on_any_data(seed: int, levels: int, rows: int, patients: int) -> None:
    scores, targets, owners = made_up_rows(rows=rows, classes=3, patients=patients, levels=levels, seed=seed)
    weights = draw_weights(patients, resamples=65, seed=seed)
    classes = [rank_rows(scores[:, c], targets[:, c], owners) for c in range(3)]
    first, second = (resample_ranked(classes, weights, engine=engine, threads=1) for engine in ENGINES)
    assert first[0].tobytes() == second[0].tobytes()
    assert first[1].tobytes() == second[1].tobytes()


def test_the_number_of_threads_does_not_change_a_byte() -> None:
    scores, targets, patients = made_up_rows()
    weights = draw_weights(90, resamples=200)
    classes = [rank_rows(scores[:, c], targets[:, c], patients) for c in range(5)]
    one, two = (resample_ranked(classes, weights, engine="compiled", threads=threads) for threads in (1, 2))
    assert one[0].tobytes() == two[0].tobytes()
    assert one[1].tobytes() == two[1].tobytes()


def test_the_compiled_loop_is_the_plain_one() -> None:
    from medtail.judging import kernels

    scores, targets, patients = made_up_rows(rows=60, patients=20)
    rows = rank_rows(scores[:, 0], targets[:, 0], patients)
    block = draw_weights(20, resamples=64).blocks[0]
    outcomes = []
    for loop in (kernels.ranked_block, kernels._ranked_block):
        totals, summed, lost = np.zeros((4, 64), dtype=np.int32), np.zeros(64), np.zeros(64)
        loop(rows.patients, rows.flags, block, totals, summed, lost)
        outcomes.append((totals.tobytes(), summed.tobytes(), lost.tobytes()))
    assert outcomes[0] == outcomes[1]


def test_resampled_values_are_scikit_learns_with_sample_weights() -> None:
    scores, targets, patients = made_up_rows(classes=1)
    weights = draw_weights(90, resamples=20)
    ap, auroc = resample_ranked([rank_rows(scores[:, 0], targets[:, 0], patients)], weights)
    kept = ~np.isnan(targets[:, 0])
    for b in range(20):
        weight = weights.matrix()[patients[kept], b]
        y, s = targets[kept, 0], scores[kept, 0]
        assert ap[0, b] == pytest.approx(oracle.average_precision_score(y, s, sample_weight=weight), abs=1e-12)
        assert auroc[0, b] == pytest.approx(oracle.roc_auc_score(y, s, sample_weight=weight), abs=1e-12)


def test_resamples_without_positives_are_undefined_about_as_often_as_theory_says() -> None:
    # spec §5: with k positive patients a share of about exp(-k) has none
    for k, share in ((1, 0.37), (2, 0.14), (3, 0.05)):
        targets = np.zeros(200)
        targets[:k] = 1
        rows = rank_rows(np.linspace(0, 1, 200), targets, np.arange(200))
        ap, _ = resample_ranked([rows], draw_weights(200, resamples=2000))
        assert np.mean(np.isnan(ap)) == pytest.approx(share, abs=0.03)


def test_additive_sums_are_those_of_a_slow_loop_and_exact_in_any_order() -> None:
    random = np.random.default_rng(3)
    patients = random.integers(0, 30, 200)
    weights = draw_weights(30, resamples=70)
    columns = fixed_point(random.random((200, 3)) * 2 - 1, rows=200, heaviest=weights.heaviest)
    sums = resample_sums(patient_sums(columns, patients, 30), weights)
    shuffled = random.permutation(200)
    assert sums.tobytes() == resample_sums(patient_sums(columns[shuffled], patients[shuffled], 30), weights).tobytes()
    for b in range(70):
        expected = (weights.matrix()[patients, b][:, None] * columns).sum(axis=0)
        assert np.array_equal(sums[:, b], expected)


def test_the_fixed_point_grid_is_far_finer_than_anything_printed() -> None:
    values = np.random.default_rng(0).random(1000)
    assert np.abs(fixed_point(values, rows=100_000, heaviest=20) - values).max() < 1e-9


def test_both_engines_agree_on_counts_at_a_threshold() -> None:
    scores, targets, patients = made_up_rows(classes=1)
    kept = ~np.isnan(targets[:, 0])
    called = (scores[kept, 0] >= 0.5).astype(float)
    weights = draw_weights(90, resamples=64)
    tp_fp = np.stack([called * targets[kept, 0], called * (1 - targets[kept, 0])], axis=1)
    additive = resample_sums(patient_sums(tp_fp, patients[kept], 90), weights)
    for b in range(64):
        tp, fp, _, _ = metrics.confusion_counts(
            scores[:, 0], targets[:, 0], weights=weights.matrix()[patients, b].astype(float)
        )
        assert (additive[0, b], additive[1, b]) == (tp, fp)


def test_values_from_the_order_are_those_of_the_exact_metrics_to_the_last_digit() -> None:
    for levels in (3, 40, 10_000):
        scores, targets, patients = made_up_rows(levels=levels)
        for c in range(5):
            ap, auroc = rank_values(rank_rows(scores[:, c], targets[:, c], patients))
            assert ap == metrics.average_precision(scores[:, c], targets[:, c])
            assert auroc == metrics.auroc(scores[:, c], targets[:, c])


def test_many_names_are_numbered_in_their_order() -> None:
    names = np.array([f"p{number}" for number in np.random.default_rng(0).integers(0, 500, 2000)], dtype=object)
    codes, count = number_patients(names)
    expected, oracle = np.unique(names.astype(str), return_inverse=True)
    assert count == len(expected)
    assert np.array_equal(codes, oracle)


def test_the_draw_does_not_depend_on_threads() -> None:
    one, three = (draw_weights(300, resamples=500, threads=threads).blocks for threads in (1, 3))
    assert one.tobytes() == three.tobytes()


def test_patients_are_numbered_by_name_not_by_row() -> None:
    forward, _ = number_patients(np.array(["b", "a", "c"], dtype=object))
    backward, _ = number_patients(np.array(["c", "a", "b"], dtype=object))
    assert forward.tolist() == backward[::-1].tolist()
