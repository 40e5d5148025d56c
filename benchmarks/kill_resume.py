"""Are the final bytes the same after any number of kills? Verbs killed at random moments and gone on with.

    python benchmarks/kill_resume.py [--kills 50] [--seed 0] [--verbs train,ensemble,…] [--work DIR]

Every verb is run once undisturbed. Then it is run again into another folder, killed by SIGKILL, gone on with as a
person would (`--resume`, or the same command), killed again, until it finishes; and again from the start, until it has
been killed as often as asked. Every other kill comes at a random time, the others at a random step of the file system:
right before or after a file is put in its place, a folder is made or something is removed, where a half-made state
would show. Each finished folder must hold the undisturbed run's files, byte for byte, but for `MAY_DIFFER`.

Images of 32 pixels and trainings of seconds: it is bytes that are judged here, not models. On a CPU with one thread.
Exits 1 where a byte differs or a verb does not finish.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from medtail.seeding import stream

MAY_DIFFER = {
    "run.json": ("seconds", "finished", "command"),
    "record.json": ("seconds", "finished", "command"),
    "cell.json": ("seconds",),
    "log.csv": ("seconds",),
    "*.safetensors": ("seconds",),
}
"""Values a machine's pace decides: how long it took, when that was, and the words it was called with at the end."""
LIVES = 60
"""A verb that has not finished after so many processes never will."""


@dataclass(frozen=True)
class Verb:
    """What is run.

    Attributes:
        share: Of the kills.
        words: The command line for an output folder, and for going on in it.
        inputs: Files it needs, made once.
        in_processes: It starts processes of its own, which no fuse reaches.
        except_for: Parts of the output that tell of the pace alone.
    """

    share: int
    words: Callable[[Path, Path, bool], list[str]]
    inputs: Callable[[Path], None]
    in_processes: bool = False
    except_for: tuple[str, ...] = ()


# --- what the verbs work on -------------------------------------------------------------------------------------------


