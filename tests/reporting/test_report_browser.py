"""The report in a real browser: its policy lets its own script run, tables sort, nothing complains or overflows."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import unquote

import pytest

from medtail.reporting.report import write_report

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
HARNESS = """<!DOCTYPE html><meta charset="utf-8"><body>
<iframe id="page" src="report.html" width="400" height="3000"></iframe>
<script>
document.getElementById("page").addEventListener("load", event => {
  const page = event.target.contentDocument, found = {};
  const table = page.getElementById("class-table");
  const names = () => Array.from(table.tBodies[0].rows, row => row.cells[0].textContent);
  const header = column => table.querySelector(`th[data-column="${column}"]`);
  found.start = names();
  header(7).querySelector("button").click();
  found.ap_down = names(); found.ap_down_sort = header(7).getAttribute("aria-sort");
  header(7).querySelector("button").click();
  found.ap_up = names(); found.ap_up_sort = header(7).getAttribute("aria-sort");
  header(0).querySelector("button").click();
  found.by_name = names(); found.ap_after = header(7).getAttribute("aria-sort");
  found.status = page.getElementById("sorted").textContent;
  found.wide = page.documentElement.scrollWidth;
  found.paper = getComputedStyle(page.documentElement).backgroundColor;
  const out = document.createElement("pre"); out.id = "found";
  out.textContent = btoa(encodeURIComponent(JSON.stringify(found)));
  document.body.append(out);
});
</script>"""


def visit(folder: Path, *options: str) -> tuple[dict, str]:
    """Open the harness beside the report; return what it found and what the browser logged."""
    assert BROWSER is not None
    (folder / "harness.html").write_text(HARNESS, encoding="utf-8")
    profile = folder / "profile"
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         f"--user-data-dir={profile}",
         "--allow-file-access-from-files", "--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom",
         *options, f"file://{folder / 'harness.html'}"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    found = re.search(r'<pre id="found">([^<]+)</pre>', done.stdout)
    assert found, done.stderr[-2000:]
    return json.loads(unquote(base64.b64decode(found[1]).decode())), done.stderr


@pytest.mark.browser
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_report_sorts_and_stays_quiet_in_a_browser(judged, tmp_path) -> None:
    write_report(tmp_path / "report.html", predictions=judged.predictions, results=judged.results, title="Browser")
    found, log = visit(tmp_path)
    assert "CONSOLE" not in log
    ap = {name: judged.results.value("ap", class_name=name) for name in found["start"]}
    defined = [name for name in found["start"] if ap[name] == ap[name]]
    undefined = {name for name in found["start"] if ap[name] != ap[name]}
    assert undefined
    assert found["ap_down"][: len(defined)] == sorted(defined, key=lambda name: -ap[name])
    assert found["ap_up"][: len(defined)] == sorted(defined, key=lambda name: ap[name])
    # undefined values stay last in both directions
    assert set(found["ap_down"][len(defined) :]) == set(found["ap_up"][len(defined) :]) == undefined
    assert (found["ap_down_sort"], found["ap_up_sort"], found["ap_after"]) == ("descending", "ascending", "none")
    assert found["by_name"] == sorted(found["by_name"], key=str.lower)
    assert found["status"] == "Sorted by class, ascending"
    # at 400 px only the tables scroll, never the page
    assert found["wide"] <= 400


@pytest.mark.browser
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_report_follows_the_reader_into_the_dark(judged, tmp_path) -> None:
    write_report(tmp_path / "report.html", predictions=judged.predictions, results=judged.results, title="Browser")
    light, _ = visit(tmp_path, "--blink-settings=preferredColorScheme=1")
    dark, _ = visit(tmp_path, "--blink-settings=preferredColorScheme=0")
    assert light["paper"] != dark["paper"]
