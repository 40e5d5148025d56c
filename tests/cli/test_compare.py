"""`medtail compare` on files: what a system may be, what it is called, and what is written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medtail.cli.compare import name_systems
from medtail.cli.main import call
from medtail.errors import UsageError
from medtail.tables.labels import LabelSpace
from medtail.tables.predictions import Predictions

NAMES = ("Effusion", "Hernia")


def table(skill: float, *, seed: int, fold: int = 0, images: int = 90) -> Predictions:
    truth = np.random.default_rng(fold)
    y = (truth.random((images, 2)) < (0.4, 0.2)).astype(float)
    logits = skill * y + np.random.default_rng((seed, fold)).normal(size=y.shape)
    ids = np.array([f"f{fold}i{k:02d}" for k in range(images)], dtype=object)
    patients = np.array([f"f{fold}p{k // 2:02d}" for k in range(images)], dtype=object)
    where = np.array(["test"] * images, dtype=object)
    return Predictions(ids, patients, 1 / (1 + np.exp(-logits)), y, LabelSpace(NAMES), where)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs, a results folder, loose score files and cross-validations, as people have them."""
    monkeypatch.chdir(tmp_path)
    table(2.0, seed=1).write("runs/asl/predictions_test.parquet")
    table(0.3, seed=2).write("runs/bce/predictions_test.parquet")
    table(1.0, seed=3).write("results/predictions.parquet")
    table(1.0, seed=4).write("scores.csv")
    for k in range(5):
        table(2.0, seed=5, fold=k).write(f"cv_asl/fold_{k}/predictions_test.parquet")
        table(0.0, seed=6, fold=k).write(f"cv_bce/fold_{k}/predictions_test.parquet")
    for k in range(3):
        table(1.5, seed=7 + k).write(f"seeds/s{k}.parquet")
    return tmp_path