def write_table(folder: Path) -> None:
    """Write 48 images of 24 patients: an exclusive group of three, and generated rows of each for the policy."""
    random = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    names = ("shape=irregular", "shape=oval", "shape=round")
    rows = []
    for index in range(48 + 18):
        made, patient = index >= 48, index // 2
        which = index % 3 if made else patient % 3
        pixels = random.integers(0, 90, (32, 32)) + 40 * which
        path = f"images/{index:03d}.png"
        Image.fromarray(pixels.astype(np.uint8)).save(folder / path)
        fold = ("train", "train", "reward", "tune", "train", "train", "tune", "test")[patient // 3 % 8]
        rows.append(
            {
                "image_id": f"i{index:03d}",
                "path": path,
                "patient_id": f"syn:{index}" if made else f"p{patient:02d}",
                "fold": "train" if made else fold,
                "origin": "synthetic" if made else "real",
                "meta_class": names[which] if made else "",
                **{name: int(number == which) for number, name in enumerate(names)},
            }
        )
    table = pd.DataFrame(rows)
    table.to_csv(folder / "pool.csv", index=False)
    real = table[table["origin"] == "real"].drop(columns=["origin", "meta_class"])
    real.assign(fold=real["fold"].replace("reward", "train")).to_csv(folder / "real.csv", index=False)


def write_config(folder: Path, **changes: Any) -> None:
    """Write the config of a tiny training."""
    write_table(folder)
    config = {
        "manifest": "real.csv",
        "pixels": {"size_px": 32},
        "backbone": {"kind": "resnet"},
        "loss": {"kind": "cross_entropy"},
        "optimizer": {"epochs": 6, "batch_size": 10, "learning_rate": 0.005, "ema_decay": 0.9},
        "threads": 1,
        "accelerator": "cpu",
    }
    (folder / "config.yaml").write_text(json.dumps(config | changes))  # JSON is YAML


def write_generator_config(folder: Path) -> None:
    """Write the config of a tiny generator."""
    write_table(folder)
    config = {
        "manifest": "real.csv",
        "size": "tiny",
        "threads": 1,
        "accelerator": "cpu",
        "autoencoder": {"steps": 12, "batch_size": 4},
        "denoiser": {"steps": 12, "batch_size": 4},
        "save_every": 2,
    }
    (folder / "config.yaml").write_text(json.dumps(config))


def write_generator(folder: Path) -> None:
    """Train a tiny generator."""
    write_generator_config(folder)
    if run_in_child(["synthesise", "train", str(folder / "config.yaml"), "--out", str(folder / "gen"), "-q"]).code != 0:
        raise SystemExit("the generator for `make` could not be trained")


def train_words(inputs: Path, out: Path, is_begun: bool) -> list[str]:
    return ["train", "--resume", str(out)] if is_begun else ["train", str(inputs / "config.yaml"), "--out", str(out)]


def synthesise_words(inputs: Path, out: Path, is_begun: bool) -> list[str]:
    words = ["synthesise", "train", str(inputs / "config.yaml"), "--out", str(out)]
    return [*words, "--resume"] if is_begun else words


def make_words(inputs: Path, out: Path, is_begun: bool) -> list[str]:
    words = ["synthesise", "make", str(inputs / "gen"), "--per-class", "30", "--steps", "2", "--out", str(out)]
    return [*words, "--resume"] if is_begun else words


def study_words(inputs: Path, out: Path, is_begun: bool) -> list[str]:
    words = ["study", "cv", str(inputs / "config.yaml"), "--folds", "2", "--seeds", "1", "--workers", "2"]
    return [*words, "--bootstrap", "20", "--out", str(out)]


VERBS = {
    "train": Verb(11, train_words, write_config),
    "ensemble": Verb(
        8, train_words, lambda folder: write_config(folder, members=2, optimizer={"epochs": 3, "batch_size": 10})
    ),
    "two_stage": Verb(
        8, train_words, lambda folder: write_config(folder, second={"kind": "retrain", "learn": "all", "epochs": 3})
    ),
    "policy": Verb(
        8,
        train_words,
        lambda folder: write_config(
            folder,
            manifest="pool.csv",
            sampler={"kind": "policy", "size": "tiny"},
            optimizer={"epochs": 2, "batch_size": 10},
        ),
    ),
    "synthesise_train": Verb(6, synthesise_words, write_generator_config),
    "synthesise_make": Verb(5, make_words, write_generator),
    "study_cv": Verb(
        4,
        study_words,
        lambda folder: write_config(folder, optimizer={"epochs": 3, "batch_size": 10}),
        in_processes=True,
        # who was at work on a cell, and what the cells cost
        except_for=("claims/", "study.html", "study.md", "costs.csv"),
    ),
}


# --- a life: one process ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Life:
    """How a process ended.

    Attributes:
        code: Exit code; -9 if it was killed.
        seconds: How long it lived.
        moments: Steps of the file system it took, if it ended by itself.
        words: The end of what it said.
    """

    code: int
    seconds: float
    moments: int
    words: str


def run_in_child(
    words: Sequence[str], *, cache: Path | None = None, after_s: float | None = None, at_moment: int | None = None
) -> Life:
    """Run a command line in a process of its own, with everything imported already, and perhaps kill it.

    Args:
        words: After `medtail`.
        cache: Folder of prepared pixels.
        after_s: Kill it and all it has started after so long.
        at_moment: Have it kill itself at this step of the file system.
    """
    with tempfile.NamedTemporaryFile() as said, tempfile.NamedTemporaryFile() as counted:
        began = time.monotonic()
        pid = os.fork()
        if pid == 0:
            _live(list(words), said.name, counted.name, cache, at_moment)
        code = None
        while code is None:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                code = os.waitstatus_to_exitcode(status)
            elif after_s is not None and time.monotonic() - began > after_s:
                os.killpg(pid, signal.SIGKILL)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            else:
                time.sleep(0.005)
        moments = Path(counted.name).read_text() or "0"
        last = Path(said.name).read_text(errors="replace")[-600:]
    return Life(code, time.monotonic() - began, int(moments), last)


def _live(words: list[str], said: str, counted: str, cache: Path | None, at_moment: int | None) -> None:
    os.setsid()
    handle = os.open(said, os.O_WRONLY | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    if cache is not None:
        os.environ["MEDTAIL_CACHE"] = str(cache)
    seen = _light_fuse(at_moment)
    from medtail.cli.main import call

    sys.argv = ["medtail", *words]
    code = call(words)
    sys.stdout.flush()
    Path(counted).write_text(str(seen[0]))
    os._exit(code)


def _light_fuse(at_moment: int | None) -> list[int]:
    """Count the steps of the file system that this process takes; end it at one of them."""
    seen = [0]

    def reach() -> None:
        seen[0] += 1
        if seen[0] == at_moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def watched(step: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **settings: Any) -> Any:
            reach()
            result = step(*arguments, **settings)
            reach()
            return result

        return call

    for owner, name in ((Path, "replace"), (Path, "unlink"), (Path, "mkdir"), (shutil, "rmtree"), (os, "fsync")):
        setattr(owner, name, watched(getattr(owner, name)))
    return seen


# --- comparing --------------------------------------------------------------------------------------------------------


def differences(ours: Path, theirs: Path, *, except_for: Sequence[str] = ()) -> list[str]:
    """Return what differs between two output folders; nothing where they are the same but for `MAY_DIFFER`."""
    names = [{str(path.relative_to(folder)) for path in folder.rglob("*")} for folder in (ours, theirs)]
    kept = [{name for name in found if not name.startswith(tuple(except_for) or "\0")} for found in names]
    found = [f"{name}: only in one" for name in sorted(kept[0] ^ kept[1])]
    for name in sorted(kept[0] & kept[1]):
        if (ours / name).is_file() and comparable(ours / name) != comparable(theirs / name):
            found.append(f"{name}: differs")
    return found


def comparable(path: Path) -> object:
    """Return a file's bytes, without what may differ."""
    content = path.read_bytes()
    if path.suffix == ".safetensors":
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        facts = {key: _without(value, "seconds") for key, value in header.pop("__metadata__", {}).items()}
        return header, facts, content[8 + length :]
    leave_out = MAY_DIFFER.get(path.name)
    if leave_out is None:
        return content
    if path.suffix == ".json":
        return {key: value for key, value in json.loads(content).items() if key not in leave_out}
    rows = list(csv.DictReader(io.StringIO(content.decode())))
    return [{key: value for key, value in row.items() if key not in leave_out} for row in rows]


def _without(text: str, key: str) -> object:
    """Return JSON text as values without a key at any depth; other text as it is."""
    try:
        value = json.loads(text)
    except ValueError:
        return text

    def walk(part: object) -> object:
        if isinstance(part, dict):
            return {name: walk(inner) for name, inner in part.items() if name != key}
        return [walk(inner) for inner in part] if isinstance(part, list) else part

    return walk(value)


# --- the trial --------------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What a verb came to."""

    kills_by_time: int = 0
    kills_at_a_step: int = 0
    finished: int = 0
    files: int = 0
    wrong: list[str] | None = None

    @property
    def kills(self) -> int:
        return self.kills_by_time + self.kills_at_a_step


def try_verb(name: str, verb: Verb, work: Path, *, kills: int, seed: int) -> Tally:
    """Kill a verb so often, and compare each folder it finishes with the undisturbed one."""
    inputs, whole = work / "inputs", work / "whole" / "out"
    out, cache = work / "trial" / "out", work / "trial" / "cache"  # all at one place, which some files name
    inputs.mkdir(parents=True)
    verb.inputs(inputs)
    first = run_in_child(verb.words(inputs, out, False), cache=cache)
    if first.code != 0:
        raise SystemExit(f"{name}: fails undisturbed with code {first.code}: {first.words}")
    out.parent.rename(whole.parent)
    random, tally = stream(seed, "kill", name), Tally(wrong=[])
    tally.files = sum(path.is_file() for path in whole.rglob("*"))
    assert tally.wrong is not None
    trial = 0
    while tally.kills < kills and not tally.wrong:
        trial += 1
        for _ in range(LIVES):
            is_begun = (out / "config.yaml").exists() or (out / "plan.json").exists()
            after_s = at_moment = None
            if tally.kills < kills:
                if verb.in_processes or tally.kills % 2 == 0:
                    after_s = float(random.uniform(0.05, 0.8)) * first.seconds
                else:
                    at_moment = int(random.integers(1, max(2, first.moments // 2)))
            words = verb.words(inputs, out, is_begun)
            life = run_in_child(words, cache=cache, after_s=after_s, at_moment=at_moment)
            if life.code == -signal.SIGKILL:
                tally.kills_by_time += after_s is not None
                tally.kills_at_a_step += at_moment is not None
                continue
            if life.code != 0:
                tally.wrong.append(f"trial {trial}: ended with code {life.code} after {words}: {life.words}")
            break
        else:
            tally.wrong.append(f"trial {trial}: not finished after {LIVES} processes")
        if not tally.wrong:
            tally.finished += 1
            tally.wrong += differences(out, whole, except_for=verb.except_for)
            if not tally.wrong:
                shutil.rmtree(out.parent)
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbs", default=",".join(VERBS))
    parser.add_argument("--work", type=Path, default=None, help="kept; a temporary folder if left out")
    options = parser.parse_args()
    names = options.verbs.split(",")
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"
    import_everything()
    total = sum(VERBS[name].share for name in names)
    given = {name: max(1, round(options.kills * VERBS[name].share / total)) for name in names}
    given[names[0]] = max(1, given[names[0]] + options.kills - sum(given.values()))
    is_fine, done = True, 0
    with tempfile.TemporaryDirectory() as scratch:
        work = options.work or Path(scratch)
        for name in names:
            began = time.monotonic()
            tally = try_verb(name, VERBS[name], work / name, kills=given[name], seed=options.seed)
            done += tally.kills
            print(
                f"{name:17s} {tally.kills:3d} kills ({tally.kills_by_time} at a time, {tally.kills_at_a_step} at a step"
                f" of the file system), {tally.finished} finished, {tally.files} files each:"
                f" {'the same bytes' if not tally.wrong else 'DIFFERS'} ({time.monotonic() - began:.0f} s)",
                flush=True,
            )
            for text in tally.wrong or ():
                print("   ", text, flush=True)
                is_fine = False
    print(f"{done} kills survived with the same bytes." if is_fine else "Something was lost.")
    sys.exit(0 if is_fine else 1)


def import_everything() -> None:
    """Load what the verbs load, so that kills fall into their work and not into imports."""
    import torch

    import medtail.cli.main
    import medtail.studies.ablation
    import medtail.synthesis.pool
    import medtail.training.ensembles  # noqa: F401

    torch.set_num_threads(1)


if __name__ == "__main__":
    main()
