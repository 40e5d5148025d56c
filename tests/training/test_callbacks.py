from __future__ import annotations

import numpy as np
import pytest

from medtail.training.callbacks import tune_quality


def test_tune_quality_averages_only_classes_that_can_be_judged() -> None:
    scores = np.array([[0.9, 0.2, 0.5, 0.1], [0.4, 0.3, 0.5, 0.2], [0.6, 0.9, 0.5, 0.3]])
    nan = np.nan
    targets = np.array([[1, 0, 0, nan], [1, 0, 0, nan], [0, 1, nan, 1]])
    # class 0: precision 1 then 2/3; class 1: perfect; class 2 has no positive; class 3 no negative
    assert tune_quality(scores, targets) == (pytest.approx(((1 + 2 / 3) / 2 + 1) / 2), 2)


def test_without_a_class_to_judge_there_is_no_value() -> None:
    assert tune_quality(np.array([[0.5]]), np.array([[1.0]])) == (None, 0)
