"""Cells spread over a Ray cluster: one task a cell, with the processors, GPUs and memory that its config needs.

The same claims, records and failures as on one machine (`running.sweep` does the work on whichever node), so a study
may change between `--workers` and `--ray`, and several commands may share a folder. The driver only hands out cells and
watches: when it is killed, what is finished stays finished and the next command goes on. The folder must be seen by
every node; that is looked at before anything is trained.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
import shutil
import socket
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

from medtail.errors import MedtailError, UsageError, listing
from medtail.runs import write_text
from medtail.studies import running
from medtail.studies.cells import Job, state_of
from medtail.studies.claims import read_claim, release
from medtail.training.config import TrainConfig

POLL_S = 0.3
LOOK_AGAIN_S = 2.0
"""How often the cells that other commands hold are looked at."""
LATE_S = 60.0
"""How long a network disk may take to show here what was written elsewhere."""
STORE_BYTES = 100 * 2**20
"""Shared memory of a cluster started here: nothing goes through it."""
Ending = Literal["finished", "failed", "elsewhere"]


@final
@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where cells run.

    Attributes:
        address: `local` starts a cluster on this machine for the length of the command, `auto` finds the one it
            belongs to, `HOST:PORT` is a cluster's head.
        cpus: Processors a cell; None takes `threads` of its config, or 1.
        memory_gb: Memory a cell, in 10^9 bytes; None reserves none. Ray counts it, and limits nobody.
    """

    address: str = "local"
    cpus: int | None = None
    memory_gb: float | None = None

    def __post_init__(self) -> None:
        if not self.address.strip() or "://" in self.address:
            raise UsageError(f"--ray {self.address!r}: expected local, auto, or HOST:PORT of the cluster's head.")

    def wants(self, config: TrainConfig, *, has_gpus: bool) -> dict[str, float]:
        """Return what a cell reserves, in Ray's words.

        Args:
            config: The cell's.
            has_gpus: Whether some node has a GPU, which `accelerator: auto` then takes.

        Raises:
            MedtailError: It trains on several devices.

        Example:
            >>> Cluster(memory_gb=4).wants(TrainConfig(manifest="a.csv", accelerator="gpu"), has_gpus=True)
            {'CPU': 1.0, 'GPU': 1.0, 'memory': 4000000000.0}
        """
        if config.devices * config.num_nodes > 1:
            raise MedtailError(
                f"devices: found {config.devices} on {config.num_nodes} nodes; on Ray a cell is one process with at"
                " most one GPU. Say `devices: 1` and let Ray spread the cells, or train without `--ray`."
            )
        needs_gpu = config.accelerator == "gpu" or (config.accelerator == "auto" and has_gpus)
        return {
            "CPU": float(self.cpus or config.threads or 1),
            **({"GPU": 1.0} if needs_gpu else {}),
            **({"memory": self.memory_gb * 1e9} if self.memory_gb is not None else {}),
        }


@final
@dataclass(frozen=True)
class Looked:
    """What a node sees.

    Attributes:
        host: Its name.
        sees: Whether it sees the study's folder, the same one as the driver, and may write there.
        medtail: Its version of medtail.
        python: Its version of Python.
    """

    host: str
    sees: bool
    medtail: str
    python: str


def run_on_ray(
    jobs: Sequence[Job],
    *,
    attempt: str,
    cluster: Cluster,
    tick: running.Tick | None,
    train: Callable[[Any], None],
) -> None:
    """Run the cells on a cluster; one whose process dies is handed out again, as on one machine.

    Args:
        jobs: What is to be trained, in the order of preference; all of one folder.
        attempt: Of the command; what failed in it is not tried again.
        cluster: Where.
        tick: Told how far it is.
        train: What is done for a cell.

    Raises:
        MedtailError: Ray is not installed or not to be reached, a node does not see the folder, or no node has what a
            cell needs.
        KeyboardInterrupt: It was interrupted; the claims are given back.
    """
    if all(job.record.exists() for job in jobs):
        return
    ray = ray_package()
    with _connected(ray, cluster):
        nodes = [node for node in ray.nodes() if node["Alive"]]
        has_gpus = any(node["Resources"].get("GPU", 0) >= 1 for node in nodes)
        wanted = {job.name: cluster.wants(job.config, has_gpus=has_gpus) for job in jobs}
        fitting = check_room(wanted, nodes)
        with _seen(ray, jobs, fitting, attempt) as mark:
            _Driver(ray, jobs, attempt, wanted, mark, tick, train).run()


