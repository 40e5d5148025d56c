"""The server's outermost layer: who may ask, what every answer says to the browser, and what is logged.

Everything a client can send passes here first, and everything the application answers or breaks on passes here last. A
refusal is JSON; a mistake of ours is a 500 that says nothing but the request's number.
"""

from __future__ import annotations

import hmac
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any, Final, final
from urllib.parse import urlsplit

from medtail.serving.journal import Journal
from medtail.serving.limits import RateLimit, drain
from medtail.serving.refusals import Refusal
from medtail.serving.settings import ServeSettings, host_name, may_be_called

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

CUSTOM_HEADER: Final = "x-medtail"
"""A page of another site cannot send a header of its own without asking first, and is never allowed to."""
FAILED_TOKEN_COST: Final = 10.0
MOST_QUERY_BYTES: Final = 2000

SECURITY_HEADERS: Final[tuple[tuple[bytes, bytes], ...]] = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self';"
        b" base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=(), browsing-topics=()"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)


@final
class Guard:
    """Wraps the application; see the module.

    Args:
        application: The ASGI application inside.
        settings: Who may ask.
        journal: Where requests are logged.
    """

    def __init__(self, application: Application, settings: ServeSettings, *, journal: Journal) -> None:
        self._application, self._settings, self._journal = application, settings, journal
        self._rate = RateLimit(settings.rate, burst=settings.burst)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._application(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no web sockets here
        number = secrets.token_hex(6)
        state: dict[str, Any] = scope.setdefault("state", {})
        state["request"] = number
        started = time.perf_counter()
        status: int | None = None
        is_read = False  # the whole body has come

        async def receive_watched() -> Message:
            nonlocal is_read
            message = await receive()
            is_read = is_read or message["type"] != "http.request" or not message.get("more_body", False)
            return message

        async def body() -> AsyncIterator[bytes]:
            while not is_read:
                yield (await receive_watched()).get("body", b"")

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
                if status >= 400 and not is_read and scope["method"] not in ("GET", "HEAD"):
                    await drain(body(), max_bytes=self._settings.max_bytes)
                given = [(name, value) for name, value in message.get("headers", []) if name not in _OURS]
                message = {**message, "headers": [*given, *SECURITY_HEADERS, (b"x-request-id", number.encode())]}
            await send(message)

        try:
            self._check(scope)
            await self._application(scope, receive_watched, send_guarded)
        except Refusal as refusal:
            state["kind"] = refusal.kind
            if status is None:
                await send_refusal(send_guarded, refusal, request=number)
        except Exception as error:  # the last place anything can be caught
            self._journal.write_error("failed", error, request=number)
            state["kind"] = "internal"
            if status is None:
                await send_refusal(send_guarded, Refusal.broken(), request=number)
        finally:
            route = scope.get("route")
            self._journal.write(
                "request",
                request=number,
                method=scope["method"] if scope["method"] in _METHODS else "other",
                # the path as written may hold anything; the route is one of ours
                route=getattr(route, "path", None),
                status=status,
                kind=state.get("kind"),
                bytes=state.get("bytes"),
                body_ms=state.get("body_ms"),
                open_ms=state.get("open_ms"),
                decoder_ms=state.get("decoder_ms"),
                work_ms=state.get("work_ms"),
                ms=round(1000 * (time.perf_counter() - started), 2),
            )

    def _check(self, scope: Scope) -> None:
        headers = [(name.lower(), value) for name, value in scope["headers"]]
        hosts = [value for name, value in headers if name == b"host"]
        host = hosts[0].decode("latin-1") if len(hosts) == 1 else ""
        if not may_be_called(host, self._settings):
            raise Refusal(421, "host", "This server does not answer to that name (--allow-host adds one).")
        if len(scope.get("query_string", b"")) > MOST_QUERY_BYTES:
            raise Refusal(414, "request", f"The address is longer than {MOST_QUERY_BYTES} bytes.")
        if not str(scope["path"]).startswith("/api/"):
            return
        address = str((scope.get("client") or ("", 0))[0])
        if not self._rate.allows(address):
            raise Refusal(429, "rate", "Too many requests. Try again in a moment.", retry_s=1)
        found = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
        self._check_origin(found, host)
        if scope["method"] not in ("GET", "HEAD") and CUSTOM_HEADER not in found:
            raise Refusal(403, "origin", "The header X-Medtail is missing; send it with any value.")
        if self._settings.token is not None and not _is_bearer(found.get("authorization", ""), self._settings.token):
            if not self._rate.allows(address, cost=FAILED_TOKEN_COST):
                raise Refusal(429, "rate", "Too many wrong tokens. Try again in a while.", retry_s=10)
            raise Refusal(401, "token", "A token is needed: send `Authorization: Bearer TOKEN`.")

    def _check_origin(self, headers: dict[str, str], host: str) -> None:
        """Refuse what a page of another site made a browser send."""
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        refused = site is not None and site not in ("same-origin", "none")
        if origin is not None and not refused:
            try:
                parts = urlsplit(origin)
                refused = parts.scheme not in ("http", "https") or parts.netloc.lower() != host.strip().lower()
            except ValueError:
                refused = True
            refused = refused or host_name(host) is None
        if refused:
            raise Refusal(403, "origin", "Requests from pages of another site are refused.")


_OURS = frozenset(name for name, _ in SECURITY_HEADERS) | {b"server", b"x-request-id"}
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def _is_bearer(header: str, token: str) -> bool:
    scheme, _, given = header.partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode())


async def send_refusal(send: Send, refusal: Refusal, *, request: str | None) -> None:
    """Answer with a refusal.

    Args:
        send: Where answers go.
        refusal: What to say.
        request: The request's number.
    """
    body = json.dumps(refusal.to_json(request=request)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if refusal.retry_s is not None:
        headers.append((b"retry-after", str(refusal.retry_s).encode()))
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
