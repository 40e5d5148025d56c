from __future__ import annotations

import contextlib
import errno
import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medtail.errors import MedtailError
from medtail.pixels import content, slots, store
from medtail.pixels.decode import read_image
from medtail.pixels.letterbox import letterbox
from medtail.pixels.settings import PixelConfig
from medtail.pixels.store import PixelStore, open_store
from medtail.tables import remote
from medtail.tables.manifest import Manifest, manifest_from_frame
from medtail.tables.remote import Servers

SMALL = PixelConfig(size_px=16)


def stored_files(opened: PixelStore) -> list[Path]:
    numbers = range(opened.files.shards)
    return [place(number) for place in (opened.files.pixels_path, opened.files.records_path) for number in numbers]


def stored_bytes(opened: PixelStore) -> list[bytes]:
    return [path.read_bytes() for path in stored_files(opened)]


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
    store.SHARD_BYTES = int(sys.argv[4])
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


def start_build(
    cache: Path, manifest: Path, *, pause_s: float, shard_bytes: int = slots.SHARD_BYTES
) -> subprocess.Popen[str]:
    arguments = [str(cache), str(manifest), str(pause_s), str(shard_bytes)]
    command = [sys.executable, "-c", textwrap.dedent(BUILD), *arguments]
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


@pytest.mark.slow
def test_ten_kills_at_random_moments_change_no_byte(
    toy_manifest: Manifest, tmp_path: Path, decoded: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    toy_manifest.write(tmp_path / "toy.csv")
    monkeypatch.setattr(store, "SHARD_BYTES", 7 * 16 * 16)
    whole = open_store(toy_manifest, SMALL, cache=tmp_path / "whole")
    random = np.random.default_rng(0)
    cut = tmp_path / "cut"
    kills, done = 0, -1
    while kills < 10:
        with start_build(cut, tmp_path / "toy.csv", pause_s=0.02, shard_bytes=7 * 16 * 16) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            # from before the folder is there to after the last image: a build of 60 takes about .6 s on two threads
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=float(random.uniform(0.0, 0.35)))
            process.send_signal(signal.SIGKILL)
        if process.returncode != -signal.SIGKILL:  # it had finished: nothing was killed; start afresh
            shutil.rmtree(cut)
            done = -1
            continue
        kills += 1
        sound = int(replace(whole.files, folder=cut / whole.files.folder.name).sound().sum())
        assert sound >= done, "what was made before a kill is still there after it"
        done = sound
    decoded.clear()
    finished = open_store(toy_manifest, SMALL, cache=cut)
    assert len(decoded) == 60 - done
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
    for path in stored_files(opened):
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


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("keep", [0, 100, 10**6, None])
def test_a_file_of_the_wrong_length_or_none_is_mended(
    toy_manifest: Manifest, tmp_path: Path, number: int, keep: int | None
) -> None:
    opened = open_store(toy_manifest, SMALL, cache=tmp_path)
    before = stored_bytes(opened)
    damaged = stored_files(opened)[number]
    whole = damaged.read_bytes()
    damaged.unlink() if keep is None else damaged.write_bytes(whole[:keep].ljust(min(keep, len(whole) + 9), b"x"))
    assert stored_bytes(open_store(toy_manifest, SMALL, cache=tmp_path)) == before


@pytest.fixture
def seven_a_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    """60 images of 16 px in nine files."""
    monkeypatch.setattr(store, "SHARD_BYTES", 7 * 16 * 16 + 5)


