"""Many sets of twenty scores at once: each row's law over levels, its advice, and what would change it.

A row whose scores are no probabilities is left out and named; it never stops the others. The likeliest reading stands
beside the law, flagged where its level is not the likeliest one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import pandas as pd

from medtail.errors import MedtailError, Problems, did_you_mean
from medtail.lexicons.descriptors import GROUPS, LABEL_NAMES, checked_size
from medtail.lexicons.influence import Influence, influence, influence_lines
from medtail.lexicons.probabilities import (
    DescriptorProbabilities,
    ScoreMeaning,
    argmax_readings,
    label_faults,
    probabilities_from_labels,
)
from medtail.lexicons.propagation import Consistency, LevelLaw, level_law
from medtail.lexicons.rules import category_of
from medtail.lexicons.score_table import ERROR_COLUMNS, IDENTITY
from medtail.lexicons.systems import K4_MM, LEXICONS, System, systems_named
from medtail.tables.frames import as_numbers, as_text

ACTIONS: Final = ("FNA", "FOLLOW", "NONE")


@final
@dataclass(frozen=True, eq=False)
class ScoredLaws:
    """What a table of scores came to.

    Attributes:
        results: A row a good row: `row` (as a spreadsheet numbers it), the ids, `size_mm`, the likeliest value of every
            group, then for each system (`acr_…`) the share of every category, `undefined`, the likeliest category and
            its share, the smallest run holding 90 % and its mass, the share of every advice with the likeliest one,
            the level of the likeliest reading and whether it differs, and what would change the law most. ACR adds
            `mean_points` and `off_chart`.
        errors: A row a bad row: `row, id, group, value, message`.
        laws: System → its law over the good rows.
        probabilities: Of the good rows.
        warnings: About the whole table.
    """

    results: pd.DataFrame
    errors: pd.DataFrame
    laws: Mapping[System, LevelLaw]
    probabilities: DescriptorProbabilities
    warnings: tuple[str, ...]


def score_laws(
    frame: pd.DataFrame,
    *,
    system: str = "acr",
    meaning: ScoreMeaning = "probability",
    consistency: Consistency = "independent",
    is_calibrated: bool = False,
    cystic_stops: bool = False,
    k4_threshold_mm: float = K4_MM,
) -> ScoredLaws:
    """Propagate every row of a table of scores.

    Args:
        frame: The twenty label columns in [0, 1]; optionally `size_mm` and ids. Other columns are left alone.
        system: One, several with a comma between, or `all`.
        meaning: See `probabilities.probabilities_from_labels`.
        consistency: See `propagation.level_law`.
        is_calibrated: Whether the scores were calibrated.
        cystic_stops: See `grade`.
        k4_threshold_mm: See `grade`.

    Returns:
        Results and errors; together they name every row.

    Raises:
        MedtailError: Label columns are missing, the system is unknown, or no row can be used.

    Example:
        >>> row = dict.fromkeys(LABEL_NAMES, 0.0) | {"comp_solid": 1.0, "echo_iso": 0.4, "echo_hypo": 0.6,
        ...     "shape_wider": 1.0, "margin_smooth": 1.0, "foci_none": 1.0}
        >>> scored = score_laws(pd.DataFrame([row, row | {"comp_solid": 0.5}]))
        >>> scored.results[["row", "acr_level", "acr_p_TR4", "acr_argmax_level"]].values.tolist()
        [[2, 'TR4', 0.6, 'TR4']]
        >>> scored.errors[["row", "group"]].values.tolist()
        [[3, 'composition']]
    """
    systems = systems_named(system)
    scores, sizes, errors = _read(frame, meaning)
    good = np.array([number for number in range(len(frame)) if number not in errors], dtype=np.int64)
    names = [name for name in IDENTITY if name in frame.columns]
    ids = {name: as_text(frame[name]).to_numpy(dtype=object) for name in names}
    told = [
        {"row": number + 2, "id": ids[names[0]][number] if names else "", **mistake}
        for number, mistakes in sorted(errors.items())
        for mistake in mistakes
    ]
    if not len(good):
        first = f"row {told[0]['row']}, {told[0]['group']}: {told[0]['message']}" if told else "it has no rows."
        raise MedtailError(f"table of scores: no row can be used; {first}")
    probabilities = probabilities_from_labels(scores[good], meaning=meaning, is_calibrated=is_calibrated)
    readings = argmax_readings(probabilities)
    columns: dict[str, Any] = {"row": good + 2, **{name: ids[name][good] for name in names}, "size_mm": sizes[good]}
    columns |= {group: [reading.text(group) for reading in readings] for group in GROUPS}
    laws: dict[System, LevelLaw] = {}
    for name in systems:
        laws[name] = level_law(probabilities, system=name, consistency=consistency, cystic_stops=cystic_stops)
        moves = influence(probabilities, system=name, consistency=consistency, cystic_stops=cystic_stops)
        argmax = [category_of(reading, name, cystic_stops=cystic_stops) for reading in readings]
        columns |= _answers(laws[name], sizes[good], argmax, moves, k4_threshold_mm=k4_threshold_mm)
    warnings = dict.fromkeys(warning for law in laws.values() for warning in law.warnings)
    if consistency == "conditioned":
        removed = next(iter(laws.values())).removed
        warnings[f"Contradictory readings taken away: {removed.mean():.1%} of the probability on average, at most"
                 f" {removed.max():.1%} of a nodule's."] = None  # fmt: skip
    return ScoredLaws(
        pd.DataFrame(columns), pd.DataFrame(told, columns=list(ERROR_COLUMNS)), laws, probabilities, tuple(warnings)
    )


def _read(frame: pd.DataFrame, meaning: ScoreMeaning) -> tuple[np.ndarray, np.ndarray, dict[int, list[dict[str, str]]]]:
    problems = Problems("table of scores")
    given = [str(name) for name in frame.columns]
    for missing in (name for name in LABEL_NAMES if name not in given):
        hint = did_you_mean(missing, [name for name in given if name not in LABEL_NAMES])
        problems.add(f"column {missing!r}: missing{hint or '; expected a column of scores for each of twenty labels.'}")
    problems.raise_if_any()
    errors: dict[int, list[dict[str, str]]] = {}

    def note(row: int, group: str, value: str, message: str) -> None:
        errors.setdefault(row, []).append({"group": group, "value": value, "message": message})

    columns = []
    for name in LABEL_NAMES:
        values, bad = as_numbers(frame[name])
        for wrong in np.flatnonzero(bad):
            note(int(wrong), name, str(frame[name].iloc[wrong]), "no number; expected a score in [0, 1].")
        columns.append(values)
    scores = np.column_stack(columns)
    for row, mistakes in label_faults(scores, meaning=meaning).items():
        if row in errors:
            continue  # its cells are no numbers: said already
        if np.isnan(scores[row]).all():
            note(row, "", "", "all twenty scores are empty.")
            continue
        for group, message in mistakes.items():
            note(row, group, "", message)
    sizes = np.full(len(frame), np.nan)
    if "size_mm" in given:
        for row, value in enumerate(frame["size_mm"]):
            size, mistake = checked_size(None if value is pd.NA else value)
            sizes[row] = np.nan if size is None else size
            if mistake:
                note(row, "size", str(value), mistake)
    return scores, sizes, errors


def _answers(
    law: LevelLaw, sizes: np.ndarray, argmax: Sequence[str | None], moves: Influence, *, k4_threshold_mm: float
) -> dict[str, Any]:
    names = np.array([*LEXICONS[law.system].names, ""], dtype=object)
    best = law.most_probable
    first, last, mass = law.smallest_run()
    advice = law.advice(sizes, k4_threshold_mm=k4_threshold_mm)
    chances = np.column_stack([advice[name] for name in ACTIONS])
    is_sized = ~np.isnan(sizes)
    likeliest = np.where(np.nan_to_num(chances).any(axis=1), np.nan_to_num(chances).argmax(axis=1), -1)
    levels = names[best]
    found: dict[str, Any] = {f"p_{name}": law.probabilities[:, k] for k, name in enumerate(law.categories)}
    if law.system in ("eu", "k"):
        found["p_undefined"] = law.undefined
    else:
        assert not law.undefined.any(), "a counting system has a category for every reading"
    found |= {
        "level": levels,
        "p_level": np.where(best >= 0, law.probabilities.max(axis=1), law.undefined),
        "run": [_run(names, low, high) for low, high in zip(first, last, strict=True)],
        "p_run": mass,
        **{f"p_{name}": advice[name] for name in ACTIONS},
        "advice": np.where(is_sized & (likeliest >= 0), np.array([*ACTIONS, ""], dtype=object)[likeliest], ""),
        "argmax_level": [level or "" for level in argmax],
        "argmax_differs": [(level or "") != likely for level, likely in zip(argmax, levels, strict=True)],
        "would_change": influence_lines(moves),
    }
    if law.points is not None:
        found |= {"mean_points": law.mean_points, "off_chart": law.off_chart}
    return {f"{law.system}_{name}": values for name, values in found.items()}


def _run(names: np.ndarray, low: int, high: int) -> str:
    if low < 0:
        return ""
    return str(names[low]) if low == high else f"{names[low]} to {names[high]}"
