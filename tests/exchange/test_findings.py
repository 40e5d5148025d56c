from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from medtail.errors import MedtailError
from medtail.exchange.findings import RESEARCH_ONLY, UNCALIBRATED, findings_of, tirads_of
from medtail.lexicons.descriptors import LABEL_NAMES, LABELS
from medtail.lexicons.probabilities import probabilities_from_labels
from medtail.lexicons.propagation import level_law
from medtail.tables.labels import ExclusiveGroup, LabelSpace
from medtail.tables.tail import ClassCounts

LABELS_5 = LabelSpace.from_columns(["mass", "halo", "shape=oval", "shape=round", "rare"])
COUNTS = ClassCounts(LABELS_5.class_names, (90, 40, 50, 30, 2), (80, 30, 45, 25, 1), (100,) * 5)
THRESHOLDS = {"mass": 0.5, "halo": 0.2, "rare": 0.05, "shape=oval": 0.9, "shape=round": 0.9}


def descriptors(**peaks: float) -> np.ndarray:
    """Twenty calm probabilities: the named labels as given, the rest of each group shared out."""
    row = np.zeros(len(LABEL_NAMES))
    for group, names in LABELS.items():
        given = {name: peaks[name] for name in names if name in peaks}
        rest = [name for name in names if name not in given]
        for name in names:
            share = 0.0 if group == "foci" else (1 - sum(given.values())) / max(1, len(rest))
            row[LABEL_NAMES.index(name)] = given.get(name, share)
    return row


THYROID = LabelSpace(
    LABEL_NAMES, tuple(ExclusiveGroup(group, names) for group, names in LABELS.items() if group != "foci")
)


def test_findings_come_likeliest_first_and_are_decided_by_threshold_or_group():
    found = findings_of([0.4, 0.3, 0.6, 0.4, 0.05], labels=LABELS_5, thresholds=THRESHOLDS, counts=COUNTS)
    assert [f.name for f in found.findings] == ["shape=oval", "mass", "shape=round", "halo", "rare"]
    by_name = {f.name: f for f in found.findings}
    assert {name: f.present for name, f in by_name.items()} == {
        "shape=oval": True,  # the likeliest of its group, though below its threshold
        "shape=round": False,
        "mass": False,
        "halo": True,
        "rare": True,  # at the threshold
    }
    assert by_name["shape=oval"].threshold is None
    assert by_name["shape=oval"].group == "shape"
    assert by_name["halo"].threshold == 0.2
    assert by_name["rare"].train_positives == 1
    assert by_name["mass"].trust == "not tested"


def test_without_thresholds_only_groups_are_decided():
    found = findings_of([0.99, 0.3, 0.6, 0.4, 0.05], labels=LABELS_5, thresholds=None, counts=None)
    decided = {f.name: f.present for f in found.findings}
    assert decided == {"mass": None, "halo": None, "rare": None, "shape=oval": True, "shape=round": False}
    assert all(f.train_positives is None for f in found.findings)


def test_the_first_caution_is_the_permitted_use_and_raw_scores_are_called_raw():
    raw = findings_of(np.full(5, 0.5), labels=LABELS_5, thresholds=None, counts=None, cautions=["Odd.", "Odd."])
    assert raw.cautions == (RESEARCH_ONLY, UNCALIBRATED, "Odd.")
    sure = findings_of(np.full(5, 0.5), labels=LABELS_5, thresholds=None, counts=None, calibrated=True)
    assert sure.cautions == (RESEARCH_ONLY,)
    assert all(f.calibrated for f in sure.findings)


def test_the_permitted_use_is_the_one_of_the_models():
    from medtail.models.checkpoint import RESEARCH_NOTE

    assert RESEARCH_ONLY == RESEARCH_NOTE


def test_the_record_is_strict_json_and_loses_nothing():
    found = findings_of(
        descriptors(comp_solid=0.9, echo_hypo=0.8, shape_wider=0.9, margin_smooth=0.9, foci_punctate=0.7),
        labels=THYROID, thresholds=None, counts=None, size_mm=12.0, image_id="a", patient_id="",
    )  # fmt: skip
    value = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert value["patient_id"] is None
    assert len(value["findings"]) == 20
    assert value["tirads"]["level"] == found.tirads.level
    assert value["tirads"]["level_range"] == list(found.tirads.level_range)
    assert value["tirads"]["level_probabilities"] == dict(found.tirads.level_probabilities)


