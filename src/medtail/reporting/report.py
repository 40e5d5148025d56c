"""One self-contained HTML file from Predictions and Results: what can be said about the rare findings, and what not.

Gathers the records of `facts`, words them (`summary`, `card`), draws them (`figures`, `curves`, `examples`) and
fills one template. The page fetches nothing: style, script and pictures are inside, a content security policy with
their hashes forbids everything else, and every text from the data is escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
import pandas as pd
from markupsafe import Markup

from medtail.judging.confusion import group_confusions
from medtail.judging.decisions import decide
from medtail.reporting import card as small_print
from medtail.reporting.bibliography import format_references
from medtail.reporting.class_table import class_table
from medtail.reporting.curves import class_curves, confusion_plot, reliability_plot
from medtail.reporting.examples import ClassExamples, gather_examples
from medtail.reporting.explained import sections_of_model
from medtail.reporting.facts import (
    UNKNOWN,
    ClassFacts,
    Estimate,
    class_facts,
    decision_thresholds,
    estimate,
    find_train_counts,
    group_facts,
    number,
    rare_classes,
)
from medtail.reporting.figures import forest_plot, frequency_plot, legend, training_plot
from medtail.reporting.glance import headlines
from medtail.reporting.page import packaged, page_template, security_policy, version_of_medtail
from medtail.reporting.policy import PolicyRecord, policy_section
from medtail.reporting.section_page import Section
from medtail.reporting.sections import judge_sections
from medtail.reporting.summary import count, summarise
from medtail.reporting.terms import terms
from medtail.runs import write_text
from medtail.tables.manifest import Manifest
from medtail.tables.places import Place
from medtail.tables.predictions import Predictions
from medtail.tables.results import Results

if TYPE_CHECKING:
    from jinja2 import Template

MOST_PANELS = 24
"""Curves are drawn for every class up to this many; beyond, for the rarest and the commonest half of it."""
MACRO_NAMES = (("ap", "AP"), ("auroc", "AUROC"), ("f1", "F1"), ("recall", "recall"),
               ("precision", "precision"), ("ece", "ECE"))  # fmt: skip
ALONE = {"hits": "positive found", "misses": "positive missed", "false alarms": "false alarm"}


@final
@dataclass(frozen=True)
class Panel:
    """A class's small figure."""

    facts: ClassFacts
    svg: Markup


def write_report(
    out: Path,
    *,
    predictions: Predictions,
    results: Results,
    title: str,
    card: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    manifest: Manifest | None = None,
    read_image: Callable[[Place], np.ndarray] | None = None,
    log: pd.DataFrame | None = None,
    methods: Sequence[str] = (),
    tune: Predictions | None = None,
    retargeted: Results | None = None,
    policy: PolicyRecord | None = None,
    explained: Path | None = None,
) -> Path:
    """Write the report of one judgement as one HTML file, atomically. The same inputs give the same bytes.

    Args:
        out: The file to write.
        predictions: The judged rows.
        results: Their evaluation.
        title: Title of the page.
        card: The model's card (classes, pixels, backbone, versions, digests, train counts); None if unknown.
        config: The resolved training configuration; None if unknown.
        manifest: The whole table of images, for the data card and for example images; None leaves both out.
        read_image: Reads an image file to float [H, W] or [H, W, 3] in [0, 1]; None leaves example images out.
        log: Training log with `epoch` and `train_loss` or `tune_map`; None leaves the figure out.
        methods: Keys of `references.bib` of the methods and data sets used.
        tune: Scores of the tune fold by the same model, calibrated alike, for conformal sets and abstention; None
            leaves both out.
        retargeted: Re-targeted results of these predictions (`medtail retarget`); None leaves the section out.
        policy: What a sampler that learnt its levels has left; None where there was none.
        explained: What `medtail explain` wrote of this model: heat maps and whether they can be believed; None leaves
            the section out.

    Returns:
        `out`.

    Raises:
        MedtailError: The file cannot be written, train counts in the card or the header are malformed, or `tune` or
            `retargeted` belong to other scores, or `explained` to another model.
    """
    out = Path(out)
    parts = (predictions, results, title, card, config, manifest, read_image, log, methods, tune, retargeted, policy)
    heat = () if explained is None else sections_of_model(explained, model=_weights(card))
    page = _template().render(_context(*parts, heat))
    write_text(out, page)
    return out


