"""The tables a study of generated images starts from: the real one of each outer fold, and what else its track has.

DIR/data/fold_K.csv    the table of fold K, with train, reward, tune and test
DIR/data/unknown.csv   images of classes nobody trains on, where the track has any
DIR/data/phantom/      the breast phantom's images       DIR/data/balanced/   its oracle's
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np

from medtail.errors import MedtailError, UsageError
from medtail.sources.bus_bra import import_bus_bra
from medtail.sources.bus_bra_subtypes import bus_bra_subtypes
from medtail.sources.phantom_breast import breast_manifest
from medtail.studies.genaug_config import BreastTrack, BusBraTrack, TableTrack, Track
from medtail.tables.generators import check_generator_leaks
from medtail.tables.manifest import Manifest, read_manifest
from medtail.tables.outer_folds import outer_folds
from medtail.tables.tail import ClassCounts, count_classes

Watch = Callable[[str], Callable[[int, int], None] | None]
NEEDED = ("train", "reward", "tune", "test")


@final
@dataclass(frozen=True)
class Tables:
    """Where a track's tables are.

    Attributes:
        real: One table an outer fold.
        oracle: The table with balanced real images; None where there is none to be had.
        unknown: Images of classes nobody trains on; None where the track has none.
    """

    real: tuple[Path, ...]
    oracle: Path | None = None
    unknown: Path | None = None

    @property
    def num_folds(self) -> int:
        """Outer folds."""
        return len(self.real)

    def manifest(self, fold: int) -> Manifest:
        """Read the table of a fold."""
        return read_manifest(self.real[fold])

    def counts(self) -> ClassCounts:
        """Return how often each class was there to be learnt: in train, or in all folds where all are learnt once."""
        table = self.manifest(0)
        if self.num_folds > 1:
            table = table.with_folds(np.full(len(table), "train", dtype=object))
        return count_classes(table)


def make_tables(track: Track, root: Path, *, watch: Watch | None = None) -> Tables:
    """Make a track's tables, or find those that were made.

    Args:
        track: What is wanted.
        root: The study's folder.
        watch: Given what is being done, returns what is told (done, total), or None.

    Raises:
        UsageError: The table has classes outside one exclusive group, or no fold to reward, tune or test on.
        MedtailError: The images are not there, or a class has too few patients for the folds.
    """
    folder = root / "data"
    match track:
        case BreastTrack():
            found = _phantom(track, folder)
        case BusBraTrack():
            found = _bus_bra(track, folder, watch)
        case TableTrack():
            found = _table(track, folder)
    for k in range(found.num_folds):
        check_table(found.manifest(k))
    return found


def _phantom(track: BreastTrack, folder: Path) -> Tables:
    for name, balanced in (("phantom", None), ("balanced", track.balanced)):
        if not (folder / name).exists():
            breast_manifest(
                folder / name, seed=track.seed, size_px=track.size_px, reward=track.reward, balanced=balanced
            )
    return Tables((folder / "phantom" / "manifest.csv",), oracle=folder / "balanced" / "manifest.csv")


def _bus_bra(track: BusBraTrack, folder: Path, watch: Watch | None) -> Tables:
    paths = tuple(folder / f"fold_{k}.csv" for k in range(track.num_folds))
    unknown = folder / "unknown.csv"
    if not all(path.exists() for path in (*paths, unknown)):
        known, rest = bus_bra_subtypes(import_bus_bra(track.path))
        groups = None
        if track.duplicates:
            from medtail.pixels.decode import read_image
            from medtail.tables.duplicates import near_duplicate_groups

            tick = None if watch is None else watch("looking for near-duplicates")
            groups = near_duplicate_groups(known.image_paths(), read=read_image, progress=tick)
        parts = outer_folds(
            known, num_folds=track.num_folds, tune=track.tune, reward=track.reward, seed=track.seed,
            duplicate_groups=groups,
        )  # fmt: skip
        rest.write(unknown)
        for path, part in zip(paths, parts, strict=True):
            part.write(path)
    return Tables(paths, unknown=unknown)


def _table(track: TableTrack, folder: Path) -> Tables:
    if track.num_folds is None:
        return Tables((Path(track.manifest),))
    paths = tuple(folder / f"fold_{k}.csv" for k in range(track.num_folds))
    if not all(path.exists() for path in paths):
        table = read_manifest(track.manifest)
        parts = outer_folds(table, num_folds=track.num_folds, tune=track.tune, reward=track.reward, seed=track.seed)
        for path, part in zip(paths, parts, strict=True):
            part.write(path)
    return Tables(paths)


def check_table(manifest: Manifest) -> None:
    """Refuse a table that a study of generated images cannot be made on.

    Raises:
        UsageError: Its classes are not one exclusive group, rows are synthetic, or a fold is missing.
        MedtailError: A patient is in two folds.
    """
    if manifest.labels.task != "multiclass":
        raise UsageError(
            f"{manifest.name}: a study of generated images judges one exclusive group, each image one class; found"
            f" {manifest.labels.num_classes} classes that are not one group. Name them `group=value`, or train with a"
            " mixture or policy sampler outside a study."
        )
    if not manifest.is_real.all():
        raise UsageError(f"{manifest.name}: holds synthetic rows; expected real ones, the study makes its own pools.")
    folds = set(manifest.folds.astype(str))
    missing = [fold for fold in NEEDED if fold not in folds]
    if missing:
        raise UsageError(
            f"{manifest.name}, column 'fold': no row is in {' or '.join(missing)}; expected {', '.join(NEEDED)}. A"
            " track with `num_folds` makes them."
        )
    manifest.check_folds()


def overlaps(manifest: Manifest) -> dict[str, int]:
    """Count patients in two folds, and patients of shut folds whom a generator of the table's images has seen.

    Args:
        manifest: The joined table of a pool, or a real one.
    """
    table = manifest.take(manifest.is_real)
    patients, folds = table.patients.astype(str), table.folds.astype(str)
    spread = sum(len(set(folds[patients == patient])) > 1 for patient in set(patients))
    try:
        check_generator_leaks(manifest)
    except MedtailError:
        return {"patients_in_two_folds": spread, "generator_leaks": 1}
    return {"patients_in_two_folds": spread, "generator_leaks": 0}
