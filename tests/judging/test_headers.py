from __future__ import annotations

import json

import numpy as np

from medtail.judging.evaluation import EvaluationConfig
from medtail.judging.headers import results_header
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions


def test_the_header_is_json_and_says_when_images_stood_for_patients():
    ids = np.array(["a", "b"], dtype=object)
    folds = np.array(["test", "tune"], dtype=object)
    rows = Predictions(ids, ids, np.ones((2, 1)), np.ones((2, 1)), LabelSpace(("x",)), folds, has_patients=False)
    found = results_header(rows, num_patients=2, config=EvaluationConfig(seed=7))
    assert found["bootstrap"]["unit"] == "image"
    assert found["bootstrap"]["seed"] == 7
    assert found["fold"] == "test and tune"
    assert found["digests"]["predictions"] == rows.digest
    json.dumps(found, allow_nan=False)