def _weights(card: Mapping[str, Any] | None) -> str | None:
    return None if card is None else card.get("digests", {}).get("weights")


def _context(
    predictions: Predictions,
    results: Results,
    title: str,
    card: Mapping[str, Any] | None,
    config: Mapping[str, Any] | None,
    manifest: Manifest | None,
    read_image: Callable[[Place], np.ndarray] | None,
    log: pd.DataFrame | None,
    methods: Sequence[str],
    tune: Predictions | None,
    retargeted: Results | None,
    policy: PolicyRecord | None,
    heat: Sequence[Section],
) -> dict[str, Any]:
    header = results.header
    fold = _fold(predictions, results)
    classes = class_facts(predictions, results, counts=find_train_counts(predictions, results, card, manifest))
    groups = group_facts(classes, results)
    rare, rare_word = rare_classes(classes)
    called = decide(predictions, thresholds=decision_thresholds(predictions, results))
    examples: list[ClassExamples] = []
    if manifest is not None and read_image is not None:
        examples = gather_examples(rare, predictions, called, manifest=manifest, read_image=read_image)
    training = training_plot(log) if log is not None and len(log) else None
    panels = _panel_classes(classes, rare)
    closer = judge_sections(predictions, results, classes, rare=rare, drawn=panels, tune=tune, retargeted=retargeted)
    glance = headlines(predictions, results, classes, groups)
    sections = [
        ("summary", "Summary"),
        ("groups", "Head, medium and tail"),
        ("classes", "Every class"),
        ("figures", "Curves"),
        *closer.contents,
    ]
    sections += [("generated", "Generated images in training")] if policy is not None else []
    sections += [("examples", "Example images")] if examples else []
    sections += [("explained", "Where the model looks")] if heat else []
    sections += [
        ("data", "Data card"),
        ("methods", "Model, settings and versions"),
        ("limits", "Limits of use"),
        ("references", "References"),
    ]
    style, script = packaged("report.css"), packaged("report.js")
    return {
        "title": title,
        "version": version_of_medtail(),
        "policy": security_policy(style, script),
        "style": Markup(style),
        "script": Markup(script),
        "data_line": _data_line(predictions, classes, fold),
        "sections": sections,
        "summary": summarise(
            classes,
            groups,
            rare=rare,
            rare_word=rare_word,
            fold=fold,
            has_patients=predictions.has_patients,
            cautioned="warnings" in header,
        ),
        "rare_word": rare_word,
        "warnings": [str(warning) for warning in header.get("warnings", ())],
        "tail_rule": small_print.tail_rule(header, classes),
        "groups": groups,
        "has_groups": len(groups) > 1,
        "excluded_all": groups[-1].excluded if groups else (),
        "macro_names": MACRO_NAMES,
        "group_scores": _group_scores(predictions, results),
        "interval_note": small_print.interval_note(header),
        "threshold_note": small_print.threshold_note(header, predictions),
        "glance": glance,
        "class_table": class_table(classes),
        "legend": legend([group.name for group in groups if group.name != "all"]),
        "forest": forest_plot(classes),
        "frequency": frequency_plot(classes),
        "curves_note": _curves_note(classes),
        "curve_panels": [Panel(facts, class_curves(facts, *_column(predictions, facts))) for facts in panels],
        "reliability_pooled": reliability_plot("All classes pooled", predictions.scores, predictions.targets),
        "closer": closer,
        "confusions": _confusions(predictions),
        "training": training,
        "heat": heat,
        "ratio_policy": None if policy is None else policy_section(policy, panels),
        "examples": examples,
        "titles": ALONE,
        "data_facts": small_print.data_facts(predictions, classes, fold=fold),
        "data_tables": small_print.data_tables(manifest),
        "interval_words": small_print.interval_words(header, predictions),
        "blocks": small_print.blocks(card, config),
        "digests": small_print.digests_and_versions(predictions, header, card),
        "limits": small_print.limits(classes, predictions, fold=fold, many_sites=_many_sites(manifest)),
        "terms": terms(closer.parts | _first_parts(results)),
        "references": format_references([*methods, *small_print.own_methods(header, results), *closer.methods]),
        "number": number,
        "count": count,
    }


