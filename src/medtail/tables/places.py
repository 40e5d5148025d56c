"""Where an image is: a path of this machine, or the URL of a file elsewhere.

A cell of a manifest is a URL only if somebody wrote it as one, `s3://bucket/a.png`; everything else is a path. The two
are different types all the way, so that no part of a URL is ever taken for a name on the local disk. `remote` reads
what a URL points to; nothing here touches disk or network.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, final
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from medtail.errors import did_you_mean, listing

if TYPE_CHECKING:
    import pandas as pd  # the processes that open files for a server import this module, and need no tables

PROTOCOLS = ("file", "http", "https", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "sftp", "memory")
"""Kinds of URL that are read. Others of fsspec's write to the local disk, start programs or unpack archives."""

# two letters at least: `C:/images` is a path
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")


@final
@dataclass(frozen=True)
class Remote:
    """A file that is not on this machine's disks, named by its URL.

    Printed without passwords and signatures, so that it may stand in messages and logs.

    Example:
        >>> scan = Remote("https://me:secret@images.org/a/b.png?signature=1234")
        >>> str(scan), scan.name, scan.stem, scan.host
        ('https://***@images.org/a/b.png?***', 'b.png', 'b', 'https://images.org')
    """

    url: str

    def __str__(self) -> str:
        parts = urlsplit(self.url)
        user, at, host = parts.netloc.rpartition("@")
        # in abfss://container@account the part before the sign is no secret
        shown = f"***@{host}" if at and (":" in user or parts.scheme not in ("az", "abfs", "abfss")) else parts.netloc
        return f"{parts.scheme}://{shown}{parts.path}{'?***' if parts.query else ''}"

    @property
    def protocol(self) -> str:
        """Kind of URL, in small letters."""
        return self.url.split("://", 1)[0].lower()

    @property
    def host(self) -> str:
        """Protocol and server or bucket, without user and password: what is reached or not as a whole."""
        return f"{self.protocol}://{urlsplit(self.url).netloc.rpartition('@')[2]}"

    @property
    def name(self) -> str:
        """The last part of its path. For showing and endings only."""
        return PurePosixPath(unquote(urlsplit(self.url).path)).name

    @property
    def stem(self) -> str:
        """Its name without the ending."""
        return PurePosixPath(self.name).stem


Place = Path | Remote


def is_url(text: str) -> bool:
    """Say whether a text was written as a URL.

    Example:
        >>> [is_url(text) for text in ("s3://b/a.png", "a.png", "/data/a.png", "C://a.png")]
        [True, False, False, False]
    """
    return _URL.match(text) is not None


def url_problem(url: str) -> str | None:
    """Say what is wrong with a URL, as "expected …"; None if it can be read.

    Example:
        >>> url_problem("s3://bucket/a.png") is None
        True
        >>> url_problem("s4://bucket/a.png").split(";")[0]
        "'s4' is no kind of URL that is read"
    """
    match = _URL.match(url)
    if match is None:
        return "it is no URL"
    protocol = match[1].lower()
    if protocol not in PROTOCOLS:
        hint = did_you_mean(protocol, PROTOCOLS).rstrip(".")
        return f"{protocol!r} is no kind of URL that is read{hint}; expected {listing(PROTOCOLS, limit=20)}"
    if "::" in url:
        return "it is a chain of URLs ('::'); expected the URL of one file"
    try:
        parts = urlsplit(url)
    except ValueError as error:
        return f"it is no whole URL ({error})"
    if protocol == "file":
        if parts.netloc not in ("", "localhost") or not parts.path.strip("/"):
            return "it names no file of this machine; expected file:///folder/name"
    elif not parts.path.strip("/") or (protocol != "memory" and not parts.netloc):
        return "it names no file; expected protocol://server-or-bucket/folder/name"
    return None


def place_of(text: str, *, root: Path) -> Place:
    """Turn a manifest's cell into a place.

    Args:
        text: A path, relative to `root` or absolute, or a URL. A `file://` URL is a path of this machine.
        root: Where relative paths start.

    Example:
        >>> place_of("b/a.png", root=Path("images")).as_posix()
        'images/b/a.png'
        >>> place_of("s3://bucket/a.png", root=Path("images"))
        Remote(url='s3://bucket/a.png')
        >>> place_of("file:///data/a%20b.png", root=Path("images")).as_posix()
        '/data/a b.png'
    """
    if not is_url(text):
        return root / text
    if text[:5].lower() == "file:":
        return Path(url2pathname(urlsplit(text).path))
    return Remote(text)


def joined(root: str, text: str) -> str:
    """Put a relative path behind the URL of a folder; a path that is absolute or a URL stays as it is.

    Example:
        >>> joined("s3://bucket/images/", "a/b.png"), joined("s3://bucket", "gs://other/b.png")
        ('s3://bucket/images/a/b.png', 'gs://other/b.png')
    """
    if is_url(text) or not text or PurePosixPath(text).is_absolute():
        return text
    return f"{root.rstrip('/')}/{text.removeprefix('./')}"


def rebased(cells: pd.Series, *, root: Path, to: Path) -> pd.Series:
    """Write paths that start at one folder as paths that start at another.

    Args:
        cells: Text; "" and URLs stay as they are.
        root: Where they start.
        to: Where they shall start. A path that would have to climb more than three folders becomes absolute.
    """
    start = os.path.abspath(to)

    @cache  # images share few folders, and resolving a path costs more than everything else here
    def rebase_folder(folder: str) -> str:
        full = os.path.abspath(root / folder)
        relative = os.path.relpath(full, start)
        return full if f"{relative}/".startswith("../" * 4) else relative

    def rebase(path: str) -> str:
        if not path or is_url(path):
            return path
        folder, file = os.path.split(path)
        if file in ("", ".", ".."):
            return rebase_folder(path)
        return os.path.normpath(os.path.join(rebase_folder(folder), file))

    return cells.map(rebase).astype(str)
