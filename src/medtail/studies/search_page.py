"""What a search leaves for people: every trial as a table, the best as a file to run, and how much to believe of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from medtail.config import dump_yaml
from medtail.reporting.section_page import Picture, Section, write_section_page
from medtail.reporting.svg import Axis, figure, frame, marker, polyline, text
from medtail.runs import atomic_path, write_json, write_text
from medtail.studies.grids import Grid
from medtail.studies.search import SearchOutcome
from medtail.studies.search_config import ChoiceRange, TpeConfig
from medtail.studies.words import change_words, number_text
from medtail.training.config import portable

SHOWN_TRIALS = 10
"""Trials in the terminal: the best ones."""


def write_search(found: SearchOutcome) -> None:
    """Write the files of a search, each atomically; without a complete trial there is no `best.yaml`.

    `results.csv`, `search.json`, `search.md` and `best.yaml` hold no times: the same search gives the same bytes.

    Args:
        found: What it came to.
    """
    root = found.root
    with atomic_path(root / "results.csv") as path:
        results_table(found).to_csv(path, index=False, lineterminator="\n")
    said = cautions_of(found)
    write_json(root / "search.json", {k: v for k, v in found.to_json().items() if k != "folder"} | {"cautions": said})
    grids = [trials_grid(found), *([importance_grid(found)] if found.importances else [])]
    lines = [f"# {found.search.title}", "", result_words(found), ""]
    lines += [*(grid.markdown() for grid in grids), "## Before you quote this", "", *(f"- {one}" for one in said), ""]
    write_text(root / "search.md", "\n".join(lines))
    if found.best is not None:
        write_text(root / "best.yaml", best_yaml(found))
    _write_page(found, grids, said)


def results_table(found: SearchOutcome) -> pd.DataFrame:
    """Return a row a trial, with a column a key; empty where a trial does not have it."""
    rows = [
        {
            "trial": row["trial"], "state": row["state"], "value": row["value"], "epochs_run": row["epochs_run"],
            **{key: _cell(row["values"].get(key)) for key in found.search.config.space}, "message": row["message"],
        }
        for row in found.rows
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _cell(value: Any) -> Any:
    return json.dumps(value, sort_keys=True) if isinstance(value, Mapping | list | tuple) else value


def best_yaml(found: SearchOutcome) -> str:
    """Return the best trial's whole config, which `medtail train` runs."""
    assert found.best is not None
    row, config = found.rows[found.best], found.search.config
    arm = found.arm(found.best)
    told = [
        f"trial {found.best} of {len(found.rows)}: {config.objective.words} {number_text(row['value'], digits=4)}",
        "the best of many looks better than it is; judge it on images that chose nothing",
        *(change_words(arm.changes) or ["the training as it was: nothing tried was better"]),
    ]
    values = portable(arm.config, folder=found.root) | {"seed": config.seeds[0]}
    return "".join(f"# {line}\n" for line in told) + dump_yaml({k: v for k, v in values.items() if k != "recipe"})


def result_words(found: SearchOutcome) -> str:
    """Say in a paragraph what was tried, what is best, and what that is worth."""
    objective, total = found.search.config.objective, len(found.rows)
    states = {"pruned": "stopped early", "failed": "failed", "unfinished": "not finished"}
    counted = [
        f"{found.count('complete')} complete",
        *(f"{found.count(s)} {w}" for s, w in states.items() if found.count(s)),
    ]
    told = f"{total} trials ({', '.join(counted)}) by {objective.words}{' (small is good)' * objective.is_to_be_small}."
    if found.best is None:
        return f"{told} No trial is complete."
    row = found.rows[found.best]
    told += f" The best is trial {found.best} with {number_text(row['value'])}: {_settings(row['values'])}."
    told += f" It is the best of {total}, chosen on those very rows: the value flatters."
    base = found.rows[0]
    if found.search.config.include_base and base["state"] == "complete":
        told += f" The training as it stood (trial 0) has {number_text(base['value'])}."
    choice = found.choice
    if choice is not None and len(choice.values) > 1:
        told += (
            f" It gains {choice.gain:+.3f} where it was chosen; choosing so on resampled patients gains"
            f" {choice.honest_gain:+.3f} on those left out, which is what to expect of other patients."
        )
    return told


