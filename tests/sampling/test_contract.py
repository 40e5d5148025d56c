from __future__ import annotations

import numpy as np
import pytest

from medtail.errors import MedtailError
from medtail.sampling.contract import shard, train_fold
from medtail.tables.manifest import Manifest


def test_train_fold_holds_the_train_rows_of_the_manifest(toy_manifest: Manifest) -> None:
    fold = train_fold(toy_manifest)
    assert (toy_manifest.folds[fold.rows] == "train").all()
    assert len(fold.rows) == (toy_manifest.folds == "train").sum()
    np.testing.assert_array_equal(fold.targets, toy_manifest.in_fold("train").targets)
    assert fold.prevalence == pytest.approx(np.nanmean(fold.targets, axis=0), rel=1e-6)


def test_an_empty_train_fold_is_refused_with_advice(toy_manifest: Manifest) -> None:
    without = toy_manifest.with_folds(np.where(toy_manifest.folds == "train", "tune", toy_manifest.folds))
    with pytest.raises(MedtailError, match=r"toy.csv, column 'fold': no row is in 'train'; .* `medtail data split toy"):
        train_fold(without)


def test_shares_are_filled_up_from_the_start_of_the_epoch() -> None:
    draws = np.arange(100, 110)
    shares = [shard(draws, rank=rank, world_size=4) for rank in range(4)]
    assert [share.tolist() for share in shares] == [
        [100, 104, 108],
        [101, 105, 109],
        [102, 106, 100],
        [103, 107, 101],
    ]


def test_with_a_batch_size_every_batch_is_full() -> None:
    draws = np.arange(5)
    shares = [shard(draws, rank=rank, world_size=2, batch_size=4) for rank in range(2)]
    assert [share.tolist() for share in shares] == [[0, 2, 4, 1], [1, 3, 0, 2]]
    # fewer draws than one batch: the epoch is shown as often as it takes
    assert shard(np.arange(3), rank=0, world_size=1, batch_size=8).tolist() == [0, 1, 2, 0, 1, 2, 0, 1]


def test_one_process_without_a_batch_size_gets_the_draws_as_they_are() -> None:
    draws = np.array([3, 3, 1], dtype=np.int64)
    assert shard(draws, rank=0, world_size=1).tolist() == [3, 3, 1]


@pytest.mark.parametrize(
    ("rank", "world_size", "batch_size", "message"),
    [
        (2, 2, None, "rank 2 of world_size 2: expected"),
        (-1, 2, None, "rank -1 of world_size 2"),
        (0, 0, None, "rank 0 of world_size 0"),
        (0, 1, 0, "batch_size: found 0; expected at least 1, or None"),
    ],
)
def test_numbers_out_of_range_are_refused(rank: int, world_size: int, batch_size: int | None, message: str) -> None:
    with pytest.raises(MedtailError, match=message):
        shard(np.arange(4), rank=rank, world_size=world_size, batch_size=batch_size)
