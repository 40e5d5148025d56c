"""A learning curve in words and figures: each case says what it is, and no number claims more than it knows."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medtail.config import dump_yaml
from medtail.runs import read_json
from medtail.studies.curve_tables import answer, curve_table, growth_plot, need_grid, need_words
from medtail.studies.learning_curve import CurveOutcome, GrowthOf, load_curve, run_curve
from medtail.studies.power_law import Growth, measure_growth, patients_needed
from medtail.studies.protocol import begin
from medtail.tables.manifest import Manifest

SIZES = np.array([25.0, 50.0, 100.0, 200.0])


def grown(values: Any, *, noise: float = 0.001, sizes: np.ndarray = SIZES) -> Growth:
    values = np.asarray(values, dtype=float)
    random = np.random.default_rng(0)
    return measure_growth(sizes, values[:, None], values[:, None] + noise * random.normal(size=(len(values), 300)))


def words(values: Any, target: float, *, noise: float = 0.001, few: bool = False) -> str:
    one = GrowthOf("recall", "ATC", "patients with it", grown(values, noise=noise), few)
    return need_words(one, patients_needed(one.growth, target, has_few_patients=few))


@pytest.mark.parametrize(
    ("values", "target", "noise", "said"),
    [
        ([0.5, 0.6, 0.7, 0.8], 0.75, 0.001, r"reached"),
        ([0.5, 0.6, 0.7, 0.8], 0.79, 0.05, r"reached, though the interval holds smaller values"),
        ([0.5, 0.5, 0.5, 0.5], 0.75, 0.01, r"cannot be extrapolated: not shown to rise \(\+0.000 from .*"),
        (0.6 - 20.0 / SIZES, 0.75, 0.001, r"not by more of the same: the fitted curve ends at 0.6\d; any number .*"),
        (0.9 - 2.0 * SIZES**-0.5, 0.78, 0.001, r"\d+ more: \d+ patients with it in all, \d+ to \d+"),
        (0.9 - 2.0 * SIZES**-0.5, 0.82, 0.02, r"about \d+ more, but no upper limit can be given: .* to any number"),
        (1.0 - 1.2 * SIZES**-0.3, 0.86, 0.001, r"[\d,]+ more: .* \(extrapolated \d+ times beyond .*: a guess\)"),
        ([np.nan] * 4, 0.8, 0.001, r"cannot be judged: no patients with it to learn from, or none to judge by"),
        ([np.nan, np.nan, 0.4, 0.5], 0.8, 0.001, r"cannot be extrapolated: fewer than 3 sizes define it"),
    ],
)
def test_each_case_says_what_it_is(values: Any, target: float, noise: float, said: str) -> None:
    found = words(values, target, noise=noise)
    if "any number" in said and "not by more" in said:
        assert found.startswith("not by more of the same: the fitted curve ends at 0.6")
    else:
        assert re.fullmatch(said, found), found


def test_too_few_patients_to_judge_by_silences_every_other_answer() -> None:
    assert words([0.5, 0.6, 0.7, 0.8], 0.75, few=True) == (
        "cannot be judged: fewer than 5 patients with it (or without) to judge by"
    )


def test_numbers_of_patients_are_rounded_up_to_two_digits() -> None:
    found = words(0.9 - 2.0 * SIZES**-0.5, 0.78)
    numbers = [int(n.replace(",", "")) for n in re.findall(r"\d[\d,]*", found)]
    truth = (2.0 / 0.12) ** 2
    assert all(n % 10 == 0 for n in numbers if n >= 100)
    assert numbers[1] == pytest.approx(truth, rel=0.12)
    assert numbers[2] <= truth <= numbers[3]


def test_the_drawing_has_every_size_the_goal_and_the_law_beyond() -> None:
    one = GrowthOf("ap", "A <b>", "patients with it", grown(0.9 - 2.0 * SIZES**-0.5))
    svg = str(growth_plot(one, patients_needed(one.growth, 0.8)))
    assert svg.count('class="mark') == 4
    assert svg.count('class="band') == 1
    assert "≥ 0.8" in svg
    assert "A &lt;b&gt;" in svg
    assert "<b>" not in svg
    without = GrowthOf("ap", "", "patients", grown([np.nan] * 4))
    assert "undefined at every size" in str(growth_plot(without, patients_needed(without.growth, 0.8)))
    two = GrowthOf("ap", "", "patients", grown([np.nan, np.nan, 0.4, 0.5]))
    drawn = str(growth_plot(two, patients_needed(two.growth, 0.8)))
    assert 'class="band' not in drawn
    assert drawn.count('class="mark') == 2


def test_an_answer_for_machines_has_no_infinity() -> None:
    one = GrowthOf("ap", "ATC", "patients with it", grown(0.6 - 20.0 / SIZES))
    found = answer(one, patients_needed(one.growth, 0.9))
    assert (found["finding"], found["patients_needed"], found["more"]) == ("above", None, None)
    assert found["law"]["a"] == pytest.approx(0.6, abs=0.03)


@pytest.fixture
def run(made_up: Manifest, tmp_path: Path, finish: Any) -> Callable[[], CurveOutcome]:
    """Run a curve of made-up scores that get better with the share."""

    def make() -> CurveOutcome:
        train = {"manifest": "made_up.csv", "optimizer": {"epochs": 2, "batch_size": 16}}
        values = {
            "train": train, "fractions": [0.25, 0.5, 1.0], "targets": {"auroc": 0.95}, "seeds": [0, 1],
            "judge": {"bootstrap": 100},
        }  # fmt: skip
        (tmp_path / "curve.yaml").write_text(dump_yaml(values), encoding="utf-8")
        curve = load_curve(tmp_path / "curve.yaml")
        begin(curve.study, tmp_path / "out")
        from medtail.studies.learning_curve import curve_cells

        for cell in curve_cells(curve, tmp_path / "out"):
            finish(cell, skill={"share_25": 0.1, "share_50": 0.7, "share_100": 2.0})
        return run_curve(curve, tmp_path / "out", quiet=True)

    return make


def test_the_files_hold_the_same_answers_rarest_class_first(run: Callable[[], CurveOutcome]) -> None:
    found = run()
    root = found.outcome.root
    for name in ("curve.csv", "curve.json", "curve.md", "curve.html", "tables.csv", "study.html"):
        assert (root / name).stat().st_size > 0, name
    answers = read_json(root / "curve.json")["answers"]
    assert answers[-1]["class"] == ""
    counts = [one["patients_now"] for one in answers[:-1]]
    assert counts == sorted(counts)
    grid = need_grid(found)
    assert [row[4] for row in grid.rows] == [one["words"] for one in answers]
    page = (root / "curve.html").read_text(encoding="utf-8")
    for one in answers:
        assert one["words"][:20] in page
    assert "Every share is trained for as many steps" in page
    assert found.summary.startswith("How many more patients: the tune fold")
    table = pd.read_csv(root / "curve.csv")
    assert set(table["class"].dropna()) == {"FTC", "MTC", "ATC"}
    assert len(table) == len(curve_table(found))
    kept = {name: (root / name).read_bytes() for name in ("curve.csv", "curve.json", "curve.md")}
    run()
    assert kept == {name: (root / name).read_bytes() for name in kept}
