from __future__ import annotations

import http.client
import importlib.util
import io
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from medtail.errors import MedtailError, UsageError
from medtail.serving.journal import Journal
from medtail.serving.server import check_extras, listen
from medtail.serving.settings import ServeSettings


async def nothing(scope: object, receive: object, send: object) -> None:
    """An application that never answers."""


@pytest.fixture(autouse=True)
def own_loggers() -> object:
    """Leave the loggers of the web server as they were."""
    names = ("uvicorn", "uvicorn.error", "uvicorn.access", "asyncio")
    before = {name: (logging.getLogger(name).handlers[:], logging.getLogger(name).propagate) for name in names}
    yield
    for name, (handlers, propagate) in before.items():
        logging.getLogger(name).handlers, logging.getLogger(name).propagate = handlers, propagate


def test_a_taken_port_is_told_before_anything_is_promised() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(MedtailError, match=rf"port {port} cannot be opened.*--port"):
            listen(nothing, ServeSettings(port=port), journal=Journal(io.StringIO()))


def test_a_free_port_is_chosen_and_named() -> None:
    listener = listen(nothing, ServeSettings(port=0), journal=Journal(io.StringIO()))
    try:
        assert listener.settings.port > 0
        assert listener.settings.url == f"http://127.0.0.1:{listener.settings.port}/"
        # without it an answer's body waits for the client to acknowledge the header
        assert listener._bound.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    finally:
        listener.close()


def test_the_web_server_tells_no_headers_and_trusts_no_proxy() -> None:
    listener = listen(nothing, ServeSettings(port=0, queue=5), journal=Journal(io.StringIO()))
    listener.close()
    config = listener.server.config
    assert not config.server_header
    assert not config.proxy_headers
    assert not config.access_log
    assert config.limit_concurrency == 256


@pytest.mark.parametrize(
    ("missing", "extra", "with_heat"),
    [("fastapi", "serve", True), ("uvicorn", "serve", False), ("captum", "explain", True)],
)
def test_a_missing_extra_is_named(missing: str, extra: str, with_heat: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr("medtail.serving.server.find_spec", lambda name: None if name == missing else real(name))
    with pytest.raises(UsageError, match=rf"{missing} is not installed.*medtail\[{extra}\]"):
        check_extras(with_heat=with_heat)


def test_without_heat_maps_captum_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr("medtail.serving.server.find_spec", lambda name: None if name == "captum" else real(name))
    check_extras(with_heat=False)


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_a_served_run_answers_on_loopback_and_ends_well(run: Path, ending: signal.Signals, tmp_path: Path) -> None:
    call = "import sys; from medtail.cli.main import call; sys.exit(call(sys.argv[1:]))"
    words = ["serve", str(run), "--port", "0", "--decoders", "1", "--no-heat"]
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(
            [sys.executable, "-c", call, *words], stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            address = urlsplit(line.split(" open ")[1].strip())
            assert address.hostname == "127.0.0.1"
            connection = http.client.HTTPConnection("127.0.0.1", address.port or 0, timeout=60)
            connection.request("GET", "/health")
            reply = connection.getresponse()
            assert (reply.status, json.loads(reply.read())["status"]) == (200, "ok")
            assert reply.headers["server"] is None
            children = [
                int(word)
                for task in Path(f"/proc/{process.pid}/task").glob("*/children")
                for word in task.read_text().split()
            ]
            connection.close()
        finally:
            process.send_signal(ending)
            code = process.wait(60)
    assert code == 0
    for child in children:
        for _ in range(50):
            if not Path(f"/proc/{child}").exists():
                break
            time.sleep(0.1)
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)
    events = [json.loads(text)["event"] for text in (tmp_path / "log").read_text().splitlines()]
    assert events == ["started", "request", "stopped"]
