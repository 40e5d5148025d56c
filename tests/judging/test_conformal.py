from __future__ import annotations

import json

import numpy as np
import pytest

from medtail.errors import MedtailError
from medtail.judging.conformal import ConformalConfig, ConformalSets, fit_conformal, split_tune
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions
from medtail.tables.tail import ClassCounts


def table(
    scores: np.ndarray,
    targets: np.ndarray,
    *,
    fold: str = "tune",
    patients: np.ndarray | None = None,
    labels: LabelSpace | None = None,
    counts: ClassCounts | None = None,
) -> Predictions:
    ids = np.array([f"{fold}{row}" for row in range(len(scores))], dtype=object)
    labels = labels or LabelSpace(tuple(f"c{c}" for c in range(scores.shape[1])))
    who = ids if patients is None else np.array([f"{fold}-p{p}" for p in patients], dtype=object)
    folds = np.array([fold] * len(ids), dtype=object)
    return Predictions(ids, who, scores, np.asarray(targets, float), labels, folds, train_counts=counts, name="s.csv")


def softmax_rows(
    shares: list[float], *, size: int, seed: int, fold: str = "tune", strength: float = 2.0
) -> Predictions:
    """An exclusive group whose scores are the true posterior."""
    random = np.random.default_rng(seed)
    classes = len(shares)
    y = random.choice(classes, size, p=shares)
    x = random.normal(strength * np.eye(classes)[y])
    logits = strength * x + np.log(shares)
    density = np.exp(logits - logits.max(axis=1, keepdims=True))
    labels = LabelSpace.from_columns([f"t={c}" for c in range(classes)])
    counts = ClassCounts(
        labels.class_names, tuple(int(10_000 * s) for s in shares), (1,) * classes, (10_000,) * classes
    )
    scores = density / density.sum(axis=1, keepdims=True)
    return table(scores, np.eye(classes)[y], fold=fold, labels=labels, counts=counts)


def coverage(sets: ConformalSets, rows: Predictions) -> np.ndarray:
    inside, positive = sets.apply(rows), rows.targets == 1
    return np.array(
        [inside[positive[:, c], c].mean() if positive[:, c].any() else np.nan for c in range(inside.shape[1])]
    )


# --- the promise, by simulation -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patients", "alpha", "expected"),
    [(15, 0.1, 1 - 1 / 16), (9, 0.1, 0.9), (19, 0.05, 0.95), (40, 0.2, 1 - 8 / 41)],
)
def test_mean_coverage_over_repeats_is_what_the_rank_promises(patients, alpha, expected):
    """15 positives at .1 give .9375, not .9: the rank is a whole number."""
    random = np.random.default_rng(0)
    repeats, found = 250, []
    config = ConformalConfig(alpha=alpha, draws=1)
    for _ in range(repeats):
        sets = fit_conformal(table(random.beta(4, 2, (patients, 1)), np.ones((patients, 1))), config=config)
        found.append((random.beta(4, 2, 200) >= sets.limits[0]).mean())
    error = np.std(found) / np.sqrt(repeats)
    assert np.mean(found) == pytest.approx(expected, abs=4 * error)


def test_a_limit_a_class_covers_the_rare_class_where_one_limit_for_all_does_not():
    shares, found = [0.70, 0.25, 0.05], {"marginal": [], "class_conditional": []}
    for seed in range(40):
        tune = softmax_rows(shares, size=500, seed=seed)
        judged = softmax_rows(shares, size=2000, seed=10_000 + seed, fold="test")
        for method, kept in found.items():
            kept.append(coverage(fit_conformal(tune, config=ConformalConfig(method=method, draws=1)), judged))
    mean = {method: np.mean(kept, axis=0) for method, kept in found.items()}
    assert (mean["class_conditional"] > 0.89).all()
    assert (mean["class_conditional"] < 0.95).all()
    assert mean["marginal"] @ shares == pytest.approx(0.9, abs=0.01)
    assert mean["marginal"][2] < 0.7  # the tail class pays for the head's coverage


def test_adjusting_by_prevalence_and_interpolating_lift_the_tail_without_giving_up_the_whole():
    shares = [0.70, 0.25, 0.05]
    tail, whole = {}, {}
    for method in ("marginal", "prevalence_adjusted", "interpolated"):
        kept = []
        for seed in range(30):
            sets = fit_conformal(
                softmax_rows(shares, size=500, seed=seed), config=ConformalConfig(method=method, draws=1)
            )
            kept.append(coverage(sets, softmax_rows(shares, size=2000, seed=10_000 + seed, fold="test")))
        tail[method], whole[method] = np.mean(kept, axis=0)[2], np.mean(kept, axis=0) @ shares
    assert whole["prevalence_adjusted"] == pytest.approx(0.9, abs=0.012)
    assert tail["prevalence_adjusted"] > tail["marginal"] + 0.15
    assert tail["interpolated"] > tail["marginal"] + 0.05


