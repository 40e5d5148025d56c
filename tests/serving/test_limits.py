from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from medtail.serving.limits import MOST_ADDRESSES, Gate, RateLimit, drain, read_body
from medtail.serving.refusals import Refusal


async def chunks(*parts: bytes, pause_s: float = 0.0) -> AsyncIterator[bytes]:
    for part in parts:
        await asyncio.sleep(pause_s)
        yield part


def test_a_full_gate_refuses_at_once_and_opens_again() -> None:
    gate = Gate(2)
    with gate, gate:
        with pytest.raises(Refusal) as caught, gate:
            raise AssertionError("let in")
        assert (caught.value.status, caught.value.retry_s) == (503, 2)
        assert gate.inside == 2
    assert gate.inside == 0


def test_a_gate_opens_after_an_error() -> None:
    gate = Gate(1)
    with pytest.raises(ZeroDivisionError), gate:
        _ = 1 / 0
    assert gate.inside == 0


def test_a_bucket_fills_with_time_and_never_over_its_size() -> None:
    now = [0.0]
    limit = RateLimit(2.0, burst=3, clock=lambda: now[0])
    assert [limit.allows("a") for _ in range(4)] == [True, True, True, False]
    now[0] = 0.6
    assert [limit.allows("a") for _ in range(2)] == [True, False]
    now[0] = 1000.0
    assert [limit.allows("a") for _ in range(4)] == [True, True, True, False]


def test_addresses_do_not_share_a_bucket_and_a_cost_counts() -> None:
    limit = RateLimit(1.0, burst=10, clock=lambda: 0.0)
    assert limit.allows("a", cost=10)
    assert not limit.allows("a")
    assert limit.allows("b")


def test_without_a_rate_everything_is_allowed() -> None:
    limit = RateLimit(None, burst=1)
    assert all(limit.allows("a") for _ in range(100))


def test_the_memory_of_addresses_is_bounded() -> None:
    limit = RateLimit(1.0, burst=1, clock=lambda: 0.0)
    for number in range(MOST_ADDRESSES + 50):
        assert limit.allows(str(number))
    assert len(limit._buckets) == MOST_ADDRESSES
    assert not limit.allows(str(MOST_ADDRESSES + 49))


@pytest.mark.parametrize(("limit", "expected"), [(6, b"abcdef"), (7, b"abcdef"), (5, None)])
def test_a_body_is_read_up_to_the_limit(limit: int, expected: bytes | None) -> None:
    assert asyncio.run(read_body(chunks(b"abc", b"", b"def"), max_bytes=limit)) == expected


def test_draining_ends_by_bytes_and_by_time() -> None:
    seen = []

    async def endless() -> AsyncIterator[bytes]:
        while True:
            seen.append(1)
            yield b"x" * 10

    asyncio.run(drain(endless(), max_bytes=45))
    assert len(seen) == 5
    started = time.monotonic()
    asyncio.run(drain(chunks(b"a", b"b", pause_s=30.0), max_bytes=100, within_s=0.1))
    assert time.monotonic() - started < 5
