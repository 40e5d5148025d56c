"""From images to report without unpickling a thing, watched by Python's own audit hook in a process of its own.

The hook hears of every class that any unpickler looks up, the one in C too, and of every file that is opened. The one
exception is numba, which keeps compiled loops in a cache of its own beside them: code, as trusted as the code it is
made of, and nothing that came with data or with a model.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

WATCHED = """
import json, os, sys, traceback
folder, data = sys.argv[1:]
looked_up, opened = [], set()

def watch(event, arguments):
    if event == "pickle.find_class":
        places = {frame.f_code.co_filename for frame, _ in traceback.walk_stack(sys._getframe(1))}
        if not any(f"{os.sep}numba{os.sep}" in place for place in places):
            looked_up.append(".".join(map(str, arguments)))
    elif event == "open" and isinstance(arguments[0], str) and arguments[0].startswith(folder):
        opened.add(arguments[0])

sys.addaudithook(watch)
from medtail.cli.main import call

run = f"{folder}/run"
for verb in (
    ["data", "import", "breast_usg", data, "--out", f"{folder}/all.csv"],
    ["data", "split", f"{folder}/all.csv", "--out", f"{folder}/split.csv", "--no-duplicates"],
    ["data", "check", f"{folder}/split.csv", "--no-images"],
    ["train", f"{folder}/config.yaml", "--out", run, "--quiet"],
    ["predict", run, f"{folder}/split.csv", "--fold", "test", "--out", f"{folder}/scores.parquet"],
    ["calibrate", run, "--fit", "tune"],
    ["evaluate", f"{folder}/scores.parquet", "--out", f"{folder}/judged", "--bootstrap", "50"],
    ["report", run, "--out", f"{folder}/report.html"],
):
    code = call(verb)
    if code:
        sys.exit(f"{verb}: exit code {code}")

import pickle
heard = len(looked_up)
pickle.loads(pickle.dumps(json.JSONDecoder))  # the hook hears this one
assert len(looked_up) == heard + 1
print(json.dumps({"looked_up": looked_up[:heard], "opened": sorted(opened)}))
"""
CONFIG = """
manifest: split.csv
classes: [malignant, halo, 'shape=*']
pixels: {size_px: 16, crop: roi, missing_roi: whole}
backbone: {kind: resnet, size: tiny}
optimizer: {epochs: 1, batch_size: 64}
"""
PICKLED = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))


@pytest.mark.slow
def test_nothing_is_unpickled_from_images_to_report_and_no_file_is_a_pickle(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "watched.py").write_text(WATCHED)
    arguments = [sys.executable, str(tmp_path / "watched.py"), str(tmp_path), str(files("medtail") / "quickstart_data")]
    environment = {**os.environ, "MEDTAIL_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(arguments, check=False, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["looked_up"] == []
    there = [path for path in map(Path, found["opened"]) if path.is_file()]
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in written} >= {".csv", ".json", ".safetensors", ".parquet", ".html"}
    assert [path for path in (*there, *written) if path.read_bytes()[:2] in PICKLED] == []
