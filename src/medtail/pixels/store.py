"""Prepared pixels of a manifest, made once and then read from a memory map.

Decoding and resizing an image costs about a hundred times what reading its finished pixels costs, so training never
decodes twice. A store is found by what decides its bytes: the settings, the content of every file and the regions
cut out. Renaming, relabelling or reordering finds the same store; one changed file makes a new one. `slots` keeps
the bytes safe on disk, `letterbox` makes them, `dataset` turns them into batches.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, final

import numpy as np
from filelock import FileLock

from medtail.errors import MedtailError, Problems
from medtail.pixels.content import content_digests
from medtail.pixels.decode import read_image
from medtail.pixels.letterbox import Box, letterbox
from medtail.pixels.settings import CACHE_VARIABLE, PixelConfig, default_cache
from medtail.pixels.slots import SlotFile
from medtail.runs import digest_bytes, digest_json
from medtail.tables.manifest import ROI, Manifest

FORMAT = 1
"""Raised whenever decoding, letterboxing or the files of a store change: older stores are then not found."""

Progress = Callable[[int, int], None]


@final
@dataclass(frozen=True, eq=False)
class PixelStore:
    """The prepared pixels of every row of a manifest. Small to pickle; maps its file when first read.

    Attributes:
        file: Where the pixels are; identical images share a slot.
        slots: Slot of each row, integers [rows].
        content_boxes: Part of each row's square that holds image rather than bars: left, top, right, bottom in
            pixels, int16 [rows, 4].
        config: How the pixels were made.
        digest: SHA-256 over settings and content of every row, in the manifest's order.
    """

    file: SlotFile
    slots: np.ndarray
    content_boxes: np.ndarray
    config: PixelConfig
    digest: str

    def __len__(self) -> int:
        return len(self.slots)

    @cached_property
    def _pixels(self) -> np.ndarray:
        return np.asarray(self.file.pixels())

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_pixels"}

    def images(self, rows: np.ndarray | Sequence[int]) -> np.ndarray:
        """Read the pixels of some rows.

        Args:
            rows: Row numbers of the manifest, integers [n], repeats allowed.

        Returns:
            A new array, uint8 [n, channels, size, size].

        Raises:
            IndexError: A row is outside the manifest.
        """
        slots = self.slots[np.asarray(rows, dtype=np.int64)]
        images = np.empty((len(slots), *self.file.shape), dtype=np.uint8)
        # in file order: neighbours share pages, and a disk reads forwards
        for place in np.argsort(slots, kind="stable"):
            images[place] = self._pixels[slots[place]]
        return images


def open_store(
    manifest: Manifest,
    config: PixelConfig,
    *,
    cache: Path | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> PixelStore:
    """Open the prepared pixels of a manifest, making what is not there yet.

    The store is checked whole against its checksums; missing or damaged images are made again, in parallel. A build
    that was interrupted continues. Several processes may ask for the same store at once: one builds, the others wait.

    Args:
        manifest: The images; files are found through `Manifest.image_path`.
        config: How to prepare them.
        cache: Folder of the stores; `$MEDTAIL_CACHE` or `~/.cache/medtail/pixels` if None.
        workers: Threads; as many as this process may use cores if None.
        progress: Called as `progress(done, total)` with the distinct images made, when there are any to make.

    Returns:
        The store; row i is row i of the manifest.

    Raises:
        MedtailError: Files are missing or cannot be read as images, regions are missing or outside (all rows named at
            once), or the disk is full or may not be written.

    Example:
        >>> import tempfile
        >>> import pandas as pd
        >>> from PIL import Image
        >>> from medtail.tables.manifest import manifest_from_frame
        >>> folder = Path(tempfile.mkdtemp())
        >>> Image.fromarray(np.full((30, 40), 200, np.uint8)).save(folder / "a.png")
        >>> frame = pd.DataFrame({"image_id": ["a"], "path": ["a.png"], "patient_id": ["1"], "Hernia": [1]})
        >>> store = open_store(manifest_from_frame(frame, root=folder), PixelConfig(size_px=8), cache=folder / "cache")
        >>> store.images([0])[0, 0, :, 0], store.content_boxes.tolist()
        (array([  0, 200, 200, 200, 200, 200, 200,   0], dtype=uint8), [[0, 1, 8, 7]])
    """
    manifest.check_files()
    cache = Path(cache) if cache is not None else default_cache()
    workers = workers if workers is not None else _usable_cores()
    with _explained(cache):
        cache.mkdir(parents=True, exist_ok=True)
    paths, rois = manifest.image_paths(), regions(manifest, config)
    keys = _row_keys(manifest, paths, rois, memory=cache / "content.sqlite", workers=workers)
    distinct, first_rows, slots = np.unique(np.array(keys), return_index=True, return_inverse=True)
    identity = {"format": FORMAT, "pillow": version("pillow"), "pydicom": version("pydicom"), **config.identity()}
    key = digest_bytes(digest_json(identity).encode(), "".join(distinct).encode())
    file = SlotFile(cache / key[:32], len(distinct), config.shape)
    if not file.sound(workers=workers).all():
        with _explained(cache, building=file), FileLock(str(cache / f"{key[:32]}.lock")):
            # another process may have finished it while this one waited
            empty = np.flatnonzero(~file.sound(workers=workers))
            file.allocate()
            (file.folder / "settings.json").write_text(json.dumps(identity, indent=1) + "\n", encoding="utf-8")
            jobs = [(int(slot), paths[first_rows[slot]], rois[first_rows[slot]]) for slot in empty]
            failed = _fill(file, jobs, config=config, workers=workers, progress=progress)
        _report(failed, manifest=manifest, slots=slots)
    return PixelStore(
        file=file,
        slots=slots.astype(np.int64),
        content_boxes=file.records()["box"][slots].astype(np.int16),
        config=config,
        digest=digest_bytes(key.encode(), slots.astype("<i8").tobytes()),
    )


def _usable_cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def regions(manifest: Manifest, config: PixelConfig) -> list[Box | None]:
    """Return the region of each row; none where the settings do not ask for one. No image is read.

    Args:
        manifest: The table.
        config: Says whether regions are cut out, and what a row without one means.

    Raises:
        MedtailError: Rows have no region and the settings ask for one; all are named.
    """
    if config.crop == "none":
        return [None] * len(manifest)
    if not set(ROI) <= set(manifest.frame.columns):
        if config.missing_roi == "whole":
            return [None] * len(manifest)
        raise MedtailError(
            f"{manifest.name}: no columns {', '.join(ROI)}; expected them for pixels.crop 'roi'."
            " Set pixels.crop to 'none', or add the columns."
        )
    values = manifest.frame[list(ROI)].to_numpy(dtype=float)
    rois: list[Box | None] = []
    problems = Problems(manifest.name)
    for row, (x, y, width, height) in enumerate(values):
        known = not np.isnan((x, y, width, height)).any()
        rois.append((int(x), int(y), int(width), int(height)) if known else None)
        if not known and config.missing_roi == "error":
            problems.add(
                f"row {row + 2}, columns {', '.join(ROI)}: empty; expected a region for pixels.crop 'roi'"
                " (or set pixels.missing_roi to 'whole')."
            )
    problems.raise_if_any()
    return rois


def _row_keys(
    manifest: Manifest, paths: Sequence[Path], rois: Sequence[Box | None], *, memory: Path, workers: int
) -> list[str]:
    """Return what decides each row's pixels, given the settings: the file's content and the region."""
    problems = Problems(manifest.name)
    keys = []
    for row, content in enumerate(content_digests(paths, memory=memory, workers=workers)):
        if isinstance(content, OSError):
            problems.add(f"row {row + 2}, column 'path': {str(paths[row])!r} cannot be read ({content}).")
        else:
            keys.append(digest_bytes(content.encode(), repr(rois[row]).encode()))
    problems.raise_if_any()
    return keys


Job = tuple[int, Path, Box | None]


def _prepare(path: Path, roi: Box | None, config: PixelConfig) -> tuple[np.ndarray, Box]:
    return letterbox(read_image(path), config=config, roi=roi)


def _fill(
    file: SlotFile, jobs: Sequence[Job], *, config: PixelConfig, workers: int, progress: Progress | None
) -> dict[int, Exception]:
    """Prepare images in parallel and write each to its slot; return the errors by slot.

    Threads, not processes: decoding and resizing leave Python's lock, and nothing need be copied between them.
    Results are written as they come, by this thread alone; slots make the order irrelevant.
    """
    failed: dict[int, Exception] = {}
    waiting: dict[Future[tuple[np.ndarray, Box]], int] = {}
    done_before = file.count - len(jobs)

    def collect(writer: Any) -> None:
        ready, _ = wait(waiting, return_when=FIRST_COMPLETED)
        for future in ready:
            slot = waiting.pop(future)
            try:
                pixels, box = future.result()
            except (MedtailError, OSError) as error:
                failed[slot] = error
            else:
                writer.put(slot, pixels, box)
        if progress is not None:
            progress(done_before + submitted - len(waiting), file.count)

    submitted = 0
    pool = ThreadPoolExecutor(max(1, workers))
    try:
        with file.writing() as writer:
            for slot, path, roi in jobs:
                waiting[pool.submit(_prepare, path, roi, config)] = slot
                submitted += 1
                if len(waiting) >= 4 * workers:
                    collect(writer)
            while waiting:
                collect(writer)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return failed


def _report(failed: dict[int, Exception], *, manifest: Manifest, slots: np.ndarray) -> None:
    """Raise one error naming every row whose image could not be prepared."""
    problems = Problems(manifest.name)
    for row in np.flatnonzero(np.isin(slots, list(failed))):
        error, path = failed[int(slots[row])], str(manifest.image_path(int(row)))
        named = "" if path in str(error) else f"{path}: "
        problems.add(f"row {row + 2}, column 'path': {named}{error}")
    problems.raise_if_any()


@contextlib.contextmanager
def _explained(cache: Path, *, building: SlotFile | None = None) -> Iterator[None]:
    """Turn the file system's refusals into advice; give back the space of a build that met a full disk."""
    try:
        yield
    except OSError as error:
        found = f"cannot be written ({error.strerror or error}). Make it writable"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            found = "the disk is full. Free some space"
            if building is not None:
                shutil.rmtree(building.folder, ignore_errors=True)
                size = f"{building.size_bytes / 1e6:,.1f} MB for the pixels of {building.count:,} images"
                found = f"the disk is full; expected room for {size}. Nothing was kept. Free some space"
        raise MedtailError(
            f"{cache}: {found}, or set {CACHE_VARIABLE} to another folder (it holds prepared pixels)."
        ) from error
