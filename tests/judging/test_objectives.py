"""Each objective's label cut is the best of all cuts, its plug-in cut the best in expectation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from medtail.errors import UsageError
from medtail.judging.objectives import (
    AnyObjective,
    Cost,
    FBeta,
    Fixed,
    NetBenefit,
    Sensitivity,
    Specificity,
    Youden,
    fewest_patients,
    label_cut,
    objective_name,
    parse_objective,
    plug_in_cut,
    promised_cut,
)

FITTED: list[AnyObjective] = [
    FBeta(),
    FBeta(beta=2.0),
    Youden(),
    NetBenefit(at=0.1),
    Sensitivity(at_least=0.8),
    Specificity(at_least=0.8),
]


def worth(objective: AnyObjective, called: np.ndarray, positive: np.ndarray) -> float:
    """How good a set of calls is; `positive` may be probabilities. Slow and plain."""
    tp, fp = float((called * positive).sum()), float((called * (1 - positive)).sum())
    p, n = float(positive.sum()), float((1 - positive).sum())
    match objective:
        case FBeta():
            return (1 + objective.beta**2) * tp / (tp + fp + objective.beta**2 * p)
        case Youden():
            return tp / p - fp / n
        case NetBenefit():
            return tp - fp * objective.at / (1 - objective.at)
        case Sensitivity():  # the fewest calls that reach it
            return -called.sum() if tp >= objective.at_least * p - 1e-9 else -np.inf
        case Specificity():  # the most calls that leave it
            return called.sum() if n - fp >= objective.at_least * n - 1e-9 else -np.inf
        case _:
            raise AssertionError


@pytest.mark.parametrize("objective", FITTED, ids=objective_name)
@given(seed=st.integers(0, 400), levels=st.sampled_from([2, 1000]), rows=st.integers(2, 25))
def test_no_cut_is_better_on_the_labels(objective: AnyObjective, seed: int, levels: int, rows: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.integers(1, levels + 1, rows) / (levels + 1)
    targets = random.integers(0, 2, rows).astype(float)
    targets[0], targets[1] = 1, 0
    cut = label_cut(objective, scores, targets)
    candidates = [worth(objective, (scores >= t).astype(float), targets) for t in {*scores, 1.0}]
    assert 0 < cut < 1
    assert worth(objective, (scores >= cut).astype(float), targets) == pytest.approx(max(candidates))


@pytest.mark.parametrize("objective", FITTED, ids=objective_name)
@given(seed=st.integers(0, 400))
def test_no_cut_is_better_in_expectation_if_scores_are_probabilities(objective: AnyObjective, seed: int) -> None:
    scores = np.random.default_rng(seed).beta(0.5, 2.0, 40)
    cut = plug_in_cut(objective, scores)
    candidates = [worth(objective, (scores >= t).astype(float), scores) for t in {*scores, 1.0}]
    assert worth(objective, (scores >= cut).astype(float), scores) == pytest.approx(max(candidates))


def test_labels_that_cannot_say_give_no_cut() -> None:
    scores = np.array([0.2, 0.8])
    assert np.isnan(label_cut(FBeta(), scores, np.zeros(2)))
    assert np.isnan(label_cut(Sensitivity(at_least=0.9), scores, np.zeros(2)))
    assert np.isnan(label_cut(Specificity(at_least=0.9), scores, np.ones(2)))
    assert np.isnan(label_cut(Youden(), scores, np.ones(2)))
    assert np.isnan(label_cut(FBeta(), scores[:0], scores[:0]))


def test_where_no_call_pays_the_cut_lies_above_every_score() -> None:
    scores, targets = np.array([0.9, 0.8, 0.1]), np.array([0.0, 0.0, 1.0])
    assert label_cut(NetBenefit(at=0.6), scores, targets) > 0.9


def test_costs_set_the_threshold_and_no_score_does() -> None:
    for scores in (np.array([0.1]), np.zeros(0)):
        assert plug_in_cut(Cost(false_alarm=1, miss=19), scores) == pytest.approx(0.05)
        assert plug_in_cut(Fixed(value=0.3), scores) == 0.3


@given(n=st.integers(1, 300), at_least=st.sampled_from([0.8, 0.9, 0.95, 0.99]), confidence=st.sampled_from([0.9, 0.95]))
def test_a_promise_takes_the_binomial_rank(n: int, at_least: float, confidence: float) -> None:
    scores = (np.arange(n) + 1) / (n + 1)
    cut = promised_cut(Sensitivity(at_least=at_least, confidence=confidence), scores)
    ranks = [k for k in range(1, n + 1) if binom.cdf(k - 1, n, 1 - at_least) <= 1 - confidence + 1e-12]
    assert (cut is None) == (not ranks)
    assert (cut is None) == (n < fewest_patients(Sensitivity(at_least=at_least, confidence=confidence)))
    if cut is not None:
        assert cut == scores[max(ranks) - 1]


def test_fifty_nine_patients_promise_95_percent() -> None:
    assert fewest_patients(Sensitivity(at_least=0.95, confidence=0.95)) == 59
    assert fewest_patients(Sensitivity(at_least=0.9, confidence=0.95)) == 29


def test_a_promise_is_kept() -> None:
    random = np.random.default_rng(0)
    objective = Sensitivity(at_least=0.9)
    kept = []
    for _ in range(2000):
        cut = promised_cut(objective, random.random(60))
        assert cut is not None
        kept.append(1.0 - cut >= 0.9)  # the true sensitivity at a cut t of uniform scores is 1 - t
    assert np.mean(kept) + 2 * 0.005 >= 0.95


@pytest.mark.parametrize(
    "text",
    ["f1", "f@2", "youden", "cost@1:20", "sensitivity@0.95", "sensitivity@0.9:0.8", "specificity@0.9",
     "net_benefit@0.05", "fixed@0.5", "fixed@0.3"],
)  # fmt: skip
def test_names_are_read_as_they_are_written(text: str) -> None:
    assert objective_name(parse_objective(text)) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sensitivty@0.9", "did you mean 'sensitivity'"),
        ("sensitivity", "expected one of"),
        ("sensitivity@much", "expected one of"),
        ("sensitivity@1.5", "at_least: found 1.5"),
        ("cost@1", "expected one of"),
        ("f1@2", "expected one of"),
        ("nan", "unknown objective"),
        ("fixed@nan", "value"),
    ],
)
def test_what_cannot_be_read_is_explained(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_objective(text)
