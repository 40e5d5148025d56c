"""Which of a table's files are there, asked in as few questions as a slow disk or a server allows.

One question a file is what makes a check of 377,110 images on a network disk take an hour. Where a table names many
files of a folder, the folder is listed once instead; what its list does not show is still asked for by name, as disks
differ in what they call the same name. Files behind URLs are asked for through `remote`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from medtail.errors import Problems
from medtail.tables.frames import row_list, spreadsheet_rows
from medtail.tables.places import Place, Remote
from medtail.tables.remote import Servers

LISTED_FROM = 16
"""From so many files in a folder, its list is read instead of asking for each file."""
AT_ONCE = 16
"""Threads asking: they wait for a disk or a server, not for the processor."""


def absent(places: Sequence[Place], *, remote: bool = True) -> list[OSError | None]:
    """Say which files are not there or, being elsewhere, cannot be asked for.

    Args:
        places: Files, repeats allowed.
        remote: Whether servers are asked; if not, what is behind a URL counts as there.

    Returns:
        For each None if it is there, `FileNotFoundError` if not, another `OSError` if a server does not say.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "a").write_text("")
        >>> [type(error).__name__ for error in absent([folder / "a", folder / "b"])]
        ['NoneType', 'FileNotFoundError']
    """
    named = [None if isinstance(place, Remote) else os.fspath(place) for place in places]
    there = _there([name for name in named if name is not None])
    found: list[OSError | None] = [
        None if name is None or name in there else FileNotFoundError(f"no file {name!r}") for name in named
    ]
    remotes = [place for place in places if isinstance(place, Remote)] if remote else []
    if remotes:
        known = dict(zip(remotes, Servers().look_up(remotes), strict=True))
        for number, place in enumerate(places):
            if isinstance(place, Remote):
                answer = known[place]
                found[number] = answer if isinstance(answer, OSError) else None
    return found


def check_presence(places: Sequence[Place], *, name: str, root: Path, remote: bool = True) -> None:
    """Refuse a table whose files are not all there.

    Args:
        places: The file of each row.
        name: The table's name.
        root: Where relative paths start, for the message.
        remote: As for `absent`.

    Raises:
        MedtailError: Some are not; how many, and the first rows; a line for each reason.
    """
    errors = absent(places, remote=remote)
    problems = Problems(name)
    lost = np.array([isinstance(error, FileNotFoundError) for error in errors], dtype=bool)
    if lost.any():
        first = int(np.flatnonzero(lost)[0])
        problems.add(
            f"row {first + 2}, column 'path': no file {str(places[first])!r}; expected an image"
            f" (relative paths start at {str(root)!r}). {int(lost.sum())} of {len(places)} files are missing:"
            f" {row_list(spreadsheet_rows(lost))}."
        )
    reasons: dict[str, list[int]] = {}
    for row, error in enumerate(errors):
        if error is not None and not lost[row]:
            reasons.setdefault(str(error), []).append(row + 2)
    for reason, rows in reasons.items():
        problems.add(f"{row_list(rows)}, column 'path': {reason}.")
    problems.raise_if_any()


def _there(names: Sequence[str]) -> set[str]:
    """Return those names that are files."""
    folders: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        folders.setdefault(os.path.dirname(name), []).append(name)  # noqa: PTH120 - a Path a file costs more than the rest
    with ThreadPoolExecutor(AT_ONCE) as pool:
        listings = list(pool.map(lambda folder: _listed(folder, wanted=len(folders[folder])), folders))
        there, unseen = set[str](), list[str]()
        for wanted, listing in zip(folders.values(), listings, strict=True):
            for name in wanted:
                (there.add if os.path.basename(name) in listing else unseen.append)(name)  # noqa: PTH119
        # isfile, unlike Path, answers False for a name too long or otherwise impossible
        there.update(name for name, is_file in zip(unseen, pool.map(os.path.isfile, unseen), strict=True) if is_file)
    return there


def _listed(folder: str, *, wanted: int) -> set[str]:
    if wanted < LISTED_FROM:
        return set()
    try:
        with os.scandir(folder or ".") as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (OSError, ValueError):  # not there, or may be entered but not listed: asked for by name
        return set()
