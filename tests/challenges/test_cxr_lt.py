"""CXR-LT scores: equal to scikit-learn's, unmoved by order, and honest about what they rest on."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, precision_score, roc_auc_score

from medtail.challenges.cxr_lt import CRITICAL, join, judge_submission, score
from medtail.challenges.cxr_lt_submission import Submission
from medtail.challenges.cxr_lt_truth import Truth, read_train_counts
from medtail.errors import MedtailError
from medtail.sources.cxr_lt import ChallengeClass, ChallengeTask, Edition
from medtail.tables.results import Results, read_results
from medtail.tables.tail import TAIL_GROUPS


def scored(world, truth=None, scores=None, **options) -> Results:
    labels, table = world.truth if truth is None else truth, world.scores if scores is None else scores
    options = {"edition": world.edition, "bootstrap": 0} | options
    return score(world.write(labels, "truth.csv"), world.write(table), **options)


def tiny(classes: int) -> Edition:
    names = tuple(f"c{number}" for number in range(classes))
    return Edition(
        name="tiny",
        classes=tuple(ChallengeClass(name, 10 ** (1 + number % 3)) for number, name in enumerate(names)),
        tasks={1: ChallengeTask(1, "tiny", names)},
        train_images=2000,
    )


def judged(targets: np.ndarray, scores: np.ndarray, **options):
    edition = tiny(targets.shape[1])
    ids = np.array([f"i{number}" for number in range(len(targets))], dtype=object)
    names = edition.task(1).class_names
    truth = Truth("t", ids, ids, targets.astype(float), names, True, "")
    options = {"edition": edition, "bootstrap": 0, "absent": "nan"} | options
    return judge_submission(truth, Submission("s", ids, scores, names), **options)


def frame_of(results: Results) -> pd.DataFrame:
    return results.frame.reset_index(drop=True)


def test_values_equal_scikit_learn_to_the_last_digits(world):
    results = scored(world, scores=world.scores.round({"Edema": 1, "Hernia": 2}))
    y = world.targets
    p = pd.read_csv(world.folder / "scores.csv")[world.names].to_numpy()
    ap = [average_precision_score(y[:, c], p[:, c]) for c in range(12)]
    assert results.value("ap") == pytest.approx(np.mean(ap), abs=1e-12)
    assert results.value("auroc") == pytest.approx(roc_auc_score(y, p, average="macro"), abs=1e-12)
    assert results.value("f1") == pytest.approx(f1_score(y, p >= 0.5, average="macro", zero_division=0), abs=1e-12)
    assert results.value("micro_f1") == pytest.approx(f1_score(y, p >= 0.5, average="micro"), abs=1e-12)
    assert results.value("micro_precision") == pytest.approx(precision_score(y, p >= 0.5, average="micro"), abs=1e-12)
    for c, name in enumerate(world.names):
        assert results.value("ap", class_name=name) == pytest.approx(ap[c], abs=1e-12)
        assert results.value("prevalence", class_name=name) == pytest.approx(y[:, c].mean())


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1))
def test_map_equals_scikit_learn_with_ties_and_constants(seed):
    random = np.random.default_rng(seed)
    y = (random.random((40, 3)) < (0.5, 0.2, 0.05)).astype(float)
    y[0] = 1
    p = random.integers(0, 5, y.shape) / 4
    p[:, 1] = 0.3
    found = judged(y, p).results
    expected = np.mean([average_precision_score(y[:, c], p[:, c]) for c in range(3)])
    assert found.value("ap") == pytest.approx(expected, abs=1e-12)


def test_permuting_rows_and_columns_changes_no_byte(world):
    plain = scored(world, bootstrap=64)
    random = np.random.default_rng(0)
    names = list(random.permutation(world.names))
    moved = world.scores.sample(frac=1, random_state=3)[["dicom_id", *names]]
    turned = world.truth[["subject_id", *reversed(world.names), "dicom_id"]]
    pd.testing.assert_frame_equal(
        frame_of(scored(world, scores=moved, bootstrap=64)), frame_of(plain), check_exact=True
    )
    pd.testing.assert_frame_equal(
        frame_of(scored(world, truth=turned, scores=moved, bootstrap=64)), frame_of(plain), check_exact=True
    )
    shuffled = scored(world, truth=world.truth.sample(frac=1, random_state=4), bootstrap=64)
    pd.testing.assert_frame_equal(frame_of(shuffled), frame_of(plain), rtol=1e-12)


def test_swapping_normal_and_nodule_changes_nothing(world):
    names = ["dicom_id", *world.names]
    at, other = names.index("Normal"), names.index("Nodule")
    names[at], names[other] = "Nodule", "Normal"
    swapped = scored(world, scores=world.scores[names])
    pd.testing.assert_frame_equal(frame_of(swapped), frame_of(scored(world)), check_exact=True)
    assert "columns out of order" in swapped.header["challenge"]["joined"][0]


def test_an_alias_in_truth_or_submission_changes_nothing(world):
    alias = {"Normal": "No Finding"}
    found = scored(world, truth=world.truth.rename(columns=alias), scores=world.scores.rename(columns=alias))
    pd.testing.assert_frame_equal(frame_of(found), frame_of(scored(world)), check_exact=True)


def test_increasing_maps_keep_ap_and_auroc(world):
    curved = world.scores.copy()
    for power, name in enumerate(world.names, start=2):
        curved[name] = curved[name] ** power / 2
    before, after = scored(world), scored(world, scores=curved)
    for metric in ("ap", "auroc"):
        left, right = (found.rows(metric)["value"].to_numpy() for found in (before, after))
        assert np.array_equal(left, right)
    assert before.value("ece@reliability") != after.value("ece@reliability")


def test_constant_scores_have_the_prevalence_as_ap_and_one_half_as_auroc(world):
    results = scored(world, scores=world.scores.assign(**dict.fromkeys(world.names, 0.3)))
    for c, name in enumerate(world.names):
        assert results.value("ap", class_name=name) == pytest.approx(world.targets[:, c].mean(), abs=1e-15)
        assert results.value("auroc", class_name=name) == 0.5
    assert any("same score in every row" in warning.lower() for warning in results.header["warnings"])


def test_group_means_weighted_by_size_give_the_map(world):
    results = scored(world)
    groups = world.edition.groups(world.names)
    rows = [results.rows("ap", class_name="", tail_group=group).iloc[0] for group in TAIL_GROUPS]
    sizes = [len(groups.members(group)) for group in TAIL_GROUPS]
    assert [row["support"] for row in rows] == sizes
    assert sizes == [5, 4, 3]
    total = sum(size * row["value"] for size, row in zip(sizes, rows, strict=True))
    assert total / 12 == pytest.approx(results.value("ap"), abs=1e-14)
    assert results.value("ap_mean_of_groups") == pytest.approx(np.mean([row["value"] for row in rows]), abs=1e-14)


def test_misses_and_recall_sum_to_1(world):
    results = scored(world)
    for name in ("", *world.names):
        place = {"class_name": name}
        assert results.value("fnr", **place) + results.value("recall", **place) == pytest.approx(1.0, abs=1e-15)
    mean = np.mean([results.value("fnr", class_name=name) for name in world.names if name in CRITICAL])
    assert results.header["challenge"]["critical"] == ["Pneumothorax", "Pneumomediastinum"]
    assert results.value("fnr_critical") == pytest.approx(mean)


def test_micro_f1_of_one_class_is_its_f1_and_its_pooled_error_its_reliability():
    random = np.random.default_rng(0)
    found = judged((random.random((50, 1)) < 0.4).astype(float), random.random((50, 1))).results
    assert found.value("micro_f1") == found.value("f1") == found.value("f1", class_name="c0")
    from medtail.judging.metrics import expected_calibration_error

    predictions = judged((random.random((50, 1)) < 0.4).astype(float), random.random((50, 1))).predictions
    reliability = expected_calibration_error(predictions.scores[:, 0], predictions.targets[:, 0], bins=15)
    again = judged(predictions.targets, predictions.scores).results
    assert again.value("ece@pooled") == pytest.approx(reliability, abs=1e-15)


def test_a_score_of_exactly_one_half_is_called():
    found = judged(np.array([[1.0], [0.0]]), np.array([[0.5], [0.4999999]])).results
    assert found.value("f1") == 1.0


def test_both_readings_of_the_error_are_always_there_and_the_headline_is_the_one_asked_for(world):
    for mode in ("reliability", "leaderboard", "confidence"):
        results = scored(world, ece=mode, bootstrap=32)
        assert results.header["ece"]["mode"] == mode
        assert results.value("ece") == results.value(f"ece@{mode}")
        assert results.value("ece@reliability") != results.value("ece@leaderboard")
        row = results.rows(f"ece@{mode}", class_name="").iloc[0]
        assert row["low"] < row["high"]
    with pytest.raises(MedtailError, match="--ece 'naeini': expected reliability"):
        scored(world, ece="naeini")


def test_calibrated_and_lifted_scores_show_the_two_readings_as_on_the_board():
    # the simulation of the specification, 406 x 26: calibrated .67 / .03, lifted .57 / .25
    random = np.random.default_rng(0)
    p = np.clip(random.beta(0.6, 4.0, (406, 26)), 0, 1)
    y = (random.random(p.shape) < p).astype(float)
    lifted = p**0.4
    plain, raised = (judged(y, scores).results for scores in (p, lifted))
    assert plain.value("ece@reliability") < 0.06
    assert raised.value("ece@reliability") > 0.15
    assert plain.value("ece@leaderboard") > raised.value("ece@leaderboard") > 0.3


def test_a_class_without_positives_is_refused_left_out_or_zero_as_asked(world):
    labels = world.truth.assign(Hernia=0)
    with pytest.raises(MedtailError, match=r"truth.csv: no positive image of 'Hernia'.*--absent nan"):
        scored(world, truth=labels)
    kept = scored(world, truth=labels, absent="nan", bootstrap=16)
    assert np.isnan(kept.value("ap", class_name="Hernia"))
    assert kept.rows("ap", class_name="", tail_group="")["support"].item() == 11
    zero = scored(world, truth=labels, absent="zero", bootstrap=16)
    for metric in ("ap", "f1"):
        assert zero.value(metric, class_name="Hernia") == 0.0
        assert zero.value(metric) == pytest.approx(kept.value(metric) * 11 / 12)
    assert zero.value("auroc") == kept.value("auroc")
    assert any("absent='zero'" in warning for warning in zero.header["warnings"])
    assert not any("absent='zero'" in warning for warning in kept.header["warnings"])


def test_labels_with_gaps_count_only_where_assessed(world):
    labels = world.truth.astype({"Hernia": object})
    labels.loc[:99, "Hernia"] = ""
    with pytest.raises(MedtailError, match=r"column 'Hernia': found ''.*--absent nan"):
        scored(world, truth=labels)
    results = scored(world, truth=labels, absent="nan")
    rows = slice(100, None)
    expected = average_precision_score(world.targets[rows, 8], world.values[rows, 8])
    assert results.value("ap", class_name="Hernia") == pytest.approx(expected, abs=1e-12)
    assert results.value("n_rows", class_name="Hernia") == 300


def test_intervals_are_over_patients_and_repeat(world):
    one, two = scored(world, bootstrap=100), scored(world, bootstrap=100)
    pd.testing.assert_frame_equal(one.frame, two.frame, check_exact=True)
    assert one.header["bootstrap"]["unit"] == "patient"
    assert one.header["num_patients"] == 150
    by_image = scored(world, truth=world.truth.drop(columns="subject_id"), bootstrap=100)
    assert by_image.header["bootstrap"]["unit"] == "image"
    assert any("Patients are unknown" in warning for warning in by_image.header["warnings"])

    def width(found: Results) -> float:
        row = found.rows("auroc", class_name="Edema").iloc[0]
        return float(row["high"] - row["low"])

    assert width(one) != width(by_image)
    assert not np.isnan(width(one))
    assert scored(world, bootstrap=100, seed=1).rows("ap").iloc[0]["low"] != one.rows("ap").iloc[0]["low"]


def test_resampled_values_are_those_of_rows_repeated(world):
    # an independent loop: the first resample of patients, spelt out in rows, scored by scikit-learn
    from medtail.judging.bootstrap import draw_weights, number_patients
    from medtail.judging.metrics import expected_calibration_error

    found = judge_submission(
        world.write(world.truth, "truth.csv"), world.write(world.scores), edition=world.edition, bootstrap=3
    )
    codes, count = number_patients(found.predictions.patients)
    times = draw_weights(count, resamples=3).matrix()[codes, 1].astype(int)
    y, p = (np.repeat(table, times, axis=0) for table in (found.predictions.targets, found.predictions.scores))
    for c in (0, 5, 9):
        assert found.resampled["ap"][c, 1] == pytest.approx(average_precision_score(y[:, c], p[:, c]), abs=1e-9)
        missed = np.mean(p[y[:, c] == 1, c] < 0.5)
        assert found.resampled["fnr"][c, 1] == pytest.approx(missed, abs=1e-12)
        for mode in ("reliability", "leaderboard", "confidence"):
            expected = expected_calibration_error(p[:, c], y[:, c], mode=mode, bins=10)
            assert found.resampled[f"ece@{mode}"][c, 1] == pytest.approx(expected, abs=1e-6)


def test_thresholds_of_tune_add_misses_at_them(world):
    limits = dict.fromkeys(world.names, 0.2)
    results = scored(world, thresholds=limits, bootstrap=32)
    for c, name in enumerate(world.names):
        positive = world.targets[:, c] == 1
        assert results.value("fnr@tune", class_name=name) == pytest.approx(np.mean(world.values[positive, c] < 0.2))
    row = results.rows("fnr_critical@tune").iloc[0]
    assert row["value"] < results.value("fnr_critical")
    assert row["low"] <= row["value"] <= row["high"]
    with pytest.raises(MedtailError, match=r"'Mass': found 7.*\n.*'Hernia': missing"):
        scored(world, thresholds={name: 7 if name == "Mass" else 0.1 for name in world.names if name != "Hernia"})


def test_critical_findings_can_be_ones_own(world):
    results = scored(world, critical=["Hernia"])
    assert results.value("fnr_critical") == results.value("fnr", class_name="Hernia")
    with pytest.raises(MedtailError, match="'Hernias': no such class; did you mean 'Hernia'"):
        scored(world, critical=["Hernias"])
    assert not len(scored(world, critical=[]).rows("fnr_critical"))


def test_one_class_never_missed_has_an_interval_by_the_rule_of_three(world):
    results = scored(world, scores=world.scores.assign(Hernia=1.0), bootstrap=32)
    row = results.rows("fnr", class_name="Hernia").iloc[0]
    patients = results.value("n_pos_patients", class_name="Hernia")
    assert row["value"] == row["low"] == 0.0
    assert row["high"] == pytest.approx(1 - 0.05 ** (1 / patients))


def test_results_survive_being_written(world):
    results = scored(world, bootstrap=16)
    results.write(world.folder / "results.csv")
    again = read_results(world.folder / "results.csv")
    pd.testing.assert_frame_equal(again.frame, results.frame)
    assert again.header == json.loads(json.dumps(results.header))


def test_images_that_do_not_match_are_refused(world):
    with pytest.raises(MedtailError, match=r"40 images of the test set have no row"):
        scored(world, scores=world.scores.iloc[40:])
    truth = Truth("t", np.array(["a"], dtype=object), np.array(["p"], dtype=object), np.ones((1, 1)), ("x",), True, "")
    with pytest.raises(MedtailError, match=r"1 have no row \(a\), 1 rows are of other images"):
        join(truth, Submission("s", np.array(["b"], dtype=object), np.ones((1, 1)), ("x",)))
    with pytest.raises(MedtailError, match="an image stands in more than one row"):
        join(truth, Submission("s", np.array(["a", "a"], dtype=object), np.ones((2, 1)), ("x",)))
    with pytest.raises(MedtailError, match="classes are not those of t"):
        join(truth, Submission("s", np.array(["a"], dtype=object), np.ones((1, 1)), ("y",)))


def test_scores_made_in_python_are_joined_by_class_name_too():
    ids, labels = np.array(["a", "b"], dtype=object), np.array([[1.0, 0.0], [0.0, 1.0]])
    truth = Truth("t", ids, ids, labels, ("x", "y"), True, "")
    turned = join(truth, Submission("s", ids[::-1], np.array([[0.4, 0.3], [0.2, 0.1]]), ("y", "x")))
    assert turned.scores.tolist() == [[0.1, 0.2], [0.3, 0.4]]
    assert turned.labels.class_names == ("x", "y")


def test_official_task_2_warns_that_its_images_lie_in_mimics_train_split():
    from medtail.sources.cxr_lt import edition

    names = edition("2024").task(2).class_names
    labels = np.eye(26)[np.arange(52) % 26]
    ids = np.array([f"i{number}" for number in range(52)], dtype=object)
    truth = Truth("t", ids, ids, labels, names, True, "")
    found = score(truth, Submission("s", ids, labels * 0.5 + 0.25, names), edition="2024", task=2, bootstrap=0)
    assert "403 of 406" in found.header["warnings"][0]
    assert found.header["tail"]["rule"] == "prevalence"


def test_groups_of_an_edition_without_counts_come_from_a_train_file(world):
    nameless = replace(world.edition, train_images=None)
    bare = scored(world, edition=nameless)
    assert bare.header["tail"] is None
    assert not len(bare.rows("ap_mean_of_groups"))
    assert any("Give a train file" in warning for warning in bare.header["warnings"])
    train = world.write(world.truth, "train.csv")
    counts = read_train_counts(train, edition=nameless, class_names=world.names)
    assert counts.images == tuple(int(n) for n in world.targets.sum(axis=0))
    results = scored(world, edition=nameless, train_counts=counts)
    assert results.header["tail"]["groups"]["Support Devices"] == "head"
    assert results.header["train_counts"]["Hernia"]["images"] == counts.images[8]
