from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medtail.errors import MedtailError
from medtail.judging.evaluation import EvaluationConfig
from medtail.judging.prevalence import (
    estimate_prevalence,
    observed_prevalence,
    read_prevalence,
    read_unlabelled,
)
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions

LABELS = LabelSpace.from_columns(["t=a", "t=b", "shape=x", "shape=y", "Hernia"])


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "p.csv"
    path.write_text(text)
    return path


@pytest.fixture
def rows() -> Predictions:
    """Two images; in the group `shape`, none applies to the second."""
    ids = np.array(["i0", "i1"], dtype=object)
    targets = np.array([[1.0, 0, 1, 0, 1], [0, 1, 0, 0, 0]])
    return Predictions(ids, ids, np.full((2, 5), 0.5), targets, LABELS, ids, name="scores.csv")


def gaussian_place(prevalence: float, *, size: int, seed: int, distance: float = 1.5) -> Predictions:
    """Scores that are the posterior at one half, of findings this common."""
    random = np.random.default_rng(seed)
    y = (random.random(size) < prevalence).astype(float)
    x = random.normal(distance * y)
    scores = 1 / (1 + np.exp(-(distance * x - distance**2 / 2)))
    ids = np.array([f"i{i}" for i in range(size)], dtype=object)
    return Predictions(ids, ids, scores[:, None], y[:, None], LabelSpace(("Hernia",)), ids, name=f"place{seed}")


def test_prevalences_are_read_by_site_and_class(tmp_path: Path, rows: Predictions) -> None:
    found = read_prevalence(
        table(tmp_path, "class,prevalence,site\nHernia,0.01,ward\nHernia,0.2,icu\nt=a,0.3,icu\nt=b,0.7,icu\n"),
        predictions=rows,
    )
    assert found == {"ward": {"Hernia": 0.01}, "icu": {"Hernia": 0.2, "t=a": 0.3, "t=b": 0.7}}
    assert read_prevalence(table(tmp_path, "class,prevalence\nHernia,0.01\n"), predictions=rows) == {
        "": {"Hernia": 0.01}
    }


def test_all_mistakes_of_the_table_are_named_at_once(tmp_path: Path, rows: Predictions) -> None:
    text = "class,prevalence\nhernya,0.1\nHernia,0\nt=a,1.5\nt=a,abc\nshape=x,\n"
    with pytest.raises(MedtailError) as found:
        read_prevalence(table(tmp_path, text), predictions=rows)
    message = str(found.value)
    assert "row 3, column 'prevalence': found '0'; expected a share in (0, 1)" in message
    assert "Also rows 4, 5, 6" in message
    assert "'hernya' is no class of scores.csv; did you mean 'Hernia'?" in message
    assert "row 5: 't=a' again" in message


def test_groups_come_whole_and_sum_to_one_unless_none_may_apply(tmp_path: Path, rows: Predictions) -> None:
    text = "class,prevalence\nt=a,0.3\nt=b,0.3\nshape=x,0.8\nshape=y,0.4\n"
    with pytest.raises(MedtailError) as found:
        read_prevalence(table(tmp_path, text), predictions=rows)
    assert "group 't': its classes sum to 0.6; expected 1." in str(found.value)
    assert "group 'shape': its classes sum to 1.2; expected at most 1." in str(found.value)
    with pytest.raises(MedtailError, match=r"site 'icu', group 't': t=b missing"):
        read_prevalence(table(tmp_path, "class,prevalence,site\nt=a,0.3,icu\n"), predictions=rows)
    fine = "class,prevalence\nt=a,0.333\nt=b,0.666\nshape=x,0.1\nshape=y,0.2\n"
    assert read_prevalence(table(tmp_path, fine), predictions=rows)[""]["shape=y"] == 0.2


def test_columns_are_checked(tmp_path: Path, rows: Predictions) -> None:
    with pytest.raises(
        MedtailError, match=r"'prevalence': missing; did you mean 'prevalense'(.|\n)*'prevalense': unknown"
    ):
        read_prevalence(table(tmp_path, "class,prevalense\nHernia,0.1\n"), predictions=rows)
    with pytest.raises(MedtailError, match="no rows"):
        read_prevalence(table(tmp_path, "class,prevalence\n"), predictions=rows)


def test_observed_prevalence_leaves_out_what_was_not_assessed() -> None:
    ids = np.array(list("abc"), dtype=object)
    targets = np.array([[1.0, np.nan], [0, np.nan], [np.nan, np.nan]])
    rows = Predictions(ids, ids, np.zeros((3, 2)), targets, LabelSpace(("x", "y")), ids)
    found = observed_prevalence(rows)
    assert found["x"] == 0.5
    assert np.isnan(found["y"])


def test_the_estimate_is_where_em_stops() -> None:
    there, here = gaussian_place(0.05, size=800, seed=1), gaussian_place(0.5, size=800, seed=2)
    found = estimate_prevalence(there, labelled=here, config=EvaluationConfig(bootstrap=0)).values["Hernia"]
    share, before = 0.5, observed_prevalence(here)["Hernia"]
    for _ in range(5000):  # Saerens et al., as printed
        present = share / before * there.scores[:, 0]
        absent = (1 - share) / (1 - before) * (1 - there.scores[:, 0])
        share = float(np.mean(present / (present + absent)))
    assert found == pytest.approx(share, abs=1e-6)


