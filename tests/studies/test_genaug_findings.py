"""The rows of the plan say works, does not work, not shown or not measured, by rules fixed beforehand."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medtail.runs import write_json
from medtail.sampling.replay import Schedule
from medtail.studies.genaug_arms import contrasts_of, plan_arms
from medtail.studies.genaug_config import BreastTrack, GenaugConfig
from medtail.studies.genaug_findings import Evidence, Finding, findings
from medtail.studies.genaug_material import Material, careless
from medtail.studies.genaug_page import arm_grid, cautions_of, summary, write_genaug
from medtail.studies.genaug_scores import TESTED, Contrast, Measured, Resampled, answer
from medtail.studies.genaug_tracks import Tables
from medtail.tables.manifest import manifest_from_frame
from medtail.tables.tail import TailGroups

CLASSES = ("t=a", "t=b", "t=c")
GROUPS = TailGroups({"t=a": "head", "t=b": "medium", "t=c": "tail"}, "relative", (0.5, 0.1))
RESAMPLES = 3000


def arm(value: float, *, head: float = 0.9, spread: float = 0.002) -> Resampled:
    """An arm whose every figure is a value, with resamples around it."""
    random = np.random.default_rng(0)
    names = {"macro_f1": value, "tail_recall": value, "macro_auroc": value, "balanced_accuracy": value}
    names |= {"head_recall": head} | {f"recall:{name}": value for name in CLASSES}
    drawn = {name: v + spread * random.normal(size=RESAMPLES) for name, v in names.items()}
    return Resampled({name: np.array([v, v + 0.001]) for name, v in names.items()}, drawn)


def measured(values: Mapping[str, float], **heads: float) -> Measured:
    arms = {}
    for number, (name, value) in enumerate(values.items()):
        one = arm(value, head=heads.get(name, 0.9))
        # resamples of different arms are not the same numbers
        drawn = {m: np.roll(d, number) for m, d in one.drawn.items()}
        arms[name] = Resampled(one.points, drawn)
    behind = {f"recall:{name}": 20 for name in CLASSES} | {"tail_recall": 20, "head_recall": 20}
    return Measured(arms, 0.95, 60, RESAMPLES, CLASSES, behind)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    frame = pd.DataFrame({"image_id": range(12), "path": "x.png", "patient_id": range(12)})
    labels = {name: (np.arange(12) % 3 == c).astype(float) for c, name in enumerate(CLASSES)}
    folds = ["train"] * 6 + ["reward"] * 2 + ["tune"] * 2 + ["test"] * 2
    manifest_from_frame(frame.assign(fold=folds, **labels)).write(tmp_path / "table.csv")
    return tmp_path / "table.csv"


def evidence(
    table: Path, values: Mapping[str, float], *, curve: Mapping[str, float] | None = None, **heads: float
) -> Evidence:
    config = GenaugConfig(track=BreastTrack(), arms=tuple(values), seeds=(0, 1), title="made up", epoch_steps=20)
    plan = plan_arms(config, CLASSES)
    material = Material(config, table.parent, Tables((table,), oracle=table))
    # every pool is the real table here: what is asked of it is only whether folds overlap
    found = measured(values, **heads)
    contrasts = [Contrast(a, b, metric) for metric in TESTED for a, b in contrasts_of(plan)]
    for training in plan.trainings.values():
        target = material.table(training, 0)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(table.read_bytes())
    points = None if curve is None else measured(curve)
    return Evidence(plan, material, found, points, answer(found, contrasts), 0.05)


def rows_of(e: Evidence) -> dict[str, Finding]:
    return {row.part: row for row in findings(e)}


GOOD = {"real": 0.4, "oversampling": 0.45, "fill": 0.6, "shuffled": 0.35, "rl": 0.8, "frozen": 0.7, "reversed": 0.65,
        "oracle": 0.9}  # fmt: skip
EVEN = dict.fromkeys(GOOD, 0.5) | {"oracle": 0.9}


def test_clear_differences_work_and_none_are_not_shown(table: Path) -> None:
    good, even = rows_of(evidence(table, GOOD)), rows_of(evidence(table, EVEN))
    for part in ("class control", "synthesis helps", "sampler worth it", "dynamic", "whole"):
        assert good[part].verdict == "works", part
        assert even[part].verdict == "not shown", part
    assert "gap closed 0.8" in good["whole"].found
    assert "ahead of 5 of 5" in good["sampler worth it"].found


def test_a_policy_no_better_than_its_average_is_not_dynamic_and_not_worth_it(table: Path) -> None:
    rows = rows_of(evidence(table, GOOD | {"frozen": 0.8}))
    assert rows["dynamic"].verdict == "not shown"
    assert rows["sampler worth it"].verdict == "not shown"
    assert "not of frozen" in rows["sampler worth it"].found
    assert rows["whole"].verdict == "works"


def test_a_pool_alone_must_beat_its_control_in_every_class(table: Path) -> None:
    values = GOOD | {"synthetic_only": 0.5, "synthetic_shuffled": 0.2}
    e = evidence(table, values)
    assert rows_of(e)["synthetic to real"].verdict == "works"
    e.measured.arms["synthetic_shuffled"].points["recall:t=c"][:] = 0.6
    row = rows_of(e)["synthetic to real"]
    assert row.verdict == "not shown"
    assert row.found.endswith("recall no higher for c")


def test_what_was_not_run_is_not_measured_and_says_what_it_needs(table: Path) -> None:
    rows = rows_of(evidence(table, {"real": 0.4, "oracle": 0.9}))
    assert rows["splits"].verdict == "works"
    others = [row for part, row in rows.items() if part != "splits"]
    assert {row.verdict for row in others} == {"not measured here"}
    assert all(row.found.startswith("needs ") for row in others)


def test_the_curve_works_only_with_its_best_inside(table: Path) -> None:
    levels = ["0", "0.25", "0.5", "0.75", "1", "1.5", "2"]
    inside = {f"level_{v}": value for v, value in zip(levels, [0.4, 0.5, 0.6, 0.7, 0.6, 0.5, 0.4], strict=True)}
    rising = {f"level_{v}": value for v, value in zip(levels, np.linspace(0.4, 0.7, 7), strict=True)}
    assert rows_of(evidence(table, GOOD, curve=inside))["over-use is real"].verdict == "works"
    row = rows_of(evidence(table, GOOD, curve=rising))["over-use is real"]
    assert row.verdict == "does not work"
    assert "the sampler has no job here" in row.found


@pytest.mark.parametrize(("head", "verdict"), [(0.9, "works"), (0.893, "not shown"), (0.7, "does not work")])
def test_stability_is_judged_by_the_interval_of_the_head(table: Path, head: float, verdict: str) -> None:
    assert rows_of(evidence(table, GOOD, rl=head))["stability"].verdict == verdict


@pytest.mark.parametrize(("right", "verdict"), [(True, "works"), (False, "not shown")])
def test_learnt_levels_must_tell_perfect_pools_from_careless_ones(table: Path, right: bool, verdict: str) -> None:
    e = evidence(table, GOOD | {"rl_mixed": 0.6})
    bad = np.isin(CLASSES, careless(e.material.tables.manifest(0)))
    assert bad.tolist() == [False, True, False]
    for seed in (0, 1):
        levels = np.where(bad, 0.1, 0.9) if right or seed else np.where(bad, 0.9, 0.1)
        path = e.material.root / "cells" / "rl_mixed" / f"seed_{seed}" / "fold_0" / "policy" / "schedule.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        Schedule(CLASSES, np.tile(levels, (3, 1))).write(path)
    assert rows_of(e)["sampler learns"].verdict == verdict


@pytest.mark.parametrize(("growth", "verdict"), [(0.0, "works"), (0.3, "does not work")])
def test_a_growing_gap_between_reward_and_tune_is_hacking(table: Path, growth: float, verdict: str) -> None:
    e = evidence(table, GOOD)
    for seed in (0, 1):
        folder = e.material.root / "cells" / "rl" / f"seed_{seed}" / "fold_0" / "policy"
        folder.mkdir(parents=True, exist_ok=True)
        noise = 0.001 * np.random.default_rng(seed).normal(size=8)
        team = 0.5 + np.linspace(0, growth, 8) + noise
        pd.DataFrame({"kept": 1, "team": team, "team_tune": 0.5}).to_csv(folder / "rounds.csv", index=False)
    assert rows_of(e)["reward hacking"].verdict == verdict


@pytest.mark.parametrize(("drop", "verdict"), [(0.02, "works"), (0.05, "does not work")])
def test_the_autoencoder_may_cost_three_points(table: Path, drop: float, verdict: str) -> None:
    e = evidence(table, GOOD)
    write_json(e.material.root / "gates" / "ab" / "fold_0.json", {"real": [0.6], "reconstructed": [0.6 - drop]})
    row = rows_of(e)["autoencoder"]
    assert (row.verdict, row.found) == (verdict, f"ab, fold 0: {drop:+.3f}")


@pytest.mark.parametrize(
    ("copying", "sketch", "verdicts"),
    [
        (["good"] * 3, ["good"] * 3, ("works", "works")),
        (["good", "bad", "good"], ["fair"] * 3, ("does not work", "not shown")),
        (["unknown", "good", "good"], ["bad"] * 3, ("not shown", "does not work")),
    ],
)
def test_inspection_answers_by_class(
    table: Path, copying: list[str], sketch: list[str], verdicts: tuple[str, str]
) -> None:
    e = evidence(table, GOOD)
    classes: dict[str, Any] = {
        name: {"findings": {"copying": a, "sketch": b}} for name, a, b in zip(CLASSES, copying, sketch, strict=True)
    }
    write_json(e.material.pool("pool", "ab", 0) / "quality.json", {"classes": classes})
    rows = rows_of(e)
    assert (rows["no copying"].verdict, rows["Reading A"].verdict) == verdicts


def test_a_leak_is_counted_against_the_splits(table: Path) -> None:
    e = evidence(table, GOOD)
    frame = pd.read_csv(table, dtype=str)
    frame.loc[11, "patient_id"] = frame.loc[0, "patient_id"]
    frame.to_csv(table, index=False)
    row = rows_of(e)["splits"]
    assert (row.verdict, row.found) == ("does not work", "patients in two folds: 1; generator leaks: 0")


def test_the_tables_and_the_page_are_written_from_the_same_numbers(table: Path, tmp_path: Path) -> None:
    e = evidence(table, GOOD)
    rows = findings(e)
    shutil.rmtree(e.material.root / "pools")  # these held the real table: no images to show
    out = tmp_path / "written"
    out.mkdir()
    write_genaug(out, e, rows, GROUPS)
    assert {path.name for path in out.iterdir()} == {
        "genaug.html", "genaug.md", "genaug.json", "arms.csv", "differences.csv"
    }  # fmt: skip
    differences = pd.read_csv(out / "differences.csv").set_index(["arm", "against", "metric"])
    assert differences.loc[("rl", "real", "macro_f1"), "value"] == pytest.approx(0.4)
    page = (out / "genaug.html").read_text(encoding="utf-8")
    assert "Tests fixed beforehand" in page
    assert "works only if" in page
    told = summary(e, rows)
    assert "synthesis helps: works." in told
    grid = arm_grid(e)
    assert dict(zip(grid.columns, grid.rows[list(GOOD).index("rl")], strict=True))["Gap closed"].startswith("0.800")


def test_few_seeds_few_patients_and_simulated_images_are_cautioned(table: Path) -> None:
    said = " ".join(cautions_of(evidence(table, GOOD)))
    assert "2 training seeds; the plan asks for 5" in said
    assert "no clinical claim" in said
    assert "independent implementation of the idea" in said
