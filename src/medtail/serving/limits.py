"""How much may be asked: requests at once, requests a second, bytes a body, seconds a request."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from typing import final

from medtail.serving.refusals import Refusal

MOST_ADDRESSES = 4096
DRAIN_S = 2.0


@final
class Gate:
    """Lets in so many requests at once and refuses the rest at once; a context manager.

    Args:
        limit: Requests at once.

    Example:
        >>> gate = Gate(1)
        >>> with gate:
        ...     try:
        ...         gate.__enter__()
        ...     except Refusal as refusal:
        ...         print(refusal.status, gate.inside)
        503 1
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.inside = limit, 0

    def __enter__(self) -> None:
        if self.inside >= self.limit:
            raise Refusal.busy()
        self.inside += 1

    def __exit__(self, *_: object) -> None:
        self.inside -= 1


@final
class RateLimit:
    """A bucket of tokens for each address: `burst` at once, then `rate` a second.

    Args:
        rate: Tokens a second; None for no limit.
        burst: Most tokens a bucket holds.
        clock: Seconds that only grow.

    Example:
        >>> limit = RateLimit(1.0, burst=2, clock=lambda: 0.0)
        >>> [limit.allows("a"), limit.allows("a"), limit.allows("a"), limit.allows("b")]
        [True, True, False, True]
    """

    def __init__(self, rate: float | None, *, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, float(burst), clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allows(self, address: str, *, cost: float = 1.0) -> bool:
        """Take tokens from an address's bucket; False if it holds too few.

        Args:
            address: Of the client.
            cost: Tokens; what failed, such as a wrong token, may cost more.
        """
        if self._rate is None:
            return True
        now = self._clock()
        tokens, then = self._buckets.pop(address, (self._burst, now))
        tokens = min(self._burst, tokens + (now - then) * self._rate)
        is_allowed = tokens >= cost
        self._buckets[address] = (tokens - cost if is_allowed else tokens, now)
        if len(self._buckets) > MOST_ADDRESSES:  # the one that asked longest ago has a full bucket, or nearly
            self._buckets.popitem(last=False)
        return is_allowed


async def read_body(chunks: AsyncIterator[bytes], *, max_bytes: int) -> bytes | None:
    """Read a body of at most so many bytes; None if it has more, and then the rest is left.

    Args:
        chunks: As they come.
        max_bytes: Most bytes.
    """
    found = bytearray()
    async for chunk in chunks:
        if len(found) + len(chunk) > max_bytes:
            return None
        found += chunk
    return bytes(found)


async def drain(chunks: AsyncIterator[bytes], *, max_bytes: int, within_s: float = DRAIN_S) -> None:
    """Read and forget what a refused client still sends, within limits.

    A connection closed on a client that is still sending is reset, and the client never reads why it was refused.
    """
    left = max_bytes
    try:
        async with asyncio.timeout(within_s):
            async for chunk in chunks:
                left -= len(chunk)
                if left < 0:
                    return
    except TimeoutError:
        return
