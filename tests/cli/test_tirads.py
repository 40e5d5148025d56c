from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medtail.cli.main import call
from medtail.lexicons.descriptors import LABEL_NAMES
from medtail.tables.frames import write_table

NODULE = ["--composition", "solid", "--echogenicity", "hypo", "--shape", "wider", "--margin", "smooth", "--foci",
          "punctate", "--size-mm", "12"]  # fmt: skip


def readings(folder: Path) -> Path:
    good = {"composition": "solid", "echogenicity": "hypo", "shape": "wider", "margin": "smooth", "foci": "none"}
    rows = [{"nodule_id": "a", **good, "size_mm": "16"}, {"nodule_id": "b", **good, "size_mm": ""},
            {"nodule_id": "c", **good, "composition": "solidd", "size_mm": "16"},
            {"nodule_id": "d", **good, "margin": "", "size_mm": "16"}]  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "readings.csv", index=False)
    return folder / "readings.csv"


def labels_and_scores(folder: Path, *, rows: int = 30) -> tuple[Path, Path]:
    """A table of labels with folds and sizes, and scores that know them."""
    random = np.random.default_rng(0)
    cells = np.zeros((rows, 20))
    scores = np.zeros((rows, 20))
    start = 0
    for width in (4, 5, 2, 4, 5):
        shares = random.dirichlet(np.ones(width), rows)
        chosen = (random.random((rows, 1)) > np.cumsum(shares, axis=1)).sum(axis=1)
        cells[np.arange(rows), start + np.minimum(chosen, width - 1)] = 1
        scores[:, start : start + width] = shares
        start += width
    ids = [f"i{n:02d}" for n in range(rows)]
    labels = pd.DataFrame(cells.astype(int), columns=list(LABEL_NAMES))
    fold = np.where(np.arange(rows) < rows // 2, "tune", "test")
    labels = labels.assign(image_id=ids, fold=fold, size_mm=12.0, undetermined="")
    labels.to_csv(folder / "labels.csv", index=False)
    table = pd.DataFrame(scores, columns=list(LABEL_NAMES)).assign(image_id=ids)
    write_table(folder / "scores.csv", table, header={"digests": {"calibration": "f" * 8}})
    return folder / "labels.csv", folder / "scores.csv"


def test_one_nodule_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["tirads", *NODULE]) == 0
    said = capsys.readouterr().out
    assert "ACR TI-RADS 2017: TR5, highly suspicious" in said
    assert "FNA: fine-needle aspiration (12 mm; FNA at >= 10 mm)" in said
    assert "would change" in said
    assert "Readers differ" in said
    assert "not a diagnosis" in said
    assert call(["tirads", *NODULE, "--system", "all"]) == 0
    said = capsys.readouterr().out
    assert [said.count(name) for name in ("C-TIRADS 2020", "EU-TIRADS 2017", "K-TIRADS 2021")] == [1, 1, 1]


def test_one_nodule_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["tirads", *NODULE, "--system", "acr,k", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [found["category"] for found in record] == ["TR5", "5"]
    assert record[0]["points"] == {"composition": 2, "echogenicity": 2, "shape": 0, "margin": 0, "foci": 3}
    assert record[0]["advice"]["action"] == "FNA"
    assert "not a diagnosis" in record[0]["note"]


def test_options_of_the_systems(capsys: pytest.CaptureFixture[str]) -> None:
    cyst = [*NODULE]
    cyst[1] = "cystic"
    assert call(["tirads", *cyst, "--cystic-stops"]) == 0
    assert "TR1, benign" in capsys.readouterr().out
    mixed = [*NODULE]
    mixed[1] = "mixed"
    assert call(["tirads", *mixed, "--system", "k", "--k4-threshold-mm", "15"]) == 0
    assert "NONE: nothing advised (12 mm; FNA only at > 15 mm)" in capsys.readouterr().out
    rim = [*NODULE]
    rim[9] = "rim"
    assert call(["tirads", *rim, "--rim-extrusion"]) == 0
    assert "smooth, rim extrusion" in capsys.readouterr().out
    assert call(["tirads", *NODULE[:-2], "--size-cm", "1.2"]) == 0
    assert "12 mm; FNA" in capsys.readouterr().out


def test_missing_descriptors_are_answered_with_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["tirads", "--composition", "solid", "--echogenicity", "hypo", "--system", "all"]) == 1
    said = capsys.readouterr().err
    assert "--shape: not given; expected wider or taller" in said
    assert "ACR TI-RADS TR4 to TR5; C-TIRADS 3 to 4C; EU-TIRADS 4 to 5; K-TIRADS 4 to 5" in said


