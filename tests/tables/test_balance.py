from __future__ import annotations

import numpy as np
import pytest

from medtail.tables.balance import FREE, Balance, Need

SHARE = np.array([0.6, 0.25, 0.15])


def random_balance(seed: int, *, minimum: int = 2) -> tuple[Balance, np.ndarray]:
    """A dealt state of 40 groups, 3 classes and 1 size, two of the groups fixed; and the weights."""
    random = np.random.default_rng(seed)
    positives = random.poisson([0.15, 0.3, 1.0], (40, 3)).astype(float)
    amounts = np.hstack([positives, positives.sum(axis=1, keepdims=True) + 1])
    weights = np.array([1.0, 1.0, 1.0, 0.5])
    fixed = np.full(40, FREE)
    fixed[:2] = [0, 2]
    balance = Balance(amounts, weights, SHARE, Need.of(positives, minimum, SHARE, [3, 1, 2]), fixed)
    # a random state, so that some folds lack positives and the costs of that are seen
    for group in range(2, 40):
        balance.fold[group] = random.integers(3)
        balance.gap[balance.fold[group]] += balance.amounts[group]
        balance.have[balance.fold[group]] += balance.need.positives[group]
    return balance, weights


def objective(balance: Balance, weights: np.ndarray, fold: np.ndarray) -> float:
    """The cost of an assignment, straight from its definition."""
    totals = balance.amounts.sum(axis=0)
    value = 0.0
    for k, share in enumerate(SHARE):
        gap = balance.amounts[fold == k].sum(axis=0) - share * totals
        value += float((weights * gap**2 / (share * totals**2)).sum())
        missing = np.maximum(balance.need.wanted - balance.need.positives[fold == k].sum(axis=0), 0)
        value += float(balance.need.cost[k] * missing.sum())
    return value


@pytest.mark.parametrize("seed", range(6))
def test_the_change_of_every_move_equals_the_difference_of_the_objective(seed: int) -> None:
    balance, weights = random_balance(seed)
    before = objective(balance, weights, balance.fold)
    moves = balance._moves()
    assert np.isinf(moves[:2]).all()
    for group in range(2, 40):
        for k in range(3):
            if k == balance.fold[group]:
                assert np.isinf(moves[group, k])
                continue
            after = balance.fold.copy()
            after[group] = k
            assert moves[group, k] == pytest.approx(objective(balance, weights, after) - before, abs=1e-9)


@pytest.mark.parametrize("seed", range(12))
def test_the_best_swap_is_the_best_of_all_swaps(seed: int) -> None:
    balance, weights = random_balance(seed)
    before = objective(balance, weights, balance.fold)
    changes = {}
    for left in range(2, 40):
        for right in range(left + 1, 40):
            if balance.fold[left] != balance.fold[right]:
                after = balance.fold.copy()
                after[[left, right]] = after[[right, left]]
                changes[left, right] = objective(balance, weights, after) - before
    found = balance._best_swap(balance._moves())
    assert found is not None
    assert changes[min(found), max(found)] == pytest.approx(min(changes.values()), abs=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_improving_ends_where_no_move_and_no_swap_helps(seed: int) -> None:
    balance, weights = random_balance(seed)
    before = objective(balance, weights, balance.fold)
    balance.improve()
    after = objective(balance, weights, balance.fold)
    assert after < before
    assert balance._moves().min() > -1e-9
    assert balance._best_swap(balance._moves()) is None
    assert balance.fold[:2].tolist() == [0, 2]
