"""The model card: one Markdown page a run writes about its model, with the header that model hubs read.

Every number comes from the run's own tables; what the run does not know stands there as a gap. Written first when the
training ends, again when the test fold is judged and when the model is calibrated.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np

from medtail.config import dump_yaml
from medtail.reporting.bibliography import format_references
from medtail.reporting.card import (
    SmallTable,
    data_facts,
    data_tables,
    interval_note,
    interval_words,
    own_methods,
    plain,
    tail_rule,
    threshold_note,
)
from medtail.reporting.checklist_answers import answers, pixel_words, words_of
from medtail.reporting.checklists import CHECKLISTS, STATES, Checklist
from medtail.reporting.facts import UNKNOWN, ClassFacts, Estimate, number
from medtail.reporting.run_facts import RunFacts
from medtail.reporting.summary import count

MACRO: Final = {"ap": ("mean_average_precision", "mAP"), "auroc": ("roc_auc", "mean AUROC"), "f1": ("f1", "macro F1")}
"""Our metric → the Hub's type and the words for it."""
MARKS: Final = {"filled": "yes", "partly": "partly", "gap": "**gap**"}
PARTS: Final = {"backbone": "backbone", "head": "head", "pixels": "input", "band": "frequency band",
                "objective": "objective", "loss": "loss", "sampler": "sampler", "mix": "mixing",
                "tail_mix": "mixing of rare images", "second": "second stage"}  # fmt: skip
PRIVATE_KEYS: Final = ("manifest", "cache", "logging", "threads", "devices", "num_nodes", "strategy", "accelerator")
"""Parts of a config that say something of a machine and nothing of a model."""


