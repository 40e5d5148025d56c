from __future__ import annotations

import numpy as np
import pytest

from medtail.errors import MedtailError
from medtail.judging import metrics, multiclass, multilabel
from medtail.judging.evaluation import EvaluationConfig, evaluate
from medtail.judging.score_table import score_table
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions

NAN = float("nan")
FINDINGS = LabelSpace(("Effusion", "Nodule", "Hernia", "Fibrosis"))
TYPES = LabelSpace.from_columns(["type=a", "type=b", "type=c"])


def many_findings() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    scores = random.integers(0, 21, (80, 4)) / 20
    targets = (random.random(scores.shape) < [0.5, 0.3, 0.1, 0.0]).astype(float)
    targets[random.random(scores.shape) < 0.1] = NAN
    return scores, targets


def one_type() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    return random.dirichlet([1, 1, 1], 60), np.eye(3)[random.integers(0, 2, 60)]


def test_one_exclusive_group_over_all_classes_makes_the_task_multi_class() -> None:
    found = score_table(*one_type(), labels=TYPES)
    assert found.task == "multiclass"
    assert {"accuracy", "balanced_accuracy", "kappa", "macro_auroc"} <= found.values.keys()
    assert not {"micro_f1", "exact_match", "kappa@quadratic"} & found.values.keys()
    many = score_table(*many_findings(), labels=FINDINGS)
    assert many.task == "multilabel"
    assert {"micro_f1", "exact_match", "lrap", "macro_auroc", "ece@pooled"} <= many.values.keys()
    assert not {"accuracy", "tail_recall"} & many.values.keys()


def test_every_mean_says_over_how_many_classes_it_goes_and_which_it_leaves_out() -> None:
    found = score_table(*many_findings(), labels=FINDINGS)
    assert found.values.keys() == found.support.keys()
    for name, value in found.values.items():
        if name.startswith("macro_"):
            column = found.by_class[name.removeprefix("macro_")]
            assert found.support[name] + len(found.excluded[name]) == 4
            assert value == pytest.approx(np.nanmean(column) if found.support[name] else NAN, nan_ok=True, abs=1e-12)
    assert found.excluded["macro_ap"] == ("Fibrosis",)
    assert found.excluded["macro_brier"] == ()
    assert score_table(*one_type(), labels=TYPES).excluded["balanced_accuracy"] == ("type=c",)


def test_the_door_gives_what_evaluation_gives() -> None:
    for labels, (scores, targets) in ((FINDINGS, many_findings()), (TYPES, one_type())):
        ids = np.array([f"i{row}" for row in range(len(scores))], dtype=object)
        predictions = Predictions(ids, ids, scores, targets, labels, ids)
        results = evaluate(predictions, config=EvaluationConfig(bootstrap=0))
        found = score_table(scores, targets, labels=labels)
        for metric in ("ap", "auroc", "f1", "precision", "recall", "specificity", "ece", "brier"):
            for c, name in enumerate(labels.class_names):
                value = results.value(metric, class_name=name)
                assert found.by_class[metric][c] == pytest.approx(value, nan_ok=True, abs=1e-12), metric
            assert found.values[f"macro_{metric}"] == pytest.approx(results.value(metric), abs=1e-12)
        if labels is FINDINGS:
            for metric in ("micro_f1", "micro_precision", "micro_recall"):
                assert found.values[metric] == pytest.approx(results.value(metric), abs=1e-12)
        else:
            for metric in ("accuracy", "balanced_accuracy", "macro_f1"):
                value = results.value(metric, class_name="type")
                assert found.values[metric] == pytest.approx(value, abs=1e-12)


def test_every_value_survives_shuffled_images_and_renamed_classes() -> None:
    random = np.random.default_rng(2)
    scores, targets = many_findings()
    rows, columns = random.permutation(len(scores)), random.permutation(4)
    first = score_table(scores, targets, labels=FINDINGS, tail=["Hernia", "Nodule"])
    names = tuple(FINDINGS.class_names[c] for c in columns)
    other = score_table(
        scores[rows][:, columns], targets[rows][:, columns], labels=LabelSpace(names), tail=["Nodule", "Hernia"]
    )
    for name, value in first.values.items():
        assert other.values[name] == pytest.approx(value, abs=1e-6 if "calibration_" in name else 1e-10, nan_ok=True)


def test_images_count_as_often_as_their_weight_says() -> None:
    scores, targets = many_findings()
    times = np.random.default_rng(3).integers(0, 3, len(scores))
    weighted = score_table(scores, targets, labels=FINDINGS, weights=times, tail=["Hernia"])
    repeated = score_table(
        np.repeat(scores, times, axis=0), np.repeat(targets, times, axis=0), labels=FINDINGS, tail=["Hernia"]
    )
    for name, value in repeated.values.items():
        if name in ("macro_ap_chance", "macro_ap_above_chance"):
            continue  # the chance of an order is a matter of images, not of their weights
        assert weighted.values[name] == pytest.approx(value, abs=1e-6 if "calibration_" in name else 1e-10, nan_ok=True)


