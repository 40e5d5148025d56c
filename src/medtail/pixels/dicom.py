"""DICOM pixels → float32 in [0, 1]: modality transform, VOI window, MONOCHROME1, colour, frames, compression.

The steps are those of DICOM PS3.3 C.11: stored values → modality LUT or rescale → VOI LUT or window → [0, 1]. Where
no window is declared, the range is that of the bit depth. The LUT and window arithmetic is written here because
pydicom's returns values in the range of the stored type, overflows on LUTs narrower than the image, and does not
look into enhanced multi-frame headers; the tests hold it against pydicom's where both are defined. Decompression
is pydicom's, through whichever of its plugins are installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medtail.errors import MedtailError
from medtail.sources.dicom_files import dicom_stream

MAGIC = b"DICM"
ENDINGS = (".dcm", ".dicom", ".ima")
# Named as DICOM, yet by their content something else: judged as what they are.
OTHER_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\x00", b"MM\x00*", b"RIFF")


def is_dicom(head: bytes, *, name: str) -> bool:
    """Say whether a file is DICOM, from its first 132 bytes; old files without preamble need a DICOM ending.

    Example:
        >>> is_dicom(bytes(128) + b"DICM", name="image.png"), is_dicom(b"GIF89a", name="a.dcm")
        (True, False)
    """
    if head[128:132] == MAGIC:
        return True
    return name.lower().endswith(ENDINGS) and not head.startswith(OTHER_MAGIC)


def read_dicom(path: Path, *, frame: int, max_pixels: int, source: Path | bytes | None = None) -> np.ndarray:
    """Read one frame of a DICOM file as float32 in [0, 1], [H, W] or [H, W, 3].

    Args:
        path: The file, known to exist.
        frame: Which frame, from 0.
        max_pixels: Refuse frames with more pixels than this, before decoding them.
        source: The file's bytes, where they are in memory; `path` then only names it.

    Raises:
        MedtailError: Not DICOM, without pixels, damaged, too large, no such frame, or no plugin for its compression.
    """
    header = _read_header(path, path if source is None else source)
    try:
        _check_frame(path, header, frame=frame, max_pixels=max_pixels)
        stored = _decode(path, header, frame=frame)
        if stored.ndim == 3:
            return _scale_colour(header, stored)
        if str(header.get("PhotometricInterpretation", "")) == "PALETTE COLOR":
            return _look_up_palette(header, stored)
        return _scale_gray(path, header, stored, frame=frame)
    except (MedtailError, MemoryError):
        raise
    except Exception as error:  # a damaged header raises anything, from KeyError to struct.error
        raise MedtailError(
            f"{path}: damaged DICOM file ({str(error).strip() or type(error).__name__}). Copy it again from its origin."
        ) from error


def _read_header(path: Path, source: Path | bytes) -> Any:
    import pydicom
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    try:
        with dicom_stream(source, where=str(path)) as stream:
            header = pydicom.dcmread(stream, force=True)
        has_image = "Rows" in header and "Columns" in header
    except (MedtailError, MemoryError):
        raise
    except Exception as error:  # any bytes may stand here
        raise MedtailError(
            f"{path}: cannot be read as DICOM ({str(error).strip() or type(error).__name__}). Copy it again from its"
            " origin."
        ) from error
    if not has_image or not any(word in header for word in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        kind = str(getattr(header.get("SOPClassUID"), "name", "")) or "no DICOM object at all, by its content"
        raise MedtailError(f"{path}: no pixels in this DICOM file ({kind}); expected an image. Leave it out.")
    if "TransferSyntaxUID" not in header.file_meta:
        # Files from before the preamble say by their encoding what they are; they were never compressed.
        is_implicit, is_little = header.original_encoding
        explicit = ExplicitVRLittleEndian if is_little else ExplicitVRBigEndian
        header.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if is_implicit else explicit
    return header


def _check_frame(path: Path, header: Any, *, frame: int, max_pixels: int) -> None:
    height, width = int(header.Rows), int(header.Columns)
    if height * width > max_pixels:
        raise MedtailError(
            f"{path}: too large ({width} x {height}); expected at most {max_pixels:,} pixels. Cut or reduce it before"
            " importing."
        )
    frames = int(header.get("NumberOfFrames") or 1)
    if not 0 <= frame < frames:
        raise MedtailError(f"{path}: no frame {frame}; the file has {frames} (counted from 0).")


def _decode(path: Path, header: Any, *, frame: int) -> np.ndarray:
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.pixels.utils import pixel_array

    syntax = header.file_meta.TransferSyntaxUID
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise MedtailError(
            f"{path}: stored as {syntax.name} ({syntax}), which is not read; expected an image, not a film or an"
            " unknown coding. Convert it to an uncompressed DICOM file."
        ) from None
    if not decoder.is_available:
        raise MedtailError(
            f"{path}: compressed as {syntax.name}, and no plugin that reads it is installed."
            " Install them with `pip install 'medtail[dicom]'`."
        )
    try:
        return np.asarray(pixel_array(header, index=frame))
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise MedtailError(
            f"{path}: its pixels, compressed as {syntax.name}, cannot be decoded ({reason}). If the file is whole,"
            " `pip install 'medtail[dicom]'` adds readers; else convert it to an uncompressed DICOM file."
        ) from error


def _scale_colour(header: Any, stored: np.ndarray) -> np.ndarray:
    bits = int(header.BitsStored)
    return np.asarray(stored.astype(np.float64) / (2**bits - 1), dtype=np.float32)


def _look_up_palette(header: Any, stored: np.ndarray) -> np.ndarray:
    from pydicom.pixels.processing import apply_color_lut

    bits = int(header.RedPaletteColorLookupTableDescriptor[2])
    colours = np.asarray(apply_color_lut(stored, header))[..., :3]
    return np.asarray(colours / (2.0**bits - 1), dtype=np.float32)


def _scale_gray(path: Path, header: Any, stored: np.ndarray, *, frame: int) -> np.ndarray:
    values, low, high = _modality(header, stored, frame=frame)
    voi = _nearest(header, frame, "FrameVOILUTSequence", "WindowCenter")
    if header.get("VOILUTSequence"):
        values, depth = _look_up(values, header.VOILUTSequence[0], header)
        unit = values / (2.0**depth - 1)
    elif voi.get("WindowCenter") is not None and voi.get("WindowWidth") is not None:
        function = str(voi.get("VOILUTFunction") or "LINEAR").upper()
        unit = _window(path, values, _first(voi.WindowCenter), _first(voi.WindowWidth), function=function)
    elif np.isfinite(low) and np.isfinite(high) and high > low:
        unit = (values - low) / (high - low)
    else:
        raise MedtailError(
            f"{path}: float pixels without a window declare no range; expected WindowCenter and WindowWidth."
        )
    if str(header.PhotometricInterpretation) == "MONOCHROME1":
        unit = 1.0 - unit
    unit[_padding(header, stored)] = 0.0
    return np.asarray(np.clip(unit, 0.0, 1.0), dtype=np.float32)


def _padding(header: Any, stored: np.ndarray) -> np.ndarray:
    """Mark pixels that the file declares to be no image; they are background, never windowed or inverted."""
    first = header.get("PixelPaddingValue")
    if first is None:
        return np.zeros(stored.shape, dtype=bool)
    limit = header.get("PixelPaddingRangeLimit", first)
    low, high = sorted((int(first), int(limit)))
    return np.asarray((stored >= low) & (stored <= high))


def _modality(header: Any, stored: np.ndarray, *, frame: int) -> tuple[np.ndarray, float, float]:
    """Apply the modality LUT or rescale; return the values and the range that the file declares for them."""
    if header.get("ModalityLUTSequence"):
        values, depth = _look_up(stored, header.ModalityLUTSequence[0], header)
        return values, 0.0, 2.0**depth - 1
    if stored.dtype.kind == "f":
        low, high = np.nan, np.nan
    else:
        bits = int(header.BitsStored)
        is_signed = int(header.get("PixelRepresentation") or 0) == 1
        low, high = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if is_signed else (0.0, 2.0**bits - 1)
    rescale = _nearest(header, frame, "PixelValueTransformationSequence", "RescaleSlope")
    slope, intercept = rescale.get("RescaleSlope"), rescale.get("RescaleIntercept")
    values = stored.astype(np.float64)
    if slope is None or intercept is None:
        return values, low, high
    ends = sorted((low * float(slope) + float(intercept), high * float(slope) + float(intercept)))
    return values * float(slope) + float(intercept), ends[0], ends[1]


def _nearest(header: Any, frame: int, sequence: str, keyword: str) -> Any:
    """Return the part of the header that holds a keyword: the file's, else the frame's, else what frames share."""
    if header.get(keyword) is not None:
        return header
    places = (header.get("PerFrameFunctionalGroupsSequence"), frame), (header.get("SharedFunctionalGroupsSequence"), 0)
    for groups, index in places:
        if groups and index < len(groups) and groups[index].get(sequence):
            return groups[index].get(sequence)[0]
    return header


def _first(value: Any) -> float:
    """Return the first of one or several values: of several windows, the one a viewer opens with."""
    return float(value[0]) if hasattr(value, "__len__") and not isinstance(value, str) else float(value)


def _window(path: Path, values: np.ndarray, center: float, width: float, *, function: str) -> np.ndarray:
    """Map values through a window to [0, 1] (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
    if width < 1 if function == "LINEAR" else width <= 0:
        raise MedtailError(f"{path}: WindowWidth is {width:g}; expected 1 or more. Correct the header.")
    match function:
        case "LINEAR" if width == 1:
            return np.asarray(values > center - 0.5, dtype=np.float64)
        case "LINEAR":
            return np.asarray(np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0.0, 1.0))
        case "LINEAR_EXACT":
            return np.asarray(np.clip((values - center) / width + 0.5, 0.0, 1.0))
        case "SIGMOID":
            return np.asarray(1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - center) / width, -700.0, 700.0))))
        case _:
            raise MedtailError(
                f"{path}: VOILUTFunction is {function!r}; expected LINEAR, LINEAR_EXACT or SIGMOID. Correct the header."
            )


def _look_up(values: np.ndarray, item: Any, header: Any) -> tuple[np.ndarray, int]:
    """Map values through a LUT item; return float64 results and the bits of its entries."""
    entries = (int(item.LUTDescriptor[0]) & 0xFFFF) or 2**16
    first, depth = int(item.LUTDescriptor[1]), int(item.LUTDescriptor[2])
    if first > 32767 and int(header.get("PixelRepresentation") or 0) == 1:
        first -= 65536  # the descriptor's sign is lost where its VR was ambiguous
    data = item.LUTData
    if isinstance(data, bytes):
        order = "<" if header.original_encoding[1] is not False else ">"
        packed = len(data) < 2 * entries  # 8-bit entries, two a word
        table = np.frombuffer(data, dtype=np.uint8 if packed else f"{order}u2")
    else:
        table = np.asarray(data)
    places = np.clip(np.asarray(values, dtype=np.float64).round().astype(np.int64) - first, 0, entries - 1)
    return table[:entries].astype(np.float64)[places], depth
