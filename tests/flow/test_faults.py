"""What goes wrong on machines, from a full disk to a stop signal: a clear word, nothing lost, the same bytes after.

`docs/faults.md` lists the faults and names these tests.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from medtail.cli.main import call
from medtail.errors import MedtailError
from medtail.runs import digest_file, is_stray
from medtail.training.config import TrainConfig, train_config
from medtail.training.ensembles import train

# a job in the background has Ctrl-C ignored, and so have its children, unless they ask for it
RUN = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from medtail.cli.main import run; run()"
KEPT = ("model/model.safetensors", "model/card.json", "predictions_tune.parquet")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A manifest of 36 small images of 18 patients, and its folder."""
    numbers = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    rows = []
    for index in range(36):
        patient = index // 2
        path = f"images/{index:03d}.png"
        pixels = numbers.integers(0, 90, (32, 32)) + 90 * (patient % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / path)
        row = {"image_id": f"i{index:03d}", "path": path, "patient_id": f"p{patient:02d}"}
        rows.append(row | {"fold": "tune" if patient % 9 < 2 else "train", "bright": patient % 2})
    pd.DataFrame(rows).to_csv(tmp_path / "table.csv", index=False)
    return tmp_path / "table.csv"


def config_of(table: Path, *, epochs: int = 3, cache: str = "cache") -> TrainConfig:
    values: dict[str, Any] = {
        "manifest": "table.csv",
        "pixels": {"size_px": 32},
        "backbone": {"kind": "resnet"},
        "optimizer": {"epochs": epochs, "batch_size": 14, "learning_rate": 0.005},
        "cache": cache,
        "threads": 1,
        "accelerator": "cpu",
    }
    return train_config(values, where="test.yaml", folder=table.parent)


def digests(run: Path) -> dict[str, str]:
    return {name: digest_file(run / name) for name in KEPT}


@pytest.fixture
def whole(table: Path) -> dict[str, str]:
    """What an undisturbed run ends with."""
    train(config_of(table), table.parent / "whole", quiet=True)
    return digests(table.parent / "whole")


def leftovers(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob(".*") if is_stray(path.name) or path.name == ".lock"]


# --- the disk ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def refusing_write(number: int, error: OSError) -> Iterator[list[str]]:
    """Have the file system refuse the n-th time a file is put in its place."""
    genuine, seen = Path.replace, []

    def replace(self: Path, target: Path) -> Path:
        seen.append(str(target))
        if len(seen) == number:
            raise error
        return genuine(self, target)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Path, "replace", replace)
        yield seen


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full; nothing was written there"),
        (PermissionError(errno.EACCES, "Permission denied"), "may not be written"),
        (OSError(errno.EIO, "Input/output error"), "cannot be written"),
    ],
    ids=["full", "forbidden", "failing"],
)
def test_whichever_write_of_a_training_is_refused_it_says_so_and_goes_on_to_the_same_bytes(
    table: Path, whole: dict[str, str], error: OSError, said: str
) -> None:
    run = table.parent / "run"
    for number in range(1, 30):  # the first write is refused, then the second of those that are left, and so on
        is_begun = (run / "config.yaml").exists()
        caught: MedtailError | None = None
        with refusing_write(number, error) as seen:
            try:
                train(config_of(table), run, resume=is_begun, quiet=True)
            except MedtailError as refused:
                caught = refused
        if caught is None:
            break
        assert said in str(caught)
        assert seen[-1] in str(caught)
        assert any("medtail train --resume" in note for note in caught.__notes__)
        assert leftovers(run) == []
    assert number > 4, "so many writes can be refused, one after the other"
    assert digests(run) == whole


def may_mount() -> bool:
    with contextlib.suppress(OSError):
        words = ["unshare", "-Urm", "mount", "-t", "tmpfs", "-o", "size=64k", "none", "/mnt"]
        return subprocess.run(words, capture_output=True, check=False).returncode == 0
    return False


