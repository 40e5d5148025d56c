"""Prepared pixels of a manifest, made once and then read from disk, never all at a time.

Decoding and resizing an image costs about a hundred times what reading its finished pixels costs, so training never
decodes twice. A store is found by what decides its bytes: the settings, the content of every file and the regions
cut out. Renaming, relabelling or reordering finds the same store; one changed file makes a new one. `slots` keeps
the bytes safe on disk, `letterbox` makes them, `dataset` turns them into batches.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
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
from medtail.pixels.decode import image_from_bytes, read_image
from medtail.pixels.letterbox import Box, letterbox
from medtail.pixels.settings import CACHE_VARIABLE, PixelConfig, default_cache
from medtail.pixels.slots import SHARD_BYTES, SlotFiles, SlotReader
from medtail.runs import digest_bytes, digest_json
from medtail.tables.frames import row_list
from medtail.tables.manifest import ROI, Manifest
from medtail.tables.places import Place, Remote
from medtail.tables.remote import AT_ONCE, Servers

FORMAT = 2
"""Raised whenever decoding, letterboxing or the files of a store change: older stores are then not found."""

Progress = Callable[[int, int], None]


@final
@dataclass(frozen=True, eq=False)
class PixelStore:
    """The prepared pixels of every row of a manifest. Small to pickle; opens its files when first read.

    Attributes:
        files: Where the pixels are; identical images share a slot.
        slots: Slot of each row, integers [rows].
        content_boxes: Part of each row's square that holds image rather than bars: left, top, right, bottom in
            pixels, int16 [rows, 4].
        config: How the pixels were made.
        digest: SHA-256 over settings and content of every row, in the manifest's order.
    """

    files: SlotFiles
    slots: np.ndarray
    content_boxes: np.ndarray
    config: PixelConfig
    digest: str

    def __len__(self) -> int:
        return len(self.slots)

    @cached_property
    def _reader(self) -> SlotReader:
        return SlotReader(self.files)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_reader"}

    def images(self, rows: np.ndarray | Sequence[int]) -> np.ndarray:
        """Read the pixels of some rows.

        Args:
            rows: Row numbers of the manifest, integers [n], repeats allowed.

        Returns:
            A new array, uint8 [n, channels, size, size].

        Raises:
            IndexError: A row is outside the manifest.
            MedtailError: The store's files were removed or cut, or their disk has gone.
        """
        slots = self.slots[np.asarray(rows, dtype=np.int64)]
        images = np.empty((len(slots), *self.files.shape), dtype=np.uint8)
        try:
            self._reader.into(images, slots)
        except OSError as error:
            raise MedtailError(
                f"{self.files.folder}: prepared pixels cannot be read any more ({error.strerror or error}); expected"
                " the files to stay while they are in use. Start again: what is missing is made again."
            ) from error
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
    Opening a store that is whole writes nothing, so it may lie on a disk that may only be read.

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
    manifest.check_files(remote=False)  # what is elsewhere is asked for when it is read
    cache = Path(cache) if cache is not None else default_cache()
    workers = workers if workers is not None else _usable_cores()
    with _explained(cache):
        cache.mkdir(parents=True, exist_ok=True)
    paths, rois = manifest.image_paths(), regions(manifest, config)
    contents = _contents(manifest, paths, memory=cache / "content.sqlite", workers=workers)
    keys = [digest_bytes(content.encode(), repr(roi).encode()) for content, roi in zip(contents, rois, strict=True)]
    distinct, first_rows, slots = np.unique(np.array(keys), return_index=True, return_inverse=True)
    identity = {"format": FORMAT, "pillow": version("pillow"), "pydicom": version("pydicom"), **config.identity()}
    key = digest_bytes(digest_json(identity).encode(), "".join(distinct).encode())
    files = SlotFiles(cache / key[:32], len(distinct), config.shape, shard_bytes=SHARD_BYTES)
    empty = np.flatnonzero(~files.sound(workers=workers))
    if len(empty):
        with _explained(cache, building=files), FileLock(str(cache / f"{key[:32]}.lock")):
            # another process may have filled some while this one waited
            empty = empty[~files.sound(empty, workers=workers)]
            files.allocate()
            (files.folder / "settings.json").write_text(json.dumps(identity, indent=1) + "\n", encoding="utf-8")
            jobs = [(int(slot), *(part[first_rows[slot]] for part in (paths, rois, contents))) for slot in empty]
            failed = _fill(files, jobs, config=config, workers=workers, progress=progress)
        _report(failed, manifest=manifest, slots=slots)
    return PixelStore(
        files=files,
        slots=slots.astype(np.int64),
        content_boxes=files.records()["box"][slots].astype(np.int16),
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


def _contents(manifest: Manifest, paths: Sequence[Place], *, memory: Path, workers: int) -> list[str]:
    """Return the digest of each row's file."""
    reasons: dict[str, list[int]] = {}
    found: list[str] = []
    for row, content in enumerate(content_digests(paths, memory=memory, workers=workers)):
        if isinstance(content, OSError):
            reasons.setdefault(str(content), []).append(row)
        else:
            found.append(content)
    problems = Problems(manifest.name)
    for reason, rows in reasons.items():
        named = row_list([row + 2 for row in rows])
        others = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        problems.add(f"{named}, column 'path': {str(paths[rows[0]])!r}{others} cannot be read ({reason}).")
    problems.raise_if_any()
    return found


Job = tuple[int, Place, Box | None, str]
"""Slot, image, region, and the digest of the image's content."""


def _prepare(
    path: Place, roi: Box | None, content: str, config: PixelConfig, servers: Servers
) -> tuple[np.ndarray, Box]:
    if isinstance(path, Remote):
        sent = servers.fetch(path)
        if hashlib.sha256(sent).hexdigest() != content:
            raise OSError("it was changed while the store was being made; start again")
        return letterbox(image_from_bytes(sent, name=str(path)), config=config, roi=roi)
    return letterbox(read_image(path), config=config, roi=roi)


def _fill(
    files: SlotFiles, jobs: Sequence[Job], *, config: PixelConfig, workers: int, progress: Progress | None
) -> dict[int, Exception]:
    """Prepare images in parallel and write each to its slot; return the errors by slot.

    Threads, not processes: decoding and resizing leave Python's lock, and nothing need be copied between them.
    Results are written as they come, by this thread alone; slots make the order irrelevant.
    """
    failed: dict[int, Exception] = {}
    waiting: dict[Future[tuple[np.ndarray, Box]], int] = {}
    done_before = files.count - len(jobs)

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
            progress(done_before + submitted - len(waiting), files.count)

    submitted, servers = 0, Servers()
    if any(isinstance(path, Remote) for _, path, _, _ in jobs):
        workers = max(workers, AT_ONCE)  # they wait for a server, not for the processor
    pool = ThreadPoolExecutor(max(1, workers))
    try:
        with files.writing() as writer:
            for slot, path, roi, content in jobs:
                waiting[pool.submit(_prepare, path, roi, content, config, servers)] = slot
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
def _explained(cache: Path, *, building: SlotFiles | None = None) -> Iterator[None]:
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
