"""What the numbers of a class amount to, in words, with the numbers in them.

Five questions, each with its own rule fixed beforehand: does the generator copy, does the class come out, do the images
look like it, are they varied, is the sketch kept? The limits are ours; they are coarse on purpose, and the numbers
stand beside the words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import numpy as np

from medtail.synthesis.kernel_distance import KernelPosition
from medtail.synthesis.memorisation import COPYING_BELOW
from medtail.synthesis.quality import ClassQuality, SpaceQuality
from medtail.tables.labels import short_name

Answer = Literal["good", "fair", "bad", "unknown"]
WORSE: tuple[Answer, ...] = ("good", "fair", "bad")
FULL_CONTROL, SOME_CONTROL = 0.8, 0.5
"""Share of images recognised, over the judge's recall on real ones."""
LIKE, SOMEWHAT_LIKE = 0.5, 1.0
"""Place of the KID between two halves of the real images (0) and the nearest other class (1)."""
VARIED, SOMEWHAT_VARIED = 0.8, 0.6
"""Mean distance between generated images over that between real ones."""
KEPT_GAIN, SOME_GAIN = 0.15, 0.05
"""Boundary F1 with the asked sketch beyond that with another one, at the lower end of two standard errors."""


@final
@dataclass(frozen=True)
class Finding:
    """The answer to one question.

    Attributes:
        question: `copying`, `class`, `likeness`, `variety` or `sketch`.
        answer: `good`, `fair`, `bad`, or `unknown` where nothing can be said.
        words: A clause with the numbers.
    """

    question: str
    answer: Answer
    words: str


@final
@dataclass(frozen=True)
class Verdict:
    """All answers about a class.

    Attributes:
        overall: `usable`, `usable with care`, `not usable` or `cannot be judged`.
        findings: The answers.
    """

    overall: str
    findings: tuple[Finding, ...]

    @property
    def words(self) -> str:
        """One sentence.

        Example:
            >>> Verdict("usable", (Finding("variety", "good", "varied (0.95)"),)).words
            'usable: varied (0.95)'
        """
        return f"{self.overall}: {'; '.join(finding.words for finding in self.findings)}"


def verdict_of(quality: ClassQuality) -> Verdict:
    """Judge a class.

    Args:
        quality: Its numbers.

    Returns:
        `not usable` where it copies, the class does not come out, or another class is nearer; `cannot be judged` where
        copying or class control is unknown; `usable with care` where any answer is less than good; else `usable`.
    """
    findings = (_copying(quality), _control(quality), _likeness(quality), _variety(quality), _sketch(quality))
    needed = {finding.question: finding.answer for finding in findings}
    if "bad" in (needed["copying"], needed["class"], needed["likeness"]):
        overall = "not usable"
    elif "unknown" in (needed["copying"], needed["class"]):
        overall = "cannot be judged"
    elif {"bad", "fair"} & set(needed.values()):
        overall = "usable with care"
    else:
        overall = "usable"
    return Verdict(overall, findings)


def _copying(quality: ClassQuality) -> Finding:
    answers = [_copying_in(name, space) for name, space in quality.spaces.items() if not np.isnan(space.copy_test)]
    if not answers:
        few = f"{quality.generated} generated beside {quality.train_images} train image"
        few += "s" if quality.train_images != 1 else ""
        return Finding("copying", "unknown", f"copying: {few}, too few to tell")
    return max(answers, key=lambda finding: WORSE.index(finding.answer))


def _copying_in(name: str, space: SpaceQuality) -> Finding:
    near = "" if np.isnan(space.copy_share) else f", {100 * space.copy_share:.0f} % nearer than 95 % of real ones are"
    unseen = "" if np.isnan(space.unseen_test) else f", {_signed(space.unseen_test)} to tune images"
    numbers = f"C_T {_signed(space.copy_test)} in {name}{unseen}{near}"
    gap = space.copy_test - space.unseen_test
    if space.copy_test < COPYING_BELOW and not gap > COPYING_BELOW:  # also where there are no tune images to compare
        return Finding("copying", "bad", f"copies train images ({numbers})")
    if space.copy_test < COPYING_BELOW:
        return Finding(
            "copying", "fair", f"near to real images, but to unseen ones alike: smooth or typical ({numbers})"
        )
    if gap < COPYING_BELOW:
        return Finding("copying", "fair", f"leans towards train images ({numbers})")
    return Finding("copying", "good", f"no sign of copying ({numbers})")


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