def test_the_images_do_not_depend_on_the_size_of_the_files(
    toy_manifest: Manifest, tmp_path: Path, seven_a_shard: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_store(toy_manifest, SMALL, cache=tmp_path / "nine")
    assert opened.files.shards == 9
    assert max(path.stat().st_size for path in stored_files(opened)) == 7 * 16 * 16
    monkeypatch.setattr(store, "SHARD_BYTES", slots.SHARD_BYTES)
    whole = open_store(toy_manifest, SMALL, cache=tmp_path / "one")
    assert whole.files.shards == 1
    assert np.array_equal(opened.images(range(60)), whole.images(range(60)))
    assert (opened.content_boxes == whole.content_boxes).all()
    assert opened.digest == whole.digest


def test_a_lost_shard_costs_its_own_images_only(
    toy_manifest: Manifest, tmp_path: Path, decoded: list[Path], seven_a_shard: None
) -> None:
    opened = open_store(toy_manifest, SMALL, cache=tmp_path)
    before = stored_bytes(opened)
    for number in (3, 9 + 8):  # a file of pixels, and the records of the last shard, which has four images
        stored_files(opened)[number].unlink()
        decoded.clear()
        mended = open_store(toy_manifest, SMALL, cache=tmp_path)
        assert len(decoded) == (7 if number == 3 else 4)
        assert stored_bytes(mended) == before


def everything_below(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Names, times and bytes; a folder's time changes with every file made or removed in it."""
    found = {}
    for path in (folder, *sorted(folder.rglob("*"))):
        status = path.stat()
        found[str(path)] = (status.st_mtime_ns, status.st_mode, path.read_bytes() if path.is_file() else b"")
    return found


@pytest.fixture
def settled_images(toy_manifest: Manifest) -> Manifest:
    """Images old enough for their digests to be remembered."""
    for path in toy_manifest.image_paths():
        os.utime(path, ns=(10**18, 10**18))
    return toy_manifest


def test_opening_a_whole_store_writes_nothing(
    settled_images: Manifest, tmp_path: Path, decoded: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "built elsewhere"
    built = open_store(settled_images, SMALL, cache=cache)
    for path in cache.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    cache.chmod(0o555)
    before = everything_below(cache)
    decoded.clear()

    def locking(*arguments: object) -> None:
        raise AssertionError("a store that is whole needs no lock")

    monkeypatch.setattr(store, "FileLock", locking)
    opened = open_store(settled_images, SMALL, cache=cache)
    assert opened.digest == built.digest
    assert opened.images(range(60)).any()
    assert decoded == []
    assert everything_below(cache) == before


def test_a_cache_that_cannot_remember_digests_is_read_all_the_same(
    settled_images: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    built = open_store(settled_images, SMALL, cache=cache)
    (cache / "content.sqlite").unlink()

    def refusing(*arguments: object, **named: object) -> None:
        raise content.sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr(content.sqlite3, "connect", refusing)
    before = everything_below(cache)
    assert open_store(settled_images, SMALL, cache=cache).digest == built.digest
    assert everything_below(cache) == before


def test_a_store_that_goes_away_while_it_is_read_is_explained(toy_manifest: Manifest, tmp_path: Path) -> None:
    opened = open_store(toy_manifest, SMALL, cache=tmp_path)
    os.truncate(opened.files.pixels_path(0), 100)
    with pytest.raises(MedtailError, match=r"prepared pixels cannot be read any more .*Start again"):
        opened.images([0, 59])
    shutil.rmtree(opened.files.folder)
    with pytest.raises(MedtailError, match=r"prepared pixels cannot be read any more .*Start again"):
        pickle.loads(pickle.dumps(opened)).images([0])


def test_a_changed_file_or_setting_makes_another_store(toy_manifest: Manifest, tmp_path: Path) -> None:
    first = open_store(toy_manifest, SMALL, cache=tmp_path)
    larger = open_store(toy_manifest, PixelConfig(size_px=24), cache=tmp_path)
    Image.fromarray(np.full((40, 48), 77, np.uint8)).save(toy_manifest.image_path(5))
    changed = open_store(toy_manifest, SMALL, cache=tmp_path)
    assert len({first.digest, larger.digest, changed.digest}) == 3
    assert len({first.files.folder, larger.files.folder, changed.files.folder}) == 3
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
    assert again.files == first.files
    assert again.digest != first.digest
    assert np.array_equal(again.images(range(60)), first.images(order))


def test_identical_images_share_a_slot(toy_manifest: Manifest, tmp_path: Path) -> None:
    toy_manifest.image_path(1).write_bytes(toy_manifest.image_path(0).read_bytes())
    opened = open_store(toy_manifest, SMALL, cache=tmp_path)
    assert opened.files.count == 59
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


@pytest.fixture
def bucket(settled_images: Manifest) -> Iterator[Manifest]:
    """The same images in the memory file system of fsspec, as if in an object store."""
    memory = fsspec.filesystem("memory")
    for path in settled_images.image_paths():
        assert isinstance(path, Path)
        memory.pipe(f"/bucket/images/{path.name}", path.read_bytes())
    frame = settled_images.frame.assign(path=[Path(path).name for path in settled_images.frame["path"]])
    yield manifest_from_frame(frame, name="toy.csv", root="memory://bucket/images")
    memory.store.clear()


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    really = Servers.fetch
    monkeypatch.setattr(Servers, "fetch", lambda self, remote: (names.append(remote.name), really(self, remote))[1])
    return names


def test_images_behind_urls_give_the_same_store_as_those_on_disk(
    toy_manifest: Manifest, bucket: Manifest, tmp_path: Path, decoded: list[Path], fetched: list[str]
) -> None:
    away = open_store(bucket, SMALL, cache=tmp_path / "away")
    assert len(fetched) == 2 * 60  # once to know what it is, once to decode
    assert decoded == []
    fetched.clear()
    assert open_store(bucket, SMALL, cache=tmp_path / "away").digest == away.digest
    assert fetched == []  # nothing has changed, so nothing is sent again
    here = open_store(toy_manifest, SMALL, cache=tmp_path / "here")
    assert stored_bytes(here) == stored_bytes(away)
    assert here.digest == away.digest
    decoded.clear()
    assert open_store(toy_manifest, SMALL, cache=tmp_path / "away").digest == here.digest
    assert decoded == []
    assert not list(tmp_path.rglob("memory:*"))


def test_a_changed_object_makes_another_store_and_is_the_only_one_sent(
    bucket: Manifest, tmp_path: Path, fetched: list[str]
) -> None:
    before = open_store(bucket, SMALL, cache=tmp_path)
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/images/005.png", memory.cat_file("/bucket/images/006.png"))
    fetched.clear()
    after = open_store(bucket, SMALL, cache=tmp_path)
    assert after.files.folder != before.files.folder
    assert fetched.count("005.png") >= 1
    assert np.array_equal(after.images([5]), before.images([6]))


def test_an_object_that_changes_while_the_store_is_made_is_not_believed(
    bucket: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = fsspec.filesystem("memory")
    other = memory.cat_file("/bucket/images/006.png")
    really = store.content_digests

    def changed_after(*arguments: Any, **named: Any) -> Any:
        digests = really(*arguments, **named)
        memory.pipe("/bucket/images/005.png", other)
        return digests

    monkeypatch.setattr(store, "content_digests", changed_after)
    with pytest.raises(MedtailError, match=r"row 7, column 'path': memory://bucket/images/005.png: it was changed"):
        open_store(bucket, SMALL, cache=tmp_path)


def test_every_missing_or_damaged_object_is_named(bucket: Manifest, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.rm("/bucket/images/003.png")
    memory.rm("/bucket/images/009.png")
    with pytest.raises(MedtailError) as caught:
        open_store(bucket, SMALL, cache=tmp_path)
    assert [line.split(",")[1] for line in str(caught.value).splitlines()] == [" row 5", " row 11"]
    with pytest.raises(MedtailError, match="2 of 60 files are missing: rows 5, 11"):
        bucket.check_files()
    memory.pipe("/bucket/images/003.png", b"a letter, not a picture")
    memory.pipe("/bucket/images/009.png", b"")
    with pytest.raises(MedtailError) as caught:
        open_store(bucket, SMALL, cache=tmp_path)
    assert "not an image by its content" in str(caught.value)
    assert "memory://bucket/images/009.png: the file is empty" in str(caught.value)


def test_a_machine_without_a_network_says_so_in_a_line_for_all_rows(
    toy_manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    frame = toy_manifest.frame.assign(path=[f"http://127.0.0.1:9/{path}" for path in toy_manifest.frame["path"]])
    with pytest.raises(MedtailError) as caught:
        open_store(manifest_from_frame(frame, name="toy.csv"), SMALL, cache=tmp_path)
    lines = str(caught.value).splitlines()
    assert len(lines) <= 3
    assert all("http://127.0.0.1:9" in line and line.startswith("toy.csv, row") for line in lines)
    assert any("is there a network?" in line for line in lines)
