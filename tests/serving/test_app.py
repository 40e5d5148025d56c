from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import signal
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from medtail.pixels.decode import read_image
from medtail.serving.diagnosis import Diagnosis
from medtail.serving.similar import SimilarCases, read_cases
from medtail.tables.manifest import Manifest
from medtail.training.predict import predict

MakeClient = Callable[..., TestClient]
MakeFile = Callable[..., bytes]
MakeManifest = Callable[..., Manifest]
POSTS = ("/api/predict", "/api/preview", "/api/heat?class_name=bright")


def probabilities(reply: Any, names: tuple[str, ...]) -> np.ndarray:
    found = {finding["name"]: finding["probability"] for finding in reply.json()["findings"]}
    return np.array([found[name] for name in names])


def opened(png: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "dicom", "old dicom"])
def test_the_answer_is_that_of_predict_on_the_same_file(
    kind: str, run: Path, make_client: MakeClient, manifest_for: MakeManifest, picture: MakeFile, dicom: MakeFile
) -> None:
    content = dicom(preamble=kind == "dicom") if "dicom" in kind else picture(kind, colour=True)
    manifest = manifest_for(content, name="a.dcm" if "dicom" in kind else "a.png")
    expected = predict(run, manifest, quiet=True)
    reply = make_client().post("/api/predict", content=content)
    assert reply.status_code == 200, reply.text
    np.testing.assert_array_equal(probabilities(reply, expected.labels.class_names), expected.scores[0])


def test_a_region_is_read_as_predict_reads_it(
    roi_run: Path, make_client: MakeClient, manifest_for: MakeManifest, picture: MakeFile
) -> None:
    content = picture(colour=True)
    expected = predict(roi_run, manifest_for(content, roi=(5, 6, 20, 12)), quiet=True)
    client = make_client(Diagnosis(roi_run))
    reply = client.post("/api/predict?roi=5,6,20,12", content=content)
    np.testing.assert_array_equal(probabilities(reply, expected.labels.class_names), expected.scores[0])
    assert reply.json()["image"]["roi"] == [5, 6, 20, 12]
    missing = client.post("/api/predict", content=content)
    assert (missing.status_code, missing.json()["error"]["kind"]) == (400, "roi")
    for wrong in ("1,2,3", "a,b,c,d", "0,0,0,5", "-1,0,5,5", "1,2,3,4,5", "1e3,2,3,4"):
        assert client.post("/api/predict", params={"roi": wrong}, content=content).status_code == 400
    outside = client.post("/api/predict?roi=900,900,5,5", content=content)
    assert (outside.status_code, outside.json()["error"]["kind"]) == (422, "image")
    heat = client.post("/api/heat?class_name=rare&roi=5,6,20,12", content=content)
    assert opened(heat.json()["png"]).shape == (40, 48, 3)


def test_a_model_of_whole_images_takes_no_region(make_client: MakeClient, picture: MakeFile) -> None:
    assert make_client().post("/api/predict?roi=1,1,5,5", content=picture()).json()["error"]["kind"] == "roi"


def test_a_preview_is_the_image_as_it_was_read(
    make_client: MakeClient, dicom: MakeFile, manifest_for: MakeManifest
) -> None:
    client = make_client()
    reply = client.post("/api/preview?frame=2", content=dicom(frames=3)).json()
    assert (reply["height"], reply["width"], reply["frames"], reply["frame"]) == (30, 44, 3, 2)
    path = manifest_for(dicom(frames=3), name="a.dcm").image_path(0)
    np.testing.assert_array_equal(opened(reply["png"]), np.rint(read_image(path, frame=2) * 255).astype(np.uint8))


