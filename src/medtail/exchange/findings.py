"""What a model says about one image, in the words of a report: findings, TI-RADS, and how far each can be trusted.

The one record that the web page shows, the DICOM report holds and a script reads; made from calibrated probabilities
and what is known of the model (`evidence`). Never imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import isnan
from typing import Any, Final, final

import numpy as np

import medtail
from medtail.errors import MedtailError
from medtail.exchange.evidence import NOT_TESTED, ModelEvidence
from medtail.judging.decisions import decide
from medtail.lexicons.descriptors import LABEL_NAMES, checked_size
from medtail.lexicons.probabilities import ScoreMeaning, label_faults, probabilities_from_labels
from medtail.lexicons.propagation import NOT_CALIBRATED, level_law
from medtail.lexicons.systems import LEXICONS, Advice, System, advice, lexicon
from medtail.tables.labels import LabelSpace
from medtail.tables.tail import ClassCounts

RESEARCH_ONLY: Final = "For research use only. Not a medical device; not for diagnosis or treatment of patients."
UNCALIBRATED: Final = (
    "The scores are not calibrated: 0.3 does not mean that 3 of 10 such images show the finding. Calibrate on the tune"
    " fold with `medtail calibrate`."
)
TOLERANCE: Final = 1e-6
ACTION_WORDS: Final = {"FNA": "fine-needle aspiration", "FOLLOW": "scan again", "NONE": "nothing advised"}


@final
@dataclass(frozen=True)
class Finding:
    """One class in one image.

    Attributes:
        name: Full class name.
        group: The exclusive group it belongs to; None if to none.
        probability: The model's score, in [0, 1].
        threshold: At or above it the finding is called present; None inside a group, or if none was chosen.
        present: Whether it is called. Inside a group the likeliest class is; None where there is no threshold.
        tail_group: `head`, `medium` or `tail` of the training data; None if unknown.
        train_positives: Patients with it in training; None if unknown.
        trust: How far it can be trusted, a plain sentence.
        calibrated: Whether the score is a calibrated probability.
    """

    name: str
    group: str | None
    probability: float
    threshold: float | None
    present: bool | None
    tail_group: str | None
    train_positives: int | None
    trust: str
    calibrated: bool


@final
@dataclass(frozen=True)
class TiradsAssessment:
    """TI-RADS of a nodule whose descriptors a model predicted, as a distribution.

    Attributes:
        system: Title and version, such as `ACR TI-RADS 2017`.
        points: ACR: the likeliest number of points within the likeliest level; None in other systems.
        level: The likeliest level; "" where the system most likely gives none.
        level_probabilities: Level → probability; "" holds what has no level.
        advice: The likeliest of FNA, FOLLOW and NONE at the size; None without a size.
        size_mm: Largest dimension; None if unknown.
        sentence: All of it for a person.
        advice_probabilities: FNA, FOLLOW, NONE → probability; empty without a size.
        expected_points: ACR: the mean number of points; None in other systems.
        level_range: The shortest run of levels that holds 90 %, lowest and highest; None where none does.
    """

    system: str
    points: int | None
    level: str
    level_probabilities: Mapping[str, float]
    advice: str | None
    size_mm: float | None
    sentence: str
    advice_probabilities: Mapping[str, float]
    expected_points: float | None
    level_range: tuple[str, str] | None


@final
@dataclass(frozen=True)
class ImageFindings:
    """Everything a model says about one image.

    Attributes:
        image_id: The image.
        patient_id: Its patient; None if unknown.
        findings: Every class, the likeliest first.
        tirads: None where the model predicts no complete set of descriptors.
        model_name: Name of the run.
        model_digest: SHA-256 of its weights.
        medtail_version: The version that wrote this.
        cautions: What to bear in mind; the first says what the model may be used for.
    """

    image_id: str
    patient_id: str | None
    findings: tuple[Finding, ...]
    tirads: TiradsAssessment | None
    model_name: str
    model_digest: str
    medtail_version: str
    cautions: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values for strict JSON: no NaN, no tuples."""
        # a finding holds plain values only: `asdict` would look through each of them, at ten times the cost
        value = {**vars(self), "findings": [dict(vars(finding)) for finding in self.findings]}
        value["cautions"] = list(self.cautions)
        if self.tirads is not None:
            value["tirads"] = asdict(self.tirads)
            if self.tirads.level_range is not None:
                value["tirads"]["level_range"] = list(self.tirads.level_range)
        return value


