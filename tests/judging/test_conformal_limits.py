from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtail.judging.conformal_limits import (
    Cells,
    by_chain,
    controlled_risk,
    gather_cells,
    interpolated,
    k_means,
    lower_limit,
    patients_needed,
    prevalence_adjusted,
)
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions


def cells_of(scores: list[float] | np.ndarray, classes: list[int] | np.ndarray, *, alpha: float = 0.1) -> Cells:
    """One cell an image, one image a patient."""
    numbers = np.arange(len(scores))
    return Cells(np.asarray(scores, dtype=float), np.asarray(classes), numbers, numbers, alpha, 1, 0)


@pytest.mark.parametrize(("alpha", "needed"), [(0.1, 9), (0.05, 19), (0.01, 99), (0.2, 4), (0.3, 3), (0.5, 1)])
def test_a_class_needs_so_many_patients_and_one_fewer_is_always_in_the_set(alpha, needed):
    assert patients_needed(alpha) == needed
    scores = np.linspace(0.2, 0.8, needed)
    assert lower_limit(scores, alpha=alpha) == 0.2
    assert lower_limit(scores[1:], alpha=alpha) == 0.0


@pytest.mark.parametrize("n", [1, 8, 9, 10, 19, 24, 49, 99, 199])
def test_the_limit_is_the_usual_quantile_of_one_minus_the_score_for_every_alpha(n):
    """⌈(n+1)(1-α)⌉-th smallest of 1 - s, in whole numbers: .29 x 100 is 29."""
    scores = np.arange(1, n + 1) / (n + 1)
    for percent in range(1, 100):
        rank = -(-(n + 1) * (100 - percent) // 100)
        expected = np.sort(1 - scores)[rank - 1] if rank <= n else 1.0
        assert 1 - lower_limit(scores, alpha=percent / 100) == pytest.approx(expected, abs=1e-12), percent


def test_patients_lend_one_image_and_the_order_of_rows_and_columns_changes_nothing():
    random = np.random.default_rng(0)
    ids = np.array([f"i{i:03d}" for i in range(120)], dtype=object)
    patients = np.array([f"p{i // 4}" for i in range(120)], dtype=object)
    scores, targets = random.random((120, 2)), (random.random((120, 2)) < 0.5).astype(float)
    labels = LabelSpace(("a", "b"))
    rows = Predictions(ids, patients, scores, targets, labels, ids)
    cells = gather_cells(rows, (0, 1), alpha=0.1, draws=20, seed=3)
    limit, level, behind = cells.limit(cells.of(0, 1), "marginal")
    assert (level, behind) == ("marginal", 30)
    turned = Predictions(
        ids[::-1], patients[::-1], scores[::-1, ::-1], targets[::-1, ::-1], LabelSpace(("b", "a")), ids
    )
    again = gather_cells(turned, (0, 1), alpha=0.1, draws=20, seed=3)
    assert again.limit(again.of(0, 1), "marginal")[0] == limit
    single = {gather_cells(rows, (0, 1), alpha=0.1, draws=1, seed=s).limit(cells.of(0, 1), "m")[0] for s in range(8)}
    assert len(single) > 1
    assert single <= set(scores.ravel())


def test_the_chain_takes_the_narrowest_pool_that_is_large_enough():
    random = np.random.default_rng(0)
    classes = np.repeat([0, 1, 2, 3, 4], [60, 8, 5, 2, 3])
    cells = cells_of(random.random(78), classes)
    tail = {0: "head", 1: "tail", 2: "tail", 3: "medium"}
    found, _ = by_chain(cells, (0, 1, 2, 3, 4), tail_group_of=tail, own_class=True)
    assert [level for _, level, _ in found] == ["class", "tail group", "tail group", "marginal", "marginal"]
    assert [behind for _, _, behind in found] == [60, 13, 13, 78, 78]
    assert found[0][0] == lower_limit(cells.scores[classes == 0], alpha=0.1)
    assert found[1][0] == lower_limit(cells.scores[np.isin(classes, [1, 2])], alpha=0.1)
    few = cells_of(random.random(8), np.repeat([0, 1], 4))
    assert by_chain(few, (0, 1), tail_group_of={}, own_class=True)[0] == [(0.0, "always", 8)] * 2


def test_clusters_join_classes_whose_scores_look_alike_and_serve_a_small_class():
    random = np.random.default_rng(1)
    sizes = [200, 200, 200, 200, 18]
    centres = [0.8, 0.8, 0.2, 0.2, 0.2]
    classes = np.repeat(np.arange(5), sizes)
    cells = cells_of(np.clip(random.normal(np.repeat(centres, sizes), 0.05), 0, 1), classes, alpha=0.05)
    found, clusters = by_chain(cells, tuple(range(5)), tail_group_of={}, own_class=True)
    assert clusters[0] == clusters[1] != clusters[2] == clusters[3] == clusters[4]
    limit, level, behind = found[4]
    assert level == "cluster"
    assert 150 < behind < 270  # about half of the patients of classes 2, 3 and 4
    assert 0.05 < limit < 0.2  # the marginal limit is about the same, the other cluster's about .7
    clustered, _ = by_chain(cells, tuple(range(4)), tail_group_of={}, own_class=False)
    assert {level for _, level, _ in clustered} == {"cluster"}
    assert clustered[0][0] > 0.6 > clustered[2][0]


def test_too_few_classes_form_no_clusters():
    cells = cells_of(np.random.default_rng(0).random(50), np.zeros(50, dtype=int))
    found, clusters = by_chain(cells, (0,), tail_group_of={}, own_class=False)
    assert clusters == {}
    assert found[0][1] == "marginal"


def test_interpolation_ends_in_the_marginal_and_the_own_limit():
    random = np.random.default_rng(2)
    cells = cells_of(np.concatenate([random.random(40), random.random(40) / 2]), np.repeat([0, 1], 40))
    everybody = cells.limit(cells.of(0, 1), "m")[0]
    own = [cells.limit(cells.of(c), "c")[0] for c in (0, 1)]
    assert [limit for limit, _, _ in interpolated(cells, (0, 1), weight=0.0)] == [everybody] * 2
    assert [limit for limit, _, _ in interpolated(cells, (0, 1), weight=1.0)] == own
    half = [limit for limit, _, _ in interpolated(cells, (0, 1), weight=0.5)]
    assert half == pytest.approx([(o + everybody) / 2 for o in own])


def test_adjusting_by_prevalence_lowers_the_limit_of_rare_classes_and_accepts_its_own_score():
    random = np.random.default_rng(3)
    shares = np.array([0.9, 0.1])
    cells = cells_of(random.random(99) * 0.7, np.repeat([0, 1], [90, 9]))
    found = prevalence_adjusted(cells, (0, 1), shares)
    assert found[0][0] / found[1][0] == pytest.approx(9.0)
    ratios = cells.scores / shares[cells.classes]
    inside = cells.scores >= np.array([limit for limit, _, _ in found])[cells.classes]
    # exactly the cells at or above the tenth smallest ratio, itself among them
    assert inside.tolist() == (ratios >= np.sort(ratios)[9]).tolist()


@given(seed=st.integers(0, 10**6), size=st.integers(9, 60))
def test_the_risk_limit_is_the_highest_that_keeps_the_bound(seed, size):
    random = np.random.default_rng(seed)
    targets = (random.random((size, 3)) < 0.5).astype(float)
    targets[:, 0] = 1
    scores = random.integers(1, 12, (size, 3)) / 12
    ids = np.array([f"i{i}" for i in range(size)], dtype=object)
    rows = Predictions(ids, ids, scores, targets, LabelSpace(("a", "b", "c")), ids)
    limit, level, behind = controlled_risk(gather_cells(rows, (0, 1, 2), alpha=0.1, draws=1, seed=0))

    def bound(at: float) -> float:
        missed = ((scores < at) & (targets == 1)).sum(axis=1) / (targets == 1).sum(axis=1)
        return (missed.sum() + 1) / (size + 1)

    assert (level, behind) == ("risk control", size)
    assert bound(limit) <= 0.1 + 1e-9
    higher = [s for s in np.unique(scores[targets == 1]) if s > limit]
    assert not higher or bound(higher[0]) > 0.1


def test_without_enough_patients_risk_control_promises_nothing():
    cells = cells_of(np.full(8, 0.9), np.zeros(8, dtype=int))
    assert controlled_risk(cells) == (0.0, "always", 8)


def test_k_means_finds_separated_groups_and_weighs_points():
    points = np.array([[0.0], [1.0], [10.0], [11.0]])
    centres = k_means(points, np.array([3.0, 1.0, 1.0, 1.0]), number=2, seed=0)
    assert sorted(centres[:, 0].tolist()) == pytest.approx([0.25, 10.5])
    assert k_means(np.zeros((4, 1)), np.ones(4), number=2, seed=0).tolist() == [[0.0], [0.0]]
