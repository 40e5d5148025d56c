from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medtail.cli.main import call
from medtail.sources.phantom_breast import CLASS_NAMES, breast_pool, render_breast
from medtail.tables.manifest import read_manifest

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool of two classes: 8 train, 6 tune and 6 generated images of each at 32 pixels."""
    folder = tmp_path_factory.mktemp("pool") / "pool"
    folder.mkdir()
    rows = []
    for which in (0, 1):
        for fold, count, start in (("train", 8, 0), ("tune", 6, 100)):
            for number in range(count):
                name = f"{fold}_{which}_{number}"
                Image.fromarray(render_breast(which, number=start + number, size_px=32).pixels).save(
                    folder / f"{name}.png"
                )
                rows.append({"image_id": name, "patient_id": name, "fold": fold, "origin": "real", "class": which})
    pixels, labels, _ = breast_pool([6, 6, 0, 0, 0, 0], size_px=32)
    for number, (image, which) in enumerate(zip(pixels, labels, strict=True)):
        Image.fromarray(image).save(folder / f"syn_{number}.png")
        row = {"image_id": f"syn_{number}", "patient_id": f"syn:{'0' * 12}:{number}", "fold": "train"}
        rows.append(row | {"origin": "synthetic", "class": int(which), "meta_class": CLASS_NAMES[which]})
    frame = pd.DataFrame(rows)
    frame["path"] = frame["image_id"] + ".png"
    for which in (0, 1):
        frame[CLASS_NAMES[which]] = (frame.pop("class") if which else frame["class"]).eq(which).astype(int)
    frame.to_csv(folder / "manifest.csv", index=False)
    return folder


@pytest.fixture
def pool(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "pool"))


def write_scores(pool: Path, *, to: Path) -> Path:
    frame = pd.read_csv(pool / "manifest.csv")
    names = list(CLASS_NAMES[:2])
    scores = 0.1 + 0.8 * frame[names].to_numpy()
    table = pd.DataFrame({"image_id": frame["image_id"], names[0]: scores[:, 0], names[1]: scores[:, 1]})
    table.to_csv(to, index=False)
    return to


def test_a_pool_is_measured_and_the_verdicts_printed(pool: Path, tmp_path: Path, capsys: Capture) -> None:
    judge = write_scores(pool, to=tmp_path / "judge.csv")
    assert call(["synthesise", "inspect", str(pool), "--judge", str(judge), "-q"]) == 0
    shown = capsys.readouterr()
    assert "2 of 2 classes" in shown.out
    assert "the class comes out (100 % recognised, real ones 100 %)" in shown.out
    assert "no record.json" in shown.out
    assert "inspect.html" in shown.err
    assert (pool / "inspect.html").stat().st_size > 20_000
    assert not (pool / "manifest_kept.csv").exists()


def test_json_holds_the_same_as_the_file(pool: Path, capsys: Capture) -> None:
    assert call(["synthesise", "inspect", str(pool), "--keep", "--json", "-q"]) == 0
    printed = json.loads(capsys.readouterr().out)
    kept = printed.pop("kept")
    assert printed == json.loads((pool / "quality.json").read_text())
    assert kept["of"] == 12
    assert int((~read_manifest(pool / "manifest_kept.csv").is_real).sum()) == kept["images"]


@pytest.mark.parametrize(("words", "code", "message"), [
    (["--alpha", "0"], 2, "--alpha 0: expected above 0"),
    (["--judge", "nowhere"], 2, "--judge nowhere: no such run or file"),
    (["--generator", "nowhere"], 1, "no record.json"),
])  # fmt: skip
def test_wrong_options_are_named(pool: Path, capsys: Capture, words: list[str], code: int, message: str) -> None:
    assert call(["synthesise", "inspect", str(pool), *words, "-q"]) == code
    assert message in capsys.readouterr().err


def test_a_folder_that_is_no_pool_is_named(tmp_path: Path, capsys: Capture) -> None:
    assert call(["synthesise", "inspect", str(tmp_path)]) == 1
    assert "no manifest.csv; expected a pool of" in capsys.readouterr().err


def test_sketches_of_a_table_are_shown(pool: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "sketches"
    words = ["synthesise", "sketch", str(pool / "manifest.csv"), "--size", "32", "--out", str(out)]
    assert call([*words, "--kappa", "0.5", "-q"]) == 0
    shown = capsys.readouterr().out
    assert "kappa 0.5" in shown
    assert f"{CLASS_NAMES[0]}: 8 images" in shown
    assert "no masks" in shown
    assert (out / "sketches.html").is_file()
    assert call([*words, "-q"]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_kappa_from_masks_and_as_json(pool: Path, tmp_path: Path, capsys: Capture) -> None:
    frame = pd.read_csv(pool / "manifest.csv")
    for which in (0, 1):
        for number in range(8):
            mask = render_breast(which, number=number, size_px=32).mask.astype(np.uint8) * 255
            Image.fromarray(mask).save(pool / f"mask_{which}_{number}.png")
    frame["mask_path"] = [
        name.replace("train", "mask") + ".png" if name.startswith("train") else "" for name in frame["image_id"]
    ]
    frame.to_csv(pool / "masks.csv", index=False)
    words = ["synthesise", "sketch", str(pool / "masks.csv"), "--size", "32", "--kappa", "auto", "--json", "-q"]
    assert call([*words, "--out", str(tmp_path / "out")]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["kappa"] == value["suggested_kappa"]
    assert value["classes"][CLASS_NAMES[1]]["masks"] == 8


@pytest.mark.parametrize("kappa", ["many", "-1", "inf", "nan"])
def test_kappa_must_be_a_number(pool: Path, tmp_path: Path, capsys: Capture, kappa: str) -> None:
    words = ["synthesise", "sketch", str(pool / "manifest.csv"), "--kappa", kappa, "--out", str(tmp_path / "x")]
    assert call(words) == 2
    assert f"--kappa '{kappa}': expected a number >= 0, or auto" in capsys.readouterr().err
