from __future__ import annotations

import pytest

from medtail.errors import UsageError
from medtail.serving.settings import ServeSettings, host_name, is_loopback, may_be_called, new_token

TOKEN = "a-token-of-24-characters"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "clinic.example"])
def test_an_address_others_can_reach_needs_a_token(host: str) -> None:
    with pytest.raises(UsageError, match="can be reached from other machines; expected a token"):
        ServeSettings(host=host)
    assert ServeSettings(host=host, token=TOKEN).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_loopback_needs_no_token(host: str) -> None:
    assert ServeSettings(host=host).is_loopback
    assert is_loopback(host)


@pytest.mark.parametrize("token", ["", "short", "with a space in the middle", "ümläut-ümläut-ümläut", "a" * 15])
def test_weak_tokens_are_refused(token: str) -> None:
    with pytest.raises(UsageError, match="token: expected at least 16"):
        ServeSettings(token=token)


def test_every_number_outside_its_range_is_named_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        ServeSettings(port=70_000, max_mb=0, max_pixels=1, timeout_s=0, queue=0, rate=0, burst=0, decoders=0, threads=0)
    for name in ("port", "max_mb", "max_pixels", "timeout_s", "queue", "rate", "burst", "decoders", "threads"):
        assert f"serve, {name}: found" in str(caught.value)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("127.0.0.1:8000", True), ("127.0.0.1", True), ("localhost", True), ("LOCALHOST:1", True), ("[::1]:8000", True),
        ("evil.example", False), ("127.0.0.1.evil.example", False), ("localhost.evil.example:8000", False), ("", False),
        ("192.168.0.7", False), ("127.0.0.1:8000:9", False), ("127.0.0.1@evil.example", False), ("[::1", False),
        ("localhost/", False), ("localhost, evil.example", False), ("127.0.0.1:x", False),
    ],
)  # fmt: skip
def test_a_server_on_loopback_answers_to_loopback_names_only(header: str, expected: bool) -> None:
    assert may_be_called(header, ServeSettings()) is expected


def test_a_server_elsewhere_answers_to_addresses_and_allowed_names() -> None:
    settings = ServeSettings(host="0.0.0.0", token=TOKEN, allow_hosts=("Reader.Clinic.example",))
    assert may_be_called("192.168.0.7:8000", settings)
    assert may_be_called("[fe80::1]:8000", settings)
    assert may_be_called("reader.clinic.example", settings)
    assert not may_be_called("rebound.example", settings)


def test_host_headers_are_read_without_port_and_case() -> None:
    assert [host_name(text) for text in ("A:1", "[::1]:2", "a b", ":80", "[x", "a:b")] == [
        "a", "[::1]", None, None, None, None,
    ]  # fmt: skip


def test_new_tokens_are_accepted_and_differ() -> None:
    tokens = {new_token() for _ in range(20)}
    assert len(tokens) == 20
    assert all(ServeSettings(token=token).token == token for token in tokens)


def test_the_address_shown_is_one_a_browser_can_open() -> None:
    assert ServeSettings(host="0.0.0.0", port=9, token=TOKEN).url == "http://127.0.0.1:9/"
    assert ServeSettings(host="::1", port=9).url == "http://[::1]:9/"
