from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medtail.errors import MedtailError
from medtail.pixels.settings import PixelConfig
from medtail.synthesis.features import Features, FeatureSpace
from medtail.synthesis.inspection import inspect_pool
from medtail.synthesis.pool_reading import read_pool
from medtail.synthesis.quality import (
    SpaceFeatures,
    adherences,
    nearest_generated,
    nearest_real,
    similarities,
    space_quality,
)

SPACE = FeatureSpace("pixel32", "", "pixels", 32, "gray in [0, 1]")


def features_of(pool, *, copies: bool, seed: int = 0) -> SpaceFeatures:
    """Vectors of one blob a class; generated ones are fresh, or train ones with a little noise."""
    random = np.random.default_rng(seed)
    middles = np.eye(3, 6) * 8

    def draw(rows):
        return middles[pool.manifest.targets[rows].argmax(axis=1)] + random.normal(size=(len(rows), 6))

    train, tune = draw(pool.train), draw(pool.tune)
    if copies:
        shows = pool.manifest.targets[pool.train].argmax(axis=1)
        made = np.stack([train[random.choice(np.flatnonzero(shows == number))] for number in pool.asked])
        made += random.normal(0, 0.01, made.shape)
    else:
        made = middles[pool.asked] + random.normal(size=(len(pool.asked), 6))
    far = {"made": made + 500, "train": train + 500}
    return SpaceFeatures(*(Features(SPACE, part) for part in (made, far["made"], train, far["train"], tune)))


@pytest.fixture(scope="module")
def pool(honest_pool):
    return read_pool(honest_pool)


def measured(pool, features):
    return space_quality(pool, features, nearest_generated(pool, features), nearest_real(pool, features))


def test_fresh_images_are_no_copies_and_copies_are(pool):
    honest, copied = (measured(pool, features_of(pool, copies=copies)) for copies in (False, True))
    for number in (0, 1, 2):
        assert abs(honest[number].copy_test) < 3
        assert copied[number].copy_test < -2.5  # with 8 and 6 images a complete copy cannot go much below
        assert copied[number].copy_share == 1.0
        assert copied[number].unseen_test > -2.5
        assert copied[number].copy_ratio < 0.05 < honest[number].copy_ratio
    assert copied[0].copy_test < -3


def test_the_likeness_of_a_class_is_read_against_the_nearest_other_class(pool):
    found = measured(pool, features_of(pool, copies=False))
    names = pool.manifest.labels.class_names
    for number, quality in found.items():
        assert quality.position.nearest in set(names) - {names[number]}
        assert quality.position.position == pytest.approx(0, abs=0.1)
        assert quality.fid_reason.endswith("FID needs 2,000")
        assert 0.5 < quality.coverage.diversity < 1.5
    swapped = features_of(pool, copies=False)
    rolled = Features(SPACE, np.roll(swapped.synthetic.values, 8, axis=0))  # every class now shows another one
    wrong = measured(pool, SpaceFeatures(rolled, *(getattr(swapped, n) for n in ("synthetic_mirrored", "train",
                     "train_mirrored", "tune"))))  # fmt: skip
    assert min(quality.position.position for quality in wrong.values()) > 0.5
    assert max(quality.coverage.coverage for quality in wrong.values()) == 0


def test_numbers_are_the_same_twice(pool):
    features = features_of(pool, copies=False)
    assert str(measured(pool, features)) == str(measured(pool, features))  # NaN differs from itself


def test_two_spaces_in_one_set_are_refused(pool):
    parts = features_of(pool, copies=False)
    other = Features(FeatureSpace("judge", "ab", "layer", 32, ""), parts.tune.values)
    mixed = SpaceFeatures(parts.synthetic, parts.synthetic_mirrored, parts.train, parts.train_mirrored, other)
    with pytest.raises(MedtailError, match="expected one"):
        measured(pool, mixed)


def test_a_class_of_one_image_gets_no_numbers_it_cannot_have(pool):
    features = features_of(pool, copies=False)
    kept = np.ones(len(pool.train), dtype=bool)
    kept[np.flatnonzero(pool.manifest.targets[pool.train, 2] == 1)[1:]] = False
    small = type(pool)(pool.folder, pool.manifest, pool.record, pool.synthetic, pool.train[kept],
                       pool.tune[pool.manifest.targets[pool.tune, 2] != 1], pool.asked)  # fmt: skip
    tune_kept = pool.manifest.targets[pool.tune, 2] != 1
    parts = SpaceFeatures(features.synthetic, features.synthetic_mirrored, features.train.take(kept),
                          features.train_mirrored.take(kept), features.tune.take(tune_kept))  # fmt: skip
    found = measured(small, parts)[2]
    assert np.isnan([found.copy_test, found.copy_share, found.position.kid, found.coverage.density]).all()
    assert np.isfinite(found.copy_ratio)


def test_an_image_with_both_findings_is_no_image_of_the_other_one(pool):
    """In a multi-label table the ceiling is drawn from images without the class, else it would be the class itself."""
    features = features_of(pool, copies=False)
    frame = pool.manifest.frame.copy()
    both = frame["subtype=cyst_like"] == 1
    frame.loc[both & (frame["origin"] == "real"), "subtype=fibroadenoma_like"] = 1.0
    shared = replace(pool, manifest=replace(pool.manifest, frame=frame))
    found = measured(shared, features)[1]
    assert found.position.nearest != ""
    assert found.position.ceiling == pytest.approx(measured(pool, features)[1].position.ceiling)


def test_asked_sketches_are_kept_more_than_other_ones(honest_pool):
    found = inspect_pool(honest_pool, pixels=PixelConfig(size_px=32))
    pool = found.pool
    places, asked = pool.asked_lines(32)
    by_class, f1 = adherences(pool, found.sketches.lines, places, asked)
    assert set(by_class) == {1}
    kept = by_class[1]
    assert kept.images == 8
    assert kept.asked > kept.other + 0.1
    assert kept.gain == pytest.approx(kept.asked - kept.other)
    assert np.isnan(f1[:8]).all()
    assert np.isfinite(f1[8:16]).all()
    # with lines that have nothing to do with the sketch there is no gain
    shuffled = np.roll(found.sketches.lines, 11, axis=0)
    assert adherences(pool, shuffled, places, asked)[0][1].gain < 0.5 * kept.gain
    assert adherences(pool, found.sketches.lines, places[:1], asked[:1])[0] == {}


def test_repeated_images_are_more_alike_than_real_ones(honest_pool):
    found = inspect_pool(honest_pool, pixels=PixelConfig(size_px=32))
    repeated = found.images.copy()
    repeated[:8] = repeated[0]
    same = similarities(found.pool, repeated, found.real)
    assert same[0][0] == pytest.approx(1.0)
    assert same[0][1] < 0.9
    assert same[2] == similarities(found.pool, found.images, found.real)[2]
    tiny = similarities(found.pool, found.images[:, :8, :8], found.real[:, :8, :8])
    assert np.isnan(list(tiny.values())).all()
