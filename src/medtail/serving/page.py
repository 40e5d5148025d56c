"""The page: one HTML file, one style sheet, one script and an icon, from the package itself and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Final

MEDIA_TYPES: Final[Mapping[str, str]] = {
    "index.html": "text/html; charset=utf-8",
    "app.css": "text/css; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


@cache
def page_file(name: str) -> bytes:
    """Return a file of the page; only those of `MEDIA_TYPES` exist, so a name can lead nowhere else.

    Args:
        name: One of `MEDIA_TYPES`.

    Raises:
        KeyError: No such file.

    Example:
        >>> page_file("index.html")[:15]
        b'<!doctype html>'
    """
    if name not in MEDIA_TYPES:
        raise KeyError(name)
    return (files("medtail.serving") / "static" / name).read_bytes()
