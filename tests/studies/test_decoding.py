"""A benchmark's rule of decisions in a study: the protocol's own numbers, for every arm alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medtail.challenges.thyro_lmd import score_thyro_lmd
from medtail.challenges.thyro_lmd_decoding import decode, foci_thresholds, invalid_groups
from medtail.challenges.thyro_lmd_labels import EXCLUSIVE, GROUPS, LABELS, read_labels
from medtail.errors import MedtailError
from medtail.judging.bootstrap import draw_weights, number_patients
from medtail.judging.thresholds import ThresholdConfig
from medtail.runs import write_json
from medtail.studies.ablation import run_study
from medtail.studies.arms import resolve_arms
from medtail.studies.config import FixedFolds, JudgeConfig
from medtail.studies.decoding import call_reports, chooser, decoding_of, report_numbers
from medtail.studies.judged import judge
from medtail.studies.protocol import Study, begin, check_study
from medtail.studies.scores import tune_set, whole_seeds
from medtail.tables.manifest import Manifest, manifest_from_frame
from medtail.tables.predictions import Predictions

SHARES = {
    "composition": (0.1, 0.05, 0.35, 0.5), "echogenicity": (0.04, 0.1, 0.4, 0.4, 0.06), "shape": (0.9, 0.1),
    "margin": (0.5, 0.3, 0.17, 0.03),
}  # fmt: skip


def reports(rows: int) -> pd.DataFrame:
    """Valid reports with a tail, some of patients with two images, some groups not assessed."""
    random = np.random.default_rng(3)
    table = pd.DataFrame(0.0, index=range(rows), columns=list(LABELS.class_names))
    for group, shares in SHARES.items():
        drawn = random.choice(len(shares), size=rows, p=shares)
        for number, name in enumerate(GROUPS[group]):
            table[name] = (drawn == number).astype(float)
    none, *foci = GROUPS["foci"]
    for name, share in zip(foci, (0.1, 0.15, 0.04, 0.2), strict=True):
        table[name] = (random.random(rows) < share).astype(float)
    table[none] = (table[foci].sum(axis=1) == 0).astype(float)
    table.loc[random.random(rows) < 0.05, list(GROUPS["margin"])] = np.nan
    table.insert(0, "image_id", [f"i{k:03d}" for k in range(rows)])
    table.insert(1, "path", "x.png")
    table.insert(2, "patient_id", [f"p{k // 2 if k % 3 else k:03d}" for k in range(rows)])
    folds = {patient: ("train", "tune", "test")[k % 3] for k, patient in enumerate(dict.fromkeys(table["patient_id"]))}
    table.insert(3, "fold", table["patient_id"].map(folds))
    table.insert(4, "size_mm", np.where(random.random(rows) < 0.7, random.uniform(3, 40, rows).round(1), np.nan))
    return table


@pytest.fixture(scope="module")
def table() -> Manifest:
    return manifest_from_frame(reports(300), name="reports.csv", groups=EXCLUSIVE)


def scored(table: Manifest, fold: str, *, seed: int = 0, skill: float = 1.5) -> Predictions:
    rows = table.in_fold(fold)
    noise = np.random.default_rng([seed, len(rows)]).normal(size=rows.targets.shape)
    truth = np.where(np.isnan(rows.targets), 0.5, rows.targets)
    scores = 1 / (1 + np.exp(1.0 - skill * (2 * truth - 1) - noise))
    ids = rows.frame["image_id"].to_numpy(dtype=object)
    return Predictions(ids, rows.patients, scores, rows.targets.astype(float), rows.labels, rows.folds)


def shuffled(predictions: Predictions) -> Predictions:
    order = np.random.default_rng(5).permutation(20)
    names = [predictions.labels.class_names[k] for k in order]
    return replace(
        predictions,
        scores=predictions.scores[:, order],
        targets=predictions.targets[:, order],
        labels=predictions.labels.select(names),
    )


def study_of(folder: Path, table: Manifest, **judging: object) -> Study:
    table.write(folder / "reports.csv")
    base = {"manifest": str(folder / "reports.csv"), "groups": {k: list(v) for k, v in EXCLUSIVE.items()},
            "optimizer": {"epochs": 2, "keep": "last"}}  # fmt: skip
    arms = resolve_arms(base, {"full": {}, "poor": {"loss.kind": "focal"}}, where="study.yaml")
    config = JudgeConfig(**({"protocol": "thyro_lmd", "bootstrap": 200, "metrics": ("f1", "micro_f1", "ap")} | judging))  # type: ignore[arg-type]
    return Study("study.yaml", "reports", "ablation", arms, "full", (0, 1), FixedFolds(), config)


def fill(study: Study, root: Path, table: Manifest) -> None:
    begin(study, root)
    for cell in study.cells(root):
        for fold in ("tune", "test"):
            skill = 1.5 if cell.arm == "full" else 0.3
            scored(table, fold, seed=cell.seed, skill=skill).write(cell.predictions(fold))
        facts = {"cell": cell.name, "arm": cell.arm, "seed": cell.seed, "fold": cell.fold, "config_digest": cell.digest,
                 "parameters": 10, "epochs_run": 2, "seconds": 1.0}  # fmt: skip
        write_json(cell.record, facts)


def test_reports_are_decoded_by_the_protocol_in_any_order_of_labels(table: Manifest) -> None:
    tune = scored(table, "tune")
    config = JudgeConfig(protocol="thyro_lmd")
    limits = chooser(config)(tune)
    assert {name: limits[name] for name in GROUPS["foci"]} == foci_thresholds(tune)
    assert {limits[name] for group in SHARES for name in GROUPS[group]} == {0.5}
    test = replace(scored(table, "test"), thresholds=limits)
    expected = decode(test.scores, thresholds=foci_thresholds(tune))
    assert (call_reports(test) == expected).all()
    assert not any(wrong.any() for wrong in invalid_groups(call_reports(test)).values())
    mixed = shuffled(test)
    at = [mixed.labels.index(name) for name in LABELS.class_names]
    assert (call_reports(mixed)[:, at] == expected).all()
    raw = decoding_of(config, table, test.labels).call_at_half(test)
    assert (raw == (test.scores >= 0.5)).all()


@pytest.mark.slow
def test_a_study_says_what_the_protocol_says(table: Manifest, tmp_path: Path) -> None:
    study, root = study_of(tmp_path, table, fold="test"), tmp_path / "out"
    fill(study, root, table)
    outcome = run_study(study, root, quiet=True)
    test = outcome.judged[0]
    assert test.name == "test"
    truth = read_labels(tmp_path / "reports.csv")
    alone = []
    for seed in (0, 1):  # the protocol's own command, on a file of scores of tune and test
        rows = []
        for fold in ("tune", "test"):
            part = scored(table, fold, seed=seed)
            frame = pd.DataFrame(part.scores, columns=list(LABELS.class_names))
            frame.insert(0, "image_id", part.image_ids)
            rows.append(frame)
        pd.concat(rows).to_csv(tmp_path / f"scores_{seed}.csv", index=False)
        alone.append(score_thyro_lmd(tmp_path / f"scores_{seed}.csv", truth=truth, bootstrap=0).results)
    own = test.values[(test.values["arm"] == "full")]
    checked = 0
    for row in own.to_dict("records"):
        asked = {"class_name": row["class"], "tail_group": row["tail_group"]}
        if row["metric"] in ("f1", "ap", "micro_f1", "micro_f1_at_half", "f1_at_half", "level_kappa_quadratic",
                             "level_accuracy", "fna_accuracy", "exact_match"):  # fmt: skip
            expected = [one.rows(row["metric"], **asked)["value"].astype(float).iloc[0] for one in alone]
            assert row["value"] == pytest.approx(np.mean(expected), nan_ok=True), asked
            checked += 1
        elif row["metric"] == "invalid_report_rate":
            assert row["value"] == pytest.approx(np.mean([one.value("invalid_report_rate") for one in alone]))
    assert checked > 60
    kappa = test.differences[test.differences["metric"] == "level_kappa_quadratic"].iloc[0]
    assert kappa["difference"] < -0.1
    assert kappa["verdict"].startswith("b_ahead"), "of 200 resamples; the family needs more for its correction"
    said = (root / "study.md").read_text()
    assert "| arm | Micro-F1 | Macro-F1 | Head-F1 | Body-F1 | Tail-F1 | mAP | level<br>kappa |" in said
    assert "kappa of the TI-RADS level" in said
    assert "Micro-F1" in outcome.summary
    assert "head at least 20 %" in (root / "study.html").read_text()


def test_the_means_of_whole_reports_draw_patients(table: Manifest, tmp_path: Path) -> None:
    study, root = study_of(tmp_path, table), tmp_path / "out"
    fill(study, root, table)
    tune = tune_set(study, root, whole_seeds(study, root))
    judged = judge(tune, reference="full", config=study.judge)
    row = judged.values[(judged.values["metric"] == "level_accuracy") & (judged.values["arm"] == "full")].iloc[0]
    assert row["low"] < row["value"] < row["high"]
    # by hand: the share of resampled rows whose level is right
    one = tune.tables["full"][0]
    patients, count = number_patients(one.patients)
    weights = draw_weights(count, resamples=50, seed=7)
    value, drawn = report_numbers(one, tune.manifest, patients=patients, weights=weights)["exact_match", "shape"]
    right = (call_reports(one)[:, [10, 9]] == (one.targets[:, [10, 9]] == 1)).all(axis=1)
    by_row = weights.matrix()[patients].astype(float)
    assert value == pytest.approx(right.mean())
    np.testing.assert_allclose(drawn, (by_row * right[:, None]).sum(axis=0) / by_row.sum(axis=0))


def test_a_study_without_a_protocol_decides_as_ever(table: Manifest) -> None:
    rule = decoding_of(JudgeConfig(), table, table.labels)
    assert rule.questions == ()
    tune = scored(table, "tune")
    with_limits = replace(tune, thresholds=chooser(JudgeConfig())(tune))
    groups = [list(indices) for indices in tune.labels.group_indices]
    assert all((rule.call_at_half(with_limits)[:, group].sum(axis=1) == 1).all() for group in groups)


def test_what_the_protocol_cannot_decide_is_refused(table: Manifest, tmp_path: Path, make_study) -> None:
    with pytest.raises(MedtailError, match=r"judge.protocol 'thyro_lmd': expected the twenty labels of Thyro-LMD;"):
        check_study(make_study(judge=JudgeConfig(protocol="thyro_lmd")))
    with pytest.raises(MedtailError, match=r"judge.classes: the protocol 'thyro_lmd' decides whole reports"):
        check_study(study_of(tmp_path, table, classes=("comp_solid",)))
    with pytest.raises(MedtailError, match="thresholds: the protocol 'thyro_lmd' chooses its own"):
        JudgeConfig(protocol="thyro_lmd", thresholds=ThresholdConfig(shrink_to="half"))