@cache
@cache
def _template() -> Template:
    return page_template("report.html.j2")


def _first_parts(results: Results) -> set[str]:
    """Return which parts of the small print the first screen needs."""
    needed = {
        "tail as one": estimate(results, "any_finding_auroc", tail_group="tail"),
        "groups alike": estimate(results, "mean_of_tail_groups:ap"),
        "critical": estimate(results, "critical_fnr"),
    }
    return {part for part, found in needed.items() if found.is_defined}


def _fold(predictions: Predictions, results: Results) -> str:
    named = results.header.get("folds") or results.header.get("fold") or sorted({str(f) for f in predictions.folds})
    return named if isinstance(named, str) else " and ".join(fold for fold in named if fold)


def _data_line(predictions: Predictions, classes: Sequence[ClassFacts], fold: str) -> str:
    patients = f" of {count(len(set(predictions.patients)), 'patient')}" if predictions.has_patients else ""
    where = f" in the {fold} fold" if fold else ""
    known = [facts.train_images for facts in classes if facts.train_images != UNKNOWN]
    spread = f", seen in {min(known):,} to {max(known):,} training images each" if known else ""
    return f"{count(len(predictions), 'image')}{patients}{where}; {count(len(classes), 'class', 'classes')}{spread}."


def _column(predictions: Predictions, facts: ClassFacts) -> tuple[np.ndarray, np.ndarray]:
    index = predictions.labels.index(facts.name)
    return predictions.scores[:, index], predictions.targets[:, index]


def _many_sites(manifest: Manifest | None) -> bool | None:
    if manifest is None or "site" not in manifest.frame.columns:
        return None
    return len(set(manifest.frame["site"]) - {""}) > 1


def _panel_classes(classes: Sequence[ClassFacts], rare: Sequence[ClassFacts]) -> list[ClassFacts]:
    """Order classes for small multiples: the rare ones first, then the others from common to rare."""
    names = {facts.name for facts in rare}
    ordered = [*rare, *(facts for facts in classes if facts.name not in names)]
    if len(ordered) <= MOST_PANELS:
        return ordered
    half = MOST_PANELS // 2
    rarest = list(reversed(classes))[:half]
    return [*rarest, *classes[:half]]


def _curves_note(classes: Sequence[ClassFacts]) -> str:
    if len(classes) <= MOST_PANELS:
        return "Every class, the rare ones first."
    half = MOST_PANELS // 2
    return f"The {half} rarest classes, then the {half} commonest of {len(classes)}."


def _confusions(predictions: Predictions) -> list[dict[str, Any]]:
    drawn = []
    for index, confusion in enumerate(group_confusions(predictions)):
        total = int(confusion.counts.sum())
        absent = f" Hatched: no image of {', '.join(confusion.absent)}." if confusion.absent else ""
        caption = (
            f"{confusion.name}: {int(np.trace(confusion.counts)):,} of {count(total, 'image')} called right; the "
            f"highest score is called. Shading is the share of the row.{absent}"
        )
        drawn.append({"svg": confusion_plot(confusion, pattern_id=f"hatch{index}"), "caption": caption})
    return drawn


def _group_scores(predictions: Predictions, results: Results) -> list[tuple[str, str, Estimate]]:
    names = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "macro_f1": "macro F1"}
    scores = [
        (group.name, words, estimate(results, metric, class_name=group.name))
        for group in predictions.labels.groups
        for metric, words in names.items()
    ]
    scores.append(("all decisions", "micro F1", estimate(results, "micro_f1")))
    return [(name, words, value) for name, words, value in scores if not np.isnan(value.support) or value.is_defined]
