from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pandas as pd
from PIL import Image

from medtail.synthesis.inspection import inspect_pool
from medtail.synthesis.quality_page import write_inspection, write_kept
from medtail.tables.manifest import read_manifest


def before(pool):
    return {path: path.read_bytes() for path in pool.rglob("*") if path.is_file()}


def test_an_inspection_adds_files_and_changes_none(own_pool, judge_table):
    files = before(own_pool)
    page = write_inspection(inspect_pool(own_pool, judge=judge_table))
    after = before(own_pool)
    assert {path: after[path] for path in files} == files
    assert page == own_pool / "inspect.html"
    added = {path.relative_to(own_pool).as_posix() for path in after.keys() - files.keys()}
    assert {"quality.csv", "quality.json", "inspect.html"} < added
    assert len([name for name in added if name.startswith("sheets/")]) == 6


def test_the_page_is_one_file_that_loads_nothing(own_pool, judge_table):
    text = write_inspection(inspect_pool(own_pool, judge=judge_table)).read_text(encoding="utf-8")
    HTMLParser().feed(text)
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", text)
    assert "default-src &#39;none&#39;" in text or "default-src 'none'" in text
    assert text.count("<img ") == 7  # two sheets a class, one strip
    assert "color-scheme" in text


def test_rare_classes_come_first_each_alone(own_pool, judge_table):
    text = write_inspection(inspect_pool(own_pool, judge=judge_table)).read_text(encoding="utf-8")
    order = [text.index(f'id="h-class-{number}"') for number in range(3)]
    assert order == sorted(order)
    headings = re.findall(r'<h2 id="h-class-\d">([a-z_]+)', text)
    assert headings == ["phyllodes_like", "cyst_like", "fibroadenoma_like"]


def test_captions_tell_an_asked_sketch_from_an_images_own_lines(own_pool, judge_table):
    text = write_inspection(inspect_pool(own_pool, judge=judge_table)).read_text(encoding="utf-8")
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", text)
    asked = [caption for caption in captions if "the sketch it was asked to keep" in caption]
    assert len(asked) == 1
    assert asked[0].startswith("cyst_like. Top: the train image that sketch came from.")
    assert sum("its own lines (no sketch was asked for)" in caption for caption in captions) == 2
    assert captions[-1].startswith("fibroadenoma_like: its first image coming out of the noise")


def test_a_sheet_shows_source_sketch_and_image_in_one_column(own_pool, judge_table):
    found = inspect_pool(own_pool, judge=judge_table)
    write_inspection(found)
    sheet = np.asarray(Image.open(own_pool / "sheets" / "subtype_cyst_like.png")) / 255
    assert sheet.shape == (3 * 34 - 2, 8 * 34 - 2)
    source = np.asarray(Image.open(own_pool / "real" / "train_1_3.png")) / 255
    made = np.asarray(Image.open(own_pool / "images" / "syn_1_3.png")) / 255
    left = 3 * 34
    assert np.abs(sheet[:32, left : left + 32] - source).max() < 0.01
    assert np.abs(sheet[68:, left : left + 32] - made).max() < 0.01


def test_a_second_inspection_replaces_the_first(own_pool, judge_table):
    write_inspection(inspect_pool(own_pool))
    assert "meta_judge_ce" not in pd.read_csv(own_pool / "quality.csv").columns
    write_inspection(inspect_pool(own_pool, judge=judge_table), title="Again & again")
    assert "meta_judge_ce" in pd.read_csv(own_pool / "quality.csv").columns
    assert "<h1>Again &amp; again</h1>" in (own_pool / "inspect.html").read_text(encoding="utf-8")


def test_the_filter_drops_copies_and_keeps_every_real_row(copied_pool, honest_pool, tmp_path):
    kept = {}
    for name, source in (("copied", copied_pool), ("honest", honest_pool)):
        folder = shutil.copytree(source, tmp_path / name)
        choice = write_kept(inspect_pool(folder))
        table = read_manifest(folder / "manifest_kept.csv")
        whole = read_manifest(folder / "manifest.csv")
        assert int(table.is_real.sum()) == int(whole.is_real.sum())
        assert int((~table.is_real).sum()) == int(choice.kept.sum())
        table.check_files()
        kept[name] = choice
    assert kept["copied"].kept.sum() == 0
    assert kept["copied"].copied.all()
    assert not kept["honest"].copied[:8].any()
    assert kept["honest"].kept.sum() >= 12


def test_with_a_judge_doubted_images_go_too(own_pool, judge_table):
    # scores of the second class differ within the class
    frame = pd.read_csv(judge_table)
    rows = frame["image_id"].isin(["syn_1_0", "syn_1_1"])
    frame.loc[rows, "subtype=cyst_like"] = 0.2
    frame.to_csv(own_pool.parent / "doubting.csv", index=False)
    choice = write_kept(inspect_pool(own_pool, judge=own_pool.parent / "doubting.csv"))
    assert np.flatnonzero(choice.doubted).tolist() == [8, 9]
    assert "2 doubted by the judge" in choice.words
