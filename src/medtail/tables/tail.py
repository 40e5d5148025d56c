"""Head, medium and tail: which classes count as rare, from the real rows of the train fold only.

The rule and its cuts are stored with every result that uses them. Class counts travel from the manifest to the
model card to the predictions, so that scores judged elsewhere are grouped by the same counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np

from medtail.errors import MedtailError, did_you_mean, listing
from medtail.tables.labels import LabelSpace
from medtail.tables.manifest import Manifest

TailGroup = Literal["head", "medium", "tail"]
TAIL_GROUPS: tuple[TailGroup, ...] = ("head", "medium", "tail")
RuleName = Literal["auto", "prevalence", "count", "relative", "terciles", "list"]
RULES: tuple[RuleName, ...] = ("auto", "prevalence", "count", "relative", "terciles", "list")
DEFAULT_CUTS: Mapping[str, tuple[float, float]] = {
    "prevalence": (0.10, 0.01),
    "count": (10_000.0, 1_000.0),
    "relative": (0.5, 0.1),
}


@final
@dataclass(frozen=True)
class ClassCounts:
    """How often each class was seen in training.

    Attributes:
        class_names: The classes.
        images: Positive real images of the train fold, one count a class.
        patients: Patients with a positive image.
        assessed: Images where the class was assessed.
    """

    class_names: tuple[str, ...]
    images: tuple[int, ...]
    patients: tuple[int, ...]
    assessed: tuple[int, ...]

    def select(self, class_names: Sequence[str]) -> ClassCounts:
        """Return the counts of some classes, in the given order.

        Raises:
            MedtailError: A class was not counted.
        """
        for name in class_names:
            if name not in self.class_names:
                hint = did_you_mean(name, self.class_names) or f"; counted: {listing(self.class_names, limit=12)}"
                raise MedtailError(f"train counts: no class {name!r}{hint}")
        rows = [self.class_names.index(name) for name in class_names]
        return ClassCounts(
            tuple(class_names),
            tuple(self.images[row] for row in rows),
            tuple(self.patients[row] for row in rows),
            tuple(self.assessed[row] for row in rows),
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON header."""
        return {
            name: {"images": i, "patients": p, "assessed": a}
            for name, i, p, a in zip(self.class_names, self.images, self.patients, self.assessed, strict=True)
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> ClassCounts:
        """Rebuild from `to_json`'s values.

        Raises:
            MedtailError: A count is missing.
        """
        try:
            names = tuple(value)
            return ClassCounts(
                names,
                tuple(int(value[n]["images"]) for n in names),
                tuple(int(value[n]["patients"]) for n in names),
                tuple(int(value[n]["assessed"]) for n in names),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise MedtailError(f"train counts: expected images, patients and assessed a class; {error!r}") from error


def count_classes(manifest: Manifest, *, fold: str = "train") -> ClassCounts:
    """Count each class's positive images and patients among the real rows of a fold.

    Example:
        >>> import pandas as pd
        >>> from medtail.tables.manifest import manifest_from_frame
        >>> table = pd.DataFrame({"image_id": list("abc"), "path": list("abc"), "patient_id": ["1", "1", "2"],
        ...                       "fold": ["train", "train", "test"], "Hernia": [1, 1, 1]})
        >>> count_classes(manifest_from_frame(table)).to_json()
        {'Hernia': {'images': 2, 'patients': 1, 'assessed': 2}}
    """
    chosen = manifest.take((manifest.folds == fold) & manifest.is_real)
    targets = chosen.targets
    patients = chosen.patients
    positive = targets == 1
    return ClassCounts(
        manifest.labels.class_names,
        tuple(int(n) for n in positive.sum(axis=0)),
        tuple(len(set(patients[positive[:, c]])) for c in range(targets.shape[1])),
        tuple(int(n) for n in (~np.isnan(targets)).sum(axis=0)),
    )


@final
@dataclass(frozen=True)
class TailGroups:
    """Each class's tail group and the rule that put it there.

    Attributes:
        group_of: Class name → `head`, `medium` or `tail`.
        rule: The rule used (never `auto`).
        cuts: Its two cut points; empty for `terciles` and `list`.
    """

    group_of: Mapping[str, TailGroup]
    rule: str
    cuts: tuple[float, ...]

    def members(self, group: TailGroup) -> tuple[str, ...]:
        """Return the classes of a group in the label space's order."""
        return tuple(name for name, found in self.group_of.items() if found == group)

    def describe(self) -> str:
        """Say the rule in words, for a report."""
        if self.rule == "prevalence":
            high, low = (f"{100 * cut:g} %" for cut in self.cuts)
            return f"head > {high}, medium {low} to {high}, tail < {low} of the assessed train images"
        if self.rule == "count":
            high, low = (f"{cut:,.0f}" for cut in self.cuts)
            return f"head > {high}, medium {low} to {high}, tail < {low} train images"
        if self.rule == "relative":
            high, low = (f"{100 * cut:g} %" for cut in self.cuts)
            return f"head at least {high}, medium {low} to {high}, tail < {low} of the largest class's train images"
        if self.rule == "thyro_lmd":
            high, low = (f"{100 * cut:g} %" for cut in self.cuts)
            return f"head at least {high}, medium (body) {low} to {high}, tail < {low} of the assessed train images"
        if self.rule == "terciles":
            return "thirds of the classes by number of train patients"
        return "named by the user"


def tail_groups(
    counts: ClassCounts,
    *,
    labels: LabelSpace,
    rule: RuleName = "auto",
    cuts: tuple[float, float] | None = None,
    members: Mapping[str, Sequence[str]] | None = None,
) -> TailGroups:
    """Put every class into head, medium or tail.

    Args:
        counts: From the train fold's real rows.
        labels: The classes to group, in their order; `auto` is `relative` for a multi-class task, else `prevalence`.
        rule: `prevalence` (share of assessed images; head > 10 %, tail < 1 %), `count` (head > 10,000, tail
            < 1,000), `relative` (share of the largest class; head >= 50 %, tail < 10 %), `terciles` (by rank
            of patient counts, ties by name; 20 classes become 7/6/7) or `list` (`members` names them).
        cuts: Upper and lower cut, overriding those of `prevalence`, `count` or `relative`.
        members: For `list`: group → class names, covering every class once.

    Returns:
        The groups; a class never seen in training is in the tail.

    Raises:
        MedtailError: Unknown rule; a class that was not counted; cuts not descending, or given to a rule without
            cuts; `members` given to another rule than `list`, leaving a class out or naming it twice.

    Example:
        >>> counts = ClassCounts(("a", "b", "c"), (200, 50, 5), (200, 50, 5), (1000, 1000, 1000))
        >>> dict(tail_groups(counts, labels=LabelSpace(("a", "b", "c"))).group_of)
        {'a': 'head', 'b': 'medium', 'c': 'tail'}

    References:
        lin2025 (percentages of CXR-LT 2024), holste2024 (counts of CXR-LT 2023).
    """
    if rule not in RULES:
        raise MedtailError(
            f"tail rule {rule!r}: unknown{did_you_mean(str(rule), RULES) or '; expected ' + ', '.join(RULES)}"
        )
    if rule == "auto":
        rule = "relative" if labels.task == "multiclass" else "prevalence"
    if members and rule != "list":
        raise MedtailError(f"tail rule {rule!r}: takes no members; name the groups with the rule 'list'.")
    if cuts is not None and rule not in DEFAULT_CUTS:
        raise MedtailError(f"tail rule {rule!r}: takes no cuts; they belong to {', '.join(DEFAULT_CUTS)}.")
    counts = counts.select(labels.class_names)
    if rule == "list":
        return _listed(counts, members or {})
    if rule == "terciles":
        return _terciles(counts)
    high, low = cuts or DEFAULT_CUTS[rule]
    if not high > low > 0:
        raise MedtailError(f"tail cuts {high}, {low}: expected an upper cut above a lower cut above 0")
    images = np.array(counts.images, dtype=float)
    if rule == "prevalence":
        assessed = np.array(counts.assessed, dtype=float)
        values = np.divide(images, assessed, out=np.zeros_like(images), where=assessed > 0)
    elif rule == "relative":
        values = images / max(images.max(initial=0.0), 1.0)
    else:
        values = images
    is_head = values >= high if rule == "relative" else values > high
    found: dict[str, TailGroup] = {
        name: "head" if is_head[i] else ("tail" if values[i] < low else "medium")
        for i, name in enumerate(counts.class_names)
    }
    return TailGroups(found, rule, (high, low))


def _terciles(counts: ClassCounts) -> TailGroups:
    order = sorted(range(len(counts.class_names)), key=lambda i: (-counts.patients[i], counts.class_names[i]))
    total = len(order)
    # a third, rounded to the nearest: 20 classes become 7 / 6 / 7, 4 become 1 / 2 / 1
    outer = (2 * total + 3) // 6
    rank = {counts.class_names[index]: position for position, index in enumerate(order)}
    found: dict[str, TailGroup] = {}
    for name, patients in zip(counts.class_names, counts.patients, strict=True):
        in_tail = rank[name] >= total - outer or not patients
        found[name] = "tail" if in_tail else ("head" if rank[name] < outer else "medium")
    return TailGroups(found, "terciles", ())


def _listed(counts: ClassCounts, members: Mapping[str, Sequence[str]]) -> TailGroups:
    found: dict[str, TailGroup] = {}
    for group, names in members.items():
        if group not in TAIL_GROUPS:
            hint = did_you_mean(group, TAIL_GROUPS)
            raise MedtailError(f"tail group {group!r}: expected head, medium or tail{hint}")
        for name in names:
            if name not in counts.class_names:
                raise MedtailError(f"tail group {group!r}: no class {name!r}{did_you_mean(name, counts.class_names)}")
            if name in found:
                raise MedtailError(f"tail group {group!r}: {name!r} is in {found[name]!r} already; name it once.")
            found[name] = "head" if group == "head" else ("medium" if group == "medium" else "tail")
    left = [name for name in counts.class_names if name not in found]
    if left:
        raise MedtailError(f"tail groups: {listing([repr(name) for name in left])} in no group; name every class once.")
    return TailGroups({name: found[name] for name in counts.class_names}, "list", ())