@pytest.mark.slow
def test_estimates_are_near_the_truth_and_their_intervals_cover_it() -> None:
    covered, errors = [], []
    config = EvaluationConfig(bootstrap=100)
    here = gaussian_place(0.5, size=20_000, seed=0, distance=2.0)
    for seed in range(60):
        there = gaussian_place(0.1, size=500, seed=100 + seed, distance=2.0)
        found = estimate_prevalence(there, labelled=here, config=config)
        errors.append(found.values["Hernia"] - 0.1)
        low, high = found.interval("Hernia")
        covered.append(low <= 0.1 <= high)
    assert abs(np.mean(errors)) < 0.01
    assert np.mean(covered) >= 0.85  # 60 repeats of a 95 % interval: .85 is 3.5 standard errors below


def test_the_targets_of_unlabelled_rows_are_never_read() -> None:
    there, here = gaussian_place(0.05, size=300, seed=1), gaussian_place(0.5, size=300, seed=2)
    config = EvaluationConfig(bootstrap=5)
    blind = Predictions(
        there.image_ids, there.patients, there.scores, np.full(there.targets.shape, np.nan), there.labels, there.folds
    )
    assert (
        estimate_prevalence(blind, labelled=here, config=config).values
        == estimate_prevalence(there, labelled=here, config=config).values
    )


MODEL = [0.5, 0.4, 0.1]


def three_classes(shares: list[float], *, size: int, seed: int) -> Predictions:
    """Images of classes this common, scored by a model that is calibrated where they are as common as in MODEL."""
    random = np.random.default_rng(seed)
    y = random.choice(3, size, p=shares)
    centres = np.array([[0.0, 0], [2.5, 0], [0, 2.5]])
    x = random.normal(centres[y])
    density = np.asarray(MODEL) * np.exp(-((x[:, None] - centres[None]) ** 2).sum(axis=2) / 2)
    labels = LabelSpace.from_columns(["t=a", "t=b", "t=c"])
    ids = np.array([f"i{i}" for i in range(size)], dtype=object)
    return Predictions(ids, ids, density / density.sum(axis=1, keepdims=True), np.eye(3)[y], labels, ids)


def test_an_exclusive_group_is_estimated_jointly() -> None:
    here, there = three_classes(MODEL, size=3000, seed=0), three_classes([0.8, 0.15, 0.05], size=3000, seed=1)
    found = estimate_prevalence(there, labelled=here, config=EvaluationConfig(bootstrap=30))
    values = [found.values[name] for name in here.labels.class_names]
    assert values == pytest.approx([0.8, 0.15, 0.05], abs=0.03)
    assert sum(values) == pytest.approx(1.0)
    assert np.sum([found.resampled[name] for name in here.labels.class_names], axis=0) == pytest.approx(np.ones(30))
    low, high = found.interval("t=c")
    assert low < 0.05 < high


def test_uncalibrated_scores_and_classes_without_both_answers_are_said() -> None:
    here, there = gaussian_place(0.1, size=500, seed=3), gaussian_place(0.05, size=500, seed=4)
    found = estimate_prevalence(there, labelled=here, config=EvaluationConfig(bootstrap=0))
    assert any("Calibrate them first" in caution and "Hernia (mean score" in caution for caution in found.cautions)
    assert any("an estimate under an assumption" in caution for caution in found.cautions)
    absent = here.take(here.targets[:, 0] == 0)
    found = estimate_prevalence(there, labelled=absent, config=EvaluationConfig(bootstrap=0))
    assert found.values == {}
    assert any("not estimated, for want of positives" in caution for caution in found.cautions)


def test_other_classes_or_no_rows_are_refused() -> None:
    here, there = gaussian_place(0.5, size=20, seed=0), three_classes([1 / 3] * 3, size=20, seed=0)
    with pytest.raises(MedtailError, match="not those of place0"):
        estimate_prevalence(there, labelled=here)
    with pytest.raises(MedtailError, match="no rows"):
        estimate_prevalence(here.take(np.zeros(20, dtype=bool)), labelled=here)


def test_scores_without_labels_are_read_and_checked(tmp_path: Path) -> None:
    labels = LabelSpace(("a", "b"))
    path = table(tmp_path, "image_id,patient_id,a,b,target:a\ni0,p0,0.5,1,\ni1,p1,0,0.25,1\n")
    found = read_unlabelled(path, labels=labels)
    assert found.scores.tolist() == [[0.5, 1.0], [0.0, 0.25]]
    assert np.isnan(found.targets).all()
    assert found.patients.tolist() == ["p0", "p1"]
    bad = table(tmp_path, "image_id,a,b\ni0,1.5,x\ni0,,0.1\n")
    with pytest.raises(MedtailError) as error:
        read_unlabelled(bad, labels=labels)
    assert "'i0' stands in rows 2, 3" in str(error.value)
    assert "row 2, column 'a': found '1.5'" in str(error.value)
    assert "row 2, column 'b': found 'x'" in str(error.value)
    with pytest.raises(MedtailError, match="column 'b': missing"):
        read_unlabelled(table(tmp_path, "image_id,a\ni0,0.5\n"), labels=labels)
