"""Looking over a training's shoulder: whoever starts it may be told of every epoch, and end it by raising.

A search's pruner stands outside of the training, which knows nothing of it. What is told has been written, so a
training that is ended here can go on later.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar

Row = Mapping[str, float | int | None]
Watch = Callable[[Row], None]
_WATCH: ContextVar[Watch | None] = ContextVar("watch of the epochs", default=None)


@contextlib.contextmanager
def watched(watch: Watch | None) -> Iterator[None]:
    """Have every epoch of the trainings in the block told.

    Args:
        watch: Given the row of `log.csv`; what it raises ends the training. None tells nobody.

    Example:
        >>> seen = []
        >>> with watched(lambda row: seen.append(row["epoch"])):
        ...     tell_epoch({"epoch": 1, "tune_map": 0.5})
        >>> tell_epoch({"epoch": 2, "tune_map": 0.6}); seen
        [1]
    """
    token = _WATCH.set(watch)
    try:
        yield
    finally:
        _WATCH.reset(token)


def tell_epoch(row: Row) -> None:
    """Tell whoever watches of an epoch that has been judged and written.

    Args:
        row: As in `log.csv`.
    """
    watch = _WATCH.get()
    if watch is not None:
        watch(row)
