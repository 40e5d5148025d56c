from __future__ import annotations

import errno
import pickle
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medtail.errors import MedtailError
from medtail.pixels import slots, store
from medtail.pixels.decode import read_image
from medtail.pixels.letterbox import letterbox
from medtail.pixels.settings import PixelConfig
from medtail.pixels.store import PixelStore, open_store
from medtail.tables.manifest import Manifest, manifest_from_frame

SMALL = PixelConfig(size_px=16)


def stored_bytes(opened: PixelStore) -> tuple[bytes, bytes]:
    return opened.file.pixels_path.read_bytes(), opened.file.records_path.read_bytes()


def bus_bra(shared_data: Path, *, rows: int) -> Manifest:
    labels = pd.read_csv(shared_data / "bus_bra" / "labels.csv").head(rows)
    frame = pd.DataFrame({"image_id": labels["image"], "path": "images/" + labels["image"]})
    frame["patient_id"] = labels["patient"]
    frame[["roi_x", "roi_y", "roi_w", "roi_h"]] = labels[["bbox_x", "bbox_y", "bbox_w", "bbox_h"]]
    frame["malignant"] = (labels["pathology"] == "malignant").astype(int)
    return manifest_from_frame(frame, name="bus_bra.csv", root=shared_data / "bus_bra")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were decoded since the test began."""
    paths: list[Path] = []

    def counted(path: Path) -> np.ndarray:
        paths.append(path)
        return read_image(path)

    monkeypatch.setattr(store, "read_image", counted)
    return paths


@pytest.mark.parametrize("crop", ["none", "roi"])
def test_the_store_holds_what_decoding_and_letterboxing_give(shared_data: Path, tmp_path: Path, crop: Any) -> None:
    manifest = bus_bra(shared_data, rows=12)
    config = PixelConfig(size_px=64, crop=crop, fill="mirror")
    opened = open_store(manifest, config, cache=tmp_path)
    assert len(opened) == 12
    rows = np.array([7, 0, 11, 7])
    images = opened.images(rows)
    assert images.shape == (4, 1, 64, 64)
    assert images.dtype == np.uint8
    for image, row in zip(images, rows, strict=True):
        roi = manifest.roi(row) if crop == "roi" else None
        expected, box = letterbox(read_image(manifest.image_path(row)), config=config, roi=roi)
        assert np.array_equal(image, expected)
        assert tuple(opened.content_boxes[row]) == box
    assert len({image.tobytes() for image in opened.images(np.arange(12))}) == 12


def test_bytes_do_not_depend_on_the_number_of_workers(toy_manifest: Manifest, tmp_path: Path) -> None:
    one = open_store(toy_manifest, SMALL, cache=tmp_path / "one", workers=1)
    two = open_store(toy_manifest, SMALL, cache=tmp_path / "two", workers=2)
    assert stored_bytes(one) == stored_bytes(two)
    assert one.digest == two.digest


def test_a_second_opening_decodes_nothing(toy_manifest: Manifest, tmp_path: Path, decoded: list[Path]) -> None:
    first = open_store(toy_manifest, SMALL, cache=tmp_path)
    assert len(decoded) == len(toy_manifest)
    decoded.clear()
    again = open_store(toy_manifest, SMALL, cache=tmp_path)
    assert decoded == []
    assert again.digest == first.digest


def test_progress_counts_up_to_all_images(toy_manifest: Manifest, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    open_store(toy_manifest, SMALL, cache=tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (60, 60)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    seen.clear()
    open_store(toy_manifest, SMALL, cache=tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen == []


def test_an_interrupted_build_continues_and_gives_the_same_bytes(
    toy_manifest: Manifest, tmp_path: Path, decoded: list[Path]
) -> None:
    whole = open_store(toy_manifest, SMALL, cache=tmp_path / "whole")
    decoded.clear()

    def interrupt(done: int, total: int) -> None:
        if done >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_store(toy_manifest, SMALL, cache=tmp_path / "cut", workers=2, progress=interrupt)
    started = len(decoded)
    assert 20 <= started < 60
    decoded.clear()
    finished = open_store(toy_manifest, SMALL, cache=tmp_path / "cut", workers=2)
    assert 0 < len(decoded) <= 40
    assert stored_bytes(finished) == stored_bytes(whole)


BUILD = """
    import sys, time
    from pathlib import Path
    from medtail.pixels import store
    from medtail.pixels.settings import PixelConfig
    from medtail.tables.manifest import read_manifest

    cache, manifest, pause_s = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    inner = store.read_image
    def slow(path):
        time.sleep(pause_s)
        return inner(path)
    store.read_image = slow
    print("ready", flush=True)
    opened = store.open_store(read_manifest(manifest), PixelConfig(size_px=16), cache=cache, workers=2,
                              progress=lambda done, total: print(done, flush=True))
    print(opened.images(range(len(opened))).sum(), flush=True)
