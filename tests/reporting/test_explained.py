from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from medtail.errors import MedtailError
from medtail.reporting.explained import MOST_PICTURES, explained_sections, sections_of_model, write_explained_page


def folder_of(tmp_path, *, maps=2, passed=True, hostile="shape=oval"):
    (tmp_path / "maps").mkdir(parents=True)
    rows = []
    for number in range(1, maps + 1):
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "maps" / f"{number:04d}.png")
        rows.append({"map": number, "image_id": f"i{number}", "patient": f"p{number}", "class": hostile, "score": 0.5,
                     "passed": passed, "warnings": "" if passed else "FAILED: flat."})  # fmt: skip
    measure = {"value": 0.5, "low": 0.4, "high": 0.6, "maps": maps, "patients": maps}
    record = {
        "format": "medtail-explain/1", "method": "layer_cam", "branch": "joint", "members": 3, "maps": rows,
        "verdicts": {"randomisation": {"passed": passed, "words": "passed: yes." if passed else "failed: no."}},
        "sanity": [{"class": name, "measure": m, **measure} for name in ("", hostile)
                   for m in ("gap_over_chance", "gap_over_randomised", "alike_all")],
    }  # fmt: skip
    (tmp_path / "explain.json").write_text(json.dumps(record))
    return tmp_path


def test_a_page_says_what_failed_and_holds_every_picture(tmp_path):
    page = write_explained_page(folder_of(tmp_path / "bad", passed=False), title="T").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "2 of 2 maps failed" in page
    assert "Randomisation check failed: no." in page
    assert page.count("FAILED: flat.") == 2
    good = write_explained_page(folder_of(tmp_path / "good"), title="T").read_text()
    assert "0 of 2 maps failed" in good
    assert "FAILED" not in good
    assert "the mean of 3 networks" in good


def test_names_from_the_data_are_escaped(tmp_path):
    page = write_explained_page(folder_of(tmp_path, hostile="<script>alert(1)</script>"), title="<b>").read_text()
    assert "<script>alert" not in page
    assert "<b>" not in page


def test_a_page_stays_small_however_many_maps_there_are(tmp_path):
    folder = folder_of(tmp_path, maps=MOST_PICTURES + 5)
    maps = explained_sections(folder)[-1]
    assert len(maps.panels) == MOST_PICTURES
    assert f"The first {MOST_PICTURES} of {MOST_PICTURES + 5}" in maps.words[1]


def test_another_folder_is_refused(tmp_path):
    (tmp_path / "explain.json").write_text('{"format": "x"}')
    with pytest.raises(MedtailError, match="format 'x' is unknown; expected 'medtail-explain/1'"):
        explained_sections(tmp_path)


def test_maps_of_another_model_are_refused(tmp_path):
    folder = folder_of(tmp_path)
    record = json.loads((folder / "explain.json").read_text())
    (folder / "explain.json").write_text(json.dumps({**record, "model": "a" * 64}))
    assert [part.title for part in sections_of_model(folder, model="a" * 64)][-1] == "Before you believe a map"
    assert sections_of_model(folder, model=None)
    with pytest.raises(MedtailError, match="of the model aaaaaaaaaaaa; expected bbbbbbbbbbbb"):
        sections_of_model(folder, model="b" * 64)
