"""The choice of a rung: tune alone, the first of equals, and the winner's luck taken off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from medtail.errors import MedtailError
from medtail.judging.bootstrap import draw_weights, number_patients
from medtail.judging.metrics import auroc, average_precision
from medtail.runs import read_json, write_json
from medtail.studies.choice import Choice, choose, macro
from medtail.studies.scores import ScoredSet
from medtail.tables.labels import LabelSpace
from medtail.tables.manifest import Manifest
from medtail.tables.predictions import Predictions

ROWS = 240


def table(skill: float, *, noise: int, fold: str = "tune", seed: int = 0) -> Predictions:
    """Two classes of 120 patients, scores that know as much of them as `skill` says."""
    truth = np.random.default_rng(100 + seed)
    targets = (truth.random((ROWS, 2)) < [0.3, 0.15]).astype(float)
    targets[:5, 1] = np.nan
    random = np.random.default_rng(noise)
    scores = 1 / (1 + np.exp(-(skill * np.nan_to_num(targets) + random.normal(size=targets.shape) - 1)))
    ids = np.array([f"i{n:03d}" for n in range(ROWS)], dtype=object)
    patients = np.array([f"p{n // 2:03d}" for n in range(ROWS)], dtype=object)
    folds = np.full(ROWS, fold, dtype=object)
    return Predictions(ids, patients, scores, targets, LabelSpace(("MTC", "ATC")), folds)


def scored(arms: Mapping[str, tuple[Predictions, ...]]) -> ScoredSet:
    empty: Manifest = None  # type: ignore[assignment] # a choice knows no manifest
    return ScoredSet("tune", arms, (), empty)


@pytest.mark.parametrize("criterion", ["ap", "auroc", "f1"])
def test_the_best_rung_is_chosen_and_its_values_are_the_judges(criterion: str) -> None:
    arms = {"erm": (table(0.5, noise=1),), "good": (table(3.0, noise=2),), "poor": (table(0.0, noise=3),)}
    found = choose(scored(arms), ["erm", "good", "poor"], reference="erm", criterion=criterion)  # type: ignore[arg-type]
    assert found.rung == "good"
    assert found.tried == 3
    assert found.gain == pytest.approx(found.values["good"] - found.values["erm"])
    assert found.taken == {"erm": 0.0, "good": 1.0, "poor": 0.0}
    one = arms["good"][0]
    if criterion != "f1":
        single = average_precision if criterion == "ap" else auroc
        known = [~np.isnan(one.targets[:, c]) for c in (0, 1)]
        values = [single(one.scores[k, c], one.targets[k, c]) for c, k in enumerate(known)]
    else:
        values = []
        for c in (0, 1):
            known = ~np.isnan(one.targets[:, c])
            called, there = one.scores[known, c] >= 0.5, one.targets[known, c] == 1
            values.append(2 * (called & there).sum() / (called.sum() + there.sum()))
    assert found.values["good"] == pytest.approx(np.mean(values))


def test_the_mean_over_seeds_decides() -> None:
    lucky = (table(3.0, noise=5), table(0.0, noise=6))
    steady = (table(2.0, noise=7), table(2.0, noise=8))
    found = choose(scored({"erm": lucky, "steady": steady}), ["erm", "steady"], reference="erm")
    assert found.rung == "steady"
    assert found.values["erm"] == pytest.approx(
        np.mean([choose(scored({"erm": (one,)}), ["erm"], reference="erm").values["erm"] for one in lucky])
    )


def test_of_equals_the_first_is_chosen_and_nothing_is_gained() -> None:
    same = (table(1.0, noise=1),)
    found = choose(scored({"erm": same, "twin": same}), ["erm", "twin"], reference="erm")
    assert (found.rung, found.gain, found.honest_gain) == ("erm", 0.0, 0.0)


def test_choosing_among_many_that_are_no_better_gains_nothing_on_those_left_out() -> None:
    # ten rungs as good as the plain one: the best of them looks ahead by luck alone
    gains, honest = [], []
    for trial in range(6):
        arms = {f"r{n}": (table(1.0, noise=1000 * trial + n, seed=trial),) for n in range(11)}
        found = choose(scored(arms), list(arms), reference="r0", seed=trial)
        gains.append(found.gain)
        honest.append(found.honest_gain)
        assert found.optimism == pytest.approx(found.gain - found.honest_gain)
    assert np.mean(gains) > 0.03
    assert np.mean(honest) < 0.75 * np.mean(gains)


def test_rows_outside_tune_choose_nothing() -> None:
    arms = {"erm": (table(1.0, noise=1),), "seen": (table(9.0, noise=1, fold="test"),)}
    with pytest.raises(MedtailError, match="Methods chosen on rows that are judged"):
        choose(scored(arms), ["erm", "seen"], reference="erm")


def test_without_the_plain_method_there_is_no_choice() -> None:
    with pytest.raises(MedtailError, match="'erm' has no whole seed yet"):
        choose(scored({"other": (table(1.0, noise=1),)}), ["erm", "other"], reference="erm")


def test_the_resampled_mean_is_that_of_the_repeated_rows() -> None:
    one = table(1.0, noise=4)
    patients, count = number_patients(one.patients)
    drawn = draw_weights(count, resamples=3, seed=1)
    rows = np.repeat(np.arange(ROWS), drawn.matrix()[patients, 2])
    again = one.take(rows)
    for criterion, single in (("ap", average_precision), ("auroc", auroc)):
        known = [~np.isnan(again.targets[:, c]) for c in (0, 1)]
        wanted = np.mean([single(again.scores[k, c], again.targets[k, c]) for c, k in enumerate(known)])
        assert macro(one, patients, count, drawn, criterion)[2] == pytest.approx(wanted)  # type: ignore[arg-type]
    called, there = again.scores >= 0.5, again.targets == 1
    called &= ~np.isnan(again.targets)
    wanted = np.mean(2 * (called & there).sum(axis=0) / (called.sum(axis=0) + there.sum(axis=0)))
    assert macro(one, patients, count, drawn, "f1")[2] == pytest.approx(wanted)


def test_a_choice_comes_back_from_its_file(tmp_path) -> None:
    found = choose(scored({"erm": (table(1.0, noise=1),), "b": (table(2.0, noise=2),)}), ["erm", "b"], reference="erm")
    write_json(tmp_path / "choice.json", found.to_json())
    assert Choice.from_json(read_json(tmp_path / "choice.json")) == found
    undefined = replace(found, honest_gain=float("nan"))
    write_json(tmp_path / "choice.json", undefined.to_json())
    assert np.isnan(Choice.from_json(read_json(tmp_path / "choice.json")).honest_gain)
    with pytest.raises(MedtailError, match=r"choice\.json: is damaged"):
        Choice.from_json({"rung": "b"})
