"""A picture, such as a heat map over its image, as a DICOM secondary capture in the image's own study.

The picture is stored as given, with a strip below it that says what it is and that it is for research: a heat map looks
like a diagnosis to whoever meets it in an archive.
"""

from __future__ import annotations

import datetime
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import medtail
from medtail.errors import MedtailError
from medtail.exchange.dicom_codes import shortened
from medtail.exchange.dicom_source import SourceImage, read_source, stable_uid
from medtail.runs import digest_bytes

if TYPE_CHECKING:
    from pydicom import Dataset

SECONDARY_CAPTURE: Final = "1.2.840.10008.5.1.4.1.1.7"
SERIES: Final = "medtail heat maps - RESEARCH USE ONLY"
SERIES_NUMBER: Final = 9002
WARNING: Final = "RESEARCH USE ONLY"
TEXT_PX: Final = 12
STRIP_PX: Final = 18


def secondary_capture(
    picture: np.ndarray,
    source: Path | str | Dataset | SourceImage,
    *,
    title: str,
    model_name: str,
    model_digest: str,
    frame: int = 0,
    instance_number: int = 1,
    made: datetime.datetime | None = None,
) -> Dataset:
    """Write a picture as a secondary capture that points at the image it was made from.

    Args:
        picture: uint8 [H, W, 3], as `explain.overlay.overlay` makes it.
        source: The DICOM image; see `dicom_sr.findings_report`.
        title: What it shows, such as "malignant 0.82, Grad-CAM".
        model_name: Name of the run.
        model_digest: SHA-256 of its weights.
        frame: Which frame of the source, from 0.
        instance_number: Place in the series, from 1.
        made: When; now if None.

    Returns:
        A Secondary Capture data set of [H + 18, W', 3] pixels, W' >= W.

    Raises:
        MedtailError: The picture is no uint8 RGB, or as `dicom_source.read_source`.
    """
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    pixels = np.asarray(picture)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise MedtailError(f"secondary capture: found {pixels.dtype} {pixels.shape}; expected uint8 [H, W, 3].")
    image = source if isinstance(source, SourceImage) else read_source(source)
    image.check_frame(frame)
    made = made or datetime.datetime.now()
    marked = with_strip(pixels, f"{WARNING}  {title}")
    name = shortened(model_name or "medtail model")

    capture = deepcopy(image.header)  # data sets share their elements; the source must not change with the picture
    if "NumberOfFrames" in capture:
        del capture.NumberOfFrames
    capture.SOPClassUID = SECONDARY_CAPTURE
    capture.SOPInstanceUID = stable_uid(
        image.header.SOPInstanceUID, str(frame), digest_bytes(marked.tobytes(), title.encode()), made.isoformat()
    )
    capture.SeriesInstanceUID = stable_uid(image.header.StudyInstanceUID, model_digest, "heat maps")
    capture.Modality, capture.SeriesNumber, capture.InstanceNumber = "OT", SERIES_NUMBER, instance_number
    capture.SeriesDescription, capture.ConversionType = SERIES, "WSD"
    capture.ImageType, capture.PatientOrientation = ["DERIVED", "SECONDARY"], ""
    if "Laterality" not in capture and "ImageLaterality" not in capture:
        capture.Laterality = ""  # unknown whether the part is paired
    capture.Manufacturer, capture.ManufacturerModelName = "medtail (research software)", name
    capture.SoftwareVersions = shortened(f"medtail {medtail.__version__}")
    capture.DeviceSerialNumber = model_digest[:16] or "unknown"
    capture.DerivationDescription = f"{title}. {name}, weights SHA-256 {model_digest or 'unknown'}. {WARNING}."[:1024]
    capture.SourceImageSequence = [_reference(image, frame)]
    capture.InstanceCreationDate = capture.ContentDate = capture.DateOfSecondaryCapture = made.strftime("%Y%m%d")
    capture.InstanceCreationTime = capture.ContentTime = capture.TimeOfSecondaryCapture = made.strftime("%H%M%S")
    capture.SamplesPerPixel, capture.PhotometricInterpretation, capture.PlanarConfiguration = 3, "RGB", 0
    capture.Rows, capture.Columns = marked.shape[:2]
    capture.BitsAllocated, capture.BitsStored, capture.HighBit, capture.PixelRepresentation = 8, 8, 7, 0
    content = marked.tobytes()
    capture.PixelData = content + b"\0" * (len(content) % 2)
    capture["PixelData"].VR = "OB"
    capture.file_meta = FileMetaDataset()
    capture.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    capture.file_meta.MediaStorageSOPClassUID = capture.SOPClassUID
    capture.file_meta.MediaStorageSOPInstanceUID = capture.SOPInstanceUID
    return capture


def _reference(image: SourceImage, frame: int) -> Dataset:
    from pydicom import Dataset

    item, purpose = Dataset(), Dataset()
    item.ReferencedSOPClassUID = image.header.SOPClassUID
    item.ReferencedSOPInstanceUID = image.header.SOPInstanceUID
    if image.frames > 1:
        item.ReferencedFrameNumber = frame + 1
    purpose.CodeValue, purpose.CodingSchemeDesignator = "121322", "DCM"
    purpose.CodeMeaning = "Source image for image processing operation"
    item.PurposeOfReferenceCodeSequence = [purpose]
    return item


def with_strip(picture: np.ndarray, text: str) -> np.ndarray:
    """Put a line of white text on a black strip below a picture, which is widened with black where it must be.

    Args:
        picture: uint8 [H, W, 3].
        text: One line.

    Returns:
        uint8 [H + 18, W', 3]; the first H rows and W columns are the picture, untouched.

    Example:
        >>> with_strip(np.full((20, 300, 3), 7, np.uint8), "RESEARCH").shape
        (38, 300, 3)
    """
    font = ImageFont.load_default(TEXT_PX)
    height, width = picture.shape[:2]
    wide = max(width, int(np.ceil(font.getlength(text))) + 8)
    canvas = np.zeros((height + STRIP_PX, wide, 3), dtype=np.uint8)
    canvas[:height, :width] = picture
    drawn = Image.fromarray(canvas)
    ImageDraw.Draw(drawn).text((4, height + 2), text, fill=(255, 255, 255), font=font)
    out = np.asarray(drawn).copy()
    out[:height, :width] = picture
    return out
