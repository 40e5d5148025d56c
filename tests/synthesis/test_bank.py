from __future__ import annotations

import numpy as np
import pytest

from medtail.errors import MedtailError
from medtail.sources.phantom_breast import render_breast
from medtail.synthesis.adherence import boundary_f1
from medtail.synthesis.bank import WarpConfig, sketch_bank, warp_map
from medtail.synthesis.sketch import lines_of, sketch_images

STILL = WarpConfig(rotation_deg=0, scale=0, shift=0, flip=0, elastic_px=0)


@pytest.fixture(scope="module")
def images():
    return np.stack([render_breast(which, number=n).pixels for which in (1, 5) for n in range(6)]) / 255.0


@pytest.fixture(scope="module")
def bank(images):
    flat = np.full((1, 64, 64), 0.5)
    targets = np.zeros((13, 3))
    targets[:6, 0], targets[6:12, 1], targets[12, 2] = 1, 1, 1
    return sketch_bank(np.concatenate([images, flat]), targets, [f"i{n}" for n in range(13)])


def test_a_sketch_comes_from_a_train_image_of_the_class(bank):
    random = np.random.default_rng(0)
    assert {bank.draw(0, random)[1] for _ in range(60)} == {f"i{n}" for n in range(6)}
    assert {bank.draw(1, random)[1] for _ in range(60)} == {f"i{n}" for n in range(6, 12)}


def test_an_image_of_several_classes_lends_its_sketch_to_each(images):
    bank = sketch_bank(images[:1], np.array([[1.0, 1.0, np.nan]]), ["a"])
    random = np.random.default_rng(0)
    assert [bank.draw(number, random)[1] for number in range(3)] == ["a", "a", ""]


def test_a_class_without_a_sketch_gets_none_and_says_so(bank):
    sketch, source = bank.draw(2, np.random.default_rng(0))
    assert source == ""
    assert sketch.max() == 0
    assert bank.sketched.tolist() == [6, 6, 0]
    assert bank.images == (6, 6, 1)


def test_a_class_with_one_image_gives_many_forms(images):
    bank = sketch_bank(images[:1], np.array([[1.0]]), ["only"])
    random = np.random.default_rng(0)
    drawn = [bank.draw(0, random)[0] for _ in range(10)]
    assert len({sketch.tobytes() for sketch in drawn}) == 10


def test_the_same_stream_draws_the_same(bank):
    first, again = (bank.draw(0, np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(first[0], again[0])
    assert first[1] == again[1]


def test_warped_maps_stay_maps_and_keep_most_of_their_line(bank):
    random = np.random.default_rng(0)
    for _ in range(40):
        sketch, source = bank.draw(0, random)
        original = bank.maps[list(bank.image_ids).index(source)] / 255.0
        assert sketch.dtype == np.float32
        assert sketch.min() >= 0
        assert sketch.max() == pytest.approx(1.0)
        assert lines_of(sketch[None]).sum() >= 0.4 * lines_of(original[None]).sum()


def test_no_change_is_the_identity_and_each_change_changes(images):
    sketch = sketch_images(images[:1]).maps[0]
    random = np.random.default_rng(0)
    assert warp_map(sketch, random, config=STILL) == pytest.approx(sketch, abs=1e-6)
    flipped = WarpConfig(rotation_deg=0, scale=0, shift=0, flip=1, elastic_px=0)
    assert warp_map(sketch, random, config=flipped) == pytest.approx(sketch[:, ::-1], abs=1e-6)
    for setting in ({"rotation_deg": 15}, {"scale": 0.15}, {"shift": 0.1}, {"elastic_px": 2}):
        alone = WarpConfig(**{"rotation_deg": 0, "scale": 0, "shift": 0, "flip": 0, "elastic_px": 0, **setting})
        changed = [np.abs(warp_map(sketch, random, config=alone) - sketch).max() for _ in range(8)]
        assert max(changed) > 0.3, setting


def test_a_shift_moves_the_line_by_at_most_its_limit(images):
    line = np.zeros((64, 64), dtype=np.float32)
    line[32, 20:44] = 1.0
    random = np.random.default_rng(3)
    places = []
    for _ in range(50):
        moved = warp_map(line, random, config=WarpConfig(rotation_deg=0, scale=0, flip=0, elastic_px=0))
        places.append(np.average(np.arange(64), weights=moved.sum(axis=1)))
    assert 25.5 <= min(places) < 28
    assert 36 < max(places) <= 38.5


def test_a_line_pushed_out_is_not_lent(images):
    line = np.zeros((64, 64), dtype=np.float32)
    line[0, :] = 1.0
    away = WarpConfig(rotation_deg=0, scale=0, shift=0.5, flip=0, elastic_px=0)
    random = np.random.default_rng(0)
    for _ in range(30):
        assert lines_of(warp_map(line, random, config=away)[None]).sum() >= 0.6 * 64


def test_bends_are_smooth(images):
    sketch = sketch_images(images[:1]).maps[0]
    bent = warp_map(sketch, np.random.default_rng(0), config=WarpConfig(rotation_deg=0, scale=0, shift=0, flip=0))
    # a pixel's bend moves the line about a pixel, so most of it is still found within two
    assert boundary_f1(lines_of(bent[None]), lines_of(sketch[None]))[0] > 0.85


def test_wrong_input_is_refused(images, bank):
    with pytest.raises(MedtailError, match=r"found 2 images, targets of shape \(3, 1\) and 2 ids"):
        sketch_bank(images[:2], np.ones((3, 1)), ["a", "b"])
    with pytest.raises(MedtailError, match="class 3; expected 0 to 2"):
        bank.draw(3, np.random.default_rng(0))
