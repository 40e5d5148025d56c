"""Cells on a Ray cluster: handed out, counted when they die, recorded when they fail; a stand-in, and the real one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medtail.errors import MedtailError, UsageError
from medtail.runs import digest_file, read_json, write_json
from medtail.studies import ray_cells
from medtail.studies.cells import Cell, failure_of
from medtail.studies.claims import read_claim, take
from medtail.studies.protocol import begin
from medtail.studies.ray_cells import Cluster, Looked, check_looked, check_room, look, run_on_ray, work
from medtail.studies.running import run_cells
from medtail.training.config import TrainConfig

NODE = {"NodeID": "n1", "NodeName": "here", "Alive": True, "Resources": {"CPU": 2.0, "memory": 8e9}}


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = MedtailError(cause)


@dataclass
class FakeRay:
    """As much of Ray as the driver uses; every task is a forked process of its own."""

    nodes_there: list[dict[str, Any]] = field(default_factory=lambda: [NODE])
    options_seen: list[dict[str, Any]] = field(default_factory=list)
    cancelled: int = 0
    exceptions: Any = field(default_factory=lambda: SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError))

    def is_initialized(self) -> bool:
        return True

    def nodes(self) -> list[dict[str, Any]]:
        return self.nodes_there

    def remote(self, function: Callable[..., Any] | None = None, **_: Any) -> Any:
        if function is None:
            return lambda given: self.remote(given)

        def options(**given: Any) -> Any:
            self.options_seen.append(given)
            return SimpleNamespace(remote=lambda *words: self._start(function, words))

        return SimpleNamespace(options=options)

    def _start(self, function: Callable[..., Any], words: tuple[Any, ...]) -> Any:
        context = multiprocessing.get_context("fork")
        answer, ours = context.Pipe()

        def run() -> None:
            try:
                ours.send((True, function(*words)))
            except MedtailError as error:
                ours.send((False, str(error)))

        process = context.Process(target=run)
        process.start()
        ours.close()
        return (process, answer)

    def wait(self, tasks: list[Any], *, num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        del num_returns
        limit = time.monotonic() + timeout
        while time.monotonic() < limit:
            ready = [task for task in tasks if not task[0].is_alive() or task[1].poll()]
            if ready:
                return ready[:1], tasks
            time.sleep(0.01)
        return [], tasks

    def get(self, task: Any) -> Any:
        if isinstance(task, list):
            return [self.get(one) for one in task]
        process, answer = task
        try:
            is_well, value = answer.recv()
        except EOFError:
            raise RayError("the worker died") from None
        finally:
            process.join()
        if not is_well:
            raise RayTaskError(value)
        return value

    def cancel(self, task: Any, *, force: bool) -> None:
        assert force
        self.cancelled += 1
        task[0].kill()
        task[0].join()


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setattr(ray_cells, "ray_package", lambda: fake)
    strategies = SimpleNamespace(NodeAffinitySchedulingStrategy=lambda **given: given)
    monkeypatch.setattr(ray_cells.importlib, "import_module", lambda _: strategies)
    monkeypatch.setattr(ray_cells, "LOOK_AGAIN_S", 0.1)
    return fake


def finish(cell: Cell) -> None:
    write_json(cell.record, {"config_digest": cell.digest, "pid": os.getpid(), "threads": cell.config.threads})


def cells_of(make_study: Callable[..., Any], root: Path) -> list[Cell]:
    study = make_study()
    begin(study, root)
    return study.cells(root)[:4]


def test_every_cell_is_run_once_in_a_process_of_its_own(make_study: Any, tmp_path: Path, ray: FakeRay) -> None:
    cells = cells_of(make_study, tmp_path / "out")
    finish(cells[3])
    tally = run_cells(cells, cluster=Cluster(cpus=2, memory_gb=1), quiet=True, train=finish)
    assert len(tally.finished) == 4
    assert os.getpid() not in {read_json(cell.record)["pid"] for cell in cells[:3]}
    assert read_json(cells[0].record)["threads"] == 2
    tasks = [given for given in ray.options_seen if "name" in given]
    assert [given["name"] for given in tasks] == [cell.name for cell in cells[:3]]
    assert tasks[0] | {"name": ""} == {"num_cpus": 2, "num_gpus": 0, "max_retries": 0, "name": "", "memory": 10**9}
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".ray")]


def test_a_cell_that_fails_is_recorded_as_on_one_machine(make_study: Any, tmp_path: Path, ray: FakeRay) -> None:
    cells = cells_of(make_study, tmp_path / "out")

    def train(cell: Cell) -> None:
        if cell.name == cells[1].name:
            raise MedtailError("the training diverged.")
        finish(cell)

    tally = run_cells(cells, cluster=Cluster(), quiet=True, train=train)
    assert [cell.name for cell in tally.failed] == [cells[1].name]
    assert failure_of(cells[1]) == "the training diverged."


def test_a_cell_whose_process_dies_is_handed_out_again_and_given_up_the_second_time(
    make_study: Any, tmp_path: Path, ray: FakeRay
) -> None:
    cells = cells_of(make_study, tmp_path / "out")

    def train(cell: Cell) -> None:
        deaths = {cells[0].name: 1, cells[1].name: 9}.get(cell.name, 0)
        if len(list(tmp_path.glob(f"died_{cell.name[:4]}*"))) < deaths:
            (tmp_path / f"died_{cell.name[:4]}_{os.getpid()}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        finish(cell)

    tally = run_cells(cells, cluster=Cluster(), quiet=True, train=train)
    assert [cell.name for cell in tally.failed] == [cells[1].name]
    assert failure_of(cells[1]) == "its process was ended 2 times without a word; out of memory?"
    assert len(tally.finished) == 3
    assert not list((tmp_path / "out" / "claims").rglob("*.claim"))


def test_what_another_command_holds_is_left_to_it(make_study: Any, tmp_path: Path, ray: FakeRay) -> None:
    cells = cells_of(make_study, tmp_path / "out")
    take(cells[0].claim)
    tally = run_cells(cells, cluster=Cluster(), quiet=True, train=finish)
    assert [cell.name for cell in tally.elsewhere] == [cells[0].name]
    assert read_claim(cells[0].claim) is not None


def test_an_interrupt_ends_the_tasks_and_gives_their_claims_back(make_study: Any, tmp_path: Path, ray: FakeRay) -> None:
    cells = cells_of(make_study, tmp_path / "out")

    def tick(done: int, total: int, words: str) -> None:
        if done == 1:
            raise KeyboardInterrupt

    def train(cell: Cell) -> None:
        time.sleep(0.0 if cell.name == cells[0].name else 60.0)
        finish(cell)

    with pytest.raises(KeyboardInterrupt):
        run_on_ray(cells, attempt="a", cluster=Cluster(), tick=tick, train=train)
    assert ray.cancelled == 3
    assert not list((tmp_path / "out" / "claims").rglob("*.claim"))
    assert cells[0].record.exists()


def test_a_node_that_does_not_see_the_folder_is_named(tmp_path: Path) -> None:
    own = look(str(tmp_path / "none"), "attempt", [])
    assert not own.sees
    with pytest.raises(MedtailError, match=r"is not seen on far.*--out .* on a disk that every node mounts"):
        check_looked([Looked("far", False, own.medtail, own.python)], tmp_path, tmp_path)
    with pytest.raises(MedtailError, match=r"this is medtail .* far has 0.0.1; install the same everywhere"):
        check_looked([Looked("far", True, "0.0.1", own.python)], tmp_path, _marked(tmp_path))


def _marked(folder: Path) -> Path:
    (folder / "far-1").touch()
    return folder


def test_a_node_that_came_later_and_is_blind_says_so(make_study: Any, tmp_path: Path) -> None:
    cell = cells_of(make_study, tmp_path / "out")[0]
    with pytest.raises(MedtailError, match=r"does not see .*out; mount it there"):
        work(cell, "attempt", finish, str(tmp_path / "no_mark"))


def test_the_claims_of_dead_processes_are_given_back_where_they_died(make_study: Any, tmp_path: Path) -> None:
    cell = cells_of(make_study, tmp_path / "out")[0]
    process = multiprocessing.get_context("fork").Process(target=take, args=(cell.claim,))
    process.start()
    process.join()
    (tmp_path / "driver").write_text("attempt")
    assert look(str(tmp_path), "attempt", [str(cell.claim)]).sees
    assert not cell.claim.exists()


def test_what_fits_no_node_is_refused_before_ray_waits_for_ever() -> None:
    with pytest.raises(
        MedtailError, match=r"no node has what cell a/s reserves \(1 processors, 1 GPUs\); there are here"
    ):
        check_room({"a/s": {"CPU": 1.0, "GPU": 1.0}}, [NODE])


def test_what_a_cell_reserves_follows_its_config() -> None:
    config = TrainConfig(manifest="a.csv", threads=3)
    assert Cluster().wants(config, has_gpus=False) == {"CPU": 3.0}
    assert Cluster(cpus=2).wants(config, has_gpus=True) == {"CPU": 2.0, "GPU": 1.0}
    with pytest.raises(MedtailError, match="on Ray a cell is one process"):
        Cluster().wants(TrainConfig(manifest="a.csv", devices=2), has_gpus=True)


def test_an_address_is_checked_and_a_missing_package_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="expected local, auto, or HOST:PORT"):
        Cluster(address="ray://head:10001")

    def absent(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(ray_cells.importlib, "import_module", absent)
    with pytest.raises(MedtailError, match=r"pip install 'medtail\[ray\]'"):
        ray_cells.ray_package()


# --- the real one -----------------------------------------------------------------------------------------------------

PROGRAM = """
import sys
from pathlib import Path
from medtail.cli.main import call
sys.exit(call(["study", "ablate", "study.yaml", "--out", sys.argv[1], "-q", *sys.argv[2:]]))
"""


@pytest.mark.slow
def test_a_driver_that_is_killed_leaves_a_study_that_ends_with_the_same_bytes(make_real: Any, tmp_path: Path) -> None:
    from medtail.config import config_to_dict, dump_yaml

    pytest.importorskip("ray")
    base = {k: v for k, v in config_to_dict(make_real({"full": {}}).arms["full"].config).items() if k != "recipe"}
    study = {"train": base, "arms": {"full": {}, "flip": {"test_time_flip": True}}, "seeds": [0],
             "judge": {"bootstrap": 50}}  # fmt: skip
    (tmp_path / "study.yaml").write_text(dump_yaml(study), encoding="utf-8")

    def start(out: str, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", PROGRAM, out, *words], cwd=tmp_path)

    assert start("plain").wait(300) == 0
    driver = start("ray", "--ray", "local")
    first = tmp_path / "ray" / "cells" / "full" / "seed_0" / "fold_0" / "config.yaml"
    limit = time.monotonic() + 240
    while not first.exists() and time.monotonic() < limit and driver.poll() is None:
        time.sleep(0.05)
    assert first.exists(), "Ray has not begun the first cell"
    driver.kill()
    driver.wait()
    begun = {path: path.stat().st_mtime_ns for path in (tmp_path / "ray").rglob("cell.json")}
    assert start("ray", "--ray", "local").wait(400) == 0
    for path, when in begun.items():
        assert path.stat().st_mtime_ns == when, "a finished cell was trained again"
    for name in ("tables.csv", "differences.csv"):
        assert digest_file(tmp_path / "ray" / name) == digest_file(tmp_path / "plain" / name)
    for weights in (tmp_path / "plain" / "cells").rglob("model.safetensors"):
        twin = tmp_path / "ray" / weights.relative_to(tmp_path / "plain")
        assert digest_file(twin) == digest_file(weights)
