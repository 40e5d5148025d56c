"""Several processes that do one job together: who is who, starting them, and noticing when one is lost.

A job on one machine is started here: `supervise` runs a module once a process and watches. The caller stays outside, so
whatever happens to them it gets one clear error and no half-dead process is left. On several machines `torchrun` or
SLURM's `srun` start the processes and watch; `found_place` reads which one this is. Nothing here loads torch: how the
processes talk to each other is in `crew`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

from medtail.errors import MedtailError, UsageError

SHARES = "MEDTAIL_CREW"
"""Set in processes started by `supervise`, whose environment otherwise looks as torchrun's."""
GRACE_S = 10.0
"""How long the others may take to end by themselves after one has failed."""
POLL_S = 0.05
Starter = Literal["medtail", "torchrun", "srun"]
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
SRUN = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_JOB_ID")


@final
@dataclass(frozen=True)
class Place:
    """Which of several processes this one is.

    Attributes:
        rank: Its number, from 0.
        size: How many there are, on all machines.
        local_rank: Its number among those of its machine.
        node: Its machine's number.
        address: Where process 0 can be reached.
        port: At which port.
        started_by: Who started the processes and ends them all when one has failed.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    node: int = 0
    address: str = "127.0.0.1"
    port: int = 0
    started_by: Starter = "medtail"

    def check(self, *, devices: int, num_nodes: int) -> None:
        """Check that as many processes were started as a config asks for.

        Raises:
            UsageError: There are more or fewer.
        """
        if self.size != devices * num_nodes:
            raise UsageError(
                f"{self.started_by}: started {self.size} processes; the config has devices {devices} and num_nodes"
                f" {num_nodes}, so expected {devices * num_nodes}, {devices} on each of {num_nodes} machines. Set the"
                " two in the config (--set devices=…), or start as many."
            )


def found_place(environment: Mapping[str, str] | None = None) -> Place | None:
    """Read from the environment which process of several this is.

    Args:
        environment: `os.environ` if None.

    Returns:
        The place torchrun or srun gave it; None where it was started alone.

    Example:
        >>> found_place({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "9"})
        Place(rank=1, size=2, local_rank=1, node=0, address='a', port=9, started_by='torchrun')
        >>> found_place({}) is None
        True
    """
    values = os.environ if environment is None else environment
    if all(name in values for name in TORCHRUN):
        rank, size, local = (int(values[name]) for name in TORCHRUN[:3])
        node = int(values.get("GROUP_RANK", values.get("NODE_RANK", 0)))
        by: Starter = "medtail" if SHARES in values else "torchrun"
        found = Place(rank, size, local, node, values["MASTER_ADDR"], int(values["MASTER_PORT"]), by)
    elif all(name in values for name in SRUN):  # the batch script itself, outside srun, has no step
        rank, size, local, node = (int(values[name]) for name in SRUN[:4])
        nodes = values.get("SLURM_STEP_NODELIST", values.get("SLURM_JOB_NODELIST", "127.0.0.1"))
        number = int(values["SLURM_JOB_ID"]) * 16 + int(values.get("SLURM_STEP_ID", 0))
        port = int(values.get("MASTER_PORT", 20_000 + number % 20_000))
        found = Place(rank, size, local, node, values.get("MASTER_ADDR", first_host(nodes)), port, "srun")
    else:
        return None
    return found if found.size > 1 else None


def is_first() -> bool:
    """Return whether this process should speak to a person: it is alone, or number 0 of several."""
    place = found_place()
    return place is None or place.rank == 0


def first_host(nodes: str) -> str:
    """Return the first machine of SLURM's list.

    Example:
        >>> first_host("gpu[017-020,033]"), first_host("a1,b2"), first_host("login")
        ('gpu017', 'a1', 'login')
    """
    found = re.match(r"([^,\[]+)(?:\[([^\],-]+)[^\]]*\])?([^,]*)", nodes)
    if found is None:
        raise MedtailError(f"SLURM_STEP_NODELIST: found {nodes!r}; expected names of machines. Set MASTER_ADDR.")
    return found[1] + (found[2] or "") + found[3]


@final
@dataclass
class _Process:
    rank: int
    popen: subprocess.Popen[bytes]
    report: Path
    words: Path | None

    def told(self) -> dict[str, str] | None:
        """Return what it wrote before it ended; None if nothing."""
        try:
            value = json.loads(self.report.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    def last_words(self) -> str:
        if self.words is None or not self.words.exists():
            return ""
        lines = self.words.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f" It last wrote: {lines[-1][:300]!r}." if lines else ""


def supervise(
    module: str,
    job: Mapping[str, Any],
    *,
    processes: int,
    where: str,
    advice: str,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run a module in several processes of this machine until all are done; the module calls `serve`.

    Args:
        module: Its name, run as `python -m`.
        job: What they are to do, plain JSON values.
        processes: How many, at least 1.
        where: What they work on, for messages.
        advice: What to do when one of them was lost.
        environment: Further variables, the same for all.

    Raises:
        MedtailError: One of them found a mistake, was killed or stopped; the others were stopped too.
        UsageError: One of them was asked for something wrong.
    """
    with tempfile.TemporaryDirectory(prefix="medtail-crew-") as name:
        folder = Path(name)
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        crew: list[_Process] = []
        try:
            crew += (_start(module, folder, rank, processes, environment or {}) for rank in range(processes))
            _watch(crew)
        finally:
            _stop([member.popen for member in crew])
        _raise_first(crew, where=where, advice=advice)