def ray_package() -> Any:
    """Return Ray, quiet and without its reports to its makers.

    Raises:
        MedtailError: It is not installed; says which extra brings it.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # a task without a GPU gets the config's `accelerator`, which needs no hidden devices; and no warning of changes
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise MedtailError(
            f"--ray: needs the package 'ray' ({error}); install it with `pip install 'medtail[ray]'` here and on every"
            " node."
        ) from error


@contextlib.contextmanager
def _connected(ray: Any, cluster: Cluster) -> Iterator[None]:
    """Be a driver of the cluster; one started here ends with the command."""
    if ray.is_initialized():  # by whoever called us from Python
        yield
        return
    own = {"num_cpus": running.usable_cores(), "include_dashboard": False, "object_store_memory": STORE_BYTES}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray.init(
                address=cluster.address, log_to_driver=False, logging_level="ERROR",
                **(own if cluster.address == "local" else {}),
            )  # fmt: skip
    except Exception as error:  # Ray has no error of its own for this
        how = "is the machine very busy?" if cluster.address == "local" else "is it running? `ray status` tells."
        raise MedtailError(f"--ray {cluster.address}: no cluster ({str(error).splitlines()[0]}); {how}") from error
    try:
        yield
    finally:
        ray.shutdown()


def check_room(wanted: Mapping[str, Mapping[str, float]], nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the nodes that can run some cell.

    Args:
        wanted: Cell → what it reserves.
        nodes: As Ray describes them.

    Raises:
        MedtailError: A cell fits no node; Ray would wait for ever.

    Example:
        >>> node = {"NodeID": "n", "NodeName": "here", "Resources": {"CPU": 2.0}}
        >>> check_room({"full/seed_0/fold_0": {"CPU": 1.0}}, [node])
        ['n']
    """
    fitting: dict[str, None] = {}
    for name, wants in wanted.items():
        able = [n["NodeID"] for n in nodes if all(n["Resources"].get(key, 0.0) >= much for key, much in wants.items())]
        if not able:
            there = listing([f"{n['NodeName']} ({_room(n['Resources'])})" for n in nodes])
            raise MedtailError(
                f"--ray: no node has what cell {name} reserves ({_room(wants)}); there are {there or 'no nodes'}. Ask"
                " for less with --cell-cpus, --cell-memory-gb or `accelerator: cpu`, or add a node."
            )
        fitting |= dict.fromkeys(able)
    return list(fitting)


def _room(resources: Mapping[str, float]) -> str:
    words = {"CPU": "processors", "GPU": "GPUs"}
    told = [f"{resources[key]:g} {word}" for key, word in words.items() if key in resources]
    return ", ".join([*told, *([f"{resources['memory'] / 1e9:.1f} GB"] if "memory" in resources else [])])


@contextlib.contextmanager
def _seen(ray: Any, jobs: Sequence[Job], nodes: Sequence[str], attempt: str) -> Iterator[Path]:
    """Leave a mark in the folder while the block runs, after every node has been seen to see it.

    Raises:
        MedtailError: A node does not see the folder, or has another medtail.
    """
    root = jobs[0].root
    mark = root / f".ray_{attempt}"
    try:
        write_text(mark / "driver", attempt)
        claims = [str(job.claim) for job in jobs]
        affinity = importlib.import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
        task = ray.remote(num_cpus=0, max_retries=0)(look)
        asked = [
            task.options(scheduling_strategy=affinity(node_id=node, soft=False)).remote(str(mark), attempt, claims)
            for node in nodes
        ]
        try:
            check_looked(ray.get(asked), root, mark)
        except ray.exceptions.RayError as error:
            last = str(error).strip().splitlines()[-1]
            raise MedtailError(
                f"--ray: a node cannot run medtail ({last}). Install the same medtail on every node, in the Python that"
                " runs Ray there."
            ) from error
        yield mark
    finally:
        shutil.rmtree(mark, ignore_errors=True)


def look(mark: str, attempt: str, claims: Sequence[str]) -> Looked:
    """Say what this node sees, and give back the claims of its dead processes, which other nodes cannot know of.

    Args:
        mark: The folder the driver has left its mark in.
        attempt: What is written there.
        claims: Files of claims.
    """
    from importlib.metadata import version

    sees = False
    with contextlib.suppress(OSError):
        sees = (Path(mark) / "driver").read_text(encoding="utf-8") == attempt
        if sees:
            (Path(mark) / f"{socket.gethostname()}-{os.getpid()}").touch()
    for path in map(Path, claims if sees else ()):
        claim = read_claim(path)
        if claim is not None and claim.is_dead():
            release(path, claim)
    return Looked(socket.gethostname(), sees, version("medtail"), platform.python_version())


def check_looked(seen: Sequence[Looked], root: Path, mark: Path) -> None:
    """Refuse nodes that cannot take part.

    Args:
        seen: What each node says.
        root: The study's folder.
        mark: Where each that sees it has left a file.

    Raises:
        MedtailError: Some do not see the folder, or have another medtail.
    """
    from importlib.metadata import version

    blind = sorted({one.host for one in seen if not one.sees})
    expected = sum(one.sees for one in seen)
    limit = time.monotonic() + LATE_S
    while not blind and len(list(mark.glob("*-*"))) < expected:
        if time.monotonic() > limit:
            blind = ["some node (it writes into a folder of that name of its own)"]
        time.sleep(POLL_S)
    if blind:
        raise MedtailError(
            f"--ray: {root} is not seen on {listing(blind)}. A study on a cluster needs --out (and the images) on a"
            " disk that every node mounts at the same place and may write to."
        )
    own = version("medtail")
    others = sorted({f"{one.host} has {one.medtail}" for one in seen if one.medtail != own})
    if others:
        raise MedtailError(f"--ray: this is medtail {own}, but {listing(others)}; install the same everywhere.")


