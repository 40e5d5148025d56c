from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medtail.cli.main import call


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """scores.csv of the test fold and truth.csv with a train fold, sex and age."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    rows = 400
    truth = pd.DataFrame(
        {"image_id": [f"i{row}" for row in range(rows)], "path": [f"{row}.png" for row in range(rows)]}
    )
    truth["patient_id"] = [f"p{row // 2}" for row in range(rows)]
    truth["fold"] = ["train"] * 200 + ["test"] * 200
    truth["sex"] = np.where(np.arange(rows) // 2 % 2, "F", "M")
    truth["age"] = random.integers(20, 90, rows)
    for name, share in (("Nodule", 0.4), ("Hernia", 0.15), ("Mass", 0.03)):
        truth[name] = (random.random(rows) < share).astype(int)
    truth.to_csv("truth.csv", index=False)
    test = truth[truth["fold"] == "test"]
    scores = {name: (0.6 * random.random(200) + 0.3 * test[name]).round(3) for name in ("Nodule", "Hernia", "Mass")}
    test[["image_id"]].assign(**scores).to_csv("scores.csv", index=False)
    return tmp_path


def judged(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, object]:
    words = ["evaluate", "scores.csv", "--truth", "truth.csv", "--out", "out", "--bootstrap", "50", "--json", *options]
    assert call(words) == 0, capsys.readouterr().err
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_every_choice_reaches_the_results(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--groups", "count", "--cuts", "60,10", "--scheme", "bayesian", "--strata", "rarest", "--seed", "3"]
    found = judged(capsys, *options, "--interval-method", "bca", "--critical", "Hernia, Mass", "--absent", "error")
    header = found["header"]
    assert isinstance(header, dict)
    assert header["tail"]["rule"] == "count"
    assert header["tail"]["cuts"] == [60.0, 10.0]
    assert header["tail"]["groups"] == {"Nodule": "head", "Hernia": "medium", "Mass": "tail"}
    settings = {"scheme": "bayesian", "strata": "rarest", "interval_method": "bca", "seed": 3, "resamples": 50}
    assert settings.items() <= header["bootstrap"].items()
    assert (header["critical"], header["absent"]) == (["Hernia", "Mass"], "error")


def test_subgroups_come_from_the_manifests_columns(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = judged(capsys, "--by", "sex, age")
    rows = found["results"]
    assert isinstance(rows, list)
    assert {"sex=F", "sex=M", "age=40-59"} <= {row["subgroup"] for row in rows}


def test_the_summary_of_subgroups_follows_the_whole(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "scores.csv", "--truth", "truth.csv", "--out", "out", "--bootstrap", "50", "--by", "sex"]
    assert call(words) == 0
    told = capsys.readouterr().out
    assert told.index("mAP") < told.index("sex=F")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--cuts", "0.1"], "--cuts '0.1': expected two numbers"),
        (["--cuts", "0.01,0.1"], "expected the higher cut first"),
        (["--groups", "terciles", "--cuts", "0.1,0.01"], "'terciles' takes none"),
    ],
)
def test_cuts_that_cannot_be_are_refused(
    files: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    assert call(["evaluate", "scores.csv", "--truth", "truth.csv", "--out", "out", *options]) == 2
    assert words in capsys.readouterr().err
    assert not (files / "out").exists()


def test_subgroups_need_the_manifest_and_critical_classes_must_exist(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["evaluate", "scores.csv", "--out", "out", "--by", "sex"]) == 2
    assert "give it with --truth" in capsys.readouterr().err
    assert call(["evaluate", "scores.csv", "--truth", "truth.csv", "--out", "out", "--critical", "Hernai"]) == 1
    assert "did you mean 'Hernia'" in capsys.readouterr().err
    assert not (files / "out").exists()


def test_the_report_of_results_shows_subgroups_and_other_prevalences(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judged(capsys, "--by", "sex")
    Path("p.csv").write_text("class,prevalence,site\nNodule,0.01,ward\n", encoding="utf-8")
    assert call(["retarget", "out", "--prevalence", "p.csv", "--bootstrap", "20", "--out", "there"]) == 0
    words = ["report", "out", "--retargeted", "there/retargeted.csv", "--out", "page.html"]
    assert call(words) == 0, capsys.readouterr().err
    page = Path("page.html").read_text(encoding="utf-8")
    for name in ("subgroups", "prevalence"):
        assert f'<section id="{name}"' in page
    assert '<section id="conformal"' not in page
    assert "ward" in page
    assert call(["report", "out", "--retargeted", "out/results.csv", "--out", "other.html"]) == 1
    assert "expected what `medtail retarget` writes" in capsys.readouterr().err
    assert not Path("other.html").exists()
