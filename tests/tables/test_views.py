"""Views of one study: closed forms, and laws that any table keeps."""

from __future__ import annotations

from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtail.errors import MedtailError, UsageError
from medtail.judging.metrics import auroc
from medtail.tables.labels import LabelSpace
from medtail.tables.manifest import Manifest, manifest_from_frame
from medtail.tables.predictions import Predictions
from medtail.tables.views import RULES, aggregate_views, combine_views, view_kind

LABELS = LabelSpace(("Hernia", "Mass"))


def world(views: list[str], studies: list[str], scores: list[float]) -> tuple[Predictions, Manifest]:
    ids = np.array([f"i{k}" for k in range(len(views))], dtype=object)
    patients = np.array([f"p-{study}" for study in studies], dtype=object)
    values = np.column_stack([scores, np.array(scores) / 2])
    table = Predictions(ids, patients, values, np.zeros(values.shape), LABELS, np.array(["test"] * len(ids)), name="s")
    frame = pd.DataFrame({"image_id": ids, "path": ids, "patient_id": patients, "study_id": studies, "view": views})
    return table, manifest_from_frame(frame.assign(Hernia=0, Mass=0), name="m.csv")


@st.composite
def tables(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows, classes = draw(st.integers(1, 12)), draw(st.integers(1, 3))
    cells = st.floats(0, 1, allow_subnormal=False)
    scores = np.array([[draw(cells) for _ in range(classes)] for _ in range(rows)])
    studies = np.array([draw(st.sampled_from("abcd")) for _ in range(rows)])
    frontal = np.array([draw(st.booleans()) for _ in range(rows)])
    return scores, studies, frontal


@pytest.mark.parametrize("rule", RULES)
@given(table=tables())
def test_laws_of_a_study(rule: str, table: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    scores, studies, frontal = table

    def run(order: np.ndarray, values: np.ndarray) -> np.ndarray:
        return aggregate_views(values[order], studies[order], rule=rule, is_frontal=frontal[order])

    rows = np.arange(len(scores))
    found = run(rows, scores)
    for study in set(studies):
        inside = studies == study
        assert (found[inside] == found[inside][0]).all()
        slack = 1e-15
        assert (found[inside] >= scores[inside].min(axis=0) - slack).all()
        assert (found[inside] <= scores[inside].max(axis=0) + slack).all()
    backwards = rows[::-1]
    assert np.array_equal(run(backwards, scores), found[backwards])
    assert np.array_equal(run(rows, scores[:, ::-1]), found[:, ::-1])
    np.testing.assert_allclose(run(rows, found), found, atol=1e-15)


def test_frontal_weight_is_eight_to_two_of_the_two_means() -> None:
    table, manifest = world(["PA", "AP", "LL", "LATERAL"], ["s"] * 4, [0.9, 0.7, 0.4, 0.2])
    found, census = combine_views(table, manifest, rule="frontal")
    np.testing.assert_allclose(found.scores[:, 0], 0.8 * 0.8 + 0.2 * 0.3)
    assert census.without_frontal == 0


def test_a_study_without_frontal_view_keeps_what_there_is_and_is_counted() -> None:
    table, manifest = world(["LL", "LATERAL", "PA"], ["s", "s", "t"], [0.2, 0.6, 0.9])
    found, census = combine_views(table, manifest, rule="frontal", frontal_weight=1.0)
    np.testing.assert_allclose(found.scores[:, 0], [0.4, 0.4, 0.9])
    assert (census.studies, census.several, census.without_frontal) == (2, 1, 1)
    assert "1 without a frontal view" in census.text()


def test_weights_of_one_half_and_one_view_each_are_the_mean_and_frontal_alone_ignores_the_lateral() -> None:
    table, manifest = world(["PA", "LL"], ["s", "s"], [0.9, 0.1])
    half, _ = combine_views(table, manifest, rule="frontal", frontal_weight=0.5)
    mean, _ = combine_views(table, manifest, rule="mean")
    np.testing.assert_allclose(half.scores, mean.scores)
    assert combine_views(table, manifest, rule="frontal", frontal_weight=1.0)[0].scores[1, 0] == 0.9


def test_two_noisy_views_of_one_study_gain_what_averaging_noise_gains() -> None:
    random = np.random.default_rng(0)
    truth = (random.random(4000) < 0.2).astype(float)
    labels, studies = np.repeat(truth, 2), np.repeat(np.arange(4000), 2)
    noise = random.normal(size=8000)
    single = 1 / (1 + np.exp(-(1.5 * labels + noise)))
    fused = aggregate_views(np.log(single / (1 - single))[:, None], studies)[:, 0]
    # d' of one view is 1.5; the mean of two has 1.5 times the root of two, and AUROC is the normal law at d' / root 2
    normal = NormalDist()
    assert auroc(single, labels) == pytest.approx(normal.cdf(1.5 / 2**0.5), abs=0.015)
    assert auroc(1 / (1 + np.exp(-fused)), labels) == pytest.approx(normal.cdf(1.5), abs=0.015)


def test_images_without_a_study_stand_for_themselves() -> None:
    table, manifest = world(["PA", "PA", "PA"], ["", "", "t"], [0.1, 0.9, 0.5])
    found, census = combine_views(table, manifest)
    assert np.array_equal(found.scores, table.scores)
    assert census.no_study == 2
    assert census.studies == 3


def test_unknown_view_codes_are_named_and_count_as_no_frontal_view() -> None:
    table, manifest = world(["PA", "PAX"], ["s", "s"], [1.0, 0.0])
    found, census = combine_views(table, manifest, rule="frontal")
    assert found.scores[0, 0] == pytest.approx(0.8)
    assert census.unknown_codes == ("PAX",)
    assert "unknown view codes, counted as other: 'PAX'" in census.text()


@pytest.mark.parametrize(
    ("code", "kind"),
    [("PA", "frontal"), (" ap ", "frontal"), ("lateral", "lateral"), ("LL", "lateral"), ("AP_horizontal", "frontal"),
     ("SWIMMERS", "other"), ("", ""), ("frontal", "frontal"), ("PAA", None)],
)  # fmt: skip
def test_view_codes(code: str, kind: str | None) -> None:
    assert view_kind(code) == kind


def test_thresholds_and_calibration_of_single_images_do_not_survive() -> None:
    table, manifest = world(["PA", "LL"], ["s", "s"], [0.9, 0.1])
    marked = replace(table, thresholds={"Hernia": 0.2}, digests={"calibration": "c", "model": "m"})
    found, _ = combine_views(marked, manifest)
    assert found.thresholds is None
    assert found.digests == {"model": "m"}


def test_bad_tables_are_refused_with_what_to_do() -> None:
    table, manifest = world(["LL", "LL"], ["s", "s"], [0.9, 0.1])
    with pytest.raises(UsageError, match=r"column 'view': no image is frontal \(found LL\).*Use the rule mean"):
        combine_views(table, manifest, rule="frontal")
    with pytest.raises(MedtailError, match=r"1 images are not in m\.csv: i1"):
        combine_views(table, manifest.take(np.array([0])))
    bare = replace(manifest, frame=manifest.frame.drop(columns="study_id"))
    with pytest.raises(MedtailError, match="column 'study_id': missing or empty"):
        combine_views(table, bare)
    with pytest.raises(MedtailError, match="1 studies have images of several patients: s"):
        combine_views(replace(table, patients=np.array(["a", "b"], dtype=object)), manifest)
    with pytest.raises(MedtailError, match="1 studies have images of several folds: s"):
        combine_views(replace(table, folds=np.array(["tune", "test"], dtype=object)), manifest)
    grouped = replace(table, labels=LabelSpace.from_columns(["g=a", "g=b"]))
    with pytest.raises(MedtailError, match="'max' would make the scores of 'g' sum to more than 1"):
        combine_views(grouped, manifest, rule="max")
    with pytest.raises(MedtailError, match="rule 'median' is unknown"):
        aggregate_views(table.scores, np.array(["s", "s"]), rule="median")
    with pytest.raises(MedtailError, match=r"frontal weight 1\.2"):
        aggregate_views(table.scores, np.array(["s", "s"]), rule="frontal", frontal_weight=1.2)
    with pytest.raises(MedtailError, match="needs to know which images are frontal"):
        aggregate_views(table.scores, np.array(["s", "s"]), rule="frontal")
