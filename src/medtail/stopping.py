"""Being told to stop: by Ctrl-C, by a cluster that wants its machine back, by a service that is shut down.

A signal becomes an exception in the main thread, so that temporary files go, claims are given back and the command
says how to go on. Whoever calls medtail from Python keeps Python's own handling; `medtail` the command installs this.
A second signal of the same kind ends the process at once; whatever it wrote is whole all the same.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import final

SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1")
"""Ctrl-C; what clusters, containers and services send before they kill; what SLURM may be asked to send earlier."""


@final
class Stopped(KeyboardInterrupt):
    """The process was told to stop.

    Attributes:
        number: Of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def exit_code(error: KeyboardInterrupt) -> int:
    """Return 128 + the signal's number, as shells do: 130 for Ctrl-C, 143 for SIGTERM.

    Example:
        >>> exit_code(KeyboardInterrupt()), exit_code(Stopped(signal.SIGTERM))
        (130, 143)
    """
    return 128 + int(error.number if isinstance(error, Stopped) else signal.SIGINT)


@contextlib.contextmanager
def by_signals() -> Iterator[None]:
    """Turn the signals into `Stopped` while the block runs; to be used in the main thread.

    A signal that whoever started the process has it ignore stays ignored.
    """
    before = {}
    for name in SIGNALS:
        number = getattr(signal, name, None)  # not every system has all
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> None:
    del frame
    signal.signal(number, signal.SIG_DFL)  # who sends it again means it
    raise Stopped(number)


@contextlib.contextmanager
def passed_on() -> Iterator[None]:
    """Let an interrupt out of a library that makes an exit of it, as Lightning does, and undo what it did to Ctrl-C.

    Raises:
        KeyboardInterrupt: The one that arrived, in the place of the `SystemExit` it was turned into.

    Example:
        >>> try:
        ...     with passed_on():
        ...         try:
        ...             raise KeyboardInterrupt
        ...         except KeyboardInterrupt:
        ...             raise SystemExit(1)
        ... except KeyboardInterrupt:
        ...     print("interrupted")
        interrupted
    """
    with contextlib.suppress(ValueError):  # signals belong to the main thread
        before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stop:
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGINT, before)
        arrived = stop.__context__
        if isinstance(arrived, KeyboardInterrupt):
            raise arrived from None
        raise Stopped(signal.SIGTERM) from stop  # Lightning leaves with no word between two batches
