from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtail.errors import MedtailError
from medtail.judging.bootstrap import draw_weights, number_patients
from medtail.judging.decisions import decide
from medtail.judging.evaluation import EvaluationConfig, evaluate
from medtail.judging.metrics import average_precision, confusion_counts
from medtail.judging.prevalence import PrevalenceEstimate
from medtail.judging.retarget import (
    average_precision_at,
    predictive_values,
    retarget,
    retarget_predictions,
    shift_scores,
)
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions

GROUPED = LabelSpace.from_columns(["t=a", "t=b", "free"])


def rows(scores, targets, *, labels=None, patients=None, thresholds=None) -> Predictions:
    scores, targets = np.asarray(scores, dtype=float), np.asarray(targets, dtype=float)
    ids = np.array([f"i{row}" for row in range(len(scores))], dtype=object)
    labels = labels or LabelSpace(tuple(f"c{c}" for c in range(scores.shape[1])))
    who = ids if patients is None else np.array(patients, dtype=object)
    folds = np.array(["test"] * len(ids), dtype=object)
    return Predictions(ids, who, scores, targets, labels, folds, thresholds=thresholds)


def grouped_rows(size: int = 200, seed: int = 0) -> Predictions:
    random = np.random.default_rng(seed)
    a = random.random(size) < 0.4
    targets = np.stack([a, ~a, random.random(size) < 0.2], axis=1).astype(float)
    score_a = np.clip(0.4 + 0.3 * (a - 0.4) + random.normal(0, 0.15, size), 0.01, 0.99)
    scores = np.stack([score_a, 1 - score_a, random.random(size)], axis=1)
    return rows(scores, targets, labels=GROUPED, patients=[f"p{i // 2}" for i in range(size)])


@given(s=st.floats(1e-6, 1 - 1e-6), before=st.floats(0.01, 0.99), after=st.floats(0.01, 0.99))
def test_the_shift_is_one_of_logits_and_is_undone_by_its_reverse(s, before, after):
    def logit(p: float) -> float:
        return float(np.log(p / (1 - p)))

    moved = shift_scores(np.array([s]), before=before, after=after)
    assert logit(moved[0]) == pytest.approx(logit(s) + logit(after) - logit(before), abs=1e-6)
    assert shift_scores(moved, before=after, after=before)[0] == pytest.approx(s, rel=1e-6)


def test_the_shift_gives_the_posterior_at_the_new_prevalence():
    random = np.random.default_rng(0)
    y = random.random(200_000) < 0.02
    x = random.normal(1.5 * y)
    at_half = 1 / (1 + np.exp(-(1.5 * x - 1.5**2 / 2)))
    moved = shift_scores(at_half, before=0.5, after=0.02)
    assert moved.mean() == pytest.approx(y.mean(), abs=0.001)
    high = moved > 0.1
    assert moved[high].mean() == pytest.approx(y[high].mean(), abs=0.01)
    assert shift_scores(np.array([0.0, 1.0]), before=0.5, after=0.02).tolist() == [0.0, 1.0]


def test_a_group_moves_jointly_and_stays_a_distribution():
    moved = retarget_predictions(grouped_rows(), prevalence={"t=a": 0.05, "t=b": 0.95})
    before = grouped_rows()
    share = before.targets[:, 0].mean()
    mixed = before.scores[:, :2] * np.array([0.05 / share, 0.95 / (1 - share)])
    assert moved.scores[:, :2] == pytest.approx(mixed / mixed.sum(axis=1, keepdims=True))
    assert moved.scores[:, 2].tolist() == before.scores[:, 2].tolist()
    assert moved.thresholds is None


def test_a_free_classs_threshold_moves_along_so_the_same_images_are_called():
    for thresholds in (None, {"t=a": 0.5, "t=b": 0.5, "free": 0.3}):
        before = rows(grouped_rows().scores, grouped_rows().targets, labels=GROUPED, thresholds=thresholds)
        moved = retarget_predictions(before, prevalence={"free": 0.001})
        assert not np.allclose(moved.scores[:, 2], before.scores[:, 2])
        assert decide(moved)[:, 2].tolist() == decide(before)[:, 2].tolist()


def test_moving_scores_lists_every_mistake():
    with pytest.raises(MedtailError) as found:
        retarget_predictions(
            rows([[0.5, 0.5, 0.5]] * 2, [[1, 0, 0]] * 2, labels=GROUPED),
            prevalence={"t=a": 0.5, "fre": 0.1, "free": 0.2},
        )
    message = str(found.value)
    assert "did you mean 'free'" in message
    assert "class 't=a': its prevalence here is 1.0" in message
    assert "class 'free': its prevalence here is 0.0" in message
    assert "group 't': t=b missing" in message


