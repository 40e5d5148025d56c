"""MedMNIST: small biomedical images with a fixed split, in one `.npz` (Yang et al., Scientific Data 2023).

The archive is unpacked to PNG files so that everything downstream reads it like any other images. It is read as a
stream, image by image: a hostile file can neither run code (no pickle) nor fill the memory.
"""

from __future__ import annotations

import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, final

import numpy as np
import pandas as pd
from PIL import Image

from medtail.errors import MedtailError, Problems, UsageError, listing
from medtail.runs import atomic_path, new_folder
from medtail.tables.manifest import Manifest, manifest_from_frame

FOLDS = {"train": "train", "val": "tune", "test": "test"}
"""The archive's split → medtail's fold."""
BROKEN = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, NotImplementedError, RuntimeError,
          OSError)  # fmt: skip
"""What an archive raises that is damaged; an offset that lies makes it seek to nowhere, an OSError."""
NO_ARRAY = (ValueError, SyntaxError, EOFError, tokenize.TokenError)
MAX_CLASSES = 1000
MAX_LABEL_BYTES = 64 << 20
"""The largest set, ChestMNIST, has 112,120 x 14 labels: 12 MiB."""
MAX_SIDE_PX = 4096
"""The largest published side is 224."""
MAX_RATIO = 200.0
"""Images shrink 1 to 5 times; a bomb a thousand times."""
EXPECTED = "train_images, train_labels, val_images, val_labels, test_images, test_labels"


@final
@dataclass(frozen=True)
class _Header:
    shape: tuple[int, ...]
    dtype: np.dtype
    is_fortran: bool

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def import_medmnist(
    path: Path | str, *, images_out: Path | str | None, class_names: Sequence[str] | None = None
) -> Manifest:
    """Read a MedMNIST archive, writing its images as PNG files.

    One label a row makes the exclusive group `class=K`; several 0/1 columns (ChestMNIST) make the free
    classes `class_K`. The split is the archive's own (its `val` is fold `tune`). Patients are not published.

    Args:
        path: The `.npz` file, of 2-D images (uint8 [N, H, W] or [N, H, W, 3]).
        images_out: New or empty folder to write `train/000000.png` … to. Appears whole or not at all.
        class_names: Names to use for K = 0, 1, …; the numbers if None.

    Returns:
        A row an image, in the archive's order.

    Raises:
        UsageError: `images_out` is None or not empty, or the number of `class_names` is wrong.
        MedtailError: The file is missing, damaged, or not of this layout; all mistakes at once.

    References:
        yang2023.
    """
    path = Path(path)
    if images_out is None:
        raise UsageError("medmnist: no images_out; expected a new folder to write the archive's images to.")
    try:
        with zipfile.ZipFile(path) as archive:
            labels, headers = _checked(archive, name=str(path))
            columns = _class_columns(labels, class_names, name=str(path))
            out = new_folder(images_out)
            out.rmdir()  # it is known to be new or empty now; the finished folder takes its place
            with atomic_path(out) as temporary:
                for split in FOLDS:
                    _write_images(archive, split, headers[split], temporary / split)
    except FileNotFoundError:
        raise MedtailError(f"{path}: no such file; expected a MedMNIST .npz with {EXPECTED}.") from None
    except IsADirectoryError:
        raise MedtailError(f"{path}: is a folder; expected a MedMNIST .npz with {EXPECTED}.") from None
    except BROKEN as error:
        raise MedtailError(f"{path}: damaged or no .npz file ({error}). Download it again.") from error
    splits = [(split, row) for split in FOLDS for row in range(len(labels[split]))]
    frame = pd.DataFrame(
        {
            "image_id": [f"{split}_{row:06d}" for split, row in splits],
            "path": [f"{split}/{row:06d}.png" for split, row in splits],
            "patient_id": [""] * len(splits),
            "fold": [FOLDS[split] for split, _ in splits],
            **columns,
        }
    )
    return manifest_from_frame(frame, name=str(path), root=Path(images_out))


