from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from medtail.errors import MedtailError
from medtail.judging.generalised import generalised_text, judge_generalised
from medtail.judging.metrics import chance_average_precision
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions
from medtail.tables.results import read_results

NAMES = ("Mass", "Bulla", "Nodule", "Goiter")
UNSEEN = ["Bulla", "Goiter"]


def scored(*, count: int = 200, seed: int = 0) -> Predictions:
    random = np.random.default_rng(seed)
    targets = (random.random((count, 4)) < [0.3, 0.1, 0.2, 0.05]).astype(float)
    targets[random.random((count, 4)) < 0.1] = np.nan
    scores = np.clip(0.3 * random.random((count, 4)) + 0.2 * np.nan_to_num(targets), 0, 1)
    ids = np.array([f"i{row}" for row in range(count)], dtype=object)
    patients = np.array([f"p{row // 2}" for row in range(count)], dtype=object)
    return Predictions(ids, patients, scores, targets, LabelSpace(NAMES), np.full(count, "test", dtype=object))


def test_class_values_and_means_are_scikit_learns() -> None:
    table = scored()
    found = judge_generalised(table, unseen=UNSEEN, bootstrap=0)
    ap, auroc = [], []
    for c in range(4):
        known = ~np.isnan(table.targets[:, c])
        y, s = table.targets[known, c], table.scores[known, c]
        ap.append(average_precision_score(y, s))
        auroc.append(roc_auc_score(y, s))
        part = "unseen" if NAMES[c] in UNSEEN else "seen"
        assert found.value("ap", class_name=NAMES[c], subgroup=part) == pytest.approx(ap[c])
        assert found.value("auroc", class_name=NAMES[c], subgroup=part) == pytest.approx(auroc[c])
        chance = chance_average_precision(int(y.sum()), len(y))
        assert found.value("chance_ap", class_name=NAMES[c], subgroup=part) == pytest.approx(chance)
    seen, unseen = np.mean([ap[0], ap[2]]), np.mean([ap[1], ap[3]])
    assert found.value("ap", subgroup="seen") == pytest.approx(seen)
    assert found.value("ap", subgroup="unseen") == pytest.approx(unseen)
    assert found.value("ap", subgroup="harmonic") == pytest.approx(2 * seen * unseen / (seen + unseen))
    a, b = np.mean([auroc[0], auroc[2]]), np.mean([auroc[1], auroc[3]])
    assert found.value("auroc", subgroup="harmonic") == pytest.approx(2 * a * b / (a + b))


def test_harmonic_mean_lies_between_and_below_the_plain_mean() -> None:
    found = judge_generalised(scored(), unseen=UNSEEN, bootstrap=0)
    seen, unseen, joined = (found.value("ap", subgroup=part) for part in ("seen", "unseen", "harmonic"))
    assert min(seen, unseen) < joined < (seen + unseen) / 2


def test_order_of_rows_and_classes_changes_nothing_and_the_seed_repeats() -> None:
    table = scored()
    rows, columns = np.random.default_rng(1).permutation(len(table)), [3, 0, 2, 1]
    turned = replace(table.take(rows), scores=table.scores[rows][:, columns], targets=table.targets[rows][:, columns],
                     labels=table.labels.select([NAMES[c] for c in columns]))  # fmt: skip
    first, second = (judge_generalised(each, unseen=UNSEEN, bootstrap=100) for each in (table, turned))
    keys = ["metric", "class", "subgroup"]
    a, b = (each.frame.sort_values(keys).reset_index(drop=True) for each in (first, second))
    assert a[keys].equals(b[keys])
    np.testing.assert_allclose(a[["value", "low", "high"]], b[["value", "low", "high"]], rtol=1e-9)
    assert (a.loc[a["metric"] == "ap", "low"] < a.loc[a["metric"] == "ap", "high"]).all()


def test_class_without_positives_is_undefined_and_counts_in_no_mean() -> None:
    table = scored()
    targets = table.targets.copy()
    targets[:, 3] = 0
    found = judge_generalised(replace(table, targets=targets), unseen=UNSEEN, bootstrap=20)
    assert np.isnan(found.value("ap", class_name="Goiter", subgroup="unseen"))
    bulla = found.value("ap", class_name="Bulla", subgroup="unseen")
    assert found.value("ap", subgroup="unseen") == pytest.approx(bulla)
    assert found.rows("ap", class_name="", subgroup="unseen")["support"].iloc[0] == 1
    line = next(line for line in generalised_text(found).splitlines() if line.startswith("Goiter"))
    assert line.split() == ["Goiter", "unseen", "0", "-", "-", "-"]


def test_only_unseen_classes_have_no_harmonic_mean() -> None:
    found = judge_generalised(scored(), unseen=list(NAMES), bootstrap=0)
    assert set(found.frame["subgroup"]) == {"unseen"}


def test_perfectly_wrong_scores_have_a_harmonic_mean_of_nothing() -> None:
    targets = np.array([[1.0, 1.0], [0, 0]])
    ids = np.array(["a", "b"], dtype=object)
    table = Predictions(ids, ids, 1 - targets, targets, LabelSpace(("Mass", "Bulla")), ids)
    assert judge_generalised(table, unseen=["Bulla"], bootstrap=0).value("auroc", subgroup="harmonic") == 0.0


def test_table_is_read_back_and_unknown_classes_are_refused(tmp_path) -> None:  # type: ignore[no-untyped-def]
    found = judge_generalised(scored(), unseen=UNSEEN, bootstrap=10)
    found.write(tmp_path / "results.csv")
    again = read_results(tmp_path / "results.csv")
    assert again.value("ap", subgroup="unseen") == pytest.approx(found.value("ap", subgroup="unseen"))
    assert again.header["unseen"] == UNSEEN
    with pytest.raises(MedtailError, match="unseen class 'Gioter': is not scored; did you mean 'Goiter'"):
        judge_generalised(scored(), unseen=["Gioter"])
    with pytest.raises(MedtailError, match="no unseen classes"):
        judge_generalised(scored(), unseen=[])