def test_the_tail_is_pooled_three_ways() -> None:
    scores, targets = many_findings()
    found = score_table(scores, targets, labels=FINDINGS, tail=["Hernia", "Nodule"])
    among = np.array([False, True, True, False])
    s, y = multilabel.pool_findings(scores, targets, among=among)
    assert found.values["tail_any_ap"] == metrics.average_precision(s, y)
    assert found.support["tail_any_ap"] == np.sum(~np.isnan(y))
    highest, _ = multilabel.pool_findings(scores, targets, among=among, pooling="max")
    assert found.values["tail_any_auroc@max"] == metrics.auroc(highest, y)
    assert found.values["tail_micro_ap"] == multilabel.micro(
        metrics.average_precision, scores[:, among], targets[:, among]
    )
    assert found.values["tail_recall"] == multilabel.count_cells(scores >= 0.5, targets, among=among).recall


def test_thresholds_and_the_side_of_a_score_at_its_threshold_are_heard() -> None:
    scores, targets = np.array([[0.5, 0.2], [0.4, 0.3]]), np.array([[1.0, 1], [0, 0]])
    labels = LabelSpace(("a", "b"))

    def recall(**options: object) -> list[float]:
        return score_table(scores, targets, labels=labels, **options).by_class["recall"].tolist()  # type: ignore[arg-type]

    assert recall() == [1.0, 0.0]
    assert recall(thresholds=np.array([0.5, 0.2])) == [1.0, 1.0]
    assert recall(thresholds=np.array([0.5, 0.2]), decision=">") == [0.0, 0.0]


def test_ordered_levels_have_weighted_kappas() -> None:
    scores, targets = one_type()
    found = score_table(scores, targets, labels=TYPES, ordered=True)
    confusion = multiclass.confusion_matrix(targets.argmax(axis=1), scores.argmax(axis=1), num_classes=3)
    assert found.values["kappa@quadratic"] == multiclass.kappa(confusion, weighting="quadratic")
    assert found.values["kappa@linear"] != found.values["kappa"]


def test_images_of_no_known_type_are_not_judged_and_the_one_known_excludes_the_others() -> None:
    scores, targets = one_type()
    more = np.concatenate([targets, np.zeros((5, 3)), np.full((5, 3), NAN)])
    more[0] = [1.0, NAN, NAN] if targets[0, 0] else [NAN, 1.0, NAN]
    first = score_table(scores, targets, labels=TYPES)
    second = score_table(np.concatenate([scores, scores[:10]]), more, labels=TYPES)
    assert second.values == pytest.approx(first.values, nan_ok=True)
    assert second.support == first.support


def test_groups_among_free_findings_keep_metrics_of_their_own() -> None:
    labels = LabelSpace.from_columns(["shape=oval", "shape=round", "shape=odd", "halo"])
    scores, targets = one_type()
    found = score_table(
        np.column_stack([scores, scores[:, 0]]), np.column_stack([targets, targets[:, 0]]), labels=labels
    )
    alone = score_table(scores, targets, labels=TYPES)
    assert found.task == "multilabel"
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "kappa", "worst_recall"):
        assert found.values[f"{name}:shape"] == pytest.approx(alone.values[name]), name
    assert found.excluded["macro_f1:shape"] == ("shape=odd",)


def test_an_absent_class_is_refused_or_counted_as_zero_only_on_request() -> None:
    scores, targets = many_findings()
    with pytest.raises(MedtailError, match="row of class 'Fibrosis'; expected both"):
        score_table(scores, targets, labels=FINDINGS, absent="error")
    zero = score_table(scores, targets, labels=FINDINGS, absent="zero")
    plain = score_table(scores, targets, labels=FINDINGS)
    assert zero.values["macro_ap"] == pytest.approx(plain.values["macro_ap"] * 3 / 4)
    assert zero.support["macro_ap"] == 4
    assert zero.excluded["macro_ap"] == ("Fibrosis",)
    score_table(scores[:, :3], targets[:, :3], labels=LabelSpace(FINDINGS.class_names[:3]), absent="error")


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(MedtailError) as caught:
        score_table(
            np.full((2, 4), 1.5),
            np.full((2, 3), 7.0),
            labels=FINDINGS,
            weights=np.array([-1.0]),
            thresholds=np.zeros(3),
        )
    for words in ("outside [0, 1]", "the scores' (2, 4)", "other than 0, 1", "one a row", "negative", "one a class"):
        assert words in str(caught.value)
    with pytest.raises(MedtailError, match="did you mean 'Hernia'"):
        score_table(*many_findings(), labels=FINDINGS, tail=["Hernja"])
