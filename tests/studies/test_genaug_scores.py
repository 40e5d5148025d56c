"""Arms are measured as a slow loop would, on the same patients and seeds; the gap closed is a share of the way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import f1_score, recall_score, roc_auc_score

from medtail.errors import MedtailError
from medtail.judging.pvalues import holm
from medtail.studies.genaug_scores import (
    METRICS,
    Contrast,
    Measured,
    Resampled,
    answer,
    measure,
    resamples_for,
)
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions
from medtail.tables.tail import TailGroups

NAMES = ("t=a", "t=b", "t=c")
GROUPS = TailGroups({"t=a": "head", "t=b": "medium", "t=c": "tail"}, "relative", (0.5, 0.1))


def table(skill: float, *, seed: int = 0, images: int = 240, patients: int = 120) -> Predictions:
    """Scores that know as much of the truth as `skill` says; two images a patient, both of one class."""
    truth = np.random.default_rng(1).choice(3, size=patients, p=[0.6, 0.3, 0.1])[np.arange(images) % patients]
    targets = np.eye(3)[truth]
    logits = skill * targets + np.random.default_rng(seed).normal(size=targets.shape)
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    ids = np.array([f"i{n}" for n in range(images)], dtype=object)
    people = np.array([f"p{n % patients}" for n in range(images)], dtype=object)
    folds = np.array(["test"] * images, dtype=object)
    return Predictions(ids, people, scores, targets, LabelSpace.from_columns(NAMES), folds)


def measured(**skills: float) -> Measured:
    tables = {arm: [table(skill, seed=s) for s in range(3)] for arm, skill in skills.items()}
    return measure(tables, groups=GROUPS, resamples=300)


def test_values_are_those_of_scikit_learn() -> None:
    one = table(1.0)
    found = measure({"arm": [one]}, groups=GROUPS, resamples=10)
    true, called = one.targets.argmax(axis=1), one.scores.argmax(axis=1)
    recalls = recall_score(true, called, average=None)
    wanted = {
        "macro_f1": f1_score(true, called, average="macro"),
        "macro_auroc": np.mean([roc_auc_score(true == c, one.scores[:, c]) for c in range(3)]),
        "balanced_accuracy": recalls.mean(),
        "head_recall": recalls[0],
        "tail_recall": recalls[2],
        "recall:t=b": recalls[1],
    }
    for name, value in wanted.items():
        assert found.figure("arm", name).value == pytest.approx(value), name


def test_resamples_draw_whole_patients() -> None:
    one = table(1.0)
    whole = measure({"arm": [one]}, groups=GROUPS, resamples=400)
    alone = replace(one, patients=one.image_ids)
    single = measure({"arm": [alone]}, groups=GROUPS, resamples=400)
    assert whole.patients == 120
    assert single.patients == 240
    # two images of a patient stand and fall together only if their scores do; here the classes do
    assert whole.arms["arm"].drawn["tail_recall"].std() > 0


def test_the_pooled_tail_counts_images_not_classes() -> None:
    groups = TailGroups({"t=a": "head", "t=b": "tail", "t=c": "tail"}, "relative", (0.5, 0.1))
    one = table(1.0)
    found = measure({"arm": [one]}, groups=groups, resamples=10)
    true, called = one.targets.argmax(axis=1), one.scores.argmax(axis=1)
    assert found.figure("arm", "tail_recall").value == pytest.approx((called == true)[true > 0].mean())


def test_an_arm_differs_from_itself_by_nothing_in_every_resample() -> None:
    tables = [table(1.0, seed=s) for s in range(3)]
    found = measure({"a": tables, "b": tables}, groups=GROUPS, resamples=50)
    for metric in METRICS:
        apart, p = found.difference("a", "b", metric)
        assert (apart.value, apart.low, apart.high) == (0, 0, 0)
        assert p == 1.0


def test_a_better_arm_is_found_and_a_twin_is_not() -> None:
    found = measured(real=0.5, better=2.0, twin=0.52)
    asked = [Contrast(arm, "real", "macro_f1") for arm in ("better", "twin")]
    better, twin = answer(found, asked)
    assert better.word(alpha=0.05) == "better"
    assert better.found.low > 0
    assert twin.word(alpha=0.05) == "no difference shown"
    backwards, _ = answer(found, [Contrast("real", "better", "macro_f1"), asked[1]])
    assert backwards.word(alpha=0.05) == "worse"


def test_all_contrasts_are_corrected_together() -> None:
    found = measured(real=0.5, better=0.8, twin=0.5)
    asked = [Contrast(a, "real", m) for a in ("better", "twin") for m in ("macro_f1", "tail_recall")]
    answers = answer(found, asked)
    assert [d.p_holm for d in answers] == pytest.approx(holm(np.array([d.p for d in answers])).tolist())


def test_gap_closed_is_nothing_for_the_reference_all_for_the_oracle_and_half_between() -> None:
    def arm(value: float) -> Resampled:
        return Resampled({"macro_f1": np.full(2, value)}, {"macro_f1": np.full(5, value)})

    found = Measured({"real": arm(0.4), "oracle": arm(0.8), "half": arm(0.6)}, 0.95, 10, 5, NAMES, {})
    closed = {name: found.gap_closed(name, real="real", oracle="oracle") for name in found.arms}
    assert {name: round(f.value, 9) for name, f in closed.items()} == {"real": 0.0, "oracle": 1.0, "half": 0.5}
    assert (closed["half"].low, closed["half"].high) == pytest.approx((0.5, 0.5))
    assert np.isnan(found.gap_closed("half", real="oracle", oracle="real").value)


def test_the_gaps_interval_holds_its_value() -> None:
    found = measured(real=0.3, oracle=3.0, arm=1.5)
    gap = found.gap_closed("arm", real="real", oracle="oracle")
    assert gap.low < gap.value < gap.high
    assert 0 < gap.value < 1


def test_seeds_are_drawn_together_for_all_arms() -> None:
    # a shift common to all arms of a seed leaves differences without spread over seeds
    shifted = {s: table(1.0, seed=s) for s in range(3)}
    found = measure({"a": list(shifted.values()), "b": list(shifted.values())}, groups=GROUPS, resamples=200)
    assert found.arms["a"].drawn["macro_f1"].std() > 0
    assert (found.arms["a"].drawn["macro_f1"] == found.arms["b"].drawn["macro_f1"]).all()


def test_seeds_that_disagree_widen_the_interval() -> None:
    luck = [table(0.1, seed=1), table(3.0, seed=2), table(0.1, seed=3)]
    found = measure({"arm": luck}, groups=GROUPS, resamples=300)
    figure = found.figure("arm", "macro_f1")
    assert figure.sd > 0.2
    # two of three seeds are drawn: none of the good one, or half of it
    assert figure.low < figure.value - 0.15
    assert figure.high > figure.value + 0.05


def test_other_images_other_seeds_and_images_of_no_class_are_refused() -> None:
    one = table(1.0)
    with pytest.raises(MedtailError, match="expected the same seeds in every arm"):
        measure({"a": [one], "b": [one, one]}, groups=GROUPS, resamples=10)
    targets = one.targets.copy()
    targets[0] = 0
    with pytest.raises(MedtailError, match="1 images are not of exactly one class"):
        measure({"a": [replace(one, targets=targets)]}, groups=GROUPS, resamples=10)
    with pytest.raises(MedtailError):
        measure({"a": [one], "b": [table(1.0, images=100)]}, groups=GROUPS, resamples=10)


def test_more_contrasts_need_more_resamples() -> None:
    assert resamples_for(1, interval=0.95, asked=None) == 2000
    assert resamples_for(100, interval=0.95, asked=None) > 2000
