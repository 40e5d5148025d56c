from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from medtail.errors import MedtailError, UsageError
from medtail.synthesis import learning
from medtail.synthesis.config import SynthesisConfig, synthesis_config
from medtail.synthesis.fit import choose_device, train_generator
from medtail.synthesis.folder import AUTOENCODER, DENOISER
from medtail.synthesis.state import read_tensors

Build = Callable[..., SynthesisConfig]


def test_the_folder_holds_what_it_should(generator_folder: Path, phantoms: Path) -> None:
    names = {path.name for path in generator_folder.iterdir()}
    assert names == {"config.yaml", "record.json", "log.csv", AUTOENCODER, DENOISER}
    record = json.loads((generator_folder / "record.json").read_text())
    table = pd.read_csv(phantoms)
    assert record["train_patients"] == sorted(table.loc[table["fold"] == "train", "patient_id"])
    assert record["train_images"] == 23
    assert record["labels"]["class_names"] == [c for c in table.columns if c.startswith("subtype=")]
    assert record["train_counts"]["subtype=papilloma_like"] == 1
    assert record["notes"] == [
        "class 'subtype=papilloma_like': 1 train image; what is generated will be near copies of it."
    ]
    _, header = read_tensors(generator_folder / AUTOENCODER, form="medtail-generator-weights/1")
    assert float(header["latent_scale"]) == record["latent_scale"]


def test_the_log_has_both_stages(generator_folder: Path) -> None:
    with (generator_folder / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["stage"], row["step"]) for row in rows] == [
        (stage, step) for stage in ("autoencoder", "denoiser") for step in ("2", "4", "6")
    ]
    assert rows[0]["train_l1"]
    assert rows[0]["train_noise"] == ""
    assert float(rows[3]["train_contour_dice"]) > 0
    assert list(rows[0])[-2:] == ["learning_rate", "seconds"]


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(
    generator_folder: Path, quick_config: Build, tmp_path: Path
) -> None:
    again = train_generator(quick_config(), tmp_path / "again").folder
    for name in (AUTOENCODER, DENOISER):
        assert (again / name).read_bytes() == (generator_folder / name).read_bytes()
    record, other = (json.loads((f / "record.json").read_text()) for f in (generator_folder, again))
    assert record["digest"] == other["digest"]
    seeded = train_generator(quick_config(seed=1), tmp_path / "seeded").folder
    assert (seeded / DENOISER).read_bytes() != (generator_folder / DENOISER).read_bytes()