def test_heat_maps_come_as_pictures_with_a_caution(make_client: MakeClient, picture: MakeFile) -> None:
    client = make_client()
    reply = client.post("/api/heat", params={"class_name": "shape=oval"}, content=picture()).json()
    shown = opened(reply["png"])
    assert shown.shape == (40, 48, 3)
    assert (np.ptp(shown, axis=2) > 0).any()  # colour on a gray image
    assert "not that the class is present" in reply["caution"]
    wrong = client.post("/api/heat", params={"class_name": "oval"}, content=picture())
    assert (wrong.status_code, wrong.json()["error"]["kind"]) == (400, "request")
    assert client.post("/api/heat", params={"class_name": "rare", "method": "x"}, content=picture()).status_code == 400


def test_tirads_goes_with_size_and_system(thyroid_run: Path, make_client: MakeClient, picture: MakeFile) -> None:
    client = make_client(Diagnosis(thyroid_run, with_heat=False))
    found = client.post("/api/predict?size_mm=12&system=eu", content=picture()).json()["tirads"]
    assert found["system"].startswith("EU-TIRADS")
    assert found["size_mm"] == 12.0
    for wrong in ("size_mm=-1", "size_mm=nan", "size_mm=inf", "size_mm=big", "system=zz"):
        reply = client.post(f"/api/predict?{wrong}", content=picture())
        assert (reply.status_code, reply.json()["error"]["kind"]) == (400, "request"), wrong


@pytest.fixture
def cases(toy_manifest: Manifest, tmp_path: Path, diagnosis: Diagnosis) -> SimilarCases:
    toy_manifest.take(np.arange(12)).write(tmp_path / "cases.csv")
    return read_cases(tmp_path / "cases.csv", diagnosis)


def test_similar_cases_are_shown_only_where_they_were_allowed(cases: SimilarCases, make_client: MakeClient) -> None:
    content = cases.manifest.image_path(3).read_bytes()
    found = make_client(cases=cases).post("/api/similar", content=content).json()["cases"]
    assert found[0]["image_id"] == cases.manifest.frame["image_id"].iloc[3]
    assert found[0]["similarity"] == pytest.approx(1, abs=1e-3)
    assert opened(found[0]["png"]).shape == (32, 32)
    without = make_client()
    assert without.post("/api/similar", content=content).status_code == 404
    assert without.get("/api/model").json()["similar_cases"] == 0


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    ("content", "status", "kind"),
    [
        (b"", 400, "request"),
        (b"PK\x03\x04" + bytes(200), 422, "image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 422, "image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", 422, "image"),
        (bytes(128) + b"DICM" + bytes(50), 422, "image"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), 422, "image"),
        (b"P5 30000 30000 255 ", 422, "image"),
        (b"../../etc/passwd", 422, "image"),
        (bytes(60_000), 413, "size"),
    ],
)
def test_what_is_no_image_is_refused_in_words(
    path: str, content: bytes, status: int, kind: str, hostile_client: TestClient
) -> None:
    reply = hostile_client.post(path, content=content)
    assert (reply.status_code, reply.json()["error"]["kind"]) == (status, kind), reply.text
    assert "Traceback" not in reply.text
    assert str(Path(__file__).anchor + "work") not in reply.text


@pytest.fixture(scope="module")
def hostile_client(diagnosis: Diagnosis) -> Any:
    from medtail.serving.app import Service, build_app
    from medtail.serving.journal import Journal
    from medtail.serving.settings import ServeSettings

    settings = ServeSettings(decoders=1, rate=None, max_mb=0.05, timeout_s=60.0)
    with Service(diagnosis, settings, journal=Journal(io.StringIO())) as service:
        yield TestClient(build_app(service), base_url="http://127.0.0.1", headers={"X-Medtail": "1"})


def test_the_type_is_told_by_content_whatever_the_header_says(hostile_client: TestClient, picture: MakeFile) -> None:
    for claimed in ("text/html", "application/dicom", "image/svg+xml", ""):
        reply = hostile_client.post("/api/preview", content=picture("JPEG"), headers={"Content-Type": claimed})
        assert reply.status_code == 200


def test_a_body_without_a_length_is_cut_at_the_limit(hostile_client: TestClient) -> None:
    reply = hostile_client.post("/api/predict", content=(bytes(10_000) for _ in range(20)))
    assert reply.status_code == 413


