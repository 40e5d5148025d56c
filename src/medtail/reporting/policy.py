"""A section of a run's report: how the ratio policy chose levels of generated images, and what it was paid.

Drawn from the two files that the policy leaves, its schedule and the table of its rounds; what the numbers mean is in
`sampling.policy_state`, which is not imported here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import pandas as pd
from markupsafe import Markup

from medtail.reporting.facts import ClassFacts, number
from medtail.reporting.svg import Axis, figure, frame, line, marker, polyline, text

COLUMNS = ("round", "copy", "kept", "class", "level", "expected_level", "own", "reward", "team", "stability", "entropy")
LEVEL_TICKS = (0.0, 0.5, 1.0)


@final
@dataclass(frozen=True, eq=False)
class PolicyRecord:
    """What a policy has left in its run's folder.

    Attributes:
        rounds: A row a round, copy and class; see `COLUMNS`.
        class_names: Classes of the schedule.
        levels: The schedule, float [rounds, classes].
        facts: How it was learnt: settings, numbers of rounds, copies and steps, rows of the pools.
        carried: Tune figures of the copy that went through all rounds; None where it was not kept.
    """

    rounds: pd.DataFrame
    class_names: tuple[str, ...]
    levels: np.ndarray
    facts: Mapping[str, Any]
    carried: Mapping[str, Any] | None = None


@final
@dataclass(frozen=True)
class LevelPanel:
    """One class's course."""

    facts: ClassFacts
    svg: Markup
    caption: str


@final
@dataclass(frozen=True)
class PolicySection:
    """What the report shows.

    Attributes:
        words: Sentences.
        panels: A small figure a class that has generated images, the rare ones first.
        course: Rewards and entropy by round.
    """

    words: tuple[str, ...]
    panels: tuple[LevelPanel, ...]
    course: Markup


def policy_section(record: PolicyRecord, classes: Sequence[ClassFacts]) -> PolicySection:
    """Put the section together.

    Args:
        record: What the policy left.
        classes: The report's classes, in the order in which they are to be drawn.

    Returns:
        The section.
    """
    pools: Mapping[str, int] = record.facts.get("pool_images", {})
    drawn = [facts for facts in classes if pools.get(facts.name, 0) and facts.name in record.class_names]
    return PolicySection(
        words=tuple(_words(record)),
        panels=tuple(_panel(record, facts) for facts in drawn),
        course=course_plot(record.rounds),
    )


def _words(record: PolicyRecord) -> list[str]:
    facts, settings = record.facts, record.facts.get("policy", {})
    who = "one agent for all classes" if settings.get("agents") == "shared" else "one agent a class"
    words = [
        f"Before the training, {facts['rounds']} rounds chose how much of each class's generated images is used ({who},"
        f" {settings.get('algorithm', 'group')}): {facts['copies']} copies a round trained {facts['steps']} steps each"
        f" and were scored on {facts['reward_images']:,} reward images, which neither train nor set thresholds. With"
        f" {facts['warmup_steps']:,} steps of warm-up that is {facts['total_steps']:,} gradient steps beside those of"
        " the training; a method compared with this one must get as many.",
        f"This training replayed the schedule in the order {settings.get('order', 'logged')!r}. An independent"
        " implementation of a published idea of which only the abstract is public; what an agent sees and is paid for"
        " are readings of ours.",
    ]
    change = np.abs(record.levels - record.levels.mean(axis=0)).mean()
    words.append(
        f"Levels differ from their own average by {number(float(change))} on average. Only a comparison with the frozen"
        " average and with the reversed schedule tells whether changing them was worth anything."
    )
    if record.carried is not None:
        quality, f1 = record.carried.get("tune_map"), record.carried.get("tune_macro_f1")
        shown = [f"{name} {number(value)}" for name, value in (("mAP", quality), ("macro F1", f1)) if value is not None]
        words.append(
            f"The copy that went through all rounds reaches {' and '.join(shown) or 'nothing that is defined'} on tune;"
            " it is a model of its own, in policy/carried."
        )
    return words


