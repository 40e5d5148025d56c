"""A pool of generated images, read back: which image was made for which class, from what, beside the real rows.

`manifest.csv` of a pool holds the real table's rows and the generated ones; the latter say in `meta_…` columns how they
were made. Nothing here looks at a test image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from PIL import Image

from medtail.errors import MedtailError, Problems, did_you_mean, listing
from medtail.runs import read_json
from medtail.synthesis.sketch import lines_of
from medtail.tables.frames import row_list, spreadsheet_rows
from medtail.tables.generators import RECORD, check_generator_leaks
from medtail.tables.manifest import Manifest, read_manifest

MANIFEST, SKETCHES, STRIPS = "manifest.csv", "sketches", "strips"
ASKED_CLASS = "meta_class"


@final
@dataclass(frozen=True, eq=False)
class Pool:
    """A pool and the real rows it stands beside.

    Attributes:
        folder: Where it lies.
        manifest: Real and generated rows.
        record: Content of `record.json`; empty where there is none.
        synthetic: Rows of generated images, integers [G].
        train: Real rows of the train fold, integers.
        tune: Real rows of the tune fold, integers.
        asked: Class each generated image was made for, integers [G].
    """

    folder: Path
    manifest: Manifest
    record: Mapping[str, Any]
    synthetic: np.ndarray
    train: np.ndarray
    tune: np.ndarray
    asked: np.ndarray

    def shows(self, rows: np.ndarray, class_number: int) -> np.ndarray:
        """Return those of the rows that are labelled with a class."""
        return np.asarray(rows[self.manifest.targets[rows, class_number] == 1])

    def meta(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Return a `meta_…` column of some rows as text; "" where the pool has no such column."""
        if name not in self.manifest.frame.columns:
            return np.array([""] * len(rows), dtype=object)
        return np.asarray(self.manifest.frame[name].to_numpy(dtype=object)[rows])

    def asked_lines(self, side_px: int) -> tuple[np.ndarray, np.ndarray]:
        """Read the sketches that images were asked to keep to.

        Args:
            side_px: Side of the images; a sketch of another size does not count as one.

        Returns:
            Positions among `synthetic`, integers [K], and lines, bool [K, side, side].

        Raises:
            MedtailError: A file is there but no image.
        """
        places, lines = [], []
        for place, row in enumerate(self.synthetic):
            path = self.folder / SKETCHES / f"{self.manifest.image_path(int(row)).stem}.png"
            if not path.is_file():
                continue
            drawn = read_gray(path)
            if drawn.shape == (side_px, side_px) and (drawn > 0).any():
                places.append(place)
                lines.append(drawn)
        stacked = np.stack(lines) if lines else np.zeros((0, side_px, side_px), dtype=np.float32)
        return np.array(places, dtype=np.int64), lines_of(stacked)

    @property
    def strips(self) -> tuple[Path, ...]:
        """Pictures of an image's way out of the noise, where the generator kept some."""
        return tuple(sorted((self.folder / STRIPS).glob("*.png")))


def read_gray(path: Path) -> np.ndarray:
    """Read a small picture as float32 [H, W] in [0, 1].

    Raises:
        MedtailError: It is no image.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("L"), dtype=np.float32) / 255.0
    except OSError as error:
        raise MedtailError(f"{path}: cannot be read as an image ({error}). Make the pool again.") from error


def read_pool(folder: Path | str) -> Pool:
    """Read a pool and check that it can be inspected.

    Args:
        folder: Made by `medtail synthesise make`, or laid out like that.

    Returns:
        The pool.

    Raises:
        MedtailError: No manifest, no generated rows, generated rows outside train, classes that the table does not
            have, missing images, or a generator that has seen patients of other folds.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.is_file():
        raise MedtailError(
            f"{folder}: no {MANIFEST}; expected a pool of `medtail synthesise make GENERATOR --out {folder.name}`."
        )
    manifest = read_manifest(path)
    manifest.check_folds()
    synthetic = np.flatnonzero(~manifest.is_real)
    problems = Problems(f"{folder.name}/{MANIFEST}")
    if not len(synthetic):
        problems.add("column 'origin': no row is synthetic; expected generated images beside the real ones.")
    elif ASKED_CLASS not in manifest.frame.columns:
        problems.add(f"column {ASKED_CLASS!r}: missing; expected the class each generated image was made for.")
    problems.raise_if_any()
    asked = _asked(manifest, synthetic, problems)
    problems.raise_if_any()
    check_generator_leaks(manifest)
    real = manifest.is_real
    train, tune = (np.flatnonzero(real & (manifest.folds == fold)) for fold in ("train", "tune"))
    if not len(train):
        raise MedtailError(
            f"{folder.name}/{MANIFEST}, column 'fold': no real row is in 'train'; expected the images the generator"
            " learnt from, or nobody can tell whether it copies."
        )
    record = read_json(folder / RECORD) if (folder / RECORD).is_file() else {}
    return Pool(folder, manifest, record, synthetic, train, tune, asked)


def _asked(manifest: Manifest, synthetic: np.ndarray, problems: Problems) -> np.ndarray:
    names = manifest.frame[ASKED_CLASS].to_numpy(dtype=object)[synthetic].astype(str)
    known = {name: number for number, name in enumerate(manifest.labels.class_names)}
    asked = np.array([known.get(name, -1) for name in names], dtype=np.int64)
    for name in dict.fromkeys(names[asked < 0].tolist()):
        here = np.zeros(len(manifest), dtype=bool)
        here[synthetic[names == name]] = True
        hint = did_you_mean(name, known) or f"; classes: {listing(list(known), limit=12)}."
        problems.add(f"column {ASKED_CLASS!r}: {row_list(spreadsheet_rows(here))}: unknown class {name!r}{hint}")
    return asked