@pytest.mark.parametrize("query", ["frame=-1", "frame=x", "frame=1000001", "frame=5"])
def test_a_frame_that_is_not_there_is_refused(query: str, hostile_client: TestClient, picture: MakeFile) -> None:
    assert hostile_client.post(f"/api/predict?{query}", content=picture()).status_code in (400, 422)


def test_addresses_that_are_not_there_say_so_in_json(hostile_client: TestClient) -> None:
    for path in ("/docs", "/redoc", "/static/../app.py", "/static/%2e%2e/app.py", "/api/../../etc/passwd", "/x"):
        reply = hostile_client.get(path)
        assert (reply.status_code, reply.json()["error"]["kind"]) == (404, "request"), path
    assert hostile_client.get("/api/predict").status_code == 405


def test_a_reader_that_hangs_ends_with_the_time(make_client: MakeClient, picture: MakeFile) -> None:
    client = make_client(timeout_s=0.6)
    (stuck,) = client.service.decoders.pids  # type: ignore[attr-defined]
    os.kill(stuck, signal.SIGSTOP)
    reply = client.post("/api/preview", content=picture())
    assert (reply.status_code, reply.json()["error"]["kind"]) == (504, "timeout")


def test_a_slow_body_ends_with_the_time(make_client: MakeClient, log: io.StringIO) -> None:
    app = make_client(timeout_s=0.3).app
    sent: list[Any] = []

    async def ask() -> None:
        async def receive() -> dict[str, Any]:
            await asyncio.sleep(0.1)
            return {"type": "http.request", "body": b"x", "more_body": len(sent) == 0}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http", "http_version": "1.1", "method": "POST", "path": "/api/predict", "raw_path": b"",
            "query_string": b"", "root_path": "", "scheme": "http", "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000), "headers": [(b"host", b"127.0.0.1"), (b"x-medtail", b"1")],
        }  # fmt: skip
        await app(scope, receive, send)  # type: ignore[arg-type]

    asyncio.run(asyncio.wait_for(ask(), 30))
    assert sent[0]["status"] == 504
    assert json.loads(log.getvalue())["kind"] == "timeout"


def test_a_client_that_hangs_up_is_no_mistake_of_ours(make_client: MakeClient, log: io.StringIO) -> None:
    app = make_client().app

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        pass

    scope = {
        "type": "http", "http_version": "1.1", "method": "POST", "path": "/api/predict", "raw_path": b"",
        "query_string": b"", "root_path": "", "scheme": "http", "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000), "headers": [(b"host", b"127.0.0.1"), (b"x-medtail", b"1")],
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]
    (event,) = [json.loads(line) for line in log.getvalue().splitlines()]
    assert (event["status"], event["kind"]) == (499, "gone")