def clustered_patients(
    random: np.random.Generator, patients: int, *, easy: int, hard: int
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of one finding, nearly all of whose variance is the patient's; easy and hard patients differ in images."""
    own = random.normal(size=patients)
    number = np.where(own < -0.5, hard, easy)
    who = np.repeat(np.arange(patients), number)
    z = own[who] + 0.3 * random.normal(size=len(who))
    return 1 / (1 + np.exp(-z)), who


@pytest.mark.parametrize("draws", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_images_of_one_patient_break_the_naive_sets_and_one_image_a_patient_keeps_the_promise(draws):
    """Easy patients come with ten images, hard ones with one: by image the easy ones set the limit, too high."""
    random = np.random.default_rng(1)
    naive, honest = [], []
    for _ in range(120):
        scores, who = clustered_patients(random, 30, easy=10, hard=1)
        new, _ = clustered_patients(random, 200, easy=1, hard=1)
        ones = np.ones((len(scores), 1))
        config = ConformalConfig(draws=draws)
        naive.append((new >= fit_conformal(table(scores[:, None], ones), config=config).limits[0]).mean())
        sets = fit_conformal(table(scores[:, None], ones, patients=who), config=config)
        assert sets.patients == (30,)
        honest.append((new >= sets.limits[0]).mean())
    expected = 1 - 3 / 31
    assert np.mean(honest) == pytest.approx(expected, abs=4 * np.std(honest) / np.sqrt(120))
    assert np.mean(naive) < expected - 0.04


def test_many_images_of_few_patients_promise_far_more_than_they_know():
    """Five patients with twenty images each: by image the limit looks certain, by patient there is none."""
    random = np.random.default_rng(2)
    scores, who = clustered_patients(random, 5, easy=20, hard=20)
    ones = np.ones((len(scores), 1))
    assert fit_conformal(table(scores[:, None], ones)).levels == ("class",)
    assert fit_conformal(table(scores[:, None], ones, patients=who)).levels == ("always",)


def test_risk_control_bounds_the_mean_share_of_findings_missed_in_an_image():
    random = np.random.default_rng(3)

    def rows(size: int, fold: str) -> Predictions:
        targets = random.random((size, 6)) < [0.5, 0.3, 0.2, 0.1, 0.05, 0.05]
        return table(1 / (1 + np.exp(-random.normal(2 * targets - 1))), targets, fold=fold)

    missed = []
    for _ in range(150):
        sets = fit_conformal(rows(80, "tune"), config=ConformalConfig(method="risk_control", alpha=0.2, draws=1))
        judged = rows(400, "test")
        positive, inside = judged.targets == 1, sets.apply(judged)
        has = positive.any(axis=1)
        missed.append(((positive & ~inside).sum(axis=1)[has] / positive.sum(axis=1)[has]).mean())
    assert 0.17 < np.mean(missed) < 0.2 + 4 * np.std(missed) / np.sqrt(150)
    assert len(set(sets.limits)) == 1


# --- what the code promises ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fold", ["test", "train", "reward", ""])
def test_rows_outside_tune_calibrate_nothing(fold):
    rows = table(np.full((3, 1), 0.5), np.ones((3, 1)), fold=fold)
    with pytest.raises(MedtailError, match=r"s\.csv: 3 of 3 rows are not in fold 'tune'.*score the tune fold"):
        fit_conformal(rows)
    with pytest.raises(MedtailError, match="not in fold 'tune'"):
        split_tune(rows)
    with pytest.raises(MedtailError, match="no rows"):
        fit_conformal(table(np.zeros((0, 1)), np.zeros((0, 1))))


def test_patients_that_chose_thresholds_are_refused_when_asked():
    rows = table(np.random.default_rng(0).random((30, 1)), np.ones((30, 1)), patients=np.arange(30) // 2)
    first, second = split_tune(rows)
    assert fit_conformal(second, apart_from=first).patients == (len(set(second.patients)),)
    with pytest.raises(MedtailError, match=r"15 patients also chose thresholds.*split_tune"):
        fit_conformal(rows, apart_from=rows)


def test_the_halves_share_no_patient_and_share_out_the_rare_classes():
    random = np.random.default_rng(4)
    who = np.arange(400) // 2
    targets = np.stack([random.random(400) < 0.5, who < 10, who < 4], axis=1)
    rows = table(random.random((400, 3)), targets, patients=who)
    first, second = split_tune(rows, seed=5)
    assert not set(first.patients) & set(second.patients)
    assert len(first) + len(second) == 400
    assert len(set(first.patients)) == 100
    for c, total in ((1, 10), (2, 4)):
        counts = [len(set(part.patients[part.targets[:, c] == 1])) for part in (first, second)]
        assert max(counts) - min(counts) <= 1
        assert sum(counts) == total
    third, _ = split_tune(rows, share=0.25)
    assert len(set(third.patients)) == 50
    assert split_tune(rows, seed=6)[0].image_ids.tolist() != first.image_ids.tolist()
    with pytest.raises(MedtailError, match=r"share 1\.0"):
        split_tune(rows, share=1.0)


def test_a_class_always_in_the_set_is_there_even_with_score_zero():
    sets = fit_conformal(table(np.full((3, 1), 0.5), np.ones((3, 1))))
    assert sets.levels == ("always",)
    assert sets.apply(np.array([[0.0]])).tolist() == [[True]]


def test_groups_and_free_classes_do_not_lend_each_other_limits():
    labels = LabelSpace.from_columns(["t=a", "t=b", "free"])
    random = np.random.default_rng(6)
    y = np.arange(60) < 40
    targets = np.stack([y, ~y, np.arange(60) < 3], axis=1)
    scores = random.random((60, 3))
    sets = fit_conformal(table(scores, targets, labels=labels))
    assert sets.levels == ("class", "class", "always")
    assert sets.pooled == (40, 20, 3)
    marginal = fit_conformal(table(scores, targets, labels=labels), config=ConformalConfig(method="marginal"))
    assert marginal.limits[0] == marginal.limits[1] > 0
    assert marginal.limits[2] == 0


def test_the_tail_group_steps_in_where_train_counts_are_known():
    labels = LabelSpace(("big", "rare1", "rare2"))
    counts = ClassCounts(labels.class_names, (500, 4, 5), (1, 1, 1), (1000, 1000, 1000))
    targets = np.zeros((40, 3))
    targets[:20, 0], targets[20:26, 1], targets[26:33, 2] = 1, 1, 1
    rows = table(np.random.default_rng(7).random((40, 3)), targets, labels=labels, counts=counts)
    sets = fit_conformal(rows)
    assert sets.levels == ("class", "tail group", "tail group")
    assert sets.pooled == (20, 13, 13)
    assert sets.details["tail_groups"] == {"big": "head", "rare1": "tail", "rare2": "tail"}
    without = fit_conformal(table(rows.scores, rows.targets, labels=labels))
    assert without.levels == ("class", "marginal", "marginal")


def test_sets_survive_json_to_the_last_bit_and_say_what_they_rest_on():
    sets = fit_conformal(softmax_rows([0.6, 0.4], size=100, seed=0))
    again = ConformalSets.from_json(json.loads(json.dumps(sets.to_json(), allow_nan=False)))
    assert again.limits.tolist() == sets.limits.tolist()
    assert (again.labels, again.levels, again.patients, again.pooled) == (
        sets.labels,
        sets.levels,
        sets.patients,
        sets.pooled,
    )
    assert again.digest == softmax_rows([0.6, 0.4], size=100, seed=0).digest
    assert again.details == sets.details


@pytest.mark.parametrize("damage", ["labels", "classes", "alpha", "limit", "level"])
def test_damaged_json_is_refused(damage):
    value = fit_conformal(softmax_rows([0.6, 0.4], size=100, seed=0)).to_json()
    if damage in value:
        del value[damage]
    elif damage == "limit":
        value["classes"]["t=0"]["limit"] = float("nan")
    else:
        del value["classes"]["t=0"][damage]
    with pytest.raises(MedtailError, match="expected what `ConformalSets"):
        ConformalSets.from_json(value)


def test_other_classes_or_shapes_are_refused():
    sets = fit_conformal(softmax_rows([0.6, 0.4], size=100, seed=0))
    with pytest.raises(MedtailError, match="not those the sets were calibrated for"):
        sets.apply(table(np.ones((2, 2)), np.ones((2, 2))))
    with pytest.raises(MedtailError, match="a column for each of 2 classes"):
        sets.apply(np.ones((2, 3)))


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"alpha": 0.0}, r"alpha 0\.0"),
        ({"alpha": 1.0}, r"alpha 1\.0"),
        ({"method": "marginl"}, "did you mean 'marginal'"),
        ({"weight": 1.5}, r"weight 1\.5"),
        ({"draws": 0}, "draws 0"),
    ],
)
def test_impossible_settings_are_refused(wrong, match):
    with pytest.raises(MedtailError, match=match):
        ConformalConfig(**wrong)


def test_risk_control_is_for_several_findings_an_image():
    with pytest.raises(MedtailError, match="use that"):
        fit_conformal(softmax_rows([0.6, 0.4], size=50, seed=0), config=ConformalConfig(method="risk_control"))


def test_the_same_seed_gives_the_same_limits():
    rows = table(np.random.default_rng(8).random((90, 1)), np.ones((90, 1)), patients=np.arange(90) // 3)
    limits = [fit_conformal(rows, config=ConformalConfig(seed=s)).limits[0] for s in (0, 0, 1)]
    assert limits[0] == limits[1] != limits[2]
