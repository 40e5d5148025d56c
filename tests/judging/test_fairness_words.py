from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medtail.judging.bootstrap import draw_weights, number_patients
from medtail.judging.evaluation import EvaluationConfig
from medtail.judging.fairness import subgroup_rows
from medtail.judging.fairness_words import fairness_cautions, fairness_summary
from medtail.judging.subgroup_estimates import SUBGROUP_METRICS
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions
from medtail.tables.results import Results, results_from_rows


def judged(*, weak_site: bool = False, common_in_f: bool = False, resamples: int = 200) -> Results:
    random = np.random.default_rng(0)
    n = 900
    sex = random.choice(["F", "M"], n).astype(object)
    site = random.choice(["A", "B", ""], n, p=[0.6, 0.2, 0.2]).astype(object)
    share = np.where((sex == "F") & common_in_f, 0.5, 0.2)
    targets = (random.random((n, 2)) < np.column_stack([share, np.full(n, 0.012)])).astype(float)
    logits = random.normal(size=(n, 2)) + 1.5 * targets * np.where((site == "B") & weak_site, 0.0, 1.0)[:, None] - 1.5
    scores = 1 / (1 + np.exp(-logits))
    ids = np.array([f"i{row}" for row in range(n)], dtype=object)
    predictions = Predictions(ids, ids, scores, targets, LabelSpace(("common", "rare")), ids)
    patients, count = number_patients(predictions.patients)
    rows = subgroup_rows(
        predictions,
        {"sex": sex, "site": site},
        called=scores >= 0.4,
        patients=patients,
        weights=draw_weights(count, resamples=resamples),
        config=EvaluationConfig(bootstrap=resamples),
    )
    return results_from_rows(rows, header={"bootstrap": {"resamples": resamples}})


def test_the_summary_shows_every_group_and_the_small_ones_as_small() -> None:
    text = fairness_summary(judged())
    for group in ("sex=F", "sex=M", "site=A", "site=B", "site=(unknown)", "sex=F & site=A"):
        assert any(line.split("  ")[1].strip() == group for line in text.splitlines() if line.startswith("  ")), group
    headings = [line for line in text.splitlines() if line in ("sex", "site", "sex & site")]
    assert headings == ["sex", "site", "sex & site"]
    assert "No gap of a class survives the correction for up to" in text
    assert "widest AUROC difference" in text
    assert "that is no sign that all is well" in text


def test_a_real_gap_is_named_and_comes_through_the_correction() -> None:
    text = fairness_summary(judged(weak_site=True))
    assert "Gaps that survive the correction for up to" in text
    line = next(line for line in text.splitlines() if line.startswith("  common, site=B: auroc -"))
    assert line.endswith("p < 0.001")
    assert not any(line.startswith("  common, site=A:") for line in text.splitlines())  # the other side of the same
    assert not any("fnr" in line or "specificity" in line for line in text.splitlines())


def test_a_gap_that_is_only_prevalence_is_called_so() -> None:
    cautions = fairness_cautions(judged(common_in_f=True))
    moved = next(caution for caution in cautions if caution.startswith("The finding itself"))
    assert "common in sex=F" in moved
    assert "AP, F1 and precision move with prevalence alone" in moved
    off = next(caution for caution in cautions if caution.startswith("Observed/expected"))
    assert "common in sex=F" in off
    assert "only prevalence" in off
    assert not any(
        caution.startswith("The finding itself") and "sex=F," in caution for caution in fairness_cautions(judged())
    )


@pytest.mark.parametrize("metric", ["auroc", "recall", "fpr"])
def test_a_gap_of_the_model_is_never_put_down_to_prevalence(metric: str) -> None:
    def cautions(low: float) -> str:
        gaps = {"observed_to_expected": 0.2, "prevalence": 0.1, "auroc": -0.1, "recall": -0.1, "fpr": -0.1} | {
            metric: low
        }
        place = {"class": "Hernia", "subgroup": "sex=F", "value": 0.3, "high": 0.5}
        rows = [{"metric": f"gap:{name}", **place, "low": end} for name, end in gaps.items()]
        return "\n".join(fairness_cautions(results_from_rows(rows)))

    assert "only prevalence" in cautions(-0.1)
    assert "only prevalence" not in cautions(0.1)


def test_what_is_unknown_and_how_many_were_asked_is_said() -> None:
    cautions = "\n".join(fairness_cautions(judged()))
    assert "site is unknown for 19% of the images" in cautions
    assert "sex is unknown" not in cautions
    assert "about 5% would if there were no gap at all" in cautions
    assert "With 200 resamples, p-values below 0.01 are read off a normal curve" in cautions
    assert "counting takes" not in "\n".join(fairness_cautions(judged(resamples=1000)))


def made_by_hand(**cells: Any) -> Results:
    return results_from_rows([{"metric": "n_rows", "subgroup": "site=ENT & eye", "value": 40.0} | cells])


def test_a_value_with_an_ampersand_is_no_crossing() -> None:
    assert fairness_summary(made_by_hand()).splitlines()[0] == "site"


def test_without_subgroups_there_is_nothing_to_say() -> None:
    results = results_from_rows([{"metric": "auroc", "value": 0.8}])
    assert fairness_summary(results) == ""
    assert fairness_cautions(results) == []


def test_the_page_about_subgroups_runs_as_written(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "judge-subgroups.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    exec(compile(block, "judge-subgroups.md", "exec"), {})
    assert "Hernia, site=B: auroc -" in capsys.readouterr().out
    for metric in SUBGROUP_METRICS:
        assert f"`{metric}`" in page or metric == "prevalence"
