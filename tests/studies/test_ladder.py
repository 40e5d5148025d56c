"""The ladder: one budget for all, arms that differ in named keys, a choice that never sees test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medtail.config import dump_yaml
from medtail.errors import MedtailError, UsageError
from medtail.judging.decisions import decide
from medtail.judging.thresholds import ThresholdConfig
from medtail.runs import read_json
from medtail.studies.arms import budgets
from medtail.studies.decoding import chooser
from medtail.studies.ladder import CHOICE, Ladder, load_ladder, run_ladder, settle
from medtail.studies.protocol import begin, check_study
from medtail.studies.rungs import RUNGS
from medtail.tables.labels import LabelSpace
from medtail.tables.manifest import Manifest
from medtail.tables.predictions import Predictions

Write = Callable[..., Path]
SKILLS = {"prevalence": 0.0, "most_frequent": 0.0, "erm": 0.6, "focal": 1.4, "asl": 0.8}


@pytest.fixture
def write(made_up: Manifest, tmp_path: Path) -> Write:
    """Write a ladder's file on the made-up table, and return its path."""

    def make(**keys: Any) -> Path:
        train = {
            "manifest": "made_up.csv", "loss": {"kind": "asl"}, "optimizer": {"epochs": 4, "batch_size": 16},
        }  # fmt: skip
        values = {"train": train, "rungs": ["focal", "asl"], "seeds": [0, 1], "judge": {"bootstrap": 100}} | keys
        (tmp_path / "ladder.yaml").write_text(dump_yaml(values), encoding="utf-8")
        return tmp_path / "ladder.yaml"

    return make


def steps(ladder: Ladder, arm: str, rows: int = 45) -> Any:
    return budgets(ladder.study.arms[arm].config, train_rows=rows)["steps"]


def test_a_ladder_begins_with_floors_and_the_plain_method_and_undoes_the_base(write: Write) -> None:
    ladder = load_ladder(write())
    assert list(ladder.study.arms) == ["prevalence", "most_frequent", "erm", "focal", "asl"]
    assert ladder.rungs == ("erm", "focal", "asl")
    assert ladder.study.reference == "erm"
    assert ladder.study.arms["erm"].config.loss.kind == "bce"
    assert [change.text() for change in ladder.study.arms["focal"].changes] == [
        "loss.kind: bce → focal", "loss.gamma: none → 2.0", "loss.link: none → sigmoid",
    ]  # fmt: skip


def test_every_rung_takes_the_same_steps_whatever_its_sampler_and_stages(write: Write) -> None:
    tail = {name: {"tail_mix": None} for name in ("syntus",)}
    for given, wanted in ((None, 12), (40, 40), (3, 4)):
        ladder = load_ladder(write(rungs=["all"], adjust=tail, **({} if given is None else {"steps": given})))
        assert ladder.steps == wanted
        for arm in ladder.rungs:
            # the table's 45 train rows, or those of another fold: no rung follows the number of rows
            assert steps(ladder, arm) == steps(ladder, arm, rows=70) == f"{wanted} steps", arm
        check_study(ladder.study)