def test_predictive_values_are_those_of_a_counted_clinic():
    """100,000 images, 500 with the finding, sensitivity .8, specificity .9: 400 true and 9,950 false alarms."""
    found = predictive_values(0.8, 0.9, prevalence=0.005)
    assert found.ppv == pytest.approx(400 / 10_350)
    assert found.npv == pytest.approx(89_550 / (89_550 + 100))
    assert found.number_needed_to_evaluate == pytest.approx(10_350 / 400)
    assert found.alarms_per_1000 == pytest.approx(103.5)
    assert found.false_alarms_per_1000 == pytest.approx(99.5)
    assert found.missed_per_1000 == pytest.approx(1.0)


def test_predictive_values_at_the_ends():
    nothing = predictive_values(0.0, 1.0, prevalence=0.1)
    assert np.isnan(nothing.ppv)
    assert np.isnan(nothing.number_needed_to_evaluate)
    assert predictive_values(0.0, 0.9, prevalence=0.1).number_needed_to_evaluate == np.inf
    assert np.isnan(predictive_values(1.0, 0.0, prevalence=0.1).npv)
    assert np.isnan(predictive_values(np.nan, 0.9, prevalence=0.1).ppv)


def test_ap_at_the_own_prevalence_is_ap_and_at_another_that_of_many_such_rows():
    random = np.random.default_rng(3)
    scores, targets = random.integers(0, 30, 200) / 30, (random.random(200) < 0.25).astype(float)
    targets[:5] = np.nan
    here = np.nanmean(targets)
    assert average_precision_at(scores, targets, prevalence=here) == pytest.approx(
        average_precision(scores, targets), abs=1e-12
    )
    # three negatives for each there was: the prevalence of a table with rows repeated
    known = ~np.isnan(targets)
    s, y = scores[known], targets[known]
    more_s, more_y = np.concatenate([s, s[y == 0], s[y == 0]]), np.concatenate([y, y[y == 0], y[y == 0]])
    assert average_precision_at(scores, targets, prevalence=more_y.mean()) == pytest.approx(
        average_precision(more_s, more_y), abs=1e-12
    )
    assert np.isnan(average_precision_at(s, np.ones(len(s)), prevalence=0.1))


def test_at_the_prevalence_here_the_results_are_those_of_evaluate():
    predictions = grouped_rows()
    here = {name: float(np.mean(predictions.targets[:, c])) for c, name in enumerate(GROUPED.class_names)}
    config = EvaluationConfig(bootstrap=100, seed=4)
    there, judged = retarget(predictions, {"": here}, config=config), evaluate(predictions, config=config)
    for name in GROUPED.class_names:
        for metric, same in (("recall", "recall"), ("specificity", "specificity"), ("ppv", "precision"), ("ap", "ap")):
            assert there.value(metric, class_name=name) == pytest.approx(judged.value(same, class_name=name), abs=1e-12)
        assert there.value("ap_at_prevalence", class_name=name) == pytest.approx(
            judged.value("ap", class_name=name), abs=1e-12
        )
        for metric in ("recall", "ap"):
            mine, theirs = (r.rows(metric, class_name=name).iloc[0] for r in (there, judged))
            assert (mine["low"], mine["high"]) == pytest.approx((theirs["low"], theirs["high"]), abs=1e-9)


def test_intervals_are_those_of_a_plain_loop_over_resampled_patients():
    predictions = grouped_rows()
    config = EvaluationConfig(bootstrap=80, seed=1)
    found = retarget(predictions, {"": {"free": 0.01}}, config=config)
    patients, total = number_patients(predictions.patients)
    table = draw_weights(total, resamples=80, seed=1).matrix()
    ppv, ap = [], []
    for b in range(80):
        again = np.repeat(np.arange(len(predictions)), table[patients, b])
        s, y = predictions.scores[again, 2], predictions.targets[again, 2]
        tp, fp, fn, tn = confusion_counts(s, y)
        ppv.append(float(predictive_values(tp / (tp + fn), tn / (tn + fp), prevalence=0.01).ppv))
        ap.append(average_precision_at(s, y, prevalence=0.01))
    for metric, loop in (("ppv", ppv), ("ap_at_prevalence", ap)):
        row = found.rows(metric, class_name="free").iloc[0]
        assert (row["low"], row["high"]) == pytest.approx(np.quantile(loop, [0.025, 0.975]), abs=1e-12)
    row, needed = (found.rows(m, class_name="free").iloc[0] for m in ("ppv", "number_needed_to_evaluate"))
    assert (needed["low"], needed["value"], needed["high"]) == pytest.approx(
        (1 / row["high"], 1 / row["value"], 1 / row["low"])
    )


