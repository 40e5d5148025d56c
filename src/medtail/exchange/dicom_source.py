"""The DICOM image that a result belongs to: its patient and study, cleaned, and how to point at it.

A result must carry the patient and study of its image and nothing else of it: private tags, comments and pixels stay
behind. What the image lacks is left empty, what it misstates is left out with a caution; without the identifiers that
a reference needs, it is refused.
"""

from __future__ import annotations

import re
import uuid
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

from medtail.errors import MedtailError, Problems
from medtail.sources.dicom_files import dicom_stream

if TYPE_CHECKING:
    from pydicom import Dataset

NEEDED: Final = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
# Patient and Study modules: type 2 first, which must be there, if empty
ALWAYS: Final = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
                 "AccessionNumber", "ReferringPhysicianName")  # fmt: skip
WHERE_PRESENT: Final = ("IssuerOfPatientID", "PatientAge", "PatientIdentityRemoved", "DeidentificationMethod",
                        "StudyDescription", "LongitudinalTemporalInformationModified", "BurnedInAnnotation",
                        "LossyImageCompression", "Laterality", "ImageLaterality")  # fmt: skip
MOST_UID: Final = 64
_UID = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+")
_DATE = re.compile(r"(18|19|20)[0-9]{2}(0[1-9]|1[0-2])(0[1-9]|[12][0-9]|3[01])")
_TIME = re.compile(r"([01][0-9]|2[0-3])([0-5][0-9](([0-5][0-9]|60)(\.[0-9]{1,6})?)?)?")
_AGE = re.compile(r"[0-9]{3}[DWMY]")


@final
@dataclass(frozen=True, eq=False)
class SourceImage:
    """What a result takes over from its image.

    Attributes:
        header: A data set of patient, study and the image's identifiers; text is Unicode, values are valid.
        modality: As in the file, "" if not there.
        frames: Number of frames.
        cautions: What was left out, in words.
        name: The file, for messages.
    """

    header: Dataset
    modality: str
    frames: int
    cautions: tuple[str, ...]
    name: str

    def check_frame(self, frame: int) -> None:
        """Check that the image has a frame.

        Raises:
            MedtailError: It has not.
        """
        if not 0 <= frame < self.frames:
            raise MedtailError(f"{self.name}: no frame {frame}; the file has {self.frames} (counted from 0).")


