"""`medtail cxr-lt`: the verbs on files, as a person types them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medtail.cli.cxr_lt import app
from medtail.cli.main import call
from medtail.sources.cxr_lt import edition

NAMES = edition("2024").task(3).class_names


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    labels = (random.random((80, 5)) < 0.3).astype(int)
    labels[0] = 1
    ids = [f"i{number}" for number in range(80)]
    truth = pd.DataFrame(labels, columns=list(NAMES))
    truth.insert(0, "dicom_id", ids)
    truth.insert(1, "subject_id", [f"p{number // 2}" for number in range(80)])
    truth.to_csv("truth.csv", index=False)
    for name, skill in (("a", 0.4), ("b", 0.1)):
        scores = pd.DataFrame(skill * labels + random.random(labels.shape) * (1 - skill), columns=list(NAMES))
        scores.insert(0, "dicom_id", ids)
        scores.to_csv(f"{name}.csv", index=False)
    return tmp_path


WHICH = ["--edition", "2024", "--task", "3"]


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = call(["cxr-lt", *words])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_score_prints_a_summary_and_writes_what_the_report_reads(files, capsys):
    options = ["--truth", "truth.csv", *WHICH, "--bootstrap", "32"]
    code, out, err = run(capsys, "score", "a.csv", *options, "--out", "results")
    assert code == 0
    assert out.startswith("CXR-LT 2024, task 3: zero-shot")
    assert "Written: results/results.csv" in err
    assert {path.name for path in Path("results").iterdir()} >= {
        "results.csv",
        "results.csv.json",
        "predictions.parquet",
    }
    code, out, _ = run(capsys, "score", "a.csv", *options, "--json")
    assert code == 0
    record = json.loads(out)
    assert record["header"]["challenge"]["task"] == 3
    ap = [row for row in record["results"] if row["metric"] == "ap" and not row["class"] and not row["tail_group"]]
    assert ap[0]["support"] == 5
    assert run(capsys, "score", "a.csv", *options, "--out", "results")[0] == 2
    assert call(["report", "results", "--out", "report.html"]) == 0
    assert Path("report.html").stat().st_size > 10_000


def test_score_takes_thresholds_critical_findings_and_readings(files, capsys):
    Path("t.json").write_text(json.dumps({"thresholds": dict.fromkeys(NAMES, 0.3)}))
    options = ["--truth", "truth.csv", *WHICH, "--bootstrap", "0", "--json", "--ece", "leaderboard"]
    code, out, _ = run(capsys, "score", "a.csv", *options, "--thresholds", "t.json", "--critical", "Bulla, Hilum")
    assert code == 0
    record = json.loads(out)
    assert record["header"]["ece"]["mode"] == "leaderboard"
    assert record["header"]["challenge"]["critical"] == ["Bulla", "Hilum"]
    assert any(row["metric"] == "fnr_critical@tune" for row in record["results"])
    Path("t.json").write_text('{"Bulla": "high"}')
    code, _, err = run(capsys, "score", "a.csv", *options, "--thresholds", "t.json")
    assert code == 2
    assert "expected a JSON object" in err


def test_validate_lists_all_faults_and_exits_with_1(files, capsys):
    assert run(capsys, "validate", "a.csv", "--test", "truth.csv", *WHICH)[0] == 0
    table = pd.read_csv("a.csv").drop(columns="Hilum").assign(Bulla=7, Extra=0.5).iloc[1:]
    table.to_csv("bad.csv", index=False)
    code, out, _ = run(capsys, "validate", "bad.csv", "--test", "truth.csv", *WHICH)
    assert code == 1
    for expected in ("'Hilum': missing", "'Bulla': found '7'", "'Extra'", "have no row: i0", "4 faults, 79 rows"):
        assert expected in out
    code, out, _ = run(capsys, "validate", "bad.csv", *WHICH, "--json")
    assert code == 1
    assert json.loads(out)["valid"] is False


def test_template_and_pack_make_files_that_validate(files, capsys):
    assert run(capsys, "template", "truth.csv", "--out", "sample.csv", *WHICH)[0] == 0
    assert run(capsys, "validate", "sample.csv", "--test", "truth.csv", *WHICH)[0] == 0
    Path("src").mkdir()
    Path("src/run.py").write_text("pass")
    pd.read_csv("a.csv").iloc[::-1].to_csv("reversed.csv", index=False)
    packing = ["pack", "reversed.csv", "--out", "s.zip", "--test", "truth.csv", "--code", "src", *WHICH]
    code, _, err = run(capsys, *packing)
    assert code == 0
    assert "rows were put into the test set's order" in err
    assert run(capsys, "validate", "s.zip", "--test", "truth.csv", *WHICH)[0] == 0
    code, _, err = run(capsys, *packing)
    assert code == 2
    assert "exists already" in err


def test_compare_prints_tables_and_differences(files, capsys):
    code, out, _ = run(capsys, "compare", "a.csv", "b.csv", "--truth", "truth.csv", *WHICH, "--bootstrap", "200")
    assert code == 0
    assert "AP of the unseen classes" in out
    assert "Differences, paired on the same resampled patients" in out
    code, out, _ = run(
        capsys, "compare", "a.csv", "b.csv", "--truth", "truth.csv", *WHICH, "--bootstrap", "0", "--json"
    )
    assert code == 0
    record = json.loads(out)
    assert [row["system"] for row in record["tables"][0]["rows"]] == ["a", "b"]
    assert record["differences"] == []


def test_files_of_one_name_are_told_apart_by_their_folders(files, capsys):
    Path("other").mkdir()
    Path("other/a.csv").write_bytes(Path("b.csv").read_bytes())
    code, out, _ = run(capsys, "compare", "a.csv", "other/a.csv", "--truth", "truth.csv", *WHICH, "--bootstrap", "0")
    assert code == 0
    assert "other/a.csv" in out
    code, _, err = run(capsys, "compare", "a.csv", "a.csv", "--truth", "truth.csv", *WHICH)
    assert code == 2
    assert "named twice" in err


def test_classes_lists_them_in_the_order_of_the_submission(files, capsys):
    code, out, _ = run(capsys, "classes", "--edition", "2024", "--task", "2", "--json")
    assert code == 0
    listed = json.loads(out)["classes"]
    assert [row["class"] for row in listed] == list(edition("2024").task(2).class_names)
    assert listed[14] == {
        "class": "Normal", "aliases": ["No Finding"], "train": 34_292, "development": 5_088, "tail_group": "head"
    }  # fmt: skip
    assert run(capsys, "classes", "--edition", "2026", "--task", "2")[0] == 0
    code, _, err = run(capsys, "classes", "--edition", "2022")
    assert code == 2
    assert "did you mean '202" in err


def test_editions_without_counts_are_grouped_by_a_train_file(files, capsys):
    names = edition("2026").task(1).class_names
    random = np.random.default_rng(0)
    labels = (random.random((60, 30)) < 0.3).astype(int)
    labels[0] = 1
    frame = pd.DataFrame(labels, columns=list(names))
    frame.insert(0, "ImageID", [f"i{number}" for number in range(60)])
    frame.assign(PatientID=[f"p{number}" for number in range(60)]).to_csv("t26.csv", index=False)
    frame.astype(dict.fromkeys(names, float)).to_csv("s26.csv", index=False)
    options = ["--truth", "t26.csv", "--edition", "2026", "--bootstrap", "0"]
    code, out, _ = run(capsys, "score", "s26.csv", *options, "--train", "t26.csv")
    assert code == 0
    assert "mAP by group" in out
    code, out, _ = run(capsys, "score", "s26.csv", *options)
    assert code == 0
    assert "were not published. Give a train file" in out


def test_every_verb_has_an_example():
    assert len(app.registered_commands) == 6
    for command in app.registered_commands:
        assert "medtail cxr-lt" in (command.epilog or "")
