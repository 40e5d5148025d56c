from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter

from medtail.errors import MedtailError
from medtail.tables.duplicates import (
    Fingerprints,
    exact_duplicate_groups,
    fingerprint_images,
    group_fingerprints,
    group_hashes,
    merge_groups,
    near_duplicate_groups,
    perceptual_hashes,
)


def read_with_pillow(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("L"), dtype=np.float32) / 255


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).copy()


def resized(image: Image.Image, scale: float) -> Image.Image:
    width, height = image.size
    return image.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "re-encoded": lambda image: jpeg(image, 40),
    "smaller": lambda image: jpeg(resized(image, 0.6), 60),
    "larger": lambda image: resized(image, 1.7),
    "brighter": lambda image: image.point(lambda value: min(255, value + 15)),
    "more contrast": lambda image: image.point(lambda value: min(255, int(value * 1.15))),
    "gamma": lambda image: image.point(lambda value: int(255 * (value / 255) ** 0.8)),
}


def speckle(seed: int, size: tuple[int, int] = (120, 100)) -> Image.Image:
    random = np.random.default_rng(seed)
    smooth = sum(gaussian_filter(random.normal(size=size), s) * s for s in (2, 6, 20))
    scaled = (smooth - smooth.min()) / np.ptp(smooth)
    return Image.fromarray((30 + 180 * scaled).astype(np.uint8))


@pytest.mark.parametrize("copy", COPIES)
def test_a_changed_copy_is_found_and_other_images_are_not(tmp_path: Path, copy: str) -> None:
    for seed in range(12):
        speckle(seed).save(tmp_path / f"{seed:02d}.png")
    COPIES[copy](speckle(3)).save(tmp_path / "copy.png")
    paths = [*sorted(tmp_path.glob("[0-9]*.png")), tmp_path / "copy.png"]
    groups = near_duplicate_groups(paths, read=read_with_pillow)
    assert groups.tolist() == [*range(12), 3]


@pytest.mark.parametrize("copy", COPIES)
@pytest.mark.parametrize(("folder", "rows"), [("bus_bra", 200), ("breast_usg", 60), ("nih_cxr", 300)])
def test_on_real_images_copies_are_found_and_views_of_a_patient_are_not_merged(
    shared_data: Path, tmp_path: Path, folder: str, rows: int, copy: str
) -> None:
    table = pd.read_csv(shared_data / folder / "labels.csv")
    base = shared_data / folder / ("" if folder == "nih_cxr" else "images")
    originals = [base / name for name in table["image"].iloc[:: max(1, len(table) // rows)]]
    copied = originals[:: len(originals) // 20]
    for number, path in enumerate(copied):
        with Image.open(path) as image:
            COPIES[copy](image.convert("L")).save(tmp_path / f"{number:03d}.png")
    groups = near_duplicate_groups([*originals, *sorted(tmp_path.iterdir())], read=read_with_pillow)
    assert groups[: len(originals)].tolist() == list(range(len(originals)))
    assert groups[len(originals) :].tolist() == [originals.index(path) for path in copied]


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["bus_bra", "breast_usg", "nih_cxr"])
def test_no_two_images_of_a_real_data_set_are_taken_for_one(shared_data: Path, folder: str) -> None:
    table = pd.read_csv(shared_data / folder / "labels.csv")
    base = shared_data / folder / ("" if folder == "nih_cxr" else "images")
    groups = near_duplicate_groups([base / name for name in table["image"]], read=read_with_pillow)
    assert len(set(groups)) == len(table)


def test_a_hash_alone_would_merge_chest_x_rays_of_different_people(shared_data: Path) -> None:
    table = pd.read_csv(shared_data / "nih_cxr" / "labels.csv").iloc[:600]
    paths = [shared_data / "nih_cxr" / name for name in table["image"]]
    found = fingerprint_images(paths, read=read_with_pillow)
    by_hash = group_hashes(found.hashes, max_distance=8)
    patients = table["patient"].to_numpy()
    assert any(len(set(patients[by_hash == group])) > 1 for group in set(by_hash))
    assert len(set(group_fingerprints(found))) == len(table)


def test_colour_channels_and_shapes_are_read(tmp_path: Path) -> None:
    speckle(1).save(tmp_path / "a.png")
    speckle(1).convert("RGB").save(tmp_path / "b.png")

    def read_any(path: Path) -> np.ndarray:
        with Image.open(path) as image:
            pixels = np.asarray(image, dtype=np.float32) / 255
        return pixels[..., None] if pixels.ndim == 2 else pixels

    found = fingerprint_images([tmp_path / "a.png", tmp_path / "b.png"], read=read_any)
    assert found.sizes_px.tolist() == [[120, 100], [120, 100]]
    assert group_fingerprints(found).tolist() == [0, 0]


def test_blank_and_unreadable_files_are_flagged_and_joined_to_nothing(tmp_path: Path) -> None:
    speckle(1).save(tmp_path / "good.png")
    for name in ("black", "black2", "white"):
        Image.new("L", (50, 40), 255 if name == "white" else 0).save(tmp_path / f"{name}.png")
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:300])
    names = ["good", "black", "black2", "white", "text", "cut", "gone"]
    paths = [tmp_path / f"{name}.png" for name in names]
    seen: list[tuple[int, int]] = []
    found = fingerprint_images(paths, read=read_with_pillow, progress=lambda done, total: seen.append((done, total)))
    assert found.is_blank.tolist() == [False, True, True, True, False, False, False]
    assert sorted(found.failures) == [4, 5, 6]
    assert (found.hashes == 0).tolist() == [False, *[True] * 6]
    assert found.digests[6] == ""
    assert found.digests[1] == found.digests[2] != found.digests[3]
    assert group_fingerprints(found).tolist() == list(range(7))
    assert seen == [(n + 1, 7) for n in range(7)]
    assert np.array_equal(perceptual_hashes(paths, read=read_with_pillow), found.hashes)


def test_any_number_of_workers_gives_the_same_fingerprints(tmp_path: Path) -> None:
    for seed in range(6):
        speckle(seed).save(tmp_path / f"{seed}.png")
    paths = sorted(tmp_path.iterdir())
    one, four = (fingerprint_images(paths, read=read_with_pillow, workers=workers) for workers in (1, 4))
    assert np.array_equal(one.hashes, four.hashes)
    assert np.array_equal(one.details, four.details)


def slow_groups(hashes: np.ndarray, max_distance: int) -> list[int]:
    groups = list(range(len(hashes)))
    for i in range(len(hashes)):
        for j in range(i):
            near = int(hashes[i] ^ hashes[j]).bit_count() <= max_distance
            if hashes[i] and hashes[j] and near and groups[i] != groups[j]:
                old, new = max(groups[i], groups[j]), min(groups[i], groups[j])
                groups = [new if group == old else group for group in groups]
    numbers: dict[int, int] = {}
    return [numbers.setdefault(group, len(numbers)) for group in groups]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 60), max_distance=st.integers(0, 15))
