"""The quality of an epoch by its decisions."""

from __future__ import annotations

import numpy as np
import pytest

from medtail.challenges.thyro_lmd_decoding import decode, foci_thresholds
from medtail.challenges.thyro_lmd_labels import EXCLUSIVE, FOCI, GROUPS, LABELS
from medtail.judging.metrics import f1, macro
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions
from medtail.training.quality import decoded_f1

MIXED = LabelSpace.from_columns(["shape=round", "shape=oval", "halo"])


def test_groups_are_decided_by_the_highest_score_and_others_by_a_shrunken_threshold() -> None:
    scores = np.array([[0.2, 0.1, 0.45], [0.3, 0.4, 0.1], [0.2, 0.3, 0.2], [0.4, 0.3, 0.3]])
    targets = np.array([[1.0, 0, 1], [0, 1, 0], [0, 1, 0], [0, 1, np.nan]])
    # of one positive the threshold stays near one half: halo is missed; the groups' F1 are 2/3 and 4/5
    assert decoded_f1(scores, targets, MIXED) == pytest.approx((2 / 3 + 4 / 5 + 0) / 3)
    many = np.tile(scores, (60, 1)), np.tile(targets, (60, 1))
    # of sixty it is nearly the best one: halo is found
    assert decoded_f1(*many, MIXED) == pytest.approx((2 / 3 + 4 / 5 + 1) / 3)


def test_a_class_without_positives_leaves_the_mean() -> None:
    scores, targets = np.full((3, 3), 0.4), np.array([[1.0, 0, 0]] * 3)
    assert decoded_f1(scores, targets, MIXED) == 1.0
    assert decoded_f1(scores, np.zeros((3, 3)), MIXED) is None
    assert decoded_f1(scores, np.full((3, 3), np.nan), MIXED) is None


def test_thyroid_reports_are_decoded_by_their_protocol_in_any_order_of_labels() -> None:
    random = np.random.default_rng(0)
    truth = decode(random.random((80, 20)))
    scores = np.clip(0.25 * truth + 0.7 * random.random((80, 20)), 0, 1)
    targets = truth.astype(float)
    targets[:7, LABELS.index("foci_rim")] = np.nan
    ids = np.arange(80).astype(str).astype(object)
    labels = LabelSpace.from_columns(LABELS.class_names, groups=EXCLUSIVE)
    tune = Predictions(ids, ids, scores, targets, labels, np.array(["tune"] * 80, dtype=object))
    called = decode(scores, thresholds=foci_thresholds(tune))
    assert not (called[:, [LABELS.index(n) for n in FOCI]] == (scores[:, [LABELS.index(n) for n in FOCI]] >= 0.5)).all()
    expected = macro(np.array([f1(called[:, c].astype(float), targets[:, c]) for c in range(20)]))[0]
    assert decoded_f1(scores, targets, labels) == pytest.approx(expected)
    order = random.permutation(20)
    names = [labels.class_names[k] for k in order]
    assert decoded_f1(scores[:, order], targets[:, order], labels.select(names)) == pytest.approx(expected)
    assert set(GROUPS["foci"]) == set(FOCI)