def _panel(record: PolicyRecord, facts: ClassFacts) -> LevelPanel:
    column = record.class_names.index(facts.name)
    levels = record.levels[:, column]
    kept = record.rounds[(record.rounds["class"] == facts.name) & (record.rounds["kept"] == 1)].sort_values("round")
    expected = kept["expected_level"].to_numpy(dtype=float)
    caption = (
        f"{record.facts['pool_images'][facts.name]:,} generated images. Steps: the level replayed, {levels.mean():.2f}"
        " on average; line: what the policy expected to choose."
    )
    return LevelPanel(facts, level_plot(levels, expected, group=facts.tail_group, name=facts.name), caption)


def level_plot(levels: np.ndarray, expected: np.ndarray, *, group: str, name: str) -> Markup:
    """Draw a class's levels over the rounds: steps as replayed, a line as the policy expected.

    Args:
        levels: Of the schedule, float [rounds].
        expected: Mean level under the policy's chances, float [rounds].
        group: The class's tail group.
        name: Of the class, for those who cannot see it.
    """
    width, height, left = 250.0, 150.0, 34.0
    count = len(levels)
    top = max(1.0, float(levels.max(initial=0.0)), float(expected.max(initial=0.0)))
    x, y = Axis(0, max(count, 1), left, width - 8), Axis(0, top, height - 38, 20)
    ticks = [value for value in x.ticks(5) if float(value).is_integer()]
    parts = [frame(x, y, x_name="round", y_name="level", x_ticks=ticks, y_ticks=[*LEVEL_TICKS, *([top] * (top > 1))])]
    corners = [(x(k + side), y(float(level))) for k, level in enumerate(levels) for side in (0, 1)]
    parts.append(polyline(corners, class_=f"curve {group}"))
    middles = [(x(k + 0.5), y(float(value))) for k, value in enumerate(expected)]
    parts.append(polyline(middles, class_="curve thin"))
    label = f"{name}: level of generated images over {count} rounds, from {levels[0]:.2f} to {levels[-1]:.2f}."
    return figure(*parts, width=width, height=height, label=label, class_="plot panel")


def course_plot(rounds: pd.DataFrame) -> Markup:
    """Draw team score, best copy and all copies, what head classes lost, and the policy's entropy, by round."""
    copies = rounds.drop_duplicates(["round", "copy"])
    best = copies[copies["kept"] == 1].sort_values("round")
    width, left = 700.0, 52.0
    last = int(copies["round"].max())
    x = Axis(1, max(last, 2), left, width - 16)
    ticks = [value for value in x.ticks(8) if float(value).is_integer()]
    parts: list[Markup] = []
    offset = 0.0
    for column, name in (("team", "team reward"), ("stability", "lost by head classes"), ("entropy", "entropy, nats")):
        shown = copies if column == "team" else best
        values = shown[column].to_numpy(dtype=float)
        room = max(float(values.max() - values.min()), 1e-3) * 0.08
        y = Axis(float(values.min()) - room, float(values.max()) + room, offset + 112, offset + 22)
        parts.append(frame(x, y, x_name="round", y_name=name, x_ticks=ticks, y_ticks=y.ticks(3)))
        if column == "team":
            for at, value in zip(copies["round"], values, strict=True):
                parts.append(marker("", x(float(at)), y(float(value)), size=1.6))
        points = zip(best["round"].to_numpy(dtype=float), best[column].to_numpy(dtype=float), strict=True)
        parts.append(polyline([(x(at), y(value)) for at, value in points], class_="curve"))
        if column == "stability":
            parts.append(line(x.start, y(0.0), x.end, y(0.0), class_="chance"))
        if column == "team":
            parts.append(
                text("dots: all copies, line: the one kept", width - 16, y.end - 8, class_="t small", anchor="end")
            )
        offset += 156
    return figure(*parts, width=width, height=offset, label="Rewards and entropy of the policy by round.")
