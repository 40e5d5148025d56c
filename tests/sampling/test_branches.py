from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from medtail.sampling.branches import TwoBranchesSampler, TwoBranchesSamplerConfig, deferred_shares
from medtail.sampling.classic import Plan
from medtail.sampling.contract import train_fold
from medtail.tables.manifest import Manifest, manifest_from_frame


@pytest.fixture
def tumours() -> Manifest:
    """A hundred rows of one exclusive group: 80 of a, 16 of b, 4 of c."""
    values = np.repeat(["a", "b", "c"], [80, 16, 4])
    columns = {f"type={name}": (values == name).astype(int) for name in "abc"}
    ids = [f"i{row}" for row in range(100)]
    return manifest_from_frame(
        pd.DataFrame({"image_id": ids, "path": ids, "patient_id": ids, "fold": "train", **columns})
    )


@pytest.mark.parametrize(("second", "shares"), [("balanced", [1 / 3] * 3), ("reversed", [1 / 26, 5 / 26, 20 / 26])])
def test_second_stream_shows_classes_alike_or_upside_down(tumours: Manifest, second: str, shares: list[float]) -> None:
    config = TwoBranchesSamplerConfig(second=second)  # type: ignore[arg-type]
    sampler = TwoBranchesSampler(Plan("two_branches", train_fold(tumours), 0, 200), config, steps=10)
    promised = sampler.stream_frequencies(0) @ tumours.targets
    np.testing.assert_allclose(promised, [[0.8, 0.16, 0.04], shares], rtol=1e-6)
    shown = [
        tumours.targets[sampler.draw(epoch)[sampler.streams(epoch) == 1]].mean(axis=0) for epoch in range(40)
    ]  # 4,000 draws
    np.testing.assert_allclose(np.mean(shown, axis=0), shares, atol=4 * 0.5 / np.sqrt(4000))


def test_every_batch_is_half_of_either_and_the_first_stream_shows_each_row_once(tumours: Manifest) -> None:
    plan = Plan("two_branches", train_fold(tumours), 0, 200)
    sampler = TwoBranchesSampler(plan, TwoBranchesSamplerConfig(), steps=10)
    streams = sampler.streams(3).reshape(10, 20)
    assert (streams.sum(axis=1) == 10).all()
    assert sorted(sampler.draw(3)[streams.ravel() == 0].tolist()) == list(range(100))


def test_deferred_draws_are_even_and_then_balanced() -> None:
    balanced = np.array([0.7, 0.2, 0.1])
    found = [deferred_shares(balanced, epoch=epoch, epochs=10, balance_from=0.8)[0] for epoch in range(12)]
    assert found == [pytest.approx(1 / 3)] * 8 + [0.7] * 4
    assert deferred_shares(balanced, epoch=0, epochs=1, balance_from=0.0)[0] == 0.7