def test_runs_results_and_files_are_compared_and_written(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["compare", "runs/asl", "runs/bce", "results", "theirs=scores.csv", "--metrics", "ap", "--out", "out"]
    assert call([*asked, "--margin", "0.05"]) == 0
    shown = capsys.readouterr()
    assert "'asl' is ahead of 'bce' in macro AP" in shown.out
    assert "Written: out/comparison.html" in shown.err
    assert sorted(path.name for path in (work / "out").iterdir()) == [
        "comparison.csv", "comparison.html", "comparison.json", "systems.csv",
    ]  # fmt: skip
    header = json.loads((work / "out" / "comparison.json").read_text())
    assert list(header["systems"]) == ["asl", "bce", "results", "theirs"]
    assert header["margins"] == {"ap": 0.05}
    table_of = pd.read_csv(work / "out" / "comparison.csv")
    assert set(table_of["non_inferior"].dropna()) <= {"a", "b", "both", "neither"}


def test_foreign_scores_take_their_labels_from_the_truth(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judged = pd.read_csv("scores.csv", dtype={"image_id": str})
    truth = judged[["image_id", "patient_id", "fold"]].assign(path="x.png")
    for name in NAMES:
        truth[name] = judged[f"target:{name}"].astype(int)
    truth.to_csv("truth.csv", index=False)
    for number, name in enumerate(("one", "two")):
        scores = judged[["image_id", *NAMES]].sample(frac=1, random_state=number)
        scores[list(NAMES)] = scores[list(NAMES)] * 8 - 4 + number * np.random.default_rng(number).normal(size=(90, 2))
        scores.to_csv(f"{name}.csv", index=False)
    asked = ["compare", "one.csv", "two.csv", "--metrics", "auroc", "--levels", "macro", "--out", "out"]
    assert call(asked) == 1
    said = capsys.readouterr().err
    assert said.count("--truth labels.csv") == 2  # both files in one message
    assert "--scores logits" in said
    assert not Path("out").exists()
    assert call([*asked, "--truth", "truth.csv", "--scores", "logits", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["header"]["num_rows"] == 90
    # what medtail wrote stays a probability beside a table of logits
    mixed = ["compare", "runs/asl", "one.csv", *asked[3:-1], "mixed", "--truth", "truth.csv", "--scores", "logits"]
    assert call([*mixed, "--metrics", "brier"]) == 0
    alone = table(2.0, seed=1)
    brier = ((alone.scores - alone.targets) ** 2).mean()
    value = pd.read_csv("mixed/systems.csv").set_index("system").loc["asl", "value"]
    assert value == pytest.approx(brier, abs=1e-12)
    assert found["differences"][0]["metric"] == "auroc"


def test_several_paths_are_seeds_of_one_system(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seeds = "asl=seeds/s0.parquet,seeds/s1.parquet,seeds/s2.parquet"
    assert call(["compare", seeds, "runs/bce", "--metrics", "ap", "--levels", "macro", "--out", "out"]) == 0
    assert "over 3)" in capsys.readouterr().out
    assert len(pd.read_csv("out/replicates.csv")) == 4
    fixed = [seeds, "runs/bce", "--metrics", "ap", "--levels", "macro", "--seed-draw", "fixed", "--out", "fixed"]
    assert call(["compare", *fixed]) == 0
    wide, narrow = (pd.read_csv(f"{folder}/comparison.csv") for folder in ("out", "fixed"))
    assert wide["difference"][0] == narrow["difference"][0]


def test_folders_of_folds_are_compared_by_the_corrected_test(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["compare", "cv_asl", "bce=cv_bce", "--folds", "--metrics", "auroc", "--levels", "macro", "--out", "out"]
    assert call(asked) == 0
    assert "'cv_asl' is ahead of 'bce' in macro AUROC" in capsys.readouterr().out
    header = json.loads(Path("out/comparison.json").read_text())
    assert header["folds"]["count"] == 5
    assert header["folds"]["test_share"] == 0.25
    assert call(["compare", "cv_asl", "cv_bce", "--out", "other"]) == 2
    assert "cv_asl: holds 5 runs" in capsys.readouterr().err


def test_the_page_and_tables_repeat_byte_for_byte(work: Path) -> None:
    for out in ("one", "two"):
        assert call(["compare", "runs/asl", "runs/bce", "--bootstrap", "200", "--out", out]) == 0
    for path in Path("one").iterdir():
        assert path.read_bytes() == (Path("two") / path.name).read_bytes(), path.name


def test_names_come_from_folders_and_files_and_are_unique(work: Path) -> None:
    table(1.0, seed=1).write("elsewhere/asl/predictions_test.parquet")
    table(1.0, seed=1).write("elsewhere/asl/results/predictions.parquet")
    table(1.0, seed=1).write("a=b.csv")
    given = ["runs/asl", "elsewhere/asl", "elsewhere/asl/results/predictions.parquet", "scores.csv", "a=b.csv"]
    named = name_systems(given, folds=False, fold="test")
    assert list(named) == ["runs/asl", "elsewhere/asl", "results", "scores", "a=b"]
    same = name_systems(["scores.csv", "./scores.csv"], folds=False, fold="test")
    assert len(same) == 2
    table(1.0, seed=1).write("cv/fold_10/predictions_test.parquet")
    table(1.0, seed=1).write("cv/fold_9/predictions_test.parquet")
    folds = name_systems(["cv", "x=cv"], folds=True, fold="test")["cv"]
    assert [path.parent.name for path in folds] == ["fold_9", "fold_10"]


def test_every_wrong_argument_is_named_at_once(work: Path) -> None:
    (work / "empty").mkdir()
    (work / "untested" / "model").mkdir(parents=True)
    with pytest.raises(UsageError) as caught:
        name_systems(["runs/asll", "empty", "untested", "x=runs/asl", "x=runs/bce"], folds=False, fold="test")
    said = str(caught.value)
    assert "runs/asll: no such file or folder; did you mean 'runs/asl'?" in said
    assert "empty: holds neither predictions_test.parquet (a run) nor predictions.parquet (results)" in said
    assert "untested: has no predictions_test.parquet yet; open the fold with `medtail report untested" in said
    assert "name 'x': given 2 times; join the paths of one system by commas" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--metrics", "aproc"], "metric 'aproc': unknown; did you mean 'auroc'?"),
        (["--levels", "tail"], "level 'tail': unknown"),
        (["--margin", "ap=lots"], "--margin 'ap=lots': expected METRIC=NUMBER"),
        (["--interval", "95"], "interval 95.0: expected a share in (0, 1)"),
    ],
)
def test_a_wrong_option_is_a_wrong_use(
    work: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["compare", "runs/asl", "runs/bce", *options, "--out", "out"]) == 2
    assert said in capsys.readouterr().err
    assert not Path("out").exists()


def test_one_system_is_no_comparison(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["compare", "runs/asl", "--out", "out"]) == 2
    assert "found 1 system; expected two or more" in capsys.readouterr().err


def test_what_stands_there_is_never_overwritten(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["compare", "runs/asl", "runs/bce", "--bootstrap", "100", "--out", "runs"]) == 2
    assert "never overwrites" in capsys.readouterr().err


def test_tables_of_other_images_are_refused(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table(1.0, seed=1, images=80).write("short.parquet")
    assert call(["compare", "runs/asl", "short.parquet", "--out", "out"]) == 1
    assert "'short': has no scores for 10 of the 90 images of 'asl'" in capsys.readouterr().err
