from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medtail.errors import MedtailError, UsageError
from medtail.processes import Place, found_place, is_first, supervise

MEMBER = """
import os, signal, sys, time
from pathlib import Path
from medtail.errors import MedtailError, UsageError
from medtail.processes import LostError, serve

RANK = int(os.environ["RANK"])

def work(job):
    Path(job["folder"], f"began_{RANK}").write_text(f"{os.getpid()} {os.environ['WORLD_SIZE']} {os.environ['WORD']}")
    deed = job["deeds"][RANK]
    if deed == "mistake":
        raise MedtailError("row 3: found 'x'; expected 0 or 1.")
    if deed == "usage":
        raise UsageError("--out: is not empty.")
    if deed == "bug":
        raise KeyError("what nobody foresaw")
    if deed == "lost":
        raise LostError("process 0 lost the others.")
    if deed == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if deed == "exit":
        sys.stderr.write("some library gave up\\n")
        sys.stderr.flush()
        os._exit(3)
    if deed == "wait":
        time.sleep(60)

if __name__ == "__main__":
    sys.exit(serve(work, sys.argv[1:]))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "a_member.py").write_text(MEMBER, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("medtail.processes.GRACE_S", 0.3)
    return tmp_path


def run(folder: Path, *deeds: str) -> None:
    supervise(
        "a_member",
        {"folder": str(folder), "deeds": deeds},
        processes=len(deeds),
        where="runs/x",
        advice="Go on with --resume.",
        environment={"WORD": "said"},
    )


def test_all_do_their_share_and_know_who_they_are(folder: Path) -> None:
    run(folder, "well", "well")
    told = [(folder / f"began_{rank}").read_text().split() for rank in range(2)]
    assert told[0][0] != told[1][0]
    assert [words[1:] for words in told] == [["2", "said"]] * 2


@pytest.mark.parametrize(
    ("deeds", "kind", "words"),
    [
        # the other one's trouble follows from the first one's, and says less
        (("lost", "mistake"), MedtailError, r"^row 3: found 'x'; expected 0 or 1\.$"),
        (("usage", "lost"), UsageError, r"^--out: is not empty\.$"),
        (("lost", "kill"), MedtailError, r"runs/x: process 1 of 2 was killed \(SIGKILL.*Go on with --resume\."),
        (("bug", "kill"), MedtailError, r"process 1 of 2 was killed"),
        (("lost", "exit"), MedtailError, r"process 1 of 2 ended with exit code 3.*'some library gave up'"),
        (("lost", "bug"), RuntimeError, r"KeyError: 'what nobody foresaw'"),
        (("lost", "lost"), MedtailError, r"runs/x: process 0 lost the others\. Go on with --resume\."),
    ],
)
def test_what_explains_the_end_best_is_told(
    folder: Path, deeds: tuple[str, ...], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=f"(?s){words}") as caught:
        run(folder, *deeds)
    assert type(caught.value) is kind


def test_one_that_waits_for_a_dead_one_is_stopped_in_time(folder: Path) -> None:
    began = time.monotonic()
    with pytest.raises(MedtailError, match="process 1 of 2 was killed"):
        run(folder, "wait", "kill")
    assert time.monotonic() - began < 20
    with pytest.raises(ProcessLookupError):
        os.kill(int((folder / "began_0").read_text().split()[0]), 0)


def test_processes_end_with_a_supervisor_that_was_killed(folder: Path) -> None:
    job = {"folder": str(folder), "deeds": ["wait", "wait"]}
    script = (
        f"from medtail.processes import supervise; supervise('a_member', {job!r},"
        " processes=2, where='x', advice='', environment={'WORD': 'w'})"
    )
    paths = os.pathsep.join([str(folder), *sys.path])
    popen = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": paths})
    try:
        until = time.monotonic() + 30
        while not all(
            (folder / f"began_{rank}").exists() and (folder / f"began_{rank}").read_text() for rank in (0, 1)
        ):
            assert time.monotonic() < until, "did not start"
            time.sleep(0.02)
    finally:
        popen.send_signal(signal.SIGKILL)
        popen.wait()
    for rank in range(2):
        pid = int((folder / f"began_{rank}").read_text().split()[0])
        until = time.monotonic() + 30
        while Path(f"/proc/{pid}/stat").exists() and ") Z" not in Path(f"/proc/{pid}/stat").read_text():
            assert time.monotonic() < until, "outlived its supervisor"
            time.sleep(0.02)


# --- who is who -----------------------------------------------------------------------------------------------------

TORCHRUN = {
    "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "n0", "MASTER_PORT": "29500", "GROUP_RANK": "1",
}  # fmt: skip
SRUN = {
    "SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_JOB_ID": "77",
    "SLURM_STEP_NODELIST": "gpu[07-08]", "SLURM_NTASKS": "8",
}  # fmt: skip


def test_torchrun_and_srun_say_the_same_in_their_own_words() -> None:
    assert found_place(TORCHRUN) == Place(5, 8, 1, 1, "n0", 29500, "torchrun")
    place = found_place(SRUN)
    assert place is not None
    assert (place.rank, place.size, place.local_rank, place.node, place.address) == (5, 8, 1, 1, "gpu07")
    assert place.started_by == "srun"
    others = found_place({**SRUN, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"})
    assert others is not None
    assert (others.address, others.port) == (place.address, place.port), "all must meet at one place"
    chosen = found_place({**SRUN, "MASTER_ADDR": "10.0.0.9", "MASTER_PORT": "31000"})
    assert chosen is not None
    assert (chosen.address, chosen.port) == ("10.0.0.9", 31000)


def test_a_process_alone_has_no_place() -> None:
    assert found_place({**TORCHRUN, "WORLD_SIZE": "1", "RANK": "0"}) is None
    assert found_place({"RANK": "0", "WORLD_SIZE": "8"}) is None, "some other tool's words"
    batch = {name: value for name, value in SRUN.items() if not name.startswith("SLURM_STEP")}
    assert found_place({**batch, "SLURM_PROCID": "0"}) is None, "the batch script is not one of srun's tasks"


def test_only_the_first_process_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_first()
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert not is_first()
    monkeypatch.setenv("RANK", "0")
    assert is_first()


def test_two_steps_of_a_job_meet_at_different_ports() -> None:
    first, second = found_place({**SRUN, "SLURM_STEP_ID": "0"}), found_place({**SRUN, "SLURM_STEP_ID": "1"})
    assert first is not None
    assert second is not None
    assert first.port != second.port


def test_as_many_processes_as_the_config_says() -> None:
    Place(size=8).check(devices=4, num_nodes=2)
    with pytest.raises(UsageError, match=r"torchrun: started 8 processes; .*expected 4, 2 on each of 2 machines"):
        Place(size=8, started_by="torchrun").check(devices=2, num_nodes=2)
