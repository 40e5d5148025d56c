"""Tables of a factorial and of a benchmark's protocol, as words: effects, what was expected, decoded reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medtail.judging.comparison_words import interval_text, place_words
from medtail.studies.grids import VERDICT_WORDS, Grid, value_cell
from medtail.studies.judged import Judged
from medtail.studies.protocol import Study
from medtail.studies.words import set_words

EFFECT_WORDS = {
    "a_ahead": ("helps", "more together"), "b_ahead": ("hurts", "less together"),
    "a_ahead_uncorrected": ("helps, uncorrected", "more together, uncorrected"),
    "b_ahead_uncorrected": ("hurts, uncorrected", "less together, uncorrected"),
}  # fmt: skip
REPORT_F1 = (
    ("micro_f1", "", "Micro-F1"), ("f1", "", "Macro-F1"), ("f1", "head", "Head-F1"), ("f1", "medium", "Body-F1"),
    ("f1", "tail", "Tail-F1"),
)  # fmt: skip
REPORT_FURTHER = (
    ("ap", "", "", "mAP"), ("level_kappa_quadratic", "", "", "level kappa"), ("fna_accuracy", "", "", "needle acc"),
)  # fmt: skip
REPORT_NOTE = (
    "The highest score in each exclusive group; foci at thresholds chosen on tune and shrunken toward 0.5; `foci_none`"
    " gives way to any focus that outscores it. Level: ACR TI-RADS of the report against that of the truth (quadratic"
    " kappa, accuracy); needle: whether one is advised, where the size is known. A label without positives leaves every"
    " mean."
)


def effect_word(row: Mapping[Any, Any]) -> str:
    """Say of an effect whether it is there, and in which direction.

    Example:
        >>> effect_word({"verdict": "a_ahead", "order": 2})
        'more together'
    """
    words = EFFECT_WORDS.get(row["verdict"])
    if words is None:
        return "not shown" if row["verdict"] == "tied" else VERDICT_WORDS[row["verdict"]]
    return words[int(row["order"] > 1)]


def effect_grids(study: Study, judged: Judged) -> list[Grid]:
    """Return a table a metric of main effects and interactions, over all classes and in each tail group.

    Args:
        study: The study.
        judged: The numbers of a set of images; without effects there is no table.
    """
    if judged.effects is None:
        return []
    table = judged.effects.table
    tested = int(table["p"].notna().sum())
    together = f"all {tested} effects on these images" if study.judge.holm == "study" else "those of a metric and level"
    note = (
        "Means over seeds, intervals of resampled patients and seeds. A main effect is the mean of the arms with the"
        " factor minus that of the arms without it; `A x B` is how much more A is worth where B is there. Verdicts are"
        f" corrected after Holm for {together}."
    )
    grids: list[Grid] = []
    for metric in dict.fromkeys(table["metric"]):
        own = table[(table["metric"] == metric) & (table["class"] == "")]
        places = list(dict.fromkeys(own["tail_group"]))
        found = {(row["effect"], row["tail_group"]): row for row in own.to_dict("records")}
        rows = []
        for effect in dict.fromkeys(own["effect"]):
            cells = []
            for place in places:
                row = found[effect, place]
                value = interval_text(row["value"], row["low"], row["high"])
                cells.append("\n".join([*value.split(" ", 1), effect_word(row)]))
            rows.append((str(effect), *cells))
        if rows:
            name = place_words({"metric": metric, "class": "", "tail_group": ""}).removeprefix("macro ")
            headings = ("effect", *(f"{place} classes" if place else "all classes" for place in places))
            title = f"effects on {name}: {set_words(study, judged.name)}"
            grids.append(Grid(title, note if not grids else "", headings, tuple(rows)))
    return grids


def finding_grid(study: Study, judged: Judged) -> Grid | None:
    """Return what was expected of a factorial and whether it holds; None where there is nothing to hold it against.

    Args:
        study: The study.
        judged: The numbers of a set of images.
    """
    if judged.effects is None or not judged.effects.findings:
        return None
    rows = tuple((one.about, one.claim, one.holds, one.sentence) for one in judged.effects.findings)
    note = (
        "`holds`: the intervals say so. `does not hold`: an interval, or the head's loss, says the contrary. Otherwise"
        " `not shown`. Each line is a question of its own, not corrected for the others."
    )
    headings = ("about", "expected", "holds?", "numbers")
    return Grid(f"what was expected: {set_words(study, judged.name)}", note, headings, rows)


def report_grids(study: Study, judged: Judged) -> list[Grid]:
    """Return the tables of a benchmark's protocol: decoded, and raw at 0.5; none where the study follows no protocol.

    Args:
        study: The study.
        judged: The numbers of a set of images.
    """
    if study.judge.protocol is None:
        return []
    found = {
        (row["arm"], row["metric"], row["class"], row["tail_group"]): row for row in judged.values.to_dict("records")
    }
    arms = [arm for arm in study.arms if any(key[0] == arm for key in found)]
    exact = [key[2] for key in found if key[:2] == (arms[0], "exact_match")]
    decoded = [(metric, "", group, name) for metric, group, name in REPORT_F1]
    raw = [(f"{metric}_at_half", "", group, f"raw {name}") for metric, group, name in REPORT_F1]
    raw += [("invalid_report_rate", "", "", "raw invalid")]
    whole = [("exact_match", group, "", f"exact {group}") for group in exact]
    whole += [("level_accuracy", "", "", "level acc")]
    grids = []
    for title, columns, short in (
        ("reports by Thyro-LMD's protocol", [*decoded, *REPORT_FURTHER], False),
        ("groups and levels of the decoded reports", whole, True),
        ("raw decisions at 0.5", raw, True),
    ):
        rows = []
        for arm in arms:
            cells = [found.get((arm, metric, name, group)) for metric, name, group, _ in columns]
            rows.append((arm, *("–" if c is None else value_cell(c, support=c["support"], short=short) for c in cells)))
        names = ("arm", *(name.replace(" ", "\n", 1) for *_, name in columns))
        grids.append(
            Grid(f"{title}: {set_words(study, judged.name)}", "" if short else REPORT_NOTE, names, tuple(rows))
        )
    return grids