def findings_of(
    probabilities: np.ndarray | Sequence[float],
    *,
    labels: LabelSpace,
    thresholds: Mapping[str, float] | None,
    counts: ClassCounts | None,
    image_id: str = "",
    patient_id: str | None = None,
    calibrated: bool = False,
    tail: Mapping[str, str] | None = None,
    trust: Mapping[str, str] | None = None,
    system: str = "acr",
    size_mm: float | None = None,
    model_name: str = "",
    model_digest: str = "",
    cautions: Sequence[str] = (),
) -> ImageFindings:
    """Put one image's probabilities into the words of a report.

    Args:
        probabilities: float [C] in [0, 1], in the order of `labels`.
        labels: The classes and their groups.
        thresholds: Class → threshold; None if never chosen, and then only groups are decided.
        counts: Of the train fold; None if unknown.
        image_id: The image.
        patient_id: Its patient.
        calibrated: Whether the probabilities are calibrated.
        tail: Class → tail group.
        trust: Class → sentence; "not tested" where it has none.
        system: TI-RADS system, where the classes are its twenty descriptors.
        size_mm: Largest dimension of the nodule, mm; None or NaN if unknown.
        model_name: Name of the run.
        model_digest: SHA-256 of its weights.
        cautions: Further ones.

    Returns:
        The findings, the likeliest first.

    Raises:
        MedtailError: Another number of probabilities than classes, one outside [0, 1], or an impossible size.

    Example:
        >>> found = findings_of([0.2, 0.7], labels=LabelSpace(("Hernia", "Mass")), thresholds={"Mass": 0.5,
        ...     "Hernia": 0.1}, counts=None)
        >>> [(finding.name, finding.present) for finding in found.findings]
        [('Mass', True), ('Hernia', True)]
    """
    values = np.asarray(probabilities, dtype=np.float64)
    if values.shape != (labels.num_classes,):
        raise MedtailError(
            f"findings: found {values.shape} probabilities; expected [{labels.num_classes}], one a class."
        )
    if not ((values >= -TOLERANCE) & (values <= 1.0 + TOLERANCE)).all():
        wrong = int(np.flatnonzero(~((values >= -TOLERANCE) & (values <= 1.0 + TOLERANCE)))[0])
        raise MedtailError(
            f"findings, {labels.class_names[wrong]!r}: found {values[wrong]!r}; expected a probability in [0, 1]. Apply"
            " the model's link to its logits first."
        )
    values = np.clip(values, 0.0, 1.0)
    if counts is not None and counts.class_names != labels.class_names:
        counts = counts.select(labels.class_names)
    group_of = {name: group.name for group in labels.groups for name in group.classes}
    limits = np.array([(thresholds or {}).get(name, np.nan) for name in labels.class_names])
    called = decide(values[None, :], thresholds=limits, groups=labels.group_indices)[0].tolist()
    scores, given = values.tolist(), limits.tolist()  # plain numbers at once, rather than one by one
    tails, trusts = tail or {}, trust or {}
    found = []
    for column in np.argsort(-values, kind="stable").tolist():
        name, limit = labels.class_names[column], given[column]
        group = group_of.get(name)
        has_limit = not isnan(limit)
        found.append(
            Finding(
                name=name,
                group=group,
                probability=scores[column],
                threshold=limit if group is None and has_limit else None,
                present=called[column] if group is not None or has_limit else None,
                tail_group=tails.get(name),
                train_positives=None if counts is None else counts.patients[column],
                trust=trusts.get(name, NOT_TESTED),
                calibrated=calibrated,
            )
        )
    tirads, said = tirads_of(values, labels=labels, system=system, size_mm=size_mm, calibrated=calibrated)
    notes = [*([] if calibrated else [UNCALIBRATED]), *said, *cautions]
    return ImageFindings(
        image_id=image_id,
        patient_id=patient_id or None,
        findings=tuple(found),
        tirads=tirads,
        model_name=model_name,
        model_digest=model_digest,
        medtail_version=medtail.__version__,
        cautions=tuple(dict.fromkeys([RESEARCH_ONLY, *notes])),
    )


def findings_by(
    evidence: ModelEvidence,
    probabilities: np.ndarray | Sequence[float],
    *,
    image_id: str = "",
    patient_id: str | None = None,
    calibrated: bool | None = None,
    system: str = "acr",
    size_mm: float | None = None,
) -> ImageFindings:
    """Put one image's probabilities into the words of a report, with all that a run knows of its model.

    Args:
        evidence: Of `evidence.read_evidence`.
        probabilities: float [C] in [0, 1], as `medtail predict` makes them.
        image_id: The image.
        patient_id: Its patient.
        calibrated: Whether they are calibrated; None as the model's folder says.
        system: See `findings_of`.
        size_mm: See `findings_of`.

    Raises:
        MedtailError: As `findings_of`.
    """
    applied = evidence.calibrated if calibrated is None else calibrated
    return findings_of(
        probabilities,
        labels=evidence.labels,
        # those of a calibrated model were chosen on calibrated scores
        thresholds=evidence.thresholds if applied == evidence.calibrated else None,
        counts=evidence.counts,
        image_id=image_id,
        patient_id=patient_id,
        calibrated=applied,
        tail=evidence.tail,
        trust=evidence.trust,
        system=system,
        size_mm=size_mm,
        model_name=evidence.name,
        model_digest=evidence.digest,
        cautions=evidence.cautions,
    )


