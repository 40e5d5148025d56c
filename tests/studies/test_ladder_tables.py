"""The ladder's one table and its verdict: every number is the judge's, and the words say what was chosen and when."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from medtail.config import dump_yaml
from medtail.runs import read_json
from medtail.studies.ladder import Ladder, LadderOutcome, load_ladder, run_ladder
from medtail.studies.ladder_tables import PLACES, family_of, ladder_grid, ladder_table, rung_grid, verdict_words
from medtail.tables.manifest import Manifest

SKILLS = {"prevalence": 0.0, "erm": 0.5, "focal": 1.6, "asl": 0.6}
Climb = Callable[..., LadderOutcome]


@pytest.fixture
def climb(made_up: Manifest, tmp_path: Path, finish: Any) -> Climb:
    """Climb a ladder of made-up scores on tune and, of another skill, on test."""
    from medtail.studies.protocol import begin

    def run(*, test: dict[str, float] | None = None, skip: str = "-", **keys: Any) -> LadderOutcome:
        judge = {"bootstrap": 150} | ({} if test is None else {"fold": "test"})
        train = {"manifest": "made_up.csv", "optimizer": {"epochs": 4, "batch_size": 16}}
        values = {"train": train, "rungs": ["focal", "asl"], "floors": ["prevalence"], "seeds": [0, 1], "judge": judge}
        (tmp_path / "ladder.yaml").write_text(dump_yaml(values | keys), encoding="utf-8")
        ladder: Ladder = load_ladder(tmp_path / "ladder.yaml")
        begin(ladder.study, tmp_path / "out")
        for cell in ladder.study.cells(tmp_path / "out"):
            if skip in cell.name:
                cell.folder.mkdir(parents=True)
                (cell.folder / "config.yaml").write_text("manifest: nowhere.csv\n")
                continue
            finish(cell, skill=SKILLS)
            if test is not None:
                finish(cell, what="test", skill=test)
        return run_ladder(ladder, tmp_path / "out", quiet=True)

    return run


def test_every_number_of_the_table_is_the_judges(climb: Climb) -> None:
    found = climb()
    judged = found.outcome.judged[0]
    table = ladder_table(found.ladder, judged, found.outcome, found.choice).set_index("rung")
    assert list(table.index) == ["prevalence", "erm", "focal", "asl"]
    values = judged.values
    for column, (metric, group, _) in PLACES.items():
        rows = values[(values["metric"] == metric) & (values["class"] == "") & (values["tail_group"] == group)]
        for row in rows.to_dict("records"):
            assert table.loc[row["arm"], column] == pytest.approx(row["value"], nan_ok=True)
            assert table.loc[row["arm"], f"{column}_high"] == pytest.approx(row["high"], nan_ok=True)
    gaps = judged.differences
    row = gaps[(gaps["system_a"] == "focal") & (gaps["metric"] == "f1") & (gaps["tail_group"] == "")].iloc[0]
    assert table.loc["focal", "macro_f1_difference"] == row["difference"]
    assert table.loc["focal", "macro_f1_p_holm"] == row["p_holm"]
    assert table["chosen"].to_dict() == {"prevalence": False, "erm": False, "focal": True, "asl": False}


def test_time_is_in_units_of_the_plain_methods_and_floors_have_none(climb: Climb) -> None:
    found = climb()
    cell = next(c for c in found.ladder.study.cells(found.outcome.root) if c.arm == "focal" and c.seed == 0)
    assert read_json(cell.record)["seconds"] == 3.0
    table = ladder_table(found.ladder, found.outcome.judged[0], found.outcome, found.choice).set_index("rung")
    assert table.loc["focal", "step_ratio"] == 1.0
    assert math.isnan(table.loc["prevalence", "step_ratio"])


def test_the_words_say_what_tune_chose_and_what_choosing_is_worth(climb: Climb) -> None:
    words = verdict_words((found := climb()).ladder, found.outcome, found.choice)
    assert found.choice is not None
    values = found.choice.values
    assert words[0] == (
        f"Tune chooses 'focal' by mean AP: {values['focal']:.3f} against {values['erm']:.3f} of 'erm', the best of 3"
        " rungs tried."
    )
    assert "the choice gains +" in words[1]
    assert f"instead of +{found.choice.gain:.3f}; " in words[1]
    assert words[2].startswith("The test fold was not asked for")
    assert len(words) == 3
    assert words[0] in found.summary


def test_the_test_fold_speaks_of_the_choice_and_not_of_its_own_best(climb: Climb) -> None:
    found = climb(test={"prevalence": 0.0, "erm": 0.5, "focal": 0.2, "asl": 4.0})
    words = verdict_words(found.ladder, found.outcome, found.choice)
    assert words[0].startswith("Tune chooses 'focal'")
    assert words[2].startswith("The test fold says of that choice: ")
    assert words[3].startswith("On test 'asl' has the largest mean AP")
    assert words[3].endswith("it is no reason to take it.")
    table = pd.read_csv(found.outcome.root / "ladder.csv")
    assert list(table.loc[table["chosen"], "rung"].unique()) == ["focal"]


def test_a_choice_that_test_confirms_is_said_to_be_so(climb: Climb) -> None:
    found = climb(test=SKILLS)
    assert verdict_words(found.ladder, found.outcome, found.choice)[-1] == (
        "It has the largest mean AP of all rungs on test, too."
    )


def test_where_nothing_is_above_the_plain_method_that_is_the_answer(climb: Climb) -> None:
    found = climb()
    assert found.choice is not None
    plain = replace(found.choice, rung="erm", gain=0.0, honest_gain=0.0)
    assert verdict_words(found.ladder, found.outcome, plain)[0] == (
        "Tune chooses 'erm' by mean AP: none of 2 other rungs is above it."
    )


def test_a_floor_above_the_choice_is_said_aloud(climb: Climb) -> None:
    found = climb()
    assert found.choice is not None
    judged = found.outcome.judged[0]
    raised = judged.values.assign(
        value=judged.values["value"].where(judged.values["arm"] != "prevalence", 0.999)
    )  # fmt: skip
    outcome = replace(found.outcome, judged=(replace(judged, values=raised),))
    assert "train longer, or do not train" in verdict_words(found.ladder, outcome, found.choice)[-1]


def test_the_grid_marks_the_choice_and_shows_intervals_on_the_page_only(climb: Climb) -> None:
    found = climb()
    judged = found.outcome.judged[0]
    table = ladder_table(found.ladder, judged, found.outcome, found.choice)
    wide, short = (ladder_grid(found.ladder, judged, table, short=short) for short in (False, True))
    names = [row[0] for row in wide.rows]
    assert names == ["prevalence", "erm", "focal *", "asl"]
    at = wide.columns.index("mAP")
    assert "\n[" in wide.rows[2][at]
    assert "[" not in short.rows[2][short.columns.index("mAP")]
    assert wide.rows[1][wide.columns.index("verdict")] == "reference"
    assert set(short.columns) < set(wide.columns)


def test_all_files_are_written_and_unfinished_cells_are_told(climb: Climb) -> None:
    found = climb(skip="asl/seed_1")
    root = found.outcome.root
    for name in ("ladder.csv", "ladder.json", "ladder.md", "ladder.html", "choice.json", "study.html"):
        assert (root / name).stat().st_size > 0, name
    record = read_json(root / "ladder.json")
    assert record["choice"]["rung"] == "focal"
    assert any("cells failed, such as asl/seed_1/fold_0" in caution for caution in record["cautions"])
    assert any("Nothing was tuned for any of them" in caution for caution in record["cautions"])
    page = (root / "ladder.html").read_text(encoding="utf-8")
    for text in ("Which rung to take", "The rungs", "Cells that are right already count less.", "lede"):
        assert text in page
    assert "| focal * |" in (root / "ladder.md").read_text(encoding="utf-8")


def test_each_rung_says_what_it_is_for_and_what_it_changes(climb: Climb) -> None:
    rows = {row[0]: row for row in rung_grid(climb(extra={"mine": {"loss.kind": "ral"}}, skip="mine").ladder).rows}
    assert rows["focal"][1:] == (
        "loss", "Cells that are right already count less.", "loss.kind: bce → focal (gamma 2.0, link sigmoid)",
        "lin2017",
    )  # fmt: skip
    assert rows["prevalence"][3] == "not trained"
    assert rows["erm"][3] == "nothing"
    assert rows["mine"][1:3] == ("own", "A rung of one's own.")
    assert family_of("mine") == "own"


def test_a_rung_level_with_the_choice_on_test_is_not_said_to_be_above_it(climb: Climb) -> None:
    found = climb(test=dict.fromkeys(SKILLS, 40.0) | {"prevalence": 0.0})
    words = verdict_words(found.ladder, found.outcome, found.choice)
    assert words[-1] == "It has the largest mean AP of all rungs on test, too."
