"""Pools of the breast phantom show what they are asked for, or as often as told something else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medtail.errors import UsageError
from medtail.runs import read_json
from medtail.sources.phantom_breast import CLASS_NAMES, breast_manifest
from medtail.sources.phantom_breast_pool import CORRUPTED, write_breast_pool
from medtail.tables.audit import audit_manifest
from medtail.tables.manifest import Manifest, read_manifest
from medtail.tables.pools import fill_counts


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return breast_manifest(tmp_path_factory.mktemp("breast") / "real", size_px=32, balanced=2)


def test_by_default_the_pool_fills_up_to_balance(tmp_path: Path, real: Manifest) -> None:
    pool = write_breast_pool(real, tmp_path / "pool", size_px=32)
    asked = pool.frame.loc[~pool.is_real, "meta_class"].value_counts()
    assert {name: int(asked.get(name, 0)) for name in CLASS_NAMES} == fill_counts(real)
    found = read_manifest(tmp_path / "pool" / "manifest.csv")
    assert found.digest == pool.digest
    found.check_files()
    found.check_folds("train", "tune", "test", "reward")
    assert not {"generator-leak", "generator-unknown"} & {
        finding.code for finding in audit_manifest(found, check_images=False).findings
    }


def test_oracle_images_show_what_was_asked_and_corrupted_ones_do_so_as_told(tmp_path: Path, real: Manifest) -> None:
    counts = dict.fromkeys(CLASS_NAMES[4:], 60)
    wrong = {CLASS_NAMES[5]: CORRUPTED}
    frame = write_breast_pool(real, tmp_path / "pool", counts=counts, wrong=wrong, size_px=32).frame
    pool = frame[frame["origin"] == "synthetic"]
    right = pool["meta_class"] == pool["meta_shown"]
    assert right[pool["meta_class"] == CLASS_NAMES[4]].all()
    assert 0.45 < right[pool["meta_class"] == CLASS_NAMES[5]].mean() < 0.75
    # the label is what was asked, whatever is shown
    assert (
        pool[list(CLASS_NAMES)].to_numpy().argmax(axis=1) == [CLASS_NAMES.index(c) for c in pool["meta_class"]]
    ).all()


def test_no_image_of_the_pool_is_one_of_the_table(tmp_path: Path, real: Manifest) -> None:
    pool = write_breast_pool(real, tmp_path / "pool", counts=dict.fromkeys(CLASS_NAMES, 3), size_px=32)
    images = {np.asarray(Image.open(path)).tobytes() for path in pool.image_paths()}
    assert len(images) == len(pool)


def test_the_same_settings_give_the_same_bytes_and_others_another_digest(tmp_path: Path, real: Manifest) -> None:
    counts = {CLASS_NAMES[1]: 2}
    first, again, other = (
        write_breast_pool(real, tmp_path / name, counts=counts, seed=seed, size_px=32)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    for name in ("pool.csv", "record.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert first.frame["path"].tolist() == again.frame["path"].tolist()
    digests = {read_json(tmp_path / name / "record.json")["generator_digest"] for name in "abc"}
    assert len(digests) == 2
    assert not set(first.frame["image_id"][~first.is_real]) & set(other.frame["image_id"][~other.is_real])


def test_faulty_requests_leave_nothing_behind(tmp_path: Path, real: Manifest) -> None:
    for given, words in (
        ({"counts": {"cyst": 1}}, "class 'cyst': unknown"),
        ({"wrong": 1.5}, "wrong 1.5"),
        ({"counts": {CLASS_NAMES[0]: -1}}, "counts"),
        ({"counts": {}}, "no images"),
        ({"size_px": 1}, "size_px 1"),
    ):
        with pytest.raises(UsageError, match=words):
            write_breast_pool(real, tmp_path / "pool", **given)  # type: ignore[arg-type]
        assert not (tmp_path / "pool").exists()


def test_a_table_of_other_classes_is_refused(tmp_path: Path, real: Manifest) -> None:
    with pytest.raises(UsageError, match="has other classes than the breast phantom"):
        write_breast_pool(real.with_classes(CLASS_NAMES[:3]), tmp_path / "pool")
