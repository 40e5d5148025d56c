from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from datetime import timedelta

import pytest
import torch
from torch.distributed import HashStore  # type: ignore[attr-defined]

from medtail.crew import Crew, CrewEnvironment, dealt, gathered, patience_s
from medtail.errors import MedtailError
from medtail.processes import LostError, Place


def crew_of_two() -> tuple[Crew, Crew]:
    store = HashStore()
    store.set_timeout(timedelta(seconds=5))
    return Crew(Place(rank=0, size=2), store), Crew(Place(rank=1, size=2), store)


def test_jobs_come_in_order_and_then_the_outcome() -> None:
    leader, other = crew_of_two()
    leader.give({"number": 1})
    leader.give({"number": 2})
    assert other.next_job() == ({"number": 1}, None)
    assert other.next_job() == ({"number": 2}, None)
    ending = threading.Thread(target=leader.end, args=({"good": True},))
    ending.start()
    assert other.next_job() == (None, {"good": True})
    ending.join(timeout=5)
    assert not ending.is_alive()


def test_the_others_wait_for_a_job_as_long_as_it_takes() -> None:
    leader, other = crew_of_two()
    later = threading.Timer(0.3, leader.give, args=({"late": True},))
    later.start()
    began = time.monotonic()
    assert other.next_job() == ({"late": True}, None)
    assert time.monotonic() - began > 0.2


def test_a_leader_that_fails_says_so() -> None:
    leader, other = crew_of_two()
    other.fail()  # has nothing to say
    leader.fail()
    with pytest.raises(LostError, match="process 1: process 0 failed"):
        other.next_job()


def test_alone_there_is_one_share() -> None:
    torch.testing.assert_close(gathered(torch.arange(3)), torch.arange(3)[None])
    torch.testing.assert_close(dealt(torch.arange(6).reshape(3, 2)), torch.arange(6).reshape(3, 2))


def test_patience_is_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDTAIL_PEER_TIMEOUT_S", "2.5")
    assert patience_s() == 2.5
    for text in ("soon", "0", "inf", "nan"):
        monkeypatch.setenv("MEDTAIL_PEER_TIMEOUT_S", text)
        with pytest.raises(MedtailError, match=f"MEDTAIL_PEER_TIMEOUT_S: found {text!r}; expected seconds above 0"):
            patience_s()


def test_lightning_is_told_the_place_and_starts_nobody() -> None:
    place = Place(rank=5, size=8, local_rank=1, node=1, address="n0", port=29500)
    environment = CrewEnvironment(place)
    environment.set_global_rank(0)
    environment.set_world_size(1)
    told = environment.global_rank(), environment.world_size(), environment.local_rank(), environment.node_rank()
    assert told == (5, 8, 1, 1)
    assert (environment.main_address, environment.main_port) == ("n0", 29500)
    assert environment.creates_processes_externally
    assert not CrewEnvironment.detect()


MEET = """
import sys, torch
from medtail.crew import dealt, gathered, open_crew
from medtail.errors import MedtailError
from medtail.processes import found_place
from medtail.sampling.contract import shard
place = found_place()
try:
    with open_crew(place, gpu=False) as crew:
        share = torch.as_tensor(shard(torch.arange(7).numpy(), rank=place.rank, world_size=place.size))
        print(dealt(share)[:7].tolist(), gathered(torch.tensor(place.rank)).tolist(), flush=True)
        if len(sys.argv) > 1 and place.rank == 1:
            import time; time.sleep(float(sys.argv[1]))
        gathered(torch.zeros(1))
except MedtailError as error:
    print(type(error).__name__, error, flush=True)
"""


def meet(*words: str, **environment: str) -> list[str]:
    from medtail.crew import meeting_point

    with meeting_point() as place:
        running = [
            subprocess.Popen(
                [sys.executable, "-c", MEET, *words],
                env={
                    **os.environ,
                    **place,
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": "2",
                    **environment,
                },
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]
        return [popen.communicate(timeout=300)[0] for popen in running]


@pytest.mark.slow
def test_shares_come_together_in_the_order_they_were_dealt() -> None:
    assert meet() == ["[0, 1, 2, 3, 4, 5, 6] [0, 1]\n"] * 2


@pytest.mark.slow
def test_one_that_does_not_answer_is_given_up() -> None:
    first, _ = meet("20", MEDTAIL_PEER_TIMEOUT_S="5")
    assert "LostError process 0 of 2: lost the others" in first
    assert "expected all to answer within 5 s." in first
