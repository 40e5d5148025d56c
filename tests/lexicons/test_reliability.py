from __future__ import annotations

import numpy as np
import pytest

from medtail.errors import MedtailError
from medtail.lexicons.probabilities import descriptor_probabilities
from medtail.lexicons.propagation import level_law
from medtail.lexicons.reliability import level_reliability


def simulated(rows: int):  # type: ignore[no-untyped-def]
    random = np.random.default_rng(4)
    law = level_law(
        descriptor_probabilities(
            composition=random.dirichlet(np.ones(4), rows), echogenicity=random.dirichlet(np.ones(5), rows),
            shape=random.dirichlet(np.ones(2), rows), margin=random.dirichlet(np.ones(4), rows),
            foci=random.random((rows, 4)) / 2, is_calibrated=True,
        )
    )  # fmt: skip
    levels = (random.random((rows, 1)) > np.cumsum(law.probabilities, axis=1)).sum(axis=1)
    return law, np.minimum(levels, 4)


def test_a_law_that_tells_the_truth_is_reliable() -> None:
    law, levels = simulated(4000)
    found = level_reliability(law, levels)
    assert found["category"].tolist() == ["TR1", "TR2", "TR3", "TR4", "TR5"]
    assert np.abs(found["predicted"] - found["observed"]).max() < 0.02  # three standard errors of a share
    assert found["n"].sum() == 4000
    assert found["named"].sum() == 4000
    wrong = level_reliability(law, (levels + 1) % 5)
    assert np.abs(wrong["predicted"] - wrong["observed"]).max() > 0.1


def test_unknown_levels_are_left_out() -> None:
    law, levels = simulated(50)
    levels[:10] = -1
    found = level_reliability(law, levels)
    assert found["n"].sum() == 40
    assert found["predicted"].sum() == pytest.approx(1.0)
    assert found["observed"].sum() == pytest.approx(1.0)
    agreed = (law.most_probable[10:] == levels[10:]).mean()
    correct = found["correct"].fillna(0.0)
    assert (correct * found["named"]).sum() / 40 == pytest.approx(agreed)


def test_wrong_levels_are_refused() -> None:
    law, levels = simulated(3)
    with pytest.raises(MedtailError, match="found 2 levels of 3 nodules"):
        level_reliability(law, levels[:2])
    with pytest.raises(MedtailError, match="numbers of 5 levels"):
        level_reliability(law, np.array([0, 1, 5]))
    with pytest.raises(MedtailError, match="no level is known"):
        level_reliability(law, np.full(3, -1))
