from __future__ import annotations

import pytest

from medtail.reporting.bibliography import bibliography
from medtail.reporting.checklist_answers import TOPICS
from medtail.reporting.checklists import CHECKLISTS, CLAIM_2024, GAP, TRIPOD_AI, Answer


def test_the_items_are_those_of_the_guidelines():
    assert [item.number for item in CLAIM_2024.items] == [str(number) for number in range(1, 45)]
    mains = dict.fromkeys(item.number.rstrip("abcdefg") for item in TRIPOD_AI.items)
    assert list(mains) == [str(number) for number in range(1, 28)]
    assert len(TRIPOD_AI.items) == 52


@pytest.mark.parametrize("checklist", CHECKLISTS, ids=lambda checklist: checklist.name)
def test_a_checklist_is_cited_and_asks_nothing_twice(checklist):
    assert checklist.key in bibliography()
    numbers = [item.number for item in checklist.items]
    assert len(set(numbers)) == len(numbers)
    assert {item.topic for item in checklist.items} - {""} - set(TOPICS) <= {
        "robustness", "explanation", "external", "failures", "input"
    }, "a topic that no run answers, by a slip of the pen"  # fmt: skip


def test_every_topic_answers_some_item():
    asked = {item.topic for checklist in CHECKLISTS for item in checklist.items}
    assert set(TOPICS) <= asked


def test_what_has_no_answer_is_a_gap():
    told = Answer("filled", "Yes.")
    answered = dict(CLAIM_2024.answered({"kind": told}))
    assert answered[CLAIM_2024.items[0]] is told
    assert sum(answer is GAP for answer in answered.values()) == 43
