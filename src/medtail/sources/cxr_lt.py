"""The classes of the CXR-LT challenge: names, aliases, train counts and tasks of the editions 2023, 2024 and 2026.

The challenge asks for long-tailed, multi-label diagnosis from chest X-rays. Its editions share findings but neither
their order nor their groups, and one winning team's counts carry a swap of two columns: so every join in medtail is
**by name, never by position**, and these tables are what names mean. Scoring lives in `challenges.cxr_lt`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Literal, final

from medtail.errors import UsageError, did_you_mean, listing
from medtail.tables.labels import LabelSpace
from medtail.tables.tail import ClassCounts, TailGroups, tail_groups

TailRule = Literal["count", "prevalence"]


@final
@dataclass(frozen=True)
class ChallengeClass:
    """One finding of an edition.

    Attributes:
        name: As the edition's files spell it.
        train: Positive images of the train part; None where unknown or where the class is not in it.
        development: Positive images of the development part; None where unknown.
        new: Whether the edition added it to those of the edition before.
        aliases: Other names of the same finding in files of the challenge.
    """

    name: str
    train: int | None = None
    development: int | None = None
    new: bool = False
    aliases: tuple[str, ...] = ()


@final
@dataclass(frozen=True)
class ChallengeTask:
    """What one task of an edition asks.

    Attributes:
        number: 1, 2 or 3.
        title: In a few words.
        class_names: The classes to score, in the order of the sample submission.
        images: Images of the official test set; None where unknown.
        unseen: Whether the classes have no labels in the train part (zero-shot).
        caution: What a reader of scores on its test set must know; "" if nothing.
    """

    number: int
    title: str
    class_names: tuple[str, ...]
    images: int | None = None
    unseen: bool = False
    caution: str = ""


@final
@dataclass(frozen=True, kw_only=True)
class Edition:
    """One year of the challenge.

    Attributes:
        name: The year.
        classes: Every class, those of task 1 first and in its order.
        tasks: Number → task.
        id_column: Column naming the image.
        patient_column: Column naming the patient.
        meta_columns: Columns before the labels, in order.
        train_images: Images of the train part; None where unknown.
        development_images: Images of the development part; None where unknown.
        tail_rule: `count` or `prevalence`, by which classes become head, medium and tail.
        tail_cuts: Its upper and lower cut.
        provenance: Where counts and cuts are from.
    """

    name: str
    classes: tuple[ChallengeClass, ...]
    tasks: Mapping[int, ChallengeTask]
    id_column: str = "dicom_id"
    patient_column: str = "subject_id"
    meta_columns: tuple[str, ...] = ()
    train_images: int | None = None
    development_images: int | None = None
    tail_rule: TailRule = "prevalence"
    tail_cuts: tuple[float, float] = (0.10, 0.01)
    provenance: str = ""

    @cached_property
    def by_name(self) -> Mapping[str, ChallengeClass]:
        """Class of each name."""
        return MappingProxyType({found.name: found for found in self.classes})

    @cached_property
    def _spellings(self) -> Mapping[str, str]:
        spelled = {plain_name(alias): found.name for found in self.classes for alias in (found.name, *found.aliases)}
        return MappingProxyType(spelled)

    def canonical(self, column: str) -> str | None:
        """Return the class a column means, or None.

        Aliases count, and so do capitals, underscores and hyphens: `pleural_effusion` is `Pleural Effusion`.

        Example:
            >>> edition("2024").canonical("No Finding"), edition("2023").canonical("normal")
            ('Normal', 'No Finding')
        """
        return column if column in self.by_name else self._spellings.get(plain_name(column))

    def task(self, number: int) -> ChallengeTask:
        """Return a task.

        Raises:
            UsageError: The edition has no such task.
        """
        if number not in self.tasks:
            raise UsageError(f"--task {number}: CXR-LT {self.name} has the tasks {listing(sorted(self.tasks))}.")
        return self.tasks[number]

    def train_counts(self, class_names: Sequence[str]) -> ClassCounts | None:
        """Return the train counts of some classes; None where any is unknown.

        How many patients they are was not published; `patients` is 0 throughout and must not be shown.

        Example:
            >>> edition("2024").train_counts(["Hernia"]).images
            (3986,)
        """
        images = [self.by_name[name].train if name in self.by_name else None for name in class_names]
        known = tuple(count for count in images if count is not None)
        if self.train_images is None or len(known) < len(images):
            return None
        nobody = (0,) * len(known)
        return ClassCounts(tuple(class_names), known, nobody, (self.train_images,) * len(known))

    def groups(self, class_names: Sequence[str], *, counts: ClassCounts | None = None) -> TailGroups | None:
        """Put classes into head, medium and tail by the edition's own rule.

        Args:
            class_names: The classes to group.
            counts: Of a train part of one's own; the edition's published ones if None.

        Returns:
            The groups; None where train counts are unknown.

        Example:
            >>> edition("2023").groups(["Pneumothorax"]).group_of["Pneumothorax"]
            'head'
            >>> edition("2024").groups(["Pneumothorax"]).group_of["Pneumothorax"]
            'medium'

        References:
            holste2024 (counts), lin2025 (percentages).
        """
        counts = counts or self.train_counts(class_names)
        if counts is None:
            return None
        return tail_groups(counts, labels=LabelSpace(tuple(class_names)), rule=self.tail_rule, cuts=self.tail_cuts)


def plain_name(name: str) -> str:
    """Return a name without regard to capitals, underscores, hyphens and surplus spaces.

    Example:
        >>> plain_name(" Pleural_Effusion ")
        'pleural effusion'
    """
    return re.sub(r"[\s_-]+", " ", name.strip()).casefold()


def edition(name: str) -> Edition:
    """Return the tables of an edition.

    Args:
        name: `2023`, `2024` or `2026`; `nih14` or `nih20` for the same protocol on NIH ChestX-ray14.

    Raises:
        UsageError: There is no such edition.

    Example:
        >>> [len(edition("2024").task(number).class_names) for number in (1, 2, 3)]
        [40, 26, 5]
    """
    if name not in EDITIONS:
        hint = did_you_mean(name, EDITIONS) or f"; expected {', '.join(EDITIONS)}."
        raise UsageError(f"--edition {name!r}: no tables of this edition of CXR-LT{hint}")
    return EDITIONS[name]


# fmt: off
_COUNTS_2024 = (  # task 1 in the order of its files: class, positive images of train and development, new in 2024
    ("Adenopathy", 3_409, 477, True), ("Atelectasis", 65_376, 10_131, False), ("Azygos Lobe", 199, 20, True),
    ("Calcification of the Aorta", 4_239, 594, False), ("Cardiomegaly", 74_738, 11_583, False),
    ("Clavicle Fracture", 168, 19, True), ("Consolidation", 15_371, 2_379, False), ("Edema", 37_256, 5_946, False),
    ("Emphysema", 3_661, 741, False), ("Enlarged Cardiomediastinum", 29_628, 4_244, False),
    ("Fibrosis", 1_169, 163, False), ("Fissure", 2_803, 351, True), ("Fracture", 11_568, 1_576, False),
    ("Granuloma", 2_965, 383, True), ("Hernia", 3_986, 674, False), ("Hydropneumothorax", 646, 128, True),
    ("Infarction", 727, 96, True), ("Infiltration", 10_087, 1_506, False), ("Kyphosis", 778, 112, True),
    ("Lobar Atelectasis", 129, 26, True), ("Lung Lesion", 2_338, 314, False), ("Lung Opacity", 77_482, 11_731, False),
    ("Mass", 5_288, 789, False), ("Nodule", 7_531, 1_119, False), ("Normal", 34_292, 5_088, False),
    ("Pleural Effusion", 66_401, 10_430, False), ("Pleural Other", 616, 80, False),
    ("Pleural Thickening", 3_272, 479, False), ("Pneumomediastinum", 704, 122, False),
    ("Pneumonia", 46_660, 7_061, False), ("Pneumoperitoneum", 516, 54, False), ("Pneumothorax", 13_858, 2_342, False),
    ("Pulmonary Embolism", 1_631, 304, True), ("Pulmonary Hypertension", 903, 119, True),
    ("Rib Fracture", 8_919, 1_250, True), ("Round(ed) Atelectasis", 172, 46, True),
    ("Subcutaneous Emphysema", 2_046, 431, False), ("Support Devices", 86_079, 13_161, False),
    ("Tortuous Aorta", 3_336, 495, False), ("Tuberculosis", 2_078, 377, True),
)
_UNSEEN_2024 = ("Bulla", "Cardiomyopathy", "Hilum", "Osteopenia", "Scoliosis")
# alphabetical, except that Normal stands before Nodule: where 2023 wrote No Finding
_TASK2_2024 = (
    "Atelectasis", "Calcification of the Aorta", "Cardiomegaly", "Consolidation", "Edema", "Emphysema",
    "Enlarged Cardiomediastinum", "Fibrosis", "Fracture", "Hernia", "Infiltration", "Lung Lesion", "Lung Opacity",
    "Mass", "Normal", "Nodule", "Pleural Effusion", "Pleural Other", "Pleural Thickening", "Pneumomediastinum",
    "Pneumonia", "Pneumoperitoneum", "Pneumothorax", "Subcutaneous Emphysema", "Support Devices", "Tortuous Aorta",
)
_COUNTS_2023 = {
    "Support Devices": 89_140, "Lung Opacity": 79_931, "Cardiomegaly": 76_900, "Pleural Effusion": 69_240,
    "Atelectasis": 67_597, "Pneumonia": 48_093, "No Finding": 41_869, "Edema": 38_574,
    "Enlarged Cardiomediastinum": 30_119, "Consolidation": 16_038, "Pneumothorax": 14_983, "Fracture": 11_883,
    "Infiltration": 10_218, "Nodule": 7_663, "Mass": 5_529, "Calcification of the Aorta": 4_361, "Emphysema": 4_255,
    "Hernia": 4_049, "Tortuous Aorta": 3_499, "Pleural Thickening": 3_369, "Lung Lesion": 2_533,
    "Subcutaneous Emphysema": 2_453, "Fibrosis": 1_158, "Pneumomediastinum": 788, "Pleural Other": 675,
    "Pneumoperitoneum": 543,
}
_NEW_2023 = {
    "Calcification of the Aorta", "Emphysema", "Fibrosis", "Hernia", "Infiltration", "Mass", "Nodule",
    "Pleural Thickening", "Pneumomediastinum", "Pneumoperitoneum", "Subcutaneous Emphysema", "Tortuous Aorta",
}
_KNOWN_2026 = (
    "Normal", "aortic elongation", "cardiomegaly", "pleural effusion", "Nodule", "atelectasis", "pleural thickening",
    "aortic atheromatosis", "Support Devices", "alveolar pattern", "fracture", "Hernia", "Emphysema", "azygos lobe",
    "Hydropneumothorax", "Kyphosis", "Mass", "Pneumothorax", "Subcutaneous Emphysema", "pneumoperitoneo",
    "vascular hilar enlargement", "vertebral degenerative changes", "hyperinflated lung", "interstitial pattern",
    "central venous catheter", "hypoexpansion", "bronchiectasis", "hemidiaphragm elevation", "sternotomy",
    "calcified densities",
)
_UNSEEN_2026 = ("Scoliosis", "Osteopenia", "Bulla", "Infarction", "Adenopathy", "goiter")
# fmt: on

_ALIASES: Mapping[str, tuple[str, ...]] = {
    "Normal": ("No Finding",),
    "No Finding": ("Normal",),
    "Round(ed) Atelectasis": ("Round Atelectasis", "Rounded Atelectasis"),
    "pneumoperitoneo": ("Pneumoperitoneum",),
}
_META = ("dicom_id", "subject_id", "study_id", "ViewPosition", "ViewCodeSequence_CodeMeaning")


def _class(name: str, train: int | None = None, development: int | None = None, new: bool = False) -> ChallengeClass:
    return ChallengeClass(name, train, development, new, _ALIASES.get(name, ()))


def _tasks(*tasks: ChallengeTask) -> Mapping[int, ChallengeTask]:
    return MappingProxyType({task.number: task for task in tasks})


def _edition_2023() -> Edition:
    names = tuple("No Finding" if name == "Normal" else name for name in _TASK2_2024)
    return Edition(
        name="2023",
        classes=tuple(_class(name, _COUNTS_2023[name], new=name in _NEW_2023) for name in names),
        tasks=_tasks(ChallengeTask(1, "long tail", names, 75_492)),
        meta_columns=(*_META, "path"),
        train_images=264_849,
        development_images=36_769,
        tail_rule="count",
        tail_cuts=(10_000, 1_000),
        provenance="Counts from teams' files. Cuts inferred: they reproduce the mAP of four teams from group means.",
    )


def _edition_2024() -> Edition:
    names = tuple(name for name, *_ in _COUNTS_2024)
    gold = (
        "The task-2 images lie in MIMIC-CXR's official train split (403 of 406): a model or an encoder that learnt from"
        " MIMIC has seen them, and its scores here flatter it."
    )
    return Edition(
        name="2024",
        classes=(*(_class(*row) for row in _COUNTS_2024), *(_class(name, new=True) for name in _UNSEEN_2024)),
        tasks=_tasks(
            ChallengeTask(1, "long tail, large noisy test set", names, 78_946),
            ChallengeTask(2, "long tail, gold test set", _TASK2_2024, 406, caution=gold),
            ChallengeTask(3, "zero-shot", _UNSEEN_2024, 78_946, unseen=True),
        ),
        meta_columns=(*_META, "fpath"),
        train_images=258_871,
        development_images=39_293,
        provenance="Counts from teams' files, four of which agree. Cuts verified against the published group means.",
    )


def _edition_2026() -> Edition:
    return Edition(
        name="2026",
        classes=tuple(_class(name) for name in (*_KNOWN_2026, *_UNSEEN_2026)),
        tasks=_tasks(
            ChallengeTask(1, "multi-label", _KNOWN_2026, 1_400),
            ChallengeTask(2, "zero-shot", _UNSEEN_2026, 384, unseen=True),
        ),
        id_column="ImageID",
        patient_column="PatientID",
        meta_columns=("ImageID", "StudyDate_DICOM", "PatientID"),
        train_images=142_928,
        development_images=1_620,
        provenance="Counts and cuts were not published: counted from a train file of one's own, with the cuts of 2024.",
    )


# fmt: off
NIH_CLASSES: Mapping[str, tuple[str, ...]] = MappingProxyType({
    # name in CXR-LT's spelling → names in files of NIH; alphabetical
    "Atelectasis": (), "Cardiomegaly": (), "Consolidation": (), "Edema": (), "Emphysema": (), "Fibrosis": (),
    "Hernia": (), "Infiltration": (), "Mass": (), "Nodule": (), "Pleural Effusion": ("Effusion",),
    "Pleural Thickening": (), "Pneumonia": (), "Pneumothorax": (),
})
NIH_EXTRA = ("Calcification of the Aorta", "Pneumomediastinum", "Pneumoperitoneum", "Subcutaneous Emphysema",
             "Tortuous Aorta")
# fmt: on
NIH_HELD_OUT = ("Fibrosis", "Hernia", "Pneumonia")
"""What `nih14` asks in task 3: findings that a training table of one's own must then leave out."""
_NIH_PROVENANCE = (
    "Not an edition of the challenge: its protocol on NIH ChestX-ray14. Counted from one's own train file."
)