def _control(quality: ClassQuality) -> Finding:
    control = quality.control
    if control is None:
        return Finding("class", "unknown", "class: no judge was given")
    if control.blind:
        return Finding("class", "unknown", control.blind)
    numbers = f"{100 * control.share:.0f} % recognised, real ones {100 * control.recall:.0f} %"
    if control.relative >= FULL_CONTROL:
        return Finding("class", "good", f"the class comes out ({numbers})")
    if control.relative >= SOME_CONTROL:
        return Finding("class", "fair", f"the class often comes out ({numbers})")
    return Finding("class", "bad", f"the class does not come out ({numbers})")


def _likeness(quality: ClassQuality) -> Finding:
    answers = [
        _likeness_in(name, space.position)
        for name, space in quality.spaces.items()
        if not np.isnan(space.position.position)
    ]
    if not answers:
        return Finding("likeness", "unknown", "likeness: too few images to tell")
    return max(answers, key=lambda finding: WORSE.index(finding.answer))


def _likeness_in(name: str, place: KernelPosition) -> Finding:
    scale = f"halves of real ones up to {place.floor_high:.2g}, {short_name(place.nearest)} {place.ceiling:.2g}"
    numbers = f"KID {f'{place.kid:.2g}'.replace('-', '−')} in {name}; {scale}"
    if place.kid <= place.floor_high or place.position <= LIKE:
        return Finding("likeness", "good", f"alike ({numbers})")
    if place.position <= SOMEWHAT_LIKE:
        return Finding("likeness", "fair", f"less alike ({numbers})")
    return Finding("likeness", "bad", f"farther from the class than another class is ({numbers})")


def _variety(quality: ClassQuality) -> Finding:
    known = {name: s.coverage for name, s in quality.spaces.items() if not np.isnan(s.coverage.diversity)}
    if not known:
        return Finding("variety", "unknown", "variety: too few images to tell")
    space = min(known, key=lambda name: known[name].diversity)
    found = known[space]
    covers = "" if np.isnan(found.coverage) else f", covers {100 * found.coverage:.0f} % of the real ones"
    numbers = f"spread {found.diversity:.2f} of the real one in {space}{covers}"
    if found.diversity >= VARIED:
        return Finding("variety", "good", f"varied ({numbers})")
    if found.diversity >= SOMEWHAT_VARIED:
        return Finding("variety", "fair", f"less varied ({numbers})")
    return Finding("variety", "bad", f"monotonous ({numbers})")


def _sketch(quality: ClassQuality) -> Finding:
    found = quality.adherence
    if found is None:
        return Finding("sketch", "unknown", "no sketch was asked for")
    numbers = f"F1 {found.asked:.2f}, with another sketch {found.other:.2f}"
    surely = found.gain - 2 * found.error
    if surely >= KEPT_GAIN:
        return Finding("sketch", "good", f"the sketch is kept ({numbers})")
    if surely >= SOME_GAIN:
        return Finding("sketch", "fair", f"the sketch is kept in part ({numbers})")
    return Finding("sketch", "bad", f"the sketch is ignored ({numbers})")


def overall_words(verdicts: Sequence[Verdict]) -> str:
    """Count the verdicts of a pool in a sentence.

    Example:
        >>> overall_words([Verdict("usable", ()), Verdict("not usable", ()), Verdict("usable", ())])
        '2 of 3 classes usable, 1 not usable.'
    """
    order = ("usable", "usable with care", "not usable", "cannot be judged")
    counts = [(word, sum(verdict.overall == word for verdict in verdicts)) for word in order]
    parts = [f"{number} {word}" for word, number in counts if number]
    number, _, rest = parts[0].partition(" ")
    return ", ".join([f"{number} of {len(verdicts)} classes {rest}", *parts[1:]]) + "."