"""


def start_build(cache: Path, manifest: Path, *, pause_s: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(BUILD), str(cache), str(manifest), str(pause_s)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_killed_build_continues_and_gives_the_same_bytes(
    toy_manifest: Manifest, tmp_path: Path, decoded: list[Path]
) -> None:
    toy_manifest.write(tmp_path / "toy.csv")
    whole = open_store(toy_manifest, SMALL, cache=tmp_path / "whole")
    decoded.clear()
    with start_build(tmp_path / "cut", tmp_path / "toy.csv", pause_s=0.02) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip().isdigit() and int(line) >= 15:
                break
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    finished = open_store(toy_manifest, SMALL, cache=tmp_path / "cut")
    assert 0 < len(decoded) <= 45
    assert stored_bytes(finished) == stored_bytes(whole)


def test_two_processes_at_once_build_one_whole_store(toy_manifest: Manifest, tmp_path: Path) -> None:
    toy_manifest.write(tmp_path / "toy.csv")
    cache = tmp_path / "cache"
    processes = [start_build(cache, tmp_path / "toy.csv", pause_s=0.01) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    opened = open_store(toy_manifest, SMALL, cache=cache)
    total = str(opened.images(range(60)).sum())
    assert [output[-1] for output in outputs] == [total, total]
    # the one that came second found the work done: it printed no progress
    assert min(len(output) for output in outputs) == 2


def test_one_damaged_byte_is_found_and_only_its_image_is_made_again(
    toy_manifest: Manifest, tmp_path: Path, decoded: list[Path]
) -> None:
    opened = open_store(toy_manifest, SMALL, cache=tmp_path)
    before = stored_bytes(opened)
    for path in (opened.file.pixels_path, opened.file.records_path):
        decoded.clear()
        with path.open("r+b") as handle:
            handle.seek(300)
            byte = handle.read(1)
            handle.seek(300)
            handle.write(bytes([byte[0] ^ 1]))
        assert stored_bytes(opened) != before
        mended = open_store(toy_manifest, SMALL, cache=tmp_path)
        assert len(decoded) == 1
        assert stored_bytes(mended) == before


@pytest.mark.parametrize("name", [slots.PIXELS_NAME, slots.RECORDS_NAME])
@pytest.mark.parametrize("keep", [0, 100, 10**6, None])
def test_a_file_of_the_wrong_length_or_none_is_mended(
    toy_manifest: Manifest, tmp_path: Path, name: str, keep: int | None
) -> None:
    opened = open_store(toy_manifest, SMALL, cache=tmp_path)
    before = stored_bytes(opened)
    damaged = opened.file.folder / name
    whole = damaged.read_bytes()
    damaged.unlink() if keep is None else damaged.write_bytes(whole[:keep].ljust(min(keep, len(whole) + 9), b"x"))
    assert stored_bytes(open_store(toy_manifest, SMALL, cache=tmp_path)) == before


def test_a_changed_file_or_setting_makes_another_store(toy_manifest: Manifest, tmp_path: Path) -> None:
    first = open_store(toy_manifest, SMALL, cache=tmp_path)
    larger = open_store(toy_manifest, PixelConfig(size_px=24), cache=tmp_path)
    Image.fromarray(np.full((40, 48), 77, np.uint8)).save(toy_manifest.image_path(5))
    changed = open_store(toy_manifest, SMALL, cache=tmp_path)
    assert len({first.digest, larger.digest, changed.digest}) == 3
    assert len({first.file.folder, larger.file.folder, changed.file.folder}) == 3
    assert 77 in np.unique(changed.images([5]))
    assert not np.array_equal(first.images([5]), changed.images([5]))
    others = np.delete(np.arange(60), 5)
    assert np.array_equal(first.images(others), changed.images(others))


def test_order_labels_and_names_find_the_same_store(
    toy_manifest: Manifest, tmp_path: Path, decoded: list[Path]
) -> None:
    first = open_store(toy_manifest, SMALL, cache=tmp_path)
    decoded.clear()
    order = np.random.default_rng(0).permutation(60)
    shuffled = toy_manifest.take(order).with_classes(["bright"])
    again = open_store(shuffled, SMALL, cache=tmp_path)
    assert decoded == []
    assert again.file == first.file
    assert again.digest != first.digest
    assert np.array_equal(again.images(range(60)), first.images(order))


def test_identical_images_share_a_slot(toy_manifest: Manifest, tmp_path: Path) -> None:
    toy_manifest.image_path(1).write_bytes(toy_manifest.image_path(0).read_bytes())
    opened = open_store(toy_manifest, SMALL, cache=tmp_path)
    assert opened.file.count == 59
    assert opened.slots[0] == opened.slots[1]
    assert np.array_equal(opened.images([0]), opened.images([1]))


def test_every_unreadable_image_is_named_at_once(toy_manifest: Manifest, tmp_path: Path, shared_data: Path) -> None:
    jpeg = next((shared_data / "bus_bra" / "images").glob("*.jpg")).read_bytes()
    toy_manifest.image_path(3).write_bytes(jpeg[: len(jpeg) // 2])
    toy_manifest.image_path(9).write_text("a letter, not a picture")
    with pytest.raises(MedtailError) as caught:
        open_store(toy_manifest, SMALL, cache=tmp_path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("toy.csv, row 5, column 'path': ")
    assert "003.png: damaged or truncated image" in lines[0]
    assert lines[1].startswith("toy.csv, row 11, column 'path': ")
    assert "not an image by its content" in lines[1]
    # the good ones were kept; the bad ones are still refused, not taken for made
    with pytest.raises(MedtailError, match="row 5"):
        open_store(toy_manifest, SMALL, cache=tmp_path)


def test_a_missing_file_is_named(toy_manifest: Manifest, tmp_path: Path) -> None:
    toy_manifest.image_path(3).unlink()
    with pytest.raises(MedtailError, match="row 5, column 'path': no file"):
        open_store(toy_manifest, SMALL, cache=tmp_path)


def test_missing_regions_are_named_or_the_whole_image_is_taken(toy_manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(MedtailError, match=r"no columns roi_x, .*; expected them for pixels\.crop 'roi'"):
        open_store(toy_manifest, PixelConfig(size_px=16, crop="roi"), cache=tmp_path)
    frame = toy_manifest.frame.assign(roi_x=4.0, roi_y=4.0, roi_w=8.0, roi_h=8.0)
    frame.loc[[2, 7], ["roi_x", "roi_y", "roi_w", "roi_h"]] = np.nan
    manifest = manifest_from_frame(frame, name="rois.csv", root=toy_manifest.root)
    with pytest.raises(MedtailError, match=r"(?s)rois.csv, row 4, columns .*rois.csv, row 9, columns"):
        open_store(manifest, PixelConfig(size_px=16, crop="roi"), cache=tmp_path)
    config = PixelConfig(size_px=16, crop="roi", missing_roi="whole")
    opened = open_store(manifest, config, cache=tmp_path)
    whole = open_store(toy_manifest, SMALL, cache=tmp_path)
    assert np.array_equal(opened.images([2, 7]), whole.images([2, 7]))
    assert not np.array_equal(opened.images([3]), whole.images([3]))


def test_a_region_outside_its_image_is_named(toy_manifest: Manifest, tmp_path: Path) -> None:
    frame = toy_manifest.frame.assign(roi_x=4.0, roi_y=4.0, roi_w=8.0, roi_h=8.0)
    frame.loc[2, "roi_x"] = 480.0
    manifest = manifest_from_frame(frame, name="rois.csv", root=toy_manifest.root)
    with pytest.raises(MedtailError, match=r"rois.csv, row 4, column 'path': .*002\.png: roi \(x 480, .*width 48"):
        open_store(manifest, PixelConfig(size_px=16, crop="roi"), cache=tmp_path)


@pytest.mark.parametrize("when", ["claiming the space", "writing"])
def test_a_full_disk_is_explained_and_leaves_nothing(
    toy_manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    writes = 0

    def full(*arguments: object) -> None:
        nonlocal writes
        writes += 1
        if when == "claiming the space" or writes > 21:
            raise OSError(errno.ENOSPC, "No space left on device")

    name = "_claim_space" if when == "claiming the space" else "_write_at"
    with monkeypatch.context() as patched:
        patched.setattr(slots, name, full)
        with pytest.raises(MedtailError, match=r"the disk is full; .*60 images.*MEDTAIL_CACHE") as caught:
            open_store(toy_manifest, SMALL, cache=tmp_path / "cache")
    assert str(tmp_path / "cache") in str(caught.value)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    opened = open_store(toy_manifest, SMALL, cache=tmp_path / "cache")
    assert opened.images(range(60)).any(axis=(1, 2, 3)).all()


def test_a_place_that_may_not_be_written_is_explained(toy_manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MedtailError, match=r"cannot be written .*MEDTAIL_CACHE"):
        open_store(toy_manifest, SMALL, cache=tmp_path / "file" / "cache")


def test_16_bit_images_keep_their_declared_range(tmp_path: Path) -> None:
    Image.fromarray(np.full((20, 20), 32896, np.uint16)).save(tmp_path / "a.png")
    frame = pd.DataFrame({"image_id": ["a"], "path": ["a.png"], "patient_id": ["1"], "x": [1]})
    opened = open_store(manifest_from_frame(frame, root=tmp_path), SMALL, cache=tmp_path / "cache")
    assert np.unique(opened.images([0])).tolist() == [128]


def test_a_store_travels_small_between_processes(toy_manifest: Manifest, tmp_path: Path) -> None:
    opened = open_store(toy_manifest, PixelConfig(size_px=64), cache=tmp_path)
    images = opened.images([4, 2])
    packed = pickle.dumps(opened)
    assert len(packed) < 10_000
    assert np.array_equal(pickle.loads(packed).images([4, 2]), images)


def test_a_row_outside_the_manifest_is_refused(toy_manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(IndexError):
        open_store(toy_manifest, SMALL, cache=tmp_path).images([60])
