"""The endpoints derived from a thyroid report: ACR TI-RADS level and needle advice, by the rule engine of the lexicon.

A report and its truth are both graded by ACR TI-RADS 2017 and compared: quadratic kappa and accuracy of the level, and,
where the size is known, whether a needle would be advised for the same nodules. Rows with a group nobody assessed have
no true level and are left out; a group that could not be determined has its points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np

from medtail.challenges.thyro_lmd_labels import EXCLUSIVE, GROUPS, LABELS, group_columns
from medtail.errors import MedtailError, listing
from medtail.judging.counts import ratio
from medtail.lexicons.descriptors import CAN_BE_UNDETERMINED, PREFIXES, UNDETERMINED
from medtail.lexicons.rules import ACR_POINTS, MOST_POINTS, acr_level
from medtail.lexicons.systems import LEXICONS, advised_at
from medtail.tables.manifest import META_PREFIX, Manifest

LEVELS: Final = LEXICONS["acr"].names
ENDPOINTS: Mapping[str, str] = {
    "TR kappa": "level_kappa_quadratic",
    "TR accuracy": "level_accuracy",
    "FNA accuracy": "fna_accuracy",
    "FNA sensitivity": "fna_sensitivity",
    "FNA specificity": "fna_specificity",
}
"""What a person calls them → metric."""
_LEVEL_OF_POINTS: Final = np.array([LEVELS.index(acr_level(points)) for points in range(MOST_POINTS + 1)])


@final
@dataclass(frozen=True, eq=False)
class NoduleContext:
    """What the level and the advice need beside the labels.

    Attributes:
        undetermined: Text [N], groups that could not be determined, joined by `;`; "" for none.
        sizes_mm: float64 [N], NaN where unknown.
    """

    undetermined: np.ndarray
    sizes_mm: np.ndarray


def nodule_context(truth: Manifest, image_ids: np.ndarray) -> NoduleContext:
    """Look up the scored images in the table of labels.

    Args:
        truth: From `read_labels`.
        image_ids: Text [N], all of them in `truth`.

    Returns:
        Undetermined groups and sizes, in the order of the ids.

    Raises:
        MedtailError: `undetermined` names something that is no such group.
    """
    table = truth.frame.set_index("image_id").loc[list(image_ids)]
    column = f"{META_PREFIX}undetermined"
    words = table[column].astype(str).to_numpy(dtype=object) if column in table.columns else np.full(len(table), "")
    named = {name.strip() for text in set(words) for name in str(text).split(";") if name.strip()}
    unknown = sorted(named - set(CAN_BE_UNDETERMINED))
    if unknown:
        raise MedtailError(
            f"{truth.name}, column 'undetermined': found {listing([repr(name) for name in unknown])}; expected"
            f" {', '.join(CAN_BE_UNDETERMINED)}, joined by ';'."
        )
    sizes = table["size_mm"].to_numpy(dtype=np.float64) if "size_mm" in table.columns else np.full(len(table), np.nan)
    return NoduleContext(words, sizes)


def report_levels(labels: np.ndarray, *, undetermined: Sequence[str] | np.ndarray | None = None) -> np.ndarray:
    """Grade reports by ACR TI-RADS.

    Args:
        labels: [N, 20] in {0, 1, NaN} or bool, columns in the protocol's order.
        undetermined: Text [N], groups that could not be determined, joined by `;`.

    Returns:
        int64 [N], 0 (TR1) to 4 (TR5); -1 where a group has no single value and is not undetermined either.

    Example:
        >>> report = np.zeros((1, 20))
        >>> report[0, [LABELS.index(name) for name in ("comp_solid", "echo_hypo", "shape_wider", "margin_smooth",
        ...                                            "foci_none")]] = 1
        >>> LEVELS[report_levels(report)[0]]
        'TR4'

    References:
        tessler2017.
    """
    cells = np.asarray(labels, dtype=np.float64)
    told = [set(map(str.strip, str(text).split(";"))) for text in (undetermined if undetermined is not None else ())]
    points = np.zeros(len(cells))
    is_known = np.ones(len(cells), dtype=bool)
    for group in GROUPS:
        columns = group_columns(group)
        part = cells[:, columns]
        worth = [ACR_POINTS[group].get(LABELS.class_names[c].removeprefix(PREFIXES[group]), 0) for c in columns]
        assessed = ~np.isnan(part).any(axis=1)
        named = np.nansum(part, axis=1)
        whole = assessed & ((named == 1) if group in EXCLUSIVE else (named >= 1))
        given = np.nan_to_num(part) @ np.array(worth, dtype=np.float64)
        hidden = np.array([group in names for names in told], dtype=bool) if told else np.zeros(len(cells), dtype=bool)
        if group in CAN_BE_UNDETERMINED:
            given = np.where(hidden, ACR_POINTS[group][UNDETERMINED], given)
            whole = whole | hidden
        points += given
        is_known &= whole
    hidden_composition = np.array(["composition" in names for names in told], dtype=bool) if told else False
    points[(cells[:, LABELS.index("comp_spongiform")] == 1) & ~np.asarray(hidden_composition)] = 0.0
    return np.where(is_known, _LEVEL_OF_POINTS[np.where(is_known, points, 0.0).astype(np.int64)], -1)


def level_kappa(confusion: np.ndarray) -> np.ndarray:
    """Compute quadratically weighted kappa of many confusions at once.

    Args:
        confusion: float64 [25, ...], counts of true x called level, called fastest.

    Returns:
        float64 [...]; NaN where fewer than two levels are true.

    Example:
        >>> level_kappa(np.eye(5).reshape(25, 1)).tolist()
        [1.0]

    References:
        cohen1968.
    """
    table = confusion.reshape(len(LEVELS), len(LEVELS), *confusion.shape[1:])
    apart = np.subtract.outer(np.arange(len(LEVELS)), np.arange(len(LEVELS))) ** 2.0
    true, called = table.sum(axis=1), table.sum(axis=0)
    total = table.sum(axis=(0, 1))
    seen = np.einsum("ij,ij...->...", apart, table)
    by_chance = np.einsum("ij,i...,j...->...", apart, true, called)
    found = 1.0 - ratio(seen * total, by_chance)
    return np.where((true > 0).sum(axis=0) >= 2, found, np.nan)


def level_rows(
    decoded: np.ndarray,
    targets: np.ndarray,
    unparsed: np.ndarray,
    context: NoduleContext,
    *,
    sums: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    interval: Callable[[float, np.ndarray], dict[str, Any]],
) -> tuple[list[dict[str, Any]], list[str]]:
    """Compare levels and advice of reports with those of the truth.

    A row without an answer has no level: it counts against accuracy, and kappa leaves it out.

    Args:
        decoded: bool [N, 20], the reports.
        targets: [N, 20] in {0, 1, NaN}.
        unparsed: bool [N], rows without an answer.
        context: Of the same rows.
        sums: Sums whole-number columns [N, m] over rows: [m], and over resamples: [m, B].
        interval: Turns a value and its resamples into `value, low, high`.

    Returns:
        Rows of Results (`ENDPOINTS`, with the number of nodules as support), and cautions.
    """
    true = report_levels(targets, undetermined=context.undetermined)
    called = report_levels(decoded)
    rows: list[dict[str, Any]] = []
    graded = true >= 0
    cautions = []
    if not graded.all():
        cautions.append(
            f"{int((~graded).sum())} of {len(true)} rows have no true TI-RADS level (a group was not assessed); levels"
            " and advice leave them out."
        )

    def add(metric: str, support: np.ndarray, formula: Callable[..., np.ndarray], columns: np.ndarray) -> None:
        point, resampled = sums(columns)
        value = float(formula(point[:, None])[0])
        row = {"metric": metric, "support": int(support.sum())}
        rows.append({**row, **interval(value, formula(resampled))})

    both = graded & ~unparsed & (called >= 0)
    cells = (true * len(LEVELS) + called)[:, None] == np.arange(len(LEVELS) ** 2)
    add("level_kappa_quadratic", both, level_kappa, cells & both[:, None])
    share = np.stack([graded & (true == called), graded], axis=1)
    add("level_accuracy", graded, lambda total: ratio(total[0], total[1]), share)
    sized = graded & ~np.isnan(context.sizes_mm)
    needle = _needle(true, context.sizes_mm)
    would = _needle(called, context.sizes_mm)
    answered = called >= 0
    right = sized & answered & (needle == would)
    for metric, among in (
        ("fna_accuracy", sized),
        ("fna_sensitivity", sized & needle),
        ("fna_specificity", sized & ~needle),
    ):
        columns = np.stack([right & among, among], axis=1)
        add(metric, among, lambda total: ratio(total[0], total[1]), columns)
    if not sized.any():
        cautions.append("No size is known (column 'size_mm'), so the needle advice is not judged.")
    elif (graded & ~sized).any():
        cautions.append(f"The size of {int((graded & ~sized).sum())} nodules is unknown; their advice is not judged.")
    return rows, cautions


def _needle(levels: np.ndarray, sizes_mm: np.ndarray) -> np.ndarray:
    """Say whether a needle is advised, bool [N]; False where level or size is unknown."""
    fna, _ = advised_at("acr", sizes_mm)
    return np.asarray(fna[np.arange(len(levels)), np.maximum(levels, 0)] & (levels >= 0))
