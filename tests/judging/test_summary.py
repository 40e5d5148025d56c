from __future__ import annotations

import numpy as np

from medtail.judging.evaluation import EvaluationConfig, evaluate
from medtail.judging.summary import summary_rows, summary_text
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions
from medtail.tables.tail import ClassCounts


def judged(*, counts: bool = True) -> tuple[Predictions, str]:
    random = np.random.default_rng(0)
    targets = (random.random((80, 3)) < [0.5, 0.2, 0.0]).astype(float)
    ids = np.array([f"i{row}" for row in range(80)], dtype=object)
    names = ("common", "rare", "absent")
    seen = ClassCounts(names, (500, 5, 0), (500, 5, 0), (1000,) * 3) if counts else None
    predictions = Predictions(
        ids, ids, random.random((80, 3)), targets, LabelSpace(names), np.array(["test"] * 80), train_counts=seen
    )
    return predictions, summary_text(evaluate(predictions, config=EvaluationConfig(bootstrap=50)))


def test_the_summary_shows_groups_with_intervals_and_what_could_not_be_judged() -> None:
    _, text = judged()
    lines = text.splitlines()
    assert lines[0].split() == ["group", "classes", "mAP", "AUROC", "F1"]
    assert [line.split()[0] for line in lines[1:4]] == ["head", "tail", "all"]
    assert "(1 of 2)" in lines[2]
    assert "(2 of 3)" in lines[3]
    assert "80 images of 80 patients; 95% intervals from 50 resamples of patients" in text
    assert "2 of 3 classes have positives; 1 cannot be judged" in text
    assert "! No positive row for 1 class: absent" in text


def test_without_train_counts_only_the_whole_is_shown() -> None:
    predictions, text = judged(counts=False)
    rows = summary_rows(evaluate(predictions, config=EvaluationConfig(bootstrap=50)))
    assert [row["group"] for row in rows] == ["all"]
    assert rows[0]["ap"]["support"] == 2
    assert "! No head, medium and tail rows" in text
