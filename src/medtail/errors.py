"""The errors medtail raises, and how they are worded.

Every message says where, what was found, what is expected and what to do. `Problems` gathers all the
mistakes of one input so that a person mends a file once, not twenty times. Stands at the bottom of the
import layers; everything may use it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import final


class MedtailError(ValueError):
    """Something a person can mend: the data, the files or the request. Exit code 1."""


class UsageError(MedtailError):
    """The request itself is wrong: an unknown option, config key or verb. Exit code 2."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the nearest known name, or an empty string.

    Case, spaces and hyphens do not count as differences: `Patient ID` is near `patient_id`.

    Args:
        name: What the user wrote.
        known: Names that would have been right.

    Returns:
        Text to append to a message; empty where nothing is near.

    Example:
        >>> did_you_mean("gama", ["gamma", "beta"])
        "; did you mean 'gamma'?"
        >>> did_you_mean("zzz", ["gamma"])
        ''
    """
    plain = {_plain(candidate): candidate for candidate in reversed(list(known))}
    near = difflib.get_close_matches(_plain(name), plain, n=1, cutoff=0.6)
    return f"; did you mean {plain[near[0]]!r}?" if near else ""


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def listing(items: Sequence[object], *, limit: int = 5) -> str:
    """Join the first few items, then say how many more there are.

    Example:
        >>> listing([1, 2, 3], limit=2)
        '1, 2 and 1 more'
        >>> listing(["a"])
        'a'
    """
    shown = ", ".join(str(item) for item in items[:limit])
    rest = len(items) - limit
    return f"{shown} and {rest} more" if rest > 0 else shown


@final
@dataclass
class Problems:
    """Collect mistakes, then raise them all at once.

    Attributes:
        where: The file or table the mistakes are in; starts every line.
        found: The mistakes so far, one line each.
        limit: How many of them the message shows before it only counts.

    Example:
        >>> problems = Problems("labels.csv")
        >>> problems.add("column 'Hernia': missing")
        >>> problems.raise_if_any()
        Traceback (most recent call last):
        medtail.errors.MedtailError: labels.csv, column 'Hernia': missing
    """

    where: str
    found: list[str] = field(default_factory=list)
    limit: int = 20

    def add(self, message: str) -> None:
        """Note one mistake, worded to follow the place."""
        self.found.append(message)

    def __len__(self) -> int:
        return len(self.found)

    def text(self) -> str:
        """Return the first mistakes, a line each, then a count of the rest."""
        lines = [f"{self.where}, {message}" for message in self.found[: self.limit]]
        if len(self.found) > self.limit:
            rest = len(self.found) - self.limit
            lines.append(f"{self.where}: and {rest} more mistake{'s' if rest > 1 else ''}")
        return "\n".join(lines)

    def raise_if_any(self, *, kind: type[MedtailError] = MedtailError) -> None:
        """Raise one error naming every mistake, if there are any.

        Raises:
            MedtailError: At least one mistake was added (or the given kind of it).
        """
        if self.found:
            raise kind(self.text())