def read_medmnist_labels(path: Path | str, *, splits: Sequence[str] = tuple(FOLDS)) -> dict[str, np.ndarray]:
    """Read the label numbers of some splits, without opening an image; volumes' archives do as well.

    Args:
        path: The `.npz` file.
        splits: Of `train`, `val`, `test`: those that must be there.

    Returns:
        Split → int64 [N, labels], in the archive's order.

    Raises:
        MedtailError: The file is missing or damaged, or an array is missing or no integers; all mistakes at once.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "labels.npz"
        >>> np.savez(file, test_labels=np.array([[1], [0]]))
        >>> read_medmnist_labels(file, splits=["test"])["test"].tolist()
        [[1], [0]]
    """
    problems = Problems(str(path))
    headers: dict[str, _Header] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            held = set(archive.namelist())
            for key in (f"{split}_labels" for split in splits):
                if f"{key}.npy" not in held:
                    found = sorted(item.removesuffix(".npy") for item in held)
                    problems.add(f"array {key!r}: missing. Found: {listing(found, limit=8) if found else 'none'}.")
                    continue
                try:
                    with archive.open(f"{key}.npy") as stream:
                        headers[key] = _read_header(stream)
                except NO_ARRAY as error:
                    problems.add(f"array {key!r}: no NumPy array ({error}).")
                else:
                    _check_labels(key, headers[key], problems=problems)
            problems.raise_if_any()
            return {
                split: _read_labels(archive, f"{split}_labels", headers[f"{split}_labels"], str(path))
                for split in splits
            }
    except FileNotFoundError:
        raise MedtailError(f"{path}: no such file; expected a MedMNIST .npz with its labels.") from None
    except IsADirectoryError:
        raise MedtailError(f"{path}: is a folder; expected a MedMNIST .npz with its labels.") from None
    except BROKEN as error:
        raise MedtailError(f"{path}: damaged or no .npz file ({error}). Download it again.") from error


def _checked(archive: zipfile.ZipFile, *, name: str) -> tuple[dict[str, np.ndarray], dict[str, _Header]]:
    """Check every array's header before reading any data; return the labels and the image headers."""
    problems = Problems(name)
    held = set(archive.namelist())
    keys = [f"{split}_{kind}" for split in FOLDS for kind in ("images", "labels")]
    missing = [key for key in keys if f"{key}.npy" not in held]
    if missing:
        found = sorted(item.removesuffix(".npy") for item in held)
        problems.add(f"arrays missing: {', '.join(missing)}. Found: {listing(found, limit=8) if found else 'none'}.")
        problems.raise_if_any()
    headers: dict[str, _Header] = {}
    for key in keys:
        try:
            with archive.open(f"{key}.npy") as stream:
                headers[key] = _read_header(stream)
        except NO_ARRAY as error:
            problems.add(f"array {key!r}: no NumPy array ({error}).")
    problems.raise_if_any()
    for split in FOLDS:
        _check_split(split, headers[f"{split}_images"], headers[f"{split}_labels"], problems=problems)
        _check_packing(archive.getinfo(f"{split}_images.npy"), headers[f"{split}_images"], problems=problems)
    problems.raise_if_any()
    labels = {split: _read_labels(archive, f"{split}_labels", headers[f"{split}_labels"], name) for split in FOLDS}
    return labels, {split: headers[f"{split}_images"] for split in FOLDS}


def _read_header(stream: IO[bytes]) -> _Header:
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"unknown version {version}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read(stream)
    return _Header(shape=tuple(shape), dtype=dtype, is_fortran=is_fortran)


def _check_split(split: str, images: _Header, labels: _Header, *, problems: Problems) -> None:
    is_flat = len(images.shape) == 3 or (len(images.shape) == 4 and images.shape[3] == 3)
    if images.dtype != np.uint8 or not is_flat or images.is_fortran or 0 in images.shape[1:]:
        volumes = " Volumes (MedMNIST 3D) are not read." if len(images.shape) == 4 else ""
        problems.add(
            f"array '{split}_images': found {images.dtype} {list(images.shape)}; expected uint8 [N, H, W] or"
            f" [N, H, W, 3] in C order.{volumes}"
        )
    _check_labels(f"{split}_labels", labels, problems=problems)
    if images.shape[:1] != labels.shape[:1]:
        problems.add(f"split {split!r}: {images.shape[:1]} images but {labels.shape[:1]} labels; expected as many.")


