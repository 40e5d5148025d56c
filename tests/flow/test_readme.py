"""The README's and the documentation's code blocks do what they say."""

from __future__ import annotations

import re
import shlex
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medtail.cli.main import call
from medtail.config import read_yaml
from medtail.training.config import train_config

ROOT = Path(__file__).resolve().parents[2]
GROUPS = ("combine", "data", "cxr-lt", "medmnist", "thyro-lmd", "study", "synthesise", "zero-shot")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    lines = "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("medtail ")]


def test_the_pages_have_commands_to_check() -> None:
    assert sum(len(commands(page)) for page in PAGES) >= 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_knows_its_options(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in commands(page):
        capsys.readouterr()
        named = 2 if words[1] in GROUPS else 1
        assert call([*words[1 : 1 + named], "--help"]) == 0
        explained = capsys.readouterr().out
        for option in (word for word in words if word.startswith("--")):
            assert option in explained, f"{' '.join(words)}: {option}"


def test_every_config_of_a_page_is_valid() -> None:
    found = 0
    for page in PAGES:
        for block in blocks(page, "yaml"):
            from ruamel.yaml import YAML

            train_config(YAML(typ="safe", pure=True).load(block), where=page.name)
            found += 1
    assert found >= 2


@pytest.mark.parametrize("config", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_of_the_repository_is_valid(config: Path) -> None:
    train_config(read_yaml(config), where=config.name)


@pytest.fixture
def hospital(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the README supposes it: a table of one's own, images, and scores of another tool."""
    monkeypatch.chdir(tmp_path)
    labels = pd.read_csv(str(files("medtail") / "quickstart_data" / "labels.csv"), dtype=str)
    pictures = Path(str(files("medtail") / "quickstart_data" / "images"))
    own = pd.DataFrame({"file": [str(pictures / name) for name in labels["image"]], "case": labels["caseid"]})
    place = np.where(np.arange(len(own)) % 3 == 0, "north", "south")
    own = own.assign(sex=np.where(np.arange(len(own)) % 2 == 0, "F", "M"), site=place)
    own.assign(diagnosis=labels["classification"]).to_csv("my.csv", index=False)
    pd.DataFrame(
        {"class": [f"diagnosis={name}" for name in ("benign", "malignant", "normal")], "prevalence": [0.8, 0.1, 0.1]}
    ).to_csv("prevalence.csv", index=False)
    (tmp_path / "config.yaml").write_text(
        "manifest: split.csv\npixels: {size_px: 32}\nbackbone: {kind: resnet, size: tiny}\n"
        "loss: {kind: cross_entropy}\noptimizer: {epochs: 1, batch_size: 32}\n"
    )
    return tmp_path


def test_the_readmes_commands_and_python_run_as_written(hospital: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in commands(ROOT / "README.md"):
        if (hospital / "split.csv").exists() and not (hospital / "scores.csv").exists():
            # another tool scores the same images in the meantime
            table = pd.read_csv(hospital / "split.csv")
            random = np.random.default_rng(0)
            scores = {name: random.random(len(table)) for name in table if name.startswith("diagnosis=")}
            table[["image_id"]].assign(**scores).to_csv(hospital / "scores.csv", index=False)
        assert call(words[1:]) == 0, (words, capsys.readouterr().err)
    assert (hospital / "report.html").exists()
    (hospital / "report.html").unlink()
    for block in blocks(ROOT / "README.md", "python"):
        exec(compile(block, "README.md", "exec"), {})
    assert (hospital / "report.html").exists()


# these two are run, and what they print is compared, by tests of their own
COMPARED = ("judge-metrics.md", "lexicons.md")


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES[1:] if page.name not in COMPARED and blocks(page, "python")],
    ids=lambda page: page.name,
)
def test_the_python_of_a_page_runs_as_written(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shared: dict[str, object] = {}
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), shared)
