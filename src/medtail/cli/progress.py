"""Progress bars on stderr, shared by the verbs; silent where nobody watches."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

Tick = Callable[[int, int], None]
"""Called with (done, total)."""


@contextlib.contextmanager
def bar(text: str, *, quiet: bool = False) -> Iterator[Tick | None]:
    """Show a bar on stderr while the block runs.

    Args:
        text: What is being done.
        quiet: Show nothing.

    Yields:
        A function to call with (done, total), or None where nothing is shown.
    """
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(text, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
