"""How the processes of a job talk: process 0 leads, the others do what it says; tensors are added up by torch.

Process 0 runs a verb from beginning to end as one process would. Where it comes to work that is shared, it gives the
others a job through a small key-value store, as JSON, and all do it together. They wait for jobs without a limit, since
preparing a data set may take hours; within a job whoever does not answer in `patience_s` is given up.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, Final, final

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from torch import Tensor
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined] # made by an import of all

from medtail.errors import MedtailError
from medtail.processes import LostError, Place

PATIENCE: Final = "MEDTAIL_PEER_TIMEOUT_S"
PATIENCE_S = 900.0
"""Seconds to wait within shared work: the longest step, plus what process 0 takes to write a state."""
AGENT_STORE = "TORCHELASTIC_USE_AGENT_STORE"
POLL_S = 0.05


@final
class Crew:
    """The processes of a job, seen from one of them.

    Args:
        place: Which one this is.
        store: Reaches all of them.
    """

    def __init__(self, place: Place, store: Store) -> None:
        self.place = place
        self._store = store
        self._jobs = 0

    @property
    def leads(self) -> bool:
        """Whether this is process 0."""
        return self.place.rank == 0

    def give(self, job: Mapping[str, Any]) -> None:
        """Tell the others what to do next; process 0 does it too.

        Args:
            job: Plain JSON values.
        """
        assert self.leads, "process 0 says what is done"
        self._store.set(f"job/{self._jobs}", json.dumps({"job": job}))
        self._jobs += 1

    def end(self, outcome: Mapping[str, Any] | None) -> None:
        """Tell the others that there is nothing more to do, and wait until they know.

        Args:
            outcome: What the whole came to; None where it failed.
        """
        assert self.leads, "process 0 says when it is over"
        self._store.set(f"job/{self._jobs}", json.dumps({"outcome": outcome}))
        waited = time.monotonic()
        while self._store.add("ended", 0) < self.place.size - 1 and time.monotonic() - waited < 10:
            time.sleep(POLL_S)  # this process may hold the store they ask

    def fail(self) -> None:
        """Tell the others, if this is process 0, that it cannot go on."""
        if self.leads:
            self._store.set(f"job/{self._jobs}", json.dumps({"outcome": None}))

    def next_job(self) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """Wait for process 0 to say what is next.

        Returns:
            A job and None; or None and the outcome, when all is done.

        Raises:
            LostError: Process 0 has gone, or failed.
        """
        assert not self.leads, "process 0 knows"
        key = f"job/{self._jobs}"
        try:
            while not self._store.check([key]):
                time.sleep(POLL_S)
            told = json.loads(self._store.get(key))
            if "job" not in told:
                self._store.add("ended", 1)
        except dist.DistError as error:
            raise LostError(f"process {self.place.rank}: process 0 has gone ({_first_line(error)}).") from error
        self._jobs += 1
        if "job" in told:
            return told["job"], None
        if told["outcome"] is None:
            raise LostError(f"process {self.place.rank}: process 0 failed and said so.")
        return None, told["outcome"]


@contextlib.contextmanager
def open_crew(place: Place, *, gpu: bool) -> Iterator[Crew]:
    """Meet the other processes, and part from them at the end.

    Args:
        place: Which process this is.
        gpu: Whether the work is on GPUs, one a process.

    Yields:
        The crew.

    Raises:
        LostError: Not all came, one has gone, or one did not answer in time.
        MedtailError: This machine has fewer GPUs than processes.
    """
    patience = timedelta(seconds=patience_s())
    if gpu:
        if place.local_rank >= torch.cuda.device_count():
            raise MedtailError(
                f"process {place.rank}: is number {place.local_rank} of its machine, where torch sees"
                f" {torch.cuda.device_count()} GPUs; expected one a process. Lower devices, or ask for more GPUs."
            )
        torch.cuda.set_device(place.local_rank)
    try:
        hosts = place.rank == 0 and os.environ.get(AGENT_STORE) != "True"
        store: Store = TCPStore(place.address, place.port, is_master=hosts, timeout=patience, wait_for_workers=False)
        store = PrefixStore(f"medtail/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpu else "gloo",
            store=PrefixStore("group", store),
            rank=place.rank,
            world_size=place.size,
            timeout=patience,
        )
        crew = Crew(place, store)
        try:
            yield crew
        except BaseException:
            with contextlib.suppress(RuntimeError):
                crew.fail()
            raise
        dist.destroy_process_group()
    except RuntimeError as error:
        if not _is_of_the_wire(error):
            raise
        raise LostError(
            f"process {place.rank} of {place.size}: lost the others ({_first_line(error)}); expected all to answer"
            f" within {patience_s():g} s."
        ) from error


def gathered(own: Tensor) -> Tensor:
    """Return what each process holds; where there is one, its own.

    Args:
        own: [...], of the same shape and kind in every process.

    Returns:
        [processes, ...], the same in all of them.

    Example:
        >>> gathered(torch.tensor([1.0, 2.0]))
        tensor([[1., 2.]])
    """
    if not dist.is_initialized():
        return own[None]
    shares = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(shares, own.contiguous())
    return torch.stack(shares)


def dealt(own: Tensor) -> Tensor:
    """Put the processes' shares of a list together, in the order from which `sampling.contract.shard` dealt them.

    Args:
        own: [n, ...]; process r of R holds the items r, r + R, r + 2R, …

    Returns:
        [n R, ...].
    """
    return gathered(own).transpose(0, 1).flatten(0, 1)


def patience_s() -> float:
    """Return how long to wait for the others within shared work, seconds.

    Raises:
        MedtailError: The environment asks for something that is no time.
    """
    text = os.environ.get(PATIENCE, str(PATIENCE_S))
    with contextlib.suppress(ValueError):
        if 0 < (found := float(text)) < float("inf"):
            return found
    raise MedtailError(f"{PATIENCE}: found {text!r}; expected seconds above 0.")


@contextlib.contextmanager
def meeting_point() -> Iterator[dict[str, str]]:
    """Hold the store for processes that this one starts; give the variables that lead them to it."""
    # a port that the system picks while the store takes it, so that two trainings never meet
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    yield {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), AGENT_STORE: "True"}
    del store


def _is_of_the_wire(error: RuntimeError) -> bool:
    text = str(error).lower()
    return isinstance(error, dist.DistError) or "gloo" in text or "nccl" in text or "connection" in text


def _first_line(error: BaseException) -> str:
    """Return what went wrong on the wire, without the place in torch's source and torch's advice."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return (lines[0].partition("] ")[2] or lines[0]).partition(". ")[0][:200]


@final
class CrewEnvironment(ClusterEnvironment):
    """Tells Lightning which process this is, and that it need not start any.

    Args:
        place: Which one.
    """

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place

    @property
    def creates_processes_externally(self) -> bool:
        """Lightning never starts processes."""
        return True

    @property
    def main_address(self) -> str:
        """Where process 0 is."""
        return self.place.address

    @property
    def main_port(self) -> int:
        """At which port."""
        return self.place.port

    @staticmethod
    def detect() -> bool:
        """Never found by itself; it is given."""
        return False

    def world_size(self) -> int:
        """Return the number of processes."""
        return self.place.size

    def set_world_size(self, size: int) -> None:
        """Do nothing: the number is known."""

    def global_rank(self) -> int:
        """Return this process's number."""
        return self.place.rank

    def set_global_rank(self, rank: int) -> None:
        """Do nothing: the number is known."""

    def local_rank(self) -> int:
        """Return its number on its machine."""
        return self.place.local_rank

    def node_rank(self) -> int:
        """Return its machine's number."""
        return self.place.node
