from __future__ import annotations

import json
from pathlib import Path

import pytest

from medtail.cli.main import call
from medtail.tables.manifest import read_manifest

Capture = pytest.CaptureFixture[str]


def test_a_thyroid_series_is_written_and_its_shares_printed(tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "p"
    assert call(["data", "phantom", "thyroid", "--images", "20", "--size", "32", "--out", str(out), "-q"]) == 0
    shown = capsys.readouterr()
    assert "foci_rim               0.012   0.012" in shown.out
    assert "20 simulated images of 12 made-up patients" in shown.out
    assert "no clinical claim" in shown.err
    assert len(read_manifest(out / "manifest.csv")) == 20


def test_a_yaml_file_orders_the_tail_and_json_tells_what_came_of_it(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "shares.yaml").write_text("margin_ete: 0.4\nmalignant: 0.5\n")
    words = ["data", "phantom", "thyroid", "--images", "20", "--size", "32", "--tail", str(tmp_path / "shares.yaml")]
    words += [
        "--sites",
        "west, north",
        "--label-noise",
        "0.1",
        "--not-assessed",
        "0.2",
        "--offset",
        "40",
        "--seed",
        "3",
    ]
    assert call([*words, "--out", str(tmp_path / "p"), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["config"] == {
        "label_noise": 0.1, "not_assessed": 0.2, "seed": 3, "sites": ["west", "north"], "size_px": 32,
        "tail": {"margin_ete": 0.4, "malignant": 0.5},
    }  # fmt: skip
    assert record["offset"] == 40
    assert record["shares"]["margin_ete"]["reached"] == pytest.approx(0.4, abs=2e-3)


def test_the_breast_set_is_written(tmp_path: Path, capsys: Capture) -> None:
    words = ["data", "phantom", "breast6", "--size", "32", "--balanced", "2", "--reward", "none"]
    assert call([*words, "--out", str(tmp_path / "b")]) == 0
    assert "1092 simulated images" in capsys.readouterr().out
    assert set(read_manifest(tmp_path / "b" / "manifest.csv").folds) == {"train", "tune", "test"}


def test_options_of_the_other_family_and_a_missing_number_are_refused_together(tmp_path: Path, capsys: Capture) -> None:
    out = str(tmp_path / "p")
    assert call(["data", "phantom", "thyroid", "--reward", "scarce", "--out", out]) == 2
    error = capsys.readouterr().err
    assert "--reward: is an option of breast6" in error
    assert "--images: missing" in error
    assert call(["data", "phantom", "breast6", "--images", "5", "--sites", "west", "--out", out]) == 2
    error = capsys.readouterr().err
    assert "--images: is an option of thyroid" in error
    assert "--sites: is an option of thyroid" in error
    assert not Path(out).exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tail", "natrual"], "did you mean 'natural'"),
        (["--tail", "missing.yaml"], "missing.yaml: no such file"),
        (["--size", "8"], "size_px 8"),
        (["--offset", "5"], "multiple of 20"),
        (["--sites", "nort"], "did you mean 'north'"),
        (["--not-assessed", "2"], "expected a probability"),
    ],
)
def test_wrong_requests_exit_with_2_and_say_why(
    words: list[str], message: str, tmp_path: Path, capsys: Capture
) -> None:
    assert call(["data", "phantom", "thyroid", "--images", "5", *words, "--out", str(tmp_path / "p")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "p").exists()


def test_ddti_is_imported_with_masks_from_the_command_line(tmp_path: Path, capsys: Capture) -> None:
    assert call(["data", "import", "ddti", str(tmp_path), "--masks-out", "m", "--out", str(tmp_path / "m.csv")]) == 1
    assert "ddti: no .xml file" in capsys.readouterr().err
    assert call(["data", "layouts"]) == 0
    shown = capsys.readouterr().out
    assert "ddti " in shown
    assert "thyro_lmd " in shown
