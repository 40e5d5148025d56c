"""The ladder as one table and a verdict: what a person reads, and the same for machines.

DIR/ladder.csv   a row a rung: values, differences to the plain method, costs     DIR/ladder.md    the same as text
DIR/ladder.json  the choice, the verdict, cautions                                DIR/ladder.html  with figures
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from medtail.errors import listing
from medtail.judging.comparison_words import interval_text, pair_statement
from medtail.reporting.section_page import Picture, Section, write_section_page
from medtail.runs import atomic_path, write_json, write_text
from medtail.studies.ablation import StudyOutcome
from medtail.studies.cells import facts_of
from medtail.studies.choice import CRITERIA, RESAMPLES, Choice
from medtail.studies.floors import FLOORS
from medtail.studies.grids import VERDICT_WORDS, Grid, cost_table
from medtail.studies.judged import Judged
from medtail.studies.ladder import Ladder
from medtail.studies.rungs import REFERENCE, RUNGS
from medtail.studies.tables import introduction
from medtail.studies.words import cautions, change_words, number_text, set_words

PLACES: Mapping[str, tuple[str, str, str]] = {
    "map": ("ap", "", "mAP"),
    "macro_f1": ("f1", "", "Macro-F1"),
    "head_f1": ("f1", "head", "Head-F1"),
    "body_f1": ("f1", "medium", "Body-F1"),
    "tail_f1": ("f1", "tail", "Tail-F1"),
    "micro_f1": ("micro_f1", "", "Micro-F1"),
    "head_ap": ("ap", "head", "Head-AP"),
    "body_ap": ("ap", "medium", "Body-AP"),
    "tail_ap": ("ap", "tail", "Tail-AP"),
    "macro_f1_untuned": ("f1_at_half", "", "Macro-F1\nat 0.5"),
    "auroc": ("auroc", "", "AUROC"),
    "ece": ("ece", "", "ECE"),
}
"""Column → metric, tail group (of which body is `medium`), heading."""
SHORT = ("map", "macro_f1", "head_f1", "body_f1", "tail_f1", "micro_f1", "ece")
"""Columns of a terminal."""


def ladder_table(ladder: Ladder, judged: Judged, outcome: StudyOutcome, choice: Choice | None) -> pd.DataFrame:
    """Return a row a rung: every figure with its interval, its difference to the plain method, and what it cost.

    Args:
        ladder: The ladder.
        judged: The numbers of a set of images.
        outcome: For the costs.
        choice: Marks the chosen rung.

    Returns:
        Columns `rung, family, chosen`, then of each of `PLACES` `NAME, NAME_low, NAME_high` and, where it is compared,
        `NAME_difference, …_difference_low, …_difference_high, …_p_holm, …_verdict`; at last `parameters`,
        `seconds_an_epoch` and `step_ratio`, the time of a step in units of the plain method's.
    """
    values = judged.values[judged.values["class"] == ""]
    found = {(r["arm"], r["metric"], r["tail_group"]): r for r in values.to_dict("records")}
    apart = {
        (r["system_a"], r["metric"], r["tail_group"]): r
        for r in judged.differences[judged.differences["class"] == ""].to_dict("records")
    }
    costs = cost_table(facts_of(ladder.study.cells(outcome.root)), list(ladder.study.arms)).set_index("arm")
    own = costs["seconds_an_epoch"].get(REFERENCE, float("nan"))
    rows = []
    for arm in ladder.study.arms:
        if not any(key[0] == arm for key in found):
            continue
        row: dict[str, Any] = {
            "rung": arm, "family": family_of(arm), "chosen": choice is not None and choice.rung == arm,
        }  # fmt: skip
        for column, (metric, group, _) in PLACES.items():
            value = found.get((arm, metric, group))
            for end in ("value", "low", "high"):
                name = column if end == "value" else f"{column}_{end}"
                row[name] = float("nan") if value is None else float(value[end])
            gap = apart.get((arm, metric, group))
            if gap is not None:
                row |= {
                    f"{column}_difference": gap["difference"], f"{column}_difference_low": gap["low"],
                    f"{column}_difference_high": gap["high"], f"{column}_p_holm": gap["p_holm"],
                    f"{column}_verdict": VERDICT_WORDS[gap["verdict"]],
                }  # fmt: skip
        trained = arm not in FLOORS
        row["parameters"] = int(costs["parameters"].get(arm, 0))
        row["seconds_an_epoch"] = float(costs["seconds_an_epoch"].get(arm, float("nan"))) if trained else float("nan")
        row["step_ratio"] = row["seconds_an_epoch"] / own
        rows.append(row)
    return pd.DataFrame(rows)


def family_of(arm: str) -> str:
    """Return which part of a training a rung changes; `floor` and `own` for what is not in the table of rungs.

    Example:
        >>> family_of("focal"), family_of("prevalence"), family_of("mine")
        ('loss', 'floor', 'own')
    """
    return "floor" if arm in FLOORS else RUNGS[arm].family if arm in RUNGS else "own"


def ladder_grid(ladder: Ladder, judged: Judged, table: pd.DataFrame, *, short: bool = False) -> Grid:
    """Return the one table as words; the chosen rung is marked."""
    lead = next(name for name, (metric, group, _) in PLACES.items() if (metric, group) == (ladder.choose_by, ""))
    asked = (lead, *(name for name in (SHORT if short else PLACES) if name != lead))
    columns = [name for name in asked if name == lead or table[name].notna().any()]
    rows = []
    for row in table.to_dict("records"):
        name = f"{row['rung']} *" if row["chosen"] else str(row["rung"])
        cells = [_value(row, column, short=short) for column in columns]
        gap = float(row.get(f"{lead}_difference", "nan"))
        is_known = not np.isnan(gap)
        told = interval_text(gap, row[f"{lead}_difference_low"], row[f"{lead}_difference_high"]) if is_known else "–"
        verdict = str(row[f"{lead}_verdict"]) if is_known else "reference" if row["rung"] == REFERENCE else "–"
        ratio = "–" if np.isnan(row["step_ratio"]) else f"{row['step_ratio']:.2f}"
        rows.append((name, cells[0], told, verdict, *cells[1:], f"{row['parameters']:,}", ratio))
    headings = [PLACES[column][2] for column in columns]
    note = (
        f"* chosen on tune. Difference: {PLACES[lead][2]} minus that of {REFERENCE}, on the same resampled patients and"
        f" seeds, corrected after Holm. {_groups(judged)} ECE: smaller is better. Time: of a step, in units of"
        f" {REFERENCE}'s."
    )
    title = f"The ladder: {set_words(ladder.study, judged.name)}"
    heads = ("rung", headings[0], f"{PLACES[lead][2]} − {REFERENCE}", "verdict", *headings[1:], "parameters", "time")
    return Grid(title, note, heads, tuple(rows))


def _groups(judged: Judged) -> str:
    tail = judged.header.get("tail")
    return f"Head, body (medium) and tail: {tail['description']}." if tail else ""


def _value(row: Mapping[Any, Any], column: str, *, short: bool) -> str:
    text = number_text(row[column])
    if short or np.isnan(row[f"{column}_low"]):
        return text
    return f"{text}\n[{number_text(row[f'{column}_low'])}, {number_text(row[f'{column}_high'])}]"


def verdict_words(ladder: Ladder, outcome: StudyOutcome, choice: Choice | None) -> list[str]:
    """Say what tune chose, what that choosing is worth, and what the test fold says of it."""
    if choice is None:
        return [f"Nothing is chosen yet: {REFERENCE!r} has no whole seed."]
    what = CRITERIA[ladder.choose_by]
    own = choice.values[choice.reference]
    said = []
    if choice.rung == choice.reference:
        said.append(f"Tune chooses {choice.rung!r} by {what}: none of {choice.tried - 1} other rungs is above it.")
    else:
        said.append(
            f"Tune chooses {choice.rung!r} by {what}: {number_text(choice.values[choice.rung])} against"
            f" {number_text(own)} of {choice.reference!r}, the best of {choice.tried} rungs tried."
        )
        often = choice.taken.get(choice.rung, 0.0)
        said.append(
            f"The best of many looks better than it is. Chosen on resampled patients and looked at on those left out,"
            f" the choice gains {_signed(choice.honest_gain)} over {choice.reference!r} instead of"
            f" {_signed(choice.gain)}; {often:.0%} of {RESAMPLES} resamples choose {choice.rung!r}."
        )
    said += _final_words(ladder, outcome, choice)
    said += _floor_words(ladder, outcome, choice)
    return said


def _held_words(ladder: Ladder) -> str:
    """Say what holds thresholds up, where the file asked for it."""
    chosen = ladder.study.judge.thresholds
    if chosen.shrink_to != "half" or not chosen.shrinkage_patients:
        return ""
    return (
        " Where positives are few, thresholds are held near 0.5, as `judge.thresholds.shrink_to: half` asks; the"
        " ladder's own rule is `shrinkage_patients: 0`."
    )


def _final_words(ladder: Ladder, outcome: StudyOutcome, choice: Choice) -> list[str]:
    final = next((one for one in outcome.judged if one.name == "test"), None)
    if final is None:
        reason = "was not asked for (judge.fold: test)" if ladder.study.judge.fold == "tune" else "is not open yet"
        return [f"The test fold {reason}: no rows beside those of the choice speak for it."]
    rows = final.values
    rows = rows[(rows["metric"] == ladder.choose_by) & (rows["class"] == "") & (rows["tail_group"] == "")]
    by_arm = dict(zip(rows["arm"], rows["value"], strict=True))
    best = max(ladder.rungs, key=lambda arm: by_arm.get(arm, -np.inf))
    said = []
    if choice.rung != choice.reference and final.comparison is not None:
        table = final.differences
        row = table[
            (table["system_a"] == choice.rung) & (table["metric"] == ladder.choose_by) & (table["class"] == "")
            & (table["tail_group"] == "")
        ].iloc[0]  # fmt: skip
        said.append(f"The test fold says of that choice: {pair_statement(row, final.comparison).text}")
    if by_arm[best] > by_arm[choice.rung]:
        said.append(
            f"On test {best!r} has the largest {CRITERIA[ladder.choose_by]}, {number_text(by_arm[best])} against"
            f" {number_text(by_arm[choice.rung])} of the choice. That is known now and could not be then: it is no"
            " reason to take it."
        )
    else:
        said.append(f"It has the largest {CRITERIA[ladder.choose_by]} of all rungs on test, too.")
    return said


def _floor_words(ladder: Ladder, outcome: StudyOutcome, choice: Choice) -> list[str]:
    rows = outcome.judged[0].values
    rows = rows[(rows["metric"] == ladder.choose_by) & (rows["class"] == "") & (rows["tail_group"] == "")]
    by_arm = dict(zip(rows["arm"], rows["value"], strict=True))
    above = [floor for floor in ladder.floors if by_arm.get(floor, -np.inf) >= by_arm.get(choice.rung, np.nan)]
    if not above:
        return []
    return [f"{listing(above)}, for which no network is trained, does as well as the choice or better: train longer,"
            " or do not train."]  # fmt: skip


def _signed(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:+.3f}".replace("-", "−")


def ladder_cautions(ladder: Ladder, outcome: StudyOutcome) -> list[str]:
    """Say what a reader of the ladder must know, beside what holds for every study."""
    failures = outcome.failures
    unfinished = len(ladder.study.cells(outcome.root)) - len(outcome.tally.finished) - len(failures)
    said = [
        f"Every rung has {ladder.steps:,} steps (in each fold) of the same size, and the base's rates, augmentation and"
        " backbone. Nothing was tuned for any of them: each stands at its published or default setting, or at what"
        " `adjust` says. A rung that needs another rate is at a disadvantage here.",
    ]
    for one in outcome.judged:
        rows = one.values[(one.values["class"] == "") & (one.values["tail_group"] == "")]
        silent = [arm for arm in ladder.rungs if (_of(rows, arm, "f1") == 0.0) and (_of(rows, arm, "recall") == 0.0)]
        if silent:
            said.append(
                f"{one.name}: {listing(silent)} call nothing at their thresholds, so their F1 is 0 whatever they know;"
                f" look at AP.{_held_words(ladder)}"
            )
    if ladder.study.is_cross_validated:
        said.append(
            "In a cross-validation the rows the choice was made on are those of the table; the gain on left-out"
            " patients corrects for the choosing, not for models that share most of their training images."
        )
    return [*said, *cautions(ladder.study, outcome.judged, failed=failures, unfinished=unfinished)]


def _of(rows: pd.DataFrame, arm: str, metric: str) -> float:
    found = rows.loc[(rows["arm"] == arm) & (rows["metric"] == metric), "value"]
    return float(found.iloc[0]) if len(found) else float("nan")


def ladder_text(ladder: Ladder, outcome: StudyOutcome, choice: Choice | None) -> str:
    """Return the short version for a terminal: the table, then the verdict."""
    judged = outcome.judged[0]
    grid = ladder_grid(ladder, judged, ladder_table(ladder, judged, outcome, choice), short=True)
    return "\n".join([grid.text(), "", *verdict_words(ladder, outcome, choice)])


def rung_grid(ladder: Ladder) -> Grid:
    """Return what each rung is: its purpose, where it comes from, and every key it changes."""
    rows = []
    for name, arm in ladder.study.arms.items():
        rung = RUNGS.get(name)
        purpose = FLOORS.get(name) or (rung.purpose if rung is not None else "A rung of one's own.")
        changes = "" if name in FLOORS else "; ".join(change_words(arm.changes)) or "nothing"
        rows.append((name, family_of(name), purpose, changes or "not trained", rung.origin if rung else ""))
    note = f"Changes are those to {REFERENCE}; everything else is alike."
    return Grid("The rungs", note, ("rung", "family", "what for", "changes", "origin"), tuple(rows))


def write_ladder(ladder: Ladder, outcome: StudyOutcome, choice: Choice | None) -> None:
    """Write the ladder's own files, each atomically."""
    root = outcome.root
    tables = {one.name: ladder_table(ladder, one, outcome, choice) for one in outcome.judged}
    together = pd.concat([table.assign(judged=name) for name, table in tables.items()], ignore_index=True)
    # times differ from run to run; everything else gives the same bytes
    with atomic_path(root / "ladder.csv") as path:
        together.to_csv(path, index=False, lineterminator="\n")
    verdict = verdict_words(ladder, outcome, choice)
    said = ladder_cautions(ladder, outcome)
    grids = [ladder_grid(ladder, one, tables[one.name]) for one in outcome.judged]
    write_json(
        root / "ladder.json",
        {
            "name": ladder.study.name,
            "rungs": list(ladder.rungs),
            "floors": list(ladder.floors),
            "steps": ladder.steps,
            "choice": None if choice is None else choice.to_json(),
            "verdict": verdict,
            "cautions": said,
            "tables": {name: json.loads(table.to_json(orient="records")) for name, table in tables.items()},
        },
    )
    lines = [f"# {ladder.study.title}", "", introduction(ladder.study), "", *_paragraphs(verdict)]
    lines += [grid.markdown() for grid in grids]
    lines += [rung_grid(ladder).markdown(), "## Before you quote this", "", *(f"- {caution}" for caution in said), ""]
    write_text(root / "ladder.md", "\n".join(lines))
    _write_page(ladder, outcome, choice, grids, verdict, said)


