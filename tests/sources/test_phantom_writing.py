from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medtail.challenges.thyro_lmd_labels import make_split
from medtail.errors import UsageError
from medtail.sources.importing import import_layout
from medtail.sources.phantom import BLOCK, DISCLAIMER, PhantomConfig, phantom_case, render_case
from medtail.sources.phantom_writing import CHUNK, phantom_manifest
from medtail.sources.thyro_lmd import LABELS, read_labels
from medtail.tables.manifest import read_manifest

SMALL = PhantomConfig(size_px=32)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_what_is_written_can_be_read_and_is_what_was_drawn(tmp_path: Path) -> None:
    manifest = phantom_manifest(tmp_path / "p", images=25, config=SMALL)
    read = read_manifest(tmp_path / "p" / "manifest.csv")
    assert np.array_equal(read.targets, manifest.targets)
    assert read.labels.class_names == LABELS.class_names
    read.check_files()
    for row in (0, 7, 24):
        phantom = render_case(SMALL, phantom_case(SMALL, row))
        with Image.open(read.image_path(row)) as image, Image.open(read.root / read.frame["mask_path"][row]) as mask:
            assert np.array_equal(np.asarray(image), phantom.pixels)
            assert np.array_equal(np.asarray(mask) == 255, phantom.lesion)
        assert read.frame["spacing_mm"][row] == pytest.approx(phantom.spacing_mm, rel=1e-3)
        assert read.frame["size_mm"][row] == phantom.size_mm
    assert set(read.frame["meta_source"]) == {DISCLAIMER}
    assert (manifest.folds == "").all()
    assert DISCLAIMER.capitalize() in (tmp_path / "p" / "ATTRIBUTION.md").read_text()


@pytest.mark.slow
def test_bytes_do_not_depend_on_workers_or_on_how_many_images_are_asked_for(tmp_path: Path) -> None:
    phantom_manifest(tmp_path / "one", images=CHUNK + 20, config=SMALL)
    phantom_manifest(tmp_path / "two", images=CHUNK + 20, config=SMALL, workers=2)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    phantom_manifest(tmp_path / "few", images=5, config=SMALL)
    few, one = digests(tmp_path / "few"), digests(tmp_path / "one")
    pictures = [name for name in few if name.endswith(".png")]
    assert len(pictures) == 10
    assert all(few[name] == one[name] for name in pictures)


def test_an_offset_continues_the_series_with_new_patients(tmp_path: Path) -> None:
    first = phantom_manifest(tmp_path / "first", images=2 * BLOCK, config=SMALL)
    later = phantom_manifest(tmp_path / "later", images=BLOCK, config=SMALL, offset=2 * BLOCK)
    whole = phantom_manifest(tmp_path / "whole", images=3 * BLOCK, config=SMALL)
    assert not set(first.patients) & set(later.patients)
    assert [*first.frame["image_id"], *later.frame["image_id"]] == whole.frame["image_id"].tolist()
    assert np.array_equal(np.concatenate([first.targets, later.targets]), whole.targets)


def test_the_record_says_what_was_wanted_reached_drawn_and_recorded(tmp_path: Path) -> None:
    config = PhantomConfig(size_px=32, tail={"margin_ete": 0.3}, label_noise=0.3, not_assessed=0.2, seed=4)
    manifest = phantom_manifest(tmp_path / "p", images=60, config=config)
    record = json.loads((tmp_path / "p" / "phantom.json").read_text())
    truth = pd.read_csv(tmp_path / "p" / "truth.csv")
    assert record["config"]["tail"] == {"margin_ete": 0.3}
    assert record["shares"]["margin_ete"]["wanted"] == 0.3
    assert record["shares"]["margin_ete"]["reached"] == pytest.approx(0.3, abs=1e-3)
    assert record["patients"] == len(set(manifest.patients))
    for c, name in enumerate(LABELS.class_names):
        assert record["shares"][name]["drawn"] == pytest.approx(truth[name].mean())
        assert record["shares"][name]["recorded"] == pytest.approx(np.nanmean(manifest.targets[:, c]), abs=1e-6)
    recorded = manifest.targets
    known = ~np.isnan(recorded)
    assert 0.1 < 1 - known.mean() < 0.3
    assert (recorded[known] != truth[list(LABELS.class_names)].to_numpy()[known]).any()


def test_the_protocol_takes_it_as_its_own(tmp_path: Path) -> None:
    phantom_manifest(tmp_path / "p", images=200, config=PhantomConfig(size_px=32, not_assessed=0.1, label_noise=0.1))
    labels = read_labels(tmp_path / "p" / "manifest.csv")
    outcome, split = make_split(labels)
    assert set(split.patients) == {"train", "tune", "test"}
    outcome.manifest.check_folds("train", "tune", "test")
    assert import_layout("thyro_lmd", tmp_path / "p" / "manifest.csv").labels == LABELS


def test_nothing_is_left_where_the_request_was_wrong(tmp_path: Path) -> None:
    for wrong, message in (
        ({"images": 0}, "0 images"),
        ({"images": 5, "offset": 7}, "offset 7; expected a multiple of 20"),
        ({"images": 5, "offset": -20}, "offset -20"),
        ({"images": 5, "workers": 0}, "0 workers"),
        ({"images": 5, "config": PhantomConfig(tail="strange")}, "tail 'strange': unknown"),
    ):
        with pytest.raises(UsageError, match=message):
            phantom_manifest(tmp_path / "p", **wrong)  # type: ignore[arg-type]
        assert not (tmp_path / "p").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty"):
        phantom_manifest(tmp_path / "full", images=5)


def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        phantom_manifest(tmp_path / "p", images=3, config=SMALL, progress=stop)
    assert list(tmp_path.iterdir()) == []
