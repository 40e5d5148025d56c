"""Image files of every kind end as float32 in [0, 1] by their declared range, or as an error naming the file."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from medtail.errors import MedtailError
from medtail.pixels import decode
from medtail.pixels.decode import LUMA, image_from_bytes, read_gray, read_image
from medtail.tables.places import Remote

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def saved(folder: Path, name: str, image: Image.Image, **options: object) -> Path:
    path = folder / name
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def same(pixels: np.ndarray, expected: np.ndarray) -> bool:
    assert pixels.dtype == np.float32
    assert pixels.flags["C_CONTIGUOUS"]
    return pixels.shape == expected.shape and bool(np.allclose(pixels, expected, atol=1e-6))


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "gif", "pgm"])
def test_eight_bits_are_divided_by_255(tmp_path: Path, ending: str) -> None:
    assert same(read_image(saved(tmp_path, f"a.{ending}", Image.fromarray(RAMP))), RAMP / 255)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_sixteen_bits_are_divided_by_65535_not_by_the_brightest_pixel(tmp_path: Path, ending: str) -> None:
    values = (np.arange(64, dtype=np.uint16) * 500).reshape(8, 8)
    assert same(read_image(saved(tmp_path, f"a.{ending}", Image.fromarray(values))), values / 65535)


def test_mode_i_is_taken_as_sixteen_bits(tmp_path: Path) -> None:
    values = np.array([[0, 1000], [40000, 65535]], dtype=np.int32)
    assert same(read_image(saved(tmp_path, "a.tif", Image.fromarray(values))), values / 65535)


@pytest.mark.parametrize("values", [[[0, 70000]], [[-1, 5]]])
def test_integers_outside_sixteen_bits_are_refused(tmp_path: Path, values: list[list[int]]) -> None:
    path = saved(tmp_path, "a.tif", Image.fromarray(np.array(values, dtype=np.int32)))
    with pytest.raises(MedtailError, match=r"a\.tif: 32-bit values from .* expected 0 to 65535"):
        read_image(path)


def test_twelve_bit_tiff_is_divided_by_4095(tmp_path: Path) -> None:
    # two 12-bit values, 4095 and 0, packed in three bytes, in the smallest TIFF there is
    entries = [(256, 3, 2), (257, 3, 1), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 3, 1),
               (279, 4, 3)]  # fmt: skip
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", t, k, 1, v) for t, k, v in entries)
    data = struct.pack("<2sHI", b"II", 42, 12) + b"\xff\xf0\x00\x00" + directory + struct.pack("<I", 0)
    (tmp_path / "a.tif").write_bytes(data)
    assert read_image(tmp_path / "a.tif").tolist() == [[1.0, 0.0]]


def test_floats_are_accepted_only_within_zero_and_one(tmp_path: Path) -> None:
    inside = np.array([[0.0, 0.25, 1.0]], dtype=np.float32)
    assert same(read_image(saved(tmp_path, "a.tif", Image.fromarray(inside))), inside)
    with pytest.raises(MedtailError, match=r"b\.tif: float values from 0 to 2; expected \[0, 1\]"):
        read_image(saved(tmp_path, "b.tif", Image.fromarray(inside * 2)))
    with pytest.raises(MedtailError, match="float values"):
        read_image(saved(tmp_path, "c.tif", Image.fromarray(inside * np.float32("nan"))))


def test_bilevel_images_are_zero_and_one(tmp_path: Path) -> None:
    bits = np.array([[True, False], [False, True]])
    assert same(read_image(saved(tmp_path, "a.png", Image.fromarray(bits))), bits.astype(float))


def test_colour_stays_colour_and_equal_channels_become_gray(tmp_path: Path) -> None:
    colour = np.stack([RAMP, RAMP[::-1], RAMP.T], axis=-1)
    assert same(read_image(saved(tmp_path, "a.png", Image.fromarray(colour))), colour / 255)
    assert same(read_image(saved(tmp_path, "b.png", Image.fromarray(np.stack([RAMP] * 3, axis=-1)))), RAMP / 255)


def test_gray_jpeg_saved_as_rgb_becomes_gray(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.jpg", Image.fromarray(np.stack([RAMP] * 3, axis=-1)), quality=95)
    pixels = read_image(path)
    assert pixels.shape == (16, 16)
    assert np.abs(pixels - RAMP / 255).max() < 0.05


def test_alpha_is_composited_on_black(tmp_path: Path) -> None:
    pixels = np.array([[[200, 100, 50, 255], [200, 100, 50, 51], [200, 100, 50, 0]]], dtype=np.uint8)
    expected = np.array([[[200, 100, 50], [40, 20, 10], [0, 0, 0]]]) / 255
    assert same(read_image(saved(tmp_path, "a.png", Image.fromarray(pixels))), expected)


def test_gray_with_alpha_is_composited_on_black(tmp_path: Path) -> None:
    pixels = np.array([[[200, 255], [200, 51]]], dtype=np.uint8)
    assert same(read_image(saved(tmp_path, "a.png", Image.fromarray(pixels))), np.array([[200, 40]]) / 255)


def test_palette_is_looked_up_and_its_transparent_entry_is_black(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8))
    image.putpalette([10, 20, 30, 90, 80, 70, 255, 0, 0])
    expected = np.array([[[10, 20, 30], [90, 80, 70], [255, 0, 0]]]) / 255
    assert same(read_image(saved(tmp_path, "a.png", image)), expected)
    expected[0, 1] = 0
    assert same(read_image(saved(tmp_path, "b.png", image, transparency=1)), expected)


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.tif", Image.new("CMYK", (2, 2), (0, 255, 255, 0)))
    assert same(read_image(path), np.broadcast_to(np.array([1.0, 0.0, 0.0]), (2, 2, 3)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_as_pillow_applies_it(tmp_path: Path, orientation: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, "a.png", Image.fromarray(RAMP[:5]), exif=exif)
    with Image.open(path) as image:
        oracle = np.asarray(ImageOps.exif_transpose(image))
    assert same(read_image(path), oracle / 255)


def test_chosen_frame_of_a_multi_page_file_is_read_and_others_are_refused(tmp_path: Path) -> None:
    pages = [Image.fromarray(np.full((3, 3), value, dtype=np.uint8)) for value in (10, 20, 30)]
    path = saved(tmp_path, "a.tif", pages[0], save_all=True, append_images=pages[1:])
    assert read_image(path)[0, 0] == pytest.approx(10 / 255)
    assert read_image(path, frame=2)[0, 0] == pytest.approx(30 / 255)
    for frame in (3, -1):
        with pytest.raises(MedtailError, match=rf"a\.tif: no frame {frame}; the file has 3"):
            read_image(path, frame=frame)


def test_content_decides_and_not_the_name(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.png", Image.fromarray(RAMP))
    for name in ("a.jpg", "a.dcm", "a"):
        (tmp_path / name).write_bytes(path.read_bytes())
        assert same(read_image(tmp_path / name), RAMP / 255)


def test_gray_weighs_the_colours(tmp_path: Path) -> None:
    colour = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], dtype=np.uint8)
    path = saved(tmp_path, "a.png", Image.fromarray(colour))
    assert same(read_gray(path), LUMA[None])
    assert same(read_gray(saved(tmp_path, "b.png", Image.fromarray(RAMP))), RAMP / 255)


def test_missing_file_folder_and_empty_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(MedtailError, match=r"gone\.png: no such file"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(MedtailError, match="is a folder"):
        read_image(tmp_path)
    (tmp_path / "empty.png").touch()
    with pytest.raises(MedtailError, match=r"empty\.png: the file is empty"):
        read_image(tmp_path / "empty.png")


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "gif", "bmp"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_truncated_files_are_refused_and_named(tmp_path: Path, ending: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    whole = saved(tmp_path, f"whole.{ending}", Image.fromarray(noise)).read_bytes()
    (tmp_path / f"cut.{ending}").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(MedtailError, match=rf"cut\.{ending}: (damaged or truncated image|not an image)"):
        read_image(tmp_path / f"cut.{ending}")


def test_text_file_named_png_is_refused_and_shown(tmp_path: Path) -> None:
    (tmp_path / "note.png").write_text("patient moved away")
    with pytest.raises(MedtailError, match=r"note\.png: not an image by its content \(it is text, starting 'patient"):
        read_image(tmp_path / "note.png")


def test_formats_that_start_programs_are_never_opened(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(MedtailError, match="not an image by its content"):
        read_image(tmp_path / "a.png")


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 10)) + chunk(b"IEND", b"")


def test_decompression_bomb_is_refused_before_decoding(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(png_claiming(60_000, 60_000))
    with pytest.raises(MedtailError, match=r"bomb\.png: too large .* at most 178,956,970 pixels"):
        read_image(tmp_path / "bomb.png")


def test_own_pixel_limit_is_inclusive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, "a.png", Image.fromarray(RAMP))
    monkeypatch.setattr(decode, "MAX_PIXELS", 256)
    read_image(path)
    monkeypatch.setattr(decode, "MAX_PIXELS", 255)
    with pytest.raises(MedtailError, match=r"too large \(16 x 16\)"):
        read_image(path)


@pytest.mark.parametrize("data_set", ["bus_bra", "breast_usg", "nih_cxr"])
def test_real_images_are_gray_floats_of_their_own_size(shared_data: Path, data_set: str) -> None:
    files = sorted((shared_data / data_set).glob("images*/*"))[::97]
    assert files
    for file in files:
        pixels = read_image(file)
        with Image.open(file) as image:
            assert pixels.shape == (image.height, image.width)
        assert pixels.dtype == np.float32
        assert pixels.min() >= 0
        assert pixels.max() <= 1
        assert pixels.std() > 0.01


def test_decoding_never_loads_torch() -> None:
    code = "import sys, medtail.pixels.decode; sys.exit('torch' in sys.modules or 'pydicom' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_bytes_in_memory_are_read_as_the_file_is(kind: str, tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    path = tmp_path / "a"
    Image.fromarray(colours).save(path, format=kind)
    np.testing.assert_array_equal(image_from_bytes(path.read_bytes()), read_image(path))


def test_bytes_are_refused_in_the_words_of_files_and_by_their_own_limit() -> None:
    with pytest.raises(MedtailError, match="scan: the file is empty"):
        image_from_bytes(b"", name="scan")
    with pytest.raises(MedtailError, match=r"scan: not an image by its content .it is text, starting 'hello"):
        image_from_bytes(b"hello world", name="scan")
    whole = b"P5 4 4 255 " + bytes(16)
    assert image_from_bytes(whole, max_pixels=16).shape == (4, 4)
    with pytest.raises(MedtailError, match=r"scan: too large .4 x 4.; expected at most 15 pixels"):
        image_from_bytes(whole, name="scan", max_pixels=15)


def test_an_image_behind_a_url_is_read_as_its_file_would_be(tmp_path: Path) -> None:
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "a b.png")
    memory = fsspec.filesystem("memory")
    memory.pipe("/decode/a.png", (tmp_path / "a b.png").read_bytes())
    expected = read_image(tmp_path / "a b.png")
    assert np.array_equal(read_image("memory://decode/a.png"), expected)
    assert np.array_equal(read_image(Remote("memory://decode/a.png")), expected)
    assert np.array_equal(read_image(f"file://{tmp_path}/a%20b.png"), expected)
    with pytest.raises(MedtailError, match=r"memory://decode/b\.png: cannot be read \(no such file"):
        read_image("memory://decode/b.png")
    memory.store.clear()
