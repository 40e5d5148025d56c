"""The few numbers at the top of the report: what most readers came for, each with its interval and its reading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from medtail.judging.tail_pool import any_finding
from medtail.reporting.facts import ClassFacts, Estimate, GroupFacts, estimate, number
from medtail.reporting.summary import count
from medtail.tables.predictions import Predictions
from medtail.tables.results import Results


@final
@dataclass(frozen=True)
class Headline:
    """A number of the first screen.

    Attributes:
        name: What it is.
        found: Value and interval.
        note: How to read it.
    """

    name: str
    found: Estimate
    note: str


def headlines(
    predictions: Predictions, results: Results, classes: Sequence[ClassFacts], groups: Sequence[GroupFacts]
) -> list[Headline]:
    """Choose the numbers of the first screen, those that there are.

    Mean AP over all classes, then with head, medium and tail counting alike; the tail judged as one finding (AUROC,
    AP); the share of critical findings missed.

    Args:
        predictions: The judged rows.
        results: Their evaluation.
        classes: All classes.
        groups: Tail groups and all.
    """
    shown = []
    whole = next((group for group in groups if group.name == "all"), None)
    if whole is not None and whole.metrics["ap"].is_defined:
        chance = estimate(results, "ap_chance").value
        note = f"over {len(whole.averaged)} of {count(len(whole.members), 'class', 'classes')}"
        note += "" if np.isnan(chance) else f"; a random order would reach {number(chance)}"
        shown.append(Headline("Mean AP", whole.metrics["ap"], note))
    balanced = estimate(results, "mean_of_tail_groups:ap")
    if balanced.is_defined and balanced.support > 1:
        named = [group.name for group in groups if group.name != "all" and group.metrics["ap"].is_defined]
        note = f"{_words(named)} count alike, however many classes they have"
        shown.append(Headline("Mean AP, groups alike", balanced, note))
    shown += _tail_as_one(predictions, results, classes)
    missed = estimate(results, "critical_fnr")
    if missed.is_defined:
        named = [str(name) for name in results.header.get("critical", ())]
        note = f"mean share of positive images not called, at the thresholds used: {', '.join(named)}"
        shown.append(Headline("Critical findings missed", missed, note))
    return shown


def _words(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)


def _tail_as_one(predictions: Predictions, results: Results, classes: Sequence[ClassFacts]) -> list[Headline]:
    """Return the tail judged as one question: has this image any rare finding at all?"""
    auroc, ap = (estimate(results, f"any_finding_{metric}", tail_group="tail") for metric in ("auroc", "ap"))
    members = [facts.name for facts in classes if facts.tail_group == "tail"]
    if not auroc.is_defined or not members:
        return []
    columns = [predictions.labels.index(name) for name in members]
    _, target = any_finding(predictions.scores[:, columns], predictions.targets[:, columns])
    assessed = int((~np.isnan(target)).sum())
    share = f"{100 * auroc.support / assessed:.2g} %" if assessed else "–"
    told = (
        f"{count(len(members), 'tail class', 'tail classes')} asked as one, {count(int(auroc.support), 'image')} of "
        f"{assessed:,}; AP {ap.text()}, by chance about {share}"
    )
    return [Headline("Any tail finding, AUROC", auroc, told)]
