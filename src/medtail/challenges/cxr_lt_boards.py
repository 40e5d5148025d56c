"""What is known of the challenge's leaderboards, with where each number is from, to place a score among them.

Sources: `organisers` (pages, slides, captions, text of the overviews), `team` (slides, code or paper of the team),
`rerun` (a third party's runs on the same test set; a yardstick, never ranked), `inferred` (by arithmetic from other
numbers, working in the tests). What is not known is not here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

import numpy as np

from medtail.tables.results import Results

Provenance = Literal["organisers", "team", "rerun", "inferred"]
AP, AUROC, F1, ECE = "ap", "auroc", "f1", "ece"
HEAD, MEDIUM, TAIL = "ap@head", "ap@medium", "ap@tail"


@final
@dataclass(frozen=True)
class BoardRow:
    """One system of a leaderboard.

    Attributes:
        system: Team, and its letter in the overview where it has one.
        values: `ap`, `auroc`, `f1`, `ece`, `ap@head`, `ap@medium`, `ap@tail`, or `ap@CLASS`: what is known.
        provenance: Where they are from.
        rank: Its place, from 1; None for a yardstick.
        note: What a reader must know.
    """

    system: str
    values: Mapping[str, float]
    provenance: Provenance
    rank: int | None = None
    note: str = ""


@final
@dataclass(frozen=True)
class Board:
    """What is known of one task's leaderboard.

    Attributes:
        edition: The year.
        task: Its task.
        rows: Known systems, ranked ones first and in order.
        source: What was read.
        note: How to read it.
    """

    edition: str
    task: int
    rows: tuple[BoardRow, ...]
    source: str
    note: str = ""

    @property
    def ranked(self) -> tuple[BoardRow, ...]:
        """The systems that took part."""
        return tuple(row for row in self.rows if row.rank is not None)


@final
@dataclass(frozen=True)
class Placed:
    """A score among the known ones.

    Attributes:
        value: Its mAP.
        low: Lower end of its interval; NaN without one.
        high: Upper end.
        above: Known ranked systems with a higher mAP.
        within: Ranked systems whose mAP lies inside the interval: this test set does not tell them from the score.
        gapless: Places known from the first on without a gap; below them no place can be given.
    """

    value: float
    low: float
    high: float
    above: int
    within: tuple[BoardRow, ...]
    gapless: int

    @property
    def rank(self) -> int | None:
        """The place it would take (shared if a known score is equal); None where the places are not all known."""
        return self.above + 1 if self.above < self.gapless else None


def place(results: Results, board: Board) -> Placed:
    """Find where a score stands on a board, and which places its interval covers.

    Only the score's own uncertainty is known; a paired test would need the others' files, and be sharper.

    Args:
        results: From `score`, on the official test set.
        board: The task's.

    Returns:
        The place.

    Example:
        >>> from medtail.tables.results import results_from_rows
        >>> mine = results_from_rows([{"metric": "ap", "value": 0.508, "low": 0.47, "high": 0.55, "support": 26}])
        >>> found = place(mine, board_of("2024", 2))
        >>> found.rank, len(found.within)
        (5, 8)
    """
    row = results.rows("ap", class_name="", tail_group="").iloc[0]
    value, low, high = (float(row[column]) for column in ("value", "low", "high"))
    scored = [found for found in board.ranked if AP in found.values]
    return Placed(
        value=value,
        low=low,
        high=high,
        above=sum(found.values[AP] > value for found in scored),
        within=tuple(found for found in scored if not np.isnan(low) and low <= found.values[AP] <= high),
        gapless=_gapless(scored),
    )


def _gapless(scored: list[BoardRow]) -> int:
    known = {row.rank for row in scored}
    count = 0
    while count + 1 in known:
        count += 1
    return count


def board_of(edition: str, task: int) -> Board | None:
    """Return what is known of a task's leaderboard; None if nothing is.

    Example:
        >>> board_of("2024", 1).rows[0].values["ap"]
        0.281
    """
    return BOARDS.get((edition, task))


def _row(
    system: str,
    rank: int | None,
    values: tuple[float | None, ...],
    provenance: Provenance = "organisers",
    *,
    names: tuple[str, ...] = (AP, AUROC, F1, ECE, HEAD, MEDIUM, TAIL),
    note: str = "",
) -> BoardRow:
    known = {name: value for name, value in zip(names, values, strict=False) if value is not None}
    return BoardRow(system, known, provenance, rank, note)


_OVERVIEW_2024 = "Overview of CXR-LT 2024, arXiv 2506.07984"
_OVERVIEW_2023 = "Overview of CXR-LT 2023, arXiv 2310.16112"
_T3 = ("ap@Bulla", "ap@Cardiomyopathy", "ap@Hilum", "ap@Osteopenia", "ap@Scoliosis")

# fmt: off
_BOARD_2023 = Board("2023", 1, (
    _row("CheXFusion", 1, (.372, .850, None, None, .499, .246, .242)),
    _row("Nguyen-Mau", 2, (.354, .836, None, None, .482, .226, .227)),
    _row("Park & Ryu", 4, (.351, .838, None, None, .480, .221, .220)),
    _row("Hong", 5, (.349, .836, None, None, .474, .218, .243)),
), _OVERVIEW_2023, "The third place (about .354) and places 6 to 9 are not known to three digits and are left out.")

_BOARD_2024_1 = Board("2024", 1, (
    _row("zguo (A)", 1, (.281, None, None, None, .567, .263, .136)),
    _row("tianjie_dai (B)", 2, (.279,)),
    _row("XYPB (C)", 3, (.2774,), "team"),
    _row("dongkyunk (D)", 4, (.277,)),
    _row("YYama (F)", 5, (.2728,), "team"),
    _row("ConvNeXt 384, after CheXFusion", None, (.2379, .8078, .2630, None, .546, .195, .105), "rerun"),
    _row("TResNet-L 224", None, (.2201, None, None, None, .540, .163, .094), "rerun"),
    _row("ConvNeXt-B 224", None, (.2199,), "rerun"),
    _row("ResNet-50 224", None, (.2134,), "rerun"),
), _OVERVIEW_2024, "Places 6 to 17 and the other metrics of the ranked teams are not known.")

_BOARD_2024_2 = Board("2024", 2, tuple(
    _row(system, rank, values) for rank, (system, values) in enumerate((
        ("XYPB (C)", (.526, .833, .499, .464)), ("zguo (A)", (.519, .834, .471, .457)),
        ("yangz16 (E)", (.511, .836, .265, .744)), ("YYama (F)", (.509, .829, .474, .462)),
        ("lynnj", (.506, .817, .283, .766)), ("tianjie_dai (B)", (.505, .822, .461, .476)),
        ("dongkyunk (D)", (.505, .832, .486, .460)), ("pamessina (I)", (.484, .806, .440, .612)),
        ("yyge (G)", (.466, .809, .432, .451)), ("damanti", (.456, .791, .236, .758)),
        ("haoliu", (.389, .758, .130, .673)), ("phphuc612", (.371, .759, .261, .312)),
        ("StefanDenner", (.370, .740, .183, .754)),
    ), start=1)
), _OVERVIEW_2024,
    "With 406 images places 2 to 7 are within noise. The board's mECE fits the reading `leaderboard`, not the cited"
    " one; its mF1 mostly says whether a loss lifts rare scores over .5.")

_BOARD_2024_3 = Board("2024", 3, (
    _row("yyge (G)", 1, (.129, .01, .04, .36, .03, .20), names=(AP, *_T3)),
    _row("XYPB (C)", 5, (.0946,), "team", note="dev .1427: prompts over-fitted to the development set"),
), _OVERVIEW_2024, "Places 2 (ZhangRuichi, H) and 4 (B) are known, their test scores are not.")

_BOARD_2026_1 = Board("2026", 1, (
    _row("first", 1, (.5854,)), _row("second", 2, (.4827,)), _row("third", 3, (.4599,)), _row("fifth", 5, (.3950,)),
), "Overview of CXR-LT 2026, arXiv 2602.22092")
_BOARD_2026_2 = Board("2026", 2, (_row("CVMAIL x MIHL", 1, (.4315,)),), "Overview of CXR-LT 2026, arXiv 2602.22092")
# fmt: on

BOARDS: Mapping[tuple[str, int], Board] = {
    (board.edition, board.task): board
    for board in (_BOARD_2023, _BOARD_2024_1, _BOARD_2024_2, _BOARD_2024_3, _BOARD_2026_1, _BOARD_2026_2)
}
