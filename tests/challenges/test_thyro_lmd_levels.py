from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medtail.challenges.thyro_lmd import endpoints, score_text, score_thyro_lmd, write_score
from medtail.challenges.thyro_lmd_labels import GROUPS, LABELS, group_columns, labels_from_frame
from medtail.challenges.thyro_lmd_levels import (
    ENDPOINTS,
    LEVELS,
    NoduleContext,
    level_kappa,
    level_rows,
    nodule_context,
    report_levels,
)
from medtail.errors import MedtailError
from medtail.judging.multiclass import kappa
from medtail.lexicons.descriptors import EXCLUSIVE, PREFIXES, Reading
from medtail.lexicons.rules import category_of
from medtail.lexicons.states import all_readings
from medtail.lexicons.systems import advice

NAMES = list(LABELS.class_names)


def as_labels(reading: Reading) -> tuple[np.ndarray, str]:
    """Write a reading as twenty labels and the text of what was undetermined."""
    row = np.zeros(20)
    hidden = []
    for group in EXCLUSIVE:
        value = getattr(reading, group)
        if value == "undetermined":
            row[group_columns(group)] = np.nan
            hidden.append(group)
        else:
            row[NAMES.index(f"{PREFIXES[group]}{value}")] = 1
    for focus in reading.foci or ():
        row[NAMES.index(f"foci_{focus}")] = 1
    row[NAMES.index("foci_none")] = not reading.foci
    return row, ";".join(hidden)


def test_levels_of_all_states_are_the_rule_engines() -> None:
    readings = all_readings()
    rows, hidden = zip(*(as_labels(reading) for reading in readings), strict=True)
    found = report_levels(np.stack(rows), undetermined=np.array(hidden, dtype=object))
    assert [LEVELS[level] for level in found] == [category_of(reading, "acr") for reading in readings]


def test_a_group_nobody_assessed_leaves_no_level() -> None:
    row, _ = as_labels(all_readings()[100])
    for group in GROUPS:
        partial = row.copy()
        partial[group_columns(group)] = np.nan
        assert report_levels(partial[None]).tolist() == [-1]
    assert report_levels(np.zeros((1, 20), dtype=bool)).tolist() == [-1]
    both = row.copy()
    both[group_columns("shape")] = 1
    assert report_levels(both[None]).tolist() == [-1]


def test_kappa_is_the_judges_own_on_many_confusions_at_once() -> None:
    random = np.random.default_rng(0)
    many = random.integers(0, 9, (25, 40)).astype(float)
    many[:, :5] = 0
    many[12:15, :5] = random.integers(1, 9, (3, 5))  # one true level
    many[:, 5] = 0
    many[[0, 24], 5] = 3
    expected = [kappa(many[:, b].reshape(5, 5), weighting="quadratic") for b in range(40)]
    assert level_kappa(many) == pytest.approx(np.array(expected), nan_ok=True)
    assert np.isnan(expected[0])
    assert expected[5] == 1.0


