"""Copies have a pool's numbers and no new content; shuffled pools have the same images under other labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medtail.errors import MedtailError
from medtail.pixels.settings import PixelConfig
from medtail.sources.phantom_breast import CLASS_NAMES, breast_manifest
from medtail.sources.phantom_breast_pool import write_breast_pool
from medtail.studies.genaug_pools import warp, write_alone, write_copies, write_shuffled
from medtail.tables.generators import check_generator_leaks, find_records
from medtail.tables.manifest import Manifest, read_manifest
from medtail.tables.pools import fill_counts

PIXELS = PixelConfig(size_px=32, channels=3)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return breast_manifest(tmp_path_factory.mktemp("breast") / "real", size_px=32, reward="none", balanced=3)


def test_copies_fill_each_class_from_its_own_images_all_equally_often(tmp_path: Path, real: Manifest) -> None:
    counts = {CLASS_NAMES[0]: 2, CLASS_NAMES[5]: 7}
    joined = write_copies(real, tmp_path / "copies", pixels=PIXELS, counts=counts, cache=tmp_path / "cache")
    made = joined.frame[~joined.is_real]
    assert made["meta_class"].value_counts().to_dict() == {CLASS_NAMES[5]: 7, CLASS_NAMES[0]: 2}
    source = real.frame.set_index("image_id")
    for copy in made.to_dict("records"):
        assert copy["patient_id"] == source.loc[copy["meta_copy_of"], "patient_id"]
        assert source.loc[copy["meta_copy_of"], copy["meta_class"]] == 1
        assert source.loc[copy["meta_copy_of"], "fold"] == "train"
    often = made.loc[made["meta_class"] == CLASS_NAMES[5], "meta_copy_of"].value_counts()
    assert often.tolist() == [3, 2, 2]
    found = read_manifest(tmp_path / "copies" / "manifest.csv")
    found.check_files()
    found.check_folds("train", "tune", "test")
    check_generator_leaks(found)


def test_by_default_copies_are_as_many_as_fill_up_to_balance(tmp_path: Path, real: Manifest) -> None:
    joined = write_copies(real, tmp_path / "copies", pixels=PIXELS, cache=tmp_path / "cache")
    counted = joined.frame.loc[~joined.is_real, "meta_class"].value_counts()
    assert {name: int(counted[name]) for name in CLASS_NAMES} == fill_counts(real)


def test_a_copy_is_moved_and_keeps_its_grays() -> None:
    random = np.random.default_rng(0)
    image = np.zeros((32, 32), dtype=np.uint8)
    image[12:20, 8:18] = 200
    for _ in range(20):
        moved = warp(image, random)
        assert moved.shape == image.shape
        assert moved.max() <= 200
        assert 0.5 < moved.sum() / image.sum() < 1.6
    assert (warp(image, np.random.default_rng(1)) == warp(image, np.random.default_rng(1))).all()
    assert (warp(image, np.random.default_rng(1)) != image).any()


def test_the_same_seed_writes_the_same_copies(tmp_path: Path, real: Manifest) -> None:
    for name in "ab":
        write_copies(real, tmp_path / name, pixels=PIXELS, counts={CLASS_NAMES[1]: 2}, cache=tmp_path / "cache")
    first, again = (sorted((tmp_path / name / "images").iterdir()) for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    with Image.open(first[0]) as picture:
        assert (picture.mode, picture.size) == ("L", (32, 32))


def test_shuffling_keeps_images_and_numbers_and_breaks_their_bond(tmp_path: Path, real: Manifest) -> None:
    pool = write_breast_pool(real, tmp_path / "pool", counts=dict.fromkeys(CLASS_NAMES, 10), size_px=32)
    shuffled = write_shuffled(real, tmp_path / "pool", tmp_path / "deep" / "shuffled")
    before, after = (table.take(~table.is_real) for table in (pool, shuffled))
    assert [path.resolve() for path in before.image_paths()] == [path.resolve() for path in after.image_paths()]
    assert sorted(before.frame["meta_class"]) == sorted(after.frame["meta_class"])
    kept = (before.frame["meta_class"].to_numpy() == after.frame["meta_class"].to_numpy()).mean()
    assert kept < 0.4
    # a row's label columns are those of the class it now asks for
    labels = [CLASS_NAMES[c] for c in after.targets.argmax(axis=1)]
    assert labels == after.frame["meta_class"].tolist()
    read_manifest(tmp_path / "deep" / "shuffled" / "manifest.csv").check_files()


def test_a_pool_alone_teaches_without_real_train_rows_and_is_judged_on_the_same_rows(
    tmp_path: Path, real: Manifest
) -> None:
    pool = write_breast_pool(real, tmp_path / "pool", counts=dict.fromkeys(CLASS_NAMES, 2), size_px=32)
    write_alone(tmp_path / "pool", tmp_path / "deep" / "alone")
    alone = read_manifest(tmp_path / "deep" / "alone" / "manifest.csv")
    assert not alone.is_real[alone.folds == "train"].any()
    assert (alone.folds == "train").sum() == 12
    for fold in ("tune", "test"):
        assert alone.in_fold(fold).frame["image_id"].tolist() == pool.in_fold(fold).frame["image_id"].tolist()
    alone.check_files()
    assert len(find_records(alone)) == 1


def test_a_pool_of_one_class_cannot_be_shuffled(tmp_path: Path, real: Manifest) -> None:
    write_breast_pool(real, tmp_path / "pool", counts={CLASS_NAMES[2]: 3}, size_px=32)
    with pytest.raises(MedtailError, match="one class only"):
        write_shuffled(real, tmp_path / "pool", tmp_path / "shuffled")