def _paragraphs(words: list[str]) -> list[str]:
    return [line for text in words for line in (text, "")]


def _write_page(
    ladder: Ladder,
    outcome: StudyOutcome,
    choice: Choice | None,
    grids: list[Grid],
    verdict: list[str],
    said: list[str],
) -> None:
    from medtail.studies.figures import lead_forest

    sections = [Section("verdict", "Which rung to take", words=tuple(verdict))]
    for one, grid in zip(outcome.judged, grids, strict=True):
        drawn = lead_forest(one, reference=REFERENCE)
        pictures = () if drawn is None else (Picture(drawn, f"Each rung minus {REFERENCE}, with its interval."),)
        verdict_column = grid.columns.index("verdict")
        title = f"On {set_words(ladder.study, one.name)}"
        sections.append(Section(one.name, title, grids=(grid.on_page(texts=(verdict_column,)),), pictures=pictures))
    if choice is not None:
        sections.append(Section("choice", "How sure the choice is", grids=(_choice_grid(ladder, choice).on_page(),)))
    sections.append(Section("rungs", "The rungs", grids=(rung_grid(ladder).on_page(texts=(1, 2, 3, 4)),)))
    origins = [key.strip() for name in ladder.rungs if name in RUNGS for key in RUNGS[name].origin.split(",")]
    write_section_page(
        outcome.root / "ladder.html",
        kicker="Ladder",
        title=ladder.study.title,
        lede=introduction(ladder.study),
        sections=sections,
        cautions=said,
        references=[*(key for key in origins if key), "efron1979", "rao1988", "holm1979", "saito2015"],
    )


def _choice_grid(ladder: Ladder, choice: Choice) -> Grid:
    rows = tuple(
        (name, number_text(choice.values[name]), f"{choice.taken.get(name, 0.0):.0%}")
        for name in ladder.rungs
        if name in choice.values
    )
    note = f"Share: of {RESAMPLES} resamples of the patients of tune, how many would have chosen it."
    return Grid("The choice", note, ("rung", f"{CRITERIA[ladder.choose_by]} on tune", "chosen by"), rows)
