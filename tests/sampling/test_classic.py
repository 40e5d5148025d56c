from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from medtail.errors import MedtailError
from medtail.sampling.build import (
    ClassBalancedSamplerConfig,
    ProgressiveSamplerConfig,
    RepeatFactorSamplerConfig,
    SquareRootSamplerConfig,
    UniformSamplerConfig,
    build_sampler,
)
from medtail.sampling.classic import class_members, classwise_shares, repeat_factors
from medtail.sampling.contract import train_fold
from medtail.tables.manifest import Manifest, manifest_from_frame

NAN = np.nan


def table(**classes: list[float]) -> Manifest:
    """A manifest of train rows, a patient each, with the given class columns."""
    count = len(next(iter(classes.values())))
    ids = [f"r{i}" for i in range(count)]
    frame = pd.DataFrame({"image_id": ids, "path": ids, "patient_id": ids, "fold": "train", **classes})
    return manifest_from_frame(frame, name="t.csv")


def multiclass(*members: int) -> Manifest:
    """Rows that belong to one class each."""
    return table(**{f"type={c}": [float(m == c) for m in members] for c in range(max(members) + 1)})


def test_class_balanced_by_hand_in_a_multiclass_task() -> None:
    sampler = build_sampler(ClassBalancedSamplerConfig(), multiclass(0, 0, 0, 1, 2, 2), seed=0, epochs=1)
    assert sampler.frequencies(0) == pytest.approx(np.array([1, 1, 1, 3, 1.5, 1.5]) / 9)


def test_class_balanced_by_hand_in_a_multilabel_task() -> None:
    # a: rows 0, 1; b: row 1; no finding: rows 2, 4 (partly assessed); row 3 knows nothing
    manifest = table(a=[1, 1, 0, NAN, NAN], b=[0, 1, 0, NAN, 0])
    sampler = build_sampler(ClassBalancedSamplerConfig(), manifest, seed=0, epochs=1)
    assert sampler.frequencies(0) == pytest.approx(np.array([1 / 2, 1 / 2 + 1, 1 / 2, 0, 1 / 2]) / 3)


def test_square_root_by_hand() -> None:
    # counts 4, 1: picks 2/3 and 1/3
    sampler = build_sampler(SquareRootSamplerConfig(), multiclass(0, 0, 0, 0, 1), seed=0, epochs=1)
    assert sampler.frequencies(0) == pytest.approx([1 / 6] * 4 + [1 / 3])


def test_progressive_goes_from_all_rows_alike_to_class_balanced() -> None:
    manifest = multiclass(0, 0, 0, 1)
    sampler = build_sampler(ProgressiveSamplerConfig(), manifest, seed=0, epochs=5)
    balanced = build_sampler(ClassBalancedSamplerConfig(), manifest, seed=0, epochs=5)
    assert sampler.frequencies(0) == pytest.approx([0.25] * 4)
    assert sampler.frequencies(2) == pytest.approx([0.25 / 2 + 1 / 12] * 3 + [0.125 + 0.25])
    assert sampler.frequencies(4) == pytest.approx(balanced.frequencies(4))
    assert sampler.frequencies(9) == pytest.approx(balanced.frequencies(4))
    alone = build_sampler(ProgressiveSamplerConfig(), manifest, seed=0, epochs=1)
    assert alone.frequencies(0) == pytest.approx([0.25] * 4)


def test_repeat_factors_by_hand() -> None:
    # prevalences: a 3/4, b 1/4, c 1/16 with b; t = 1/4 asks sqrt(1/4 / 1/16) = 2 of c, 1 of b, none of a
    rows = np.zeros((16, 3))
    rows[:12, 0], rows[12:, 1], rows[12, 2] = 1, 1, 1
    fold = train_fold(table(a=list(rows[:, 0]), b=list(rows[:, 1]), c=list(rows[:, 2])))
    assert repeat_factors(fold, threshold=0.25, cap=10.0).tolist() == [1.0] * 12 + [2.0, 1.0, 1.0, 1.0]
    assert repeat_factors(fold, threshold=1.0, cap=3.0)[[0, 12, 13]] == pytest.approx([np.sqrt(4 / 3), 3.0, 2.0])


def test_repeat_factor_counts_prevalence_among_assessed_rows_only() -> None:
    fold = train_fold(table(a=[1, 0, NAN, NAN], b=[0, 0, 0, 1]))
    assert repeat_factors(fold, threshold=1.0, cap=10.0) == pytest.approx([np.sqrt(2), 1, 1, 2])


