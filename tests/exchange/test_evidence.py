from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medtail.errors import MedtailError
from medtail.exchange.evidence import read_evidence, trust_sentence
from medtail.exchange.findings import findings_by
from medtail.tables.labels import LabelSpace
from medtail.tables.results import results_from_rows
from medtail.tables.tail import ClassCounts

LABELS = LabelSpace(("common", "rare"))
COUNTS = ClassCounts(LABELS.class_names, (400, 5), (300, 4), (1000, 1000))
WEIGHTS = "ab" * 32


def results(**digests: str):
    header = {"fold": "test", "digests": {"model": WEIGHTS, **digests}}
    rows = [
        {"metric": "ap", "class": "common", "value": 0.812, "low": 0.7, "high": 0.9, "support": 40},
        {"metric": "ap", "class": "rare", "value": float("nan"), "support": 0},
    ]
    return results_from_rows(rows, header=header)


def make_run(folder: Path, *, ensemble: bool = False) -> Path:
    run = folder / "thyroid"
    card = {
        "labels": LABELS.to_json(),
        "digests": {"weights": WEIGHTS},
        "thresholds": {"common": 0.4, "rare": 0.1},
        "train_counts": dict(reversed(COUNTS.to_json().items())),
        "versions": {"medtail": "0.1.0"},
        "note": "For research.",
    }
    model = run / "model"
    model.mkdir(parents=True)
    if ensemble:
        (model / "member_0").mkdir()
        (model / "member_0" / "card.json").write_text(json.dumps({**card, "digests": {"weights": "cd" * 32}}))
        card = {"members": ["member_0"], "weights": WEIGHTS, "thresholds": {"common": 0.6, "rare": 0.2}}
    (model / "card.json").write_text(json.dumps(card))
    return run


@pytest.mark.parametrize("ensemble", [False, True])
def test_a_run_tells_its_classes_counts_and_thresholds(tmp_path, ensemble):
    evidence = read_evidence(make_run(tmp_path, ensemble=ensemble))
    assert (evidence.name, evidence.digest, evidence.version) == ("thyroid", WEIGHTS, "0.1.0")
    assert evidence.counts == COUNTS
    assert evidence.thresholds == ({"common": 0.6, "rare": 0.2} if ensemble else {"common": 0.4, "rare": 0.1})
    assert evidence.tail == {"common": "head", "rare": "tail"}
    assert evidence.trust["rare"] == "rare: 4 patients in training; not tested"
    assert not evidence.calibrated


def test_stored_results_become_sentences_with_their_interval(tmp_path):
    run = make_run(tmp_path)
    results().write(run / "results" / "test.csv")
    trust = read_evidence(run).trust
    assert trust["common"] == ("common: 300 patients in training; test AP 0.81 [0.70, 0.90] on 40 positive images")
    assert trust["rare"] == ("rare: 4 patients in training; not tested (no image of the test fold shows it, or all do)")
    # the model folder alone finds them too
    assert read_evidence(run / "model").trust == trust
    assert read_evidence(run / "model").name == "thyroid"


def test_results_of_other_weights_are_left_out_aloud(tmp_path):
    run = make_run(tmp_path)
    results(model="99" * 32).write(run / "results" / "test.csv")
    evidence = read_evidence(run)
    assert evidence.results is None
    assert "other weights" in evidence.cautions[0]
    assert "other weights" in findings_by(evidence, [0.5, 0.5]).cautions[-1]


def test_results_from_before_a_calibration_are_named(tmp_path):
    run = make_run(tmp_path)
    results(calibration="77").write(run / "results" / "test.csv")
    evidence = read_evidence(run)
    assert evidence.results is not None
    assert "before the model's calibration changed" in evidence.cautions[0]


def test_a_calibration_brings_its_own_thresholds(tmp_path):
    from medtail.judging.calibration import fit_calibration
    from medtail.judging.thresholds import fit_thresholds
    from medtail.tables.predictions import Predictions

    run = make_run(tmp_path)
    random = np.random.default_rng(0)
    ids = np.array([f"i{row}" for row in range(60)], dtype=object)
    targets = (random.random((60, 2)) < 0.4).astype(float)
    scored = Predictions(ids, ids, random.random((60, 2)), targets, LABELS, np.array(["tune"] * 60, dtype=object),
                         digests={"model": WEIGHTS})  # fmt: skip
    from dataclasses import replace

    made = fit_calibration(scored)
    made = replace(made, thresholds=fit_thresholds(made.calibrate(scored)))
    made.write(run / "model" / "calibration.json")
    evidence = read_evidence(run)
    assert evidence.calibrated
    assert evidence.thresholds == dict(made.thresholds.values)
    raw = findings_by(evidence, [0.9, 0.9], calibrated=False)
    assert all(finding.threshold is None for finding in raw.findings), "thresholds of calibrated scores, raw scores"
    replace(made, model="55" * 32).write(run / "model" / "calibration.json")
    with pytest.raises(MedtailError, match="was fitted for other weights"):
        read_evidence(run)


def test_trust_counts_in_words():
    one = ClassCounts(("x", "y"), (1, 0), (1, 0), (9, 9))
    assert trust_sentence("x", counts=one, tail_group=None, results=None) == "1 patient in training; not tested"
    assert (
        trust_sentence("y", counts=one, tail_group="tail", results=None) == "rare: never seen in training; not tested"
    )


@pytest.mark.parametrize("broken", [{"labels": LABELS.to_json()}, {"digests": {"weights": WEIGHTS}}])
def test_a_damaged_card_is_named(tmp_path, broken):
    (tmp_path / "card.json").write_text(json.dumps(broken))
    with pytest.raises(MedtailError, match="lacks labels or the weights' digest"):
        read_evidence(tmp_path)