def _nih_edition(name: str, extra: tuple[str, ...], *further: ChallengeTask) -> Edition:
    spelled = {**NIH_CLASSES, **dict.fromkeys(extra, ()), "Normal": ("No Finding",)}
    names = tuple(sorted(spelled))
    return Edition(
        name=name,
        classes=tuple(ChallengeClass(found, aliases=spelled[found]) for found in names),
        tasks=_tasks(ChallengeTask(1, "long tail, NIH", names), *further),
        meta_columns=(*_META, "fpath"),
        provenance=_NIH_PROVENANCE,
    )


def _nih_editions() -> tuple[Edition, ...]:
    mined = (
        "Labels mined from reports unless you put the radiologists' labels (810 images) there: no gold test set by"
        " itself."
    )
    gold = ChallengeTask(2, "gold test set, NIH", tuple(NIH_CLASSES), caution=mined)
    held_out = ChallengeTask(3, "zero-shot, NIH: three findings held out", NIH_HELD_OUT, unseen=True)
    five = ChallengeTask(3, "zero-shot, NIH: the five further findings", NIH_EXTRA, unseen=True)
    return _nih_edition("nih14", (), gold, held_out), _nih_edition("nih20", NIH_EXTRA, five)


EDITIONS: Mapping[str, Edition] = MappingProxyType(
    {found.name: found for found in (_edition_2023(), _edition_2024(), _edition_2026(), *_nih_editions())}
)
HIERARCHY: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "Rib Fracture": ("Fracture",),
        "Clavicle Fracture": ("Fracture",),
        "Lobar Atelectasis": ("Atelectasis",),
        "Round(ed) Atelectasis": ("Atelectasis",),
        "Hydropneumothorax": ("Pneumothorax", "Pleural Effusion"),
    }
)
"""Finding → findings it implies. Ours: the challenge states none."""


def hierarchy_among(class_names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the part of `HIERARCHY` that some classes can keep, in their own spelling.

    Example:
        >>> hierarchy_among(["Hydropneumothorax", "Pneumothorax", "pleural effusion", "Rib Fracture"])
        {'Hydropneumothorax': ('Pneumothorax', 'pleural effusion')}
    """
    known = EDITIONS["2024"]
    spelled = {canonical: name for name in class_names if (canonical := known.canonical(name)) is not None}
    found = {}
    for child, parents in HIERARCHY.items():
        there = tuple(spelled[parent] for parent in parents if parent in spelled)
        if child in spelled and there:
            found[spelled[child]] = there
    return found