def read_source(source: Path | str | Dataset) -> SourceImage:
    """Read the header of the image that a result will belong to.

    Args:
        source: A DICOM file, or a data set already read. Its pixels are not needed.

    Returns:
        Patient, study and identifiers, cleaned.

    Raises:
        MedtailError: Not DICOM, not an image, or without valid UIDs; all mistakes at once.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> file = Path(tempfile.mkdtemp()) / "a.png"
        >>> Image.new("L", (8, 8)).save(file)
        >>> read_source(file)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        medtail.errors.MedtailError: ...a.png: is no DICOM file; expected the DICOM image that the findings belong to...
    """
    import pydicom

    header: Dataset
    if isinstance(source, str | Path):
        path, name = Path(source), str(source)
        try:
            with warnings.catch_warnings(), dicom_stream(path, where=name) as stream:
                warnings.simplefilter("ignore")  # of odd values: they are judged below, one by one
                header = pydicom.dcmread(stream, stop_before_pixels=True)
        except FileNotFoundError:
            raise MedtailError(f"{path}: no such file; expected a DICOM image.") from None
        except pydicom.errors.InvalidDicomError:
            raise MedtailError(
                f"{path}: is no DICOM file; expected the DICOM image that the findings belong to. A report needs its"
                " patient, study and UIDs, which a PNG or JPEG does not have and which are not made up here. Use the"
                " originals (`medtail data import dicom`)."
            ) from None
        except (MedtailError, MemoryError):
            raise
        except Exception as error:  # a damaged header raises anything
            raise MedtailError(f"{path}: damaged DICOM file ({error}). Copy it again from its origin.") from error
    else:
        header, name = source, str(source.get("SOPInstanceUID", "data set"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _cleaned(header, name)


def _cleaned(header: Any, name: str) -> SourceImage:
    from pydicom import Dataset
    from pydicom.uid import UID

    problems = Problems(name)
    found = {keyword: _text(header, keyword) for keyword in NEEDED}
    for keyword, value in found.items():
        if not value:
            problems.add(f"{keyword}: missing; expected a UID. Without it nothing can point at this image.")
        elif len(value) > MOST_UID or not _UID.fullmatch(value):
            problems.add(f"{keyword}: found {value!r}; expected a UID of digits and dots, at most 64 characters.")
    rows, columns = _whole(header, "Rows"), _whole(header, "Columns")
    if found["SOPClassUID"] and not (rows and columns):
        kind = UID(found["SOPClassUID"]).name
        problems.add(f"no pixels (Rows, Columns) in this DICOM file ({kind}); expected an image. Leave it out.")
    problems.raise_if_any()
    cautions: list[str] = []
    kept = Dataset()
    kept.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in found.items():
        setattr(kept, keyword, value)
    kept.Rows, kept.Columns = rows, columns
    frames = _whole(header, "NumberOfFrames") or 1
    if frames > 1:
        kept.NumberOfFrames = frames
    for keyword in (*ALWAYS, *WHERE_PRESENT):
        value = _text(header, keyword)
        if value and not _is_valid(keyword, value):
            cautions.append(f"{keyword} of the image is not valid DICOM and is left out.")
            value = ""
        if value or keyword in ALWAYS:
            setattr(kept, keyword, value)
    if kept.get("PatientIdentityRemoved") == "YES" and not kept.get("DeidentificationMethod"):
        # required beside it; the source may have had it as a code sequence
        kept.DeidentificationMethod = "as in the source image"
    return SourceImage(kept, _text(header, "Modality").upper(), frames, tuple(cautions), name)


def _text(header: Any, keyword: str) -> str:
    """Return a value as Unicode text, "" where there is none or nobody can read it."""
    try:
        value = header.get(keyword)
    except MemoryError:
        raise
    except Exception:  # a value that cannot be decoded
        return ""
    if value is None:
        return ""
    if not isinstance(value, str) and not hasattr(value, "components") and hasattr(value, "__iter__"):
        value = "; ".join(str(part) for part in value)  # several values where one is expected, or a list of methods
    return str(value).strip("\0 ").replace("\\", "/")


def _whole(header: Any, keyword: str) -> int:
    try:
        return max(0, int(header.get(keyword) or 0))
    except (TypeError, ValueError):
        return 0


def _short(most: int) -> Callable[[str], bool]:
    return lambda value: len(value) <= most and not any(ord(letter) < 32 for letter in value)


def _is_name(value: str) -> bool:
    parts = value.split("=")
    return len(parts) <= 3 and all(len(part) <= 64 and _short(64)(part) for part in parts)


_RULES: Final[dict[str, Callable[[str], bool]]] = {
    "PatientName": _is_name,
    "ReferringPhysicianName": _is_name,
    "PatientID": _short(64),
    "IssuerOfPatientID": _short(64),
    "PatientBirthDate": lambda value: bool(_DATE.fullmatch(value)),
    "PatientSex": lambda value: value in ("M", "F", "O"),
    "PatientAge": lambda value: bool(_AGE.fullmatch(value)),
    "StudyDate": lambda value: bool(_DATE.fullmatch(value)),
    "StudyTime": lambda value: bool(_TIME.fullmatch(value)),
    "StudyID": _short(16),
    "AccessionNumber": _short(16),
    "PatientIdentityRemoved": lambda value: value in ("YES", "NO"),
    "BurnedInAnnotation": lambda value: value in ("YES", "NO"),
    "LossyImageCompression": lambda value: value in ("00", "01"),
    "Laterality": lambda value: value in ("R", "L"),
    "ImageLaterality": lambda value: value in ("R", "L", "U", "B"),
    "LongitudinalTemporalInformationModified": lambda value: value in ("UNMODIFIED", "MODIFIED", "REMOVED"),
}


def _is_valid(keyword: str, value: str) -> bool:
    return _RULES.get(keyword, _short(64))(value)


def stable_uid(*parts: str) -> str:
    """Return a UID that is the same for the same parts: a UUID under 2.25, as PS3.5 B.2 allows.

    Example:
        >>> stable_uid("a", "b") == stable_uid("a", "b"), stable_uid("a", "b")[:5]
        (True, '2.25.')
    """
    digest = sha256("\0".join(parts).encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"
