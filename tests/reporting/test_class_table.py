"""The table of classes shows what the facts hold."""

from __future__ import annotations

from medtail.reporting.class_table import COLUMNS, class_table
from medtail.reporting.facts import class_facts


def test_a_row_a_class_in_the_order_given_with_a_cell_a_column(judged) -> None:
    facts = class_facts(judged.predictions, judged.results, counts=judged.predictions.train_counts)
    table = class_table(facts)
    assert [row[0].text for row in table.rows] == [f.name for f in facts]
    assert {len(row) for row in table.rows} == {len(COLUMNS)}
    by_name = {row[0].text: row for row in table.rows}
    assert float(by_name["rare"][7].key) == judged.results.value("ap", class_name="rare")
    assert by_name["absent"][7].hint == "not defined: no positives"
    assert by_name["shape=oval"][14].text == "–"
    assert by_name["common"][14].text == "0.40"
