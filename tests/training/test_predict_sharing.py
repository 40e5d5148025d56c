from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medtail.tables.manifest import read_manifest
from medtail.training.config import TrainConfig
from medtail.training.ensembles import train
from medtail.training.predict import predict
from medtail.training.predict_sharing import rows_of_share


@pytest.mark.parametrize(("count", "batch_size", "size"), [(0, 3, 2), (1, 3, 2), (7, 3, 2), (12, 3, 4), (13, 1, 5)])
def test_every_row_is_scored_once_in_a_batch_of_one_process(count: int, batch_size: int, size: int) -> None:
    whole = [set(range(start, min(start + batch_size, count))) for start in range(0, count, batch_size)]
    seen: list[int] = []
    for rank in range(size):
        rows = rows_of_share(count, batch_size=batch_size, rank=rank, size=size)
        for start in range(0, len(rows), batch_size):
            assert set(rows[start : start + batch_size].tolist()) in whole
        seen += rows.tolist()
    assert sorted(seen) == list(range(count))


@pytest.mark.slow
def test_two_processes_predict_the_bytes_of_one(make_config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    train(make_config(members=2, optimizer={"epochs": 1}, pixels={"size_px": 16}), tmp_path / "run", quiet=True)
    manifest = read_manifest(tmp_path / "toy.csv")
    options = {"batch_size": 9, "quiet": True, "device": "cpu"}
    one = predict(tmp_path / "run", manifest, **options)
    two = predict(tmp_path / "run", manifest, devices=2, **options)
    assert two.scores.tobytes() == one.scores.tobytes()
    np.testing.assert_array_equal(two.image_ids, one.image_ids)
    assert two.digests == one.digests