def test_no_false_alarm_among_few_does_not_promise_a_perfect_predictive_value():
    """20 of 20 found, 0 false alarms in 80 patients: at 1 in 1,000 the PPV may still be a few per cent."""
    targets = (np.arange(100) < 20).astype(float)[:, None]
    found = retarget(rows(targets, targets), {"": {"c0": 0.001}}, config=EvaluationConfig(bootstrap=400))
    ppv = found.rows("ppv", class_name="c0").iloc[0]
    assert ppv["value"] == 1.0
    assert ppv["high"] == 1.0
    assert ppv["low"] < 0.05
    missed = found.rows("missed_per_1000", class_name="c0").iloc[0]
    assert missed["value"] == 0.0
    assert 0.05 < missed["high"] < 0.3
    assert found.rows("recall", class_name="c0").iloc[0]["low"] == pytest.approx(0.05 ** (1 / 20))


def test_sites_are_judged_side_by_side_and_the_mean_is_over_their_classes():
    found = retarget(grouped_rows(), {"ward": {"free": 0.1}, "icu": {"free": 0.5, "t=a": 0.5, "t=b": 0.5}})
    assert found.value("target_prevalence", class_name="free", subgroup="icu") == 0.5
    assert found.value("ap", subgroup="ward") == found.value("ap", class_name="free", subgroup="ward")
    rows_of_mean = found.rows("ap_at_prevalence", class_name="", subgroup="icu")
    assert rows_of_mean["support"].tolist() == [3.0]
    values = [found.value("ap_at_prevalence", class_name=n, subgroup="icu") for n in GROUPED.class_names]
    assert rows_of_mean["value"].iloc[0] == pytest.approx(np.mean(values))
    assert "P(image | class) unchanged" in found.header["assumption"]


def test_an_estimated_prevalence_brings_its_own_doubt_into_the_interval():
    predictions = grouped_rows()
    config = EvaluationConfig(bootstrap=200)
    drawn = np.random.default_rng(0).uniform(0.01, 0.2, 200)
    estimate = PrevalenceEstimate({"free": 0.1}, {"free": drawn}, 50, ("an estimate",))
    known = retarget(predictions, {"": {"free": 0.1}}, config=config).rows("ppv", class_name="free").iloc[0]
    found = retarget(predictions, {}, estimate=estimate, config=config)
    row = found.rows("ppv", class_name="free", subgroup="estimated").iloc[0]
    assert row["value"] == known["value"]
    assert row["high"] - row["low"] > 1.5 * (known["high"] - known["low"])
    share = found.rows("target_prevalence", class_name="free", subgroup="estimated").iloc[0]
    assert (share["low"], share["high"]) == pytest.approx(np.quantile(drawn, [0.025, 0.975]))
    assert found.header["estimated"]
    assert "an estimate" in found.header["warnings"]


def test_an_absent_class_of_a_group_is_said_and_few_patients_are_said():
    predictions = grouped_rows(30)
    predictions = predictions.take(predictions.targets[:, 1] == 1)
    found = retarget(predictions, {"": {"t=a": 0.3, "t=b": 0.7}}, config=EvaluationConfig(bootstrap=5))
    assert any("t=a: no image here" in warning for warning in found.header["warnings"])
    assert any("under 20 positive patients: t=b" in warning for warning in found.header["warnings"])
    assert np.isnan(found.value("ppv", class_name="t=a"))


def test_everything_wrong_with_a_request_is_said_at_once():
    with pytest.raises(MedtailError) as found:
        retarget(grouped_rows(), {"": {"t=a": 0.3, "fre": 0.1}, "icu": {"free": 1.0}})
    message = str(found.value)
    assert "did you mean 'free'" in message
    assert "group 't': t=b missing" in message
    assert "site 'icu', class 'free': found 1.0" in message
    with pytest.raises(MedtailError, match="no prevalence is given"):
        retarget(grouped_rows(), {})


def test_the_example_of_the_documentation_runs():
    page = Path(__file__).resolve().parents[2] / "docs" / "judge-decisions.md"
    found = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert found
    for block in found:
        exec(compile(block, page.name, "exec"), {})
