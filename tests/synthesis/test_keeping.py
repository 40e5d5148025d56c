from __future__ import annotations

import numpy as np
import pytest

from medtail.errors import MedtailError
from medtail.synthesis.keeping import choose_kept

FAR = np.arange(6.0)[:, None] * 100


def choose(**changed):
    given = {
        "entropy": None, "ratio": np.ones(6), "ratio_limit": np.full(6, 0.5), "features": FAR, "double_below": 1.0,
    }  # fmt: skip
    return choose_kept(np.array([0, 0, 0, 1, 1, 1]), **{**given, **changed})


def test_nothing_wrong_is_all_kept():
    assert choose().kept.all()
    assert choose(ratio_limit=np.full(6, np.nan)).kept.all()


def test_an_image_is_doubted_against_the_mean_of_its_own_class():
    found = choose(entropy=np.array([0.1, 0.1, 0.4, 5.0, 5.0, 5.6]))
    assert np.flatnonzero(found.doubted).tolist() == [2, 5]
    assert np.flatnonzero(choose(entropy=np.array([0.1, 0.1, 0.4, 5, 5, 5.6]), alpha=1.05).doubted).tolist() == [2, 5]
    assert not choose(entropy=np.array([0.1, 0.1, 0.4, 5, 5, 5.6]), alpha=3.0).doubted.any()


def test_near_copies_are_dropped_by_their_own_classes_limit():
    found = choose(ratio=np.full(6, 0.4), ratio_limit=np.array([0.5, 0.5, 0.5, 0.3, 0.3, np.nan]))
    assert found.copied.tolist() == [True, True, True, False, False, False]


def test_of_doubles_the_first_good_one_stays():
    features = np.array([[0.0], [0.1], [0.2], [50.0], [50.0], [90.0]])
    assert choose(features=features).doubled.tolist() == [False, True, True, False, True, False]
    # the first is dropped for another reason, so the second is kept
    ratio = np.array([0.1, 1, 1, 1, 1, 1])
    found = choose(features=features, ratio=ratio)
    assert found.doubled.tolist() == [False, False, True, False, True, False]
    assert found.kept.tolist() == [False, True, False, True, False, True]


def test_a_chain_of_near_images_does_not_drop_what_is_far_from_all_that_is_kept():
    features = np.array([[0.0], [0.9], [1.8], [100.0], [200.0], [300.0]])
    assert choose(features=features).doubled.tolist() == [False, True, False, False, False, False]


def test_alpha_must_be_positive():
    with pytest.raises(MedtailError, match="alpha 0; expected above 0"):
        choose(alpha=0.0)