@pytest.mark.parametrize(
    ("words", "code", "match"),
    [
        (["--composition", "solidd"], 1, "did you mean 'solid'?"),
        (["--size-mm", "1.2 cm", *NODULE[:-2]], 1, "centimetres in size_cm"),
        (["--foci", "none;rim"], 1, "'none' excludes the others"),
        ([], 2, "give a TABLE, or the descriptors"),
        ([*NODULE, "--system", "acr-2015"], 2, "version '2015': not implemented"),
        ([*NODULE, "--k4-threshold-mm", "20"], 2, "expected 10 to 15 mm"),
        ([*NODULE, "--out", "x"], 2, "one nodule is printed"),
    ],
)
def test_wrong_requests(words: list[str], code: int, match: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["tirads", *words]) == code
    assert match in capsys.readouterr().err


def test_a_table_of_readings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = readings(tmp_path)
    assert call(["tirads", str(table), "--system", "acr,c", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert "TR4  moderately suspicious                 2  1 FNA, 1 without size" in said.out
    assert "read as readings" in said.err
    assert "2 rows were left out" in said.err
    assert "row 4 (c), composition: found 'solidd', unknown; did you mean 'solid'?" in said.err
    assert "row 5 (d), margin: not given" in said.err
    levels, errors = pd.read_csv(tmp_path / "out" / "levels.csv"), pd.read_csv(tmp_path / "out" / "errors.csv")
    assert levels[["nodule_id", "acr_category", "c_category"]].values.tolist() == [
        ["a", "TR4", "4A"],
        ["b", "TR4", "4A"],
    ]
    assert errors["row"].tolist() == [4, 5]
    assert call(["tirads", str(table), "--out", str(tmp_path / "out")]) == 2
    capsys.readouterr()
    assert call(["tirads", str(table), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert len(record["results"]) == 2
    assert [row["group"] for row in record["errors"]] == ["composition", "margin"]


def test_a_table_with_nothing_usable_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.read_csv(readings(tmp_path), dtype=str, keep_default_na=False).iloc[2:]
    frame.to_csv(tmp_path / "bad.csv", index=False)
    assert call(["tirads", str(tmp_path / "bad.csv")]) == 1
    assert "no row could be graded" in capsys.readouterr().err


def test_a_table_of_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels, scores = labels_and_scores(tmp_path)
    words = ["tirads", str(scores), "--sizes", str(labels), "--out", str(tmp_path / "out")]
    assert call(words) == 0
    said = capsys.readouterr()
    assert "read as scores" in said.err
    assert "ACR TI-RADS 2017: 30 nodules, expected shares of levels" in said.out
    assert "Reliability on the tune fold: level, predicted and observed share, nodules" in said.out
    rows = re.search(r"Reliability on the tune fold.*\n((?: {4}TR\d.*\n){5})", said.out)
    assert rows is not None
    assert sum(int(line.split()[-1]) for line in rows[1].splitlines()) == 15  # the tune half of thirty
    assert "90 % within" in said.out
    assert "would change" in said.out
    assert "not marked as calibrated" not in said.out
    assert "not a diagnosis" in said.out
    table = pd.read_csv(tmp_path / "out" / "levels.csv")
    columns = [name for name in table if name.startswith("acr_p_TR")]
    assert table[columns].sum(axis=1).to_numpy() == pytest.approx(np.ones(30))
    assert table["acr_p_FNA"].to_numpy() == pytest.approx(table["acr_p_TR5"].to_numpy())


def test_scores_nobody_calibrated_are_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, scores = labels_and_scores(tmp_path)
    (tmp_path / "scores.csv.json").unlink()
    assert call(["tirads", str(scores)]) == 0
    said = capsys.readouterr().out
    assert "not marked as calibrated" in said
    assert "Reliability of the levels: unknown" in said
    assert "advice  " not in said  # no sizes
    assert call(["tirads", str(scores), "--calibrated"]) == 0
    assert "not marked as calibrated" not in capsys.readouterr().out


def test_targets_in_the_table_of_scores_judge_its_levels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels, scores = labels_and_scores(tmp_path)
    frame, truth = pd.read_csv(scores), pd.read_csv(labels)
    frame.assign(**{f"target:{name}": truth[name] for name in LABEL_NAMES}).to_parquet(tmp_path / "p.parquet")
    assert call(["tirads", str(tmp_path / "p.parquet"), "--system", "all", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert {name: found["rows"] for name, found in record["reliability"].items()} == dict.fromkeys(
        ("acr", "c", "eu", "k"), "all rows with labels"
    )
    assert sum(row["n"] for row in record["reliability"]["acr"]["levels"]) == 30
    assert len(record["results"]) == 30


def test_bad_rows_of_scores_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels, scores = labels_and_scores(tmp_path)
    frame = pd.read_csv(scores)
    frame.loc[3, "shape_wider"] = 0.99
    frame.loc[3, "shape_taller"] = 0.99
    frame.to_csv(scores, index=False)
    assert call(["tirads", str(scores), "--sizes", str(labels), "--consistency", "conditioned"]) == 0
    said = capsys.readouterr()
    assert "1 rows were left out" in said.err
    assert "row 5 (i03), shape: found 0.99, 0.99, whose sum is 1.98" in said.err
    assert "Contradictory readings taken away" in said.out
    assert call(["tirads", str(scores), "--scores", "separate"]) == 0
    assert "30 nodules" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["readings.csv", "--composition", "solid"], "describe one nodule; TABLE holds its own"),
        (["readings.csv", "--sizes", "labels.csv"], "--sizes: belongs to scores"),
        (["scores.csv", "--as", "readings"], ""),
    ],
)
def test_options_that_do_not_go_together(
    words: list[str], match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    readings(tmp_path)
    labels_and_scores(tmp_path)
    assert call(["tirads", *words]) == (2 if match else 1)
    assert match in capsys.readouterr().err


def test_a_table_of_labels_is_read_as_readings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels, _ = labels_and_scores(tmp_path)
    assert call(["tirads", str(labels)]) == 0
    said = capsys.readouterr()
    assert "read as readings" in said.err
    assert "ACR TI-RADS 2017: 30 nodules" in said.out


def test_sizes_that_cannot_be_joined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels, scores = labels_and_scores(tmp_path)
    frame = pd.read_csv(labels)
    frame.iloc[[0, 0, 1]].to_csv(tmp_path / "twice.csv", index=False)
    assert call(["tirads", str(scores), "--sizes", str(tmp_path / "twice.csv")]) == 1
    assert "i00 in more than one row" in capsys.readouterr().err
    frame.drop(columns="image_id").to_csv(tmp_path / "nameless.csv", index=False)
    assert call(["tirads", str(scores), "--sizes", str(tmp_path / "nameless.csv")]) == 1
    assert "nameless.csv: has no column 'image_id'" in capsys.readouterr().err
    frame.iloc[:20].to_csv(tmp_path / "part.csv", index=False)
    assert call(["tirads", str(scores), "--sizes", str(tmp_path / "part.csv")]) == 0
    assert "10 scored images are not in it" in capsys.readouterr().err


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["tirads", "--help"]) == 0
    assert "medtail tirads --composition solid" in capsys.readouterr().out
