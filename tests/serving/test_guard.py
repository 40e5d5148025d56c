from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterable
from typing import Any

import pytest

from medtail.serving.guard import Guard, Message, Receive, Scope, Send
from medtail.serving.journal import Journal
from medtail.serving.refusals import Refusal
from medtail.serving.settings import ServeSettings

TOKEN = "a-token-of-24-characters"
GOOD = {"host": "127.0.0.1:8000", "x-medtail": "1"}


async def inner(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers 200, or breaks as the path says."""
    match scope["path"]:
        case "/api/breaks":
            raise ValueError("Sorrow^Jane at /secret/place")
        case "/api/refuses":
            raise Refusal.image("no image")
        case "/api/breaks-late":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            raise ValueError("Sorrow^Jane")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"server", b"x"), (b"x-inner", b"1")]})
    await send({"type": "http.response.body", "body": b"fine"})


def ask(
    guard: Guard,
    path: str = "/api/model",
    *,
    method: str = "GET",
    headers: dict[str, str] | Iterable[tuple[str, str]] = GOOD,
    body: Iterable[bytes] = (b"",),
    client: tuple[str, int] | None = ("127.0.0.1", 5),
    query: bytes = b"",
) -> tuple[int, dict[str, str], bytes, int]:
    """Return status, headers and body of the answer, and how many messages of the body were taken."""
    pairs = headers.items() if isinstance(headers, dict) else headers
    scope: dict[str, Any] = {
        "type": "http", "path": path, "method": method, "client": client, "query_string": query,
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in pairs],
    }  # fmt: skip
    parts = list(body)
    sent: list[Message] = []
    taken = 0

    async def receive() -> Message:
        nonlocal taken
        taken += 1
        if taken > len(parts):
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": parts[taken - 1], "more_body": taken < len(parts)}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(guard(scope, receive, send))
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], found, b"".join(message.get("body", b"") for message in sent[1:]), taken


@pytest.fixture
def log() -> io.StringIO:
    return io.StringIO()


def guard_of(log: io.StringIO, **settings: Any) -> Guard:
    return Guard(inner, ServeSettings(**{"rate": None, **settings}), journal=Journal(log))


def kind(body: bytes) -> str:
    return str(json.loads(body)["error"]["kind"])


def test_what_is_allowed_passes_with_the_security_headers(log: io.StringIO) -> None:
    status, headers, body, _ = ask(guard_of(log))
    assert (status, body) == (200, b"fine")
    assert headers["x-inner"] == "1"
    assert "server" not in headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["cache-control"] == "no-store"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "", "192.168.0.4", "127.0.0.1.evil.example"])
@pytest.mark.parametrize("path", ["/", "/health", "/api/model"])
def test_a_rebound_name_reaches_nothing(host: str, path: str, log: io.StringIO) -> None:
    status, _, body, _ = ask(guard_of(log), path, headers={**GOOD, "host": host})
    assert (status, kind(body)) == (421, "host")


def test_two_hosts_or_none_are_refused(log: io.StringIO) -> None:
    pairs = [("host", "127.0.0.1"), ("host", "evil.example"), ("x-medtail", "1")]
    assert ask(guard_of(log), headers=pairs)[0] == 421
    assert ask(guard_of(log), headers={"x-medtail": "1"})[0] == 421


@pytest.mark.parametrize(
    "extra",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": "file://"},
        {"origin": "http://[broken"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_pages_of_other_sites_are_refused(extra: dict[str, str], method: str, log: io.StringIO) -> None:
    status, _, body, _ = ask(guard_of(log), method=method, headers={**GOOD, **extra})
    assert (status, kind(body)) == (403, "origin")


@pytest.mark.parametrize(
    "extra", [{"origin": "http://127.0.0.1:8000"}, {"sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"}, {}]
)
def test_the_own_page_and_scripts_are_let_in(extra: dict[str, str], log: io.StringIO) -> None:
    assert ask(guard_of(log), method="POST", headers={**GOOD, **extra})[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"])
def test_what_could_change_something_needs_the_own_header(method: str, log: io.StringIO) -> None:
    status, _, body, _ = ask(guard_of(log), method=method, headers={"host": "127.0.0.1:8000"})
    assert (status, kind(body)) == (403, "origin")


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", "Bearer \xff\xfe"]
)
def test_a_wrong_token_is_refused_and_says_what_is_asked(header: str, log: io.StringIO) -> None:
    guard = guard_of(log, token=TOKEN)
    status, headers, body, _ = ask(guard, headers={**GOOD, "authorization": header})
    assert (status, kind(body), headers["www-authenticate"]) == (401, "token", "Bearer")
    assert TOKEN not in log.getvalue()


def test_the_right_token_passes_and_the_empty_page_needs_none(log: io.StringIO) -> None:
    guard = guard_of(log, token=TOKEN)
    assert ask(guard, headers={**GOOD, "authorization": f"bearer  {TOKEN}"})[0] == 200
    assert ask(guard, "/")[0] == 200
    assert ask(guard, "/api/model")[0] == 401


def test_too_many_requests_of_one_address_are_told_to_come_back(log: io.StringIO) -> None:
    guard = guard_of(log, rate=0.01, burst=3)
    assert [ask(guard)[0] for _ in range(4)] == [200, 200, 200, 429]
    assert ask(guard, client=("127.0.0.2", 1))[0] == 200
    assert ask(guard)[1]["retry-after"] == "1"
    assert ask(guard, "/")[0] == 200  # the page itself costs nothing


def test_guessing_tokens_is_slow(log: io.StringIO) -> None:
    guard = guard_of(log, token=TOKEN, rate=0.01, burst=25)
    tries = [ask(guard, headers={**GOOD, "authorization": "Bearer guess"})[0] for _ in range(10)]
    assert tries.count(401) == 2
    assert set(tries[2:]) == {429}


def test_a_mistake_of_ours_says_nothing_but_its_number(log: io.StringIO) -> None:
    status, headers, body, _ = ask(guard_of(log), "/api/breaks")
    assert (status, kind(body)) == (500, "internal")
    assert json.loads(body)["request"] == headers["x-request-id"]
    for text in (body.decode(), log.getvalue()):
        assert "Sorrow" not in text
        assert "/secret" not in text
        assert "Traceback" not in text
    failed = json.loads(log.getvalue().splitlines()[0])
    assert (failed["event"], failed["error"]) == ("failed", "ValueError")
    assert "inner" in failed["at"][-1]


def test_an_error_after_the_answer_began_does_not_escape(log: io.StringIO) -> None:
    assert ask(guard_of(log), "/api/breaks-late")[0] == 200
    assert "Sorrow" not in log.getvalue()


def test_refusals_from_inside_become_answers(log: io.StringIO) -> None:
    status, _, body, _ = ask(guard_of(log), "/api/refuses")
    assert (status, kind(body)) == (422, "image")


def test_the_body_of_a_refused_request_is_taken_within_the_limit(log: io.StringIO) -> None:
    guard = guard_of(log, max_mb=0.001)
    headers = {"host": "127.0.0.1:8000"}  # without the own header: refused
    assert ask(guard, method="POST", headers=headers, body=[b"x" * 100] * 5)[3] == 5
    assert ask(guard, method="POST", headers=headers, body=[b"x" * 100] * 50)[3] == 11


def test_a_long_query_is_refused(log: io.StringIO) -> None:
    assert ask(guard_of(log), query=b"x" * 2001)[0] == 414


def test_the_log_holds_no_path_no_query_no_address_and_no_odd_method(log: io.StringIO) -> None:
    ask(guard_of(log), "/api/jane-sorrow.dcm", query=b"name=jane", client=("198.51.100.7", 4))
    ask(guard_of(log), method="SORROW")
    text = log.getvalue()
    for secret in ("jane", "198.51", "SORROW", "sorrow"):
        assert secret not in text
    assert {json.loads(line)["method"] for line in text.splitlines()} == {"GET", "other"}


def test_other_protocols_get_no_answer(log: io.StringIO) -> None:
    async def never(*_: object) -> Message:
        raise AssertionError("nothing may be sent or read")

    asyncio.run(guard_of(log)({"type": "websocket"}, never, never))  # type: ignore[arg-type]