def work(job: Any, attempt: str, train: Callable[[Any], None], mark: str) -> Ending:
    """Be the task of one cell, on whichever node.

    Args:
        job: The cell.
        attempt: Of the command.
        train: What is done for it.
        mark: What a node that sees the folder sees.

    Raises:
        MedtailError: This node, which came later, does not see the folder.
    """
    if not Path(mark).exists():
        raise MedtailError(f"{socket.gethostname()} does not see {job.root}; mount it there as on the other nodes.")
    running.sweep([job], attempt=attempt, train=train)
    if job.record.exists():
        return "finished"
    return "failed" if running.failed_now(job, attempt) else "elsewhere"


@final
class _Driver:
    """Hands out the cells and watches them."""

    def __init__(
        self,
        ray: Any,
        jobs: Sequence[Job],
        attempt: str,
        wanted: Mapping[str, Mapping[str, float]],
        mark: Path,
        tick: running.Tick | None,
        train: Callable[[Any], None],
    ) -> None:
        self.ray, self.jobs, self.attempt = ray, jobs, attempt
        self.wanted, self.mark, self.tick, self.train = wanted, mark, tick, train
        self.pending: dict[Any, Job] = {}
        self.done: dict[str, Ending] = {job.name: "finished" for job in jobs if job.record.exists()}
        self.deaths: Counter[str] = Counter()

    def run(self) -> None:
        """Run until nothing is left that could be taken."""
        looked = -LOOK_AGAIN_S
        try:
            while True:
                if time.monotonic() - looked >= LOOK_AGAIN_S:
                    self._hand_out()
                    looked = time.monotonic()
                if not self.pending:
                    break
                ready, _ = self.ray.wait(list(self.pending), num_returns=1, timeout=POLL_S)
                for reference in ready:
                    self._end(reference)
                    looked = -LOOK_AGAIN_S
                self._tell()
        finally:
            self._give_back()
        self._wait_for_records()

    def _hand_out(self) -> None:
        busy = {job.name for job in self.pending.values()}
        for job in self.jobs:
            if job.name in self.done or job.name in busy:
                continue
            state = state_of(job)
            if state == "finished":  # by another command
                self.done[job.name] = "finished"
            elif state != "running" and not running.failed_now(job, self.attempt):
                self._submit(job)

    def _submit(self, job: Job) -> None:
        wants = self.wanted[job.name]
        options = {"num_cpus": wants["CPU"], "num_gpus": wants.get("GPU", 0), "max_retries": 0, "name": job.name}
        if "memory" in wants:
            options["memory"] = int(wants["memory"])
        ready = job.with_threads(max(1, int(wants["CPU"])))
        task = self.ray.remote(work).options(**options)
        self.pending[task.remote(ready, self.attempt, self.train, str(self.mark))] = job

    def _end(self, reference: Any) -> None:
        job = self.pending.pop(reference)
        try:
            ending = self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            self._release(job)
            if isinstance(error, KeyboardInterrupt) or isinstance(error.cause, KeyboardInterrupt | SystemExit):
                self._died(job)  # its node was told to stop
                return
            running.record_failure(job, str(error.cause), attempt=self.attempt, trace=str(error))
            ending = "failed"
        except self.ray.exceptions.RayError:  # its process or its node is gone
            self._release(job)
            self._died(job)
            return
        if ending != "elsewhere":
            self.done[job.name] = ending

    def _died(self, job: Job) -> None:
        self.deaths[job.name] += 1
        if self.deaths[job.name] >= running.MOST_DEATHS:
            running.record_failure(job, running.death_words(self.deaths[job.name]), attempt=self.attempt)
            self.done[job.name] = "failed"

    def _release(self, job: Job) -> None:
        """Give back the claim of a task that is gone; the next one may be on another machine, which could not know."""
        claim = read_claim(job.claim)
        if claim is not None and claim.attempt == self.attempt:
            release(job.claim, claim)

    def _give_back(self) -> None:
        for reference in self.pending:
            with contextlib.suppress(Exception):
                self.ray.cancel(reference, force=True)
        if self.pending:
            with contextlib.suppress(Exception):
                self.ray.wait(list(self.pending), num_returns=len(self.pending), timeout=10)
        for job in self.pending.values():
            self._release(job)

    def _tell(self) -> None:
        if self.tick is not None:
            self.tick(len(self.done), len(self.jobs), f"{len(self.pending)} handed to Ray")

    def _wait_for_records(self) -> None:
        """Wait until this machine sees what others have written."""
        limit = time.monotonic() + LATE_S
        files = {"finished": "record", "failed": "failure"}
        for job in self.jobs:
            ending = self.done.get(job.name)
            while ending in files and not getattr(job, files[ending]).exists() and time.monotonic() < limit:
                time.sleep(POLL_S)
