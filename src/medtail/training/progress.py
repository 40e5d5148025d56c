"""What a person sees on stderr while images are prepared and a model is trained; nothing where asked to be quiet."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, Protocol, final

Tick = Callable[[int, int], None]


@contextlib.contextmanager
def counter(text: str, *, quiet: bool) -> Iterator[Tick | None]:
    """Show a bar with a count while the block runs.

    Args:
        text: What is being done.
        quiet: Show nothing; neither is anything shown where stderr is no terminal.

    Yields:
        A function to call with (done, total), or None.
    """
    if quiet or not sys.stderr.isatty():
        yield None
        return
    with _bar() as bar:
        task = bar.add_task(text, total=None, note="")
        yield lambda done, total: bar.update(task, completed=done, total=total)


class EpochReport(Protocol):
    """Told how a training goes."""

    def step(self, *, epoch: int, step: int, steps: int, loss: float) -> None:
        """Note one step; epochs and steps from 0."""

    def epoch(self, text: str) -> None:
        """Note the end of an epoch in words."""


@contextlib.contextmanager
def epoch_report(*, epochs: int, quiet: bool) -> Iterator[EpochReport]:
    """Show a bar of the whole training on a terminal, or a line an epoch where stderr is a file."""
    if quiet:
        yield _Silent()
    elif not sys.stderr.isatty():
        yield _Lines()
    else:
        with _bar() as bar:
            yield _Bar(bar, epochs)


@final
class _Silent:
    def step(self, *, epoch: int, step: int, steps: int, loss: float) -> None:
        """Say nothing."""

    def epoch(self, text: str) -> None:
        """Say nothing."""


@final
class _Lines:
    def step(self, *, epoch: int, step: int, steps: int, loss: float) -> None:
        """Say nothing; steps would fill the log."""

    def epoch(self, text: str) -> None:
        """Write a line."""
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


@final
class _Bar:
    def __init__(self, bar: Any, epochs: int) -> None:
        self._bar = bar
        self._epochs = epochs
        self._task = bar.add_task("train", total=None, note="")
        self._note = ""

    def step(self, *, epoch: int, step: int, steps: int, loss: float) -> None:
        """Move the bar."""
        self._bar.update(
            self._task,
            description=f"epoch {epoch + 1}/{self._epochs}",
            completed=epoch * steps + step + 1,
            total=self._epochs * steps,
            note=f"loss {loss:.3f} {self._note}",
        )

    def epoch(self, text: str) -> None:
        """Show the last epoch's result beside the bar."""
        self._note = text.partition(": ")[2]


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    return Progress(*columns, console=Console(stderr=True), transient=True)
