"""What a person gets back for bad input: a message, an exit code, and nothing half-written."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from medtail.cli.main import call
from medtail.tables.manifest import Manifest

Edit = Callable[[pd.DataFrame], pd.DataFrame]


@pytest.fixture
def table(toy_manifest: Manifest, tmp_path: Path) -> Path:
    path = tmp_path / "toy.csv"
    toy_manifest.write(path)
    return path


def edited(table: Path, edit: Edit) -> Path:
    frame = edit(pd.read_csv(table, dtype=str, keep_default_na=False))
    frame.to_csv(table, index=False)
    return table


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str], *, code: int = 1) -> str:
    """Run a command that must fail with a message and no traceback; return what it said."""
    capsys.readouterr()
    assert call(arguments) == code
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return said.err + said.out


def test_a_missing_column_is_named_with_what_to_do(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edited(table, lambda frame: frame.rename(columns={"patient_id": "patientid"}))
    said = refused(capsys, ["data", "check", str(table)])
    assert "column 'patient_id': missing; did you mean 'patientid'?" in said


def test_a_value_of_two_is_shown_with_row_and_column(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edited(table, lambda frame: frame.assign(bright=["2", *frame["bright"][1:]]))
    said = refused(capsys, ["data", "check", str(table)])
    assert "toy.csv, row 2, column 'bright': found '2'; expected 1 (present), 0 (absent) or empty" in said


def test_repeated_ids_are_named_with_their_rows(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edited(table, lambda frame: frame.assign(image_id=["i000", "i000", *frame["image_id"][2:]]))
    assert "'i000' stands in rows 2, 3; expected once" in refused(capsys, ["data", "check", str(table)])


def test_an_image_that_does_not_exist_is_named(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edited(table, lambda frame: frame.assign(path=["images/none.png", *frame["path"][1:]]))
    said = refused(capsys, ["data", "check", str(table)])
    assert "none.png" in said


def test_a_truncated_jpeg_and_a_text_file_called_png_are_both_named(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    whole = tmp_path / "images" / "cut.jpg"
    Image.new("L", (200, 200), 90).save(whole)
    whole.write_bytes(whole.read_bytes()[:300])
    (tmp_path / "images" / "words.png").write_text("this is no image")
    edited(table, lambda frame: frame.assign(path=["images/cut.jpg", "images/words.png", *frame["path"][2:]]))
    said = refused(capsys, ["data", "check", str(table)])
    assert "cut.jpg" in said
    assert "words.png" in said


def test_an_empty_table_is_refused(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edited(table, lambda frame: frame.iloc[:0])
    assert "no rows" in refused(capsys, ["data", "check", str(table)])


def test_one_class_with_one_value_only_is_reported(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep = ["image_id", "path", "patient_id", "fold", "bright"]
    edited(table, lambda frame: frame[keep].assign(bright="1"))
    capsys.readouterr()
    call(["data", "check", str(table), "--no-images"])
    assert "'bright'" in capsys.readouterr().out


def test_a_class_without_positives_is_judged_as_undefined_not_zero(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edited(table, lambda frame: frame.assign(rare="0"))
    truth = pd.read_csv(table)
    classes = ["bright", "rare", *(name for name in truth.columns if name.startswith("shape="))]
    scores = truth[["image_id"]].assign(**dict.fromkeys(classes, 0.25))
    scores.to_csv(tmp_path / "scores.csv", index=False)
    capsys.readouterr()
    arguments = ["evaluate", str(tmp_path / "scores.csv"), "--truth", str(table), "--fold", "test"]
    assert call([*arguments, "--out", str(tmp_path / "results"), "--bootstrap", "50"]) == 0
    results = pd.read_csv(tmp_path / "results" / "results.csv")
    rare = results[(results["class"] == "rare") & (results["metric"] == "ap")]
    assert rare["value"].isna().all()
    said = capsys.readouterr().out
    assert "2 of 5 classes have positives; 3 cannot be judged" in said


def test_a_table_of_one_patient_cannot_be_split(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edited(table, lambda frame: frame.drop(columns="fold").assign(patient_id="p1"))
    said = refused(capsys, ["data", "split", str(table), "--out", str(tmp_path / "split.csv"), "--no-duplicates"])
    assert "one patient" in said
    assert not (tmp_path / "split.csv").exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [("", "a score, not NaN or an empty cell"), ("1.7", "a score in [0, 1] (logits?"), ("high", "expected a number")],
)
def test_bad_scores_are_named_and_nothing_is_written(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], value: str, message: str
) -> None:
    truth = pd.read_csv(table)
    classes = ["bright", "rare", *(name for name in truth.columns if name.startswith("shape="))]
    scores = truth[["image_id"]].assign(**dict.fromkeys(classes, "0.25"))
    scores.loc[3, "rare"] = value
    scores.to_csv(tmp_path / "scores.csv", index=False)
    arguments = ["evaluate", str(tmp_path / "scores.csv"), "--truth", str(table), "--out", str(tmp_path / "results")]
    said = refused(capsys, arguments)
    assert "row 5, column 'rare'" in said
    assert message in said
    assert not (tmp_path / "results").exists()


def test_an_unknown_config_key_is_a_wrong_use_with_the_nearest_name(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rare.yaml").write_text("manifest: toy.csv\nloss: {kind: focal, gama: 2}\n")
    said = refused(capsys, ["train", str(tmp_path / "rare.yaml"), "--out", str(tmp_path / "run")], code=2)
    assert "rare.yaml, loss.gama: unknown key; did you mean 'gamma'?" in said
    assert not (tmp_path / "run").exists()


def test_a_full_disk_is_said_and_leaves_nothing(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    edited(table, lambda frame: frame.drop(columns="fold"))
    monkeypatch.setattr(os, "fsync", full)
    out = tmp_path / "split" / "split.csv"
    said = refused(capsys, ["data", "split", str(table), "--out", str(out), "--no-duplicates"])
    assert "the disk is full; nothing was written there" in said
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("verb", ["train", "evaluate", "quickstart"])
def test_a_folder_that_is_not_empty_is_never_written_to(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    out = tmp_path / "taken"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    (tmp_path / "c.yaml").write_text("manifest: toy.csv\nbackbone: {kind: resnet, size: tiny}\n")
    truth = pd.read_csv(table)
    classes = ["bright", "rare", *(name for name in truth.columns if name.startswith("shape="))]
    truth[["image_id"]].assign(**dict.fromkeys(classes, 0.25)).to_csv(tmp_path / "s.csv", index=False)
    arguments = {
        "train": ["train", str(tmp_path / "c.yaml"), "--quiet"],
        "evaluate": ["evaluate", str(tmp_path / "s.csv"), "--truth", str(table)],
        "quickstart": ["quickstart", "--quiet"],
    }[verb]
    said = refused(capsys, [*arguments, "--out", str(out)], code=2)
    assert "is not empty; medtail never overwrites" in said
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


def test_an_unknown_option_is_a_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    refused(capsys, ["data", "check", "--nonsense"], code=2)


def test_an_unknown_layout_names_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, ["data", "import", "bus_bar", str(tmp_path), "--out", str(tmp_path / "m.csv")], code=2)
    assert "did you mean 'bus_bra'?" in said