def model_card(facts: RunFacts) -> str:
    """Write a model card.

    Args:
        facts: All that the run knows.

    Returns:
        Markdown with a YAML header, ending in a line end. The same facts give the same text.

    Example:
        >>> from medtail.tables.labels import LabelSpace
        >>> text = model_card(RunFacts("first", LabelSpace(("Hernia",)), digest="ab" * 32))
        >>> "The test fold has not been judged" in text
        True

    References:
        collins2024, tejani2024.
    """
    parts = [
        f"---\n{dump_yaml(hub_header(facts))}---",
        f"# {_cell(facts.name)}",
        _summary(facts),
        "## Use\n\n" + _use(facts),
        "## Model\n\n" + _bullets(_model(facts)),
        "## Data\n\n" + _data(facts),
        "## Classes\n\n" + _classes(facts),
        "## Results\n\n" + _results(facts),
        "## Limits\n\n" + _limits(facts),
        "## Reporting checklists\n\n" + _checklists(facts),
        "## Provenance\n\n" + _provenance(facts),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def hub_header(facts: RunFacts) -> dict[str, Any]:
    """Return the header that model hubs read: tags, and the results where there are some.

    No licence is named, because nobody has chosen one. A figure that is undefined is left out.

    Args:
        facts: Of the run.
    """
    task = "multi-class" if facts.labels.task == "multiclass" else "multi-label"
    header: dict[str, Any] = {
        "library_name": "medtail",
        "pipeline_tag": "image-classification",
        "inference": False,
        "tags": ["medical-imaging", "long-tailed", task, "research-use-only"],
    }
    metrics = _hub_metrics(facts)
    if not metrics or facts.results is None:
        return header
    data = facts.manifest_name or "table"
    fold = str(facts.results.header.get("fold") or "test")
    header["model-index"] = [
        {
            "name": facts.name,
            "results": [
                {
                    "task": {"type": "image-classification", "name": f"{task.capitalize()} image classification"},
                    "dataset": {"type": _slug(data), "name": data, "split": fold},
                    "metrics": metrics,
                }
            ],
        }
    ]
    return header


def _hub_metrics(facts: RunFacts) -> list[dict[str, Any]]:
    made = (facts.results.header.get("bootstrap") if facts.results is not None else None) or {}
    width = f"{100 * float(made.get('interval', 0.95)):g} %"
    found = []
    for group in facts.groups:
        for metric, (kind, words) in MACRO.items():
            estimate = group.metrics[metric]
            if not estimate.is_defined:
                continue
            which = "all classes" if group.name == "all" else f"{group.name} classes"
            bounds = f", {width} interval {estimate.interval()}" if estimate.has_interval else ""
            judged = f"{len(group.averaged)} of {len(group.members)} judged"
            found.append(
                {
                    "type": kind,
                    "value": round(float(estimate.value), 6),
                    "name": f"{words}, {which} ({judged}{bounds})",
                }
            )
    return found


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "table"


def _summary(facts: RunFacts) -> str:
    task = "one class an image" if facts.labels.task == "multiclass" else "several classes an image"
    lines = [
        f"**{facts.note}**" if facts.note else "**Its card names no permitted use.**",
        f"An image classifier of {count(facts.labels.num_classes, 'class', 'classes')} ({task}), made with medtail.",
    ]
    overall = next((group for group in facts.groups if group.name == "all"), None)
    if overall is not None and overall.metrics["ap"].is_defined:
        named = ", ".join(f"{group.name} {group.metrics['ap'].text()}" for group in facts.groups if group.name != "all")
        lines.append(
            f"On the judged fold its mAP is {overall.metrics['ap'].text()} over {len(overall.averaged)} of"
            f" {len(overall.members)} classes" + (f" ({named})." if named else ".")
        )
    else:
        lines.append("The test fold has not been judged: nothing is known about how good it is.")
    lines.append("This page was written by the run itself. What it does not know stands as a **gap**.")
    return "\n\n".join(lines)


def _use(facts: RunFacts) -> str:
    return (
        "Intended use, users and place in care: **gap**, to be written by the authors.\n\n"
        "Not for: diagnosis or treatment; images unlike those below (other organs, scanners, ways of selection).\n\n"
        "```\nmedtail predict RUN manifest.csv --out predictions.parquet\nmedtail serve RUN\n```\n\n"
        "RUN is the folder that holds `model/`, or that folder itself."
    )


def _model(facts: RunFacts) -> list[tuple[str, str]]:
    config, found = facts.config, []
    if config:
        found = [
            (words, pixel_words(config[key]) if key == "pixels" else words_of(config[key]))
            for key, words in PARTS.items()
            if words_of(config.get(key)) != "none"
        ]
    found.append(("networks", f"{facts.members}" + (", scores averaged" if facts.members > 1 else "")))
    if facts.mirrored:
        found.append(("test time", "averaged with the mirror image"))
    made = facts.calibration
    found.append(
        (
            "calibration",
            "none: scores are no probabilities"
            if made is None
            else f"{made.method}, fitted on {count(made.num_rows, 'tune image')}"
            f" of {count(made.num_patients, 'patient')}",
        )
    )
    tune = facts.training.get("tune_map")
    if isinstance(tune, int | float) and not np.isnan(tune):
        found.append(("tune mAP", f"{tune:.3f} (used for choosing; not a result)"))
    return found


def _data(facts: RunFacts) -> str:
    parts = []
    if facts.predictions is not None:
        fold = str((facts.results.header if facts.results is not None else {}).get("fold") or "")
        parts.append(_bullets(data_facts(facts.predictions, facts.classes, fold=fold)))
    if facts.manifest is None:
        parts.append("The table of images is not at hand: counts by fold are a **gap**.")
    else:
        parts.append(f"Table {_cell(facts.manifest_name)}, SHA-256 {facts.manifest.digest}.")
        parts += [f"**{table.title}**\n\n{_small(table)}" for table in data_tables(facts.manifest)]
    parts.append("Where and when the images were collected, and who labelled them: **gap**.")
    return "\n\n".join(parts)


def _classes(facts: RunFacts) -> str:
    if facts.classes and facts.results is not None:
        rule = tail_rule(facts.results.header, facts.classes)
        note = interval_note(facts.results.header)
        columns = ("class", "group", "train images", "train patients", "judged positives (patients)", "AP", "chance",
                   "AUROC", "recall", "precision", "threshold")  # fmt: skip
        rows = [_class_row(found) for found in facts.classes]
        few = f" {note.capitalize()}." if note else ""
        return f"{rule}{few} A dash is undefined or unknown.\n\n{_table(columns, rows)}"
    limits = facts.thresholds or {}
    counted = facts.counts
    rows = []
    for place, name in enumerate(facts.labels.class_names):
        known = counted is not None
        rows.append(
            (
                name,
                f"{counted.images[place]:,}" if known and counted is not None else "–",
                f"{counted.patients[place]:,}" if known and counted is not None else "–",
                number(limits.get(name, float("nan")), digits=3),
            )
        )
    return _table(("class", "train images", "train patients", "threshold"), rows)


def _class_row(found: ClassFacts) -> tuple[str, ...]:
    def amount(value: int) -> str:
        return "–" if value == UNKNOWN else f"{value:,}"

    return (
        found.name,
        found.tail_group or "–",
        amount(found.train_images),
        amount(found.train_patients),
        f"{found.n_pos:,} ({found.n_pos_patients:,})",
        _estimate(found.ap),
        number(found.ap_chance),
        _estimate(found.auroc),
        _estimate(found.recall),
        _estimate(found.precision),
        number(found.threshold, digits=3) if found.by_threshold else "highest of group",
    )


def _estimate(estimate: Estimate) -> str:
    return estimate.text()


def _results(facts: RunFacts) -> str:
    if facts.results is None or facts.predictions is None:
        return "The test fold has not been judged (`medtail report RUN --out report.html`): **gap**."
    header = facts.results.header
    columns = ("classes", "averaged", "mAP", "AUROC", "F1", "recall", "precision", "calibration error")
    rows = [
        (
            group.name,
            f"{len(group.averaged)} of {len(group.members)}",
            *(_estimate(group.metrics[name]) for name in ("ap", "auroc", "f1", "recall", "precision", "ece")),
        )
        for group in facts.groups
    ]
    left = [f"{group.name}: {', '.join(group.excluded)}" for group in facts.groups
            if group.excluded and group.name != "all"]  # fmt: skip
    said = [
        f"Fold {header.get('fold') or 'not named'}; calls {threshold_note(header, facts.predictions)}.",
        _table(columns, rows),
    ]
    if left:
        said.append("Not averaged, because no judged image shows them or all do: " + _cell("; ".join(left)) + ".")
    return "\n\n".join([*said, *interval_words(header, facts.predictions)])


def _limits(facts: RunFacts) -> str:
    found = facts.limits or ["Not judged, so nothing is known about how far it can be trusted."]
    return "\n".join(f"- {_cell(limit)}" for limit in found) + "\n- What the authors know beyond this: **gap**."


def _checklists(facts: RunFacts) -> str:
    found = answers(facts)
    said = [
        "A summary in medtail's own words of what the run can answer; it replaces neither official form. Items that no"
        " run can know are gaps."
    ]
    for checklist in CHECKLISTS:
        said.append(f"### {checklist.name}\n\n{checklist_tally(facts, checklist)}")
        rows = [
            (item.number, item.asks, MARKS[answer.state], answer.text) for item, answer in checklist.answered(found)
        ]
        said.append(_table(("item", "asks for", "told", "by this run"), rows, marked=(2,)))
    return "\n\n".join(said)


def checklist_tally(facts: RunFacts, checklist: Checklist) -> str:
    """Say how many items of a checklist a run answers, in a sentence.

    Args:
        facts: Of the run.
        checklist: One of `checklists.CHECKLISTS`.
    """
    states = [answer.state for _, answer in checklist.answered(answers(facts))]
    told = dict(zip(STATES, ("filled", "partly filled", "gaps"), strict=True))
    return f"{len(states)} items: " + ", ".join(f"{states.count(state)} {told[state]}" for state in STATES) + "."


def _provenance(facts: RunFacts) -> str:
    found = [("weights (SHA-256)", facts.digest)]
    if facts.results is not None:
        digests = facts.results.header.get("digests") or {}
        found += [(f"{name} (SHA-256)", str(value)) for name, value in digests.items() if name != "model"]
    found += [(name, str(version)) for name, version in facts.versions.items() if name != "platform"]
    parts = [_bullets(found)]
    shown = {key: value for key, value in facts.config.items() if key not in PRIVATE_KEYS}
    if shown:
        parts.append(
            "<details><summary>Configuration</summary>\n\n```yaml\n" + dump_yaml(plain(shown)) + "```\n\n</details>"
        )
    keys = [*facts.methods, *(own_methods(facts.results.header, facts.results) if facts.results is not None else ()),
            *(checklist.key for checklist in CHECKLISTS)]  # fmt: skip
    parts.append("\n".join(f"- {_cell(text)}" for text in format_references(list(dict.fromkeys(keys)))))
    return "\n\n".join(parts)


def _bullets(pairs: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"- {_cell(name)}: {_cell(value)}" for name, value in pairs)


def _small(table: SmallTable) -> str:
    return _table(table.columns, table.rows)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, marked: Sequence[int] = ()) -> str:
    """Write a Markdown table; cells are text unless their column is marked as Markdown."""
    lines = ["| " + " | ".join(_cell(name) for name in columns) + " |", "|" + "---|" * len(columns)]
    lines += [
        "| " + " | ".join(cell if at in marked else _cell(cell) for at, cell in enumerate(row)) + " |" for row in rows
    ]
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Write text so that Markdown shows it as it is: no table bars, tags, emphasis or links of a class name's making.

    Example:
        >>> _cell("a|b <i> *c*")
        'a\\\\|b &lt;i> \\\\*c\\\\*'
    """
    clean = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*|\[\]]|(?<!\w)_|_(?!\w))", r"\\\1", clean)
