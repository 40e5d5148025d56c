from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from medtail.pixels import slots
from medtail.pixels.slots import SlotFiles, SlotReader

SHAPE = (1, 4, 4)
COUNT = 23
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, *SHAPE), dtype=np.uint8)


def in_fives(folder: Path) -> SlotFiles:
    """Slots of 16 bytes in files of at most 95: five a shard, three in the last."""
    return SlotFiles(folder, COUNT, SHAPE, shard_bytes=95)


@pytest.fixture
def written(tmp_path: Path) -> SlotFiles:
    files = in_fives(tmp_path / "store")
    files.allocate()
    with files.writing() as writer:
        for slot in np.random.default_rng(1).permutation(COUNT):  # across all shards, back and forth
            writer.put(int(slot), PIXELS[slot], (0, 0, int(slot), 4))
    return files


def read(files: SlotFiles, numbers: np.ndarray) -> np.ndarray:
    images = np.empty((len(numbers), *SHAPE), dtype=np.uint8)
    with contextlib.closing(SlotReader(files)) as reader:
        reader.into(images, numbers)
    return images


@contextlib.contextmanager
def counted_descriptors(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Open descriptors at each moment one was opened; none may be left over."""
    opened, most = set[int](), list[int]()
    really_open, really_close = os.open, os.close

    def opening(*arguments: object, **named: object) -> int:
        descriptor = really_open(*arguments, **named)  # type: ignore[arg-type]
        opened.add(descriptor)
        most.append(len(opened))
        return descriptor

    def closing(descriptor: int) -> None:
        opened.discard(descriptor)
        really_close(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(slots.os, "open", opening)
        patched.setattr(slots.os, "close", closing)
        yield most
    assert not opened


def test_no_file_of_pixels_is_larger_than_allowed_and_none_is_short(written: SlotFiles) -> None:
    sizes = [written.pixels_path(shard).stat().st_size for shard in range(written.shards)]
    assert sizes == [80, 80, 80, 80, 48]
    assert [list(written.slots_of(4)), written.slots_of(1)] == [[20, 21, 22], range(5, 10)]
    names = sorted(path.name for path in written.folder.iterdir())
    assert names == sorted(f"{shard:05d}.{kind}" for shard in range(5) for kind in ("pixels", "records"))


def test_a_slot_larger_than_a_shard_has_a_file_of_its_own(tmp_path: Path) -> None:
    files = SlotFiles(tmp_path, 3, SHAPE, shard_bytes=7)
    assert (files.per_shard, files.shards) == (1, 3)


def test_every_slot_is_read_back_in_any_order_and_repeated(written: SlotFiles) -> None:
    numbers = np.random.default_rng(2).integers(0, COUNT, 200)
    assert np.array_equal(read(written, numbers), PIXELS[numbers])
    assert written.sound().all()
    assert written.records()["box"][:, 2].tolist() == list(range(COUNT))


def test_bytes_do_not_depend_on_how_they_are_shared_out(written: SlotFiles, tmp_path: Path) -> None:
    whole = SlotFiles(tmp_path / "whole", COUNT, SHAPE)
    assert whole.shards == 1
    whole.allocate()
    with whole.writing() as writer:
        for slot in range(COUNT):
            writer.put(slot, PIXELS[slot], (0, 0, slot, 4))
    for place in ("pixels_path", "records_path"):
        parts = b"".join(getattr(written, place)(shard).read_bytes() for shard in range(written.shards))
        assert parts == getattr(whole, place)(0).read_bytes()


@pytest.mark.parametrize("most", [1, 2, 100])
def test_a_reader_holds_few_files_open_and_threads_may_share_it(
    written: SlotFiles, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(slots, "OPEN_SHARDS", most)
    with counted_descriptors(monkeypatch) as opened:
        reader = SlotReader(written)

        def some(seed: int) -> bool:
            numbers = np.random.default_rng(seed).integers(0, COUNT, 50)
            images = np.empty((50, *SHAPE), dtype=np.uint8)
            reader.into(images, numbers)
            return np.array_equal(images, PIXELS[numbers])

        with ThreadPoolExecutor(3) as pool:
            assert all(pool.map(some, range(12)))
        reader.close()
        assert max(opened) <= min(most, written.shards) + 3  # one more a thread, for a moment


def test_a_writer_holds_few_files_open(written: SlotFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "WRITING_SHARDS", 1)
    files = in_fives(tmp_path / "again")
    files.allocate()
    with files.writing() as writer:
        for slot in range(COUNT):
            writer.put(slot, PIXELS[slot], (0, 0, slot, 4))
            assert len(writer._open) == 1
    assert files.sound().all()


@pytest.mark.parametrize("slot", [0, 4, 5, 14, 22])
@pytest.mark.parametrize("kind", ["pixels", "checksum", "box", "filled"])
def test_one_flipped_bit_anywhere_costs_its_slot_and_no_other(written: SlotFiles, slot: int, kind: str) -> None:
    shard, inside = divmod(slot, 5)
    path = written.pixels_path(shard) if kind == "pixels" else written.records_path(shard)
    first = {"pixels": 16 * inside + 7, "checksum": 13 * inside, "box": 13 * inside + 9, "filled": 13 * inside + 12}
    content = bytearray(path.read_bytes())
    content[first[kind]] ^= 0x10
    path.write_bytes(content)
    assert np.flatnonzero(~written.sound(workers=2)).tolist() == [slot]


@pytest.mark.parametrize("kind", ["pixels_path", "records_path"])
@pytest.mark.parametrize("damage", ["lost", "short", "long", "folder"])
def test_a_lost_or_cut_file_costs_its_shard_and_no_other(written: SlotFiles, kind: str, damage: str) -> None:
    path = getattr(written, kind)(2)
    content = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "lost":
        path.write_bytes(content[:-1] if damage == "short" else content + b"x")
    assert np.flatnonzero(~written.sound()).tolist() == [10, 11, 12, 13, 14]
    if damage != "folder":
        written.allocate()  # makes the file's size right, keeps what it holds
        good = written.sound()
        assert good[~np.isin(np.arange(COUNT), range(10, 15))].all()


def test_slots_that_were_never_filled_are_not_sound_and_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = in_fives(tmp_path)
    assert not files.sound().any()
    files.allocate()
    with files.writing() as writer:
        for slot in (3, 4, 5, 12):
            writer.put(slot, PIXELS[slot], (0, 0, 4, 4))
    runs: list[tuple[int, int]] = []
    really = SlotReader.run
    monkeypatch.setattr(SlotReader, "run", lambda self, *ends: (runs.append(ends), really(self, *ends))[1])
    assert np.flatnonzero(files.sound()).tolist() == [3, 4, 5, 12]
    assert sorted(runs) == [(3, 5), (5, 6), (12, 13)]  # shard by shard, neighbours at once
    runs.clear()
    assert files.sound(np.array([4, 7, 22])).tolist() == [True, False, False]
    assert runs == [(4, 5)]


def test_a_file_cut_while_it_is_read_is_an_error_and_not_the_end_of_the_process(written: SlotFiles) -> None:
    images = np.empty((1, *SHAPE), dtype=np.uint8)
    with contextlib.closing(SlotReader(written)) as reader:
        reader.into(images, np.array([22]))
        os.truncate(written.pixels_path(4), 40)  # a memory map would be killed by SIGBUS here
        with pytest.raises(OSError, match="ends too early"):
            reader.into(images, np.array([22]))


def test_a_write_that_fails_leaves_no_file_open_and_keeps_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = in_fives(tmp_path)
    files.allocate()
    shutil.move(files.records_path(3), tmp_path / "away")

    def write() -> None:
        with files.writing() as writer:
            for slot in range(COUNT):
                writer.put(slot, PIXELS[slot], (0, 0, 4, 4))

    with pytest.raises(FileNotFoundError):
        write()  # a file left open would be a ResourceWarning, which is an error here
    assert np.flatnonzero(files.sound()).tolist() == list(range(15))


def test_reading_without_positioned_reads_gives_the_same(written: SlotFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(slots.os, "preadv")  # as on Windows
    numbers = np.array([22, 0, 7, 7])
    assert np.array_equal(read(written, numbers), PIXELS[numbers])
    assert written.sound().all()
