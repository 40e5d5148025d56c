from __future__ import annotations

import numpy as np
from PIL import Image

from medtail.explain.pictures import ALARM, outline, write_picture


def test_a_picture_has_room_for_its_words_and_warnings_are_red(tmp_path):
    image, heat = np.full((40, 60), 90, np.uint8), np.zeros((40, 60), np.float32)
    path = write_picture(tmp_path / "a.png", image, heat, lines=["shape=oval: score 0.5"], warnings=["FAILED: flat."])
    plain = write_picture(tmp_path / "b.png", image, heat, lines=["shape=oval: score 0.5"])
    with Image.open(path) as marked, Image.open(plain) as unmarked:
        assert marked.height > unmarked.height > 40
        reds = [np.asarray(picture.convert("RGB")) == np.array(ALARM) for picture in (marked, unmarked)]
    assert reds[0].all(axis=2).sum() > 20
    assert reds[1].all(axis=2).sum() == 0


def test_long_words_are_wrapped_not_cut(tmp_path):
    image, heat = np.full((40, 60), 90, np.uint8), np.zeros((40, 60), np.float32)
    short = write_picture(tmp_path / "a.png", image, heat, lines=["word"])
    long = write_picture(tmp_path / "b.png", image, heat, lines=["word " * 80])
    with Image.open(short) as first, Image.open(long) as second:
        assert second.width == first.width
        assert second.height > first.height + 40


def test_large_images_are_shrunk_and_small_ones_enlarged(tmp_path):
    for number, shape in enumerate([(3000, 2000), (16, 16)]):
        path = write_picture(tmp_path / f"{number}.png", np.zeros(shape, np.uint8), np.zeros(shape), lines=["x"])
        with Image.open(path) as picture:
            assert 600 <= picture.width <= 1920


def test_an_outline_is_one_pixel_inside_the_mask():
    mask = np.zeros((6, 6), dtype=bool)
    mask[1:5, 1:5] = True
    border = outline(mask)
    assert border.sum() == 12
    assert not (border & ~mask).any()
    assert outline(np.ones((3, 3), dtype=bool)).sum() == 8