def _start(module: str, folder: Path, rank: int, size: int, environment: Mapping[str, str]) -> _Process:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    places = dict(zip(TORCHRUN[:3], map(str, (rank, size, rank)), strict=True))
    own = {
        "OMP_NUM_THREADS": str(max(1, cores // size)),  # or each would take all cores
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
        **os.environ,
        **environment,
        **places,
        SHARES: str(size),
        "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
    }
    report = folder / f"report_{rank}.json"
    words = folder / f"words_{rank}.txt" if rank else None
    command = [sys.executable, "-P", "-m", module, str(folder / "job.json"), str(report)]
    with contextlib.ExitStack() as stack:
        out: int | Any = sys.__stderr__.fileno() if sys.__stderr__ is not None else None
        if words is not None:
            out = stack.enter_context(words.open("wb"))
        popen = subprocess.Popen(command, env=own, stdin=subprocess.PIPE, stdout=out, stderr=out)
    return _Process(rank, popen, report, words)


def _watch(crew: Sequence[_Process]) -> None:
    """Wait until all have ended, or one has failed and the others have had time to say why."""
    failed_at: float | None = None
    while None in (codes := [member.popen.poll() for member in crew]):
        if failed_at is None and any(code not in (None, 0) for code in codes):
            failed_at = time.monotonic()
        if failed_at is not None and time.monotonic() - failed_at > GRACE_S:
            return
        time.sleep(POLL_S)


def _stop(running: Sequence[subprocess.Popen[bytes]]) -> None:
    for popen in running:
        if popen.poll() is None:
            popen.terminate()
    for popen in running:
        try:
            popen.wait(timeout=GRACE_S)
        except subprocess.TimeoutExpired:  # SIGTERM waits while a process is stopped; SIGKILL does not
            popen.kill()
            popen.wait()
        if popen.stdin is not None:
            with contextlib.suppress(OSError):
                popen.stdin.close()


def _raise_first(crew: Sequence[_Process], *, where: str, advice: str) -> None:
    """Raise what explains best why they ended: a mistake that was found, then a process lost, then anything else."""
    failed = [(member, member.told()) for member in crew if member.popen.returncode]
    told: dict[str, str] = {}
    for _, said in failed:
        if said is not None:
            told.setdefault(said["kind"], said["text"])
    if "usage" in told:
        raise UsageError(told["usage"])
    if "mistake" in told:
        raise MedtailError(told["mistake"])
    silent = [member for member, said in failed if said is None and member.popen.returncode != -signal.SIGTERM]
    if "bug" in told and not any(member.popen.returncode < 0 for member in silent):
        raise RuntimeError(f"{where}: a process failed.\n{told['bug']}")
    for member in silent:
        raise MedtailError(
            f"{where}: process {member.rank} of {len(crew)} {_ending(member.popen.returncode)}; expected all to finish."
            f" The others were stopped.{member.last_words()} {advice}"
        )
    if failed:
        found = told.get("lost", f"{len(failed)} of {len(crew)} processes were told to stop.")
        raise MedtailError(f"{where}: {found} {advice}")


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    with contextlib.suppress(ValueError):
        name = signal.Signals(-code).name
        return f"was killed ({name}{', perhaps for want of memory' if name == 'SIGKILL' else ''})"
    return f"was killed (signal {-code})"


@final
class LostError(MedtailError):
    """Another process of the job has gone or does not answer; its own end says more than this error."""


def serve(work: Callable[[dict[str, Any]], None], arguments: Sequence[str]) -> int:
    """Do a share of a supervised job and return the exit code; the body of a module that `supervise` runs.

    Args:
        work: Does it, given the job.
        arguments: The words of the command line: the job's file, and where to tell of a failure.
    """
    job_file, report = Path(arguments[0]), Path(arguments[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor decides
    job = json.loads(job_file.read_text(encoding="utf-8"))
    threading.Thread(target=_end_with_supervisor, daemon=True).start()
    with _reporting(report) as outcome:
        work(job)
    sys.stderr.flush()
    if outcome:
        os._exit(1)  # threads of a broken process group would keep a failed process alive
    return 0


@contextlib.contextmanager
def _reporting(report: Path) -> Iterator[list[str]]:
    failed: list[str] = []
    try:
        yield failed
    except MedtailError as error:
        failed.append(
            "lost" if isinstance(error, LostError) else "usage" if isinstance(error, UsageError) else "mistake"
        )
        report.write_text(json.dumps({"kind": failed[0], "text": str(error)}), encoding="utf-8")
    except BaseException:
        failed.append("bug")
        report.write_text(json.dumps({"kind": "bug", "text": traceback.format_exc()}), encoding="utf-8")


def _end_with_supervisor() -> None:
    """End this process when whoever started it has gone: its end of the pipe closes then, however it ended."""
    while os.read(0, 1):  # not sys.stdin, whose lock would be held when the interpreter ends
        pass
    os._exit(1)
