"""The first numbers are those of the results."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medtail.judging.evaluation import EvaluationConfig, evaluate
from medtail.reporting.facts import Estimate, class_facts, estimate, group_facts
from medtail.reporting.glance import headlines
from medtail.tables.results import Results


def shown(predictions, results: Results) -> dict[str, tuple[Estimate, str]]:
    facts = class_facts(predictions, results, counts=predictions.train_counts)
    found = headlines(predictions, results, facts, group_facts(facts, results))
    return {line.name: (line.found, line.note) for line in found}


def test_headlines_are_the_rows_of_the_results(judged) -> None:
    config = EvaluationConfig(bootstrap=64, tail_cuts=(0.3, 0.11), critical=("rare",))
    results = evaluate(judged.predictions, config=config)
    found = shown(judged.predictions, results)
    rows = {
        "Mean AP": estimate(results, "ap"),
        "Mean AP, groups alike": estimate(results, "mean_of_tail_groups:ap"),
        "Any tail finding, AUROC": estimate(results, "any_finding_auroc", tail_group="tail"),
        "Critical findings missed": estimate(results, "critical_fnr"),
    }
    assert {name: value for name, (value, _) in found.items()} == rows
    assert all(value.is_defined for value in rows.values())
    ap = estimate(results, "any_finding_ap", tail_group="tail")
    assert f"AP {ap.text()}" in found["Any tail finding, AUROC"][1]
    images = int(rows["Any tail finding, AUROC"].support)
    members = [name for name, group in results.header["tail"]["groups"].items() if group == "tail"]
    cells = judged.predictions.targets[:, [judged.predictions.labels.index(name) for name in members]]
    # an image counts where a tail class is present, or where all were assessed
    assessed = int(((cells == 1).any(axis=1) | ~np.isnan(cells).any(axis=1)).sum())
    assert images < assessed < len(judged.predictions)
    note = found["Any tail finding, AUROC"][1]
    assert f"{images} images of {assessed}; " in note
    assert note.endswith(f"by chance about {100 * images / assessed:.2g} %")
    assert found["Critical findings missed"][1].endswith(": rare")


@pytest.mark.parametrize("metric", ["any_finding_auroc", "mean_of_tail_groups:ap", "critical_fnr"])
def test_a_number_nobody_computed_is_left_out(judged, metric: str) -> None:
    frame = judged.results.frame
    fewer = replace(judged.results, frame=frame[frame["metric"] != metric])
    every, rest = shown(judged.predictions, judged.results), shown(judged.predictions, fewer)
    assert len(every) - len(rest) == (0 if metric == "critical_fnr" else 1)
    assert "Critical findings missed" not in every