def test_steps_follow_the_rows_of_a_cross_validation(write: Write) -> None:
    folds = {"kind": "cross_validation", "num_folds": 3, "duplicates": False, "min_positives": 0}
    dealt = load_ladder(write(folds=folds)).study.manifest
    rows = int((dealt.folds != "test").sum())
    assert load_ladder(write(folds=folds)).steps == 4 * -(-(rows - rows // 3) // 16)


def test_ladders_are_judged_by_ap_and_f1_with_thresholds_that_ask_no_scale_of_scores(write: Write) -> None:
    judge = load_ladder(write()).study.judge
    assert (judge.metrics, judge.levels) == (("ap", "f1", "micro_f1"), ("macro", "group"))
    assert judge.thresholds.shrinkage_patients == 0.0
    own = load_ladder(write(judge={"metrics": ["auroc"], "fold": "test"}, choose_by="auroc")).study.judge
    assert (own.metrics, own.fold, own.thresholds.shrinkage_patients) == (("auroc",), "test", 0.0)
    half = load_ladder(write(judge={"thresholds": {"shrink_to": "half", "shrinkage_patients": 20}})).study.judge
    assert (half.thresholds.shrink_to, half.thresholds.shrinkage_patients) == ("half", 20.0)
    # a protocol chooses its own
    reports = load_ladder(write(judge={"protocol": "thyro_lmd"})).study.judge
    assert reports.thresholds == ThresholdConfig()


def test_the_ladders_thresholds_decide_alike_whatever_is_done_to_the_scores(write: Write) -> None:
    """Threshold tuning is equal only if a method gains nothing by moving its scores about."""
    random = np.random.default_rng(0)
    ids = np.array([f"i{k}" for k in range(300)], dtype=object)
    targets = (random.random((300, 2)) < np.array([0.3, 0.04])).astype(float)
    scores = 1 / (1 + np.exp(3.0 - 2.0 * targets - random.normal(size=targets.shape)))
    tune = Predictions(ids, ids, scores, targets, LabelSpace(("a", "b")), np.array(["tune"] * 300, dtype=object))
    loud = replace(tune, scores=scores**0.2)  # the same order of images, all scores high
    rule = load_ladder(write()).study.judge
    decided = [decide(replace(one, thresholds=chooser(rule)(one))) for one in (tune, loud)]
    assert (decided[0] == decided[1]).all()
    assert decided[0].any(axis=0).all(), "the rare class is called too"
    held = replace(rule, thresholds=ThresholdConfig(shrink_to="half"))
    halves = [decide(replace(one, thresholds=chooser(held)(one))) for one in (tune, loud)]
    assert not (halves[0] == halves[1]).all(), "a pull toward 0.5 would not"


def test_own_rungs_and_adjustments_are_laid_over_the_plain_method(write: Write) -> None:
    extra = {"mine": {"loss.kind": "focal", "loss.gamma": 5.0}}
    ladder = load_ladder(write(extra=extra, adjust={"focal": {"loss.gamma": 1.0}, "csra": {"head.share": 0.5}}))
    assert ladder.study.arms["mine"].config.loss.gamma == 5.0
    assert ladder.study.arms["focal"].config.loss.gamma == 1.0
    assert "csra" not in ladder.study.arms  # not climbed: its adjustment waits


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"rungs": ["fokal"]}, r"ladder.yaml: no rung 'fokal'; did you mean 'focal'\?"),
        ({"adjust": {"fokal": {}}}, r"adjust: no rung 'fokal'; did you mean 'focal'\?"),
        ({"extra": {"focal": {}}}, "extra 'focal': expected a name of its own .*; that is a rung or floor already"),
        ({"choose_by": "auroc"}, "choose_by 'auroc': is not judged; expected it in judge.metrics"),
        ({"floors": ["linear_probe"]}, "floors: 'linear_probe' needs a backbone that comes with weights"),
        ({"floors": ["prevalense"]}, r"floors: no floor 'prevalense'; did you mean 'prevalence'\?"),
        ({"rungs": []}, "rungs: found none; leave the key out for the core ones"),
        (
            {"rungs": ["syntus"]},
            r"rung 'syntus', tail_mix.tail_below 0.05: no label is in so small a share of the rows",
        ),
        ({"step": 3}, "step: unknown key; did you mean 'steps'"),
        ({"extra": {"mine": {"optimizer.batch_size": 8}}}, "arm 'mine', batch: found 8 images a step; 'erm' has 16"),
        ({"extra": {"mine": {"optimizer.epochs": 9}}}, "arm 'mine', steps: found 27 steps; 'erm' has 12 steps"),
        ({"extra": {"plain": {}}}, "arm 'plain': is the same training as arm 'erm'"),
    ],
)
def test_mistakes_are_named_before_any_step(write: Write, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_study(load_ladder(write(**keys)).study)


def test_an_odd_batch_is_refused(write: Write) -> None:
    path = write(train={"manifest": "made_up.csv", "optimizer": {"batch_size": 15}})
    with pytest.raises(UsageError, match=r"optimizer\.batch_size: found 15; expected an even number"):
        load_ladder(path)


def test_options_take_the_place_of_the_files_keys(write: Write) -> None:
    ladder = load_ladder(write(), rungs=["asl", "most_frequent"], seeds=[7], steps=20, overrides=["choose_by=f1"])
    assert (list(ladder.study.arms), ladder.study.seeds) == (["most_frequent", "erm", "asl"], (7,))
    assert (ladder.steps, ladder.choose_by) == (20, "f1")


def filled(ladder: Ladder, root: Path, finish: Any, *, test: dict[str, float] | None = None) -> None:
    begin(ladder.study, root)
    for cell in ladder.study.cells(root):
        finish(cell, skill=SKILLS)
        if test is not None:
            finish(cell, what="test", skill=test)


@pytest.mark.slow
def test_the_choice_is_the_same_whatever_test_says(write: Write, finish: Any, tmp_path: Path) -> None:
    chosen = []
    for number, test in enumerate((SKILLS, {name: 3.0 * (name == "asl") for name in SKILLS})):
        ladder = load_ladder(write(judge={"bootstrap": 100, "fold": "test"}))
        filled(ladder, tmp_path / str(number), finish, test=test)
        outcome = run_ladder(ladder, tmp_path / str(number), quiet=True)
        assert [one.name for one in outcome.outcome.judged] == ["test", "tune"]
        chosen.append((tmp_path / str(number) / CHOICE).read_bytes())
        assert outcome.choice is not None
        assert outcome.choice.rung == "focal"
        assert outcome.choice.tried == 3  # floors are no methods
    assert chosen[0] == chosen[1]


def test_the_choice_is_written_before_test_is_opened(
    write: Write, finish: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medtail.studies import ablation

    ladder = load_ladder(write(floors=[], judge={"bootstrap": 100, "fold": "test"}))
    filled(ladder, tmp_path / "out", finish)

    def stop(*_: Any, **__: Any) -> None:
        raise MedtailError("test is about to be opened")

    monkeypatch.setattr(ablation, "final_sets", stop)
    with pytest.raises(MedtailError, match="about to be opened"):
        run_ladder(ladder, tmp_path / "out", quiet=True)
    assert read_json(tmp_path / "out" / CHOICE)["rung"] == "focal"


@pytest.mark.slow
def test_once_test_is_open_the_written_choice_stands(write: Write, finish: Any, tmp_path: Path) -> None:
    ladder = load_ladder(write(judge={"bootstrap": 100, "fold": "test"}))
    filled(ladder, tmp_path / "out", finish, test=SKILLS)
    before = run_ladder(ladder, tmp_path / "out", quiet=True).choice
    # a third seed that turns everything round comes after the test scores were seen
    more = replace(ladder, study=replace(ladder.study, seeds=(0, 1, 2)))
    for cell in more.study.cells(tmp_path / "out"):
        if cell.seed == 2:
            finish(cell, skill={name: 9.0 * (name == "erm") for name in SKILLS})
    assert settle(more, tmp_path / "out") == before


def test_without_the_plain_method_nothing_is_chosen_yet(write: Write, finish: Any, tmp_path: Path) -> None:
    ladder = load_ladder(write())
    begin(ladder.study, tmp_path / "out")
    for cell in ladder.study.cells(tmp_path / "out"):
        if cell.arm != "erm":
            finish(cell, skill=SKILLS)
    assert settle(ladder, tmp_path / "out") is None
    assert not (tmp_path / "out" / CHOICE).exists()


def test_the_core_of_the_ladder_is_a_climb_from_plain_to_syntus() -> None:
    core = [name for name, rung in RUNGS.items() if rung.is_core]
    assert (core[0], core[-1]) == ("erm", "syntus")
    assert {rung.family for name, rung in RUNGS.items() if name in core} >= {
        "plain", "loss", "sampling", "head", "stages", "experts", "whole",
    }  # fmt: skip


@pytest.mark.slow
def test_a_ladder_of_real_trainings_runs_and_is_never_run_twice(toy_manifest: Manifest, tmp_path: Path) -> None:
    toy_manifest.write(tmp_path / "toy.csv")
    train = {
        "manifest": "toy.csv", "classes": ["bright", "shape=*"], "pixels": {"size_px": 32},
        "backbone": {"kind": "resnet"}, "cache": "cache", "threads": 1, "accelerator": "cpu",
        "optimizer": {"epochs": 2, "batch_size": 18, "learning_rate": 0.005, "keep": "last"},
    }  # fmt: skip
    adjust = {"syntus": {"tail_mix": None, "head.attention": {"width": 16, "rank": 2}, "head.batch_mixer.heads": 4}}
    values = {
        "train": train, "rungs": ["crt", "syntus"], "adjust": adjust, "seeds": [0],
        "judge": {"bootstrap": 50, "fold": "test"},
    }  # fmt: skip
    (tmp_path / "ladder.yaml").write_text(dump_yaml(values), encoding="utf-8")
    outcome = run_ladder(load_ladder(tmp_path / "ladder.yaml"), tmp_path / "out", quiet=True)
    assert not outcome.outcome.failures
    table = pd.read_csv(tmp_path / "out" / "ladder.csv")
    assert list(table.loc[table["judged"] == "test", "rung"]) == ["prevalence", "most_frequent", "erm", "crt", "syntus"]
    assert table.loc[table["rung"] == "prevalence", "auroc"].dropna().eq(0.5).all()
    ratio = table.set_index("rung")["step_ratio"]
    assert ratio["erm"].eq(1.0).all()
    assert np.isnan(ratio["prevalence"]).all()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "cells").rglob("*")}
    kept = (tmp_path / "out" / "ladder.csv").read_bytes()
    run_ladder(load_ladder(tmp_path / "ladder.yaml"), tmp_path / "out", quiet=True)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "cells").rglob("*")} == before
    assert (tmp_path / "out" / "ladder.csv").read_bytes() == kept
