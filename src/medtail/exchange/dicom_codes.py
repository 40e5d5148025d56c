"""Codes of the DICOM reports: standard ones where a standard has the concept, our own scheme for the rest.

Our own are under the private designator 99MEDTAIL (PS3.16: private schemes start with 99), with the same code for the
same class name for ever: it is derived from the name. Plain tuples, so that they can be read without any library.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

PRIVATE: Final = "99MEDTAIL"
PRIVATE_NAME: Final = "medtail: findings of image classifiers and how far to trust them"
MOST_MEANING: Final = 64
"""Characters of a code's meaning (VR LO)."""


@final
@dataclass(frozen=True)
class Concept:
    """A code: its value, the scheme it is from and its meaning in words.

    Attributes:
        value: At most 16 characters (VR SH).
        scheme: `DCM`, `SCT`, `UCUM`, `LN` or our own.
        meaning: At most 64 characters.
    """

    value: str
    scheme: str
    meaning: str


def _own(value: str, meaning: str) -> Concept:
    return Concept(value, PRIVATE, meaning)


CERTAINTY: Final = Concept("111012", "DCM", "Certainty of Finding")
COMMENT: Final = Concept("121106", "DCM", "Comment")
PRESENT: Final = Concept("52101004", "SCT", "Present")
ABSENT: Final = Concept("272519000", "SCT", "Absent")
LONG_AXIS: Final = Concept("103339001", "SCT", "Long axis")
THYROID_NODULE: Final = Concept("237495005", "SCT", "Thyroid nodule")
THYROID: Final = Concept("69748006", "SCT", "Thyroid")
PERCENT: Final = Concept("%", "UCUM", "Percent")
MILLIMETRE: Final = Concept("mm", "UCUM", "millimeter")
POINTS: Final = Concept("{points}", "UCUM", "points")
PATIENTS: Final = Concept("{patients}", "UCUM", "patients")

CALL: Final = _own("CALL", "Call of the model")
THRESHOLD: Final = _own("THRESHOLD", "Certainty from which the finding is called present")
SCORE_KIND: Final = _own("SCORE_KIND", "What the certainty is")
CALIBRATED: Final = _own("CALIBRATED", "Calibrated probability")
UNCALIBRATED: Final = _own("UNCALIBRATED", "Score of the model, not calibrated")
FREQUENCY: Final = _own("FREQUENCY", "How common the finding was in training")
FREQUENCIES: Final[Mapping[str, Concept]] = {
    "head": _own("HEAD", "Common in training"),
    "medium": _own("MEDIUM", "Uncommon in training"),
    "tail": _own("TAIL", "Rare in training"),
}
TRAIN_PATIENTS: Final = _own("TRAIN_PATIENTS", "Patients with the finding in training")
LEVEL: Final = _own("TIRADS_LEVEL", "TI-RADS level, likeliest")
NO_LEVEL: Final = _own("TIRADS_NONE", "TI-RADS gives no level")
TIRADS_POINTS: Final = _own("TIRADS_POINTS", "TI-RADS points, likeliest within the level")
EXPECTED_POINTS: Final = _own("TIRADS_MEAN", "TI-RADS points, expected")
ADVICE: Final = _own("TIRADS_ADVICE", "Advice of the guideline at this size, likeliest")
ADVICES: Final[Mapping[str, Concept]] = {
    "FNA": _own("FNA", "Fine-needle aspiration"),
    "FOLLOW": _own("FOLLOW", "Follow-up by ultrasound"),
    "NONE": _own("NONE", "Neither aspiration nor follow-up"),
}
RESEARCH: Final = _own("RESEARCH", "Permitted use")

# Only names that mean one thing in any data set; "mass", "cyst" or "nodule" are not among them.
STANDARD: Final[Mapping[str, Concept]] = {
    "fibroadenoma": Concept("254845004", "SCT", "Fibroadenoma of breast"),
    "fibrocystic changes": Concept("27431007", "SCT", "Fibrocystic disease of breast"),
    "galactocele": Concept("42385006", "SCT", "Galactocele"),
    "intraductal papilloma": Concept("5244003", "SCT", "Intraductal papilloma"),
    "pleural effusion": Concept("60046008", "SCT", "Pleural effusion"),
    "pneumothorax": Concept("36118008", "SCT", "Pneumothorax"),
    "pulmonary edema": Concept("19242006", "SCT", "Pulmonary edema"),
    "sclerosing adenosis": Concept("50916005", "SCT", "Sclerosing adenosis"),
}

# LOINC and SNOMED codes of CID 100, by DICOM modality
PROCEDURES: Final[Mapping[str, Concept]] = {
    "CT": Concept("25045-6", "LN", "CT unspecified body region"),
    "MR": Concept("25056-3", "LN", "MRI unspecified body region"),
    "CR": Concept("43468-8", "LN", "XR unspecified body region"),
    "DX": Concept("43468-8", "LN", "XR unspecified body region"),
}
ANY_PROCEDURE: Final = Concept("363679005", "SCT", "Imaging procedure")


def class_concept(class_name: str) -> Concept:
    """Return the code of a class: a standard one where its name means one thing anywhere, else our own.

    Args:
        class_name: Full class name; in `group=value` the value is looked up.

    Returns:
        The concept; our own codes are `C` and twelve hexadecimal digits of the name's SHA-256.

    Example:
        >>> class_concept("histology=fibroadenoma").value, class_concept("malignant").scheme
        ('254845004', '99MEDTAIL')
    """
    name = class_name.partition("=")[2] or class_name
    known = STANDARD.get(" ".join(name.replace("_", " ").lower().split()))
    if known is not None:
        return known
    digest = hashlib.sha256(class_name.encode()).hexdigest()[:12].upper()
    return Concept(f"C{digest}", PRIVATE, shortened(class_name))


def level_concept(system: str, level: str) -> Concept:
    """Return the code of a TI-RADS level.

    Args:
        system: Title and version.
        level: Its name; "" where the system gives none.

    Example:
        >>> level_concept("ACR TI-RADS 2017", "TR4").meaning
        'ACR TI-RADS 2017 TR4'
    """
    return NO_LEVEL if not level else _own(f"LEVEL_{level}"[:16], shortened(f"{system} {level}"))


def share_concept(system: str, level: str) -> Concept:
    """Return the code of "probability of a TI-RADS level".

    Example:
        >>> share_concept("ACR TI-RADS 2017", "TR4").value
        'P_TR4'
    """
    named = f"{system} {level}" if level else f"no level of {system}"
    return _own(f"P_{level or 'NO_LEVEL'}"[:16], shortened(f"Probability of {named}"))


def shortened(text: str, *, most: int = MOST_MEANING) -> str:
    """Cut a text to what a DICOM value can hold, without backslashes and line ends.

    Example:
        >>> shortened("a" * 70)[-3:], len(shortened("a" * 70)), shortened("a\\\\b")
        ('aa…', 64, 'a/b')
    """
    clean = " ".join(text.replace("\\", "/").split())
    return clean if len(clean) <= most else clean[: most - 1] + "…"
