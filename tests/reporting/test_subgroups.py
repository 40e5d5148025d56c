"""Subgroups: every number is a row of the results, small groups stay in sight, and names stay text."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from medtail.judging.evaluation import EvaluationConfig, evaluate
from medtail.reporting.facts import class_facts
from medtail.reporting.subgroups import CLASS_COLUMNS, GROUP_COLUMNS, is_crossing, subgroup_section
from medtail.reporting.tables import signed
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions
from medtail.tables.results import Results

EVIL = "<img src=x>&\"'"


@pytest.fixture(scope="module")
def grouped() -> tuple[Predictions, Results]:
    """900 images; the model is blind at site B, and C is tiny."""
    random = np.random.default_rng(0)
    n = 900
    sex = random.choice(["F", "M"], n).astype(object)
    site = random.choice(["A", "B", EVIL], n, p=[0.6, 0.37, 0.03]).astype(object)
    targets = (random.random((n, 2)) < [0.3, 0.012]).astype(float)
    logits = random.normal(size=(n, 2)) - 1.5 + 2 * targets * (site != "B")[:, None]
    ids = np.array([f"i{row}" for row in range(n)], dtype=object)
    folds = np.full(n, "test", dtype=object)
    predictions = Predictions(ids, ids, 1 / (1 + np.exp(-logits)), targets, LabelSpace(("common", "rare")), folds)
    return predictions, evaluate(predictions, config=EvaluationConfig(bootstrap=128), by={"sex": sex, "site": site})


def section(grouped):
    predictions, results = grouped
    return subgroup_section(results, close=class_facts(predictions, results, counts=None))


def test_results_without_subgroups_have_no_section(judged) -> None:
    assert subgroup_section(judged.results, close=[]) is None


def test_every_cell_of_the_tables_is_a_row_of_the_results(grouped) -> None:
    found, (_, results) = section(grouped), grouped

    def stored(metric: str, subgroup: str, name: str = "") -> float:
        rows = results.rows(metric, class_name=name, subgroup=subgroup, tail_group=None if name else "")
        return float(rows["value"].iloc[0])

    names = {column.name: index for index, column in enumerate(found.groups.columns)}
    for row in found.groups.rows:
        for column, metric in (("images", "n_rows"), ("patients", "n_patients"), ("AUROC", "auroc"),
                               ("AUROC gap", "gap:auroc"), ("recall gap", "gap:recall"),
                               ("false positive gap", "gap:fpr")):  # fmt: skip
            key = row[names[column]].key
            value = stored(metric, row[0].text)
            assert (float(key) == value) if key else np.isnan(value), (row[0].text, column)
    assert len(found.classes.rows) == 5 * 2
    for row in found.classes.rows:
        for column, metric in ((3, "n_pos_patients"), (4, "auroc"), (5, "gap:auroc"), (6, "p_holm:gap:auroc"),
                               (7, "gap:recall"), (8, "gap:fpr")):  # fmt: skip
            value = stored(metric, row[0].text, row[1].text)
            assert (float(row[column].key) == value) if row[column].key else np.isnan(value)
    assert {len(row) for row in found.classes.rows} == {len(CLASS_COLUMNS)}


def test_a_small_group_is_flagged_with_its_count_and_not_dropped(grouped) -> None:
    found = section(grouped)
    row = next(row for row in found.classes.rows if row[0].text == f"site={EVIL}" and row[1].text == "rare")
    assert row[3].text.endswith("(too few)")
    assert (row[3].style, row[4].text) == ("few", "–")
    words = "".join(ET.fromstring(found.plot).itertext())
    assert "too few: " in words
    assert any("no sign that all is well" in line for line in found.cautions)


def test_the_forest_draws_each_gap_once_with_its_words(grouped) -> None:
    found, (_, results) = section(grouped), grouped
    words = {"".join(item.itertext()) for item in ET.fromstring(found.plot).iter("text")}
    for subgroup in ("sex=F", "site=A", "site=B"):
        row = results.rows("gap:auroc", class_name="common", subgroup=subgroup).iloc[0]
        from medtail.reporting.facts import Estimate

        assert signed(Estimate(row["value"], row["low"], row["high"])) in words
    assert not any(word.startswith("sex=M:") for word in words)
    assert found.plot_note == "sex=M is left out: it mirrors sex=F."


def test_what_survives_correction_is_said_the_worse_served_first(grouped) -> None:
    found, (_, results) = section(grouped), grouped
    comparisons = results.frame.loc[results.frame["metric"].str.startswith("n_comparisons"), "value"].max()
    assert f"corrected for up to {comparisons:.0f} comparisons a metric (Holm)" in found.survivors[0]
    assert found.survivors[1].startswith("common in site=B: AUROC −")
    assert any(line.startswith("Widest difference of the mean AUROC by site") for line in found.spreads)


def test_a_tail_column_stands_only_where_tail_gaps_are_known(grouped) -> None:
    assert len(section(grouped).groups.columns) == len(GROUP_COLUMNS) - 1


def test_hostile_names_stay_text_in_the_drawing(grouped) -> None:
    assert "<img" not in section(grouped).plot


def test_an_ampersand_inside_a_value_is_no_crossing() -> None:
    assert not is_crossing("site=Smith & Co")
    assert is_crossing("site=A & sex=F")
