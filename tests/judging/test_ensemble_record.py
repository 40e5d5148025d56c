"""Weights as a file: they come back as they went, and only to the members they were fitted to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medtail.errors import MedtailError
from medtail.judging.ensemble_record import EnsembleWeights, read_ensemble
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions

WEIGHTS = EnsembleWeights(
    ("a", "b"),
    ("ma", ""),
    ("x", "y"),
    "mean",
    "class_best",
    np.array([[1.0, 0.25], [0.0, 0.75]]),
    {"tune": {"rows": 3}},
)


def table(seed: int, *, model: str = "", names: tuple[str, ...] = ("x", "y")) -> Predictions:
    scores = np.random.default_rng(seed).random((4, len(names)))
    ids = np.array(list("pqrs"), dtype=object)
    digests = {"model": model} if model else {}
    return Predictions(ids, ids, scores, np.zeros((4, len(names))), LabelSpace(names), ids, digests=digests, name="t")


def test_what_is_written_is_read_back_and_combines_the_same(tmp_path: Path) -> None:
    WEIGHTS.write(tmp_path / "w.json")
    found = read_ensemble(tmp_path / "w.json")
    assert (found.members, found.models, found.class_names) == (WEIGHTS.members, WEIGHTS.models, WEIGHTS.class_names)
    assert (found.how, found.method, dict(found.evidence)) == ("mean", "class_best", {"tune": {"rows": 3}})
    tables = [table(1, model="ma"), table(2)]
    assert np.array_equal(found.combine(tables).scores, WEIGHTS.combine(tables).scores)
    expected = np.column_stack([tables[0].scores[:, 0], 0.25 * tables[0].scores[:, 1] + 0.75 * tables[1].scores[:, 1]])
    np.testing.assert_allclose(found.combine(tables).scores, expected)


def test_weights_follow_their_classes_by_name() -> None:
    tables = [table(1, model="ma"), table(2)]
    swapped = [replace(t, scores=t.scores[:, ::-1], labels=LabelSpace(("y", "x"))) for t in tables]
    assert np.array_equal(WEIGHTS.combine(swapped).scores[:, ::-1], WEIGHTS.combine(tables).scores)


def test_other_members_are_refused_all_at_once() -> None:
    with pytest.raises(MedtailError, match="found 1 tables; expected 2, in the order of the fit: a, b"):
        WEIGHTS.combine([table(1)])
    with pytest.raises(MedtailError) as caught:
        WEIGHTS.combine([table(1, model="other"), table(2, names=("x", "z"))])
    text = str(caught.value)
    assert "table 1 (t): scores of another model (other) than member 'a' (ma)" in text
    assert "table 2 (t): other classes" in text


@pytest.mark.parametrize(
    "change",
    [{"kind": "x"}, {"how": "median of"}, {"weights": [[1.0, 0.25]]}, {"weights": [[0.5, 0.25], [0.1, 0.75]]},
     {"weights": [[2.0, 0.25], [-1.0, 0.75]]}, {"members": None}, {"models": ["m"]}],
)  # fmt: skip
def test_a_damaged_file_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "w.json"
    WEIGHTS.write(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(MedtailError, match="holds no weights of an ensemble"):
        read_ensemble(path)
