"""The sections behind the first screen, made together: calibration, decisions, subgroups, sets, other prevalences.

They share one table of resamples, drawn as the results say theirs were, so that a bin's interval and a metric's are
of the same patients. Each section is there only when its data are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from medtail.errors import MedtailError
from medtail.judging.bootstrap import number_patients
from medtail.judging.evaluation import EvaluationConfig, weigh_patients
from medtail.reporting.abstention import AbstentionSection, abstention_section
from medtail.reporting.conformal import ConformalSection, conformal_section
from medtail.reporting.decision_curves import DecisionSection, decision_section
from medtail.reporting.facts import ClassFacts
from medtail.reporting.prevalence import PrevalenceSection, prevalence_section
from medtail.reporting.reliability import ReliabilitySection, reliability_section
from medtail.reporting.subgroups import SubgroupSection, subgroup_section
from medtail.tables.predictions import Predictions
from medtail.tables.results import Results
from medtail.tables.tail import TAIL_GROUPS

MOST_CLOSE = 12
"""Plots shown at once; those of further classes are folded away."""


@final
@dataclass(frozen=True)
class Sections:
    """What was made.

    Attributes:
        reliability: Do scores mean what they say?
        decisions: Are they worth acting on?
        subgroups: Who is served worse? None without subgroups.
        conformal: What cannot be ruled out? None without tune rows.
        abstention: What if the model may pass? None without tune rows.
        prevalence: What elsewhere? None without re-targeted results.
    """

    reliability: ReliabilitySection
    decisions: DecisionSection
    subgroups: SubgroupSection | None = None
    conformal: ConformalSection | None = None
    abstention: AbstentionSection | None = None
    prevalence: PrevalenceSection | None = None

    @property
    def contents(self) -> list[tuple[str, str]]:
        """Anchors and names of the sections there are, in the order of the page."""
        found = [("reliability", "Calibration"), ("decisions", "Decision curves")]
        found += [("subgroups", "Subgroups")] if self.subgroups else []
        found += [("conformal", "What cannot be ruled out")] if self.conformal else []
        found += [("abstention", "Leaving the doubtful to people")] if self.abstention else []
        found += [("prevalence", "At other prevalences")] if self.prevalence else []
        return found

    @property
    def parts(self) -> set[str]:
        """Parts of the small print that the page needs; see `terms`."""
        there = {"calibration"} | {name for name, _ in self.contents[2:]}
        return there | ({"decisions"} if self.decisions.panels else set())

    @property
    def methods(self) -> list[str]:
        """Keys of `references.bib` of the methods behind these sections."""
        keys = ["kumar2019"]
        keys += ["vickers2006", "vickers2008"] if self.decisions.panels else []
        keys += ["holm1979"] if self.subgroups else []
        if self.conformal:
            keys += ["vovk2012"] + (["ding2023"] if "cluster" in self.conformal.sets.levels else [])
        keys += ["geifman2017", "jones2021"] if self.abstention else []
        keys += ["saerens2002"] if self.prevalence else []
        return keys


def judging_config(header: Mapping[str, Any]) -> EvaluationConfig:
    """Return the settings a judgement was made with, as far as its header tells; the defaults elsewhere.

    Example:
        >>> judging_config({"bootstrap": {"resamples": 200, "seed": 3}}).seed
        3
    """
    made = header.get("bootstrap")
    made = made if isinstance(made, Mapping) else {}
    tail = header.get("tail")
    known: dict[str, Any] = {key: made[key] for key in ("scheme", "strata", "interval", "seed") if key in made}
    known["bootstrap"] = int(made.get("resamples", 0) or 0)
    if isinstance(tail, Mapping) and tail.get("rule"):
        known["tail_rule"] = tail["rule"]
        known["tail_cuts"] = tuple(tail["cuts"]) if tail.get("cuts") else None
        if tail["rule"] == "list":
            group_of = tail.get("groups", {})
            known["tail_members"] = {g: tuple(n for n, own in group_of.items() if own == g) for g in TAIL_GROUPS}
    return EvaluationConfig(**known)


def judge_sections(
    predictions: Predictions,
    results: Results,
    classes: Sequence[ClassFacts],
    *,
    rare: Sequence[ClassFacts],
    drawn: Sequence[ClassFacts],
    tune: Predictions | None = None,
    retargeted: Results | None = None,
) -> Sections:
    """Make every section there are data for.

    Args:
        predictions: The judged rows.
        results: Their evaluation.
        classes: All classes, commonest in training first.
        rare: The classes looked at closely, rarest first; critical ones are added.
        drawn: Classes to draw small plots of, in the order of the page.
        tune: Scores of the tune fold by the same model, calibrated alike; None leaves sets and abstention out.
        retargeted: What `medtail retarget` wrote; None leaves the section out.

    Raises:
        MedtailError: `tune` is of another model or calibration or holds rows of other folds, or `retargeted` is of
            other scores.
    """
    config = judging_config(results.header)
    close = close_classes(results, classes, rare)
    patients, total = number_patients(predictions.patients)
    weights = weigh_patients(predictions, patients, total, config)
    first = close[:MOST_CLOSE]
    names = {facts.name for facts in first}
    sections = Sections(
        reliability=reliability_section(
            predictions,
            dict(results.header),
            classes,
            close=first,
            others=[facts for facts in drawn if facts.name not in names],
            patients=patients,
            weights=weights,
            level=config.interval,
        ),
        decisions=decision_section(predictions, close, config=config, patients=patients, weights=weights),
        subgroups=subgroup_section(results, close=close),
        prevalence=None if retargeted is None else prevalence_section(retargeted, predictions, classes),
    )
    if tune is None or not len(tune):
        return sections
    check_tune(tune, predictions)
    return Sections(
        sections.reliability,
        sections.decisions,
        sections.subgroups,
        conformal_section(tune, predictions, classes, close=close, config=config),
        abstention_section(predictions, close=close, config=config),
        sections.prevalence,
    )


def close_classes(results: Results, classes: Sequence[ClassFacts], rare: Sequence[ClassFacts]) -> list[ClassFacts]:
    """Return the rare classes, rarest first, then the critical ones not among them."""
    named = {facts.name for facts in rare}
    critical = results.header.get("critical") or ()
    return [*rare, *(facts for facts in classes if facts.name in critical and facts.name not in named)]


def check_tune(tune: Predictions, predictions: Predictions) -> None:
    """Refuse tune rows whose scores do not mean what the judged ones mean.

    Raises:
        MedtailError: Another model, calibration or classes, or rows of the judged table.
    """
    for key in ("model", "calibration"):
        ours, theirs = predictions.digests.get(key), tune.digests.get(key)
        if ours != theirs:
            raise MedtailError(
                f"{tune.name}: made with {key} {_short(theirs)}, {predictions.name} with {key} {_short(ours)}; sets"
                " need scores of the same kind on both folds. Score the tune fold again."
            )
    if tune.labels.class_names != predictions.labels.class_names:
        raise MedtailError(f"{tune.name}: its classes are not those of {predictions.name}, in their order.")
    shared = set(tune.image_ids) & set(predictions.image_ids)
    if shared:
        raise MedtailError(f"{tune.name}: {len(shared)} of its images are judged too; expected other images.")


def _short(digest: str | None) -> str:
    return "none" if digest is None else digest[:12]
