from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medtail.errors import MedtailError
from medtail.sources.phantom_breast import COMPRESSION, render_breast
from medtail.synthesis.adherence import boundary_f1, found_share
from medtail.synthesis.sketch import SketchConfig, draw_maps, lines_of, sketch_images

EACH = 30


def phantoms(speckle: int = 0) -> tuple[np.ndarray, np.ndarray]:
    drawn = [render_breast(which, number=n, speckle=speckle) for which in range(6) for n in range(EACH)]
    images = np.stack([phantom.pixels for phantom in drawn]).astype(np.float32) / 255
    return images, np.stack([phantom.boundary for phantom in drawn])


def speckle_only(count: int) -> np.ndarray:
    """The phantom without a lesion and without layers: nothing but speckle and depth."""
    depth = ((np.arange(64) + 0.5) / 64)[None, :, None]
    noise = np.random.default_rng(0).standard_normal((2, count, 64, 64))
    envelope = np.hypot(*(ndimage.gaussian_filter(part, (0, 0.6, 1.1), mode="wrap") for part in noise))
    seen = 0.55 * envelope / envelope.mean(axis=(1, 2), keepdims=True) * np.exp(-0.5 * depth)
    return np.clip(np.log1p(COMPRESSION * seen) / np.log1p(COMPRESSION), 0, 1).astype(np.float32)


@pytest.fixture(scope="module")
def drawn():
    images, borders = phantoms()
    return images, borders, sketch_images(images)


def test_borders_are_found_as_measured_in_the_design(drawn):
    _, borders, sketches = drawn
    found = found_share(sketches.lines, borders).reshape(6, EACH).mean(axis=1)
    # the design's own build of the phantom gave .63 1.0 .79 .75 .26 .96; ours differs in speckle and compression
    assert found == pytest.approx([0.63, 1.0, 0.79, 0.75, 0.26, 0.96], abs=0.12)
    assert found[[1, 5]].min() >= 0.9  # cyst- and papilloma-like borders are sharp
    assert found[4] < 0.5  # iso-echoic: a fact to be reported, not hidden


def test_density_is_as_designed_and_speckle_gives_little(drawn):
    assert drawn[2].density.mean() == pytest.approx(0.043, abs=0.008)
    assert sketch_images(speckle_only(40)).density.mean() == pytest.approx(0.016, abs=0.006)


def test_without_the_noise_floor_speckle_is_taken_for_edges():
    speckle = speckle_only(20)
    with_floor, without = (sketch_images(speckle, SketchConfig(kappa=kappa)).density.mean() for kappa in (1.0, 0.0))
    assert without > 3 * with_floor


def test_one_lesion_under_two_speckles_is_sketched_alike_and_two_lesions_are_not(drawn):
    _, _, sketches = drawn
    again = sketch_images(phantoms(speckle=1)[0])
    same = np.nan_to_num(boundary_f1(sketches.lines, again.lines)).mean()
    order = np.random.default_rng(1).permutation(len(again))
    other = np.nan_to_num(boundary_f1(sketches.lines, again.lines[order])).mean()
    assert same == pytest.approx(0.54, abs=0.06)
    assert other == pytest.approx(0.28, abs=0.06)
    assert same > 1.7 * other


def test_an_image_alone_and_in_a_batch_gives_the_same_sketch(drawn):
    images, _, sketches = drawn
    for row in (0, 47, 99, 179):
        assert np.array_equal(sketch_images(images[row : row + 1]).maps[0], sketches.maps[row])


def test_gray_values_may_be_stretched_without_changing_the_lines(drawn):
    images, _, sketches = drawn
    flatter = sketch_images(0.25 + 0.5 * images[:20])
    assert np.mean(flatter.lines == sketches.lines[:20]) > 0.999


def test_a_flat_image_is_empty_and_its_map_is_zero():
    sketch = sketch_images(np.full((1, 64, 64), 0.4))
    assert sketch.empty.all()
    assert sketch.maps.max() == 0


def test_few_pixels_count_as_empty():
    image = np.full((1, 64, 64), 0.5)
    image[0, 30:36, 30:36] = 0.9
    strict = sketch_images(image, SketchConfig(empty_below=0.5))
    assert strict.empty.all()
    assert strict.density[0] > 0


def test_short_pieces_are_dropped():
    images, _ = phantoms()
    for least in (1, 8, 30):
        pieces, count = ndimage.label(
            sketch_images(images[:1], SketchConfig(min_piece=least)).lines[0], np.ones((3, 3))
        )
        assert count == 0 or np.bincount(pieces.ravel())[1:].min() >= least


def test_a_weak_edge_counts_only_where_it_continues_a_strong_one(drawn):
    images, _, sketches = drawn
    strong = sketch_images(images, SketchConfig(low=1.0, min_piece=1)).lines
    assert sketches.lines.sum() > 1.2 * strong.sum()
    for row in range(0, 180, 20):
        pieces, count = ndimage.label(sketches.lines[row], np.ones((3, 3)))
        assert set(pieces[strong[row]]) - {0} == set(range(1, count + 1))


def test_bars_of_a_letterbox_are_never_sketched(drawn):
    images = drawn[0][:30].copy()
    images[:, :10], images[:, 54:] = 0.0, 0.0
    boxes = np.tile([0, 10, 64, 54], (30, 1))
    barred = sketch_images(images, content_boxes=boxes)
    assert not barred.lines[:, :10].any()
    assert not barred.lines[:, 54:].any()
    edge = barred.lines[:, 10:12].mean()
    naive = sketch_images(images).lines[:, 9:12].mean()
    assert naive > 5 * max(edge, 0.001)  # without the box the bar's edge is the strongest there is


def test_the_scale_follows_the_size_of_the_image():
    small = render_breast("cyst_like", number=3, size_px=64)
    large = render_breast("cyst_like", number=3, size_px=128)
    for phantom in (small, large):
        sketch = sketch_images(phantom.pixels[None].astype(np.float32) / 255)
        assert found_share(sketch.lines, phantom.boundary[None])[0] > 0.9


def test_maps_give_their_lines_back(drawn):
    sketches = drawn[2]
    assert sketches.maps.max(axis=(1, 2)).min() == 1.0
    assert np.mean(lines_of(sketches.maps) == sketches.lines) > 0.99
    assert np.array_equal(lines_of(draw_maps(sketches.lines, blur=0)), sketches.lines)


def test_wrong_input_is_refused():
    with pytest.raises(MedtailError, match=r"shape \(64, 64\); expected \[images, height, width\]"):
        sketch_images(np.zeros((64, 64)))
    with pytest.raises(MedtailError, match=r"from 0 to 255; expected gray values in \[0, 1\]"):
        sketch_images(np.array([[[0.0, 255.0] * 8] * 16]))
    with pytest.raises(MedtailError, match="from nan to nan"):
        sketch_images(np.full((1, 16, 16), np.nan))