def _check_packing(entry: zipfile.ZipInfo, images: _Header, *, problems: Problems) -> None:
    """Refuse what would fill the memory or the disk: sizes are known before anything is unpacked."""
    if any(side > MAX_SIDE_PX for side in images.shape[1:3]):
        problems.add(
            f"array {entry.filename!r}: images of {list(images.shape[1:])}; expected sides of at most {MAX_SIDE_PX}."
        )
    elif images.num_bytes > MAX_RATIO * max(entry.compress_size, 1 << 16):
        problems.add(
            f"array {entry.filename!r}: {images.num_bytes:,} bytes packed into {entry.compress_size:,}; expected at"
            f" most {MAX_RATIO:.0f} times as many. A zip bomb?"
        )


def _check_labels(key: str, labels: _Header, *, problems: Problems) -> None:
    if labels.dtype.kind not in "uib" or len(labels.shape) not in (1, 2) or labels.is_fortran or 0 in labels.shape[1:]:
        problems.add(f"array '{key}': found {labels.dtype} {list(labels.shape)}; expected integers [N] or [N, labels].")
    elif labels.num_bytes > MAX_LABEL_BYTES or (len(labels.shape) == 2 and labels.shape[1] > MAX_CLASSES):
        problems.add(f"array '{key}': {list(labels.shape)} is too large for labels.")


def _read_labels(archive: zipfile.ZipFile, key: str, header: _Header, name: str) -> np.ndarray:
    with archive.open(f"{key}.npy") as stream:
        _read_header(stream)
        data = stream.read(header.num_bytes)
    if len(data) < header.num_bytes:
        raise MedtailError(f"{name}, array {key!r}: ends too early. Download the file again.")
    values = np.frombuffer(data, dtype=header.dtype).reshape(header.shape).astype(np.int64)
    return values.reshape(len(values), math.prod(header.shape[1:]))  # of no rows, -1 says nothing


def _class_columns(
    labels: dict[str, np.ndarray], class_names: Sequence[str] | None, *, name: str
) -> dict[str, np.ndarray]:
    widths = {values.shape[1] for values in labels.values() if len(values)}
    if len(widths) != 1:
        raise MedtailError(f"{name}: the splits have {sorted(widths)} label columns; expected as many in each.")
    values = np.concatenate([labels[split] for split in FOLDS if len(labels[split])])
    is_multilabel = values.shape[1] > 1
    highest = 1 if is_multilabel else MAX_CLASSES - 1
    if values.min() < 0 or values.max() > highest:
        raise MedtailError(
            f"{name}: labels from {values.min()} to {values.max()}; expected 0 to {highest}"
            f"{' (several columns a row: present or absent)' if is_multilabel else ''}."
        )
    count = values.shape[1] if is_multilabel else int(values.max()) + 1
    names = list(class_names) if class_names is not None else [str(k) for k in range(count)]
    if len(names) != count or len(set(names)) != count:
        raise UsageError(f"class_names: found {len(names)}; expected {count} different names for {name}.")
    if is_multilabel:
        prefix = "" if class_names is not None else "class_"
        return {f"{prefix}{names[k]}": values[:, k].astype(np.float64) for k in range(count)}
    return {f"class={names[k]}": (values[:, 0] == k).astype(np.float64) for k in range(count)}


def _write_images(archive: zipfile.ZipFile, split: str, header: _Header, folder: Path) -> None:
    folder.mkdir(parents=True)
    shape = header.shape[1:]
    num_bytes = math.prod(shape)
    with archive.open(f"{split}_images.npy") as stream:
        _read_header(stream)
        for row in range(header.shape[0]):
            data = stream.read(num_bytes)
            if len(data) < num_bytes:
                raise MedtailError(
                    f"{archive.filename}, array '{split}_images': ends after {row} of {header.shape[0]} images."
                    " Download the file again."
                )
            Image.fromarray(np.frombuffer(data, dtype=np.uint8).reshape(shape)).save(folder / f"{row:06d}.png")
