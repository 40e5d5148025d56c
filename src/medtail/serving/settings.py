"""How a model is served: where it listens, who may ask, and how much one request may cost.

The defaults are the safe ones: this machine only, small limits, nothing kept. What would be unsafe is refused when
the settings are made, before any model is loaded or any port opened.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import socket
from dataclasses import dataclass
from typing import Literal, final

from medtail.errors import Problems, UsageError

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
SHORTEST_TOKEN = 16
MEGABYTE = 1_000_000
Engine = Literal["torch", "onnx"]
"""What scores: the run's own network, or the file exported from it."""


@final
@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """Where a model is served and what one request may cost.

    Attributes:
        host: Address to listen on; anything but loopback needs a token.
        port: 0 lets the system choose.
        token: What `Authorization: Bearer …` must hold; None asks for nothing (loopback only).
        allow_hosts: Further names under which the server may be called, in the `Host` header, without port.
        max_mb: Largest file, megabytes (of a million bytes), 0.001 to 2000.
        max_pixels: Largest image, pixels of one frame, checked before decoding.
        timeout_s: Longest time a request may take, reading its body included, 0.1 to 600 s.
        queue: Requests let in at once; further ones are told to come back (503), 1 to 1000.
        rate: Requests a second from one address, on average; None for no limit.
        burst: Requests one address may make at once before `rate` counts.
        decoders: Processes that open files, 1 to 32.
        threads: CPU threads of the model; None takes half the cores, at least 1: files are opened beside it, and a
            thread that waits for work takes the core from one that has some.
        heat_maps: Offer heat maps.
        engine: What scores: `torch`, or `onnx`, the file exported into the run, several times faster on a CPU.

    Raises:
        UsageError: A number is outside its range, or the address is not this machine and there is no token.

    Example:
        >>> ServeSettings().is_loopback, ServeSettings(port=8080).url
        (True, 'http://127.0.0.1:8080/')
        >>> ServeSettings(host="0.0.0.0")
        Traceback (most recent call last):
        medtail.errors.UsageError: serve, host: '0.0.0.0' can be reached from other machines; expected a token \
(--token new makes one), or --host 127.0.0.1.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    allow_hosts: tuple[str, ...] = ()
    max_mb: float = 32.0
    max_pixels: int = 40_000_000
    timeout_s: float = 30.0
    queue: int = 16
    rate: float | None = 20.0
    burst: int = 60
    decoders: int = 2
    threads: int | None = None
    heat_maps: bool = True
    engine: Engine = "torch"

    def __post_init__(self) -> None:
        problems = Problems("serve")
        limits = {
            "port": (self.port, 0, 65_535),
            "max_mb": (self.max_mb, 0.001, 2000),
            "max_pixels": (self.max_pixels, 64, 178_956_970),
            "timeout_s": (self.timeout_s, 0.1, 600),
            "queue": (self.queue, 1, 1000),
            "rate": (1.0 if self.rate is None else self.rate, 0.001, 1_000_000),
            "burst": (self.burst, 1, 1_000_000),
            "decoders": (self.decoders, 1, 32),
            "threads": (1 if self.threads is None else self.threads, 1, 512),
        }
        for name, (value, low, high) in limits.items():
            if not low <= value <= high:
                problems.add(f"{name}: found {value!r}; expected {low:g} to {high:,}.")
        if not self.host.strip():
            problems.add("host: found nothing; expected an address, such as 127.0.0.1.")
        elif self.token is None and not self.is_loopback:
            problems.add(
                f"host: {self.host!r} can be reached from other machines; expected a token (--token new makes one), or"
                " --host 127.0.0.1."
            )
        if self.token is not None and (
            len(self.token) < SHORTEST_TOKEN or not self.token.isascii() or not self.token.isprintable()
            or " " in self.token
        ):  # fmt: skip
            problems.add(
                f"token: expected at least {SHORTEST_TOKEN} letters, digits or signs without a space; --token new"
                " makes one."
            )
        problems.raise_if_any(kind=UsageError)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.host)

    @property
    def max_bytes(self) -> int:
        """Largest file, bytes."""
        return int(self.max_mb * MEGABYTE)

    @property
    def url(self) -> str:
        """Where a browser on this machine finds the page."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::", "") else self.host
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{self.port}/"


def is_loopback(host: str) -> bool:
    """Say whether an address can only be reached from this machine. Names other than `localhost` count as no.

    Example:
        >>> [is_loopback(host) for host in ("localhost", "127.0.0.2", "::1", "0.0.0.0", "example.org")]
        [True, True, True, False, False]
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def default_threads() -> int:
    """Return the CPU threads of a model: half the cores, at least 1.

    Example:
        >>> 1 <= default_threads() <= (os.cpu_count() or 1)
        True
    """
    return max(1, (os.cpu_count() or 1) // 2)


def new_token() -> str:
    """Return a fresh token of 256 random bits.

    Example:
        >>> len(new_token()) >= SHORTEST_TOKEN and new_token() != new_token()
        True
    """
    return secrets.token_urlsafe(32)


def may_be_called(host_header: str, settings: ServeSettings) -> bool:
    """Say whether a `Host` header names this server.

    A page on the internet can make a browser ask this machine under the page's own name (DNS rebinding); only the
    header tells. So a server on loopback answers to loopback names alone. One bound elsewhere also answers to bare IP
    addresses, which no name can be bent to, to this machine's own name, and to those that were allowed.

    Args:
        host_header: As sent, with or without a port.
        settings: Of the server.

    Example:
        >>> [may_be_called(name, ServeSettings()) for name in ("localhost:8000", "[::1]:8000", "evil.example:8000", "")]
        [True, True, False, False]
    """
    name = host_name(host_header)
    if name is None:
        return False
    if name in LOOPBACK_NAMES or is_loopback(name) or name == settings.host.lower():
        return True
    if name in {allowed.lower() for allowed in settings.allow_hosts}:
        return True
    if settings.is_loopback:
        return False
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return name in {socket.gethostname().lower(), socket.getfqdn().lower()}
    return True


def host_name(host_header: str) -> str | None:
    """Return the name in a `Host` header, lower case and without port; None where it is none.

    Example:
        >>> host_name("LocalHost:80"), host_name("[::1]:80"), host_name("::1"), host_name("a b")
        ('localhost', '[::1]', None, None)
    """
    text = host_header.strip().lower()
    if text.startswith("["):
        name, bracket, port = text.partition("]")
        name, port = f"{name}]", port.removeprefix(":")
        if not bracket:
            return None
    else:
        name, _, port = text.partition(":")
    if (port and not port.isdigit()) or not name or any(letter in name for letter in " \t/\\@?#,"):
        return None
    return name