@pytest.mark.slow
@pytest.mark.skipif(not may_mount(), reason="no file system may be mounted here")
@pytest.mark.parametrize("room", ["60k", "7m"], ids=["pixels", "states"])
def test_a_disk_that_is_really_full_ends_a_training_with_a_word_and_whole_files(table: Path, room: str) -> None:
    config, disk = table.parent / "c.yaml", table.parent / "disk"
    disk.mkdir()
    config.write_text(
        "manifest: table.csv\npixels: {size_px: 64}\nbackbone: {kind: resnet}\ncache: disk/cache\n"
        "optimizer: {epochs: 3, batch_size: 14}\nthreads: 1\naccelerator: cpu\n"
    )
    script = f"""
mount -t tmpfs -o size={room} none {disk} || exit 99
{sys.executable} -c "{RUN}" train {config} --out {disk}/run -q
code=$?
find {disk}
exit $code
"""
    done = subprocess.run(["unshare", "-Urm", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "the disk is full" in done.stderr
    assert "Traceback" not in done.stderr
    assert not [name for name in done.stdout.splitlines() if is_stray(Path(name).name)], done.stdout
    assert "run.json" not in done.stdout


# --- images and what was prepared from them ---------------------------------------------------------------------------


@pytest.mark.slow
def test_images_that_vanish_during_an_epoch_are_not_missed(
    table: Path, whole: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from medtail.training.module import TrainingModule

    genuine, images = TrainingModule.on_train_epoch_start, table.parent / "images"

    def vanish(self: TrainingModule) -> None:
        if self.epoch == 1:
            images.rename(table.parent / "elsewhere")
        genuine(self)

    monkeypatch.setattr(TrainingModule, "on_train_epoch_start", vanish)
    train(config_of(table, cache="another"), table.parent / "run", quiet=True)
    assert not images.exists()
    assert digests(table.parent / "run") == whole


def test_an_image_that_vanishes_between_the_check_and_the_reading_is_named(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medtail.tables.manifest import Manifest

    genuine = Manifest.check_files

    def check(self: Manifest, *, remote: bool = True) -> None:
        genuine(self, remote=remote)
        (table.parent / "images" / "007.png").unlink(missing_ok=True)

    monkeypatch.setattr(Manifest, "check_files", check)
    run = table.parent / "run"
    with pytest.raises(MedtailError, match=r"row 9, column 'path': .*007\.png"):
        train(config_of(table), run, quiet=True)
    assert leftovers(run) == []


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for place in range(100, len(content), 1000):
        content[place] ^= 0xFF
    path.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.slow
@pytest.mark.parametrize("harm", [damage, truncate, Path.unlink], ids=["damaged", "cut", "gone"])
def test_prepared_pixels_that_were_harmed_are_made_again(
    table: Path, whole: dict[str, str], harm: Callable[[Path], None]
) -> None:
    pixels = max((table.parent / "cache").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    assert pixels.stat().st_size > 20_000
    harm(pixels)
    train(config_of(table), table.parent / "run", quiet=True)
    assert digests(table.parent / "run") == whole


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_gradient_that_is_no_number_stops_before_the_weights_move(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medtail.training.module import TrainingModule

    genuine, run = TrainingModule.training_step, table.parent / "run"

    def step(self: TrainingModule, batch: Any, batch_idx: int) -> torch.Tensor:
        total = genuine(self, batch, batch_idx)
        # adds 0, with a slope of 0 / 0
        return total + (((total - total) ** 2).sqrt() if (self.epoch, batch_idx) == (1, 1) else 0.0)

    monkeypatch.setattr(TrainingModule, "training_step", step)
    said = r"epoch 2, step 2: the loss is finite, but not the gradient of 'diagnoser\..* images 'i0.* of table\.csv"
    with pytest.raises(MedtailError, match=said):
        train(config_of(table), run, quiet=True)
    assert len(pd.read_csv(run / "log.csv")) == 1
    assert not (run / "model").exists()
    monkeypatch.undo()
    assert train(config_of(table), run, resume=True, quiet=True).epochs_run == 3, "the state before is sound"


@pytest.mark.slow
def test_scores_on_tune_that_are_no_numbers_stop_a_training_and_the_epoch_before_is_kept(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medtail.models.diagnoser import Diagnoser

    genuine, run, calls = Diagnoser.scores, table.parent / "run", []

    def scores(self: Diagnoser, *arguments: Any) -> torch.Tensor:
        calls.append(1)
        return genuine(self, *arguments) * (torch.nan if len(calls) == 2 else 1.0)

    monkeypatch.setattr(Diagnoser, "scores", scores)
    with pytest.raises(MedtailError, match="epoch 2: the model gives scores on tune that are no numbers"):
        train(config_of(table), run, quiet=True)
    assert len(pd.read_csv(run / "log.csv")) == 1


# --- clocks -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_clock_that_jumps_changes_nothing(
    table: Path, whole: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    jumps, genuine = random.Random(0), time.time_ns
    years_ns = 5 * 365 * 86_400 * 10**9

    def jumping() -> int:
        return genuine() + jumps.randrange(-years_ns, years_ns)

    monkeypatch.setattr(time, "time_ns", jumping)
    monkeypatch.setattr(time, "time", lambda: jumping() / 1e9)
    run = table.parent / "run"
    outcome = train(config_of(table, cache="another"), run, quiet=True)
    assert digests(run) == whole
    assert 0 < outcome.seconds < 600, "times are measured by a clock that cannot jump"
    assert train(config_of(table, cache="another"), run, resume=True, quiet=True).epochs_run == 3


# --- two at once, and being told to stop ------------------------------------------------------------------------------


def started(words: list[str], *, cache: Path) -> subprocess.Popen[str]:
    own = os.environ | {"MEDTAIL_CACHE": str(cache)}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", RUN, *words], stdout=pipe, stderr=pipe, text=True, env=own)


def wait_for(path: Path, process: subprocess.Popen[str], *, lines: int = 0) -> None:
    deadline = time.monotonic() + 900
    try:
        while not (path.exists() and (not lines or len(path.read_bytes().splitlines()) >= lines)):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.005)
    except BaseException:
        process.kill()
        process.communicate()
        raise


def write_config(table: Path, text: str = "", *, epochs: int = 12) -> Path:
    path = table.parent / "c.yaml"
    path.write_text(
        "manifest: table.csv\npixels: {size_px: 32}\nbackbone: {kind: resnet}\nthreads: 1\naccelerator: cpu\n"
        f"optimizer: {{epochs: {epochs}, batch_size: 14}}\n{text}"
    )
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_training_that_is_told_to_stop_says_how_to_go_on_and_ends_as_one_that_was_not(
    table: Path, name: str, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    config, run, cache = write_config(table), table.parent / "run", table.parent / "cache"
    process = started(["train", str(config), "--out", str(run)], cache=cache)
    wait_for(run / "log.csv", process, lines=3)
    # a second training of the same folder, while the first is at work
    assert call(["train", "--resume", str(run)]) == 1
    assert re.search(rf"run: process {process.pid} on \S+ is at work in this folder", capfd.readouterr().err)
    process.send_signal(getattr(signal, name))
    _, said = process.communicate(timeout=600)
    assert process.returncode == code
    stopped = f"stopped by {name}; nothing is half-written. Go on with `medtail train --resume {run}`.\n"
    assert said.endswith(stopped), said
    assert leftovers(run) == []
    assert not (run / "run.json").exists(), "it must have been stopped on the way"
    assert call(["train", "--resume", str(run), "-q"]) == 0
    assert call(["train", str(config), "--out", str(table.parent / "whole"), "-q"]) == 0
    assert digests(run) == digests(table.parent / "whole")


@pytest.mark.slow
def test_a_study_that_is_told_to_stop_ends_its_processes_and_says_how_to_go_on(table: Path) -> None:
    root = table.parent / "study"
    words = ["study", "cv", str(write_config(table)), "--folds", "2", "--seeds", "1", "--workers", "2"]
    process = started([*words, "--no-duplicates", "--out", str(root)], cache=table.parent / "cache")
    wait_for(root / "cells" / "c" / "seed_0" / "fold_0" / "log.csv", process, lines=3)
    process.terminate()
    _, said = process.communicate(timeout=600)
    assert process.returncode == 143
    assert said.endswith("stopped by SIGTERM; nothing is half-written. Go on with the same command.\n")
    assert not list((root / "claims").rglob("*.claim"))


def write_generator_config(table: Path, *, steps: int) -> Path:
    path = table.parent / "g.yaml"
    path.write_text(
        "manifest: table.csv\nsize: tiny\nthreads: 1\naccelerator: cpu\nsave_every: 2\n"
        f"autoencoder: {{steps: {steps}, batch_size: 4}}\ndenoiser: {{steps: 4, batch_size: 4}}\n"
    )
    return path


@pytest.mark.slow
def test_a_generator_that_is_told_to_stop_says_how_to_go_on(table: Path) -> None:
    config, out = write_generator_config(table, steps=40), table.parent / "gen"
    words = ["synthesise", "train", str(config), "--out", str(out)]
    process = started(words, cache=table.parent / "cache")
    wait_for(out / "state" / "autoencoder.safetensors", process)
    process.terminate()
    _, said = process.communicate(timeout=600)
    assert process.returncode == 143
    assert said.endswith(f"Go on with `medtail synthesise train {out}/config.yaml --out {out} --resume`.\n")
    assert leftovers(out) == []
    assert call([*words, "--resume", "-q"]) == 0


@pytest.mark.slow
def test_a_pool_that_is_told_to_stop_says_how_to_go_on(table: Path) -> None:
    generator, out = table.parent / "gen", table.parent / "pool"
    assert call(["synthesise", "train", str(write_generator_config(table, steps=4)), "--out", str(generator)]) == 0
    words = ["synthesise", "make", str(generator), "--per-class", "300", "--steps", "4", "--out", str(out)]
    process = started(words, cache=table.parent / "cache")
    wait_for(out / "images", process)
    process.terminate()
    _, said = process.communicate(timeout=600)
    assert process.returncode == 143
    assert said.endswith("nothing is half-written. Go on with the same command and `--resume`.\n")
    assert leftovers(out) == []
    assert not (out / "record.json").exists()


# --- the command line itself ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/data/x.csv"), "error: /data/x.csv: the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "/data/x.csv"), "error: /data/x.csv: may not be written"),
    ],
    ids=["full", "forbidden"],
)
def test_what_the_file_system_refuses_anywhere_is_a_word_and_not_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], table: Path, error: OSError, said: str
) -> None:
    def refuse(*arguments: object, **settings: object) -> None:
        raise error

    monkeypatch.setattr(shutil, "copytree", refuse)
    monkeypatch.setattr("medtail.tables.manifest.read_manifest", refuse)
    assert call(["data", "check", str(table)]) == 1
    assert capsys.readouterr().err.startswith(said)