@pytest.mark.parametrize(("stage", "step"), [("autoencoder", 3), ("denoiser", 1), ("denoiser", 5)])
def test_a_training_cut_off_anywhere_goes_on_to_the_same_bytes(
    stage: str,
    step: int,
    generator_folder: Path,
    quick_config: Build,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "reconstruction_loss" if stage == "autoencoder" else "denoising_loss"
    real, calls = getattr(learning, name), []

    def cut(*values: object, **named: object) -> object:
        calls.append(1)
        if len(calls) == step + 1:
            raise MedtailError("the light went out")
        return real(*values, **named)

    with monkeypatch.context() as patch:
        patch.setattr(learning, name, cut)
        with pytest.raises(MedtailError, match="the light went out"):
            train_generator(quick_config(), tmp_path / "gen")
    outcome = train_generator(quick_config(), tmp_path / "gen", resume=True)
    for file in (AUTOENCODER, DENOISER):
        assert (tmp_path / "gen" / file).read_bytes() == (generator_folder / file).read_bytes()
    assert not (tmp_path / "gen" / "state").exists()
    before = (tmp_path / "gen" / "record.json").read_bytes()
    assert train_generator(quick_config(), tmp_path / "gen", resume=True) == outcome
    assert (tmp_path / "gen" / "record.json").read_bytes() == before


@pytest.mark.slow
def test_a_training_killed_goes_on_to_the_same_bytes(phantoms: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        f"manifest: {phantoms}\nsize: tiny\nthreads: 1\naccelerator: cpu\nsave_every: 5\n"
        f"cache: {tmp_path / 'cache'}\nautoencoder: {{steps: 20, batch_size: 4}}\n"
        "denoiser: {steps: 60, batch_size: 4}\n"
    )
    program = "import sys; from medtail.cli.main import call; sys.exit(call(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "synthesise", "train", str(config), "-q", "--out"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, timeout=600)
    for stage in ("autoencoder", "denoiser"):
        target = tmp_path / "killed" / "state" / f"{stage}.safetensors"
        resume = ["--resume"] if target.parent.exists() else []
        running = subprocess.Popen([*command, str(tmp_path / "killed"), *resume])
        deadline = time.monotonic() + 300
        while not target.exists() and running.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(running.pid, signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
        assert not (tmp_path / "killed" / "record.json").exists()
    subprocess.run([*command, str(tmp_path / "killed"), "--resume"], check=True, timeout=600)
    for file in (AUTOENCODER, DENOISER):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_changed_images_or_labels_are_not_resumed(quick_config: Build, phantoms: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(phantoms)
    frame["path"] = [str(phantoms.parent / path) for path in frame["path"]]
    table = tmp_path / "manifest.csv"
    frame.to_csv(table, index=False)
    config = synthesis_config({**_values(quick_config), "manifest": str(table)})
    train_generator(config, tmp_path / "gen")
    (tmp_path / "gen" / "record.json").unlink()
    (tmp_path / "gen" / "state").mkdir()
    from medtail.synthesis.state import Progress, write_state

    write_state(
        tmp_path / "gen" / "state" / AUTOENCODER,
        tensors={"model/w": torch.zeros(1)},
        progress=Progress(steps_done=2, data="other data"),
    )
    with pytest.raises(MedtailError, match="was learnt from other images, labels or sketches"):
        train_generator(config, tmp_path / "gen", resume=True)


def _values(build: Build) -> dict[str, object]:
    from medtail.config import config_to_dict

    return config_to_dict(build())


def test_a_folder_is_never_overwritten_nor_resumed_with_another_config(
    generator_folder: Path, quick_config: Build, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="is not empty"):
        train_generator(quick_config(), generator_folder)
    with pytest.raises(UsageError, match=r"seed: found 3; the training began with 0"):
        train_generator(quick_config(seed=3), generator_folder, resume=True)
    with pytest.raises(UsageError, match=r"no config\.yaml"):
        train_generator(quick_config(), tmp_path, resume=True)


def test_a_gpu_that_is_not_there_is_named(quick_config: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MedtailError, match="accelerator: found 'gpu', but torch sees no CUDA device"):
        train_generator(quick_config(accelerator="gpu"), tmp_path / "gen")
    assert not (tmp_path / "gen").exists()
    assert choose_device("auto") == "cpu"


@pytest.mark.parametrize(
    "changes",
    [
        {"move": {"flip": 0, "rotation_deg": 0, "scale": 0, "shift": 0}},
        {"denoiser": {"steps": 2, "batch_size": 4, "balance": {"tau": 0.01}}},
        {"denoiser": {"steps": 2, "batch_size": 4, "variants": 2}},
        {"denoiser": {"steps": 2, "batch_size": 4, "condition_branch": False, "gradient_checkpointing": True}},
        {"denoiser": {"steps": 2, "batch_size": 4, "perception_branch": False}},
    ],
    ids=["still", "balanced", "stock", "perception-only", "condition-only"],
)
def test_every_switch_trains(changes: dict[str, object], quick_config: Build, tmp_path: Path) -> None:
    said: list[str] = []
    ticks: list[tuple[int, int]] = []
    outcome = train_generator(
        quick_config(**{"autoencoder": {"steps": 2, "batch_size": 4}, **changes}),
        tmp_path / "gen",
        progress=lambda done, total: ticks.append((done, total)),
        say=said.append,
    )
    total = 2 + outcome.steps
    assert ticks[-1] == (total, total)
    assert any(line.startswith("autoencoder: L1") for line in said)
    header = (tmp_path / "gen" / "log.csv").read_text().splitlines()[0]
    assert ("train_balance" in header) == ("balance" in str(changes))
    assert ("train_contour_bce" in header) == ("perception_branch" not in str(changes))


def test_a_table_of_combinable_findings_trains(phantoms: Path, tmp_path: Path, quick_config: Build) -> None:
    frame = pd.read_csv(phantoms)
    names = [c for c in frame.columns if c.startswith("subtype=")]
    frame["path"] = [str(phantoms.parent / path) for path in frame["path"]]
    findings = frame.drop(columns=names).assign(
        dark=frame[names[1]] + frame[names[5]], shadow=frame[names[3]], rare=[1, *[0] * (len(frame) - 1)]
    )
    findings["dark"] = findings["dark"].astype("Float64").mask(findings.index == 3)
    findings.to_csv(tmp_path / "m.csv", index=False)
    config = quick_config(manifest=str(tmp_path / "m.csv"), classes=("dark", "shadow"))
    record = json.loads((train_generator(config, tmp_path / "gen").folder / "record.json").read_text())
    assert record["labels"] == {"class_names": ["dark", "shadow"], "groups": []}
