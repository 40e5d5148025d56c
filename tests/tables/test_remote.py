from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import fsspec
import pytest

from medtail.errors import MedtailError
from medtail.tables import remote
from medtail.tables.places import Remote
from medtail.tables.remote import Known, Servers


class Site:
    """A web server on this machine whose every answer a test can set."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.failures: dict[str, list[int]] = {}
        """Statuses to answer with first, by path."""
        self.asked: Counter[str] = Counter()
        self.tags = True
        site = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self, *, body: bool) -> None:
                site.asked[f"{self.command} {self.path}"] += 1
                waiting = site.failures.get(self.path, [])
                status = waiting.pop(0) if waiting else (200 if self.path in site.files else 404)
                content = site.files.get(self.path, b"")
                self.send_response(status)
                if status == 200:
                    self.send_header("Content-Length", str(len(content)))
                    if site.tags:
                        self.send_header("ETag", f'"{hash(content)}"')
                self.end_headers()
                if body and status == 200:
                    self.wfile.write(content)

            def do_GET(self) -> None:
                self.answer(body=True)

            def do_HEAD(self) -> None:
                self.answer(body=False)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(remote, "FIRST_PAUSE_S", 0.001)
    made = Site()
    yield made
    made.close()


@pytest.fixture
def bucket() -> Iterator[Any]:
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    yield memory
    memory.store.clear()


def test_a_file_is_fetched_from_a_web_server(site: Site) -> None:
    site.files["/a%20b.png?signature=1"] = bytes(range(256)) * 8000
    assert Servers().fetch(Remote(f"{site.host}/a%20b.png?signature=1")) == bytes(range(256)) * 8000


def test_size_and_version_are_asked_for_without_the_bytes(site: Site, bucket: Any) -> None:
    site.files["/a.png"] = b"12345"
    bucket.pipe("/images/b.png", b"123")
    servers = Servers()
    web, memory = servers.look_up([Remote(f"{site.host}/a.png"), Remote("memory://images/b.png")])
    assert isinstance(web, Known)
    assert web.size == 5
    assert web.version.startswith("ETag:")
    assert isinstance(memory, Known)
    assert memory.size == 3
    assert not [asked for asked in site.asked if asked.startswith("GET")]
    site.files["/a.png"] = b"54321"
    assert servers.look_up([Remote(f"{site.host}/a.png")]) != [web]


def test_many_files_of_a_bucket_are_looked_up_in_one_list(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        bucket.pipe(f"/images/{number}.png", bytes(number + 1))
    monkeypatch.setattr(remote, "LISTED_FROM", 4)
    listed, asked = [], []
    kind = type(bucket)
    really_list, really_ask = kind.ls, kind.info
    monkeypatch.setattr(kind, "ls", lambda self, *a, **k: (listed.append(a), really_list(self, *a, **k))[1])
    monkeypatch.setattr(kind, "info", lambda self, *a, **k: (asked.append(a), really_ask(self, *a, **k))[1])
    found = Servers().look_up([Remote(f"memory://images/{number}.png") for number in (0, 7, 4, 0, 1, 2)])
    assert [entry.size if isinstance(entry, Known) else type(entry) for entry in found] == [
        1, FileNotFoundError, 5, 1, 2, 3,
    ]  # fmt: skip
    assert (len(listed), len(asked)) == (1, 0)


@pytest.mark.parametrize("status", [500, 503, 429, 408])
def test_what_fails_for_a_moment_is_tried_again(site: Site, status: int) -> None:
    site.files["/a.png"] = b"image"
    site.failures["/a.png"] = [status, status]
    assert Servers().fetch(Remote(f"{site.host}/a.png")) == b"image"
    assert site.asked["GET /a.png"] == 3


@pytest.mark.parametrize(
    ("status", "kind", "told"),
    [(404, FileNotFoundError, "no such file"), (410, FileNotFoundError, "no such file"),
     (401, PermissionError, "keys in your environment"), (403, PermissionError, "refuses it"),
     (400, OSError, "answers 400")],
)  # fmt: skip
def test_what_will_fail_again_is_not_tried_again(site: Site, status: int, kind: type[OSError], told: str) -> None:
    site.failures["/a.png"] = [status] * 9
    with pytest.raises(kind, match=told):
        Servers().fetch(Remote(f"{site.host}/a.png"))
    assert site.asked["GET /a.png"] == 1
    (found,) = Servers().look_up([Remote(f"{site.host}/a.png")])
    assert type(found) is kind


def test_a_server_that_does_not_answer_is_given_up_after_a_few_files(site: Site) -> None:
    host = site.host
    site.close()
    files = [Remote(f"{host}/{number}.png") for number in range(400)]
    found = Servers().look_up(files)
    assert {type(error) for error in found} == {ConnectionError}
    assert any("is there a network?" in str(error) for error in found)
    given_up = sum("does not answer; given up after 8 files" in str(error) for error in found)
    assert given_up >= 400 - remote.AT_ONCE - remote.LOST_FILES


def test_one_bad_file_does_not_condemn_its_server(site: Site) -> None:
    site.files["/good.png"] = b"image"
    servers = Servers()
    for number in range(remote.LOST_FILES + 3):
        site.failures[f"/{number}.png"] = [500] * 99
        with pytest.raises(ConnectionError, match="fails"):
            servers.fetch(Remote(f"{site.host}/{number}.png"))
        assert servers.fetch(Remote(f"{site.host}/good.png")) == b"image"


def test_a_limit_of_time_ends_the_attempts(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.failures["/a.png"] = [500] * 99
    monkeypatch.setattr(remote, "TIME_LIMIT_S", 0.0)
    with pytest.raises(ConnectionError, match="1 attempts"):
        Servers().fetch(Remote(f"{site.host}/a.png"))


def test_a_file_that_would_fill_the_memory_is_refused(site: Site, bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "MAX_BYTES", 99)
    site.files |= {"/a.png": bytes(100), "/b.png": bytes(99)}
    bucket.pipe("/images/a.png", bytes(100))
    for place in (f"{site.host}/a.png", "memory://images/a.png"):
        with pytest.raises(OSError, match="larger than 99 bytes"):
            Servers().fetch(Remote(place))
    assert len(Servers().fetch(Remote(f"{site.host}/b.png"))) == 99
    assert site.asked["GET /a.png"] == 1  # trying again would not make it smaller


def test_a_protocol_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    monkeypatch.setitem(fsspec.registry.target, "s3", None) if "s3" in fsspec.registry else None
    for action in (lambda: Servers().fetch(Remote("s3://b/a.png")), lambda: Servers().look_up([Remote("s3://b/a")])):
        with pytest.raises(
            MedtailError, match=r"s3://b/a\S*: reading s3:// needs the package 's3fs'.*pip install s3fs"
        ):
            action()


def test_passwords_and_signatures_are_not_in_messages(site: Site) -> None:
    address = site.host.removeprefix("http://")
    for path, failures in (("/a.png?signature=secret", [404]), ("/b.png?signature=secret", [500] * 9)):
        site.failures[path] = failures
        with pytest.raises(OSError, match="127") as caught:
            Servers().fetch(Remote(f"http://me:secret@{address}{path}"))
        assert "secret" not in str(caught.value)


def test_nothing_is_written_where_a_url_would_be_a_path(site: Site, tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    site.files["/../../etc/passwd"] = site.files["/etc/passwd"] = b"image"
    (tmp_path / "http:").mkdir()
    assert Servers().fetch(Remote(f"{site.host}/../../etc/passwd")) == b"image"
    assert [path.name for path in tmp_path.rglob("*")] == ["http:"]
