"""One image file → float32 pixels with a declared range, [0, 1].

The range comes from what the file declares (its bit depth, its DICOM window), never from the brightest pixel it
happens to hold, so that the same tissue has the same value in every image of a scanner. What a file is, is judged
by its content, not by its name. DICOM files are handed to `medtail.pixels.dicom`; everything else is Pillow's.
The first step of `pixels`; cropping, scaling and storing come after. Never imports torch.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from medtail.errors import MedtailError
from medtail.pixels.dicom import is_dicom, read_dicom
from medtail.tables.places import Place, Remote, place_of
from medtail.tables.remote import Servers

MAX_PIXELS = 178_956_970
"""Images above this are refused as decompression bombs; Pillow itself refuses there. About 13,400 x 13,400."""

# Only these readers are let loose on a file: others of Pillow's start programs (EPS) or read no pixels.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000", "PPM")

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""Weights of red, green and blue in a gray value (ITU-R BT.601), as Pillow and JPEG use them."""

ORIENTATION_TAG = 0x0112
# EXIF orientation → how the stored pixels must be turned to stand upright.
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels.swapaxes(0, 1)[:, ::-1],
    7: lambda pixels: pixels.swapaxes(0, 1)[::-1, ::-1],
    8: lambda pixels: pixels.swapaxes(0, 1)[::-1],
}


def read_image(path: Place | str, *, frame: int = 0) -> np.ndarray:
    """Read an image file, or one behind a URL, as float32 in [0, 1].

    8-bit values are divided by 255, 16-bit ones by 65,535; palettes are looked up, alpha is composited on black,
    EXIF orientation is applied. DICOM pixels go through the modality and VOI transforms (or the bit depth where no
    window is declared), MONOCHROME1 is inverted, colour becomes RGB. An image whose three channels are
    equal is gray.

    Args:
        path: PNG, JPEG, TIFF, BMP, GIF, WebP, JPEG 2000, PGM/PPM or DICOM, whatever the name ends in. A text that is
            a URL (`s3://…`, `https://…`) is fetched into memory.
        frame: Which frame of a multi-frame file, from 0.

    Returns:
        C-contiguous float32, [H, W] (gray) or [H, W, 3] (colour).

    Raises:
        MedtailError: The file is missing, empty, truncated, not an image, larger than `MAX_PIXELS`, compressed in a
            way no installed plugin reads, or declares no range. Names the file.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "a.png"
        >>> Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).save(file)
        >>> read_image(file).tolist()
        [[0.0, 1.0]]
    """
    place = place_of(path, root=Path()) if isinstance(path, str) else path
    if isinstance(place, Remote):
        try:
            content = Servers().fetch(place)
        except OSError as error:
            raise MedtailError(f"{place}: cannot be read ({error}).") from error
        return image_from_bytes(content, name=str(place), frame=frame)
    return _read(place, place, _head(place), frame=frame, max_pixels=MAX_PIXELS)


