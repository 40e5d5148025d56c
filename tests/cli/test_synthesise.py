from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from medtail.cli.main import call
from medtail.sources.phantom_breast import CLASS_NAMES, render_breast


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    rows = []
    for which in range(6):
        for number in range(4):
            Image.fromarray(render_breast(which, number=number, size_px=32).pixels).save(
                folder / f"{which}{number}.png"
            )
            row = {"image_id": f"{which}{number}", "path": f"{which}{number}.png", "patient_id": f"p{which}{number}"}
            row["fold"] = ("train", "train", "tune", "test")[number]
            rows.append(row | {name: int(name == CLASS_NAMES[which]) for name in CLASS_NAMES})
    pd.DataFrame(rows).to_csv(folder / "m.csv", index=False)
    (folder / "c.yaml").write_text(
        "manifest: m.csv\nsize: tiny\nthreads: 1\naccelerator: cpu\nautoencoder: {steps: 2, batch_size: 4}\n"
        "denoiser: {steps: 2, batch_size: 4}\n"
    )
    return folder


@pytest.fixture(scope="module")
def trained(project: Path) -> Path:
    assert call(["synthesise", "train", str(project / "c.yaml"), "--out", str(project / "gen"), "--quiet"]) == 0
    return project / "gen"


def test_training_says_what_it_made(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["synthesise", "train", str(project / "c.yaml"), "--set", "seed=5", "--out", str(tmp_path / "gen")]
    assert call([*words, "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["steps"] == 2
    assert "autoencoder: L1" in captured.err
    assert call([*words, "--resume", "--quiet"]) == 0
    assert "generator" in capsys.readouterr().out


def test_a_dry_run_prints_the_config(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["synthesise", "train", str(project / "c.yaml"), "--out", str(tmp_path / "gen"), "--dry-run"]
    assert call(words) == 0
    assert "size: tiny" in capsys.readouterr().out
    assert not (tmp_path / "gen").exists()


def test_making_lists_the_classes(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["synthesise", "make", str(trained), "--per-class", "subtype=cyst_like=2", "--out", str(tmp_path / "pool")]
    assert call([*words, "--mode", "M0", "--steps", "2", "--sampler", "dpm++", "--guidance", "1.5"]) == 0
    captured = capsys.readouterr()
    assert "     2  subtype=cyst_like" in captured.out
    assert "Written:" in captured.err
    rows = pd.read_csv(tmp_path / "pool" / "pool.csv", dtype=str)
    assert set(rows["meta_w_c"]) == {"1.5"}
    record = json.loads((tmp_path / "pool" / "record.json").read_text())
    assert (record["solver"], record["steps"], record["mode"]) == ("dpm++", 2, "M0")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--per-class", "many"], 2, "expected 'fill', one number"),
        (["--per-class", "subtype=cysts=2"], 2, "did you mean 'subtype=cyst_like'"),
        (["--steps", "500"], 1, "steps: found 500; expected 1 to 100"),
    ],
)
def test_wrong_requests_are_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, message: str
) -> None:
    assert call(["synthesise", "make", str(trained), "--out", str(tmp_path / "pool"), *words]) == code
    assert message in capsys.readouterr().err


def test_a_generator_that_is_none_and_a_config_that_is_wrong_are_refused(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["synthesise", "make", str(tmp_path), "--out", str(tmp_path / "pool")]) == 1
    assert "Give a generator's folder" in capsys.readouterr().err
    words = ["synthesise", "train", str(project / "c.yaml"), "--set", "denoiser.drop_boht=1"]
    assert call([*words, "--out", str(tmp_path / "gen")]) == 2
    assert "did you mean 'drop_both'" in capsys.readouterr().err
