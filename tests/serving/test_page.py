from __future__ import annotations

import importlib.util
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from medtail.serving.page import MEDIA_TYPES, page_file
from medtail.tables.manifest import Manifest
from medtail.training.predict import predict

MakeFile = Callable[..., bytes]
MakeManifest = Callable[..., Manifest]
READY = "document.body.dataset.ready === 'true'"
ALL_READ = "items.length > 0 && items.every((item) => !['waits', 'reading'].includes(item.state))"


class Elements(HTMLParser):
    """Collects every element with its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def elements() -> list[tuple[str, dict[str, str | None]]]:
    parser = Elements()
    parser.feed(page_file("index.html").decode())
    return parser.found


def test_only_the_files_of_the_page_can_be_named() -> None:
    for name in ("../app.py", "/etc/passwd", "static/app.js", "", "app.js/"):
        with pytest.raises(KeyError):
            page_file(name)


def test_every_file_of_the_folder_is_served_and_none_comes_from_elsewhere() -> None:
    folder = Path(__file__).resolve().parents[2] / "src" / "medtail" / "serving" / "static"
    assert {path.name for path in folder.iterdir()} == set(MEDIA_TYPES)
    for name in MEDIA_TYPES:
        text = page_file(name).decode().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//cdn|@import|url\(", text), name


def test_the_page_holds_no_inline_script_or_style(elements: list[tuple[str, dict[str, str | None]]]) -> None:
    for tag, values in elements:
        assert tag != "style"
        assert tag != "script" or values.get("src")
        assert not [name for name in values if name == "style" or name.startswith("on")], (tag, values)


def test_every_input_has_a_label_and_every_id_the_script_asks_for_exists(
    elements: list[tuple[str, dict[str, str | None]]],
) -> None:
    page, script = page_file("index.html").decode(), page_file("app.js").decode()
    ids = [values["id"] for _, values in elements if values.get("id")]
    assert len(ids) == len(set(ids))
    asked = set(re.findall(r'\$\("([\w-]+)"\)', script))
    assert asked <= set(ids), asked - set(ids)
    for tag, values in elements:
        if tag in ("input", "select", "progress"):
            is_wrapped = re.search(rf'<label[^>]*>[^<]*<{tag} id="{values["id"]}"', page)
            assert is_wrapped or f'for="{values["id"]}"' in page or values.get("aria-label"), values["id"]


def test_text_from_the_server_never_becomes_html() -> None:
    script = page_file("app.js").decode()
    for name in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
        assert name not in script


# --- in a real browser ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium() -> ModuleType:
    """The driver in `tools`; skips, saying so, where there is no Chromium."""
    path = Path(__file__).resolve().parents[2] / "tools" / "chromium.py"
    spec = importlib.util.spec_from_file_location("tools_chromium", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if module.find_chromium() is None or shutil.which("bash") is None:
        pytest.skip(f"no headless Chromium here (looked for {', '.join(module.NAMES)})")
    return module


@contextmanager
def serving(run: Path, *words: str) -> Iterator[str]:
    """`medtail serve` in a process of its own; yields the address it prints."""
    call = "import sys; from medtail.cli.main import call; sys.exit(call(sys.argv[1:]))"
    with subprocess.Popen(
        [sys.executable, "-c", call, "serve", str(run), "--port", "0", "--threads", "1", "--decoders", "1", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        said: list[str] = []
        reader = threading.Thread(target=lambda: said.extend(process.stderr or ()))
        reader.start()
        try:
            line = process.stdout.readline()
            assert " open http" in line, said
            yield line.split(" open ")[1].strip()
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
            reader.join(10)


@pytest.mark.slow
@pytest.mark.browser
def test_a_dropped_file_is_read_and_shown_as_predict_scores_it(
    run: Path, chromium: ModuleType, tmp_path: Path, picture: MakeFile, manifest_for: MakeManifest
) -> None:
    manifest = manifest_for(picture("JPEG", colour=True), name="lesion.jpg")
    (tmp_path / "broken.png").write_bytes(picture()[:80])
    expected = predict(run, manifest, quiet=True)
    with serving(run) as address, chromium.Chromium(width=1200, height=900) as browser:
        browser.open(address)
        browser.wait_for(READY)
        browser.drop("#drop", [tmp_path / "lesion.jpg", tmp_path / "broken.png"])
        browser.wait_for(ALL_READ)

        # findings: all of them, in order, with predict's numbers, thresholds and rarity
        shown = browser.evaluate("current.result.findings.map((finding) => [finding.name, finding.probability])")
        by_name = dict(shown)
        scores = [by_name[name] for name in expected.labels.class_names]
        np.testing.assert_array_equal(scores, expected.scores[0])
        rows = browser.evaluate("[...document.querySelectorAll('#findings > li')].map((row) => row.innerText)")
        assert len(rows) == 5
        assert [row.split("\n")[0].split(" ")[0] for row in rows] == [name.split("=")[-1] for name, _ in shown]
        assert "from 40 %" in next(row for row in rows if row.startswith("bright"))
        rare = next(row for row in rows if row.startswith("round"))
        assert "rare: 1 patient in training" in rare
        assert "Research use only" in browser.evaluate("document.body.innerText")

        # the batch: one read, one refused with its reason, progress complete
        states = browser.evaluate("items.map((item) => [item.name, item.state])")
        assert states == [["lesion.jpg", "done"], ["broken.png", "failed"]]
        assert browser.evaluate("$('progress').value === 2 && $('progress-text').textContent") == (
            "2 of 2 files, 1 not read"
        )
        browser.evaluate("document.querySelectorAll('#items button')[1].click()")
        assert "damaged" in browser.evaluate("$('status').textContent")
        browser.evaluate("document.querySelectorAll('#items button')[0].click()")

        # a heat map by keyboard: Tab to the button, Enter, and Escape takes it away
        browser.evaluate("document.querySelector('#findings .heat').focus()")
        plain = browser.evaluate("$('picture').src")
        browser.press("Enter")
        browser.wait_for("document.querySelector('#findings .heat').getAttribute('aria-pressed') === 'true'")
        assert browser.evaluate("$('picture').src") != plain
        assert "not that the class is present" in browser.evaluate("$('caption').textContent")
        browser.press("Escape")
        assert browser.evaluate("$('picture').src") == plain

        # everything came from this server, under its policy, without a complaint
        assert all(url.startswith((address, "data:image/png")) for url in browser.requests), browser.requests
        (complaint,) = browser.complaints  # of the broken file, and of nothing else
        assert "422" in complaint
        assert "lesion" not in " ".join(browser.requests)  # names stay in the browser

        # readable at 400 px, in print and in the dark
        for look in ({"width": 400}, {"width": 400, "scheme": "dark"}, {"width": 794, "media": "print"}):
            browser.look(**look)
            assert browser.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), look
        assert browser.evaluate("getComputedStyle($('intake')).display") == "none"
        browser.look(width=1200, scheme="dark")
        assert browser.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(23, 22, 19)"


@pytest.mark.slow
@pytest.mark.browser
def test_a_region_is_drawn_a_size_gives_advice_and_a_token_is_asked_for(
    roi_run: Path, thyroid_run: Path, chromium: ModuleType, tmp_path: Path, picture: MakeFile, dicom: MakeFile
) -> None:
    (tmp_path / "a.png").write_bytes(picture(size=(400, 300), colour=True))
    (tmp_path / "scan").write_bytes(dicom(frames=3))  # no ending: known by its content
    with serving(roi_run) as address, chromium.Chromium(width=1200, height=900) as browser:
        browser.open(address)
        browser.wait_for(READY)
        browser.drop("body", [tmp_path / "a.png"])
        browser.wait_for("items.length === 1 && items[0].state === 'region'")
        browser.wait_for("$('picture').complete && $('picture').naturalWidth > 0")
        left, top, width, height = browser.evaluate(
            "(() => { const box = $('picture').getBoundingClientRect();"
            " return [box.x, box.y, box.width, box.height]; })()"
        )
        browser.drag((left + width * 0.25, top + height * 0.25), (left + width * 0.75, top + height * 0.5))
        numbers = browser.evaluate("['roi-x', 'roi-y', 'roi-w', 'roi-h'].map((id) => $(id).valueAsNumber)")
        np.testing.assert_allclose(numbers, [100, 75, 200, 75], atol=2)
        browser.evaluate("$('region-form').requestSubmit()")
        browser.wait_for("items[0].state === 'done'")
        assert browser.evaluate("items[0].result.image.roi") == numbers
        assert browser.complaints == []

    token = "a-token-of-24-characters"
    with serving(thyroid_run, "--token", token) as address, chromium.Chromium(width=1200, height=900) as browser:
        browser.open(address)
        browser.wait_for("!$('token-form').hidden")
        browser.evaluate(f"$('token').value = {json.dumps(token)}; $('token-form').requestSubmit()")
        browser.wait_for(READY)
        browser.drop("#drop", [tmp_path / "scan"])
        browser.wait_for(ALL_READ)
        assert browser.evaluate("items[0].state") == "done"
        assert browser.evaluate("$('tirads').innerText").startswith("ACR TI-RADS 2017")
        assert "Enter the largest dimension" in browser.evaluate("$('tirads').innerText")
        browser.evaluate("$('size').value = '16'; $('again').click()")
        browser.wait_for("items[0].state === 'done' && items[0].result.tirads.size_mm === 16")
        assert "Advice at 16 mm" in browser.evaluate("$('tirads').innerText")
        # another frame of the film
        first = browser.evaluate("items[0].result.findings[0].probability")
        assert browser.evaluate("$('frame-count').textContent") == "of 3"
        browser.evaluate("$('frame-number').value = 3; $('frames').requestSubmit()")
        browser.wait_for("items[0].state === 'done' && items[0].result.image.frame === 2")
        assert browser.evaluate("items[0].result.findings[0].probability") != first