def tirads_of(
    probabilities: np.ndarray, *, labels: LabelSpace, size_mm: float | None, calibrated: bool, system: str = "acr"
) -> tuple[TiradsAssessment | None, tuple[str, ...]]:
    """Propagate descriptor probabilities to points, level and advice; nothing where descriptors are missing.

    Args:
        probabilities: float64 [C] in [0, 1].
        labels: The classes; the twenty of `lexicons.descriptors.LABEL_NAMES` must be among them.
        system: See `lexicons.systems.lexicon`.
        size_mm: Largest dimension, mm; None or NaN if unknown.
        calibrated: Whether the probabilities are.

    Returns:
        The assessment or None, and cautions.

    Raises:
        MedtailError: Unknown system, or an impossible size.

    References:
        tessler2017.
    """
    if not set(LABEL_NAMES) <= set(labels.class_names):
        return None, ()
    size, mistake = checked_size(None if size_mm is None or np.isnan(size_mm) else size_mm)
    if mistake:
        raise MedtailError(f"findings, size_mm: {mistake}")
    rules = lexicon(system)
    scores = np.asarray(probabilities, dtype=np.float64)[None, [labels.index(name) for name in LABEL_NAMES]]
    # exclusive groups sum to 1 where the head made them do so; sigmoids of their own become shares of the odds
    meaning: ScoreMeaning = "separate" if label_faults(scores) else "probability"
    faults = label_faults(scores, meaning=meaning)
    if faults:
        told = "; ".join(f"{group}: {message}" for group, message in faults[0].items())
        return None, (f"{rules.label} could not be computed: {told}",)
    taken = probabilities_from_labels(scores, meaning=meaning, is_calibrated=calibrated)
    law = level_law(taken, system=rules.system)
    best = int(law.most_probable[0])
    level = law.categories[best] if best >= 0 else ""
    shares = {name: float(law.probabilities[0, k]) for k, name in enumerate(law.categories)}
    if rules.system in ("eu", "k"):
        shares[""] = float(law.undefined[0])
    first, last, _ = law.smallest_run()
    chances = {} if size is None else {name: float(share[0]) for name, share in law.advice(np.array([size])).items()}
    likeliest = max(chances, key=lambda name: chances[name]) if chances else None
    points = _points(law.points[0], rules.category(level).scores) if law.points is not None and level else None
    found = TiradsAssessment(
        system=rules.label,
        points=points,
        level=level,
        level_probabilities=shares,
        advice=likeliest,
        size_mm=size,
        sentence="",
        advice_probabilities=chances,
        expected_points=None if law.points is None else float(law.mean_points[0]),
        level_range=None if first[0] < 0 else (law.categories[int(first[0])], law.categories[int(last[0])]),
    )
    said = tuple(note for note in law.warnings if note != NOT_CALIBRATED)  # said once for all findings
    return replace(found, sentence=_sentence(found, system=rules.system)), said


def _points(law: np.ndarray, limits: tuple[int, int] | None) -> int | None:
    if limits is None:
        return None
    low, high = limits
    return low + int(np.argmax(law[low : high + 1]))


def _sentence(found: TiradsAssessment, *, system: System) -> str:
    title = found.system
    if not found.level:
        share = found.level_probabilities.get("", 0.0)
        return f"{title}: most likely no category ({share:.0%}). Advice follows from a category and a size."
    category = LEXICONS[system].category(found.level)
    parts = [f"{title}: {found.level} ({category.words}), probability {found.level_probabilities[found.level]:.0%}"]
    if found.points is not None:
        word = "point" if found.points == 1 else "points"
        parts.append(f"likeliest {found.points} {word}, on average {found.expected_points:.1f}")
    if found.level_range is not None and found.level_range[0] != found.level_range[1]:
        parts.append(f"90 % within {found.level_range[0]} to {found.level_range[1]}")
    text = "; ".join(parts) + "."
    if found.size_mm is None or found.advice is None:
        return text + " Size unknown: no advice."
    shares = ", ".join(f"{ACTION_WORDS[name]} {share:.0%}" for name, share in found.advice_probabilities.items())
    ruling: Advice | None = advice(found.level, found.size_mm, system=system)
    assert ruling is not None, "level and size are known"
    return f"{text} At {found.size_mm:g} mm: {shares} (for {found.level}: {ruling.why})."