def image_from_bytes(
    content: bytes, *, name: str = "image", frame: int = 0, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Read an image that is in memory, exactly as `read_image` reads the same bytes from a file; nothing is written.

    Args:
        content: All bytes of the file.
        name: What messages call it. A DICOM ending makes bytes without DICOM's mark be read as old DICOM.
        frame: Which frame of a multi-frame image, from 0.
        max_pixels: Refuse larger images before their pixels are decoded; at most `MAX_PIXELS`.

    Returns:
        As `read_image`.

    Raises:
        MedtailError: As `read_image`.

    Example:
        >>> image_from_bytes(b"P5 2 1 255 " + bytes([0, 255])).tolist()
        [[0.0, 1.0]]
    """
    if not content:
        raise MedtailError(f"{name}: the file is empty (0 bytes); expected an image. Copy it again from its origin.")
    return _read(Path(name), content, content[:132], frame=frame, max_pixels=min(max_pixels, MAX_PIXELS))


def _read(path: Path, source: Path | bytes, head: bytes, *, frame: int, max_pixels: int) -> np.ndarray:
    """Read from a file or from its bytes; `path` is the name in messages."""
    if is_dicom(head, name=path.name):
        pixels = read_dicom(path, frame=frame, max_pixels=max_pixels, source=source)
    else:
        pixels = _read_with_pillow(path, source, frame=frame, max_pixels=max_pixels)
    if (
        pixels.ndim == 3
        and np.array_equal(pixels[..., 0], pixels[..., 1])
        and np.array_equal(pixels[..., 0], pixels[..., 2])
    ):
        pixels = pixels[..., 0]
    return np.ascontiguousarray(pixels, dtype=np.float32)


def read_gray(path: Place | str, *, frame: int = 0) -> np.ndarray:
    """Read an image file as gray, float32 [H, W] in [0, 1]; colours are weighed by `LUMA`.

    Args:
        path: As `read_image`.
        frame: Which frame of a multi-frame file, from 0.

    Raises:
        MedtailError: As `read_image`.
    """
    pixels = read_image(path, frame=frame)
    return pixels if pixels.ndim == 2 else np.ascontiguousarray(pixels @ LUMA)


def _head(path: Path) -> bytes:
    """Return the first bytes of a file that exists and is not empty."""
    try:
        with path.open("rb") as handle:
            head = handle.read(132)
    except FileNotFoundError:
        raise MedtailError(f"{path}: no such file; expected an image.") from None
    except IsADirectoryError:
        raise MedtailError(f"{path}: is a folder; expected an image file.") from None
    except OSError as error:
        raise MedtailError(f"{path}: cannot be read ({error.strerror or error}).") from error
    if not head:
        raise MedtailError(f"{path}: the file is empty (0 bytes); expected an image. Copy it again from its origin.")
    return head


def _read_with_pillow(path: Path, source: Path | bytes, *, frame: int, max_pixels: int) -> np.ndarray:
    try:
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise _too_large(path, f"{image.width} x {image.height}", max_pixels)
            frames = int(getattr(image, "n_frames", 1))
            if not 0 <= frame < frames:
                raise MedtailError(f"{path}: no frame {frame}; the file has {frames} (counted from 0).")
            if frame:
                image.seek(frame)
            image.load()
            return upright(_to_unit(path, image), _orientation(image))
    except MedtailError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(path, str(error), max_pixels) from error
    except UnidentifiedImageError:
        raise MedtailError(
            f"{path}: not an image by its content{_looks_like(source)}; expected PNG, JPEG, TIFF, BMP, GIF, WebP,"
            " JPEG 2000, PGM/PPM or DICOM. Remove it or copy it again from its origin."
        ) from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise anything from SyntaxError to struct.error on damaged bytes
        raise MedtailError(
            f"{path}: damaged or truncated image ({str(error) or type(error).__name__}). Copy it again from its origin."
        ) from error


def _too_large(path: Path, found: str, max_pixels: int) -> MedtailError:
    return MedtailError(
        f"{path}: too large ({found}); expected at most {max_pixels:,} pixels. Cut or reduce it before importing."
    )


def _looks_like(source: Path | bytes) -> str:
    if isinstance(source, bytes):
        head = source[:512]
    else:
        with source.open("rb") as handle:
            head = handle.read(512)
    try:
        text = head.decode("utf-8", errors="strict" if len(head) < 512 else "ignore")
    except UnicodeDecodeError:
        return ""
    is_text = all(letter.isprintable() or letter in "\r\n\t" for letter in text)
    return f" (it is text, starting {text[:24]!r})" if is_text else ""


def _to_unit(path: Path, image: Image.Image) -> np.ndarray:
    """Turn a loaded Pillow image to floats in [0, 1], [H, W] or [H, W, 3]."""
    mode = image.mode
    if mode == "1":
        return np.asarray(image).astype(np.float32)
    if mode.startswith("I;16"):
        return np.asarray(image).astype(np.float32) / np.float32(_whole_range(image))
    if mode == "I":
        values = np.asarray(image)
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > 65535:
            raise MedtailError(
                f"{path}: 32-bit values from {low} to {high}; expected 0 to 65535, as no other range is declared."
                " Save it as 8- or 16-bit."
            )
        return values.astype(np.float32) / np.float32(65535)
    if mode == "F":
        values = np.asarray(image).astype(np.float32)
        least, most = float(values.min()), float(values.max())
        if not (least >= 0 and most <= 1):
            raise MedtailError(
                f"{path}: float values from {least:g} to {most:g}; expected [0, 1], as floats declare no range."
                " Save it as 8- or 16-bit."
            )
        return values
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        coloured = np.asarray(image.convert("RGBA")).astype(np.float32) / np.float32(255)
        return np.asarray(coloured[..., :3] * coloured[..., 3:])
    ready = image if mode in ("L", "RGB") else image.convert("RGB")
    return np.asarray(ready).astype(np.float32) / np.float32(255)


def _whole_range(image: Image.Image) -> int:
    # A TIFF may keep 12-bit values in 16-bit words; it then says so in BitsPerSample (258).
    bits = getattr(image, "tag_v2", {}).get(258, (16,))
    first = int(bits[0] if isinstance(bits, tuple) else bits)
    return int(2**first - 1)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION_TAG, 1))
    except Exception:  # a damaged EXIF block says nothing about the pixels, which are whole
        return 1


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored pixels upright by their EXIF orientation.

    Args:
        pixels: [H, W] or [H, W, 3].
        orientation: 1 to 8, as EXIF defines; 1 and unknown values change nothing.

    Example:
        >>> upright(np.array([[1, 2], [3, 4]]), 6).tolist()
        [[3, 1], [4, 2]]
    """
    turn = UPRIGHT.get(orientation)
    return pixels if turn is None else turn(pixels)
