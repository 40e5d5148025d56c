"""Other prevalences on the page are those `medtail retarget` wrote, and only of these scores."""

from __future__ import annotations

from dataclasses import replace

import pytest

from medtail.errors import MedtailError
from medtail.judging.evaluation import EvaluationConfig
from medtail.judging.retarget import retarget
from medtail.reporting.facts import class_facts
from medtail.reporting.prevalence import COLUMNS, prevalence_section
from medtail.tables.results import Results, results_from_rows


@pytest.fixture(scope="module")
def elsewhere(judged) -> Results:
    there = {"ward": {"rare": 0.001, "common": 0.2}, "<i>clinic": {"rare": 0.05}}
    return retarget(judged.predictions, there, config=EvaluationConfig(bootstrap=64))


def test_every_cell_is_a_row_of_the_retargeted_results(judged, elsewhere) -> None:
    facts = class_facts(judged.predictions, judged.results, counts=judged.predictions.train_counts)
    section = prevalence_section(elsewhere, judged.predictions, facts)
    assert [site for site, _ in section.tables] == ["ward", "<i>clinic"]
    assert [len(table.rows) for _, table in section.tables] == [2, 1]
    columns = {2: "prevalence", 3: "target_prevalence", 4: "ppv", 5: "number_needed_to_evaluate",
               6: "alarms_per_1000", 7: "missed_per_1000", 8: "ap_at_prevalence", 9: "recall", 10: "specificity",
               11: "npv"}  # fmt: skip
    for site, table in section.tables:
        for row in table.rows:
            assert len(row) == len(COLUMNS)
            for at, metric in columns.items():
                value = elsewhere.value(metric, class_name=row[0].text, subgroup=site)
                assert float(row[at].key) == pytest.approx(value), (site, row[0].text, metric)
    assert section.assumption.startswith("Assumed:")


def test_a_number_needed_without_end_is_shown_as_such(judged) -> None:
    place = {"class": "rare", "support": 3}
    silent = results_from_rows(
        [{"metric": "target_prevalence", **place, "value": 0.1},
         {"metric": "number_needed_to_evaluate", **place, "value": float("inf")}]
    )  # fmt: skip
    facts = class_facts(judged.predictions, judged.results, counts=None)
    ((_, table),) = prevalence_section(silent, judged.predictions, facts).tables
    assert (table.rows[0][5].text, table.rows[0][5].key) == ("∞", "Infinity")


def test_results_of_other_scores_or_classes_or_kinds_are_refused(judged, elsewhere) -> None:
    facts = class_facts(judged.predictions, judged.results, counts=None)
    other = replace(judged.predictions, scores=judged.predictions.scores / 2)
    with pytest.raises(MedtailError, match=r"made from other scores .*Run `medtail retarget` on the same folder"):
        prevalence_section(elsewhere, other, facts)
    with pytest.raises(MedtailError, match=r"no row 'target_prevalence'"):
        prevalence_section(results_from_rows([]), judged.predictions, facts)
    strange = results_from_rows([{"metric": "target_prevalence", "class": "rar", "value": 0.1}])
    with pytest.raises(MedtailError, match=r"class 'rar'"):
        prevalence_section(strange, judged.predictions, facts)