def test_grouping_hashes_equals_comparing_all_pairs(seed: int, count: int, max_distance: int) -> None:
    random = np.random.default_rng(seed)
    roots = random.integers(0, 2**63, 4, dtype=np.uint64)
    hashes = roots[random.integers(0, 4, count)]
    for row in range(count):
        for bit in random.integers(0, 64, random.integers(0, 12)):
            hashes[row] ^= np.uint64(1) << np.uint64(bit)
    hashes[random.random(count) < 0.1] = 0
    assert group_hashes(hashes, max_distance=max_distance).tolist() == slow_groups(hashes, max_distance)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_pair_is_confirmed_exactly_once(seed: int) -> None:
    random = np.random.default_rng(seed)
    hashes = random.integers(1, 2**12, 40, dtype=np.uint64)
    seen: list[tuple[int, int]] = []

    def remember(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        seen.extend((min(a, b), max(a, b)) for a, b in zip(left.tolist(), right.tolist(), strict=True))
        return np.zeros(len(left), dtype=bool)

    assert group_hashes(hashes, max_distance=5, confirm=remember).tolist() == list(range(40))
    near = {(i, j) for j in range(40) for i in range(j) if int(hashes[i] ^ hashes[j]).bit_count() <= 5}
    assert sorted(seen) == sorted(near)


def test_a_hundred_thousand_hashes_are_grouped_without_comparing_all() -> None:
    random = np.random.default_rng(0)
    hashes = random.integers(1, 2**63, 100_000, dtype=np.uint64)
    hashes[50_000:50_100] = hashes[:100] ^ np.uint64(0b1011)
    start = time.process_time()
    groups = group_hashes(hashes, max_distance=8)
    assert time.process_time() - start < 20
    assert np.array_equal(groups[50_000:50_100], groups[:100])
    # of 5 thousand million random pairs one or two are near by chance
    assert 99_890 <= len(set(groups)) <= 99_900


def test_identical_details_correlate_to_one() -> None:
    details = np.random.default_rng(0).integers(-127, 128, (2, 1024)).astype(np.int8)
    details[1] = details[0]
    found = Fingerprints(
        np.array([5, 5], dtype=np.uint64), details, np.array(["a", "b"]), np.ones((2, 2), int), np.zeros(2, bool)
    )
    assert group_fingerprints(found, min_correlation=1.0).tolist() == [0, 0]


def test_bytes_decide_exact_duplicates() -> None:
    assert exact_duplicate_groups(np.array(["a", "", "b", "a", ""], dtype=object)).tolist() == [0, 1, 2, 0, 3]


@settings(max_examples=30, deadline=None)
@given(pairs=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=30))
def test_merged_groups_are_the_coarsest_needed(pairs: list[tuple[int, int]]) -> None:
    first, second = np.array(pairs).T
    merged = merge_groups(first, second)
    for row in range(len(pairs)):
        joined = (merged == merged[row]).nonzero()[0]
        reached = {row}
        while True:
            near = {
                r for r in range(len(pairs)) if any(first[r] == first[s] or second[r] == second[s] for s in reached)
            }
            if near == reached:
                break
            reached = near
        assert set(joined) == reached


def test_limits_are_refused_with_what_is_expected() -> None:
    with pytest.raises(MedtailError, match="max_distance 16: expected 0 to 15"):
        group_hashes(np.array([1], dtype=np.uint64), max_distance=16)
    with pytest.raises(MedtailError, match="min_correlation 0: expected a correlation above 0"):
        near_duplicate_groups([], read=read_with_pillow, min_correlation=0)


def test_no_images_give_no_groups() -> None:
    assert near_duplicate_groups([], read=read_with_pillow).tolist() == []
