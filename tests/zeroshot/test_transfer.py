from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from medtail.errors import MedtailError
from medtail.tables.labels import LabelSpace
from medtail.tables.manifest import manifest_from_frame
from medtail.tables.predictions import Predictions
from medtail.tables.vectors import Phrase, text_vectors
from medtail.zeroshot.transfer import nearest_seen, transfer

IDS = np.array(["a", "b", "c"], dtype=object)
SCORES = np.array([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7]])
ROWS = Predictions(
    IDS, IDS, SCORES, np.array([[1.0, 0], [0, 1], [0, 0]]), LabelSpace(("Mass", "Effusion")),
    np.array(["test"] * 3, dtype=object), thresholds={"Mass": 0.2, "Effusion": 0.2},
)  # fmt: skip


def test_nearest_is_by_the_mean_of_the_prompts() -> None:
    texts = text_vectors(
        [Phrase(n, "prompt", "", n + str(k)) for n in ("Mass", "Effusion", "Nodule") for k in range(2)],
        np.array([[1, 0], [0, 1], [0, 1], [-1, 1], [1, 0.2], [1, 0.1]]),
    )
    assert nearest_seen(texts, unseen=["Nodule"], seen=["Mass", "Effusion"]) == {"Nodule": "Mass"}
    with pytest.raises(MedtailError, match="no seen classes"):
        nearest_seen(texts, unseen=["Nodule"], seen=[])


def test_scores_are_the_other_class_and_labels_the_classs_own() -> None:
    frame = pd.DataFrame({"image_id": ["c", "b", "a"], "path": "x", "patient_id": list("123"), "Nodule": [1, 0, 0]})
    found = transfer(ROWS, {"Nodule": "Effusion", "Mass": "Mass"}, manifest=manifest_from_frame(frame))
    np.testing.assert_array_equal(found.scores, SCORES[:, [1, 0]])
    np.testing.assert_array_equal(found.targets, np.array([[0, 1], [0, 0], [1, 0]]))
    assert found.thresholds is None, "thresholds of another class mean nothing here"
    assert np.isnan(transfer(ROWS, {"Nodule": "Mass"}).targets).all()


def test_class_that_is_not_scored_cannot_stand_in() -> None:
    with pytest.raises(MedtailError, match=r"class 'Efusion', to stand in for 'Nodule'.*did you mean 'Effusion'"):
        transfer(ROWS, {"Nodule": "Efusion"})


def test_image_the_manifest_does_not_have_is_named() -> None:
    frame = pd.DataFrame({"image_id": ["a"], "path": "x", "patient_id": ["1"], "Nodule": [1]})
    with pytest.raises(MedtailError, match="no row for 2 scored images, such as 'b'"):
        transfer(ROWS, {"Nodule": "Mass"}, manifest=manifest_from_frame(frame))
