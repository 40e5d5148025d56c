"""`medtail study`: what is printed, what is written, and how it exits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medtail.cli.main import call
from medtail.config import dump_yaml
from medtail.tables.manifest import Manifest

TRAIN: dict[str, Any] = {
    "manifest": "toy.csv", "classes": ["bright"], "pixels": {"size_px": 32}, "backbone": {"kind": "resnet"},
    "cache": "cache", "threads": 1, "accelerator": "cpu",
    "optimizer": {"epochs": 1, "batch_size": 18, "learning_rate": 0.005},
}  # fmt: skip


@pytest.fixture
def folder(toy_manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    toy_manifest.write(tmp_path / "toy.csv")
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "train.yaml", TRAIN)
    return tmp_path


def write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(dump_yaml(values), encoding="utf-8")


def test_ablate_prints_tables_and_show_says_how_far_it_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arms = {"full": {}, "flip": {"test_time_flip": True}}
    write(folder / "study.yaml", {"base": "train.yaml", "arms": arms, "judge": {"bootstrap": 50}})
    assert call(["study", "ablate", "study.yaml", "--seeds", "4", "--out", "out"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("all classes: the tune fold")
    assert "flip: too few positives to say." in out
    assert "0 of 2 cells; full/seed_4/fold_0" in err
    assert "Written: out/study.html, study.md, study.json, tables.csv, differences.csv, costs.csv." in err
    assert call(["study", "show", "out"]) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[2].split() == ["full", "1", "0", "0", "0", "0", "1"]
    assert "flip: too few positives to say." in shown
    assert call(["study", "show", "out", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cells"] == {
        "full/seed_4/fold_0": "finished", "flip/seed_4/fold_0": "finished",
    }  # fmt: skip
    assert call(["study", "ablate", "study.yaml", "--seeds", "4", "--out", "out", "--json", "-q"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["finished"], found["failed"], found["elsewhere"]) == (2, {}, [])
    assert found["judged"]["tune"]["verdicts"] == {"full": "reference", "flip": "too few positives to say"}


def test_failed_cells_are_named_and_the_exit_code_is_1(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = {"optimizer.learning_rate": 1e30, "optimizer.gradient_clip": None}
    write(folder / "study.yaml", {"base": "train.yaml", "arms": {"broken": broken}, "seeds": [0]})
    assert call(["study", "ablate", "study.yaml", "--out", "out", "-q"]) == 1
    out, err = capsys.readouterr()
    assert "no arm is finished yet" in out
    assert "error: 1 cell failed:\n  broken/seed_0/fold_0: " in err
    assert call(["study", "show", "out"]) == 0
    assert "1 cell failed:" in capsys.readouterr().out


def test_what_another_machine_holds_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder / "study.yaml", {"base": "train.yaml", "arms": {"full": {}}, "seeds": [0]})
    claim = folder / "out" / "claims" / "full" / "seed_0" / "fold_0.claim"
    # the plan first, as the other machine's command has made it
    from medtail.studies.ablation import ablation_study
    from medtail.studies.protocol import begin

    begin(ablation_study(folder / "study.yaml"), folder / "out")
    claim.parent.mkdir(parents=True)
    claim.write_text(json.dumps({"host": "far.example", "pid": 7, "born": "", "since": 0.0, "key": "k"}))
    assert call(["study", "ablate", "study.yaml", "--out", "out", "-q"]) == 0
    err = capsys.readouterr().err
    assert "full/seed_0/fold_0: held by far.example, process 7" in err
    assert call(["study", "show", "out"]) == 0
    assert "running: full/seed_0/fold_0 (far.example, process 7" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ablate", "none.yaml", "--out", "out"], "none.yaml: no such file"),
        (["ablate", "study.yaml", "--seeds", "a", "--out", "out"], "--seeds 'a': expected whole numbers by commas"),
        (["ablate", "study.yaml", "--seeds", "1,1", "--out", "out"], "--seeds '1,1': expected each seed once"),
        (["ablate", "study.yaml", "--out", "out"], "arm 'odd', optimizer.epoch: unknown key; did you mean 'epochs'?"),
        (["cv", "train.yaml", "--external", "far.csv", "--out", "out"], "--external 'far.csv': expected NAME=PATH"),
        (["show", "."], "holds no study (no plan.json)"),
    ],
)
def test_wrong_use_exits_with_2(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    write(folder / "study.yaml", {"base": "train.yaml", "arms": {"full": {}, "odd": {"optimizer.epoch": 2}}})
    assert call(["study", *words]) == 2
    assert message in capsys.readouterr().err
    assert not (folder / "out").exists()


@pytest.mark.slow
def test_cv_writes_the_tables_of_one_arm(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["study", "cv", "train.yaml", "--folds", "2", "--seeds", "1", "--fold", "test", "--bootstrap", "50"]
    assert call([*words, "--no-duplicates", "--out", "out", "--set", "optimizer.keep=last"]) == 0
    assert capsys.readouterr().out.startswith("all classes: the test fold, opened once for all arms, scores averaged")
    assert (folder / "out" / "study.html").exists()


def test_a_ladder_prints_its_table_its_choice_and_where_the_pages_are(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder / "ladder.yaml", {"base": "train.yaml", "floors": ["prevalence"], "judge": {"bootstrap": 50}})
    words = ["study", "ladder", "ladder.yaml", "--rungs", "focal", "--seeds", "1", "--steps", "1", "--out", "out"]
    assert call(words) == 0
    out, err = capsys.readouterr()
    assert out.startswith("The ladder: the tune fold")
    assert "Tune chooses '" in out
    assert "0 of 3 cells; prevalence/seed_0/fold_0" in err
    assert "Written: out/ladder.html, ladder.md, ladder.json, ladder.csv; study.html and more." in err
    assert call([*words, "--json", "-q"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["finished"], found["steps"], found["choice"]["tried"]) == (3, 1, 2)


def test_a_learning_curve_prints_its_answers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["study", "learning-curve", "train.yaml", "--fractions", ".5,1", "--target", "ap=0.99", "--seeds", "1"]
    assert call([*words, "--set", "judge.bootstrap=50", "--out", "out"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("How many more patients: the tune fold")
    assert "AP ≥ 0.99" in out
    assert "Written: out/curve.html, curve.md, curve.json, curve.csv; study.html and more." in err
    assert call([*words, "--set", "judge.bootstrap=50", "--out", "out", "--json", "-q"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["class"] for one in found["answers"]] == ["bright", ""]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ladder", "ladder.yaml", "--rungs", "fokal", "--out", "out"], "no rung 'fokal'; did you mean 'focal'?"),
        (["learning-curve", "train.yaml", "--fractions", "a", "--out", "out"], "--fractions 'a': expected numbers"),
        (["learning-curve", "train.yaml", "--target", "ap", "--out", "out"], "--target 'ap': expected FIGURE=VALUE"),
        (["learning-curve", "train.yaml", "--fractions", ".5,.7", "--out", "out"], "rising shares that end with 1"),
    ],
)
def test_wrong_use_of_ladder_and_curve_exits_with_2(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    write(folder / "ladder.yaml", {"base": "train.yaml"})
    assert call(["study", *words]) == 2
    assert message in capsys.readouterr().err
    assert not (folder / "out").exists()