def test_repeat_factor_draws_each_row_within_one_of_its_due() -> None:
    manifest = multiclass(*([0] * 37 + [1] * 5 + [2]))
    for epoch_rows in (43, 1000, 7):
        config = RepeatFactorSamplerConfig(threshold=0.3)
        sampler = build_sampler(config, manifest, seed=3, epochs=2, epoch_rows=epoch_rows)
        due = sampler.frequencies(0) * epoch_rows
        for epoch in range(20):
            draws = sampler.draw(epoch)
            assert len(draws) == epoch_rows
            assert (np.abs(np.bincount(draws, minlength=43) - due) < 1).all()


def test_repeat_factor_keeps_its_promise_in_epochs_of_one_draw() -> None:
    # prevalences 2/3 and 1/3 at t = 1: factors √1.5, √1.5, √3
    config = RepeatFactorSamplerConfig(threshold=1.0)
    sampler = build_sampler(config, multiclass(0, 0, 1), seed=0, epochs=1, epoch_rows=1)
    epochs = 4000
    found = np.bincount([int(sampler.draw(epoch)[0]) for epoch in range(epochs)]) / epochs
    promised = np.sqrt([1.5, 1.5, 3.0]) / np.sqrt([1.5, 1.5, 3.0]).sum()
    assert sampler.frequencies(0) == pytest.approx(promised)
    assert (np.abs(found - promised) <= 4 * np.sqrt(promised * (1 - promised) / epochs)).all()


def test_repeat_factor_can_draw_any_two_rows_together() -> None:
    # rounding along the table instead of a random order would never draw neighbours in one short epoch
    sampler = build_sampler(RepeatFactorSamplerConfig(), multiclass(0, 0, 1, 1), seed=0, epochs=1, epoch_rows=2)
    pairs = {tuple(sorted(sampler.draw(epoch).tolist())) for epoch in range(200)}
    assert pairs == {(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)}


def test_uniform_is_a_permutation_an_epoch() -> None:
    sampler = build_sampler(UniformSamplerConfig(), multiclass(0, 1, 0, 0, 1), seed=0, epochs=3)
    for epoch in range(5):
        assert sorted(sampler.draw(epoch).tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("epoch_rows", [1, 3, 4, 5, 7, 12])
def test_uniform_shows_every_row_before_any_comes_again_whatever_an_epoch_is(epoch_rows: int) -> None:
    sampler = build_sampler(UniformSamplerConfig(), multiclass(0, 1, 0, 0, 1), seed=0, epochs=9, epoch_rows=epoch_rows)
    endless = np.concatenate([sampler.draw(epoch) for epoch in range(20)])
    assert all(len(sampler.draw(epoch)) == epoch_rows for epoch in range(20))
    for start in range(0, len(endless) - 4, 5):
        assert sorted(endless[start : start + 5].tolist()) == [0, 1, 2, 3, 4]


def test_a_row_that_knows_nothing_is_in_no_class_and_a_class_without_rows_is_left_out() -> None:
    fold = train_fold(table(a=[1, 0, NAN], b=[0, 0, NAN]))
    assert class_members(fold).tolist() == [[True, False], [False, True], [False, False]]


def test_without_any_positive_a_classwise_sampler_says_so() -> None:
    with pytest.raises(MedtailError, match=r"t.csv: no class has a positive row in the train fold; .*'uniform'"):
        class_members(train_fold(table(a=[0, 0, NAN], b=[0, 0, 0])))


def test_both_picks_made_as_one_equal_two_picks() -> None:
    # simulate the procedure as written: a class, then one of its rows
    random = np.random.default_rng(0)
    members = random.random((12, 3)) < [0.8, 0.3, 0.15]
    members[0] = True
    counts = members.sum(axis=0)
    picks = np.sqrt(counts) / np.sqrt(counts).sum()
    tally = np.zeros(12)
    draws = 20_000
    for c in random.choice(3, size=draws, p=picks):
        tally[random.choice(np.flatnonzero(members[:, c]))] += 1
    promised = classwise_shares(members, power=0.5)
    error = np.sqrt(promised * (1 - promised) / draws)
    assert (np.abs(tally / draws - promised) <= 4 * error).all()


def test_state_of_another_run_is_refused_naming_the_differences() -> None:
    manifest = multiclass(0, 1, 1)
    state = build_sampler(SquareRootSamplerConfig(), manifest, seed=1, epochs=2).state_dict()
    other = build_sampler(ClassBalancedSamplerConfig(), manifest, seed=0, epochs=2)
    with pytest.raises(MedtailError, match=r"kind 'square_root' \(here 'class_balanced'\), seed 1 \(here 0\)"):
        other.load_state_dict(state)