@pytest.mark.parametrize("system", ["acr", "c", "eu", "k"])
def test_tirads_is_the_law_of_the_lexicon(system):
    random = np.random.default_rng(3)
    for _ in range(5):
        scores = np.zeros(20)
        for group, names in LABELS.items():
            columns = [LABEL_NAMES.index(name) for name in names]
            scores[columns] = random.random(5) if group == "foci" else random.dirichlet(np.ones(len(names)))
        found, _ = tirads_of(scores, labels=THYROID, system=system, size_mm=16.0, calibrated=True)
        law = level_law(probabilities_from_labels(scores[None], is_calibrated=True), system=system)
        assert found.level == law.categories[int(law.most_probable[0])]
        for k, name in enumerate(law.categories):
            assert found.level_probabilities[name] == law.probabilities[0, k]
        assert found.advice_probabilities == {name: v[0] for name, v in law.advice(np.array([16.0])).items()}
        assert sum(found.level_probabilities.values()) == pytest.approx(1.0)
        assert (found.points is not None) == (system == "acr")


def test_a_sure_reading_has_the_points_of_the_chart():
    row = descriptors(comp_solid=1, echo_hypo=1, shape_taller=1, margin_smooth=1, foci_punctate=1)
    found, _ = tirads_of(row, labels=THYROID, size_mm=12.0, calibrated=True)
    assert (found.points, found.level, found.advice) == (10, "TR5", "FNA")
    assert found.expected_points == 10.0
    assert found.level_range == ("TR5", "TR5")
    assert found.sentence == (
        "ACR TI-RADS 2017: TR5 (highly suspicious), probability 100%; likeliest 10 points, on average 10.0."
        " At 12 mm: fine-needle aspiration 100%, scan again 0%, nothing advised 0% (for TR5: 12 mm; FNA at >= 10 mm)."
    )


def test_points_belong_to_the_level_that_is_told():
    # TR5 is likeliest as a whole, while the single likeliest number of points (6) is in TR4
    row = descriptors(comp_solid=1, echo_hypo=1, shape_wider=0.55, margin_irregular=1, foci_macro=0.48)
    found, _ = tirads_of(row, labels=THYROID, size_mm=None, calibrated=True)
    law = level_law(probabilities_from_labels(row[None]), system="acr")
    assert int(law.points[0].argmax()) == 6
    assert found.level == "TR5"
    assert found.points == 7


def test_without_a_size_there_is_no_advice():
    row = descriptors(comp_solid=1, echo_hypo=1, shape_taller=1, margin_smooth=1)
    for size in (None, float("nan")):
        found, _ = tirads_of(row, labels=THYROID, size_mm=size, calibrated=True)
        assert found.advice is None
        assert found.advice_probabilities == {}
        assert found.sentence.endswith("Size unknown: no advice.")


def test_separate_sigmoids_become_shares_and_hopeless_groups_a_caution():
    separate = np.full(20, 0.5)
    found, said = tirads_of(separate, labels=LabelSpace(LABEL_NAMES), size_mm=None, calibrated=True)
    assert found is not None
    assert any("P(no foci)" in note for note in said)
    nothing, said = tirads_of(np.zeros(20), labels=LabelSpace(LABEL_NAMES), size_mm=None, calibrated=True)
    assert nothing is None
    assert "could not be computed" in said[0]


def test_models_of_other_classes_have_no_tirads():
    assert tirads_of(np.full(5, 0.5), labels=LABELS_5, size_mm=10.0, calibrated=True) == (None, ())


@pytest.mark.parametrize(
    ("probabilities", "said"),
    [
        ([0.5, 0.5], "expected \\[5\\], one a class"),
        ([0.5, 1.5, 0.1, 0.1, 0.1], "'halo': found .*1.5.*expected a probability in \\[0, 1\\]"),
        ([0.5, np.nan, 0.1, 0.1, 0.1], "'halo': found .*nan"),
    ],
)
def test_numbers_that_are_no_probabilities_are_refused(probabilities, said):
    with pytest.raises(MedtailError, match=said):
        findings_of(probabilities, labels=LABELS_5, thresholds=None, counts=None)


def test_an_impossible_size_is_refused():
    with pytest.raises(MedtailError, match="findings, size_mm"):
        tirads_of(np.full(20, 0.5), labels=LabelSpace(LABEL_NAMES), size_mm=-1.0, calibrated=True)


def test_findings_load_no_torch():
    script = "import sys, medtail.exchange.findings, medtail.exchange.dicom_export; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "False"