def whole(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    total = columns.sum(axis=0).astype(float)
    return total, np.zeros((len(total), 0))


def test_a_hand_worked_example() -> None:
    words = [("solid", "hypo", "punctate"), ("solid", "hypo", ""), ("solid", "iso", ""), ("mixed", "iso", ""),
             ("solid", "iso", "")]  # fmt: skip
    rows = np.zeros((5, 20))
    for row, (made, echo, focus) in zip(rows, words, strict=True):
        for name in (f"comp_{made}", f"echo_{echo}", "shape_wider", "margin_smooth", f"foci_{focus or 'none'}"):
            row[NAMES.index(name)] = 1
    truth = rows.copy()  # TR5, TR4, TR3, TR2, TR3
    called = rows.astype(bool)
    called[0, NAMES.index("foci_punctate")] = False
    called[0, NAMES.index("foci_none")] = True  # TR4 for TR5
    truth[4, group_columns("margin")] = np.nan  # no true level
    context = NoduleContext(np.array([""] * 5, dtype=object), np.array([12.0, 16.0, 26.0, np.nan, 30.0]))
    found, cautions = level_rows(called, truth, np.zeros(5, dtype=bool), context, sums=whole,
                                 interval=lambda value, _: {"value": value})  # fmt: skip
    values = {row["metric"]: (row["value"], row["support"]) for row in found}
    assert values["level_accuracy"] == (0.75, 4)
    # needle for truth: TR5 12 mm yes, TR4 16 mm yes, TR3 26 mm yes; called: TR4 12 mm no
    assert values["fna_accuracy"] == (pytest.approx(2 / 3), 3)
    assert values["fna_sensitivity"] == (pytest.approx(2 / 3), 3)
    assert np.isnan(values["fna_specificity"][0])
    confusion = np.zeros((5, 5))
    for true, call in ((4, 3), (3, 3), (2, 2), (1, 1)):
        confusion[true, call] += 1
    assert values["level_kappa_quadratic"] == (pytest.approx(kappa(confusion, weighting="quadratic")), 4)
    assert set(values) == set(ENDPOINTS.values())
    assert any("1 of 5 rows have no true TI-RADS level" in text for text in cautions)
    assert any("size of 1 nodules is unknown" in text for text in cautions)


def test_a_row_without_an_answer_counts_against_accuracy_and_not_in_kappa() -> None:
    readings = all_readings()[::97]
    rows = [as_labels(reading)[0] for reading in readings]
    truth = np.stack([row for row in rows if not np.isnan(row).any()])
    context = NoduleContext(np.full(len(truth), ""), np.full(len(truth), 18.0))
    unparsed = np.zeros(len(truth), dtype=bool)
    unparsed[::4] = True
    called = truth == 1
    called[unparsed] = False
    found, _ = level_rows(called, truth, unparsed, context, sums=whole, interval=lambda value, _: {"value": value})
    values = {row["metric"]: (row["value"], row["support"]) for row in found}
    assert values["level_accuracy"] == (pytest.approx(1 - unparsed.mean()), len(truth))
    assert values["level_kappa_quadratic"] == (1.0, int((~unparsed).sum()))
    assert values["fna_accuracy"] == (pytest.approx(1 - unparsed.mean()), len(truth))


def nodules(count: int = 120) -> pd.DataFrame:
    """Readings with sizes, two images a patient; every sixth without a size, every seventh undetermined."""
    random = np.random.default_rng(3)
    readings = [r for r in all_readings() if "undetermined" not in (r.composition, r.echogenicity, r.margin)]
    chosen = [readings[number] for number in random.integers(0, len(readings), count)]
    rows = np.stack([as_labels(reading)[0] for reading in chosen])
    frame = pd.DataFrame(rows, columns=NAMES)
    frame.insert(0, "image_id", [f"i{n:03d}" for n in range(count)])
    frame.insert(1, "path", "x.png")
    frame.insert(2, "patient_id", [f"p{n // 2:03d}" for n in range(count)])
    frame.insert(3, "fold", np.where(np.arange(count) < count // 2, "train", "test"))
    frame.insert(4, "size_mm", np.where(np.arange(count) % 6 == 0, np.nan, random.uniform(4, 30, count).round(1)))
    frame.insert(5, "undetermined", "")
    hidden = np.arange(count) % 7 == 0
    frame.loc[hidden, [NAMES[c] for c in group_columns("composition")]] = np.nan
    frame.loc[hidden, "undetermined"] = "composition"
    return frame


def test_a_submission_is_judged_on_levels_and_advice_too(tmp_path: Path) -> None:
    truth = labels_from_frame(nodules(), name="labels.csv")
    test = truth.in_fold("test")
    random = np.random.default_rng(5)
    scores = np.clip(np.nan_to_num(test.targets, nan=0.2) + random.normal(0, 0.35, test.targets.shape), 0.01, 0.99)
    frame = pd.DataFrame(scores.round(4), columns=NAMES)
    frame.insert(0, "image_id", test.frame["image_id"].to_numpy())
    frame.to_csv(tmp_path / "s.csv", index=False)
    score = score_thyro_lmd(tmp_path / "s.csv", truth=truth, bootstrap=200)
    found = endpoints(score.results)
    assert list(found) == list(ENDPOINTS)
    context = nodule_context(truth, score.predictions.image_ids)
    true = report_levels(test.targets, undetermined=context.undetermined)
    called = report_levels(score.decoded)
    assert (true >= 0).all()  # what is undetermined has its points
    assert found["TR accuracy"]["value"] == pytest.approx((true == called).mean())
    table = np.zeros((5, 5))
    np.add.at(table, (true, called), 1)
    assert found["TR kappa"]["value"] == pytest.approx(kappa(table, weighting="quadratic"))
    sized = ~np.isnan(context.sizes_mm)

    def needle(level: int, size: float) -> bool:
        answer = advice(LEVELS[level], size)
        return answer is not None and str(answer.action) == "FNA"

    agreed = [
        needle(int(a), size) == needle(int(b), size)
        for a, b, size in zip(true[sized], called[sized], context.sizes_mm[sized], strict=True)
    ]
    assert found["FNA accuracy"]["value"] == pytest.approx(np.mean(agreed))
    assert found["FNA accuracy"]["nodules"] == int(sized.sum()) < len(test)
    for row in found.values():
        assert row["low"] <= row["value"] <= row["high"]
    for name in ("TR kappa", "TR accuracy", "FNA accuracy"):
        assert found[name]["high"] - found[name]["low"] > 0.01
    text = score_text(score)
    assert "TR kappa" in text
    assert "FNA accuracy" in text
    folder = write_score(score, tmp_path / "out")
    assert "level_kappa_quadratic" in (folder / "results.csv").read_text()


def test_without_sizes_the_advice_is_not_judged_and_that_is_said(tmp_path: Path) -> None:
    truth = labels_from_frame(nodules().drop(columns="size_mm"), name="labels.csv")
    test = truth.in_fold("test")
    frame = pd.DataFrame(np.nan_to_num(test.targets, nan=0.5), columns=NAMES)
    frame.insert(0, "image_id", test.frame["image_id"].to_numpy())
    frame.to_csv(tmp_path / "s.csv", index=False)
    score = score_thyro_lmd(tmp_path / "s.csv", truth=truth, bootstrap=0)
    assert endpoints(score.results)["FNA accuracy"] == {"value": None, "low": None, "high": None, "nodules": 0}
    assert any("No size is known" in warning for warning in score.results.header["warnings"])


def test_perfect_answers_are_perfect_and_test_labels_of_others_do_not_matter() -> None:
    rows = np.stack([as_labels(reading)[0] for reading in all_readings()[::53]])
    rows = rows[~np.isnan(rows).any(axis=1)]
    context = NoduleContext(np.full(len(rows), ""), np.full(len(rows), 12.0))
    found, _ = level_rows(rows == 1, rows, np.zeros(len(rows), dtype=bool), context, sums=whole,
                          interval=lambda value, _: {"value": value})  # fmt: skip
    assert {row["value"] for row in found} == {1.0}


def test_unknown_words_in_undetermined_are_refused() -> None:
    truth = labels_from_frame(nodules(), name="labels.csv")
    column = truth.frame.columns[[name.endswith("undetermined") for name in truth.frame.columns]][0]
    broken = replace(truth, frame=truth.frame.assign(**{column: "shape"}))
    with pytest.raises(MedtailError, match=r"labels.csv, column 'undetermined': found 'shape'; expected composition"):
        nodule_context(broken, truth.frame["image_id"].to_numpy(dtype=object))
