"""Abstention on the page is that of the judge, for what is shown."""

from __future__ import annotations

import pytest

from medtail.judging.abstention import judge_abstention
from medtail.judging.evaluation import EvaluationConfig
from medtail.reporting.abstention import abstention_section
from medtail.reporting.facts import class_facts

CONFIG = EvaluationConfig(bootstrap=64)


def test_the_table_is_the_judgement_of_all_classes(judged) -> None:
    facts = class_facts(judged.predictions, judged.results, counts=None)
    close = [f for f in facts if f.name in ("rare", "shape=round", "absent")]
    found = abstention_section(judged.predictions, close=close, config=CONFIG)
    whole = judge_abstention(judged.predictions, coverages=[0.8], config=CONFIG)
    names = [row[0].text for row in found.table.rows]
    assert names == ["shape", "– shape=round", "rare"]
    by_name = {row[0].text: row for row in found.table.rows}
    for name in ("shape", "rare"):
        assert float(by_name[name][2].key) == whole.value("risk", class_name=name)
        assert float(by_name[name][3].key) == pytest.approx(whole.value("risk_at_coverage@0.8", class_name=name))
    for shown, name in (("– shape=round", "shape=round"), ("rare", "rare")):
        assert float(by_name[shown][4].key) == pytest.approx(whole.value("refusal_rate@0.8", class_name=name))
    assert "Under 5 positive patients here, so not shown: absent." in found.words
