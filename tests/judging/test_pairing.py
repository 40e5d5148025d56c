"""Tables are joined by names, never by position, and refused with everything that differs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medtail.errors import MedtailError
from medtail.judging.pairing import pair_rows
from medtail.tables.labels import ExclusiveGroup, LabelSpace
from medtail.tables.predictions import Predictions
from medtail.tables.tail import ClassCounts

NAMES = ("Effusion", "Hernia", "Nodule")


def table(seed: int = 0, n: int = 12) -> Predictions:
    y = np.random.default_rng(5).integers(0, 2, (n, 3)).astype(float)
    y[3, 1] = np.nan
    return Predictions(
        image_ids=np.array([f"i{k:02d}" for k in range(n)], dtype=object),
        patients=np.array([f"p{k // 2}" for k in range(n)], dtype=object),
        scores=np.random.default_rng(seed).random((n, 3)),
        targets=y,
        labels=LabelSpace(NAMES),
        folds=np.array(["test"] * n, dtype=object),
        train_counts=ClassCounts(NAMES, (9, 5, 1), (9, 5, 1), (20, 20, 20)),
        name=f"seed{seed}",
    )


def shuffled(given: Predictions, order: list[int], columns: list[int]) -> Predictions:
    turned = given.take(np.array(order))
    names = tuple(NAMES[c] for c in columns)
    return replace(
        turned, scores=turned.scores[:, columns], targets=turned.targets[:, columns], labels=LabelSpace(names)
    )


def test_rows_and_classes_are_joined_by_name() -> None:
    first, second = table(0), table(1)
    paired = pair_rows({"A": first, "B": shuffled(second, list(range(11, -1, -1)), [2, 0, 1])})
    assert paired["B"].image_ids.tolist() == first.image_ids.tolist()
    assert paired["B"].labels == first.labels
    np.testing.assert_array_equal(paired["B"].scores, second.scores)
    np.testing.assert_array_equal(paired["B"].targets, first.targets)
    counts = paired["B"].train_counts
    assert counts is not None
    assert counts.class_names == NAMES


def test_missing_and_extra_images_are_named() -> None:
    full = table()
    with pytest.raises(MedtailError, match=r"'B': has no scores for 2 of the 12 images of 'A': i03, i07"):
        pair_rows({"A": full, "B": full.take(np.array([0, 1, 2, 4, 5, 6, 8, 9, 10, 11]))})
    with pytest.raises(MedtailError, match=r"'B': scores 1 images that 'A' does not: i11"):
        pair_rows({"A": full.take(np.arange(11)), "B": full})


def test_an_image_that_stands_twice_is_refused() -> None:
    full = table()
    with pytest.raises(MedtailError, match="'B': 1 images stand twice: i00"):
        pair_rows({"A": full, "B": full.take(np.array([0, *range(12)]))})


def test_everything_that_differs_is_listed_at_once() -> None:
    full = table()
    other = full.targets.copy()
    other[2, 0] = 1 - other[2, 0]
    other[3, 1] = 1.0
    patients = full.patients.copy()
    patients[4] = "elsewhere"
    tables = {
        "A": full,
        "targets": replace(full, targets=other),
        "patients": replace(full, patients=patients),
        "unknown": replace(full, has_patients=False),
        "fewer": full.take(np.arange(10)),
        "classes": replace(full, scores=full.scores[:, :2], targets=full.targets[:, :2], labels=LabelSpace(NAMES[:2])),
    }
    with pytest.raises(MedtailError) as caught:
        pair_rows(tables)
    said = str(caught.value)
    assert (
        "'targets': 2 targets differ from those of 'A', in 2 images (i02, i03) and 2 classes (Effusion, Hernia)" in said
    )
    assert "'patients': 1 images belong to other patients than in 'A': i04" in said
    assert "'unknown': patients are unknown, but 'A' has them" in said
    assert "'fewer': has no scores for 2 of the 12 images" in said
    assert "'classes': lacks 1 classes of 'A': Nodule" in said
    assert len(said.splitlines()) == 5


def test_other_exclusive_groups_would_mean_other_decisions() -> None:
    full = table()
    grouped = replace(full, labels=LabelSpace(NAMES, (ExclusiveGroup("kind", NAMES[:2]),)))
    with pytest.raises(MedtailError, match=r"'B': other exclusive groups than 'A'.*found kind; expected none"):
        pair_rows({"A": full, "B": grouped})


def test_a_target_that_nobody_assessed_is_the_same_in_both() -> None:
    assert np.isnan(pair_rows({"A": table(), "B": table(1)})["B"].targets[3, 1])