def _settings(values: Mapping[str, Any]) -> str:
    if not values:
        return "the training as it stood"
    return ", ".join(f"{key} {_word(value)}" for key, value in values.items())


def _word(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(_cell(value))


def search_text(found: SearchOutcome) -> str:
    """Return the short version for a terminal."""
    if found.best is None:
        first = next((row["message"] for row in found.rows if row["message"]), "")
        return result_words(found) + (f" The first said: {first}" if first else "")
    return f"{result_words(found)}\n\n{trials_grid(found, most=SHOWN_TRIALS).text()}"


def trials_grid(found: SearchOutcome, *, most: int | None = None) -> Grid:
    """Return the trials, the best first, then those that were stopped, failed or are not finished."""
    sign = 1.0 if found.search.config.objective.is_to_be_small else -1.0
    states = ("complete", "pruned", "failed", "unfinished")
    ordered = sorted(
        found.rows,
        key=lambda row: (states.index(row["state"]), sign * (row["value"] or 0.0), row["trial"]),
    )
    rows = [
        (
            str(row["trial"]), row["state"], "–" if row["value"] is None else number_text(row["value"], digits=4),
            "–" if row["epochs_run"] is None else str(row["epochs_run"]),
            *("–" if key not in row["values"] else _word(row["values"][key]) for key in found.search.config.space),
            row["message"],
        )
        for row in ordered
    ]  # fmt: skip
    note = f"The first {most} of {len(rows)}." if most is not None and len(rows) > most else ""
    columns = ("trial", "state", found.search.config.objective.metric, "epochs", *found.search.config.space, "message")
    return Grid("Trials", note, columns, tuple(rows[:most]))


def importance_grid(found: SearchOutcome) -> Grid:
    """Return which keys tell the better trials from all."""
    rows = tuple(
        (key, f"{share:.0%}") for key, share in sorted(found.importances.items(), key=lambda pair: -pair[1])
    )  # fmt: skip
    note = "PED-ANOVA: how differently a key is distributed among the better trials. A hint, no test."
    return Grid("What mattered", note, ("key", "share"), rows)


def cautions_of(found: SearchOutcome) -> list[str]:
    """Say what a reader of a search must know."""
    config = found.search.config
    said = [
        f"The winner's value is the best of {len(found.rows)} on the rows it was chosen on; the more trials, the more"
        " it flatters. Quote a value on images that chose nothing: `--judge` opens test once.",
    ]
    if found.choice is None:
        said.append(
            "What the choosing is worth on patients left out is told for ap, auroc and f1 over all classes, where the"
            " training as it stood is the first trial."
        )
    if len(config.seeds) == 1:
        said.append("One training seed a trial: part of what looks better is the seed's luck.")
    for state, word in (("failed", "failed and have no value; their reasons stand in the table"),
                        ("pruned", "were stopped early, by tune mAP at equal epochs; they might have caught up"),
                        ("unfinished", "are not finished")):  # fmt: skip
        if found.count(state):
            said.append(f"{found.count(state)} trials {word}.")
    if any(key.split(".")[-1] in ("epochs", "batch_size", "epoch_rows", "members") for key in config.space):
        said.append("Trials spend unequal numbers of steps or images: part of a gain may be the longer training.")
    best = None if found.best is None else found.rows[found.best]["values"]
    for key, given in config.space.items():
        if best is None or key not in best or isinstance(given, ChoiceRange):
            continue
        if best[key] in (given.low, given.high):
            said.append(f"The best {key} lies at the end of its range; a wider range may hold a better one.")
    return said


# --- the page ---------------------------------------------------------------------------------------------------------


def _write_page(found: SearchOutcome, grids: list[Grid], said: list[str]) -> None:
    complete = [row for row in found.rows if row["state"] == "complete"]
    pictures = (Picture(history_plot(found), "Every complete trial; the line is the best so far."),) if complete else ()
    keys = found.search.config.space
    panels = tuple(Picture(key_plot(found, key), key) for key in keys) if complete else ()
    trials, *others = (grid.on_page(texts=(1, len(grid.columns) - 1)) for grid in grids)
    sections = [
        Section("result", "What came out", words=(result_words(found),), pictures=pictures),
        Section("trials", "Every trial", grids=(trials,)),
        Section("keys", "Key by key", grids=tuple(others), panels=panels),
    ]
    sampler = found.search.config.sampler
    write_section_page(
        found.root / "search.html",
        kicker="Search",
        title=found.search.title,
        lede=f"{len(found.rows)} trials of one training ({sampler.kind});"
        f" {len(found.search.config.seeds)} training seed(s) each. Nothing but tune was looked at.",
        sections=sections,
        cautions=said,
        references=[
            "akiba2019",
            *(["bergstra2011"] if isinstance(sampler, TpeConfig) else []),
            *(["watanabe2023"] if found.importances else []),
        ],
    )


def history_plot(found: SearchOutcome) -> Markup:
    """Draw the value of every complete trial against its number, with the best so far."""
    points = [(float(row["trial"]), float(row["value"])) for row in found.rows if row["state"] == "complete"]
    best = np.minimum.accumulate if found.search.config.objective.is_to_be_small else np.maximum.accumulate
    x, y = Axis(0.0, max(1.0, len(found.rows) - 1.0), 50.0, 560.0), _value_axis([v for _, v in points])
    so_far = best(np.array([value for _, value in points]))
    line = [(x(number), y(value)) for (number, _), value in zip(points, so_far, strict=True)]
    metric = found.search.config.objective.metric
    dots = [marker("", x(n), y(v), hint=f"trial {n:.0f}: {number_text(v)}", size=3.0) for n, v in points]
    return figure(
        frame(x, y, x_name="trial", y_name=metric), polyline(line, class_="curve"), *dots, width=574, height=210,
        label=f"{metric} of {len(points)} trials and the best so far.", class_="plot",
    )  # fmt: skip


def _value_axis(values: list[float]) -> Axis:
    low, high = min(values), max(values)
    room = 0.05 * (high - low) or 0.05
    return Axis(low - room, high + room, 170.0, 30.0)


def key_plot(found: SearchOutcome, key: str) -> Markup:
    """Draw the value of every complete trial against one key."""
    given, metric = found.search.config.space[key], found.search.config.objective.metric
    rows = [row for row in found.rows if row["state"] == "complete" and key in row["values"]]
    title = text(key, 40.0, 14, class_="t block")
    label = f"{metric} of {len(rows)} trials against {key}."
    if not rows:
        return figure(
            title, text("in no complete trial", 60, 100), width=284, height=210, label=label, class_="plot panel"
        )
    y = _value_axis([float(row["value"]) for row in rows])
    if isinstance(given, ChoiceRange):
        words = [str(_cell(value)) for value in given.values]
        x = Axis(-0.5, len(words) - 0.5, 40.0, 270.0)
        at = [float(words.index(str(_cell(row["values"][key])))) for row in rows]
        drawn = [frame(x, y, x_name="", y_name=metric, x_ticks=[])]
        drawn += [
            text(word[:14], x(float(i)), 186, class_="t tick", anchor="middle", hint=word)
            for i, word in enumerate(words)
        ]
    else:
        x = Axis(float(given.low), float(given.high), 40.0, 270.0, log=given.log)
        at = [float(row["values"][key]) for row in rows]
        drawn = [frame(x, y, x_name=key, y_name=metric)]
    dots = [
        marker(
            "", x(place), y(float(row["value"])), hint=f"trial {row['trial']}: {number_text(row['value'])}", size=3.0
        )
        for place, row in zip(at, rows, strict=True)
    ]
    return figure(title, *drawn, *dots, width=284, height=210, label=label, class_="plot panel")