def test_beyond_the_queue_clients_are_told_to_come_back_and_then_served(
    make_client: MakeClient, picture: MakeFile, diagnosis: Diagnosis, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, go_on = threading.Event(), threading.Event()
    real = Diagnosis.findings

    def wait(self: Diagnosis, *words: Any, **named: Any) -> Any:
        started.set()
        go_on.wait(30)
        return real(self, *words, **named)

    monkeypatch.setattr(Diagnosis, "findings", wait)
    replies: list[Any] = []
    with make_client(queue=1) as client:  # one event loop for all
        first = threading.Thread(target=lambda: replies.append(client.post("/api/predict", content=picture())))
        first.start()
        assert started.wait(30)
        busy = client.post("/api/predict", content=picture())
        assert client.get("/health").json()["inside"] == 1
        go_on.set()
        first.join(30)
        later = client.post("/api/predict", content=picture())
    assert (busy.status_code, busy.json()["error"]["kind"], busy.headers["retry-after"]) == (503, "busy", "2")
    assert replies[0].status_code == 200
    assert later.status_code == 200


def test_what_waits_for_the_model_longer_than_its_time_never_reaches_it(
    make_client: MakeClient, picture: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, calls = threading.Event(), []
    monkeypatch.setattr(Diagnosis, "findings", lambda *_, **__: calls.append(threading.current_thread().name))
    client = make_client(timeout_s=0.5)
    model = client.service._model  # type: ignore[attr-defined]
    model.submit(go_on.wait, 60)
    assert client.post("/api/predict", content=picture()).status_code == 504
    go_on.set()
    model.submit(int).result(60)  # whatever stood in line before this is done
    assert not calls


def test_the_log_says_where_the_time_of_a_request_went(
    make_client: MakeClient, picture: MakeFile, log: io.StringIO
) -> None:
    client = make_client()
    client.post("/api/predict", content=picture())
    client.post("/api/predict", content=b"no image")
    good, bad = (json.loads(line) for line in log.getvalue().splitlines())
    assert 0 < good["decoder_ms"] < good["open_ms"]
    assert good["body_ms"] + good["open_ms"] + good["work_ms"] < good["ms"]
    assert (bad["work_ms"], bad["decoder_ms"]) == (None, None)


def test_a_mistake_of_ours_is_a_500_without_a_traceback(
    make_client: MakeClient, picture: MakeFile, monkeypatch: pytest.MonkeyPatch, log: io.StringIO
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("Sorrow^Jane in /secret/folder")

    monkeypatch.setattr(Diagnosis, "findings", fail)
    reply = make_client().post("/api/predict", content=picture())
    assert (reply.status_code, reply.json()["error"]["kind"]) == (500, "internal")
    for text in (reply.text, log.getvalue()):
        assert "Sorrow" not in text
        assert "secret" not in text
    assert reply.json()["request"] in log.getvalue()


def test_logs_and_answers_hold_nothing_of_the_patient(
    make_client: MakeClient, dicom: MakeFile, log: io.StringIO, capfd: pytest.CaptureFixture[str]
) -> None:
    client = make_client()
    for path in POSTS:
        reply = client.post(path, content=dicom())
        assert reply.status_code == 200
        for secret in ("Sorrow", "SECRET-ID"):
            assert secret not in reply.text
    printed = capfd.readouterr()
    for secret in ("Sorrow", "SECRET-ID"):
        assert secret not in log.getvalue() + printed.out + printed.err
    events = [json.loads(line) for line in log.getvalue().splitlines()]
    assert [event["route"] for event in events] == ["/api/predict", "/api/preview", "/api/heat"]
    assert all(event["bytes"] == len(dicom()) and event["ms"] > 0 for event in events)


def test_no_file_is_left_anywhere(
    make_client: MakeClient, picture: MakeFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "temporary").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    client = make_client()
    large = picture("TIFF", size=(1200, 900), colour=True)
    for path in POSTS:
        assert client.post(path, content=large).status_code == 200
        assert client.post(path, content=large[:5000]).status_code == 422
    assert not list(tmp_path.glob("*/*"))


def test_the_interface_describes_itself(make_client: MakeClient) -> None:
    described = make_client().get("/openapi.json").json()
    assert set(described["paths"]) == {"/health", "/api/model", "/api/preview", "/api/predict", "/api/heat"}
    body = described["paths"]["/api/predict"]["post"]["requestBody"]["content"]
    assert list(body) == ["application/octet-stream"]
    assert "503" in described["paths"]["/api/predict"]["post"]["responses"]


def test_the_model_says_what_the_page_must_know(make_client: MakeClient, diagnosis: Diagnosis) -> None:
    facts = make_client(max_mb=5.0).get("/api/model").json()
    assert facts["limits"]["max_bytes"] == 5_000_000
    assert facts["name"] == "toy_run"
    assert facts["digest"] == diagnosis.evidence.digest
    assert len(facts["classes"]) == 5


def test_the_page_and_its_files_are_served(make_client: MakeClient) -> None:
    client = make_client()
    for path, kind in (("/", "text/html"), ("/static/app.css", "text/css"), ("/static/app.js", "text/javascript")):
        reply = client.get(path)
        assert reply.status_code == 200
        assert reply.headers["content-type"].startswith(kind)
